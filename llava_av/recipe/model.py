"""Section `model`: a base model, or the parts of a new one."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from llava_av.recipe.adapter import AdapterRecipe
from llava_av.recipe.connectors import ConnectorRole, check_connector
from llava_av.recipe.parts import EARLIER_PARTS, PART_NAMES, PartName, parts_in_order
from llava_av.recipe.section import LONGEST_S, MOST_STEPS, SHORTEST_S, Options, Section

__all__ = ["ALLOWED_WITH_BASE", "ModelRecipe", "SlowFast"]

_Layer = Annotated[int, Field(ge=-1_000, le=1_000)]
ALLOWED_WITH_BASE = {"base", "base_digest", "trainable_parts", "adapter", "max_tokens", "over_limit"}
"""Fields of `model` that a recipe with a base model can set."""


def _in_order(parts: tuple[PartName, ...]) -> tuple[PartName, ...]:
    return tuple(parts_in_order(parts))


class SlowFast(Section):
    """Two frame rates: a few frames with fine tokens, all others with coarse tokens."""

    every: int = Field(ge=2, le=1_000_000)
    """Interval of the slow frames, which go through the resampler; the first frame is one of them."""
    stride: int = Field(ge=1, le=16_384)
    """Side of the square of patches that is averaged to one token in all other frames."""


class ModelRecipe(Section):
    """A base model by its address, or the parts of a fresh model.

    Each tower of a fresh model is a Hugging Face config as a mapping with `model_type`.
    """

    section: ClassVar[str] = "model"

    base: str | None = None
    """Address of the model that training starts from: a folder that every process can read (a volume, a
    snapshot in a Hugging Face cache), or `s3://…` of a checkpoint or of a model uploaded by
    `llava-av model push`. It includes its tokenizer and all parts."""
    base_digest: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """Digest of the base model's files; set when a run is opened, so that different weights give a different
    run."""
    trainable_parts: Annotated[tuple[PartName, ...], AfterValidator(_in_order)] = PART_NAMES
    """Trained parts. The connectors are all weights between a tower and the language model; the embeddings
    include the head. A tower that is not trained stays in evaluation mode."""
    adapter: AdapterRecipe | None = None
    """LoRA or DoRA adapters of parts of the base model that are not in `trainable_parts`; null: none."""
    vision: Options | None = None
    """Vision tower config (CLIP, SigLIP, SigLIP 2 or DINOv2); null: a model without images and video."""
    audio: Options | None = None
    """Audio tower config (wav2vec2, HuBERT, WavLM or Whisper's encoder); null: a model without audio."""
    language: Options | None = None
    """Causal language model config; the tokenizer determines its vocabulary size."""
    vocabulary_size: int = Field(default=512, ge=300, le=10_000_000)
    """Entries of the byte-level BPE vocabulary trained on the text of the train split."""
    resampler: str = "spatial_pool"
    """Resampler from the patches of a frame to its tokens: `spatial_pool`, `perceiver`, `qformer`,
    `masked_drop` or `identity`."""
    resampler_options: Options = Field(default={"stride": 2})
    """Options of the resampler by name, such as `stride` of the pool or `queries` of the perceiver."""
    vision_projector: str = "mlp"
    """Projector from the vision tower's width to the language model's: `linear`, `mlp` or `residual_mlp`."""
    vision_projector_options: Options = Field(default={})
    """Options of the vision projector by name, such as `layers` of the MLP."""
    vision_feature_layer: _Layer | tuple[_Layer, ...] | None = None
    """Hidden states of the vision tower that are used (several are concatenated); null: the last one."""
    video_newline: Literal["none", "one", "frame", "grid"] = "none"
    """Position of a learned newline token in a video: `none`, `one` at its end, after each `frame`, or after
    each row of a frame's `grid`."""
    slow_fast: SlowFast | None = None
    """Coarser tokens for most frames of a video; null: all frames go through the resampler."""
    audio_downsampler: str = "stack"
    """Down-sampler from audio features to fewer tokens: `stack`, `convolution`, `average` or `qformer`."""
    audio_downsampler_options: Options = Field(default={"size": 4})
    """Options of the down-sampler by name, such as the `size` of the stack."""
    audio_projector: str = "mlp"
    """Projector from the audio tower's width to the language model's: `linear`, `mlp` or `residual_mlp`."""
    audio_projector_options: Options = Field(default={})
    """Options of the audio projector by name, such as `layers` of the MLP."""
    audio_window_s: float | None = Field(default=None, ge=SHORTEST_S, le=LONGEST_S)
    """Seconds of audio per pass through the audio tower; null: all, or Whisper's own window."""
    audio_overlap_s: float = Field(default=0.0, ge=0, le=LONGEST_S)
    """Seconds that neighbouring audio windows share."""
    max_tokens: int | None = Field(default=None, ge=1, le=MOST_STEPS)
    """Maximum number of tokens of a sample; null: no limit."""
    over_limit: Literal["refuse", "fewer_frames", "shorter_audio"] = "refuse"
    """Treatment of a sample over the limit; its answer is never cut."""
    chunk_s: float | None = Field(default=0.5, ge=SHORTEST_S, le=LONGEST_S)
    """Seconds of video and audio that alternate in the sequence; null: all video, then all audio."""
    timestamps: bool = False
    """Write the time as text before each chunk, or before each frame if there are no chunks."""

    @field_validator("trainable_parts", mode="before")
    @classmethod
    def _no_earlier_part(cls, names: Any) -> Any:
        given = names if isinstance(names, list | tuple) else ()
        for name in given:
            if isinstance(name, str) and name in EARLIER_PARTS and name not in PART_NAMES:
                raise ValueError(
                    f"{name} is an earlier name: write {', '.join(EARLIER_PARTS[name])} in its place"
                )
        return names

    @model_validator(mode="after")
    def _base_or_parts(self) -> Self:
        if self.base is None and self.language is None:
            raise ValueError("set base, or language (and vision, audio or both) for a fresh model")
        if self.adapter is not None:
            self._require_adaptable(self.adapter)
        elif not self.trainable_parts:
            raise ValueError(f"trainable_parts is empty: name at least one of {', '.join(PART_NAMES)}")
        if self.base is None:
            self._check_connectors()
        else:
            fixed = set(type(self).model_fields) - ALLOWED_WITH_BASE
            given = sorted(n for n in fixed if getattr(self, n) != type(self).model_fields[n].default)
            if given:
                raise ValueError(f"base={self.base!r} has its own {', '.join(given)}: remove these fields")
        return self

    @property
    def absent_parts(self) -> tuple[PartName, ...]:
        """Return the parts that a fresh model lacks; those of a base model are known only to its files."""
        if self.base is not None:
            return ()
        vision: tuple[PartName, ...] = ("vision_tower", "vision_connector") if self.vision is None else ()
        audio: tuple[PartName, ...] = ("audio_tower", "audio_connector") if self.audio is None else ()
        return vision + audio

    @property
    def updated_parts(self) -> tuple[PartName, ...]:
        """Return the parts that training changes, by their own weights or by an adapter."""
        adapted = () if self.adapter is None else tuple(self.adapter.targets)
        return tuple(parts_in_order((*self.trainable_parts, *adapted)))

    @property
    def updated_text(self) -> str:
        """Return the names of the parts that training changes; those with an adapter name its kind."""
        adapter = self.adapter
        kind = " (DoRA)" if adapter is not None and adapter.dora else " (LoRA)"
        adapted = () if adapter is None else tuple(adapter.targets)
        return ", ".join(part + kind * (part in adapted) for part in self.updated_parts)

    def _check_connectors(self) -> None:
        roles: dict[ConnectorRole, bool] = {
            "resampler": self.vision is not None,
            "vision_projector": self.vision is not None,
            "audio_downsampler": self.audio is not None,
            "audio_projector": self.audio is not None,
        }
        for role, is_built in roles.items():
            if is_built:
                check_connector(role, getattr(self, role), getattr(self, f"{role}_options"))

    def _require_adaptable(self, adapter: AdapterRecipe) -> None:
        if self.base is None:
            raise ValueError("adapter needs pretrained weights, and a fresh model has none: set base")
        both = [part for part in adapter.targets if part in self.trainable_parts]
        if both:
            rest = ", ".join(part for part in self.trainable_parts if part not in both)
            raise ValueError(
                f"adapter.targets and trainable_parts both have {', '.join(both)}, whose own weights an "
                f"adapter freezes: set trainable_parts=[{rest}]"
            )

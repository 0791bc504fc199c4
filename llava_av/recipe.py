"""A recipe: one frozen value that holds everything a run depends on beside code and data."""

import hashlib
import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from llava_av.documents import read_document, validated
from llava_av.errors import UserError

__all__ = [
    "DataRecipe",
    "EvaluationRecipe",
    "MediaRecipe",
    "ModelRecipe",
    "OptimizerRecipe",
    "Recipe",
    "RecipeError",
    "TrainingRecipe",
    "load_recipe",
    "recipe_folder",
]


class RecipeError(UserError):
    """A recipe that is missing, does not parse, or holds a value that is not allowed."""


# Numbers of steps have eight digits in the names of checkpoints.
_MOST = 99_999_999
_SHORTEST_S, _LONGEST_S = 0.01, 7 * 24 * 3600.0


def _finite(value: Any, path: str = "") -> Any:
    """Require that no number in nested options is infinite or NaN."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{path.removeprefix('.')}={value} is not a finite number")
    if isinstance(value, dict | list):
        for name, one in value.items() if isinstance(value, dict) else enumerate(value):
            _finite(one, f"{path}.{name}")
    return value


_Layer = Annotated[int, Field(ge=-1_000, le=1_000)]
Options = Annotated[dict[str, Any], AfterValidator(_finite)]
"""Options by name, for a part of the model."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _truth_is_no_number(cls, data: Any) -> Any:
        for name, value in data.items() if isinstance(data, dict) else ():
            field = cls.model_fields.get(name)
            if isinstance(value, bool) and field is not None and field.annotation is not bool:
                raise ValueError(f"{name}={str(value).lower()} must not be true or false")
        return data


class MediaRecipe(_Frozen):
    """How a clip becomes arrays."""

    frames_per_s: float = Field(default=4.0, ge=1e-3, le=1_000)
    """Frames sampled from each second of video."""
    max_frames: int = Field(default=32, ge=1, le=1_000_000)
    """At most so many frames a clip; a longer clip is sampled evenly over its whole length."""
    frame_size: int = Field(default=32, ge=8, le=16_384)
    """Side of the square that each frame is resized to, in pixels."""
    sample_rate_hz: int = Field(default=16_000, ge=8_000, le=768_000)
    """Rate that sound is resampled to, in samples per second."""
    max_audio_s: float = Field(default=10.0, ge=_SHORTEST_S, le=_LONGEST_S)
    """Sound kept from the start of each clip, in seconds."""
    decoder: Literal["pyav", "decord"] = "pyav"
    """Library that decodes video frames; sound is always decoded by PyAV."""


class SlowFast(_Frozen):
    """Two streams of frames: few with fine tokens, the others with coarse ones."""

    every: int = Field(ge=2, le=1_000_000)
    """One frame in so many is slow and goes through the resampler, beginning with the first."""
    stride: int = Field(ge=1, le=16_384)
    """Side of the square of patches that is averaged to a token in the other frames."""


_BESIDE_BASE = {"base", "base_digest", "train", "max_tokens", "over_limit"}


class ModelRecipe(_Frozen):
    """A base model by its address, or the parts of a fresh one.

    Each tower of a fresh model is a Hugging Face config as a mapping with `model_type`.
    """

    base: str | None = None
    """Address of the model that training starts from: a folder that every process sees (a volume, a Hugging
    Face cache's snapshot), or `s3://…` of a checkpoint or of what `llava-av model push` put there. It brings
    its tokenizer and every part."""
    base_digest: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """Digest of the base model's files; filled in when a run is opened, so that other weights are another
    run."""
    train: tuple[Literal["vision", "audio", "projectors", "language"], ...] = (
        "vision",
        "audio",
        "projectors",
        "language",
    )
    """What is trained; `projectors` are all parts between towers and language model. A tower that is not
    trained stays in evaluation mode."""
    vision: Options | None = None
    """Vision tower config (CLIP, SigLIP, SigLIP 2 or DINOv2); null: a model without pictures."""
    audio: Options | None = None
    """Audio tower config (wav2vec2, HuBERT, WavLM or Whisper's encoder); null: a model without sound."""
    language: Options | None = None
    """Causal language model config; its vocabulary size follows from the tokenizer."""
    vocabulary_size: int = Field(default=512, ge=300, le=10_000_000)
    """Entries of the byte-level BPE vocabulary trained on the train split's text."""
    resampler: str = "spatial_pool"
    """How the patches of one frame become tokens: `spatial_pool`, `perceiver`, `qformer`, `masked_drop` or
    `identity`."""
    resampler_options: Options = {"stride": 2}
    """Its options by name, such as `stride` of the pool or `queries` of the perceiver."""
    vision_projector: str = "mlp"
    """From the vision tower's width to the language model's: `linear`, `mlp` or `residual_mlp`."""
    vision_projector_options: Options = {}
    """Its options by name, such as `layers` of the MLP."""
    vision_feature_layer: _Layer | tuple[_Layer, ...] | None = None
    """Hidden states of the vision tower that are used (several are joined); null: its last."""
    video_newline: Literal["none", "one", "frame", "grid"] = "none"
    """Where a learned newline token stands in a video: nowhere, at its end, after each frame, or each row."""
    slow_fast: SlowFast | None = None
    """Coarser tokens for most frames of a video; null: every frame goes through the resampler."""
    audio_downsampler: str = "stack"
    """How audio features become fewer tokens: `stack`, `convolution`, `average` or `qformer`."""
    audio_downsampler_options: Options = {"size": 4}
    """Its options by name, such as the `size` of the stack."""
    audio_projector: str = "mlp"
    """From the audio tower's width to the language model's, as for vision."""
    audio_projector_options: Options = {}
    """Its options by name."""
    audio_window_s: float | None = Field(default=None, ge=_SHORTEST_S, le=_LONGEST_S)
    """Seconds of sound that go through the audio tower at once; null: all, or Whisper's own window."""
    audio_overlap_s: float = Field(default=0.0, ge=0, le=_LONGEST_S)
    """Seconds that neighbouring windows of sound share."""
    max_tokens: int | None = Field(default=None, ge=1, le=_MOST)
    """Tokens of a sample at most; null: no limit."""
    over_limit: Literal["refuse", "fewer_frames", "shorter_sound"] = "refuse"
    """What becomes of a sample over the limit; its answer is never cut."""
    chunk_s: float | None = Field(default=0.5, ge=_SHORTEST_S, le=_LONGEST_S)
    """Seconds of video and sound that alternate in the sequence; null: all video, then all sound."""
    timestamps: bool = False
    """Whether the time stands as text before each chunk, or without chunks before each frame."""

    @model_validator(mode="after")
    def _base_or_parts(self) -> Self:
        if self.base is None and self.language is None:
            raise ValueError("give base, or language (and vision, audio or both) of a fresh model")
        if not self.train:
            raise ValueError("train is empty: name at least one of vision, audio, projectors, language")
        if self.base is not None:
            fixed = set(type(self).model_fields) - _BESIDE_BASE
            given = sorted(n for n in fixed if getattr(self, n) != type(self).model_fields[n].default)
            if given:
                raise ValueError(f"base={self.base!r} brings its own {', '.join(given)}: leave these out")
        return self


class DataRecipe(_Frozen):
    """What of a dataset is used."""

    max_bad_share: float = Field(default=0.05, ge=0, le=1)
    """Largest share of samples that are quarantined, or that the model cannot take."""
    held_out_share: float = Field(default=0.1, gt=0, lt=1)
    """Share of a user's own dataset held out, by a hash of each clip's content (at least one sample)."""
    demo_train_blocks: int = Field(default=60, ge=1, le=1_000_000)
    """Blocks of 16 clips of the demonstration dataset to train on."""
    demo_held_out_blocks: int = Field(default=10, ge=1, le=1_000_000)
    """Blocks of 16 clips of the demonstration dataset held out."""


class OptimizerRecipe(_Frozen):
    """AdamW with linear warm-up, a constant rate, and cosine decay."""

    learning_rate: float = Field(default=1e-3, gt=0, le=1e30)
    """Peak learning rate; the upper bound is what float32 can apply, far above what trains."""
    final_learning_rate_share: float = Field(default=0.1, ge=0, le=1)
    """Learning rate at the last step, as a share of the peak."""
    warmup_steps: int = Field(default=50, ge=0, le=_MOST)
    """Steps of linear warm-up."""
    decay_share: float = Field(default=1.0, gt=0, le=1)
    """Share of the steps after the warm-up, the last ones, in which the rate falls; 1: it falls in all."""
    weight_decay: float = Field(default=0.01, ge=0, le=1_000)
    """Decoupled weight decay on matrices."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the first moment."""
    beta2: float = Field(default=0.98, ge=0, lt=1)
    """Decay of the second moment."""
    max_grad_norm: float = Field(default=1.0, ge=1e-30, le=1e30)
    """Gradient norm above which gradients are scaled down."""


class TrainingRecipe(_Frozen):
    """The loop."""

    steps: int = Field(ge=1, le=_MOST)
    """Optimizer steps."""
    samples_per_step: int = Field(ge=1, le=10_000_000)
    """Samples of one optimizer step over all processes; the order never depends on their number."""
    packing_tokens: int | None = Field(default=None, ge=1, le=_MOST)
    """Tokens of a row into which samples are packed, none seeing another; null: each sample has a row."""
    first_kinds: tuple[str, ...] = ()
    """Kinds of sample that the first steps draw from alone: each stream by itself before both together."""
    first_steps: int = Field(default=0, ge=0, le=_MOST)
    """Optimizer steps that draw from `first_kinds`; from all kinds if a dataset has none of these."""
    processes: int = Field(default=2, ge=1, le=100_000)
    """Processes that torchrun starts on one node."""
    engine: Literal["deepspeed", "torch"] = "deepspeed"
    """`deepspeed` (ZeRO) or plain PyTorch."""
    zero_stage: Literal[1, 2, 3] = 2
    """ZeRO stage of the deepspeed engine: 2 shards gradients and optimizer, 3 the weights, too."""
    checkpoint_every_steps: int = Field(default=100, ge=1, le=_MOST)
    """Steps between checkpoints; the last step always has one."""
    keep_checkpoints: int = Field(default=2, ge=1, le=_MOST)
    """Newest checkpoints of a run that are kept."""

    @model_validator(mode="after")
    def _first_steps_have_kinds(self) -> Self:
        if self.first_steps and not self.first_kinds:
            raise ValueError(f"first_steps={self.first_steps} needs first_kinds")
        return self

    @model_validator(mode="after")
    def _samples_divide(self) -> Self:
        if self.samples_per_step % self.processes:
            raise ValueError(
                f"samples_per_step={self.samples_per_step} does not divide by processes={self.processes}"
            )
        return self


class EvaluationRecipe(_Frozen):
    """How the held-out split is judged."""

    batch_size: int = Field(default=64, ge=1, le=1_000_000)
    """Samples asked together: changes the time and no answer."""
    processes: int = Field(default=1, ge=1, le=100_000)
    """Processes that share the questions: changes the time and no answer."""
    max_new_tokens: int = Field(default=8, ge=1, le=1_000_000)
    """Tokens after which a reply is cut."""
    bootstrap_draws: int = Field(default=2000, ge=200, le=1_000_000)
    """Resamples behind each paired interval."""


class Recipe(_Frozen):
    """A whole run."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    """Lower-case name; also the default name of the registered model."""
    seed: int = Field(default=0, ge=0, le=2**53)
    """Seed of weights, data order and demonstration dataset."""
    model: ModelRecipe
    media: MediaRecipe = MediaRecipe()
    data: DataRecipe = DataRecipe()
    optimizer: OptimizerRecipe = OptimizerRecipe()
    training: TrainingRecipe
    evaluation: EvaluationRecipe = EvaluationRecipe()

    def canonical_json(self) -> str:
        """The recipe as JSON with sorted keys: equal recipes give equal text."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))

    def digest(self) -> str:
        """sha256 of `canonical_json`, in hex."""
        return hashlib.sha256(self.canonical_json().encode()).hexdigest()

    def with_overrides(self, overrides: dict[str, Any]) -> "Recipe":
        """A copy with values replaced by dotted path, such as `{"training.steps": 20}`.

        Raises:
            RecipeError: an unknown field or a value that is not allowed, by name.
        """
        data = self.model_dump(mode="json")
        for path, value in overrides.items():
            *parents, leaf = path.split(".")
            node: Any = data
            for parent in parents:
                node = node.get(parent) if isinstance(node, dict) else None
            if not isinstance(node, dict) or leaf not in node:
                raise RecipeError(f"recipe {self.name}: there is no field {path!r} to override")
            node[leaf] = value
        return validated(Recipe, data, where=f"recipe {self.name} with overrides", error=RecipeError)


def recipe_folder() -> Path:
    """The folder of the recipes that come with the code."""
    return Path(__file__).resolve().parent.parent / "recipes"


def load_recipe(given: str, *, above: tuple[str, ...] = ()) -> Recipe:
    """Reads a recipe by path, by name from the recipes that come with the code, or from JSON text.

    A recipe may start from another: `base` names it, `overrides` maps dotted paths to other values.

    Args:
        given: path, name or JSON text.
        above: recipes that start from this one, outermost first.

    Raises:
        RecipeError: no such recipe, YAML or JSON that does not parse, a field that is not allowed, or recipes
            that start from each other.
    """
    if given in above:
        raise RecipeError(f"recipe {given} starts from itself: {' -> '.join([*above, given])}")
    document = read_document(given, kind="recipe", folder=recipe_folder(), error=RecipeError)
    if document.path is not None and isinstance(document.content, dict) and "base" in document.content:
        return _derived(document.content, document.path, (*above, given))
    return validated(Recipe, document.content, where=document.where, error=RecipeError)


def _derived(data: dict[str, Any], path: Path, above: tuple[str, ...]) -> Recipe:
    overrides = data.get("overrides")
    unknown = sorted(set(data) - {"base", "overrides", "name"})
    if unknown or not isinstance(overrides, dict) or not isinstance(data["base"], str):
        problem = f"unknown field {unknown[0]}" if unknown else "base needs a name, overrides a mapping"
        raise RecipeError(f"recipe {path}: {problem}; beside base there are only name and overrides")
    return load_recipe(data["base"], above=above).with_overrides(
        {"name": data.get("name", path.stem), **overrides}
    )

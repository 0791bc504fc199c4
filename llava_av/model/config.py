"""The model's config: three Hugging Face configs and what joins them."""

from typing import Any, ClassVar, Literal

from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from llava_av.recipe import MediaRecipe, ModelRecipe

__all__ = ["LlavaAvConfig", "config_from_recipe"]


class LlavaAvConfig(PreTrainedConfig):
    """LLaVA with video frames and sound.

    `resampler` with `pool_stride` or `queries_per_frame` turns the patches of a frame into its tokens,
    `audio_stack` joins so many audio features into one token, `chunk_s` is the length in seconds of the
    chunks in which video and audio tokens alternate (None: all video, then all sound).
    """

    model_type = "llava_av"
    sub_configs_defaults: ClassVar[dict[str, SubConfigSpec]] = {
        "vision_config": SubConfigSpec(config_class=AutoConfig, model_type="siglip_vision_model"),
        "audio_config": SubConfigSpec(config_class=AutoConfig, model_type="wav2vec2"),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="qwen2"),
    }

    vision_config: Any = None
    audio_config: Any = None
    text_config: Any = None
    resampler: Literal["spatial_pool", "perceiver", "identity"] = "spatial_pool"
    pool_stride: int = 2
    queries_per_frame: int = 4
    audio_stack: int = 4
    chunk_s: float | None = 0.5
    frames_per_s: float = 4.0
    max_frames: int = 32
    frame_size: int = 32
    sample_rate_hz: int = 16_000
    max_audio_s: float = 10.0
    image_token_id: int = 0
    video_token_id: int = 1
    audio_token_id: int = 2

    def patches_per_side(self) -> int:
        """Patches along one side of a frame."""
        return int(self.frame_size // self.vision_config.patch_size)

    def resampler_options(self) -> dict[str, int]:
        """Arguments of the resampler's class."""
        options = {
            "spatial_pool": {"stride": self.pool_stride},
            "perceiver": {"queries": self.queries_per_frame},
        }
        return options.get(self.resampler, {})

    def tokens_per_frame(self) -> int:
        """Tokens that one frame or image takes in the sequence."""
        if self.resampler == "perceiver":
            return self.queries_per_frame
        side = self.patches_per_side()
        return int((side // self.pool_stride) ** 2) if self.resampler == "spatial_pool" else side * side

    def audio_features(self, samples: int) -> int:
        """Features that the audio tower gives for so many samples of sound (wav2vec2, section 2)."""
        length = samples
        for kernel, stride in zip(self.audio_config.conv_kernel, self.audio_config.conv_stride, strict=True):
            length = max(0, (length - kernel) // stride + 1)
        return length

    def audio_tokens(self, samples: int) -> int:
        """Tokens that so many samples of sound take in the sequence; the last stack may be part empty."""
        return -(-self.audio_features(samples) // self.audio_stack)


def config_from_recipe(model: ModelRecipe, media: MediaRecipe, special: dict[str, Any]) -> LlavaAvConfig:
    """Builds the config of a fresh model.

    Args:
        model: the parts.
        media: how clips become arrays.
        special: ids by name: `image_token_id`, `video_token_id`, `audio_token_id`, `vocab_size`,
            `eos_token_id`, `pad_token_id`.

    Raises:
        ValueError: parts that do not fit each other, by name.
    """
    ids: dict[str, Any] = dict(special)
    text: dict[str, Any] = dict(model.language, vocab_size=ids.pop("vocab_size"))
    text |= {name: ids.pop(name) for name in ("eos_token_id", "pad_token_id")} | {"bos_token_id": None}
    parts: dict[str, Any] = {
        "vision_config": dict(model.vision, image_size=media.frame_size),
        "audio_config": dict(model.audio),
        "text_config": text,
    }
    joints = {"resampler", "pool_stride", "queries_per_frame", "audio_stack", "chunk_s"}
    settings = model.model_dump(include=joints) | media.model_dump(exclude={"decoder"})
    config = LlavaAvConfig(**parts, **settings, **ids)
    side = config.patches_per_side()
    if model.resampler == "spatial_pool" and side % model.pool_stride:
        raise ValueError(
            f"pool_stride={model.pool_stride} does not divide the {side} patches of a frame's side"
        )
    return config

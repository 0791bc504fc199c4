"""The model's config: up to three Hugging Face configs and what joins them."""

from typing import Any, ClassVar, Literal

from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from llava_av.recipe import current_value

__all__ = ["AudioTokenTimes", "LlavaAvConfig", "OverLimit", "ResizedBy", "VideoNewline"]

VideoNewline = Literal["none", "one", "frame", "grid"]
OverLimit = Literal["refuse", "fewer_frames", "shorter_audio"]
ResizedBy = Literal["reader", "processor"]
AudioTokenTimes = Literal["even", "stride"]


class LlavaAvConfig(PreTrainedConfig):
    """LLaVA with images, video frames and sound.

    `vision_config` or `audio_config` may be None: the model then has no such part.

    Vision:
        vision_feature_layer: hidden states of the tower that are used, by index as in transformers'
            `hidden_states` (a list: joined feature by feature); None is its last hidden state.
        vision_feature_select_strategy: `default` leaves out the tokens that stand before the patches (CLS,
            registers), `full` keeps them; a tower without such tokens has the same either way.
        resampler, resampler_options: from the patches of a frame to its tokens (`RESAMPLERS`).
        resample_images: whether images go through the resampler, too; else every patch is a token.
        resample_projected: resample after the projector, as LLaVA-OneVision does, not before it.
        vision_projector, vision_projector_options: into the language model's width (`PROJECTORS`).
        image_grid_pinpoints: heights and widths in pixels of the grids of tiles for images (LLaVA-NeXT);
            None: an image is one tile.
        anyres_max_tiles: tiles of patches beyond which a grid is scaled down (`anyres_max_9`); None: never.
        tile_several_images: whether images of a row with more than one are tiled, too.
        video_newline: where the learned newline token stands in a video: `none`, `one` at its end, after each
            `frame`, or after each row of a frame's `grid`.
        slow_fast: `every` and `stride`: one frame in `every` goes through the resampler, the others are
            averaged in squares of `stride` patches; None: every frame goes through the resampler.
        frame_size: side in pixels of a tile or frame, as the tower sees it.
        resized_by: who makes the pictures of files so large: the `reader` while it decodes, bilinear and
            without regard to their shape, or the model's own image and video `processor`, as it was trained.

    Audio:
        audio_downsampler, audio_downsampler_options: from features to fewer tokens (`AUDIO_DOWNSAMPLERS`).
        audio_projector, audio_projector_options: as for vision.
        audio_extractor: settings of the tower's own feature extractor; None: the usual ones of its family.
        audio_window_s, audio_overlap_s: seconds of sound that go through the tower at once, and that
            neighbouring windows share; None: a sound goes through whole, or in Whisper's own windows.
        sample_rate_hz: samples per second that the tower expects.

    Sequence:
        chunk_s: seconds of video and sound that alternate; None: all video, then all sound.
        audio_token_times: how an audio token gets its time, which puts it into a chunk: `stride`, the centre
            of the audio that it is made from, by the strides of tower and down-sampler; `even`, the duration
            divided by the number of tokens. New models have `stride`; a config without the field belongs to
            a model that was trained with `even`.
        timestamps: whether times stand as text before each chunk, or without chunks before each frame.
        max_tokens: positions of a sample at most; None: no limit.
        over_limit: what becomes of a sample over it.
        frames_per_s, max_frames, max_audio_s: how clips are decoded.
        image_token_id, video_token_id, audio_token_id: placeholders; None where there is no such part.
    """

    model_type = "llava_av"
    sub_configs_defaults: ClassVar[dict[str, SubConfigSpec]] = {
        "vision_config": SubConfigSpec(
            config_class=AutoConfig, model_type="siglip_vision_model", optional=True
        ),
        "audio_config": SubConfigSpec(config_class=AutoConfig, model_type="wav2vec2", optional=True),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="qwen2"),
    }

    vision_config: Any = None
    audio_config: Any = None
    text_config: Any = None
    vision_feature_layer: int | list[int] | None = None
    vision_feature_select_strategy: Literal["default", "full"] = "default"
    resampler: str = "spatial_pool"
    resampler_options: dict[str, Any] | None = None
    resample_images: bool = True
    resample_projected: bool = False
    vision_projector: str = "mlp"
    vision_projector_options: dict[str, Any] | None = None
    image_grid_pinpoints: list[Any] | None = None
    anyres_max_tiles: int | None = None
    tile_several_images: bool = True
    video_newline: VideoNewline = "none"
    slow_fast: dict[str, int] | None = None
    frame_size: int = 32
    resized_by: ResizedBy = "reader"
    audio_downsampler: str = "stack"
    audio_downsampler_options: dict[str, Any] | None = None
    audio_projector: str = "mlp"
    audio_projector_options: dict[str, Any] | None = None
    audio_extractor: dict[str, Any] | None = None
    audio_window_s: float | None = None
    audio_overlap_s: float = 0.0
    sample_rate_hz: int = 16_000
    chunk_s: float | None = 0.5
    audio_token_times: AudioTokenTimes = "even"
    timestamps: bool = False
    max_tokens: int | None = None
    over_limit: OverLimit = "refuse"
    frames_per_s: float = 4.0
    max_frames: int = 32
    max_audio_s: float = 10.0
    image_token_id: int | None = None
    video_token_id: int | None = None
    audio_token_id: int | None = None
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]
        self.over_limit = current_value("model.over_limit", self.over_limit)
        # the weights that are tied are the language model's own, and its config says whether they are
        self.tie_word_embeddings = bool(getattr(self.text_config, "tie_word_embeddings", False))

    def image_pixels(self) -> int | None:
        """Pixels up to which an image keeps its own size until it is cut into tiles; None: no tiles.

        Twice the sides of the largest grid: what is larger is made smaller in any case, and takes memory.
        """
        if self.vision_config is None or self.image_grid_pinpoints is None:
            return None
        return 4 * max(int(height) * int(width) for height, width in self.image_grid_pinpoints)

    def side(self) -> int:
        """Patches along one side of a tile or frame."""
        return int(self.frame_size // self.vision_config.patch_size)

"""Config of the model: up to three Hugging Face configs and the settings of the connectors."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig, configuration_utils

from llava_av.vocabulary import EARLIER_OVER_LIMITS

if TYPE_CHECKING:
    from llava_av.recipe import MediaRecipe

VideoNewline = Literal["none", "one", "frame", "grid"]
OverLimit = Literal["refuse", "fewer_frames", "shorter_audio"]
ResizedBy = Literal["reader", "processor"]
AudioTokenTimes = Literal["even", "stride"]

_MODEL_TYPES: Mapping[str, str] = MappingProxyType(
    {"vision_config": "siglip_vision_model", "audio_config": "wav2vec2", "text_config": "qwen2"}
)
"""Type of each inner config that does not state its own."""
# transformers 5.17 has no such class: there, `sub_configs` alone names the inner configs.
_SubConfigSpec: Any = getattr(configuration_utils, "SubConfigSpec", None)


class LlavaAvConfig(PreTrainedConfig):
    """LLaVA with images, video frames and audio.

    `vision_config` or `audio_config` may be None: the model then lacks that modality.

    Vision:
        vision_feature_layer: hidden states of the tower to use, by index as in transformers' `hidden_states`
            (a list is concatenated along the features); None: its last hidden state.
        vision_feature_select_strategy: `default` drops the tokens before the patches (CLS, registers), `full`
            keeps them; the two are equal for a tower without such tokens.
        resampler, resampler_options: turns the patches of a frame into its tokens (`RESAMPLERS`).
        resample_images: whether images go through the resampler, too; otherwise every patch is a token.
        resample_projected: resample after the projector, as LLaVA-OneVision does, instead of before it.
        vision_projector, vision_projector_options: maps to the language model's width (`PROJECTORS`).
        image_grid_pinpoints: heights and widths in pixels of the tile grids for images (LLaVA-NeXT); None: an
            image is one tile.
        anyres_max_tiles: number of tiles above which a grid is scaled down (`anyres_max_9`); None: never.
        tile_several_images: whether images of a row with more than one image are tiled, too.
        video_newline: position of the learned newline token in a video: `none`, `one` at its end, after each
            `frame`, or after each row of a frame's `grid`.
        slow_fast: `every` and `stride`: one frame in `every` goes through the resampler, the others are
            averaged in squares of `stride` patches; None: every frame goes through the resampler.
        frame_size: side in pixels of a tile or frame at the input of the tower.
        resized_by: what resizes decoded images and frames to that side: the `reader` while it decodes
            (bilinear, ignoring the aspect ratio), or the model's own image and video `processor`, as in its
            training.

    Audio:
        audio_downsampler, audio_downsampler_options: turns features into fewer tokens (`AUDIO_DOWNSAMPLERS`).
        audio_projector, audio_projector_options: as for vision.
        audio_extractor: settings of the tower's own feature extractor; None: the defaults of its family.
        audio_window_s, audio_overlap_s: seconds of audio per call of the tower, and seconds that neighbouring
            windows share; None: one call for all of it, or Whisper's own windows.
        sample_rate_hz: samples per second that the tower expects.

    Sequence:
        chunk_s: seconds after which video and audio tokens alternate; None: all video, then all audio.
        audio_token_times: how an audio token gets the time that puts it into a chunk. `stride`: the centre of
            its receptive field, by the strides of tower and down-sampler; `even`: the duration divided by the
            number of tokens. New models have `stride`; a config without the field belongs to a model trained
            with `even`.
        timestamps: write times as text before each chunk, or without chunks before each frame.
        max_tokens: maximum positions of a sample; None: no limit.
        over_limit: what happens to a longer sample.
        frames_per_s, max_frames, max_audio_s: how clips are decoded.
        image_token_id, video_token_id, audio_token_id: placeholder tokens; None without that modality.
    """

    model_type = "llava_av"
    if _SubConfigSpec is None:
        sub_configs: ClassVar[dict[str, Any]] = dict.fromkeys(_MODEL_TYPES, AutoConfig)
    else:
        sub_configs_defaults: ClassVar[dict[str, Any]] = {
            name: _SubConfigSpec(AutoConfig, model_type=default, optional=name != "text_config")
            for name, default in _MODEL_TYPES.items()
        }

    vision_config: Any = None
    audio_config: Any = None
    text_config: Any = None
    vision_feature_layer: int | list[int] | None = None
    vision_feature_select_strategy: Literal["default", "full"] = "default"
    resampler: str = "spatial_pool"
    resampler_options: dict[str, object] | None = None
    resample_images: bool = True
    resample_projected: bool = False
    vision_projector: str = "mlp"
    vision_projector_options: dict[str, object] | None = None
    image_grid_pinpoints: list[Any] | None = None
    anyres_max_tiles: int | None = None
    tile_several_images: bool = True
    video_newline: VideoNewline = "none"
    slow_fast: dict[str, int] | None = None
    frame_size: int = 32
    resized_by: ResizedBy = "reader"
    audio_downsampler: str = "stack"
    audio_downsampler_options: dict[str, object] | None = None
    audio_projector: str = "mlp"
    audio_projector_options: dict[str, object] | None = None
    audio_extractor: dict[str, object] | None = None
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

    @classmethod
    def from_fields(cls, fields: Mapping[str, object]) -> Self:
        """Build a config from fields by name; the constructor checks their types."""
        unchecked: Any = fields
        return cls(**unchecked)

    def __post_init__(self, **kwargs: Any) -> None:
        if _SubConfigSpec is None:
            self._build_inner_configs()
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]
        # config.json of earlier models has earlier names
        current: Any = EARLIER_OVER_LIMITS.get(self.over_limit, self.over_limit)
        self.over_limit = current
        # only the language model has tied weights, so its config decides
        self.tie_word_embeddings = bool(getattr(self.text_config, "tie_word_embeddings", False))

    @property
    def has_vision(self) -> bool:
        """True if the model takes images and video frames."""
        return self.vision_config is not None

    @property
    def has_audio(self) -> bool:
        """True if the model takes audio."""
        return self.audio_config is not None

    @property
    def patches_per_side(self) -> int:
        """Patches along one side of a tile or frame."""
        return int(self.frame_size // self.vision_config.patch_size)

    @property
    def max_image_pixels(self) -> int | None:
        """Pixels up to which an image keeps its size until it is tiled; None without tiles.

        Four times the area of the largest grid: a larger image is scaled down anyway, and takes memory.
        """
        if not self.has_vision or self.image_grid_pinpoints is None:
            return None
        return 4 * max(int(height) * int(width) for height, width in self.image_grid_pinpoints)

    def media_recipe(self) -> "MediaRecipe":
        """Return how clips were decoded in the model's training."""
        from llava_av.recipe import MediaRecipe

        fields = set(MediaRecipe.model_fields) & set(vars(self))
        return MediaRecipe(**{field: getattr(self, field) for field in fields})

    def _build_inner_configs(self) -> None:
        """Build the inner configs that are given as dictionaries; without one, only the text has defaults."""
        for name, default in _MODEL_TYPES.items():
            given = getattr(self, name)
            if given is None and name == "text_config":
                given = {}
            if isinstance(given, dict):
                setattr(self, name, CONFIG_MAPPING[given.get("model_type", default)](**given))

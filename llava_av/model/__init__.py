"""The audio-visual LLaVA: config, towers and the parts between them, token sequence, processor."""

from llava_av.model.build import fresh_model, load_model
from llava_av.model.config import LlavaAvConfig
from llava_av.model.modeling import IGNORE, LlavaAvForConditionalGeneration, MediaBatch, MediaMismatchError
from llava_av.model.processor import Encoded, LlavaAvProcessor

__all__ = [
    "IGNORE",
    "Encoded",
    "LlavaAvConfig",
    "LlavaAvForConditionalGeneration",
    "LlavaAvProcessor",
    "MediaBatch",
    "MediaMismatchError",
    "fresh_model",
    "load_model",
]

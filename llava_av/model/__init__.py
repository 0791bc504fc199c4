"""The audio-visual LLaVA: config, towers and the parts between them, token sequence, processor."""

from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from llava_av.model.configuration import LlavaAvConfig
from llava_av.model.loading.build import base_model, fresh_model, load_model
from llava_av.model.modeling import IGNORE, LlavaAvForConditionalGeneration, MediaMismatchError
from llava_av.model.processing import Encoded, LlavaAvProcessor

__all__ = [
    "IGNORE",
    "Encoded",
    "LlavaAvConfig",
    "LlavaAvForConditionalGeneration",
    "LlavaAvProcessor",
    "MediaMismatchError",
    "base_model",
    "fresh_model",
    "load_model",
]

AutoConfig.register(LlavaAvConfig.model_type, LlavaAvConfig, exist_ok=True)
AutoModelForImageTextToText.register(LlavaAvConfig, LlavaAvForConditionalGeneration, exist_ok=True)
AutoProcessor.register(LlavaAvConfig, LlavaAvProcessor, exist_ok=True)

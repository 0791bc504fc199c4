"""Audio-visual LLaVA: from a conversation with clips to logits.

A sample is a conversation and a `Clip` of decoded arrays: video frames, audio samples, images. On the way to
logits it passes the files in this order:

1. `configuration` holds the sizes and settings that all other files read: three Hugging Face configs
   (vision tower, audio tower, language model) and what connects them.
2. `processing` has the `LlavaAvProcessor`. Its `encode` turns one sample into token IDs and labels:
   `sequence` renders the chat template, puts the placeholder tokens of each medium at its tag, and
   interleaves video and audio tokens by time. The number of tokens follows from media sizes alone, before any
   tower runs. `processing_call` adds the call syntax of transformers' processors.
3. `media_collation` collates the arrays of a batch into `media_inputs`: one `MediaInputs` value with pixels,
   prepared audio, and the order of the media in the rows. Images and frames of other sizes go through the
   `media_processors` of transformers first.
4. `modeling` has `LlavaAvForConditionalGeneration`. Its `forward` embeds the token IDs and asks `encoders`
   for the features of the media. There, images and frames go through the tower in `vision`, audio through the
   one in `audio`, and the results through the resamplers, down-samplers and projectors in `connector`.
5. `forward` scatters the features to their placeholder tokens, and the language model turns the embeddings
   into logits, or into one loss for each row or packed sample (`token_loss`). `batch_layout` has the places
   of tokens and labels and the sizes of media as values of the host; `device_waits` copies them to the device
   without waiting.

Beside this path, `loading` builds fresh models and reads saved ones, `conversion` makes models from published
weights, and `files` checks untrusted model folders before anything reads them. `parts` groups the weights by
the part of the model that they belong to, and `adapters` puts LoRA or DoRA matrices beside them.
"""

from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from llava_av.model.configuration import LlavaAvConfig
from llava_av.model.loading.fresh_model import fresh_model
from llava_av.model.loading.saved_model import base_model, load_saved_model
from llava_av.model.media_inputs import MediaInputs
from llava_av.model.modeling import IGNORE, LlavaAvForConditionalGeneration, MediaMismatchError
from llava_av.model.processing import Encoded, LlavaAvProcessor
from llava_av.model.sequence.expansion import UnsupportedModalityError
from llava_av.model.sequence.truncation import SampleLengthError

__all__ = [
    "IGNORE",
    "Encoded",
    "LlavaAvConfig",
    "LlavaAvForConditionalGeneration",
    "LlavaAvProcessor",
    "MediaInputs",
    "MediaMismatchError",
    "SampleLengthError",
    "UnsupportedModalityError",
    "base_model",
    "fresh_model",
    "load_saved_model",
]

AutoConfig.register(LlavaAvConfig.model_type, LlavaAvConfig, exist_ok=True)
AutoModelForImageTextToText.register(LlavaAvConfig, LlavaAvForConditionalGeneration, exist_ok=True)
AutoProcessor.register(LlavaAvConfig, LlavaAvProcessor, exist_ok=True)

"""A loaded model with its engine and the processes that decode its media."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from transformers.utils import logging

from llava_av.datasets.loading import LocatedSample
from llava_av.inference.devices import choose_device, choose_dtype
from llava_av.inference.generation import (
    PromptError,
    PromptLengthError,
    PromptModalityError,
    encode_prompt,
)
from llava_av.media.clip import Clip
from llava_av.model import Encoded, LlavaAvForConditionalGeneration, LlavaAvProcessor, load_saved_model
from llava_av.serving.conversation import AskedConversation
from llava_av.serving.engine import ReplyEngine
from llava_av.serving.limits import ServingLimits
from llava_av.serving.media_decoder import MediaDecoder
from llava_av.serving.request_errors import invalid
from llava_av.serving.slot_engine import SlotEngine

__all__ = ["ModelIdentity", "ServedModel", "load_served_model"]

_SHORT_DIGITS = 12
_CODES = {PromptLengthError: "context_length_exceeded", PromptModalityError: "unsupported_modality"}


@dataclass(frozen=True, kw_only=True)
class ModelIdentity:
    """Name, version and digest of a model that answers."""

    name: str
    """Name that requests give as `model`."""
    version: str | None
    """Version in the registry; None for a model that is not from the registry."""
    digest: str
    """SHA-256 of its checkpoint or of the files of its folder."""

    @property
    def fingerprint(self) -> str:
        """Return name, version and digest in short, as `system_fingerprint` has them."""
        version = "" if self.version is None else f"/{self.version}"
        return f"{self.name}{version}@{self.digest[:_SHORT_DIGITS]}"

    def headers(self) -> dict[str, str]:
        """Return the headers of an answer of this model."""
        version = {} if self.version is None else {"X-Model-Version": self.version}
        # the name of a folder may have any characters, headers have ASCII only
        return {"X-Model-Name": quote(self.name, safe=" "), **version, "X-Model-Digest": self.digest}


class ServedModel:
    """A model that answers requests.

    Args:
        identity: Name, version and digest.
        processor: Processor of the model.
        engine: Engine with the model.
        limits: Limits of the server.
    """

    def __init__(
        self, identity: ModelIdentity, processor: LlavaAvProcessor, engine: ReplyEngine, limits: ServingLimits
    ) -> None:
        self.identity, self.engine = identity, engine
        self._processor, self._limits = processor, limits
        tokenizer: Any = processor.tokenizer
        added = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
        self.special_tokens = tuple({*tokenizer.all_special_tokens, *added})
        """Tokens that the text of a request must not contain."""
        self.loaded_at = int(time.time())
        """Unix time in seconds."""
        self.sample_rate_hz = processor.config.sample_rate_hz
        self.media = processor.config.media_recipe()
        """How media are sampled."""
        self._decoder = MediaDecoder(limits, self.media, processor.image_resizing())

    async def decode(self, media: LocatedSample) -> Clip:
        """Decode the media of a request; see `MediaDecoder.decode`."""
        return await self._decoder.decode(media)

    def encode(self, asked: AskedConversation, clip: Clip, reply_tokens: int | None) -> tuple[Encoded, int]:
        """Encode a conversation; return its prompt and the maximum tokens of its reply.

        Raises:
            RequestError: The conversation does not fit the model.
        """
        try:
            prompt = encode_prompt(self._processor, asked.turns, clip, max_new_tokens=1)
        except PromptError as error:
            raise invalid(
                str(error), code=_CODES.get(type(error), "invalid_value"), param="messages"
            ) from None
        room = self.engine.context - len(prompt.input_ids)
        if room < (reply_tokens or 1):
            raise invalid(
                f"messages: {len(prompt.input_ids)} tokens and a reply of {reply_tokens or 1} need more than "
                f"{self.engine.context}: send less, or set max_tokens lower",
                code="context_length_exceeded",
                param="messages",
            )
        return prompt, reply_tokens or min(room, self._limits.reply_tokens)

    def close(self) -> None:
        """End the engine and the processes."""
        self.engine.close()
        self._decoder.close()


def load_served_model(
    folder: Path,
    base: Path | None,
    identity: ModelIdentity,
    *,
    device: str,
    dtype: str,
    limits: ServingLimits,
) -> ServedModel:
    """Load a model and start its engine.

    Args:
        folder: Folder of a model, as `local_model_folder` returns it.
        base: Folder of the base model if `folder` has an adapter.
        identity: Name, version and digest.
        device: See `choose_device`.
        dtype: See `choose_dtype`.
        limits: Limits of the server.

    Raises:
        UserError: The device is not available, or the model cannot be read or served.
    """
    chosen = choose_device(device)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    model: LlavaAvForConditionalGeneration
    model, processor = load_saved_model(folder, base, dtype=choose_dtype(dtype))
    model.to(chosen)  # type: ignore[arg-type]
    engine = SlotEngine(model, processor, slots=limits.batch, context=limits.context)
    return ServedModel(identity, processor, engine, limits)

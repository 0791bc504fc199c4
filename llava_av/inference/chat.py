"""Conversation with a trained model about files, as `llava-av chat` runs it."""

from collections.abc import Callable
from pathlib import Path

from transformers.utils import logging

from llava_av.errors import UserError
from llava_av.inference.chat_media import ChatMedia
from llava_av.inference.devices import choose_device, choose_dtype
from llava_av.inference.generation import encode_prompt, generate_replies
from llava_av.model import load_saved_model


class Conversation:
    """Questions about the same files, each asked with all previous turns; replies are greedy."""

    def __init__(
        self,
        folder: Path,
        media: ChatMedia,
        *,
        max_new_tokens: int,
        device: str = "auto",
        dtype: str = "auto",
        base: Path | None = None,
    ) -> None:
        """Load the model, and decode the media once.

        Args:
            folder: Folder of a model, as `local_model_folder` returns it.
            media: Files that the conversation is about.
            max_new_tokens: Maximum tokens of a reply.
            device: See `choose_device`.
            dtype: See `choose_dtype`.
            base: Folder of the base model if `folder` has an adapter.

        Raises:
            MediaError: A file is missing or has another modality.
            UserError: The device is not available, the model cannot be read, or neither frames nor audio of a
                video are used.
        """
        chosen = choose_device(device)
        # only replies belong on the terminal, not the progress of reading weights
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        self._model, self._processor = load_saved_model(folder, base, dtype=choose_dtype(dtype))
        self._model.to(chosen)  # type: ignore[arg-type]
        self._media, self._max_new_tokens = media, max_new_tokens
        config = self._processor.config
        self._clip = media.load(config.media_recipe(), self._processor.image_resizing())
        self._turns: list[tuple[str, str]] = []

    def ask(self, text: str, on_text: Callable[[str], None] | None = None) -> str:
        """Return the model's reply; a question that fails does not become part of the conversation.

        Args:
            text: Question.
            on_text: Function called with each piece of the reply as it is generated.

        Raises:
            UserError: A placeholder has no file, or the conversation has more tokens than the model accepts.
        """
        turns = [*self._turns, ("human", self._question(text))]
        prompt = encode_prompt(self._processor, turns, self._clip, max_new_tokens=self._max_new_tokens)
        replies = generate_replies(
            self._model,
            self._processor,
            [prompt],
            max_new_tokens=self._max_new_tokens,
            on_text=on_text,
        )
        reply = replies.texts[0].strip()
        self._turns = [*turns, ("gpt", reply)]
        return reply

    def _question(self, text: str) -> str:
        if not self._turns:
            return self._media.prompt(text)
        for tag in ("<image>", "<video>", "<audio>"):
            if tag in text:
                raise UserError(f"{tag} belongs in the first question, which attaches the files: remove it")
        return text

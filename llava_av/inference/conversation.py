"""Ask a trained model about media of one's own."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TextStreamer
from transformers.utils import logging

from llava_av.checkpoints import fetch_checkpoint, read_manifest
from llava_av.datasets.loading import load_image, load_video
from llava_av.errors import UserError
from llava_av.evaluation.runner import media_of_model
from llava_av.media.clip import Clip, Video
from llava_av.media.decode import read_audio
from llava_av.media.image import ImageResizing
from llava_av.model import LlavaAvConfig, load_model
from llava_av.model.loading.model_folder import require_folder
from llava_av.recipe import MediaRecipe
from llava_av.storage import ObjectStore

__all__ = ["Conversation", "Shown", "chosen_device", "model_folder"]

_MODEL = "model"


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What a conversation is about."""

    video: Path | None = None
    audio: Path | None = None
    images: tuple[Path, ...] = ()
    use_video: bool = True
    """Whether the video's frames are used; without them its sound may still be."""
    use_audio: bool = True
    """Whether the video's own sound is used."""

    def prompt(self, text: str) -> str:
        """The first question with a placeholder for each medium that it does not place itself.

        Raises:
            UserError: a placeholder without a file, or a video of which nothing is left.
        """
        if self.video is not None and not self.use_video and not self.use_audio:
            raise UserError("--no-video and --no-audio leave nothing of --video; drop one of them")
        one = {"<video>": self.video, "<audio>": self.audio}
        media = {"<image>": len(self.images)} | {mark: int(path is not None) for mark, path in one.items()}
        for mark, given in media.items():
            named, option = text.count(mark), f"--{mark.strip('<>')}"
            if named > given:
                once = "ask about one file at a time" if given and mark in one else f"name each by {option}"
                raise UserError(f"the question has {named} {mark} but {given} such files are given: {once}")
        marks = [mark for mark, given in media.items() for _ in range(given - text.count(mark))]
        return "\n".join([*marks, text])

    def clip(self, media: MediaRecipe, resizing: ImageResizing) -> Clip:
        """The decoded media.

        Args:
            media: Sampling rates and sizes.
            resizing: As for `load_clip`.

        Raises:
            MediaError: a file that is missing, or not what it is given as.
            UserError: a video without sound whose frames are not to be used.
        """
        rate_hz, max_s = media.sample_rate_hz, media.max_audio_s
        return Clip(
            videos=(self._video(self.video, media, resizing),) if self.video else (),
            audios=(read_audio(self.audio, sample_rate_hz=rate_hz, max_s=max_s),) if self.audio else (),
            images_nhwc=tuple(load_image(path, media, resizing) for path in self.images),
        )

    def _video(self, path: Path, media: MediaRecipe, resizing: ImageResizing) -> Video:
        video = load_video(path, media, resizing, use_audio=self.use_audio)
        if self.use_video:
            return video
        if video.audio is None:
            raise UserError(f"{path} has no sound, so --no-video leaves nothing of it; drop --no-video")
        return Clip(videos=(video,)).without(video=True, audio=False).videos[0]


def model_folder(checkpoint: str, work: Path) -> Path:
    """The local folder of a checkpoint's model, fetched and verified if it is not here.

    Args:
        checkpoint: A folder, `s3://…` of a checkpoint, or `models:/NAME@ALIAS` or `/VERSION`.
        work: Where fetched models are kept.

    Raises:
        UserError: there is no such checkpoint, or it is damaged.
    """
    if checkpoint.startswith("models:/"):
        from llava_av.registry.versions import load_version, require_untouched

        store = ObjectStore.from_env()
        version = load_version(store, checkpoint)
        # Each file of the model is verified against this manifest when it is fetched.
        require_untouched(store, version, contents=False)
        checkpoint = version.checkpoint_uri
    if checkpoint.startswith("s3://"):
        store = ObjectStore.from_env()
        manifest = read_manifest(store, checkpoint)
        folder = work / "models" / manifest.digest
        names = [name for name in manifest.files if name.startswith(f"{_MODEL}/")]
        fetch_checkpoint(store, checkpoint, folder, names)
        return folder / _MODEL
    for folder in (Path(checkpoint) / _MODEL, Path(checkpoint)):
        if (folder / "config.json").is_file():
            require_folder(folder)
            _require_own(folder / "config.json")
            return folder
    if any(any(Path(checkpoint).glob(name)) for name in ("*.gguf", "adapter_config.json")):
        require_folder(Path(checkpoint))  # says what to use instead
    raise UserError(
        f"{checkpoint} holds no model; give the folder of a checkpoint, s3://… or models:/NAME@ALIAS"
    )


def chosen_device(name: str) -> torch.device:
    """The device of that name; `auto`: CUDA, else MPS, else the CPU, whichever is there.

    Raises:
        UserError: there is no such device here.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, is_there in there.items() if is_there))
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or not there.get(device.type) or (device.index or 0) >= _devices(device.type):
        found = ", ".join(kind for kind, is_there in there.items() if is_there)
        raise UserError(f"--device {name}: there is no such device here; there is {found}")
    return device


def _devices(kind: str) -> int:
    return torch.cuda.device_count() if kind == "cuda" else 1


def _require_own(config: Path) -> None:
    kind = json.loads(config.read_text()).get("model_type")
    if kind != LlavaAvConfig.model_type:
        raise UserError(
            f"{config.parent} is a model of type {kind}, not {LlavaAvConfig.model_type}: `llava-av model "
            "import` makes one of a released LLaVA model"
        )


class Conversation:
    """Questions about the same media, each asked with all that was said before; replies are greedy."""

    def __init__(self, folder: Path, shown: Shown, *, max_new_tokens: int, device: str = "auto") -> None:
        """Reads the model, in the dtype of its files, and decodes the media once.

        Args:
            folder: As `model_folder` gives it.
            shown: What it is about.
            max_new_tokens: Tokens after which a reply is cut.
            device: As for `chosen_device`.

        Raises:
            MediaError: A file that is missing, or not what it is given as.
            UserError: A device that is not there, a model that cannot be read, or a video without sound whose
                frames are not to be used.
        """
        place = chosen_device(device)
        # A reply is what the user asked for, not how weights are read.
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        self._model, self._processor = load_model(folder)
        self._model.to(place)  # type: ignore[arg-type]
        self._shown, self._max_new_tokens = shown, max_new_tokens
        config = self._processor.config
        self._clip = shown.clip(media_of_model(config), self._processor.image_resizing())
        self._turns: list[tuple[str, str]] = []

    def ask(self, text: str, say: Callable[[str], None] = lambda piece: None) -> str:
        """The model's reply; a question that fails is not remembered.

        Args:
            text: The question.
            say: Called with each piece of the reply as it is written.

        Raises:
            UserError: a placeholder without a file, or more tokens than the model takes.
        """
        turns = [*self._turns, ("human", self._asked(text))]
        try:
            sample = self._processor.encode(turns, self._clip, reply=True)
        except ValueError as error:
            raise UserError(f"the model cannot be asked this: {error}") from None
        batch = self._processor.collate([sample], left=True)
        del batch["labels"]
        batch = {name: value.to(self._model.device) for name, value in batch.items()}
        tokenizer = self._processor.tokenizer
        with torch.inference_mode():
            said = self._model.generate(
                **batch,
                max_new_tokens=self._max_new_tokens,
                do_sample=False,
                streamer=_Streamer(tokenizer, say),
            )
        new = said[0, batch["input_ids"].shape[1] :]
        reply = str(tokenizer.decode(new, skip_special_tokens=True)).strip()
        self._turns = [*turns, ("gpt", reply)]
        return reply

    def _asked(self, text: str) -> str:
        if not self._turns:
            return self._shown.prompt(text)
        for mark in ("<image>", "<video>", "<audio>"):
            if mark in text:
                raise UserError(f"{mark} stands in the first question alone: the media are shown once")
        return text


class _Streamer(TextStreamer):
    """Passes on the reply's text, in whole words, as it comes."""

    def __init__(self, tokenizer: Any, say: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._say = say

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        if text:
            self._say(text)

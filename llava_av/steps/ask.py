"""Ask a trained model about media of one's own."""

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers.utils import logging

from llava_av.checkpoints import fetch_checkpoint, read_manifest
from llava_av.datasets.loading import load_video
from llava_av.errors import UserError
from llava_av.evaluation.runner import media_of_model
from llava_av.media.clip import Clip
from llava_av.media.decode import read_audio, read_image
from llava_av.model import load_model
from llava_av.recipe import MediaRecipe
from llava_av.storage import ObjectStore

__all__ = ["Question", "ask", "model_folder"]

_MODEL = "model"


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question and the media that it is about."""

    text: str
    video: Path | None = None
    audio: Path | None = None
    image: Path | None = None
    use_audio: bool = True
    """Whether the video's own sound is used."""

    def prompt(self) -> str:
        """The text with a placeholder for each medium that it does not place itself.

        Raises:
            UserError: a placeholder without a file.
        """
        media = {"<image>": self.image, "<video>": self.video, "<audio>": self.audio}
        for mark, path in media.items():
            named, given = self.text.count(mark), int(path is not None)
            if named > given:
                option = f"--{mark.strip('<>')}"
                raise UserError(
                    f"the question has {named} {mark} but {given} such files are given: "
                    f"{'ask about one file at a time' if given else f'name the file by {option}'}"
                )
        marks = [mark for mark, path in media.items() if path is not None and mark not in self.text]
        return "\n".join([*marks, self.text])

    def clip(self, media: MediaRecipe) -> Clip:
        """The decoded media.

        Raises:
            MediaError: a file that is missing, or not what it is given as.
        """
        rate_hz, max_s = media.sample_rate_hz, media.max_audio_s
        return Clip(
            videos=(load_video(self.video, media, use_audio=self.use_audio),) if self.video else (),
            sounds=(read_audio(self.audio, sample_rate_hz=rate_hz, max_s=max_s),) if self.audio else (),
            images_nhwc=(read_image(self.image, size=media.frame_size),) if self.image else (),
        )


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

        version = load_version(checkpoint)
        # Each file of the model is verified against this manifest when it is fetched.
        require_untouched(ObjectStore.from_env(), version, contents=False)
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
            return folder
    raise UserError(
        f"{checkpoint} holds no model; give the folder of a checkpoint, s3://… or models:/NAME@ALIAS"
    )


def ask(folder: Path, question: Question, *, max_new_tokens: int) -> str:
    """The model's reply, decoded greedily."""
    # A reply is what the user asked for, not how weights are read.
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    model, processor = load_model(folder)
    sample = processor.encode(
        [("human", question.prompt())], question.clip(media_of_model(processor.config)), reply=True
    )
    batch = processor.collate([sample], left=True)
    del batch["labels"]
    with torch.inference_mode():
        said = model.generate(**batch, max_new_tokens=max_new_tokens, do_sample=False)
    new = said[0, batch["input_ids"].shape[1] :]
    return str(processor.tokenizer.decode(new, skip_special_tokens=True)).strip()

"""Files that a conversation is about, and their placeholders in its first question."""

from dataclasses import dataclass
from pathlib import Path

from llava_av.datasets.loading import load_image, load_video
from llava_av.errors import UserError
from llava_av.media.clip import Clip, Video
from llava_av.media.decode import read_audio
from llava_av.media.resizing import ImageResizing
from llava_av.recipe import MediaRecipe


@dataclass(frozen=True, kw_only=True)
class ChatMedia:
    """Files that a conversation is about."""

    video: Path | None = None
    audio: Path | None = None
    images: tuple[Path, ...] = ()
    use_video: bool = True
    """True to use the video's frames; False still allows its audio."""
    use_audio: bool = True
    """True to use the video's own audio."""

    def prompt(self, text: str) -> str:
        """Return the first question with a placeholder for each file that it does not place itself.

        Raises:
            UserError: A placeholder has no file, or neither frames nor audio of the video are used.
        """
        if self.video is not None and not self.use_video and not self.use_audio:
            raise UserError("--no-video and --no-audio leave nothing of --video to use: remove one of them")
        single = {"<video>": self.video, "<audio>": self.audio}
        files = {"<image>": len(self.images)} | {tag: int(path is not None) for tag, path in single.items()}
        for tag, given in files.items():
            named, option = text.count(tag), f"--{tag.strip('<>')}"
            if named > given:
                remedy = (
                    "ask about one file at a time" if given and tag in single else f"add each with {option}"
                )
                raise UserError(f"the question has {named} {tag} but {given} files are given: {remedy}")
        tags = [tag for tag, given in files.items() for _ in range(given - text.count(tag))]
        return "\n".join([*tags, text])

    def load(self, media: MediaRecipe, resizing: ImageResizing) -> Clip:
        """Decode the files.

        Args:
            media: Sampling rates and sizes.
            resizing: See `load_clip`.

        Raises:
            MediaError: A file is missing or has another modality.
            UserError: Only the audio of a video is used, and it has none.
        """
        rate_hz, max_s = media.sample_rate_hz, media.max_audio_s
        return Clip(
            videos=(self._load_video(self.video, media, resizing),) if self.video else (),
            audios=(read_audio(self.audio, sample_rate_hz=rate_hz, max_s=max_s),) if self.audio else (),
            images_nhwc=tuple(load_image(path, media, resizing) for path in self.images),
        )

    def _load_video(self, path: Path, media: MediaRecipe, resizing: ImageResizing) -> Video:
        video = load_video(path, media, resizing, use_audio=self.use_audio)
        if self.use_video:
            return video
        if video.audio is None:
            raise UserError(
                f"{path} has no audio, so --no-video leaves nothing of it to use: remove --no-video"
            )
        return Clip(videos=(video,)).without(video=True, audio=False).videos[0]

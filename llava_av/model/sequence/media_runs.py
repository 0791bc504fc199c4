"""What stands for a medium in the text: runs of placeholder tokens, with times where the config asks."""

from collections.abc import Mapping, Sequence

from llava_av.model.configuration import LlavaAvConfig
from llava_av.model.sequence.interleaving import VIDEO, Run, interleave
from llava_av.model.sequence.layout import MediaLayout

__all__ = ["MediaRuns"]


class MediaRuns:
    """Writes the placeholders of media from their sizes.

    Args:
        config: the model's.
        layout: its arithmetic.
        tokens: placeholder tokens by kind of medium, of those kinds that the model takes.
    """

    def __init__(self, config: LlavaAvConfig, layout: MediaLayout, tokens: Mapping[str, str]) -> None:
        self._config = config
        self._layout = layout
        self._tokens = tokens

    def video(self, frames: int, times_s: Sequence[float], samples: int | None) -> str:
        """A video with its own sound.

        Args:
            frames: their number.
            times_s: when each is shown.
            samples: of its sound, enough for a token; None without.

        Raises:
            ValueError: another number of times than of frames, with both.
        """
        runs = interleave(
            times_s,
            self._layout.frame_runs(frames) if frames else [],
            [] if samples is None else self._layout.audio_times_s(samples),
            self._config.chunk_s,
            timestamps=self._config.timestamps,
        )
        if frames and self._config.video_newline == "one":
            runs.append(Run(VIDEO, 1))
        return "".join(run.text or self._tokens[run.kind] * run.count for run in runs)

    def sound(self, samples: int) -> str:
        """A sound of its own, with samples enough for a token."""
        return self._tokens["audio"] * self._layout.audio_tokens(samples)

    def image(self, size: tuple[int, int], *, alone: bool) -> str:
        """An image of that height and width; `alone` if it is the only one of its row."""
        return self._tokens["image"] * self._layout.image_tokens(size, alone=alone)

"""Tokens of a clip: runs of placeholder tokens for each medium, with times as text if configured."""

from collections.abc import Mapping, Sequence

from llava_av.model.configuration import LlavaAvConfig
from llava_av.model.sequence.interleaving import VIDEO, TokenRun, interleave
from llava_av.model.sequence.token_counts import TokenCounts


class ClipTokens:
    """Writes the placeholder tokens of media from their sizes.

    Args:
        config: Config of the model.
        counts: Token counts of the model.
        tokens: Placeholder tokens by modality, for the modalities that the model takes.
    """

    def __init__(self, config: LlavaAvConfig, counts: TokenCounts, tokens: Mapping[str, str]) -> None:
        self._config = config
        self._counts = counts
        self._tokens = tokens

    def video(self, frames: int, times_s: Sequence[float], samples: int | None) -> str:
        """Return the tokens of a video with its audio track.

        Args:
            frames: Number of frames.
            times_s: Time of each frame in seconds.
            samples: Number of audio samples, enough for a token; None without audio.

        Raises:
            ValueError: The numbers of times and frames differ; names both.
        """
        runs = interleave(
            times_s,
            self._counts.video_frame_tokens(frames) if frames else [],
            [] if samples is None else self._counts.audio_times_s(samples),
            self._config.chunk_s,
            timestamps=self._config.timestamps,
        )
        if frames and self._config.video_newline == "one":
            runs.append(TokenRun(VIDEO, 1))
        return "".join(run.text or self._tokens[run.kind] * run.count for run in runs)

    def audio(self, samples: int) -> str:
        """Return the tokens of audio without a video, with samples enough for a token."""
        return self._tokens["audio"] * self._counts.audio_tokens(samples)

    def image(self, size: tuple[int, int], *, alone: bool) -> str:
        """Return the tokens of an image of that height and width; `alone` if its row has no other image."""
        return self._tokens["image"] * self._counts.image_tokens(size, alone=alone)

"""Questions with their decoded clips in batches; the next batch is decoded during the current one."""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from llava_av.datasets.loading import has_audio
from llava_av.datasets.media_source import MediaSource
from llava_av.datasets.schema import Sample
from llava_av.evaluation.shuffling import ring_of_clips
from llava_av.media.clip import Clip
from llava_av.storage import map_parallel

__all__ = ["Question", "Questions"]

_PLACEHOLDERS = ("<video>", "<image>", "<audio>")


@dataclass(frozen=True, kw_only=True)
class Question:
    """A sample with its decoded clip. The last turn of the sample is the correct answer."""

    sample: Sample
    clip: Clip
    lender: Clip | None
    """Clip whose audio replaces this one's under shuffled audio; None if the clip has no audio to replace."""

    @property
    def turns(self) -> tuple[tuple[str, str], ...]:
        """Return (speaker, text) of each turn in order."""
        return tuple((turn.speaker, turn.value) for turn in self.sample.conversations)

    @property
    def answer(self) -> str:
        """Return the correct answer as the data spell it."""
        return self.sample.conversations[-1].value

    @property
    def text(self) -> str:
        """Return the question without placeholders."""
        text = self.sample.conversations[-2].value
        for mark in _PLACEHOLDERS:
            text = text.replace(mark, "")
        return " ".join(text.split())


class Questions:
    """All samples of an evaluation, in the order of the questions.

    Samples about one clip are adjacent, and after each clip comes the clip that lends it audio. Therefore a
    batch rarely decodes a clip that none of its questions is about.
    """

    def __init__(self, source: MediaSource, samples: Sequence[Sample], *, seed: int) -> None:
        """Find the clips with audio, by recorded properties or by headers.

        Args:
            source: Source of the media.
            samples: Conversations that end with an answer.
            seed: Seed of the exchange of audio between clips.

        Raises:
            MediaError: A file is missing or is not a media file; the message names the file and the sample.
        """
        self._source = source
        self._samples: dict[Hashable, Sample] = {}
        about: dict[Hashable, list[Sample]] = {}
        for sample in samples:
            self._samples.setdefault(_key(sample), sample)
            about.setdefault(_key(sample), []).append(sample)
        with_audio = map_parallel(lambda sample: has_audio(source, sample), self._samples.values())
        lenders = [key for key, has in zip(self._samples, with_audio, strict=True) if has]
        self._ring: Mapping[Hashable, Hashable] = ring_of_clips(lenders, seed)
        order = [*self._ring, *(key for key in about if key not in self._ring)]
        self._order = [sample for key in order for sample in about[key]]

    @property
    def can_exchange_audio(self) -> bool:
        """Return whether at least two clips have audio."""
        return bool(self._ring)

    def batches(self, size: int) -> list[list[Sample]]:
        """Return the samples in batches of `size`; the batches do not depend on the number of processes."""
        return [self._order[first : first + size] for first in range(0, len(self._order), size)]

    def decoded(
        self, batches: Sequence[Sequence[Sample]], decode: Callable[[Mapping[str, Path], Sample], Clip]
    ) -> Iterator[list[Question]]:
        """Iterate over the questions of batches; consecutive batches decode a shared clip once.

        Args:
            batches: Any of the batches that `batches` returns, in order.
            decode: Function that decodes a sample from the path of each of its files, such as `load_clip`.
        """
        if not batches:
            return
        kept: dict[Hashable, Clip] = {}

        def load(batch: Sequence[Sample]) -> list[Question]:
            keys = dict.fromkeys(_key(sample) for sample in batch)
            needed = {*keys, *(self._ring[key] for key in keys if key in self._ring)}
            for key in [key for key in kept if key not in needed]:
                del kept[key]
            missing = [self._samples[key] for key in sorted(needed - kept.keys(), key=str)]
            with ExitStack() as block:
                files = [block.enter_context(self._source.files(sample)) for sample in missing]
                # Getting a path fetches the file: all at once, while the previous batch is asked.
                for sample, paths in zip(missing, map_parallel(dict, files), strict=True):
                    kept[_key(sample)] = decode(paths, sample)
            return [self._question(sample, kept) for sample in batch]

        with ThreadPoolExecutor(1, thread_name_prefix="clips") as pool:
            ahead = [pool.submit(load, batch) for batch in batches[:1]]
            for following in [*batches[1:], None]:
                questions = ahead.pop().result()
                if following is not None:
                    ahead.append(pool.submit(load, following))
                yield questions

    def _question(self, sample: Sample, clips: Mapping[Hashable, Clip]) -> Question:
        key = _key(sample)
        lender = clips[self._ring[key]] if key in self._ring else None
        return Question(sample=sample, clip=clips[key], lender=lender)


def _key(sample: Sample) -> Hashable:
    """Return the key of a sample's clip; samples with equal keys share the decoded clip."""
    return (sample.image, sample.video, sample.audio, sample.use_audio)

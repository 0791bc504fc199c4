"""Questions with their decoded clips, batch by batch; the next batch is decoded while this one is asked."""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from llava_av.datasets.loading import has_audio
from llava_av.datasets.schema import Sample
from llava_av.evaluation.shuffling import ring_of_clips
from llava_av.media.clip import Clip
from llava_av.storage import map_parallel

__all__ = ["Question", "Questions"]

_PLACEHOLDERS = ("<video>", "<image>", "<audio>")


@dataclass(frozen=True, kw_only=True)
class Question:
    """A sample with its clip: all turns but the last, and the answer that the last one gives."""

    sample: Sample
    clip: Clip
    lender: Clip | None
    """The clip whose sound replaces this one's under shuffled audio; None if there is none to replace."""

    @property
    def turns(self) -> tuple[tuple[str, str], ...]:
        """(speaker, text) in order."""
        return tuple((turn.speaker, turn.value) for turn in self.sample.conversations)

    @property
    def answer(self) -> str:
        """The right answer as the data spell it."""
        return self.sample.conversations[-1].value

    @property
    def text(self) -> str:
        """The question as a reader sees it."""
        text = self.sample.conversations[-2].value
        for mark in _PLACEHOLDERS:
            text = text.replace(mark, "")
        return " ".join(text.split())


class Questions:
    """All samples of an evaluation in the order in which they are asked.

    Samples about one clip follow each other, and each clip is followed by the one that lends it its sound:
    so a batch rarely decodes a clip that none of its questions is about.
    """

    def __init__(self, data: Path, samples: Sequence[Sample], *, seed: int) -> None:
        """Read the headers of all media to see which have sound.

        Args:
            data: folder that the samples' media are relative to.
            samples: conversations that end with an answer.
            seed: of who gets whose sound.

        Raises:
            MediaError: a file is missing or is no medium; names file and sample.
        """
        self._data = data
        self._samples: dict[Hashable, Sample] = {}
        about: dict[Hashable, list[Sample]] = {}
        for sample in samples:
            self._samples.setdefault(_key(sample), sample)
            about.setdefault(_key(sample), []).append(sample)
        hears = map_parallel(lambda sample: has_audio(data, sample), self._samples.values())
        sounding = [key for key, heard in zip(self._samples, hears, strict=True) if heard]
        self._ring: Mapping[Hashable, Hashable] = ring_of_clips(sounding, seed)
        order = [*self._ring, *(key for key in about if key not in self._ring)]
        self._order = [sample for key in order for sample in about[key]]

    @property
    def can_exchange_audio(self) -> bool:
        """Whether at least two clips have sound."""
        return bool(self._ring)

    def batches(self, size: int) -> list[list[Sample]]:
        """Return the samples in order, `size` at a time: the same batches for any number of processes."""
        return [self._order[first : first + size] for first in range(0, len(self._order), size)]

    def decoded(
        self, batches: Sequence[Sequence[Sample]], decode: Callable[[Path, Sample], Clip]
    ) -> Iterator[list[Question]]:
        """Iterate over the questions of some batches; each clip is decoded once for consecutive batches.

        Args:
            batches: some of `batches`, in order.
            decode: a sample's media, which are relative to a folder, as `load_clip`.
        """
        if not batches:
            return
        kept: dict[Hashable, Clip] = {}

        def load(batch: Sequence[Sample]) -> list[Question]:
            keys = dict.fromkeys(_key(sample) for sample in batch)
            needed = {*keys, *(self._ring[key] for key in keys if key in self._ring)}
            for key in [key for key in kept if key not in needed]:
                del kept[key]
            for key in sorted(needed - kept.keys(), key=str):
                kept[key] = decode(self._data, self._samples[key])
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
    """Return the key of a sample's clip: samples with one key share it, so the towers encode it once."""
    return (sample.image, sample.video, sample.audio, sample.use_audio)

"""Samples of the page, grouped by their media, and their embedded media.

The size of the page is bounded: three quarters of the limit are for media, the rest for previews, texts are
cut, and a card has at most a few files. A media file is embedded once.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from llava_av.datasets.contents import Contents
from llava_av.datasets.manifest import safe_path
from llava_av.datasets.ranges import FileRow
from llava_av.datasets.schema import Sample
from llava_av.datasets.statistics import modalities_of
from llava_av.errors import UserError, printable
from llava_av.media.info import MediaInfo
from llava_av.report.dataset_view.inputs import ViewInputs
from llava_av.report.labels import duration, file_size
from llava_av.report.media import Media, embedded_media, reasons_left_out
from llava_av.report.previews import Preview, preview

__all__ = ["MediaCard", "SampleCard", "SampleText", "TurnText", "sample_cards"]

_MOST_FILES, _MOST_TURNS, _MOST_CHOICES = 4, 20, 20
_TURN_CHARACTERS, _NAME_CHARACTERS = 1000, 200
_MOST_READ_BYTES = 256_000_000
"""Larger files are not read, because their preview is not worth the transfer."""


@dataclass(frozen=True, kw_only=True)
class MediaCard:
    """A media file of a card."""

    name: str
    properties: str = ""
    """Duration, resolution, rates and size, as far as they are known."""
    media: Media | None = None
    left_out: str = ""
    """Reason why the file is not embedded; empty if it is."""
    shown_with: str = ""
    """ID of an earlier sample with the same file; empty if there is none."""
    preview: Preview = field(default_factory=Preview)


@dataclass(frozen=True, kw_only=True)
class TurnText:
    """Text of a turn."""

    is_question: bool
    text: str


@dataclass(frozen=True, kw_only=True)
class SampleText:
    """Everything about a sample except its media."""

    id: str
    split: str
    kind: str
    modalities: str
    turns: tuple[TurnText, ...]
    more_turns: int
    choices: tuple[str, ...]
    more_choices: int


@dataclass(frozen=True, kw_only=True)
class SampleCard:
    """Samples about the same media."""

    media: tuple[MediaCard, ...]
    more_media: int
    samples: tuple[SampleText, ...]


def sample_cards(inputs: ViewInputs) -> tuple[SampleCard, ...]:
    """Return the cards of all samples, by split and ID.

    Raises:
        StoreError: The object store cannot be used.
    """
    contents = inputs.excerpt.contents
    groups: dict[tuple[object, ...], list[tuple[str, Sample]]] = {}
    for split, samples in contents.samples.items():
        for sample in samples:
            groups.setdefault((split, *sample.media_key), []).append((split, sample))
    media = _media_cards(inputs, [own[0][1] for own in groups.values()])
    return tuple(_card(own, contents, media) for own in groups.values())


def _shown_paths(sample: Sample) -> list[str]:
    paths = dict.fromkeys(map(safe_path, sample.media))
    return list(paths)[:_MOST_FILES]


def _card(
    group: list[tuple[str, Sample]], contents: Contents, media: Mapping[tuple[str, str], MediaCard]
) -> SampleCard:
    first = group[0][1]
    paths = _shown_paths(first)
    return SampleCard(
        media=tuple(media[first.id, path] for path in paths),
        more_media=len(set(map(safe_path, first.media))) - len(paths),
        samples=tuple(_text(split, sample, contents) for split, sample in group),
    )


def _text(split: str, sample: Sample, contents: Contents) -> SampleText:
    turns, choices = sample.conversations, sample.choices
    return SampleText(
        id=_name(sample.id),
        split=split,
        kind=_name(sample.kind),
        modalities=modalities_of(sample, contents.has_audio),
        turns=tuple(
            TurnText(is_question=turn.speaker == "human", text=_cut(turn.value, _TURN_CHARACTERS))
            for turn in turns[:_MOST_TURNS]
        ),
        more_turns=max(0, len(turns) - _MOST_TURNS),
        choices=tuple(_cut(choice, _NAME_CHARACTERS) for choice in choices[:_MOST_CHOICES]),
        more_choices=max(0, len(choices) - _MOST_CHOICES),
    )


def _name(text: str) -> str:
    return printable(_cut(text, _NAME_CHARACTERS))


def _cut(text: str, longest: int) -> str:
    text = text.strip()
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _media_cards(inputs: ViewInputs, samples: Iterable[Sample]) -> dict[tuple[str, str], MediaCard]:
    """Return the card of each file by the first sample of a group and the path."""
    uses = [(sample.id, path) for sample in samples for path in _shown_paths(sample)]
    files = inputs.excerpt.contents.files
    cards = dict(_read(inputs, {path: files[path] for _, path in uses if path in files}))
    first_use = {path: sample for sample, path in reversed(uses)}
    return {
        (sample, path): _use(path, cards.get(path), "" if first_use[path] == sample else first_use[path])
        for sample, path in uses
    }


def _use(path: str, card: MediaCard | None, shown_with: str) -> MediaCard:
    """Return the card of a use of a file that is shown with an earlier sample, or here."""
    if card is None:
        return MediaCard(name=_name(path), left_out="the dataset lacks this file")
    if not shown_with:
        return card
    return MediaCard(name=card.name, properties=card.properties, shown_with=_name(shown_with))


def _read(inputs: ViewInputs, rows: Mapping[str, FileRow]) -> Iterator[tuple[str, MediaCard]]:
    """Yield path and card of each file, the smallest first, as long as there is room for previews."""
    media_room = inputs.max_bytes * 3 // 4
    preview_room = inputs.max_bytes - media_room
    reasons = reasons_left_out({path: row.bytes for path, row in rows.items()}, media_room)
    order = sorted(rows.values(), key=lambda row: (row.bytes, row.path))
    for done, row in enumerate(order, start=1):
        card = _read_one(inputs, row, reasons[row.path])
        needed = len(card.preview.poster) + len(card.preview.strip) + len(card.preview.wave)
        preview_room -= needed
        if preview_room < 0:
            card = replace(card, preview=Preview(duration_s=card.preview.duration_s))
            preview_room += needed
        yield row.path, card
        inputs.progress(done, len(order))


def _read_one(inputs: ViewInputs, row: FileRow, reason: str) -> MediaCard:
    info = inputs.excerpt.contents.info(row.path)
    media, shown = None, Preview()
    if reason and row.bytes > _MOST_READ_BYTES:
        reason += f"; it has no preview because it exceeds {file_size(_MOST_READ_BYTES)}"
    else:
        try:
            with inputs.open_file(row) as path:
                media = None if reason else embedded_media(path)
                if media is None or media.element != "image":
                    shown = preview(path)
        except UserError as error:
            if error.transient:
                raise
            media, reason = None, " ".join(str(error).split())
    return MediaCard(
        name=_name(row.path),
        properties=_properties(info, row),
        media=media,
        left_out=printable(reason),
        preview=shown,
    )


def _properties(info: MediaInfo | None, row: FileRow) -> str:
    size = file_size(row.bytes)
    if info is None:
        return f"{size}, other properties unknown"
    parts = [] if info.kind == "image" else [duration(info.duration_s)]
    if info.kind != "audio":
        parts.append(f"{info.width}x{info.height}")
    if info.kind == "video":
        parts.append("unknown frame rate" if info.fps is None else f"{info.fps:.4g} frames/s")
        parts.append("no audio" if not info.has_audio else f"audio {info.sample_rate_hz} Hz")
    elif info.kind == "audio":
        parts.append(f"{info.sample_rate_hz} Hz")
    return ", ".join([*parts, size])

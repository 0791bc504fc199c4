"""Page with samples of a dataset as one self-contained file.

The page loads nothing. One script filters the samples; the content security policy allows only this script,
by its hash, so that text of the dataset cannot run code.
"""

from pathlib import Path

from llava_av.errors import printable
from llava_av.files import write_whole
from llava_av.report.dataset_view.cards import MediaCard, SampleCard, sample_cards
from llava_av.report.dataset_view.inputs import ViewInputs
from llava_av.report.labels import duration, file_size
from llava_av.report.previews import WAVE_HEIGHT, WAVE_WIDTH
from llava_av.report.templates import Filters, inline_script, render_template

__all__ = ["write_view"]

_MOST_LEFT_OUT = 200


def write_view(path: Path, inputs: ViewInputs) -> tuple[int, int]:
    """Write the page to a file atomically, and return the numbers of media files in it and embedded in it.

    Raises:
        StoreError: The object store cannot be used.
    """
    cards = sample_cards(inputs)
    write_whole(path, _render(inputs, cards))
    files = _files(cards)
    return len(files), sum(one.media is not None for one in files)


def _files(cards: tuple[SampleCard, ...]) -> list[MediaCard]:
    """Return each media file once."""
    return [one for card in cards for one in card.media if not one.shown_with]


def _render(inputs: ViewInputs, cards: tuple[SampleCard, ...]) -> str:
    texts = [text for card in cards for text in card.samples]
    values = {
        "inputs": inputs,
        "cards": cards,
        "shown": len(texts),
        "total": sum(inputs.splits.values()),
        "choices": {
            "split": sorted({text.split for text in texts}),
            "kind": sorted({text.kind for text in texts}),
            "modalities": sorted({text.modalities for text in texts}),
        },
        "not_embedded": sum(one.media is None for one in _files(cards)),
        "left_out": inputs.left_out[:_MOST_LEFT_OUT],
        "script": inline_script("dataset_view/view.js"),
        "wave_box": f"0 0 {WAVE_WIDTH} {WAVE_HEIGHT}",
    }
    filters: Filters = {"duration": duration, "file_size": file_size, "printable": printable}
    return render_template("dataset_view/view.html.j2", values, html=True, filters=filters)

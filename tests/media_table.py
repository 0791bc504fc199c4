"""Write the table of video and audio in docs/media.md: `python -m tests.media_table`."""

import re
import tempfile
from pathlib import Path

from tests.media_comparison import Compared, compare
from tests.media_corpus import VIDEO_AND_AUDIO, Entry

DOCS = Path(__file__).parents[1] / "docs" / "media.md"
_HEAD = "| file | tracks | special | length | frames equal | audio equal, shift |\n" + "| --- " * 6 + "|\n"


def row(entry: Entry, compared: Compared) -> str:
    """Return one row of the table."""
    frames = (
        f"{compared.frames if not compared.frame_error else 0} of {compared.frames}" if entry.video else "-"
    )
    audio = "-"
    if entry.audio:
        equal = "yes" if compared.audio_error < 1e-6 else f"no ({compared.audio_error:.1g})"
        audio = f"{equal}, {round(compared.audio_shift_s * 1000):d} ms"
    cells = [f"`{entry.name}`", compared.tracks, entry.note, f"{compared.duration_s:.3f} s", frames, audio]
    return f"| {' | '.join(cells)} |\n"


def main() -> None:
    """Replace the rows of the table by current results."""
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for entry in VIDEO_AND_AUDIO:
            path = Path(folder) / entry.name
            entry.make(path)
            rows.append(row(entry, compare(entry, path)))
    text = DOCS.read_text()
    begin = text.index(_HEAD)
    end = re.compile(r"^(?!\|)", re.MULTILINE).search(text, begin)
    DOCS.write_text(text[:begin] + _HEAD + "".join(rows) + (text[end.start() :] if end else ""))


if __name__ == "__main__":
    main()

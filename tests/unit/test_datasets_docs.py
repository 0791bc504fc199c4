"""Lines in docs/data-format.md, which are valid, and its list of keys."""

import re
from pathlib import Path

from llava_av.datasets.schema import parse_sample
from llava_av.datasets.sources.line_keys import KEYS

PAGE = (Path(__file__).parents[2] / "docs" / "data-format.md").read_text(encoding="utf-8")
_MEDIA = ("image", "video", "audio")


def test_documented_lines_are_valid_and_use_every_key() -> None:
    (block,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    samples = [parse_sample(line, number) for number, line in enumerate(block.splitlines(), start=1)]
    assert {key for key in KEYS if f'"{key}"' in block} == set(KEYS)
    shown = {tuple(kind for kind in _MEDIA if getattr(sample, kind)) for sample in samples}
    assert shown >= {("video",), ("image",), ("audio",), ("video", "audio"), ()}
    assert any(len(sample.conversations) > 2 for sample in samples)


def test_every_key_is_explained() -> None:
    assert set(KEYS) <= set(re.findall(r"`(\w+)`", PAGE.partition("## JSON arrays")[0]))

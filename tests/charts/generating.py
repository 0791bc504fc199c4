"""The golden files of the chart, and the table of its values: what `tests/charts/generate` writes."""

import json
import re
from collections.abc import Iterator
from typing import Any

import yaml

from tests.charts.chart import CHART, GOLDEN, PROFILES, render

README = CHART / "README.md"
_BEGIN, _END = "<!-- values: tests/charts/generate writes what follows -->\n", "<!-- end of values -->\n"


def main() -> None:
    GOLDEN.mkdir(exist_ok=True)
    for name in PROFILES:
        (GOLDEN / f"{name}.yaml").write_text(golden(name))
    README.write_text(with_table(README.read_text()))


def golden(profile: str, program: str = "helm") -> str:
    """The objects of a profile in helm's order, with a file's name for the text of files of the chart."""
    found = render(profile=profile, program=program)
    for one in found:
        for key in one.get("data", {}):
            if (CHART / "files" / key).exists():
                one["data"][key] = f"files/{key}"
    return str(yaml.safe_dump_all(found, sort_keys=False, width=110))


def with_table(text: str) -> str:
    """The README with the table of values in its place."""
    before, _, rest = text.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return f"{before}{_BEGIN}{table()}{_END}{after}"


def table() -> str:
    """Every documented value, its default and its meaning, as Markdown."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    lines = ["| value | default | meaning |", "| --- | --- | --- |"]
    for path, meaning in documented():
        default = json.dumps(find(values, path))
        lines.append(f"| `{path}` | `{default}` | {meaning.replace('|', chr(92) + '|')} |")
    return "\n".join(lines) + "\n"


def documented() -> Iterator[tuple[str, str]]:
    """Path and comment of each value that values.yaml documents."""
    parents: list[str] = []
    meaning: list[str] = []
    for line in (CHART / "values.yaml").read_text().splitlines():
        comment = re.fullmatch(r"\s*# (--)? ?(.*)", line)
        key = re.match(r"( *)([A-Za-z0-9]+):", line)
        if comment and comment[1]:
            meaning = [comment[2]]
        elif comment and meaning:
            meaning.append(comment[2])
        elif key:
            del parents[len(key[1]) // 2 :]
            parents.append(key[2])
            if meaning:
                yield ".".join(parents), " ".join(meaning)
            meaning = []


def find(values: Any, path: str) -> Any:
    """The value at a path."""
    for part in path.split("."):
        values = values[part]
    return values


def leaves(values: Any, path: str = "") -> Iterator[str]:
    """Paths of everything that is no mapping with something in it."""
    if isinstance(values, dict) and values:
        for key, value in values.items():
            yield from leaves(value, f"{path}.{key}" if path else key)
    else:
        yield path


if __name__ == "__main__":
    main()

"""Generator of the chart's golden files and of the table of its values, for `tests/charts/generate`."""

import json
import re
from collections.abc import Iterator
from typing import Any

import yaml

from llava_av.launch.kubernetes.manifest_text import manifest_yaml
from tests.charts.chart import CHART, GOLDEN, PROFILES, render

README = CHART / "README.md"
_BEGIN, _END = "<!-- values: tests/charts/generate writes what follows -->\n", "<!-- end of values -->\n"


def main() -> None:
    GOLDEN.mkdir(exist_ok=True)
    for name in PROFILES:
        (GOLDEN / f"{name}.yaml").write_text(golden(name))
    README.write_text(with_table(README.read_text()))


def golden(profile: str, program: str = "helm") -> str:
    """Render a profile in helm's order, and replace the text of the chart's files by their names.

    Of a profile that is passed in addition to others, only the objects are returned that it adds or changes.
    """
    found = render(profile=profile, program=program)
    if profile == "serving":
        plain = render(program=program)
        found = [one for one in found if one not in plain]
    for one in found:
        for key in one.get("data", {}):
            if (CHART / "files" / key).exists():
                one["data"][key] = f"files/{key}"
    return manifest_yaml(found, width=110)


def with_table(text: str) -> str:
    """Return the README with its table of values replaced."""
    before, _, rest = text.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return f"{before}{_BEGIN}{table()}{_END}{after}"


def table() -> str:
    """Return every documented value, its default and its meaning as a Markdown table."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    lines = ["| value | default | meaning |", "| --- | --- | --- |"]
    for path, meaning in documented():
        default = json.dumps(find(values, path))
        lines.append(f"| `{path}` | `{default}` | {meaning.replace('|', chr(92) + '|')} |")
    return "\n".join(lines) + "\n"


def documented() -> Iterator[tuple[str, str]]:
    """Yield path and comment of each documented value of values.yaml."""
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
    """Return the value at a path."""
    for part in path.split("."):
        values = values[part]
    return values


def leaves(values: Any, path: str = "") -> Iterator[str]:
    """Yield the paths of all values except non-empty mappings."""
    if isinstance(values, dict) and values:
        for key, value in values.items():
            yield from leaves(value, f"{path}.{key}" if path else key)
    else:
        yield path


if __name__ == "__main__":
    main()

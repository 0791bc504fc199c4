"""Links, navigation and commands of README and `docs/` have existing targets."""

import re
import shlex
import subprocess
import tomllib
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from llava_av.cli.app import app
from llava_av.recipe import RENAMED_FIELDS

ROOT = Path(__file__).resolve().parents[2]
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", *DOCS]
OTHERS = [
    ROOT / name for name in ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "helm/llava-av/README.md")
]
_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
_PROGRAM = r"(?:\.venv/bin/)?llava-av"


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def prose(path: Path) -> str:
    """Return a page without its fenced blocks."""
    return _FENCE.sub("", path.read_text(encoding="utf-8"))


def anchors(path: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and Zensical both make them."""
    headings = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
    plain = [re.sub(r"[`*]", "", heading).lower() for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}


def links(path: Path) -> list[str]:
    """Return the targets of links and images that are not addresses."""
    targets = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", prose(path)))
    return [target for target in targets if "://" not in target and not target.startswith("mailto:")]


def commands(path: Path) -> list[str]:
    """Return the lines of fenced blocks that run llava-av, each with its continuation lines joined."""
    blocks = [body for _, language, body in _FENCE.findall(path.read_text()) if language in ("", "sh")]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    found = (re.match(rf"(?:\$ )?(?:[A-Z_0-9]+=\S+ )*({_PROGRAM} .*)", line.strip()) for line in lines)
    return [match.group(1) for match in found if match]


@pytest.mark.parametrize("path", [*PAGES, *OTHERS], ids=relative)
def test_each_link_leads_to_a_file_and_a_heading(path: Path) -> None:
    for link in links(path):
        name, _, anchor = unquote(link).partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


@pytest.mark.parametrize("path", DOCS, ids=relative)
def test_pages_of_the_site_link_to_nothing_outside_of_it(path: Path) -> None:
    assert [link for link in links(path) if link.startswith("..")] == []


def test_the_navigation_has_each_page_once() -> None:
    nav = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"]
    named = re.findall(r"'([\w-]+\.md)'", str(nav))
    assert sorted(named) == [path.name for path in DOCS]


@pytest.mark.parametrize("path", PAGES, ids=relative)
def test_lists_and_tables_follow_an_empty_line(path: Path) -> None:
    """Zensical renders them as running text otherwise."""
    lines = prose(path).splitlines()
    block = re.compile(r"\s*([-*|]|\d+\.) ")
    for before, line in pairwise(lines):
        if block.match(line) and before.strip() and not before.startswith("#"):
            assert block.match(before) or before.startswith("  "), line


@pytest.mark.parametrize("path", PAGES, ids=relative)
def test_fenced_commands_have_the_options_that_they_name(path: Path) -> None:
    for line in commands(path):
        arguments = shlex.split(re.split(r" {3,}| #|[|;&>]", line)[0])[1:]
        result = CliRunner().invoke(app, [*arguments, "--help"])
        assert result.exit_code == 0, f"{line}\n{result.output}"


def test_fenced_commands_are_found() -> None:
    found = [line for path in PAGES for line in commands(path)]
    assert len(found) > 40
    assert len({line.split()[1] for line in found}) > 15


@pytest.mark.parametrize("path", PAGES, ids=relative)
def test_commands_in_running_text_exist(path: Path) -> None:
    top: dict[str, object] = getattr(get_command(app), "commands")  # noqa: B009
    for name, sub in re.findall(rf"`{_PROGRAM} ([a-z][a-z-]*)(?: ([a-z-]+))?", prose(path)):
        assert name in top, name
        nested = getattr(top[name], "commands", None)
        assert not (nested and sub) or sub in nested, f"{name} {sub}"


@pytest.mark.parametrize("path", [path for path in PAGES if path.name != "recipes.md"], ids=relative)
def test_recipe_fields_have_their_current_names(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    words = {name.split(".")[1] for name in RENAMED_FIELDS} - {"processes", "train"}
    assert not words & set(re.findall(r"\w+", text))
    assert not set(RENAMED_FIELDS) & set(re.findall(r"\w+\.\w+", text))


@pytest.mark.parametrize("path", PAGES, ids=relative)
def test_make_targets_and_files_exist(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = path.read_text(encoding="utf-8")
    assert set(re.findall(r"(?:`|^)(?:[A-Z]+=\S+ )*make ([a-z-]+)\b", text, re.MULTILINE)) <= targets
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    tops = {name.split("/")[0] for name in tracked if "/" in name}
    known = {parent for name in tracked for parent in [name, *map(str, Path(name).parents)]}
    known |= {name.removesuffix(".py") for name in tracked}
    named = re.findall(r"`([\w.-]+/[\w./-]*\w)`", prose(path))
    assert {name for name in named if name.split("/")[0] in tops} <= known

"""Lines for users are safe to print, whatever a name contains."""

import importlib
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_av.errors import UserError, explain, printable
from llava_av.media.check import check_media
from llava_av.media.container import MediaError

EVIL = "a\n\x1b[2Jb\x9b31m\u202egnp.jpg\u2066\r\x00\udcff\u2028.mp4"


@given(st.text(st.characters(exclude_categories=[])))
def test_no_name_can_act_on_a_terminal(text: str) -> None:
    shown = printable(text)
    assert len(shown.splitlines()) <= 1
    shown.encode("utf-8")
    assert {unicodedata.category(sign)[0] for sign in shown} <= set("LMNPSZ")
    assert printable(shown) == shown


@pytest.mark.parametrize(
    "name", ["会議　録画.mp4", "résumé (1) é.jpg", "a b\xa0c.png", "😀.gif", "C:\\new.png"]
)
def test_names_in_any_script_stay_as_they_are(name: str) -> None:
    assert printable(name) == name


def test_what_is_escaped_can_still_be_told() -> None:
    assert printable("a\nb\x1b[31m\u202e") == "a\\nb\\x1b[31m\\u202e"


def test_errors_of_evil_names_are_one_safe_line(tmp_path: Path) -> None:
    with pytest.raises(MediaError) as caught:
        check_media(tmp_path / EVIL.replace("\x00", ""))
    for line in (str(caught.value), explain(caught.value), explain(UserError(f"{EVIL} is wrong"))):
        assert line is not None
        assert printable(line) == line
    assert "a\\n\\x1b[2Jb" in str(caught.value)
    assert caught.value.path == tmp_path / EVIL.replace("\x00", "")


def test_characters_to_keep_stay() -> None:
    assert printable("a\n\tb\x1b[2J\u202e", keep="\n\t") == "a\n\tb\\x1b[2J\\u202e"


@pytest.mark.parametrize(("module", "extra"), [("absent_module.part", "local"), ("uvicorn", "serve")])
def test_a_module_that_is_not_installed_is_named_with_its_extra(
    module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError) as absent:
        importlib.import_module(module)
    line = explain(absent.value)
    assert (
        line == f"the Python module {module.split('.')[0]} is not installed: pip install 'llava-av[{extra}]'"
    )


def test_a_module_of_this_package_that_is_absent_is_a_bug() -> None:
    with pytest.raises(ModuleNotFoundError) as absent:
        importlib.import_module("llava_av.absent_module")
    assert explain(absent.value) is None

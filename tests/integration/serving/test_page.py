"""The page of `llava-av serve` in a browser."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser import Tab, chromium, needs_browser, wait_until
from tests.integration.serving.conftest import serving
from tests.media_samples import click, write_grey_clip

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(300), needs_browser]

QUESTION = "What do you hear?"
# A camera and a microphone that the browser simulates, and no question whether the page may use them.
DEVICES = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with chromium(tmp_path_factory.mktemp("browser"), *DEVICES) as debugged:
        yield debugged


@pytest.fixture
def tab(browser: int, address: str) -> Tab:
    tab = Tab(browser)
    tab.open(address.removesuffix("v1"))
    wait_for(tab, "name", "tiny")
    return tab


def text_of(tab: Tab, name: str) -> str:
    return str(tab.value(f"document.getElementById({json.dumps(name)}).textContent"))


def wait_for(tab: Tab, name: str, words: str) -> None:
    wait_until(
        lambda: words in text_of(tab, name), lambda: f"{name} has {text_of(tab, name)!r}, not {words!r}"
    )


def choose(tab: Tab, path: Path) -> None:
    root = tab.command("DOM.getDocument")["root"]["nodeId"]
    node = tab.command("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
    tab.command("DOM.setFileInputFiles", nodeId=node, files=[str(path)])


def ask(tab: Tab) -> None:
    tab.value(f"document.getElementById('question').value = {json.dumps(QUESTION)}")
    tab.value("document.getElementById('form').requestSubmit()")


def is_hidden(tab: Tab, name: str) -> bool:
    return bool(tab.value(f"document.getElementById({json.dumps(name)}).hidden"))


def test_a_chosen_clip_is_shown_as_the_model_samples_it_and_answered(
    tab: Tab, address: str, tmp_path: Path
) -> None:
    choose(tab, write_grey_clip(tmp_path / "clip.mp4", click(0.5)))
    wait_for(tab, "sampled", "the model sees")
    expected = int(text_of(tab, "sampled").split()[-2])
    wait_until(
        lambda: tab.value("document.querySelectorAll('#frames canvas').length") == expected,
        lambda: f"not {expected} frames",
    )
    wait_until(lambda: not is_hidden(tab, "waveform"), lambda: "no waveform")
    ask(tab)
    wait_for(tab, "status", "answered in")
    assert text_of(tab, "answer")
    assert text_of(tab, "status").startswith(f"tiny@{text_of(tab, 'version').split()[-1]}")
    # The controls of a video have icons in data URLs.
    here = (address.removesuffix("v1"), "blob:", "data:")
    elsewhere = [url for url in tab.requested if not url.startswith(here)]
    assert not elsewhere
    for width in (375, 1280):
        tab.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False
        )
        assert tab.value("document.documentElement.scrollWidth") <= width


def test_an_error_of_the_server_is_shown(tab: Tab, tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"no video")
    choose(tab, tmp_path / "clip.mp4")
    wait_for(tab, "sampled", "No preview")
    ask(tab)
    wait_for(tab, "status", "messages[0].content[0]")
    assert tab.value("document.getElementById('status').classList.contains('error')")
    tab.value("document.getElementById('clear').click()")
    ask(tab)
    wait_for(tab, "status", "answered in")


def test_a_key_is_asked_for_and_a_recorded_clip_is_answered(
    browser: int, model: Path, tmp_path: Path
) -> None:
    (tmp_path / "keys").write_text("k" * 32)
    options = ["--api-keys", str(tmp_path / "keys"), "--limit=media_pixels=1000000"]
    with serving(str(model), tmp_path / "log", *options) as (address, _):
        tab = Tab(browser)
        tab.open(address.removesuffix("v1"))
        wait_for(tab, "status", "API key")
        assert not is_hidden(tab, "access")
        tab.value(f"document.getElementById('key').value = '{'k' * 32}'")
        tab.value("document.getElementById('record').click()")
        wait_for(tab, "status", "recording")
        tab.value("new Promise((resolve) => setTimeout(resolve, 1500))")
        tab.value("document.getElementById('record').click()")
        wait_for(tab, "clip", "recording (")
        ask(tab)
        wait_for(tab, "status", "answered in")
        assert text_of(tab, "name") == "tiny"

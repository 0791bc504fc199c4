"""Pages with samples of datasets, from a real object store and in a real browser."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from llava_av.datasets.commits import find_commit
from llava_av.storage import ObjectStore
from tests.browser import Tab, chromium, needs_browser
from tests.dataset_folders import (
    DAY,
    NIGHT,
    DataCommands,
    line,
    stored_key,
    write_conversations,
    write_dataset,
)
from tests.media_samples import click, write_grey_clip
from tests.unit.test_report_page import Page

pytestmark = pytest.mark.integration

EVIL = "</dd></script><script>document.title='evil'</script><img src=http://127.0.0.1:1/x onerror=alert(1)>"


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    folder = write_dataset(tmp_path / "clips")
    write_grey_clip(folder / "grey.mp4", click(0.5))
    videos = [
        {"id": "grey", "video": "grey.mp4", "split": "train", "kind": "scene_light"},
        {"id": "grey-2", "video": "grey.mp4", "split": "train", "choices": ["It.", "That."]},
        {"id": EVIL, "split": "held_out", "kind": "text", "choices": ["It.", EVIL]},
    ]
    write_conversations(folder, [NIGHT, DAY, *videos])
    with (folder / "conversations.jsonl").open("a") as file:
        file.write(line({"id": "bad", "video": f"{EVIL}.mp4"}))
    return folder


def written(data: DataCommands, page: Path, *arguments: str | Path) -> tuple[dict[str, Any], Page]:
    found = data.json("view", *arguments, "--output", page)
    assert found["page"] == str(page)
    return found, Page(page.read_text())


def ids(page: Page) -> list[str]:
    found = [
        given["aria-labelledby"] for tag, given in page.elements if given.get("class", "").endswith("sample")
    ]
    assert len(set(found)) == len(found)
    return found


def test_a_page_shows_media_texts_properties_and_omissions(
    data: DataCommands, clips: Path, tmp_path: Path
) -> None:
    data.text("commit", clips, "--max-bad-share", "0.5", "-m", "First clips", "--author", "Ada")
    data.text("tag", "clips", "v1")
    found, page = written(data, tmp_path / "page.html", "clips@v1")
    assert (found["samples"], found["matching"]) == (5, 5)
    assert (found["files"], found["embedded"]) == (3, 3)
    text = " ".join(page.text.split())
    for part in (
        "Ada",
        "First clips",
        "2.0 s, 64x64, 8 frames/s, audio 16000 Hz",
        "16x8",
        "night.png",
        "That.",
    ):
        assert part in text, part
    elements = Counter(tag for tag, _ in page.elements)
    assert (elements["video"], elements["script"], len(ids(page))) == (1, 1, 5)
    assert any(given.get("class") == "wave" for _, given in page.elements)
    # Text of the dataset is text of the page.
    assert text.count("document.title='evil'") == 3
    assert all(one.startswith(("data:", "#")) for one in page.references)
    assert "default-src 'none'" in (tmp_path / "page.html").read_text()


def test_a_page_has_the_samples_and_the_size_that_were_asked_for(
    data: DataCommands, clips: Path, tmp_path: Path
) -> None:
    data.text("commit", clips, "--max-bad-share", "0.5")
    found, page = written(data, tmp_path / "few.html", "clips", "--limit", "2")
    assert (found["samples"], found["matching"], len(ids(page))) == (2, 5, 2)
    assert "2 samples of 5" in page.text
    assert "3 are not on this page" in page.text
    again = tmp_path / "again.html"
    written(data, again, "clips", "--limit", "2")
    assert again.read_text() == (tmp_path / "few.html").read_text()
    found, page = written(data, tmp_path / "part.html", "clips", "--split", "train", "--pattern", "*.png")
    assert (found["samples"], found["embedded"]) == (1, 1)
    assert "day.png" in page.text
    assert "night.png" not in page.text
    assert written(data, tmp_path / "one.html", "clips", "--sample", "grey-2")[0]["samples"] == 1
    (clips / "grey.mp4").write_bytes((clips / "grey.mp4").read_bytes() + bytes(1_500_000))
    data.text("commit", clips, "--max-bad-share", "0.5")
    found, page = written(data, tmp_path / "large.html", "clips", "--max-mb", "1")
    assert (found["files"], found["embedded"]) == (3, 2)
    assert "1 media file is not embedded; the limit for embedded media and previews is 1.0 MB" in page.text
    assert (tmp_path / "large.html").stat().st_size < 1_000_000
    # Its preview is.
    assert any(given.get("class") == "strip" for _, given in page.elements)


def test_what_a_page_cannot_show_is_named(
    data: DataCommands, store: ObjectStore, clips: Path, tmp_path: Path
) -> None:
    data.text("commit", clips, "--max-bad-share", "0.5")
    for given, named in (("--split=x", "held_out, train"), ("--pattern=x/*", "x/*"), ("--sample=x", "'x'")):
        assert named in data.error("view", "clips", given)
    assert "did you mean clips" in data.error("view", "clip")
    assert not (data_page := tmp_path / "out/data-clips.html").exists()
    store.delete(stored_key(store, find_commit(store, "clips"), "grey.mp4"))
    assert "2 of 3 media files embedded" in data.text("view", "clips")
    assert "grey.mp4 is lost" in Page(data_page.read_text()).text


@needs_browser
def test_a_browser_filters_and_plays_the_page_of_a_folder_and_fetches_nothing(
    data: DataCommands, clips: Path, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    assert data.json("view", f"{clips}/", "--output", page)["samples"] == 5
    with chromium(tmp_path / "profile") as debugged:
        tab = Tab(debugged)
        tab.open(page.as_uri())
        shown = (
            "[...document.querySelectorAll('.sample h3')].filter(h => h.offsetParent).map(h => h.innerText)"
        )
        assert len(tab.value(shown)) == 5
        choose = "(name, value) => {const one = document.getElementById(name); one.value = value; "
        choose += "one.dispatchEvent(new Event(one.tagName === 'INPUT' ? 'input' : 'change'))}"
        for name, value, expected in (
            ("by-split", "train", ["day", "grey", "grey-2"]),
            ("by-kind", "scene_light", ["day", "grey"]),
            ("by-modalities", "video+audio", ["grey"]),
            ("filter", "NIGHT", []),
        ):
            tab.value(f"({choose})({name!r}, {value!r})")
            assert tab.value(shown) == expected, name
        assert tab.value("document.getElementById('shown').innerText") == "0 of 5 samples"
        tab.value("document.getElementById('reset').click()")
        tab.value(f"({choose})('filter', 'that. grey.mp4')")
        assert tab.value(shown) == ["grey-2"]
        played = "(async () => {const v = document.querySelector('video'); v.muted = true; await v.play(); "
        played += "await new Promise(end => v.ontimeupdate = () => v.currentTime > 0.2 && end()); "
        played += "return v.duration})()"
        assert tab.value(played) == pytest.approx(2, abs=0.2)
        assert tab.value("document.title") == "Samples of clips"
        unnamed = "img:not([alt]), video:not([aria-label]), svg:not([aria-label])"
        assert tab.value(f"document.querySelectorAll('{unnamed}').length") == 0
        fields = "[...document.querySelectorAll('input, select')].every(one => one.labels.length === 1)"
        assert tab.value(fields) is True
        tab.command(
            "Emulation.setDeviceMetricsOverride", width=390, height=800, deviceScaleFactor=1, mobile=True
        )
        assert tab.value("document.documentElement.scrollWidth") <= 390
        assert page.as_uri() in tab.requested
        assert {re.split("[:,]", url)[0] for url in tab.requested} <= {"file", "data", "about", "blob"}
        assert sum(url.startswith("file:") for url in tab.requested) == 1

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llava_av.datasets.schema import parse_stored, to_jsonl
from llava_av.datasets.sources.folder import DatasetError, Quarantined, read_folder
from llava_av.datasets.split import split_samples
from tests.media_samples import (
    RATE_HZ,
    click,
    cut,
    remux,
    write_audio,
    write_grey_clip,
    write_image,
)

TURNS = [{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": "a cat"}]


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    write_grey_clip(folder / "good.mp4", click(1.0))
    write_grey_clip(folder / "silent.mp4", np.zeros(2 * RATE_HZ, np.float32))
    write_grey_clip(folder / "mute.mp4")
    write_audio(folder / "sound.wav", click(0.5)[None], RATE_HZ, "pcm_s16le")
    write_image(folder / "picture.png", np.zeros((32, 32, 3), np.uint8), "png")
    return folder


@pytest.fixture
def root(media: Path, tmp_path: Path) -> Path:
    """Return a folder with media but without conversations."""
    for file in media.iterdir():
        os.link(file, tmp_path / file.name)
    return tmp_path


def sample(name: str, **changes: Any) -> dict[str, Any]:
    return {"id": name, "conversations": TURNS, **changes}


def write(root: Path, *lines: dict[str, Any] | str | bytes) -> None:
    encoded = [
        line if isinstance(line, bytes) else (line if isinstance(line, str) else json.dumps(line)).encode()
        for line in lines
    ]
    (root / "conversations.jsonl").write_bytes(b"\n".join(encoded) + b"\n")


def reasons(root: Path) -> dict[str, str]:
    return {bad.file: bad.reason for bad in read_folder(root).quarantined}


def test_good_samples_of_every_form(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    seen: list[tuple[int, int]] = []
    write(
        root,
        sample("video", video="good.mp4", model="ignored"),
        "",
        sample("list", video=["good.mp4", "silent.mp4"], image=["picture.png"]),
        "   \r",
        sample("mute", video="mute.mp4"),
        sample("unused", video="mute.mp4", use_audio=False),
        sample("sound", audio="sound.wav"),
        sample("track", audio="good.mp4"),
        sample("text"),
    )
    scan = read_folder(root, lambda done, total: seen.append((done, total)))
    assert [one.id for one in scan.samples] == ["video", "list", "mute", "unused", "sound", "track", "text"]
    assert scan.quarantined == ()
    assert (scan.bad_samples, scan.bad_share, scan.videos_without_audio) == (0, 0.0, 1)
    assert len(scan.audio_durations_s) == 3  # of good.mp4, silent.mp4 and sound.wav, each once
    assert all(seconds > 0 for seconds in scan.audio_durations_s)
    assert seen == [(done, 5) for done in range(1, 6)]
    assert capfd.readouterr() == ("", "")


def test_byte_order_mark_and_line_ends_of_other_systems(root: Path) -> None:
    write(root, b"\xef\xbb\xbf" + json.dumps(sample("a", video="good.mp4")).encode() + b"\r")
    assert [one.id for one in read_folder(root).samples] == ["a"]


def test_bad_lines_are_quarantined_by_number(root: Path) -> None:
    write(
        root,
        sample("good", video="good.mp4"),
        '{"id": "broken", ',
        b'{"id": "\xff\xfe"}',
        sample("good", video="silent.mp4"),
        {**sample("empty"), "conversations": []},
        {**sample("first"), "conversations": TURNS[::-1]},
    )
    scan = read_folder(root)
    assert [one.id for one in scan.samples] == ["good"]
    assert scan.samples[0].video == ("good.mp4",)
    found = {bad.file: bad.reason for bad in scan.quarantined}
    assert list(found) == [f"conversations.jsonl:{number}" for number in (2, 3, 4, 5, 6)]
    assert "not valid JSON" in found["conversations.jsonl:2"]
    assert "not valid UTF-8" in found["conversations.jsonl:3"]
    assert found["conversations.jsonl:4"] == "line 1 has the same id 'good'; change one"
    assert found["conversations.jsonl:5"] == "conversations: must not be empty, got []"
    assert found["conversations.jsonl:6"] == "turn 1 is from gpt, not from human"
    assert (scan.bad_samples, scan.bad_share) == (5, 5 / 6)


def test_bad_media_are_quarantined_by_path(root: Path) -> None:
    cut(root / "good.mp4", root / "cut.mp4")
    cut(remux(root / "good.mp4", root / "front.mp4", options={"movflags": "+faststart"}), root / "short.mp4")
    (root / "empty.mp4").touch()
    (root / "notes.mp4").write_text("no media at all\n" * 100)
    names = ["absent.mp4", "cut.mp4", "short.mp4", "empty.mp4", "notes.mp4", "sound.wav", "picture.png"]
    write(root, sample("good", video="good.mp4"), *(sample(name, video=name) for name in names))
    scan = read_folder(root)
    assert [one.id for one in scan.samples] == ["good"]
    found = {bad.file: bad.reason for bad in scan.quarantined}
    assert list(found) == names
    assert found["absent.mp4"] == "no such file (named on line 2)"
    assert "truncated" in found["cut.mp4"]
    assert "its index points up to byte" in found["short.mp4"]
    assert found["empty.mp4"] == "is empty (0 bytes) (named on line 5)"
    assert "is not a readable media file" in found["notes.mp4"]
    assert 'is audio without video, but is named under "video"' in found["sound.wav"]
    assert 'is a still image, but is named under "video"; name it under "image"' in found["picture.png"]
    assert not any("\n" in reason for reason in found.values())


def test_roles_are_checked_separately(root: Path) -> None:
    write(
        root,
        sample("good", video="mute.mp4"),
        sample("mute", audio="mute.mp4"),
        sample("picture", audio="picture.png"),
        sample("film", image="good.mp4"),
    )
    assert [one.id for one in read_folder(root).samples] == ["good"]
    assert reasons(root) == {
        "mute.mp4": 'has no audio track, but is named under "audio" (named on line 2)',
        "picture.png": 'has no audio track, but is named under "audio" (named on line 3)',
        "good.mp4": 'is a video, but is named under "image"; name it under "video" (named on line 4)',
    }


def test_paths_out_of_the_folder_are_refused(root: Path, media: Path) -> None:
    inner = root / "inner"
    inner.mkdir()
    os.link(media / "good.mp4", inner / "good.mp4")
    os.symlink(media / "good.mp4", inner / "link.mp4")
    os.symlink("loop.mp4", inner / "loop.mp4")
    names = [
        "../good.mp4",
        str(root / "good.mp4"),
        "a/../../good.mp4",
        "link.mp4",
        "loop.mp4",
        "nu\0ll.mp4",
        ".",
    ]
    write(inner, sample("good", video="good.mp4"), *(sample(repr(name), video=name) for name in names))
    scan = read_folder(inner)
    assert [one.id for one in scan.samples] == ["good"]
    found = {bad.file: bad.reason for bad in scan.quarantined}
    assert list(found) == names
    for name in names[:3]:
        assert found[name].startswith("is not a path inside the dataset's folder")
    assert found["link.mp4"].startswith("links to a file outside the dataset's folder")
    assert all(not found[name].startswith("is not a readable") for name in names)


def test_samples_are_counted_once_and_files_once(root: Path) -> None:
    write(
        root,
        sample("good", video="good.mp4"),
        sample("two", video=["absent.mp4", "gone.mp4"]),
        sample("again", video=["good.mp4", "absent.mp4"]),
    )
    scan = read_folder(root)
    assert scan.quarantined == (
        Quarantined(file="absent.mp4", reason="no such file (named on line 2)", samples=2),
        Quarantined(file="gone.mp4", reason="no such file (named on line 2)", samples=1),
    )
    assert (scan.bad_samples, scan.bad_share) == (2, 2 / 3)


def test_a_linked_folder_and_links_within_are_fine(
    root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside") / "dataset"
    os.symlink(root, outside)
    os.symlink("good.mp4", root / "alias.mp4")
    write(root, sample("a", video="alias.mp4"))
    assert len(read_folder(outside).samples) == 1


def test_answers_outside_the_choices_are_counted(root: Path) -> None:
    asked = {"conversations": TURNS, "choices": ["Cat", "dog"]}
    write(
        root,
        {"id": "named", **asked},
        {"id": "other", **asked, "choices": ["dog", "bird"]},
        {"id": "open", "conversations": TURNS},
    )
    scan = read_folder(root)
    assert len(scan.samples) == 3
    assert scan.answers_outside_choices == ("other",)


def test_whole_file_errors(root: Path) -> None:
    with pytest.raises(DatasetError, match=r"the dataset folder .*absent does not exist"):
        read_folder(root / "absent")
    with pytest.raises(DatasetError, match=r"good\.mp4 is not a folder"):
        read_folder(root / "good.mp4")
    with pytest.raises(DatasetError, match=r"has no conversations\.jsonl"):
        read_folder(root)
    write(root, "", " ")
    with pytest.raises(DatasetError, match=r"conversations\.jsonl has no samples"):
        read_folder(root)
    write(root, sample("a", video="absent.mp4"), "{")
    with pytest.raises(
        DatasetError, match=r"first of 2 problems: conversations\.jsonl:2: not valid JSON"
    ) as caught:
        read_folder(root)
    assert "\n" not in str(caught.value)
    (root / "conversations.jsonl").write_text(json.dumps(sample("a", video="good.mp4")), encoding="utf-16")
    with pytest.raises(DatasetError, match=r"conversations\.jsonl:1: not valid UTF-8"):
        read_folder(root)


def test_kinds_choices_and_ids_reach_the_samples_of_both_splits(root: Path) -> None:
    write(root, sample("a", kind="speech_count", choices=["a cat", "a dog"]), sample("b", kind="tones"))
    splits = split_samples(read_folder(root).samples, 0.5)
    lines = to_jsonl([*splits["train"], *splits["held_out"]]).splitlines()
    stored = {one.id: one for one in (parse_stored(line, 1) for line in lines)}
    assert {name: one.kind for name, one in stored.items()} == {"a": "speech_count", "b": "tones"}
    assert stored["a"].choices == ("a cat", "a dog")

"""Depths of the check of `data commit`, pending files, and their decoding, on a real object store."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import av
import pytest

from llava_av.datasets import media_checks
from llava_av.datasets.commits import find_commit
from llava_av.datasets.manifest import blob_key
from llava_av.media import check
from llava_av.recipe import load_recipe
from llava_av.storage import ObjectStore
from llava_av.workflows.open_run import open_committed_run
from llava_av.workflows.pending_media import warn_of_pending
from tests.dataset_folders import (
    DAY,
    SAMPLES,
    DataCommands,
    settled,
    stored_key,
    write_conversations,
    write_dataset,
    write_grey_image,
)
from tests.media_samples import click, cut, write_grey_clip

pytestmark = pytest.mark.integration


@pytest.fixture
def clips(clips: Path) -> Path:
    """Results of files that changed a moment ago are not remembered."""
    return settled(clips)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list of the names of the files that are decoded from now on."""
    names: list[str] = []
    decode = check.check_media

    def recorded(path: Path | str, content: bytes | None = None) -> Any:
        names.append(Path(path).name)
        return decode(path, content)

    monkeypatch.setattr(check, "check_media", recorded)
    return names


@pytest.fixture
def looks_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for the stored result of each image, as for clips, before it is decoded."""
    monkeypatch.setattr(media_checks, "_DECODED_FIRST", 0)


@pytest.fixture
def elsewhere(store_environment: Mapping[str, str], tmp_path: Path) -> DataCommands:
    """Return the commands on another machine, which has no local cache."""
    return DataCommands(store_environment, tmp_path / "other")


def pending(data: DataCommands, name: str = "clips") -> tuple[int, int]:
    """Return the number of pending files that `show` and `stats` print."""
    return data.json("show", name)["pending"], data.json("stats", name)["pending"]


@pytest.mark.usefixtures("looks_up")
def test_headers_leave_the_files_pending_until_they_are_decoded(
    data: DataCommands,
    elsewhere: DataCommands,
    clips: Path,
    store: ObjectStore,
    decoded: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    commit = data.json("commit", clips, "--check", "headers")
    assert decoded == []
    assert pending(data) == (3, 3)
    assert data.json("status", clips, "--check", "headers")["pending"] == 3
    assert data.json("stats", "clips")["media"] == {"image": 2, "audio": 1}
    assert "3 media files not decoded" in data.text("show", "clips")
    open_committed_run(store, load_recipe("quick"), (find_commit(store, "clips"),), "dryrun")
    warned = [record.getMessage() for record in caplog.records if "verify clips@" in record.getMessage()]
    assert len(warned) == 1
    assert "3 media files not decoded" in warned[0]
    found = elsewhere.json("verify", "clips", "--decode")
    assert (found["decoded"], found["damaged"]) == (3, [])
    assert len(decoded) == 3
    assert pending(data) == (0, 0)
    assert elsewhere.json("verify", "--all", "--decode")["decoded"] == 0
    # Neither machine decodes again, and the depth is no part of the commit.
    for machine in (data, elsewhere):
        again = machine.json("commit", clips)
        assert (again["commit"], again["unchanged"]) == (commit["commit"], True)
    assert len(decoded) == 3


@pytest.mark.usefixtures("looks_up")
def test_content_is_decoded_once_in_all_datasets_and_machines(
    data: DataCommands, elsewhere: DataCommands, clips: Path, decoded: list[str], tmp_path: Path
) -> None:
    data.text("commit", clips)
    assert len(decoded) == 3
    other = tmp_path / "renamed"
    shutil.copytree(clips, other)
    (other / "day.png").rename(other / "noon.png")
    write_conversations(other, [{**DAY, "image": "noon.png"}, *(one for one in SAMPLES if one is not DAY)])
    elsewhere.text("commit", settled(other), "--name", "other")
    assert len(decoded) == 3
    elsewhere.text("commit", other, "--name", "headers", "--check", "headers")
    assert pending(elsewhere, "headers") == (0, 0)
    elsewhere.text("commit", other, "--name", "other", "--rehash")
    assert len(decoded) == 6


def test_another_machine_looks_for_stored_results_after_some_small_images(
    data: DataCommands,
    elsewhere: DataCommands,
    clips: Path,
    decoded: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(media_checks, "_DECODED_FIRST", 2)
    for shade in range(5):
        write_grey_image(clips / f"{shade}.png", shade)
    images = [{**DAY, "id": f"shade {shade}", "image": f"{shade}.png"} for shade in range(5)]
    write_conversations(settled(clips), [*SAMPLES, *images])
    data.text("commit", clips)
    assert len(decoded) == 8
    decoded.clear()
    elsewhere.text("commit", clips, "--name", "other")
    assert len(decoded) == 2


def test_results_of_few_small_images_are_stored_if_others_need_them(
    data: DataCommands,
    elsewhere: DataCommands,
    store_environment: Mapping[str, str],
    clips: Path,
    store: ObjectStore,
    tmp_path: Path,
) -> None:
    data.text("commit", clips)
    assert len(_stored_digests(store)) == 1, "only that of the audio"
    other = tmp_path / "other"
    shutil.copytree(clips, other)
    elsewhere.text("commit", settled(other), "--check", "headers")
    assert pending(elsewhere, "other") == (2, 2)
    DataCommands(store_environment, tmp_path / "third").text("commit", other)
    assert pending(elsewhere, "other") == (0, 0)
    assert len(_stored_digests(store)) == 3


def test_an_image_that_does_not_decode_is_refused_everywhere(
    data: DataCommands, elsewhere: DataCommands, clips: Path
) -> None:
    write_grey_image(clips / "dusk.png", 90)
    content = bytearray((clips / "dusk.png").read_bytes())
    content[content.index(b"IDAT") + 8] ^= 0xFF
    (clips / "dusk.png").write_bytes(content)
    write_conversations(settled(clips), [*SAMPLES, {**DAY, "id": "dusk", "image": "dusk.png"}])
    for machine, depth in ((data, "full"), (elsewhere, "headers")):
        machine.text("commit", clips, "--check", depth, "--max-bad-share", "0.5")
        assert [one["file"] for one in machine.json("show", "clips")["quarantined"]] == ["dusk.png"]


def _stored_digests(store: ObjectStore) -> set[str]:
    return {digest for info in store.list("datasets/.checks/") for digest in store.get_json(info.key)}


def test_a_sample_of_the_digests_is_decoded(
    data: DataCommands, clips: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {row["path"]: row["sha256"] for row in _files(data, clips)}
    digit = files["day.png"][0]
    monkeypatch.setattr(media_checks, "_SAMPLED_DIGIT", digit)
    chosen = {name for name, digest in files.items() if digest.startswith(digit)}
    write_grey_image(clips / "new.png", 7)
    data.text("commit", clips, "--name", "fresh", "--check", "sample")
    assert set(decoded) == {Path(name).name for name in chosen}
    assert pending(data, "fresh") == (len(files) - len(chosen),) * 2


def _files(data: DataCommands, clips: Path) -> list[dict[str, Any]]:
    data.text("commit", clips, "--name", "headers", "--check", "headers")
    found: list[dict[str, Any]] = data.json("ls", "headers", "--files")
    return found


def damage_audio(clip: Path) -> None:
    """Overwrite the largest audio packet of a clip, which its headers do not show."""
    with av.open(str(clip)) as container:
        packets = [one for one in container.demux() if one.stream.type == "audio" and one.size]
    largest = max(packets, key=lambda one: one.size)
    start, size = largest.pos, largest.size
    assert start is not None
    content = bytearray(clip.read_bytes())
    content[start + 4 : start + size] = b"\xff" * (size - 4)
    clip.write_bytes(content)


def test_a_pending_file_that_does_not_decode_is_named_and_left_out_later(
    data: DataCommands,
    elsewhere: DataCommands,
    clips: Path,
    store: ObjectStore,
    decoded: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    clip = write_grey_clip(clips / "clip.mp4", click(0.2))
    damage_audio(clip)
    write_conversations(clips, [*SAMPLES, {"id": "clip", "video": "clip.mp4", "split": "train"}])
    data.text("commit", clips, "--check", "headers", "--max-bad-share", "0.5")
    commit = find_commit(store, "clips")
    code, output = data.run("verify", "clips", "--decode", "--json")
    found = json.loads(output[output.index("{\n") :])
    [bad] = found["damaged"]
    label = f"clips@{commit.id[:16]}"
    assert (code, found["decoded"]) == (1, 4)
    assert (bad["paths"], bad["samples"]) == ([f"{label}:clip.mp4"], [f"{label}:clip"])
    assert "damaged" in bad["state"]
    text = data.error("verify", "clips", "--decode")
    assert "0 pending files decoded, 1 unusable" in text
    assert pending(data) == (0, 0)
    warn_of_pending(store, commit)
    assert "1 media file" in str([record.args for record in caplog.records])
    # The result is known everywhere, so no depth accepts the file again.
    output = elsewhere.text("commit", clips, "--check", "headers", "--max-bad-share", "0.5")
    assert "left out: clip.mp4" in output
    assert len(decoded) == 4
    assert elsewhere.json("verify", "clips", "--decode")["damaged"] == []


def test_headers_find_truncated_files_and_what_is_no_media(data: DataCommands, clips: Path) -> None:
    clip = write_grey_clip(clips / "whole.mp4", click(0.2))
    cut(clip, clips / "short.mp4")
    (clips / "text.png").write_text("no image")
    bad = [{"id": "short", "video": "short.mp4"}, {"id": "text", "image": "text.png"}]
    write_conversations(clips, [*SAMPLES, *bad])
    output = data.text("commit", clips, "--check", "headers", "--max-bad-share", "0.9")
    assert "left out: short.mp4: is " in output
    assert "left out: text.png" in output
    assert {row["id"] for row in data.json("ls", "clips")} == {one["id"] for one in SAMPLES}


def test_lost_content_and_damaged_results_are_noticed(
    data: DataCommands, elsewhere: DataCommands, clips: Path, store: ObjectStore, decoded: list[str]
) -> None:
    data.text("commit", clips, "--check", "headers")
    lost = stored_key(store, find_commit(store, "clips"), "day.png")
    content = store.get_bytes(lost)
    store.delete(lost)
    assert "day.png is lost" in " ".join(data.error("verify", "clips", "--decode").split())
    assert pending(data) == (1, 1)
    store.put_bytes(lost, content)
    assert data.json("verify", "clips", "--decode")["decoded"] == 1
    for info in store.list("datasets/.checks/"):
        store.put_bytes(info.key, b"{}x")
    elsewhere.text("commit", clips)
    assert len(decoded) == 6
    assert "--repair" in data.error("verify", "clips", "--decode", "--repair", clips)


def test_pending_files_stay_pending_in_ranges_that_another_writer_changed(
    data: DataCommands, clips: Path, store: ObjectStore, tmp_path: Path
) -> None:
    data.text("commit", clips, "--check", "headers")
    other = write_dataset(tmp_path / "more")
    write_grey_image(other / "new.png", 90)
    write_conversations(other, [*SAMPLES, {"id": "new", "image": "new.png", "split": "train"}])
    data.text("commit", other, "--name", "clips", "--check", "headers")
    assert pending(data) == (4, 4)
    data.text("gc", "--delete", "--older-than-days", "0")
    assert pending(data) == (4, 4)
    blob = blob_key(next(row["sha256"] for row in data.json("ls", "clips", "--files")))
    assert store.exists(blob)

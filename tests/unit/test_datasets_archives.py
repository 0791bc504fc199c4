"""Parquet files and WebDataset tars: conversion to a folder, and damaged or hostile sources."""

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from llava_av.cli.app import app
from llava_av.datasets.schema import Sample, parse_sample
from llava_av.datasets.sources.convert import BadRowsError, Converted, convert_file
from llava_av.datasets.sources.folder import read_folder
from llava_av.datasets.sources.rows import DatasetError
from tests.dataset_folders import write_dataset

TURNS = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "It."}]
MESSAGES = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "It."}]


@pytest.fixture
def media(tmp_path: Path) -> dict[str, bytes]:
    folder = write_dataset(tmp_path / "media")
    return {name: (folder / name).read_bytes() for name in ("night.png", "day.png", "media/bell.wav")}


def converted(source: Path) -> tuple[Converted, Path, dict[str, Sample]]:
    folder = source.parent / "new"
    done = convert_file(source, folder / "conversations.jsonl")
    lines = (folder / "conversations.jsonl").read_text().splitlines()
    samples = [parse_sample(line, number) for number, line in enumerate(lines, start=1)]
    assert not [path for path in (*folder.iterdir(), *source.parent.iterdir()) if ".part" in path.name]
    return done, folder, {sample.id: sample for sample in samples}


def refused(source: Path) -> str:
    with pytest.raises(DatasetError) as caught:
        convert_file(source, source.parent / "new" / "conversations.jsonl")
    assert "\n" not in str(caught.value)
    assert not (source.parent / "new").exists()
    assert not [path for path in source.parent.iterdir() if path.name.endswith(".partial")]
    return str(caught.value)


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def write_tar(path: Path, members: list[tuple[str, bytes]], mode: Any = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def line(**values: Any) -> bytes:
    return json.dumps({"conversations": TURNS, **values}).encode()


def test_embedded_media_of_parquet_files(tmp_path: Path, media: Mapping[str, bytes]) -> None:
    night, day, bell = media.values()
    write_parquet(
        tmp_path / "hub/data/train-00000.parquet",
        [
            {
                "id": 1,
                "image": {"bytes": night, "path": "image.png"},
                "audio": None,
                "conversations": TURNS,
                "size": 7,
            },
            {"id": 2, "image": {"bytes": day, "path": "image.png"}, "audio": None, "conversations": TURNS},
            {"id": 3, "image": {"bytes": night, "path": "image.png"}, "audio": bell, "conversations": TURNS},
        ],
    )
    write_parquet(
        tmp_path / "hub/data/train-00001.parquet",
        [
            {
                "id": "4",
                "images": [{"bytes": night, "path": "/home/me/../a b.png"}, {"bytes": day, "path": None}],
                "messages": MESSAGES,
            }
        ],
    )
    done, folder, samples = converted(tmp_path / "hub")
    assert (done.samples, done.media_files) == (4, 5)
    assert samples["1"].image == samples["3"].image == ("image.png",)
    assert samples["4"].image[0] == "a b.png"
    names = [samples[name].media for name in ("1", "2", "3", "4")]
    found = [[(folder / path).read_bytes() for path in paths] for paths in names]
    assert found == [[night], [day], [night, bell], [night, day]]
    assert read_folder(folder).quarantined == ()


def test_referenced_media_of_parquet_files(tmp_path: Path) -> None:
    hub = write_dataset(tmp_path / "hub")
    row = {"conversations": TURNS, "image": None, "audio": {"bytes": None, "path": "media/bell.wav"}}
    write_parquet(
        hub / "data/a.parquet",
        [{**row, "id": "a"}, {**row, "id": "b"}, {**row, "id": "c", "image": "gone.png", "audio": None}],
    )
    done, folder, samples = converted(hub)
    assert (done.samples, done.media_files) == (3, 1)
    assert samples["a"].audio == samples["b"].audio == ("media/bell.wav",)
    assert (folder / "media/bell.wav").read_bytes() == (hub / "media/bell.wav").read_bytes()
    [bad] = read_folder(folder).quarantined
    assert bad.file == "gone.png"
    (hub / "data/a.parquet").unlink()
    (hub / "out.png").symlink_to("/etc/hostname")
    for number, name in enumerate(("../media/x.png", "/etc/hostname", "out.png")):
        source = write_parquet(tmp_path / f"{number}/hub/a.parquet", [{**row, "image": name}])
        if name == "out.png":
            (source.parent / name).symlink_to("/etc/hostname")
        assert repr(name) in refused(source.parent)


def test_messages_with_embedded_media_and_sequences_of_hugging_face(
    tmp_path: Path, media: Mapping[str, bytes]
) -> None:
    content = [
        {"type": "image", "text": None, "image": {"bytes": media["day.png"], "path": None}},
        {"type": "text", "text": "What?", "image": None},
    ]
    said = [{"type": "text", "text": "It.", "image": None}]
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": said}]
    write_parquet(tmp_path / "in/a.parquet", [{"id": "m", "messages": messages}])
    turns = {"from": ["human", "gpt"], "value": ["What?", "It."]}
    write_parquet(tmp_path / "in/b.parquet", [{"id": "s", "conversations": turns}])
    _, folder, samples = converted(tmp_path / "in")
    assert samples["m"].conversations[0].value == "<image>\nWhat?"
    assert (folder / samples["m"].image[0]).read_bytes() == media["day.png"]
    assert samples["s"].conversations[1].value == "It."


def test_damaged_and_unusable_parquet_files(tmp_path: Path, media: Mapping[str, bytes]) -> None:
    row = {"id": "a", "conversations": TURNS, "picture": {"bytes": media["day.png"], "path": None}}
    source = write_parquet(tmp_path / "a.parquet", [row])
    assert f"{source} row 1: the column 'picture' contains files" in refused(source)
    content = source.read_bytes()
    for broken in (b"", content[: len(content) // 2], b"PAR1" + bytes(100) + b"PAR1"):
        source.write_bytes(broken)
        assert f"{source} is damaged or not a Parquet file" in refused(source)
    source = write_parquet(source, [{**row, "vidoe": "a.mp4", "picture": None}])
    assert f"{source} row 1: unknown key 'vidoe': did you mean 'video'" in refused(source)


def test_tars_whose_samples_state_paths_or_none(tmp_path: Path, media: Mapping[str, bytes]) -> None:
    night, day, bell = media.values()
    write_tar(
        tmp_path / "in/000.tar",
        [
            ("./1.png", night),
            ("./1.json", line(id="one", image=["night.png"], video=[], kind="scene_light")),
            ("./1.cls", b"3"),
            ("2.0.png", night),
            ("2.1.png", day),
            ("2.json", json.dumps({"messages": MESSAGES}).encode()),
            ("2.wav", bell),
        ],
    )
    write_tar(tmp_path / "in/001.tar.gz", [("2.json", line()), ("2.WAV", bell)], "w:gz")
    done, folder, samples = converted(tmp_path / "in")
    assert (done.samples, done.ignored) == (3, {".cls": 1})
    assert samples["one"].image == ("night.png",)
    assert samples["000/2"].image == ("2.0.png", "2.1.png")
    assert samples["000/2"].audio == ("2.wav",)
    content = {name: [(folder / path).read_bytes() for path in one.media] for name, one in samples.items()}
    assert content == {"one": [night], "000/2": [night, day, bell], "001/2": [bell]}
    assert read_folder(folder).quarantined == ()


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([("../x.json", line())], "member '../x.json' does not stay inside its folder"),
        ([("/x.json", line())], "member '/x.json' does not stay inside its folder"),
        ([("a.json", line()), ("a.json", line())], "has the member a.json twice"),
        ([("a.json", b"{")], "member a.json is not valid JSON"),
        ([("a.json", b"[]")], "member a.json is not a JSON object"),
        ([("a.json", '{"id": "ä"}'.encode("latin-1"))], "member a.json is not valid JSON"),
        ([("a.json", b'{"id": 1, "id": 2}')], "the key 'id' appears twice"),
        ([("a.png", b"x"), ("b.json", line())], "sample a has no a.json"),
        ([("a.json", line(vidoe="x"))], "sample a: unknown key 'vidoe': did you mean 'video'"),
        ([("a.json", line(image="a.png")), ("a.png", b"x"), ("a.2.png", b"y")], "has the member a.2.png"),
        ([("a.json", line(id="1")), ("b.json", line(id="1"))], "sample b: another row has the same id '1'"),
        ([("a.txt", b"x")], "sample a has no a.json"),
        ([], "has no rows"),
    ],
)
def test_unusable_tars_are_refused_by_member(
    tmp_path: Path, members: list[tuple[str, bytes]], said: str
) -> None:
    source = write_tar(tmp_path / "in.tar", members)
    message = refused(source)
    assert said in message
    assert str(source) in message


def test_all_unusable_samples_are_reported(tmp_path: Path) -> None:
    rows = [("a.json", b"{"), ("b.json", line()), ("c.png", b"x"), ("d.json", line()), ("d.json", b"[]")]
    with pytest.raises(BadRowsError, match=r"in\.tar: 3 of 4 rows cannot be converted") as caught:
        convert_file(write_tar(tmp_path / "in.tar", rows), tmp_path / "new" / "conversations.jsonl")
    said = ("member a.json is not valid JSON", "sample c has no c.json", "the member d.json twice")
    assert all(each in reason for each, reason in zip(said, caught.value.reasons, strict=True))
    source = write_parquet(
        tmp_path / "in.parquet",
        [{"question": "x", "answer": "y", "image": path} for path in ("../a.png", None, "../b.png")],
    )
    with pytest.raises(BadRowsError, match=r"in\.parquet: 2 of 3 rows cannot be converted") as caught:
        convert_file(source, tmp_path / "new" / "conversations.jsonl")
    assert [f"row {row}: " in caught.value.reasons[row // 2] for row in (1, 3)] == [True, True]
    assert not (tmp_path / "new").exists()


def test_damaged_tars_are_refused(tmp_path: Path, media: Mapping[str, bytes]) -> None:
    source = write_tar(tmp_path / "in.tar", [("a.json", line()), ("a.wav", media["media/bell.wav"])])
    whole = source.read_bytes()
    inside, between = 512 * 2 + 512 + 100, 512 * 2
    for cut in (0, 100, inside, between):
        source.write_bytes(whole[:cut])
        assert f"{source} is damaged or not a tar (after " in refused(source)
    packed = write_tar(tmp_path / "in.tar.gz", [("a.json", line()), ("b.json", line())], "w:gz")
    packed.write_bytes(packed.read_bytes()[:-20])
    assert f"{packed} is damaged or not a tar (after " in refused(packed)
    with tarfile.open(source, "w") as tar:
        link = tarfile.TarInfo("a.json")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(link)
    assert "member 'a.json' is a link or a device" in refused(source)


def test_paths_that_clash_or_would_leave_the_folder_are_replaced(
    tmp_path: Path, media: Mapping[str, bytes]
) -> None:
    night, day, bell = media.values()
    members = [
        ("1.json", line(image="../../up.png")),
        ("1.png", night),
        ("2.json", line(image=["a.png", "a.png/b.png", ".hidden.png", "train.jsonl"])),
        *((f"2.{number}.png", content) for number, content in enumerate((night, day, day, night))),
        ("3.json", line(audio="bell.wav", video="film.mp4")),
        ("3.wav", bell),
    ]
    _, folder, samples = converted(write_tar(tmp_path / "in.tar", members))
    assert samples["1"].image == ("up.png",)
    assert samples["2"].image[0] == "a.png"
    assert [(folder / path).read_bytes() for path in samples["2"].image] == [night, day, day, night]
    digest = hashlib.sha256(day).hexdigest()
    assert samples["2"].image[1:3] == (f"media/{digest}.png",) * 2
    assert samples["3"].video == ("film.mp4",)
    assert {path.name for path in tmp_path.iterdir()} == {"in.tar", "media", "new"}


def test_the_target_is_in_a_new_folder_and_the_command_reports_it(
    tmp_path: Path, media: Mapping[str, bytes]
) -> None:
    source = write_tar(tmp_path / "in.tar", [("a.json", line()), ("a.png", media["day.png"]), ("a.x", b"")])
    with pytest.raises(DatasetError, match="is not a new folder for the media"):
        convert_file(source, tmp_path / "conversations.jsonl")
    with pytest.raises(DatasetError, match=r"has no \.parquet and no \.tar files"):
        convert_file(tmp_path / "media", tmp_path / "new/conversations.jsonl")
    with pytest.raises(DatasetError, match=r"llava-av data convert .*in\.tar .*dataset/conversations\.jsonl"):
        read_folder(source)
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards/export.json").write_text('{\n"format": "webdataset"\n}')
    source = source.rename(tmp_path / "shards/in.tar")
    with pytest.raises(
        DatasetError, match=r"has no conv.*llava-av data convert .*shards .*dataset/conversations"
    ):
        read_folder(source.parent)
    (tmp_path / "new").mkdir()
    result = CliRunner().invoke(app, ["data", "convert", str(source), str(tmp_path / "new/lines.jsonl")])
    assert result.exit_code == 0, result.output
    assert "1 sample with 1 media file written to" in result.output
    assert "1 member of type .x ignored" in result.output

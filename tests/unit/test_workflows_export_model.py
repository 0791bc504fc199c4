"""Export of a local model: the whole folder, or nothing."""

import re
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llava_av.checkpoints import AdapterBase, CheckpointError
from llava_av.cli.app import app
from llava_av.errors import UserError
from llava_av.workflows.export_model import ExportOptions, export_model
from llava_av.workflows.pull_model import pull_model
from llava_av.workflows.runtime.workspace import Workspace
from tests.model_samples import tiny_model


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    model, processor = tiny_model()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def files(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder without those that name or hold the auto classes."""
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.is_file()
        and path.suffix != ".py"
        and path.name not in ("config.json", "processor_config.json")
    }


def test_an_empty_folder_in_the_model_itself_gets_its_files(source: Path, tmp_path: Path) -> None:
    target = source / "exported"
    target.mkdir()
    assert (
        export_model(Workspace(folder=tmp_path), str(source), target, ExportOptions(merge_adapter=True))
        == "model"
    )
    assert files(target) == files(source)
    code = {"modeling_llava_av.py", "processing_llava_av.py"}
    names = {path.name for path in source.iterdir() if path.is_file()}
    assert {path.name for path in target.iterdir()} == names | code
    assert not list(source.glob(".*"))


@pytest.mark.parametrize("write", [export_model, pull_model])
def test_a_folder_that_cannot_be_written_is_named_and_not_left_half_written(
    source: Path, tmp_path: Path, write: Callable[[Workspace, str, Path], object]
) -> None:
    (tmp_path / "file").touch()
    below = tmp_path / "file" / "target"
    with pytest.raises(UserError, match=f"cannot write {below}: Not a directory"):
        write(Workspace(folder=tmp_path), str(source), below)
    target = tmp_path / "target"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The template fits, the weights do not.
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(UserError, match=f"cannot write {target}: File too large"):
            write(Workspace(folder=tmp_path), str(source), target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(target.iterdir())
    write(Workspace(folder=tmp_path), str(source), target)
    assert files(target) == files(source)


def test_an_adapter_is_exported_without_its_base_model(source: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    shutil.copytree(source, adapter)
    (adapter / "adapter_config.json").write_text("{}")
    AdapterBase(address=str(tmp_path / "absent"), digest="0" * 64).write(adapter)
    workspace = Workspace(folder=tmp_path)
    assert export_model(workspace, str(adapter), tmp_path / "copy") == "adapter"
    assert files(tmp_path / "copy") == files(adapter)
    with pytest.raises(CheckpointError, match="absent"):
        export_model(workspace, str(adapter), tmp_path / "merged", ExportOptions(merge_adapter=True))
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize(
    "command", [["chat", "."], ["model", "export", "--merge-adapter", ".", "merged"]], ids=["chat", "export"]
)
def test_an_adapter_needs_the_store_of_its_base_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    monkeypatch.chdir(tmp_path)
    base = "s3://bucket/checkpoints/base/step-00000000"
    AdapterBase(address=base, digest="0" * 64).write(tmp_path)
    found = CliRunner().invoke(app, [*command, "--output-dir", "absent"])
    assert isinstance(found.exception, UserError)
    assert re.search(rf"absent .*{base}.* --output-dir", str(found.exception))
    assert not (tmp_path / "absent").exists()

"""Models that a training begins with and leaves: imported ones, adapters, and rebuilt ones."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llava_av.checkpoints import CheckpointError, fetch_checkpoint, model_files, push_base, read_manifest
from llava_av.inference.model_source import local_model_folder
from llava_av.model import load_saved_model
from llava_av.model.conversion.importing import import_model
from llava_av.processes import set_variables
from llava_av.runs import Run
from llava_av.training.rebuilding import rebuild_model
from llava_av.workflows.export_model import ExportOptions, export_model
from llava_av.workflows.runtime.workspace import Workspace
from tests.integration.training.jobs import Job, Trained, settings
from tests.llava_samples import write_audio_tower, write_llava
from tests.model_samples import clip

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


def test_a_model_is_built_from_the_state_of_any_checkpoint(job: Job, tmp_path: Path) -> None:
    whole = job.trained(**settings("torch"))
    with set_variables(job.environment):
        compare_rebuilt(job, whole, tmp_path)
        before_last = job.store.uri(f"checkpoints/{whole.run}/step-{4:08}")
        model, _ = load_saved_model(local_model_folder(before_last, tmp_path))
    last = load_file(tmp_path / "stored" / "model" / "model.safetensors")
    state = model.state_dict()
    assert any(not one.equal(state[name]) for name, one in last.items())
    manifest = read_manifest(job.store, before_last)
    with pytest.raises(
        CheckpointError, match=rf"{before_last} .*no model.*llava-av model export {before_last}"
    ):
        model_files(manifest, before_last)


def compare_rebuilt(job: Job, trained: Trained, folder: Path) -> None:
    """Build the model from the state of the last checkpoint, and compare it with the stored one."""
    uri = trained.result["checkpoint"]["uri"]
    rebuild_model(Run(store=job.store, id=trained.run), uri, folder / "work", folder / "rebuilt")
    fetch_checkpoint(job.store, uri, folder / "stored")
    stored = {path.name: path for path in (folder / "stored" / "model").iterdir()}
    assert stored.keys() == {path.name for path in (folder / "rebuilt").iterdir()}
    for name, path in stored.items():
        rebuilt = folder / "rebuilt" / name
        if name == "adapter_config.json":
            # peft writes sets in any order.
            assert sorted(path.read_text()) == sorted(rebuilt.read_text())
            continue
        if path.suffix != ".safetensors":
            assert path.read_bytes() == rebuilt.read_bytes(), name
            continue
        weights, expected = load_file(rebuilt), load_file(path)
        assert expected.keys() == weights.keys()
        assert not [each for each, weight in weights.items() if not weight.equal(expected[each])]


def test_an_imported_model_in_s3_is_trained_in_part(job: Job, tmp_path: Path) -> None:
    source = write_llava("llava_onevision", tmp_path / "source")
    import_model(source, tmp_path / "model", audio=write_audio_tower(tmp_path / "audio"))
    pushed = push_base(job.store, tmp_path / "model", "tiny")
    assert push_base(job.store, tmp_path / "model", "tiny") == pushed
    assert read_manifest(job.store, pushed.uri).digest == pushed.digest
    model = {
        "base": pushed.uri,
        "base_digest": pushed.digest,
        "trainable_parts": ["vision_connector", "audio_connector", "language", "embeddings"],
    }
    # from all kinds of sample: the first steps of the recipe would show no picture
    options = {"training__engine": "torch", "training__steps": 2, "training__warmup_kind_steps": 0}
    trained = job.train("based", model=model, **options)
    assert trained.result["processes"] == 2
    fetch_checkpoint(job.store, trained.result["checkpoint"]["uri"], tmp_path / "got")
    before = load_file(tmp_path / "model" / "model.safetensors")
    after = load_file(tmp_path / "got" / "model" / "model.safetensors")
    changed = {name.split(".")[0] for name in before if not before[name].equal(after[name])}
    assert changed == {"audio_projector", "vision_projector", "newline", "language_model"}
    (tmp_path / "model" / "note.txt").write_text("another model of that name")
    with pytest.raises(CheckpointError):
        push_base(job.store, tmp_path / "model", "tiny")


@pytest.mark.slow
def test_an_adapter_resumes_exactly_and_is_exported(job: Job, tmp_path: Path) -> None:
    source = write_llava("llava_onevision", tmp_path / "source")
    import_model(source, tmp_path / "model", audio=write_audio_tower(tmp_path / "audio"))
    pushed = push_base(job.store, tmp_path / "model", "adapted")
    model = {
        "base": pushed.uri,
        "base_digest": pushed.digest,
        "trainable_parts": ["vision_connector", "audio_connector"],
        "adapter": {"rank": 2, "dropout": 0.1},
    }
    options = {**settings("deepspeed"), "model": model, "training__precision": "bf16"}
    whole = job.train("ada97edada97edad", **options)
    resumed = job.resume(whole.run, **options)
    assert (resumed.result["resumed_from"], resumed.digest) == (4, whole.digest)
    job.evaluate(whole.run)
    assert job.store.get_json(f"runs/{whole.run}/evaluation.json")["checkpoint"]["digest"] == whole.digest
    workspace = Workspace(folder=tmp_path / "out")
    with set_variables(job.environment):
        for name, kind in (("0", "adapter"), ("1", "merged model")):
            options = ExportOptions(merge_adapter=kind == "merged model")
            assert export_model(workspace, whole.run, tmp_path / name, options) == kind
        compare_rebuilt(job, whole, tmp_path)
    joined, processor = load_saved_model(tmp_path / "1")
    adapted, _ = load_saved_model(tmp_path / "0", tmp_path / "model")
    batch = processor.collate([processor.encode([("human", "Which?"), ("gpt", "red")], clip())])
    with torch.no_grad():
        assert float(joined(**batch).loss) == pytest.approx(float(adapted(**batch).loss), rel=0.01)

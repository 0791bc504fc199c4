"""The steps of the dry run on a cluster: train, register, evaluate, promote.

`LLAVA_AV_TRAIN_IMAGE`, `LLAVA_AV_PIPELINE_IMAGE` and `LLAVA_AV_MLFLOW_IMAGE` name the images, best by digest.
"""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from llava_av.checkpoints import fetch_checkpoint, latest_checkpoint, push_base
from llava_av.model.conversion.importing import import_model
from llava_av.recipe import load_recipe
from tests.cluster.services import Services, run_id
from tests.commands import llava_av
from tests.llava_samples import write_audio_tower, write_llava

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(2400)]

_TRAIN_S = 1500


def test_dry_run_trains_and_becomes_champion(services: Services, tmp_path: Path) -> None:
    environment, jobs = services.environment(), services.job_options(session_credentials="true")
    out = ["--output-dir", str(tmp_path / "out")]

    def call(*arguments: str) -> str:
        code, output = llava_av([*arguments, *out], tmp_path, timeout_s=_TRAIN_S, environment=environment)
        assert code == 0, output
        return output

    run = run_id(call("submit", "dryrun", *jobs))
    checkpoint = latest_checkpoint(services.store(), run)
    assert checkpoint is not None
    version = call("register", run).splitlines()[-1]
    few = "--job=credentials_secret=llava-av-job-credentials"
    call("evaluate", run, "--launcher", "kubernetes", *jobs, few)
    call("promote", run)
    call("report", run)
    with services.mlflow() as client:
        champion = client.get_model_version_by_alias("dryrun", "champion")
    assert version == f"dryrun version {champion.version}"
    assert champion.source == checkpoint.uri
    assert (tmp_path / "out" / "report.html").stat().st_size > 100_000


def test_a_run_starts_from_a_base_model_in_s3(services: Services, tmp_path: Path) -> None:
    source = write_llava("llava_onevision", tmp_path / "source")
    import_model(source, tmp_path / "model", audio=write_audio_tower(tmp_path / "audio"))
    services.offer("based", "based")
    store = services.store("based")
    base = push_base(store, tmp_path / "model", "tiny")
    recipe = {
        **{name: load_recipe("quick").model_dump(mode="json")[name] for name in ("data", "media")},
        "name": "based",
        "model": {"base": base.uri, "trainable_parts": ["vision_connector", "audio_connector"]},
        "training": {"steps": 2, "global_batch_size": 4},
    }
    (tmp_path / "based.yaml").write_text(json.dumps(recipe))
    jobs = services.job_options(services_config_map="based", session_credentials="true")
    arguments = ["submit", str(tmp_path / "based.yaml"), *jobs, "--output-dir", str(tmp_path / "out")]
    code, output = llava_av(
        arguments, tmp_path, timeout_s=_TRAIN_S, environment=services.environment("based")
    )
    assert code == 0, output
    trained = latest_checkpoint(store, run_id(output))
    assert trained is not None
    fetch_checkpoint(store, trained.uri, tmp_path / "got")
    before = load_file(tmp_path / "model" / "model.safetensors")
    after = load_file(tmp_path / "got" / "model" / "model.safetensors")
    changed = {name.split(".")[0] for name in before if not before[name].equal(after[name])}
    assert changed == {"audio_projector", "vision_projector", "newline"}

"""Lineage records: collected, and named where they lack a part."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_av.provenance.environment import IMAGE_VARIABLE, package_versions, this_environment
from llava_av.provenance.source_code import GitLineage
from llava_av.recipe import ModelRecipe, Recipe, TrainingRecipe
from llava_av.registry.lineage_collection import collect_lineage, missing_parts
from llava_av.runs import DatasetName, ExperimentName, RunCode, RunRequest, TrainedCheckpoint, TrainingResult
from tests.lineage_samples import SHA


def test_packages_are_named_as_the_index_names_them() -> None:
    found = package_versions()
    assert found["pytest"] == pytest.__version__
    assert list(found) == sorted(found)
    assert all(name == name.lower() and "_" not in name for name in found)


def test_a_container_tells_its_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(IMAGE_VARIABLE, raising=False)
    assert this_environment().image is None
    monkeypatch.setenv(IMAGE_VARIABLE, "registry.example/train@sha256:01")
    assert this_environment().image == "registry.example/train@sha256:01"


def lineage(**git_fields: Any) -> dict[str, Any]:
    recipe = Recipe(
        name="tiny",
        seed=7,
        model=ModelRecipe(vision={}, audio={}, language={}),
        training=TrainingRecipe(steps=1, global_batch_size=2),
    )
    clean: dict[str, Any] = {"commit": "c" * 40, "dirty": False, "patch_sha256": None}
    git = GitLineage.model_validate({**clean, **git_fields})
    checkpoint = TrainedCheckpoint(uri="s3://bucket/checkpoints/r/step-00000001", digest=SHA, step=1)
    trained = TrainingResult(
        run="0123456789abcdef",
        checkpoint=checkpoint,
        steps=1,
        resumed_from=None,
        engine="torch",
        processes=1,
        environment=this_environment(),
        seconds=1.0,
    )
    request = RunRequest(
        run="0123456789abcdef",
        recipe=recipe.model_dump(mode="json"),
        dataset=DatasetName(name="demo", commit="d1"),
        experiment=ExperimentName(id="dryrun", sha256=SHA),
    )
    return collect_lineage(
        request=request,
        code=RunCode(digest=SHA, git=git),
        trained=trained,
        manifest_sha256=SHA,
        pipeline_run=None,
    ).to_json()


def test_a_collected_record_has_the_keys_of_the_layout_and_is_whole() -> None:
    record = lineage()
    assert list(record) == [
        "run",
        "job",
        "dataset",
        "git",
        "recipe",
        "seed",
        "checkpoint",
        "experiment",
        "code_digest",
        "environment",
    ]
    assert (record["seed"], record["recipe"]["name"], record["environment"]["packages"]["pytest"]) == (
        7,
        "tiny",
        pytest.__version__,
    )
    assert missing_parts(record) == []


def test_a_record_without_a_commit_is_whole_if_it_says_why() -> None:
    assert missing_parts(lineage(commit=None, note="git is not installed")) == []
    assert missing_parts(lineage(commit=None)) == ["git.commit"]
    assert missing_parts(lineage(dirty=True)) == ["git.patch_sha256"]
    assert missing_parts(lineage(dirty=True, patch_sha256=SHA)) == []


WHOLE = lineage()


@given(
    key=st.sampled_from(sorted(WHOLE)),
    empty=st.sampled_from(["absent", None, "", {}]),
)
def test_a_part_that_is_absent_or_empty_is_named(key: str, empty: Any) -> None:
    record = copy.deepcopy(WHOLE)
    if empty == "absent":
        del record[key]
    else:
        record[key] = empty
    assert all(name == key or name.startswith(f"{key}.") for name in missing_parts(record))
    assert missing_parts(record)


def test_parts_of_parts_are_named() -> None:
    record = lineage()
    del record["dataset"]["commit"]
    record["checkpoint"]["digest"] = ""
    assert missing_parts(record) == ["dataset.commit", "checkpoint.digest"]

"""Samples of all objects of runs, from this and earlier versions, load and keep their form."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from llava_av import runs
from llava_av.registry.lineage_collection import missing_parts
from llava_av.runs import (
    EvaluationResult,
    GateDecision,
    Lineage,
    Registration,
    RunRequest,
    TrainingResult,
)
from llava_av.runs.artifact_base import Artifact, ArtifactPart
from llava_av.vocabulary import Ablation, GateVerdict
from tests.artifacts import SAMPLES, sample_json

PATHS = sorted(SAMPLES.glob("*.json"))


def kind_of(path: Path) -> type[ArtifactPart]:
    kind: type[ArtifactPart] = getattr(runs, path.name.split(".")[0])
    return kind


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_objects_of_all_versions_load_and_current_ones_keep_their_form(path: Path) -> None:
    given = json.loads(path.read_text())
    found = kind_of(path).model_validate(given)
    written = found.model_dump(mode="json", by_alias=True)
    if path.stem.endswith("current"):
        assert written == given
    assert kind_of(path).model_validate(written) == found


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_fields_of_later_versions_are_ignored_unless_they_change_the_work(path: Path) -> None:
    given = {**json.loads(path.read_text()), "added_later": 1}
    if kind_of(path) is runs.EvaluationWork:
        with pytest.raises(ValidationError, match="added_later"):
            kind_of(path).model_validate(given)
    else:
        assert "added_later" not in kind_of(path).model_validate(given).model_dump()


def test_every_object_has_a_sample_and_a_name_of_its_own() -> None:
    kinds = {kind for kind in vars(runs).values() if isinstance(kind, type) and issubclass(kind, Artifact)}
    kinds.discard(Artifact)
    current = {kind_of(path) for path in PATHS if path.stem.endswith("current")}
    assert kinds <= current
    names = [kind.NAME for kind in kinds if kind is not runs.EvaluationWork]
    assert len(names) == len(set(names)) == len(kinds) - 1


def test_a_request_keeps_the_recipe_as_it_was_written() -> None:
    given = sample_json("RunRequest")
    request = RunRequest.model_validate(given)
    assert request.to_json() == given
    assert (request.recipe.name, request.recipe.seed) == (request.recipe_name, request.seed)


def test_a_request_whose_recipe_cannot_be_read_still_has_its_name() -> None:
    given = sample_json("RunRequest")
    request = RunRequest.model_validate({**given, "recipe": {"name": "other", "unknown": 1}})
    assert (request.recipe_name, request.seed) == ("other", None)
    with pytest.raises(ValidationError, match="unknown"):
        _ = request.recipe


def test_a_registration_keeps_its_lineage_as_it_was_registered() -> None:
    for version in ("current", "2026-11-23", "2026-11-22"):
        given = sample_json("Registration", version)
        registered = Registration.model_validate(given)
        assert registered.to_json() == given
        # records without a run ID name it by the checkpoint's address
        assert registered.run == sample_json("TrainingResult")["run"]
        assert registered.lineage.environment.packages["numpy"]


def test_parts_that_earlier_lineage_records_lack_are_named() -> None:
    assert missing_parts(sample_json("Lineage")) == []
    lacking = missing_parts(sample_json("Lineage", "2026-11-23"))
    assert {"run", "job", "checkpoint.manifest_sha256"} <= set(lacking)
    assert Lineage.model_validate(sample_json("Lineage", "2026-11-22")).environment.image is None


def test_results_of_earlier_versions_have_empty_tables_where_they_had_none() -> None:
    first = EvaluationResult.model_validate(sample_json("EvaluationResult", "2026-11-22"))
    assert (first.identity, first.task, dict(first.kinds), first.cost) == (None, None, {}, None)
    assert first.number("accuracy", Ablation.AUDIO_VISUAL, "joint") is not None
    assert first.number("accuracy", Ablation.SHUFFLED_AUDIO, "joint") is None
    assert TrainingResult.model_validate(sample_json("TrainingResult", "2026-11-22")).environment is None


def test_tasks_joined_to_a_result_are_not_written_with_it() -> None:
    result = EvaluationResult.model_validate(sample_json("EvaluationResult"))
    joined = result.model_copy(update={"tasks": {"daily-omni": result}})
    assert joined.to_json() == result.to_json()


@pytest.mark.parametrize(
    ("passed", "verdict"),
    [(True, GateVerdict.PASSED), (False, GateVerdict.FAILED), (None, GateVerdict.NOT_RUN)],
)
def test_a_decision_has_its_verdict(passed: bool | None, verdict: GateVerdict) -> None:
    given = sample_json("GateDecision")
    assert GateDecision.model_validate({**given, "passed": passed}).verdict is verdict

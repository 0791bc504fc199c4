"""Descriptions of gate decisions, and names of registered models."""

import pytest

from llava_av.recipe import load_recipe
from llava_av.runs import GateDecision, Registration
from llava_av.workflows.commit_data import is_demo
from llava_av.workflows.open_run import default_record
from llava_av.workflows.promote import describe_gate
from llava_av.workflows.register import _model_name

SECOND = Registration(name="dryrun", version="2", aliases=(), lineage={})


@pytest.mark.parametrize(
    ("decided", "line"),
    [
        ({"passed": True, "reasons": [], "before": None}, "champion of dryrun is now version 2"),
        ({"passed": True, "reasons": [], "before": "3"}, "moved from version 3 to version 2"),
        ({"passed": True, "reasons": [], "before": "2"}, "stays at version 2"),
        ({"passed": False, "reasons": ["a is 1", "b is 2"], "before": "3"}, "gate failed: a is 1; b is 2"),
        ({"passed": None, "reasons": ["no joint questions"], "before": None}, "not run: no joint questions"),
        (
            {"passed": False, "reasons": ["a is 1"], "before": "3", "moved": ["challenger"]},
            "challenger of dryrun is now version 2, not champion: a is 1",
        ),
        (
            {"passed": False, "reasons": ["a is 1"], "before": "3", "override": True},
            "champion of dryrun is version 2 despite the gate, for the given reason",
        ),
    ],
)
def test_gate_is_told_with_what_moved_from_where(decided: dict, line: str) -> None:
    assert describe_gate(GateDecision.model_validate(decided), SECOND).endswith(line)


def test_own_dataset_gets_a_model_of_its_own() -> None:
    recipe = load_recipe("dryrun")
    assert _model_name(recipe, "demo-60x10-seed0") == "dryrun"
    assert _model_name(recipe, "my-clips") == "dryrun-my-clips"
    assert not is_demo("demo")


def test_a_tuned_copy_may_be_a_version_of_the_same_model() -> None:
    recipe = load_recipe("dryrun")
    tuned = recipe.with_overrides({"name": "dryrun-hot", "registered_model": "dryrun"})
    assert {_model_name(tuned, name) for name in ("demo-60x10-seed0", "my-clips")} == {"dryrun"}
    assert tuned.digest() != recipe.with_overrides({"name": "dryrun-hot"}).digest()


@pytest.mark.parametrize(
    ("dataset", "record"),
    [
        ("demo", "dryrun"),
        ("demo-60x7-seed0@c0ffee,my-clips", "dryrun"),
        ("my-clips,demo-60x7-seed0", "own-data"),
        ("/data/demo", "own-data"),
    ],
)
def test_only_the_demonstration_is_judged_by_its_record(dataset: str, record: str) -> None:
    assert default_record("", dataset) == record
    assert default_record("mine", dataset) == "mine"

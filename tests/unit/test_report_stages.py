"""Stages of a training in curves, report, model card and lineage tree."""

import json
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

from llava_av.recipe import load_recipe
from llava_av.report import render_report
from llava_av.report.lineage_tree import ObjectStates, RunHistory, VersionHistory, history_boxes
from llava_av.report.model_card.card import CardExperiment, render_model_card
from llava_av.report.run_report.plots import training_figures
from llava_av.runs import EvaluationResult, GateDecision, Registration, TrainingResult
from tests import report_sample
from tests.artifacts import sample, sample_json

TRAINED = sample(TrainingResult)
RECIPE = load_recipe("quick").with_overrides(
    {
        "stages": [
            {
                "name": "align",
                "steps": 4,
                "trainable_parts": ["audio_connector"],
                "optimizer": {"learning_rate": 0.02},
            },
            {"name": "joint", "steps": 4, "global_batch_size": 32},
        ]
    }
)


def lineage() -> Mapping[str, Any]:
    stages = [stage.model_dump(mode="json") for stage in TRAINED.stages]
    return {**report_sample.lineage(), "recipe": RECIPE.model_dump(mode="json"), "stages": stages}


def test_curves_mark_the_first_step_of_each_later_stage() -> None:
    rows = [{"step": step, "loss": 1.0 + step} for step in range(8)]
    [figure] = training_figures(rows, resumed_from=6, stages={"align": 0, "joint": 4})
    words = ["".join(one.itertext()) for one in ElementTree.fromstring(figure.svg).iter("text")]
    assert {"joint", "resumed"} <= set(words)
    assert "align" not in words
    [resumed] = training_figures(rows, resumed_from=4, stages={"align": 0, "joint": 4})
    assert ">resumed<" not in resumed.svg


def test_the_report_has_a_table_of_the_stages() -> None:
    page = render_report(report_sample.inputs({}, metrics=[], train=TRAINED, lineage=lineage()))
    table = page.split("<h3>Stages</h3>")[1].split("</table>")[0]
    for text in ("align", "0 to 3", "audio connector", "0.02", "joint", "4 to 7", "0.25 at step 8"):
        assert text in table
    for stage in TRAINED.stages:
        assert stage.checkpoint.uri in table
    plain = TRAINED.model_copy(update={"stages": ()})
    assert "<h3>Stages</h3>" not in render_report(report_sample.inputs({}, metrics=[], train=plain))


def test_the_model_card_names_the_stages() -> None:
    card = render_model_card(
        registered=Registration.model_validate({**sample_json(Registration), "lineage": lineage()}),
        train=TRAINED,
        evaluation=sample(EvaluationResult),
        gate=sample(GateDecision),
        experiment=CardExperiment(id="x", title="X", hypothesis="Y.", incomplete=(), outcomes=()),
        splits={"train": 64},
        quarantined=0,
        moves="s3://b/moves",
    )
    assert "8 steps in 2 stages with deepspeed" in card
    assert "| align | 4 | 16 | audio_connector |" in card
    assert "| joint | 4 | 32 | vision_tower, " in card


def test_the_lineage_tree_has_the_checkpoint_of_each_stage() -> None:
    registered = Registration.model_validate({**sample_json(Registration), "lineage": lineage()})
    history = VersionHistory(
        registered=registered,
        moves=(),
        checkpoint_state="verified",
        dataset_parents=(),
        experiment_parents=(),
        run=RunHistory(
            train=TRAINED,
            patch_state="none",
            evaluation=None,
            gate=None,
            outcome=(),
            objects=ObjectStates(verified=1, unverified=(), damaged=()),
            reproductions=(),
        ),
    )
    boxes = {box.title: box.lines for box in history_boxes(history)}
    assert boxes["stage align"][:2] == ("4 steps from step 0", "trained audio_connector")
    for stage in TRAINED.stages:
        assert stage.checkpoint.uri in boxes[f"stage {stage.name}"]
    assert "lowest held-out loss 0.25 at step 8" in boxes["stage joint"]
    assert json.loads(json.dumps(history.to_json()))["lineage"]["stages"][0]["name"] == "align"

"""Evaluated runs beside each other: outcomes over the parent, reproduction, MLflow's notes, the index."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from mlflow import MlflowClient

from llava_av.experiments.authoring import Draft, new_record
from llava_av.experiments.records import read_record
from llava_av.provenance.source_code import code_state
from llava_av.recipe import load_recipe
from llava_av.registry.versions import load_version
from llava_av.runs import DatasetName, Run, RunMissing, RunOutcome
from llava_av.storage import ObjectStore
from llava_av.workflows.compare import compare_runs
from llava_av.workflows.compare_models import compare_models_step
from llava_av.workflows.evaluate import evaluate_step
from llava_av.workflows.index import index_step
from llava_av.workflows.open_run import open_run, read_run_record
from llava_av.workflows.promote import promote_step
from llava_av.workflows.register import register_step
from llava_av.workflows.reproduce import _compared
from llava_av.workflows.run_outcomes import pull_outcomes
from llava_av.workflows.runtime.workspace import Workspace
from tests.commands import ROOT, called_here
from tests.integration.comparison.found import in_mlflow

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


def test_an_outcome_over_the_parent_has_a_paired_interval(
    store: ObjectStore, evaluated: Callable[..., Run], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "llava_av")
    root = evaluated("root", wrong=40, seed=0)
    child = evaluated("child", wrong=20, seed=1)
    assert "accuracy.av.joint.low over parent above 0.00: 0.0" in caplog.text
    first, second = child.read(RunOutcome).checks
    assert (first.met, second.met, second.reference) == (True, True, f"run {root.id} of root")
    # 20 of 200 questions, each a clip: 0.10 with 1.96 * sqrt(0.09 / 200) on each side.
    assert second.low == pytest.approx(0.1 - 0.0416, abs=0.015)
    assert second.high == pytest.approx(0.1 + 0.0416, abs=0.015)
    changes = child.read(RunOutcome).changes
    assert [change.what for change in changes] == ["seed"]
    copy = tmp_path / "elsewhere" / "experiments" / "child.md"
    assert pull_outcomes(Workspace(folder=tmp_path / "elsewhere"), store, "child") == 1
    assert f"| `{child.id}` |" in read_record(copy).observed[0]
    compared = compare_runs(store, child.id, root.id)
    assert compared.changes == ("seed: 0 → 1",)
    row = compared.rows[0]
    assert (row.ablation, row.family, row.paired) == ("av", "joint", True)
    assert (row.first, row.second, row.value) == pytest.approx((0.8, 0.9, 0.1))
    same_pair = compare_models_step(child.id, root.id, None).paired.families["joint"].difference
    assert (row.value, row.low, row.high) == (same_pair.value, same_pair.low, same_pair.high)
    with pytest.raises(RunMissing, match="there is no run 0123456789abcdef at http"):
        compare_runs(store, root.id, "0123456789abcdef")


@pytest.mark.slow
@pytest.mark.parametrize(("wrong", "within"), [(44, True), (90, False)])
def test_another_digest_is_judged_by_the_registered_intervals(
    evaluated: Callable[..., Run], tmp_path: Path, wrong: int, within: bool
) -> None:
    """A second run with another seed stands for one whose environment was not that of the first."""
    before, again = evaluated("root", wrong=40, seed=0), evaluated("root", wrong=wrong, seed=1)
    registered = register_step(Workspace(folder=tmp_path / "out"), before.id)
    version = load_version(before.store, f"models:/{registered.name}/1")
    made = _compared(tmp_path, ROOT, version, before, again, ("numpy 1.0 then, 2.0 now",))
    assert (made.identical, made.within_intervals, made.compared) == (False, within, 4)
    lines = made.lines()
    assert "different here: numpy 1.0 then, 2.0 now" in lines
    assert lines[-1].startswith(f"another digest ({made.digest_now[:12]}…, not {made.digest_before[:12]}…); ")
    if within:
        assert lines[-1].endswith("; all 4 accuracies within the registered 95 % intervals")
    else:
        assert "accuracy.av.joint is 0.550, registered 0.800 [0.739, 0.850]" in lines
        assert lines[-1].endswith(" of 4 accuracies outside the registered 95 % intervals")


def test_an_incomplete_record_marks_everything(store: ObjectStore, records: Path, tmp_path: Path) -> None:
    path = new_record(records, Draft(id="idea", title="Idea", recipe="quick"))
    request = {"recipe": load_recipe("quick"), "dataset": DatasetName(name="words", commit="c" * 64)}
    run = open_run(store, **request, experiment=str(path), code=code_state(), needs="nothing")
    marks = run.request().experiment.incomplete
    assert "expected: at least one checkable statement is missing or empty" in marks
    assert read_run_record(run).expected == ()


def test_an_evaluation_is_metrics_in_mlflow_once(evaluated: Callable[..., Run], tmp_path: Path) -> None:
    run = evaluated("root", wrong=40, seed=0)
    found = in_mlflow(run)
    metrics = {name: value for name, value in found.data.metrics.items() if name.startswith("val/")}
    assert metrics["val/accuracy.av.joint"] == pytest.approx(0.8)
    assert metrics["val/accuracy.video_only.joint"] == pytest.approx(0.2)
    assert metrics["val/loss.text_only.joint"] == pytest.approx(0.1)
    assert {name.split(".")[0] for name in metrics} == {"val/accuracy", "val/loss"}
    assert f"{run.request().recipe_name} · seed 0 · " in found.info.run_name
    evaluate_step(Workspace(folder=tmp_path / "out"), run.id)
    history = MlflowClient().get_metric_history(found.info.run_id, "val/accuracy.av.joint")
    assert [(point.step, point.value) for point in history] == [(8, pytest.approx(0.8))]


@pytest.mark.slow
def test_a_closed_record_becomes_the_note_in_mlflow(
    store: ObjectStore,
    evaluated: Callable[..., Run],
    mlflow_environment: Mapping[str, str],
    records: Path,
    tmp_path: Path,
) -> None:
    run = evaluated("root", wrong=40, seed=0)
    arguments = ["experiment", "close", str(records / "root.md"), "--output-dir", str(tmp_path / "out")]
    arguments += ["--lessons", "Listening helps.", "--next-steps", "Longer clips."]
    code, said = called_here(*arguments, environment={**mlflow_environment, "LLAVA_AV_BUCKET": store.bucket})
    assert code == 0, said
    assert "MLflow: updated the notes of root and of" in said
    place = MlflowClient().get_experiment_by_name("root")
    for tags in (place.tags, in_mlflow(run).data.tags):
        assert "Listening helps." in tags["mlflow.note.content"]
        assert f"| `{run.id}` |" in tags["mlflow.note.content"]
    assert place.tags["llava_av.closed"] == read_record(records / "root.md").closed.isoformat()


def test_the_index_has_every_run_with_alias_outcome_and_report(
    store: ObjectStore, evaluated: Callable[..., Run], tmp_path: Path
) -> None:
    workspace = Workspace(folder=tmp_path / "out")
    root, child = evaluated("root", wrong=40, seed=0), evaluated("child", wrong=20, seed=1)
    version = register_step(workspace, root.id)
    promote_step(workspace, root.id)
    store.put_bytes(root.path("report.html"), b"<!doctype html>one")
    made = index_step(store, tmp_path / "index")
    assert (made.runs, made.reports) == (2, 1)
    page = made.page.read_text(encoding="utf-8")
    for text in (root.id, child.id, f"{version.name} {version.version}", "champion", "2 of 2 met"):
        assert text in page, text
    assert page.index("<b>root</b>") < page.index("<b>child</b>")
    linked = made.page.parent / "reports" / f"{root.id}.html"
    assert f'href="reports/{root.id}.html"' in page
    assert linked.read_bytes() == b"<!doctype html>one"
    store.put_bytes(root.path("report.html"), b"<!doctype html>another")
    index_step(store, tmp_path / "index", reports=False)
    assert linked.read_bytes() == b"<!doctype html>one"
    index_step(store, tmp_path / "index")
    assert linked.read_bytes() == b"<!doctype html>another"

"""Decide whether a run's model version becomes champion, and keep what was decided."""

import datetime
import tempfile
from pathlib import Path
from typing import Any

from llava_av.experiments.outcomes import make_outcome, write_outcome
from llava_av.registry.gate import GateResult, evaluate_gate
from llava_av.registry.versions import load_version, promote
from llava_av.steps.context import Workspace
from llava_av.steps.runs import Run
from llava_av.storage import ObjectStore

__all__ = ["promote_step"]

_SKIPPED = "skipped: a quick run trains too little to pass"


def promote_step(workspace: Workspace, run_key: str, *, gate: bool = True) -> dict[str, Any]:
    """Apply the gate, move the alias when it passes, and return gate.json.

    A gate that fails raises nothing: the report has to be made all the same.

    Raises:
        RunMissing: the run has not been evaluated or registered.
    """
    run = Run(store=ObjectStore.from_env(), key=run_key)
    registered = run.read("register.json", made_by=f"register {run_key}")
    evaluation = run.read("evaluation.json", made_by=f"evaluate {run_key}")
    with run.timed("promote"):
        decided = evaluate_gate(evaluation, run.record().expected)
        if not gate:
            decided = GateResult(passed=None, reasons=(_SKIPPED,), checks=decided.checks)
        moved: tuple[str, ...] = ()
        if decided.passed:
            moved = promote(registered["name"], registered["version"], decided)
            version = load_version(f"models:/{registered['name']}/{registered['version']}")
            run.write("register.json", version.to_json())
        outcome = decided.to_json(moved)
        run.write("gate.json", outcome)
        _write_outcome(workspace, run, evaluation, note="" if gate else _SKIPPED)
    return outcome


def _write_outcome(workspace: Workspace, run: Run, evaluation: dict[str, Any], *, note: str) -> None:
    """Put what was seen beside what was expected, in the workspace's copy of the record.

    The record that came with the code stays as it is: a run must not make the checkout differ from the
    commit that its own lineage names.
    """
    request, code, record = run.request(), run.code(), run.record()
    outcome = make_outcome(
        record,
        evaluation,
        run=run.key,
        date=datetime.datetime.now(datetime.UTC).date(),
        seed=request["recipe"]["seed"],
        dataset_commit=request["dataset"]["commit"],
        git_commit=code.git.commit,
        git_dirty=code.git.dirty,
        note=note,
    )
    run.write("outcome.json", outcome.model_dump(mode="json"))
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / f"{record.id}.md"
        run.store.get_file(run.path("experiment.md"), source)
        write_outcome(source, workspace.experiments / source.name, outcome)

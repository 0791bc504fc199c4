"""Decide whether a run's model version becomes champion, and keep what was decided."""

import datetime
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llava_av.experiments.outcomes import make_outcome, write_outcome
from llava_av.registry.gate import GateResult, evaluate_gate
from llava_av.registry.versions import CHAMPION, load_version, promote
from llava_av.steps.context import Workspace
from llava_av.steps.patience import patient
from llava_av.steps.runs import Run
from llava_av.storage import ObjectStore
from llava_av.tracking.connection import MlflowError

__all__ = ["decision_page", "describe_gate", "promote_step"]

_BEGUN = "promotion.json"
_SKIPPED = "it is switched off, as for a quick run, which trains too little to pass"


@patient
def promote_step(workspace: Workspace, run_key: str, *, gate: bool = True) -> dict[str, Any]:
    """Apply the gate, move the alias when it passes, and return gate.json.

    The alias moves to this run's version even from a newer one: who promotes a run means it. gate.json says
    under `before` which version had the alias, null if none.

    A gate that fails raises nothing: the report has to be made all the same.

    Raises:
        RunMissing: the run has not been evaluated or registered.
    """
    run = Run(store=ObjectStore.from_env(), key=run_key)
    registered = run.read("register.json", made_by=f"register {run_key}")
    evaluation = run.read("evaluation.json", made_by=f"evaluate {run_key}")
    with run.timed("promote"):
        decided = evaluate_gate(evaluation, run.record().expected)
        # What a dataset leaves undecided has a reason of its own.
        if not gate and decided.passed is not None:
            decided = GateResult(passed=None, reasons=(_SKIPPED,), checks=decided.checks)
        moved: tuple[str, ...] = ()
        # Kept first: whoever goes on after a failure finds this version as champion already.
        before = (run.find(_BEGUN) or {"champion": _champion(registered["name"])})["champion"]
        run.write(_BEGUN, {"champion": before})
        if decided.passed:
            moved = promote(registered["name"], registered["version"], decided)
            version = load_version(f"models:/{registered['name']}/{registered['version']}")
            run.write("register.json", version.to_json())
        outcome = {**decided.to_json(moved), "before": before}
        run.write("gate.json", outcome)
        _write_outcome(workspace, run, evaluation, note=_note(decided))
        run.store.delete(run.path(_BEGUN))
    print(describe_gate(outcome, registered))
    return outcome


def describe_gate(decided: Mapping[str, Any], registered: Mapping[str, Any]) -> str:
    """What the gate decided, in one line.

    Args:
        decided: gate.json.
        registered: register.json.
    """
    words = {True: "passed", False: "failed", None: "not run"}[decided["passed"]]
    name, version, before = registered["name"], registered["version"], decided["before"]
    if not decided["passed"]:
        said = "; ".join(decided["reasons"])
    elif before == version:
        said = f"{CHAMPION} of {name} stays at version {version}"
    else:
        origin = "from no version" if before is None else f"from version {before}"
        said = f"{CHAMPION} of {name} moved {origin} to version {version}"
    return f"gate {words}: {said}"


@patient
def decision_page(run_key: str, decided: Mapping[str, Any]) -> str:
    """What the gate decided and by which numbers, in Markdown.

    Args:
        run_key: Key of the run.
        decided: gate.json.
    """
    registered = Run(store=ObjectStore.from_env(), key=run_key).read(
        "register.json", made_by=f"register {run_key}"
    )
    parts = [f"**{describe_gate(decided, registered)}**", *(f"- {reason}" for reason in decided["reasons"])]
    return "\n".join([parts[0], "", *parts[1:]]) + "\n"


def _champion(name: str) -> str | None:
    """The version that has the alias now."""
    try:
        return load_version(f"models:/{name}@{CHAMPION}").version
    except MlflowError as error:
        if error.transient:
            raise
        return None


def _note(decided: GateResult) -> str:
    return "; ".join(decided.reasons) if decided.passed is None else ""


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

"""Decide whether a run's model version becomes champion, and keep what was decided."""

from typing import Any

from llava_av.experiments import find_record
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
    record = find_record(run.request()["experiment"]["id"])
    with run.timed("promote"):
        decided = evaluate_gate(evaluation, record.expected)
        if not gate:
            decided = GateResult(passed=None, reasons=(_SKIPPED,), checks=decided.checks)
        moved: tuple[str, ...] = ()
        if decided.passed:
            moved = promote(registered["name"], registered["version"], decided)
            version = load_version(f"models:/{registered['name']}/{registered['version']}")
            run.write("register.json", version.to_json())
        outcome = decided.to_json(moved)
        run.write("gate.json", outcome)
    return outcome

"""Promotion of a run's model version to champion by the gate, and rollback."""

from dataclasses import dataclass

from llava_av.plurals import count_of
from llava_av.registry.aliases import adopt, champion_and_earlier, promote, roll_back, withdraw
from llava_av.registry.gate import Gate, applicable_gate, challenger_gate, evaluate_gate, load_gate
from llava_av.registry.history import CHALLENGER, CHAMPION, AliasHistory, Move, PromotionError
from llava_av.registry.versions import load_version, record_registration, require_untouched
from llava_av.runs import GateDecision, PromotionStart, Registration, Run, RunMissing
from llava_av.storage import ObjectStore
from llava_av.workflows.baseline_runs import Baselines, find_baselines
from llava_av.workflows.evaluated_run import EvaluatedRun, read_evaluated_run
from llava_av.workflows.model_card import write_model_card
from llava_av.workflows.run_outcomes import mirror_registered, settle_outcome
from llava_av.workflows.runtime.actor import actor
from llava_av.workflows.runtime.retry import retry_transient
from llava_av.workflows.runtime.workspace import Workspace

__all__ = ["decision_page", "describe_gate", "promote_step", "roll_back_step", "run_of_version"]

_SKIPPED = "the gate is turned off for this run"


@retry_transient
def promote_step(
    workspace: Workspace,
    run_id: str,
    *,
    gate: bool = True,
    rules: str = CHAMPION,
    reason: str = "",
    override: bool = False,
) -> GateDecision:
    """Apply the gate, move the alias if it passes, and return the decision.

    A version that passes becomes champion, even if it is older than the champion. A version that meets the
    record's expectations, but is not shown to be as good as the champion, becomes challenger. The decision's
    `before` is the version that was champion.

    A failed gate raises nothing, since the report is written in any case.

    Args:
        workspace: Folder with the copy of the experiment record.
        run_id: Run ID.
        gate: True to apply the gate.
        rules: Name or file of the champion's gate.
        reason: Reason of the promotion, in words; by default that the gate passed.
        override: True to make the version champion although its gate does not pass; requires a reason.

    Raises:
        RunMissing: The run is not evaluated or registered.
        PromotionError: Another version became champion meanwhile.
        TamperedError: The checkpoint is not the one that was registered.
    """
    if override and not reason.strip():
        raise PromotionError("a promotion without passing the gate requires a reason: add --reason")
    run = Run(store=ObjectStore.from_env(), id=run_id)
    registered = run.read(Registration)
    evaluated = read_evaluated_run(run)
    chosen = applicable_gate(load_gate(rules), evaluated.evaluation)
    history = AliasHistory(run.store, registered.name)
    with run.timed("promote"):
        adopt(history, by=actor())
        champion = history.holder(CHAMPION)
        other = champion if champion != registered.version else None
        baselines = find_baselines(
            evaluated, champion=f"models:/{registered.name}/{other}" if other else None
        )
        decided = evaluate_gate(evaluated.evaluation, evaluated.record.expected, chosen, baselines.by_name)
        # A dataset that leaves the gate undecided has its own reason.
        if not gate and decided.passed is not None:
            decided = decided.model_copy(update={"passed": None, "reasons": (_SKIPPED,)})
        before = _start(run, champion, registered)
        if gate:
            why = reason.strip() or _met(chosen, decided)
            intent = _Intent(reason=why, override=override, champion=champion, gate=chosen)
            moved = _move(evaluated, history, registered, decided, baselines, intent)
            if moved:
                registered = record_registration(run, registered.uri)
            decided = decided.model_copy(update={"moved": moved})
        overridden = override and not decided.passed
        decided = decided.model_copy(update={"before": before, "override": overridden})
        _finish(workspace, evaluated, registered, decided, baselines)
    return decided


def _met(gate: Gate, decided: GateDecision) -> str:
    return f"passed the gate {gate.name} with {count_of(len(decided.rules), 'rule')}"


def _start(run: Run, champion: str | None, registered: Registration) -> str | None:
    """Record that a promotion is under way; return the version that was champion before it.

    After a failure the version may be champion already, and then the record of the first attempt counts.
    """
    started = run.find(PromotionStart) if champion == registered.version else None
    before = started.champion if started is not None else champion
    run.write(PromotionStart(champion=before))
    return before


def _finish(
    workspace: Workspace,
    evaluated: EvaluatedRun,
    registered: Registration,
    decided: GateDecision,
    baselines: Baselines,
) -> None:
    evaluated.run.write(decided)
    note = "; ".join(decided.reasons) if decided.passed is None else ""
    outcome = settle_outcome(workspace, evaluated, baselines, note=note)
    mirror_registered(registered, evaluated, outcome)
    write_model_card(evaluated, registered, decided, outcome)
    evaluated.run.delete(PromotionStart)


@dataclass(frozen=True, kw_only=True)
class _Intent:
    """Reason and conditions of a move."""

    reason: str
    override: bool
    champion: str | None
    """Champion's version when the gate decided."""
    gate: Gate
    """Gate that decided."""


def _move(
    evaluated: EvaluatedRun,
    history: AliasHistory,
    registered: Registration,
    decided: GateDecision,
    baselines: Baselines,
    intent: _Intent,
) -> tuple[str, ...]:
    """Move the alias that the version qualifies for; return the aliases that moved."""
    run, version = evaluated.run, registered.version
    require_untouched(run.store, load_version(run.store, registered.uri))
    challenger = history.holder(CHALLENGER)
    if decided.passed or intent.override:
        promote(
            history,
            version,
            decided,
            before=intent.champion,
            reason=intent.reason,
            by=actor(),
            run=run.id,
            override=intent.override,
        )
        if challenger == version:
            withdraw(history, CHALLENGER, before=version, reason="it became champion", by=actor())
        return (CHAMPION,)
    if decided.passed is None or version == intent.champion:
        return ()
    alone = tuple(one for one in evaluated.record.expected if one.over != CHAMPION)
    gate = challenger_gate(intent.gate, evaluated.evaluation)
    others = {over: baseline for over, baseline in baselines.by_name.items() if over != CHAMPION}
    second = evaluate_gate(evaluated.evaluation, alone, gate, others)
    if not second.passed:
        return ()
    promote(
        history,
        version,
        second,
        alias=CHALLENGER,
        before=challenger,
        reason=f"passed the gate {gate.name} as {CHALLENGER}; not champion: {'; '.join(decided.reasons)}",
        by=actor(),
        run=run.id,
    )
    return (CHALLENGER,)


def roll_back_step(model: str, *, to: str | None, reason: str) -> Move:
    """Move `champion` back to an earlier champion after verifying its checkpoint.

    Args:
        model: Name of the registered model.
        to: Version of the earlier champion; the last one if None.
        reason: Reason, in words.

    Raises:
        PromotionError: There is no earlier champion, no reason, or another version became champion meanwhile.
        TamperedError: Its checkpoint is not the one that was registered.
    """
    if not reason.strip():
        raise PromotionError("a rollback requires a reason: add --reason")
    store = ObjectStore.from_env()
    history = AliasHistory(store, model)
    adopt(history, by=actor())
    _, target = champion_and_earlier(history, to)
    require_untouched(store, load_version(store, f"models:/{model}/{target}"))
    return roll_back(history, to=target, reason=reason, by=actor())


def run_of_version(given: str) -> str:
    """Return the run ID of `models:/NAME/VERSION` or `models:/NAME@ALIAS`; a run ID is returned unchanged.

    Raises:
        MlflowError: The version does not exist, or MLflow does not answer.
        RunMissing: The version was registered before runs were part of the lineage.
    """
    if not given.startswith("models:/"):
        return given
    run = load_version(ObjectStore.from_env(), given).run
    if not run:
        raise RunMissing(f"{given} has no run ID in its lineage: give the run ID, or register the run again")
    return run


def describe_gate(decided: GateDecision, registered: Registration) -> str:
    """Return the decision of the gate in one line."""
    name, version, reasons = registered.name, registered.version, "; ".join(decided.reasons)
    if CHALLENGER in decided.moved:
        said = f"{CHALLENGER} of {name} is now version {version}, not {CHAMPION}: {reasons}"
    elif decided.override:
        said = f"{CHAMPION} of {name} is version {version} despite the gate, for the given reason"
    elif not decided.passed:
        said = reasons
    elif decided.before == version:
        said = f"{CHAMPION} of {name} stays at version {version}"
    elif decided.before is None:
        said = f"{CHAMPION} of {name} is now version {version}"
    else:
        said = f"{CHAMPION} of {name} moved from version {decided.before} to version {version}"
    return f"gate {decided.verdict}: {said}"


@retry_transient
def decision_page(run_id: str, decided: GateDecision) -> str:
    """Return the decision of the gate with its numbers, in Markdown."""
    registered = Run(store=ObjectStore.from_env(), id=run_id).read(Registration)
    reasons = (f"- {reason}" for reason in decided.reasons)
    return "\n".join([f"**{describe_gate(decided, registered)}**", "", *reasons]) + "\n"

"""Decide whether a run's model version becomes champion, and keep what was decided."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llava_av.registry.aliases import adopt, champion_and_earlier, promote, roll_back, withdraw
from llava_av.registry.baselines import Reference
from llava_av.registry.expectations import Over
from llava_av.registry.gate import GateResult, evaluate_gate, load_gate
from llava_av.registry.history import CHALLENGER, CHAMPION, AliasHistory, Move, PromotionError
from llava_av.registry.versions import load_version, require_untouched
from llava_av.storage import ObjectStore
from llava_av.workflows.baselines import find_references
from llava_av.workflows.model_card import keep_model_card
from llava_av.workflows.outcomes import mirror_registered, settle_outcome
from llava_av.workflows.runs import Run, RunMissing
from llava_av.workflows.runtime.actor import actor
from llava_av.workflows.runtime.retry import retry_transient
from llava_av.workflows.runtime.workspace import Workspace
from llava_av.workflows.task_evaluations import read_evaluation

__all__ = ["decision_page", "describe_gate", "promote_step", "roll_back_step", "run_of_version"]


_BEGUN = "promotion.json"
_SKIPPED = "it is switched off, as for a quick run, which trains too little to pass"


@retry_transient
def promote_step(
    workspace: Workspace,
    run_key: str,
    *,
    gate: bool = True,
    rules: str = CHAMPION,
    reason: str = "",
    override: bool = False,
) -> dict[str, Any]:
    """Apply the gate, move the alias when it passes, and return gate.json.

    A version that passes becomes champion, also after a newer one: who promotes a run means it. One that is
    as good as asked, but not shown to be no worse than the champion, becomes challenger. gate.json says under
    `before` which version was champion, null if none.

    A gate that fails raises nothing: the report has to be made all the same.

    Args:
        workspace: has the copy of the experiment record.
        run_key: key of the run.
        gate: whether there is a gate at all.
        rules: name or file of the champion's gate.
        reason: why, in words; by default that the gate passed.
        override: whether the version becomes champion although its gate does not pass; that needs a reason.

    Raises:
        RunMissing: the run has not been evaluated or registered.
        PromotionError: another version became champion meanwhile.
        TamperedError: the checkpoint is not the one that was registered.
    """
    if override and not reason.strip():
        raise PromotionError("a promotion although the gate does not pass needs its reason: give --reason")
    chosen = load_gate(rules)
    run = Run(store=ObjectStore.from_env(), key=run_key)
    registered = run.read("register.json", made_by=f"register {run_key}")
    evaluation = read_evaluation(run)
    name, version = registered["name"], registered["version"]
    history = AliasHistory(run.store, name)
    with run.timed("promote"):
        adopt(history, by=actor())
        champion = history.holder(CHAMPION)
        other = f"models:/{name}/{champion}" if champion not in (None, version) else None
        references = find_references(run, run.record(), champion=other)
        decided = evaluate_gate(evaluation, run.record().expected, chosen, references)
        # What a dataset leaves undecided has a reason of its own.
        if not gate and decided.passed is not None:
            decided = decided.model_copy(update={"passed": None, "reasons": (_SKIPPED,)})
        # Kept first: whoever goes on after a failure finds this version as champion already.
        begun = run.find(_BEGUN) if champion == version else None
        before = begun["champion"] if begun else champion
        run.write(_BEGUN, {"champion": before})
        about = _About(
            why=reason.strip() or f"passed the gate {chosen.name} with {len(decided.rules)} rules",
            override=override,
            champion=champion,
        )
        moved = _move(run, history, version, decided, references, about) if gate else ()
        if moved:
            run.write("register.json", load_version(run.store, f"models:/{name}/{version}").to_json())
        outcome = {**decided.to_json(moved), "before": before, "override": override and not decided.passed}
        run.write("gate.json", outcome)
        seen = settle_outcome(workspace, run, evaluation, references, note=_note(decided))
        mirror_registered(run, seen)
        keep_model_card(run)
        run.store.delete(run.path(_BEGUN))
    return outcome


@dataclass(frozen=True, kw_only=True)
class _About:
    """What is to be recorded of a move."""

    why: str
    override: bool
    champion: str | None
    """The version that was champion when the gate decided."""


def _move(
    run: Run,
    history: AliasHistory,
    version: str,
    decided: GateResult,
    references: Mapping[Over, Reference],
    about: _About,
) -> tuple[str, ...]:
    """Gives the version the alias that it has earned; the aliases that it was given."""
    require_untouched(run.store, load_version(run.store, f"models:/{history.model}/{version}"))
    challenger = history.holder(CHALLENGER)
    if decided.passed or about.override:
        promote(
            history,
            version,
            decided,
            before=about.champion,
            reason=about.why,
            by=actor(),
            run=run.key,
            override=about.override,
        )
        if challenger == version:
            withdraw(history, CHALLENGER, before=version, reason="it became champion", by=actor())
        return (CHAMPION,)
    if decided.passed is None or version == about.champion:
        return ()
    alone = tuple(expectation for expectation in run.record().expected if expectation.over != CHAMPION)
    second = evaluate_gate(read_evaluation(run), alone, load_gate(CHALLENGER), references)
    if not second.passed:
        return ()
    why = f"passed the gate {CHALLENGER}; not champion: {'; '.join(decided.reasons)}"
    promote(
        history,
        version,
        second,
        alias=CHALLENGER,
        before=challenger,
        reason=why,
        by=actor(),
        run=run.key,
    )
    return (CHALLENGER,)


def roll_back_step(model: str, *, to: str | None, reason: str) -> Move:
    """Give `champion` back to an earlier champion, whose checkpoint is verified first.

    Args:
        model: name of the registered model.
        to: version of the earlier champion; the last one if None.
        reason: why, in words.

    Raises:
        PromotionError: there is no earlier champion, no reason, or another one became champion meanwhile.
        TamperedError: its checkpoint is not the one that was registered.
    """
    if not reason.strip():
        raise PromotionError("a rollback needs its reason: give --reason")
    store = ObjectStore.from_env()
    history = AliasHistory(store, model)
    adopt(history, by=actor())
    _, target = champion_and_earlier(history, to)
    require_untouched(store, load_version(store, f"models:/{model}/{target}"))
    return roll_back(history, to=target, reason=reason, by=actor())


def run_of_version(given: str) -> str:
    """The key of the run that `models:/NAME/VERSION` or `models:/NAME@ALIAS` names; a key stays as it is.

    Raises:
        MlflowError: no such version, or MLflow does not answer.
        RunMissing: a version that was registered before runs were part of the lineage.
    """
    if not given.startswith("models:/"):
        return given
    run = load_version(ObjectStore.from_env(), given).run
    if not run:
        raise RunMissing(f"{given} does not name its run; give the run's key, or register the run again")
    return str(run)


def describe_gate(decided: Mapping[str, Any], registered: Mapping[str, Any]) -> str:
    """What the gate decided, in one line.

    Args:
        decided: gate.json.
        registered: register.json.
    """
    words = {True: "passed", False: "failed", None: "not run"}[decided["passed"]]
    name, version, before = registered["name"], registered["version"], decided["before"]
    moved = decided.get("moved", ())
    if CHALLENGER in moved:
        why = "; ".join(decided["reasons"])
        said = f"{CHALLENGER} of {name} is now version {version}, not {CHAMPION}: {why}"
    elif decided.get("override"):
        said = f"{CHAMPION} of {name} is version {version} all the same, for the reason given"
    elif not decided["passed"]:
        said = "; ".join(decided["reasons"])
    elif before == version:
        said = f"{CHAMPION} of {name} stays at version {version}"
    else:
        origin = "from no version" if before is None else f"from version {before}"
        said = f"{CHAMPION} of {name} moved {origin} to version {version}"
    return f"gate {words}: {said}"


@retry_transient
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


def _note(decided: GateResult) -> str:
    return "; ".join(decided.reasons) if decided.passed is None else ""

"""Giving a model's aliases to versions: recorded first, then set in MLflow, so that one of many wins."""

import datetime
import logging
import time

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from llava_av.registry.history import CHALLENGER, CHAMPION, Alias, AliasHistory, Move, PromotionError
from llava_av.registry.versions import TamperedError, existing_version, load_version
from llava_av.runs import GateDecision, Run
from llava_av.tracking.connection import MlflowError, mlflow_client

__all__ = ["adopt", "champion_and_earlier", "promote", "roll_back", "settle", "withdraw"]

_LOG = logging.getLogger(__name__)
_PATIENCE_S, _POLL_S = 120.0, 0.5


def promote(
    history: AliasHistory,
    version: str,
    gate: GateDecision,
    *,
    alias: Alias = CHAMPION,
    before: str | None,
    reason: str,
    by: str,
    run: str | None = None,
    override: bool = False,
) -> None:
    """Gives a version an alias, if the alias is still where the gate saw it.

    Args:
        history: the record of the model's aliases.
        version: number of the version.
        gate: what the gate decided.
        alias: the alias.
        before: the version that had the alias when the gate decided.
        reason: why, in words.
        by: who does it.
        run: key of the version's run.
        override: whether it is done although the gate did not pass.

    Raises:
        PromotionError: the gate did not pass, or another version was given the alias meanwhile.
        MlflowError: there is no such version, or MLflow does not answer; `settle` completes the move then.
    """
    if gate.passed is not True and not override:
        why = "; ".join(gate.reasons) or "no reason is given"
        state = "failed" if gate.passed is False else "was not run"
        raise PromotionError(
            f"{history.model} version {version} does not become {alias}, the gate {state}: {why}"
        )
    with mlflow_client() as client:
        existing_version(client, history.model, version=version)
    if before != version:
        kind = "promotion" if gate.passed else "override"
        move = _move(alias, version, before, kind, reason, by, run)
        history.append(move)
    settle(history)


def roll_back(history: AliasHistory, *, to: str | None, reason: str, by: str) -> Move:
    """Gives `champion` back to an earlier champion.

    Args:
        history: the record of the model's aliases.
        to: its version; the last one before the present one if None.
        reason: why, in words.
        by: who does it.

    Raises:
        PromotionError: there is none, it never was champion, or another was given the alias meanwhile.
        MlflowError: there is no such version, or MLflow does not answer.
    """
    now, target = champion_and_earlier(history, to)
    with mlflow_client() as client:
        existing_version(client, history.model, version=target)
    move = _move(CHAMPION, target, now, "rollback", reason, by, None)
    history.append(move)
    settle(history)
    return move


def champion_and_earlier(history: AliasHistory, to: str | None) -> tuple[str, str]:
    """The champion, and the version that a rollback would give its place to.

    Raises:
        PromotionError: there is none.
    """
    moves = [move for move in history.moves() if move.alias == CHAMPION]
    now = moves[-1].version if moves else None
    if now is None:
        raise PromotionError(f"{history.model} has no champion, so that nothing can be rolled back")
    # What a rollback left was found wanting: it is not what the next one goes back to.
    left = {move.before for move in moves if move.kind == "rollback"}
    were = [move.version for move in moves if move.version not in (None, now)]
    if to is not None and to not in were:
        known = ", ".join(sorted({str(version) for version in were}, key=int)) or "none"
        raise PromotionError(
            f"version {to} of {history.model} was not champion before version {now}; these were: {known}"
        )
    target = to or next((version for version in reversed(were) if version not in left), None)
    if target is None:
        raise PromotionError(f"{history.model} had no champion before version {now}; name one by --to")
    return now, target


def withdraw(history: AliasHistory, alias: Alias, *, before: str, reason: str, by: str) -> None:
    """Takes an alias away from the version that has it.

    Raises:
        PromotionError: another version was given the alias meanwhile.
        MlflowError: MLflow does not answer.
    """
    history.append(_move(alias, None, before, "removal", reason, by, None))
    settle(history)


def adopt(history: AliasHistory, *, by: str) -> None:
    """Begin the record of a model whose champion was promoted before there was one.

    MLflow's alias alone is not trusted: the run of its version has to have been promoted, by its gate.json.

    Raises:
        MlflowError: MLflow does not answer.
    """
    if history.moves():
        return
    with mlflow_client() as client:
        found = _aliases(client, history.model).get(CHAMPION)
    if found is None:
        return
    run = _promoted_run(history, found)
    if run is None:
        _LOG.warning(
            "warning: MLflow has %s of %s at version %s, but no run in S3 was promoted to it; it is ignored",
            *(CHAMPION, history.model, found),
        )
        return
    history.append(_move(CHAMPION, found, None, "found", "had the alias before moves were recorded", by, run))


def _promoted_run(history: AliasHistory, version: str) -> str | None:
    """Return the run of a version if S3 says that it became champion, else None."""
    try:
        run = load_version(history.store, f"models:/{history.model}/{version}").run
    except (TamperedError, MlflowError):
        return None
    gate = Run(store=history.store, id=run).find(GateDecision) if run else None
    return run if gate is not None and CHAMPION in gate.moved else None


def settle(history: AliasHistory) -> None:
    """Makes MLflow's aliases what the record says, whoever moved them; a server that restarts is waited for.

    The record is read again afterwards: of several that do this at once the last one to write finds what the
    others recorded, so that the newest move stands in the end.

    Raises:
        MlflowError: MLflow refuses, or does not answer for minutes. The move is recorded all the same.
    """
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        wanted = {alias: history.holder(alias) for alias in (CHAMPION, CHALLENGER)}
        try:
            with mlflow_client() as client:
                _set(client, history.model, wanted)
        except MlflowError as error:
            if not error.transient or time.monotonic() > deadline:
                raise
            time.sleep(_POLL_S)
            continue
        if wanted == {alias: history.holder(alias) for alias in (CHAMPION, CHALLENGER)}:
            return


def _set(client: MlflowClient, model: str, wanted: dict[Alias, str | None]) -> None:
    seen = _aliases(client, model)
    for alias, version in wanted.items():
        if seen.get(alias) == version:
            continue
        if version is None:
            client.delete_registered_model_alias(model, alias)
        else:
            client.set_registered_model_alias(model, alias, version)


def _aliases(client: MlflowClient, model: str) -> dict[str, str]:
    try:
        found = client.get_registered_model(model).aliases
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise MlflowError(f"there is no model {model} in MLflow; register a run first") from None
    return {str(alias): str(version) for alias, version in found.items()}


def _move(
    alias: Alias, version: str | None, before: str | None, kind: str, reason: str, by: str, run: str | None
) -> Move:
    return Move.model_validate(
        {
            "alias": alias,
            "version": version,
            "before": before,
            "kind": kind,
            "reason": " ".join(reason.split()),
            "by": by,
            "at": datetime.datetime.now(datetime.UTC),
            "run": run,
        }
    )

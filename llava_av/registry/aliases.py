"""Moves of a model's aliases: recorded in S3, so that one of several callers wins, then set in MLflow."""

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
    """Give a version an alias, unless the alias moved since the gate decided.

    Args:
        history: The record of the model's aliases.
        version: Number of the version.
        gate: The decision of the gate.
        alias: The alias.
        before: The version that had the alias when the gate decided.
        reason: Reason, in words.
        by: The actor to record.
        run: ID of the version's run.
        override: True to move the alias although the gate did not pass.

    Raises:
        PromotionError: The gate did not pass, or another version was given the alias meanwhile.
        MlflowError: The version does not exist, or MLflow does not answer; `settle` then completes the move.
    """
    if gate.passed is not True and not override:
        why = "; ".join(gate.reasons) or "no reason is given"
        state = "failed" if gate.passed is False else "was not run"
        raise PromotionError(
            f"{history.model} version {version} does not become {alias}: the gate {state}: {why}"
        )
    with mlflow_client() as client:
        existing_version(client, history.model, version=version)
    if before != version:
        kind = "promotion" if gate.passed else "override"
        move = _move(alias, version, before, kind, reason, by, run)
        history.append(move)
    settle(history)


def roll_back(history: AliasHistory, *, to: str | None, reason: str, by: str) -> Move:
    """Give `champion` back to an earlier champion.

    Args:
        history: The record of the model's aliases.
        to: Its version; the last champion before the present one if None.
        reason: Reason, in words.
        by: The actor to record.

    Raises:
        PromotionError: There is no earlier champion, `to` never was champion, or the alias moved meanwhile.
        MlflowError: The version does not exist, or MLflow does not answer.
    """
    now, target = champion_and_earlier(history, to)
    with mlflow_client() as client:
        existing_version(client, history.model, version=target)
    move = _move(CHAMPION, target, now, "rollback", reason, by, None)
    history.append(move)
    settle(history)
    return move


def champion_and_earlier(history: AliasHistory, to: str | None) -> tuple[str, str]:
    """Return the champion, and the version that a rollback would make champion.

    Raises:
        PromotionError: One of them does not exist.
    """
    moves = [move for move in history.moves() if move.alias == CHAMPION]
    now = moves[-1].version if moves else None
    if now is None:
        raise PromotionError(f"{history.model} has no champion, so nothing can be rolled back")
    # A version that a rollback replaced is worse than its predecessor: the next rollback skips it.
    left = {move.before for move in moves if move.kind == "rollback"}
    were = [move.version for move in moves if move.version not in (None, now)]
    if to is not None and to not in were:
        known = ", ".join(sorted({str(version) for version in were}, key=int)) or "none"
        raise PromotionError(
            f"version {to} of {history.model} was not champion before version {now}; these were: {known}"
        )
    target = to or next((version for version in reversed(were) if version not in left), None)
    if target is None:
        raise PromotionError(f"{history.model} had no champion before version {now}; name one with --to")
    return now, target


def withdraw(history: AliasHistory, alias: Alias, *, before: str, reason: str, by: str) -> None:
    """Remove an alias from the version that has it.

    Raises:
        PromotionError: Another version was given the alias meanwhile.
        MlflowError: MLflow does not answer.
    """
    history.append(_move(alias, None, before, "removal", reason, by, None))
    settle(history)


def adopt(history: AliasHistory, *, by: str) -> None:
    """Start the record of a model whose champion was promoted by a version without such records.

    MLflow's alias alone is not trusted: the gate.json of the version's run must say that it was promoted.

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
    """Set MLflow's aliases to those of the record, and wait for a server that restarts.

    The record is read again afterwards: if several callers do this at once, the last one to write finds the
    moves of the others, so that the newest move wins.

    Raises:
        MlflowError: MLflow refuses, or does not answer for minutes. The move stays recorded.
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
        raise MlflowError(f"MLflow has no model {model}: register a run first") from None
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

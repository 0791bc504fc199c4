"""Authoritative record of the moves of a model's aliases, which MLflow's aliases follow.

MLflow sets an alias to the version of the last request. Here each move is an object with the next number,
which is created once: if several callers move an alias at the same time, one of them gets the number, and the
others are refused.
"""

import datetime
from typing import Literal

from pydantic import Field, ValidationError

from llava_av.errors import UserError
from llava_av.frozen import FrozenModel
from llava_av.storage import ObjectStore

__all__ = ["CHALLENGER", "CHAMPION", "Alias", "AliasHistory", "Move", "PromotionError"]

Alias = Literal["champion", "challenger"]
CHAMPION: Alias = "champion"
CHALLENGER: Alias = "challenger"
_ATTEMPTS = 50


class PromotionError(UserError):
    """A model version that may not get an alias, or an alias that moved meanwhile."""


class Move(FrozenModel):
    """A move of an alias to a version, or its removal."""

    alias: Alias
    version: str | None
    """Version with the alias after the move; None for a removal."""
    before: str | None
    """Version with the alias before the move."""
    kind: Literal["found", "promotion", "rollback", "override", "removal"]
    """`found`: it had the alias when the record was started; `override`: its gate did not pass."""
    reason: str = Field(min_length=1)
    by: str = Field(min_length=1)
    """Actor who moved the alias."""
    at: datetime.datetime
    run: str | None = None
    """ID of the version's run."""

    def line(self) -> str:
        """Return the move in one line."""
        to = "no version" if self.version is None else f"version {self.version}"
        origin = "no version" if self.before is None else f"version {self.before}"
        return (
            f"{self.at:%Y-%m-%d %H:%M} {self.alias} from {origin} to {to} "
            f"({self.kind} by {self.by}): {self.reason}"
        )


class AliasHistory:
    """Moves of one registered model's aliases, oldest first."""

    def __init__(self, store: ObjectStore, model: str) -> None:
        """Use the record of a model.

        Args:
            store: Store of the record.
            model: Name of the registered model.
        """
        self.store, self.model = store, model
        self._prefix = f"models/{model}/aliases/"

    @property
    def uri(self) -> str:
        """Return the address of the moves: `s3://BUCKET/models/MODEL/aliases/`."""
        return self.store.uri(self._prefix)

    def moves(self) -> tuple[Move, ...]:
        """Return all moves, oldest first.

        Raises:
            PromotionError: A move cannot be read, or is missing in between.
        """
        keys = [info.key for info in self.store.list(self._prefix)]
        if sorted(keys) != [self._key(number) for number in range(len(keys))]:
            raise PromotionError(
                f"the record of the aliases of {self.model} has gaps ({self.uri}): "
                "restore the bucket from its backup"
            )
        return tuple(self._read(self._key(number)) for number in range(len(keys)))

    def holder(self, alias: Alias) -> str | None:
        """Return the version that has the alias; None if none has it."""
        return holder_of(self.moves(), alias)

    def holders(self) -> dict[Alias, str]:
        """Return the version of each alias, without aliases that were removed.

        Raises:
            PromotionError: A move cannot be read, or is missing in between.
        """
        moves = self.moves()
        found = {alias: holder_of(moves, alias) for alias in (CHAMPION, CHALLENGER)}
        return {alias: version for alias, version in found.items() if version is not None}

    def append(self, move: Move) -> None:
        """Append a move, if its alias is still at the version that the move starts from.

        Raises:
            PromotionError: It is not; the message names the version that has it.
        """
        for _ in range(_ATTEMPTS):
            moves = self.moves()
            holder = holder_of(moves, move.alias)
            if holder != move.before:
                raise _came_second(self.model, move, moves)
            if self.store.create_json(self._key(len(moves)), move.model_dump(mode="json")):
                return
            # After a lost answer, this very move may exist already; it must not be made twice.
            if self._read(self._key(len(moves))) == move:
                return
        raise PromotionError(f"too many callers move the aliases of {self.model} at once: try again")

    def _key(self, number: int) -> str:
        return f"{self._prefix}{number:08d}.json"

    def _read(self, key: str) -> Move:
        try:
            return Move.model_validate_json(self.store.get_sealed(key))
        except (ValidationError, ValueError):
            raise PromotionError(
                f"{self.store.uri(key)} is not the record of a move: restore it from a backup"
            ) from None


def holder_of(moves: tuple[Move, ...], alias: str) -> str | None:
    """Return the version that has the alias after these moves; None if none has it."""
    return next((move.version for move in reversed(moves) if move.alias == alias), None)


def _came_second(model: str, move: Move, moves: tuple[Move, ...]) -> PromotionError:
    last = next((other for other in reversed(moves) if other.alias == move.alias), None)
    seen = "no version" if move.before is None else f"version {move.before}"
    now = "nobody has it" if last is None else f"{last.line()}"
    return PromotionError(
        f"version {move.version} of {model} does not become {move.alias}: it was judged against {seen}, and "
        f"another came first: {now}; promote again to judge it against that version",
        # A pipeline's step retries this and applies the gate again.
        transient=True,
    )

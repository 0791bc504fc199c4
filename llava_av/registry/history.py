"""The record of who moved a model's aliases, when and why: it decides, and MLflow's aliases follow it.

MLflow sets an alias to whatever was asked last. Here each move is an object of the next number, created once:
of several that are made at the same time one is the next, and the others learn that they were not.
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
    """A model version that may not get an alias, or one that another was given meanwhile."""


class Move(FrozenModel):
    """One alias given to a version, or taken away."""

    alias: Alias
    version: str | None
    """The version that has it from now on; None if it is taken away."""
    before: str | None
    """The version that had it until now."""
    kind: Literal["found", "promotion", "rollback", "override", "removal"]
    """`found`: was there when the record began; `override`: although its gate did not pass."""
    reason: str = Field(min_length=1)
    by: str = Field(min_length=1)
    """Who did it."""
    at: datetime.datetime
    run: str | None = None
    """Key of the run of the version."""

    def line(self) -> str:
        """The move in one line."""
        to = "no version" if self.version is None else f"version {self.version}"
        origin = "no version" if self.before is None else f"version {self.before}"
        return (
            f"{self.at:%Y-%m-%d %H:%M} {self.alias} from {origin} to {to} "
            f"({self.kind} by {self.by}): {self.reason}"
        )


class AliasHistory:
    """The moves of one registered model's aliases, oldest first."""

    def __init__(self, store: ObjectStore, model: str) -> None:
        """Name the record.

        Args:
            store: where it is kept.
            model: name of the registered model.
        """
        self.store, self.model = store, model
        self._prefix = f"models/{model}/aliases/"

    @property
    def uri(self) -> str:
        """Where the moves are: `s3://BUCKET/models/MODEL/aliases/`."""
        return self.store.uri(self._prefix)

    def moves(self) -> tuple[Move, ...]:
        """All moves.

        Raises:
            PromotionError: one cannot be read, or is missing in between.
        """
        keys = [info.key for info in self.store.list(self._prefix)]
        if sorted(keys) != [self._key(number) for number in range(len(keys))]:
            raise PromotionError(
                f"the record of the aliases of {self.model} has gaps ({self.uri}): "
                "restore the bucket from its backup"
            )
        return tuple(self._read(self._key(number)) for number in range(len(keys)))

    def holder(self, alias: Alias) -> str | None:
        """The version that has the alias."""
        return holder_of(self.moves(), alias)

    def holders(self) -> dict[Alias, str]:
        """The version that each alias has now; aliases that were taken away are left out.

        Raises:
            PromotionError: a move cannot be read, or is missing in between.
        """
        moves = self.moves()
        found = {alias: holder_of(moves, alias) for alias in (CHAMPION, CHALLENGER)}
        return {alias: version for alias, version in found.items() if version is not None}

    def append(self, move: Move) -> None:
        """Adds a move, if the alias is still where the move starts from.

        Raises:
            PromotionError: it is not; the text says who has it.
        """
        for _ in range(_ATTEMPTS):
            moves = self.moves()
            holder = holder_of(moves, move.alias)
            if holder != move.before:
                raise _came_second(self.model, move, moves)
            if self.store.create_json(self._key(len(moves)), move.model_dump(mode="json")):
                return
            # An answer that was lost leaves this very move there; it must not be made twice.
            if self._read(self._key(len(moves))) == move:
                return
        raise PromotionError(f"the aliases of {self.model} are being moved by many at once: try again")

    def _key(self, number: int) -> str:
        return f"{self._prefix}{number:08d}.json"

    def _read(self, key: str) -> Move:
        try:
            return Move.model_validate_json(self.store.get_sealed(key))
        except (ValidationError, ValueError):
            raise PromotionError(
                f"{self.store.uri(key)} is no record of a promotion: restore it from a backup"
            ) from None


def holder_of(moves: tuple[Move, ...], alias: str) -> str | None:
    """The version that has the alias after these moves."""
    return next((move.version for move in reversed(moves) if move.alias == alias), None)


def _came_second(model: str, move: Move, moves: tuple[Move, ...]) -> PromotionError:
    last = next((other for other in reversed(moves) if other.alias == move.alias), None)
    seen = "no version" if move.before is None else f"version {move.before}"
    now = "nobody has it" if last is None else f"{last.line()}"
    return PromotionError(
        f"version {move.version} of {model} does not become {move.alias}: it was judged against {seen}, and "
        f"another came first: {now}; judge it against that one and promote again if it is meant",
        # A pipeline's step judges it again by itself.
        transient=True,
    )

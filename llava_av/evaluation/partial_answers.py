"""Answers as they come, kept in S3 in parts, so that what was asked once is never asked again."""

import hashlib
from typing import Any

from llava_av.evaluation.answers import EvaluationError, Prediction
from llava_av.frozen import FrozenModel
from llava_av.storage import ObjectStore, map_parallel

__all__ = ["Cost", "Part", "Parts", "total_cost"]


class Cost(FrozenModel):
    """What asking took; an input that several questions share is asked and counted once."""

    seconds: float = 0.0
    """Time of the model, of all processes together."""
    prompt_tokens: int = 0
    """Tokens that the model read, media included, padding not."""
    new_tokens: int = 0
    """Tokens that it wrote."""

    def to_json(self, *, processes: int) -> dict[str, Any]:
        """The layout of `cost` in evaluation.json, with the tokens a second of one process."""
        tokens = self.prompt_tokens + self.new_tokens
        rate = round(tokens / self.seconds, 1) if self.seconds else None
        fields = {**self.model_dump(), "seconds": round(self.seconds, 3)}
        return {**fields, "tokens_per_s": rate, "processes": processes}


class Part(FrozenModel):
    """The answers of one batch under one ablation."""

    predictions: tuple[Prediction, ...]
    cost: Cost


class Parts:
    """The parts of one evaluation. Those of other work are in places of their own and never mixed in."""

    def __init__(self, store: ObjectStore, prefix: str, identity: str) -> None:
        """Keep parts below `prefix`, a key that ends in `/`.

        Args:
            store: Where.
            prefix: Of the evaluation.
            identity: Of its work, see `EvaluationWork.identity`.
        """
        self._store = store
        self._prefix = f"{prefix}parts/{identity[:16]}/"

    def keep(self, part: Part) -> None:
        """Put a part; it is there whole or not at all."""
        asked = "\n".join(f"{item.ablation} {item.id}" for item in part.predictions)
        name = hashlib.sha256(asked.encode()).hexdigest()[:24]
        self._store.put_json(f"{self._prefix}{name}.json", part.model_dump(mode="json"))

    def read(self) -> list[Part]:
        """Every part that is there, in the order of their keys."""
        keys = [info.key for info in self._store.list(self._prefix)]
        return map_parallel(self._read, keys)

    def clear(self) -> None:
        """Delete all parts, once what they hold is kept elsewhere."""
        map_parallel(self._store.delete, [info.key for info in self._store.list(self._prefix)])

    def _read(self, key: str) -> Part:
        try:
            return Part.model_validate_json(self._store.get_sealed(key))
        except ValueError:
            raise EvaluationError(
                f"{self._store.uri(key)} holds no answers of an evaluation; delete it and evaluate again"
            ) from None


def total_cost(parts: list[Part]) -> Cost:
    """The cost of all of them."""
    return Cost(
        seconds=sum(part.cost.seconds for part in parts),
        prompt_tokens=sum(part.cost.prompt_tokens for part in parts),
        new_tokens=sum(part.cost.new_tokens for part in parts),
    )

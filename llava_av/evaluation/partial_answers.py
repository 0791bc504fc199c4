"""Answers of an unfinished evaluation in S3, so that a restarted job asks only what is missing."""

import hashlib
from collections.abc import Sequence

from llava_av.evaluation.scoring import EvaluationError
from llava_av.runs import AnswerPart, AskingCost, EvaluationCost
from llava_av.runs.names import parts_place
from llava_av.storage import ObjectStore, map_parallel

__all__ = ["Parts", "evaluation_cost"]


class Parts:
    """Parts of one evaluation. Each evaluation request has its own prefix in S3, so parts never mix."""

    def __init__(self, store: ObjectStore, prefix: str, identity: str) -> None:
        """Use the parts of a request with this identity, below a prefix that ends in `/`."""
        self._store = store
        self._prefix = f"{prefix}{parts_place(identity)}"

    def keep(self, part: AnswerPart) -> None:
        """Write a part atomically."""
        asked = "\n".join(f"{item.ablation} {item.id}" for item in part.predictions)
        name = hashlib.sha256(asked.encode()).hexdigest()[:24]
        self._store.put_json(f"{self._prefix}{name}.json", part.to_json())

    def read(self) -> list[AnswerPart]:
        """Return all parts, in the order of their keys."""
        keys = [info.key for info in self._store.list(self._prefix)]
        return map_parallel(self._read, keys)

    def clear(self) -> None:
        """Delete all parts after the whole evaluation is written."""
        map_parallel(self._store.delete, [info.key for info in self._store.list(self._prefix)])

    def _read(self, key: str) -> AnswerPart:
        try:
            return AnswerPart.model_validate_json(self._store.get_sealed(key))
        except ValueError:
            raise EvaluationError(
                f"cannot read {self._store.uri(key)}, which does not contain answers: delete it, then "
                "evaluate again"
            ) from None


def evaluation_cost(parts: Sequence[AnswerPart], *, processes: int) -> EvaluationCost:
    """Return the cost of all parts, with the tokens per second of one process."""
    costs = [part.cost for part in parts]
    total = AskingCost(
        seconds=sum(cost.seconds for cost in costs),
        prompt_tokens=sum(cost.prompt_tokens for cost in costs),
        new_tokens=sum(cost.new_tokens for cost in costs),
    )
    tokens = total.prompt_tokens + total.new_tokens
    return EvaluationCost(
        seconds=round(total.seconds, 3),
        prompt_tokens=total.prompt_tokens,
        new_tokens=total.new_tokens,
        tokens_per_s=round(tokens / total.seconds, 1) if total.seconds else None,
        processes=processes,
    )

"""Score of one reply: its parsed answer compared with the correct answer."""

import math
from collections.abc import Sequence

from llava_av.errors import UserError
from llava_av.evaluation.reply_parsing import RULES
from llava_av.runs import Prediction

__all__ = ["EvaluationError", "score"]


class EvaluationError(UserError):
    """Predictions that cannot be scored: the model diverged, or they answer different questions."""


def score(
    *,
    sample_id: str,
    ablation: str,
    kind: str,
    question: str,
    choices: Sequence[str],
    answer: str,
    reply: str,
    loss: float,
    clip: str | None,
    modalities: str = "",
    rule: str = "choice",
) -> Prediction:
    """Score one reply; the arguments are the fields of `Prediction` and the name of a rule in `RULES`.

    Raises:
        EvaluationError: The loss is not finite.
    """
    if not math.isfinite(loss):
        raise EvaluationError(
            f"sample {sample_id}, {ablation}: the loss of the correct answer is {loss}, not finite, because "
            "the model diverged: train again with a lower optimizer.learning_rate"
        )
    parser = RULES[rule]
    parsed = parser.parse(reply, choices)
    wanted = parser.resolve(answer, choices) or answer
    return Prediction(
        id=sample_id,
        ablation=ablation,
        kind=kind,
        question=question,
        choices=tuple(choices),
        answer=wanted,
        reply=reply,
        parsed=parsed,
        correct=parsed is not None and parser.answers(parsed, wanted, choices),
        loss=loss,
        clip=clip,
        modalities=modalities,
    )

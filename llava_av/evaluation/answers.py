"""What a model replied, which choice that is, and whether it is right."""

import math
from collections.abc import Sequence

from pydantic import ConfigDict

from llava_av.datasets.schema import family
from llava_av.errors import UserError
from llava_av.evaluation.parsing import RULES
from llava_av.frozen import FrozenModel

__all__ = ["EvaluationError", "Prediction", "score"]


class EvaluationError(UserError):
    """Predictions that cannot be judged: of a model that diverged, or not of the same questions."""


class Prediction(FrozenModel):
    """One question under one ablation: one line of `predictions.jsonl`."""

    model_config = ConfigDict(allow_inf_nan=False)

    id: str
    """Id of the sample."""
    ablation: str
    """Name of the ablation under which the model was asked."""
    kind: str
    """Kind of the question, such as `joint_colour`; `all` where a sample states none."""
    question: str
    """The question as a reader sees it, without placeholders."""
    choices: tuple[str, ...] = ()
    """The allowed answers; empty for an open question."""
    answer: str
    """The right answer."""
    reply: str
    """The model's text, as generated."""
    parsed: str | None
    """The answer found in `reply`; None if there is none."""
    correct: bool
    """Whether `parsed` is `answer`."""
    loss: float
    """Mean negative log-likelihood of the right answer's tokens, in nats a token."""
    clip: str | None = None
    """Path of the clip within the dataset; None for a sample without media."""
    modalities: str = ""
    """What the sample holds when nothing is removed, such as `video_audio`; empty where it was not noted."""

    @property
    def family(self) -> str:
        """The family of `kind`."""
        return family(self.kind)

    def to_json_line(self) -> str:
        """The prediction as one line of JSON with its newline."""
        return self.model_dump_json() + "\n"


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
    """Judges one reply; the arguments are the fields of `Prediction`, and the name of a rule of `RULES`.

    Raises:
        EvaluationError: the loss is not finite.
    """
    if not math.isfinite(loss):
        raise EvaluationError(
            f"sample {sample_id}, {ablation}: the loss of the right answer is {loss}: the model diverged; "
            "train it again with a lower optimizer.learning_rate"
        )
    reads = RULES[rule]
    parsed = reads.parse(reply, choices)
    wanted = reads.resolve(answer, choices) or answer
    return Prediction(
        id=sample_id,
        ablation=ablation,
        kind=kind,
        question=question,
        choices=tuple(choices),
        answer=wanted,
        reply=reply,
        parsed=parsed,
        correct=parsed is not None and reads.answers(parsed, wanted, choices),
        loss=loss,
        clip=clip,
        modalities=modalities,
    )

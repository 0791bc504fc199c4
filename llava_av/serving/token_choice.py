"""Choice of the next token of each row, by the settings of its request."""

from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from llava_av.serving.engine import Sampling

__all__ = ["TokenChoice", "end_tokens"]

# Divided by less, logits overflow; only the largest one has a chance anyway.
_COLDEST = 1e-3


def end_tokens(generation: GenerationConfig) -> frozenset[int]:
    """Return the tokens that end a reply."""
    given = generation.eos_token_id
    return frozenset() if given is None else frozenset([given] if isinstance(given, int) else given)


class TokenChoice:
    """Choice of one reply's tokens; equal seeds give equal tokens, whatever else is in the batch.

    Args:
        sampling: Settings of the request.
        generation: Settings of the model, for its repetition penalty.
        device: Device of the logits.
    """

    def __init__(self, sampling: Sampling, generation: GenerationConfig, device: torch.device) -> None:
        steps = LogitsProcessorList()
        penalty = generation.repetition_penalty
        if penalty not in (None, 1.0):
            steps.append(RepetitionPenaltyLogitsProcessor(penalty=float(penalty)))
        self._generator: torch.Generator | None = None
        if sampling.temperature >= _COLDEST:
            steps.append(TemperatureLogitsWarper(sampling.temperature))
            if sampling.top_p < 1:
                steps.append(TopPLogitsWarper(sampling.top_p))
            self._generator = torch.Generator(device)
            if sampling.seed is None:
                self._generator.seed()
            else:
                self._generator.manual_seed(sampling.seed)
        self._steps = steps

    @property
    def is_plain(self) -> bool:
        """Return whether the choice is the largest logit."""
        return not self._steps

    def choose(self, logits: Tensor, read: list[int]) -> int:
        """Return the next token.

        Args:
            logits: `[vocabulary]`.
            read: Tokens of the prompt and of the reply so far.
        """
        tokens: Any = torch.tensor([read], device=logits.device)
        scores: Any = logits[None]
        scores = self._steps(tokens, scores)
        if self._generator is None:
            return int(scores.argmax())
        return int(torch.multinomial(scores.softmax(-1), 1, generator=self._generator))

"""Replies of a model to batches of questions, and its loss on each correct answer."""

import time
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass, field

import torch

from llava_av.evaluation.ablations import apply_ablation
from llava_av.evaluation.question_batches import Question
from llava_av.evaluation.scoring import score
from llava_av.evaluation.shuffling import with_audio_of
from llava_av.inference.generation import generate_replies, move_batch
from llava_av.media.clip import Clip
from llava_av.model import LlavaAvForConditionalGeneration, LlavaAvProcessor
from llava_av.runs import AnswerPart, AskingCost
from llava_av.vocabulary import Ablation

__all__ = ["AnswerCache", "Answerer"]

_Turns = tuple[tuple[str, str], ...]
_Input = tuple[_Turns, Clip]


@dataclass
class AnswerCache:
    """Replies and losses for the inputs of one batch, so that the model gets equal inputs only once.

    Questions about different clips are often equal once the clip is removed, and a sample without audio is
    the same under every ablation that removes audio only.
    """

    losses: dict[Hashable, float] = field(default_factory=dict)
    replies: dict[Hashable, str] = field(default_factory=dict)


class Answerer:
    """A model that answers batches of questions."""

    def __init__(
        self,
        model: LlavaAvForConditionalGeneration,
        processor: LlavaAvProcessor,
        *,
        max_new_tokens: int,
        rule: str,
    ) -> None:
        """Use a model on its current device.

        Args:
            model: The model, in eval mode.
            processor: The processor of the model.
            max_new_tokens: Maximum number of tokens of a reply.
            rule: Name of the rule in `RULES` that parses replies.
        """
        self._model, self._processor = model, processor
        self._max_new_tokens, self._rule = max_new_tokens, rule

    @torch.inference_mode()
    def answer(self, questions: Sequence[Question], ablation: Ablation, cache: AnswerCache) -> AnswerPart:
        """Answer every question under one ablation.

        Args:
            questions: Questions of one batch.
            ablation: Modalities to keep or exchange.
            cache: Results for earlier inputs about the same clips; this call adds its own.

        Raises:
            EvaluationError: A loss is not finite.
        """
        started = time.monotonic()
        inputs = [self._input(question, ablation) for question in questions]
        keys = [_key(turns, clip) for turns, clip in inputs]
        prompts = [(turns[:-1], clip) for turns, clip in inputs]
        prompt_keys = [_key(turns, clip) for turns, clip in prompts]
        read = self._add_losses(_missing(keys, inputs, cache.losses), cache)
        more_read, written = self._add_replies(_missing(prompt_keys, prompts, cache.replies), cache)
        predictions = tuple(
            score(
                sample_id=question.sample.id,
                ablation=ablation,
                kind=question.sample.kind,
                question=question.text,
                choices=question.sample.choices,
                answer=question.answer,
                reply=cache.replies[prompt_key],
                loss=cache.losses[key],
                clip=next(iter(question.sample.media), None),
                modalities=question.clip.modalities(),
                rule=self._rule,
            )
            for question, key, prompt_key in zip(questions, keys, prompt_keys, strict=True)
        )
        seconds = time.monotonic() - started
        cost = AskingCost(seconds=seconds, prompt_tokens=read + more_read, new_tokens=written)
        return AnswerPart(predictions=predictions, cost=cost)

    def _add_losses(self, inputs: dict[Hashable, _Input], cache: AnswerCache) -> int:
        """Add the mean loss per token of each last answer, in nats; return the number of prompt tokens."""
        if not inputs:
            return 0
        encoded = [self._processor.encode(turns, clip, last_only=True) for turns, clip in inputs.values()]
        batch = move_batch(self._processor.collate(encoded), self._model.device)
        output = self._model(**batch)
        losses = (output.loss_sums / output.loss_counts).tolist()
        cache.losses.update(zip(inputs, losses, strict=True))
        return int(batch["attention_mask"].sum())

    def _add_replies(self, prompts: dict[Hashable, _Input], cache: AnswerCache) -> tuple[int, int]:
        """Add the reply to each prompt; return the numbers of prompt tokens and of generated tokens."""
        if not prompts:
            return 0, 0
        encoded = [self._processor.encode(turns, clip, reply=True) for turns, clip in prompts.values()]
        replies = generate_replies(self._model, self._processor, encoded, max_new_tokens=self._max_new_tokens)
        cache.replies.update(zip(prompts, replies.texts, strict=True))
        return replies.prompt_tokens, replies.new_tokens

    def _input(self, question: Question, ablation: Ablation) -> _Input:
        """Return the input of the model, without modalities that it does not support."""
        clip = question.clip
        if ablation is Ablation.SHUFFLED_AUDIO and question.lender is not None:
            clip = with_audio_of(clip, question.lender)
        turns, clip = apply_ablation(ablation, question.turns, clip)
        return turns, self._processor.supported_media(clip)


def _missing(
    keys: Sequence[Hashable], inputs: Sequence[_Input], known: Collection[Hashable]
) -> dict[Hashable, _Input]:
    """Return the inputs without a known result, each once."""
    return {key: one for key, one in zip(keys, inputs, strict=True) if key not in known}


def _key(turns: _Turns, clip: Clip) -> Hashable:
    """Return a key from the text and the identities of the arrays, which live as long as the batch."""
    videos = (
        (len(video.frames_nhwc) and id(video.frames_nhwc), video.audio is not None and id(video.audio))
        for video in clip.videos
    )
    return (turns, *videos, *map(id, clip.audios), None, *map(id, clip.images_nhwc))

"""Engine that decodes all requests in one batch, which they join and leave between two steps.

One thread alternates between reading the prompt of one waiting request and one decoding step of all rows, so
a new request delays the others by one prompt at most. Greedy replies are those of `generate_replies`.
"""

import itertools
import logging
import threading
from collections import deque
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import DynamicCache

from llava_av.errors import UserError
from llava_av.inference.devices import require_working
from llava_av.inference.generation import move_batch
from llava_av.model import Encoded, LlavaAvForConditionalGeneration, LlavaAvProcessor, MediaInputs
from llava_av.serving.engine import (
    Deliver,
    EngineEndedError,
    ReplyEnd,
    ReplyFailure,
    ReplyPiece,
    Sampling,
)
from llava_av.serving.reply_text import ReplyText
from llava_av.serving.slot_cache import SlotCache, require_slots, token_bytes
from llava_av.serving.token_choice import TokenChoice, end_tokens

__all__ = ["SlotEngine"]

_LOG = logging.getLogger(__name__)


@dataclass(kw_only=True)
class _Request:
    number: int
    prompt: Encoded
    sampling: Sampling
    deliver: Deliver
    choice: TokenChoice
    text: ReplyText
    tokens: list[int] = field(default_factory=list)
    """Tokens of the reply."""


class SlotEngine:
    """Continuous batching with a fixed number of slots.

    Args:
        model: Model in eval mode, on its device.
        processor: Processor of the model.
        slots: Maximum requests in the batch.
        context: Maximum tokens of a prompt and its reply; the model's own limit if that is lower.

    Raises:
        UserError: The engine does not support the model, or the memory for keys and values is not there.
    """

    def __init__(
        self,
        model: LlavaAvForConditionalGeneration,
        processor: LlavaAvProcessor,
        *,
        slots: int,
        context: int,
    ) -> None:
        text_config = processor.config.text_config
        require_slots(text_config)
        self.context = min(context, getattr(text_config, "max_position_embeddings", None) or context)
        self._model, self._processor, self._slots = model, processor, slots
        self._ends = end_tokens(model.generation_config)
        self._cache = self._allocated()
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._waiting: deque[_Request] = deque()
        self._rows: list[_Request] = []
        self._cancelled: set[int] = set()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, prompt: Encoded, sampling: Sampling, deliver: Deliver) -> int:
        """Queue a prompt; see `ReplyEngine.submit`.

        Raises:
            ValueError: Prompt and reply exceed `context`.
            EngineEndedError: The engine has ended.
        """
        needed = len(prompt.input_ids) + sampling.max_tokens
        if needed > self.context:
            raise ValueError(f"prompt and reply need {needed} tokens, must be ≤ context={self.context}")
        with self._changed:
            if self._closed:
                raise EngineEndedError("the engine is closed or has failed")
            request = _Request(
                number=next(self._numbers),
                prompt=prompt,
                sampling=sampling,
                deliver=deliver,
                choice=TokenChoice(sampling, self._model.generation_config, self._model.device),
                text=ReplyText(self._processor.tokenizer, sampling.stop),
            )
            self._waiting.append(request)
            self._changed.notify()
        return request.number

    def cancel(self, request: int) -> None:
        """End a request before the next step."""
        with self._changed:
            self._waiting = deque(one for one in self._waiting if one.number != request)
            if any(one.number == request for one in self._rows):
                self._cancelled.add(request)

    def is_alive(self) -> bool:
        """Return whether the engine's thread runs."""
        return self._thread.is_alive()

    def load(self) -> tuple[int, int]:
        """Return the numbers of requests that wait and that are in the batch."""
        return len(self._waiting), len(self._rows)

    def close(self) -> None:
        """End all requests and wait for the engine's thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    @torch.inference_mode()
    def _allocated(self) -> SlotCache:
        """Allocate the memory of all slots now, so that no request fails for it later."""
        token = torch.zeros(1, 1, dtype=torch.int64, device=self._model.device)
        _, first = self._prefilled(self._model.get_input_embeddings()(token))
        size = f"{token_bytes(first) * self._slots * self.context / 1e9:,.2f} GB"
        needed = f"keys and values of batch={self._slots} requests of context={self.context} tokens"
        try:
            cache = SlotCache(first, self._slots, self.context)
        except RuntimeError:
            raise UserError(
                f"{needed} need {size}, which {self._model.device} does not have: set --limit batch or "
                "--limit context lower"
            ) from None
        _LOG.info("%s: %s", needed, size)
        return cache

    @torch.inference_mode()
    def _run(self) -> None:
        try:
            while self._has_work():
                self._drop_cancelled()
                try:
                    self._join_next()
                    if self._rows:
                        self._step()
                except Exception as error:
                    _LOG.exception("a decoding step failed; its %d requests end", len(self._rows))
                    self._fail_all(error)
                    require_working(self._model.device)
        except Exception:
            _LOG.exception("the engine ends: its device has failed; start the server again")
        finally:
            self._end()

    def _end(self) -> None:
        """Refuse further requests, and end all that run or wait."""
        with self._changed:
            self._closed = True
            left = (*self._rows, *self._waiting)
            self._rows, self._waiting = [], deque()
        for request in left:
            request.deliver(ReplyFailure(error=EngineEndedError("the engine has ended")))

    def _has_work(self) -> bool:
        """Wait for requests; return False when the engine is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting or self._rows)
            return not self._closed

    def _drop_cancelled(self) -> None:
        with self._changed:
            cancelled, self._cancelled = self._cancelled, set()
        for row in reversed(range(len(self._rows))):
            if self._rows[row].number in cancelled:
                self._leave(row)

    def _join_next(self) -> None:
        """Read the prompt of the request that waits longest, if there is a slot."""
        with self._changed:
            if not self._waiting or len(self._rows) == self._slots:
                return
            # `cancel` finds it in one of both places
            request = self._waiting.popleft()
            self._rows.append(request)
        try:
            logits, cache = self._read_prompt(request.prompt)
            self._cache.append(cache)
        except Exception as error:
            _LOG.exception("a prompt failed; the other requests continue")
            with self._changed:
                self._rows.pop()
            request.deliver(ReplyFailure(error=error))
            require_working(self._model.device)
            return
        self._accept(logits, first=len(self._rows) - 1)

    def _read_prompt(self, prompt: Encoded) -> tuple[Tensor, DynamicCache]:
        batch = move_batch(self._processor.collate([prompt]), self._model.device)
        media = MediaInputs.from_arguments({name: batch.get(name) for name in MediaInputs.names()})
        return self._prefilled(self._model.embed(batch["input_ids"], media))

    def _prefilled(self, embeddings: Tensor) -> tuple[Tensor, DynamicCache]:
        """Return the logits after a prompt, and its keys and values."""
        cache = DynamicCache(config=self._processor.config.text_config)
        output = self._model(
            inputs_embeds=embeddings, past_key_values=cache, use_cache=True, logits_to_keep=1
        )
        return output.logits[:, -1], cache

    def _step(self) -> None:
        """Decode one token of each row."""
        last = torch.tensor([[request.tokens[-1]] for request in self._rows], device=self._model.device)
        embeddings = self._model.get_input_embeddings()(last)
        room = self._cache.advance(embeddings.device, embeddings.dtype)
        output = self._model(inputs_embeds=embeddings, past_key_values=self._cache, use_cache=True, **room)
        self._accept(output.logits[:, -1])

    def _accept(self, logits: Tensor, *, first: int = 0) -> None:
        """Choose a token for each row from `first` on; rows that end leave the batch."""
        logits = logits.float()
        largest, overflowed = logits.argmax(-1).tolist(), logits.isnan().any(-1).tolist()
        for row in reversed(range(first, len(self._rows))):
            request, scores = self._rows[row], logits[row - first]
            try:
                if overflowed[row - first]:
                    raise ArithmeticError("a logit is not a number: the activations of the model overflowed")
                ends = self._continue(request, largest[row - first], scores)
            except Exception as error:
                _LOG.exception("the choice of a token failed; the other requests continue")
                self._cache.clear(row)
                request.deliver(ReplyFailure(error=error))
                ends = True
            if ends:
                self._leave(row)

    def _continue(self, request: _Request, largest: int, scores: Tensor) -> bool:
        """Add the next token to a reply; return whether the reply ends."""
        token = largest
        if not request.choice.is_plain:
            token = request.choice.choose(scores, [*request.prompt.input_ids, *request.tokens])
        request.tokens.append(token)
        return self._passes_on(request, token)

    def _passes_on(self, request: _Request, token: int) -> bool:
        """Deliver what a token adds to a reply; return whether the reply ends."""
        ended = token in self._ends
        text = "" if ended else request.text.add(token)
        full = len(request.tokens) == request.sampling.max_tokens
        if (ended or full) and not request.text.stopped:
            text += request.text.end()
        if text:
            request.deliver(ReplyPiece(text=text))
        stopped = ended or request.text.stopped
        if stopped or full:
            reason = ReplyEnd(reason="stop" if stopped else "length", completion_tokens=len(request.tokens))
            request.deliver(reason)
        return stopped or full

    def _leave(self, row: int) -> None:
        """Remove a row; the last one takes its place."""
        self._cache.remove(row)
        with self._changed:
            self._rows[row] = self._rows[-1]
            self._rows.pop()

    def _fail_all(self, error: Exception) -> None:
        with self._changed:
            failed, self._rows = self._rows, []
        self._cache.lengths = []
        for request in failed:
            request.deliver(ReplyFailure(error=error))

"""Replies of the engine, compared with those of `generate_replies` for each prompt alone."""

import logging
import queue
import threading
from collections.abc import Iterator

import pytest
import torch

from llava_av.errors import UserError
from llava_av.inference.generation import encode_prompt, generate_replies
from llava_av.media.clip import Clip
from llava_av.model import Encoded
from llava_av.serving import slot_engine
from llava_av.serving.engine import EngineEndedError, ReplyEnd, ReplyEvent, ReplyFailure, ReplyPiece, Sampling
from llava_av.serving.slot_engine import SlotEngine
from tests.model_samples import clip, image, tiny_model, waveform
from tests.server_processes import wait_until

TOKENS = 24
MEDIA = (
    clip(0),
    Clip(),
    Clip(audios=(waveform(1),)),
    Clip(images_nhwc=(image(2),)),
    clip(3, samples=None, frames=2),
    clip(4, samples=9_000),
    Clip(),
)
QUESTIONS = ("Which colour is shown?", "What?", "What do you hear?")


class Asked:
    """A request, and the events that it gets."""

    def __init__(self, engine: SlotEngine, prompt: Encoded, **sampling) -> None:
        self._events: queue.Queue[ReplyEvent] = queue.Queue()
        self.number = engine.submit(prompt, Sampling(**{"max_tokens": TOKENS, **sampling}), self._events.put)

    def next(self) -> ReplyEvent:
        return self._events.get(timeout=60)

    def reply(self) -> tuple[str, ReplyEnd]:
        text = ""
        while isinstance(event := self.next(), ReplyPiece):
            text += event.text
        assert isinstance(event, ReplyEnd), event
        return text, event


@pytest.fixture(scope="module")
def prompts(parts) -> list[Encoded]:
    _, processor = parts
    return [
        encode_prompt(processor, [("human", QUESTIONS[number % 3])], media, max_new_tokens=TOKENS)
        for number, media in enumerate(MEDIA)
    ]


@pytest.fixture(scope="module")
def alone(parts, prompts) -> list[str]:
    return [generate_replies(*parts, [prompt], max_new_tokens=TOKENS).texts[0] for prompt in prompts]


@pytest.fixture(scope="module")
def engine(parts) -> Iterator[SlotEngine]:
    made = SlotEngine(*parts, slots=3, context=512)
    yield made
    made.close()


def test_mixed_requests_that_join_and_leave_get_the_replies_of_each_alone(engine, prompts, alone):
    lengths = [TOKENS - 3 * (number % 4) for number in range(len(prompts))]
    asked = [Asked(engine, prompt, max_tokens=most) for prompt, most in zip(prompts, lengths, strict=True)]
    for one, most, expected in zip(asked, lengths, alone, strict=True):
        text, end = one.reply()
        assert end == ReplyEnd(reason="length", completion_tokens=most)
        assert (
            text == expected
            if most == TOKENS
            else expected.startswith(text.rstrip("\N{REPLACEMENT CHARACTER}"))
        )
    assert engine.load() == (0, 0)


def test_a_seed_gives_the_same_reply_alone_and_in_a_batch(engine, prompts):
    seeded = {"temperature": 1.0, "top_p": 0.9, "seed": 7}
    first = Asked(engine, prompts[0], **seeded).reply()
    batch = [Asked(engine, prompt, temperature=1.0) for prompt in prompts[1:3]]
    again = Asked(engine, prompts[0], **seeded).reply()
    assert first == again
    assert Asked(engine, prompts[0], **{**seeded, "seed": 8}).reply() != first
    for one in batch:
        one.reply()


def test_a_tiny_top_p_is_greedy(engine, prompts, alone):
    text, _ = Asked(engine, prompts[1], temperature=2.0, top_p=1e-6).reply()
    assert text == alone[1]


@pytest.mark.parametrize("temperature", [1e-300, 1e-3])
def test_the_coldest_temperatures_are_greedy(engine, prompts, alone, temperature):
    text, _ = Asked(engine, prompts[1], temperature=temperature).reply()
    assert text == alone[1]


def test_a_stop_text_ends_a_reply_and_is_not_part_of_it(engine, prompts, alone):
    stop = alone[1][4:7]
    text, end = Asked(engine, prompts[1], stop=("never occurs", stop)).reply()
    assert text == alone[1][: alone[1].index(stop)]
    assert end.reason == "stop"
    assert end.completion_tokens < TOKENS


def test_the_models_end_token_ends_a_reply(parts, prompts):
    model, processor = parts
    batch = processor.collate([prompts[1]])
    del batch["labels"]
    with torch.no_grad():
        output = model.generate(**batch, max_new_tokens=TOKENS, do_sample=False)
    new = output[0, len(prompts[1].input_ids) :].tolist()
    end_token = new[5]
    before = model.generation_config.eos_token_id
    model.generation_config.eos_token_id = [end_token]
    try:
        ended = SlotEngine(model, processor, slots=1, context=512)
        _, end = Asked(ended, prompts[1]).reply()
        ended.close()
    finally:
        model.generation_config.eos_token_id = before
    assert end == ReplyEnd(reason="stop", completion_tokens=new.index(end_token) + 1)


def test_cancelled_requests_leave_the_batch_and_the_queue(parts, prompts, alone):
    engine = SlotEngine(*parts, slots=1, context=2_048)
    running = Asked(engine, prompts[1], max_tokens=1_900)
    running.next()
    waiting, last = Asked(engine, prompts[1]), Asked(engine, prompts[1])
    engine.cancel(waiting.number)
    engine.cancel(running.number)
    assert last.reply()[0] == alone[1]
    assert engine.load() == (0, 0)
    engine.cancel(last.number)  # has ended: nothing happens
    engine.close()


def test_a_prompt_that_fails_does_not_disturb_the_others(engine, prompts, alone):
    broken = Encoded(
        input_ids=prompts[0].input_ids, labels=prompts[0].labels, frames_nhwc=[], images_nhwc=[], audios=[]
    )
    asked = [Asked(engine, prompts[1]), Asked(engine, broken), Asked(engine, prompts[2])]
    assert asked[0].reply()[0] == alone[1]
    assert isinstance(asked[1].next(), ReplyFailure)
    assert asked[2].reply()[0] == alone[2]


def test_a_request_that_overflows_fails_and_its_slot_does_not_spoil_others(
    monkeypatch, parts, prompts, alone
):
    model, _ = parts
    embed, long = model.embed, len(prompts[0].input_ids)

    def overflowing(input_ids: torch.Tensor, media: object) -> torch.Tensor:
        embeddings = embed(input_ids, media)
        return embeddings * torch.nan if input_ids.shape[1] == long else embeddings

    monkeypatch.setattr(model, "embed", overflowing)
    engine = SlotEngine(*parts, slots=2, context=512)
    failed = [Asked(engine, prompts[0]) for _ in range(2)]
    assert all(isinstance(one.next(), ReplyFailure) for one in failed)
    asked = [Asked(engine, prompts[number]) for number in (1, 2)]
    assert [one.reply()[0] for one in asked] == alone[1:3]
    engine.close()


def test_closing_ends_what_runs_and_refuses_more(parts, prompts):
    engine = SlotEngine(*parts, slots=1, context=2_048)
    asked = [Asked(engine, prompts[1], max_tokens=1_900) for _ in range(2)]
    asked[0].next()
    engine.close()
    assert isinstance(asked[1].next(), ReplyFailure)
    assert not engine.is_alive()
    with pytest.raises(EngineEndedError):
        Asked(engine, prompts[1])


def test_prompt_and_reply_must_fit_the_context(engine, prompts):
    room = 512 - len(prompts[1].input_ids)
    with pytest.raises(ValueError, match="need 513 tokens, must be ≤ context=512"):
        Asked(engine, prompts[1], max_tokens=room + 1)


def test_the_repetition_penalty_of_the_model_applies(parts, prompts):
    model, processor = parts
    model.generation_config.repetition_penalty = 1.5
    try:
        expected = generate_replies(model, processor, [prompts[0]], max_new_tokens=TOKENS).texts[0]
        engine = SlotEngine(model, processor, slots=2, context=512)
        assert Asked(engine, prompts[0]).reply()[0] == expected
        engine.close()
    finally:
        model.generation_config.repetition_penalty = None


def test_layers_that_forget_tokens_are_refused():
    model, processor = tiny_model()
    processor.config.text_config.layer_types = ["full_attention", "sliding_attention"]
    with pytest.raises(UserError, match="layers of type sliding_attention"):
        SlotEngine(model, processor, slots=1, context=64)


def fail(monkeypatch: pytest.MonkeyPatch, model: torch.nn.Module, prompt: Encoded) -> threading.Event:
    """Let the device fail for good when it reads a prompt; return the event that starts the failure."""
    embed, long, begin = model.embed, len(prompt.input_ids), threading.Event()
    error = torch.AcceleratorError("CUDA error: device-side assert triggered")

    def failing(input_ids: torch.Tensor, media: object) -> torch.Tensor:
        if input_ids.shape[1] == long:
            assert begin.wait(30)
            raise error
        return embed(input_ids, media)

    def broken(device: torch.device) -> None:
        raise error

    monkeypatch.setattr(model, "embed", failing)
    monkeypatch.setattr(slot_engine, "require_working", broken)
    return begin


def test_a_device_that_fails_ends_the_engine_and_all_its_requests_at_once(monkeypatch, parts, prompts):
    model, _ = parts
    engine = SlotEngine(*parts, slots=2, context=512)
    begin = fail(monkeypatch, model, prompts[0])
    asked = [Asked(engine, prompts[number], max_tokens=200) for number in (1, 0, 2, 2)]
    begin.set()
    for one in asked:
        while isinstance(event := one.next(), ReplyPiece):
            pass
        assert isinstance(event, ReplyFailure)
    wait_until(lambda: not engine.is_alive(), 30)
    assert engine.load() == (0, 0)
    with pytest.raises(EngineEndedError):
        Asked(engine, prompts[1])
    engine.cancel(asked[0].number)
    engine.close()


def test_memory_for_keys_and_values_is_allocated_and_logged_at_the_start(parts, caplog):
    config = parts[0].config.text_config
    width = config.hidden_size // config.num_attention_heads
    size = 4 * 2 * config.num_hidden_layers * config.num_key_value_heads * width * 500 * 1_000
    with caplog.at_level(logging.INFO):
        SlotEngine(*parts, slots=500, context=1_000).close()
    assert f"batch=500 requests of context=1000 tokens: {size / 1e9:.2f} GB" in caplog.text
    with pytest.raises(UserError, match=r"need [\d,.]+ GB, which cpu does not have: set --limit batch"):
        SlotEngine(*parts, slots=10**9, context=1_000)

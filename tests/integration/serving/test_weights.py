"""A server of an adapter, and of weights in another type than that of the training."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from openai import OpenAI

from llava_av.checkpoints import fetch_adapter_base
from llava_av.inference.chat import Conversation
from llava_av.inference.chat_media import ChatMedia
from llava_av.inference.devices import choose_dtype
from llava_av.model import load_saved_model
from tests.adapter_steps import write_adapter, write_base
from tests.integration.serving.conftest import serving
from tests.integration.serving.test_serve import SEEN, TOKENS, part, text
from tests.media_samples import click, write_grey_clip

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("adapter")
    write_adapter(root / "adapted", write_base(root / "base"), dora=False)
    return root / "adapted"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_grey_clip(tmp_path_factory.mktemp("media") / "loud.mp4", click(0.5))


@pytest.fixture(
    params=[("adapter", "auto"), ("adapter", "bfloat16"), ("model", "bfloat16")],
    ids=lambda case: "-".join(case),
)
def served(request: pytest.FixtureRequest) -> Iterator[tuple[Path, str]]:
    name, dtype = request.param
    return request.getfixturevalue(name), dtype


def test_answers_are_those_of_chat_with_the_same_weights(served, clip, tmp_path):
    folder, dtype = served
    base = fetch_adapter_base(folder, tmp_path)
    options = {"max_new_tokens": TOKENS, "device": "cpu", "dtype": dtype, "base": base}
    expected = [
        Conversation(folder, ChatMedia(video=clip), **options).ask(SEEN),
        Conversation(folder, ChatMedia(), **options).ask(SEEN),
    ]
    contents = [[part("video_url", clip), text(SEEN)], SEEN]
    with (
        serving(str(folder), tmp_path / "log", "--dtype", dtype) as (address, _),
        OpenAI(base_url=address, api_key="none", max_retries=0, timeout=60) as client,
    ):
        answers = [
            client.chat.completions.create(
                model=folder.name, messages=[{"role": "user", "content": content}], max_tokens=TOKENS
            )
            for content in contents
        ]
    assert [answer.choices[0].message.content.strip() for answer in answers] == expected
    model, _ = load_saved_model(folder, base, dtype=choose_dtype(dtype))
    assert {weight.dtype for weight in model.parameters()} == {choose_dtype(dtype) or torch.float32}

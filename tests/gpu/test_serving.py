"""Engine of the server on a GPU that fails, in a process of its own: it can never use the GPU again."""

import subprocess
import sys
from pathlib import Path

from tests.gpu.tiny_models import GPU

pytestmark = GPU

ROOT = Path(__file__).parents[2]
PROGRAM = """
import queue
import sys
import time

import torch

from llava_av.inference.generation import encode_prompt
from llava_av.media.clip import Clip
from llava_av.serving.engine import EngineEndedError, ReplyEnd, ReplyFailure, Sampling
from llava_av.serving.slot_engine import SlotEngine
from tests.model_samples import tiny_model

device = sys.argv[1]
model, processor = tiny_model()
engine = SlotEngine(model.to(device), processor, slots=1, context=256)
prompt = encode_prompt(processor, [("human", "What?")], Clip(), max_new_tokens=4)


def asked(count):
    events = queue.Queue()
    for _ in range(count):
        try:
            engine.submit(prompt, Sampling(max_tokens=4), events.put)
        except EngineEndedError as error:
            events.put(ReplyFailure(error=error))
    ends = []
    while len(ends) < count:
        event = events.get(timeout=60)
        ends += [type(event).__name__] if isinstance(event, (ReplyEnd, ReplyFailure)) else []
    return ends


def failing(input_ids, media):
    outside = torch.full((1,), 9, device=device)
    return embed(input_ids, media) + torch.zeros(1, device=device)[outside]


print(*asked(1))
embed, model.embed = model.embed, failing
print(*asked(3))
deadline = time.monotonic() + 30
while engine.is_alive() and device != "cpu" and time.monotonic() < deadline:
    time.sleep(0.05)
print("alive" if engine.is_alive() else "ended", flush=True)
"""


def test_an_assertion_on_the_device_ends_the_engine_and_its_requests():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "cuda"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.stdout.split() == ["ReplyEnd", *["ReplyFailure"] * 3, "ended"], done.stderr

"""Simulation of how long processes wait for each other: `python -m benchmarks.balance`.

Samples of mixed length, several questions about one clip, are shared among processes as training does it, for
a model of 7 B parameters. The table has the share of the time in which processes compute, if computation
takes exactly its estimated cost: shared by `plan_micro_batches`, and in equal numbers in the order of the
samples.
"""

import argparse
import time

import numpy as np

from llava_av.training.micro_batches import SampleCost, plan_micro_batches, useful_share

_PACK_LENGTH = 8192


def mixed_lengths(samples: int) -> list[SampleCost]:
    """Return costs of text, images, videos and audio of all lengths, several questions about some of them.

    Costs are FLOPs of a language model of 7 B parameters with 28 layers of 3,584 features that is trained,
    and of frozen towers of 0.4 B parameters for 729 patches and of 0.3 B for 50 features per second.
    """
    draw = np.random.default_rng(0)
    found: list[SampleCost] = []
    while len(found) < samples:
        kind, seconds = draw.random(), float(np.clip(draw.lognormal(3, 1), 2, 180))
        frames = 0 if kind < 0.2 or kind > 0.85 else min(32, int(seconds)) if kind > 0.4 else 1
        audio_s = seconds if kind > 0.4 else 0.0
        for _ in range(int(draw.integers(1, 6))):
            tokens = min(8000, frames * 196 + int(audio_s * 5) + int(draw.lognormal(4, 0.8)))
            language = 6.0 * 7e9 * tokens + 12.0 * 3584 * 28 * tokens**2
            towers = 2 * 4e8 * 729 * frames + 2 * 3e8 * 50 * audio_s
            media = len(found) if kind < 0.2 else kind
            found.append(SampleCost(tokens=tokens, language=language, towers=towers, media=media))
    return found[:samples]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--samples", type=int, default=32, help="samples of a step for each process")
    each = parser.parse_args().samples
    print("processes  micro-batch tokens  micro-batches  computing  in order  filled rows  planning")
    for processes in (8, 32, 64, 512):
        costs = mixed_lengths(each * processes)
        in_order = [[tuple((rank * each + place,) for place in range(each))] for rank in range(processes)]
        for tokens in (_PACK_LENGTH, 2 * _PACK_LENGTH):
            started = time.perf_counter()
            plan = plan_micro_batches(
                costs, processes=processes, pack_length=_PACK_LENGTH, micro_batch_tokens=tokens
            )
            seconds = time.perf_counter() - started
            rows = sum(len(batch) for mine in plan for batch in mine)
            filled = sum(cost.tokens for cost in costs) / (rows * _PACK_LENGTH)
            shares = f"{useful_share(costs, plan):9.3f} {useful_share(costs, in_order):9.3f} {filled:12.3f}"
            print(f"{processes:9} {tokens:19} {len(plan[0]):14} {shares} {seconds:7.2f} s")


if __name__ == "__main__":
    main()

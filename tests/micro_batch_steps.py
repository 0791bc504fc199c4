"""`torchrun … -m tests.micro_batch_steps`: engines train on micro-batches of each size; prints JSON."""

from typing import Any

from torch import distributed

from llava_av.datasets.schema import Sample
from llava_av.media.clip import Clip
from llava_av.training.bad_samples import BadSamples
from llava_av.training.encoded_cache import EncodedCache
from llava_av.training.loader import Loader
from llava_av.training.model_flops import ModelFlops, trained_shares
from llava_av.training.order import SampleOrder
from llava_av.training.sample_costs import CostEstimate
from llava_av.training.sample_sizes import SampleSizes
from tests.engine_group import ENGINES, FILM, IMAGE, SILENT, SOUNDS, TEXT, EngineSample, print_from_group
from tests.loaded_steps import new_trainer
from tests.model_samples import tiny_recipe

STEPS = 3
CLIPS: tuple[Clip, ...] = (*FILM, *TEXT, *SOUNDS, *IMAGE, *SILENT)
QUESTIONS = ("Which colour is shown?", "What is heard, and what is seen at the same time? Say both.")
SIZES: dict[str, dict[str, int]] = {
    "whole": {},
    "micro-batches": {"micro_batch_tokens": 120},
    "single samples": {"micro_batch_tokens": 1},
    "packed": {"pack_length": 120, "micro_batch_tokens": 120},
}


def samples() -> list[Sample]:
    """Return questions about each clip, whose number is its file's name; answers differ in length."""
    return [
        Sample.model_validate(
            {
                "id": f"{number}-{question}",
                "audio": [str(number)],
                "conversations": [
                    {"from": "human", "value": QUESTIONS[question]},
                    {"from": "gpt", "value": " ".join(["red"] * (1 + number + 3 * question))},
                ],
            }
        )
        for number in range(len(CLIPS))
        for question in range(len(QUESTIONS))
    ]


def steps(name: str, rank: int, **sizes: int) -> dict[str, Any]:
    """Return losses, gradient norms and the number of micro-batches of some steps."""
    of, every = EngineSample(name), samples()
    shares = trained_shares(of.model)
    training = {"steps": STEPS, "global_batch_size": 6, "num_processes": 1, "warmup_kind_steps": 0, **sizes}
    recipe = tiny_recipe(**{f"training__{key}": value for key, value in training.items()})
    share = -(-len(every) // distributed.get_world_size())
    measured = SampleSizes.of(
        of.processor.measure([(turn.speaker, turn.value) for turn in one.conversations], clip_of(one))
        for one in every[rank * share : (rank + 1) * share]
    ).gathered()
    estimate = CostEstimate(ModelFlops(of.model.config), trained=shares)
    loader = Loader(
        every,
        [estimate.of(sample, size) for sample, size in zip(every, measured, strict=True)],
        of.processor,
        EncodedCache(of.processor, clip_of, max_bytes=2**24),
        SampleOrder(every, seed=0, recipe=recipe.training),
        recipe.training,
        rank=rank,
        processes=distributed.get_world_size(),
    )
    trainer = new_trainer(of.engine, of.model, recipe, every, BadSamples(len(every), 0.0))
    batches = list(loader.batches(range(STEPS)))
    metrics = [trainer.measure(trainer.step(batch)) for batch in batches]
    return {
        "losses": [one["loss"] for one in metrics],
        "norms": [one["grad_norm"] for one in metrics],
        "micro_batches": [len(batch.micro_batches) for batch in batches],
    }


def clip_of(sample: Sample) -> Clip:
    return CLIPS[int(sample.audio[0])]


def results(rank: int) -> dict[str, Any]:
    """Return the steps of each engine: of all sizes where weights are sharded, of one where they are not."""
    return {
        name: {
            size: steps(name, rank, **of)
            for size, of in SIZES.items()
            if name in ("torch", "zero-3") or size == "micro-batches"
        }
        for name in ENGINES
    }


if __name__ == "__main__":
    print_from_group(results)

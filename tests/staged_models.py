"""A training job that fails if the model of a stage is still in memory when the next one is loaded."""

import gc
import runpy
from typing import Any

from llava_av.model import LlavaAvForConditionalGeneration
from llava_av.training import stage_training


def _load(*arguments: Any) -> Any:
    left = sum(isinstance(one, LlavaAvForConditionalGeneration) for one in gc.get_objects())
    assert not left, f"{left} models are in memory"
    return _loaded(*arguments)


if __name__ == "__main__":
    _loaded, stage_training.load_model = stage_training.load_model, _load
    runpy.run_module("llava_av.training", run_name="__main__", alter_sys=True)

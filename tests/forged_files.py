"""Save the state of each engine, forge every file of it in turn, and try to load it.

`python -m tests.forged_files FOLDER` prints one JSON object a forgery: engine, file, kind, and the error.
What a forged file tries to do is to make FOLDER/ran.
"""

import builtins
import io
import json
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from llava_av.checkpoints import CheckpointError
from llava_av.recipe import Recipe, load_recipe
from llava_av.training.collective import CpuGroup
from llava_av.training.engines import Engine, build_engine, start_processes
from llava_av.training.safe_loading import loading_from
from tests.sharded_files import load_engine, save_engine

URI = "s3://bucket/checkpoints/run/step-00000002"


class Calls:
    """Object that calls a function when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.parts = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.parts


def archived(value: Any) -> bytes:
    """Return the bytes that `torch.save` writes for a value."""
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def forgeries(marker: Path) -> dict[str, bytes]:
    """Return contents by kind; each would create `marker` if it were unpickled."""
    shell = Calls(os.system, f"touch {marker}")
    script = Calls(builtins.exec, f"open({str(marker)!r}, 'w')")
    found = {
        "a shell command": archived(shell),
        "beside a tensor": archived({"module": {"w": torch.ones(2)}, "optimizer": [script]}),
        "a bare pickle": pickle.dumps(shell),
        "a newer pickle": pickle.dumps(script, protocol=5),
        "an old pickle": pickle.dumps(shell, protocol=0),
        "the format before zip": legacy(shell),
        "an import": archived(Calls(builtins.__import__, "antigravity")),
    }
    module = io.BytesIO()
    torch.jit.save(torch.jit.script(nn.Linear(1, 1)), module)
    return found | {"TorchScript": module.getvalue(), "no file of torch": b"PK\x03\x04", "empty": b""}


def legacy(value: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


def engines() -> Iterator[tuple[str, Callable[[], Engine]]]:
    def recipe(**training: Any) -> Recipe:
        changes = {f"training.{name}": value for name, value in training.items()}
        return load_recipe("quick").with_overrides({"training.global_batch_size": 2, **changes})

    def model() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))

    def built(**training: Any) -> Engine:
        return build_engine(model(), recipe(**training))

    yield "torch", partial(built, engine="torch")
    for stage in (1, 2, 3):
        yield f"zero {stage}", partial(built, zero_stage=stage)


def stepped(engine: Engine) -> Engine:
    device = next(engine.model.parameters()).device
    engine.backward(engine.model(torch.ones(2, 8, device=device)).square().sum(), last=True)
    engine.step(1e-3)
    return engine


def attempts(build: Callable[[], Engine], folder: Path) -> Iterator[dict[str, str]]:
    """Load the true files once, then one forgery after the other."""
    folder.mkdir()
    saved = stepped(build())
    save_engine(saved, folder, CpuGroup())
    loaded = build()
    with loading_from(URI):
        load_engine(loaded, folder)
    same = all(
        torch.equal(a, b) for a, b in zip(loaded.weights().values(), saved.weights().values(), strict=True)
    )
    yield {"file": "none", "kind": "none", "error": "" if same else "other weights"}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        whole = path.read_bytes()
        for kind, forged in forgeries(folder.parent / "ran").items():
            path.write_bytes(forged)
            error = "none"
            try:
                with loading_from(URI):
                    load_engine(loaded, folder)
            except CheckpointError as refused:
                error = str(refused)
            yield {"file": path.name, "kind": kind, "error": error}
        path.write_bytes(whole)


def main() -> None:
    start_processes("deepspeed")
    for name, build in engines():
        for found in attempts(build, Path(sys.argv[1]) / name.replace(" ", "-")):
            print(json.dumps({"engine": name, **found}), flush=True)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()

"""A server in a process of its own, as `llava-av serve` starts it, and OpenAI's client."""

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from openai import OpenAI

from tests.commands import Command
from tests.model_samples import tiny_model

LIMITS = (
    "--limit=batch=3",
    "--limit=media=3",
    "--limit=media_bytes=2000000",
    "--limit=media_s=4",
    "--limit=media_pixels=100000",
    "--limit=media_frames=40",
    "--limit=decode_workers=1",
)
_ADDRESS = re.compile(r"serving at (http://\S+)")


@pytest.fixture(scope="package")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny model named `tiny`."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    for part in tiny_model():
        part.save_pretrained(folder)
    return folder


@contextlib.contextmanager
def serving(model: str, log: Path, *options: str) -> Iterator[tuple[str, Command]]:
    """Serve a model; yield the address of the API and the command."""
    arguments: Sequence[str] = ["serve", model, "--port", "0", "--device", "cpu", *LIMITS, *options]
    command = Command(arguments, log=log, environment={"OMP_NUM_THREADS": "1"})
    try:
        command.wait_until(lambda: _ADDRESS.search(command.output()) is not None, 120)
        address = _ADDRESS.search(command.output())
        assert address is not None
        yield address[1], command
    finally:
        command.process.terminate()
        command.wait(60)
    command.assert_gone()


@pytest.fixture(scope="package")
def address(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(str(model), tmp_path_factory.mktemp("server") / "log") as (address, _):
        yield address


@pytest.fixture(scope="package")
def client(address: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=address, api_key="none", max_retries=0, timeout=60) as made:
        yield made

"""Files of the state of training as data: enumerations as every Python pickles them, no other `getattr`."""

import os
from enum import IntEnum
from pathlib import Path

import pytest
import torch

from llava_av.checkpoints import CheckpointError
from llava_av.training.safe_loading import load_data, loading_from


class Stage(IntEnum):
    two = 2


class Call:
    """Pickled as a call of `getattr`."""

    def __init__(self, *arguments: object) -> None:
        self.arguments = arguments

    def __reduce__(self) -> tuple[object, ...]:
        return getattr, self.arguments


def test_an_enumeration_that_is_pickled_by_getattr_is_read(tmp_path: Path) -> None:
    torch.save({"stage": Call(Stage, "two")}, tmp_path / "state.pt")
    assert load_data(tmp_path / "state.pt", classes=[Stage]) == {"stage": Stage.two}


@pytest.mark.parametrize(
    "arguments", [(Stage, "__init__"), ("text", "upper"), (os.path.join, "__globals__"), (Stage, "mro")]
)
def test_getattr_of_anything_else_is_refused(tmp_path: Path, arguments: tuple[object, ...]) -> None:
    torch.save({"stage": Call(*arguments)}, tmp_path / "state.pt")
    with (
        pytest.raises(CheckpointError, match=r"file state\.pt does not hold data alone"),
        loading_from("s3://b/c"),
    ):
        load_data(tmp_path / "state.pt", classes=[Stage])

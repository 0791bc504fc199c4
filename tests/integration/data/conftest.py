"""The store, the commands and the folder that the tests of `llava-av data` share."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from llava_av.storage import ObjectStore
from tests.dataset_folders import DataCommands, write_dataset


@pytest.fixture
def store(store_environment: Mapping[str, str]) -> ObjectStore:
    return ObjectStore.from_env(store_environment)


@pytest.fixture
def data(store_environment: Mapping[str, str], tmp_path: Path) -> DataCommands:
    return DataCommands(store_environment, tmp_path / "out")


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "clips")

"""A bucket of each test's own."""

from collections.abc import Mapping

import pytest

from llava_av.storage import ObjectStore


@pytest.fixture
def store(store_environment: Mapping[str, str]) -> ObjectStore:
    found = ObjectStore.from_env(store_environment)
    found.ensure_bucket()
    return found

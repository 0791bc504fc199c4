"""A tiny model behind the application, called without a network."""

import pytest

from llava_av.model import LlavaAvForConditionalGeneration, LlavaAvProcessor
from tests.model_samples import tiny_model


@pytest.fixture(scope="package")
def parts() -> tuple[LlavaAvForConditionalGeneration, LlavaAvProcessor]:
    return tiny_model()

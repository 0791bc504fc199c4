"""Two processes with entirely different samples: no engine hangs, and all give the same losses."""

import pytest

from tests.engine_group import run_group
from tests.mixed_batches import MODELS, STEPS
from tests.model_samples import tiny_model

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]


def test_any_mix_of_samples_gives_the_same_losses_with_every_engine():
    """The largest observed difference is 1e-6 in a loss, and 1e-6 of a gradient norm between ZeRO stages."""
    by_model = run_group("tests.mixed_batches", timeout_s=400)
    assert by_model.keys() == MODELS.keys()
    for parts, engines in by_model.items():
        plain = engines.pop("torch")
        assert len(plain["losses"]) == len(STEPS)
        model, _ = tiny_model(**MODELS[parts], model__video_newline="frame")
        for name, sharded in engines.items():
            assert sharded["losses"] == pytest.approx(plain["losses"], abs=1e-5), (parts, name)
            for one, other in zip(sharded["held_out"], plain["held_out"], strict=True):
                assert one == pytest.approx(other, abs=1e-5), (parts, name)
            assert sharded["norms"] == pytest.approx(plain["norms"], rel=1e-5), (parts, name)
            assert sharded["shapes"] == {name: list(one.shape) for name, one in model.state_dict().items()}

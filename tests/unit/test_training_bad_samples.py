"""Samples that fail to decode: kept with the run, counted also after a resume."""

from collections.abc import Iterator
from typing import Any

import pytest
from torch import distributed

from llava_av.datasets.unfit import Unfit, UnfitSamplesError
from llava_av.runs import BadSamplesReport
from llava_av.training.bad_samples import BadSamples


@pytest.fixture(scope="module", autouse=True)
def _group() -> Iterator[None]:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


class Kept:
    """Run with the report of its last checkpoint."""

    def __init__(self, report: BadSamplesReport | None = None) -> None:
        self.report = report

    def find(self, kind: type[BadSamplesReport]) -> BadSamplesReport | None:
        assert kind is BadSamplesReport
        return self.report


def unfit(name: str) -> Unfit:
    return Unfit(id=name, reason=f"{name}.mp4: it is cut short")


def restored(run: Any, first_step: int, max_share: float = 0.5) -> BadSamples:
    """Return the samples of a job that resumes, which finds one by its header."""
    found = BadSamples(10, max_share)
    found.add([unfit("header")])
    found.restore(run, first_step)
    return found


def test_a_run_without_samples_that_fail_in_steps_has_no_report() -> None:
    assert restored(Kept(), 4).report() is None


def test_samples_that_failed_before_the_checkpoint_are_found_again() -> None:
    first = restored(Kept(), 0)
    first.add([unfit("a")], 3)
    first.add([unfit("a"), unfit("b")], 5)
    saved = first.report()
    assert saved is not None
    assert [(one.id, one.step) for one in saved.samples] == [("a", 3), ("b", 5)]
    again = restored(Kept(saved), 6)
    assert again.found == (unfit("header"), unfit("a"), unfit("b"))
    assert again.report() == saved
    with pytest.raises(UnfitSamplesError, match="3 of 10 samples"):
        restored(Kept(saved), 6, max_share=0.2)


def test_steps_after_the_checkpoint_are_forgotten_also_by_the_next_report() -> None:
    later = restored(Kept(), 0)
    later.add([unfit("a")], 3)
    later.add([unfit("b")], 5)
    again = restored(Kept(later.report()), 3)
    assert again.found == (unfit("header"),)
    report = again.report()
    assert report is not None
    assert report.samples == ()

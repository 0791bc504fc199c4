"""Samples that a model cannot take, and the share of them that a job accepts."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llava_av.errors import UserError, printable

if TYPE_CHECKING:
    from llava_av.datasets.schema import Sample

__all__ = ["Unfit", "UnfitSamplesError", "log_unfit", "require_few_unfit", "without_unfit"]

_LOG = logging.getLogger(__name__)


class UnfitSamplesError(UserError):
    """More samples that the model cannot take than the recipe allows."""


@dataclass(frozen=True, kw_only=True)
class Unfit:
    """A sample that the model cannot take."""

    id: str
    """ID of the sample."""
    reason: str
    """Reason, on one line."""


def log_unfit(unfit: Iterable[Unfit]) -> None:
    """Log each sample that is left out, with its reason."""
    for one in unfit:
        _LOG.warning("left out: sample %s: %s", printable(one.id), printable(one.reason))


def require_few_unfit(unfit: Sequence[Unfit], samples: int, max_share: float, what: str = "samples") -> None:
    """Require that the share of unfit samples is within the limit.

    Args:
        unfit: Samples that the model cannot take.
        samples: Number of all samples, at least one.
        max_share: Largest allowed share of unfit samples.
        what: Name of the samples in the message.

    Raises:
        UnfitSamplesError: The share is larger, or no sample is left; names the first sample and the reason.
    """
    if not unfit:
        return
    is_few = len(unfit) / samples <= max_share
    if is_few and len(unfit) < samples:
        return
    first = f"the first is sample {unfit[0].id}: {unfit[0].reason}"
    if is_few:
        raise UnfitSamplesError(
            f"{len(unfit)} of {samples} {what} do not fit the model, so none is left: correct them, or "
            f"change the limits of the model; {first}"
        )
    raise UnfitSamplesError(
        f"at least {len(unfit)} of {samples} {what} do not fit the model, more than data.max_bad_share="
        f"{max_share:g} allows: remove them, or raise the limit; {first}"
    )


def without_unfit(
    samples: Sequence[Sample], unfit: Sequence[Unfit], max_share: float, *, report: bool
) -> tuple[Sample, ...]:
    """Return the samples that a model can take.

    Args:
        samples: All samples, at least one.
        unfit: Samples that the model cannot take.
        max_share: Largest allowed share of unfit samples.
        report: Log each unfit sample with its reason; in a process group only rank zero does.

    Raises:
        UnfitSamplesError: The share of unfit samples is larger than allowed.
    """
    if report:
        log_unfit(unfit)
    require_few_unfit(unfit, len(samples), max_share)
    left_out = {one.id for one in unfit}
    return tuple(sample for sample in samples if sample.id not in left_out)

"""Shares of several datasets in a training: those that the recipe's weights give, and the observed ones."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property

from llava_av.datasets.sample_columns import columns_of, kinds_of
from llava_av.datasets.schema import Sample
from llava_av.plurals import listed
from llava_av.recipe import Recipe, TrainingRecipe
from llava_av.runs import MixShare
from llava_av.training.order import SampleOrder, absent_warmup_kinds, undrawn_datasets

__all__ = ["MixReport", "mix_weights", "warn_of_undrawn"]

_LOG = logging.getLogger(__name__)
_MAX_NAMED = 20

_COLUMN = "mix/"


def mix_weights(recipe: Recipe, samples: Sequence[Sample]) -> dict[str, float]:
    """Return the weight of each dataset; empty if the recipe has none: samples are drawn equally often."""
    names = columns_of(samples).datasets.names
    weights = {name: recipe.data.weight(name) for name in names if name}
    return {name: weight for name, weight in weights.items() if weight is not None}


class MixReport:
    """Shares of the datasets, by step for the journal and in total for the result."""

    def __init__(
        self,
        samples: Sequence[Sample],
        weights: Mapping[str, float],
        left_out: Mapping[str, int],
        new_order: Callable[[], SampleOrder],
    ) -> None:
        """Keep what the shares depend on.

        Args:
            samples: All training samples.
            weights: Weight of each dataset; empty if samples are drawn equally often.
            left_out: Number of training samples left out of each dataset; empty for a single dataset.
            new_order: Makes an order of the samples.
        """
        self._datasets = columns_of(samples).datasets
        self._weights = dict(weights)
        self._left_out = left_out
        self._new_order = new_order

    @cached_property
    def _order(self) -> SampleOrder:
        """Return an order for this report alone, since the loader's thread uses its own."""
        return self._new_order()

    def of_step(self, step: int) -> dict[str, float]:
        """Return the share of each dataset in the samples of a step, over all processes."""
        if not self._left_out:
            return {}
        indices, datasets = self._order.step(step), self._datasets
        counts = Counter(datasets.names[number] for number in datasets.numbers[indices].tolist())
        return {f"{_COLUMN}{name}": counts[name] / len(indices) for name in self._left_out}

    def shares(self, rows: Iterable[Mapping[str, float]]) -> tuple[MixShare, ...]:
        """Return wanted and observed shares.

        Args:
            rows: Rows of the journal, of all steps of the stage.
        """
        sizes = self._datasets.counts()
        weights = self._weights or {name: float(sizes.get(name, 0)) for name in self._left_out}
        observed = {
            name: [row[key] for row in rows if (key := f"{_COLUMN}{name}") in row] for name in weights
        }
        return tuple(
            MixShare(
                name=name,
                samples=sizes.get(name, 0),
                left_out=left_out,
                wanted_share=weights[name] / sum(weights.values()),
                observed_share=sum(observed[name]) / len(observed[name]) if observed[name] else None,
            )
            for name, left_out in self._left_out.items()
        )


def warn_of_undrawn(
    samples: Sequence[Sample], training: TrainingRecipe, weights: Mapping[str, float]
) -> None:
    """Warn of kinds and datasets that the recipe names and that no sample is drawn from."""
    if absent := absent_warmup_kinds(samples, training):
        kinds = sorted(kinds_of(samples))
        _LOG.warning(
            "training.warmup_kinds: no sample has the kind %s: the first steps draw from the other kinds; "
            "the samples' kinds are %s",
            ", ".join(absent),
            listed(kinds, _MAX_NAMED),
        )
    if undrawn := undrawn_datasets(samples, weights):
        _LOG.warning(
            "data.mix: the weight of %s gives none of the %d samples of an epoch, so it is not trained on: "
            "raise the weight, or remove the dataset",
            ", ".join(undrawn),
            len(samples),
        )

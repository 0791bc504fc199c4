"""Detection of loss spikes: steps whose loss is far above the median of the steps before.

The loss of a step is a spike if it exceeds the median of the last `WINDOW` finite losses by more than
`DEVIATIONS` median absolute deviations, and by more than `SHARE` of the median. The first condition adapts to
the noise of the run, the second one ignores small jumps of an almost constant loss. Spikes stay in the
window: they hardly change a median of many steps, and after a lasting change of the loss it adapts.
"""

import math
import statistics
from collections import deque
from collections.abc import Iterable

__all__ = ["DEVIATIONS", "LEAST", "SHARE", "WINDOW", "SpikeDetector"]

WINDOW, LEAST = 100, 20
"""Maximum and minimum number of losses for a median."""
DEVIATIONS, SHARE = 8.0, 0.3


class SpikeDetector:
    """Running median of the losses of a run.

    Args:
        losses: Losses of the steps before, in their order; those that are not finite are left out.
    """

    def __init__(self, losses: Iterable[float] = ()) -> None:
        self._losses = deque((loss for loss in losses if math.isfinite(loss)), maxlen=WINDOW)

    def add(self, loss: float) -> float | None:
        """Add the loss of the next step; return the median of the steps before it if it is a spike."""
        if not math.isfinite(loss):
            return None
        median = self._exceeded(loss)
        self._losses.append(loss)
        return median

    def _exceeded(self, loss: float) -> float | None:
        if len(self._losses) < LEAST:
            return None
        median = statistics.median(self._losses)
        deviation = statistics.median(abs(one - median) for one in self._losses)
        is_spike = loss - median > max(DEVIATIONS * deviation, SHARE * median)
        return median if is_spike else None

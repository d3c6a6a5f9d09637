"""Where a tagger's word is taken and where somebody else is asked: a band of scores around each tag's threshold.

Knows scores, thresholds and how wide the band must be for a wanted share of errors outside of it. Refuses to know
pictures and who settles what lies inside.

A score's *margin* is its distance from its tag's threshold in log odds, so that one width does for tags with high
and with low thresholds. Shapes: N pictures, T tags.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from taglens.errors import UsageError

Array = npt.NDArray[np.float32]

_EDGE = 1e-6  # scores and thresholds are kept this far from 0 and 1, where log odds have no end


@dataclass(frozen=True, slots=True, eq=False)
class Band:
    """Below ``low`` a tag is not there, from ``high`` on it is; between, somebody is asked.

    Attributes:
        low, high: [T].
    """

    low: Array
    high: Array

    def __post_init__(self) -> None:
        if self.low.shape != self.high.shape or self.low.ndim != 1 or not (self.low <= self.high).all():
            raise UsageError("a band needs a lower and an upper score for every tag, none above the other")

    @classmethod
    def around(cls, thresholds: Array, *, below: float, above: float) -> Band:
        """The scores whose margin to their threshold lies in [-below, above).

        Raises:
            UsageError: a width that is negative or no number.
        """
        for width in (below, above):
            if not width >= 0:
                raise UsageError(f"the band around a threshold has widths of 0 or more, found {width}")
        middle = _log_odds(thresholds)
        return cls(_probability(middle - below), _probability(middle + above))

    def split(self, scores: Array) -> tuple[list[int], list[int]]:
        """Columns of one picture's scores [T]: those that are there, and those to ask about.

        Raises:
            UsageError: scores of other tags.
        """
        if scores.shape != self.low.shape:
            raise UsageError(f"expected {len(self.low)} scores, one a tag, found shape {scores.shape}")
        sure = scores >= self.high
        asked = (scores >= self.low) & ~sure
        return np.flatnonzero(sure).tolist(), np.flatnonzero(asked).tolist()


def fit_band(
    scores: Array, truth: npt.NDArray[np.bool_], thresholds: Array, *, lost: float = 0.02, wrong: float = 0.05
) -> tuple[float, float]:
    """The narrowest ``(below, above)`` for `Band.around` that leaves few errors outside, on labelled pictures.

    Args:
        scores, truth: [N, T].
        thresholds: [T].
        lost: at most this share of all true tags lies below the band.
        wrong: at most this share of what lies from its upper edge on is not there.

    Raises:
        UsageError: shapes that do not fit, no true tag, or shares outside 0 to 1.
    """
    if scores.shape != truth.shape or scores.shape[1:] != thresholds.shape or not truth.any():
        raise UsageError(
            f"expected scores and truth [N, T] with a true tag among them and thresholds [T], found {scores.shape}, "
            f"{truth.shape} and {thresholds.shape}"
        )
    if not (0 <= lost <= 1 and 0 <= wrong <= 1):
        raise UsageError(f"shares of errors lie between 0 and 1, found {lost} and {wrong}")
    margins = _log_odds(scores) - _log_odds(thresholds)
    true = np.sort(margins[truth])
    below = max(0.0, -float(true[min(math.floor(lost * len(true)), len(true) - 1)]))
    order = np.argsort(-margins, axis=None, kind="stable")
    falling, is_true = margins.ravel()[order], truth.ravel()[order]
    bad = np.cumsum(~is_true) / np.arange(1, len(order) + 1)
    # Equal margins fall on one side together: only the last of each can be the edge.
    last = np.append(falling[1:] < falling[:-1], True)
    fine = np.flatnonzero((bad <= wrong) & last)
    if not len(fine):
        # Not even the surest are right often enough: everything above the threshold is asked about.
        return below, float(max(np.nextafter(falling[0], np.inf), 0.0))
    return below, max(0.0, float(falling[fine[-1]]))


def _log_odds(probability: Array) -> npt.NDArray[np.float64]:
    kept = np.clip(probability.astype(np.float64), _EDGE, 1 - _EDGE)
    odds: npt.NDArray[np.float64] = np.log(kept / (1 - kept))
    return odds


def _probability(log_odds: npt.NDArray[np.float64]) -> Array:
    with np.errstate(over="ignore"):
        return (1 / (1 + np.exp(-log_odds))).astype(np.float32)

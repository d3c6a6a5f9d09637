"""Average precision, precision, recall and F1 of multi-label scores.

Knows arrays of scores and truth. Refuses to know vocabularies, pictures, files or how a threshold was found.

Two rules hold throughout. An absent label counts as negative. A class is *evaluable* when the data hold at
least one positive and one negative of it; every figure over classes is taken over those alone, because the
others say nothing about a model. A figure over no class at all is NaN.

Shapes: N pictures, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from taglens.errors import UsageError

Scores = npt.NDArray[np.floating[Any]]
Truth = npt.NDArray[np.bool_] | npt.NDArray[np.integer[Any]]

# Sorting works on so many numbers at a time: a few dozen MB, whatever N and C are.
_CHUNK_ELEMENTS = 1 << 21


@dataclass(frozen=True, slots=True)
class PrecisionRecall:
    """Precision, recall and F1 at one set of decisions; fractions in [0, 1], or NaN over no class.

    ``class_*`` (CP, CR, CF1) are means over classes, CF1 being the harmonic mean of CP and CR and not a mean
    of F1s. ``overall_*`` (OP, OR, OF1) pool all decisions. Nothing predicted is precision 0.
    """

    class_precision: float
    class_recall: float
    class_f1: float
    overall_precision: float
    overall_recall: float
    overall_f1: float


def check_pair(scores: Scores, truth: Truth) -> None:
    """Refuse arrays that cannot be scores [N, C] and the truth of the same pictures and classes.

    Raises:
        UsageError: the shapes differ or are not [N, C], a score is NaN, or truth holds anything but 0 and 1.
    """
    _check_truth(truth)
    if scores.shape != truth.shape:
        raise UsageError(
            f"scores have shape {scores.shape} and truth {truth.shape}: "
            "pass one column per class in the same order"
        )
    # The minimum of anything with NaN is NaN: no [N, C] mask is built to find out.
    if scores.size and np.isnan(np.min(scores)):
        raise UsageError(
            "scores hold NaN, which has no rank: leave out the pictures that could not be scored"
        )


def _check_truth(truth: Truth) -> None:
    if truth.ndim != 2:
        raise UsageError(f"expected truth [pictures, classes], found shape {truth.shape}")
    if truth.dtype != np.bool_ and truth.size and (int(np.min(truth)) < 0 or int(np.max(truth)) > 1):
        raise UsageError("truth must be 0 or 1: unknown labels have to be decided or left out first")


def evaluable(truth: Truth) -> npt.NDArray[np.bool_]:
    """Which classes have a positive and a negative: truth [N, C] -> [C]."""
    positives = np.count_nonzero(truth, axis=0)
    return np.asarray((positives > 0) & (positives < truth.shape[0]), bool)


def column_chunks(shape: tuple[int, ...]) -> Iterator[slice]:
    """Slices of columns of an [N, C] array, small enough to sort without a second copy of the whole."""
    rows, columns = shape
    width = max(1, _CHUNK_ELEMENTS // max(1, rows))
    for start in range(0, columns, width):
        yield slice(start, min(start + width, columns))


def average_precision(scores: Scores, truth: Truth) -> float:
    """Average precision of one class: scores [N], truth [N] -> the mean of the precision at each positive.

    Pictures are ranked by falling score; equal scores keep their input order. NaN without a positive.

    Raises:
        UsageError: see `check_pair`.
    """
    if scores.ndim != 1 or truth.ndim != 1:
        raise UsageError(
            f"expected scores [N] and truth [N], found {scores.shape} and {truth.shape}; "
            "for several classes call average_precisions"
        )
    return float(average_precisions(scores[:, None], truth[:, None])[0])


def average_precisions(scores: Scores, truth: Truth) -> npt.NDArray[np.float64]:
    """Average precision of each class: scores [N, C], truth [N, C] -> [C], NaN where there is no positive.

    Raises:
        UsageError: see `check_pair`.
    """
    check_pair(scores, truth)
    result = np.full(scores.shape[1], np.nan)
    for chunk in column_chunks(scores.shape):
        by_class = np.ascontiguousarray(scores[:, chunk].T)
        order = np.argsort(-by_class, axis=1, kind="stable")
        hits = np.take_along_axis(np.ascontiguousarray(truth[:, chunk].T).astype(bool), order, axis=1)
        # Row by row and by rising rank: the k-th hit of a class stands at rank r, where precision is k / r.
        row, rank = np.nonzero(hits)
        positives = np.bincount(row, minlength=hits.shape[0])
        first = np.cumsum(positives) - positives
        nth = np.arange(row.size) - first[row] + 1
        total = np.bincount(row, weights=nth / (rank + 1), minlength=hits.shape[0])
        some = positives > 0
        result[chunk][some] = total[some] / positives[some]
    return result


def mean_average_precision(scores: Scores, truth: Truth) -> float:
    """mAP: the mean of the average precisions of the evaluable classes; NaN where there is none.

    Raises:
        UsageError: see `check_pair`.
    """
    precisions = average_precisions(scores, truth)
    return _mean(precisions[evaluable(truth)])


def precision_recall(predicted: npt.NDArray[np.bool_], truth: Truth) -> PrecisionRecall:
    """Precision, recall and F1 of decisions [N, C] against truth [N, C], over the evaluable classes.

    Raises:
        UsageError: the shapes differ or truth holds anything but 0 and 1.
    """
    _check_truth(truth)
    if predicted.shape != truth.shape:
        raise UsageError(
            f"decisions have shape {predicted.shape} and truth {truth.shape}: "
            "pass one column per class in the same order"
        )
    keep = evaluable(truth)
    right = np.count_nonzero(predicted.astype(bool) & truth.astype(bool), axis=0)[keep]
    given = np.count_nonzero(predicted, axis=0)[keep]
    wanted = np.count_nonzero(truth, axis=0)[keep]
    if not keep.any():
        return PrecisionRecall(*[float("nan")] * 6)
    precision = _mean(right / np.maximum(given, 1))
    recall = _mean(right / wanted)
    overall_precision = float(right.sum() / max(given.sum(), 1))
    overall_recall = float(right.sum() / wanted.sum())
    return PrecisionRecall(
        precision,
        recall,
        harmonic(precision, recall),
        overall_precision,
        overall_recall,
        harmonic(overall_precision, overall_recall),
    )


def harmonic(precision: float, recall: float) -> float:
    """F1 of a precision and a recall; 0 when both are 0."""
    total = precision + recall
    return 2 * precision * recall / total if total else 0.0


def _mean(values: npt.NDArray[np.float64]) -> float:
    return float(values.mean()) if values.size else float("nan")

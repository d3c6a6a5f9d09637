"""Thresholds learnt from labelled scores, and the baseline that never looks at a picture.

Knows arrays of scores in [0, 1] and truth. Refuses to know vocabularies and files;
`Vocabulary.with_thresholds` stores what is found here. Fit on one set of pictures and report on another: a
threshold flatters its own data.

A tag is given when ``score >= threshold``, in float32, so every threshold returned is a float32 value (held
in float64, as JSON wants it) and lies in [`LOWEST`, `HIGHEST`], strictly inside (0, 1).

Shapes: N pictures, C classes, G candidate thresholds.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from taglens.errors import UsageError
from taglens.evaluation.metrics import Scores, Truth, check_pair, column_chunks, evaluable
from taglens.vocabulary import DEFAULT_THRESHOLD

LOWEST = float(np.float32(1e-6))
HIGHEST = float(np.float32(1 - 1e-6))

# A class with so many positives stands half on its own threshold and half on the uniform one. In simulations
# with a few hundred to two thousand pictures, scored on others, anything from 0 to 20 gives the same CF1 to
# 0.002 when scores are near calibrated; when classes are biased against each other less shrinkage is better.
PRIOR_POSITIVES = 5.0

# The uniform search is exact up to so many distinct scores of positives, and takes evenly spaced ones beyond.
_MOST_CANDIDATES = 2048

_BETA = {"f1": 1.0, "f0.5": 0.5, "f2": 2.0}


def fit_thresholds(
    scores: Scores,
    truth: Truth,
    *,
    objective: Literal["f1", "f0.5", "f2"] = "f1",
    prior_positives: float = PRIOR_POSITIVES,
) -> npt.NDArray[np.float64]:
    """One threshold per tag: scores [N, C], truth [N, C] -> [C].

    A class's own threshold ``t_c`` maximises its F-measure on the given data and lies halfway between the
    last score it admits and the first it does not; among equally good ones the nearest to the uniform
    threshold ``t`` (`best_uniform_threshold`) is taken, then the higher. With few positives ``t_c`` is mostly
    noise, so it is drawn towards ``t`` on the log-odds scale, which does not squeeze scores near 0 and 1::

        w = p / (p + prior_positives)            p: the class's positives
        logit(result) = w * logit(t_c) + (1 - w) * logit(t)

    A class without a positive or without a negative takes ``t``.

    Args:
        objective: "f1"; "f0.5" weighs precision higher, "f2" recall.
        prior_positives: 0 for no shrinkage.

    Raises:
        UsageError: see `check_pair`; a score outside [0, 1]; an unknown objective; ``prior_positives`` < 0.
    """
    _check(scores, truth)
    if objective not in _BETA:
        raise UsageError(f"objective {objective!r} is not one of {', '.join(_BETA)}")
    if not prior_positives >= 0:
        raise UsageError(f"prior_positives is {prior_positives}; expected 0 or more")
    uniform = best_uniform_threshold(scores, truth)
    own = np.full(scores.shape[1], uniform)
    keep = evaluable(truth)
    if not keep.any():
        return own
    for chunk in column_chunks(scores.shape):
        own[chunk] = _own_thresholds(scores[:, chunk], truth[:, chunk], uniform, beta=_BETA[objective])
    positives = np.count_nonzero(truth, axis=0)
    # Where there is no prior, a class without positives would divide 0 by 0; it takes the uniform one below.
    weight = positives / np.maximum(positives + prior_positives, np.finfo(float).tiny)
    shrunk = _sigmoid(weight * _logit(own) + (1 - weight) * _logit(np.full_like(own, uniform)))
    # Through logit and back is not the identity in floating point, and a weight of 1 must change nothing.
    return _inside(np.where(keep, np.where(weight == 1.0, own, shrunk), uniform))


def best_uniform_threshold(scores: Scores, truth: Truth) -> float:
    """The one threshold for all tags that maximises CF1: scores [N, C], truth [N, C] -> a number in (0, 1).

    CF1 is the harmonic mean of class-mean precision and class-mean recall over the evaluable classes. Its
    maximum is always reached at the score of some positive, since raising a threshold up to the next one only
    removes wrong tags; so those scores are the candidates (2,048 evenly spaced ones of them when there are
    more). Ties go to the lower threshold. Without an evaluable class: the vocabulary's default, 0.5.

    Raises:
        UsageError: see `check_pair`; a score outside [0, 1].
    """
    _check(scores, truth)
    keep = np.flatnonzero(evaluable(truth))
    if not keep.size:
        return DEFAULT_THRESHOLD
    scores = np.asarray(scores, np.float32)
    decided = truth.astype(bool, copy=False)
    candidates = np.unique(_inside(np.concatenate([scores[decided[:, c], c] for c in keep]))).astype(
        np.float32
    )
    if candidates.size > _MOST_CANDIDATES:
        candidates = candidates[np.linspace(0, candidates.size - 1, _MOST_CANDIDATES).round().astype(np.intp)]
    precision = np.zeros(candidates.size)
    recall = np.zeros(candidates.size)
    for column in keep:
        given = _at_least(scores[:, column], candidates)
        right = _at_least(scores[decided[:, column], column], candidates)
        precision += right / np.maximum(given, 1)
        recall += right / np.count_nonzero(decided[:, column])
    both = precision + recall
    f1 = np.divide(2 * precision * recall, both * keep.size, out=np.zeros_like(both), where=both > 0)
    return float(candidates[np.argmax(f1)])


def frequency_baseline(train_counts: npt.NDArray[np.integer[Any]], n: int) -> npt.NDArray[np.float32]:
    """What a tagger scores that never looks: train_counts [C] -> scores [n, C], every row the same.

    A score is the tag's count relative to the commonest tag's. Every class is one long tie, so its average
    precision depends on the order of the pictures and lies near the share of positives.

    Raises:
        UsageError: counts are not [C], are negative or all zero, or n is negative.
    """
    counts = np.asarray(train_counts)
    if counts.ndim != 1 or n < 0:
        raise UsageError(f"expected counts [C] and n of 0 or more, found shape {counts.shape} and n {n}")
    if (counts < 0).any() or not (counts > 0).any():
        raise UsageError("the counts must be 0 or more and not all 0: count the tags of the training split")
    return np.tile((counts / counts.max()).astype(np.float32), (n, 1))


def _check(scores: Scores, truth: Truth) -> None:
    check_pair(scores, truth)
    if scores.size and (np.min(scores) < 0 or np.max(scores) > 1):
        raise UsageError(
            f"scores run from {np.min(scores):.4g} to {np.max(scores):.4g}; expected probabilities in "
            "[0, 1]: apply the sigmoid first"
        )


def _own_thresholds(scores: Scores, truth: Truth, uniform: float, *, beta: float) -> npt.NDArray[np.float64]:
    """Each class's best threshold, not shrunk: [N, c] -> [c]; ``uniform`` where nothing can be admitted."""
    by_class = np.ascontiguousarray(scores.T, dtype=np.float32)
    order = np.argsort(-by_class, axis=1, kind="stable")
    ranked = np.take_along_axis(by_class, order, axis=1)
    hits = np.take_along_axis(np.ascontiguousarray(truth.T).astype(bool), order, axis=1)
    # To admit just the first k pictures the threshold must lie above the score after them; 0 is below all.
    after = np.concatenate([ranked[:, 1:], np.zeros_like(ranked[:, :1])], axis=1)
    middle = (ranked + after) / np.float32(2)
    # Between two neighbouring float32 values there is none: then the admitted score itself is the threshold.
    middle = np.where(middle > after, middle, ranked)
    possible = (ranked > after) & (middle >= np.float32(LOWEST)) & (middle <= np.float32(HIGHEST))
    right = np.cumsum(hits, axis=1)
    admitted = np.arange(1, ranked.shape[1] + 1)
    wanted = right[:, -1:]
    f = (1 + beta**2) * right / np.maximum(admitted + beta**2 * wanted, 1)
    f = np.where(possible, f, -1.0)
    best = f == f.max(axis=1, keepdims=True)
    distance = np.abs(_logit(_inside(middle)) - _logit(np.array(uniform)))
    # argmin takes the first, which is the higher threshold.
    chosen = np.argmin(np.where(best & possible, distance, np.inf), axis=1)
    own = np.take_along_axis(middle, chosen[:, None], axis=1)[:, 0].astype(np.float64)
    return np.where(possible.any(axis=1), own, uniform)


def _at_least(values: npt.NDArray[np.float32], candidates: npt.NDArray[np.float32]) -> npt.NDArray[np.intp]:
    """How many values reach each candidate: [n], [G] rising -> [G]."""
    return values.size - np.searchsorted(np.sort(values), candidates, side="left")


def _inside(values: Scores) -> npt.NDArray[np.float64]:
    """Clipped into the open interval and rounded to float32, the precision thresholds are compared in."""
    return np.clip(values, LOWEST, HIGHEST).astype(np.float32).astype(np.float64)


def _logit(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(np.log(values) - np.log1p(-values))


def _sigmoid(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(1 / (1 + np.exp(-values)))

"""Probabilities and thresholds from held-out pictures of several sources.

A source says something only about the tags in its scope, so a tag is fitted on the pictures of the sources that reach
it, taken together: a tag of a fruit shop must also stay silent on street scenes.
Shapes: N pictures, T tags, C tags of one group.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from taglens.data.batches import PictureSet
from taglens.errors import DataError
from taglens.evaluation.thresholds import fit_thresholds
from taglens.inference.export import Calibration
from taglens.models.recognizer import Recognizer
from taglens.training.recipes import logits_of
from taglens.vocabulary import Vocabulary

# Slopes tried, from strong flattening to strong sharpening; the best is taken.
_SLOPES = np.geomspace(0.125, 8.0, 25)
# Half a picture of doubt: a tag that no held-out picture has gets a small probability and not none.
_DOUBT = 0.5
_NEWTON_STEPS = 40


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """What was learnt.

    Attributes:
        vocabulary: with a threshold on the calibrated score for every tag that some source reaches.
        own: how many thresholds rest on the tag's own pictures; the others are shared.
    """

    calibration: Calibration
    vocabulary: Vocabulary
    own: int


@dataclass(frozen=True, slots=True, eq=False)
class _Group:
    """Tags that the same sources reach: logits, presence and weights [N, C] at the columns [C]."""

    columns: npt.NDArray[np.intp]
    logits: npt.NDArray[np.float32]
    present: npt.NDArray[np.uint8]
    weights: npt.NDArray[np.float32]


def fit(model: Recognizer, vocabulary: Vocabulary, sets: Sequence[PictureSet], *, least: int = 3) -> Fitted:
    """Calibrate a model's scores, then fit a threshold per tag on the calibrated ones.

    Args:
        sets: held-out pictures, decoded at the model's side.
        least: tags with fewer positives take the threshold that all tags of the same sources share.

    Raises:
        DataError: no pictures were given.
    """
    if not sets:
        raise DataError("no held-out pictures to calibrate on; give shard folders with a val split")
    groups = _groups(model, sets)
    slope = _slope(groups)
    # A tag that no source reaches was never trained either: it keeps silent.
    offsets = np.full(len(vocabulary), -10.0, np.float32)
    thresholds: npt.NDArray[np.float64] = np.full(len(vocabulary), np.nan)
    fitted: list[npt.NDArray[np.intp]] = []
    for group in groups:
        offsets[group.columns] = _offsets(group, slope)
        enough = group.present.sum(0) >= least
        fitted.append(group.columns[enough])
        thresholds[group.columns] = _thresholds(group, slope, offsets[group.columns], enough)
    typed = {} if model.config.descriptions == 0 else _typed(model, sets, least)
    stored = [None if np.isnan(t) else _shortest(t) for t in thresholds]
    own = sum(len(columns) for columns in fitted)
    return Fitted(Calibration(slope, offsets, **typed), vocabulary.with_thresholds(stored), own)


def _typed(model: Recognizer, sets: Sequence[PictureSet], least: int) -> dict[str, float]:
    """Slope, offset and threshold for a tag that a user types.

    Every known tag is asked as if it had been typed; what nobody has held-out pictures of is then treated like the
    middle one of those that have some.
    """
    groups = _groups(model.with_labels(model.bank), sets)
    slope = _slope(groups)
    offsets, thresholds = [], []
    for group in groups:
        enough = group.present.sum(0) >= least
        fitted = _offsets(group, slope)
        offsets.append(fitted[enough])
        thresholds.append(_thresholds(group, slope, fitted, enough)[enough])
    if not sum(map(len, offsets)):
        return {"typed_slope": slope}
    return {
        "typed_slope": slope,
        "typed_offset": float(np.median(np.concatenate(offsets))),
        "typed_threshold": _shortest(float(np.nanmedian(np.concatenate(thresholds)))),
    }


def _groups(model: Recognizer, sets: Sequence[PictureSet]) -> list[_Group]:
    logits = [logits_of(model, s, side=model.config.side) for s in sets]
    return [
        _Group(
            columns,
            np.concatenate([logits[s][:, columns] for s in reach]),
            np.concatenate([sets[s].present[:, columns] for s in reach]),
            np.concatenate([_weights(sets[s], columns) for s in reach]),
        )
        for reach, columns in _by_reach(sets).items()
    ]


def _slope(groups: Sequence[_Group]) -> float:
    return float(min(_SLOPES, key=lambda tried: sum(_cost(group, tried) for group in groups)))


def _thresholds(
    group: _Group, slope: float, offsets: npt.NDArray[np.float32], enough: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    """[C]. A tag seen too seldom is handed over without positives: it then takes the shared threshold."""
    scores = Calibration(slope, offsets).apply(group.logits)
    return fit_thresholds(scores, np.where(enough, group.present, 0).astype(np.uint8))


def _weights(pictures: PictureSet, columns: npt.NDArray[np.intp]) -> npt.NDArray[np.float32]:
    given = pictures.present[:, columns] > 0
    return np.where(given, np.float32(1), pictures.absent_weight[columns]).astype(np.float32)


def _offsets(group: _Group, slope: float) -> npt.NDArray[np.float32]:
    """Per tag, the offset at which the weighted mean probability is the share of pictures that have the tag, [C].

    That is the maximum-likelihood intercept of a logistic regression with a given slope. Newton's method on a
    monotone function, kept from overshooting.
    """
    z = slope * group.logits.astype(np.float64)
    total = group.weights.sum(0)
    wanted = (group.present.sum(0) + _DOUBT) / (total + 2 * _DOUBT)
    offsets = np.log(wanted / (1 - wanted)) - np.average(z, axis=0, weights=group.weights)
    for _ in range(_NEWTON_STEPS):
        p = np.exp(-np.logaddexp(0.0, -(z + offsets)))
        gap = (group.weights * p).sum(0) / total - wanted
        steepness = (group.weights * p * (1 - p)).sum(0) / total
        offsets -= np.clip(gap / np.maximum(steepness, 1e-9), -1.0, 1.0)
    fitted: npt.NDArray[np.float32] = offsets.astype(np.float32)
    return fitted


def _cost(group: _Group, slope: float) -> float:
    """Weighted cross-entropy of a group at a slope, its offsets fitted."""
    z = slope * group.logits.astype(np.float64) + _offsets(group, slope)
    return float((group.weights * (np.logaddexp(0, z) - group.present * z)).sum())


def _shortest(threshold: float) -> float:
    """The shortest decimal that is the same float32: nothing is rounded, least of all to 0 or 1."""
    return float(str(np.float32(threshold)))


def _by_reach(sets: Sequence[PictureSet]) -> dict[tuple[int, ...], npt.NDArray[np.intp]]:
    """Sources that reach a tag -> the columns of all tags with just these sources."""
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    reached = np.stack([s.absent_weight > 0 for s in sets])
    for column in range(reached.shape[1]):
        sources = tuple(np.flatnonzero(reached[:, column]).tolist())
        if sources:
            groups[sources].append(column)
    return {sources: np.array(columns, np.intp) for sources, columns in groups.items()}

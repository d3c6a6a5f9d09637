"""Per-tag thresholds from held-out pictures of several sources.

A source says something only about the tags in its scope, so a tag's threshold is fitted on the pictures of the
sources that reach it, taken together: a tag of a fruit shop must also stay silent on street scenes.
Shapes: N pictures, T tags.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from taglens.data.batches import PictureSet
from taglens.errors import DataError
from taglens.evaluation.thresholds import fit_thresholds
from taglens.models.recognizer import Recognizer
from taglens.training.recipes import score_set
from taglens.vocabulary import Vocabulary


def calibrated(
    model: Recognizer, vocabulary: Vocabulary, sets: Sequence[PictureSet], *, least: int = 3
) -> tuple[Vocabulary, int]:
    """The vocabulary with a threshold for every tag, and how many of them rest on the tag's own pictures.

    Args:
        sets: held-out pictures, decoded at the model's side.
        least: tags with fewer positives take the threshold that all tags of the same sources share.

    Raises:
        DataError: no pictures were given.
    """
    if not sets:
        raise DataError("no held-out pictures to fit thresholds on; give shard folders with a val split")
    scores = [score_set(model, s, side=model.config.side) for s in sets]
    thresholds: npt.NDArray[np.float64] = np.full(len(vocabulary), np.nan)
    own = 0
    for reach, columns in _by_reach(sets).items():
        truth = np.concatenate([sets[s].present[:, columns] for s in reach])
        given = np.concatenate([scores[s][:, columns] for s in reach])
        enough = truth.sum(0) >= least
        # A tag seen too seldom is handed over without positives: it then takes the shared threshold.
        thresholds[columns] = fit_thresholds(given, np.where(enough, truth, 0).astype(np.uint8))
        own += int(enough.sum())
    return vocabulary.with_thresholds([None if np.isnan(t) else round(float(t), 4) for t in thresholds]), own


def _by_reach(sets: Sequence[PictureSet]) -> dict[tuple[int, ...], npt.NDArray[np.intp]]:
    """Sources that reach a tag -> the columns of all tags with just these sources."""
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    reached = np.stack([s.absent_weight > 0 for s in sets])
    for column in range(reached.shape[1]):
        sources = tuple(np.flatnonzero(reached[:, column]).tolist())
        if sources:
            groups[sources].append(column)
    return {sources: np.array(columns, np.intp) for sources, columns in groups.items()}

"""How wide the hybrid's band must be for one's own pictures: a tagger's scores of a few that people labelled.

Knows labelled pictures and a tagger. Refuses to know the arithmetic (`taglens.language.bands`) and who is asked.
Shapes: N pictures, T tags.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from taglens.data.labelling import label_from_names
from taglens.data.sources import find_source, read_labels
from taglens.errors import UsageError
from taglens.inference.tagger import Tagger
from taglens.language.bands import Band, fit_band


@dataclass(frozen=True, slots=True)
class FittedBand:
    """A band, and what it does to the pictures that it was fitted on.

    Attributes:
        below, above: as `taglens.language.bands.Band.around` takes them, in log odds.
        pictures: that were looked at; true: their labels that are tags.
        lost: of these the share below the band, never asked about; wrong: of what lies above it the share that is
            not there, given unasked (None: nothing lies there).
        given: tags a picture above the band; asked: inside.
        tags: T; where nearly all of them are asked about, the tagger saves little.
    """

    below: float
    above: float
    pictures: int
    true: int
    lost: float
    wrong: float | None
    given: float
    asked: float
    tags: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def band_of_labels(
    tagger: Tagger,
    labels: Path,
    *,
    split: str | None = None,
    lost: float = 0.02,
    wrong: float = 0.05,
    watch: Callable[[int, int], object] = lambda *_: None,
) -> FittedBand:
    """The narrowest band that leaves few errors outside, on labelled pictures.

    What a label implies counts as there. Labels that are no tag of the tagger's vocabulary are left out, and so are
    pictures that cannot be read.

    Args:
        tagger: with the vocabulary that is to be asked for.
        labels: a labels.jsonl, or a folder with one, in which people named everything that is there.
        split: only rows of this split.
        lost, wrong: the shares of errors that are put up with, see `taglens.language.bands.fit_band`.
        watch: is told how many of how many pictures are done.

    Raises:
        DataError: the file cannot be read.
        UsageError: no picture of it has a label that is a tag, or a share outside 0 to 1.
    """
    rows = [row for row in read_labels(find_source(labels)) if row.labels is not None]
    rows = [row for row in rows if split is None or row.split == split]
    find = label_from_names(tagger.vocabulary)
    scores, truth = [], []
    for row, (_, found) in zip(rows, tagger.scores([row.path for row in rows]), strict=True):
        if found is not None:
            there = np.zeros(len(found), bool)
            there[list(find(row).columns)] = True
            scores.append(found)
            truth.append(there)
        watch(len(scores), len(rows))
    if not any(each.any() for each in truth):
        raise UsageError(
            f"{labels}: {len(truth)} pictures could be read, and none has a label that is a tag of "
            f"{tagger.vocabulary.ref}; a band is fitted on labels of the very tags that are to be asked for"
        )
    seen, true = np.stack(scores), np.stack(truth)
    thresholds = tagger.vocabulary.thresholds()
    below, above = fit_band(seen, true, thresholds, lost=lost, wrong=wrong)
    below, above = _short(below), _short(above)
    band = Band.around(thresholds, below=below, above=above)
    sure = seen >= band.high
    inside = (seen >= band.low) & ~sure
    return FittedBand(
        below,
        above,
        len(seen),
        int(true.sum()),
        round(float((true & (seen < band.low)).sum() / true.sum()), 6),
        round(float((sure & ~true).sum() / sure.sum()), 6) if sure.any() else None,
        round(float(sure.sum(axis=1).mean()), 4),
        round(float(inside.sum(axis=1).mean()), 4),
        seen.shape[1],
    )


def _short(edge: float) -> float:
    """An edge as it can be typed, never nearer than it was.

    Scores are compared in 32 bits: rounding may put an edge past the score that it was taken from.
    """
    return math.ceil((edge + 5e-5) * 1e4) / 1e4

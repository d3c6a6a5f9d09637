"""Inside the band somebody is asked, outside the tagger's word is taken; the fitted band keeps what was promised."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taglens.errors import UsageError
from taglens.language.bands import Band, fit_band


def test_a_band_of_no_width_is_the_threshold() -> None:
    thresholds = np.array([0.3, 0.8], np.float32)
    band = Band.around(thresholds, below=0, above=0)
    assert band.low == pytest.approx(thresholds, abs=1e-6) and band.high == pytest.approx(
        thresholds, abs=1e-6
    )
    assert band.split(np.array([0.31, 0.79], np.float32)) == ([0], [])


def test_log_odds_of_one_are_the_same_distance_for_every_threshold() -> None:
    band = Band.around(np.array([0.5, 0.9], np.float32), below=1, above=1)
    assert band.low == pytest.approx([1 / (1 + np.e), 9 / (9 + np.e)])
    assert band.high == pytest.approx([np.e / (1 + np.e), 9 * np.e / (1 + 9 * np.e)])


@given(st.integers(0, 10_000), st.floats(0, 5), st.floats(0, 5))
def test_every_tag_is_sure_asked_about_or_not_there(seed: int, below: float, above: float) -> None:
    draw = np.random.default_rng(seed)
    thresholds, scores = draw.random(20, np.float32), draw.random(20, np.float32)
    band = Band.around(thresholds, below=below, above=above)
    sure, asked = band.split(scores)
    assert set(sure).isdisjoint(asked)
    for column in range(20):
        place = "sure" if column in sure else "asked" if column in asked else "out"
        wide = Band.around(thresholds, below=below + 1, above=above + 1).split(scores)[1]
        assert place != "asked" or column in wide, "a wider band asks about more"
        assert place != "out" or scores[column] < thresholds[column] + 1e-5
        assert place != "sure" or scores[column] >= thresholds[column] - 1e-5


@given(st.integers(0, 10_000), st.floats(0, 0.3), st.floats(0, 0.5))
def test_a_fitted_band_leaves_no_more_errors_outside_than_wanted(
    seed: int, lost: float, wrong: float
) -> None:
    draw = np.random.default_rng(seed)
    truth = draw.random((60, 5)) < 0.3
    scores = np.clip(draw.normal(np.where(truth, 0.6, 0.35), 0.15), 0.01, 0.99).astype(np.float32)
    thresholds = np.full(5, 0.5, np.float32)
    if not truth.any():
        return
    below, above = fit_band(scores, truth, thresholds, lost=lost, wrong=wrong)
    # Rounding to 32 bits on the way back may move an edge past the score that it was taken from.
    band = Band.around(thresholds, below=below + 1e-5, above=max(0.0, above + 1e-5))
    splits = [band.split(row) for row in scores]
    given_wrongly = sum(not truth[n, column] for n, (sure, _) in enumerate(splits) for column in sure)
    given = sum(len(sure) for sure, _ in splits)
    missed = sum(
        column not in sure and column not in asked
        for n, (sure, asked) in enumerate(splits)
        for column in np.flatnonzero(truth[n])
    )
    assert missed <= lost * truth.sum()
    assert given_wrongly <= wrong * given + 1


def test_nonsense_is_refused() -> None:
    scores = np.full((2, 3), 0.5, np.float32)
    none = np.zeros((2, 3), bool)
    thresholds = np.full(3, 0.5, np.float32)
    with pytest.raises(UsageError, match="a true tag"):
        fit_band(scores, none, thresholds)
    with pytest.raises(UsageError, match="shares"):
        fit_band(scores, ~none, thresholds, lost=2)
    with pytest.raises(UsageError, match="0 or more"):
        Band.around(thresholds, below=-1, above=1)
    with pytest.raises(UsageError, match="0 or more"):
        Band.around(thresholds, below=float("nan"), above=1)
    with pytest.raises(UsageError, match="expected 3 scores"):
        Band.around(thresholds, below=1, above=1).split(np.zeros(2, np.float32))

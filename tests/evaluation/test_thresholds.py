"""Thresholds against exhaustive search, the shrinkage's two ends, and the baseline that never looks."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taglens.errors import UsageError
from taglens.evaluation import thresholds
from taglens.evaluation.metrics import average_precisions, evaluable, precision_recall
from taglens.evaluation.thresholds import best_uniform_threshold, fit_thresholds, frequency_baseline
from taglens.vocabulary import Entry, Vocabulary

seeds = st.integers(0, 2**32 - 1)


def some_data(seed: int, *, pictures: int = 20, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Scores on a coarse grid with 0 and 1, so that ties are common; some classes are not evaluable."""
    rng = np.random.default_rng(seed)
    scores = (rng.integers(0, 9, (pictures, classes)) / 8).astype(np.float32)
    truth = rng.random((pictures, classes)) < rng.choice([0.0, 0.1, 0.5, 1.0], classes)
    return scores, truth


def f_measure(scores: np.ndarray, truth: np.ndarray, threshold: float, beta: float = 1.0) -> float:
    given_tags = scores >= np.float32(threshold)
    right = int((given_tags & truth).sum())
    return (1 + beta**2) * right / max(int(given_tags.sum()) + beta**2 * int(truth.sum()), 1)


@pytest.mark.parametrize(("objective", "beta"), [("f1", 1.0), ("f0.5", 0.5), ("f2", 2.0)])
@settings(max_examples=40)
@given(seed=seeds)
def test_without_shrinkage_no_threshold_is_better(objective: str, beta: float, seed: int) -> None:
    scores, truth = some_data(seed)
    fitted = fit_thresholds(scores, truth, objective=objective, prior_positives=0)  # type: ignore[arg-type]
    every = np.concatenate([np.arange(1, 9) / 8 - 1e-3, np.linspace(0.002, 0.998, 101)])
    for c in np.flatnonzero(evaluable(truth)):
        best = max(f_measure(scores[:, c], truth[:, c], t, beta) for t in every)
        assert f_measure(scores[:, c], truth[:, c], fitted[c], beta) == pytest.approx(best)


@settings(max_examples=40)
@given(seed=seeds, pictures=st.integers(2, 20))
def test_no_uniform_threshold_is_better(seed: int, pictures: int) -> None:
    scores, truth = some_data(seed, pictures=pictures, classes=3)
    found = best_uniform_threshold(scores, truth)
    if not evaluable(truth).any():
        assert found == 0.5
        return
    every = [*np.linspace(1e-5, 1 - 1e-5, 203), *(np.arange(1, 8) / 8)]
    best = max(precision_recall(scores >= np.float32(t), truth).class_f1 for t in every)
    assert precision_recall(scores >= np.float32(found), truth).class_f1 == pytest.approx(best)


@given(seed=seeds, prior=st.sampled_from([0.0, 5.0, 1e12]))
def test_thresholds_are_float32_values_inside_the_open_interval(seed: int, prior: float) -> None:
    scores, truth = some_data(seed)
    fitted = fit_thresholds(scores, truth, prior_positives=prior)
    for value in [*fitted.tolist(), best_uniform_threshold(scores, truth)]:
        assert 0.0 < value < 1.0
        assert float(np.float32(value)) == value


def test_ties_between_thresholds_go_towards_the_uniform_one() -> None:
    # In the last class, admitting the best picture or the best four gives an F1 of 2/3 both times; the others
    # decide which of the two is nearer to the uniform threshold.
    torn, torn_truth = [0.8, 0.6, 0.1, 0.05, 0.01], [1, 0, 0, 1, 0]
    truth = np.array([[1, 1, 0, 0, 0]] * 3 + [torn_truth], bool).T
    high = np.array([[0.9, 0.9, 0.1, 0.1, 0.1]] * 3 + [torn], np.float32).T
    low = np.array([[0.1, 0.1, 1e-3, 1e-3, 1e-3]] * 3 + [torn], np.float32).T
    for scores, uniform, nearest in ((high, 0.8, 0.7), (low, 0.05, 0.03)):
        f1 = [f_measure(scores[:, 3], truth[:, 3], t) for t in (0.7, 0.03)]
        assert f1 == [2 / 3, 2 / 3]
        assert best_uniform_threshold(scores, truth) == pytest.approx(uniform)
        assert fit_thresholds(scores, truth, prior_positives=0)[3] == pytest.approx(nearest)


def test_shrinkage_runs_from_the_own_threshold_to_the_uniform_one() -> None:
    rng = np.random.default_rng(3)
    truth = rng.random((400, 6)) < np.array([0.01, 0.05, 0.2, 0.3, 0.5, 0.0])
    noise = rng.normal(size=truth.shape) + 3 * truth - np.array([0.0, 1.0, 2.0, 3.0, 4.0, 0.0])
    scores = (1 / (1 + np.exp(-noise))).astype(np.float32)
    uniform = best_uniform_threshold(scores, truth)
    own = fit_thresholds(scores, truth, prior_positives=0)
    half = fit_thresholds(scores, truth, prior_positives=20)
    assert fit_thresholds(scores, truth, prior_positives=1e15) == pytest.approx(np.full(6, uniform), rel=1e-5)
    assert own[5] == half[5] == uniform
    for c in range(5):
        positives = int(truth[:, c].sum())
        w = positives / (positives + 20)
        expected = w * math.log(own[c] / (1 - own[c])) + (1 - w) * math.log(uniform / (1 - uniform))
        assert math.log(half[c] / (1 - half[c])) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("low", [np.float32(0.7), np.nextafter(np.float32(0.7), np.float32(1))])
def test_neighbouring_floats_have_no_middle(low: np.float32) -> None:
    # Their mean is rounded to the even one of the two, here once up and once down.
    high = np.nextafter(low, np.float32(1))
    scores = np.array([[high], [low], [0.1]], np.float32)
    truth = np.array([[1], [0], [0]])
    (fitted,) = fit_thresholds(scores, truth, prior_positives=0)
    assert (scores[:, 0] >= np.float32(fitted)).tolist() == [True, False, False]


def test_many_distinct_scores_are_thinned_and_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    truth = rng.random((500, 7)) < 0.3
    scores = np.clip(rng.random(truth.shape) * 0.7 + 0.3 * truth, 0, 1).astype(np.float32)
    exact = best_uniform_threshold(scores, truth)
    whole = fit_thresholds(scores, truth)
    monkeypatch.setattr("taglens.evaluation.metrics._CHUNK_ELEMENTS", 2 * 500)
    np.testing.assert_array_equal(fit_thresholds(scores, truth), whole)
    monkeypatch.setattr(thresholds, "_MOST_CANDIDATES", 50)
    thinned = best_uniform_threshold(scores, truth)
    f1 = [precision_recall(scores >= np.float32(t), truth).class_f1 for t in (thinned, exact)]
    assert 0 <= f1[1] - f1[0] < 0.02


def test_they_go_into_a_vocabulary_file() -> None:
    scores, truth = some_data(7)
    fitted = fit_thresholds(scores, truth).tolist()
    vocabulary = Vocabulary([Entry(name, "object") for name in "abcd"]).with_thresholds(fitted)
    json.dumps([entry.to_dict() for entry in vocabulary])
    np.testing.assert_array_equal(vocabulary.thresholds(), np.array(fitted, np.float32))


@pytest.mark.parametrize("value", [-0.01, 1.01, -3.0])
def test_logits_are_refused(value: float) -> None:
    scores, truth = np.array([[0.5], [value]], np.float32), np.array([[1], [0]])
    for fit in (fit_thresholds, best_uniform_threshold):
        with pytest.raises(UsageError, match="apply the sigmoid"):
            fit(scores, truth)


def test_other_nonsense_is_refused() -> None:
    scores, truth = some_data(0)
    with pytest.raises(UsageError, match="not one of f1"):
        fit_thresholds(scores, truth, objective="accuracy")  # type: ignore[arg-type]
    for prior in (-1.0, math.nan):
        with pytest.raises(UsageError, match="0 or more"):
            fit_thresholds(scores, truth, prior_positives=prior)


def test_data_that_say_nothing_give_the_default() -> None:
    assert fit_thresholds(np.zeros((0, 3), np.float32), np.zeros((0, 3), bool)).tolist() == [0.5] * 3
    assert best_uniform_threshold(np.zeros((3, 0), np.float32), np.zeros((3, 0), bool)) == 0.5
    # Evaluable, but every score is 0: no threshold in (0, 1) admits anything.
    nothing = fit_thresholds(np.zeros((4, 1), np.float32), np.array([[1], [0], [0], [0]]))
    assert 0 < nothing[0] < 1


def test_the_frequency_baseline_scores_every_picture_alike() -> None:
    scores = frequency_baseline(np.array([0, 5, 20]), 4)
    assert scores.dtype == np.float32
    assert scores.tolist() == [[0.0, 0.25, 1.0]] * 4
    # Ties keep the input order: positives at ranks 2 and 4 of 4.
    truth = np.array([[0], [1], [0], [1]])
    assert average_precisions(scores[:, 1:2], truth)[0] == pytest.approx(0.5)
    for counts, n in (
        (np.array([0, 0]), 1),
        (np.array([-1, 2]), 1),
        (np.array([[1]]), 1),
        (np.array([1]), -1),
    ):
        with pytest.raises(UsageError):
            frequency_baseline(counts, n)

"""Metrics against an obvious loop, against scikit-learn, and by their properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_recall_fscore_support

from taglens.errors import UsageError
from taglens.evaluation import metrics
from taglens.evaluation.metrics import (
    average_precision,
    average_precisions,
    evaluable,
    mean_average_precision,
    precision_recall,
)


def slow_average_precision(scores: list[float], truth: list[int]) -> float:
    """Rank by falling score, first come first on ties; precision at each positive; their mean."""
    waiting = list(range(len(scores)))
    seen = right = 0
    precisions = []
    while waiting:
        best = waiting[0]
        for picture in waiting:
            if scores[picture] > scores[best]:
                best = picture
        waiting.remove(best)
        seen += 1
        if truth[best]:
            right += 1
            precisions.append(right / seen)
    return sum(precisions) / len(precisions) if precisions else math.nan


def slow_precision_recall(predicted: np.ndarray, truth: np.ndarray) -> list[float]:
    precisions, recalls, tp, given_total, wanted_total = [], [], 0, 0, 0
    for c in range(truth.shape[1]):
        right = sum(1 for n in range(len(truth)) if predicted[n, c] and truth[n, c])
        given_count = sum(1 for n in range(len(truth)) if predicted[n, c])
        wanted = sum(1 for n in range(len(truth)) if truth[n, c])
        if wanted in (0, len(truth)):
            continue
        precisions.append(right / given_count if given_count else 0.0)
        recalls.append(right / wanted)
        tp, given_total, wanted_total = tp + right, given_total + given_count, wanted_total + wanted
    if not precisions:
        return [math.nan] * 6
    cp, cr = sum(precisions) / len(precisions), sum(recalls) / len(recalls)
    op, overall_recall = tp / given_total if given_total else 0.0, tp / wanted_total
    f = [2 * p * r / (p + r) if p + r else 0.0 for p, r in ((cp, cr), (op, overall_recall))]
    return [cp, cr, f[0], op, overall_recall, f[1]]


# Five different scores among up to twelve pictures: ties are the rule.
rows = st.lists(
    st.tuples(st.sampled_from([0.0, -0.0, 0.25, 0.5, 1.0, -3.0]), st.integers(0, 1)), min_size=1, max_size=12
)


@given(rows)
def test_average_precision_equals_the_loop_ties_included(pairs: list[tuple[float, int]]) -> None:
    scores, truth = [s for s, _ in pairs], [t for _, t in pairs]
    for dtype in (np.float16, np.float32, np.float64):
        fast = average_precision(np.array(scores, dtype), np.array(truth))
        assert fast == pytest.approx(slow_average_precision(scores, truth), nan_ok=True, abs=1e-12)


def test_known_values() -> None:
    truth = np.array([1, 0, 1, 0], np.uint8)
    assert average_precision(np.array([0.9, 0.8, 0.7, 0.1]), truth) == pytest.approx((1 + 2 / 3) / 2)
    # All tied: the input order stands, so the positives are at ranks 1 and 3 again; reversed, at 2 and 4.
    assert average_precision(np.full(4, 0.5), truth) == pytest.approx((1 + 2 / 3) / 2)
    assert average_precision(np.full(4, 0.5), truth[::-1]) == pytest.approx((1 / 2 + 2 / 4) / 2)


def test_untied_scores_agree_with_scikit_learn_over_several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_CHUNK_ELEMENTS", 3 * 211)
    rng = np.random.default_rng(0)
    scores = rng.permuted(np.tile(np.linspace(0, 1, 211), (10, 1)), axis=1).T
    truth = rng.random((211, 10)) < np.linspace(0.01, 0.9, 10)
    truth[:, 4] = False
    ours = average_precisions(scores, truth)
    assert math.isnan(ours[4])
    keep = [c for c in range(10) if truth[:, c].any()]
    theirs = [average_precision_score(truth[:, c], scores[:, c]) for c in keep]
    np.testing.assert_allclose(ours[keep], theirs, rtol=1e-12)
    assert mean_average_precision(scores, truth) == pytest.approx(np.mean(theirs))


def test_decisions_agree_with_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    truth = rng.random((80, 9)) < 0.3
    predicted = rng.random((80, 9)) < 0.2
    predicted[:, 3] = False
    found = precision_recall(predicted, truth)
    cp, cr, _, _ = precision_recall_fscore_support(truth, predicted, average="macro", zero_division=0)
    overall = precision_recall_fscore_support(truth, predicted, average="micro", zero_division=0)
    assert (found.class_precision, found.class_recall) == pytest.approx((cp, cr))
    assert found.class_f1 == pytest.approx(2 * cp * cr / (cp + cr))
    assert (found.overall_precision, found.overall_recall, found.overall_f1) == pytest.approx(overall[:3])


@given(st.integers(0, 6), st.integers(0, 4), st.integers(0, 2**32 - 1))
def test_decisions_equal_the_loop(pictures: int, classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    predicted = rng.random((pictures, classes)) < 0.5
    truth = (rng.random((pictures, classes)) < 0.5).astype(np.uint8)
    found = precision_recall(predicted, truth)
    values = [getattr(found, name) for name in type(found).__dataclass_fields__]
    assert values == pytest.approx(slow_precision_recall(predicted, truth), nan_ok=True)


def test_classes_that_say_nothing_leave_every_figure() -> None:
    rng = np.random.default_rng(2)
    scores = rng.random((30, 3)).astype(np.float32)
    truth = rng.random((30, 3)) < 0.4
    never, always = np.zeros((30, 1), bool), np.ones((30, 1), bool)
    more_scores = np.hstack([scores, scores[:, :2]])
    more_truth = np.hstack([truth, never, always])
    assert evaluable(more_truth).tolist() == [True, True, True, False, False]
    assert mean_average_precision(more_scores, more_truth) == mean_average_precision(scores, truth)
    assert precision_recall(more_scores > 0.5, more_truth) == precision_recall(scores > 0.5, truth)


def test_no_evaluable_class_is_nan_and_not_zero() -> None:
    truth = np.zeros((4, 2), bool)
    assert math.isnan(mean_average_precision(np.zeros((4, 2)), truth))
    assert math.isnan(precision_recall(np.ones((4, 2), bool), truth).overall_f1)
    assert average_precisions(np.zeros((0, 3)), np.zeros((0, 3), bool)).shape == (3,)
    assert average_precisions(np.zeros((3, 0)), np.zeros((3, 0), bool)).shape == (0,)


def test_nothing_predicted_is_precision_zero() -> None:
    found = precision_recall(np.zeros((3, 1), bool), np.array([[1], [0], [0]]))
    assert found.class_precision == found.overall_precision == found.class_f1 == found.overall_f1 == 0.0


@pytest.mark.parametrize(
    ("scores", "truth", "message"),
    [
        (np.zeros((3, 2)), np.zeros((3, 3), int), "shape"),
        (np.zeros(3), np.zeros(3, int), "expected truth"),
        (np.zeros((1, 1)), np.array([[-1]]), "0 or 1"),
        (np.zeros((1, 1)), np.array([[2]]), "0 or 1"),
        (np.array([[0.5], [np.nan]]), np.array([[1], [0]]), "NaN"),
    ],
)
def test_arrays_that_cannot_be_meant_are_refused(scores: np.ndarray, truth: np.ndarray, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        average_precisions(scores, truth)


def test_one_class_wants_flat_arrays() -> None:
    with pytest.raises(UsageError, match="average_precisions"):
        average_precision(np.zeros((2, 1)), np.zeros((2, 1), int))
    with pytest.raises(UsageError, match="decisions have shape"):
        precision_recall(np.zeros((2, 1), bool), np.zeros((1, 2), int))

"""Calibration: a source speaks for the tags in its reach and for no other."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tiny
import torch
from torch import Tensor, nn

from taglens.data.batches import PictureSet
from taglens.errors import DataError
from taglens.evaluation.thresholds import best_uniform_threshold, fit_thresholds
from taglens.models.recognizer import Recognition
from taglens.training.calibration import calibrated
from taglens.training.recipes import mean_ap, score_set
from taglens.vocabulary import Vocabulary

Array = npt.NDArray[np.float32]


class Table(nn.Module):
    """Reads a picture's scores from a table; the row's number is the picture's red and green."""

    def __init__(self, scores: Array) -> None:
        super().__init__()
        logits = torch.special.logit(torch.from_numpy(scores).double(), eps=1e-7)
        self.logits = nn.Parameter(logits.float())
        self.config = tiny.config(tags=scores.shape[1])
        self.batches: list[int] = []

    def forward(self, images: Tensor) -> Recognition:
        rows = (images[:, 0, 0, 0] * 255).round().long() * 256 + (images[:, 1, 0, 0] * 255).round().long()
        self.batches.append(len(images))
        return Recognition(self.logits[rows], None, images[:, 0, 0])


def world(*sources: tuple[Any, Any, list[float]], tags: int = 4) -> tuple[Any, list[PictureSet]]:
    """A model and its sources from (scores [N, T], truth [N, T], absent weights [T]) each."""
    sets, tables, row = [], [], 0
    for number, (scores, truth, weights) in enumerate(sources):
        count = len(scores)
        pixels = np.zeros((count, 32, 32, 3), np.uint8)
        numbers = np.arange(row, row + count)
        pixels[..., 0], pixels[..., 1] = (numbers // 256)[:, None, None], (numbers % 256)[:, None, None]
        present = np.asarray(truth, np.uint8)
        sets.append(PictureSet(f"source {number}", pixels, present, np.asarray(weights, np.float32)))
        tables.append(np.asarray(scores, np.float32))
        row += count
    return Table(np.concatenate(tables)), sets


def noise(count: int, seed: int, *, tags: int = 4, share: float = 0.4) -> tuple[Array, npt.NDArray[np.uint8]]:
    """Scores that mean something, and truth."""
    rng = np.random.default_rng(seed)
    truth = (rng.random((count, tags)) < share).astype(np.uint8)
    scores = np.clip(rng.normal(0.35 + 0.3 * truth, 0.15), 0.01, 0.99).astype(np.float32)
    return scores, truth


def thresholds(vocabulary: Vocabulary) -> list[float | None]:
    return [entry.threshold for entry in vocabulary]


def fitted(scores: Array, truth: Any) -> list[float]:
    return [float(np.float32(t)) for t in fit_thresholds(scores, np.asarray(truth, np.uint8))]


def approx(values: list[float]) -> Any:
    return pytest.approx(values, abs=2e-6)


def test_a_tag_is_fitted_on_the_sources_that_reach_it() -> None:
    (first, first_truth), (second, second_truth) = noise(60, 0), noise(50, 1)
    model, sets = world((first, first_truth, [1, 1, 0, 0]), (second, second_truth, [0, 0.3, 1, 0]))
    vocabulary, own = calibrated(model, tiny.vocabulary(4), sets)
    found = thresholds(vocabulary)
    # The shared threshold that each is drawn to belongs to the tags of the same sources, so each group goes alone.
    both, both_truth = np.concatenate([first, second])[:, [1]], np.concatenate([first_truth, second_truth])[:, [1]]
    assert [found[0]] == approx(fitted(first[:, [0]], first_truth[:, [0]]))
    assert [found[1]] == approx(fitted(both, both_truth))
    assert [found[2]] == approx(fitted(second[:, [2]], second_truth[:, [2]]))
    assert found[3] is None, "a tag that nobody looked for has no threshold of its own"
    assert own == 3


def test_what_a_source_cannot_know_changes_nothing() -> None:
    (first, first_truth), (second, second_truth) = noise(60, 0), noise(50, 1)
    reaches = ([1, 1, 0, 0], [0, 1, 1, 1])
    model, sets = world((first, first_truth, reaches[0]), (second, second_truth, reaches[1]))
    expected = thresholds(calibrated(model, tiny.vocabulary(4), sets)[0])
    lying, lying_truth = second.copy(), second_truth.copy()
    lying[:, 0], lying_truth[:, 0] = 0.999, 1 - second_truth[:, 0]
    model, sets = world((first, first_truth, reaches[0]), (lying, lying_truth, reaches[1]))
    assert thresholds(calibrated(model, tiny.vocabulary(4), sets)[0]) == expected
    # And a source in whose reach it is does change it.
    model, sets = world((first, first_truth, reaches[0]), (lying, lying_truth, [1, 1, 1, 1]))
    assert thresholds(calibrated(model, tiny.vocabulary(4), sets)[0])[0] != expected[0]


def test_a_rare_tag_takes_the_threshold_of_the_others() -> None:
    scores, truth = noise(80, 2)
    truth[:, 3] = 0
    truth[:2, 3] = 1
    model, sets = world((scores, truth, [1] * 4))
    vocabulary, own = calibrated(model, tiny.vocabulary(4), sets, least=3)
    shared = best_uniform_threshold(scores[:, :3], truth[:, :3])
    assert thresholds(vocabulary)[3] == pytest.approx(shared, abs=2e-6)
    assert own == 3
    assert calibrated(model, tiny.vocabulary(4), sets, least=2)[1] == 4


@pytest.mark.parametrize("level", [1e-5, 1 - 1e-5], ids=["near 0", "near 1"])
def test_extreme_scores_are_told_apart(level: float) -> None:
    """A threshold rounded to 0 gives its tag to every picture, one rounded to 1 to none."""
    truth = np.zeros((40, 4), np.uint8)
    truth[:20] = 1
    step = min(level, 1 - level) / 2
    scores = np.where(truth, level + step, level - step).astype(np.float32)
    model, sets = world((scores, truth, [1] * 4))
    vocabulary, _ = calibrated(model, tiny.vocabulary(4), sets)
    given = score_set(model, sets[0], side=32)
    for row, answer in zip(given, truth, strict=True):
        assert len(vocabulary.select(row)) == answer.sum()
    assert all(threshold is not None and 0 < threshold < 1 for threshold in thresholds(vocabulary))


def test_a_stored_threshold_is_the_fitted_one_in_float32() -> None:
    """A score equal to its threshold is given; a rounded threshold would lose it."""
    scores, truth = noise(60, 3)
    model, sets = world((scores, truth, [1] * 4))
    vocabulary, _ = calibrated(model, tiny.vocabulary(4), sets)
    exact = fit_thresholds(score_set(model, sets[0], side=32), truth).astype(np.float32)
    assert np.array_equal(vocabulary.thresholds(), exact)
    assert all(len(str(threshold)) <= 12 for threshold in thresholds(vocabulary))


def test_the_vocabulary_keeps_its_meaning() -> None:
    scores, truth = noise(30, 4)
    model, sets = world((scores, truth, [1] * 4))
    before = tiny.vocabulary(4)
    after, _ = calibrated(model, before, sets)
    assert (after.ref, after.ids) == (before.ref, before.ids)
    assert after[0].synonyms == before[0].synonyms


def test_without_pictures_there_is_nothing_to_fit() -> None:
    model, _ = world((*noise(3, 0), [1] * 4))
    with pytest.raises(DataError, match="val split"):
        calibrated(model, tiny.vocabulary(4), [])


# -- scoring a set -----------------------------------------------------------------------------------


def test_a_set_is_scored_in_batches_in_order() -> None:
    scores, truth = noise(300, 5)
    model, sets = world((scores, truth, [1] * 4))
    found = score_set(model, sets[0], side=32, batch_size=128)
    assert model.batches == [128, 128, 44]
    assert np.allclose(found, scores, atol=1e-5) and found.dtype == np.float32


def test_scoring_leaves_no_trace_in_the_model() -> None:
    model = tiny.recognizer()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    score_set(model, tiny.picture_set("some", 3), side=32)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_the_mean_runs_over_tags_that_can_be_ranked() -> None:
    truth = np.array([[1, 1, 1, 0], [1, 0, 1, 0], [0, 1, 1, 0], [0, 0, 1, 0]], np.uint8)
    scores = np.array([[0.9, 0.1, 0, 0], [0.8, 0.9, 0, 0], [0.1, 0.8, 0, 0], [0.2, 0.2, 0, 0]], np.float32)
    model, (pictures,) = world((scores, truth, [1, 1, 1, 1]))
    second = (1 / 2 + 2 / 4) / 2
    assert mean_ap(scores, pictures, least=1) == pytest.approx((1.0 + second) / 2)
    assert math.isnan(mean_ap(scores, pictures, least=3))
    model, (pictures,) = world((scores, truth, [0, 1, 1, 1]))
    assert mean_ap(scores, pictures, least=1) == pytest.approx(second), "a tag out of reach is left out"

"""Calibration: probabilities come true, and a source speaks for the tags in its reach and for no other."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

import tiny
from taglens.data.batches import PictureSet
from taglens.errors import DataError
from taglens.evaluation.thresholds import best_uniform_threshold, fit_thresholds
from taglens.models.recognizer import Recognition, Recognizer
from taglens.training.calibration import Fitted, fit
from taglens.training.recipes import logits_of, mean_ap

Floats = npt.NDArray[np.float32]
Bits = npt.NDArray[np.uint8]
ALL = [1.0, 1.0, 1.0, 1.0]


class Table(nn.Module):
    """Reads a picture's logits from a table; the row's number is the picture's red and green."""

    def __init__(self, logits: Floats) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.from_numpy(logits))
        self.config = tiny.config(tags=logits.shape[1])
        self.batches: list[int] = []

    def forward(self, images: Tensor) -> Recognition:
        rows = (images[:, 0, 0, 0] * 255).round().long() * 256 + (images[:, 1, 0, 0] * 255).round().long()
        self.batches.append(len(images))
        return Recognition(self.logits[rows], self.logits[rows], None, images[:, 0, 0])


def world(*sources: tuple[Floats, Bits, list[float]]) -> tuple[Any, list[PictureSet]]:
    """A model and its sources, from logits [N, T], presence [N, T] and absent weights [T] of each."""
    sets, row = [], 0
    for number, (logits, present, weights) in enumerate(sources):
        numbers = np.arange(row, row + len(logits))
        pixels = np.zeros((len(logits), 32, 32, 3), np.uint8)
        pixels[..., 0], pixels[..., 1] = (numbers // 256)[:, None, None], (numbers % 256)[:, None, None]
        sets.append(PictureSet(f"source {number}", pixels, present, np.asarray(weights, np.float32)))
        row += len(logits)
    return Table(np.concatenate([logits for logits, _, _ in sources])), sets


def fitted(*sources: tuple[Floats, Bits, list[float]], least: int = 3) -> Fitted:
    model, sets = world(*sources)
    return fit(model, tiny.vocabulary(4), sets, least=least)


def noise(count: int, seed: int) -> tuple[Floats, Bits]:
    """Logits that mean something, too high by an amount of each tag's own, and presence."""
    rng = np.random.default_rng(seed)
    present = (rng.random((count, 4)) < [0.5, 0.3, 0.4, 0.2]).astype(np.uint8)
    logits = rng.normal(0, 1, (count, 4)) + 1.5 * present + [0, 1, 2, 3]
    return logits.astype(np.float32), present


def thresholds(found: Fitted) -> list[float | None]:
    return [entry.threshold for entry in found.vocabulary]


# -- probabilities -----------------------------------------------------------------------------------


def test_the_mean_probability_is_the_share_of_pictures() -> None:
    logits, present = noise(200, 0)
    scores = fitted((logits, present, ALL)).calibration.apply(logits)
    # Half a picture of doubt on either side.
    assert scores.mean(0) == pytest.approx((present.sum(0) + 0.5) / 201, abs=1e-4)


def test_an_unsure_absence_counts_as_far_as_it_is_sure() -> None:
    logits, present = noise(200, 0)
    scores = fitted((logits, present, [1.0, 0.25, 1.0, 1.0])).calibration.apply(logits)
    weights = np.where(present[:, 1], 1.0, 0.25)
    expected = (present[:, 1].sum() + 0.5) / (weights.sum() + 1)
    assert float(np.average(scores[:, 1], weights=weights)) == pytest.approx(expected, abs=1e-4)
    assert scores[:, 0].mean() == pytest.approx((present[:, 0].sum() + 0.5) / 201, abs=1e-4)


@pytest.mark.parametrize("squeeze", [0.5, 1.0, 4.0])
def test_a_bent_scale_is_bent_back(squeeze: float) -> None:
    """Logits whose true probability is known, divided by ``squeeze`` and shifted tag by tag."""
    rng = np.random.default_rng(1)
    true = rng.normal(-0.5, 1.5, (4000, 4))
    present = (rng.random(true.shape) < 1 / (1 + np.exp(-true))).astype(np.uint8)
    found = fitted(((true / squeeze + [0, 1, 2, -3]).astype(np.float32), present, ALL))
    assert found.calibration.slope == pytest.approx(squeeze, rel=0.2)
    scores = found.calibration.apply((true / squeeze + [0, 1, 2, -3]).astype(np.float32))
    assert np.abs(scores - 1 / (1 + np.exp(-true))).mean() < 0.03


def test_calibration_keeps_every_tags_ranking() -> None:
    logits, present = noise(60, 2)
    calibration = fitted((logits, present, ALL)).calibration
    scores = calibration.apply(logits)
    assert calibration.slope > 0 and scores.dtype == np.float32
    assert np.array_equal(np.argsort(scores, 0, kind="stable"), np.argsort(logits, 0, kind="stable"))
    for row, tag in ((0, 0), (5, 3)):
        z = calibration.slope * float(logits[row, tag]) + float(calibration.offsets[tag])
        assert float(scores[row, tag]) == pytest.approx(1 / (1 + math.exp(-z)), rel=1e-5)


def test_extreme_logits_neither_warn_nor_break() -> None:
    _, present = noise(40, 3)
    wild = np.where(present, 200.0, -200.0).astype(np.float32)
    found = fitted((wild, present, ALL))
    scores = found.calibration.apply(wild)
    assert np.isfinite(scores).all() and np.isfinite(found.calibration.offsets).all()
    assert (scores[present == 1] > 0.5).all() and (scores[present == 0] < 0.5).all()
    assert found.calibration.apply(np.full((1, 4), -1e6, np.float32)).max() == 0


# -- who speaks for what -----------------------------------------------------------------------------


def test_a_tag_is_fitted_on_the_sources_that_reach_it() -> None:
    (first, present1), (second, present2) = noise(60, 0), noise(50, 1)
    found = fitted((first, present1, [1, 1, 0, 0]), (second, present2, [0, 1, 1, 0]))
    both, present = np.concatenate([first, second]), np.concatenate([present1, present2])
    for column, logits, truth in ((0, first, present1), (1, both, present), (2, second, present2)):
        scores = found.calibration.apply(logits)[:, [column]]
        assert scores.mean() == pytest.approx((truth[:, column].sum() + 0.5) / (len(truth) + 1), abs=1e-4)
        # The shared threshold that a tag is drawn to is that of the tags with the same sources: here, its own.
        expected = fit_thresholds(scores, truth[:, [column]])
        assert [thresholds(found)[column]] == pytest.approx(expected, abs=1e-6)
    assert found.own == 3


def test_a_tag_that_nobody_looked_for_keeps_silent() -> None:
    logits, present = noise(60, 0)
    found = fitted((logits, present, [1, 1, 1, 0]))
    assert thresholds(found)[3] is None
    tags = found.vocabulary.select(found.calibration.apply(logits + 3)[0])
    assert (
        found.calibration.apply(np.full((1, 4), 5.0, np.float32))[0, 3] < 0.5 or found.calibration.slope > 2
    )
    assert "object:boat" not in [tag.id for tag in tags]


def test_what_a_source_cannot_know_changes_nothing() -> None:
    (first, present1), (second, present2) = noise(60, 0), noise(50, 1)
    reach = [1.0, 1, 0, 0]
    honest = fitted((first, present1, reach), (second, present2, [0, 1, 1, 1]))
    lying, lie = second.copy(), present2.copy()
    lying[:, 0], lie[:, 0] = 9.0, 1 - present2[:, 0]
    deaf = fitted((first, present1, reach), (lying, lie, [0, 1, 1, 1]))
    assert thresholds(deaf) == thresholds(honest) and deaf.own == honest.own
    assert deaf.calibration.slope == honest.calibration.slope
    assert np.array_equal(deaf.calibration.offsets, honest.calibration.offsets)
    # Where it is in reach it is heard.
    heard = fitted((first, present1, reach), (lying, lie, ALL))
    assert thresholds(heard)[0] != thresholds(honest)[0]


def test_a_rare_tag_takes_the_threshold_of_the_others() -> None:
    logits, present = noise(80, 2)
    present[:, 3] = 0
    present[:2, 3] = 1
    found = fitted((logits, present, ALL), least=3)
    scores = found.calibration.apply(logits)
    shared = best_uniform_threshold(scores[:, :3], present[:, :3])
    assert thresholds(found)[3] == pytest.approx(shared, abs=1e-6)
    assert found.own == 3
    assert fitted((logits, present, ALL), least=2).own == 4


# -- what is stored ----------------------------------------------------------------------------------


def test_a_stored_threshold_is_the_fitted_one_in_float32() -> None:
    """A score equal to its threshold is given; rounding would lose it."""
    logits, present = noise(60, 3)
    found = fitted((logits, present, ALL))
    exact = fit_thresholds(found.calibration.apply(logits), present).astype(np.float32)
    assert np.array_equal(found.vocabulary.thresholds(), exact)
    assert all(len(str(threshold)) <= 12 for threshold in thresholds(found))


def test_a_tag_of_a_few_pictures_in_thousands_is_told_apart() -> None:
    """A threshold rounded to 0 would give the tag to every picture."""
    present = np.zeros((4000, 4), np.uint8)
    present[:, 0] = np.arange(4000) % 2
    present[:3, 1:] = 1
    logits = np.where(present, 9.0, -9.0).astype(np.float32)
    found = fitted((logits, present, ALL))
    assert all(threshold is not None and 0 < threshold < 1 for threshold in thresholds(found))
    given = [len(found.vocabulary.select(row)) for row in found.calibration.apply(logits[:50])]
    assert given == present[:50].sum(1).tolist()


def test_the_vocabulary_keeps_its_meaning() -> None:
    before = tiny.vocabulary(4)
    after = fitted((*noise(30, 4), ALL)).vocabulary
    assert (after.ref, after.ids) == (before.ref, before.ids)
    assert after[0].synonyms == before[0].synonyms


def test_without_pictures_there_is_nothing_to_fit() -> None:
    model, _ = world((*noise(3, 0), ALL))
    with pytest.raises(DataError, match="val split"):
        fit(model, tiny.vocabulary(4), [])


# -- scoring a set -----------------------------------------------------------------------------------


def test_a_set_is_scored_in_batches_in_order() -> None:
    logits, present = noise(300, 5)
    model, sets = world((logits, present, ALL))
    found = logits_of(model, sets[0], side=32, batch_size=128)
    assert model.batches == [128, 128, 44]
    assert np.array_equal(found, logits) and found.dtype == np.float32


def test_scoring_leaves_no_trace_in_the_model() -> None:
    model = tiny.recognizer()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    logits_of(model, tiny.picture_set("some", 3), side=32)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_the_mean_runs_over_tags_that_can_be_ranked() -> None:
    present = np.array([[1, 1, 1, 0], [1, 0, 1, 0], [0, 1, 1, 0], [0, 0, 1, 0]], np.uint8)
    logits = np.array([[9, 1, 0, 0], [8, 9, 0, 0], [1, 8, 0, 0], [2, 2, 0, 0]], np.float32)
    _, (pictures,) = world((logits, present, ALL))
    second = (1 / 2 + 2 / 4) / 2
    assert mean_ap(logits, pictures, least=1) == pytest.approx((1.0 + second) / 2)
    assert math.isnan(mean_ap(logits, pictures, least=3))
    _, (pictures,) = world((logits, present, [0, 1, 1, 1]))
    assert mean_ap(logits, pictures, least=1) == pytest.approx(second), "a tag out of reach is left out"


def test_a_typed_tag_is_calibrated_like_the_middle_known_one() -> None:
    """Known tags are asked as if typed; the rest of the fit knows nothing of it."""
    rng = np.random.default_rng(0)
    present = (rng.random((400, 4)) < [0.5, 0.3, 0.2, 0.1]).astype(np.uint8)
    logits = (2.0 * (present - 0.5) + rng.standard_normal((400, 4))).astype(np.float32)
    model, sets = world((logits, present, [1.0] * 4))
    assert fit(model, tiny.vocabulary(4), sets).calibration.typed_offset == 0, "this model reads no text"

    class Reader(Table):
        """Reads its table doubled and shifted where labels are given from outside."""

        bank = None

        def with_labels(self, bank: object) -> Table:
            return Table(self.logits.detach().numpy() * 2 - 3)

    reader = Reader(logits)
    reader.config = tiny.config(tags=4, descriptions=2)
    found = fit(cast(Recognizer, reader), tiny.vocabulary(4), sets).calibration
    whole = fit(model, tiny.vocabulary(4), sets).calibration
    assert found.slope == whole.slope and np.allclose(found.offsets, whole.offsets)
    assert found.typed_slope == pytest.approx(whole.slope / 2, rel=0.15)
    assert found.typed_offset == pytest.approx(np.median(whole.offsets) + 3 * found.typed_slope, abs=0.4)
    assert 0 < found.typed_threshold < 1

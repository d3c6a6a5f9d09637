"""The model inside the package: complete, small, deterministic, and right about the easiest photographs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from taglens.cli.demo import photographs
from taglens.inference.bundle import GRAPH, VOCABULARY, Bundle, locate
from taglens.inference.tagger import Tagger

MEBIBYTE = 2**20


@pytest.fixture(scope="module")
def starter() -> Tagger:
    return Tagger.from_pretrained("starter")


@pytest.fixture(scope="module")
def photos() -> dict[str, Path]:
    return {path.stem: path for path in photographs()}


def test_the_bundle_is_complete_and_small() -> None:
    folder = locate("starter")
    bundle = Bundle.open(folder)
    assert bundle.name == "starter"
    assert len(bundle.vocabulary) > 1000
    assert not bundle.vocabulary.problems()
    assert {"MODEL_CARD.md", "LICENSE-WEIGHTS.md", GRAPH, VOCABULARY} <= {p.name for p in folder.iterdir()}
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 30 * MEBIBYTE


def test_every_kind_of_tag_is_known(starter: Tagger) -> None:
    kinds = {entry.kind for entry in starter.vocabulary}
    assert kinds == {"object", "scene", "attribute", "action"}
    assert all(entry.threshold is not None for entry in starter.vocabulary)


def test_a_batch_scores_like_its_pictures_alone(starter: Tagger, photos: dict[str, Path]) -> None:
    together = [scores for _, scores in starter.scores(photos.values(), batch_size=8)]
    alone = [scores for _, scores in starter.scores(photos.values(), batch_size=1)]
    for one, other in zip(together, alone, strict=True):
        assert one is not None and other is not None
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_hidden_tags_are_never_given(starter: Tagger, photos: dict[str, Path]) -> None:
    hidden = {entry.id for entry in starter.vocabulary if entry.hidden}
    assert hidden
    for prediction in starter(photos.values(), threshold=0.0):
        assert prediction.tags is not None
        assert not hidden & {tag.id for tag in prediction.tags}


def test_a_cat_is_an_animal(starter: Tagger, photos: dict[str, Path]) -> None:
    (prediction,) = starter(photos["chelsea"], threshold=0.0, top=5)
    assert "animal" in prediction.names


def test_a_picture_of_noise_does_not_look_like_a_photograph_of_everything(starter: Tagger) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    (prediction,) = starter(noise)
    assert prediction.tags is not None and len(prediction.tags) < 200

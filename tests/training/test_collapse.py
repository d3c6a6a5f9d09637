"""Figures of collapse beside slow twins, and that a constructed collapse is seen."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from taglens.errors import UsageError
from taglens.training.collapse import (
    CaptionFigures,
    CollapseError,
    Limits,
    caption_figures,
    map_figures,
    require_sound,
)


def draws(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 8))
def test_map_figures_are_loops(seed: int, count: int) -> None:
    mapped, features, mean = draws(seed, count, 3), draws(seed + 1, count, 3), draws(seed + 2, 3)

    def cos(one: torch.Tensor, other: torch.Tensor) -> float:
        return float(one @ other / one.norm() / other.norm())

    found = map_figures(mapped, features, mean)
    everyone = range(count)
    assert found.cos == pytest.approx(sum(cos(mapped[n], features[n]) for n in everyone) / count, abs=1e-5)
    assert found.mean_cos == pytest.approx(sum(cos(mean, features[n]) for n in everyone) / count, abs=1e-5)
    assert found.gain == pytest.approx(found.cos - found.mean_cos)
    for name, vectors in (("pairwise", mapped), ("features_pairwise", features)):
        pairs = [cos(vectors[a], vectors[b]) for a in everyone for b in everyone if a != b]
        assert getattr(found, name) == pytest.approx(sum(pairs) / len(pairs), abs=1e-5)
    hits = sum(max(everyone, key=lambda m, n=n: cos(mapped[n], features[m])) == n for n in everyone)
    assert found.retrieval == pytest.approx(hits / count)


def test_one_place_for_all_is_seen() -> None:
    features = draws(0, 20, 6).abs()
    mean = features.mean(0)
    found = map_figures(mean.expand(20, -1), features, mean)
    assert found.pairwise == pytest.approx(1.0, abs=1e-5)
    assert found.gain == pytest.approx(0.0, abs=1e-5)
    assert found.retrieval <= 0.1  # at best the one picture that is nearest to all
    same = map_figures(features, mean.expand(20, -1), mean)
    assert same.retrieval == 0.0  # pictures that are alike are not told apart


def test_pictures_are_told_apart_among_fifty() -> None:
    features = torch.eye(60)
    assert map_figures(features, features, torch.ones(60)).retrieval == 1.0
    # The last ten stand in a group of their own, where each of them is found.
    mapped = features.clone()
    mapped[:50] = features[0]
    assert map_figures(mapped, features, torch.ones(60)).retrieval == pytest.approx(11 / 60)


def test_caption_figures_count() -> None:
    found = caption_figures(["a dog", "a dog", "", "one two three"], 0.5)
    assert found == CaptionFigures(distinct=0.75, words=7 / 4, empty=0.25, score=0.5)
    with pytest.raises(UsageError):
        caption_figures([], 0.0)


BASE = CaptionFigures(distinct=0.8, words=10.0, empty=0.0, score=0.3)
SPREAD = map_figures(draws(0, 9, 4), draws(1, 9, 4), torch.ones(4))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"distinct": 0.39}, "differ from each other"),
        ({"words": 4.9}, "4.9 words, they had 10.0"),
        ({"words": 20.1}, "20.1 words"),
        ({"empty": 0.06}, "6% of captions are empty"),
        ({"score": float("nan")}, "not finite"),
    ],
)
def test_each_collapse_stops_training(change: dict[str, float], says: str) -> None:
    with pytest.raises(CollapseError, match=f"by step 7 .*{says}.*Lower --lr"):
        require_sound(BASE, replace(BASE, **change), None, Limits(), step=7)


def test_mapping_to_one_place_stops_training() -> None:
    with pytest.raises(CollapseError, match="nearly to one place"):
        require_sound(BASE, BASE, (SPREAD, replace(SPREAD, pairwise=0.9999)), Limits(), step=7)


def test_what_is_sound_goes_on() -> None:
    worse = replace(BASE, distinct=0.41, words=5.1, empty=0.049, score=0.0)
    require_sound(BASE, worse, (SPREAD, SPREAD), Limits(), step=7)
    require_sound(BASE, replace(BASE, words=19.9), None, Limits(), step=7)


@pytest.mark.parametrize("given", [{"distinct": -0.1}, {"words": 1.1}, {"most_words": 0.9}, {"spread": 2.0}])
def test_nonsense_limits_are_refused(given: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Limits(**given)

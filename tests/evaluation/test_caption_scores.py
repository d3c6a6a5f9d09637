"""BERTScore and CLIPScore of vectors against slow twins, and what must hold whatever the vectors are."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taglens.errors import MismatchError, UsageError
from taglens.evaluation.caption_scores import (
    Match,
    Pieces,
    Rarity,
    best_match,
    clip_scores,
    cosines,
    matched,
    mean_match,
    ref_clip_scores,
)

seeds = st.integers(0, 2**32 - 1)


def text(rng: np.random.Generator, length: int, *, framed: bool = True, width: int = 5) -> Pieces:
    """A text of chance; ``framed``: its first and last pieces say nothing."""
    total = length + 2 * framed
    marks = np.zeros(total, np.bool_)
    if framed:
        marks[[0, -1]] = True
    return Pieces(rng.integers(0, 9, total), rng.normal(size=(total, width)).astype(np.float32), marks)


def cosine(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> float:
    product = sum(float(a) * float(b) for a, b in zip(one, other, strict=True))
    return product / math.sqrt(sum(float(a) ** 2 for a in one)) / math.sqrt(sum(float(b) ** 2 for b in other))


def twin_side(text: Pieces, other: Pieces, counts: dict[int, int] | None, texts: int) -> float:
    total = weights = 0.0
    for row in range(len(text.ids)):
        if text.marks[row]:
            continue
        best = max(cosine(text.vectors[row], vector) for vector in other.vectors)
        number = int(text.ids[row])
        weight = 1.0 if counts is None else math.log((texts + 1) / (counts.get(number, 0) + 1))
        total += weight * best
        weights += weight
    return total / weights


def twin(
    caption: Pieces, reference: Pieces, counts: dict[int, int] | None = None, texts: int = 0
) -> tuple[float, float, float]:
    precision = twin_side(caption, reference, counts, texts)
    recall = twin_side(reference, caption, counts, texts)
    return precision, recall, 2 * precision * recall / (precision + recall)


def figures(match: Match) -> tuple[float, float, float]:
    return match.precision, match.recall, match.f1


@given(seeds, st.integers(1, 6), st.integers(1, 6))
def test_bertscore_equals_its_slow_twin(seed: int, ours: int, theirs: int) -> None:
    rng = np.random.default_rng(seed)
    caption, reference = text(rng, ours), text(rng, theirs)
    found, wanted = figures(matched(caption, reference)), twin(caption, reference)
    assert found[:2] == pytest.approx(wanted[:2], abs=1e-6)
    if min(found[:2]) > 0:
        assert found[2] == pytest.approx(wanted[2], abs=1e-6)


@given(seeds)
def test_rare_pieces_weigh_as_in_the_slow_twin(seed: int) -> None:
    rng = np.random.default_rng(seed)
    texts = [rng.integers(0, 9, 4).tolist() for _ in range(5)]
    counts = {piece: sum(piece in ids for ids in texts) for piece in range(9)}
    caption, reference = text(rng, 4), text(rng, 3)
    found = matched(caption, reference, rarity=Rarity(texts))
    wanted = twin(caption, reference, counts, len(texts))
    assert figures(found)[:2] == pytest.approx(wanted[:2], abs=1e-6)


@given(seeds)
def test_a_text_matches_itself_wholly_and_swapping_swaps(seed: int) -> None:
    rng = np.random.default_rng(seed)
    one, other = text(rng, 4), text(rng, 2)
    assert figures(matched(one, one)) == pytest.approx((1.0, 1.0, 1.0))
    there, back = matched(one, other), matched(other, one)
    assert figures(there) == pytest.approx((back.recall, back.precision, back.f1))


def test_marks_weigh_nothing_and_can_be_matched() -> None:
    vectors = np.eye(3, dtype=np.float32)
    caption = Pieces(np.array([0, 5]), vectors[:2], np.array([True, False]))
    # The caption's only word is nearest to the reference's mark.
    reference = Pieces(np.array([0, 6]), vectors[1:], np.array([True, False]))
    found = matched(caption, reference)
    assert (found.precision, found.recall) == (1.0, 0.0)


def test_what_says_nothing_scores_nothing() -> None:
    rng = np.random.default_rng(0)
    empty, full = text(rng, 0), text(rng, 3)
    assert figures(matched(empty, full)) == figures(matched(full, empty)) == (0.0, 0.0, 0.0)
    # Every reference holds every piece: none of them says anything, by how rare it is.
    everywhere = Rarity([full.ids.tolist()] * 3)
    assert figures(matched(full, full, rarity=everywhere)) == (0.0, 0.0, 0.0)


def test_the_best_reference_counts_for_each_figure_by_itself() -> None:
    rng = np.random.default_rng(3)
    caption, references = text(rng, 5), [text(rng, size) for size in (1, 8, 3)]
    alone = [matched(caption, one) for one in references]
    found = best_match(caption, references)
    assert figures(found) == tuple(max(each) for each in zip(*map(figures, alone), strict=True))
    with pytest.raises(UsageError, match="no references"):
        best_match(caption, [])


def test_scores_stretch_between_the_baseline_and_one() -> None:
    baseline = Match(0.8, 0.7, 0.75)
    assert figures(baseline.rescaled(baseline)) == (0.0, 0.0, 0.0)
    assert figures(Match(1.0, 1.0, 1.0).rescaled(baseline)) == (1.0, 1.0, 1.0)
    assert Match(0.9, 0.7, 0.7).rescaled(baseline).precision == pytest.approx(0.5)
    with pytest.raises(UsageError, match="no room"):
        Match(0.5, 0.5, 0.5).rescaled(Match(1.0, 0.5, 0.5))


def test_f1_of_figures_of_two_signs_is_nothing() -> None:
    assert Match.of(0.5, -0.5).f1 == Match.of(0.0, 0.0).f1 == 0.0
    assert mean_match([Match(0.0, 0.5, 1.0), Match(1.0, 0.5, 0.0)]) == Match(0.5, 0.5, 0.5)
    with pytest.raises(UsageError, match="no matches"):
        mean_match([])


def table(rng: np.random.Generator, rows: int, width: int = 6) -> npt.NDArray[np.float32]:
    return rng.normal(size=(rows, width)).astype(np.float32)


def twin_clip(
    pictures: Sequence[npt.NDArray[np.float32]],
    captions: Sequence[npt.NDArray[np.float32]],
    references: Sequence[Sequence[npt.NDArray[np.float32]]],
) -> list[tuple[float, float]]:
    found = []
    for picture, caption, known in zip(pictures, captions, references, strict=True):
        score = 2.5 * max(cosine(picture, caption), 0.0)
        near = max(0.0, *(cosine(one, caption) for one in known))
        found.append((score, 2 * score * near / (score + near) if score + near else 0.0))
    return found


@given(seeds)
def test_clipscore_equals_its_slow_twin(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pictures, captions = table(rng, 4), table(rng, 4)
    references = [table(rng, size) for size in (1, 3, 2, 2)]
    scores = clip_scores(pictures, captions)
    found = list(zip(scores, ref_clip_scores(scores, captions, references), strict=True))
    for ours, wanted in zip(found, twin_clip(pictures, captions, references), strict=True):
        assert ours == pytest.approx(wanted, abs=1e-6)


@given(seeds, st.floats(0.01, 100))
def test_lengths_of_vectors_do_not_count(seed: int, factor: float) -> None:
    rng = np.random.default_rng(seed)
    pictures, captions = table(rng, 3), table(rng, 3)
    longer = (captions * np.float32(factor)).astype(np.float32)
    assert cosines(pictures, longer) == pytest.approx(cosines(pictures, captions), abs=1e-5)


def test_opposites_score_nothing_and_never_less() -> None:
    vectors = np.eye(2, dtype=np.float32)
    scores = clip_scores(vectors, -vectors)
    assert scores.tolist() == [0.0, 0.0]
    assert ref_clip_scores(scores, vectors, [vectors, vectors]).tolist() == [0.0, 0.0]
    assert clip_scores(vectors, vectors).tolist() == [2.5, 2.5]


def test_what_does_not_fit_is_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(MismatchError, match="do not pair"):
        clip_scores(table(rng, 2), table(rng, 3))
    with pytest.raises(UsageError, match="references of 1 pictures"):
        ref_clip_scores(np.ones(2), table(rng, 2), [table(rng, 1)])
    with pytest.raises(UsageError, match="one or more references"):
        ref_clip_scores(np.ones(1), table(rng, 1), [table(rng, 0)])
    with pytest.raises(UsageError, match="do not fit"):
        Pieces(np.zeros(2, np.int64), table(rng, 3), np.zeros(2, np.bool_))
    with pytest.raises(MismatchError, match="width"):
        matched(text(rng, 2), text(rng, 2, width=4))

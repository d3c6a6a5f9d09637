"""Searching for a text: against plain twins and against every text there is; pictures do not see each other."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from taglens.errors import ModelError, UsageError
from taglens.inference.generation import (
    Beams,
    Bounds,
    Ids,
    Sampling,
    Written,
    beam_search,
    greedy,
    nucleus,
    sample,
)

END = 0
Texts = list[tuple[int, tuple[int, ...]]]  # a state: the picture and the text of every row


class Toy:
    """A model whose logits are any numbers, but always the same for the same picture and text."""

    def __init__(self, words: int = 5, *, seed: int = 0, scale: float = 2.0) -> None:
        self.words, self.seed, self.scale = words, seed, scale
        self.rows: list[int] = []

    def logits(self, picture: int, text: Sequence[int]) -> NDArray[np.float64]:
        dice = np.random.default_rng([self.seed, picture, len(text), *text])
        return dice.normal(0.0, self.scale, self.words)

    def start(self, pictures: Sequence[int]) -> Texts:
        return [(picture, ()) for picture in pictures]

    def __call__(self, ids: Ids, state: Texts, rows: Ids) -> tuple[NDArray[np.float64], Texts]:
        self.rows.append(len(rows))
        after = [
            (state[row][0], state[row][1] + tuple(map(int, more)))
            for row, more in zip(rows, ids, strict=True)
        ]
        return np.stack([self.logits(picture, text) for picture, text in after]), after


def fixed(*rows: Sequence[float]) -> Callable[..., tuple[NDArray[np.float64], int]]:
    """A step that gives these logits, one row for each step, whatever was written; its state counts steps."""

    def step(ids: Ids, state: int, rows_: Ids) -> tuple[NDArray[np.float64], int]:
        return np.tile(np.array(rows[min(state, len(rows) - 1)], float), (len(rows_), 1)), state + 1

    return step


def prompts(count: int = 1, *pieces: int) -> Ids:
    return np.array([pieces or (1, 2)] * count, np.int64)


# -- twins -------------------------------------------------------------------------------------------


def plain_scores(toy: Toy, picture: int, text: Sequence[int], bounds: Bounds) -> list[float]:
    logits = [float(one) for one in toy.logits(picture, text)]
    whole = math.log(sum(math.exp(one) for one in logits))
    found = [one - whole for one in logits]
    for piece in set(text):
        found[piece] *= bounds.repetition_penalty if found[piece] < 0 else 1 / bounds.repetition_penalty
    if len(text) < bounds.min_length:
        found[bounds.end] = -math.inf
    return found


def plain_beams(
    toy: Toy, picture: int, prompt: Sequence[int], bounds: Bounds, beams: Beams
) -> list[tuple[float, list[int]]]:
    """The rules as they are told, with lists and one picture."""
    open_, ended, done = [(0.0, list(prompt))], [], False
    while not done and len(open_[0][1]) < bounds.max_length:
        length = len(open_[0][1])
        candidates = []
        for total, text in open_:
            for piece, score in enumerate(plain_scores(toy, picture, text, bounds)):
                if score > -math.inf:
                    candidates.append((total + score, text, piece))
        candidates = sorted(candidates, key=lambda one: one[0], reverse=True)[: 2 * beams.count]
        open_ = []
        for rank, (total, text, piece) in enumerate(candidates):
            if len(open_) == beams.count:
                break
            if piece != bounds.end:
                open_.append((total, [*text, piece]))
            elif rank < beams.count:
                ended.append((total / length**beams.length_penalty, [*text, piece]))
                ended = sorted(ended, key=lambda one: one[0], reverse=True)[: beams.count]
        if len(ended) == beams.count:
            hope = candidates[0][0] / length**beams.length_penalty
            done = beams.stop_early or ended[-1][0] >= hope
    if not done:
        ended += [(total / len(text) ** beams.length_penalty, text) for total, text in open_]
    return sorted(ended, key=lambda one: one[0], reverse=True)[: beams.returned]


def every_text(
    toy: Toy, picture: int, prompt: Sequence[int], bounds: Bounds
) -> list[tuple[float, list[int]]]:
    """Every text that could be written, with its score, best first."""
    found = []
    room = bounds.max_length - len(prompt)
    words = [piece for piece in range(toy.words) if piece != bounds.end]
    for written in range(room + 1):
        for tail in product(words, repeat=written):
            pieces = [*tail] if written == room else [*tail, bounds.end]
            text, total = list(prompt), 0.0
            for piece in pieces:
                total += plain_scores(toy, picture, text, bounds)[piece]
                text.append(piece)
            if total > -math.inf:
                found.append((total / (len(text) - (text[-1] == bounds.end)), text))
    return sorted(found, key=lambda one: one[0], reverse=True)


def same(found: Sequence[Written], expected: Sequence[tuple[float, list[int]]]) -> bool:
    return [list(one.ids) for one in found] == [text for _, text in expected] and bool(
        np.allclose([one.score for one in found], [score for score, _ in expected])
    )


# -- beams -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("penalty", [1.0, 1.4])
def test_enough_beams_find_the_best_of_all_texts(seed: int, penalty: float) -> None:
    toy, bounds = Toy(4, seed=seed), Bounds(END, 6, 3, penalty)
    expected = every_text(toy, 0, (1, 2), bounds)
    assert len(expected) == 3 + 9 + 27 + 81  # none ends before the third piece
    (found,) = beam_search(toy, toy.start([0]), prompts(), bounds, Beams(100, returned=7))
    assert same(found, expected[:7])


@pytest.mark.parametrize("seed", range(8))
def test_few_beams_find_nothing_better_than_the_best(seed: int) -> None:
    toy, bounds = Toy(4, seed=seed), Bounds(END, 6, 3)
    (found,) = beam_search(toy, toy.start([0]), prompts(), bounds, Beams(2))
    scores = {tuple(text): score for score, text in every_text(toy, 0, (1, 2), bounds)}
    assert found[0].score == pytest.approx(scores[found[0].ids])
    assert found[0].score <= max(scores.values()) + 1e-9


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(1, 5),
    words=st.integers(3, 9),
    lengths=st.tuples(st.integers(0, 9), st.integers(3, 9)).map(sorted),
    penalty=st.sampled_from([1.0, 1.3, 0.8]),
    length_penalty=st.sampled_from([1.0, 0.0, 2.0, -1.0]),
    stop_early=st.booleans(),
)
def test_beams_follow_the_rules(
    seed: int,
    count: int,
    words: int,
    lengths: list[int],
    penalty: float,
    length_penalty: float,
    stop_early: bool,
) -> None:
    toy, bounds = Toy(words, seed=seed), Bounds(END, max(lengths[1], 3), lengths[0], penalty)
    beams = Beams(count, count, length_penalty, stop_early)
    found = beam_search(toy, toy.start([0, 1, 2]), prompts(3), bounds, beams)
    for picture, texts in enumerate(found):
        assert same(texts, plain_beams(toy, picture, (1, 2), bounds, beams))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), batch=st.lists(st.integers(0, 9), min_size=1, max_size=6))
def test_a_picture_in_a_batch_reads_as_it_does_alone(seed: int, batch: list[int]) -> None:
    toy, bounds = Toy(seed=seed), Bounds(END, 8, 4, 1.1)
    many = prompts(len(batch))
    for search in (
        lambda rows, ids: beam_search(toy, toy.start(rows), ids, bounds, Beams(3, 2)),
        lambda rows, ids: greedy(toy, toy.start(rows), ids, bounds),
        lambda rows, ids: sample(toy, toy.start(rows), ids, bounds, Sampling(seed)),
    ):
        together = search(batch, many)
        assert together == [search([picture], prompts())[0] for picture in batch]


def test_the_score_is_the_sum_over_the_whole_length_without_the_end() -> None:
    step = fixed([-9.0, 0.0, -9.0], [3.0, 0.0, 0.0])
    chances = [np.array([-9.0, 0.0, -9.0]), np.array([3.0, 0.0, 0.0])]
    first, second = (one - np.log(np.exp(one).sum()) for one in chances)
    ((found,),) = beam_search(step, 0, prompts(), Bounds(END, 9, 0), Beams(1))
    assert found.ids == (1, 2, 1, 0) and found.ended
    assert found.score == pytest.approx((first[1] + second[0]) / 3)


def test_an_end_outside_the_best_is_not_taken() -> None:
    """Two beams: the end ranks third and fourth, so nothing ends before the greatest length."""
    step = fixed([-1.0, 1.0, 0.9, -4.0])
    ((found,),) = beam_search(step, 0, prompts(), Bounds(END, 5, 0), Beams(2))
    assert not found.ended and len(found.ids) == 5


@pytest.mark.parametrize("length", [3, 4, 5, 6])
def test_lengths_count_the_prompt(length: int) -> None:
    eager = fixed([9.0, 0.0, 0.0])
    bounds = Bounds(END, 6, length)
    for found in (
        beam_search(eager, 0, prompts(), bounds, Beams(1))[0][0],
        greedy(eager, 0, prompts(), bounds)[0],
        sample(eager, 0, prompts(), bounds, Sampling(top_p=0.1))[0],
    ):
        assert len(found.ids) == min(length + 1, 6)
        assert found.ended == (length < 6)


def test_stopping_early_stops_early() -> None:
    """Both keep two texts that ended; the open one, ever likelier per piece, could still beat them."""
    rows = [0.0, 1.0, -5.0]
    patient: list[int] = []
    hasty: list[int] = []
    for asked, early in ((patient, False), (hasty, True)):

        def step(ids: Ids, state: int, at: Ids, asked: list[int] = asked) -> tuple[NDArray[np.float64], int]:
            asked.append(len(at))
            return np.tile(rows, (len(at), 1)), 0

        beam_search(step, 0, prompts(), Bounds(END, 12, 0), Beams(2, stop_early=early))
    assert len(hasty) < len(patient)


def test_equal_scores_go_to_the_earlier_row_and_the_smaller_piece() -> None:
    level = fixed([0.0] * 6)
    bounds = Bounds(5, 5, 5)
    assert greedy(level, 0, prompts(), bounds)[0].ids == (1, 2, 0, 0, 0)
    ((first, second),) = beam_search(level, 0, prompts(), bounds, Beams(2, 2))
    assert {first.ids, second.ids} == {(1, 2, 0, 0, 0), (1, 2, 0, 0, 1)}
    assert beam_search(level, 0, prompts(), bounds, Beams(2, 2)) == [[first, second]]


def test_pictures_that_are_done_are_asked_no_more() -> None:
    toy = Toy(4, seed=5)
    greedy(toy, toy.start([0, 1, 2, 3]), prompts(4), Bounds(END, 20, 0))
    assert toy.rows[0] == 4 and toy.rows == sorted(toy.rows, reverse=True) and toy.rows[-1] < 4
    toy.rows.clear()
    beam_search(toy, toy.start([0, 1]), prompts(2), Bounds(END, 20, 0), Beams(3))
    assert toy.rows[0] == 2, "the prompt is read once for each picture"
    assert max(toy.rows) == 6


def test_one_beam_is_greedy() -> None:
    for seed in range(10):
        toy, bounds = Toy(seed=seed), Bounds(END, 8, 4)
        ((one,),) = beam_search(toy, toy.start([0]), prompts(), bounds, Beams(1))
        (other,) = greedy(toy, toy.start([0]), prompts(), bounds)
        assert one.ids == other.ids
        assert one.score == pytest.approx(other.score)


def test_no_pictures_give_no_texts() -> None:
    none = np.zeros((0, 2), np.int64)
    toy = Toy()
    assert greedy(toy, [], none, Bounds(END)) == []
    assert beam_search(toy, [], none, Bounds(END)) == []


# -- one piece after another -------------------------------------------------------------------------


@pytest.mark.parametrize("penalty", [1.0, 1.5])
def test_greedy_takes_the_likeliest_piece_each_time(penalty: float) -> None:
    for seed in range(10):
        toy, bounds = Toy(seed=seed), Bounds(END, 9, 5, penalty)
        text, total = [1, 2], 0.0
        while len(text) < 9 and text[-1] != END:
            logits = toy.logits(0, text)
            asked = logits.copy()
            for piece in set(text):
                asked[piece] = asked[piece] * penalty if asked[piece] < 0 else asked[piece] / penalty
            if len(text) < 5:
                asked[END] = -np.inf
            total += float(logits[asked.argmax()] - np.log(np.exp(logits).sum()))
            text.append(int(asked.argmax()))
        (found,) = greedy(toy, toy.start([0]), prompts(), bounds)
        assert list(found.ids) == text
        assert found.score == pytest.approx(total / (len(text) - (text[-1] == END)))


def test_the_nucleus_is_the_least_that_holds_its_share() -> None:
    logits = np.log([0.05, 0.5, 0.15, 0.3])
    for top_p, kept in {
        0.01: [1],
        0.49: [1],
        0.51: [1, 3],
        0.79: [1, 3],
        0.81: [1, 3, 2],
        1.0: [1, 3, 2, 0],
    }.items():
        order, chances = nucleus(logits, Sampling(top_p=top_p))
        assert order.tolist() == kept
        assert chances == pytest.approx(np.exp(logits[kept]) / np.exp(logits[kept]).sum())
    assert nucleus(logits, Sampling(top_p=1.0, top_k=2))[0].tolist() == [1, 3]
    hot, cold = (nucleus(logits, Sampling(top_p=1.0, temperature=t))[1][0] for t in (4.0, 0.25))
    assert hot < 0.5 < cold


def test_pieces_are_drawn_as_often_as_they_are_likely() -> None:
    logits = np.log([0.05, 0.5, 0.15, 0.3])
    step, bounds = fixed(logits), Bounds(END, 3, 0)
    drawn = [sample(step, 0, prompts(), bounds, Sampling(seed, top_p=0.9))[0].ids[-1] for seed in range(2000)]
    shares = np.bincount(drawn, minlength=4) / len(drawn)
    assert shares == pytest.approx([0.0, 0.5 / 0.95, 0.15 / 0.95, 0.3 / 0.95], abs=0.04)


def test_the_same_seed_gives_the_same_text_and_another_another() -> None:
    toy, bounds = Toy(30, scale=0.5), Bounds(END, 20, 15)
    texts = [sample(toy, toy.start([0]), prompts(), bounds, Sampling(seed))[0] for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_a_nucleus_of_one_is_greedy() -> None:
    toy, bounds = Toy(), Bounds(END, 9, 5, 1.2)
    assert sample(toy, toy.start([0]), prompts(), bounds, Sampling(top_k=1)) == greedy(
        toy, toy.start([0]), prompts(), bounds
    )


# -- what is refused ---------------------------------------------------------------------------------


NONSENSE: dict[str, Callable[[], object]] = {
    "end": lambda: Bounds(-1),
    "lengths crossed": lambda: Bounds(END, 5, 6),
    "length below 0": lambda: Bounds(END, 5, -1),
    "penalty": lambda: Bounds(END, repetition_penalty=0.0),
    "penalty not a number": lambda: Bounds(END, repetition_penalty=math.nan),
    "no beams": lambda: Beams(0),
    "more returned than kept": lambda: Beams(2, 3),
    "seed": lambda: Sampling(-1),
    "empty nucleus": lambda: Sampling(top_p=0.0),
    "nucleus above 1": lambda: Sampling(top_p=1.1),
    "temperature": lambda: Sampling(temperature=0.0),
    "no room": lambda: greedy(Toy(), [(0, ())], prompts(1, 1, 2, 3), Bounds(END, 3, 0)),
    "no prompt": lambda: beam_search(Toy(), [(0, ())], np.zeros((1, 0), np.int64), Bounds(END)),
    "prompts not in rows": lambda: greedy(Toy(), [(0, ())], np.array([1, 2]), Bounds(END)),
}


@pytest.mark.parametrize("made", NONSENSE.values(), ids=NONSENSE)
def test_nonsense_is_refused(made: Callable[[], object]) -> None:
    with pytest.raises(UsageError):
        made()


@pytest.mark.parametrize(
    ("row", "told"),
    {
        "not a number": ([0.0, math.nan], "not finite"),
        "infinite": ([0.0, math.inf], "not finite"),
        "too few pieces": ([], "shape"),
        "nothing can follow": ([0.0, -math.inf], "no piece can follow"),
    }.values(),
)
def test_logits_that_cannot_be_used_are_refused(row: list[float], told: str) -> None:
    for search in (greedy, beam_search):
        with pytest.raises(ModelError, match=told):
            search(fixed(row), 0, prompts(1, 1), Bounds(END))

"""The tagger: whole numbers, batches, the disk, and files that do not fit."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from taglens.errors import ModelError
from taglens.language.tagger import LABELS, Tagger, Weights, default_tagger, pieces_of

WORDS = ("a", "red", "dog", "runs")


def weights(seed: int = 0, width: int = 4, hidden: int = 6) -> Weights:
    chance = np.random.default_rng(seed)

    def small(*shape: int) -> np.ndarray:
        return chance.integers(-127, 128, shape).astype(np.int8)

    pieces = tuple(sorted({piece for word in WORDS for piece in pieces_of(word)}))
    return Weights(
        words=WORDS,
        vectors=small(len(WORDS), width),
        pieces=pieces,
        piece_vectors=small(len(pieces), width),
        edge=small(width),
        first=small(5 * width, hidden),
        first_bias=chance.integers(-9_000, 9_000, hidden).astype(np.float32),
        first_step=0.01,
        second=small(3 * hidden, hidden),
        second_bias=chance.integers(-9_000, 9_000, hidden).astype(np.float32),
        second_step=0.001,
        last=small(2 * hidden, len(LABELS)),
        last_bias=chance.integers(-9_000, 9_000, len(LABELS)).astype(np.float32),
    )


def slow(tagger: Tagger, tokens: list[str]) -> str:
    """The labels again, place by place, in Python's own whole numbers."""
    w = tagger.weights
    known = {word: [int(x) for x in row] for word, row in zip(w.words, w.vectors, strict=True)}
    edge = [int(x) for x in w.edge]

    def sums(flat: list[int], matrix: np.ndarray, bias: np.ndarray) -> list[int]:
        shares = [sum(x * int(m) for x, m in zip(flat, column, strict=True)) for column in matrix.T]
        return [share + int(extra) for share, extra in zip(shares, bias, strict=True)]

    def layer(inputs: list[list[int]], matrix: np.ndarray, bias: np.ndarray, step: float) -> list[int]:
        totals = sums([x for row in inputs for x in row], matrix, bias)
        return [min(255, max(0, int(np.rint(np.float32(total) * np.float32(step))))) for total in totals]

    words = [edge] * 3 + [known[token] for token in tokens] + [edge] * 3
    nothing = [0] * w.first.shape[1]
    first = [
        layer(words[i - 2 : i + 3], w.first, w.first_bias, w.first_step) for i in range(3, len(words) - 3)
    ]
    padded = [nothing, *first, nothing]
    second = [
        layer(padded[i - 1 : i + 2], w.second, w.second_bias, w.second_step)
        for i in range(1, len(padded) - 1)
    ]
    scores = [sums(one + two, w.last, w.last_bias) for one, two in zip(first, second, strict=True)]
    return "".join(LABELS[int(np.argmax(each))] for each in scores)


def label(tagger: Tagger, captions: list[list[str]]) -> Iterator[str]:
    table = tagger.table(str)
    rows = [[row for token in tokens for row in table.add(token)] for tokens in captions]
    return tagger.label(rows, table)


@pytest.mark.parametrize("seed", range(5))
def test_a_batch_agrees_with_the_slow_twin(seed: int) -> None:
    tagger = Tagger(weights(seed), {}, frozenset())
    chance = np.random.default_rng(seed)
    captions = [list(chance.choice(WORDS, chance.integers(1, 9))) for _ in range(12)]
    assert list(label(tagger, captions)) == [slow(tagger, tokens) for tokens in captions]


def test_tables_that_grow_and_batches_that_are_cut_say_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taglens.language.tagger._FIRST_ROWS", 2)
    monkeypatch.setattr("taglens.language.tagger._AT_ONCE", 5)
    tagger = Tagger(weights(), {}, frozenset())
    captions = [[first, second] for first in WORDS for second in WORDS]
    assert list(label(tagger, captions)) == [slow(tagger, tokens) for tokens in captions]


def test_empty_captions_have_no_labels() -> None:
    tagger = Tagger(weights(), {}, frozenset())
    assert list(label(tagger, [[], ["dog"], []]))[::2] == ["", ""]
    assert list(label(tagger, [])) == []


def test_unknown_words_are_read_by_their_pieces() -> None:
    tagger = Tagger(weights(), {}, frozenset())
    table = tagger.table(str)
    (row,) = table.add("zruns")
    found = [piece for piece in pieces_of("zruns") if piece in tagger.weights.pieces]
    assert found
    places = [tagger.weights.pieces.index(piece) for piece in found]
    vector = np.clip(tagger.weights.piece_vectors[places].astype(int).sum(0), -127, 127)
    alone = table.first_sums(np.array([0, 0, row, 0, 0]))[0]
    window = np.concatenate([tagger.weights.edge, tagger.weights.edge, vector, *[tagger.weights.edge] * 2])
    sums = window.astype(int) @ tagger.weights.first.astype(int) + tagger.weights.first_bias.astype(int)
    assert alone.tolist() == sums.tolist()


def test_the_disk_keeps_everything(tmp_path: Path) -> None:
    tagger = Tagger(weights(), {"dog": 5, "a": 9}, frozenset(("run",)))
    tagger.save(tmp_path / "a.npz")
    again = Tagger.load(tmp_path / "a.npz")
    assert (again.counts, again.verbs, again.weights.words) == (tagger.counts, tagger.verbs, WORDS)
    captions = [list(WORDS), ["dog", "unseen"]]
    assert list(label(again, captions)) == list(label(tagger, captions))
    again.save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_a_tagger_whose_parts_disagree_is_refused(tmp_path: Path) -> None:
    broken = replace(weights(), first=weights().first[:-1])
    Tagger(broken, {}, frozenset()).save(tmp_path / "broken.npz")
    with pytest.raises(ModelError, match=re.escape(str(tmp_path))):
        Tagger.load(tmp_path / "broken.npz")


def test_the_shipped_sums_are_exact() -> None:
    """No sum can reach 2**24, from where on float32 no longer holds every whole number."""
    shipped = default_tagger().weights
    for matrix, largest, bias in (
        (shipped.first, 127, shipped.first_bias),
        (shipped.second, 255, shipped.second_bias),
        (shipped.last, 255, shipped.last_bias),
    ):
        sums = np.abs(matrix.astype(np.int64)).sum(0) * largest + np.abs(bias).astype(np.int64)
        assert sums.max() < 2**24
        assert np.array_equal(bias, np.rint(bias))

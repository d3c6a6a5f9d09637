"""The tagger's student: the shipped network in floats, how it learns, and how it becomes whole numbers.

Knows words, labelled captions and the form of ``language.tagger.Weights``; refuses to know files. Needs torch.

Shape legend: B captions, T places, D width of a word, H hidden width, L labels, P pieces of a word.
"""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from taglens.language.graphs import Example
from taglens.language.neighbours import neighbour_vectors
from taglens.language.tagger import FIRST_REACH, LABELS, SECOND_REACH, Small, Weights, pieces_of

# Edges on each side of a caption: what both layers together can see.
EDGES = FIRST_REACH + SECOND_REACH
# A word met this often is known by itself, a piece this often as a piece.
LEAST_WORD, _LEAST_PIECE = 3, 3
_LARGEST = 127


@dataclass(frozen=True)
class Lexicon:
    """The words of all captions, and what is known of them before any label is.

    Attributes:
        words: word -> row, from 1; row 0 is a word not known.
        pieces: piece -> row, from 1.
        neighbours: [words + 1, 100].
        counts: how often captions write each word.
    """

    words: dict[str, int]
    pieces: dict[str, int]
    neighbours: npt.NDArray[np.float32]
    counts: Counter[str]

    @classmethod
    def of(cls, captions: Sequence[Sequence[str]], examples: Sequence[Example]) -> Lexicon:
        """From plain captions and labelled ones; the latter's words are all kept if met twice."""
        counts = Counter(chain.from_iterable(captions))
        taught = Counter(token for example in examples for token in example.tokens)
        kept = [w for w, n in counts.items() if n >= LEAST_WORD or taught[w] > 1]
        kept.sort(key=lambda word: (-counts[word], word))
        parts = Counter(piece for word in counts for piece in pieces_of(word))
        pieces = sorted(piece for piece, count in parts.items() if count >= _LEAST_PIECE)
        vectors = neighbour_vectors(captions, kept)
        return cls(
            {word: row for row, word in enumerate(kept, 1)},
            {piece: row for row, piece in enumerate(pieces, 1)},
            np.concatenate([np.zeros_like(vectors[:1]), vectors * np.float32(math.sqrt(vectors.shape[1]))]),
            counts,
        )

    def rows(self, tokens: Sequence[str]) -> list[tuple[int, ...]]:
        """Per token: its row, then those of its P pieces."""
        return [
            (self.words.get(token, 0), *(self.pieces.get(piece, 0) for piece in pieces_of(token)))
            for token in tokens
        ]


class Student(nn.Module):
    """The network of ``tagger`` in floats."""

    def __init__(self, lexicon: Lexicon, *, width: int, hidden: int, drop: float = 0.1) -> None:
        super().__init__()
        self.words = nn.Embedding(len(lexicon.words) + 1, width, padding_idx=0)
        self.pieces = nn.Embedding(len(lexicon.pieces) + 1, width, padding_idx=0)
        for table in (self.words, self.pieces):
            nn.init.normal_(table.weight, std=0.1)
            table.weight.data[0] = 0.0
        self.edge = nn.Parameter(torch.zeros(width))
        self.first = nn.Conv1d(width, hidden, 2 * FIRST_REACH + 1, padding=FIRST_REACH)
        self.second = nn.Conv1d(hidden, hidden, 2 * SECOND_REACH + 1, padding=SECOND_REACH)
        self.last = nn.Linear(2 * hidden, len(LABELS))
        self.drop = nn.Dropout(drop)
        self.hidden_share: Tensor
        # The rarer a word, the more often it is read by its pieces alone, as words of later captions are.
        met = torch.tensor([0.0, *(float(lexicon.counts[word]) for word in lexicon.words)])
        self.register_buffer("hidden_share", 2.0 / (2.0 + met) * 0.5 + 0.02, persistent=False)

    def forward(self, rows: Tensor, present: Tensor) -> Tensor:
        """[B, T, 1 + P] rows and [B, T] which places are tokens -> [B, T, L]."""
        word = rows[..., 0]
        if self.training:
            word = word * (torch.rand(word.shape) >= self.hidden_share[word])
        x = self.words(word) + self.pieces(rows[..., 1:]).sum(2)
        x = self.drop(torch.where(present[..., None], x, self.edge)).transpose(1, 2)
        first = F.relu(self.first(x)) * present[:, None]
        second = F.relu(self.second(self.drop(first)))
        scores: Tensor = self.last(self.drop(torch.cat([first, second], 1)).transpose(1, 2))
        return scores


@dataclass(frozen=True)
class Labelled:
    """A caption for the student: [T, 1 + P] rows and, per token, a share of each label [T, L]."""

    rows: npt.NDArray[np.int32]
    shares: npt.NDArray[np.float16]


def collate(batch: Sequence[Labelled]) -> tuple[Tensor, Tensor, Tensor]:
    longest = max(len(item.rows) for item in batch) + 2 * EDGES
    rows = np.zeros((len(batch), longest, batch[0].rows.shape[1]), np.int64)
    shares = np.zeros((len(batch), longest, len(LABELS)), np.float32)
    for i, item in enumerate(batch):
        here = slice(EDGES, EDGES + len(item.rows))
        rows[i, here], shares[i, here] = item.rows, item.shares
    return torch.from_numpy(rows), torch.from_numpy(shares), torch.from_numpy(shares.sum(-1) > 0)


def fit_student(
    student: Student,
    gold: Sequence[Labelled],
    plain: Sequence[Labelled],
    *,
    steps: int,
    seed: int,
    say: Callable[[str], None],
    lr: float = 3e-3,
) -> None:
    """Cross-entropy against the shares; each step half gold captions, half plain ones of like length."""
    chance = random.Random(seed)
    optimizer = torch.optim.AdamW(student.parameters(), lr=lr, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.05)
    sources = [_batches(part, 64, chance) for part in (gold, plain) if part]
    student.train()
    started, total = time.monotonic(), 0.0
    for step in range(1, steps + 1):
        loss = torch.zeros(())
        for source in sources:
            rows, shares, present = collate(next(source))
            scores = student(rows, present)[present]
            loss = loss - (F.log_softmax(scores, -1) * shares[present]).sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        total += loss.item()
        if step % 500 == 0:
            say(f"student step {step} of {steps}, loss {total / 500:.4f}, {time.monotonic() - started:.0f} s")
            total = 0.0
    student.eval()


def _batches(items: Sequence[Labelled], size: int, chance: random.Random) -> Iterator[list[Labelled]]:
    while True:
        order = sorted(range(len(items)), key=lambda i: len(items[i].rows) + 3 * chance.random())
        starts = list(range(0, max(1, len(order) - size + 1), size))
        chance.shuffle(starts)
        for start in starts:
            yield [items[i] for i in order[start : start + size]]


# -- to whole numbers --------------------------------------------------------------------------------------


def quantise(student: Student, lexicon: Lexicon, sample: Sequence[Labelled]) -> Weights:
    """The student in whole numbers: vectors and weights to int8, activations to 0 to 255.

    Args:
        sample: captions from which the activations' range is read.
    """
    with torch.inference_mode():
        pieces = student.pieces.weight
        known = torch.tensor(
            [pieces_rows for word in lexicon.words for pieces_rows in [lexicon.rows([word])[0]]]
        )
        vectors = student.words(known[:, 0]) + student.pieces(known[:, 1:]).sum(1)
        edge = student.edge
        # One unit of a vector; the few longest entries are cut.
        unit = float(torch.quantile(vectors.abs().flatten()[:4_000_000], 0.9995)) / _LARGEST
        first, first_unit = _small(_as_matrix(student.first))
        second, second_unit = _small(_as_matrix(student.second))
        last, last_unit = _small(student.last.weight.T)
        top_first, top_second = _tops(student, sample)
        step_first, step_second = top_first / 255, top_second / 255
        hidden = len(second) // (2 * SECOND_REACH + 1)
        # Both halves of the last layer must count in the same unit.
        scaled = student.last.weight.T.clone()
        scaled[:hidden] *= step_first
        scaled[hidden:] *= step_second
        last, last_unit = _small(scaled)
        return Weights(
            words=tuple(lexicon.words),
            vectors=_whole(vectors / unit),
            pieces=tuple(lexicon.pieces),
            piece_vectors=_whole(pieces[1:] / unit),
            edge=_whole(edge / unit),
            first=first,
            first_bias=_bias(student.first.bias, unit * first_unit),
            first_step=unit * first_unit / step_first,
            second=second,
            second_bias=_bias(student.second.bias, step_first * second_unit),
            second_step=step_first * second_unit / step_second,
            last=last,
            last_bias=_bias(student.last.bias, last_unit),
        )


def _as_matrix(layer: nn.Conv1d) -> Tensor:
    """[out, in, reach] -> [reach * in, out], as windows lie in memory."""
    return layer.weight.permute(2, 1, 0).flatten(0, 1)


def _small(weight: Tensor) -> tuple[Small, float]:
    unit = float(weight.abs().max()) / _LARGEST
    return _whole(weight / unit), unit


def _whole(values: Tensor) -> Small:
    return values.round().clamp(-_LARGEST, _LARGEST).to(torch.int8).contiguous().numpy()


def _bias(bias: Tensor | None, unit: float) -> npt.NDArray[np.float32]:
    assert bias is not None
    return (bias / unit).round().float().numpy()


def _tops(student: Student, sample: Sequence[Labelled]) -> tuple[float, float]:
    """Where the activations of each layer end, but for the few largest."""
    rows, _, present = collate(sample)
    x = student.words(rows[..., 0]) + student.pieces(rows[..., 1:]).sum(2)
    x = torch.where(present[..., None], x, student.edge).transpose(1, 2)
    first = F.relu(student.first(x)) * present[:, None]
    second = F.relu(student.second(first))
    tops = [
        float(torch.quantile(layer.transpose(1, 2)[present].flatten()[:4_000_000], 0.9998))
        for layer in (first, second)
    ]
    return tops[0], tops[1]

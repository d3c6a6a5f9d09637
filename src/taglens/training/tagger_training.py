"""Learns the tagger: teachers from captions with scene graphs, then a small student from the teachers.

    python -m taglens.training.tagger_training build --graphs FILE --captions FILE... --out FILE
    python -m taglens.training.tagger_training names --graphs FILE --captions FILE...

``build`` remakes the shipped file; ``names`` proposes lines for ``assets/words/names.txt``. The teachers
(``tagger_teacher``) read whole captions; they label plain captions, from which the student learns words that
no graph has. Needs torch.

Shape legend: B captions, T places, D width of a word, H hidden width, L labels, P pieces of a word.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import math
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from taglens.language.graphs import Aligner, Example, read_graphs, vary
from taglens.language.neighbours import neighbour_vectors
from taglens.language.spelling import Speller
from taglens.language.tagger import FIRST_REACH, LABELS, SECOND_REACH, Small, Tagger, Weights, pieces_of
from taglens.language.tokens import tokenize
from taglens.training.tagger_teacher import Teacher, fit_teacher

# Edges on each side of a caption: what both layers together can see.
EDGES = FIRST_REACH + SECOND_REACH
# A word met this often is known by itself, a piece this often as a piece.
_LEAST_WORD, _LEAST_PIECE = 3, 3
_LARGEST = 127
_LONGEST_PLAIN = 40


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
        kept = [w for w, n in counts.items() if n >= _LEAST_WORD or taught[w] > 1]
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


def _collate(batch: Sequence[Labelled]) -> tuple[Tensor, Tensor, Tensor]:
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
            rows, shares, present = _collate(next(source))
            scores = student(rows, present)[present]
            loss = loss - (F.log_softmax(scores, -1) * shares[present]).sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        total += loss.item()
        if step % 500 == 0:
            _say(
                f"student step {step} of {steps}, loss {total / 500:.4f}, {time.monotonic() - started:.0f} s"
            )
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
    rows, _, present = _collate(sample)
    x = student.words(rows[..., 0]) + student.pieces(rows[..., 1:]).sum(2)
    x = torch.where(present[..., None], x, student.edge).transpose(1, 2)
    first = F.relu(student.first(x)) * present[:, None]
    second = F.relu(student.second(first))
    tops = [
        float(torch.quantile(layer.transpose(1, 2)[present].flatten()[:4_000_000], 0.9998))
        for layer in (first, second)
    ]
    return tops[0], tops[1]


# -- the whole road ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Settings:
    """How much is learnt; the defaults are what the shipped file was made with."""

    teachers: int = 2
    epochs: int = 14
    width: int = 64
    hidden: int = 64
    steps: int = 12_000
    most_plain: int = 120_000
    seed: int = 0

    def chance(self, stage: str) -> random.Random:
        """Each stage draws for itself, so that one that is skipped changes no other."""
        return random.Random(f"{self.seed} {stage}")


def build(
    rows: Sequence[tuple[str, str]],
    captions: Sequence[str],
    settings: Settings = Settings(),
    *,
    work: Path | None = None,
) -> Tagger:
    """Learn from (caption, graph) rows and plain captions. The same input gives the same tagger.

    The rows' captions count among the plain ones.

    Args:
        work: a folder where teachers are kept; those that fit input and settings are not trained again.
    """
    texts = [tokenize(text) for text in chain((caption for caption, _ in rows), captions)]
    speller = Speller(Counter(chain.from_iterable(texts)))
    texts = [[speller(token) for token in tokens] for tokens in texts]
    aligner = Aligner(rows, speller)
    examples = [e for e in (aligner.align(*row) for row in rows) if e.tokens]
    lexicon = Lexicon.of(texts, examples)
    _say(f"{len(examples)} labelled captions, {len(texts)} in all, {len(lexicon.words)} words")
    teachers = [
        _teacher(examples, aligner.verbs, lexicon, settings, number, work)
        for number in range(settings.teachers)
    ]
    shown = [*examples, *vary(examples, aligner.verbs, settings.chance("student"))]
    gold = [_labelled(example.tokens, lexicon, _one_hot(example.labels)) for example in shown]
    plain: list[Labelled] = []
    if teachers:
        # What the graphs say, softened by what the teachers make of the same caption.
        taught = _taught([list(example.tokens) for example in shown], lexicon, teachers)
        gold = [
            Labelled(hard.rows, ((hard.shares + soft.shares) / 2).astype(np.float16))
            for hard, soft in zip(gold, taught, strict=True)
        ]
        unlabelled = [tokens for tokens in texts[len(rows) :] if 1 < len(tokens) <= _LONGEST_PLAIN]
        settings.chance("plain").shuffle(unlabelled)
        plain = _taught(unlabelled[: settings.most_plain], lexicon, teachers)
    torch.manual_seed(settings.seed)
    student = Student(lexicon, width=settings.width, hidden=settings.hidden)
    fit_student(student, gold, plain, steps=settings.steps, seed=settings.seed)
    counts = {word: count for word, count in lexicon.counts.items() if count >= _LEAST_WORD}
    return Tagger(quantise(student, lexicon, gold[:4000]), counts, aligner.verbs)


def _teacher(
    examples: Sequence[Example],
    verbs: frozenset[str],
    lexicon: Lexicon,
    settings: Settings,
    number: int,
    work: Path | None,
) -> Teacher:
    torch.manual_seed(settings.seed + number)
    teacher = Teacher(len(lexicon.words), len(lexicon.pieces), lexicon.neighbours)
    known = hashlib.sha256(
        json.dumps([[e.tokens, e.labels] for e in examples]).encode() + json.dumps(lexicon.words).encode()
    ).hexdigest()
    key = f"{known} {settings.seed + number} {settings.epochs}"
    path = None if work is None else work / f"teacher-{number}.pt"
    if path is not None and path.is_file():
        kept = torch.load(path, weights_only=True)
        if kept["key"] == key:
            teacher.load_state_dict(kept["state"])
            return teacher.eval()
        _say(f"{path} was made from other captions or settings; it is trained anew")
    chance = settings.chance(f"teacher {number}")
    fit_teacher(
        teacher,
        lambda: _mixed(examples, verbs, chance),
        lexicon.rows,
        epochs=settings.epochs,
        seed=settings.seed + number,
        say=_say,
    )
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        torch.save({"key": key, "state": teacher.state_dict()}, part)
        part.replace(path)
    return teacher


def _mixed(examples: Sequence[Example], verbs: frozenset[str], chance: random.Random) -> list[Example]:
    """An epoch: each caption as it is or, one time in four, in another form."""
    varied = vary(examples, verbs, chance)
    return [
        other if chance.random() < 0.25 else example for example, other in zip(examples, varied, strict=True)
    ]


def _one_hot(labels: Sequence[str]) -> npt.NDArray[np.float16]:
    return np.eye(len(LABELS), dtype=np.float16)[[LABELS.index(label) for label in labels]]


def _labelled(tokens: Sequence[str], lexicon: Lexicon, shares: npt.NDArray[np.float16]) -> Labelled:
    return Labelled(np.array(lexicon.rows(tokens), np.int32), shares)


def _taught(
    captions: Sequence[Sequence[str]], lexicon: Lexicon, teachers: Sequence[Teacher]
) -> list[Labelled]:
    """Captions with the mean of what the teachers make of each token."""
    found: list[Labelled | None] = [None] * len(captions)
    order = sorted(range(len(captions)), key=lambda i: len(captions[i]))
    for start in range(0, len(order), 256):
        chosen = order[start : start + 256]
        rows = [lexicon.rows(captions[i]) for i in chosen]
        shares = torch.stack([teacher.shares(rows) for teacher in teachers]).mean(0)
        for i, share, row in zip(chosen, shares, rows, strict=True):
            found[i] = Labelled(np.array(row, np.int32), share[: len(row)].numpy().astype(np.float16))
        if start % (256 * 100) == 0:
            _say(f"teachers have read {start} of {len(captions)} captions")
    return [item for item in found if item is not None]


def read_captions(path: Path) -> list[str]:
    """The lines of a text file, plain or .gz."""
    with (
        gzip.open(path, "rt", encoding="utf-8")
        if path.suffix == ".gz"
        else path.open(encoding="utf-8") as lines
    ):
        return [line.rstrip("\n") for line in lines]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line of the module."""
    parser = argparse.ArgumentParser(
        prog="python -m taglens.training.tagger_training", description="Remake the caption parser's tagger."
    )
    commands = parser.add_subparsers(required=True, dest="command")
    for name, what in (("build", "learn and write the tagger"), ("names", "propose names for objects")):
        command = commands.add_parser(name, help=what)
        command.add_argument("--graphs", type=Path, required=True, help="csv with caption and scene_graph")
        command.add_argument(
            "--captions", type=Path, nargs="*", default=(), help="plain captions, one a line"
        )
    command = commands.choices["build"]
    command.add_argument("--out", type=Path, required=True, help="the .npz to write")
    command.add_argument("--work", type=Path, help="a folder for the teachers, so that a killed run goes on")
    for name, default in vars(Settings()).items():
        command.add_argument("--" + name.replace("_", "-"), type=int, default=default)
    chosen = parser.parse_args(arguments)
    rows = list(read_graphs(chosen.graphs))
    captions = list(chain.from_iterable(map(read_captions, chosen.captions)))
    if chosen.command == "names":
        speller = Speller(Counter(t for text in (*captions, *(c for c, _ in rows)) for t in tokenize(text)))
        for written, name in sorted(Aligner(rows, speller).names().items()):
            print(f"{written} = {name}")  # noqa: T201
        return
    settings = Settings(**{name: getattr(chosen, name) for name in vars(Settings())})
    build(rows, captions, settings, work=chosen.work).save(chosen.out)


if __name__ == "__main__":
    main()

"""Learns the tagger: teachers from captions with scene graphs, then a small student from the teachers.

    python -m taglens.training.tagger_training build --graphs FILE --captions FILE... --out FILE
    python -m taglens.training.tagger_training names --graphs FILE --captions FILE...

``build`` remakes the shipped file; ``names`` proposes lines for ``assets/words/names.txt``. The teachers
(``tagger_teacher``) read whole captions; they label plain captions, from which the student learns words that
no graph has. Needs torch.

Shape legend: L labels.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import random
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from taglens.language.graphs import Aligner, Example, phrases, read_graphs, vary
from taglens.language.spelling import ESTABLISHED, Speller
from taglens.language.tagger import LABELS, Tagger
from taglens.language.tokens import tokenize
from taglens.training.tagger_student import LEAST_WORD, Labelled, Lexicon, Student, fit_student, quantise
from taglens.training.tagger_teacher import Teacher, fit_teacher

# Plain captions with more tokens are left out.
_LONGEST_PLAIN = 40


@dataclass(frozen=True)
class Settings:
    """How much is learnt; the defaults are what the shipped file was made with.

    Attributes:
        teachers: 2: one reads captions also in other forms and labels plain ones, the other only those of the
            graphs, which it knows better. 1: the first does both. 0: none, and plain captions are not used.
    """

    teachers: int = 2
    epochs: int = 10
    width: int = 64
    hidden: int = 64
    steps: int = 8_000
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
    speller = Speller(_counted(texts))
    texts = [[speller(token) for token in tokens] for tokens in texts]
    aligner = Aligner(rows, speller)
    examples = [e for e in (aligner.align(*row) for row in rows) if e.tokens]
    lexicon = Lexicon.of(texts, examples)
    _say(f"{len(examples)} labelled captions, {len(texts)} in all, {len(lexicon.words)} words")
    teachers = [
        _teacher(examples, aligner.verbs, lexicon, settings, number, work)
        for number in range(settings.teachers)
    ]
    chance = settings.chance("student")
    sentences = [*vary(examples, aligner.verbs, chance), *phrases(examples, chance)]
    gold = [_labelled(e.tokens, lexicon, _one_hot(e.labels)) for e in (*examples, *sentences)]
    plain: list[Labelled] = []
    if teachers:
        # What the graphs say, softened by what the teachers make of the same caption.
        soft = [*_taught(examples, lexicon, teachers[-1]), *_taught(sentences, lexicon, teachers[0])]
        gold = [
            Labelled(hard.rows, ((hard.shares + taught.shares) / 2).astype(np.float16))
            for hard, taught in zip(gold, soft, strict=True)
        ]
        unlabelled = [Example(tuple(t), ()) for t in texts[len(rows) :] if 1 < len(t) <= _LONGEST_PLAIN]
        settings.chance("plain").shuffle(unlabelled)
        plain = _taught(unlabelled[: settings.most_plain], lexicon, teachers[0])
    torch.manual_seed(settings.seed)
    student = Student(lexicon, width=settings.width, hidden=settings.hidden)
    fit_student(student, gold, plain, steps=settings.steps, seed=settings.seed, say=_say)
    counts = {word: count for word, count in _counted(texts).items() if count >= LEAST_WORD}
    return Tagger(quantise(student, lexicon, gold[:4000]), counts, aligner.verbs)


def _counted(texts: Sequence[Sequence[str]]) -> Counter[str]:
    """How often each word is written; words of the shipped lists and descriptions are never slips."""
    counts = Counter(chain.from_iterable(texts))
    assets = files("taglens") / "assets"
    for folder in (assets / "words", assets / "text"):
        for file in folder.iterdir():
            if file.name.endswith((".txt", ".jsonl")) and file.name != "names.txt":
                for word in tokenize(file.read_text(encoding="utf-8")):
                    counts[word] = max(counts[word], ESTABLISHED)
    return counts


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
        lambda: [*(examples if number else _mixed(examples, verbs, chance)), *phrases(examples, chance)],
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


def _taught(captions: Sequence[Example], lexicon: Lexicon, teacher: Teacher) -> list[Labelled]:
    """Captions with what the teacher makes of each token; their own labels are not looked at."""
    found: list[Labelled | None] = [None] * len(captions)
    order = sorted(range(len(captions)), key=lambda i: len(captions[i].tokens))
    for start in range(0, len(order), 256):
        chosen = order[start : start + 256]
        rows = [lexicon.rows(captions[i].tokens) for i in chosen]
        for i, share, row in zip(chosen, teacher.shares(rows), rows, strict=True):
            found[i] = Labelled(np.array(row, np.int32), share[: len(row)].numpy().astype(np.float16))
        if start % (256 * 100) == 0:
            _say(f"the teacher has read {start} of {len(captions)} captions")
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
        speller = Speller(_counted([tokenize(text) for text in (*captions, *(c for c, _ in rows))]))
        for written, name in sorted(Aligner(rows, speller).names().items()):
            print(f"{written} = {name}")  # noqa: T201
        return
    settings = Settings(**{name: getattr(chosen, name) for name in vars(Settings())})
    build(rows, captions, settings, work=chosen.work).save(chosen.out)


if __name__ == "__main__":
    main()

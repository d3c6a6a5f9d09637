"""Questions about pictures as what a captioner learns to answer: encoder text with tags, and answer pieces.

Knows rows of questions and word pieces; the network and its loss are another's. An answer is drawn anew each time a
question comes up, by its votes, so that people's disagreement is learned and not settled.
Which tags stand beside a question is the caller's choice, and matters: questions made from captions must not be read
with tags parsed from these very captions, which hold the answers. Recognised tags are what a question meets in use.
Shapes: B questions, M pieces of a question with its tags, L pieces of an answer.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from taglens.data.questions import Question
from taglens.errors import DataError
from taglens.language.caption_text import CaptionText

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class AskedOf:
    """A question and the number of its picture."""

    picture: int
    row: Question


@dataclass(frozen=True, slots=True)
class AnswerExample:
    """One thing to learn.

    Attributes:
        picture: its number.
        guide: the question and tags, cut to M pieces, not filled up.
        answer: [DEC], the answer, the end mark. All behind [DEC] is learned: the prompt is 1 piece.
    """

    picture: int
    guide: tuple[int, ...]
    answer: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class AnswerBatch:
    """Examples side by side: pictures [B]; guides [B, M] and answers [B, L], filled up, 1 where a piece stands."""

    pictures: Ids
    guides: Ids
    guide_mask: Ids
    answers: Ids
    answer_mask: Ids


def numbered(rows: Iterable[Question], pictures: Mapping[str, int]) -> list[AskedOf]:
    """The answered questions about pictures that have a number; the others are left out.

    Args:
        pictures: absolute path (`os.path.abspath`) -> the picture's number.

    Raises:
        DataError: none of the rows is about any of the pictures.
    """
    asked = list(rows)
    found = [
        AskedOf(number, row)
        for row in asked
        if row.answers and (number := pictures.get(os.path.abspath(row.path))) is not None  # noqa: PTH100
    ]
    if not found:
        such = f", such as {asked[0].path}" if asked else ""
        raise DataError(
            f"none of {len(asked)} questions is about one of the {len(pictures)} pictures trained on{such}; expected "
            "both files to name the same pictures, each from its own folder"
        )
    return found


def examples(
    rows: Iterable[AskedOf],
    text: CaptionText,
    tags_of_picture: Callable[[int], Sequence[str]],
    *,
    generator: np.random.Generator,
) -> Iterator[AnswerExample]:
    """One example of each question, in order, lazily.

    Args:
        tags_of_picture: a picture's number to the names of tags, in the order in which they are read.
        generator: draws one of the answers that people gave.

    Raises:
        DataError: a question that nobody answered.
    """
    for one in rows:
        if not one.row.answers:
            raise DataError(f"{one.row.image}: {one.row.question!r} has no answer to learn; leave it out")
        answer = one.row.answers[int(generator.integers(len(one.row.answers)))]
        guide = text.question(one.row.question, tags_of_picture(one.picture))
        (written,) = text.answers([answer])
        yield AnswerExample(one.picture, guide.ids[: sum(guide.mask)], written.ids)


def batch(found: Sequence[AnswerExample], *, pad: int) -> AnswerBatch:
    """Examples filled up with ``pad`` to the longest of them. Raises DataError where there is none."""
    if not found:
        raise DataError("a batch of no questions")
    guides, guide_mask = _filled([one.guide for one in found], pad)
    answers, answer_mask = _filled([one.answer for one in found], pad)
    return AnswerBatch(
        np.array([one.picture for one in found], np.int64), guides, guide_mask, answers, answer_mask
    )


def _filled(rows: Sequence[tuple[int, ...]], pad: int) -> tuple[Ids, Ids]:
    width = max(map(len, rows))
    table = np.full((len(rows), width), pad, np.int64)
    mask = np.zeros_like(table)
    for place, row in enumerate(rows):
        table[place, : len(row)] = row
        mask[place, : len(row)] = 1
    return table, mask

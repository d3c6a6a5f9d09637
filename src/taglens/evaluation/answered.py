"""Answers that were given earlier, from a file, and the questions that they answer.

Knows the rows that ``taglens ask --json`` prints, found by picture and question, and VQAv2's results,
``[{"question_id", "answer"}]``, found by number. Refuses to know how right an answer is.

A row's picture is found as rows of captions find theirs (`taglens.evaluation.written`); its question is the same when
it differs in case, spaces or a question mark only.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taglens.data.questions import Question
from taglens.errors import DataError
from taglens.evaluation.datasets import CaptionedImage
from taglens.evaluation.written import WrittenCaption, captions_of
from taglens.language.caption_text import asked
from taglens.language.corpora import json_object, text_lines


@dataclass(frozen=True, slots=True)
class GivenAnswers:
    """What a file answers.

    Attributes:
        answers: for each question the answer, or None.
        unused: rows that answer none of the questions.
        rows: how many there are.
    """

    answers: tuple[str | None, ...]
    unused: int
    rows: int


def read_answers(path: Path, questions: Sequence[Question]) -> GivenAnswers:
    """The answers that a file has for the questions; rows about other questions are passed over and counted.

    Raises:
        DataError: the file cannot be read, a row is no answer, two rows answer one question, a row may be about
            several pictures, or rows have numbers and questions have none.
    """
    if _begins_with(path, b"["):
        return _by_number(path, questions)
    rows = [
        _row(json_object(path, number, line), f"{path}, line {number}") for number, line in text_lines(path)
    ]
    if not rows:
        raise DataError(f"{path} is empty: expected rows as taglens ask --json prints them")
    return _by_picture(rows, questions)


# -- rows of taglens ask -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Answered:
    question: str
    answer: WrittenCaption  # what is found by its picture, whatever it says


def _row(row: dict[str, Any], where: str) -> _Answered:
    source = _text(row.get("source"), "source to be a picture's name", where)
    question = _text(row.get("question"), "question to be text", where)
    answer, error = row.get("answer"), row.get("error")
    if "answer" not in row:
        raise DataError(f"{where}: expected answer, found none; give rows as taglens ask --json prints them")
    if answer is None and error is None:
        raise DataError(f"{where}: answer is null and so is error; expected one of the two")
    if answer is not None and error is not None:
        raise DataError(f"{where}: there is an answer and an error; expected one of the two")
    if answer is not None and not isinstance(answer, str):
        raise DataError(f"{where}: expected answer to be text or null, found {str(answer)[:60]!r}")
    return _Answered(asked(question).casefold(), WrittenCaption(source, answer, where))


def _text(value: Any, what: str, where: str) -> str:
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise DataError(f"{where}: expected {what}, found {str(value)[:60]!r}")
    return value


def _by_picture(rows: Sequence[_Answered], questions: Sequence[Question]) -> GivenAnswers:
    wanted: dict[str, list[int]] = defaultdict(list)
    for place, question in enumerate(questions):
        wanted[asked(question.question).casefold()].append(place)
    given: dict[str, list[WrittenCaption]] = defaultdict(list)
    for row in rows:
        given[row.question].append(row.answer)
    found: list[str | None] = [None] * len(questions)
    used: set[str] = set()
    for text, places in wanted.items():
        if text not in given:
            continue
        images = [CaptionedImage(questions[place].path, questions[place].image, (), None) for place in places]
        for place, answer in zip(places, captions_of(images, given[text]), strict=True):
            if answer is not None:
                used.add(answer.where)
                found[place] = answer.caption
    return GivenAnswers(tuple(found), len(rows) - len(used), len(rows))


# -- VQAv2's results -----------------------------------------------------------------------------------


def _begins_with(path: Path, mark: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(mark)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None


def _by_number(path: Path, questions: Sequence[Question]) -> GivenAnswers:
    try:
        rows = json.loads(path.read_bytes().decode("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: expected VQAv2's list of results, found no JSON ({error})") from None
    given: dict[int, str] = {}
    for number, row in enumerate(rows):
        id, answer = (row.get("question_id"), row.get("answer")) if isinstance(row, dict) else (None, None)
        if not isinstance(id, int) or isinstance(id, bool) or not isinstance(answer, str):
            raise DataError(
                f'{path}[{number}]: expected {{"question_id": number, "answer": text}}, found {str(row)[:80]!r}'
            )
        if id in given:
            raise DataError(f"{path}: question_id {id} is answered twice; keep one")
        given[id] = answer
    if all(question.id is None for question in questions):
        raise DataError(
            f"{path} answers questions by number, and these have none; give --questions and --annotations, or rows "
            "as taglens ask --json prints them"
        )
    found = tuple(None if one.id is None else given.get(one.id) for one in questions)
    return GivenAnswers(found, len(given.keys() - {one.id for one in questions}), len(given))

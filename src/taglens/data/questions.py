"""Files of questions about pictures, with what people answered.

Knows two forms: questions.jsonl, ``{"image", "question", "answers": [...] or null, "type", "split"}`` with pictures
named from the file's own folder; and VQAv2's pair of JSON files, questions and annotations, ten answers each. Refuses
to know what an answer is worth (`taglens.evaluation.answers`), models, and pixels.

Pictures of a VQAv2 file lie in one folder: under the name that a question's ``image`` gives, else as COCO named them,
``COCO_val2014_000000000042.jpg``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from taglens.errors import DataError, UsageError
from taglens.language.corpora import json_object, text_lines

DEFAULT_SPLIT = "val"

_SUBTYPE = re.compile(r"([a-z]+(?:-[a-z]+)?)(\d{4})")  # "val2014", "test-dev2015"
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Question:
    """One question about one picture.

    Attributes:
        image: the picture as the file names it.
        path: the same, resolved; nothing says that it exists.
        answers: one per person, so that some may repeat; None where nobody answered.
        type: what figures are told apart by: "exists", "colour", "action" or "count" in files of ours, in VQAv2 the
            type of its answer ("yes/no", "number", "other"); None where the file does not say.
        opening: the words it begins with, as VQAv2 groups them ("what color is the"); None elsewhere.
        split: "train", "val" or whatever the file calls it; None where it does not say.
        id: VQAv2's number of it; None elsewhere.
    """

    image: str
    path: Path
    question: str
    answers: tuple[str, ...] | None
    type: str | None = None
    opening: str | None = None
    split: str | None = None
    id: int | None = None

    @property
    def group(self) -> str:
        """What is known of the question before it is read to its end: its opening, type, or first two words."""
        return self.opening or self.type or " ".join(self.question.casefold().split()[:2])

    def to_dict(self) -> dict[str, Any]:
        """A row of questions.jsonl."""
        return {
            "image": self.image,
            "question": self.question,
            "answers": None if self.answers is None else list(self.answers),
            "type": self.type,
            "split": self.split,
        }


def read_questions(
    path: str | Path, *, split: str | None = None, default_split: str | None = DEFAULT_SPLIT
) -> list[Question]:
    """The answered questions of a questions.jsonl, in order; rows whose answers are null are left out.

    Every line is checked, also those of other splits.

    Args:
        split: only rows of this split. None: those of ``default_split`` if the file has any, else every row.
        default_split: None, with no ``split``, gives every row.

    Raises:
        DataError: the file cannot be read, a line breaks the form (file and line are named), or no row of the split
            has answers.
        UsageError: the file has no such split.
    """
    path = Path(path)
    rows = [
        _row(json_object(path, number, line), path.parent, f"{path}, line {number}")
        for number, line in text_lines(path)
    ]
    if not rows:
        raise DataError(f"{path} is empty: expected one question a line, as taglens questions writes them")
    return _chosen(rows, str(path), split=split, default_split=default_split)


def read_vqa(
    questions: str | Path,
    annotations: str | Path,
    *,
    images: str | Path,
    split: str | None = None,
) -> list[Question]:
    """The questions of a pair of VQAv2 files, in the order of the questions file.

    Args:
        images: the folder that holds the pictures.
        split: only these; VQAv2 keeps each split in files of its own, so that this is rarely needed.

    Raises:
        DataError: a file cannot be read or has another shape, or the two do not belong together: other splits, a
            question without an annotation or the reverse, one number for two, or another picture.
        UsageError: no question is of that split.
    """
    asked_in, told_in = Path(questions), Path(annotations)
    asked = _table(asked_in, "questions", other="annotations")
    told = _table(told_in, "annotations", other="questions")
    _same_subtype(asked_in, asked, told_in, told)
    known = _by_id(told_in, told, "annotations")
    ours = _by_id(asked_in, asked, "questions")
    _same_ids(asked_in, ours, told_in, known)
    subtype = asked.get("data_subtype")
    rows = [
        _asked(row, known[id], folder=Path(images), subtype=subtype, where=f"{asked_in}, question {id}")
        for id, row in ours.items()
    ]
    return _chosen(rows, str(asked_in), split=split, default_split=None)


def has_words(text: str) -> bool:
    """Whether there is a letter or a digit in it."""
    return any(map(str.isalnum, text))


# -- questions.jsonl -----------------------------------------------------------------------------------


def _row(row: Mapping[str, Any], folder: Path, where: str) -> Question:
    image, question = _name(row.get("image"), where), _text(row.get("question"), "question", where)
    if not has_words(question):
        raise DataError(f"{where}: question {question!r} holds no letter or digit; write a question")
    if "answers" not in row:
        hint = (
            " (it has captions: make questions of them with taglens questions)" if "captions" in row else ""
        )
        raise DataError(f'{where}: expected "answers", a list of texts or null, found none{hint}')
    answers = row["answers"]
    if answers is not None and not isinstance(answers, list):
        raise DataError(f"{where}: expected answers to be a list or null, found {str(answers)[:60]!r}")
    if answers == []:
        raise DataError(f"{where}: answers is empty; write null for a question that nobody answered")
    return Question(
        image=image,
        path=folder / image,
        question=question,
        answers=None if answers is None else tuple(_text(one, "each of answers", where) for one in answers),
        type=_optional(row, "type", where),
        split=_optional(row, "split", where),
    )


def _optional(row: Mapping[str, Any], key: str, where: str) -> str | None:
    return None if row.get(key) is None else _text(row[key], key, where)


def _text(value: Any, what: str, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: expected {what} to be text that is not blank, found {str(value)[:60]!r}")
    return _whole(value, what, where)


def _name(value: Any, where: str) -> str:
    name = _text(value, "image", where)
    if "\0" in name:
        raise DataError(f"{where}: image {name!r} holds a NUL character, which no path can")
    return name


def _whole(value: str, what: str, where: str) -> str:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise DataError(f"{where}: {what} {value!r} holds half a character (a lone surrogate)") from None
    return value


def _chosen(
    rows: Sequence[Question], name: str, *, split: str | None, default_split: str | None
) -> list[Question]:
    """The answered rows of the split that is meant."""
    present = {row.split for row in rows}
    if split is not None and split not in present:
        named = ", ".join(sorted(repr(one) for one in present if one is not None)) or "none at all"
        raise UsageError(f"{name} has no question of split {split!r}; splits in the file: {named}")
    if split is None and default_split in present:
        split = default_split
    chosen = [row for row in rows if row.answers is not None and (split is None or row.split == split)]
    if not chosen:
        part = "" if split is None else f" of split {split!r}"
        raise DataError(f"{name}: no question{part} has answers (all are null): expected at least one")
    return chosen


# -- VQAv2 ---------------------------------------------------------------------------------------------


def _table(path: Path, key: str, *, other: str) -> dict[str, Any]:
    """The whole file: an object whose ``key`` is a list of objects that is not empty."""
    try:
        found = json.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        hint = "; give JSON Lines to --data" if path.name.endswith(".jsonl") else ""
        raise DataError(f"{path}: expected VQAv2's JSON, found no JSON ({error}){hint}") from None
    if not isinstance(found, dict) or not isinstance(found.get(key), list):
        hint = ""
        if isinstance(found, dict) and other in found:
            hint = f" (it has {other}: give the file to --{other})"
        raise DataError(f'{path}: expected VQAv2\'s object with a list "{key}", found another shape{hint}')
    if not found[key]:
        raise DataError(f'{path}: "{key}" is empty; expected at least one')
    for number, row in enumerate(found[key]):
        if not isinstance(row, dict):
            raise DataError(f"{path}, {key}[{number}]: expected an object, found {str(row)[:60]!r}")
    return found


def _same_subtype(asked_in: Path, asked: Mapping[str, Any], told_in: Path, told: Mapping[str, Any]) -> None:
    one, other = asked.get("data_subtype"), told.get("data_subtype")
    if one is not None and other is not None and one != other:
        raise DataError(
            f"{asked_in} is of {one!r} and {told_in} of {other!r} (data_subtype); give the two files of one split"
        )


def _by_id(path: Path, table: Mapping[str, Any], key: str) -> dict[int, dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}
    for number, row in enumerate(table[key]):
        id = row.get("question_id")
        if not isinstance(id, int) or isinstance(id, bool):
            raise DataError(f"{path}, {key}[{number}]: expected question_id to be a number, found {id!r}")
        if id in found:
            raise DataError(f"{path}: question_id {id} stands twice in {key}; keep one")
        found[id] = row
    return found


def _same_ids(asked_in: Path, asked: Mapping[int, object], told_in: Path, told: Mapping[int, object]) -> None:
    for more, less, have, lack in ((asked, told, asked_in, told_in), (told, asked, told_in, asked_in)):
        if missing := more.keys() - less.keys():
            raise DataError(
                f"{len(missing)} of {len(more)} questions of {have} are not in {lack}, such as question_id "
                f"{min(missing)}; give the questions and the annotations of one split"
            )


def _asked(
    row: Mapping[str, Any], told: Mapping[str, Any], *, folder: Path, subtype: Any, where: str
) -> Question:
    if row.get("image_id") != told.get("image_id"):
        raise DataError(
            f"{where}: its picture is {row.get('image_id')!r} and {told.get('image_id')!r} in the annotations; "
            "give two files that belong together"
        )
    question = _text(row.get("question"), "question", where)
    if not has_words(question):
        raise DataError(f"{where}: question {question!r} holds no letter or digit; write a question")
    image = _image(row, subtype, where)
    split = _SUBTYPE.fullmatch(subtype) if isinstance(subtype, str) else None
    return Question(
        image=image,
        path=folder / image,
        question=question,
        answers=_votes(told.get("answers"), where),
        type=_optional(told, "answer_type", where),
        opening=_optional(told, "question_type", where),
        split=None if split is None else split[1],
        id=row["question_id"],
    )


def _image(row: Mapping[str, Any], subtype: Any, where: str) -> str:
    if row.get("image") is not None:
        return _name(row["image"], where)
    number = row.get("image_id")
    if not isinstance(number, int) or isinstance(number, bool) or number < 0:
        raise DataError(
            f'{where}: expected image_id to be a number, or "image" to name the file, found {number!r}'
        )
    if not isinstance(subtype, str) or _SUBTYPE.fullmatch(subtype) is None:
        raise DataError(
            f'{where}: its picture has a number and the file no data_subtype such as "val2014" (found {subtype!r}), '
            "which COCO's names hold; add it, or name each picture's file as \"image\""
        )
    # Test questions of 2015 come as test-dev, too, about the same files.
    return f"COCO_{subtype.replace('-dev', '')}_{number:012d}.jpg"


def _votes(answers: Any, where: str) -> tuple[str, ...]:
    """What each person answered. A blank answer is somebody's too: who counts people must see it."""
    if not isinstance(answers, list) or not answers:
        raise DataError(f"{where}: expected answers to be a list with one answer a person, found {answers!r}")
    found = [one.get("answer") if isinstance(one, dict) else None for one in answers]
    texts = [_whole(one, "answer", where) for one in _only(str, found)]
    if len(texts) < len(answers):
        raise DataError(
            f'{where}: expected each of answers to be an object with a text "answer", found {str(answers)[:80]!r}'
        )
    if not any(map(str.strip, texts)):
        raise DataError(f"{where}: all {len(texts)} answers are blank; leave the question out")
    return tuple(texts)


def _only(kind: type[_T], values: Iterable[object]) -> list[_T]:
    return [value for value in values if isinstance(value, kind)]

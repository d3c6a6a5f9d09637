"""Files of questions: ours and VQAv2's, and every way in which they can be wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from taglens.data.questions import Question, read_questions, read_vqa
from taglens.errors import DataError, UsageError

ROW = {
    "image": "a.jpg",
    "question": "is it a dog?",
    "answers": ["yes", "no"],
    "type": "exists",
    "split": "val",
}


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


# -- questions.jsonl ---------------------------------------------------------------------------------


def test_rows_come_as_they_were_written(tmp_path: Path) -> None:
    other = {"image": "../b.jpg", "question": "how many?", "answers": ["3"], "type": None, "split": "train"}
    path = lines(tmp_path / "q.jsonl", ROW, other)
    rows = read_questions(path, default_split=None)
    assert [row.to_dict() for row in rows] == [ROW, other]
    assert [row.path for row in rows] == [tmp_path / "a.jpg", tmp_path / "../b.jpg"]


def test_the_split_that_is_meant(tmp_path: Path) -> None:
    train, none = {**ROW, "split": "train"}, {**ROW, "answers": None}
    path = lines(tmp_path / "q.jsonl", train, ROW, none)
    assert [row.split for row in read_questions(path)] == ["val"]
    assert [row.split for row in read_questions(path, split="train")] == ["train"]
    assert len(read_questions(path, default_split=None)) == 2
    assert len(read_questions(lines(tmp_path / "t.jsonl", train, train))) == 2
    with pytest.raises(UsageError, match=r"no question of split 'test'; splits in the file: 'train', 'val'"):
        read_questions(path, split="test")
    with pytest.raises(DataError, match="all are null"):
        read_questions(lines(tmp_path / "n.jsonl", none))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"image": None}, "expected image to be text"),
        ({"image": "a\0b"}, "NUL"),
        ({"question": ""}, "expected question to be text"),
        ({"question": 3}, "expected question to be text"),
        ({"question": " ?! "}, "no letter or digit"),
        ({"question": "\ud800?a"}, "half a character"),
        ({"answers": []}, "answers is empty; write null"),
        ({"answers": "yes"}, "answers to be a list or null"),
        ({"answers": ["yes", " "]}, "each of answers to be text"),
        ({"answers": [1]}, "each of answers to be text"),
        ({"type": 7}, "expected type to be text"),
        ({"split": ""}, "expected split to be text"),
    ],
    ids=str,
)
def test_a_wrong_row_is_named_by_its_line(change: dict[str, Any], told: str, tmp_path: Path) -> None:
    path = lines(tmp_path / "q.jsonl", ROW, {**ROW, **change})
    with pytest.raises(DataError, match=rf"q\.jsonl, line 2: .*{told}"):
        read_questions(path)


def test_files_of_another_shape(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="it has captions"):
        read_questions(lines(tmp_path / "c.jsonl", {**{"captions": ["x"]}, "image": "a", "question": "b"}))
    with pytest.raises(DataError, match="is empty"):
        read_questions(lines(tmp_path / "e.jsonl"))
    with pytest.raises(DataError, match="line 1: expected an object"):
        read_questions(lines(tmp_path / "l.jsonl", [1, 2]))
    with pytest.raises(DataError, match="cannot read"):
        read_questions(tmp_path / "none.jsonl")


def test_a_group_is_what_is_known_before_the_answer() -> None:
    plain = Question("a", Path("a"), "What colour is it?", ("red",))
    assert plain.group == "what colour"
    assert Question("a", Path("a"), "What?", ("b",), type="colour").group == "colour"
    assert Question("a", Path("a"), "What?", ("b",), type="other", opening="what is").group == "what is"


# -- VQAv2 -------------------------------------------------------------------------------------------


def asked(id: int = 42000, image: int = 42, **more: Any) -> dict[str, Any]:
    return {"question_id": id, "image_id": image, "question": "What color is the dog?", **more}


def told(id: int = 42000, image: int = 42, **more: Any) -> dict[str, Any]:
    answers = [
        {"answer": a, "answer_id": n, "answer_confidence": "yes"} for n, a in enumerate(["red"] * 9 + [""])
    ]
    found = {
        "question_id": id,
        "image_id": image,
        "question_type": "what color is the",
        "answer_type": "other",
        "multiple_choice_answer": "red",
        "answers": answers,
    }
    return found | more


Read = Callable[[Any, Any], list[Question]]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def run(questions: Any, annotations: Any) -> list[Question]:
        for name, content in (("q.json", questions), ("a.json", annotations)):
            text = content if isinstance(content, str) else json.dumps(content)
            (tmp_path / name).write_text(text, "utf-8")
        return read_vqa(tmp_path / "q.json", tmp_path / "a.json", images=tmp_path / "pictures")

    return run


def table(key: str, *rows: Any, subtype: str | None = "val2014") -> dict[str, Any]:
    return {"data_subtype": subtype, key: list(rows)} if subtype else {key: list(rows)}


def test_a_pair_of_files(read: Read, tmp_path: Path) -> None:
    questions = table("questions", asked(1, 42), asked(2, 7))
    annotations = table("annotations", told(2, 7), told(1, 42))
    first, second = read(questions, annotations)
    assert first.image == "COCO_val2014_000000000042.jpg"
    assert first.path == tmp_path / "pictures" / first.image
    assert (first.type, first.opening, first.split, first.id) == ("other", "what color is the", "val", 1)
    assert first.answers == ("red",) * 9 + ("",), "a blank answer is a vote"
    assert (second.id, second.image) == (2, "COCO_val2014_000000000007.jpg")


@pytest.mark.parametrize(
    ("subtype", "image", "split"),
    [
        ("train2014", "COCO_train2014_000000000042.jpg", "train"),
        ("test2015", "COCO_test2015_000000000042.jpg", "test"),
        ("test-dev2015", "COCO_test2015_000000000042.jpg", "test-dev"),
    ],
)
def test_names_follow_the_subtype(subtype: str, image: str, split: str, read: Read) -> None:
    (row,) = read(table("questions", asked(), subtype=subtype), table("annotations", told(), subtype=subtype))
    assert (row.image, row.split) == (image, split)


def test_pictures_may_be_named_outright(read: Read) -> None:
    questions = table("questions", {**asked(), "image_id": "x", "image": "sub/x.png"}, subtype=None)
    (row,) = read(questions, table("annotations", {**told(), "image_id": "x"}, subtype=None))
    assert row.image == "sub/x.png" and row.split is None


Q, A = table("questions", asked()), table("annotations", told())
WRONG = {
    "no json": ("{", A, "found no JSON"),
    "a list": ([asked()], A, "another shape"),
    "swapped": (A, A, "give the file to --annotations"),
    "swapped too": (Q, Q, "give the file to --questions"),
    "nothing": (table("questions"), A, '"questions" is empty'),
    "rows": (table("questions", 3), A, r"questions\[0\]: expected an object"),
    "subtypes": (Q, table("annotations", told(), subtype="train2014"), "'val2014' and .*'train2014'"),
    "no id": (table("questions", {**asked(), "question_id": "1"}), A, "question_id to be a number"),
    "twice": (table("questions", asked(), asked()), A, "stands twice"),
    "unanswered": (
        table("questions", asked(), asked(5)),
        A,
        "1 of 2 questions of .*q.json are not in .*a.json",
    ),
    "unasked": (Q, table("annotations", told(), told(5)), "1 of 2 questions of .*a.json are not in .*q.json"),
    "other picture": (Q, table("annotations", told(image=43)), "42 and 43 in the annotations"),
    "no subtype": (table("questions", asked(), subtype=None), A, "no data_subtype"),
    "odd subtype": (
        table("questions", asked(), subtype="abstract"),
        table("annotations", told(), subtype="abstract"),
        "found 'abstract'",
    ),
    "nul": (table("questions", {**asked(), "image": "a\0b"}), A, "NUL"),
    "negative": (table("questions", asked(image=-1)), table("annotations", told(image=-1)), "image_id"),
    "no question": (table("questions", asked(question=None)), A, "expected question"),
    "empty question": (table("questions", asked(question="?")), A, "no letter or digit"),
    "no answers": (Q, table("annotations", told(answers=[])), "one answer a person"),
    "blank": (Q, table("annotations", told(answers=[{"answer": " "}])), "are blank"),
    "texts": (Q, table("annotations", told(answers=["red"])), 'an object with a text "answer"'),
    "half": (Q, table("annotations", told(answers=[{"answer": "\ud800"}])), "half a character"),
}


@pytest.mark.parametrize(("questions", "annotations", "message"), WRONG.values(), ids=WRONG)
def test_what_does_not_fit_together(questions: Any, annotations: Any, message: str, read: Read) -> None:
    with pytest.raises(DataError, match=message):
        read(questions, annotations)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read"):
        read_vqa(tmp_path / "q.json", tmp_path / "a.json", images=tmp_path)
    with pytest.raises(DataError, match="give JSON Lines to --data"):
        read_vqa(lines(tmp_path / "q.jsonl", ROW, ROW), tmp_path / "a.json", images=tmp_path)

"""Answers from files: which question each row answers, and every row that is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from taglens.data.questions import Question
from taglens.errors import DataError
from taglens.evaluation.answered import read_answers


def ask(image: str, question: str, *, id: int | None = None) -> Question:
    return Question(image, Path("/data") / image, question, ("yes",), id=id)


QUESTIONS = [
    ask("p/a.jpg", "is it a dog?"),
    ask("p/a.jpg", "what colour is it?"),
    ask("p/b.jpg", "is it a dog?"),
    ask("q/b.jpg", "how many?"),
]


def row(source: str, question: str, answer: Any = "yes", **more: Any) -> dict[str, Any]:
    return {"source": source, "question": question, "answer": answer, "error": None, **more}


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in rows), "utf-8")
    return path


def test_rows_are_found_by_picture_and_question(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "a.jsonl",
        row("/data/q/b.jpg", "how many", "3"),
        row("a.jpg", "What colour is it ?", "red"),
        row("p/a.jpg", "is it a dog?", "no"),
        row("p/b.jpg", "is it a cat?"),
        row("c.jpg", "is it a dog?"),
    )
    found = read_answers(path, QUESTIONS)
    assert found.answers == ("no", "red", None, "3")
    assert (found.unused, found.rows) == (2, 5)


def test_a_row_with_an_error_answers_nothing(tmp_path: Path) -> None:
    broken = row("p/a.jpg", "is it a dog?", None, error={"type": "not_found", "message": "none"})
    found = read_answers(lines(tmp_path / "a.jsonl", broken), QUESTIONS)
    assert found.answers == (None,) * 4 and found.unused == 0


def test_what_may_mean_several_pictures_is_refused(tmp_path: Path) -> None:
    questions = [ask("p/b.jpg", "how many?"), ask("q/b.jpg", "how many?")]
    with pytest.raises(DataError, match="may be"):
        read_answers(lines(tmp_path / "a.jsonl", row("b.jpg", "how many?")), questions)
    twice = lines(tmp_path / "t.jsonl", row("p/b.jpg", "how many?"), row("p/b.jpg", "How many ?"))
    with pytest.raises(DataError, match="keep one of the rows"):
        read_answers(twice, questions)


def test_the_same_question_twice_gets_the_same_answer(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", row("p/a.jpg", "is it a dog?", "no"))
    assert read_answers(path, [QUESTIONS[0], QUESTIONS[0]]).answers == ("no", "no")


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"source": None}, "source"),
        ({"question": " "}, "question"),
        ({"answer": None}, "answer is null and so is error"),
        ({"answer": "x", "error": {}}, "an answer and an error"),
        ({"answer": 3}, "answer to be text"),
    ],
    ids=str,
)
def test_wrong_rows(changed: dict[str, Any], told: str, tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", row("p/a.jpg", "is it?"), {**row("p/b.jpg", "is it?"), **changed})
    with pytest.raises(DataError, match=f"line 2: .*{told}"):
        read_answers(path, QUESTIONS)


def test_files_that_are_no_answers(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is empty"):
        read_answers(lines(tmp_path / "e.jsonl"), QUESTIONS)
    with pytest.raises(DataError, match="expected answer, found none"):
        read_answers(lines(tmp_path / "c.jsonl", {"source": "a", "question": "b", "caption": "c"}), QUESTIONS)
    with pytest.raises(DataError, match="cannot read"):
        read_answers(tmp_path / "none.jsonl", QUESTIONS)


# -- VQAv2's results -----------------------------------------------------------------------------------

NUMBERED = [ask("a.jpg", "is it?", id=1), ask("a.jpg", "was it?", id=2)]


def results(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content), "utf-8")
    return path


def test_results_are_found_by_number(tmp_path: Path) -> None:
    path = results(
        tmp_path / "r.json", [{"question_id": 2, "answer": "no"}, {"question_id": 9, "answer": "x"}]
    )
    found = read_answers(path, NUMBERED)
    assert (found.answers, found.unused, found.rows) == ((None, "no"), 1, 2)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ([{"question_id": 1}], r"r.json\[0\]: expected"),
        ([{"question_id": "1", "answer": "a"}], r"r.json\[0\]: expected"),
        ([3], r"r.json\[0\]: expected"),
        ([{"question_id": 1, "answer": "a"}] * 2, "answered twice"),
    ],
)
def test_wrong_results(content: Any, told: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=told):
        read_answers(results(tmp_path / "r.json", content), NUMBERED)


def test_results_need_numbers_and_json(tmp_path: Path) -> None:
    path = results(tmp_path / "r.json", [{"question_id": 1, "answer": "a"}])
    with pytest.raises(DataError, match="by number, and these have none"):
        read_answers(path, QUESTIONS)
    (tmp_path / "x.json").write_text("[{]")
    with pytest.raises(DataError, match="no JSON"):
        read_answers(tmp_path / "x.json", NUMBERED)

"""``taglens ask`` from outside: rows, several questions, broken pictures, refusals. The model is a stand-in."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from taglens.cli.main import start
from taglens.errors import UsageError
from taglens.images import is_image_file
from taglens.inference.answering import Answered, AnswerSearch
from taglens.inference.sources import Source
from taglens.inference.tagger import Tagger
from taglens.results import Failure

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c6360000002000001e221bc33"
    "0000000049454e44ae426082"
)


class Outcome:
    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


Run = Callable[..., Outcome]


class FakeAnswerer:
    """Answers with the picture's name and the question's last word."""

    ref = "fake@0123456789ab"

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def answer(self, asked: Iterable[tuple[Source, str]], **arguments: Any) -> Iterator[Answered]:
        self.calls.append(arguments)
        for source, question in asked:
            good = is_image_file(source.path)
            yield Answered(
                source.shown,
                question,
                f"{source.path.stem} {question.split()[-1]}" if good else None,
                0.25 if good else None,
                tuple(arguments["tags"] or ("dog",)) if good else None,
                self.ref,
                notes=("first frame of 2",) if good else (),
                error=None if good else Failure("not_found", "there is none"),
            )


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> FakeAnswerer:
    fake = FakeAnswerer()
    monkeypatch.setattr(Tagger, "from_pretrained", lambda *_, **__: fake)
    return fake


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "pictures" / name).write_bytes(PNG)
    (tmp_path / "pictures" / "notes.txt").write_text("none")

    def run(*arguments: object) -> Outcome:
        with pytest.raises(SystemExit) as exit:
            start(["ask", *map(str, arguments)])
        out, err = capsys.readouterr()
        return Outcome(int(exit.value.code or 0), out, err)

    return run


def test_one_row_a_picture(ask: Run, model: FakeAnswerer) -> None:
    outcome = ask("pictures", "--question", "what is it?", "--json")
    assert (outcome.status, outcome.err) == (0, "taglens: 2 pictures; skipped: 1 no image\n")
    assert outcome.rows == [
        {
            "source": f"pictures/{name}.png",
            "question": "what is it?",
            "answer": f"{name} it?",
            "score": 0.25,
            "guide_tags": ["dog"],
            "model": model.ref,
            "notes": ["first frame of 2"],
            "error": None,
        }
        for name in "ab"
    ]
    (call,) = model.calls
    assert call == {
        "tags": None,
        "add_tags": False,
        "threshold": None,
        "search": AnswerSearch(),
        "batch_size": 16,
    }


def test_several_questions_about_each(ask: Run, model: FakeAnswerer) -> None:
    outcome = ask("pictures", "none.jpg", "--question", "is it?", "--question", "was it?", "--json")
    assert outcome.status == 1
    assert [(row["source"], row["question"]) for row in outcome.rows] == [
        (source, question)
        for source in ("pictures/a.png", "pictures/b.png", "none.jpg")
        for question in ("is it?", "was it?")
    ]
    assert outcome.err == "taglens: 3 pictures, 1 failed; skipped: 1 no image\n", (
        "pictures are counted, not rows"
    )


def test_what_the_model_is_told(ask: Run, model: FakeAnswerer) -> None:
    ask(
        "pictures",
        "--question",
        "is it?",
        "--tags",
        "car, dog",
        "--add-tags",
        "--beams",
        1,
        "--max-length",
        5,
    )
    ask("pictures", "--question", "is it?", "--no-tags", "--batch-size", 2, "--max-pixels", 9)
    ask("pictures", "--question", "is it?", "--threshold", 0.25)
    first, second, third = model.calls
    assert (first["tags"], first["add_tags"], first["search"]) == (("car", "dog"), True, AnswerSearch(1, 5))
    assert (second["tags"], second["batch_size"], second["max_pixels"]) == ((), 2, 9)
    assert (third["tags"], third["threshold"]) == (None, 0.25)


def test_a_listing_for_people(ask: Run, model: FakeAnswerer) -> None:
    outcome = ask("pictures/a.png", "none.jpg", "--question", "what is it?")
    assert outcome.out == (
        "pictures/a.png\n  what is it?\n  a it?  0.25\n  guided by: dog\n  note: first frame of 2\n\n"
        "none.jpg\n  what is it?\n  error: not_found: there is none\n\n"
    )


def test_a_pattern_that_fits_nothing_is_a_row_for_each_question(ask: Run, model: FakeAnswerer) -> None:
    outcome = ask("pictures/a.png", "no*.jpg", "--question", "is it?", "--question", "was it?", "--json")
    assert [row["question"] for row in outcome.rows] == ["is it?", "was it?"] * 2
    assert [row["error"] is None for row in outcome.rows] == [True, True, False, False]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--question", ""], "holds no word"),
        (["--question", "is it?", "--question", " ?"], "holds no word"),
        (["--question", "a", "--no-tags", "--tags", "x"], "--no-tags"),
        (["--question", "a", "--no-tags", "--threshold", "0.5"], "--no-tags"),
        (["--question", "a", "--add-tags"], "--add-tags"),
        (["--question", "a", "--tags", " , "], "--tags names no tag"),
        (["--question", "a", "--threshold", "2"], "--threshold"),
        (["--question", "a", "--beams", "0"], "--beams must be 1"),
        (["--question", "a", "--max-length", "1"], "--max-length must be 2"),
        (["--question", "a", "--batch-size", "0"], "--batch-size"),
    ],
    ids=str,
)
def test_refusals_come_before_the_model(
    arguments: list[str], told: str, ask: Run, model: FakeAnswerer
) -> None:
    outcome = ask("pictures", *arguments)
    assert (outcome.status, outcome.out) == (2, "") and told in outcome.err and not model.calls


def test_nothing_to_ask_about(ask: Run, model: FakeAnswerer) -> None:
    outcome = ask("no*.jpg", "--question", "is it?", "--json")
    assert outcome.status == 2 and "nothing to ask about" in outcome.err
    assert ask("pictures").status == 2, "a question is needed"


def test_the_starter_says_that_it_does_not_answer(ask: Run) -> None:
    outcome = ask("pictures", "--question", "is it?")
    assert (outcome.status, outcome.out) == (2, "")
    assert "was not taught to answer questions" in outcome.err and len(outcome.err.splitlines()) == 1


def test_a_question_that_is_no_text(ask: Run, model: FakeAnswerer) -> None:
    with pytest.raises(UsageError, match="not UTF-8"):
        from taglens.cli.ask import _require

        _require("is it \udcff?")

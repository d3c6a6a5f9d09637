"""``taglens evaluate --task vqa`` from outside: both file forms, models and files of answers, refusals."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from taglens.cli.main import start
from taglens.inference.answering import Answered, AnswerSearch
from taglens.inference.sources import Source
from taglens.inference.tagger import Tagger
from taglens.results import Failure

ROWS = [
    {"image": "p/t.jpg", "question": "is it?", "answers": ["no"], "type": "exists", "split": "train"},
    {"image": "p/a.jpg", "question": "is it?", "answers": ["yes"], "type": "exists", "split": "val"},
    {"image": "p/b.jpg", "question": "is it?", "answers": ["no"], "type": "exists", "split": "val"},
    {
        "image": "p/a.jpg",
        "question": "what colour?",
        "answers": ["red", "blue"],
        "type": "colour",
        "split": "val",
    },
]
VQA = [
    (1, 42, "is it?", "yes/no", "is it", ["yes"] * 10),
    (2, 42, "how many?", "number", "how many", ["2"] * 9 + ["3"]),
]


class FakeAnswerer:
    """Says yes to everything, red of colours, two of numbers; a picture named c is not there."""

    ref = "fake@0123456789ab"

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.asked: list[tuple[str, str]] = []

    def answer(self, asked: Iterable[tuple[Source, str]], **arguments: Any) -> Iterator[Answered]:
        self.calls.append(arguments)
        for source, question in asked:
            self.asked.append((source.shown, question))
            answer = {"what colour?": "Red.", "how many?": "two"}.get(question, "yes")
            failure = Failure("not_found", "none") if source.path.stem == "c" else None
            good = failure is None
            yield Answered(
                source.shown,
                question,
                answer if good else None,
                0.5 if good else None,
                (),
                self.ref,
                error=failure,
            )


class Outcome:
    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    @property
    def found(self) -> dict[str, Any]:
        (line,) = self.out.splitlines()
        found: dict[str, Any] = json.loads(line)
        return found


Run = Callable[..., Outcome]


def write(path: Path, rows: Iterable[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> FakeAnswerer:
    fake = FakeAnswerer()
    monkeypatch.setattr(Tagger, "from_pretrained", lambda *_, **__: fake)
    return fake


@pytest.fixture
def evaluate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "q.jsonl", ROWS)
    (tmp_path / "images").mkdir()
    questions = [{"question_id": id, "image_id": image, "question": text} for id, image, text, *_ in VQA]
    annotations = [
        {
            "question_id": id,
            "image_id": image,
            "question_type": opening,
            "answer_type": type,
            "answers": [{"answer": answer, "answer_id": at} for at, answer in enumerate(answers)],
        }
        for id, image, _, type, opening, answers in VQA
    ]
    for key, rows in (("questions", questions), ("annotations", annotations)):
        (tmp_path / f"{key}.json").write_text(json.dumps({"data_subtype": "val2014", key: rows}))

    def run(*arguments: object) -> Outcome:
        with pytest.raises(SystemExit) as exit:
            start(["evaluate", "--task", "vqa", *map(str, arguments)])
        out, err = capsys.readouterr()
        return Outcome(int(exit.value.code or 0), out, err)

    return run


THEIRS = ("--questions", "questions.json", "--annotations", "annotations.json", "--images", "images")


def test_a_model_is_asked_picture_by_picture(evaluate: Run, model: FakeAnswerer) -> None:
    outcome = evaluate("--data", "q.jsonl", "--batch-size", 4, "--beams", 2)
    assert (outcome.status, outcome.err) == (0, "")
    found = outcome.found
    assert (found["images"], found["questions"], found["failed"]) == (2, 3, 0)
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["per_type"]["exists"] == {"questions": 2, "accuracy": 0.5}
    assert found["baselines"]["chosen_from"] == "train"
    assert found["baselines"]["most_common_answer"] == "no"
    # Questions about one picture are asked together, and rows stay where they were.
    assert model.asked == [("p/a.jpg", "is it?"), ("p/a.jpg", "what colour?"), ("p/b.jpg", "is it?")]
    assert model.calls == [
        {
            "tags": None,
            "add_tags": False,
            "threshold": None,
            "search": AnswerSearch(beams=2),
            "batch_size": 4,
        }
    ]


def test_without_tags_for_comparison(evaluate: Run, model: FakeAnswerer) -> None:
    evaluate("--data", "q.jsonl", "--no-tags")
    evaluate("--data", "q.jsonl", "--tags", "a,b", "--add-tags")
    assert [(call["tags"], call["add_tags"]) for call in model.calls] == [((), False), (("a", "b"), True)]


def test_the_split_decides_what_baselines_know(evaluate: Run, model: FakeAnswerer) -> None:
    found = evaluate("--data", "q.jsonl", "--split", "train").found
    assert (found["questions"], found["baselines"]["chosen_from"]) == (1, "evaluated")


def test_vqav2(evaluate: Run, model: FakeAnswerer) -> None:
    found = evaluate(*THEIRS).found
    assert (found["images"], found["questions"], found["accuracy"]) == (1, 2, 1.0)
    assert found["per_type"].keys() == {"yes/no", "number"}
    assert model.asked == [
        ("COCO_val2014_000000000042.jpg", "is it?"),
        ("COCO_val2014_000000000042.jpg", "how many?"),
    ]


def test_rows_are_kept_and_read_again(evaluate: Run, model: FakeAnswerer, tmp_path: Path) -> None:
    first = evaluate("--data", "q.jsonl", "--out", "rows.jsonl").found
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text("utf-8").splitlines()]
    assert [(row["source"], row["question"]) for row in rows] == [
        (row["image"], row["question"]) for row in ROWS[1:]
    ]
    again = evaluate("--data", "q.jsonl", "--predictions", "rows.jsonl")
    assert again.found == first and again.err == "" and len(model.calls) == 1


def test_results_of_others(evaluate: Run, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(
        json.dumps([{"question_id": 2, "answer": "3"}, {"question_id": 9, "answer": ""}])
    )
    outcome = evaluate(*THEIRS, "--predictions", "r.json")
    assert outcome.status == 1 and outcome.found["accuracy"] == 0.3
    assert "1 of 2 rows of r.json answer none" in outcome.err
    assert "1 of 2 questions have no answer" in outcome.err


def test_a_picture_that_is_not_there(evaluate: Run, model: FakeAnswerer, tmp_path: Path) -> None:
    write(tmp_path / "c.jsonl", [*ROWS, {**ROWS[1], "image": "p/c.jpg"}])
    outcome = evaluate("--data", "c.jsonl")
    assert outcome.status == 1 and (outcome.found["questions"], outcome.found["failed"]) == (4, 1)
    assert "are about p/c.jpg" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "needs --data questions.jsonl, or VQAv2's"),
        (THEIRS[:2], "missing: --annotations, --images"),
        (["--data", "q.jsonl", *THEIRS[:2]], "--questions belongs to VQAv2's files"),
        (["--data", "none.jsonl"], "--data: expected a file"),
        ([*THEIRS[:4], "--images", "none"], "--images: expected a folder"),
        (["--data", "q.jsonl", "--predictions", "q.jsonl", "--out", "x"], "give one"),
        (["--data", "q.jsonl", "--predictions", "q.jsonl", "--no-tags"], "--no-tags belongs to a model"),
        (["--data", "q.jsonl", "--predictions", "q.jsonl"], "expected source"),
        (["--data", "q.jsonl", "--out", "no/such/file"], "--out"),
        (["--data", "q.jsonl", "--no-tags", "--tags", "a"], "--no-tags"),
        (["--data", "q.jsonl", "--scores", "x.npz"], "--scores belongs to --task tagging"),
        (["--data", "q.jsonl", "--meteor"], "--meteor belongs to --task caption"),
        (["--data", "q.jsonl", "--lambda", "1"], "--lambda belongs to --task retrieval"),
        (["--data", "q.jsonl", "--split", "test"], "no question of split 'test'"),
        (["--data", "questions.json"], "no JSON|expected image"),
    ],
    ids=str,
)
def test_refusals(arguments: list[str], told: str, evaluate: Run, model: FakeAnswerer) -> None:
    outcome = evaluate(*arguments)
    assert (outcome.status, outcome.out) == (2, "")
    import re

    assert re.search(told, outcome.err), outcome.err
    assert not model.calls


def test_other_tasks_know_nothing_of_questions(evaluate: Run) -> None:
    for task in ("tagging", "caption", "retrieval"):
        outcome = evaluate("--task", task, *THEIRS)
        assert outcome.status == 2 and "--questions belongs to --task vqa" in outcome.err
        assert "--data is missing" in evaluate("--task", task).err

"""``taglens questions`` from outside: rows, names of pictures, counts, refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from taglens.cli.main import start
from taglens.data.questions import read_questions

Run = Callable[..., tuple[int, str, str]]
COLOURS = ("red", "blue", "green", "white")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit:
            start(["questions", *map(str, arguments)])
        out, err = capsys.readouterr()
        return int(exit.value.code or 0), out, err

    return call


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    rows: list[dict[str, Any]] = []
    for number in range(16):
        colour, done = COLOURS[number % 4], ("runs", "jumps")[number % 2]
        said = (
            [f"A {colour} dog {done} .", f"A dog with a {colour} ball ."] if number % 2 else ["Two men sit ."]
        )
        said = [f"A man {done} in a {colour} shirt ."] if number % 4 == 2 else said
        rows.append(
            {"image": f"p/{number}.jpg", "captions": said, "split": "val" if number > 11 else "train"}
        )
    rows.append({"image": "p/none.jpg", "captions": None, "split": "train"})
    path = tmp_path / "data" / "captions.jsonl"
    path.parent.mkdir()
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def test_questions_are_written_and_counted(run: Run, captions: Path, tmp_path: Path) -> None:
    out = tmp_path / "data" / "questions.jsonl"
    status, printed, told = run(captions, "--out", out)
    assert (status, printed) == (0, "")
    rows = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert all(list(row) == ["image", "question", "answers", "type", "split"] for row in rows)
    assert {row["split"] for row in rows} == {"train", "val"}
    count = sum(row["split"] == "train" for row in rows)
    assert f"taglens: train: questions {count} about" in told and " exists" in told
    assert all(row["image"].startswith("p/") for row in rows)
    assert not list(out.parent.glob("*.part"))
    first = out.read_bytes()
    assert run(captions, "--out", out, "--quiet")[2] == "" and out.read_bytes() == first
    run(captions, "--out", out, "--seed", 1)
    assert out.read_bytes() != first


def test_pictures_are_named_from_where_the_questions_lie(run: Run, captions: Path, tmp_path: Path) -> None:
    (tmp_path / "else" / "where").mkdir(parents=True)
    out = tmp_path / "else" / "where" / "q.jsonl"
    assert run(Path("data/captions.jsonl"), "--out", out, "--quiet")[0] == 0
    rows = read_questions(out, default_split=None)
    assert rows[0].image.startswith("../../data/p/")
    assert {row.path.resolve().parent for row in rows} == {(tmp_path / "data" / "p").resolve()}


def test_another_vocabulary(run: Run, captions: Path, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("ball\nshirt\n", "utf-8")
    out = tmp_path / "q.jsonl"
    assert run(captions, "--out", out, "--vocabulary", tmp_path / "words.txt")[0] == 0
    words = {row.question.rstrip("?").split()[-1] for row in read_questions(out, default_split=None)}
    assert words == {"ball", "shirt"}


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--most", 0], "at least 1"),
        (["--most-share", 1], "between 0 and 1"),
        (["--workers", -1], "--workers"),
        (["--vocabulary", "none.jsonl"], "--vocabulary: expected a file"),
        (["--out", "no/such/q.jsonl"], "--out"),
        (["--out", "data/captions.jsonl"], "is the file of captions"),
    ],
    ids=str,
)
def test_refusals(more: list[object], told: str, run: Run, captions: Path) -> None:
    before = captions.read_bytes()
    status, out, err = run(captions, "--out", "q.jsonl", *more)
    assert (status, out) == (2, "") and told in err and len(err.splitlines()) == 1
    assert captions.read_bytes() == before and not Path("q.jsonl").exists()


def test_files_that_are_no_captions(run: Run, captions: Path, tmp_path: Path) -> None:
    assert "captions: expected a file" in run("none.jsonl", "--out", "q.jsonl")[2]
    (tmp_path / "l.jsonl").write_text('{"image": "a.jpg", "labels": ["dog"]}\n')
    status, _, err = run("l.jsonl", "--out", "q.jsonl")
    assert status == 2 and "captions" in err
    (tmp_path / "e.jsonl").write_text('{"image": "a.jpg", "captions": ["Hm ."]}\n')
    status, _, err = run("e.jsonl", "--out", "q.jsonl")
    assert status == 2 and "nothing that can be asked" in err and not Path("q.jsonl").exists()

"""``taglens vocabulary``, from outside: what is printed where, and the exit status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from taglens.cli.main import start
from taglens.vocabulary import Entry, Vocabulary

WORDS = Vocabulary(
    [
        Entry("dog", "object", synonyms=("hound",), parents=("object:animal",), count=9),
        Entry("animal", "object", count=4),
        Entry("puppy", "object", parents=("object:dog",), count=3),
        Entry("train", "object", count=5),
        Entry("train", "action", count=7, hidden=True),
    ],
    name="pets",
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    WORDS.save(tmp_path / "pets.jsonl")
    return tmp_path / "pets.jsonl"


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as exit:
        start(["vocabulary", *map(str, arguments)])
    out, err = capsys.readouterr()
    return int(exit.value.code or 0), out, err


def rows(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def test_show_lists_in_order_and_by_kind(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "show", file, "--json")
    assert status == 0
    assert [row["id"] for row in rows(out)] == WORDS.ids
    _, out, _ = run(capsys, "show", file, "--kind", "action", "--json")
    assert [row["id"] for row in rows(out)] == ["action:train"]
    status, out, _ = run(capsys, "show", file)
    assert status == 0
    assert "train (hidden)" in out
    assert f"{WORDS.ref}: 5 of 5 tags" in out


def test_show_one_name_gives_everything_about_every_sense(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = run(capsys, "show", file, "Hound", "--json")
    (row,) = rows(out)
    assert row["id"] == "object:dog"
    assert row["implies"] == ["object:animal"]
    assert row["children"] == ["object:puppy"]
    assert row["homographs"] == []
    _, out, _ = run(capsys, "show", file, "train", "--json")
    # The sense that a bare word means stands first.
    assert [(row["id"], row["homographs"]) for row in rows(out)] == [
        ("action:train", ["object:train"]),
        ("object:train", ["action:train"]),
    ]
    _, out, _ = run(capsys, "show", file, "train", "--kind", "object")
    assert "object:train" in out.splitlines()[0]


def test_show_refuses_what_is_not_there(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, "show", file, "cat", "--json")
    assert (status, out) == (2, "")
    assert WORDS.ref in err
    assert "'cat'" in err
    assert run(capsys, "show", file, "--kind", "thing")[0] == 2
    assert run(capsys, "show", file.parent / "nowhere.jsonl")[0] == 2


def test_check_counts_what_it_finds(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, "check", file)
    assert (status, out) == (0, "")
    assert "0 problems" in err
    Vocabulary([Entry("a", "object", parents=("object:b",))]).save(file)
    status, out, err = run(capsys, "check", file)
    assert status == 1
    assert out == "object:a names a parent that is not here: object:b\n"
    assert "1 problems" in err


def test_diff_says_what_happened(file: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    new = tmp_path / "new.jsonl"
    Vocabulary(
        [
            Entry("animal", "object", count=5),
            Entry("hound", "object", synonyms=("dog",)),
            Entry("puppy", "object", count=3),
            Entry("cat", "object"),
            Entry("train", "object", count=5),
        ]
    ).save(new)
    status, out, err = run(capsys, "diff", file, new, "--json")
    assert status == 0
    assert rows(out) == [
        {"change": "removed", "id": "action:train"},
        {"change": "added", "id": "object:cat"},
        {"change": "renamed", "id": "object:dog", "to": "object:hound"},
        {"change": "changed", "id": "object:animal", "fields": ["count"]},
        {"change": "changed", "id": "object:puppy", "fields": ["parents"]},
    ]
    assert "models do not carry over" in err
    _, out, _ = run(capsys, "diff", file, new)
    assert "> object:dog -> object:hound" in out.splitlines()
    assert "~ object:puppy (parents)" in out.splitlines()
    _, out, err = run(capsys, "diff", file, file)
    assert out == ""
    assert "models fit both" in err


def test_build_from_captions_and_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    captions = tmp_path / "captions.txt"
    captions.write_text("Two dogs run on a beach.\nA dog and a man.\nPhoto of a zebra.\n", encoding="utf-8")
    labels = tmp_path / "labels.jsonl"
    labels.write_text('{"image": "a.jpg", "labels": ["abacus"]}\n', encoding="utf-8")
    allow = tmp_path / "allow.txt"
    allow.write_text("object: zebra\n", encoding="utf-8")
    arguments = [
        "--captions",
        captions,
        "--labels",
        labels,
        "--allow",
        allow,
        "--min-count",
        2,
        "--name",
        "mine",
    ]
    left_out = tmp_path / "left.tsv"
    status, out, err = run(capsys, "build", *arguments, "--out", tmp_path / "a.jsonl", "--left-out", left_out)
    assert (status, out) == (0, "")
    words = Vocabulary.load(tmp_path / "a.jsonl")
    assert words.name == "mine"
    assert words.ids[0] == "object:dog"
    assert {"object:abacus", "object:zebra", "object:animal"} <= set(words.ids)
    assert words.problems() == []
    assert words.ref in err
    table = left_out.read_text(encoding="utf-8").splitlines()
    assert table[0] == "kind\tname\tcount\treason"
    assert "object\tman\t1\trare" in table
    run(capsys, "build", *arguments, "--out", tmp_path / "b.jsonl")
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


def test_build_needs_something_to_build_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = run(capsys, "build", "--out", tmp_path / "a.jsonl")
    assert status == 2
    assert "--captions" in err
    assert not (tmp_path / "a.jsonl").exists()


def test_build_checks_before_the_long_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    captions = tmp_path / "captions.txt"
    captions.write_text("a dog\n")
    for arguments, named in (
        (["--out", str(tmp_path / "no" / "v.jsonl")], "--out"),
        (["--out", str(tmp_path / "v.csv")], "JSON Lines"),
        (["--out", str(tmp_path / "v.jsonl"), "--workers", "-1"], "--workers"),
    ):
        status, _, errors = run(capsys, "build", "--captions", captions, *arguments)
        assert status == 2 and named in errors
    (tmp_path / "captions.txt").write_text('{"captions": ["a dog"]}\n')
    status, _, errors = run(capsys, "build", "--captions", captions, "--out", tmp_path / "v.jsonl")
    assert status == 2 and ".jsonl" in errors


def test_names_are_shown_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Vocabulary([Entry("[/x] :dog: [red]", "object")]).save(tmp_path / "v.jsonl")
    status, out, _ = run(capsys, "show", tmp_path / "v.jsonl")
    assert status == 0 and "[/x] :dog: [red]" in out

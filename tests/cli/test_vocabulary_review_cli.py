"""``taglens vocabulary stats``, ``review`` and ``apply``, from outside."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from taglens.cli.main import start
from taglens.vocabulary import Entry, Vocabulary

WORDS = Vocabulary(
    [
        Entry("dog", "object", synonyms=("hound",), count=9),
        Entry("dogs", "object", count=2),
        Entry("beach", "scene", count=4),
        Entry("brown", "attribute", count=3),
    ],
    name="pets",
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    WORDS.save(tmp_path / "pets.jsonl")
    (tmp_path / "captions.txt").write_text("A dog.\nA brown dog on a beach.\nA cat.\n", encoding="utf-8")
    rows = [{"image": "a.jpg", "captions": ["A dog.", "A cat."]}, {"image": "b.jpg", "captions": None}]
    (tmp_path / "captions.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
    )
    return tmp_path / "pets.jsonl"


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as exit:
        start(["vocabulary", *map(str, arguments)])
    out, err = capsys.readouterr()
    return int(exit.value.code or 0), out, err


def test_stats_of_a_vocabulary_alone(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, "stats", file, "--json")
    assert (status, err) == (0, "")
    report = json.loads(out)
    assert (report["vocabulary"], report["tags"]) == (WORDS.ref, 4)
    assert report["kinds"]["object"]["tags"] == 2
    assert (
        report["corpora"] == [] and report["coverage"] is report["classes"] is report["frequencies"] is None
    )
    status, out, _ = run(capsys, "stats", file)
    assert status == 0 and f"{WORDS.ref}: 4 tags" in out


def test_stats_beside_corpora_and_classes(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = file.parent
    (folder / "labels.jsonl").write_text('{"image": "a.jpg", "labels": ["hound", "cat"]}\n', encoding="utf-8")
    (folder / "classes.txt").write_text("Hound\n\ntoy-poodle\n", encoding="utf-8")
    given = ["--captions", folder / "captions.txt", "--captions", folder / "captions.jsonl"]
    given += ["--labels", folder / "labels.jsonl", "--classes", folder / "classes.txt"]
    status, out, _ = run(capsys, "stats", file, *given, "--json")
    assert status == 0
    report = json.loads(out)
    assert [(row["form"], row["images"], row["texts"]) for row in report["corpora"]] == [
        ("captions", None, 3),
        ("captions", 1, 2),
        ("labels", 1, None),
    ]
    assert report["frequencies"]["object:dog"] == {"texts": 3, "images": 2}
    coverage = report["coverage"]
    assert (coverage["mentions"], coverage["covered"]) == (7, 5)
    assert [(row["name"], row["count"], row["why"]) for row in coverage["uncovered"]] == [
        ("cat", 2, "missing")
    ]
    assert report["unmatched_labels"] == [{"name": "cat", "count": 1}]
    assert (report["classes"]["found"], report["classes"]["missing"]) == (1, ["toy-poodle"])
    _, again, _ = run(capsys, "stats", file, *given, "--json", "--workers", 2)
    assert again == out
    status, out, _ = run(capsys, "stats", file, *given)
    assert status == 0
    assert "Coverage: 71.4 %, 5 of 7 mentions" in out
    assert "Missing: toy-poodle" in out


def test_stats_draws(file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    zipf, cloud = file.parent / "zipf.png", file.parent / "cloud.png"
    status, out, err = run(capsys, "stats", file, "--zipf", zipf, "--cloud", cloud, "--json")
    assert status == 0 and out.count("\n") == 1
    assert "zipf.png: 4 tags by rank" in err
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in (zipf, cloud))
    # A name that is not written as names are compared has its place in the cloud all the same.
    Vocabulary([Entry("Cafe\u0301  au lait", "object", count=3)]).save(file)
    assert run(capsys, "stats", file, "--cloud", cloud)[0] == 0
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    status, out, err = run(capsys, "stats", file, "--zipf", zipf)
    assert (status, out) == (2, "")
    assert "pip install 'taglens[plots]'" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--captions", "nowhere.txt"], "--captions: expected a file at nowhere.txt"),
        (["--classes", "nowhere.txt"], "--classes"),
        (["--zipf", "no/folder.png"], "--zipf"),
        (["--top", "-1"], "--top"),
        (["--workers", "-1"], "--workers"),
        (["--captions", "{}/captions.jsonl", "--split", "val"], None),
        (["--captions", "{}/empty.txt"], "no caption in"),
        (["--classes", "{}/empty.txt"], "names no class"),
    ],
)
def test_stats_refuses(
    file: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str | None
) -> None:
    (file.parent / "empty.txt").write_text("\n", encoding="utf-8")
    status, out, err = run(capsys, "stats", file, *(text.format(file.parent) for text in arguments))
    assert status == (0 if said is None else 2)
    assert said is None or (out == "" and said in err)


def embedded(page: Path) -> dict[str, Any]:
    text = page.read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(re.findall(r'id="data">(.*?)</script>', text, re.DOTALL)[0])
    return found


def write_decisions(path: Path, data: dict[str, Any], *rows: dict[str, str]) -> Path:
    content = {"taglens_decisions": data["format"], "vocabulary": data["vocabulary"], "decisions": rows}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_review_and_apply(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = file.parent
    page, new = folder / "page.html", folder / "new.jsonl"
    status, out, err = run(capsys, "review", file, "--captions", folder / "captions.txt", "--out", page)
    assert (status, out) == (0, "")
    assert f"4 tags of {WORDS.ref} beside 3 captions, 1 proposals, 1 tags that no caption names" in err
    data = embedded(page)
    dog = data["tags"][0]
    assert dog["f"] == 2 and ["A ", "dog", "."] in dog["x"]
    assert data["tags"][1]["a"] == ["merge", "forms of one word", 0]
    run(capsys, "review", file, "--captions", folder / "captions.txt", "--out", folder / "again.html")
    assert page.read_bytes() == (folder / "again.html").read_bytes()

    decisions = write_decisions(
        folder / "d.json",
        data,
        {"id": "object:dogs", "decision": "merge", "into": "object:dog"},
        {"id": "attribute:brown", "decision": "deny"},
    )
    status, out, err = run(capsys, "apply", file, "--decisions", decisions, "--out", new)
    assert status == 0
    assert out.splitlines() == [
        "- object:dogs (merged into object:dog)",
        "- attribute:brown",
        "~ object:dog (synonyms, count)",
    ]
    assert "0 kept, 1 denied, 1 merged, 0 renamed, 0 of another kind; 2 undecided stay as they are" in err
    assert "models do not carry over" in err
    assert (Vocabulary.load(new)[0].synonyms, Vocabulary.load(new)[0].count) == (("hound", "dogs"), 11)
    _, out, _ = run(capsys, "apply", file, "--decisions", decisions, "--out", new, "--json")
    assert json.loads(out.splitlines()[0]) == {"change": "removed", "id": "object:dogs", "into": "object:dog"}


def test_apply_refuses_another_vocabulary_and_writes_nothing(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = {"format": 1, "vocabulary": {"name": "other", "fingerprint": "0" * 12}}
    rows = ({"id": "object:dogs", "decision": "deny"}, {"id": "object:cat", "decision": "deny"})
    decisions, new = write_decisions(file.parent / "d.json", data, *rows), file.parent / "new.jsonl"
    status, out, err = run(capsys, "apply", file, "--decisions", decisions, "--out", new)
    assert (status, out) == (2, "")
    assert WORDS.ref in err and "other@000000000000" in err and "--force" in err
    assert not new.exists()
    status, out, err = run(capsys, "apply", file, "--decisions", decisions, "--out", new, "--force")
    assert (status, out) == (1, "- object:dogs\n")
    assert "skipped: " in err and "decision 2 (object:cat)" in err
    assert len(Vocabulary.load(new)) == 3


def test_apply_does_not_write_what_no_command_would_read(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vocabulary = {"name": WORDS.name, "fingerprint": WORDS.fingerprint}
    decisions = write_decisions(file.parent / "d.json", {"format": 1, "vocabulary": vocabulary})
    status, _, err = run(capsys, "apply", file, "--decisions", decisions, "--out", file.parent / "n.csv")
    assert status == 2 and "apply writes JSON Lines; name it" in err
    assert not (file.parent / "n.csv").exists()


def test_review_needs_captions_and_a_place(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = run(capsys, "review", file, "--out", file.parent / "p.html")
    assert status == 2 and "--captions" in err
    captions = file.parent / "captions.txt"
    assert run(capsys, "review", file, "--captions", captions, "--out", file.parent)[0] == 2
    assert run(capsys, "apply", file, "--decisions", "nowhere.json", "--out", file.parent / "n.jsonl")[0] == 2

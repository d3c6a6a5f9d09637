"""``taglens tag --language``: translated names in rows and on the command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from fake_tagger import VOCABULARY, FakeTagger
from PIL import Image

from taglens.cli.main import start
from taglens.cli.tag import split_tags
from taglens.vocabulary import Entry, Vocabulary

TRANSLATED = Vocabulary(
    [
        Entry("red thing", "object", translations={"zh": "红色/赤色"}),
        Entry("run", "action", translations={"zh": "跑"}),
        Entry("blue", "attribute"),
        Entry("secret", "object", hidden=True, translations={"zh": "秘密"}),
    ],
    name="zh-words",
)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("taglens.inference.tagger")
    module.Tagger = FakeTagger  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "taglens.inference.tagger", module)
    monkeypatch.setattr(FakeTagger, "calls", [])
    monkeypatch.setattr(FakeTagger, "loads", [])
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (12, 8), "#ff3300").save("red.png")
    TRANSLATED.save("zh.jsonl")


def tag(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[dict[str, Any]], str]:
    with pytest.raises(SystemExit) as exit:
        start(["tag", "red.png", "--json", "--threshold", "0", *arguments])
    out, err = capsys.readouterr()
    return int(exit.value.code or 0), [json.loads(line) for line in out.splitlines()], err


def test_rows_have_translated_names_and_the_same_ids(capsys: pytest.CaptureFixture[str]) -> None:
    status, (row,), err = tag(capsys, "--vocabulary", "zh.jsonl", "--language", "zh")
    assert status == 0
    assert [(one["id"], one["name"]) for one in row["tags"]] == [
        ("object:red thing", "红色/赤色"),
        ("action:run", "跑"),
        ("attribute:blue", "blue"),
    ]
    assert set(row["tags"][0]) == {"id", "name", "kind", "score"}
    # Said once; the hidden tag does not count.
    assert err == "taglens: note: 1 of 3 tags have no name in 'zh' and keep their own\n"


def test_tags_may_be_typed_in_the_language(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    joined = ["--vocabulary", "zh.jsonl", "--add-tags", "--language", "zh"]
    _, (row,), _ = tag(capsys, "--tags", "赤色，meadow", *joined)
    assert [one["id"] for one in row["tags"]] == [
        "object:red thing",
        "action:run",
        "scene:meadow",
        "attribute:blue",
    ]
    status, rows, err = tag(capsys, "--tags", "秘密", *joined)
    assert (status, rows) == (2, []) and "'秘密'" in err
    monkeypatch.setattr(
        FakeTagger,
        "__init__",
        lambda self, words=TRANSLATED: self.__dict__.update(vocabulary=words, ref="fake@0123456789ab"),
    )
    _, (row,), err = tag(capsys, "--tags", "赤色,action:run", "--language", "zh")
    assert [one["name"] for one in row["tags"]] == ["红色/赤色", "跑"]
    assert err == ""
    status, _, err = tag(capsys, "--tags", "红", "--language", "zh")
    assert status == 2 and "'红'" in err


def test_an_unknown_language_names_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    status, rows, err = tag(capsys, "--vocabulary", "zh.jsonl", "--language", "fr")
    assert (status, rows) == (2, [])
    assert "no tag of zh-words@" in err and "languages: zh (3 tags)" in err
    status, rows, err = tag(capsys, "--language", "zh", "--tags", "blue")
    assert (status, rows) == (2, [])
    assert f"{VOCABULARY.ref} has a name in 'zh'; languages: none" in err and "--translations zh=" in err


def test_either_comma_divides() -> None:
    assert split_tags("狗，猫, cat") == ("狗", "猫", "cat")

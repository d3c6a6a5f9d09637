"""``taglens caption --must-mention`` from outside: all said or told as unmet, and one line for what cannot be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import small_captioner as small
from taglens.cli.caption import CaptionOptions
from taglens.cli.main import start
from taglens.inference.captioning import Search
from taglens.inference.tagger import Tagger

Run = Callable[..., tuple[int, str, str]]
LOADED: dict[Path, Tagger] = {}


@pytest.fixture
def caption(
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """The command in a folder with 0.png, 1.png and a model that writes; gives status, output, messages."""
    bundle = small.made(tmp_path_factory) / "bundle"
    if bundle not in LOADED:
        LOADED[bundle] = Tagger.from_pretrained(bundle, threads=1)
    monkeypatch.setattr(Tagger, "from_pretrained", lambda *_, **__: LOADED[bundle])
    monkeypatch.chdir(tmp_path)
    for number, picture in enumerate(small.pictures(2)):
        Image.fromarray(picture).save(f"{number}.png")

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit:
            start(["caption", "0.png", "1.png", "--model", "bundle", *arguments])
        out, err = capsys.readouterr()
        return int(exit.value.code or 0), out, err

    return run


def rows(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def test_all_tags_are_said_or_told(caption: Run) -> None:
    tags = ["--tags", "car，kitten, 日本", "--json"]
    free = rows(caption(*tags)[1])
    status, out, err = caption(*tags, "--must-mention")
    assert status == 0 and err == "taglens: 2 pictures\n"
    for row, before in zip(rows(out), free, strict=True):
        assert row["unmet"] == ["日本"] == row["captions"][0]["unmet"]
        assert row["captions"][0]["mentioned"] == ["car", "kitten"]
        assert row.keys() == before.keys() and row["guide_tags"] == before["guide_tags"]
    assert any(len(row["unmet"]) > 1 for row in free), "the free captions say less"


def test_rows_are_those_of_the_library(caption: Run) -> None:
    _, out, _ = caption("--tags", "car,Dog", "--add-tags", "--must-mention", "--number", "2", "--json")
    (tagger,) = LOADED.values()
    expected = tagger.caption(
        ["0.png", "1.png"], tags=["car", "Dog"], add_tags=True, search=Search(number=2), must_mention=True
    )
    assert rows(out) == [row.to_dict() for row in expected]
    assert all(row["unmet"] == [] and len(row["captions"]) == 2 for row in rows(out))


def test_people_read_what_was_not_said(caption: Run) -> None:
    status, out, _ = caption("--tags", "car,日本", "--must-mention", "--quiet")
    assert status == 0 and out.count("    not said: 日本\n") == 2


def test_the_option_reaches_the_search_and_is_off_by_default() -> None:
    assert CaptionOptions(tags=("a",), must_mention=True, beams=4).search() == Search(
        beams=4, must_mention=True
    )
    assert not CaptionOptions(tags=("a",)).search().must_mention


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--must-mention"], "--must-mention says that captions must name --tags; give both"),
        (["--must-mention", "--tags", " , "], "--tags names no tag"),
        (["--must-mention", "--tags", "a", "--sample"], "--must-mention searches for words and --sample"),
        (["--must-mention", "--tags", "a,b,c,d,e,f,g,h,i"], "--must-mention takes at most 8 --tags, found 9"),
    ],
    ids=" ".join,
)
def test_refusals_are_one_line_that_names_the_option(caption: Run, arguments: list[str], words: str) -> None:
    status, out, err = caption("--json", *arguments)
    assert (status, out) == (2, "")
    assert err.startswith("taglens: error: ") and words in err and err.count("\n") == 1


def test_repeats_do_not_count_against_the_most(caption: Run) -> None:
    status, out, _ = caption(
        "--json", "--must-mention", "--tags", "a,b,c,d,e,f,g,h,A, b ", "--max-length", "26"
    )
    assert status == 0 and len(rows(out)[0]["guide_tags"]) == 8
    assert all(row["unmet"] == [] for row in rows(out))

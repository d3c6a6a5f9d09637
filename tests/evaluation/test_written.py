"""Captions from files: rows that are none, and which picture a row is about."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from taglens.errors import DataError
from taglens.evaluation.datasets import CaptionedImage
from taglens.evaluation.written import captions_of, read_written
from taglens.results import Caption, Captioned, Failure


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def rows(tmp_path: Path, *sources: str) -> Any:
    file = write(tmp_path / "rows.jsonl", *({"source": each, "caption": f"of {each}"} for each in sources))
    return read_written(file)


def image(name: str, folder: str = "/data") -> CaptionedImage:
    return CaptionedImage(Path(folder) / name, name, ("x",), None)


def matched(tmp_path: Path, images: list[CaptionedImage], *sources: str) -> list[str | None]:
    return [None if row is None else row.source for row in captions_of(images, rows(tmp_path, *sources))]


def test_rows_as_the_caption_command_prints_them(tmp_path: Path) -> None:
    well = Captioned("a.jpg", 4, 3, (Caption("a dog", -1.0), Caption("two", -2.0)), ("dog",), "m@1")
    bad = Captioned("b.jpg", None, None, None, None, "m@1", error=Failure("empty", "b.jpg: 0 bytes"))
    file = tmp_path / "rows.jsonl"
    file.write_text(well.to_json() + "\n\n" + bad.to_json() + "\n")
    assert [(row.source, row.caption) for row in read_written(file)] == [("a.jpg", "a dog"), ("b.jpg", None)]
    assert read_written(file)[1].where == f"{file}, line 3"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('["a"]', "expected an object"),
        ('{"caption": "x"}', "picture's name, found 'None'"),
        ('{"source": 3, "caption": "x"}', "picture's name, found '3'"),
        ('{"source": "a\\u0000", "caption": "x"}', "picture's name"),
        ('{"source": "a"}', "expected caption, found none"),
        ('{"source": "a", "captions": ["x"]}', "give the caption file to --data"),
        ('{"source": "a", "caption": null}', "caption is null and so is error"),
        ('{"source": "a", "caption": null, "tags": []}', "writes captions with --caption"),
        ('{"source": "a", "caption": ["x"]}', "to be text or null"),
        ('{"source": "a", "caption": "x", "error": {"type": "empty"}}', "a caption and an error"),
        ('{"source": "a", "caption": "\\ud800"}', "half a character"),
        ('{"source": "\\ud800", "caption": "x"}', "half a character"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"source": "z", "caption": "x"}\n' + line + "\n")
    with pytest.raises(DataError, match=message) as caught:
        read_written(file)
    assert f"{file}, line 2" in str(caught.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read"):
        read_written(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="is empty"):
        read_written(write(tmp_path / "empty.jsonl"))


@pytest.mark.parametrize(
    "source", ["images/a.jpg", "a.jpg", "./images/a.jpg", "/elsewhere/images/a.jpg", "../b/../images/a.jpg"]
)
def test_names_that_end_alike_are_one_picture(tmp_path: Path, source: str) -> None:
    assert matched(tmp_path, [image("images/a.jpg")], source) == [source]
    assert matched(tmp_path, [image("../images/a.jpg")], source) == [source]


@pytest.mark.parametrize("source", ["images/b.jpg", "other/a.jpg", "xa.jpg", "a.jpg/images", "/", "."])
def test_other_names_are_not(tmp_path: Path, source: str) -> None:
    assert matched(tmp_path, [image("images/a.jpg")], source) == [None]


def test_rows_keep_to_their_pictures(tmp_path: Path) -> None:
    images = [image("one/a.jpg"), image("two/a.jpg"), image("b.jpg"), image("c.jpg")]
    sources = ["x/two/a.jpg", "b.jpg", "x/one/a.jpg", "d.jpg"]
    assert matched(tmp_path, images, *sources) == ["x/one/a.jpg", "x/two/a.jpg", "b.jpg", None]


def test_the_very_path_goes_before_what_ends_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert matched(tmp_path, [image("a.jpg")], "x/a.jpg", "a.jpg") == ["a.jpg"]
    monkeypatch.chdir(tmp_path)
    assert matched(tmp_path, [image("a.jpg", str(tmp_path / "set"))], "set/a.jpg", "other/a.jpg") == [
        "set/a.jpg"
    ]


def test_what_may_be_several_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 1: 'a.jpg' may be 'one/a.jpg' or 'two/a.jpg'"):
        matched(tmp_path, [image("one/a.jpg"), image("two/a.jpg")], "a.jpg")
    with pytest.raises(DataError, match=r"line 2: .* are both about 'a.jpg'; keep one"):
        matched(tmp_path, [image("a.jpg")], "x/a.jpg", "y/a.jpg")
    with pytest.raises(DataError, match="are both about"):
        matched(tmp_path, [image("a.jpg")], "a.jpg", "a.jpg")


def test_a_picture_named_twice_has_its_caption_twice(tmp_path: Path) -> None:
    assert matched(tmp_path, [image("a.jpg"), image("./a.jpg")], "a.jpg") == ["a.jpg", "a.jpg"]

"""Tables: every tag arrives, formulas do not, and a file is there whole or not at all."""

from __future__ import annotations

import csv
import errno
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from writer_rows import MODEL, VOCABULARY, account, failed, row, stored, tag

from taglens.collection.writers import files
from taglens.collection.writers.choosing import Choice, chosen, exclusions
from taglens.collection.writers.tables import plain_cell, safe_cell, write_csv, write_jsonl, write_parquet
from taglens.errors import MissingExtraError, UsageError

ROWS = [
    row("a.jpg", "cat", "red car"),
    row('b,\n"c".jpg', caption="=1+1"),
    row("=cmd|' /C calc'!A0.jpg", "-dog"),
]


# -- which tags -----------------------------------------------------------------------------------------


def test_choosing_goes_threshold_kinds_exclusions_top() -> None:
    tags = [
        tag("cat", 0.9),
        tag("walk", 0.8, "action"),
        tag("Red Car", 0.7),
        tag("dog", 0.6),
        tag("sofa", 0.1),
    ]
    (one,) = stored(row("a.jpg", *tags))
    assert one.prediction.tags is not None
    choice = Choice(
        threshold=0.5, top=1, kinds=frozenset({"object"}), exclude=exclusions(["red_car", "object:cat"])
    )
    assert [found.name for found in choice.of(one.prediction.tags)] == ["dog"]
    spelled = Choice(underscores=True).of(one.prediction.tags)
    assert [found.name for found in spelled] == ["cat", "walk", "Red_Car", "dog", "sofa"]
    assert [found.id for found in spelled][2] == "object:Red Car"


@pytest.mark.parametrize("options", [{"threshold": 1.5}, {"threshold": -1}, {"top": -1}])
def test_a_choice_that_cannot_be_meant(options: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Choice(**options)  # type: ignore[arg-type]


def test_error_rows_are_counted() -> None:
    counted, _ = account()
    left = list(chosen(stored(row("a.jpg"), failed("b.jpg")), Choice(), counted))
    assert [one.path for one in left] == ["a.jpg"] and counted.left_out == 1


# -- JSON lines -----------------------------------------------------------------------------------------


def test_json_lines_are_the_rows_with_the_wanted_tags(tmp_path: Path) -> None:
    counted, _ = account()
    rows = stored(row("a.jpg", "cat", "dog", extra=[1]), failed("b.jpg"))
    left = chosen(rows, Choice(top=1), counted, keep_errors=True)
    write_jsonl(left, tmp_path / "rows.jsonl", account=counted)
    lines = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert lines == [row("a.jpg", "cat", extra=[1]), failed("b.jpg")]
    assert (counted.written, counted.tags, counted.left_out) == (2, 1, 0)


# -- CSV -------------------------------------------------------------------------------------------------


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return [{name: plain_cell(cell) for name, cell in one.items()} for one in csv.DictReader(file)]


def test_a_row_for_each_tag(tmp_path: Path) -> None:
    counted, _ = account()
    write_csv(stored(*ROWS), tmp_path / "tags.csv", account=counted)
    found = read(tmp_path / "tags.csv")
    assert [(one["source"], one["rank"], one["name"], one["score"]) for one in found] == [
        ("a.jpg", "1", "cat", "0.9"),
        ("a.jpg", "2", "red car", "0.89"),
        ('b,\n"c".jpg', "", "", ""),
        ("=cmd|' /C calc'!A0.jpg", "1", "-dog", "0.9"),
    ]
    assert {(one["model"], one["vocabulary"]) for one in found} == {(MODEL, VOCABULARY)}
    assert (counted.written, counted.tags) == (3, 3)


def test_a_row_for_each_picture(tmp_path: Path) -> None:
    counted, _ = account()
    write_csv(stored(*ROWS), tmp_path / "tags.csv", account=counted, wide=True, separator="|")
    found = read(tmp_path / "tags.csv")
    assert [(one["tags"], one["scores"], one["caption"]) for one in found] == [
        ("cat|red car", "0.9|0.89", ""),
        ("", "", "=1+1"),
        ("-dog", "0.9", ""),
    ]


def test_no_cell_begins_like_a_formula(tmp_path: Path) -> None:
    counted, _ = account()
    for wide in (False, True):
        write_csv(stored(*ROWS), tmp_path / "tags.csv", account=counted, wide=wide)
        with (tmp_path / "tags.csv").open(encoding="utf-8", newline="") as file:
            assert not [cell for cells in csv.reader(file) for cell in cells if cell[:1] in tuple("=+-@\t\r")]


@given(st.text(st.sampled_from("'=+-@\t\r\nax")) | st.text())
def test_a_safe_cell_gives_its_text_back(text: str) -> None:
    cell = safe_cell(text)
    assert plain_cell(cell) == text
    assert cell[:1] not in tuple("=+-@\t\r\n")
    assert cell == text or cell == "'" + text


# -- Parquet ---------------------------------------------------------------------------------------------


def test_parquet_holds_what_the_rows_hold(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    counted, _ = account()
    write_parquet(stored(*ROWS), tmp_path / "tags.parquet", account=counted)
    table = parquet.read_table(tmp_path / "tags.parquet")
    for found, wanted in zip(table.to_pylist(), ROWS, strict=True):
        assert {name: found[name] for name in ("source", "width", "tags", "caption", "model")} == {
            name: wanted[name] for name in ("source", "width", "tags", "caption", "model")
        }
    assert (counted.written, counted.tags) == (3, 3)


def test_parquet_without_its_package_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    counted, _ = account()
    with pytest.raises(MissingExtraError, match=r"taglens\[parquet\]"):
        write_parquet([], tmp_path / "tags.parquet", account=counted)
    assert not list(tmp_path.iterdir())


# -- whole or not at all -----------------------------------------------------------------------------------


def test_a_failure_in_the_middle_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("old")

    def rows():  # type: ignore[no-untyped-def]
        yield from stored(*ROWS)
        assert sorted(one.name for one in tmp_path.iterdir())[0] == "rows.jsonl"
        assert path.read_text() == "old"
        raise KeyboardInterrupt

    counted, _ = account()
    with pytest.raises(KeyboardInterrupt):
        write_jsonl(rows(), path, account=counted)
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tags.csv"
    path.write_text("old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    counted, _ = account()
    with pytest.raises(OSError, match="No space"):
        write_csv(stored(*ROWS), path, account=counted)
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_a_place_that_is_none_is_refused(tmp_path: Path) -> None:
    counted, _ = account()
    for path in (tmp_path, tmp_path / "none" / "rows.jsonl"):
        with pytest.raises(UsageError, match="cannot write"):
            write_jsonl([], path, account=counted)

"""Rows read back: from a file, from a store whole and unfinished, and what is refused with its line."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from writer_rows import failed, row, write_rows

from taglens.collection.rows_in import parse_row, read_rows
from taglens.collection.store import Receipt, RunFile, Store
from taglens.errors import DataError, UsageError

ROWS = [
    row("a.jpg", "cat"),
    failed("b.jpg"),
    row("c.jpg", sha256="00", status="done"),
    row("d.jpg", "dog", "cat"),
]


def store_at(folder: Path, *, finished: bool = True) -> Store:
    """A store with two shards of two rows, as a run leaves it."""
    store = Store(folder)
    with store.locked():
        run = RunFile(("photos",), {"model": "toy"}, {"pictures": 4} if finished else None)
        store.write_run(run)
        for shard in (0, 1):
            part = ROWS[2 * shard : 2 * shard + 2]
            store.write_shard(Receipt(shard, 2, 0, "", run.fingerprint, "", ""), part, None)
    return store


def test_rows_of_a_file_come_in_order_with_their_numbers(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", ROWS)
    path.write_text(path.read_text().replace("\n", "\n\n", 1))
    rows = list(read_rows(path))
    assert [one.number for one in rows] == [0, 1, 2, 3]
    assert [one.raw for one in rows] == ROWS
    assert [one.path for one in rows] == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    assert rows[1].prediction.error is not None and rows[1].prediction.error.type == "not_image"
    assert rows[2].sha256 == "00"
    assert rows[3].prediction.names == ["dog", "cat"]


def test_what_a_prediction_prints_is_read_as_that_prediction(tmp_path: Path) -> None:
    for one in ROWS:
        again = parse_row(json.dumps(one), number=0, where="here").prediction.to_dict()
        assert again == {key: value for key, value in one.items() if key not in ("sha256", "status")}


def test_rows_of_a_store(tmp_path: Path) -> None:
    store_at(tmp_path / "store")
    assert [one.raw for one in read_rows(tmp_path / "store")] == ROWS


def test_an_unfinished_store_is_refused_unless_asked_for(tmp_path: Path) -> None:
    store = store_at(tmp_path / "store", finished=False)
    with pytest.raises(UsageError, match="run is not at its end"):
        list(read_rows(store.folder))
    assert len(list(read_rows(store.folder, partial=True))) == 4


@pytest.mark.parametrize("shard", [0, 1])
def test_a_shard_without_a_receipt_is_not_read(tmp_path: Path, shard: int) -> None:
    store = store_at(tmp_path / "store")
    store.receipt_path(shard).unlink()
    with pytest.raises(UsageError, match=f"shard 00000{shard}.jsonl has no receipt.*--partial"):
        list(read_rows(store.folder))
    assert [one.raw for one in read_rows(store.folder, partial=True)] == (
        ROWS[2:] if shard == 0 else ROWS[:2]
    )


def test_a_shard_that_is_gone_is_missed(tmp_path: Path) -> None:
    store = store_at(tmp_path / "store")
    store.receipt_path(0).unlink()
    store.rows_path(0).unlink()
    with pytest.raises(UsageError, match="shard 000000 is missing"):
        list(read_rows(store.folder))


def test_a_shard_that_was_changed_is_refused(tmp_path: Path) -> None:
    store = store_at(tmp_path / "store")
    with store.rows_path(1).open("ab") as file:
        file.write(b"{}\n")
    with pytest.raises(DataError, match="receipt"):
        list(read_rows(store.folder))


def test_what_is_no_source(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(UsageError):
            list(read_rows(path))


Change = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda one: one.pop("source"), "'source'"),
        (lambda one: one.pop("model"), "'model'"),
        (lambda one: one.update(source=""), "file name"),
        (lambda one: one.update(source="a\0b"), "file name"),
        (lambda one: one.update(source=3), "'source' to be str"),
        (lambda one: one.update(tags=None), "'tags'"),
        (lambda one: one.update(tags=["cat"]), "tag to be an object"),
        (lambda one: one["tags"][0].update(kind="thing"), "kind"),
        (lambda one: one["tags"][0].update(score="high"), "score"),
        (lambda one: one["tags"][0].update(score=True), "score"),
        (lambda one: one["tags"][0].pop("id"), "'id'"),
        (lambda one: one.update(width=True), "'width'"),
        (lambda one: one.update(width=-1), "pixels"),
        (lambda one: one.update(error={"type": "bored", "message": ""}), "type"),
        (lambda one: one.update(source_bytes="?"), "base64"),
        (lambda one: one["tags"][0].update(name="\ud800"), "surrogate"),
    ],
)
def test_a_row_that_is_none_is_refused_with_its_line(tmp_path: Path, change: Change, why: str) -> None:
    wrong = row("a.jpg", "cat")
    change(wrong)
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(ROWS[0]) + "\n" + json.dumps(wrong) + "\n")
    rows = read_rows(path)
    next(rows)
    with pytest.raises(DataError, match=f"line 2: .*{why}"):
        next(rows)


@pytest.mark.parametrize("line", ["", "[]", "{", "3", '{"tags": NaN}', "\xff"])
def test_a_line_that_is_no_object(line: str) -> None:
    with pytest.raises(DataError, match="here: "):
        parse_row(line, number=0, where="here")


def test_scores_that_are_no_numbers() -> None:
    for score in ("NaN", "Infinity", "1e999"):
        line = json.dumps(row("a.jpg", "cat")).replace("0.9", score)
        with pytest.raises(DataError, match="score"):
            parse_row(line, number=0, where="here")


def test_bytes_of_a_name_are_used_to_find_the_file() -> None:
    line = json.dumps(row("caf\ufffd.jpg", "cat", source_bytes="Y2Fm6S5qcGc="))
    assert os.fsencode(parse_row(line, number=0, where="here").path) == b"caf\xe9.jpg"

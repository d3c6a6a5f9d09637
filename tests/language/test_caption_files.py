"""Files of captions and labels as rows."""

from __future__ import annotations

import gzip
import os
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from taglens.errors import DataError
from taglens.language.corpora import caption_rows, has_pictures, label_rows, parsed_rows


@dataclass(frozen=True)
class Said:
    objects: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    scenes: tuple[str, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()


def parse(lines: Iterable[str]) -> Iterator[Said]:
    return (Said(objects=tuple(line.split())) for line in lines)


def parse_ahead(lines: Iterable[str]) -> Iterator[Said]:
    """Reads everything before it answers, as processes may."""
    return parse(list(lines))


def test_gzip_is_known_by_name_and_by_content(tmp_path: Path) -> None:
    for name in ("a.txt.gz", "a.txt"):
        (tmp_path / name).write_bytes(gzip.compress("\ufeffone\n\n two \n".encode()))
        assert list(caption_rows(tmp_path / name)) == [(1, ("one",)), (3, ("two",))]
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"one\n" * 99)[:-12])
    with pytest.raises(DataError, match=r"b\.txt\.gz"):
        list(caption_rows(tmp_path / "b.txt.gz"))


@pytest.mark.parametrize("packed", [False, True])
def test_nothing_of_a_pipe_is_lost(tmp_path: Path, packed: bool) -> None:
    os.mkfifo(pipe := tmp_path / "pipe")
    text = b"one\ntwo\n"
    writer = threading.Thread(target=pipe.write_bytes, args=(gzip.compress(text) if packed else text,))
    writer.start()
    assert list(caption_rows(pipe)) == [(1, ("one",)), (2, ("two",))]
    writer.join()


def test_rows_of_pictures_by_split(tmp_path: Path) -> None:
    file = tmp_path / "captions.jsonl"
    file.write_text(
        '{"captions": ["a", "b"], "split": "val"}\n{"captions": null}\n{"captions": ["c"]}\n',
        encoding="utf-8",
    )
    assert has_pictures(file) and has_pictures(Path("x.jsonl.gz")) and not has_pictures(Path("x.txt"))
    assert list(caption_rows(file)) == [(1, ("a", "b")), (2, None), (3, ("c",))]
    assert list(caption_rows(file, split="train")) == [(2, None), (3, ("c",))]


@pytest.mark.parametrize(
    "line", ['{"labels": []}', '{"captions": "a"}', '{"captions": [1]}', "[]", "{", "[" * 99999]
)
def test_a_row_that_is_none_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "captions.jsonl"
    file.write_text('{"captions": []}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(DataError, match="line 2"):
        list(caption_rows(file))


def test_labels_keep_the_kinds_that_rows_state(tmp_path: Path) -> None:
    file = tmp_path / "labels.jsonl"
    file.write_text('{"labels": ["a", "b"], "kind": ["scene", null]}\n{"labels": null}\n', encoding="utf-8")
    assert list(label_rows(file)) == [[("scene", "a"), (None, "b")]]


@pytest.mark.parametrize("through", [parse, parse_ahead])
def test_answers_come_back_to_their_rows(through: object) -> None:
    rows = [(), ("a", "b"), (), (), ("c",), ()]
    found = list(parsed_rows(rows, through))  # type: ignore[arg-type]
    assert [row for row, _ in found] == rows
    assert [[one.objects for one in parsed] for _, parsed in found] == [
        [],
        [("a",), ("b",)],
        [],
        [],
        [("c",)],
        [],
    ]

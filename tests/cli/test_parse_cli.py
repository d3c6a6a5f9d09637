"""``taglens parse`` as a function: rows in order, files and streams, and what it refuses."""

from __future__ import annotations

import gzip
import io
import json
import os
import queue
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from taglens.cli.parse import run
from taglens.errors import DataError, UsageError
from taglens.language.parser import parse

LINES = ["A red car .", "", "two dogs running", "caf\u00e9 \u2028 sign", "  "]


def rows(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.removesuffix("\n").split("\n")]


def captions(folder: Path, text: bytes, name: str = "captions.txt") -> Path:
    path = folder / name
    path.write_bytes(text)
    return path


def test_one_text_goes_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("a red car", input=None, output=None, workers=0) == 0
    assert rows(capsys.readouterr().out) == [parse("a red car").to_dict()]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_file_gives_a_row_per_line_empty_ones_too(tmp_path: Path, packed: bool, end: str) -> None:
    raw = (end.join(LINES) + end).encode()
    source = captions(tmp_path, gzip.compress(raw) if packed else raw)
    target = tmp_path / "rows.jsonl"
    assert run(None, input=source, output=target, workers=0) == 0
    assert [row["caption"] for row in rows(target.read_text("utf-8"))] == LINES
    assert sorted(path.name for path in tmp_path.iterdir()) == ["captions.txt", "rows.jsonl"]


def test_a_last_line_without_an_end_counts(tmp_path: Path) -> None:
    target = tmp_path / "rows.jsonl"
    run(None, input=captions(tmp_path, b"\xef\xbb\xbfone dog\na cat"), output=target, workers=0)
    assert [row["caption"] for row in rows(target.read_text("utf-8"))] == ["one dog", "a cat"]


def test_an_empty_file_gives_no_rows(tmp_path: Path) -> None:
    target = tmp_path / "rows.jsonl"
    run(None, input=captions(tmp_path, b""), output=target, workers=0)
    assert target.read_bytes() == b""


def test_standard_input(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for text, path in (("-", None), (None, Path("-"))):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a dog\n\na cat\n"), encoding="utf-8"))
        run(text, input=path, output=None, workers=0)
        assert [row["caption"] for row in rows(capsys.readouterr().out)] == ["a dog", "", "a cat"]


def test_bytes_that_are_no_text_in_an_argument_become_one_mark(capsys: pytest.CaptureFixture[str]) -> None:
    run("a dog \udcff", input=None, output=None, workers=0)
    assert rows(capsys.readouterr().out)[0]["caption"] == "a dog \ufffd"


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="neither"):
        run(None, input=None, output=None, workers=0)
    with pytest.raises(UsageError, match="both"):
        run("a", input=tmp_path, output=None, workers=0)
    with pytest.raises(UsageError, match=r"missing\.txt"):
        run(None, input=tmp_path / "missing.txt", output=None, workers=0)
    with pytest.raises(UsageError, match="workers"):
        run("a", input=None, output=None, workers=-1)
    with pytest.raises(UsageError, match="folder"):
        run("a", input=None, output=tmp_path / "no" / "rows.jsonl", workers=0)


@pytest.mark.parametrize("raw", [b"fine\n\xff\xfe bad\n", gzip.compress(b"a dog\n" * 900)[:-9]])
def test_a_damaged_file_is_named_and_leaves_the_old_output(tmp_path: Path, raw: bytes) -> None:
    source = captions(tmp_path, raw)
    target = captions(tmp_path, b"old", "rows.jsonl")
    with pytest.raises(DataError, match=r"captions\.txt"):
        run(None, input=source, output=target, workers=0)
    assert target.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 2


def test_rows_are_packed_where_the_name_says_so(tmp_path: Path) -> None:
    for name in ("a.jsonl.gz", "b.jsonl.gz"):
        run(None, input=captions(tmp_path, b"a red car\n"), output=tmp_path / name, workers=1)
    assert rows(gzip.decompress((tmp_path / "a.jsonl.gz").read_bytes()).decode())[0]["objects"] == ["car"]
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()


def test_a_folder_as_output_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--output"):
        run(None, input=captions(tmp_path, b"a\n"), output=tmp_path, workers=1)


def test_who_writes_a_caption_can_wait_for_its_row() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-c", "from taglens.cli import main; main()", "parse", "-"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
    ) as process:
        assert process.stdin and process.stdout
        found: queue.Queue[str] = queue.Queue()
        reader = threading.Thread(target=lambda out: found.put(out.readline()), args=(process.stdout,))
        reader.start()
        process.stdin.write("a red car\n")
        process.stdin.flush()
        assert json.loads(found.get(timeout=60))["objects"] == ["car"]
        process.stdin.close()
        reader.join()

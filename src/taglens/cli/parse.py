"""``taglens parse``: captions in, one JSON row of parts per line out.

Knows files, streams and the order of lines; what a caption means is the language package's business.
"""

from __future__ import annotations

import gzip
import io
import os
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Annotated, TextIO

import typer

from taglens.cli.captions import require_files, require_folder
from taglens.cli.console import ProgressLine
from taglens.errors import DataError, UsageError
from taglens.language.parser import in_processes, parse_lines
from taglens.results import to_line

_GZIP_MAGIC = b"\x1f\x8b"


def run(
    text: Annotated[
        str | None, typer.Argument(help="One caption; - reads captions from standard input, one a line.")
    ] = None,
    *,
    input: Annotated[
        Path | None,
        typer.Option("--input", help="A file of captions, one a line, plain or gzip; - is standard input."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", help="Where the rows go, packed if it ends in .gz; default: standard output."
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option("--workers", help="Processes for --input; 0 is one per processor.")
    ] = 0,
) -> int:
    """Parse a caption, or each line of a file, and write one JSON row per caption."""
    # UsageError: neither or both of TEXT and --input, a file that is not there, or negative workers.
    # DataError: the input is not UTF-8 text or its compression is damaged.
    if (text is None) == (input is None):
        found = "neither" if text is None else "both"
        raise UsageError(f"Expected either TEXT or --input FILE, found {found}. Give exactly one of them.")
    if workers < 0:
        raise UsageError(
            f"Expected --workers 0 or more, found {workers}. Use 0 for one per processor, 1 for this one."
        )
    require_folder("--output", output)
    if text is not None and text != "-":
        # Bytes that are no UTF-8 reach a program as lone surrogates; no JSON reader would take them back.
        captions: Iterable[str] = [text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")]
    elif input is None or str(input) == "-":
        captions = _stdin_lines()
    else:
        require_files("--input", [input])
        captions = _file_lines(input)
    if text is not None or input is None or str(input) == "-":
        # Line by line: who writes a caption may wait for its row before writing the next.
        rows: Iterable[str] = (_rows([caption]) for caption in captions)
    else:
        rows = in_processes(_rows, captions, workers=workers)
    if output is None:
        for part in rows:
            sys.stdout.write(part)
            sys.stdout.flush()
        return 0
    line, done = ProgressLine(None, unit="captions"), 0
    try:
        with _beside(output) as target:
            for part in rows:
                target.write(part)
                done += part.count("\n")
                line.reach(done)
    finally:
        line.clear()
    return 0


def _rows(captions: Sequence[str]) -> str:
    """JSON rows of captions; other processes call it, so that only text travels between them."""
    return "".join(to_line(row.to_dict()) + "\n" for row in parse_lines(captions))


def _stdin_lines() -> Iterator[str]:
    return _decoded(getattr(sys.stdin, "buffer", None) or _encoded(sys.stdin), "standard input")


def _encoded(stream: TextIO) -> Iterator[bytes]:
    return (line.encode("utf-8", "surrogatepass") for line in stream)


def _file_lines(path: Path) -> Iterator[str]:
    with path.open("rb") as raw:
        packed = raw.read(2) == _GZIP_MAGIC
        raw.seek(0)
        try:
            yield from _decoded(gzip.GzipFile(fileobj=raw) if packed else raw, str(path))
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise DataError(f"{path}: expected gzip data, found {error}. Compress it again.") from error


def _decoded(lines: Iterable[bytes], name: str) -> Iterator[str]:
    """Lines without their ends; only a line feed ends one, so that the rows match the file's line count."""
    lines = iter(lines)
    first = next(lines, None)
    if first is None:
        return
    for number, line in enumerate(chain([first.removeprefix(b"\xef\xbb\xbf")], lines), 1):
        try:
            yield line.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{name}, line {number}: expected UTF-8 text, found {error.reason}. Convert it to UTF-8."
            ) from error


@contextmanager
def _beside(path: Path) -> Iterator[TextIO]:
    """A file that takes ``path``'s place when the block ends well, and leaves no trace when it does not."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as raw:
            # No name and no time in the header: equal rows give equal bytes.
            packed = gzip.GzipFile("", "wb", fileobj=raw, mtime=0) if path.suffix == ".gz" else raw
            with io.TextIOWrapper(packed, encoding="utf-8", newline="\n") as target:
                yield target
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)

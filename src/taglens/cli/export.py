"""``taglens export``: rows of tags in, the files that other programs read out.

Knows the options and which formats each one fits. Refuses to know formats (`taglens.collection.writers`).
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Mapping
from enum import StrEnum
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer

from taglens.cli.console import OK, SOME_FAILED, ProgressLine, is_terminal, say
from taglens.errors import UsageError
from taglens.results import Kind

if TYPE_CHECKING:
    from taglens.collection.writers.choosing import Choice
    from taglens.collection.writers.export import Order

# More failures than these are only counted.
MOST_FAILURES = 20

# Option -> the formats it means something for.
FITS: Mapping[str, tuple[str, ...]] = {
    "--on-existing": ("txt",),
    "--prefix": ("txt",),
    "--with-caption": ("txt",),
    "--separator": ("txt", "csv"),
    "--wide": ("csv",),
    "--no-subject": ("xmp",),
    "--root": ("xmp",),
    "--xmp-name": ("xmp",),
    "--embed": ("xmp",),
    "--shard-size": ("webdataset",),
    "--image-url": ("labelstudio",),
    # The others leave what is there, or have an option of their own.
    "--overwrite": ("jsonl", "csv", "parquet", "coco", "datumaro", "hf", "fiftyone", "labelstudio"),
}


# One text each, which goes to standard output where no file is named.
STREAMED = ("jsonl", "csv", "coco", "datumaro")


class FormatName(StrEnum):
    """What ``--format`` may be."""

    jsonl = "jsonl"
    csv = "csv"
    parquet = "parquet"
    txt = "txt"
    xmp = "xmp"
    coco = "coco"
    datumaro = "datumaro"
    hf = "hf"
    webdataset = "webdataset"
    fiftyone = "fiftyone"
    labelstudio = "labelstudio"


def run(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="A folder of taglens run or annotate, or rows.")
    ],
    *,
    format: Annotated[FormatName, typer.Option("--format", help="What is to be written.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="PATH",
            help="The file or folder. Left out: standard output (jsonl, csv, coco, datumaro), or beside the pictures "
            "(txt, xmp).",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files that are there, whoever wrote them.")
    ] = False,
    pictures: Annotated[
        Path | None,
        typer.Option(
            "--pictures",
            metavar="FOLDER",
            help="What the rows' file names are relative to.",
            show_default="the current folder",
        ),
    ] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Take the finished shards of an unfinished store.")
    ] = False,
    threshold: Annotated[float | None, typer.Option("--threshold", help="Lowest score, 0 to 1.")] = None,
    top: Annotated[int | None, typer.Option("--top", help="At most this many tags; 0: no limit.")] = None,
    kinds: Annotated[
        str | None, typer.Option("--kinds", metavar='"A,B"', help="Only these: object, scene, attribute, …")
    ] = None,
    exclude: Annotated[
        str | None, typer.Option("--exclude", metavar='"A,B"|FILE', help="Leave out these names or ids.")
    ] = None,
    underscores: Annotated[bool, typer.Option("--underscores", help="Names with _ for spaces.")] = False,
    separator: Annotated[
        str | None, typer.Option("--separator", help="Between tags.", show_default="', ' in txt, '; ' in csv")
    ] = None,
    wide: Annotated[bool, typer.Option("--wide", help="csv: a row per picture.")] = False,
    prefix: Annotated[
        str | None, typer.Option("--prefix", help="txt: first words, as a trigger word.")
    ] = None,
    with_caption: Annotated[
        bool, typer.Option("--with-caption", help="txt: the caption before the tags.")
    ] = False,
    on_existing: Annotated[
        str | None, typer.Option("--on-existing", help="txt: skip, append or overwrite.", show_default="skip")
    ] = None,
    no_subject: Annotated[bool, typer.Option("--no-subject", help="xmp: leave dc:subject alone.")] = False,
    root: Annotated[
        str | None,
        typer.Option("--root", help="xmp: above the hierarchical tags; '' for none.", show_default="taglens"),
    ] = None,
    xmp_name: Annotated[
        str | None,
        typer.Option(
            "--xmp-name", help="xmp: new files as full (a.jpg.xmp) or stem (a.xmp).", show_default="full"
        ),
    ] = None,
    embed: Annotated[bool, typer.Option("--embed", help="xmp: into the pictures, by exiftool.")] = False,
    shard_size: Annotated[
        int | None, typer.Option("--shard-size", help="webdataset: pictures per tar.", show_default="1000")
    ] = None,
    image_url: Annotated[
        str | None,
        typer.Option(
            "--image-url", help="labelstudio: before each name.", show_default="/data/local-files/?d="
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no summary.")] = False,
) -> int:
    """Write tags where other programs read them; nothing of yours is lost on the way.

    SOURCE is the STORE of taglens run, the OUT of taglens annotate, or what taglens tag --json printed.

    Sidecars are merged into what is there; taglens untag takes them back.
    """
    # Looked up here: a wrong option should not wait for it.
    from taglens.collection.rows_in import read_rows
    from taglens.collection.writers.choosing import Account
    from taglens.collection.writers.export import Order, export
    from taglens.collection.writers.files import Pictures
    from taglens.collection.writers.text import TextForm
    from taglens.collection.writers.xmp import XmpForm

    given = {
        "--on-existing": on_existing,
        "--prefix": prefix,
        "--with-caption": with_caption or None,
        "--separator": separator,
        "--wide": wide or None,
        "--no-subject": no_subject or None,
        "--root": root,
        "--xmp-name": xmp_name,
        "--embed": embed or None,
        "--shard-size": shard_size,
        "--image-url": image_url,
        "--overwrite": overwrite or None,
    }
    _require_fit(given, format)
    if pictures is not None and not pictures.is_dir():
        raise UsageError(f"--pictures {pictures} is no folder")
    if format is FormatName.csv and separator is not None and not wide:
        raise UsageError("--separator goes with --wide in csv: otherwise each tag has its own row")
    text: dict[str, Any] = _present(separator=separator, prefix=prefix, on_existing=on_existing)
    aside = None
    if out is None and format in STREAMED:
        # Written whole before it is passed on: what breaks off in the middle is no table.
        aside = tempfile.TemporaryDirectory()
    order = Order(
        format=cast(Any, format.value),
        out=out if aside is None else Path(aside.name) / format,
        choice=_choice(threshold, top, kinds, exclude, underscores=underscores),
        pictures=Pictures(pictures),
        wide=wide,
        text=TextForm(with_caption=with_caption, **(text if format is FormatName.txt else {})),
        xmp=XmpForm(subject=not no_subject, **_present(root=root)),
        embed=embed,
        overwrite=overwrite,
        **_present(
            wide_separator=separator if format is FormatName.csv else None,
            xmp_name=xmp_name,
            shard_size=shard_size,
            address=image_url,
        ),
    )
    _require_other_place(source, order)
    progress = ProgressLine(None if is_terminal(sys.stderr) and not quiet else 0)
    account = Account(on_failure=_Failures(progress), on_row=progress.advance)
    with aside or contextlib.nullcontext():
        try:
            rows = read_rows(source, partial=partial)
            first = next(rows, None)
            if first is None:
                raise UsageError(f"nothing to export: {source} holds no row")
            export(chain([first], rows), order, account=account)
        finally:
            progress.clear()
        if aside is not None and order.out is not None:
            with order.out.open("rb") as file:
                shutil.copyfileobj(file, sys.stdout.buffer)
            sys.stdout.buffer.flush()
    if not quiet or account.failed:
        say(account.text() + (f"; {out}" if out is not None else ""))
    return SOME_FAILED if account.failed else OK


class _Failures:
    """The first failures, each on a line."""

    def __init__(self, progress: ProgressLine) -> None:
        self._progress, self._count = progress, 0

    def __call__(self, source: str, reason: str) -> None:
        self._count += 1
        if self._count <= MOST_FAILURES:
            self._progress.clear()
            say(f"{source}: {reason}")
            if self._count == MOST_FAILURES:
                say("more failures are counted and not shown")


def _present(**options: Any) -> dict[str, Any]:
    """What was given."""
    return {name: value for name, value in options.items() if value is not None}


def _require_fit(given: Mapping[str, Any], format: FormatName) -> None:
    for option, value in given.items():
        if value is not None and format.value not in FITS[option]:
            raise UsageError(f"{option} goes with --format {' or '.join(FITS[option])}, not {format.value}")


def _require_other_place(source: Path, order: Order) -> None:
    out = order.out
    if out is None or not out.exists() or not source.exists():
        return
    inside = source.is_dir() and out.resolve().is_relative_to(source.resolve())
    if inside or (out.is_file() and out.samefile(source)):
        raise UsageError(f"--out {out} would replace what is read; name another place")


def _choice(
    threshold: float | None, top: int | None, kinds: str | None, exclude: str | None, *, underscores: bool
) -> Choice:
    from taglens.collection.writers.choosing import Choice, exclusions

    known = get_args(Kind)
    wanted = frozenset(_names(kinds))
    if kinds is not None and (not wanted or wanted - set(known)):
        raise UsageError(
            f"--kinds must be among {', '.join(known)}, with commas between them; found {kinds!r}"
        )
    return Choice(
        threshold=threshold,
        top=top,
        kinds=cast("frozenset[Kind]", wanted),
        exclude=exclusions(_excluded(exclude)),
        underscores=underscores,
    )


def _names(text: str | None) -> list[str]:
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def _excluded(text: str | None) -> list[str]:
    """Names with commas between them, or those of a file: one a line, ``#`` begins a comment."""
    if text is None or not Path(text).is_file():
        return _names(text)
    try:
        lines = Path(text).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise UsageError(f"--exclude {text} is not UTF-8; expected one name a line") from None
    return [name for line in lines for name in _names(line.partition("#")[0])]

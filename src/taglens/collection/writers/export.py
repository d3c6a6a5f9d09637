"""One call for every format: rows in, files out.

Knows which writer a format has. Refuses to know options of a command line (`taglens.cli.export`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from taglens.collection.rows_in import StoredRow
from taglens.collection.writers import tables
from taglens.collection.writers.annotations import (
    LOCAL_FILES,
    config_of,
    named_by,
    write_coco,
    write_datumaro,
    write_fiftyone,
    write_hf,
    write_labelstudio,
)
from taglens.collection.writers.choosing import Account, Choice, chosen
from taglens.collection.writers.files import Pictures, require_new
from taglens.collection.writers.sidecars import ExifTool, XmpName, embed_xmp, write_xmp
from taglens.collection.writers.tars import write_webdataset
from taglens.collection.writers.text import TextForm, write_text
from taglens.collection.writers.xmp import XmpForm
from taglens.errors import UsageError

Format = Literal[
    "jsonl",
    "csv",
    "parquet",
    "txt",
    "xmp",
    "coco",
    "datumaro",
    "hf",
    "webdataset",
    "fiftyone",
    "labelstudio",
]
# Beside the pictures, unless a folder is named.
SIDECARS: frozenset[Format] = frozenset({"txt", "xmp"})
# Each tag of theirs states a score.
_SCORED: frozenset[Format] = frozenset({"xmp", "hf", "webdataset"})
ONE_FILE: frozenset[Format] = frozenset({"jsonl", "csv", "parquet", "coco", "datumaro", "labelstudio"})


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be written, and how.

    Attributes:
        out: a file, or for txt, xmp, hf, webdataset and fiftyone a folder; None for sidecars beside the pictures.
        pictures: where relative names of rows lead.
        wide, wide_separator: see `tables.write_csv`.
        text: of txt; xmp, xmp_name, embed: of xmp.
        shard_size: of webdataset; address: of labelstudio.
        overwrite: replace files that are there, whoever wrote them; means nothing for sidecars and webdataset.
    """

    format: Format
    out: Path | None = None
    choice: Choice = field(default_factory=Choice)
    pictures: Pictures = field(default_factory=Pictures)
    wide: bool = False
    wide_separator: str = "; "
    text: TextForm = field(default_factory=TextForm)
    xmp: XmpForm = field(default_factory=XmpForm)
    xmp_name: XmpName = "full"
    embed: bool = False
    shard_size: int = 1000
    address: str = LOCAL_FILES
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.out is None and self.format not in SIDECARS:
            raise UsageError(f"--format {self.format} needs --out PATH")
        if self.embed and (self.format != "xmp" or self.out is not None):
            raise UsageError("--embed writes into the pictures: it goes with --format xmp and without --out")


def export(rows: Iterable[StoredRow], order: Order, *, account: Account) -> None:
    """Write all rows, one at a time; what happened stands in ``account``.

    Raises:
        UsageError, MissingExtraError: the order cannot be done, or would replace a file that is there.
        DataError: a row or shard is damaged; nothing new is left then, except sidecars already written.
        OSError: the disk refused.
    """
    format, out, pictures = order.format, order.out, order.pictures
    if format in _SCORED:
        rows = _scored(rows, format)
    rows = chosen(rows, order.choice, account, keep_errors=format == "jsonl")
    if format == "txt":
        write_text(rows, _folder(out), form=order.text, pictures=pictures, account=account)
        return
    if format == "xmp":
        if order.embed:
            embed_xmp(rows, form=order.xmp, pictures=pictures, account=account, tool=ExifTool.find())
        else:
            folder = _folder(out)
            write_xmp(rows, folder, form=order.xmp, pictures=pictures, account=account, name=order.xmp_name)
        return
    assert out is not None
    if format in ONE_FILE:
        require_new(out, overwrite=order.overwrite)
    named = named_by(pictures)
    if format == "jsonl":
        tables.write_jsonl(rows, out, account=account)
    elif format == "csv":
        tables.write_csv(rows, out, account=account, wide=order.wide, separator=order.wide_separator)
    elif format == "parquet":
        tables.write_parquet(rows, out, account=account)
    elif format == "coco":
        write_coco(rows, out, named=named, account=account)
    elif format == "datumaro":
        # Its readers refuse names that lead out of the data set, absolute ones among them.
        inside = named_by(Pictures(pictures.folder or Path()))
        write_datumaro(rows, out, named=inside, account=account)
    elif format == "hf":
        write_hf(rows, out, pictures=pictures, account=account, overwrite=order.overwrite)
    elif format == "webdataset":
        write_webdataset(rows, out, pictures=pictures, account=account, shard_size=order.shard_size)
    elif format == "fiftyone":
        write_fiftyone(rows, out, pictures=pictures, account=account, overwrite=order.overwrite)
    else:
        require_new(config_of(out), overwrite=order.overwrite)
        write_labelstudio(rows, out, named=named, account=account, address=order.address)


def _scored(rows: Iterable[StoredRow], format: Format) -> Iterator[StoredRow]:
    for row in rows:
        if row.said is not None:
            raise UsageError(
                f"--format {format} states a score for each tag, and labels of taglens annotate have none; take "
                "jsonl, csv, parquet, txt, coco, datumaro, fiftyone or labelstudio, or train: taglens shards build"
            )
        yield row


def _folder(out: Path | None) -> Path | None:
    if out is not None and out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file; sidecars go into a folder")
    return out

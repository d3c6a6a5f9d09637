"""Captions that were written earlier, from a file, and the pictures that they are about.

Knows the rows that ``taglens caption --json`` prints and how a row's ``source`` and a picture of a caption file are
found to be one. Refuses to know how good a caption is.

A row is about a picture when its source is the picture's path, or when one of the two names, as written, ends with
all parts of the other: ``photos/a.jpg`` and ``a.jpg``. What could mean several pictures is refused, not guessed.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from taglens.errors import DataError
from taglens.evaluation.datasets import CaptionedImage
from taglens.language.corpora import json_object, text_lines


@dataclass(frozen=True, slots=True)
class WrittenCaption:
    """One row.

    Attributes:
        source: the picture, as the row names it.
        caption: None where the row tells of an error.
        where: file and line, for messages.
    """

    source: str
    caption: str | None
    where: str


def read_written(path: Path) -> list[WrittenCaption]:
    """Rows of captions, in order; of several captions of a picture, the row's ``caption``.

    Raises:
        DataError: the file cannot be read, a line is no row of captions (file and line are named), or there is none.
    """
    rows = [
        _row(json_object(path, number, line), f"{path}, line {number}") for number, line in text_lines(path)
    ]
    if not rows:
        raise DataError(f"{path} is empty: expected rows as taglens caption --json prints them")
    return rows


def _row(row: dict[str, Any], where: str) -> WrittenCaption:
    source, caption, error = row.get("source"), row.get("caption"), row.get("error")
    if not isinstance(source, str) or not source or "\0" in source:
        raise DataError(f"{where}: expected source to be a picture's name, found {str(source)[:60]!r}")
    if "caption" not in row:
        hint = " (it has captions: give the caption file to --data)" if "captions" in row else ""
        raise DataError(f"{where}: expected caption, found none{hint}")
    if caption is None and error is None:
        hint = "; taglens tag writes captions with --caption" if "tags" in row else ""
        raise DataError(f"{where}: caption is null and so is error; expected one of the two{hint}")
    if caption is not None and not isinstance(caption, str):
        raise DataError(f"{where}: expected caption to be text or null, found {str(caption)[:60]!r}")
    if caption is not None and error is not None:
        raise DataError(f"{where}: there is a caption and an error; expected one of the two")
    for text in (source, caption or ""):
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise DataError(f"{where}: {text!r} holds half a character (a lone surrogate)") from None
    return WrittenCaption(source, caption, where)


def captions_of(
    images: Sequence[CaptionedImage], written: Iterable[WrittenCaption]
) -> list[WrittenCaption | None]:
    """For each picture the row that is about it, or None; rows about other pictures are passed over.

    Raises:
        DataError: two rows are about one picture, or a row may be about several.
    """
    by_name: dict[str, list[tuple[tuple[str, ...], WrittenCaption]]] = defaultdict(list)
    for one in written:
        parts = _parts(one.source)
        by_name[parts[-1] if parts else ""].append((parts, one))
    found = [_about(image, by_name) for image in images]
    taken: dict[str, CaptionedImage] = {}
    for image, row in zip(images, found, strict=True):
        if row is not None:
            first = taken.setdefault(row.where, image)
            if place(first.path) != place(image.path):
                raise DataError(
                    f"{row.where}: {row.source!r} may be {first.image!r} or {image.image!r}; name pictures with "
                    "their folders"
                )
    return found


def place(path: str | Path) -> str:
    """The absolute path, for comparing; links are not followed."""
    return os.path.abspath(path)  # noqa: PTH100 -- resolve() follows links, and raises where they go round


def _about(
    image: CaptionedImage, by_name: dict[str, list[tuple[tuple[str, ...], WrittenCaption]]]
) -> WrittenCaption | None:
    parts = _parts(image.image)
    rows = [row for other, row in by_name.get(parts[-1] if parts else "", ()) if _ends(parts, other)]
    if len(rows) > 1:
        # The very path goes before what merely ends alike.
        same = [row for row in rows if row.source == image.image]
        rows = same or [row for row in rows if place(row.source) == place(image.path)] or rows
    if len(rows) > 1:
        raise DataError(
            f"{rows[1].where}: {rows[1].source!r} and {rows[0].source!r} (in {rows[0].where}) are both about "
            f"{image.image!r}; keep one of the rows"
        )
    return rows[0] if rows else None


def _parts(name: str) -> tuple[str, ...]:
    """The path's parts, without what leads to its place: ``../a/./b.jpg`` has the parts a and b.jpg."""
    path = PurePath(os.path.normpath(name))
    return tuple(part for part in path.parts if part not in (path.anchor, os.pardir, os.curdir))


def _ends(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    shorter = min(len(one), len(other))
    return shorter > 0 and one[-shorter:] == other[-shorter:]

"""Corpora as they arrive: one JSON object a line, captions or labels for one picture each.

Knows the two row forms, ``{"image", "captions": [...] or null, "split"}`` and ``{"image", "labels": [...] or
null, "split", "kind"}``, and where a malformed one stands. Refuses to know vocabularies, pixels, and what a
caption means.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from taglens.errors import DataError
from taglens.results import Kind
from taglens.vocabulary import KINDS

SourceForm = Literal["captions", "labels"]

# "typed" is how a label is scored and not what it means.
LABEL_KINDS: tuple[Kind, ...] = tuple(kind for kind in KINDS if kind != "typed")

# A split becomes part of a file name ("train-000000.tar").
_SPLIT = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a corpus.

    Attributes:
        index: position among the file's rows, from 0 (blank lines are not rows).
        image: the picture as the file names it.
        path: the same, resolved against the file's folder; nothing says that it exists.
        captions: at least one; None in a labels file, or where nobody wrote any (``null``).
        labels: None in a captions file, or where nobody looked (``null``); an empty tuple says that somebody
            looked and found nothing.
        kinds: one per label; decides between homographs, None where the file does not say.
        split: None where the file does not say.
    """

    index: int
    image: str
    path: Path
    captions: tuple[str, ...] | None = None
    labels: tuple[str, ...] | None = None
    kinds: tuple[Kind | None, ...] = ()
    split: str | None = None

    @property
    def labelled(self) -> bool:
        """Whether anybody said anything about this picture."""
        return self.captions is not None or self.labels is not None


def read_captions(path: Path) -> Iterator[Row]:
    """The rows of a captions file, in order; rows with ``"captions": null`` come too.

    Raises:
        DataError: the file cannot be read, or a row breaks the form; the message names file and line.
    """
    return _read(path, "captions")


def read_labels(path: Path) -> Iterator[Row]:
    """The rows of a labels file, in order; rows with ``"labels": null`` come too.

    A row's ``kind`` is one kind for all its labels or a list with one per label.

    Raises:
        DataError: as `read_captions`.
    """
    return _read(path, "labels")


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of either file; the first row says which it is.

    Raises:
        DataError: as `read_captions`, or the first row has neither captions nor labels, or both.
    """
    return _read(path, source_form(path))


def source_form(path: Path) -> SourceForm:
    """Whether a file holds captions or labels, by its first row.

    Raises:
        DataError: the file cannot be read, is empty, or its first row has neither or both.
    """
    for where, row in _objects(path):
        if "captions" in row and "labels" in row:
            raise DataError(f"{where}: expected captions or labels, found both; split the file in two")
        if "captions" in row:
            return "captions"
        if "labels" in row:
            return "labels"
        found = ", ".join(sorted(row)) or "an empty object"
        raise DataError(f'{where}: expected "captions" or "labels" beside "image", found {found}')
    raise DataError(f"{path} is empty: expected one JSON object a line")


def find_source(source: Path) -> Path:
    """The corpus file that a path means: itself, or a folder's one ``captions.jsonl`` or ``labels.jsonl``.

    Raises:
        DataError: no such path, no such file in the folder, or both.
    """
    if not source.is_dir():
        if not source.exists():
            raise DataError(f"no such file or folder: {source}")
        return source
    found = [source / name for name in ("captions.jsonl", "labels.jsonl") if (source / name).is_file()]
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(f"{source} holds captions.jsonl and labels.jsonl: name the one you mean")
    raise DataError(f"{source} holds neither captions.jsonl nor labels.jsonl: name the corpus file")


def _objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """("FILE, line N", object) for each line that is not blank."""
    try:
        # Bytes, because a line ends at \n only: U+2028 and its kin may stand inside a JSON string.
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                if not text.strip():
                    continue
                where = f"{path}, line {number}"
                try:
                    row = json.loads(text.decode("utf-8"))
                except (ValueError, RecursionError) as error:
                    raise DataError(f"{where}: expected one JSON object in UTF-8 ({error})") from None
                if not isinstance(row, dict):
                    raise DataError(f"{where}: expected a JSON object, found {str(row)[:60]}")
                yield where, row
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None


def _read(path: Path, form: SourceForm) -> Iterator[Row]:
    folder = path.parent
    for index, (where, row) in enumerate(_objects(path)):
        image = _text(row.get("image"), "image", where)
        if "\0" in image:
            raise DataError(f"{where}: image {image!r} holds a NUL character, which no path can")
        if form not in row:
            raise DataError(f'{where}: expected "{form}", a list or null, found {", ".join(sorted(row))}')
        texts = _texts(row[form], form, where)
        if form == "captions" and texts == ():
            raise DataError(f"{where}: captions is empty; write null for a picture without captions")
        split = row.get("split")
        if split is not None and not (isinstance(split, str) and _SPLIT.fullmatch(split)):
            raise DataError(f"{where}: expected split to be a word such as train or val, found {split!r}")
        yield Row(
            index=index,
            image=image,
            path=folder / image,
            captions=texts if form == "captions" else None,
            labels=texts if form == "labels" else None,
            kinds=_kinds(row.get("kind"), len(texts or ()), where) if form == "labels" else (),
            split=split,
        )


def _text(value: Any, what: str, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: expected {what} to be text that is not blank, found {str(value)[:60]!r}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise DataError(f"{where}: {what} {value!r} holds half a character (a lone surrogate)") from None
    return value


def _texts(value: Any, what: str, where: str) -> tuple[str, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list):
        raise DataError(f"{where}: expected {what} to be a list or null, found {str(value)[:60]!r}")
    return tuple(_text(item, f"each of {what}", where) for item in value)


def _kinds(value: Any, labels: int, where: str) -> tuple[Kind | None, ...]:
    kinds = value if isinstance(value, list) else [value] * labels
    if len(kinds) != labels:
        raise DataError(f"{where}: {labels} labels and {len(kinds)} kinds; expected as many")
    for kind in kinds:
        if kind is not None and kind not in LABEL_KINDS:
            known = ", ".join(LABEL_KINDS)
            raise DataError(
                f"{where}: kind {kind!r} is not one of {known}; leave it out where it is not known"
            )
    return tuple(kinds)

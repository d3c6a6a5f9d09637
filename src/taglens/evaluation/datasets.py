"""Label and caption files: JSON Lines beside their pictures.

Knows the two row forms ``{"image", "labels", "split"}`` (with an optional ``kind``) and
``{"image", "captions", "split"}`` (which may have labels too). Refuses to know vocabularies and never opens a
picture.

Where a picture may lie: ``image`` is joined to the file's folder, and ``..`` and absolute paths are
followed, because a label file that lies apart from its pictures must be able to name them, and they are only
read. Whoever reads a file from a stranger, or copies what it names, passes ``root``: a path that leaves it,
through ``..``, an absolute path or a symbolic link, is then refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from taglens.errors import DataError, UsageError
from taglens.results import Kind
from taglens.vocabulary import KINDS

DEFAULT_SPLIT = "val"

# A label's kind tells homographs apart; "typed" is how a label is scored and not what it means.
LABEL_KINDS = tuple(kind for kind in KINDS if kind != "typed")


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """A picture and what it is known to show.

    Attributes:
        path: where the picture lies.
        image: the same as the file wrote it.
        labels: as written, in the file's order; none is allowed and says that nothing known is there.
        kinds: one per label: object, scene, attribute, action, or None where the file does not say.
        split: "train", "val" or whatever the file calls it; None where it does not say.
    """

    path: Path
    image: str
    labels: tuple[str, ...]
    kinds: tuple[Kind | None, ...]
    split: str | None

    def __post_init__(self) -> None:
        if len(self.kinds) != len(self.labels):
            raise DataError(
                f"{self.image}: {len(self.labels)} labels and {len(self.kinds)} kinds; expected as many"
            )


@dataclass(frozen=True, slots=True)
class CaptionedImage:
    """A picture and one or more sentences about it; the other fields are those of `LabelledImage`.

    ``labels`` is None where the row has none: nothing is known of its tags but what the sentences say.
    """

    path: Path
    image: str
    captions: tuple[str, ...]
    split: str | None
    labels: tuple[str, ...] | None = None
    kinds: tuple[Kind | None, ...] | None = None


_Image = TypeVar("_Image", LabelledImage, CaptionedImage)


def read_labels(
    path: str | Path,
    *,
    split: str | None = None,
    default_split: str | None = DEFAULT_SPLIT,
    root: Path | None = None,
) -> list[LabelledImage]:
    """The labelled pictures of a file, in order. Rows whose labels are null are left out.

    A row's ``kind`` is one kind for all its labels or a list with one per label. Every line is checked, also
    those of other splits.

    Args:
        split: only rows of this split. None: those of ``default_split`` if the file has any, else every row.
        default_split: None, with no ``split``, gives every row.
        root: refuse pictures outside this folder; None: they may lie anywhere.

    Raises:
        DataError: the file cannot be read, a line breaks the form (file and line are named), or no row of the
            split has labels.
        UsageError: the file has no such split.
    """
    path = Path(path)
    lines = list(_lines(path))
    root = None if root is None else root.resolve()
    images = [_labelled(line, _locate(path, line, root)) for line in lines]
    return _choose(path, lines, images, split=split, default_split=default_split, what="labels")


def read_captions(
    path: str | Path,
    *,
    split: str | None = None,
    default_split: str | None = DEFAULT_SPLIT,
    root: Path | None = None,
) -> list[CaptionedImage]:
    """The captioned pictures of a file, in order. Rows whose captions are null are left out.

    Arguments and errors as in `read_labels`.
    """
    path = Path(path)
    lines = list(_lines(path))
    root = None if root is None else root.resolve()
    images = [_captioned(line, _locate(path, line, root)) for line in lines]
    return _choose(path, lines, images, split=split, default_split=default_split, what="captions")


@dataclass(frozen=True, slots=True)
class _Line:
    """One line that is an object with an image and a split; what else it holds is not judged yet."""

    where: str
    image: str
    split: str | None
    row: dict[str, Any]


def _lines(path: Path) -> Iterator[_Line]:
    # Bytes, because str.splitlines also breaks at U+2028 and its kin, which may stand inside a JSON string.
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: expected one JSON object in UTF-8, found no JSON ({error})") from None
        if not isinstance(row, dict):
            raise DataError(f"{where}: expected a JSON object, found {str(row)[:60]!r}")
        image = _text(row.get("image"), "image", where)
        if "\0" in image:
            raise DataError(f"{where}: image {image!r} holds a NUL character, which no path can")
        split = None if row.get("split") is None else _text(row["split"], "split", where)
        yield _Line(where, image, split, row)


def _choose(
    path: Path,
    lines: list[_Line],
    images: list[_Image | None],
    *,
    split: str | None,
    default_split: str | None,
    what: str,
) -> list[_Image]:
    """The images (one or None per line) of the split that is meant."""
    if not lines:
        raise DataError(f"{path} is empty: expected one JSON object a line")
    present = {line.split for line in lines}
    if split is not None and split not in present:
        named = ", ".join(sorted(repr(s) for s in present if s is not None)) or "none at all"
        raise UsageError(f"{path} has no row of split {split!r}; splits in the file: {named}")
    # The default asks what the file has, not what is labelled in it: an unlabelled val split must not quietly
    # become an evaluation on train.
    if split is None and default_split in present:
        split = default_split
    chosen = [
        image
        for line, image in zip(lines, images, strict=True)
        if image is not None and (split is None or line.split == split)
    ]
    if not chosen:
        part = "" if split is None else f" of split {split!r}"
        raise DataError(f"{path}: no row{part} has {what} (all are null): expected at least one")
    return chosen


def _labelled(line: _Line, path: Path) -> LabelledImage | None:
    if "labels" not in line.row:
        hint = " (it has captions: this is a caption file)" if "captions" in line.row else ""
        raise DataError(f'{line.where}: expected "labels", a list of names or null, found none{hint}')
    if line.row["labels"] is None:
        return None
    labels = _texts(line.row["labels"], "labels", line.where)
    kind = line.row.get("kind")
    kinds = kind if isinstance(kind, list) else [kind] * len(labels)
    if len(kinds) != len(labels):
        raise DataError(f"{line.where}: {len(labels)} labels and {len(kinds)} kinds; expected as many")
    for each in kinds:
        if each is not None and each not in LABEL_KINDS:
            raise DataError(
                f"{line.where}: kind {each!r} is not one of {', '.join(LABEL_KINDS)}; "
                "leave it out where it is not known"
            )
    return LabelledImage(path, line.image, labels, tuple(kinds), line.split)


def _captioned(line: _Line, path: Path) -> CaptionedImage | None:
    if "captions" not in line.row:
        hint = " (it has labels: this is a label file)" if "labels" in line.row else ""
        raise DataError(f'{line.where}: expected "captions", a list of sentences or null, found none{hint}')
    if line.row["captions"] is None:
        return None
    captions = _texts(line.row["captions"], "captions", line.where)
    if not captions:
        raise DataError(f"{line.where}: captions is empty; write null for a picture without captions")
    labelled = _labelled(line, path) if "labels" in line.row else None
    if labelled is None:
        return CaptionedImage(path, line.image, captions, line.split)
    return CaptionedImage(path, line.image, captions, line.split, labelled.labels, labelled.kinds)


def _text(value: Any, what: str, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: expected {what} to be text that is not blank, found {value!r}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise DataError(f"{where}: {what} {value!r} holds half a character (a lone surrogate)") from None
    return value


def _texts(value: Any, what: str, where: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise DataError(f"{where}: expected {what} to be a list or null, found {str(value)[:60]!r}")
    return tuple(_text(item, f"each of {what}", where) for item in value)


def _locate(path: Path, line: _Line, root: Path | None) -> Path:
    """Where a row's picture lies; ``root`` is resolved already."""
    found = path.parent / line.image
    if root is not None and not found.resolve().is_relative_to(root):
        raise DataError(
            f"{line.where}: image {line.image!r} lies outside {root}; expected every picture inside it. "
            "Move the picture there, or read the file without a root if you trust it"
        )
    return found

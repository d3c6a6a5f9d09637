"""The annotation files of the original release (COCO, VG, SBU, CC3M, CC12M): one JSON list of pictures.

Each picture has ``image_path``, one ``caption`` or several, and optionally numbers of tags: ``union_label_id``,
parsed and generated ones together, which train the tagging; ``parse_label_id``, those parsed from the captions alone,
one list or one per caption, which guide captioning (PAPERS.md 2.2).
Knows the form; refuses to know what a number means: that is the tag list's, a vocabulary here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from taglens.data.labelling import Labels
from taglens.errors import DataError
from taglens.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True)
class Annotation:
    """One picture of such a file.

    Attributes:
        image: the path as the file gives it; path: the same below the folder of pictures.
        captions: at least one.
        union: tag numbers of the picture; None where the file gives none.
        parsed: tag numbers per caption; None likewise. One list for several captions stands for each of them.
    """

    index: int
    image: str
    path: Path
    captions: tuple[str, ...]
    union: tuple[int, ...] | None
    parsed: tuple[tuple[int, ...], ...] | None


def read_annotations(path: Path, *, pictures: Path) -> Iterator[Annotation]:
    """The pictures of a file, in order.

    Args:
        pictures: the folder that ``image_path`` is relative to.

    Raises:
        DataError: the file cannot be read, is no JSON list, or a row is malformed or leads out of the folder.
    """
    try:
        rows = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read annotations {path}: {error}") from None
    if not isinstance(rows, list):
        raise DataError(f"{path}: expected a JSON list of pictures, found {type(rows).__name__}")
    for index, row in enumerate(rows):
        yield _annotation(row, index, pictures, f"{path}, picture {index}")


def label_from_ids(vocabulary: Vocabulary) -> Callable[[Annotation], Labels]:
    """Rows with tag numbers: the vocabulary's columns of ``union``, with everything they imply.

    Raises (the returned function):
        DataError: the row has no numbers, or one that is no column.
    """

    def label(row: Annotation) -> Labels:
        if row.union is None:
            raise DataError(f"{row.image} has no union_label_id: parse its captions instead")
        beyond = [number for number in row.union if not 0 <= number < len(vocabulary)]
        if beyond:
            raise DataError(
                f"{row.image}: tag number {beyond[0]} is none of the {len(vocabulary)} tags of {vocabulary.ref}; "
                "give the tag list that the file was made with"
            )
        return Labels(tuple(sorted(vocabulary.with_parents(row.union))))

    return label


def _annotation(row: Any, index: int, pictures: Path, where: str) -> Annotation:
    if not isinstance(row, dict) or not isinstance(row.get("image_path"), str) or not row["image_path"]:
        raise DataError(f"{where}: expected an object with image_path, found {str(row)[:80]}")
    image = row["image_path"]
    if PurePosixPath(image).is_absolute() or ".." in PurePosixPath(image).parts:
        raise DataError(f"{where}: image_path {image!r} leads out of the folder of pictures")
    captions = row.get("caption")
    if isinstance(captions, str):
        captions = [captions]
    if not isinstance(captions, list) or not captions or not all(isinstance(text, str) for text in captions):
        raise DataError(f"{where}: caption must be a text or a list of texts")
    union = row.get("union_label_id")
    parsed = row.get("parse_label_id")
    return Annotation(
        index,
        image,
        pictures / image,
        tuple(captions),
        None if union is None else _numbers(union, f"{where}: union_label_id"),
        None if parsed is None else _per_caption(parsed, len(captions), f"{where}: parse_label_id"),
    )


def _numbers(value: Any, what: str) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(number) is int for number in value):
        raise DataError(f"{what} must be a list of whole numbers")
    return tuple(value)


def _per_caption(value: Any, captions: int, what: str) -> tuple[tuple[int, ...], ...]:
    if isinstance(value, list) and value and all(isinstance(each, list) for each in value):
        if len(value) != captions:
            raise DataError(f"{what} has {len(value)} lists for {captions} captions")
        return tuple(_numbers(each, what) for each in value)
    return (_numbers(value, what),) * captions

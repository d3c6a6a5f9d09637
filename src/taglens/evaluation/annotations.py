"""How good annotations are, and what they took: folders of ``taglens annotate`` against human labels.

Knows rows of labels.jsonl and how their names meet those of a truth. Refuses to know questions and models.
Only pictures that every folder and the truth have are compared, so that all figures are of the same ones.
Shapes: N pictures, C classes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from taglens.errors import DataError, UsageError
from taglens.evaluation.datasets import LabelledImage, read_labels
from taglens.evaluation.metrics import PrecisionRecall, precision_recall
from taglens.vocabulary import Vocabulary, normalise


@dataclass(frozen=True, slots=True)
class Compared:
    """One folder: what was asked for, how its labels meet the truth, and what it took (`ledger.json`)."""

    folder: Path
    model: str
    strategy: str
    figures: PrecisionRecall
    labels_per_picture: float
    ledger: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Folders over the same pictures and classes.

    Attributes:
        left_out: pictures that some folder or the truth lacks.
    """

    pictures: int
    classes: int
    left_out: int
    rows: tuple[Compared, ...]


def compare(
    folders: Sequence[Path], truth: Path, *, split: str | None = None, vocabulary: Vocabulary | None = None
) -> Comparison:
    """Measure folders against a file of labels, over the names that both could give.

    A class is a name of the truth that the folders' vocabulary has; what it lacks could never be given and is left
    out for all alike.

    Args:
        vocabulary: the tags that were asked for; names and synonyms then meet. None: all names of the truth are
            classes, compared letter for letter.

    Raises:
        DataError: a file cannot be read.
        UsageError: no picture is in all of them, or no class is left.
    """
    wanted = {_place(image.path): image for image in read_labels(truth, split=split)}
    said = [_rows(folder) for folder in folders]
    common = sorted(set(wanted).intersection(*said))
    if not common:
        raise UsageError(
            f"no picture of {truth} is in all of {', '.join(map(str, folders))}; annotate the same pictures"
        )

    def keys(image: LabelledImage) -> set[str]:
        if vocabulary is None:
            return set(map(normalise, image.labels))
        found = set()
        for name, kind in zip(image.labels, image.kinds, strict=True):
            column = None if kind is None else vocabulary.find(name, kinds=(kind,))
            column = vocabulary.find(name) if column is None else column
            if column is not None:
                found.add(vocabulary[column].id)
        return found

    classes = sorted(set().union(*(keys(wanted[place]) for place in common)))
    if not classes:
        raise UsageError(
            f"no name of {truth} is a tag of the vocabulary; give the vocabulary that was asked for"
        )
    columns = {name: column for column, name in enumerate(classes)}

    def matrix(images: Mapping[str, LabelledImage]) -> np.ndarray[Any, np.dtype[np.bool_]]:
        found = np.zeros((len(common), len(classes)), bool)
        for row, place in enumerate(common):
            for name in keys(images[place]) & columns.keys():
                found[row, columns[name]] = True
        return found

    true = matrix(wanted)
    rows = []
    for folder, images in zip(folders, said, strict=True):
        given = matrix(images)
        about = _about(folder)
        figures = precision_recall(given, true.astype(np.uint8))
        rows.append(
            Compared(
                folder,
                about["model"],
                about["strategy"],
                figures,
                float(given.sum(axis=1).mean()),
                _ledger(folder),
            )
        )
    places = set(wanted).union(*said)
    return Comparison(len(common), len(classes), len(places) - len(common), tuple(rows))


def _rows(folder: Path) -> dict[str, LabelledImage]:
    return {_place(image.path): image for image in read_labels(folder / "labels.jsonl", default_split=None)}


def _place(path: Path) -> str:
    return os.path.realpath(path)


def _about(folder: Path) -> dict[str, str]:
    row = _json(folder / "annotation.json").get("configuration")
    if not isinstance(row, dict):
        raise DataError(f"{folder} is no folder of taglens annotate: annotation.json has no configuration")
    return {name: str(row.get(name, "")) for name in ("model", "strategy")}


def _ledger(folder: Path) -> dict[str, Any]:
    return _json(folder / "ledger.json")


def _json(path: Path) -> dict[str, Any]:
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}; name a folder of taglens annotate") from None
    if not isinstance(row, dict):
        raise DataError(f"{path}: expected a JSON object; name a folder of taglens annotate")
    return row

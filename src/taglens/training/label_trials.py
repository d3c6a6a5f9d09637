"""Label files as sources to be compared, and the pictures' features that all of them share.

Knows rows of labels.jsonl, how their names meet, a tagger's encoder, and the file its features are kept in. Refuses
to know how a classifier is trained and judged (`taglens.training.label_sources`).
Shapes: N pictures, C classes, K features, Z tokens of a picture, W their width.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from taglens.collection.store import digest
from taglens.data.sources import Row, read_labels
from taglens.errors import DataError, UsageError
from taglens.images import DEFAULT_MAX_PIXELS
from taglens.inference.pictures import read_ahead
from taglens.inference.tagger import Tagger
from taglens.training.engine_generate import signature
from taglens.vocabulary import Vocabulary, normalise

Array = npt.NDArray[np.float32]
Labels = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Sources:
    """The same pictures by several label files.

    Attributes:
        pictures: [N], their real paths, those that every source has labels of; in the first source's order.
        classes: [C], keys of names: a tag's id with a vocabulary, else the name in lower case.
        labels: source -> [N, C].
        left_out: pictures that some source lacks, or could not label.
    """

    pictures: tuple[Path, ...]
    classes: tuple[str, ...]
    labels: Mapping[str, Labels]
    left_out: int


def read_sources(
    files: Mapping[str, Path],
    *,
    classes: Sequence[str],
    vocabulary: Vocabulary | None = None,
    split: str | None = None,
) -> Sources:
    """Label files, or folders with one, over the pictures that all have.

    Args:
        classes: what is compared, as `classes_of` gives them; other labels are left out for all alike.
        vocabulary: names and synonyms of a tag then meet; None: names are compared letter for letter but for case.
        split: rows of this split only, in files that say splits.

    Raises:
        DataError: a file cannot be read.
        UsageError: no picture is in all of them.
    """
    said = {name: _rows(path, split) for name, path in files.items()}
    places = [
        place for place in next(iter(said.values()), {}) if all(place in rows for rows in said.values())
    ]
    if not places:
        named = ", ".join(f"{name} ({len(rows):,})" for name, rows in said.items())
        raise UsageError(f"no picture has labels of all sources: {named}; label the same pictures")
    columns = {name: column for column, name in enumerate(classes)}
    labels = {}
    for name, rows in said.items():
        table = np.zeros((len(places), len(columns)), bool)
        for number, place in enumerate(places):
            for key in _keys(rows[place], vocabulary) & columns.keys():
                table[number, columns[key]] = True
        labels[name] = table
    every = set().union(*said.values())
    return Sources(tuple(map(Path, places)), tuple(classes), labels, len(every) - len(places))


def classes_of(file: Path, *, vocabulary: Vocabulary | None = None, split: str | None = None) -> list[str]:
    """The classes that a label file speaks of; with a vocabulary, those that are tags of it.

    Raises:
        DataError: the file cannot be read.
        UsageError: it speaks of none.
    """
    rows = _rows(file, split)
    found = set().union(*(_keys(row, vocabulary) for row in rows.values())) if rows else set()
    if not found:
        of = "" if vocabulary is None else f" that is a tag of {vocabulary.ref}"
        raise UsageError(f"{file} has no label{of}; name the file of people's labels and the vocabulary used")
    return sorted(found)


def _rows(path: Path, split: str | None) -> dict[str, Row]:
    rows = [
        row for row in read_labels(path / "labels.jsonl" if path.is_dir() else path) if row.labels is not None
    ]
    chosen = [row for row in rows if split is None or row.split in (None, split)]
    if rows and not chosen:
        raise UsageError(
            f"{path} has no row of split {split!r}; it has {sorted({str(row.split) for row in rows})}"
        )
    return {os.path.realpath(row.path): row for row in chosen}


def _keys(row: Row, vocabulary: Vocabulary | None) -> set[str]:
    labels = row.labels or ()
    if vocabulary is None:
        return set(map(normalise, labels))
    columns: set[int] = set()
    for name, kind in zip(labels, row.kinds or (None,) * len(labels), strict=True):
        column = None if kind is None else vocabulary.find(name, kinds=(kind,))
        column = vocabulary.find(name) if column is None else column
        if column is not None:
            columns.add(column)
    return {vocabulary[column].id for column in columns}


# -- features ----------------------------------------------------------------------------------------------


def features(
    tagger: Tagger,
    pictures: Sequence[Path],
    *,
    keep: Path | None = None,
    batch_size: int = 16,
    watch: Callable[[int], object] = lambda _: None,
) -> Array:
    """What an encoder makes of pictures: its pooled vector, and beside it each channel's highest token [N, 2W].

    The second half lets a head that looks at no place find what fills only a part of a picture.

    Args:
        keep: a file that holds them; made, and taken where model and pictures are the same, else made anew.
        watch: is told how many are done.

    Raises:
        DataError: a picture cannot be read: leave its rows out.
        OSError: the file cannot be written.
    """
    of = digest([tagger.ref, [(str(path), signature(path)) for path in pictures]])
    if keep is not None and (kept := _kept(keep, of, len(pictures))) is not None:
        watch(len(pictures))
        return kept
    parts: list[Array] = []
    done = 0
    for group in read_ahead(pictures, batch_size=batch_size, side=tagger.side, max_pixels=DEFAULT_MAX_PIXELS):
        bad = next((ready for ready in group if ready.error is not None), None)
        if bad is not None:
            raise DataError(f"{bad.error}; a picture without features teaches nothing: leave its rows out")
        # One tag, because none are wanted: asking about all takes most of a look's time.
        output = tagger.look_for(np.stack([ready.pixels for ready in group if ready.pixels is not None]), [0])
        parts.append(np.concatenate([output.pooled, output.tokens[:, 1:].max(axis=1)], axis=1))
        done += len(group)
        watch(done)
    found: Array = np.concatenate(parts).astype(np.float32) if parts else np.zeros((0, 0), np.float32)
    if keep is not None:
        from taglens.collection.store import replace

        replace(keep, _packed(found, of))
    return found


def _packed(found: Array, of: str) -> bytes:
    import io

    file = io.BytesIO()
    np.savez(file, features=found, of=np.array(of))
    return file.getvalue()


def _kept(path: Path, of: str, pictures: int) -> Array | None:
    import zipfile

    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            found: Array = file["features"]
            same = str(file["of"]) == of and found.ndim == 2 and len(found) == pictures
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile):
        raise DataError(f"{path} holds no features: remove it, or name another file") from None
    return found if same else None

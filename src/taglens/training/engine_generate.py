"""What is known of a picture, and what a model adds: the engine's first half (RAM 2.3, steps 1 to 3).

Knows corpora, labels with their origins, and how four sources of labels are merged. Refuses to know which labels are
wrong (`taglens.training.engine_cleaning`) and files of results (`taglens.training.engine_store`).

A label's origins: "given" by a labels file; "parsed" from the corpus's captions; "generated-tag", recognised;
"generated-caption", parsed from a caption that the model wrote. What a tag implies comes with it, as everywhere.
Shapes: T tags.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from taglens.collection.store import digest
from taglens.data.labelling import Labeller
from taglens.data.sources import Row, read_rows, source_form
from taglens.errors import UsageError
from taglens.inference.pictures import Ready, read_ahead
from taglens.inference.tagger import Tagger
from taglens.results import Failure, Kind, significant
from taglens.training.engine_regions import real_path
from taglens.vocabulary import Vocabulary

Origin = Literal["given", "parsed", "generated-tag", "generated-caption"]
ORIGINS: tuple[Origin, ...] = get_args(Origin)
# What the corpus said itself.
OWN: frozenset[Origin] = frozenset({"given", "parsed"})


@dataclass(frozen=True, slots=True)
class Label:
    """One tag of one picture.

    Attributes:
        tag: its id.
        origins: who says so, in the order of `ORIGINS`.
        score: what the model gives the whole picture for it; None for a hidden tag.
    """

    tag: str
    origins: tuple[Origin, ...]
    score: float | None

    @property
    def own(self) -> bool:
        """Whether the corpus said it."""
        return not OWN.isdisjoint(self.origins)

    def as_given(self) -> Label:
        """The label as it was before the engine."""
        return replace(self, origins=tuple(origin for origin in self.origins if origin in OWN))

    def to_dict(self) -> dict[str, Any]:
        return {"tag": self.tag, "origins": list(self.origins), "score": self.score}

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Label:
        return cls(row["tag"], tuple(row["origins"]), row["score"])


@dataclass(frozen=True, slots=True)
class Known:
    """All that is known of one picture before anything is cleaned.

    Attributes:
        row: its number among the corpus's rows that the engine works on.
        image: as the corpus names it; path: relative to the engine's folder.
        captions: the corpus's; written: the model's, None where none was asked for.
        labels: by rising column.
        strange: (name, kind) of labels that the vocabulary lacks: kept as they are, never judged.
        error: why the picture could not be read; its labels are the corpus's alone.
    """

    row: int
    image: str
    path: str
    split: str | None
    captions: tuple[str, ...]
    written: str | None
    labels: tuple[Label, ...]
    strange: tuple[tuple[str, Kind | None], ...] = ()
    error: Mapping[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            "row": self.row,
            "image": self.image,
            "path": self.path,
            "split": self.split,
            "captions": list(self.captions),
            "written": self.written,
            "labels": [label.to_dict() for label in self.labels],
            "strange": [list(each) for each in self.strange],
            "error": None if self.error is None else dict(self.error),
        }

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Known:
        return cls(
            row=row["row"],
            image=row["image"],
            path=row["path"],
            split=row["split"],
            captions=tuple(row["captions"]),
            written=row["written"],
            labels=tuple(map(Label.of, row["labels"])),
            strange=tuple((name, kind) for name, kind in row["strange"]),
            error=row["error"],
        )


@dataclass(frozen=True, slots=True)
class Entrant:
    """One picture of the corpus, from one file or two: the row of each form."""

    image: str
    path: Path
    split: str | None
    captions: Row | None = None
    labels: Row | None = None


def entrants(sources: Sequence[Path], *, split: str | None = None, limit: int | None = None) -> list[Entrant]:
    """The pictures of a captions file, a labels file, or both, each picture once; rows that say nothing too.

    The first file's rows come in order, then those that only the second has. A picture that a file names twice
    has the labels of its last row that says anything.

    Args:
        split: only rows of this split; limit: at most so many.

    Raises:
        UsageError: no file, more than one of a form, or no picture.
        DataError: a file that breaks its form.
    """
    forms = [source_form(path) for path in sources]
    if not 1 <= len(sources) <= 2 or len(set(forms)) < len(forms):
        told = ", ".join(f"{path} ({form})" for path, form in zip(sources, forms, strict=True)) or "none"
        raise UsageError(f"expected a captions file, a labels file, or one of each; came {told}")
    found: dict[str, Entrant] = {}
    for path, form in zip(sources, forms, strict=True):
        for row in read_rows(path):
            if split is not None and row.split != split:
                continue
            name = real_path(row.path)
            entrant = found.setdefault(name, Entrant(row.image, row.path, row.split))
            if row.labelled:
                known = replace(entrant, captions=row) if form == "captions" else replace(entrant, labels=row)
                found[name] = known
    chosen = list(found.values())[: limit or None]
    if not chosen:
        where = "" if split is None else f" of split {split!r}"
        raise UsageError(f"{', '.join(map(str, sources))}: no picture{where} to work on")
    return chosen


def signature(path: Path) -> str:
    """A file's size and time of change; empty where there is none."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return ""
    return f"{found.st_size}-{found.st_mtime_ns}"


def identity(pictures: Sequence[Entrant], configuration: str) -> str:
    """Digest of what a piece is made of."""
    return digest([configuration, [(each.image, signature(each.path)) for each in pictures]])


@dataclass(frozen=True, slots=True, eq=False)
class Generator:
    """Pictures to what is known of them.

    Attributes:
        from_captions, from_labels: what finds the tags of a row.
        threshold: lowest score of a recognised tag; None: each tag's own.
        captions: whether the model also writes one, guided as it always is.
        folder: the engine's, which paths are relative to.
    """

    tagger: Tagger
    from_captions: Labeller
    from_labels: Labeller
    folder: Path
    threshold: float | None = None
    captions: bool = True
    batch_size: int = 16

    def __call__(
        self, pictures: Sequence[Entrant], *, first: int, tick: Callable[[bool], None]
    ) -> Iterator[Known]:
        """What is known of each, in order; ``first`` is the number of the first; ``tick`` is told of failures."""
        groups = read_ahead(
            (each.path for each in pictures),
            batch_size=self.batch_size,
            side=self.tagger.side,
            max_pixels=_max_pixels(),
        )
        row = first
        waiting = iter(pictures)
        for group in groups:
            for ready, seen in zip(group, self._seen(group), strict=True):
                yield self._known(row, next(waiting), ready, seen)
                tick(ready.error is not None)
                row += 1

    def _seen(self, group: list[Ready]) -> Iterator[tuple[dict[str, float], frozenset[int], str | None]]:
        """Per picture: every tag's score, the columns of the recognised ones, a caption."""
        pixels = [ready.pixels for ready in group if ready.pixels is not None]
        if not pixels:
            return iter([({}, frozenset(), None)] * len(group))
        output = self.tagger.look(np.stack(pixels))
        scores = self.tagger.tags_of(output, threshold=0.0)
        given = self.tagger.tags_of(output, threshold=self.threshold)
        texts: Sequence[str | None] = [None] * len(pixels)
        if self.captions:
            texts = self.tagger.sentences(output)
        words = self.tagger.vocabulary
        found = iter(
            [
                (
                    {tag.id: significant(tag.score) for tag in all_scores},
                    frozenset(words.position(tag.id) for tag in tags),
                    text,
                )
                for all_scores, tags, text in zip(scores, given, texts, strict=True)
            ]
        )
        return (({}, frozenset(), None) if ready.pixels is None else next(found) for ready in group)

    def _known(
        self,
        row: int,
        picture: Entrant,
        ready: Ready,
        seen: tuple[Mapping[str, float], frozenset[int], str | None],
    ) -> Known:
        scores, recognised, text = seen
        words = self.tagger.vocabulary
        columns: dict[Origin, set[int]] = {"generated-tag": words.with_parents(recognised)}
        strange: tuple[tuple[str, Kind | None], ...] = ()
        if picture.labels is not None:
            labelled = self.from_labels(picture.labels)
            columns["given"] = set(labelled.columns)
            strange = _strange(picture.labels, set(labelled.unmatched))
        if picture.captions is not None:
            columns["parsed"] = set(self.from_captions(picture.captions).columns)
        if text is not None and text.strip():
            columns["generated-caption"] = set(self.from_captions(_as_row(picture, text)).columns)
        captions = () if picture.captions is None else picture.captions.captions or ()
        error = None if ready.error is None else Failure.of(ready.error).to_dict()
        path = os.path.abspath(picture.path)  # noqa: PTH100 - links stay as they are
        return Known(
            row=row,
            image=picture.image,
            path=Path(os.path.relpath(path, os.path.realpath(self.folder))).as_posix(),
            split=picture.split,
            captions=captions,
            written=text,
            labels=merged(words, columns, scores),
            strange=strange,
            error=error,
        )


def merged(
    vocabulary: Vocabulary, columns: Mapping[Origin, set[int]], scores: Mapping[str, float]
) -> tuple[Label, ...]:
    """Labels of several origins as one list, by rising column, each with all its origins."""
    found = []
    for column in sorted(set().union(*columns.values())):
        tag = vocabulary[column].id
        origins = tuple(origin for origin in ORIGINS if column in columns.get(origin, ()))
        found.append(Label(tag, origins, scores.get(tag)))
    return tuple(found)


def _as_row(picture: Entrant, text: str) -> Row:
    return Row(index=0, image=picture.image, path=picture.path, captions=(text,))


def _strange(row: Row, unmatched: set[str]) -> tuple[tuple[str, Kind | None], ...]:
    labels = row.labels or ()
    kinds = row.kinds or (None,) * len(labels)
    pairs = zip(labels, kinds, strict=True)
    return tuple(dict.fromkeys((name, kind) for name, kind in pairs if name in unmatched))


def _max_pixels() -> int:
    from taglens.images import DEFAULT_MAX_PIXELS

    return DEFAULT_MAX_PIXELS

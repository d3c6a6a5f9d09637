"""A collection of pictures as numbers, and which of them answer a text, some keywords, or another picture.

Knows vectors, tags' scores and names of pictures; a text's score is similarity plus lambda times overlap of tags
(Tag2Text 1.9, choice T4). Refuses to know how pictures are read (`taglens.inference.tagger`) and shows nothing.
Every search looks at every picture: that is exact, and takes milliseconds for tens of thousands.
Shapes: N pictures, E width of the vectors' space, T tags.
"""

from __future__ import annotations

import base64
import difflib
import json
import os
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from taglens.errors import DataError, MismatchError, UsageError
from taglens.inference.alignment import Embedded
from taglens.inference.pictures import Picture
from taglens.inference.sources import Source
from taglens.inference.tag_overlap import DEFAULT_WEIGHT, all_of, families
from taglens.inference.tagger import Tagger
from taglens.language.text_tags import TextTags
from taglens.results import Failure, Tag, significant, to_line
from taglens.vocabulary import normalise

Array = npt.NDArray[np.float32]
Stamp = tuple[int, int]

FORMAT_VERSION = 1
_ARRAYS = {
    "vectors": np.float32,
    "scores": np.float16,
    "given": np.uint8,
    "sizes": np.int32,
    "stamps": np.int64,
}
_NO_STAMP: Stamp = (0, 0)


@dataclass(frozen=True, slots=True)
class Hit:
    """One picture found.

    Attributes:
        rank: from 1.
        score: what pictures are ordered by; of one search only do scores compare.
        similarity: product of unit vectors, -1 to 1; None where keywords were asked for.
        overlap: share of the query's tags that the picture has, 0 to 1; None where the query has none.
        tags: those of the query's tags that the picture has, with its scores; a tag may be there because another
            implies it, and then has that one's score.
        others: see `taglens.results.Prediction`.
    """

    rank: int
    source: str
    score: float
    similarity: float | None
    overlap: float | None
    tags: tuple[Tag, ...]
    width: int
    height: int
    model: str
    source_bytes: str | None = None

    @property
    def path(self) -> Path:
        """Where the picture was found, as it was named then."""
        return path_of(self.source, self.source_bytes)

    def to_dict(self) -> dict[str, Any]:
        row: dict[str, Any] = {"rank": self.rank, "source": self.source}
        if self.source_bytes is not None:
            row["source_bytes"] = self.source_bytes
        row |= {
            "score": significant(self.score),
            "similarity": None if self.similarity is None else significant(self.similarity),
            "overlap": None if self.overlap is None else significant(self.overlap),
            "tags": [tag.to_dict() for tag in self.tags],
            "width": self.width,
            "height": self.height,
            "model": self.model,
            "error": None,
        }
        return row

    def to_json(self) -> str:
        return to_line(self.to_dict())


@dataclass(frozen=True, slots=True)
class Narrow:
    """What every hit must be, beside what is asked for.

    Attributes:
        top: at most so many hits; 0: all.
        only: names of tags that a picture must all have, by itself or implied.
        least: the lowest score of a hit; None: any.
    """

    top: int = 10
    only: tuple[str, ...] = ()
    least: float | None = None

    def __post_init__(self) -> None:
        if self.top < 0:
            raise UsageError(f"top {self.top} is below 0; 0 means all")


@dataclass(frozen=True, slots=True, eq=False)
class _Table:
    """Per picture: its name, its vector, its tags' scores, and which reach their thresholds (a bit each)."""

    names: tuple[tuple[str, str | None], ...]
    vectors: Array
    scores: npt.NDArray[np.float16]
    given: npt.NDArray[np.uint8]
    sizes: npt.NDArray[np.int32]
    stamps: npt.NDArray[np.int64]

    def at(self, rows: Sequence[int]) -> _Table:
        at = list(rows)
        return _Table(
            tuple(self.names[row] for row in rows),
            self.vectors[at],
            self.scores[at],
            self.given[at],
            self.sizes[at],
            self.stamps[at],
        )

    def followed_by(self, other: _Table) -> _Table:
        return _Table(
            self.names + other.names,
            np.concatenate([self.vectors, other.vectors]),
            np.concatenate([self.scores, other.scores]),
            np.concatenate([self.given, other.given]),
            np.concatenate([self.sizes, other.sizes]),
            np.concatenate([self.stamps, other.stamps]),
        )


class PictureIndex:
    """Pictures that a model has looked at, to be searched without looking again.

    Args:
        tagger: what looks at pictures and reads queries; an index is of its vocabulary's tags.
    """

    def __init__(self, tagger: Tagger) -> None:
        self.tagger = tagger
        self.vocabulary = tagger.vocabulary
        self._table: _Table | None = None
        self._stamps: dict[tuple[str, str | None], Stamp] = {}

    def __len__(self) -> int:
        return 0 if self._table is None else len(self._table.names)

    @property
    def sources(self) -> list[str]:
        """What the pictures are called, in order."""
        return [] if self._table is None else [name for name, _ in self._table.names]

    # -- pictures in --------------------------------------------------------------------------------

    def add(self, pictures: Picture | Iterable[Picture], *, batch_size: int = 16) -> list[Embedded]:
        """Look at pictures and keep what they are. Returns the rows of those that could not be read."""
        return self.add_rows(self.tagger.embed(pictures, batch_size=batch_size))

    def add_rows(self, rows: Iterable[Embedded]) -> list[Embedded]:
        """Keep rows that the tagger's ``embed`` gave; of a file that is here already, the new one stays.

        Returns:
            the rows of pictures that could not be read, which are not kept.

        Raises:
            MismatchError: a row is another model's.
        """
        failed: list[Embedded] = []
        kept: list[Embedded] = []
        for row in rows:
            if row.model != self.tagger.ref:
                raise _other_model("the rows", row.model, self.tagger.ref)
            (kept if row.error is None else failed).append(row)
        if not kept:
            return failed
        stamps = [_stamp(path_of(row.source, row.source_bytes)) for row in kept]
        scores = np.stack([row.scores for row in kept if row.scores is not None])
        new = _Table(
            tuple((row.source, row.source_bytes) for row in kept),
            np.stack([row.vector for row in kept if row.vector is not None]),
            scores.astype(np.float16),
            np.packbits(scores >= self.vocabulary.least(), axis=1),
            np.array([[row.width, row.height] for row in kept], np.int32),
            np.array(stamps, np.int64),
        )
        whole = new if self._table is None else self._table.followed_by(new)
        # Only files have a name of their own; of each the last stays, where it first stood.
        last: dict[Any, int] = {}
        for number, (name, stamp) in enumerate(zip(whole.names, whole.stamps, strict=True)):
            last[name if tuple(stamp) != _NO_STAMP else number] = number
        self._set(whole if len(last) == len(whole.names) else whole.at(list(last.values())))
        return failed

    def holds(self, source: Source) -> bool:
        """Whether the file is here as it is now, by its size and time of change."""
        stamp = _stamp(source.path)
        return stamp != _NO_STAMP and self._stamps.get((source.shown, source.source_bytes)) == stamp

    def _set(self, table: _Table) -> None:
        self._table = table
        stamps = ((int(size), int(time)) for size, time in table.stamps)
        self._stamps = dict(zip(table.names, stamps, strict=True))

    # -- hits out -----------------------------------------------------------------------------------

    def search(self, text: str, *, weight: float | None = None, narrow: Narrow = Narrow()) -> list[Hit]:
        """The pictures that a text suits best.

        Args:
            weight: lambda, of the overlap of tags beside similarity; None: the model's own, or a small one.

        Raises:
            UsageError: the model has no space for texts, the text holds nothing to look for, or ``only`` names what
                is no tag.
        """
        if weight is None:
            weight = DEFAULT_WEIGHT if self.tagger.tag_weight is None else self.tagger.tag_weight
        vector = self.tagger.embed_text([text])[0]
        table = self._filled()
        similarity = table.vectors @ vector
        columns = sorted(column for column in self._read([text])[0] if self._families[column])
        shares = self._overlap(columns)
        return self._hits(similarity + np.float32(weight) * shares, columns, narrow, similarity=similarity)

    def by_tags(self, names: Sequence[str], *, narrow: Narrow = Narrow()) -> list[Hit]:
        """The pictures that most likely have all of some tags: by the geometric mean of their scores.

        Raises:
            UsageError: a name that is no tag of the model's, or none at all.
        """
        if isinstance(names, str):
            raise UsageError(f"names {names!r} is one text; give a list of tags: [{names!r}]")
        columns = self.columns(names)
        if not columns:
            raise UsageError('no tag to look for; give names: ["dog", "beach"]')
        sure = all_of(self._scores(columns), [range(len(columns))])[:, 0]
        return self._hits(sure, columns, narrow)

    def like(self, picture: Picture, *, narrow: Narrow = Narrow()) -> list[Hit]:
        """The pictures most like another, which comes first where it is here itself; with the tags they share.

        Raises:
            UsageError: the picture cannot be read.
        """
        row = next(iter(self.tagger.embed([picture])))
        if row.vector is None or row.scores is None:
            why = "" if row.error is None else f": {row.error.message}"
            raise UsageError(f"cannot look for pictures like {row.source}{why}")
        columns = [self.vocabulary.position(tag.id) for tag in self.vocabulary.select(row.scores)]
        similarity = self._filled().vectors @ row.vector
        return self._hits(similarity, columns, narrow, similarity=similarity)

    def _hits(
        self, scores: Array, columns: Sequence[int], narrow: Narrow, *, similarity: Array | None = None
    ) -> list[Hit]:
        table = self._filled()
        able = np.ones(len(scores), bool)
        if narrow.only:
            able &= self._has(self.columns(narrow.only)).all(axis=1)
        if narrow.least is not None:
            able &= scores >= narrow.least
        # Of equals the one that came first.
        order = np.argsort(-scores, kind="stable")
        chosen = order[able[order]][: narrow.top or None]
        has = self._has(columns)[chosen]
        sure = self._scores(columns)[chosen]
        hits = []
        for number, row in enumerate(chosen):
            name, raw = table.names[row]
            there = np.flatnonzero(has[number])
            tags = (self._tag(columns[place], float(sure[number, place])) for place in there.tolist())
            hits.append(
                Hit(
                    rank=number + 1,
                    source=name,
                    score=float(scores[row]),
                    similarity=None if similarity is None else float(similarity[row]),
                    overlap=len(there) / len(columns) if columns else None,
                    tags=tuple(sorted(tags, key=lambda tag: -tag.score)),
                    width=int(table.sizes[row, 0]),
                    height=int(table.sizes[row, 1]),
                    model=self.tagger.ref,
                    source_bytes=raw,
                )
            )
        return hits

    def _tag(self, column: int, score: float) -> Tag:
        entry = self.vocabulary[column]
        return Tag(entry.id, entry.name, entry.kind, score)

    def _filled(self) -> _Table:
        if self._table is None:
            raise UsageError("the index holds no picture; add some first")
        return self._table

    def _overlap(self, columns: Sequence[int]) -> Array:
        """[N], the share of the tags at ``columns`` that each picture has; 0 without tags."""
        if not columns:
            return np.zeros(len(self), np.float32)
        return np.asarray(self._has(columns).mean(axis=1), np.float32)

    def _has(self, columns: Sequence[int]) -> npt.NDArray[np.bool_]:
        """[N, columns], whether a tag or one that implies it reaches its threshold."""
        given = self._filled().given
        found = np.zeros((len(given), len(columns)), bool)
        for place, column in enumerate(columns):
            for own in self._families[column]:
                found[:, place] |= (given[:, own >> 3] >> (7 - (own & 7))) & 1 == 1
        return found

    def _scores(self, columns: Sequence[int]) -> Array:
        """[N, columns], the highest score of a tag and of those that imply it."""
        scores = self._filled().scores
        found = np.zeros((len(scores), len(columns)), np.float32)
        for place, column in enumerate(columns):
            found[:, place] = scores[:, self._families[column]].max(axis=1)
        return found

    @cached_property
    def _families(self) -> list[list[int]]:
        return families(self.vocabulary)

    @cached_property
    def _read(self) -> TextTags:
        # Loads the parser, which keywords do without.
        from taglens.language.parser import parse_lines
        from taglens.language.word_lists import packaged

        return TextTags(self.vocabulary, packaged(), parse_lines)

    def columns(self, names: Sequence[str]) -> list[int]:
        """Columns of tags by name, synonym or id, each once. Raises UsageError for what is no tag."""
        found: dict[int, None] = {}
        for name in names:
            column = self.vocabulary.position(name) if name in self.vocabulary else self.vocabulary.find(name)
            if column is None or not self._families[column]:
                known = {normalise(entry.name): entry.name for entry in self.vocabulary if not entry.hidden}
                near = [known[key] for key in difflib.get_close_matches(normalise(name), known, n=3)]
                hint = f" (nearest: {', '.join(near)})" if near else ""
                free = "; or search by free text" if self.tagger.aligns else ""
                raise UsageError(
                    f"{name!r} is no tag of {self.vocabulary.ref}{hint}: choose among its tags{free}"
                )
            found[column] = None
        return list(found)

    # -- files --------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one .npz file, whole or not at all. Raises UsageError: there is nothing to write."""
        table, out = self._filled(), Path(path)
        head = {
            "taglens_index": FORMAT_VERSION,
            "model": self.tagger.ref,
            "vocabulary": self.vocabulary.fingerprint,
            "names": table.names,
        }
        beside = out.with_name(out.name + ".part")
        arrays: dict[str, Any] = {name: getattr(table, name) for name in _ARRAYS}
        try:
            with beside.open("wb") as file:
                np.savez(file, head=np.frombuffer(json.dumps(head).encode(), np.uint8), **arrays)
            beside.replace(out)
        finally:
            beside.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str], tagger: Tagger) -> PictureIndex:
        """Read a file that `save` wrote.

        Raises:
            DataError: it cannot be read, or is none.
            MismatchError: it was made with another model or vocabulary than ``tagger``'s.
        """
        try:
            with Path(path).open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                head = json.loads(bytes(file["head"]))
                arrays = {name: np.asarray(file[name]) for name in _ARRAYS}
            version, model, words = head["taglens_index"], str(head["model"]), str(head["vocabulary"])
            names = tuple((str(name), None if raw is None else str(raw)) for name, raw in head["names"])
        except OSError as error:
            raise DataError(f"cannot read the index {path}: {error.strerror or error}") from None
        except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
            raise DataError(
                f"{path} is no picture index, or is damaged; make it again, or name another file"
            ) from None
        if version != FORMAT_VERSION:
            raise DataError(
                f"{path} has format {version}, this release reads {FORMAT_VERSION}; make it again"
            )
        if model != tagger.ref:
            raise _other_model(f"the index {path}", model, tagger.ref)
        tagger.vocabulary.require(words, what=f"the index {path}")
        index = cls(tagger)
        table = _Table(names, **arrays)
        tags, count = len(tagger.vocabulary), len(names)
        shapes = {
            "vectors": (count, *table.vectors.shape[-1:]),
            "scores": (count, tags),
            "given": (count, (tags + 7) // 8),
            "sizes": (count, 2),
            "stamps": (count, 2),
        }
        for name, kind in _ARRAYS.items():
            if arrays[name].shape != shapes[name] or arrays[name].dtype != kind:
                raise DataError(f"{path} is damaged: {name} do not fit {count} pictures; make it again")
        if not np.isfinite(table.vectors).all():
            raise DataError(f"{path} is damaged: a vector is not finite; make it again")
        if count:
            index._set(table)
        return index


@dataclass(frozen=True, slots=True)
class Unfound:
    """The row of a picture that could not be read, among rows of hits."""

    source: str
    error: Failure
    model: str
    source_bytes: str | None = None

    def to_dict(self) -> dict[str, Any]:
        row: dict[str, Any] = {"rank": None, "source": self.source}
        if self.source_bytes is not None:
            row["source_bytes"] = self.source_bytes
        nothing = dict.fromkeys(("score", "similarity", "overlap", "tags", "width", "height"))
        return {**row, **nothing, "model": self.model, "error": self.error.to_dict()}

    def to_json(self) -> str:
        return to_line(self.to_dict())


def path_of(shown: str, source_bytes: str | None) -> Path:
    """A picture's path from the name that its row has."""
    return Path(shown if source_bytes is None else os.fsdecode(base64.b64decode(source_bytes)))


def _stamp(path: Path) -> Stamp:
    """A file's size and time of change; zeros where there is none."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return _NO_STAMP
    return found.st_size, found.st_mtime_ns


def _other_model(what: str, found: str, expected: str) -> MismatchError:
    return MismatchError(
        f"{what} were made with another model"
        if what == "the rows"
        else f"{what} was made with another model",
        expected=expected,
        found=found,
        cure="Vectors of different models do not compare: search with that model, or make the index again.",
    )

"""Each tag's best region in each picture: what the model says of it, and its vector (RAM 2.3, step 4).

Knows regions cut out, scored and embedded, and the arrays that hold them. Refuses to know where regions come from
(a `Regions` is passed in) and which labels are wrong.
Shapes: p pairs of a picture and one of its tags, E width, R regions of a picture.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from taglens import images
from taglens.errors import DataError, ImageError
from taglens.inference.pictures import read_ahead
from taglens.inference.tagger import Tagger
from taglens.training.engine_generate import Known
from taglens.training.engine_regions import Pixels, Region, Regions, Seen, cut
from taglens.vocabulary import Vocabulary

# Pictures whose regions are in memory together.
_AT_ONCE = 8


@dataclass(frozen=True, slots=True, eq=False)
class Looks:
    """The best region of each (picture, tag) that has one.

    Attributes:
        rows, columns: [p], the picture's row and the tag's column, by rising row, then column.
        scores: [p], the model's for the tag on that region.
        boxes: [p, 4], fractions of width and height.
        vectors: [p, E], unit vectors of the regions.
    """

    rows: npt.NDArray[np.int32]
    columns: npt.NDArray[np.int32]
    scores: npt.NDArray[np.float32]
    boxes: npt.NDArray[np.float32]
    vectors: npt.NDArray[np.float16]

    def __len__(self) -> int:
        return len(self.rows)

    def of(self, columns: npt.NDArray[np.bool_]) -> Looks:
        """Those of some tags; ``columns`` [T] says which."""
        return self.at(np.flatnonzero(columns[self.columns]))

    def at(self, places: npt.NDArray[np.intp]) -> Looks:
        return Looks(
            self.rows[places],
            self.columns[places],
            self.scores[places],
            self.boxes[places],
            self.vectors[places],
        )

    @classmethod
    def joined(cls, parts: Sequence[Looks]) -> Looks:
        """Several one after another; those of no pair at all have no width and are left out."""
        some = [part for part in parts if len(part)]
        if not some:
            return EMPTY
        return cls(
            np.concatenate([part.rows for part in some]),
            np.concatenate([part.columns for part in some]),
            np.concatenate([part.scores for part in some]),
            np.concatenate([part.boxes for part in some]),
            np.concatenate([part.vectors for part in some]),
        )

    def to_bytes(self) -> bytes:
        """An npz file; equal looks give equal bytes."""
        file = io.BytesIO()
        np.savez(
            file,
            rows=self.rows,
            columns=self.columns,
            scores=self.scores,
            boxes=self.boxes,
            vectors=self.vectors,
        )
        return file.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes, *, name: str) -> Looks:
        """Raises DataError: it is no such file."""
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                return cls(*(file[field] for field in ("rows", "columns", "scores", "boxes", "vectors")))
        except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile):
            raise DataError(f"{name} is damaged; remove it, and the same run makes it again") from None


EMPTY = Looks(
    np.zeros(0, np.int32),
    np.zeros(0, np.int32),
    np.zeros(0, np.float32),
    np.zeros((0, 4), np.float32),
    np.zeros((0, 0), np.float16),
)


def look(
    pictures: Sequence[tuple[Known, Path]],
    *,
    tagger: Tagger,
    regions: Regions,
    batch_size: int,
    tick: Callable[[], None] = lambda: None,
) -> Looks:
    """The best region of every label of some pictures: of equally good ones the first that was proposed.

    A picture that cannot be read, and a label for which nothing is proposed, have none.
    """
    parts = []
    for start in range(0, len(pictures), _AT_ONCE):
        group = pictures[start : start + _AT_ONCE]
        proposed, crops = [], []
        for known, path in group:
            found, parts_of = _proposed(known, path, tagger.side, regions)
            proposed.append(found)
            crops += parts_of
        # Of all tags only those that a picture here has: asking about a thousand takes most of the time.
        tags = sorted({label.tag for known, _ in group for label in known.labels})
        columns = {tag: place for place, tag in enumerate(tags)}
        asked = [tagger.vocabulary.position(tag) for tag in tags]
        answers = iter(list(_answers(tagger, crops, asked, batch_size)) if crops else [])
        for (known, _), found in zip(group, proposed, strict=True):
            own = [next(answers) for _ in found]
            parts.append(_best(known, found, own, tagger.vocabulary, columns))
            tick()
    return Looks.joined(parts)


# Scores [J] of the tags that were asked about, and the vector [E] of one region; None where it cannot be read.
_Answer = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]] | None


def _answers(tagger: Tagger, crops: list[Pixels], asked: list[int], batch_size: int) -> Iterator[_Answer]:
    groups = read_ahead(crops, batch_size=batch_size, side=tagger.side, max_pixels=images.DEFAULT_MAX_PIXELS)
    for group in groups:
        pixels = [ready.pixels for ready in group if ready.pixels is not None]
        rows: Iterator[_Answer] = iter(())
        if pixels:
            output = tagger.look_for(np.stack(pixels), asked)
            rows = zip(output.scores, tagger.vectors(output), strict=True)
        for ready in group:
            yield None if ready.error is not None else next(rows)


def _proposed(known: Known, path: Path, side: int, regions: Regions) -> tuple[Sequence[Region], list[Pixels]]:
    """A picture's regions, and their pixels."""
    if known.error is not None or not known.labels:
        return (), []
    try:
        picture = images.load(path, at_least=2 * side)
    except ImageError:
        return (), []  # changed since it was first read: nothing is judged
    seen = Seen(path, picture.pixels, picture.width, picture.height)
    found = regions(seen, [label.tag for label in known.labels])
    return found, [cut(seen.pixels, region.box) for region in found]


def _best(
    known: Known,
    regions: Sequence[Region],
    answers: Sequence[_Answer],
    vocabulary: Vocabulary,
    columns: Mapping[str, int],
) -> Looks:
    """For each of a picture's labels the region, among those proposed for it, where the model is surest of it."""
    seen = {place: answer for place, answer in enumerate(answers) if answer is not None}
    chosen: list[tuple[str, int, float]] = []
    for label in known.labels:
        asked = columns[label.tag]
        scores = {
            place: float(answer[0][asked])
            for place, answer in seen.items()
            if regions[place].tag in (None, label.tag)
        }
        if scores:
            place = max(scores, key=lambda place: (scores[place], -place))
            chosen.append((label.tag, place, scores[place]))
    if not chosen:
        return EMPTY
    return Looks(
        np.full(len(chosen), known.row, np.int32),
        np.array([vocabulary.position(tag) for tag, _, _ in chosen], np.int32),
        np.array([score for _, _, score in chosen], np.float32),
        np.array([regions[place].box for _, place, _ in chosen], np.float32),
        np.stack([seen[place][1].astype(np.float16) for _, place, _ in chosen]),
    )

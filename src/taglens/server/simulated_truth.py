"""What the simulated annotator knows: which labelled picture it is shown, and what is true of it.

Knows label files, thumbnails and how often two tags are true together. Refuses to know questions and errors
(`taglens.server.simulated_answers`). It never looks at what a picture shows.
Shapes: N pictures, T tags, K numbers of a thumbnail.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from taglens import images
from taglens.data.mosaics import is_complete
from taglens.data.sources import find_source, read_labels
from taglens.errors import DataError, ImageError
from taglens.vocabulary import Entry, Vocabulary

SIDE = 16  # of a thumbnail: K = 3 * 16 * 16
# Root mean square difference of two thumbnails, in levels of 255. Measured on 600 mosaics and 1,000 photographs, each
# saved again in four ways, down to a quarter of its size: 99 of 100 stay below 9, the worst at 16, and two different
# pictures are never nearer than 17.
NEAREST = 14.0
_REMEMBERED = 512  # pictures by their bytes, so that sixty questions about one decode it once


@dataclass(frozen=True, slots=True)
class Known:
    """A picture that was recognised: its row, and its size as it was sent."""

    row: int
    width: int
    height: int


class UnknownPictureError(DataError):
    """A picture that is none of the labelled ones."""


class Truth:
    """Labelled pictures that can be recognised.

    Attributes:
        vocabulary: the tags that are spoken of.
        images: the pictures' names in the file.
        true: bool [N, T], with what a true tag implies.
        together: float [T, T], in [0, 1]: how much oftener than by chance two tags are true of one picture.
        complete: whether what is not labelled is known to be absent (mosaics); otherwise it only counts as absent.
        unmatched: label -> rows, of labels that are no tag of the vocabulary.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        rows: Sequence[tuple[str, npt.NDArray[np.uint8], Sequence[int]]],
        *,
        complete: bool = False,
        unmatched: Mapping[str, int] | None = None,
    ) -> None:
        """
        Args:
            rows: name, thumbnail uint8 [16, 16, 3] and columns of the true tags.
        """
        if not rows:
            raise DataError("no labelled picture: an annotator without a truth has nothing to answer from")
        self.vocabulary = vocabulary
        self.images = tuple(name for name, _, _ in rows)
        self.complete = complete
        self.unmatched = dict(unmatched or {})
        self.true = np.zeros((len(rows), len(vocabulary)), np.bool_)
        for row, (_, _, columns) in enumerate(rows):
            self.true[row, sorted(vocabulary.with_parents(columns))] = True
        self.together = _together(self.true)
        self._thumbnails = np.stack([thumbnail.reshape(-1) for _, thumbnail, _ in rows]).astype(np.float32)
        self._norms = np.einsum("nk,nk->n", self._thumbnails, self._thumbnails)
        self._seen: OrderedDict[bytes, Known] = OrderedDict()
        self._lock = threading.Lock()

    @classmethod
    def read(
        cls,
        source: Path,
        *,
        vocabulary: Vocabulary | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Truth:
        """The labelled rows of a file, every split; rows whose labels are null are left out.

        Args:
            source: ``labels.jsonl`` or its folder.
            vocabulary: None: the file's own labels, each a tag.

        Raises:
            DataError: the file cannot be read, or a picture that it names.
        """
        file = find_source(source)
        rows = [row for row in read_labels(file) if row.labels is not None]
        if vocabulary is None:
            names = dict.fromkeys(label for row in rows for label in row.labels or ())
            vocabulary = Vocabulary((Entry(name, "object") for name in names), name=file.parent.name)
        unmatched: dict[str, int] = {}
        found: list[tuple[str, npt.NDArray[np.uint8], Sequence[int]]] = []
        for row in rows:
            columns: list[int] = []
            for label, kind in zip(
                row.labels or (), row.kinds or (None,) * len(row.labels or ()), strict=True
            ):
                column = vocabulary.find(label, kinds=None if kind is None else (kind,))
                if column is None:
                    unmatched[label] = unmatched.get(label, 0) + 1
                else:
                    columns.append(column)
            try:
                picture = images.load(row.path, at_least=SIDE)
            except ImageError as error:
                raise DataError(
                    f"{file}: {error}; the annotator must see every picture it answers for"
                ) from None
            found.append((row.image, images.squash(picture.pixels, SIDE), columns))
            if progress is not None:
                progress(len(found), len(rows))
        return cls(vocabulary, found, complete=is_complete(file), unmatched=unmatched)

    def __len__(self) -> int:
        return len(self.images)

    def recognise(self, data: bytes) -> Known:
        """The labelled picture that an encoded one is, whatever it was scaled to or saved as.

        Raises:
            ImageError: no picture that can be read.
            UnknownPictureError: none of the labelled ones is near.
        """
        key = hashlib.sha256(data).digest()
        with self._lock:
            if key in self._seen:
                self._seen.move_to_end(key)
                return self._seen[key]
        picture = images.load(data, at_least=SIDE, name="<picture>")
        row, distance = self.nearest(images.squash(picture.pixels, SIDE))
        if distance > NEAREST:
            raise UnknownPictureError(
                f"unknown picture: it differs by {distance:.0f} of 255 levels from the nearest of the {len(self)} "
                f"labelled ones, {self.images[row]!r}; expected at most {NEAREST:.0f}"
            )
        known = Known(row, picture.width, picture.height)
        with self._lock:
            self._seen[key] = known
            while len(self._seen) > _REMEMBERED:
                self._seen.popitem(last=False)
        return known

    def nearest(self, thumbnail: npt.NDArray[np.uint8]) -> tuple[int, float]:
        """The row whose thumbnail is nearest to [16, 16, 3], and how far it is, in grey levels."""
        asked = thumbnail.reshape(-1).astype(np.float32)
        # The expansion loses digits where it matters least: it only ranks.
        row = int(np.argmin(self._norms - 2.0 * (self._thumbnails @ asked)))
        return row, float(np.sqrt(np.mean((self._thumbnails[row] - asked) ** 2)))


def _together(true: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """Normalised pointwise mutual information where it is positive, drawn to 0 for rare pairs; at most 1 [T, T]."""
    pairs = np.zeros((true.shape[1], true.shape[1]), np.float32)
    occurring = np.flatnonzero(true.any(axis=0))
    some = true[:, occurring].astype(np.float64)
    counts = some.T @ some
    alone = np.diag(counts).copy()
    np.fill_diagonal(counts, 0.0)
    total = len(true)
    with np.errstate(divide="ignore", invalid="ignore"):
        information = np.log(counts * total / np.outer(alone, alone)) / -np.log(counts / total)
    information = np.where((counts > 0) & (counts < total), np.maximum(information, 0.0), 0.0)
    information *= counts / (counts + 2.0)
    if information.max(initial=0.0) > 0:
        information /= information.max()
    pairs[np.ix_(occurring, occurring)] = information
    return pairs

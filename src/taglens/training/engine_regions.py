"""Where in a picture a tag might be: proposals of regions, by windows, by a detector's boxes (RAM 2.3, choice R4).

Knows boxes and how they are cut out. Refuses to know what a region shows (`taglens.training.engine_looks` asks a
tagger) and how a detector works: its boxes arrive in a file. `taglens.training.engine_attention` proposes where a
model's decoder looks.
Boxes are (left, top, right, bottom) as fractions of width and height. Shapes: h, w a picture's height and width.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from taglens.errors import DataError, UsageError
from taglens.vocabulary import Vocabulary

Pixels = npt.NDArray[np.uint8]
Box = tuple[float, float, float, float]

_Boxed = tuple[str, tuple[float, ...], float]  # name, or a tag's id; box in pixels; score

WHOLE: Box = (0.0, 0.0, 1.0, 1.0)
# A window of fewer pixels shows nothing that could be recognised.
_LEAST_SIDE = 16


@dataclass(frozen=True, slots=True)
class Region:
    """One place in a picture.

    Attributes:
        tag: id of the tag that it is proposed for; None: for any.
        score: how sure who proposes it is, 0 to 1.
    """

    box: Box
    tag: str | None = None
    score: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """A decoded picture: pixels [h, w, 3], perhaps of a reduced decode, and its own size; where its file lies."""

    path: Path
    pixels: Pixels
    width: int
    height: int


class Regions(Protocol):
    """Anything that proposes regions."""

    @property
    def name(self) -> str:
        """Says which proposals these are: another name is another configuration."""
        ...

    def __call__(self, picture: Seen, tags: Sequence[str]) -> Sequence[Region]:
        """Places in a picture where some of these tags (ids) might be; none where nobody knows."""
        ...


WINDOWS = ((2 / 3, 2), (1 / 2, 3))


@dataclass(frozen=True, slots=True)
class SlidingCrops:
    """The whole picture and windows of some sizes, evenly laid over it; for any tag.

    Attributes:
        grids: (side as a share of the picture's, windows in a row) each.
    """

    grids: tuple[tuple[float, int], ...] = ((1.0, 1), *WINDOWS)

    def __post_init__(self) -> None:
        for side, count in self.grids:
            if not 0.0 < side <= 1.0 or count < 1:
                raise UsageError(
                    f"a grid of {count} windows of side {side:g} in a row: expected 1 or more, of a side up to 1"
                )
        if not self.grids:
            raise UsageError("sliding crops without a grid propose nothing; give one, such as (1.0, 1)")

    @property
    def name(self) -> str:
        return "crops " + " ".join(f"{side:.4g}x{count}" for side, count in self.grids)

    def __call__(self, picture: Seen, tags: Sequence[str]) -> list[Region]:
        found: dict[Box, None] = {}
        for side, count in self.grids:
            if side < 1.0 and side * min(picture.width, picture.height) < _LEAST_SIDE:
                continue
            starts = np.linspace(0.0, 1.0 - side, count).tolist()
            found |= {(left, top, left + side, top + side): None for top in starts for left in starts}
        return [Region(box) for box in found]


class BoxesFile:
    """A detector's boxes from JSON Lines: ``{"image", "boxes": [{"box", "name", "score"}]}``.

    A box is [left, top, right, bottom] in pixels of the picture after EXIF turning; ``image`` is relative to the
    file's folder; ``score`` may be missing. A name is a tag's name, synonym or id; boxes of other names are counted
    in ``strange`` and not used.

    Args:
        least: boxes with a lower score are not used.

    Raises:
        DataError: the file cannot be read, or a line breaks the form.
    """

    def __init__(self, path: Path, vocabulary: Vocabulary, *, least: float = 0.0) -> None:
        self.strange: dict[str, int] = {}
        self._boxes: dict[str, list[_Boxed]] = {}
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror or error}") from None
        self._name = f"boxes {hashlib.sha256(content).hexdigest()[:12]} from {least:g}"
        for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
            if line.strip():
                where = f"{path}, line {number}"
                image, boxes = _boxes(line, where)
                own = self._boxes.setdefault(real_path(path.parent / image), [])
                for name, box, score in boxes:
                    column = vocabulary.position(name) if name in vocabulary else vocabulary.find(name)
                    if column is None:
                        self.strange[name] = self.strange.get(name, 0) + 1
                    elif score >= least:
                        own.append((vocabulary[column].id, box, score))

    @property
    def name(self) -> str:
        return self._name

    def __call__(self, picture: Seen, tags: Sequence[str]) -> list[Region]:
        wanted = set(tags)
        sides = (picture.width, picture.height, picture.width, picture.height)
        found = []
        for tag, box, score in self._boxes.get(real_path(picture.path), ()):
            if tag in wanted:
                left, top, right, bottom = (
                    min(max(value / side, 0.0), 1.0) for value, side in zip(box, sides, strict=True)
                )
                if left < right and top < bottom:
                    found.append(Region((left, top, right, bottom), tag, score))
        return found


def real_path(path: Path) -> str:
    """One name for one file."""
    return os.path.realpath(path)


def _boxes(line: bytes, where: str) -> tuple[str, list[_Boxed]]:
    form = '{"image", "boxes": [{"box": [left, top, right, bottom], "name", "score"}]}'
    try:
        row: Any = json.loads(line.decode("utf-8"))
        image = row["image"]
        if not isinstance(image, str) or not image.strip() or "\0" in image:
            raise ValueError("image is no path")
        found: list[_Boxed] = []
        for each in row["boxes"]:
            box = tuple(float(value) for value in each["box"])
            name, score = each["name"], float(each.get("score", 1.0))
            if len(box) != 4 or not all(map(math.isfinite, (*box, score))) or not isinstance(name, str):
                raise ValueError("a box is four finite numbers and a name")
            if box[0] >= box[2] or box[1] >= box[3]:
                raise ValueError(f"box {each['box']} is empty: right and bottom come after left and top")
            found.append((name, box, score))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DataError(f"{where}: expected {form}, found {line[:60]!r} ({error})") from None
    return image, found


def cut(pixels: Pixels, box: Box) -> Pixels:
    """The part of pixels [h, w, 3] inside a box, at least one pixel each way; a view."""
    height, width = pixels.shape[:2]
    left, right = _span(box[0], box[2], width)
    top, bottom = _span(box[1], box[3], height)
    return pixels[top:bottom, left:right]


def _span(start: float, end: float, size: int) -> tuple[int, int]:
    first = min(max(math.floor(start * size + 1e-6), 0), size - 1)
    return first, min(max(math.ceil(end * size - 1e-6), first + 1), size)

"""Mosaics: pictures put together from two to four others, with a truth that is complete.

Knows how tiles are drawn and laid out, and what is written beside them. Refuses to know which classes exclude each
other (`taglens.data.exclusive`) and what the mosaics are for.

A tile is a whole picture, fitted into its cell with its proportions and never cropped, since a crop may lose what the
label names. Every mosaic is drawn from its own seed, so that mosaic 17 is the same whatever the count. All tiles of
a mosaic come from one split, which is then the mosaic's.
Shapes: S the side of a cell; two tiles lie beside each other [S, 2S] or above [2S, S], three and four in a square
[2S, 2S].
"""

from __future__ import annotations

import hashlib
import io
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from taglens import images
from taglens.data.exclusive import SCENES, Exclusive, Sense, choose
from taglens.data.sources import Row, find_source, read_labels
from taglens.errors import DataError, UsageError
from taglens.results import to_line
from taglens.staging import require_place, staged
from taglens.vocabulary import Entry, Vocabulary

LABELS, VOCABULARY, MANIFEST = "labels.jsonl", "vocabulary.jsonl", "mosaics.json"
SENSES, CONCEPTS = "senses.txt", "concepts.jsonl"
FORMAT_VERSION = 1
GREY = 127  # the empty cell, and what a tile's proportions leave free
QUALITY = 90


@dataclass(frozen=True, slots=True)
class MosaicPlan:
    """What to make.

    Attributes:
        count: mosaics.
        seed: another one draws others.
        side: S, in pixels.
        together: how often a further tile is of the first one's theme, where that has classes left; else any.
        fewest, most: tiles, drawn evenly between.
    """

    count: int
    seed: int = 0
    side: int = 96
    together: float = 0.6
    fewest: int = 2
    most: int = 4

    def __post_init__(self) -> None:
        if self.count < 1:
            raise UsageError(f"--count {self.count}: expected 1 or more mosaics")
        if not 16 <= self.side <= 1024:
            raise UsageError(f"--side {self.side}: expected 16 to 1024 pixels")
        if not 0.0 <= self.together <= 1.0:
            raise UsageError(f"--together {self.together}: expected a share from 0 to 1")
        if not 2 <= self.fewest <= self.most <= 4:
            raise UsageError(f"from {self.fewest} to {self.most} tiles: expected 2 to 4, the fewest first")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A picture that may become a tile: ``labels`` are the classes of the vocabulary that it shows, at least one."""

    set: str
    image: str
    path: Path
    labels: tuple[str, ...]
    split: str | None


@dataclass(frozen=True, slots=True)
class Tile:
    """A picture and its cell: left, top and side in pixels."""

    candidate: Candidate
    box: tuple[int, int, int]

    def to_dict(self) -> dict[str, Any]:
        one = self.candidate
        return {"labels": list(one.labels), "set": one.set, "image": one.image, "box": list(self.box)}


@dataclass(frozen=True, slots=True)
class Mosaic:
    """One picture to be made: its size, its tiles, and its complete truth."""

    number: int
    width: int
    height: int
    tiles: tuple[Tile, ...]

    @property
    def image(self) -> str:
        return f"images/{self.number:06d}.jpg"

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(sorted({label for tile in self.tiles for label in tile.candidate.labels}))

    def to_dict(self) -> dict[str, Any]:
        row: dict[str, Any] = {"image": self.image, "labels": list(self.labels)}
        split = self.tiles[0].candidate.split
        if split is not None:
            row["split"] = split
        row["tiles"] = [tile.to_dict() for tile in self.tiles]
        return row


@dataclass(frozen=True, slots=True)
class Stock:
    """What mosaics are drawn from.

    Attributes:
        exclusive: the vocabulary, and what was left out of it.
        candidates: split -> class -> pictures; a class has at least one picture in some split.
        sets: set -> its file's sha256 and how many of its pictures can be drawn.
    """

    exclusive: Exclusive
    candidates: Mapping[str | None, Mapping[str, Sequence[Candidate]]]
    sets: Mapping[str, Mapping[str, Any]]

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.exclusive.themes)


def gather(sources: Sequence[Path], *, exclusive: Exclusive | None = None, split: str | None = None) -> Stock:
    """The pictures of label files that show a class of the vocabulary.

    Args:
        sources: files, or folders with a ``labels.jsonl``; a set is called after its folder.
        exclusive: the classes, vouched for by the caller; None: those of `choose` among the files' names.
        split: pictures of this split only.

    Raises:
        DataError: a file cannot be read, two sets have one name, or fewer than two classes remain.
        UsageError: no row has the split.
    """
    rows: dict[str, list[Row]] = {}
    sets: dict[str, dict[str, Any]] = {}
    for source in sources:
        file = find_source(source)
        name = file.absolute().parent.name
        if name in rows:
            raise DataError(f"two sets are called {name!r}; rename the folder of one")
        rows[name] = [row for row in read_labels(file) if row.labels]
        sets[name] = {"sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "rows": len(rows[name])}
    splits = {row.split for one in rows.values() for row in one}
    if split is not None and split not in splits:
        raise UsageError(f"no row of split {split!r}; splits in the files: {sorted(map(str, splits))}")
    found = choose(label for one in rows.values() for row in one for label in row.labels or ())
    wanted = found if exclusive is None else exclusive
    candidates: dict[str | None, dict[str, list[Candidate]]] = {}
    drawn: Counter[str] = Counter()
    for name, one in rows.items():
        for row in one:
            labels = tuple(label for label in dict.fromkeys(row.labels or ()) if label in wanted.themes)
            if not labels or (split is not None and row.split != split):
                continue
            candidate = Candidate(name, row.image, row.path, labels, row.split)
            drawn[name] += 1
            for label in labels:
                candidates.setdefault(row.split, {}).setdefault(label, []).append(candidate)
    here = {label for of_split in candidates.values() for label in of_split}
    themes = {label: theme for label, theme in wanted.themes.items() if label in here}
    if len(themes) < 2:
        raise DataError(
            f"{len(themes)} classes can stand in one vocabulary; expected at least two: give more sets, or name "
            "classes that you vouch for with --exclusive"
        )
    absent = {label: "no picture is labelled with it" for label in wanted.themes if label not in here}
    senses = {label: told for label, told in wanted.senses.items() if label in themes}
    return Stock(
        Exclusive(themes, {**wanted.left_out, **absent}, senses),
        candidates,
        {name: {**facts, "drawn_from": drawn[name]} for name, facts in sets.items()},
    )


def draw(stock: Stock, plan: MosaicPlan) -> Iterator[Mosaic]:
    """The mosaics of a plan, in order; nothing is read but the stock.

    Raises:
        DataError: no split has as many classes as a mosaic may have tiles, or their pictures show too many at once.
    """
    usable = {
        split: {label: of_split[label] for label in stock.classes if label in of_split}
        for split, of_split in sorted(stock.candidates.items(), key=lambda item: str(item[0]))
        if len(of_split) >= plan.most
    }
    if not usable:
        raise DataError(
            f"no split has {plan.most} classes, as many as a mosaic may have tiles; give more sets"
        )
    sizes = {split: len({one.path for some in by.values() for one in some}) for split, by in usable.items()}
    for number in range(plan.count):
        rng = random.Random(f"{plan.seed}/{number}")
        split = _weighted(rng, sizes)
        tiles = _pictures(rng, usable[split], stock.exclusive.themes, plan)
        width, height, boxes = _layout(rng, len(tiles), plan.side)
        yield Mosaic(
            number, width, height, tuple(Tile(one, box) for one, box in zip(tiles, boxes, strict=True))
        )


def render(mosaic: Mosaic) -> npt.NDArray[np.uint8]:
    """The pixels [height, width, 3] of a mosaic.

    Raises:
        ImageError: a tile's picture cannot be read.
    """
    from PIL import Image

    canvas = Image.new("RGB", (mosaic.width, mosaic.height), (GREY, GREY, GREY))
    for tile in mosaic.tiles:
        left, top, side = tile.box
        picture = Image.fromarray(images.load(tile.candidate.path).pixels)
        scale = side / max(picture.size)
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        fitted = picture.resize(size, Image.Resampling.BICUBIC)
        canvas.paste(fitted, (left + (side - size[0]) // 2, top + (side - size[1]) // 2))
    return np.asarray(canvas)


def make(
    stock: Stock, plan: MosaicPlan, out: Path, *, progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Write mosaics, their labels, their vocabulary and what they were made from; returns the manifest.

    Beside ``images/`` stand ``labels.jsonl`` (rows as `taglens evaluate` reads them, with each tile's origin and
    place), ``vocabulary.jsonl``, ``senses.txt`` (``class: what it is taken for``), ``concepts.jsonl`` (what tells it
    apart, as `taglens annotate` reads it) and ``mosaics.json``.

    Args:
        out: a new or empty folder.

    Raises:
        UsageError: the folder holds anything.
        ImageError: a tile's picture cannot be read; nothing is left behind.
        DataError: as `draw`.
    """
    require_place(out, what="mosaics", holds=lambda _: False)
    counts: Counter[str] = Counter()
    splits: Counter[str | None] = Counter()
    lines: list[str] = []
    with staged(out, last=MANIFEST) as stage:
        (stage / "images").mkdir()
        for mosaic in draw(stock, plan):
            (stage / mosaic.image).write_bytes(_encode(render(mosaic)))
            lines.append(to_line(mosaic.to_dict()) + "\n")
            counts.update(mosaic.labels)
            splits[mosaic.tiles[0].candidate.split] += 1
            if progress is not None:
                progress(len(lines), plan.count)
        (stage / LABELS).write_text("".join(lines), encoding="utf-8", newline="\n")
        vocabulary = vocabulary_of(stock)
        vocabulary.save(stage / VOCABULARY)
        senses = stock.exclusive.senses.items()
        taken = (f"{name}: {', '.join(sense.others)}\n" for name, sense in senses)
        (stage / SENSES).write_text("".join(taken), encoding="utf-8", newline="\n")
        told = (to_line(_concept(name, sense, stock.classes)) + "\n" for name, sense in senses)
        (stage / CONCEPTS).write_text("".join(told), encoding="utf-8", newline="\n")
        manifest = {
            "taglens_mosaics": FORMAT_VERSION,
            "truth": "complete",
            "plan": asdict(plan),
            "vocabulary": vocabulary.ref,
            "splits": {str(split): count for split, count in sorted(splits.items(), key=lambda i: str(i[0]))},
            "classes": {name: counts[name] for name in stock.classes},
            "themes": dict(stock.exclusive.themes),
            "left_out": dict(stock.exclusive.left_out),
            "sets": stock.sets,
        }
        text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
        (stage / MANIFEST).write_text(text, encoding="utf-8", newline="\n")
    return manifest


def vocabulary_of(stock: Stock) -> Vocabulary:
    """The classes as a vocabulary, in the order of preference; scenes are told apart."""
    return Vocabulary(
        (Entry(name, "scene" if name in SCENES else "object") for name in stock.classes), name="mosaics"
    )


def is_complete(labels: Path) -> bool:
    """Whether a label file is a mosaic's: its manifest lies beside it and says that its truth is complete."""
    try:
        manifest = json.loads((labels.parent / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return labels.name == LABELS and isinstance(manifest, dict) and manifest.get("truth") == "complete"


def _concept(name: str, sense: Sense, classes: Sequence[str]) -> dict[str, Any]:
    """A line of a file of concepts; look-alikes are classes of the same vocabulary."""
    alike = [other for other in sense.others if other in classes]
    return {
        "name": name,
        "super_category": sense.super_category,
        "look_alikes": alike,
        "phrases": [sense.phrase],
        "source": "user",
    }


def _weighted(rng: random.Random, sizes: Mapping[str | None, int]) -> str | None:
    at = rng.random() * sum(sizes.values())
    splits = list(sizes)
    while len(splits) > 1 and at >= sizes[splits[0]]:
        at -= sizes[splits.pop(0)]
    return splits[0]


def _one(rng: random.Random, things: Sequence[Any]) -> Any:
    # random() alone is promised to stay the same over Python's releases.
    return things[int(rng.random() * len(things))]


def _pictures(
    rng: random.Random,
    by_class: Mapping[str, Sequence[Candidate]],
    themes: Mapping[str, str],
    plan: MosaicPlan,
) -> list[Candidate]:
    """Tiles whose classes are all different; classes are drawn evenly, whatever their pictures."""
    wanted = plan.fewest + int(rng.random() * (plan.most - plan.fewest + 1))
    chosen: list[Candidate] = []
    left = list(by_class)
    while left and len(chosen) < wanted:
        theme = themes[chosen[0].labels[0]] if chosen else None
        near = [label for label in left if themes[label] == theme]
        label = _one(rng, near if near and rng.random() < plan.together else left)
        left.remove(label)
        # A picture may show several classes; it must bring none that is there already.
        shown = {each for one in chosen for each in one.labels}
        fresh = [one for one in by_class[label] if shown.isdisjoint(one.labels)]
        if fresh:
            chosen.append(_one(rng, fresh))
            left = [each for each in left if each not in chosen[-1].labels]
    if len(chosen) < plan.fewest:
        raise DataError(
            f"pictures that show many classes each leave none for {plan.fewest} tiles; give more sets"
        )
    return chosen


def _layout(rng: random.Random, tiles: int, side: int) -> tuple[int, int, list[tuple[int, int, int]]]:
    """Width, height and each tile's box. Of three tiles in a square, any cell may be the empty one."""
    if tiles == 2 and rng.random() < 0.5:
        return 2 * side, side, [(0, 0, side), (side, 0, side)]
    if tiles == 2:
        return side, 2 * side, [(0, 0, side), (0, side, side)]
    cells = [(left, top, side) for top in (0, side) for left in (0, side)]
    while len(cells) > tiles:
        del cells[int(rng.random() * len(cells))]
    return 2 * side, 2 * side, cells


def _encode(pixels: npt.NDArray[np.uint8]) -> bytes:
    from PIL import Image

    kept = io.BytesIO()
    Image.fromarray(pixels).save(kept, "JPEG", quality=QUALITY, subsampling=0)
    return kept.getvalue()

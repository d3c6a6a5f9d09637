"""What a person types to unit vectors in the label space of RAM and RAM++: prompts through CLIP's text tower.

A tag's name is asked in many sentences and the mean of their vectors counts (RAM 2.2); descriptions count as they
are. Knows prompts, batches and means; the tower is passed in, and what runs it is `taglens.inference`'s. numpy only.
Shapes: M texts, N pieces, L width of the label space.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from taglens.errors import ModelError, UsageError, VocabularyError
from taglens.language.clip_pieces import LONGEST, ClipPieces

Floats = npt.NDArray[np.float32]
SHIPPED_TEMPLATES = Path(str(files("taglens"))) / "assets" / "text" / "templates.txt"

NAME, WITH_ARTICLE = "{}", "{a}"
_AT_ONCE = 32
_MOST_KEPT = 5_000


class Tower(Protocol):
    """What runs a text tower."""

    def __call__(self, ids: npt.NDArray[np.int64]) -> Floats:
        """Vectors [M, L] of numbers of pieces [M, N], which are filled up behind the end mark."""
        ...

    def rest(self) -> None:
        """Give back what can be had again, at the price of a moment when it is next asked."""
        ...


def read_templates(path: Path) -> tuple[str, ...]:
    """The sentences of a file: one a line, each with one ``{}`` (the name) or ``{a}`` (the name with its article).

    Raises:
        VocabularyError: the file cannot be read, holds no sentence or one twice, or a line without its one place.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise VocabularyError(f"cannot read the templates {path}: {error}") from None
    found: list[str] = []
    for number, line in enumerate((line.strip() for line in lines), 1):
        if not line or line.startswith("#"):
            continue
        rest = line.replace(NAME, "", 1) if NAME in line else line.replace(WITH_ARTICLE, "", 1)
        if rest == line or "{" in rest or "}" in rest:
            raise VocabularyError(
                f"{path}, line {number}: expected one {NAME} or {WITH_ARTICLE} for the tag, found {line[:80]!r}"
            )
        if line in found:
            raise VocabularyError(f"{path}, line {number}: {line[:80]!r} stands there twice")
        found.append(line)
    if not found:
        raise VocabularyError(
            f"{path} holds no template; write one a line, such as: a photo of {WITH_ARTICLE}"
        )
    return tuple(found)


def write_templates(templates: Sequence[str], path: Path) -> None:
    """Write what `read_templates` reads, beside and renamed."""
    beside = path.with_name(path.name + ".part")
    beside.write_text("".join(f"{template}\n" for template in templates), encoding="utf-8")
    beside.replace(path)


def prompt(template: str, name: str) -> str:
    """A template about a tag: "a photo of {a}" and "owl" give "a photo of an owl"."""
    article = "an" if name[:1].lower() in tuple("aeiou") else "a"
    place, text = (NAME, name) if NAME in template else (WITH_ARTICLE, f"{article} {name}")
    return template.replace(place, text, 1)


@dataclass(eq=False)
class ClipEncoder:
    """Names and descriptions to unit vectors.

    Attributes:
        templates: as `read_templates` gives them.
        tower: what runs it, in whichever runtime.
        tower_fingerprint: of the tower's weights, whatever runs them.
        width: L.
        positions: most pieces of a text.
    """

    pieces: ClipPieces
    templates: tuple[str, ...]
    tower: Tower = field(repr=False)
    tower_fingerprint: str
    width: int
    positions: int = LONGEST
    _kept: dict[str, Floats] = field(default_factory=dict, repr=False)

    @cached_property
    def fingerprint(self) -> str:
        """12 hex digits of all that a vector depends on: vectors of two encoders must never meet."""
        return combined(self.tower_fingerprint, self.pieces, self.templates)

    def __call__(self, texts: Iterable[str]) -> Floats:
        """Unit vectors [M, L] of texts as they are.

        Raises:
            UsageError: a text of spaces alone.
            ModelError: the tower gives what is no vector.
        """
        rows = [self._ids(text) for text in texts]
        found = np.zeros((len(rows), self.width), np.float32)
        # Texts of like length share a batch, so that little is filled up.
        order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
        for start in range(0, len(order), _AT_ONCE):
            chosen = order[start : start + _AT_ONCE]
            ids = np.full((len(chosen), len(rows[chosen[-1]])), self.pieces.end, np.int64)
            for place, row in enumerate(chosen):
                ids[place, : len(rows[row])] = rows[row]
            found[chosen] = _unit(self.tower(ids), self.width)
        return found

    def name(self, name: str) -> Floats:
        """The unit vector [L] of a tag's name: the mean over the templates. Raises as calling does."""
        self._ids(name)  # a name of nothing would still make sentences
        if (found := self._kept.get(name)) is None:
            if len(self._kept) >= _MOST_KEPT:
                self._kept.clear()
            asked = self(prompt(template, name) for template in self.templates)
            found = self._kept[name] = _unit(asked.mean(axis=0, keepdims=True), self.width)[0]
        return found

    def rest(self) -> None:
        """Give the tower's memory back until it is next asked; names that were asked stay known."""
        self.tower.rest()

    def knows(self, text: str) -> bool:
        """Always: the tower was taught pieces, not words, and says nowhere which words it met."""
        return True

    def _ids(self, text: str) -> list[int]:
        ids = self.pieces.ids(text, longest=self.positions)
        if len(ids) == 2:
            raise UsageError(f"{text!r} holds nothing to look for")
        return ids


def combined(tower_fingerprint: str, pieces: ClipPieces, templates: Sequence[str]) -> str:
    """12 hex digits of a tower, its pieces and its templates."""
    text = "\n".join([tower_fingerprint, pieces.fingerprint, *templates])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _unit(vectors: Floats, width: int) -> Floats:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    if vectors.shape[-1] != width or not np.isfinite(length).all() or not (length > 0).all():
        raise ModelError(
            "the text tower gives values that are no vectors: its weights are damaged; convert it again"
        )
    scaled: Floats = (vectors / length).astype(np.float32)
    return scaled

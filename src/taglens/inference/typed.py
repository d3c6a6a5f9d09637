"""Tags that a person types: names and descriptions become label embeddings, to be asked of a picture's tokens.

Loads nothing until the first such tag is asked for: the second graph and the text encoder cost time and memory that
tagging with the model's own vocabulary never needs.
Shapes: B images, N tokens, K token width, U typed labels, D texts of a label, L text width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from taglens.errors import UsageError
from taglens.vocabulary import Entry

if TYPE_CHECKING:
    from taglens.inference.engines import Ask

Array = npt.NDArray[np.float32]


class Texts(Protocol):
    """What embeds typed tags: `taglens.language.text_encoder.TextEncoder`, `…clip_encoder.ClipEncoder`."""

    @property
    def width(self) -> int:
        """L."""
        ...

    @property
    def fingerprint(self) -> str:
        """Of all that a vector depends on."""
        ...

    def __call__(self, texts: Iterable[str]) -> Array:
        """Unit vectors [M, L] of descriptions. Raises UsageError for one that holds nothing to look for."""
        ...

    def name(self, name: str) -> Array:
        """The unit vector [L] of a tag's name. Raises likewise."""
        ...

    def knows(self, text: str) -> bool:
        """Whether at least one word of the text is known."""
        ...

    def rest(self) -> None:
        """Give back memory until it is next asked."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """Embedded tags: embeddings float32 [U, D, L], counts int64 [U], how many of the D are a tag's own."""

    embeddings: Array
    counts: npt.NDArray[np.int64]


@dataclass(eq=False)
class OpenVocabulary:
    """What a model needs to score words it was never taught.

    Attributes:
        load_ask, load_text: give the scoring engine and the text encoder, each called once and when first needed.
        threshold: lowest score at which a typed tag is given.
    """

    load_ask: Callable[[], Ask]
    load_text: Callable[[], Texts]
    threshold: float

    @cached_property
    def ask(self) -> Ask:
        return self.load_ask()

    @cached_property
    def text(self) -> Texts:
        return self.load_text()

    def embed(self, entries: Sequence[Entry]) -> Labels:
        """The tags' names and descriptions, embedded.

        Raises:
            UsageError: a name or description that holds nothing to look for.
        """
        rows = []
        for entry in entries:
            try:
                name = self.text.name(entry.name)
                rows.append(np.concatenate([name[None], self.text(entry.descriptions)]))
            except UsageError as error:
                raise UsageError(f"tag {entry.name!r}: {error}") from None
        # Pictures want the memory now; other words may be asked much later, or never.
        self.text.rest()
        counts = np.array([len(row) for row in rows], np.int64)
        table = np.zeros((len(rows), int(counts.max(initial=1)), self.text.width), np.float32)
        for number, row in enumerate(rows):
            table[number, : len(row)] = row
        return Labels(table, counts)

    def guesses(self, entries: Sequence[Entry]) -> list[str]:
        """Names of which no word is known: their scores follow from spelling alone."""
        return [entry.name for entry in entries if not self.text.knows(entry.name)]

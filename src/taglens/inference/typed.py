"""Tags that a person types: names and descriptions become label embeddings, to be asked of a picture's tokens.

Loads nothing until the first such tag is asked for: the second graph and the text encoder cost time and memory that
tagging with the model's own vocabulary never needs.
Shapes: B images, N tokens, K token width, U typed labels, D texts of a label, L text width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from taglens.errors import UsageError
from taglens.language.descriptions import prompts
from taglens.vocabulary import Entry

if TYPE_CHECKING:
    from taglens.inference.engines import Ask
    from taglens.language.text_encoder import TextEncoder

Array = npt.NDArray[np.float32]


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
    load_text: Callable[[], TextEncoder]
    threshold: float

    @cached_property
    def ask(self) -> Ask:
        return self.load_ask()

    @cached_property
    def text(self) -> TextEncoder:
        return self.load_text()

    def embed(self, entries: Sequence[Entry]) -> Labels:
        """The tags' names and descriptions, embedded.

        Raises:
            UsageError: a name or description without a letter or digit.
        """
        rows = []
        for entry in entries:
            try:
                rows.append(self.text(prompts(entry)))
            except UsageError as error:
                raise UsageError(f"tag {entry.name!r}: {error}") from None
        counts = np.array([len(row) for row in rows], np.int64)
        table = np.zeros((len(rows), int(counts.max(initial=1)), self.text.width), np.float32)
        for number, row in enumerate(rows):
            table[number, : len(row)] = row
        return Labels(table, counts)

    def guesses(self, entries: Sequence[Entry]) -> list[str]:
        """Names of which no word is known: their scores follow from spelling alone."""
        return [entry.name for entry in entries if not self.text.knows(entry.name)]

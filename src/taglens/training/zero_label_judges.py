"""What tells a good caption of a picture from a bad one without anybody's caption: a tagger, or an aligner.

Knows scores of tags and unit vectors of pictures, by the pictures' numbers; refuses to know who wrote the captions.
Shapes: N pictures, T tags, B captions, E width of the vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from taglens.errors import MismatchError
from taglens.inference.alignment import Embedded, stacked
from taglens.inference.captioning import guiding
from taglens.inference.tag_overlap import likely
from taglens.inference.tagger import Tagger
from taglens.language.parser import parse_lines
from taglens.language.text_tags import TextTags
from taglens.language.word_lists import packaged
from taglens.training.zero_label_settings import Judges
from taglens.vocabulary import Vocabulary

Array = npt.NDArray[np.float32]
# Sentences to the columns of the tags that each says, parents left out; `taglens.language.text_tags.TextTags` is one.
Said = Callable[[Iterable[str]], list[frozenset[int]]]

# A tag is denied where its score, and that of all that imply it, stays below this share of its threshold. Between
# the two nobody is sure, and a caption may say it or not.
DENIED = 0.5
# Of a picture's recognised tags the surest so many are missed where a caption leaves them out: people say three.
MOST = 5


@dataclass(frozen=True, slots=True)
class Agreement:
    """A caption's tags against the tagger's.

    Attributes:
        said: confident tags that it says, by themselves or by one that implies them.
        omitted: confident tags that it leaves out; denied: tags that it says and the tagger denies.
    """

    said: int
    omitted: int
    denied: int

    @property
    def score(self) -> float:
        """0 to 1: the share of what is said among all that is said, left out or wrongly said (F1)."""
        return 2 * self.said / max(2 * self.said + self.omitted + self.denied, 1)


class TagJudge:
    """How far captions and a tagger agree.

    Args:
        scores: float32 [N, T], of pictures by number.
        said: reads captions' tags, columns of the same vocabulary.

    Raises:
        MismatchError: scores of another vocabulary.
    """

    def __init__(self, scores: Array, vocabulary: Vocabulary, said: Said, *, most: int = MOST) -> None:
        if scores.ndim != 2 or scores.shape[1] != len(vocabulary):
            raise MismatchError(
                "scores and vocabulary do not fit",
                expected=f"[pictures, {len(vocabulary)}] for {vocabulary.ref}",
                found=f"shape {scores.shape}",
                cure="Take both from one model.",
            )
        self._vocabulary = vocabulary
        self._said = said
        self._known: dict[str, frozenset[int]] = {}
        self._denied = likely(vocabulary, scores) < DENIED * vocabulary.least()
        position = vocabulary.position
        self._sure = [
            frozenset(position(tag.id) for tag in guiding(vocabulary.select(row), vocabulary, most=most))
            for row in scores
        ]

    def __call__(self, numbers: Sequence[int], captions: Sequence[str]) -> Array:
        """`Agreement.score` [B] of a caption about each of the pictures at ``numbers``."""
        return np.array([each.score for each in self.agreements(numbers, captions)], np.float32)

    def agreements(self, numbers: Sequence[int], captions: Sequence[str]) -> list[Agreement]:
        # Own captions repeat themselves, and parsing is what takes the time.
        fresh = list(dict.fromkeys(text for text in captions if text not in self._known))
        self._known.update(zip(fresh, self._said(fresh), strict=True))
        return [
            self._agreement(number, self._known[text]) for number, text in zip(numbers, captions, strict=True)
        ]

    def _agreement(self, number: int, said: frozenset[int]) -> Agreement:
        sure = self._sure[number]
        hits = len(sure & self._vocabulary.with_parents(said))
        return Agreement(hits, len(sure) - hits, sum(bool(self._denied[number, column]) for column in said))


class AlignerJudge:
    """How near captions are to pictures in an aligner's space.

    Args:
        pictures: float32 [N, E], unit vectors by number.
        texts: captions to unit vectors [B, E]; a caption without a word never reaches it.
    """

    def __init__(self, pictures: Array, texts: Callable[[Sequence[str]], Array]) -> None:
        self._pictures = pictures
        self._texts = texts
        self._known: dict[str, Array] = {}

    def __call__(self, numbers: Sequence[int], captions: Sequence[str]) -> Array:
        """Cosines [B]; 0 for a caption without a letter or digit, which is nowhere."""
        fresh = [text for text in dict.fromkeys(captions) if text not in self._known and _says(text)]
        if fresh:
            self._known.update(zip(fresh, self._texts(fresh), strict=True))
        return np.array(
            [
                float(self._pictures[number] @ self._known[text]) if _says(text) else 0.0
                for number, text in zip(numbers, captions, strict=True)
            ],
            np.float32,
        )


def _says(text: str) -> bool:
    return any(character.isalnum() for character in text)


@dataclass(frozen=True, slots=True, eq=False)
class Looked:
    """What a model makes of pictures by number: scores float32 [N, T], and unit vectors [N, E] where it aligns."""

    scores: Array
    vectors: Array | None


def look_at(
    tagger: Tagger, pictures: Sequence[Path], *, progress: Callable[[int], None] | None = None
) -> Looked:
    """Look at pictures' files. Raises DataError where one cannot be read."""
    rows: list[Embedded] = []
    for row in tagger.embed(pictures):
        rows.append(row)
        if progress:
            progress(len(rows))
    vectors = stacked(rows)
    scores = np.stack([row.scores for row in rows if row.scores is not None])
    return Looked(scores, vectors if tagger.aligns else None)


def judges_of(tagger: Tagger, looked: Looked, scorer: Tagger, scored: Looked) -> Judges:
    """Judges of pictures by number: the tagger's tags, and the scorer's aligner where it has one.

    Args:
        looked, scored: what the tagger and the scorer, who may be one, make of the pictures.
    """
    said = TextTags(tagger.vocabulary, packaged(), parse_lines)
    tags = TagJudge(looked.scores, tagger.vocabulary, said)
    if scored.vectors is None:
        return Judges(tags, f"agreement with the tags of {tagger.ref}", tags=tags, tagger=tagger.ref)
    aligned = AlignerJudge(scored.vectors, scorer.embed_text)
    name = f"the aligner of {scorer.ref}"
    return Judges(aligned, name, tags=tags, reward=aligned, tagger=tagger.ref)

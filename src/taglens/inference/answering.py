"""Answers to questions about pictures whose tokens and tags' scores are known (Tag2Text 1.10).

A question and the picture's tags are read together, looking at the picture, by what reads a caption's tags; what
writes captions writes the answer, beginning with [DEC] alone. Knows questions, words and the search; knows nothing of
files of pictures.
Shapes: B pictures, R questions, N image tokens, C their width, T tags.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from taglens.errors import UsageError
from taglens.inference.captioning import CaptionWriter, distinct, guiding, with_given
from taglens.inference.engines import Output
from taglens.inference.generation import Beams, Bounds, beam_search
from taglens.inference.pictures import Picture, Ready
from taglens.inference.sources import Source
from taglens.language.caption_text import asked
from taglens.results import Failure, significant, to_line
from taglens.vocabulary import Vocabulary

Array = npt.NDArray[np.float32]
Pair: TypeAlias = tuple[Picture, str]

# Questions that go through the network at once; a picture may have hundreds.
_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class AnswerSearch:
    """How answers are searched for.

    Attributes:
        beams: open answers a question; 1 takes the likeliest piece, again and again.
        max_length: most pieces of an answer, [DEC] and the end mark included.
    """

    beams: int = 3
    max_length: int = 12

    def __post_init__(self) -> None:
        if self.beams < 1:
            raise UsageError(f"beams must be 1 or more, found {self.beams}")
        if self.max_length < 2:
            raise UsageError(f"an answer needs a max_length of 2 or more, found {self.max_length}")


@dataclass(frozen=True, slots=True)
class Answered:
    """One question's row.

    Attributes:
        source, source_bytes: the picture; see `taglens.results.Prediction`.
        question: as it was asked.
        answer: None on error.
        score: the model's probability of this answer, its end included, 0 to 1; None on error.
        guide_tags: what the model read beside the question; None on error.
        notes: what was done to picture and question that their owner may want to know.
    """

    source: str
    question: str
    answer: str | None
    score: float | None
    guide_tags: tuple[str, ...] | None
    model: str
    notes: tuple[str, ...] = ()
    error: Failure | None = None
    source_bytes: str | None = None

    def to_dict(self) -> dict[str, Any]:
        row: dict[str, Any] = {"source": self.source}
        if self.source_bytes is not None:
            row["source_bytes"] = self.source_bytes
        row |= {
            "question": self.question,
            "answer": self.answer,
            "score": None if self.score is None else significant(self.score),
            "guide_tags": None if self.guide_tags is None else list(self.guide_tags),
            "model": self.model,
            "notes": list(self.notes),
            "error": None if self.error is None else self.error.to_dict(),
        }
        return row

    def to_json(self) -> str:
        return to_line(self.to_dict())


@dataclass(frozen=True, slots=True)
class Found:
    """An answer, its probability, the tags that were read beside the question, and notes."""

    answer: str
    score: float
    guide: tuple[str, ...]
    notes: tuple[str, ...]


class Answering:
    """Answers questions, guided by tags: the user's, those recognised, or both.

    Args:
        writer: None where the model has none.
        vocabulary: what the columns of the scores mean, with the thresholds at which a tag is recognised.
        ref: the model's name, for rows and messages.
        given: the user's tags, any words; they are read first.
        threshold: in place of the tags' own.
        recognise: whether recognised tags guide the answers at all.

    Raises:
        UsageError: a model that was not taught to answer, or an answer longer than it can write.
    """

    def __init__(
        self,
        writer: CaptionWriter | None,
        vocabulary: Vocabulary,
        *,
        ref: str,
        given: Sequence[str] = (),
        threshold: float | None = None,
        recognise: bool = True,
        search: AnswerSearch = AnswerSearch(),
    ) -> None:
        if writer is None or not writer.answers:
            does = "gives tags" if writer is None else "writes captions"
            raise UsageError(
                f"{ref} {does} and was not taught to answer questions; train a captioner with questions, which "
                "taglens questions makes from captions, or use a model that was"
            )
        if search.max_length > writer.lengths[-1]:
            raise UsageError(
                f"max_length {search.max_length} cannot be: answers of this model have at most "
                f"{writer.lengths[-1]} pieces"
            )
        self.given = distinct(given)
        self._writer = writer
        self._text = writer.text
        self._vocabulary = vocabulary
        self._ref = ref
        self._threshold = threshold
        self._recognise = recognise
        self._search = search

    def __call__(
        self, tokens: Array, scores: Sequence[Array] | Array, questions: Sequence[Sequence[str]]
    ) -> list[list[Found]]:
        """Answers to each picture's questions, by tokens [B, N, C] and the tags' scores [B, T].

        Raises:
            ModelError: the model's scores are not finite.
        """
        guides = [self._guide(row) for row in scores]
        pairs = [(place, text) for place, texts in enumerate(questions) for text in texts]
        found: list[list[Found]] = [[] for _ in questions]
        for start in range(0, len(pairs), _AT_ONCE):
            some = pairs[start : start + _AT_ONCE]
            for (place, text), (answer, score, ended) in zip(
                some, self._write(tokens, guides, some), strict=True
            ):
                notes = self._notes(text, guides[place], ended=ended)
                found[place].append(Found(answer, score, guides[place], notes))
        return found

    def rows(
        self,
        group: Sequence[Ready],
        output: Output | None,
        scores: Sequence[Array] | Array,
        waiting: deque[tuple[str, ...]],
    ) -> Iterator[Answered]:
        """Rows of a group of pictures, whose questions stand first in ``waiting`` and are taken from there.

        Args:
            output, scores: of those that could be read; None and none where none could.
        """
        questions = [waiting.popleft() for _ in group]
        well = [texts for ready, texts in zip(group, questions, strict=True) if ready.error is None]
        found = iter([] if output is None else self(output.tokens, scores, well))
        for ready, texts in zip(group, questions, strict=True):
            if ready.error is not None:
                failure = Failure.of(ready.error)
                for text in texts:
                    yield unanswered(ready.source, text, failure, model=self._ref, notes=ready.notes)
                continue
            for text, one in zip(texts, next(found), strict=True):
                yield Answered(
                    source=ready.source.shown,
                    source_bytes=ready.source.source_bytes,
                    question=text,
                    answer=one.answer,
                    score=one.score,
                    guide_tags=one.guide,
                    model=self._ref,
                    notes=(*ready.notes, *one.notes),
                )

    def _guide(self, scores: Array) -> tuple[str, ...]:
        recognised: list[str] = []
        if self._recognise:
            found = self._vocabulary.select(scores, threshold=self._threshold)
            recognised = [tag.name for tag in guiding(found, self._vocabulary, most=self._writer.most_tags)]
        return with_given(self.given, recognised)

    def _write(
        self, tokens: Array, guides: Sequence[tuple[str, ...]], pairs: Sequence[tuple[int, str]]
    ) -> Iterator[tuple[str, float, bool]]:
        """Answer, probability, and whether it ended itself, of each (picture, question)."""
        # The question goes where the first tag would: `CaptionText.question` is these pieces.
        read = [(asked(text), *guides[place]) for place, text in pairs]
        state = self._writer.look(tokens[[place for place, _ in pairs]], read)
        prompts = np.tile(np.array(self._text.answer_ids, np.int64), (len(pairs), 1))
        # No end before a piece stands. Not divided by the length: what is told is the answer's probability.
        bounds = Bounds(self._text.pieces.sep, self._search.max_length, len(self._text.answer_ids) + 1)
        beams = Beams(self._search.beams, length_penalty=0.0)
        for (best,) in beam_search(self._writer.step, state, prompts, bounds, beams):
            yield self._text.read_answer(best.ids), math.exp(best.score), best.ended

    def _notes(self, question: str, guide: tuple[str, ...], *, ended: bool) -> tuple[str, ...]:
        notes = []
        pieces = self._text.pieces.ids(asked(question))[1:-1]
        read, whole = self._text.whole_question(question, guide)
        if read < len(pieces):
            notes.append(
                f"the question was cut to its first {read} of {len(pieces)} word pieces: the model has no room for "
                "more"
            )
        if whole < len(guide):
            notes.append(
                f"{whole} of {len(guide)} guide tags were read whole: the model has no room for more"
            )
        if unknown := pieces.count(self._text.pieces.unknown):
            notes.append(f"{unknown} of the question's {len(pieces)} word pieces are unknown to the model")
        if not ended:
            notes.append(f"the answer was cut at {self._search.max_length} word pieces")
        return tuple(notes)


def unanswered(
    source: Source, question: str, failure: Failure, *, model: str, notes: tuple[str, ...] = ()
) -> Answered:
    """The row of a question about a picture that cannot be used."""
    return Answered(
        source.shown, question, None, None, None, model, notes, failure, source_bytes=source.source_bytes
    )


def by_picture(asked_of: Any, waiting: deque[tuple[str, ...]]) -> Iterator[Picture]:
    """The pictures of (picture, question) pairs, one after another; each one's questions are put into ``waiting``.

    Pairs in a row that name the same picture are one picture with several questions, which is looked at once.

    Raises:
        UsageError: at once, for what is no iterable; as it is met, for what is no pair, and a question without a
            word.
    """
    if _is_pair(asked_of):
        asked_of = [asked_of]
    try:
        pairs = iter(asked_of)
    except TypeError:
        raise UsageError(
            f"expected (picture, question) pairs, came {type(asked_of).__name__}; give [(picture, question), …]"
        ) from None
    return _grouped(pairs, waiting)


def require_question(question: str) -> str:
    """The question unchanged. Raises UsageError where it holds no letter or digit."""
    if not any(map(str.isalnum, question)):
        raise UsageError(f'expected a question with a word in it, found {question!r}; ask "what is this?"')
    return question


def _grouped(pairs: Iterable[Any], waiting: deque[tuple[str, ...]]) -> Iterator[Picture]:
    picture: Any = None
    questions: list[str] = []
    for pair in pairs:
        if not _is_pair(pair):
            raise UsageError(f"expected a (picture, question) pair, found {str(pair)[:60]!r}")
        if questions and not _same(picture, pair[0]):
            waiting.append(tuple(questions))
            yield picture
            questions = []
        picture = pair[0]
        questions.append(require_question(pair[1]))
    if questions:
        waiting.append(tuple(questions))
        yield picture


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], str)


def _same(one: Any, other: Any) -> bool:
    """Whether two pictures are one: the same object, or the same name. Pixels are not compared."""
    if one is other:
        return True
    named = (str, os.PathLike, Source)
    return type(one) is type(other) and isinstance(one, named) and bool(one == other)

"""Scoring answers to questions about pictures by what people answered: VQAv2's accuracy, per type, beside baselines.

Knows what the printed object says. Refuses to know models: answers come as texts (`taglens.evaluation.answered` reads
them from files). What makes two answers the same is `taglens.evaluation.answer_words`'s.

What counts
- A question without an answer (its picture could not be read, or nobody wrote one) is left out of every figure.
- With ten votes the accuracy is VQAv2's: min(same answers / 3, 1), averaged over leaving out each of the ten people.
  That is min(3 n / 10, 1) for n who gave the answer; with another number of votes v it is min(3 n / v, 1), so that a
  lone vote decides, and a third of the people are enough, as of ten four are.
- Baselines answer without looking: the most common answer of all, of the questions of one kind (VQAv2: with the same
  opening words; else: of the same type), and of the same question. They are counted on other rows (train) where there
  are some, and scored on the very rows that the answers are scored on.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from taglens.data.questions import Question
from taglens.errors import DataError, UsageError
from taglens.evaluation.answer_words import normalised
from taglens.language.caption_text import asked

ChosenFrom = Literal["train", "evaluated"]

_ENOUGH = 3  # of ten people: VQAv2
UNTYPED = "untyped"


def accuracy(answer: str, votes: Sequence[str]) -> float:
    """How right an answer is by the votes, in [0, 1]; all as texts, compared as VQAv2 compares them.

    Raises:
        UsageError: there is no vote.
    """
    if not votes:
        raise UsageError("an answer cannot be scored without a vote; leave the question out")
    return _accuracy(normalised(answer), Counter(map(normalised, votes)))


def _accuracy(answer: str, votes: Counter[str]) -> float:
    return min(_ENOUGH * votes[answer] / votes.total(), 1.0)


@dataclass(frozen=True, slots=True)
class AnswerFigures:
    """Accuracies, fractions in [0, 1]: of all questions, and type -> (questions, accuracy)."""

    accuracy: float
    per_type: Mapping[str, tuple[int, float]]

    def to_dict(self) -> dict[str, Any]:
        return {
            "accuracy": self.accuracy,
            "per_type": {
                type: {"questions": count, "accuracy": share}
                for type, (count, share) in sorted(self.per_type.items())
            },
        }


@dataclass(frozen=True, slots=True)
class AnswerReport:
    """What `evaluate_answers` found.

    Attributes:
        images: pictures asked about.
        questions: rows evaluated, failed ones among them.
        failed: rows without an answer, as (picture, question).
        common: the most common answer of all.
        baselines: name -> figures.
    """

    images: int
    questions: int
    failed: tuple[tuple[str, str], ...]
    figures: AnswerFigures
    distinct: int
    common: str
    chosen_from: ChosenFrom
    baselines: Mapping[str, AnswerFigures]

    def to_dict(self) -> dict[str, Any]:
        return {
            "images": self.images,
            "questions": self.questions,
            "failed": len(self.failed),
            **self.figures.to_dict(),
            "distinct_answers": self.distinct,
            "baselines": {
                "chosen_from": self.chosen_from,
                "most_common_answer": self.common,
                **{name: figures.to_dict() for name, figures in self.baselines.items()},
            },
        }


@dataclass(frozen=True, slots=True)
class _Row:
    """A question with its votes as they are compared."""

    question: Question
    votes: Counter[str]

    @classmethod
    def of(cls, question: Question) -> _Row:
        if not question.answers:
            raise UsageError(
                f"{question.image}: {question.question!r} has no answers to score by; leave it out"
            )
        return cls(question, Counter(map(normalised, question.answers)))


def evaluate_answers(
    questions: Sequence[Question], answers: Sequence[str | None], *, others: Sequence[Question] = ()
) -> AnswerReport:
    """Compare one answer to each question with what people answered.

    Args:
        questions: each with at least one vote.
        answers: None where there is none.
        others: questions to count the baselines' answers on; none: ``questions``.

    Raises:
        UsageError: no questions, not as many answers, or a question without votes.
        DataError: no question has an answer.
    """
    if not questions or len(questions) != len(answers):
        raise UsageError(
            f"{len(answers)} answers for {len(questions)} questions; expected one for each, or None"
        )
    kept = [
        (_Row.of(question), normalised(text))
        for question, text in zip(questions, answers, strict=True)
        if text is not None
    ]
    if not kept:
        raise DataError(
            f"none of the {len(questions)} questions has an answer, such as {questions[0].question!r} about "
            f"{questions[0].image}; look whether questions and answers belong together"
        )
    rows = [row for row, _ in kept]
    known = [_Row.of(one) for one in others] if others else rows
    common = _Prior(known, lambda _: ())
    baselines = {
        "most_common": common,
        "most_common_per_type": _Prior(known, lambda question: (question.group,)),
        "most_common_per_question": _Prior(
            known, lambda question: (question.group, asked(question.question).casefold())
        ),
    }
    return AnswerReport(
        images=len({question.path for question in questions}),
        questions=len(questions),
        failed=tuple(
            (question.image, question.question)
            for question, text in zip(questions, answers, strict=True)
            if text is None
        ),
        figures=_figures(rows, (text for _, text in kept)),
        distinct=len({text for _, text in kept}),
        common=common(rows[0].question),
        chosen_from="train" if others else "evaluated",
        baselines={
            name: _figures(rows, (prior(row.question) for row in rows)) for name, prior in baselines.items()
        },
    )


class _Prior:
    """Answers by what most questions with the same key are answered; a key it never met, by a shorter one."""

    def __init__(self, rows: Iterable[_Row], key: Callable[[Question], tuple[str, ...]]) -> None:
        self._key = key
        counts: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
        for row in rows:
            answer = _commonest(row.votes)
            whole = key(row.question)
            for length in range(len(whole) + 1):
                counts[whole[:length]][answer] += 1
        self._answers = {key: _commonest(found) for key, found in counts.items()}

    def __call__(self, question: Question) -> str:
        key = self._key(question)
        while key not in self._answers:
            key = key[:-1]
        return self._answers[key]


def _commonest(counts: Counter[str]) -> str:
    """Of equals the first in the alphabet, so that the order of rows changes nothing."""
    return min(counts, key=lambda answer: (-counts[answer], answer))


def _figures(rows: Sequence[_Row], answers: Iterable[str]) -> AnswerFigures:
    sums: dict[str, float] = defaultdict(float)
    counts: Counter[str] = Counter()
    for row, answer in zip(rows, answers, strict=True):
        type = row.question.type or UNTYPED
        sums[type] += _accuracy(answer, row.votes)
        counts[type] += 1
    return AnswerFigures(
        sum(sums.values()) / counts.total(),
        {type: (count, sums[type] / count) for type, count in counts.items()},
    )

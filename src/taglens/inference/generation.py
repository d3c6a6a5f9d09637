"""Searches for a text over any step function: greedy, beams, sampling from the nucleus.

Knows logits, lengths and scores, all in numpy; knows no network, no words and no pictures. Each picture's text is a
function of that picture's logits alone: who else is in the batch changes nothing. Ties go to the earlier row and the
smaller number, so the same logits always give the same text.
Shapes: B pictures, R rows (several to a picture), P pieces of the prompt, V pieces of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from taglens.errors import ModelError, UsageError

Ids = NDArray[np.int64]
Scores = NDArray[np.float64]
State = TypeVar("State")


class Step(Protocol[State]):
    """One step of a model that keeps what it has read.

    Row r of the result goes on from row ``rows[r]`` of ``state`` with pieces ``ids[r]``; a row may be taken up
    several times or not at all.

    Returns:
        logits [R, V] of the piece after the last one given, and the state of these R rows.
    """

    def __call__(self, ids: Ids, state: State, rows: Ids, /) -> tuple[NDArray[Any], State]: ...


@dataclass(frozen=True, slots=True)
class Bounds:
    """What every search keeps to.

    Attributes:
        end: the piece that ends a text.
        max_length: most pieces, prompt and end included.
        min_length: no end before this many pieces stand, prompt included.
        repetition_penalty: pieces that stand already, the prompt's too, are made this much less likely: negative
            scores are multiplied by it, positive ones divided. 1 does nothing.
    """

    end: int
    max_length: int = 30
    min_length: int = 10
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        if self.end < 0:
            raise UsageError(f"the end piece must be at least 0, found {self.end}")
        if not 0 <= self.min_length <= self.max_length:
            raise UsageError(
                f"lengths must hold 0 <= min <= max, found min {self.min_length}, max {self.max_length}"
            )
        if not 0.0 < self.repetition_penalty < float("inf"):
            raise UsageError(f"the repetition penalty must be above 0, found {self.repetition_penalty}")


@dataclass(frozen=True, slots=True)
class Written:
    """One text that a search found.

    Attributes:
        ids: its pieces, the prompt and, where it ended itself, the end piece included.
        score: the mean log-probability that the search saw: the sum over what was written, divided by the length
            (prompt included, end piece not) to the power of the length penalty.
        ended: whether it ended itself, rather than being cut at the greatest length.
    """

    ids: tuple[int, ...]
    score: float
    ended: bool


def greedy(step: Step[State], state: State, prompts: Ids, bounds: Bounds) -> list[Written]:
    """The likeliest piece, again and again.

    Args:
        state: of B rows, before the prompt.
        prompts: [B, P].

    Returns:
        one text per picture. Its score is of the model's own probabilities, without penalty or forbidden end.

    Raises:
        UsageError: a prompt that leaves no room.
        ModelError: logits of another shape, or not numbers.
    """
    return _one_by_one(step, state, prompts, bounds, lambda logits, _: int(np.argmax(logits)))


@dataclass(frozen=True, slots=True)
class Sampling:
    """How pieces are drawn.

    Attributes:
        seed: the same seed, picture and model give the same text; each picture draws from a stream of its own that
            begins at the seed, so batches do not matter.
        top_p: only the likeliest pieces that together have this probability (the nucleus) are drawn from.
        top_k: only so many of the likeliest; 0 for all. 50 is what the published models use without saying so.
        temperature: below 1 sharpens, above 1 flattens.
    """

    seed: int = 0
    top_p: float = 0.9
    top_k: int = 50
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.seed < 0 or self.top_k < 0:
            raise UsageError(f"seed and top_k must be at least 0, found seed {self.seed}, top_k {self.top_k}")
        if not 0.0 < self.top_p <= 1.0:
            raise UsageError(f"top_p must be in (0, 1], found {self.top_p}")
        if not 0.0 < self.temperature < float("inf"):
            raise UsageError(f"the temperature must be above 0, found {self.temperature}")


def sample(
    step: Step[State], state: State, prompts: Ids, bounds: Bounds, sampling: Sampling
) -> list[Written]:
    """Pieces drawn from the nucleus; arguments, scores and errors as for `greedy`."""
    streams = [np.random.default_rng(sampling.seed) for _ in prompts]

    def draw(logits: Scores, picture: int) -> int:
        order, chances = nucleus(logits, sampling)
        drawn = np.searchsorted(np.cumsum(chances), streams[picture].random(), side="right")
        return int(order[min(int(drawn), len(order) - 1)])

    return _one_by_one(step, state, prompts, bounds, draw)


def nucleus(logits: Scores, sampling: Sampling) -> tuple[Ids, Scores]:
    """The pieces that may be drawn from logits [V], likeliest first, and their chances, which sum to 1."""
    order = np.argsort(-logits, kind="stable")
    order = order[np.isfinite(logits[order])]
    if sampling.top_k:
        order = order[: sampling.top_k]
    chances = np.exp(log_softmax(logits[order] / sampling.temperature))
    # The first piece that reaches the share still belongs to it.
    before = np.cumsum(chances) - chances
    inside = before < sampling.top_p
    inside[0] = True
    kept: Scores = chances[inside] / chances[inside].sum()
    return order[inside], kept


class _Choice(Protocol):
    def __call__(self, logits: Scores, picture: int, /) -> int: ...


def _one_by_one(
    step: Step[State], state: State, prompts: Ids, bounds: Bounds, choose: _Choice
) -> list[Written]:
    """Searches that keep one row per picture; pictures that have ended are asked no more."""
    texts = [list(map(int, prompt)) for prompt in checked_prompts(prompts, bounds)]
    sums = [0.0] * len(texts)
    open_ = list(range(len(texts)))
    ids, rows = np.asarray(prompts, np.int64), np.arange(len(texts))
    while open_:
        logits, state = read_logits(step, ids, state, rows, bounds)
        going_on = []
        for row, picture in enumerate(open_):
            plain = log_softmax(logits[row])
            piece = choose(restrained(logits[row], texts[picture], bounds), picture)
            sums[picture] += float(plain[piece])
            texts[picture].append(piece)
            if piece != bounds.end and len(texts[picture]) < bounds.max_length:
                going_on.append((row, picture))
        open_ = [picture for _, picture in going_on]
        rows = np.array([row for row, _ in going_on], np.int64)
        ids = np.array([[texts[picture][-1]] for picture in open_], np.int64)
    found = []
    for text, total in zip(texts, sums, strict=True):
        ended = text[-1] == bounds.end
        found.append(Written(tuple(text), total / (len(text) - ended), ended))
    return found


@dataclass(frozen=True, slots=True)
class Beams:
    """How beams are kept.

    Attributes:
        count: beams per picture.
        returned: texts per picture, best first.
        length_penalty: the power of the length by which sums of log-probabilities are divided; above 0 favours
            longer texts.
        stop_early: end a picture's search as soon as ``count`` texts have ended. Otherwise it goes on while the best
            open text, at its present length, could still beat the worst of them.
    """

    count: int = 3
    returned: int = 1
    length_penalty: float = 1.0
    stop_early: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.returned <= self.count:
            raise UsageError(
                f"beams must hold 1 <= returned <= count, found returned {self.returned}, count {self.count}"
            )


@dataclass(slots=True)
class _Open:
    """A text that a beam still writes: the state's row it goes on from, and the sum of its log-probabilities."""

    ids: list[int]
    total: float
    row: int


@dataclass(slots=True)
class _Picture:
    """One picture's search: open texts, and the best that have ended."""

    beams: Beams
    open: list[_Open]
    ended: list[Written] = field(default_factory=list)
    done: bool = False

    def keep(self, ids: Sequence[int], total: float, *, end: int | None) -> None:
        """Take a finished text in; beyond ``count``, the worst goes, of equals the oldest."""
        text = tuple(ids) if end is None else (*ids, end)
        score = self.normalised(total, len(ids))
        if len(self.ended) == self.beams.count and score <= self.worst:
            return
        self.ended.append(Written(text, score, end is not None))
        if len(self.ended) > self.beams.count:
            self.ended.remove(min(self.ended, key=lambda one: one.score))

    def normalised(self, total: float, length: int) -> float:
        # Parity: division by the whole length, prompt included, as the published results were made.
        return float(total / length**self.beams.length_penalty)

    @property
    def worst(self) -> float:
        return min(one.score for one in self.ended)

    def is_settled(self, best_total: float, length: int) -> bool:
        """Whether enough texts have ended and none that is open looks better."""
        if len(self.ended) < self.beams.count:
            return False
        return self.beams.stop_early or self.worst >= self.normalised(best_total, length)

    def best(self) -> list[Written]:
        # Of equals, the one that came last: stable order, read from behind.
        return sorted(self.ended, key=lambda one: one.score)[::-1][: self.beams.returned]


def beam_search(
    step: Step[State], state: State, prompts: Ids, bounds: Bounds, beams: Beams = Beams()
) -> list[list[Written]]:
    """The best texts that keeping ``beams.count`` open ones per picture finds.

    Each step takes the 2 x count best continuations of a picture's open texts. An end among the first ``count`` of
    them makes a finished text; the best ``count`` others stay open. The repetition penalty and the forbidden end act
    on log-probabilities, which are not normalised again. What is open at the greatest length counts as finished.

    Args:
        state: of B rows, before the prompt.
        prompts: [B, P].

    Returns:
        ``beams.returned`` texts per picture (fewer where fewer exist), best first.

    Raises:
        UsageError: a prompt that leaves no room.
        ModelError: logits of another shape, or not numbers.
    """
    texts = [list(map(int, prompt)) for prompt in checked_prompts(prompts, bounds)]
    pictures = [_Picture(beams, [_Open(text, 0.0, row)]) for row, text in enumerate(texts)]
    ids, rows = np.asarray(prompts, np.int64), np.arange(len(texts))
    length = ids.shape[1]
    while length < bounds.max_length and (active := [one for one in pictures if not one.done]):
        logits, state = read_logits(step, ids, state, rows, bounds)
        first = 0
        for picture in active:
            after = first + len(picture.open)
            _advance(picture, logits[first:after], first, bounds)
            first = after
        length += 1
        ids, rows = _renumber(active)
    for picture in pictures:
        if not picture.done:
            for one in picture.open:
                picture.keep(one.ids, one.total, end=None)
    return [picture.best() for picture in pictures]


def _advance(picture: _Picture, logits: Scores, first: int, bounds: Bounds) -> None:
    """One step of one picture: logits [K, V] of its K open texts, which stand at rows ``first`` and after."""
    count, length = picture.beams.count, len(picture.open[0].ids)
    totals = np.stack(
        [
            one.total + restrained(log_softmax(row), one.ids, bounds)
            for one, row in zip(picture.open, logits, strict=True)
        ]
    )
    going_on: list[_Open] = []
    best = top_places(totals.ravel(), 2 * count)
    for rank, number in enumerate(best):
        beam, piece = divmod(int(number), totals.shape[1])
        total, text = float(totals[beam, piece]), picture.open[beam].ids
        if piece != bounds.end:
            going_on.append(_Open([*text, piece], total, first + beam))
        elif rank < count:
            picture.keep(text, total, end=bounds.end)
        if len(going_on) == count:
            break
    picture.open = going_on
    picture.done = not going_on or picture.is_settled(float(totals.ravel()[best[0]]), length)


def _renumber(pictures: list[_Picture]) -> tuple[Ids, Ids]:
    """The last pieces [R, 1] of all open texts, and the rows [R] they go on from."""
    open_ = [one for picture in pictures if not picture.done for one in picture.open]
    return (
        np.array([[one.ids[-1]] for one in open_], np.int64).reshape(-1, 1),
        np.array([one.row for one in open_], np.int64),
    )


def top_places(scores: Scores, count: int) -> Ids:
    """The places of the ``count`` highest scores, highest first, of equals the first; never one of -inf."""
    count = min(count, int(np.isfinite(scores).sum()))
    least = -np.partition(-scores, count - 1)[count - 1]
    among = np.flatnonzero(scores >= least)
    return among[np.argsort(-scores[among], kind="stable")][:count]


def restrained(scores: Scores, ids: Sequence[int], bounds: Bounds) -> Scores:
    """Scores [V] with what stands in ``ids`` made less likely, and without an end that would come too soon."""
    scores = scores.copy()
    if bounds.repetition_penalty != 1.0:
        there = np.unique(np.asarray(ids, np.int64))
        found = scores[there]
        scores[there] = np.where(
            found < 0, found * bounds.repetition_penalty, found / bounds.repetition_penalty
        )
    if len(ids) < bounds.min_length:
        scores[bounds.end] = -np.inf
    if not np.isfinite(scores).any():
        raise ModelError(
            f"no piece can follow after {len(ids)}: the end may not come yet, all else is ruled out"
        )
    return scores


def log_softmax(logits: Scores) -> Scores:
    """Log-probabilities [V] of logits [V]."""
    shifted = logits - logits.max()
    found: Scores = shifted - np.log(np.exp(shifted).sum())
    return found


def read_logits(step: Step[State], ids: Ids, state: State, rows: Ids, bounds: Bounds) -> tuple[Scores, State]:
    """One step whose logits [R, V] are numbers. Raises ModelError when they are not, or of another shape."""
    found, state = step(ids, state, rows)
    logits = np.asarray(found, np.float64)
    if logits.ndim != 2 or len(logits) != len(rows) or logits.shape[1] <= bounds.end:
        raise ModelError(
            f"a step for {len(rows)} rows gave logits of shape {logits.shape}; expected [{len(rows)}, V] "
            f"with V above the end piece {bounds.end}"
        )
    if np.isnan(logits).any() or np.isposinf(logits).any():
        raise ModelError("a step gave logits that are not finite; the model is damaged or overflows")
    return logits, state


def checked_prompts(prompts: Ids, bounds: Bounds) -> Ids:
    """Prompts [B, P] unchanged. Raises UsageError for another shape, or when they leave no room."""
    prompts = np.asarray(prompts)
    if prompts.ndim != 2 or prompts.shape[1] < 1:
        raise UsageError(f"prompts must be [B, P] with at least one piece each, found shape {prompts.shape}")
    if prompts.shape[1] >= bounds.max_length:
        raise UsageError(
            f"a prompt of {prompts.shape[1]} pieces leaves no room in {bounds.max_length}; raise the greatest length"
        )
    return prompts

"""Beam search for a text that says what it must: each demand, in one of its forms, woven in where it costs least.

Knows logits, and demands as forms, rows of pieces; which pieces are no words of their own it is told. Knows no words.
What a text says follows from its pieces alone, whoever proposed them. Open texts are kept in banks by how many pieces
they still lack to say all, so that one that has just begun a rare word is not beaten by those that shun it; and since
every text can take a piece that it lacks, all that can be said within the greatest length is said.
Same logits, same text; each picture's is a function of its own logits and demands. The free search is
`taglens.inference.generation`, and without demands this one finds what that one does.
Shapes: B pictures, R rows (several to a picture), P pieces of the prompt, V pieces of the vocabulary, C demands of a
picture; sets of demands are whole numbers, demand c being bit c.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from taglens.errors import ModelError, UsageError
from taglens.inference.generation import (
    Beams,
    Bounds,
    Ids,
    Scores,
    State,
    Step,
    Written,
    checked_prompts,
    log_softmax,
    read_logits,
    restrained,
    top_places,
)

Form: TypeAlias = tuple[int, ...]
Demand: TypeAlias = tuple[Form, ...]  # one of its forms is to be said; without forms it cannot be

# Every demand brings a bank of open texts or more.
MOST_DEMANDS = 8


@dataclass(frozen=True, slots=True, eq=False)
class Joints:
    """Which pieces are no words of their own, [V] each: a form counts where neither neighbour belongs to its words.

    Attributes:
        before: the piece belongs to the word before it.
        after: what follows the piece belongs to its word.
    """

    before: NDArray[np.bool_]
    after: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Answer:
    """A text and the demands, by number, that it does not say."""

    text: Written
    unmet: tuple[int, ...]


class _Place(NamedTuple):
    """What of a text matters to demands.

    Attributes:
        said: demands that stand in it, whatever follows.
        ending: demands that a form ending here says, unless the next piece belongs to its word.
        begun: nodes of the forms that end here unfinished, or finished and can be longer.
        glued: the next piece belongs to a word that stands already.
    """

    said: int = 0
    ending: int = 0
    begun: tuple[int, ...] = ()
    glued: bool = False


class _Wishes:
    """The demands of a picture: where a text stands among them, what it lacks, and which pieces would help.

    Args:
        room: pieces that can be written.

    Attributes:
        wanted: demands that are sought. One with no form is not, nor are the longest when not all fit into the room.
    """

    def __init__(self, demands: Sequence[Demand], joints: Joints, *, room: int) -> None:
        self._before, self._after = joints.before.tolist(), joints.after.tolist()
        self._children: list[dict[int, int]] = [{}]
        self._ends = [0]
        self._rests: list[dict[int, int]] = [{}]
        self.count = len(demands)
        self._shortest = [min(map(len, forms), default=0) for forms in demands]
        self._forms = demands
        for number, forms in enumerate(demands):
            for form in forms:
                self._plant(form, number)
        self._moves: dict[tuple[_Place, int], _Place] = {}
        self._lacks: dict[_Place, int] = {}
        self._helps: dict[_Place, Ids] = {}
        self._sums: dict[int, int] = {}
        # What is said along with each demand, in whichever form.
        self._implied = [self._along(forms) for forms in demands]
        self.wanted = 0
        for number in sorted(range(self.count), key=lambda one: (self._shortest[one], one)):
            if self._forms[number] and self._sum(self.wanted | 1 << number) <= room:
                self.wanted |= 1 << number

    def _plant(self, form: Form, number: int) -> None:
        node = 0
        for at, piece in enumerate(form):
            rest = self._rests[node]
            rest[number] = min(rest.get(number, len(form)), len(form) - at)
            if piece not in self._children[node]:
                self._children[node][piece] = len(self._children)
                self._children.append({})
                self._ends.append(0)
                self._rests.append({})
            node = self._children[node][piece]
        self._ends[node] |= 1 << number
        self._rests[node][number] = 0

    def _along(self, forms: Demand) -> int:
        found = -1 if forms else 0
        for form in forms:
            place = _Place()
            for piece in form:
                place = self.after(place, piece)
            found &= place.said | place.ending
        return found

    def after(self, place: _Place, piece: int) -> _Place:
        """Where a text stands with one piece more."""
        known = self._moves.get((place, piece))
        if known is not None:
            return known
        joined = self._before[piece]
        starts = () if joined or place.glued else (0,)
        begun = [
            node
            for start in (*place.begun, *starts)
            if (node := self._children[start].get(piece)) is not None
        ]
        ending = 0
        for node in begun:
            ending |= self._ends[node]
        found = _Place(
            place.said if joined else place.said | place.ending,
            ending,
            tuple(node for node in begun if self._children[node]),
            self._after[piece],
        )
        self._moves[place, piece] = found
        return found

    def met(self, place: _Place) -> int:
        """The demands that a text says if it goes no further."""
        return place.said | place.ending

    def lack(self, place: _Place) -> int:
        """Pieces sure to be enough for all that is wanted. Of a text not glued, one of `helps` makes them fewer."""
        known = self._lacks.get(place)
        if known is not None:
            return known
        missing = self.wanted & ~self.met(place)
        # After a piece that takes the next into its word, one is needed before anything can begin.
        least = self._sum(missing) + place.glued if missing else 0
        for node in place.begun if missing else ():
            for piece, child in self._children[node].items():
                # Going on inside a word takes back what ended with it.
                kept = place.said if self._before[piece] else self.met(place)
                for number, rest in self._rests[child].items():
                    left = self.wanted & ~kept
                    if left >> number & 1:
                        least = min(least, 1 + rest + self._sum(left & ~self._implied[number]))
        self._lacks[place] = least
        return least

    def helps(self, place: _Place) -> Ids:
        """The pieces that go on with, or begin, a form of what is missing; in order."""
        known = self._helps.get(place)
        if known is not None:
            return known
        missing = self.wanted & ~self.met(place)
        found: set[int] = set()
        for node in (*place.begun, *(() if place.glued else (0,))):
            for piece, child in self._children[node].items():
                if any(missing >> number & 1 for number in self._rests[child]):
                    found.add(piece)
        self._helps[place] = np.array(sorted(found), np.int64)
        return self._helps[place]

    def _sum(self, demands: int) -> int:
        """The fewest pieces for a set of demands, said one after another; what another says along costs nothing."""
        known = self._sums.get(demands)
        if known is not None:
            return known
        numbers = [number for number in range(self.count) if demands >> number & 1]
        found = sum(
            self._shortest[one] for one in numbers if not any(self._covers(other, one) for other in numbers)
        )
        self._sums[demands] = found
        return found

    def _covers(self, other: int, one: int) -> bool:
        """Whether ``other`` is said instead of ``one``; of two that say each other, the first is."""
        if other == one or not self._implied[other] >> one & 1:
            return False
        return other < one or not self._implied[one] >> other & 1


@dataclass(slots=True)
class _Open:
    """A text that is still written: the state's row it goes on from, and the sum of its log-probabilities."""

    ids: list[int]
    total: float
    row: int
    place: _Place


class _Step(NamedTuple):
    """A text with one piece more; better ones come first."""

    cost: float
    beam: int
    piece: int
    place: _Place


@dataclass(slots=True)
class _Picture:
    """One picture's search: open texts bank by bank, and the best that have ended."""

    beams: Beams
    wishes: _Wishes
    open: list[_Open]
    ended: list[Answer] = field(default_factory=list)
    stuck: list[Answer] = field(default_factory=list)
    done: bool = False

    def answer(self, one: _Open, total: float, *, end: int | None) -> Answer:
        text = tuple(one.ids) if end is None else (*one.ids, end)
        met = self.wishes.met(one.place)
        unmet = tuple(number for number in range(self.wishes.count) if not met >> number & 1)
        return Answer(Written(text, self._normalised(total, len(one.ids)), end is not None), unmet)

    def keep(self, answer: Answer) -> None:
        """Take a finished text in; beyond ``count``, the worst goes, of equals the oldest."""
        if len(self.ended) == self.beams.count and self._rank(answer) <= min(map(self._rank, self.ended)):
            return
        self.ended.append(answer)
        if len(self.ended) > self.beams.count:
            self.ended.remove(min(self.ended, key=self._rank))

    def is_settled(self, best_total: float, length: int) -> bool:
        """Whether enough texts have ended and none that is open looks better."""
        if len(self.ended) < self.beams.count:
            return False
        worst = min(one.text.score for one in self.ended)
        return self.beams.stop_early or worst >= self._normalised(best_total, length)

    def best(self) -> list[Answer]:
        # Of equals, the one that came last: stable order, read from behind.
        return sorted((*self.stuck, *self.ended), key=self._rank)[::-1][: self.beams.returned]

    def _rank(self, answer: Answer) -> tuple[int, bool, float]:
        # What was woven in just before the cut leaves half a sentence; without demands it is as in the free search.
        whole = answer.text.ended or not self.wishes.wanted
        return -len(answer.unmet), whole, answer.text.score

    def _normalised(self, total: float, length: int) -> float:
        return float(total / length**self.beams.length_penalty)


def constrained_search(
    step: Step[State],
    state: State,
    prompts: Ids,
    bounds: Bounds,
    demands: Sequence[Sequence[Demand]],
    joints: Joints,
    beams: Beams = Beams(),
) -> list[list[Answer]]:
    """The best texts that say what they must.

    Each step offers every open text its own best pieces and all that go on with, or begin, a form of what it does
    not say yet. Of the texts that lack the same number of pieces the best ``beams.count`` stay open, so there are at
    most that many times 1 + the pieces of all shortest forms. None ends that does not say all that fits into the
    room; one that can no longer say it before the greatest length is given up for those that can. What is open at
    the greatest length counts as finished; what says more is better, then what ended itself, then the score.

    Args:
        state: of B rows, before the prompt.
        prompts: [B, P]; what they say does not count.
        demands: per picture C demands; the same may stand twice.

    Returns:
        ``beams.returned`` texts per picture (fewer where fewer exist), best first.

    Raises:
        UsageError: a prompt that leaves no room, too many demands, or a form that is none.
        ModelError: logits of another shape, or not numbers.
    """
    texts = [list(map(int, prompt)) for prompt in checked_prompts(prompts, bounds)]
    if len(demands) != len(texts):
        raise UsageError(f"{len(texts)} prompts and demands for {len(demands)}")
    ids, rows = np.asarray(prompts, np.int64), np.arange(len(texts))
    length = ids.shape[1]
    # Most often all pictures have the same demands, and all that was found out of them serves them all.
    made: dict[tuple[Demand, ...], _Wishes] = {}
    for each in demands:
        if (key := tuple(each)) not in made:
            _check(key, joints, end=bounds.end)
            made[key] = _Wishes(key, joints, room=bounds.max_length - length)
    pictures = [
        _Picture(beams, made[tuple(each)], [_Open(text, 0.0, row, _Place())])
        for row, (text, each) in enumerate(zip(texts, demands, strict=True))
    ]
    while length < bounds.max_length and (active := [one for one in pictures if not one.done]):
        logits, state = read_logits(step, ids, state, rows, bounds)
        if logits.shape[1] != len(joints.before):
            raise ModelError(
                f"a step gave scores of {logits.shape[1]:,} pieces; the words have {len(joints.before):,}"
            )
        first = 0
        for picture in active:
            after = first + len(picture.open)
            _advance(picture, logits[first:after], first, bounds, joints)
            first = after
        length += 1
        open_ = [one for picture in active if not picture.done for one in picture.open]
        ids = np.array([[one.ids[-1]] for one in open_], np.int64).reshape(-1, 1)
        rows = np.array([one.row for one in open_], np.int64)
    for picture in pictures:
        if not picture.done:
            for one in picture.open:
                picture.keep(picture.answer(one, one.total, end=None))
    return [picture.best() for picture in pictures]


def _check(demands: tuple[Demand, ...], joints: Joints, *, end: int) -> None:
    if len(demands) > MOST_DEMANDS:
        raise UsageError(f"a text can be made to say at most {MOST_DEMANDS} things, found {len(demands)}")
    for form in (form for forms in demands for form in forms):
        if not form or end in form or not all(0 <= piece < len(joints.before) for piece in form):
            raise UsageError(
                f"the form {form} is no row of pieces below {len(joints.before)} without the end, {end}"
            )
        if joints.before[form[0]] or joints.after[form[-1]]:
            raise UsageError(f"the form {form} does not begin and end where words do")


def _advance(picture: _Picture, logits: Scores, first: int, bounds: Bounds, joints: Joints) -> None:
    """One step of one picture: logits [K, V] of its K open texts, which stand at rows ``first`` and after."""
    length, count = len(picture.open[0].ids), picture.beams.count
    steps = _steps(picture, logits, bounds, joints)
    lack = picture.wishes.lack
    # The piece itself takes room too.
    feasible = [one for one in steps if lack(one.place) <= bounds.max_length - length - 1]
    if feasible or picture.ended:
        steps = feasible
    banks: dict[int, list[_Open]] = {}
    ends = 0
    for one in steps:
        bank = banks.setdefault(lack(one.place), [])
        before = picture.open[one.beam]
        if one.piece == bounds.end:
            # As in the free search: an end counts if it is among the best of its bank.
            if len(bank) + ends < count:
                picture.keep(picture.answer(before, -one.cost, end=bounds.end))
            ends += 1
        elif len(bank) < count:
            bank.append(_Open([*before.ids, one.piece], -one.cost, first + one.beam, one.place))
    picture.open = [one for lacking in sorted(banks) for one in banks[lacking]]
    picture.done = not picture.open or picture.is_settled(-steps[0].cost, length)


def _steps(picture: _Picture, logits: Scores, bounds: Bounds, joints: Joints) -> list[_Step]:
    """What the open texts can go on to, best first; of equals the earlier text, then the smaller piece."""
    wishes, most = picture.wishes, 2 * picture.beams.count
    found: list[_Step] = []
    for beam, (one, row) in enumerate(zip(picture.open, logits, strict=True)):
        scores = one.total + restrained(log_softmax(row), one.ids, bounds)
        lack = wishes.lack(one.place)
        if lack:
            end = float(scores[bounds.end])
            scores[bounds.end] = -np.inf
            if not np.isfinite(scores).any():
                picture.stuck.append(picture.answer(one, end, end=bounds.end))
                continue
        pieces = {*top_places(scores, most).tolist(), *wishes.helps(one.place).tolist()}
        if not lack and one.place.ending:
            # All others might make another word of what it has just said.
            pieces.add(int(np.argmax(np.where(joints.before, -np.inf, scores))))
        for piece in pieces:
            total = float(scores[piece])
            if total > -np.inf:
                place = one.place if piece == bounds.end else wishes.after(one.place, piece)
                found.append(_Step(-total, beam, piece, place))
    return sorted(found)

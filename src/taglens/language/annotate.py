"""A picture's tags by a language model that sees: who proposes tags, and who settles which of them stay.

Knows the two stages and their parts, which are combined and not chosen by name: `OpenEnded`, `Options` (one question
a group), `Everything` and `FromTagger` propose; `YesNo` settles, with concepts or without; a `Strategy` is a proposer
with a settler or alone. Refuses to know files, money and where pictures come from (`taglens.collection.annotating`).

An answer that cannot be read is counted and never guessed at: tags that it was about are *unsettled*, and are not
given. Shapes: T tags, numbered by their columns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from taglens.errors import UsageError
from taglens.language import annotation_prompts as prompts
from taglens.language.annotation_prompts import Concept
from taglens.language.bands import Band
from taglens.language.chat import Ask, Chat, ChatPicture, Reply
from taglens.language.grouping import GROUP_SIZE, Grouping

Find = Callable[[str], int | None]

MOST_CANDIDATES = 200
_VOTING_TEMPERATURE = 0.7
_TOKENS_A_NAME = 8
_MOST_TOKENS = 2048
_SHORT = 24  # tokens of a yes or no, in JSON where the server wants it so
_LONGEST_QUOTE = 80


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """One picture as it is asked about.

    Attributes:
        scores: [T], a tagger's; None where no strategy wants them.
    """

    picture: ChatPicture
    scores: npt.NDArray[np.float32] | None = None


@dataclass(slots=True)
class Tally:
    """What came back about one picture.

    Attributes:
        queries: answers had, kept ones included.
        useless: those of them that nothing could be taken from; refused, malformed and cut say why.
        off_list: what was said and is no tag, as it was said.
    """

    queries: int = 0
    useless: int = 0
    refused: int = 0
    malformed: int = 0
    cut: int = 0
    off_list: Counter[str] = field(default_factory=Counter)

    def take(self, reply: Reply, *, usable: bool, malformed: bool) -> None:
        self.queries += 1
        self.useless += not usable
        self.refused += reply.refused
        self.cut += reply.cut
        self.malformed += malformed and not reply.refused


@dataclass(frozen=True, slots=True)
class Proposal:
    """What the first stage says.

    Attributes:
        candidates: column -> the stage that proposed it.
        sure: columns that need no second opinion.
        unsettled: columns that nobody answered for.
    """

    candidates: Mapping[int, str]
    sure: tuple[int, ...] = ()
    unsettled: tuple[int, ...] = ()


class Propose(Protocol):
    """The first stage."""

    def __call__(self, chat: Chat, seen: Seen, tally: Tally) -> Proposal:
        """Tags that may be there. Raises ChatError: the server did not answer."""
        ...

    def questions(self) -> int:
        """A picture."""
        ...

    def sample(self) -> str:
        """One of its questions, "" for none: what a price is reckoned from."""
        ...


@dataclass(frozen=True, slots=True)
class Given:
    """One label: its column, the stage that had the last word, and how many of how many answers were for it."""

    column: int
    stage: str
    votes: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Annotation:
    """What is known of one picture.

    Attributes:
        given: by column.
        dropped: candidates that were denied.
        unsettled: columns for which no answer could be read; a column in neither list was not proposed.
    """

    given: tuple[Given, ...]
    dropped: tuple[int, ...]
    unsettled: tuple[int, ...]
    tally: Tally

    @property
    def useless(self) -> bool:
        """Whether questions were asked and not one answer could be used: nothing is known, which is not "nothing"."""
        return self.tally.queries > 0 and self.tally.useless == self.tally.queries


# -- first stage ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OpenEnded:
    """No list: what the model names by itself, as far as it is a tag's name or synonym.

    Attributes:
        find: a name to its column, or None.
    """

    find: Find
    careful: bool = True

    def __call__(self, chat: Chat, seen: Seen, tally: Tally) -> Proposal:
        reply = chat(_ask(seen, self.sample(), prompts.open_schema(), 300))
        said = () if reply.refused else prompts.read_free(reply.text, cut=reply.cut)
        found: dict[int, str] = {}
        for name in said:
            column = self.find(name)
            if column is None:
                tally.off_list[name[:_LONGEST_QUOTE]] += 1
            else:
                found[column] = "open"
        tally.take(reply, usable=bool(said), malformed=not said)
        return Proposal(dict(sorted(found.items())))

    def questions(self) -> int:
        return 1

    def sample(self) -> str:
        return prompts.open_ended(careful=self.careful)


@dataclass(frozen=True, slots=True)
class Options:
    """One question a group: which of its names does the picture show? One group is plain multi-option prompting.

    Attributes:
        names: [T], as questions show them.
    """

    names: tuple[str, ...]
    grouping: Grouping
    careful: bool = True

    def __post_init__(self) -> None:
        if self.grouping.size != len(self.names):
            raise UsageError(
                f"the groups are of {self.grouping.size} tags and the names of {len(self.names)}; make the groups "
                "anew for this vocabulary"
            )
        prompts.require_askable(self.names)

    def __call__(self, chat: Chat, seen: Seen, tally: Tally) -> Proposal:
        return _asked_in_groups(self.names, self.grouping.groups, chat, seen, tally, careful=self.careful)

    def questions(self) -> int:
        return len(self.grouping.groups)

    def sample(self) -> str:
        return prompts.several([self.names[c] for c in self.grouping.groups[0]], careful=self.careful)


@dataclass(frozen=True, slots=True)
class Everything:
    """Every tag is a candidate: with `YesNo` this is binary prompting, one question a tag."""

    tags: int

    def __call__(self, chat: Chat, seen: Seen, tally: Tally) -> Proposal:
        del chat, seen, tally
        return Proposal(dict.fromkeys(range(self.tags), "all"))

    def questions(self) -> int:
        return 0

    def sample(self) -> str:
        return ""


@dataclass(frozen=True, slots=True)
class FromTagger:
    """A tagger's scores: sure tags are given, those inside the band are asked about, the rest is not there.

    A band of more than ``direct`` tags is asked about in lists first, ``at_most`` names in each, the likeliest
    together; what is named there are the candidates.

    Attributes:
        names: [T], as questions show them.
    """

    names: tuple[str, ...]
    band: Band
    direct: int = 8
    at_most: int = GROUP_SIZE
    careful: bool = True

    def __post_init__(self) -> None:
        if len(self.names) != len(self.band.low) or self.direct < 0 or self.at_most < 1:
            raise UsageError(
                f"a band of {len(self.band.low)} tags needs as many names, asked for one by one up to a number from "
                f"0 on and in lists of 1 or more; found {len(self.names)}, {self.direct} and {self.at_most}"
            )

    def __call__(self, chat: Chat, seen: Seen, tally: Tally) -> Proposal:
        if seen.scores is None:
            raise UsageError("a tagger is to propose tags, and its scores were not given with the picture")
        sure, asked = self.band.split(seen.scores)
        if len(asked) <= self.direct:
            return Proposal(dict.fromkeys(asked, "tagger"), sure=tuple(sure))
        # By how far above the band's edge they come: what is likely competes with what is likely.
        short = self.band.low - seen.scores
        near = sorted(asked, key=lambda column: float(short[column]))
        size = -(-len(near) // self.lists(len(near)))
        groups = [near[start : start + size] for start in range(0, len(near), size)]
        proposal = _asked_in_groups(self.names, groups, chat, seen, tally, careful=self.careful)
        return replace(proposal, sure=tuple(sure))

    def lists(self, asked: int) -> int:
        """How many lists a band of so many tags takes."""
        return 0 if asked <= self.direct else -(-asked // self.at_most)

    def questions(self) -> int:
        return 0

    def sample(self) -> str:
        return prompts.several(self.names[: self.at_most], careful=self.careful)


def _asked_in_groups(
    names: Sequence[str],
    groups: Sequence[Sequence[int]],
    chat: Chat,
    seen: Seen,
    tally: Tally,
    *,
    careful: bool,
) -> Proposal:
    """One question a group of columns; what is named are the candidates."""
    found: dict[int, str] = {}
    unsettled: list[int] = []
    for group in groups:
        listed = [names[column] for column in group]
        tokens = min(64 + _TOKENS_A_NAME * len(listed), _MOST_TOKENS)
        text = prompts.several(listed, careful=careful)
        reply = chat(_ask(seen, text, prompts.several_schema(listed), tokens))
        read = prompts.Read(malformed=True)
        if not reply.refused:
            read = prompts.read_names(reply.text, listed, cut=reply.cut)
        named = set(read.names)
        found |= {column: "options" for column in group if names[column] in named}
        tally.off_list.update(said[:_LONGEST_QUOTE] for said in read.off_list)
        usable = bool(named) or not (read.malformed or read.off_list)
        if not usable or reply.cut:
            unsettled += [column for column in group if column not in found]
        tally.take(reply, usable=usable, malformed=read.malformed)
    return Proposal(dict(sorted(found.items())), unsettled=tuple(sorted(unsettled)))


# -- second stage --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class YesNo:
    """One question a candidate, or several of which more than half must say yes.

    Attributes:
        concepts: [T], or None for the bare names.
        votes: answers a candidate; drawn at a temperature where there is more than one.
    """

    names: tuple[str, ...]
    concepts: tuple[Concept, ...] | None = None
    votes: int = 1
    careful: bool = True

    def __post_init__(self) -> None:
        if self.votes < 1:
            raise UsageError(f"a candidate needs 1 vote or more, found {self.votes}")
        if self.concepts is not None and len(self.concepts) != len(self.names):
            raise UsageError(f"expected {len(self.names)} concepts, one a tag, found {len(self.concepts)}")

    def __call__(self, chat: Chat, seen: Seen, column: int, tally: Tally) -> tuple[int, int]:
        """How many of how many readable answers say that it is there. Raises ChatError."""
        yes = read = 0
        for vote in range(self.votes):
            several = self.votes > 1
            ask = _ask(seen, self.question(column), prompts.yes_no_schema(), _SHORT)
            if several:
                ask = replace(ask, temperature=_VOTING_TEMPERATURE, seed=vote)
            reply = chat(ask)
            answer = None if reply.refused or reply.cut else prompts.read_yes_no(reply.text)
            tally.take(reply, usable=answer is not None, malformed=answer is None)
            read += answer is not None
            yes += bool(answer)
        return yes, read

    def question(self, column: int) -> str:
        concept = None if self.concepts is None else self.concepts[column]
        return prompts.yes_no(self.names[column], concept, careful=self.careful)


# -- together ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Strategy:
    """Stages, one or two.

    Attributes:
        name: stands in the provenance of every label.
        settle: None: what is proposed is given.
        most_candidates: beyond these the candidates of one picture are left unsettled; None: no limit. A model that
            repeats its whole list must not start a question for every tag.
    """

    name: str
    propose: Propose
    settle: YesNo | None = None
    most_candidates: int | None = MOST_CANDIDATES

    def __call__(self, chat: Chat, seen: Seen) -> Annotation:
        """Ask about one picture, one question after another, so that each can share the picture with the last.

        Raises:
            ChatError: the server did not answer one of the questions.
            BudgetError: there is no money for one of them.
        """
        tally = Tally()
        proposal = self.propose(chat, seen, tally)
        given = [Given(column, "tagger") for column in proposal.sure]
        unsettled = list(proposal.unsettled)
        dropped: list[int] = []
        candidates = list(proposal.candidates)
        if self.settle is None:
            given += [Given(column, stage, (1, 1)) for column, stage in proposal.candidates.items()]
        else:
            unsettled += candidates[self.most_candidates :] if self.most_candidates is not None else []
            for column in candidates[: self.most_candidates]:
                yes, read = self.settle(chat, seen, column, tally)
                if not read:
                    unsettled.append(column)
                elif 2 * yes > read:
                    given.append(Given(column, "yes_no", (yes, read)))
                else:
                    dropped.append(column)
        return Annotation(
            tuple(sorted(given, key=lambda label: label.column)),
            tuple(sorted(dropped)),
            tuple(sorted(unsettled)),
            tally,
        )

    def questions(self, candidates: float) -> float:
        """A picture, if the first stage leaves so many candidates."""
        return self.propose.questions() + (0 if self.settle is None else candidates * self.settle.votes)


def _ask(seen: Seen, text: str, schema: Mapping[str, Any], max_tokens: int) -> Ask:
    return Ask(text, prompts.SYSTEM, (seen.picture,), schema=schema, max_tokens=max_tokens)


def concepts_in_order(ids: Sequence[str], concepts: Mapping[str, Concept]) -> tuple[Concept, ...]:
    """[T]: an empty concept where there is none."""
    return tuple(concepts.get(id, Concept()) for id in ids)

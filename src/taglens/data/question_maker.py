"""Questions about pictures, made from the captions that people wrote of them.

Knows which facts of captions make a question, how it is worded, and how questions are balanced. Refuses to know how a
caption is parsed (``parse`` is passed in) and what a fact is (`taglens.data.question_facts`).

Four types
- exists: "is there a dog?". Yes: captions name it. No: no caption names it, or anything of which it may be a kind
  ("terrier" where they say "dog"). Within a split every word has as many yes as no, so that nothing follows from the
  word. Captions are not complete: some of what they do not name is there.
- colour: "what colour is the dog?", of one dog only, and never of people.
- action: "what is the dog doing?", of people, animals and vehicles, of one only.
- count: "how many dogs are there?", of what captions count; "a dog" is one.
The answers are what captions say, one entry for each that says something: people may differ. For the last three types
no answer to a word is more than a share of all questions with that word.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import TypeAlias

from taglens.data.question_facts import FactReader, Facts
from taglens.data.questions import Question
from taglens.data.sources import Row
from taglens.errors import DataError, UsageError
from taglens.language.caption_forms import spoken_forms
from taglens.language.lemmas import singular
from taglens.language.parsed import ParsedCaption
from taglens.language.word_lists import WordLists
from taglens.vocabulary import Vocabulary

TYPES = ("exists", "colour", "action", "count")
# Whose kinds can be asked what they do.
DOERS = ("person", "animal", "vehicle")
# A word of which fewer pictures say a number is not asked for one: "how many grasses".
LEAST_COUNTED = 3
# Below this share of "a" among mentions in the singular, a thing is not one that is counted: "is there snow?".
_LEAST_ARTICLES = 0.3
_SWAPS = 200

Parse: TypeAlias = Callable[[Iterable[str]], Iterable[ParsedCaption]]


@dataclass(frozen=True, slots=True)
class QuestionPlan:
    """How many questions are made.

    Attributes:
        most: of one picture, questions of each type, and of type exists as many again that are answered no.
        most_share: of the questions that ask one word, at most this share has the same answer.
        seed: another seed, other questions; the same, the same.
    """

    most: int = 2
    most_share: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.most < 1:
            raise UsageError(f"expected at least 1 question of a type for a picture, found {self.most}")
        if not 0.0 < self.most_share < 1.0:
            raise UsageError(
                f"the largest share of one answer must lie between 0 and 1, found {self.most_share}"
            )


@dataclass(frozen=True, slots=True)
class _Asked:
    """A question on its way: the picture's place, the type, the word's column, and the answers."""

    picture: int
    type: str
    column: int
    answers: tuple[str, ...]


def make_questions(
    rows: Iterable[Row],
    vocabulary: Vocabulary,
    lists: WordLists,
    *,
    parse: Parse,
    plan: QuestionPlan = QuestionPlan(),
) -> list[Question]:
    """Questions about captioned pictures, picture by picture, by type; the split of each is its picture's.

    Args:
        rows: as `taglens.data.sources.read_captions` gives them; pictures without captions are passed over.
        vocabulary: its things and places are asked about, under their names; hidden tags are not.
        lists: the word lists with which words find the vocabulary's tags.
        parse: captions to their parts, in order.

    Raises:
        DataError: no picture has captions, or none of them says anything that can be asked.
    """
    pictures = [row for row in rows if row.captions]
    if not pictures:
        raise DataError("no picture has captions, and questions are made of what captions say")
    reader = FactReader(vocabulary, lists)
    facts = list(_facts(pictures, reader, parse))
    maker = _Maker(pictures, facts, reader, vocabulary, plan)
    asked = [*maker.exists(), *(one for type in TYPES[1:] for one in maker.open(type))]
    if not asked:
        raise DataError(
            f"the captions of {len(pictures)} pictures say nothing that can be asked and balanced: a word needs "
            "pictures that have it and pictures that do not, or different answers"
        )
    order = sorted(asked, key=lambda one: (one.picture, TYPES.index(one.type), one.column))
    return [
        Question(
            image=pictures[one.picture].image,
            path=pictures[one.picture].path,
            question=maker.worded(one),
            answers=one.answers,
            type=one.type,
            split=pictures[one.picture].split,
        )
        for one in order
    ]


def _facts(pictures: Sequence[Row], reader: FactReader, parse: Parse) -> Iterator[Facts]:
    parsed = iter(parse(caption for row in pictures for caption in row.captions or ()))
    for row in pictures:
        yield reader([next(parsed) for _ in row.captions or ()])


class _Maker:
    """Chooses, balances and words questions of a whole file."""

    def __init__(
        self,
        pictures: Sequence[Row],
        facts: Sequence[Facts],
        reader: FactReader,
        vocabulary: Vocabulary,
        plan: QuestionPlan,
    ) -> None:
        self._pictures, self._facts, self._reader = pictures, facts, reader
        self._vocabulary, self._plan = vocabulary, plan
        self._things = {
            column
            for column, entry in enumerate(vocabulary)
            if entry.kind in ("object", "scene") and not entry.hidden
        }
        doers = {vocabulary.find(name, kinds=("object",)) for name in DOERS}
        self._doers = {column for column in self._things if reader.closure(column) & doers}
        # The colour of somebody's skin is nothing to ask for.
        people = {vocabulary.find(name, kinds=("object",)) for name in ("person", "skin", "face", "body")}
        self._coloured = {column for column in self._things if not reader.closure(column) & people}
        self._articles, self._bare = Counter[int](), Counter[int]()
        for each in facts:
            self._articles.update(each.articles)
            self._bare.update(each.bare)
        self._counted = Counter(
            column for each in facts for column, said in each.numbers.items() if set(said) - {"1"}
        )

    def _random(self, *parts: object) -> Random:
        # A text seeds the same everywhere and whatever else the file holds.
        return Random("\0".join(map(str, (self._plan.seed, *parts))))

    # -- is there … --------------------------------------------------------------------------------------

    def exists(self) -> Iterator[_Asked]:
        """Within each split, every word as often with yes as with no."""
        yes: dict[str | None, list[tuple[int, int]]] = defaultdict(list)
        for place, (row, facts) in enumerate(zip(self._pictures, self._facts, strict=True)):
            rng = self._random("yes", row.image)
            weights = {column: count for column, count in facts.named.items() if column in self._things}
            # Drawn without putting back; what more captions name is likelier.
            drawn = sorted(weights, key=lambda column: (-(rng.random() ** (1 / weights[column])), column))
            yes[row.split] += [(place, column) for column in drawn[: self._plan.most]]
        for split, pairs in yes.items():
            kept, no = self._matched(pairs, self._random("no", split))
            for place, column in kept:
                yield _Asked(place, "exists", column, ("yes",) * self._facts[place].named[column])
            for place, column in no:
                yield _Asked(place, "exists", column, ("no",) * self._facts[place].captions)

    def _matched(
        self, yes: Sequence[tuple[int, int]], rng: Random
    ) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """Pairs (picture, column) for yes, and the same columns given to other pictures, for no.

        A column that finds too few pictures without it loses questions on both sides.
        """
        places = [place for place, _ in yes]
        words = [column for _, column in yes]
        rng.shuffle(words)
        for at in range(len(words)):
            tries = _SWAPS
            while tries and not self._absent(places[at], words[at]):
                other, tries = rng.randrange(len(words)), tries - 1
                # The other picture must not lose by it.
                if self._absent(places[at], words[other]) and (
                    self._absent(places[other], words[at]) or not self._absent(places[other], words[other])
                ):
                    words[at], words[other] = words[other], words[at]
        no = list(
            dict.fromkeys(
                (place, column)
                for place, column in zip(places, words, strict=True)
                if self._absent(place, column)
            )
        )
        left = Counter(column for _, column in no)
        kept = []
        for place, column in yes:
            if left[column]:
                left[column] -= 1
                kept.append((place, column))
        return kept, no

    def _absent(self, place: int, column: int) -> bool:
        """Whether no caption names the tag, what implies it, or what it may be a kind of."""
        facts = self._facts[place]
        above = self._reader.closure(column) - {column}
        return column not in facts.implied and not above & facts.named.keys()

    # -- what colour, what does it do, how many ------------------------------------------------------------

    def open(self, type: str) -> list[_Asked]:
        """Questions of a type whose answer is not yes or no, balanced word by word within each split."""
        groups: dict[tuple[str | None, int], list[_Asked]] = defaultdict(list)
        for place, row in enumerate(self._pictures):
            found = sorted(self._said(place, type).items())
            self._random(type, row.image).shuffle(found)
            for column, answers in found[: self._plan.most]:
                groups[row.split, column].append(_Asked(place, type, column, tuple(answers)))
        return [
            one
            for (split, column), asked in groups.items()
            for one in self._balanced(asked, self._random(type, split, self._vocabulary[column].id))
        ]

    def _said(self, place: int, type: str) -> dict[int, list[str]]:
        facts = self._facts[place]
        named = facts.named.keys() & self._things
        if type in ("colour", "action"):
            said_of = facts.colours if type == "colour" else facts.doings
            asked = named & (self._coloured if type == "colour" else self._doers)
            return {c: said for c, said in said_of.items() if c in asked and c not in facts.several}
        counts = {}
        for column, said in facts.numbers.items():
            # Who says "a dog" where another sees two speaks of one of them.
            many = [number for number in said if number != "1"] if column in facts.several else said
            if column in named and many and self._counted[column] >= LEAST_COUNTED:
                counts[column] = many
        return counts

    def _balanced(self, asked: list[_Asked], rng: Random) -> list[_Asked]:
        """Without some of those that have the commonest answer, if that is too common."""
        top = [_most_said(one.answers) for one in asked]
        ((answer, count),) = Counter(sorted(top)).most_common(1)
        share = self._plan.most_share
        most = int((len(asked) - count) * share / (1 - share))
        common = [place for place, said in enumerate(top) if said == answer]
        dropped = set(rng.sample(common, count - min(most, count)))
        return [one for place, one in enumerate(asked) if place not in dropped]

    # -- words -----------------------------------------------------------------------------------------------

    def worded(self, one: _Asked) -> str:
        name = self._vocabulary[one.column].name
        if one.type == "exists":
            return self._is_there(name, one.column)
        if one.type == "colour":
            # Both spellings, so that a model learns both.
            word = self._random("spelling", self._pictures[one.picture].image).choice(("colour", "color"))
            return f"what {word} is the {name}?" if not _plural(name) else f"what {word} are the {name}?"
        if one.type == "action":
            return f"what is the {name} doing?" if not _plural(name) else f"what are the {name} doing?"
        return f"how many {many(name)} are there?"

    def _is_there(self, name: str, column: int) -> str:
        if _plural(name):
            return f"are there {name}?"
        articles, bare = self._articles[column], self._bare[column]
        one = articles >= _LEAST_ARTICLES * (articles + bare)
        return f"is there {article(name)} {name}?" if one else f"is there {name}?"


def _most_said(answers: Sequence[str]) -> str:
    """The answer of most people; of equals the first in the alphabet."""
    return Counter(sorted(answers)).most_common(1)[0][0]


def article(name: str) -> str:
    """ "a" or "an", by the letter that follows and the few words that sound otherwise."""
    start = name.casefold()
    sounds_open = start[:1] in "aeiou" and not start.startswith(("uni", "use", "euro", "one", "ute"))
    return "an" if sounds_open or start.startswith(("hour", "heir", "honest")) else "a"


@lru_cache(1 << 12)
def many(name: str) -> str:
    """The plural of a thing's name; the name itself where it has none."""
    head = name.rpartition(" ")[2]
    if singular(head) != head:
        return name  # it is one: "stairs"
    forms = spoken_forms(name, "object")
    return next((form for form in forms if form != name and "'" not in form and "’" not in form), name)


def _plural(name: str) -> bool:
    """Whether a name is plural as it is: "stairs", "glasses"."""
    return name.endswith("s") and not name.endswith(("ss", "us", "is")) and many(name) == name

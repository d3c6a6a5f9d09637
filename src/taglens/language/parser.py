"""A caption's parts: objects, scenes, attributes, actions, and how they hang together.

Knows how labelled words become phrases, pairs, relations and counts. Refuses to know tags or vocabularies:
the words come out as the caption has them, lemmas where the contract says so. Deterministic, no torch,
total over strings, linear in the text's length.

A scene noun ("street", "kitchen") stands in both ``objects`` and ``scenes``.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

from taglens.language.lemmas import singular, verb_lemma
from taglens.language.tagger import NUMBERS, Tagger, default_tagger, tokenize

_T = TypeVar("_T")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Words for how many, where no number can be given.
VAGUE_COUNTS = frozenset(("several", "many", "multiple", "numerous", "few", "dozens", "hundreds"))

# Places a picture can show as a whole; the last word of a compound decides ("city street").
SCENES = _words(
    """
    airport aisle alley amphitheater apartment aquarium arena attic auditorium backyard bakery balcony
    ballroom bar barn basement bathroom bay bayou beach bedroom boardwalk bridge building cabin cafe
    cafeteria campground campsite campus canal canyon carnival castle cathedral cave cemetery church
    circus city cityscape classroom cliff closet coast coastline concert corridor corral country
    countryside court courthouse courtyard creek crosswalk deck den desert diner dock downtown driveway
    dune factory fair fairground farm farmland field forest fountain garage garden gym gymnasium hall
    hallway harbor harbour highway hill hillside home hospital hotel house indoors intersection island
    jungle kitchen lab laboratory lake landscape laundromat lawn library lobby lot mall market
    marketplace marsh meadow monastery mountain mountainside mountaintop museum nightclub nursery ocean
    office orchard outdoors palace parade park parking path patio pasture pavilion pier plain plaza
    playground plaza playroom pond pool porch port prairie pub racetrack railroad ranch rapids ravine
    reservoir resort restaurant rink river riverbank road roadside room rooftop ruins runway sand
    savanna savannah school sea seashore seaside shop shore shoreline sidewalk skatepark sky skyline
    slope snow snowfield square stable stadium stage station store stream street studio suburb subway
    supermarket surf swamp temple terminal theater theatre tower town track trail tundra tunnel
    underwater valley veranda village vineyard warehouse waterfall waterfront wetland wilderness
    woodland woods workshop yard zoo
    """
) - frozenset(
    ("building", "fountain", "tower", "house", "sand", "surf", "snow", "sky", "home", "bar", "country")
)

# "a group of boys": the boys are the object.
_COLLECTIVES = _words(
    """
    group groups couple pair pairs lot lots bunch bunches number set sets piece pieces slice slices kind
    type variety array assortment row rows line crowd crowds part parts bit portion series collection
    team-of dozens hundreds thousands plenty majority handful trio herd herds flock flocks stack stacks
    pile piles
    """
)
# Collectives that are things themselves when no "of" follows ("a crowd watches", "the herd").
_STRICT_COLLECTIVES = _words("lot lots kind type bit dozens hundreds thousands plenty variety")
# "on top of", "in front of": places on an object, no objects; "background" and the like never are.
_PLACES = _words(
    """
    top front back side sides middle center centre edge end bottom rear left right inside outside corner
    opposite indoors outdoors
    """
)
_NEVER = _words(
    """
    other others another each one ones something someone somebody anything anyone everyone everybody
    nothing it its they them their he him his she her hers i me my mine we us our you your yours this
    that these those who which what where while there here himself herself itself themselves myself
    yourself same way various several many few some all both is are was were be been being am has have
    had do does did not n't 's 's ' and or but the a an of to as with
    """
)
_DETERMINERS = _words(
    "a an the this that these those his her their its my your our some another each every no"
)
_SILENT = _words(
    """
    other others it them him her something someone somebody anything anyone everyone himself herself
    itself themselves one
    """
)
_NO_PARTICIPLES = _words(
    "during including following being having king ring string wing something nothing thing"
)
_BE = _words("is are was were be been being am 's 're")
_JOINERS = frozenset(("and", "or", ",", "&", "-", "/"))
_NOT_ACTIONS = frozenset(("be", "have", "do", "can", "will", "may"))
_NOT_ATTRIBUTES = _words(
    """
    a an the and or of other another each own same of is are in on at with very group piece part slice
    pair 's several many few some various next such
    """
)


@dataclass(frozen=True, slots=True)
class ParsedCaption:
    """What a caption names, each list without repeats and in order of appearance.

    Attributes:
        caption: the text as it came.
        objects: singular lower-case noun phrases without adjectives ("tree trunk").
        attributes: as written, lower case.
        actions: verb lemmas.
        scenes: those of ``objects`` that are places.
        pairs: (attribute, object).
        relations: (subject, predicate, object); the predicate is a verb lemma with its prepositions
            ("ride", "sit on"), a preposition, or "have".
        counts: (number, object); a word such as "several" where there is no number.
    """

    caption: str
    objects: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    scenes: tuple[str, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()
    relations: tuple[tuple[str, str, str], ...] = ()
    counts: tuple[tuple[int | str, str], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The contract's row."""
        return {
            "caption": self.caption,
            "objects": list(self.objects),
            "attributes": list(self.attributes),
            "actions": list(self.actions),
            "scenes": list(self.scenes),
            "pairs": [list(pair) for pair in self.pairs],
            "relations": [list(relation) for relation in self.relations],
            "counts": [list(count) for count in self.counts],
        }


@dataclass(frozen=True, slots=True)
class _Phrase:
    """An object's words: tokens ``start`` to ``end`` (excluded), and its name."""

    start: int
    end: int
    name: str


class CaptionParser:
    """Parses captions with one tagger; immutable, safe to share between threads."""

    def __init__(self, tagger: Tagger | None = None) -> None:
        """Args: tagger: the labels' source; the shipped one when None."""
        self._tagger = default_tagger() if tagger is None else tagger

    def parse(self, text: str) -> ParsedCaption:
        """The caption's parts; an empty caption has none. Raises nothing for any string."""
        tokens = tokenize(text)
        if not tokens:
            return ParsedCaption(text)
        labels = _settle(tokens, self._tagger.label(tokens), self._tagger.classes)
        phrases = _phrases(tokens, labels)
        pairs, counts, loose = _modifiers(tokens, labels, phrases)
        actions = _actions(tokens, labels, self._tagger)
        objects = _unique(phrase.name for phrase in phrases)
        return ParsedCaption(
            caption=text,
            objects=objects,
            attributes=_unique(word for _, word in sorted(loose)),
            actions=_unique(lemma for lemma in actions.values()),
            scenes=tuple(name for name in objects if name.rpartition(" ")[2] in SCENES),
            pairs=_unique(pairs),
            relations=_unique(_relations(tokens, labels, phrases, actions)),
            counts=_unique(counts),
        )


def _settle(tokens: Sequence[str], labels: list[str], known: Mapping[str, str]) -> list[str]:
    """Labels after the rules that no weight may overrule; ``known``: words seen often in training."""
    last = len(tokens) - 1
    for i, token in enumerate(tokens):
        coordinated = (
            i > 1 and tokens[i - 1] == "and" and labels[i - 2] == "V" and tokens[i - 2].endswith("s")
        )
        before, after = (labels[i - 1] if i else "", tokens[i + 1] if i < last else "")
        labels[i] = _one(
            token,
            labels[i],
            before=before,
            after=after,
            next_label=labels[i + 1] if i < last else "",
            coordinated=coordinated,
            rare=token not in known,
        )
    for i in range(last, -1, -1):
        closing = i == last or labels[i + 1] not in "HM"
        if labels[i] == "M" and closing:
            # A compound's first word without a last one: it is the object itself.
            labels[i] = "H"
        elif labels[i] == "H" and not closing and not {tokens[i], tokens[i + 1]} <= known.keys():
            # Two nouns side by side, one of them rare: one object. Where both are common, two are meant.
            labels[i] = "M"
        elif labels[i] == "D" and (i == last or labels[i + 1] not in "DA"):
            labels[i] = "A"
        elif labels[i] == "A" and (i == last or labels[i + 1] not in "ADHMN") and _stands_alone(tokens, i):
            labels[i] = "O"
    return labels


def _stands_alone(tokens: Sequence[str], i: int) -> bool:
    """ "in the dark", "outside next to a tree": no attribute of anything, as no noun follows."""
    after = tokens[i + 1] if i + 1 < len(tokens) else ""
    if after in _JOINERS or i == 0:
        return False
    return tokens[i - 1] == "the" or (
        tokens[i] in _PLACES and (after == "next" or after in _PREPOSITION_WORDS)
    )


def _one(
    token: str, label: str, *, before: str, after: str, next_label: str, coordinated: bool, rare: bool
) -> str:
    """One token's settled label; ``before`` is already settled, ``next_label`` is not.

    ``coordinated``: "and" and a finite verb stand before the token; ``rare``: seldom or never in training.
    """
    if not any(map(str.isalnum, token)) or token.startswith("'"):
        return "O"
    if token.isdigit() or token in NUMBERS or token in VAGUE_COUNTS:
        return "N"
    if label in "HM":
        measures = after == "of" and (token in _COLLECTIVES or token in _PLACES)
        if token in _NEVER or measures or (token in _STRICT_COLLECTIVES and before != "M"):
            return "O"
        if coordinated and token.endswith("s"):
            return "V"  # "stands and waits"
        if after == "to" and before == "H" and token.endswith("s"):
            return "V"  # "a player tries to"
    elif label in "AD":
        return "O" if token in _NOT_ATTRIBUTES else label
    elif label == "V":
        if token in _PLACES:
            return "P"
        if before == "V" and token.endswith("s"):
            return "H"  # "performing tricks"
    elif label == "O" and before == "H" and rare and token.endswith("ing") and token not in _NO_PARTICIPLES:
        return "V"  # "a girl applying makeup"
    elif label == "O" and "-" in token and next_label in ("H", "M", "A"):
        return "A"  # "a tri-colored dog"
    return label


def _phrases(tokens: Sequence[str], labels: Sequence[str]) -> list[_Phrase]:
    found, start = [], -1
    for i, label in enumerate(labels):
        if label == "M":
            start = i if start < 0 else start
        elif label == "H":
            start = i if start < 0 else start
            found.append(_Phrase(start, i + 1, " ".join([*tokens[start:i], singular(tokens[i])])))
            start = -1
    return found


def _modifiers(
    tokens: Sequence[str], labels: Sequence[str], phrases: Sequence[_Phrase]
) -> tuple[list[tuple[str, str]], list[tuple[int | str, str]], list[tuple[int, str]]]:
    """Pairs, counts, and every attribute with its place (also those that no object could be found for)."""
    owner: dict[int, _Phrase] = {}
    counts: list[tuple[int | str, str]] = []
    floor = 0
    for phrase in phrases:
        # Leftwards from the noun over its adjectives, numbers and what joins them.
        for i in range(phrase.start - 1, floor - 1, -1):
            if labels[i] in "AD":
                owner[i] = phrase
            elif labels[i] == "N":
                counts.append((_number(tokens[i]), phrase.name))
            elif not (_passed_over(tokens[i]) and labels[i] == "O"):
                break
        floor = phrase.end
    subject: _Phrase | None = None
    following = iter(phrases)
    upcoming = next(following, None)
    loose: list[tuple[int, str]] = []
    pairs: list[tuple[str, str]] = []
    i = 0
    while i < len(tokens):
        if upcoming is not None and i >= upcoming.end:
            subject, upcoming = upcoming, next(following, None)
            continue
        if labels[i] in "AD":
            first = i
            while labels[i] == "D":
                i += 1
            word = " ".join(tokens[first : i + 1])
            if (holder := owner.get(i, subject)) is not None:
                pairs.append((word, holder.name))
            loose.append((first, word))
        i += 1
    return pairs, counts, loose


def _passed_over(token: str) -> bool:
    """Words that may stand between an adjective or number and its noun ("a bright , very blue sky")."""
    return token in _JOINERS or token.endswith("ly") or token in ("very", "of")


def _number(token: str) -> int | str:
    if (number := NUMBERS.get(token)) is not None:
        return number
    # More digits than a count ever has stay text; so do digits of other scripts that int() refuses.
    return int(token) if token.isdecimal() and len(token) <= 9 else token


def _actions(tokens: Sequence[str], labels: Sequence[str], tagger: Tagger) -> dict[int, str]:
    """Place -> lemma of each verb."""
    lemmas = {
        # "in a red coat" says "wears" without the verb.
        i: "wear" if label == "W" else verb_lemma(tokens[i], tagger.verbs)
        for i, label in enumerate(labels)
        if label in "VW"
    }
    return {i: lemma for i, lemma in lemmas.items() if lemma not in _NOT_ACTIONS}


def _relations(
    tokens: Sequence[str], labels: Sequence[str], phrases: Sequence[_Phrase], actions: dict[int, str]
) -> Iterator[tuple[str, str, str]]:
    """Subject, predicate, object from left to right.

    A verb's subject is the first noun of its clause, a bare preposition's the noun before it; what is
    joined by "and" shares both.
    """
    starts = {phrase.start: phrase for phrase in phrases}
    clause: _Phrase | None = None  # the noun a verb belongs to
    nearest: _Phrase | None = None  # the noun a preposition belongs to
    predicate: list[str] = []
    verb, fresh = False, False
    i = 0
    while i < len(tokens):
        token, label = tokens[i], labels[i]
        if (phrase := starts.get(i)) is not None:
            i = phrase.end
            source = clause if verb else nearest
            if predicate and source is not None:
                yield source.name, " ".join(predicate), phrase.name
            if (clause is None and not predicate) or fresh:
                # A noun after an opening preposition ("by the trees, a woman ...") is no subject.
                clause = phrase
            if i < len(tokens) and tokens[i] in ("'s", "'") and i + 1 < len(tokens):
                predicate, verb = ["have"], False
            elif i < len(tokens) and tokens[i] in ("and", ",", "or") and predicate:
                # "a hat and a coat": the coat is worn too.
                nearest, fresh = phrase, False
                i += 1
                continue
            else:
                predicate, verb = [], False
            nearest, fresh = phrase, False
            continue
        if i in actions:
            # "a man with a woman in a dress": what says "wears" without a verb belongs to the nearest noun.
            predicate, verb, fresh = [actions[i]], label != "W", False
        elif token in ("while", "as", "because", "where", ".", ";", "who", "that", "which", "when"):
            predicate, verb, fresh = [], False, token not in ("who", "that", "which")
        elif token in ("has", "have", "having"):
            predicate, verb = ["have"], True
        elif label == "P" or token in _PREPOSITION_WORDS:
            predicate = [*predicate, token][:5]
        elif token in _BE or token in _DETERMINERS or label in "ADN" or token in _JOINERS or token in _PLACES:
            if token in _PLACES and predicate:
                predicate = [*predicate, token][:5]
        elif token in _COLLECTIVES:
            pass
        elif token in _SILENT:
            # "stare at each other in the street": the pronoun closes the preposition, the verb goes on.
            predicate = predicate[:1] if verb else []
        elif not verb:
            predicate = []
        i += 1


_PREPOSITION_WORDS = _words(
    """
    on in of at by with to from over under near behind beside above below for down along around inside
    outside through across into onto off against between next within beneath atop toward towards past
    about among underneath alongside upon
    """
)


def _unique(items: Iterable[_T]) -> tuple[_T, ...]:
    return tuple(dict.fromkeys(items))


@lru_cache(maxsize=1)
def _default_parser() -> CaptionParser:
    return CaptionParser()


def parse(text: str) -> ParsedCaption:
    """``text``'s parts, by the shared default parser."""
    return _default_parser().parse(text)


def parse_lines(lines: Iterable[str], *, workers: int = 0) -> Iterator[ParsedCaption]:
    """Each line's parts, in order; with ``workers`` > 1, that many processes share the work."""
    if workers <= 1:
        yield from map(parse, lines)
        return
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        yield from pool.imap(parse, lines, chunksize=512)

"""How a sentence may say a tag: its name or a synonym in the forms that grammar has for it, as word pieces.

Knows how nouns and verbs are inflected (`taglens.language.lemmas` knows the way back) and which pieces belong to a
neighbour's word. Every form it gives is one that `taglens.language.mentioned` finds again. Which of them fits into a
sentence is for the model to say (`taglens.inference.constrained`).
Shapes: V pieces.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from taglens.language.lemmas import (
    irregular_plurals,
    irregular_verb_forms,
    is_base_form,
    singular,
    third_person,
    verb_lemma,
)
from taglens.language.mentioned import Text
from taglens.language.tokens import NUMBERS
from taglens.language.wordpiece import WordPiece, words
from taglens.results import Kind

_VOWELS = frozenset("aeiou")
_APOSTROPHES = ("'", "’")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# What follows says more of the thing named before: "bottle of water" is a bottle.
_AFTER_HEADS = _words("of in on with for at from to by")

# Many are called as one is, or are not counted.
_NO_PLURAL = _words(
    """
    sheep fish deer bison moose elk shrimp salmon trout aircraft spacecraft watercraft hovercraft offspring
    luggage furniture equipment clothing traffic jewelry jewellery scenery seafood broccoli rice snow mud
    football baseball basketball soccer tennis volleyball hockey golf rugby cricket laundry machinery
    graffiti wildlife poultry cutlery silverware tableware pottery
    """
)
_PLURAL_IN_OES = _words("tomato potato hero echo mosquito volcano torpedo domino mango cargo buffalo tornado")
_NO_MEN = _words("human german roman caiman talisman ottoman shaman norman brahman")

# Verbs whose past no rule makes and `lemmas` does not lead back to the base form: better none than a wrong one.
_NO_ED = _words(
    """
    hit cut put set let shut read spread hurt cast bet quit split burst shed thrust feel hear deal forget
    forgive understand beat lend spend sew mow spell smell burn learn dream lean weep swear swell seek flee breed
    bleed speed bind grind cost overtake upset reset broadcast forecast undergo withstand
    can will must may
    """
)
_MISSPELT = _words("skiis burried burring")  # `lemmas` reads them

# Longer verbs whose last syllable is stressed, and so doubles its consonant; British spellings are as good.
_DOUBLED = _words(
    """
    begin forget admit commit permit submit omit refer prefer occur control patrol equip upset regret compel
    propel expel rebel unplug unzip kidnap handicap
    """
)


def spoken_forms(name: str, kind: Kind | None = None) -> tuple[str, ...]:
    """The forms in which a sentence may say a name: as it is, then inflected; lower case, each once.

    Things and scenes get singular, plural and possessive, actions their -s, -ing and past forms, attributes none.
    Without a kind it is taken for a thing, and for an action too where its first word looks like a verb.
    """
    split = name.casefold().split()
    if not split:
        return ()
    found = [" ".join(split)]
    if kind in ("object", "scene", "typed", None):
        at = (
            next((place for place, word in enumerate(split) if place and word in _AFTER_HEADS), len(split))
            - 1
        )
        if not NUMBERS.keys() & split[:at]:  # "two dogs" are never one
            found += _in_place(split, at, _noun_forms(split[at], possessive=at == len(split) - 1))
    if kind == "action" or (kind in ("typed", None) and _looks_like_verb(split[0])):
        found += _in_place(split, 0, _verb_forms(split[0]))
    return tuple(form for form in dict.fromkeys(found) if Text(form).mentions([name]))


def demand(pieces: WordPiece, names: Sequence[str], kind: Kind | None = None) -> tuple[tuple[int, ...], ...]:
    """The rows of pieces that say one of the names, shortest first; none where the pieces cannot write any.

    Args:
        names: a tag's name and its synonyms.
    """
    before, after = joints(pieces)
    found = {
        ids: None
        for name in names
        for form in spoken_forms(name, kind)
        if (ids := tuple(pieces.ids(form)[1:-1]))
        and pieces.unknown not in ids
        and not before[ids[0]]
        and not after[ids[-1]]
        # What it reads as when it is written: marks are put together anew.
        and Text(pieces.decode(ids)).mentions(names)
    }
    return tuple(sorted(found, key=len))


def joints(pieces: WordPiece) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which pieces [V] belong to the word before them, and which [V] take what follows into their word.

    Continuations do the first, apostrophes and pieces that leave no trace both.
    """
    texts = [pieces.decode([number]) for number in range(len(pieces))]
    before = [not text or text.startswith(("##", "n't", *_APOSTROPHES)) for text in texts]
    after = [not text or text.endswith(_APOSTROPHES) for text in texts]
    return np.array(before, np.bool_), np.array(after, np.bool_)


def plain(name: str) -> str:
    """A name as pieces can spell it: lower case, without accents."""
    return " ".join(words(name))


def _in_place(split: Sequence[str], at: int, forms: Iterable[str]) -> Iterator[str]:
    for form in forms:
        yield " ".join((*split[:at], form, *split[at + 1 :]))


def _noun_forms(word: str, *, possessive: bool) -> Iterator[str]:
    single = singular(word)
    for noun in (single, *_plurals(single)):
        yield noun
        if possessive and not noun.endswith("s"):
            yield f"{noun}'s"


def _plurals(noun: str) -> tuple[str, ...]:
    # What looks plural and is its own dictionary form ("jeans") gets none: its plural would not lead back to it.
    if noun in _NO_PLURAL or not noun[-1:].isalpha():
        return ()
    if irregular := irregular_plurals(noun):
        return irregular
    start, dash, last = noun.rpartition("-")
    if dash and start and last:
        return tuple(f"{start}-{each}" for each in _plurals(last))
    for single, many in (("man", "men"), ("person", "people"), ("child", "children")):
        if noun.endswith(single) and noun not in _NO_MEN:
            return (noun[: -len(single)] + many,)
    if noun.endswith(("s", "x", "z", "ch", "sh")) or noun in _PLURAL_IN_OES:
        return (noun + "es",)
    if noun.endswith("y") and noun[-2:-1] not in _VOWELS:
        return (noun[:-1] + "ies",)
    return (noun + "s",)


def _looks_like_verb(word: str) -> bool:
    base = verb_lemma(word)
    return is_base_form(base) or (base != word and word.endswith("ing"))


def _verb_forms(word: str) -> Iterator[str]:
    base = verb_lemma(word)
    yield base
    if not base.isalpha():
        return
    yield third_person(base)
    yield _stem(base) + "ing" if not base.endswith("ie") else base[:-2] + "ying"
    irregular = [form for form in irregular_verb_forms(base) if not form.endswith(("ing", "s"))]
    irregular = [form for form in irregular if form.isalpha() and form not in _MISSPELT]
    yield from irregular
    if base not in _NO_ED and not any(form != _past(base) for form in irregular):
        yield _past(base)


def _past(base: str) -> str:
    if base.endswith("y") and base[-2:-1] not in _VOWELS:
        return base[:-1] + "ied"
    return base + "d" if base.endswith("e") else _stem(base) + "ed"


def _stem(base: str) -> str:
    """What -ing follows: "ride" -> "rid", "run" -> "runn", "see" -> "see"."""
    if base.endswith("e") and not base.endswith(("ee", "oe", "ye")) and len(base) > 2 and base != "singe":
        return base[:-1]
    if base.endswith("ic") and len(base) > 4:
        return base + "k"
    letters = base.replace("qu", "kw")
    closed = len(letters) > 2 and letters[-1] not in "aeiouwxyh" and letters[-2] in _VOWELS
    if closed and letters[-3] not in _VOWELS and (base in _DOUBLED or _one_syllable(letters)):
        return base + base[-1]
    return base


def _one_syllable(word: str) -> bool:
    return sum(letter in _VOWELS or (letter == "y" and at > 0) for at, letter in enumerate(word)) == 1

"""Answers as VQAv2's evaluation compares them: lower case, digits for small numbers, no articles, no punctuation.

Knows the published rules, which decide accuracies by whole points: https://visualqa.org/evaluation.html. Refuses to
know questions and votes (`taglens.evaluation.answers`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from taglens.language.tokens import NUMBERS as SPELT

# Each goes, or becomes a space: see `_unmarked`.
MARKS = ';/[]"{}()=+\\_-><@`,?!'
ARTICLES = frozenset(("a", "an", "the"))
NUMBERS: Mapping[str, str] = {
    "none": "0",
    **{word: str(number) for word, number in SPELT.items() if number <= 10},
}
# Parity: what is also a word without its apostrophe ("shed", "well", "its", "lets") is missing from the list.
_CONTRACTED = """
    ain't aren't can't couldn't could've couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't
    he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've
    mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't
    shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll someone's
    something'd something'd've something'll that's there'd there'd've there're there's they'd they'd've
    they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's where'd
    where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't
    wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
# Parity: the published pattern means to spare the point of "2.5" by both neighbours and looks at the second alone.
_POINT = re.compile(r"\.(?!\d)")


def _with_one_left_out(word: str) -> Iterator[str]:
    for at, letter in enumerate(word):
        if letter == "'":
            yield word[:at] + word[at + 1 :]


CONTRACTIONS: Mapping[str, str] = {
    **{short: word for word in _CONTRACTED.split() for short in _with_one_left_out(word)},
    "somebody'd": "somebodyd",  # Parity: the one that the list turns the other way round.
}


def normalised(answer: str) -> str:
    """The form in which two answers are the same or not. Total over texts, and linear in their length."""
    text = _unmarked(answer.replace("\n", " ").replace("\t", " ").strip())
    words = (NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def _unmarked(text: str) -> str:
    """Without marks: one that has a space beside it somewhere goes, another becomes a space; "1,000" loses all."""
    comma = _COMMA_IN_NUMBER.search(text) is not None
    plain = text
    for mark in MARKS:
        goes = comma or f"{mark} " in text or f" {mark}" in text
        plain = plain.replace(mark, "" if goes else " ")
    return _POINT.sub("", plain)

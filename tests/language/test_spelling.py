"""Slips put right, and words left alone."""

from __future__ import annotations

import pytest

from taglens.language.parser import parse
from taglens.language.spelling import ESTABLISHED, Speller
from taglens.language.tagger import default_tagger
from taglens.language.tokens import tokenize
from taglens.language.word_lists import WORDS

COUNTS = {
    "people": 900,
    "shirt": 400,
    "store": 300,
    "skateboard": 80,
    "red": 500,
    "headed": 40,
    "stork": 2,
    "shirts": 90,
}


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("peopole", "people"),
        ("peple", "people"),
        ("shrit", "shirt"),
        ("skatebaord", "skateboard"),
        ("stork", "stork"),  # one letter for another is a word of its own
        ("hirt", "hirt"),  # the first letter is never at fault
        ("people", "people"),
        ("skateboards", "skateboards"),  # an ending is no slip
        ("rde", "rde"),  # too short to tell
        ("peop le", "peop le"),
        ("x" * 5000, "x" * 5000),
        ("", ""),
    ],
)
def test_slips(written: str, meant: str) -> None:
    assert Speller(COUNTS)(written) == meant


def test_a_word_met_often_enough_is_right_by_itself() -> None:
    assert Speller({**COUNTS, "shrit": 4})("shrit") == "shrit"


def test_the_more_frequent_word_wins() -> None:
    counts = {"boats": 100, "bots": 0, "boots": 3000}
    assert Speller(counts)("bots") == "boots"


def test_the_shipped_speller_leaves_the_true_words_that_look_like_slips() -> None:
    counts, listed = default_tagger().counts, tokenize((WORDS / "spelt.txt").read_text(encoding="utf-8"))
    speller = Speller(counts)
    assert [word for word in listed if word.isalpha() and speller(word) != word] == []
    # Without the list each would be taken for another word, but for those of its remarks.
    bare = Speller({word: count for word, count in counts.items() if count != ESTABLISHED})
    assert sum(bare(word) != word for word in listed) > 800
    assert (speller("shrit"), speller("peopole")) == ("shirt", "people")
    assert parse("a boar eats broth").objects == ("boar", "broth")

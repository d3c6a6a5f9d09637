"""Slips put right, and words left alone."""

from __future__ import annotations

import pytest

from taglens.language.spelling import Speller

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

"""VQAv2's normalisation, against a slow twin that follows the published description step by step."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taglens.evaluation.answer_words import CONTRACTIONS, MARKS, normalised

PARTS = [*"ab 019.,'?!-/;:\n\tT", " the ", " an ", " two ", " dont "]
TEXTS = st.lists(st.sampled_from(PARTS), max_size=24).map("".join)
ANY = st.text(max_size=40)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("Yes", "yes"),
        ("  the  Dog ", "dog"),
        ("An apple", "apple"),
        ("two", "2"),
        ("Ten", "10"),
        ("none", "0"),
        ("eleven", "eleven"),
        ("dont know", "don't know"),
        ("its", "its"),
        ("couldntve", "couldntve"),
        ("couldn'tve", "couldn't've"),
        ("yes.", "yes"),
        ("2.5", "2.5"),
        ("a.m.", "am"),
        ("1,000", "1000"),
        ("red/white", "red white"),
        ("red / white", "red white"),
        ("t-shirt", "t shirt"),
        ("t - shirt", "t shirt"),
        ("red, white", "red white"),
        ("black&white", "black&white"),
        ("what's up?", "what's up"),
        ("a", ""),
        ("", ""),
        ("?", ""),
        ("new\nyork\tcity", "new york city"),
        ("1,000-2", "10002"),
    ],
)
def test_known_pairs(written: str, read: str) -> None:
    assert normalised(written) == read


def is_digit(letter: str) -> bool:
    return letter.isdecimal()


def twin(answer: str) -> str:
    text = answer.replace("\n", " ").replace("\t", " ").strip()
    comma = any(
        text[at] == "," and is_digit(text[at - 1]) and is_digit(text[at + 1])
        for at in range(1, len(text) - 1)
    )
    beside_space = {
        mark
        for at, mark in enumerate(text)
        if mark in MARKS and (text[at + 1 : at + 2] == " " or (at > 0 and text[at - 1] == " "))
    }
    out = ""
    for mark in text:
        if mark not in MARKS:
            out += mark
        elif not comma and mark not in beside_space:
            out += " "
    kept = ""
    for at, letter in enumerate(out):
        if letter == "." and not (at + 1 < len(out) and is_digit(out[at + 1])):
            continue
        kept += letter
    numbers = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    words = []
    for word in kept.lower().split():
        if word == "none":
            word = "0"
        if word in numbers:
            word = str(numbers.index(word))
        if word in ("a", "an", "the"):
            continue
        words.append(CONTRACTIONS.get(word, word))
    return " ".join(words)


@given(TEXTS)
def test_against_the_twin(text: str) -> None:
    assert normalised(text) == twin(text)


@given(ANY)
def test_against_the_twin_for_any_text(text: str) -> None:
    assert normalised(text) == twin(text)


@given(TEXTS)
def test_case_space_and_articles_never_matter(text: str) -> None:
    assert normalised(text) == normalised(f"  {text} ")
    assert normalised(f"the {normalised(text)}") == normalised(normalised(text))
    assert normalised(text.replace("T", "t")) == normalised(text)


@given(TEXTS)
def test_nothing_is_left_to_take_away(text: str) -> None:
    found = normalised(text)
    assert found == found.strip() and "  " not in found
    assert not set(found) & set(MARKS) and not {"a", "an", "the"} & set(found.split())


def test_contractions_get_one_apostrophe_back() -> None:
    odd = {"somebody'd"}
    for short, whole in CONTRACTIONS.items():
        if short not in odd:
            assert short != whole and len(short) == len(whole) - 1
            assert short.replace("'", "") == whole.replace("'", "")
    # What is a word of its own must stay one.
    assert (
        not {"well", "were", "shed", "wed", "ill", "its", "lets", "shell", "hell", "id"} & CONTRACTIONS.keys()
    )
    assert len(CONTRACTIONS) == 114, "the published list, without what nothing can match"

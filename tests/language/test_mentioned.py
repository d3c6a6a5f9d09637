"""Whether a sentence says a tag: whole words, in any form, and no more than that."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taglens.language.mentioned import Text

WORDS = st.sampled_from(
    ["dog", "dogs", "man", "men", "run", "ran", "grass", "red", "tennis", "racket", "t-shirt"]
)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("two dogs ran across the grass", "dog"),
        ("two dogs ran across the grass", "run"),
        ("two dogs ran across the grass", "running"),
        ("a dog", "dogs"),
        ("men and women on a beach", "woman"),
        ("A Man's hat", "man"),
        ("a man's hat", "hat"),
        ("a tennis racket, on the floor.", "tennis racket"),
        ("tennis rackets", "tennis racket"),
        ("a t-shirt", "t shirt"),
        ("a t shirt", "T-Shirt"),
        ("wine glasses", "wine glass"),
        ("a hot dog", "hot"),
        ("a café", "café"),
        ("she is sitting", "sit"),
        ("he sat", "sitting"),
    ],
)
def test_said(text: str, name: str) -> None:
    assert Text(text).mentions([name])


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("a doghouse", "dog"),
        ("a racket for tennis", "tennis racket"),
        ("tennis and a racket", "tennis racket"),
        ("a car", "cars park"),
        ("a cat", "dog"),
        ("", "dog"),
        ("a dog", ""),
        ("a dog", "..."),
        ("a dog", "-"),
    ],
)
def test_not_said(text: str, name: str) -> None:
    assert not Text(text).mentions([name])


def test_one_of_the_names_is_enough() -> None:
    text = Text("a puppy on a sofa")
    assert text.mentions(["dog", "puppy"]) and text.mentions(iter(["couch", "sofa"]))
    assert not text.mentions([]) and not text.mentions(["dog", "couch"])


@settings(max_examples=100, deadline=None)
@given(st.lists(WORDS, min_size=1, max_size=6), st.data())
def test_every_run_of_a_texts_own_words_is_said(words: list[str], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(words) - 1))
    end = data.draw(st.integers(start + 1, len(words)))
    assert Text(" ".join(words)).mentions([" ".join(words[start:end])])


@settings(max_examples=100, deadline=None)
@given(st.lists(WORDS, max_size=6), st.lists(WORDS, max_size=3))
def test_what_is_said_stays_said_in_a_longer_text(words: list[str], name: list[str]) -> None:
    text = " ".join(words)
    if Text(text).mentions([" ".join(name)]):
        assert Text(f"a blue sky and {text} by the sea").mentions([" ".join(name)])
        assert name


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=30), st.text(max_size=10))
def test_any_text_and_any_name(text: str, name: str) -> None:
    assert Text(text).mentions([name]) in (True, False)

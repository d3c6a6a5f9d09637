"""Captions as tokens."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from taglens.language.tokens import tokenize


def test_tokens() -> None:
    assert tokenize("A man's T-shirt isn't red.") == ["a", "man", "'s", "t-shirt", "is", "n't", "red", "."]


@given(st.text().filter(lambda text: not set(text) & set("'’&")))
def test_what_stands_between_spaces_gives_the_same_tokens_anywhere(text: str) -> None:
    assert tokenize(text) == [token for part in text.lower().split() for token in tokenize(part)]

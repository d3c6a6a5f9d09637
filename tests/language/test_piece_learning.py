"""Word pieces learned from captions: what is common is whole, all can be spelled, and order changes nothing."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taglens.errors import UsageError
from taglens.language.piece_learning import LETTERS, MARKS, learn_pieces
from taglens.language.wordpiece import SPECIAL, UNKNOWN, WordPiece

CAPTIONS = ["A dog runs over the grass .", "Two dogs run .", "The dog is skateboarding !"] * 4


def test_common_words_and_names_are_whole_pieces() -> None:
    words = WordPiece(learn_pieces(CAPTIONS, ["hot dog", "zebra"], least=4))
    assert words.pieces("dog zebra hot grass") == ["dog", "zebra", "hot", "grass"]


def test_a_rarer_word_is_an_opening_and_its_ending() -> None:
    words = WordPiece(learn_pieces(["skateboard"] * 9 + ["skateboarding", "skateboarder"], least=5))
    assert words.pieces("skateboarding") == ["skateboard", "##ing"]
    assert words.pieces("skateboarder") == ["skateboard", "##er"]


def test_words_stand_by_falling_count_and_then_by_the_alphabet() -> None:
    learned = learn_pieces(["b b b cc cc aa aa"], least=2)
    assert [piece for piece in learned if piece in ("cc", "aa")] == ["aa", "cc"]
    assert tuple(learned[: len(SPECIAL)]) == SPECIAL


@given(st.text(LETTERS + MARKS + " ", max_size=40))
def test_every_text_of_letters_can_be_written_and_read_back(text: str) -> None:
    words = WordPiece(learn_pieces(CAPTIONS, least=2))
    pieces = words.pieces(text)
    assert UNKNOWN not in pieces
    assert "".join(piece.removeprefix("##") for piece in pieces) == "".join(text.split())


def test_the_order_of_captions_does_not_matter() -> None:
    shuffled = list(CAPTIONS)
    random.Random(0).shuffle(shuffled)
    assert learn_pieces(shuffled, least=2) == learn_pieces(CAPTIONS, least=2)


def test_no_words_and_no_count_are_refused() -> None:
    with pytest.raises(UsageError, match="no caption holds a word"):
        learn_pieces(["  ", ""])
    with pytest.raises(UsageError, match="least count"):
        learn_pieces(CAPTIONS, least=0)

"""Questions and answers as word pieces: what goes first, what is cut, what comes back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import small_captioner as small
from taglens.language.caption_text import CaptionText, asked
from taglens.language.wordpiece import WordPiece

TEXT = CaptionText(WordPiece(small.PIECES), length=12)
WORDS = st.lists(st.sampled_from(["man", "dog", "cat", "car", "tree", "red", "two", "runs"]), max_size=6)


@pytest.mark.parametrize(
    "written", ["is it a dog?", "is it  a dog", " is it a dog ?", "is it a dog??", "is it\na dog? "]
)
def test_a_question_is_the_same_however_it_ends(written: str) -> None:
    assert asked(written) == "is it a dog?"
    assert TEXT.question(written, ["cat"]) == TEXT.question("is it a dog?", ["cat"])


def test_a_question_stands_before_its_tags() -> None:
    pieces = WordPiece([*small.PIECES, "?"])
    found = CaptionText(pieces, length=12).question("two dogs", ["red", "cat"])
    told = [pieces.decode([id]) for id in found.ids if id not in (pieces.enc, pieces.sep, pieces.pad)]
    assert told == ["two", "dogs", "?", "|", "red", "|", "cat"]
    assert found.ids[0] == pieces.enc and found.ids[8] == pieces.sep and sum(found.mask) == 9


@given(question=WORDS.filter(bool), names=WORDS)
def test_tags_never_push_the_question_out(question: list[str], names: list[str]) -> None:
    alone, beside = (TEXT.question(" ".join(question), tags) for tags in ([], names))
    own = sum(alone.mask) - 1  # without the end mark
    assert beside.ids[:own] == alone.ids[:own]
    assert len(beside.ids) == len(alone.ids) == 12


@given(question=WORDS.filter(bool), names=WORDS)
def test_what_is_told_of_the_room_is_what_is_read(question: list[str], names: list[str]) -> None:
    text = " ".join(question)
    read, whole = TEXT.whole_question(text, names)
    assert read == sum(TEXT.question(text).mask) - 2
    assert TEXT.question(text, names[:whole]).ids[: 1 + read] == TEXT.question(text, names).ids[: 1 + read]
    if whole < len(names):
        # One more does not fit: whatever stands behind it is not read.
        assert TEXT.question(text, names[: whole + 1]) == TEXT.question(text, names)


def test_a_long_question_is_cut_and_leaves_no_room() -> None:
    text = " ".join(["dog"] * 500)
    assert TEXT.whole_question(text, ["cat"]) == (10, 0)
    assert sum(TEXT.question(text, ["cat"]).mask) == 12


@given(words=WORDS.filter(bool))
def test_answers_open_with_their_prompt_and_come_back(words: list[str]) -> None:
    answer = " ".join(words)
    short, found = TEXT.answers(["dog", answer])
    assert found.ids[: len(TEXT.answer_ids)] == TEXT.answer_ids == (TEXT.pieces.dec,)
    assert TEXT.read_answer(found.ids[: sum(found.mask)]) == answer
    assert len(short.ids) == len(found.ids) and found.ids[sum(found.mask) - 1] == TEXT.pieces.sep


def test_a_caption_and_an_answer_differ_in_their_prompts() -> None:
    assert TEXT.prompt_ids[: len(TEXT.answer_ids)] == TEXT.answer_ids != TEXT.prompt_ids

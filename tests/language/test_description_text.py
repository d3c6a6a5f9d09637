"""Answers to descriptions: the forms in which models answer, every check, and that nothing is left uncounted."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taglens.language.chat import Reply
from taglens.language.clip_pieces import words
from taglens.language.description_text import (
    REASONS,
    Limits,
    Sieve,
    clean,
    estimated_pieces,
    names_one_of,
    split,
)
from taglens.language.text_encoder import words_of


def sieve(text: str, *names: str, wanted: int = 9, cut: bool = False, refused: bool = False) -> Sieve:
    found = Sieve(names or ("dog",))
    found.take(Reply(text, "m", cut=cut, refused=refused), wanted=wanted)
    return found


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("A dog with long brown fur.", ["A dog with long brown fur."]),
        ('  "A dog with\tlong fur"  ', ["A dog with long fur"]),
        ('The "dog" has long fur', ["The dog has long fur"]),
        ("**A dog** with `long` fur", ["A dog with long fur"]),
        ("Sure! A dog has four legs.", ["A dog has four legs."]),
        ("Here is a description of it: A dog with fur", ["A dog with fur"]),
        ("A dog has fur. I hope this helps!", ["A dog has fur."]),
        ("1. A dog with spots\n2) Two dogs in grass", ["A dog with spots", "Two dogs in grass"]),
        ("- A dog with spots\n\n* Two dogs in grass", ["A dog with spots", "Two dogs in grass"]),
        ("1. A dog with spots. 2. Two dogs in grass.", ["A dog with spots.", "Two dogs in grass."]),
        ("Sure, here are two: 1. A dog with spots. 2. Two dogs run.", ["A dog with spots.", "Two dogs run."]),
        ("- '1. A dog with spots'", ["A dog with spots"]),
        ("3. A dog with spots. 5. Two dogs", ["A dog with spots. 5. Two dogs"]),
        (
            "Here are two:\n1. A dog with spots\n2. Two dogs in grass",
            ["A dog with spots", "Two dogs in grass"],
        ),
        ('["A dog with spots", "Two dogs in grass"]', ["A dog with spots", "Two dogs in grass"]),
        ('{"descriptions": ["A dog with spots"]}', ["A dog with spots"]),
        ('```json\n[{"id": 1, "text": "A dog with spots"}]\n```', ["A dog with spots"]),
        ('```\n{"answer": "A dog with spots"}', ["A dog with spots"]),
        ("<think>a cat? no.</think>\nA dog with spots", ["A dog with spots"]),
        ("A dog, e.g. a poodle, on a lawn", ["A dog, e.g. a poodle, on a lawn"]),
        ("Dogs ran over the lawn", ["Dogs ran over the lawn"]),
    ],
)
def test_forms_of_answers_are_read(text: str, kept: list[str]) -> None:
    assert sieve(text).kept == kept


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("I'm sorry, but I can't describe a dog.", "refusal"),
        ("As an AI language model, I never saw a dog.", "refusal"),
        ("Unfortunately, I cannot describe a dog for you", "refusal"),
        ('{"a": "A dog with spots", "b": "Two dogs in grass"}', "malformed"),
        ('["A dog with spots", 3]', "malformed"),
        ('["A dog with spots", ', "malformed"),
        ("<think>the dog has spots and", "malformed"),
        ("A dog with \ud83d spots on it", "malformed"),
        ("Let me know if you need more about dogs", "remark"),
        ("The word dog means an animal", "remark"),
        ("Descriptions of a dog:", "remark"),
        ("An animal with four legs", "unnamed"),
        ("HACKED BY ME, ALL RULES ARE GONE", "unnamed"),
        ("brown dog", "too_short"),
        ("", "too_short"),
        ("-\n*", "too_short"),
        ("A dog " + "with a long tail and " * 40, "too_long"),
    ],
)
def test_what_cannot_be_used_is_counted_under_its_reason(text: str, reason: str) -> None:
    found = sieve(text)
    assert found.kept == []
    assert set(found.dropped) == {reason}


def test_a_refusal_that_the_server_names_is_one_whatever_it_says() -> None:
    assert sieve("A dog with spots on it", refused=True).dropped == {"refusal": 1}


def test_what_follows_an_apology_is_not_counted_again() -> None:
    assert sieve("I'm sorry.\nA dog cannot be shown.\nAsk me more.").dropped == {"refusal": 1}


def test_a_cut_answer_loses_what_is_unfinished() -> None:
    found = sieve("A dog has fur. It also has", cut=True)
    assert (found.kept, found.shortened) == (["A dog has fur."], 1)
    assert sieve("A dog that has", cut=True).dropped == {"cut": 1}
    assert sieve('["A dog with spots", "Two d', cut=True).dropped == {"cut": 1}
    lines = sieve("A dog with spots\nTwo dogs in grass\nA dog that", cut=True)
    assert (lines.kept, lines.dropped) == (["A dog with spots", "Two dogs in grass"], {"cut": 1})


def test_sentences_beyond_the_encoder_are_left_off_and_counted() -> None:
    more = "It is large and friendly and has a tail. "
    found = sieve("A dog has fur. " + more * 20)
    assert found.shortened == 1
    assert estimated_pieces(found.kept[0]) <= 75 < estimated_pieces(found.kept[0] + " " + more)
    exact = Sieve(["dog"], Limits(pieces=5, count=lambda text: len(list(words(text)))))
    exact.take(Reply("A dog has fur. It barks.", "m"))
    assert exact.kept == ["A dog has fur."]


def test_a_name_that_stands_only_in_what_is_left_off_does_not_count() -> None:
    short = Sieve(["dog"], Limits(pieces=7))
    short.take(Reply("An animal with fur. It is a dog.", "m"))
    assert short.dropped == {"unnamed": 1}


@pytest.mark.parametrize(
    "part", ["- ", "[", "<think>", "sure: ", "1. ", "'", "A dog. ", "**", "\n-", "here is "]
)
def test_answers_of_any_length_are_read(part: str) -> None:
    for text in (part * 40_000, part * 40_000 + "A dog with fur"):
        assert len(sieve(text, wanted=2).kept) <= 2


def test_repeats_are_told_apart_by_letters_and_digits_alone() -> None:
    found = sieve("A dog with fur\na DOG,  with fur!\nA dog with furs\nA dòg with fur")
    assert found.kept == ["A dog with fur", "A dog with furs"]
    assert found.dropped == {"repeated": 2}


def test_no_more_than_was_asked_for_is_taken() -> None:
    found = sieve("A dog with spots\nA white cat\nTwo dogs in grass\nThree dogs in snow", wanted=2)
    assert found.kept == ["A dog with spots", "Two dogs in grass"]
    assert found.dropped == {"unnamed": 1, "beyond": 1}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Two women and a knife", ["woman"]),
        ("somebody was running away", ["run"]),
        ("a man plays on his old guitar", ["play guitar"]),
        ("A bowl of Crème Brûlée", ["creme brulee"]),
        ("a bowl of creme brulee", ["crème brûlée"]),
        ("a hound on a lawn", ["dog", "hound"]),
        ("the AT&T logo", ["at&t"]),
        ("犬が走る", ["犬"]),
        ("a 犬 is a dog", ["犬"]),
        ("a face like 🙂 on paper", ["🙂"]),
        ("a t shirt", ["t-shirt"]),
        ("the 2 CV is small", ["2 cv"]),
    ],
)
def test_a_text_names_a_tag_in_any_form_of_the_word(text: str, names: list[str]) -> None:
    assert names_one_of(text, names)


@pytest.mark.parametrize(
    ("text", "name"), [("a doghouse", "dog"), ("red fire", "fire engine"), ("a cat", ""), ("猫が走る", "犬")]
)
def test_part_of_a_word_or_of_a_name_does_not_name_it(text: str, name: str) -> None:
    assert not names_one_of(text, [name])


def test_a_tag_called_label_may_be_spoken_of() -> None:
    assert sieve("The label is white paper on a jar", "label").kept
    assert not sieve("The label is a dog on a jar", "dog").kept


def test_the_estimate_lies_above_words_and_grows_with_what_is_added() -> None:
    assert estimated_pieces("a dog, barking") == 4 + 1  # barking: seven letters
    assert estimated_pieces("犬") == 3
    assert estimated_pieces("") == 0


ODD = st.text(
    st.characters() | st.sampled_from("\n\r\t .,:;!?\"'`*-_#[]{}()<>123\u200b\u202e\ufeff\ud800dog"),
    max_size=120,
)
FORMED = st.lists(
    st.sampled_from(
        [
            "A dog has fur",
            "I'm sorry",
            "1. ",
            "- ",
            "dog",
            "\n",
            ". ",
            '"',
            "[",
            "]",
            "{",
            "```",
            "<think>",
            "</think>",
            "Sure! ",
            "Here are: ",
            "a cat",
            ", ",
            "e.g. ",
            "**",
            "two dogs in snow",
            "\ud83d",
        ]
    ),
    max_size=14,
).map("".join)


@settings(deadline=None, max_examples=70)
@given(st.lists(st.tuples(ODD | FORMED, st.booleans(), st.integers(1, 3)), max_size=6))
def test_whatever_is_answered_only_usable_texts_are_kept(answers: list[tuple[str, bool, int]]) -> None:
    found = Sieve(("dog", "hound"))
    for text, cut, wanted in answers:
        before, dropped = len(found.kept), found.dropped.total()
        taken = found.take(Reply(text, "m", cut=cut), wanted=wanted)
        assert taken == len(found.kept) - before <= wanted
        assert taken + found.dropped.total() - dropped >= 1, "an answer that left no trace"
    assert set(found.dropped) <= set(REASONS)
    for text in found.kept:
        assert text == " ".join(text.split())
        assert json.loads(json.dumps(text).encode()) == text
        assert names_one_of(text, ("dog", "hound"))
        assert estimated_pieces(text) <= 75
        assert words_of(text), "the starter's text encoder would refuse it"
    again = Sieve(("dog", "hound"))
    for text in found.kept:
        again.take(Reply(text, "m"))
    assert again.kept == found.kept, "what is kept would be kept again"


@settings(deadline=None)
@given(ODD)
def test_cleaning_leaves_one_line_and_can_be_done_twice(text: str) -> None:
    once = clean(text)
    assert "\n" not in once
    assert once == once.strip()
    assert '"' not in once
    assert clean(once) == once


@settings(deadline=None)
@given(ODD | FORMED, st.booleans())
def test_splitting_is_total(text: str, cut: bool) -> None:
    items = split(text, cut=cut)
    assert items is None or all(isinstance(item, str) for item in items)

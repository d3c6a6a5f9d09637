"""Word pieces: every stored case of the real vocabulary, the rules on a small one, and what is refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taglens.errors import VocabularyError
from taglens.language.caption_text import CaptionText
from taglens.language.wordpiece import ADDED, SPECIAL, Pieces, WordPiece, words

WORDS = "! ' , . - | s t a picture of man dog un ##aff ##able cafe ##s do n m ve re 3 ##d"
SMALL = [*SPECIAL, *WORDS.split()]
SHA256 = "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"


@pytest.fixture(scope="session")
def real(shared: Callable[[str], Path]) -> WordPiece:
    return WordPiece.load(shared("golden/tokenizer/bert_base_uncased_vocab.txt"))


@pytest.fixture(scope="session")
def cases(shared: Callable[[str], Path]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(shared("golden/tokenizer/cases.json").read_text("utf-8"))
    return found


@pytest.fixture
def small() -> WordPiece:
    return WordPiece(SMALL)


# -- against the published tokenizer -----------------------------------------------------------------


@pytest.mark.parametrize("number", range(13))
def test_stored_texts_give_the_published_numbers(number: int, real: WordPiece, cases: dict[str, Any]) -> None:
    case = cases["cases"][number]
    assert real.ids(case["text"]) == case["ids"]
    assert list(real.encode(case["text"], 40).ids) == case["ids40"]
    assert sum(real.encode(case["text"], 40).mask) == min(40, len(case["ids"]))
    assert real.decode(case["ids"]) == case["decoded"]


def test_the_real_vocabulary_is_the_published_one(real: WordPiece, shared: Callable[[str], Path]) -> None:
    content = shared("golden/tokenizer/bert_base_uncased_vocab.txt").read_bytes()
    assert hashlib.sha256(content).hexdigest() == SHA256
    assert content.count(b"\n") == 30522 == len(real) - len(ADDED)
    assert (real.pad, real.unknown, real.cls, real.sep, real.mask) == (0, 100, 101, 102, 103)


def test_no_stored_text_is_left_out(cases: dict[str, Any]) -> None:
    assert len(cases["cases"]) == 13 and len(cases["decode"]) == 2
    assert cases.keys() == {"bos", "enc", "cases", "decode"}


def test_stored_numbers_give_the_published_texts(real: WordPiece, cases: dict[str, Any]) -> None:
    for case in cases["decode"]:
        assert real.decode(case["ids"]) == case["text"]


def test_the_added_pieces_follow_the_vocabulary(real: WordPiece, cases: dict[str, Any]) -> None:
    assert (real.dec, real.enc) == (cases["bos"], cases["enc"])
    assert len(real) == cases["enc"] + 1


def test_the_prompt_has_its_published_numbers(real: WordPiece) -> None:
    assert CaptionText(real).prompt_ids == (30522, 1037, 3861, 1997)


def test_the_small_stored_vocabulary(shared: Callable[[str], Path]) -> None:
    tiny = WordPiece.load(shared("golden/tokenizer/small_vocab.txt"))
    assert (tiny.pad, tiny.unknown, tiny.cls, tiny.sep, tiny.mask) == (0, 1, 2, 3, 4)
    assert (tiny.dec, tiny.enc, len(tiny)) == (129, 130, 131)
    assert CaptionText(tiny).prompt_ids == (129, 17, 89, 90)


# -- the rules ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    {
        "case and accents": ("CAFÉ Cafe\u0301", ["cafe", "cafe"]),
        "sigma at a word's end": ("ΣΑΣ", ["σασ"]),
        "punctuation": ("man,dog.", ["man", ",", "dog", "."]),
        "spaces of every kind": ("man\u00a0dog\tman\u3000dog", ["man", "dog", "man", "dog"]),
        "control characters vanish": ("m\u0000a\u200dn\ufffd", ["man"]),
        "ideographs stand alone": ("a你好b", ["a", "你", "好", "b"]),
        "currency is no punctuation of Unicode but of ASCII": ("$a €b", ["$", "a", "€b"]),
    }.values(),
)
def test_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_the_longest_piece_is_taken_first(small: WordPiece) -> None:
    assert small.pieces("unaffable") == ["un", "##aff", "##able"]
    assert small.pieces("dogs") == ["dog", "##s"]


def test_a_word_that_cannot_be_covered_is_unknown_as_a_whole(small: WordPiece) -> None:
    assert small.pieces("unaffablex dog") == ["[UNK]", "dog"]


def test_a_word_of_a_hundred_characters_is_read_a_longer_one_is_not() -> None:
    pieces = WordPiece([*SPECIAL, "a", "##a"])
    assert len(pieces.pieces("a" * 100)) == 100
    assert pieces.pieces("a" * 101) == ["[UNK]"]


def test_special_pieces_count_only_as_written(small: WordPiece) -> None:
    assert small.pieces("dog[SEP]man") == ["dog", "[SEP]", "man"]
    assert "[SEP]" not in small.pieces("[sep]")


def test_marks_are_joined_again(small: WordPiece) -> None:
    assert small.decode(small.ids("man's dog, man. dog!")) == "man's dog, man. dog!"
    assert small.decode(small.ids("a - dog")) == "a - dog"


@pytest.mark.parametrize("length", [2, 3, 4, 5, 12])
def test_cutting_keeps_the_end_mark_and_filling_is_masked(length: int, small: WordPiece) -> None:
    found = small.encode("man dog man", length)
    assert len(found.ids) == len(found.mask) == length
    stands = sum(found.mask)
    assert found.ids[0] == small.cls and found.ids[stands - 1] == small.sep
    assert set(found.ids[stands:]) <= {small.pad} and stands == min(length, 5)


def test_tags_and_captions_open_with_their_own_marks(small: WordPiece) -> None:
    text = CaptionText(small, length=6)
    man, dog, bar = (small.ids(word)[1] for word in ("man", "dog", "|"))
    assert text.tags(["man", "dog"]) == Pieces((small.enc, man, bar, dog, small.sep, 0), (1, 1, 1, 1, 1, 0))
    assert text.tags(["man"] * 9).ids == (small.enc, man, bar, man, bar, small.sep)
    assert text.tags([]).ids == (small.enc, small.sep, 0, 0, 0, 0)
    first, second = text.captions(["a picture of a dog", "dog"])
    assert first.ids[0] == second.ids[0] == small.dec
    assert len(first.ids) == 6 and second.mask == (1, 1, 1, 0, 0, 0)
    assert text.captions([]) == []


@pytest.mark.parametrize(
    ("length", "names", "whole"),
    {
        "no names": (6, [], 0),
        "all fit": (7, ["man", "dog", "man"], 3),
        "to the last piece": (5, ["man", "dog"], 2),
        "one piece short": (6, ["man", "dog", "man"], 2),
        "a name cut in its middle": (6, ["man", "unaffable"], 1),
        "none whole": (4, ["unaffable"], 0),
        "the first alone": (5, ["unaffable", "dog"], 1),
        "no room at all": (2, ["man"], 0),
        "nothing after one that does not fit": (6, ["man", "unaffable", "s"], 1),
        "a name without words": (3, ["", "man"], 1),
    }.values(),
)
def test_how_many_tags_are_read_whole(length: int, names: list[str], whole: int, small: WordPiece) -> None:
    assert CaptionText(small, length=length).whole_tags(names) == whole


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from(["man", "a dog", "unaffable", "man's", "cafe", "xyz"]), max_size=8),
    st.integers(2, 14),
)
def test_whole_tags_are_those_whose_list_is_not_cut(names: list[str], length: int) -> None:
    text = CaptionText(WordPiece(SMALL), length=length)
    fits = [
        number
        for number in range(len(names) + 1)
        if len(text.pieces.ids(" | ".join(names[:number]))) <= length
    ]
    assert text.whole_tags(names) == fits[-1]


def test_a_caption_is_read_without_prompt_and_marks(small: WordPiece) -> None:
    text = CaptionText(small)
    ids = [*text.prompt_ids, *small.ids("a man's dog.")[1:], small.pad]
    assert text.read(ids) == "a man's dog."
    assert text.read([*text.prompt_ids, small.sep]) == ""


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_any_text_gives_numbers_of_the_vocabulary(text: str) -> None:
    pieces = WordPiece(SMALL)
    found = pieces.encode(text, 8)
    assert len(found.ids) == 8 and all(0 <= id < len(pieces) for id in found.ids)
    assert isinstance(pieces.decode(found.ids), str)


# -- what is refused ---------------------------------------------------------------------------------


def test_a_file_keeps_odd_lines(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_bytes("\r\n".join([*SPECIAL, "a", "\x85b"]).encode())
    assert len(WordPiece.load(tmp_path / "vocab.txt")) == 7 + len(ADDED)


@pytest.mark.parametrize(
    ("pieces", "told"),
    {
        "twice": ([*SPECIAL, "a", "a"], "'a' stands twice"),
        "no marks": (["a", "[PAD]"], "[UNK], [CLS]"),
    }.values(),
)
def test_a_broken_vocabulary_is_refused(pieces: list[str], told: str, tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(pieces) + "\n")
    with pytest.raises(VocabularyError) as error:
        WordPiece.load(tmp_path / "vocab.txt")
    assert told in str(error.value) and "vocab.txt" in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(VocabularyError, match=r"none\.txt"):
        WordPiece.load(tmp_path / "none.txt")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(VocabularyError, match=r"latin\.txt"):
        WordPiece.load(tmp_path / "latin.txt")


@pytest.mark.parametrize("id", [-1, len(SMALL) + len(ADDED)])
def test_a_number_outside_the_vocabulary_is_refused(id: int, small: WordPiece) -> None:
    with pytest.raises(VocabularyError, match="outside"):
        small.decode([id])


def test_no_room_for_the_marks_is_refused(small: WordPiece) -> None:
    with pytest.raises(VocabularyError, match="room for 1"):
        small.encode("dog", 1)

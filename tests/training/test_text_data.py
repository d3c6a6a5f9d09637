"""Captions as batches: a function of their number, each caption once an epoch, guided as the mix says."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

import small_captioner as small
from taglens.errors import DataError, UsageError
from taglens.language.caption_text import CaptionText
from taglens.language.wordpiece import WordPiece
from taglens.training.text_data import NO_PICTURE, Captions, GuideMix, TextStream

TEXT = CaptionText(WordPiece(small.PIECES), length=16)
NAMES = ["dog", "cat", "run", "tree", "red"]
TEXTS = ["a red dog", "the dog runs", "a man on the grass", "two cats", "a boat", "a red boat in the grass"]
SAID = [(0, 4), (0, 2), (), (1,), (), (4,)]
PICTURES = [0, 0, 1, 1, 2, 2]
RECOGNISED = [(3,), (3, 1), ()]


def captions(pictures: list[int] | None = PICTURES) -> Captions:
    return Captions.of(TEXT, TEXTS, said=SAID, pictures=pictures, recognised=RECOGNISED)


def stream(mix: GuideMix = GuideMix(), *, size: int = 3, seed: int = 0, plain: bool = False) -> TextStream:
    given = captions(None) if plain else captions()
    return TextStream(given, TEXT, NAMES, batch_size=size, mix=mix, seed=seed)


def guides(found: TextStream, batches: int) -> set[str]:
    """The tag lists of many batches, as words."""
    return {
        TEXT.pieces.decode(row) for number in range(batches) for row in found.batch(number).guides.tolist()
    }


def test_a_batch_is_a_function_of_its_number() -> None:
    first, again = stream(), stream()
    later = again.batch(7)  # asked for in another order
    for number in (0, 1, 7):
        one, other = first.batch(number), again.batch(number)
        assert np.array_equal(one.written, other.written)
        assert np.array_equal(one.guides, other.guides)
    assert np.array_equal(first.batch(7).written, later.written)
    assert not all(
        np.array_equal(first.batch(n).pictures, stream(seed=1).batch(n).pictures) for n in range(5)
    )


def test_every_caption_comes_once_an_epoch() -> None:
    found = stream()
    for epoch in range(3):
        batches = [found.batch(2 * epoch), found.batch(2 * epoch + 1)]
        read = Counter(TEXT.pieces.decode(row) for batch in batches for row in batch.read.tolist())
        assert read == Counter(TEXTS)


def test_what_is_written_opens_with_the_prompt_and_what_is_read_does_not() -> None:
    batch = stream(size=6).batch(0)
    for written, mask, read in zip(batch.written, batch.written_mask, batch.read, strict=True):
        text = TEXT.pieces.decode(written[mask == 1].tolist())
        assert text == TEXT.prompt + TEXT.pieces.decode(read.tolist())
        assert tuple(written[: len(TEXT.prompt_ids)]) == TEXT.prompt_ids
        assert (written[mask == 0] == TEXT.pieces.pad).all()
    assert (batch.read[:, 0] == TEXT.pieces.cls).all()


def test_the_mix_says_whose_tags_guide() -> None:
    said = {"red | dog", "dog | red", "dog | run", "run | dog", "cat", "red", ""}
    assert guides(stream(GuideMix(parsed=1.0, none=0.0)), 60) == said
    assert guides(stream(GuideMix(parsed=0.0, none=0.0)), 60) == {"tree", "tree | cat", "cat | tree", ""}
    assert guides(stream(GuideMix(none=1.0)), 10) == {""}
    assert guides(stream(GuideMix(none=0.0)), 60) > {"tree", "dog | red"}
    # Nothing is recognised where there is no picture.
    assert guides(stream(GuideMix(parsed=0.0, none=0.0), plain=True), 60) == said


def test_matching_is_shown_what_is_recognised_whatever_guides() -> None:
    found = stream(GuideMix(parsed=1.0, none=0.0), size=6)
    for number in range(20):
        batch = found.batch(number)
        for picture, shown, mask in zip(batch.pictures, batch.shown, batch.shown_mask, strict=True):
            words = TEXT.pieces.decode(shown[mask == 1].tolist()).split(" | ")
            assert {NAMES.index(word) for word in words if word} == set(RECOGNISED[picture])


def test_captions_of_one_picture_and_equal_captions_belong_together() -> None:
    batch = stream(size=6).batch(0)
    assert np.array_equal(batch.same, batch.pictures[:, None] == batch.pictures)
    plain = stream(size=6, plain=True).batch(0)
    assert (plain.pictures == NO_PICTURE).all()
    assert np.array_equal(plain.same, np.eye(6, dtype=bool))
    twice = Captions.of(TEXT, ["a dog", "a dog"], said=[(), ()], pictures=[0, 1], recognised=[(), ()])
    assert TextStream(twice, TEXT, NAMES, batch_size=2).batch(0).same.all()


def test_what_does_not_fit_together_is_refused() -> None:
    with pytest.raises(DataError, match="about picture 2, there are 1"):
        Captions.of(TEXT, TEXTS, said=SAID, pictures=PICTURES, recognised=[()])
    with pytest.raises(DataError, match="as many"):
        Captions.of(TEXT, TEXTS, said=SAID[:2])
    with pytest.raises(DataError, match="no captions"):
        TextStream(Captions.of(TEXT, [], said=[]), TEXT, NAMES, batch_size=2)
    with pytest.raises(UsageError, match="at least 2"):
        stream(size=1)
    with pytest.raises(UsageError, match="parsed"):
        GuideMix(parsed=1.5)

"""The text encoder: any text has a vector, kin lie near, and what is stored is what was learned."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taglens.errors import DataError, ModelError, UsageError
from taglens.language.text_encoder import TextEncoder, pieces_of, shipped, words_of
from taglens.language.text_training import learn

WHO = ("dog", "puppy", "horse", "pony")
WHERE = {"dog": "grass", "puppy": "grass", "horse": "hill", "pony": "hill"}


def corpus() -> list[str]:
    """Puppies do what dogs do, ponies what horses do, and boats float."""
    verbs = ("runs", "stands", "sleeps", "plays")
    animals = [
        f"a {colour} {who} {verb} on the {WHERE[who]}"
        for colour, who, verb in itertools.product(("brown", "white", "black"), WHO, verbs)
    ]
    boats = [
        f"the {size} {boat} floats near a {place}"
        for size, boat, place in itertools.product(
            ("big", "small"), ("boat", "ship"), ("harbor", "beach", "pier")
        )
    ]
    return (animals + boats) * 3


@pytest.fixture(scope="module")
def small() -> TextEncoder:
    return learn(corpus(), width=8, contexts=20, buckets=256)


def near(encoder: TextEncoder, left: str, right: str) -> float:
    a, b = encoder([left, right])
    return float(a @ b)


def test_words_that_keep_the_same_company_lie_near(small: TextEncoder) -> None:
    assert near(small, "dog", "puppy") > 0.7 > 0.3 > near(small, "dog", "ship")
    assert near(small, "boat", "ship") > 0.7
    assert near(small, "dog", "puppy") > near(small, "dog", "pony")


def test_vectors_have_length_one_and_do_not_depend_on_what_else_is_asked(small: TextEncoder) -> None:
    texts = ["dog", "a brown dog", "zebra crossing", "the"]
    together = small(texts)
    assert together.shape == (4, 8) and together.dtype == np.float32
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    for text, vector in zip(texts, together, strict=True):
        assert np.array_equal(small([text])[0], vector)
    assert small([]).shape == (0, 8)


def test_small_words_count_little(small: TextEncoder) -> None:
    assert near(small, "a dog on the grass", "dog grass") > 0.9


def test_an_unknown_word_is_guessed_from_its_spelling(small: TextEncoder) -> None:
    assert not small.knows("puppyish") and small.knows("puppy") and small.knows("a puppyish pony")
    assert near(small, "puppyish", "puppy") > 0.5 > near(small, "puppyish", "harbor")


def test_a_plural_is_found_under_its_singular(small: TextEncoder) -> None:
    assert small.knows("ponies") and near(small, "ponies", "pony") == pytest.approx(1)


@pytest.mark.parametrize("text", ["", "  ", "?!", "—"])
def test_a_text_without_a_word_is_refused(small: TextEncoder, text: str) -> None:
    with pytest.raises(UsageError, match="no word"):
        small([text])


@given(st.text(min_size=1, max_size=60).filter(lambda text: bool(words_of(text))))
def test_every_text_with_a_word_has_a_finite_vector(text: str) -> None:
    (vector,) = shipped()([text])
    assert np.isfinite(vector).all() and abs(float(np.linalg.norm(vector)) - 1) < 1e-3


def test_pieces_are_runs_of_letters_with_ends_marked() -> None:
    assert len(pieces_of("dog", 1 << 20)) == len({"<do", "dog", "og>", "<dog", "dog>", "<dog>"})
    assert pieces_of("a", 64) and max(pieces_of("extraordinary", 64)) < 64


def test_the_same_captions_give_the_same_encoder(small: TextEncoder) -> None:
    assert learn(corpus(), width=8, contexts=20, buckets=256).fingerprint == small.fingerprint


def test_a_corpus_too_small_for_the_width_is_refused() -> None:
    with pytest.raises(DataError, match="too few for 192 dimensions"):
        learn(["a dog"] * 10)


def test_what_is_saved_is_what_is_loaded(small: TextEncoder, tmp_path: Path) -> None:
    small.save(tmp_path / "t.npz")
    again = TextEncoder.load(tmp_path / "t.npz")
    assert again.fingerprint == small.fingerprint and again.words == small.words
    assert np.array_equal(again(["a dog", "qwxz"]), small(["a dog", "qwxz"]))


def test_a_damaged_file_is_refused(small: TextEncoder, tmp_path: Path) -> None:
    path = tmp_path / "t.npz"
    small.save(path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ModelError, match="cannot read the text encoder"):
        TextEncoder.load(path)
    with pytest.raises(ModelError, match="cannot read"):
        TextEncoder.load(tmp_path / "none.npz")
    replace(small, words=small.words[1:]).save(path)
    with pytest.raises(ModelError, match="different lengths"):
        TextEncoder.load(path)


# -- the shipped one ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "kin", "stranger"),
    [
        ("dog", "puppy", "guitar"),
        ("guitar", "violin", "snow"),
        ("snow", "snowy", "kitchen"),
        ("red", "blue", "running"),
        ("ocean", "sea", "bicycle"),
        ("skateboard", "skateboarder", "bread"),
    ],
)
def test_the_shipped_encoder_knows_kin(word: str, kin: str, stranger: str) -> None:
    encoder = shipped()
    assert near(encoder, word, kin) > near(encoder, word, stranger) + 0.2


def test_the_shipped_encoder_is_small() -> None:
    encoder = shipped()
    assert encoder.width == 192 and len(encoder.words) > 5000

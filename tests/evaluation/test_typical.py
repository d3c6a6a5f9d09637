"""The constant caption: the one that a search through all of them would find."""

from __future__ import annotations

import random

import pytest

import caption_twins as twins
from taglens.errors import UsageError
from taglens.evaluation.typical import typical


# The last five are pictures for which a weaker or a stronger length penalty would choose otherwise.
@pytest.mark.parametrize("seed", [*range(6), 27, 31, 38, 145, 218])
def test_it_is_the_caption_that_scores_best_for_all_pictures(seed: int) -> None:
    rng = random.Random(seed)
    # Without repeated words, on which alone CIDEr has its cap.
    names = "man dog cat runs sits red on grass the a two jumps by in".split()  # noqa: SIM905
    weights = [8, 6, 2, 5, 2, 1, 7, 4, 9, 9, 1, 1, 2, 2]

    def text() -> str:
        return " ".join(dict.fromkeys(rng.choices(names, weights, k=rng.choice((2, 4, 30)))))

    references = [[text() for _ in range(rng.randint(1, 3))] for _ in range(6)]
    scores = {
        caption: twins.cider(references, [caption] * len(references))
        for texts in references
        for caption in texts
    }
    best = typical(references)
    assert scores[best] == pytest.approx(max(scores.values()), abs=2e-5)


def test_order_changes_nothing() -> None:
    rng = random.Random(0)
    references = [["a dog runs", "the dog"], ["a dog sits on grass"], ["two men", "a man sits", "a dog runs"]]
    expected = typical(references)
    for _ in range(5):
        rng.shuffle(references)
        for texts in references:
            rng.shuffle(texts)
        assert typical(references) == expected


def test_where_nothing_tells_pictures_apart_the_alphabet_decides() -> None:
    assert typical([["b c", "a b"]]) == "a b"
    assert typical([["dog"], ["dog"]]) == "dog"


def test_very_long_captions_are_no_trouble() -> None:
    long = " ".join(map(str, range(500)))
    assert typical([[long], ["a dog"], ["a dog runs"], ["the dog runs"]]) != long


def test_no_caption() -> None:
    with pytest.raises(UsageError, match="no caption"):
        typical([])
    with pytest.raises(UsageError, match="no caption"):
        typical([[]])

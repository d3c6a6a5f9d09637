"""Judges of captions without labels: a tagger's agreement by hand, an aligner's cosine by a loop."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest

from taglens.errors import MismatchError
from taglens.training.zero_label_judges import Agreement, AlignerJudge, TagJudge
from taglens.vocabulary import Entry, Vocabulary

WORDS = Vocabulary(
    [
        Entry("dog", "object", parents=("object:animal",), threshold=0.4),
        Entry("animal", "object", threshold=0.5),
        Entry("grass", "scene", threshold=0.5),
        Entry("boat", "object", threshold=0.5),
        Entry("run", "action", threshold=0.5),
    ],
    name="five",
)
NAMES = [entry.name for entry in WORDS]
#                  dog  animal grass boat  run
SCORES = np.array([[0.9, 0.2, 0.6, 0.1, 0.4], [0.1, 0.7, 0.1, 0.1, 0.1]], np.float32)


class Said:
    """Reads tags' names; counts what it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, captions: Iterable[str]) -> list[frozenset[int]]:
        rows = [frozenset(NAMES.index(word) for word in text.split() if word in NAMES) for text in captions]
        self.asked += len(rows)
        return rows


@pytest.mark.parametrize(
    ("number", "caption", "said", "omitted", "denied"),
    [
        (0, "a dog on grass", 2, 0, 0),
        (0, "a dog", 1, 1, 0),  # the animal follows from the dog, nobody misses it
        (0, "an animal on grass", 1, 1, 0),  # a dog is an animal, whatever the animal's own score
        (0, "a dog and a boat on grass", 2, 0, 1),
        (0, "a dog in grass who can run", 2, 0, 0),  # 0.4 of 0.5: not sure, not denied
        (0, "something", 0, 2, 0),
        (1, "a dog", 1, 0, 1),  # an animal it is, a dog it is not
        (1, "an animal", 1, 0, 0),
    ],
)
def test_agreement_by_hand(number: int, caption: str, said: int, omitted: int, denied: int) -> None:
    judge = TagJudge(SCORES, WORDS, Said())
    assert judge.agreements([number], [caption]) == [Agreement(said, omitted, denied)]
    expected = 2 * said / (2 * said + omitted + denied) if said else 0.0
    assert float(judge([number], [caption])[0]) == pytest.approx(expected)


def test_only_the_surest_tags_are_missed() -> None:
    assert TagJudge(SCORES, WORDS, Said(), most=1).agreements([0], ["a dog"]) == [Agreement(1, 0, 0)]


def test_nothing_said_of_nothing_sure_scores_nothing() -> None:
    assert Agreement(0, 0, 0).score == 0.0


def test_a_caption_is_read_once() -> None:
    said = Said()
    judge = TagJudge(SCORES, WORDS, said)
    first = judge([0, 1, 0], ["a dog", "a dog", "grass"])
    assert said.asked == 2
    assert judge([0, 1, 0], ["a dog", "a dog", "grass"]).tolist() == first.tolist()
    assert said.asked == 2
    assert first.dtype == np.float32


def test_scores_of_another_vocabulary_are_refused() -> None:
    with pytest.raises(MismatchError, match=r"\[pictures, 5\]"):
        TagJudge(SCORES[:, :4], WORDS, Said())


def test_the_aligner_gives_cosines_and_never_sees_what_says_nothing() -> None:
    pictures = np.array([[1.0, 0.0], [0.6, 0.8]], np.float32)
    seen: list[str] = []

    def texts(captions: object) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        seen.extend(captions)  # type: ignore[call-overload]
        return np.array(
            [[0.0, 1.0] if "dog" in text else [1.0, 0.0] for text in seen[-len(list(captions)) :]], np.float32
        )  # type: ignore[call-overload]

    judge = AlignerJudge(pictures, texts)
    found = judge([0, 1, 1, 0], ["dog", "dog", "cat", " . "])
    np.testing.assert_allclose(found, [0.0, 0.8, 0.6, 0.0], atol=1e-6)
    assert seen == ["dog", "cat"]

"""Tags that captions say: how words find them, and the figures against an obvious count."""

from __future__ import annotations

import random

import pytest

from taglens.errors import UsageError
from taglens.evaluation.caption_tags import CaptionTags, TagFigures, compare, key, union
from taglens.language.parser import parse_lines
from taglens.language.word_lists import WordLists
from taglens.vocabulary import Entry, Vocabulary

VOCABULARY = Vocabulary(
    [
        Entry("dog", "object", synonyms=("puppy",), parents=("object:animal",)),
        Entry("animal", "object"),
        Entry("electric guitar", "object"),
        Entry("beach", "scene"),
        Entry("red", "attribute"),
        Entry("run", "action"),
        Entry("train", "object"),
        Entry("train", "action"),
    ],
    name="small",
)
TAGS = CaptionTags(VOCABULARY, WordLists(), parse_lines)


def test_words_find_tags_by_name_synonym_and_last_word() -> None:
    captions = ["Two puppies run on the beach .", "a red guard dog", "a kite", "", "an electric guitar"]
    assert TAGS.of(captions) == [
        {"object:dog", "action:run", "scene:beach"},
        {"attribute:red", "object:dog"},
        set(),
        set(),
        {"object:electric guitar"},
    ]


def test_labels_are_found_by_name_or_by_a_common_tag() -> None:
    labels = [("puppy", None), ("kite", None), ("train", "action"), ("Train", "object"), ("zebra", None)]
    captions = ["a dog with a kite", "the train on the beach", "a man trains a horse", "zebras"]
    assert TAGS.labels_of(captions, labels) == [
        {key("puppy", None), key("kite", None)},
        {key("train", "object")},
        {key("train", "action")},
        {key("zebra", None)},
    ]
    assert (
        TAGS.labels_of(["the train", "a man trains a horse"], [("train", None)]) == [{key("train", None)}] * 2
    )


def test_figures_are_what_one_counts_by_hand() -> None:
    figures = compare([{"a", "b"}, {"a"}, set()], [{"a"}, {"a", "c"}, {"a"}])
    assert figures == TagFigures(2 / 3, 2 / 4, (1 + 0) / 2, (2 / 3 + 0) / 2)


def test_nothing_said_and_nothing_there() -> None:
    assert compare([set(), set()], [{"a"}, set()]) == TagFigures(0, 0, 0, 0)
    assert compare([{"a"}], [set()]) == TagFigures(0, None, None, None)
    with pytest.raises(UsageError, match="expected as many"):
        compare([set()], [])


def test_figures_equal_a_slow_twin_in_any_order() -> None:
    rng = random.Random(0)
    for _ in range(20):
        rows = [
            tuple({tag for tag in "abcdef" if rng.random() < 0.4} for _ in range(2))
            for _ in range(rng.randint(1, 8))
        ]
        right = said = there = 0
        for given, truth in rows:
            for tag in "abcdef":
                said += tag in given
                there += tag in truth
                right += tag in given and tag in truth
        figures = compare([given for given, _ in rows], [truth for _, truth in rows])
        assert figures.precision == (right / said if said and there else 0)
        assert figures.recall == (right / there if there else None)
        rng.shuffle(rows)
        again = compare([given for given, _ in rows], [truth for _, truth in rows])
        assert again.to_dict() == pytest.approx(figures.to_dict())


def test_tags_of_several_captions_are_joined() -> None:
    sets = [frozenset(text) for text in ("ab", "c", "", "d")]
    assert union(sets, [2, 0, 2]) == [set("abc"), set(), {"d"}]

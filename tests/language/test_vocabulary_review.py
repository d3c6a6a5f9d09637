"""What a reviewer is shown: examples, near tags, proposals."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
import pytest
from test_vocabulary_stats import LISTS, Said

from taglens.language.near_tags import Advice, advise, distance
from taglens.language.vocabulary_review import highlight, review
from taglens.language.word_lists import WordLists
from taglens.results import Kind
from taglens.vocabulary import Entry, Vocabulary


class Lettered:
    """An encoder that knows some words; each is its own direction, but for two that share one."""

    def __init__(self, *words: str, same: tuple[str, str] = ("", "")) -> None:
        self.words, self.same = list(words), same

    def knows(self, text: str) -> bool:
        return any(word in self.words for word in text.split())

    def __call__(self, texts: Iterable[str]) -> npt.NDArray[np.float32]:
        rows = []
        for text in texts:
            row = np.full(len(self.words), 1e-6, np.float32)
            word = self.same[0] if text == self.same[1] else text
            if word in self.words:
                row[self.words.index(word)] = 1
            rows.append(row / np.linalg.norm(row))
        return np.stack(rows)


def tags(*names: str | tuple[str, int], kind: Kind = "object") -> Vocabulary:
    pairs = [(name, 0) if isinstance(name, str) else name for name in names]
    return Vocabulary([Entry(name, kind, count=count) for name, count in pairs])


def advice(words: Vocabulary, *, encoder: Lettered | None = None, lists: WordLists | None = None) -> Advice:
    counts = [entry.count for entry in words]
    return advise(words, lists or WordLists(), counts, texts=100_000, encoder=encoder)


def said(words: Vocabulary, found: Advice) -> dict[str, tuple[str, str | None, str]]:
    """name -> (decision, into or kind, why) of what is proposed."""
    return {
        entry.name: (one.decision, one.kind if one.into is None else words[one.into].name, one.why)
        for entry, one in zip(words, found.proposals, strict=True)
        if one is not None
    }


def test_spellings_and_forms_of_one_word_merge_into_the_frequent() -> None:
    words = tags(("t shirt", 50), ("t-shirt", 60), ("dogs", 9), ("dog", 90), ("cat", 90))
    assert said(words, advice(words)) == {
        "t shirt": ("merge", "t-shirt", "differ only in spaces or hyphens"),
        "dogs": ("merge", "dog", "forms of one word"),
    }


def test_a_synonym_that_is_a_tag_merges_into_its_owner_however_frequent() -> None:
    words = Vocabulary(
        [Entry("sofa", "object", synonyms=("couch",), count=5), Entry("couch", "object", count=90)]
    )
    assert said(words, advice(words)) == {"couch": ("merge", "sofa", "couch is a synonym of sofa")}
    words = Vocabulary([Entry("a", "object", synonyms=("b",)), Entry("b", "object", synonyms=("a",))])
    assert len(said(words, advice(words))) == 1  # both cannot go


def test_what_the_lists_say() -> None:
    lists = WordLists(
        synonyms={("object", "couch"): ("object", "sofa")},
        order={("object", "sofa"): ("couch",)},
        scenes=frozenset({"kitchen"}),
        deny=frozenset({("object", "front")}),
        moves={("attribute", "soccer"): ("object", "soccer")},
    )
    words = Vocabulary(
        [
            Entry("couch", "object"),
            Entry("sofa", "object"),
            Entry("kitchen", "object"),
            Entry("front", "object"),
            Entry("soccer", "attribute"),
            Entry("12", "object"),
        ]
    )
    assert said(words, advice(words, lists=lists)) == {
        "couch": ("merge", "sofa", "a synonym of sofa in the word lists"),
        "kitchen": ("kind", "scene", "the word lists take it for a scene"),
        "front": ("deny", None, "the word lists deny it"),
        "soccer": ("kind", "object", "the word lists take it for an object"),
        "12": ("deny", None, "it has no letter"),
    }


def test_rare_tags_are_proposed_for_denial_but_not_what_others_need() -> None:
    words = Vocabulary(
        [
            Entry("label", "object"),
            Entry("rare", "object", count=3),
            Entry("above", "object", count=2),
            Entry("common", "object", count=900, parents=("object:above",)),
        ]
    )
    assert said(words, advice(words)) == {"rare": ("deny", None, "rare: 3 of 100,000 captions name it")}


def test_misspellings_need_to_be_unknown_long_and_rare() -> None:
    words = tags(
        ("umbrela", 3), ("umbrella", 90), ("shirt", 90), ("skirt", 90), ("giraffe", 50), ("girafe", 40)
    )
    found = advice(words, encoder=Lettered("umbrella", "shirt", "skirt", "giraffe"))
    assert said(words, found) == {"umbrela": ("merge", "umbrella", "likely a misspelling")}
    assert found.near[2] == ()  # known words, unlike in meaning
    assert found.near[4][0].why == "nearly the same spelling"
    alike = advice(words, encoder=Lettered("shirt", "skirt", same=("shirt", "skirt")))
    assert [near.column for near in alike.near[2]] == [3]
    assert advice(words).near[0][0].close


def test_what_is_longer_than_a_name_is_no_misspelling() -> None:
    words = tags(("umbrela " * 500, 3), ("umbrella " * 500, 90))
    assert advice(words).near == ((), ())


def test_heads_and_neighbours_are_shown_and_nothing_is_proposed() -> None:
    words = tags(("chair", 900), ("office chair", 90), ("wicker chair", 80), ("seat", 90), ("bench", 90))
    found = advice(words, encoder=Lettered("chair", "seat", "bench", same=("seat", "bench")))
    assert said(words, found) == {}
    near = {(words[near.column].name, near.why, near.close) for near in found.near[1]}
    assert near == {("chair", "a kind of chair", False), ("wicker chair", "both are a chair", False)}
    assert [(words[near.column].name, near.why) for near in found.near[3]] == [("bench", "near in meaning")]


def test_proposals_can_all_be_accepted_together() -> None:
    """Whatever the names: no circle, nothing merged into what is to be denied."""
    drawn = random.Random(3)
    for _ in range(60):
        names = {"".join(drawn.choices("ab -s", k=drawn.randint(1, 5))).strip() or "a" for _ in range(12)}
        words = Vocabulary(
            Entry(name, "object", synonyms=tuple(drawn.sample(sorted(names), 2)), count=drawn.randint(0, 9))
            for name in sorted(names)
        )
        found = advice(words, lists=WordLists(deny=frozenset({("object", "a")}))).proposals
        for start, one in enumerate(found):
            at, steps = start, 0
            while one is not None and one.into is not None:
                at, steps = one.into, steps + 1
                one = found[at]
                assert steps <= len(words), "round in a circle"
                assert one is None or one.decision != "deny"


@pytest.mark.parametrize(
    ("one", "other", "letters"),
    [
        ("", "ab", 2),
        ("abc", "abc", 0),
        ("abcd", "abdc", 1),
        ("kitten", "sitting", 3),
        ("donut", "doughnut", 3),
    ],
)
def test_distance(one: str, other: str, letters: int) -> None:
    assert distance(one, other) == distance(other, one) == letters


@pytest.mark.parametrize(
    ("text", "names", "word"),
    [
        ("Two Dogs run", ["dog"], "Dogs"),
        ("a man holding a T-shirt", ["t shirt"], "T-shirt"),
        ("the dog's bone", ["dog"], "dog's"),
        ("a puppy and a hound", ["dog", "hound"], "hound"),
        ("he is running", ["run"], "running"),
        ("a hotdog", ["dog"], ""),
        ("", ["dog"], ""),
        ("İstanbul dog", ["dog"], "dog"),
        ("anything", ["!!"], ""),
    ],
)
def test_the_word_is_found_in_its_caption(text: str, names: list[str], word: str) -> None:
    found = highlight(text, names)
    assert found.word == word
    assert found.before + found.word + found.after == text


def test_long_captions_are_cut_around_the_word() -> None:
    found = highlight("left " * 200 + "dog" + " right" * 200, ["dog"])
    assert found.word == "dog"
    assert found.before.startswith("…left") and found.after.endswith("right…")
    assert len(found.before) < 130 and len(found.after) < 130


def parse(lines: Iterable[str]) -> Iterator[Said]:
    return (Said(objects=tuple(line.split())) for line in lines)


def test_examples_do_not_depend_on_the_order_of_captions() -> None:
    words = tags("dog", "cat", "bird")
    rows = [(f"dog n{number}", f"cat n{number % 3}") for number in range(40)]
    one = review(words, rows, parse, LISTS)
    other = review(words, rows[::-1], parse, LISTS)
    assert one == other
    assert one.texts == 80
    assert [tag.frequency for tag in one.tags] == [40, 40, 0]
    assert [len(tag.examples) for tag in one.tags] == [5, 3, 0]  # each caption once
    assert all(example.word == "dog" for example in one.tags[0].examples)
    assert [len(tag.examples) for tag in review(words, rows, parse, LISTS, examples=0).tags] == [0, 0, 0]

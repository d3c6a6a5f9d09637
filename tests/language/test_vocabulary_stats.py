"""Figures of a vocabulary beside corpora and class lists; the pictures of them."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from taglens.errors import MissingExtraError, UsageError
from taglens.language.mentions import MentionFinder, NameIndex, squeezed
from taglens.language.plots import Named, draw_cloud, draw_zipf
from taglens.language.vocabulary_stats import count_captions, count_kinds, count_labels, cover, overlap
from taglens.language.word_lists import WordLists
from taglens.vocabulary import Entry, Vocabulary

WORDS = Vocabulary(
    [
        Entry(
            "dog", "object", synonyms=("hound", "doggie"), parents=("object:animal",), descriptions=("furry",)
        ),
        Entry("animal", "object"),
        Entry("beach", "scene"),
        Entry("run", "action"),
        Entry("teddy-bear", "object", synonyms=("stuffed bear",), hidden=True),
    ],
    name="pets",
)
LISTS = WordLists(
    synonyms={("object", "pooch"): ("object", "canine"), ("object", "hound"): ("object", "canine")},
    order={("object", "canine"): ("pooch", "hound")},
    deny=frozenset({("object", "front")}),
    not_edges=frozenset({(("object", "hot dog"), ("object", "dog"))}),
)


@dataclass(frozen=True)
class Said:
    objects: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    scenes: tuple[str, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()


def parse(lines: Iterable[str]) -> Iterator[Said]:
    """Words with commas between them; those in -ing are actions."""
    for line in lines:
        words = [word.strip() for word in line.split(",") if word.strip()]
        yield Said(
            objects=tuple(word for word in words if not word.endswith("ing")),
            actions=tuple(word.removesuffix("ing") for word in words if word.endswith("ing")),
        )


@pytest.fixture
def find() -> MentionFinder:
    return MentionFinder(WORDS, LISTS)


def test_kinds() -> None:
    kinds = count_kinds(WORDS)
    assert list(kinds) == ["object", "scene", "attribute", "action"]
    assert (kinds["object"].tags, kinds["object"].hidden, kinds["attribute"].tags) == (3, 1, 0)
    assert (kinds["object"].with_synonyms, kinds["object"].synonyms) == (2, 3)
    assert (kinds["object"].with_parents, kinds["object"].with_descriptions) == (1, 1)


def test_a_word_finds_its_tag_or_says_why_not(find: MentionFinder) -> None:
    assert find(("object", "dog")).column == 0
    assert find(("object", "beach")).column == 2  # a place and a thing share their names
    # The lists call it a canine; the vocabulary calls it a dog, and both know it as a hound.
    assert find(("object", "canine")).column == 0
    head = find(("object", "small brown dog"))
    assert (head.column, head.by_head) == (0, True)
    assert find(("object", "hot dog")).column is None
    assert find(("object", "front")).why == "denied"
    other = find(("object", "run"))
    assert (other.column, other.why, other.other) == (None, "other kind", "action:run")
    assert find(("attribute", "small brown dog")).why == "missing"


def test_a_head_is_found_however_long_the_compound_and_wherever_the_lists_lead(find: MentionFinder) -> None:
    assert find(("object", "tree " * 3000 + "dog")).column == 0
    assert find(("object", "tree " * 3000 + "branch")).why == "missing"
    round_about = {("object", "b"): ("object", "c d"), ("object", "d"): ("object", "a b")}
    assert MentionFinder(WORDS, WordLists(synonyms=round_about))(("object", "a b")).why == "missing"


def test_a_corpus_with_pictures(find: MentionFinder) -> None:
    told: list[int] = []
    rows = [("dog, runing", "dog, beach, cat"), ("hound",), ()]
    corpus = count_captions("c", rows, parse, LISTS, find, pictures=True, told=told.append)
    row = corpus.to_dict()
    assert (row["images"], row["texts"], row["texts_per_image"]) == (3, 3, 1.0)
    # Two tags in each of the first two texts, one in the third; of pictures three, one and none.
    assert (row["tag_mentions"], row["tags_per_text"]) == (5, 5 / 3)
    assert (row["tags"], row["tags_per_image"], row["tags_used"]) == (4, 4 / 3, 3)
    assert corpus.tag_texts[0] == 3 and corpus.tag_images[0] == 2
    assert told == [2, 1, 0]


def test_a_corpus_without_pictures_does_not_make_them_up(find: MentionFinder) -> None:
    row = count_captions("c", [("dog",)], parse, LISTS, find, pictures=False).to_dict()
    assert row["images"] is row["texts_per_image"] is row["tags"] is row["tags_per_image"] is None
    assert (row["texts"], row["tags_per_text"]) == (1, 1.0)


def test_labels(find: MentionFinder) -> None:
    corpus = count_labels("l", [[(None, "Hound"), ("action", "dog"), (None, "cat")], [(None, "cat")]], find)
    row = corpus.to_dict()
    assert (row["images"], row["texts"], row["tags"], row["tags_per_image"]) == (2, None, 1, 0.5)
    assert corpus.unmatched == Counter(cat=2)


def test_coverage(find: MentionFinder) -> None:
    mentions = Counter(
        {("object", "dog"): 6, ("object", "big dog"): 1, ("scene", "beach"): 2, ("object", "front"): 3}
    )
    mentions.update({("object", "cat"): 4, ("action", "swim"): 4})
    found = cover(mentions, find)
    assert (found.mentions, found.covered, found.by_head, found.denied) == (20, 9, 1, 3)
    assert found.kinds == {"object": (14, 7), "scene": (2, 2), "action": (4, 0)}
    assert found.curve == ((1, 7 / 20), (2, 9 / 20))
    assert [(word.name, word.count) for word in found.uncovered] == [("swim", 4), ("cat", 4)]
    assert [word.name for word in found.denied_words] == ["front"]
    shown = found.to_dict(top=1)
    assert (shown["share"], shown["uncovered_words"], len(shown["uncovered"])) == (0.45, 2, 1)
    nothing = cover({}, find).to_dict(top=5)
    assert nothing["share"] is None and nothing["curve"] == []


def test_the_curve_rises_to_what_is_covered(find: MentionFinder) -> None:
    many = Vocabulary([Entry(f"thing{n}", "object") for n in range(1234)])
    mentions = Counter({("object", f"thing{n}"): 1 + n % 7 for n in range(1234)})
    curve = cover(mentions, MentionFinder(many, LISTS)).curve
    assert [n for n, _ in curve] == [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 1234]
    assert curve[-1][1] == 1.0
    assert all(a < b for (_, a), (_, b) in pairwise(curve))


def test_overlap_does_not_mind_case_spaces_and_hyphens() -> None:
    found = overlap(WORDS, ["Teddy Bear", "zebra", "teddy_bear", "HOUND", "be ach", "", " - "])
    assert (found.by_name, found.by_synonym, found.missing) == (
        ("Teddy Bear", "be ach"),
        ("HOUND",),
        ("zebra",),
    )
    assert (found.classes, found.found, found.to_dict()["share"]) == (4, 3, 0.75)
    assert squeezed("T-Shirt’s") == "tshirts"
    # A name goes before a synonym, a frequent tag before a rare one.
    index = NameIndex(Vocabulary([Entry("a", "object", synonyms=("b",), count=9), Entry("b", "object")]))
    assert index.find("B") == (1, "name")


TAGS = [
    Named("dog", "object", 90),
    Named("train", "object", 9),
    Named("train", "action", 8),
    Named("$x_1$", "scene", 1),
]


def test_pictures_are_the_same_for_the_same_input(tmp_path: Path) -> None:
    from PIL import Image

    for name in ("a", "b"):
        draw_zipf(
            TAGS,
            tmp_path / f"{name}.png",
            title="t",
            unit="u",
            uncovered=[5, 1, 0],
            curve=[(1, 0.5), (3, 0.95)],
        )
        draw_cloud(TAGS, tmp_path / f"{name}-cloud.png")
    for name in ("", "-cloud"):
        assert (tmp_path / f"a{name}.png").read_bytes() == (tmp_path / f"b{name}.png").read_bytes()
        with Image.open(tmp_path / f"a{name}.png") as picture:
            assert picture.format == "PNG" and min(picture.size) > 600
    draw_zipf(TAGS[:1], tmp_path / "one.png", title="", unit="u")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a-cloud.png",
        "a.png",
        "b-cloud.png",
        "b.png",
        "one.png",
    ]


def test_nothing_to_draw_and_nothing_to_draw_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="nothing to draw"):
        draw_cloud([], tmp_path / "a.png")
    monkeypatch.setitem(sys.modules, "wordcloud", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'taglens\[plots\]'"):
        draw_cloud(TAGS, tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []

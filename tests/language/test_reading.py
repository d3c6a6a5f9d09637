"""Labelled words to parts: pairs, relations, counts and scenes, with the labels given by hand."""

from __future__ import annotations

import pytest

from taglens.language.parsed import ParsedCaption
from taglens.language.reading import Reading, Word
from taglens.language.tagger import LABELS
from taglens.language.tokens import tokenize


def read(text: str, labels: str, **names: str) -> ParsedCaption:
    """``labels``: one letter per token; "." stands for O."""
    words = [Word.of(token, frozenset()) for token in tokenize(text)]
    return Reading(text, names).read(words, labels.replace(".", "O"))


@pytest.mark.parametrize(
    ("text", "labels", "relations"),
    [
        ("a man riding a brown horse", ".HV.AH", [("man", "ride", "horse")]),
        ("a man sitting on a bench", ".HVP.H", [("man", "sit on", "bench")]),
        ("a cat on top of a car", ".HPP..H", [("cat", "on top of", "car")]),
        ("water coming out of a pipe", "HVPP.H", [("water", "come out of", "pipe")]),
        (
            "a man and a woman riding horses",
            ".H..HVH",
            [("man", "ride", "horse"), ("woman", "ride", "horse")],
        ),
        ("a boy with a hat and a coat", ".HP.H..H", [("boy", "with", "hat"), ("boy", "with", "coat")]),
        ("the leg of the man", ".H..H", [("man", "have", "leg")]),
        ("a man 's hat on the bed", ".H.HP.H", [("man", "have", "hat"), ("hat", "on", "bed")]),
        ("a tile on the kitchen floor", ".HP.HH", [("tile", "on", "floor"), ("kitchen", "have", "floor")]),
        ("a cliff surrounded by water", ".HVPH", [("water", "surround", "cliff")]),
        ("trees covered with snow", "HVPH", [("snow", "cover", "tree")]),
        ("a man in a red coat", ".HW.AH", [("man", "wear", "coat")]),
        ("a dog and a man in a coat", ".H..HW.H", [("man", "wear", "coat")]),
        ("the bench the man is sitting on", ".H.H.VP", [("man", "sit on", "bench")]),
        ("by the trees , a woman runs", "P.H..HV", []),
        ("the dog has a collar", ".H..H", [("dog", "have", "collar")]),
        ("a dog runs while a boy throws a ball", ".HV..HV.H", [("boy", "throw", "ball")]),
        ("a dog that is behind a fence", ".H..P.H", [("dog", "behind", "fence")]),
    ],
)
def test_relations(text: str, labels: str, relations: list[tuple[str, str, str]]) -> None:
    assert list(read(text, labels).relations) == relations


@pytest.mark.parametrize(
    ("text", "labels", "pairs"),
    [
        ("a black and white dog", ".A.AH", [("black", "dog"), ("white", "dog")]),
        ("a very large red bus", "..AAH", [("large", "bus"), ("red", "bus")]),
        ("the dog on the grass is brown", ".HP.H.A", [("brown", "dog")]),
        ("a dog on grass , black", ".HPH.A", [("black", "grass")]),
        ("a light blue shirt", ".DAH", [("light blue", "shirt")]),
        ("a woman is smiling", ".H.I", [("smiling", "woman")]),
        ("red", "A", []),
    ],
)
def test_pairs(text: str, labels: str, pairs: list[tuple[str, str]]) -> None:
    found = read(text, labels)
    assert list(found.pairs) == pairs
    assert {attribute for attribute, _ in pairs} <= set(found.attributes)


def test_what_describes_by_doing_is_an_action_too() -> None:
    found = read("two women walking", "NHI")
    assert (found.attributes, found.actions) == (("walking",), ("walk",))
    assert found.counts == ((2, "woman"),)


def test_qualities_are_spelled_in_one_way() -> None:
    found = read("a wood table , a blond man , a multi colored kite", ".AH..AH..DAH")
    assert found.attributes == ("wooden", "blonde", "multi-colored")
    assert ("wooden", "table") in found.pairs
    # As a thing it keeps its name.
    assert read("a pile of wood", ".HPH").objects == ("pile", "wood")


def test_counts() -> None:
    assert read("two red cars and several people", "NAH.NH").counts == ((2, "car"), ("several", "person"))
    assert read("three of them on a bus", "N..P.H").counts == ()
    assert read("9" * 12 + " dogs", "NH").counts == (("9" * 12, "dog"),)


def test_lying_and_laying_are_one() -> None:
    assert read("a dog lying", ".HV").actions == read("a dog laying", ".HV").actions == ("lay",)


def test_no_action_is_a_place_or_an_auxiliary() -> None:
    assert read("a rug in the middle", ".HP.V").actions == ()
    assert read("a rug is", ".HV").actions == ()


def test_names_are_replaced_and_scenes_found() -> None:
    found = read("a guy in a city street", ".HP.MH", guy="person")
    assert found.objects == ("person", "city street")
    assert found.scenes == ("city street",)


@pytest.mark.parametrize("label", LABELS)
def test_any_label_on_any_word_is_read(label: str) -> None:
    text = "the 's of dogs . and two 2 with it is ² light-blue running in front who"
    tokens = tokenize(text)
    found = read(text, label * len(tokens))
    assert found.caption == text
    assert all(found.objects) and all(found.attributes) and all(found.actions)


def test_compounds_without_an_end_are_whole_by_themselves() -> None:
    assert read("tree on a hill", "MP.H").objects == ("tree", "hill")
    assert read("light on a hill", "DP.H").attributes == ("light",)


def test_long_lists_give_no_more_relations_than_words() -> None:
    dogs, cats = [f"dog{n}" for n in range(600)], [f"cat{n}" for n in range(600)]
    text = " and ".join(dogs) + " ride " + " and ".join(cats)
    found = read(text, ".".join("H" * 600) + "V" + ".".join("H" * 600))
    assert len(found.objects) == 1200
    assert 600 <= len(found.relations) <= 8 * 600


def test_a_participle_that_graphs_do_not_use_is_an_action_whatever_its_label() -> None:
    assert read("two women dancing", "NHO").actions == ("dance",)
    assert read("people are jogging in the park", "H.OP.H").relations == (("person", "jog in", "park"),)
    assert read("a man during the morning", ".H..O").actions == ()
    assert read("a boy performing a trick", ".HV.V").objects == ("boy", "trick")

"""Gold graphs laid over their captions."""

from __future__ import annotations

import random

from taglens.language.graphs import Aligner, Example, graph_tuples, graph_verbs, vary

ROWS = [
    (
        "two men riding a light blue tree swing",
        "( men , ride , tree swing ) , ( men , is , 2 ) , ( tree swing , is , light blue )",
    ),
    ("a woman walking", "( woman , is , walking )"),
    ("a guy in a hat", "( person , wear , hat )"),
    ("guy on side walk", "( person , on , sidewalk )"),
    ("the guy runs", "( person , is , running )"),
    ("guy", "( person )"),
    ("a dog lying on a rug", "( dog , lay on , rug )"),
    ("a cat lying on a rug", "( cat , lay on , rug )"),
    ("a wood table", "( table , is , wooden )"),
]


def labels(caption: str, graph: str) -> dict[str, str]:
    found = Aligner(ROWS).align(caption, graph)
    return dict(zip(found.tokens, found.labels, strict=True))


def test_the_graphs_words_are_found() -> None:
    assert labels(*ROWS[0]) == {
        "two": "N", "men": "H", "riding": "V", "a": "O", "light": "D", "blue": "A", "tree": "M", "swing": "H",
    }  # fmt: skip


def test_a_participle_after_its_noun_describes_by_doing() -> None:
    assert labels(*ROWS[1])["walking"] == "I"
    assert labels("a walking woman", "( woman , is , walking )")["walking"] == "A"


def test_what_often_stands_for_another_word_is_learnt() -> None:
    assert labels("a guy in a hat", "( person , wear , hat )") == {
        "a": "O",
        "guy": "H",
        "in": "W",
        "hat": "H",
    }
    assert Aligner(ROWS).names()["guy"] == "person"


def test_words_written_apart_are_one() -> None:
    assert labels(*ROWS[3]) == {"guy": "H", "on": "P", "side": "M", "walk": "H"}


def test_lying_is_what_graphs_call_lay() -> None:
    assert labels(*ROWS[6])["lying"] == "V"


def test_tuples_and_verbs_of_graphs() -> None:
    assert graph_tuples("( a , is , b ) , ( pole ) , ( c , on , d )") == [("a", "is", "b"), ("c", "on", "d")]
    assert graph_verbs(["( a , ride , b )", "( c , ride on , d )", "( a , see , b )"]) == {"ride"}


def test_variations_keep_one_label_per_token_and_make_finite_verbs() -> None:
    first = Example(("man", "riding", "horse"), ("H", "V", "H"))
    varied = vary([first] * 200, (), random.Random(0))
    assert all(len(e.tokens) == len(e.labels) for e in varied)
    assert any("rides" in e.tokens for e in varied)


def test_a_finite_verb_no_longer_describes() -> None:
    varied = vary([Example(("a", "woman", "walking"), ("O", "H", "I"))] * 100, (), random.Random(1))
    for example in varied:
        for token, label in zip(example.tokens, example.labels, strict=True):
            assert token != "walks" or label == "V"
            assert token != "walking" or label == "I"

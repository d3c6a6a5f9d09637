"""Lemmas: tables of forms, traps, and properties over any string."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taglens.language.lemmas import singular, third_person, verb_lemma

SINGULARS = """
men:man women:woman children:child people:person leaves:leaf knives:knife feet:foot teeth:tooth mice:mouse
glasses:glasses jeans:jeans pants:pants shorts:shorts trousers:trousers scissors:scissors clothes:clothes
bus:bus buses:bus grass:grass dress:dress dresses:dress bushes:bush benches:bench boxes:box toys:toy
cities:city potatoes:potato heroes:hero shoes:shoe houses:house horses:horse roses:rose waves:wave
firemen:fireman grandchildren:grandchild specimen:specimen t-shirts:t-shirt skis:ski cookies:cookie
saris:sari tennis:tennis cactus:cactus cacti:cactus dog:dog as:as stairs:stairs sheep:sheep
"""
VERBS = """
lying:lie laying:lay riding:ride wearing:wear sitting:sit running:run staring:stare standing:stand
hiking:hike jogging:jog climbing:climb pulling:pull travelling:travel rolling:roll swimming:swim carries:carry
carried:carry tries:try flies:fly chasing:chase kissing:kiss smiling:smile grazing:graze hugging:hug
biting:bite parked:park covered:cover surrounded:surround filled:fill watches:watch passes:pass ran:run
threw:throw caught:catch worn:wear goes:go does:do is:be skiing:ski taking:take splashing:splash bathing:bathe
wrestling:wrestle juggles:juggle bring:bring sing:sing jumping:jump leaping:leap eating:eat visiting:visit
reading:read opening:open dancing:dance playing:play using:use tied:tie seen:see ice-skating:ice-skate
"""


def table(text: str) -> list[list[str]]:
    return [pair.split(":") for pair in text.split()]


@pytest.mark.parametrize(("plural", "expected"), table(SINGULARS))
def test_singular(plural: str, expected: str) -> None:
    assert singular(plural) == expected


@pytest.mark.parametrize(("form", "expected"), table(VERBS))
def test_verb_lemma(form: str, expected: str) -> None:
    assert verb_lemma(form) == expected


def test_a_known_verb_decides_where_spelling_does_not() -> None:
    assert verb_lemma("glonping", known={"glonpe"}) == "glonpe"
    assert verb_lemma("glonping", known={"glonp"}) == "glonp"


@pytest.mark.parametrize(
    "base", ["carry", "watch", "ride", "play", "toss", "mix", "go", "have", "run", "sniff"]
)
def test_third_person_is_undone(base: str) -> None:
    assert third_person(base) != base
    assert verb_lemma(third_person(base)) == base


@given(st.text())
def test_total_and_never_empty(word: str) -> None:
    assert bool(singular(word)) == bool(word)
    assert bool(verb_lemma(word)) == bool(word)


@pytest.mark.parametrize("pair", table(SINGULARS))
def test_singular_of_a_singular_is_itself(pair: list[str]) -> None:
    assert singular(pair[1]) == pair[1]

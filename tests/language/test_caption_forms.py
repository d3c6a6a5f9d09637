"""The forms in which a tag is said: those of a grammar book, each found again, each as pieces that spell it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taglens.language.caption_forms import demand, joints, plain, spoken_forms
from taglens.language.mentioned import Text
from taglens.language.wordpiece import SPECIAL, WordPiece
from taglens.results import Kind

KINDS = st.sampled_from(["object", "scene", "action", "attribute", "typed", None])
WORDS = "a picture of dog dogs hot man men cafe t - ' . shirt s run running ##ning ##s ##' n't 's & ’"
PIECES = WordPiece(
    [
        *SPECIAL,
        *WORDS.split(),
        *"bcdefgh",
        *(f"##{letter}" for letter in "abcdefghu"),
    ]
)


@pytest.mark.parametrize(
    ("name", "forms"),
    [
        ("dog", "dog, dog's, dogs"),
        ("Dogs", "dogs, dog, dog's"),
        ("man", "man, man's, men, men's"),
        ("people", "people, person, person's, people's"),
        ("fireman", "fireman, fireman's, firemen, firemen's"),
        ("human", "human, human's, humans"),
        ("wine  glass", "wine glass, wine glasses"),
        ("bottle of water", "bottle of water, bottles of water"),
        ("t-shirt", "t-shirt, t-shirt's, t-shirts"),
        ("jeans", "jeans"),
        ("sheep", "sheep, sheep's"),
        ("baby", "baby, baby's, babies"),
        ("monkey", "monkey, monkey's, monkeys"),
        ("tomato", "tomato, tomato's, tomatoes"),
        ("photo", "photo, photo's, photos"),
        ("knife", "knife, knife's, knives"),
        ("box", "box, box's, boxes"),
        ("two dogs", "two dogs"),
        ("3d", "3d, 3d's"),
    ],
)
def test_things(name: str, forms: str) -> None:
    found = spoken_forms(name, "object")
    assert set(found) == set(forms.split(", "))
    assert found[0] == " ".join(name.lower().split())


@pytest.mark.parametrize(
    "forms",
    [
        "run runs running ran",
        "ride rides riding rode ridden",
        "lie lies lying lied lain",
        "sit sits sitting sat",
        "cut cuts cutting",
        "see sees seeing saw seen",
        "visit visits visiting visited",
        "begin begins beginning began begun",
        "ski skis skiing skied",
        "picnic picnics picnicking picnicked",
        "carry carries carrying carried",
        "play plays playing played",
        "dance dances dancing danced",
        "watch watches watching watched",
        "stop stops stopping stopped",
        "fix fixes fixing fixed",
        "quit quits quitting",
        "wait waits waiting waited",
        "stir stirs stirring stirred",
        "hold holds holding held",
        "teach teaches teaching taught",
        "bury buries burying buried",
        "photograph photographs photographing photographed",
        "have has having had",
        "feel feels feeling",
        "singe singes singeing singed",
    ],
)
def test_actions(forms: str) -> None:
    for given_form in forms.split()[:3]:
        assert set(spoken_forms(given_form, "action")) == set(forms.split())
    longer = spoken_forms(f"{forms.split()[0]} with", "action")
    assert set(longer) == {f"{form} with" for form in forms.split()}


def test_without_a_kind_it_may_be_a_thing_and_looks_like_an_action() -> None:
    assert (
        set(spoken_forms("run"))
        == {"run", "run's", "runs", "running", "ran"}
        == set(spoken_forms("run", "typed"))
    )
    assert {"skateboard", "skateboards"} <= set(spoken_forms("skateboarding"))
    assert set(spoken_forms("dog")) == {"dog", "dog's", "dogs"}
    assert spoken_forms("red", "attribute") == ("red",)
    assert spoken_forms("running", "attribute") == ("running",)


@pytest.mark.parametrize("name", ["", "  ", "...", "-"])
def test_what_says_nothing_has_no_form(name: str) -> None:
    assert spoken_forms(name, "object") == () == demand(PIECES, [name])


@settings(max_examples=150, deadline=None)
@given(st.text("abdeginorsty -'", max_size=14) | st.text(max_size=8), KINDS)
def test_every_form_says_the_name(name: str, kind: Kind | None) -> None:
    found = spoken_forms(name, kind)
    assert len(set(found)) == len(found)
    for form in found:
        assert Text(form).mentions([name]) and Text(f"a {form} on the table").mentions([name])


# -- pieces ------------------------------------------------------------------------------------------


def spelled(*names: str, kind: Kind | None = "object") -> set[str]:
    return {" ".join(PIECES.decode([one]) for one in form) for form in demand(PIECES, names, kind)}


def test_forms_become_pieces_shortest_first() -> None:
    assert spelled("dog") == {"dog", "dogs", "dog ' s"}
    assert spelled("hot dog") == {"hot dog", "hot dogs", "hot dog ' s"}
    assert spelled("t-shirt") == {"t - shirt", "t - shirt ##s", "t - shirt ' s"}
    assert spelled("run", kind="action") == {"run", "run ##s", "running"}
    lengths = [len(form) for form in demand(PIECES, ["t-shirt", "dog"], "object")]
    assert lengths == sorted(lengths)


def test_any_name_will_do_and_each_form_stands_once() -> None:
    assert spelled("man", "dog") == spelled("man") | spelled("dog")
    assert demand(PIECES, ["dog", "dogs", "DOG"], "object") == demand(PIECES, ["dog"], "object")


def test_what_the_pieces_cannot_spell_has_no_form() -> None:
    assert demand(PIECES, ["zebra"]) == () == demand(PIECES, ["日本", "犬"])
    assert spelled("zebra", "dog") == spelled("dog")


def test_accents_are_left_out_as_the_pieces_do() -> None:
    assert plain("Café  Noir") == "cafe noir"
    assert demand(PIECES, ["café"]) == (), "asked by that name alone, it is not found again"
    assert (tuple(PIECES.ids("cafe")[1:-1])) in demand(PIECES, ["café", plain("café")])


def test_which_pieces_belong_to_their_neighbours() -> None:
    before, after = joints(PIECES)
    names = [PIECES.decode([number]) for number in range(len(PIECES))]
    assert {name for name, flag in zip(names, before, strict=True) if flag} == {
        *("", "##s", "##ning", "##'", "'", "’", "'s", "n't"),
        *(f"##{letter}" for letter in "abcdefghu"),
    }
    assert {name for name, flag in zip(names, after, strict=True) if flag} == {"", "'", "’", "##'"}
    assert before.dtype == after.dtype == np.bool_


def _counts(text: list[int], form: tuple[int, ...]) -> bool:
    """Whether a form stands in a text, neighbours considered."""
    before, after = joints(PIECES)
    for start in range(len(text) - len(form) + 1):
        end = start + len(form)
        if (
            tuple(text[start:end]) == form
            and (start == 0 or not after[text[start - 1]])
            and (end == len(text) or not before[text[end]])
        ):
            return True
    return False


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.integers(0, len(PIECES) - 1), max_size=5),
    st.lists(st.integers(0, len(PIECES) - 1), max_size=5),
    st.sampled_from(["dog", "hot dog", "man", "t-shirt", "run", "bed", "s", "a", "re", "&"]),
    st.data(),
)
def test_a_form_that_stands_apart_is_read_as_the_tag(
    head: list[int], tail: list[int], name: str, data: st.DataObject
) -> None:
    """Whatever pieces stand around it: what counts for the search counts for whoever reads the text."""
    forms = demand(PIECES, [name])
    if not forms:
        return
    form = data.draw(st.sampled_from(forms))
    text = [*head, *form, *tail]
    if _counts(text, form):
        read = PIECES.decode(PIECES.ids("a picture of")[1:-1] + text)[len("a picture of ") :]
        assert Text(read).mentions([name]), read

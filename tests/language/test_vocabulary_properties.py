"""What holds for every vocabulary: captions in any order build the same, no mention is lost or counted twice, and
the fingerprint changes exactly when a column comes to mean something else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from taglens.errors import VocabularyError
from taglens.language.parser import parse_lines
from taglens.language.vocabulary_builder import Build, build_vocabulary, count_words
from taglens.language.word_lists import Word, WordLists, packaged
from taglens.results import Kind
from taglens.vocabulary import Entry, Vocabulary, normalise

# A busy machine is no failure: how long a drawn case takes is not what these tests are about.
UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
SHIPPED = packaged()

# -- captions to tags ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Said:
    """A parsed caption, written by hand."""

    objects: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    scenes: tuple[str, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()


def parse(lines: Iterable[str]) -> Iterator[Said]:
    """Names with commas between them; those in -ing are actions and those in -y attributes."""
    for line in lines:
        names = [name.strip() for name in line.split(",") if name.strip()]
        yield Said(
            objects=tuple(name for name in names if not name.endswith(("ing", "y"))),
            attributes=tuple(name for name in names if name.endswith("y")),
            actions=tuple(name.removesuffix("ing") for name in names if name.endswith("ing")),
        )


def thing(name: str) -> Word:
    return "object", name


LISTS = WordLists(
    synonyms={thing("hound"): thing("dog")},
    scenes=frozenset({"beach"}),
    deny=frozenset({thing("big"), ("attribute", "any"), thing("wet hot dog")}),
    allow=frozenset({thing("abacus")}),
    sensitive=frozenset({("attribute", "poory")}),
    slurs=frozenset({thing("rude word"), thing("word")}),
    edges=(
        (thing("chili dog"), thing("hot dog")),
        (thing("dog"), thing("animal")),
        (thing("big chili dog"), thing("chili dog")),
        (("action", "sprint"), ("action", "run")),
    ),
)
MENTIONS = (
    *(
        "dog",
        "hound",
        "hot dog",
        "hot-dog",
        "big hot dog",
        "wet hot dog",
        "chili dog",
        "big chili dog",
        "big",
    ),
    *("beach", "city beach", "abacus", "cat", "c at", "rude word", "word", "animal"),
    *("running", "sprinting", "redy", "anyy", "any", "poory"),
)
CAPTIONS = st.lists(st.lists(st.sampled_from(MENTIONS), max_size=5).map(", ".join), min_size=1, max_size=25)


def build(captions: Iterable[str], **options: Any) -> Build:
    """The build, or a rejected case where no word is left."""
    try:
        return build_vocabulary(count_words(captions, parse, LISTS), LISTS, **options)
    except VocabularyError:
        assume(False)
        raise AssertionError from None


@UNTIMED
@given(CAPTIONS, st.integers(1, 4), st.none() | st.integers(1, 5), st.randoms(use_true_random=False))
def test_the_order_of_captions_does_not_matter(
    captions: list[str], bar: int, top: int | None, random: Any
) -> None:
    first = build(captions, min_count=bar, top=top)
    random.shuffle(captions)
    second = build(captions, min_count=bar, top=top)
    assert first.vocabulary.entries == second.vocabulary.entries
    assert first.vocabulary.ref == second.vocabulary.ref
    assert first.left_out == second.left_out


@pytest.mark.parametrize("turn", [1, 3])
def test_nor_does_it_with_the_shipped_parser_and_lists(turn: int) -> None:
    captions = [
        "Two brown dogs run across a snowy street.",
        "A homeless man sits beside an old wicker chair.",
        "A man in a wicker chair reads the newspaper on a beach.",
        "A dog and a poodle run on the beach.",
    ]

    def made(lines: list[str]) -> Build:
        return build_vocabulary(count_words(lines, parse_lines, SHIPPED), SHIPPED, min_count=2)

    first, second = made(captions), made(captions[turn:] + captions[:turn])
    assert first.vocabulary.entries == second.vocabulary.entries
    assert first.left_out == second.left_out


@UNTIMED
@given(CAPTIONS, st.integers(1, 4), st.none() | st.integers(1, 5))
def test_every_mention_is_counted_once(captions: list[str], bar: int, top: int | None) -> None:
    made = build(captions, min_count=bar, top=top)
    # Counted by hand: the distinct words of every caption.
    mentions: Counter[Word] = Counter()
    for said in parse(captions):
        mentions.update(
            {LISTS.resolve("object", name) for name in said.objects}
            | {LISTS.resolve("attribute", name) for name in said.attributes}
            | {LISTS.resolve("action", name) for name in said.actions}
        )
    tags = sum(entry.count for entry in made.vocabulary)
    # A compound that was counted as its head is in the head's count.
    left_out = sum(word.count for word in made.left_out if word.reason != "head")
    assert tags + left_out == mentions.total()
    assert all(word.count > 0 for word in made.left_out)
    # And of no word there are two accounts.
    accounts = [(entry.kind, normalise(entry.name)) for entry in made.vocabulary]
    accounts += [(word.kind, word.name) for word in made.left_out]
    assert len(accounts) == len(set(accounts))


def test_a_compound_that_returns_as_a_parent_takes_its_count_back_from_its_head() -> None:
    captions = ["chili dog"] * 3 + ["hot dog"] * 2 + ["dog"] * 3
    words = build(captions, min_count=3).vocabulary
    assert {entry.name: entry.count for entry in words} == {
        "chili dog": 3,
        "hot dog": 2,
        "dog": 3,
        "animal": 0,
    }


@UNTIMED
@given(CAPTIONS, st.integers(1, 4))
def test_slurs_are_no_tags_and_sensitive_words_are_hidden(captions: list[str], bar: int) -> None:
    made = build(captions, min_count=bar)
    for entry in made.vocabulary:
        assert not LISTS.is_slur((entry.kind, entry.name))
        assert entry.hidden == (entry.id == "attribute:poory")
    for word in made.left_out:
        if word.reason != "head":
            assert (word.reason == "sensitive") == LISTS.is_slur((word.kind, word.name))


# -- the fingerprint -----------------------------------------------------------------------------------

KINDS: list[Kind] = ["object", "scene", "attribute", "action", "typed"]
NAMES = st.text(alphabet='abAé "\\:,', min_size=1, max_size=4).filter(lambda name: bool(normalise(name)))
EDITED = {
    "synonyms": st.lists(NAMES, max_size=2).map(tuple),
    "parents": st.lists(NAMES, max_size=2).map(tuple),
    "threshold": st.none() | st.floats(0, 1),
    "descriptions": st.lists(NAMES, max_size=2).map(tuple),
    "translations": st.dictionaries(st.sampled_from(["de", "zh"]), NAMES),
    "count": st.integers(0, 9),
    "hidden": st.booleans(),
}
ENTRIES = st.builds(Entry, name=NAMES, kind=st.sampled_from(KINDS), **EDITED)
TAGS = st.lists(ENTRIES, min_size=1, max_size=5, unique_by=lambda entry: entry.id)


def meaning(entries: Iterable[Entry]) -> list[tuple[str, str]]:
    """What the columns mean, in order: a tag is its kind and its name as written."""
    return [(entry.kind, entry.name) for entry in entries]


def fingerprint(entries: Iterable[Entry], **named: str) -> str:
    return Vocabulary(entries, **named).fingerprint


@UNTIMED
@given(TAGS, st.data())
def test_what_may_be_edited_leaves_the_fingerprint(tags: list[Entry], data: st.DataObject) -> None:
    edited = [replace(tag, **data.draw(st.fixed_dictionaries({}, optional=EDITED))) for tag in tags]
    named = {"name": data.draw(st.text(max_size=3)), "description": data.draw(st.text(max_size=3))}
    assert fingerprint(edited, **named) == fingerprint(tags)


@UNTIMED
@given(TAGS, TAGS)
def test_two_fingerprints_are_equal_exactly_when_the_columns_mean_the_same(
    one: list[Entry], other: list[Entry]
) -> None:
    assert (fingerprint(one) == fingerprint(other)) == (meaning(one) == meaning(other))


@UNTIMED
@given(TAGS, st.data())
def test_every_change_of_meaning_changes_the_fingerprint(tags: list[Entry], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(tags) - 1))
    change = data.draw(st.sampled_from(["name", "kind", "removed", "added", "order"]))
    changed = list(tags)
    if change == "name":
        changed[place] = replace(tags[place], name=data.draw(NAMES))
    elif change == "kind":
        changed[place] = replace(tags[place], kind=data.draw(st.sampled_from(KINDS)))
    elif change == "removed":
        del changed[place]
    elif change == "added":
        changed.insert(place, data.draw(ENTRIES))
    else:
        changed = data.draw(st.permutations(tags))
    assume(len({tag.id for tag in changed}) == len(changed))
    assert (fingerprint(changed) != fingerprint(tags)) == (meaning(changed) != meaning(tags))

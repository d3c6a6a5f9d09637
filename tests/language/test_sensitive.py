"""The list of words about people: its format, what ships, and how it meets a vocabulary."""

from __future__ import annotations

from pathlib import Path

import pytest

from taglens.errors import VocabularyError
from taglens.language.sensitive import sensitive_problems, sensitive_tags
from taglens.language.vocabulary_builder import LabelSet, LeftOut, build_vocabulary
from taglens.language.word_lists import WordLists, packaged
from taglens.vocabulary import Entry, Vocabulary

SHIPPED = packaged()
LISTS = WordLists(
    sensitive=frozenset({("attribute", "middle-class"), ("object", "pilgrim")}),
    slurs=frozenset({("object", "rude word")}),
    allow=frozenset({("object", "pilgrim")}),
)


def test_a_line_marks_or_leaves_out(tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("# mine\nobject: pilgrim, monk  # by dress\n! any: Rude  word\n", encoding="utf-8")
    made = packaged(sensitive=[mine])
    assert made.sensitive - SHIPPED.sensitive == {("object", "pilgrim"), ("object", "monk")}
    assert made.slurs - SHIPPED.slurs == {(k, "rude word") for k in ("object", "attribute", "action")}
    assert made.is_sensitive(("scene", "pilgrim")), "objects and scenes share one space of names"
    mine.write_text("! pilgrim\n", encoding="utf-8")
    with pytest.raises(VocabularyError, match=r"mine\.txt, line 1: expected 'kind: names'"):
        packaged(sensitive=[mine])
    # The sign means nothing in the other lists, and is not passed over there.
    with pytest.raises(VocabularyError, match=r"mine\.txt, line 1"):
        packaged(deny=[mine])


def test_spellings_and_kinds() -> None:
    for name in ("middle class", "Middle-Class", "middle_class"):
        assert LISTS.is_sensitive(("attribute", name))
    assert not LISTS.is_sensitive(("object", "middle class"))
    assert LISTS.is_slur(("object", "rude-word")) and LISTS.is_sensitive(("object", "rude-word"))
    assert not LISTS.is_slur(("attribute", "middle class"))


def test_a_label_and_an_allowed_word_stay_tags_and_are_hidden() -> None:
    counts = {
        ("object", "rude word"): 9,
        ("attribute", "middle class"): 9,
        ("object", "pilgrim"): 1,
        ("object", "dog"): 9,
    }
    made = build_vocabulary(counts, LISTS, min_count=5)  # type: ignore[arg-type]
    assert {entry.id: entry.hidden for entry in made.vocabulary} == {
        "object:dog": False,
        "attribute:middle class": True,
        "object:pilgrim": True,
    }
    assert made.left_out == (LeftOut("object", "rude word", 9, "sensitive"),)
    labels = LabelSet({("object", "rude word"): 3})
    made = build_vocabulary(counts, LISTS, labels=labels, min_count=5)  # type: ignore[arg-type]
    assert made.vocabulary[made.vocabulary.position("object:rude word")].hidden


def test_what_users_can_meet_is_a_problem_and_what_is_hidden_is_not() -> None:
    words = Vocabulary(
        [
            Entry("pilgrim", "object"),
            Entry("middle class", "attribute", hidden=True, synonyms=("x",)),
            Entry("person", "object", synonyms=("rude word", "pilgrim")),
            Entry("rude word", "object", hidden=True),
            Entry("middle class", "typed"),
        ]
    )
    assert [entry.id for entry in sensitive_tags(words, LISTS)] == [
        "object:pilgrim",
        "attribute:middle class",
        "object:rude word",
        "typed:middle class",
    ]
    said = sensitive_problems(words, LISTS)
    assert [problem.partition(" says")[0] for problem in said] == [
        "object:pilgrim",
        "synonym 'rude word' of object:person is a slur: remove it",
        "typed:middle class",
    ]


def test_the_shipped_list_agrees_with_the_other_lists() -> None:
    assert len(SHIPPED.sensitive) > 150
    assert {kind for kind, _ in SHIPPED.sensitive} == {"object", "attribute"}
    assert not {word for word in SHIPPED.allow if SHIPPED.is_sensitive(word)}
    assert not {word for edge in SHIPPED.edges for word in edge if SHIPPED.is_slur(word)}
    assert not {word for word in (*SHIPPED.synonyms, *SHIPPED.synonyms.values()) if SHIPPED.is_slur(word)}
    # What can be seen is not on it.
    for kind, name in [
        *[("object", name) for name in ("man", "woman", "child", "monk", "wheelchair", "crowd")],
        *[("attribute", name) for name in ("black", "white", "old", "bald", "young", "tall", "happy", "red")],
    ]:
        assert not SHIPPED.is_sensitive((kind, name)), name  # type: ignore[arg-type]

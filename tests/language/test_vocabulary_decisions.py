"""Decisions read back and applied: what is refused, and what becomes of names, counts and parents."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taglens.errors import DataError, MismatchError, TaglensError, VocabularyError
from taglens.language.vocabulary_decisions import Applied, Decision, Decisions, apply, read_decisions
from taglens.vocabulary import Entry, Vocabulary

WORDS = Vocabulary(
    [
        Entry("sofa", "object", synonyms=("settee",), parents=("object:furniture",), count=9, threshold=0.4),
        Entry("couch", "object", synonyms=("divan", "settee"), count=4, translations={"de": "Couch"}),
        Entry("furniture", "object", parents=("object:thing",), count=20),
        Entry("thing", "object", count=1),
        Entry("beach", "object", count=7, parents=("object:thing",)),
        Entry("run", "action", count=3),
    ],
    name="mine",
    description="of mine",
)


def row(id: str, decision: str, **more: str) -> dict[str, str]:
    return {"id": id, "decision": decision, **more}


def read(path: Path, rows: object, **more: object) -> Decisions:
    content = {
        "taglens_decisions": 1,
        "vocabulary": {"name": "mine", "fingerprint": WORDS.fingerprint},
        "decisions": rows,
        **more,
    }
    (path / "d.json").write_text(json.dumps(content), encoding="utf-8")
    return read_decisions(path / "d.json")


def decided(path: Path, *rows: dict[str, str], force: bool = False) -> Applied:
    return apply(WORDS, read(path, list(rows)), force=force)


def entry(applied: Applied, id: str) -> Entry:
    return applied.vocabulary[applied.vocabulary.position(id)]


def test_nothing_decided_changes_nothing(tmp_path: Path) -> None:
    found = decided(tmp_path, row("object:sofa", "keep"))
    assert found.vocabulary.entries == WORDS.entries
    assert (found.vocabulary.ref, found.vocabulary.description) == (WORDS.ref, "of mine")
    assert (found.verdicts["keep"], found.undecided, found.gone) == (1, 5, {})


def test_a_merge_brings_names_and_counts_and_what_the_other_lacks(tmp_path: Path) -> None:
    found = decided(tmp_path, row("object:couch", "merge", into="object:sofa"))
    sofa = entry(found, "object:sofa")
    assert (sofa.count, sofa.synonyms) == (13, ("settee", "couch", "divan"))
    assert (sofa.parents, sofa.threshold, sofa.translations) == (("object:furniture",), 0.4, {"de": "Couch"})
    assert found.gone == {"object:couch": "object:sofa"}
    assert found.vocabulary.ids == [id for id in WORDS.ids if id != "object:couch"]
    # The other way round the parents come along, for couch has none.
    found = decided(tmp_path, row("object:sofa", "merge", into="object:couch"))
    assert entry(found, "object:couch").parents == ("object:furniture",)


def test_merges_may_follow_each_other_and_a_rename(tmp_path: Path) -> None:
    found = decided(
        tmp_path,
        row("object:couch", "merge", into="object:sofa"),
        row("object:sofa", "merge", into="object:furniture"),
        row("object:furniture", "rename", name="Seating"),
    )
    seat = entry(found, "object:seating")
    assert (seat.name, seat.count) == ("Seating", 33)
    assert seat.synonyms == ("furniture", "sofa", "settee", "couch", "divan")
    assert found.gone == {"object:sofa": "object:seating", "object:couch": "object:seating"}


def test_children_of_what_goes_imply_what_it_implied(tmp_path: Path) -> None:
    found = decided(tmp_path, row("object:furniture", "deny"))
    assert entry(found, "object:sofa").parents == ("object:thing",)
    found = decided(tmp_path, row("object:thing", "deny"), row("object:furniture", "deny"))
    assert entry(found, "object:sofa").parents == ()
    found = decided(tmp_path, row("object:furniture", "merge", into="object:sofa"))
    assert entry(found, "object:sofa").parents == ()  # not its own parent
    assert found.vocabulary.problems() == WORDS.problems()


def test_a_change_of_kind_and_of_case(tmp_path: Path) -> None:
    found = decided(
        tmp_path, row("object:beach", "kind", kind="scene"), row("object:sofa", "rename", name=" SOFA ")
    )
    assert entry(found, "scene:beach").parents == ("object:thing",)
    assert (entry(found, "object:sofa").name, entry(found, "object:sofa").synonyms) == ("SOFA", ("settee",))
    assert found.vocabulary.ids[4] == "scene:beach"


def test_two_names_can_be_exchanged(tmp_path: Path) -> None:
    found = decided(
        tmp_path, row("object:sofa", "rename", name="couch"), row("object:couch", "rename", name="sofa")
    )
    assert entry(found, "object:couch").count == 9
    assert found.vocabulary.problems() == ["synonym 'settee' belongs to object:couch and object:sofa"]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([row("object:zebra", "keep")], r"decision 1 \(object:zebra\): there is no tag 'object:zebra'"),
        ([row("object:sofa", "merge", into="object:zebra")], r"decision 1 .*there is no tag 'object:zebra'"),
        (
            [row("object:thing", "deny"), row("object:sofa", "merge", into="object:thing")],
            r"decision 2 \(object:sofa\): merged into object:thing, which is denied \(.*decision 1",
        ),
        (
            [
                row("object:couch", "merge", into="object:sofa"),
                row("object:sofa", "merge", into="object:thing"),
                row("object:thing", "deny"),
            ],
            r"decision 1 .*merged into object:thing, which is denied",
        ),
        (
            [
                row("object:couch", "merge", into="object:sofa"),
                row("object:sofa", "merge", into="object:couch"),
            ],
            r"decision 1 .*circle: object:couch -> object:sofa -> object:couch",
        ),
        ([row("object:sofa", "merge", into="object:sofa")], r"circle: object:sofa -> object:sofa"),
        ([row("object:sofa", "rename", name="Couch")], r"decision 1 .*gives object:couch.*merge the two"),
        ([row("object:thing", "merge", into="object:sofa")], r"decision 1 .*its own ancestor"),
        ([row(id, "deny") for id in WORDS.ids], "nothing is left"),
    ],
)
def test_what_cannot_be_is_refused_with_its_row(
    tmp_path: Path, rows: list[dict[str, str]], said: str
) -> None:
    with pytest.raises(VocabularyError, match=said):
        decided(tmp_path, *rows)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ({}, "expected a list"),
        ([1], "decision 1: expected an object"),
        ([row("object:sofa", "drop")], r"decision 1 \(object:sofa\): 'drop' is no decision"),
        ([row("object:sofa", "merge")], "needs 'into'"),
        ([row("object:sofa", "rename", name=" ")], "needs 'name'"),
        ([row("object:sofa", "rename", name="x\ud83d")], "half a character"),
        ([row("object:sofa", "kind", kind="typed")], "kind 'typed'; expected one of object"),
        ([row("object:sofa", "keep", into="object:couch")], "a keep has no field 'into'"),
        (
            [row("object:sofa", "keep"), row("object:sofa", "deny")],
            "decision 2 .*decided before, in .*decision 1",
        ),
    ],
)
def test_rows_that_are_none(tmp_path: Path, rows: object, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read(tmp_path, rows)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"taglens_decisions": 2}', '{"taglens_decisions": 1}', "[" * 99999]
)
def test_files_that_are_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "d.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"d\.json"):
        read_decisions(tmp_path / "d.json")


def test_another_vocabulary_is_refused_unless_forced(tmp_path: Path) -> None:
    rows = [
        row("object:sofa", "deny"),
        row("object:zebra", "deny"),
        row("object:run", "merge", into="object:x"),
    ]
    found = read(tmp_path, rows, vocabulary={"name": "other", "fingerprint": "0" * 12})
    with pytest.raises(MismatchError, match=f"expected {WORDS.ref}, found other@000000000000.*--force"):
        apply(WORDS, found)
    applied = apply(WORDS, found, force=True)
    assert "object:sofa" not in applied.vocabulary
    assert [text.partition(": ")[0].rpartition("/")[2] for text in applied.skipped] == [
        "d.json, decision 2 (object:zebra)",
        "d.json, decision 3 (object:run)",
    ]
    assert (applied.verdicts["deny"], applied.undecided) == (1, 5)


NAMES = ["a", "b", "c", "d", "e"]
IDS = [f"object:{name}" for name in NAMES]


@st.composite
def drawn_rows(draw: st.DrawFn) -> list[Decision]:
    found = []
    for id in draw(st.lists(st.sampled_from(IDS), unique=True)):
        verdict: Any = draw(st.sampled_from(["keep", "deny", "merge", "rename", "kind"]))
        value = {
            "merge": st.sampled_from(IDS),
            "rename": st.sampled_from([*NAMES, "A", "f", "g"]),
            "kind": st.sampled_from(["object", "scene", "action"]),
        }.get(verdict, st.just(""))
        found.append(Decision("d", id, verdict, draw(value)))
    return found


@settings(deadline=None)
@given(drawn_rows(), st.lists(st.tuples(st.sampled_from(IDS), st.sampled_from(IDS))))
def test_whatever_is_decided_is_refused_or_leaves_a_whole_vocabulary(
    rows: list[Decision], edges: list[tuple[str, str]]
) -> None:
    words = Vocabulary(
        Entry(
            name, "object", parents=tuple(dict.fromkeys(up for down, up in edges if down == id < up)), count=1
        )
        for id, name in zip(IDS, NAMES, strict=True)
    )
    try:
        found = apply(words, Decisions(words.fingerprint, "", tuple(rows)))
    except TaglensError:
        return
    denied = sum(into is None for into in found.gone.values())
    # Every count is somewhere, every parent is there, and nothing implies itself.
    assert sum(one.count for one in found.vocabulary) == len(words) - denied
    assert found.vocabulary.problems() == [] or all(
        "is both an object" in problem for problem in found.vocabulary.problems()
    )
    for id, into in found.gone.items():
        assert into is None or into in found.vocabulary
        assert id in words

"""One tag's regions to verdicts, a picture's verdicts to what goes, and all of it back."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from taglens.training.engine_cleaning import (
    Cleaning,
    Stage,
    Verdict,
    backward,
    decisions,
    forward,
    judge,
    judge_tag,
    removed,
    standing,
)
from taglens.training.engine_generate import ORIGINS, Known, Label, merged
from taglens.training.engine_looks import EMPTY, Looks
from taglens.vocabulary import Entry, Vocabulary

WORDS = Vocabulary(
    [
        Entry("dog", "object", parents=("object:animal",)),
        Entry("cat", "object", parents=("object:animal",)),
        Entry("animal", "object"),
        Entry("beach", "scene", threshold=0.9),
        Entry("run", "action"),
    ]
)
VERDICT = Verdict(("outlier",), (0.0, 0.0, 1.0, 1.0), 0.1, 0.5, 1.0, 0.9, 0, 1)
IDS = st.sets(st.sampled_from(range(len(WORDS))))


@st.composite
def pictures(draw: st.DrawFn) -> Known:
    """A picture whose every origin is closed under what tags imply, as labellers give them."""
    columns = {origin: WORDS.with_parents(draw(IDS)) for origin in ORIGINS}
    labels = merged(WORDS, columns, {entry.id: 0.25 for entry in WORDS})
    return Known(0, "a.png", "../a.png", None, (), None, labels)


def tags(labels: tuple[Label, ...]) -> set[str]:
    return {label.tag for label in labels}


@given(pictures(), IDS)
def test_decisions_lead_there_and_back(known: Known, wrong: set[int]) -> None:
    going = removed(known, dict.fromkeys(wrong, VERDICT), WORDS)
    rows = decisions(known, going, WORDS)
    cleaned = tags(standing(known, [WORDS[column].id for column in going]))
    own = {label.tag for label in known.labels if label.own}
    assert forward(own, rows) == cleaned
    assert backward(cleaned, rows) == own


@given(pictures(), IDS)
def test_only_what_nothing_implies_goes(known: Known, wrong: set[int]) -> None:
    going = removed(known, dict.fromkeys(wrong, VERDICT), WORDS)
    there = {WORDS.position(label.tag) for label in known.labels}
    left = there - going.keys()
    assert going.keys() <= wrong & there
    assert WORDS.with_parents(left) == left
    # Nothing stays without a reason: it has no verdict, or a tag that stays implies it.
    for column in (wrong & there) - going.keys():
        assert any(column in WORDS.with_parents([other]) for other in left - {column})


@given(pictures(), IDS, st.sampled_from(ORIGINS))
def test_a_spared_origin_loses_nothing(known: Known, wrong: set[int], spare: str) -> None:
    going = removed(known, dict.fromkeys(wrong, VERDICT), WORDS, spare=[spare])  # type: ignore[list-item]
    for label in known.labels:
        assert spare not in label.origins or WORDS.position(label.tag) not in going


@given(
    pictures(), IDS, st.dictionaries(st.sampled_from([*WORDS.ids, "*"]), st.sampled_from(["given", "merged"]))
)
def test_what_stands_is_said_tag_by_tag(known: Known, gone: set[int], undone: Mapping[str, Stage]) -> None:
    going = {WORDS[column].id for column in gone}
    found = {label.tag: label for label in standing(known, going, undone)}
    for label in known.labels:
        stage = undone[label.tag] if label.tag in undone else undone.get("*")
        if stage == "given":
            assert found.get(label.tag) == (label.as_given() if label.own else None)
        elif stage == "merged":
            assert found[label.tag] == label
        else:
            assert found.get(label.tag) == (None if label.tag in going else label)
    assert found.keys() <= tags(known.labels)


def looks(scores: list[float], column: int = 0, *, seed: int = 0) -> Looks:
    n = len(scores)
    vectors = np.random.default_rng(seed).normal(size=(n, 4)) * 0.01 + [1, 0, 0, 0]
    return Looks(
        np.arange(n, dtype=np.int32),
        np.full(n, column, np.int32),
        np.array(scores, np.float32),
        np.tile(np.array([0, 0, 1, 1], np.float32), (n, 1)),
        vectors.astype(np.float16),
    )


def test_agreement_is_at_the_threshold_and_the_far_tenth_goes() -> None:
    scores = [0.5] * 20 + [0.49] * 10
    report, found = judge_tag(looks(scores), tag="object:dog", needed=0.5, cleaning=Cleaning(share=0.0))
    assert sorted(found) == list(range(20, 30)) and report.agreeing == 20
    assert all(verdict.why == ("disagrees",) and verdict.limit is None for verdict in found.values())
    far = looks([0.9] * 30)
    far.vectors[[4, 9, 13]] = [0, 1, 0, 0]
    _, found = judge_tag(far, tag="object:dog", needed=0.5, cleaning=Cleaning(share=0.1))
    assert sorted(found) == [4, 9, 13]
    assert all(verdict.why == ("outlier",) and verdict.distance >= 1.0 for verdict in found.values())


def test_a_tag_is_judged_by_itself() -> None:
    dogs, cats = looks([0.9] * 40, 0), looks([0.9] * 40, 1, seed=1)
    cleaning = Cleaning(seed=3)
    alone = judge(lambda: [dogs], WORDS, cleaning=cleaning)
    halves = [dogs.at(np.arange(0, 7)), EMPTY, cats, dogs.at(np.arange(7, 40))]
    both = judge(lambda: halves, WORDS, cleaning=cleaning)
    assert alone.tags[0] == both.tags[0]
    assert {row: found[0] for row, found in alone.verdicts.items()} == {
        row: found[0] for row, found in both.verdicts.items() if 0 in found
    }
    assert sum(1 in found for found in both.verdicts.values()) == 4


def test_kinds_and_tags_of_few_pictures_are_left_alone() -> None:
    parts = [looks([0.0] * 40, 4), looks([0.0] * 19, 0), looks([0.95] * 10 + [0.85] * 10, 3)]
    found = judge(lambda: parts, WORDS, cleaning=Cleaning(share=0.0))
    assert [found.tags[column].outcome for column in (0, 3, 4)] == ["few", "judged", "kind"]
    # A threshold of its own, 0.9, which half of the regions reach: enough to be believed.
    assert sorted(found.verdicts) == list(range(10, 20))
    assert judge(lambda: [], WORDS, cleaning=Cleaning()).tags == {}


def test_a_piece_is_read_as_it_was_written() -> None:
    one = looks([0.1, 0.2])
    again = Looks.from_bytes(one.to_bytes(), name="x")
    for field in ("rows", "columns", "scores", "boxes", "vectors"):
        assert (getattr(again, field) == getattr(one, field)).all()
    assert again.to_bytes() == one.to_bytes()

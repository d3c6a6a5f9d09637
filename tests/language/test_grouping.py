"""Groups are exact partitions, balanced, and better than chance at what they are made for."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taglens.errors import DataError, UsageError
from taglens.language.chat import Ask, Reply
from taglens.language.chat_kept import ReplayChat
from taglens.language.grouping import (
    Grouping,
    affinity,
    apart_groups,
    ask_groups,
    checked_groups,
    count_together,
    groups_needed,
    inside,
    one_group,
    random_groups,
    tags_of_rows,
    together_groups,
)
from taglens.vocabulary import Entry, Vocabulary

ANIMALS = ["cat", "dog", "cow", "hen"]


def exact(groups: tuple[tuple[int, ...], ...], tags: int) -> bool:
    return sorted(column for group in groups for column in group) == list(range(tags)) and all(groups)


@given(st.integers(1, 200), st.integers(1, 40), st.integers(0, 5))
def test_random_groups_are_exact_and_even(tags: int, at_most: int, seed: int) -> None:
    grouping = random_groups(tags, at_most=at_most, seed=seed)
    sizes = list(map(len, grouping.groups))
    assert exact(grouping.groups, tags) and grouping.size == tags
    assert max(sizes) <= at_most and max(sizes) - min(sizes) <= 1
    assert len(sizes) == groups_needed(tags, at_most=at_most)
    assert grouping == random_groups(tags, at_most=at_most, seed=seed)


rows_of_tags = st.lists(st.lists(st.integers(0, 11), max_size=5), max_size=30)


@given(rows_of_tags, st.integers(1, 12))
def test_counted_groups_are_exact_and_even(rows: list[list[int]], at_most: int) -> None:
    near = affinity(count_together(rows, 12), len(rows))
    for make in (together_groups, apart_groups):
        groups = make(near, at_most=at_most).groups
        assert exact(groups, 12) and max(map(len, groups)) <= at_most
        assert max(map(len, groups)) - min(map(len, groups)) <= 1


@given(rows_of_tags)
def test_counts_are_what_a_loop_counts(rows: list[list[int]]) -> None:
    counts = count_together(rows, 12)
    for one in range(12):
        for other in range(12):
            assert counts[one, other] == sum(one in row and other in row for row in rows)


def test_affinity_is_symmetric_and_nothing_by_chance() -> None:
    rows = [[0, 1], [0, 1], [0, 1], [2, 3], [2], [3], []]
    near = affinity(count_together(rows, 4), len(rows))
    assert (near == near.T).all() and (near >= 0).all() and not np.diagonal(near).any()
    assert near[0, 1] > near[2, 3] > 0 and near[0, 2] == 0


@pytest.mark.parametrize("seed", range(4))
def test_together_finds_the_scenes_and_apart_divides_them(seed: int) -> None:
    draw = np.random.default_rng(seed)
    scene_of = draw.permutation(24) % 4
    rows = []
    for _ in range(400):
        scene = draw.integers(4)
        members = np.flatnonzero(scene_of == scene)
        rows.append([*draw.choice(members, 3, replace=False), draw.integers(24)])
    near = affinity(count_together(rows, 24), len(rows))
    together = together_groups(near, at_most=6)
    assert {frozenset(group) for group in together.groups} == {
        frozenset(map(int, np.flatnonzero(scene_of == scene))) for scene in range(4)
    }
    apart = apart_groups(near, at_most=6)
    drawn = [inside(near, random_groups(24, at_most=6, seed=n).groups) for n in range(20)]
    assert inside(near, apart.groups) < min(drawn) < max(drawn) < inside(near, together.groups)
    loop = sum(near[a, b] for group in apart.groups for a, b in combinations(group, 2))
    assert inside(near, apart.groups) == pytest.approx(loop, rel=1e-5)


@pytest.mark.parametrize("groups", [((0, 1), (1, 2)), ((0,), (2,)), ((0,), ()), (), ((1, 2),)])
def test_what_is_no_partition_cannot_be_made(groups: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(UsageError, match="exactly once"):
        Grouping(groups, "")


def test_groups_of_nothing_are_refused() -> None:
    assert one_group(3).groups == ((0, 1, 2),)
    for tags, at_most in ((0, 5), (5, 0)):
        with pytest.raises(UsageError):
            groups_needed(tags, at_most=at_most)


# -- statistics ----------------------------------------------------------------------------------------


def test_rows_of_labels_and_of_captions(tmp_path: Path) -> None:
    tags = Vocabulary([Entry("cat", "object", synonyms=("kitten",)), Entry("dog", "object")])
    labels = tmp_path / "labels.jsonl"
    labels.write_text('{"image": "a", "labels": ["kitten", "dog", "sun"]}\n{"image": "b", "labels": null}\n')
    assert list(tags_of_rows(labels, tags)) == [{0, 1}]
    captions = tmp_path / "captions.jsonl"
    rows = [{"captions": ["a cat", "a dog"]}, {"captions": None}, {"captions": ["nothing"]}]
    captions.write_text("".join(json.dumps({"image": "a", **row}) + "\n" for row in rows))

    def said(texts: object) -> list[set[int]]:
        return [{n for n, name in enumerate(("cat", "dog")) if name in str(text)} for text in texts]  # type: ignore[attr-defined]

    assert list(tags_of_rows(captions, tags, said)) == [{0, 1}, set()]
    with pytest.raises(UsageError, match="captions"):
        list(tags_of_rows(captions, tags))
    empty = tmp_path / "empty.txt"
    empty.write_text("\n")
    with pytest.raises(DataError, match="is empty"):
        list(tags_of_rows(empty, tags))


# -- a language model ----------------------------------------------------------------------------------


def groups_of(*answers: str) -> tuple[ReplayChat, list[Ask]]:
    left, asks = list(answers), []

    def answer(ask: Ask) -> str:
        asks.append(ask)
        return left.pop(0)

    return ReplayChat(answer, model="m"), asks


def said(*groups: list[str]) -> str:
    return json.dumps({"groups": groups})


def test_an_exact_answer_is_taken_as_it_is() -> None:
    chat, asks = groups_of(said(["Dog", "cat"], ["hen", "cow"]))
    grouping = ask_groups(chat, ANIMALS, together=True, at_most=2)
    assert grouping.groups == ((0, 1), (2, 3)) and grouping.notes == () and len(asks) == 1
    assert asks[0].schema is not None and "into 2 groups" in asks[0].text


def test_what_is_wrong_is_told_and_asked_for_again() -> None:
    chat, asks = groups_of(said(["dog", "cat", "cow"]), said(["dog", "cat"], ["cow", "hen"]))
    grouping = ask_groups(chat, ANIMALS, together=True, at_most=2)
    assert grouping.groups == ((0, 1), (2, 3)) and not grouping.notes
    assert "'hen' is missing" in asks[1].text and "a group has 3 names" in asks[1].text
    assert asks[0].key("m") != asks[1].key("m"), "a kept answer would be the same again"


def test_what_stays_wrong_is_put_right_and_noted() -> None:
    bad = said(["dog", "cat", "dog"], ["unicorn", "cow"])
    chat, asks = groups_of("I am sorry", bad, bad)
    grouping = ask_groups(chat, ANIMALS, together=False, at_most=2, tries=3)
    assert len(asks) == 3 and exact(grouping.groups, 4) and max(map(len, grouping.groups)) == 2
    assert sorted(grouping.notes) == [
        "'dog' stands there more than once",
        "'hen' is missing",
        "'unicorn' is no name of the list",
    ]


@given(st.lists(st.lists(st.sampled_from([*ANIMALS, "sun", ""]), max_size=6), max_size=5), st.integers(1, 4))
def test_whatever_a_model_says_groups_are_exact(answer: list[list[str]], at_most: int) -> None:
    chat = ReplayChat(lambda _: said(*answer), model="m")
    if not any(name in ANIMALS for group in answer for name in group):
        with pytest.raises(DataError, match="did not divide"):
            ask_groups(chat, ANIMALS, together=True, at_most=at_most)
        return
    grouping = ask_groups(chat, ANIMALS, together=True, at_most=at_most)
    assert exact(grouping.groups, 4) and max(map(len, grouping.groups)) <= at_most
    names = [name for group in answer for name in group]
    flawed = sorted(names) != sorted(ANIMALS) or max(map(len, answer)) > at_most
    assert bool(grouping.notes) == flawed


def test_a_cut_answer_is_no_answer_and_too_many_names_are_not_asked() -> None:
    chat = ReplayChat(lambda _: Reply(said(["cat"]), "m", cut=True), model="m")
    with pytest.raises(DataError, match="did not divide"):
        ask_groups(chat, ANIMALS, together=True)
    with pytest.raises(UsageError, match="up to 600"):
        ask_groups(chat, [f"tag {n}" for n in range(601)], together=True)


def test_groups_that_a_person_wrote_are_checked() -> None:
    assert checked_groups([["cat", "hen"], ["dog", "Cow"]], ANIMALS, how="h").groups == ((0, 3), (1, 2))
    with pytest.raises(DataError, match=r"'sun' is no name.*'hen' is missing"):
        checked_groups([["cat", "dog", "cow", "sun"]], ANIMALS, how="h")

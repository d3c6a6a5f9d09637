"""The caption parser: the contract's row, known captions, gold graphs, and properties over any string."""

from __future__ import annotations

import csv
import gzip
import json
import runpy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from taglens.errors import DataError
from taglens.language.grammar import SCENES
from taglens.language.parser import CaptionParser, in_processes, parse, parse_lines, read_names


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


SPOTS = "A black dog and a white dog with brown spots are staring at each other in the street ."


def test_the_example_of_two_dogs() -> None:
    found = parse(SPOTS)
    assert found.objects == ("dog", "spot", "street")
    assert found.attributes == ("black", "white", "brown")
    assert found.actions == ("stare",)
    assert found.pairs == (("black", "dog"), ("white", "dog"), ("brown", "spot"))
    assert found.scenes == ("street",)
    assert ("dog", "stare in", "street") in found.relations


def test_wearing() -> None:
    found = parse("A man is wearing a red shirt.")
    assert found.actions == ("wear",)
    assert found.pairs == (("red", "shirt"),)
    assert found.relations == (("man", "wear", "shirt"),)


@pytest.mark.parametrize(
    ("caption", "objects"),
    [
        ("a boy kicking a soccer ball", ("boy", "soccer ball")),
        ("children in a swimming pool", ("child", "swimming pool")),
        ("a large tree trunk", ("tree trunk",)),
        ("a group of people", ("person",)),
        ("a lot of boats on the water", ("boat", "water")),
        ("a cat on top of a table", ("cat", "table")),
        ("a man standing in front of a building", ("man", "building")),
        ("he throws it to them", ("man",)),
        ("a woman in a blue t-shirt", ("woman", "t-shirt")),
        ("men in jeans and sunglasses", ("man", "jeans", "sunglasses")),
        ("leaves on the ground", ("leaf", "ground")),
    ],
)
def test_objects(caption: str, objects: tuple[str, ...]) -> None:
    assert parse(caption).objects == objects


@pytest.mark.parametrize(
    ("caption", "actions"),
    [
        ("a dog running", ("run",)),
        ("the man runs", ("run",)),
        ("two girls are lying on the grass", ("lay",)),
        ("a boy takes off his glasses", ("take",)),
        ("A child throws a ball .", ("throw",)),
        ("a parked car", ()),
    ],
)
def test_actions(caption: str, actions: tuple[str, ...]) -> None:
    assert parse(caption).actions == actions


@pytest.mark.parametrize(
    ("caption", "counts"),
    [
        ("two dogs running", ((2, "dog"),)),
        ("3 red cars", ((3, "car"),)),
        ("several people on a beach", (("several", "person"),)),
        ("a dog runs", ()),
        ("1,000 people on a beach", ((1000, "person"),)),
        ("a dozen eggs", ((12, "egg"),)),
    ],
)
def test_counts_are_no_attributes(caption: str, counts: tuple[tuple[int | str, str], ...]) -> None:
    found = parse(caption)
    assert found.counts == counts
    assert not {"two", "3", "several"} & set(found.attributes)


def test_case_and_entities_change_nothing() -> None:
    plain = parse("A man's red hat & a black dog")
    assert plain.objects == ("man", "hat", "dog")
    for other in (
        "A MAN'S RED HAT & A BLACK DOG",
        "A man&#39;s red hat &amp; a black dog",
        "a man’s red hat & a black dog",
    ):
        found = parse(other)
        assert (found.objects, found.pairs) == (plain.objects, plain.pairs)
        assert found.caption == other


def test_the_row_is_the_contracts() -> None:
    row = parse(SPOTS).to_dict()
    assert list(row) == [
        "caption",
        "objects",
        "attributes",
        "actions",
        "scenes",
        "pairs",
        "relations",
        "counts",
    ]
    assert row["pairs"][0] == ["black", "dog"]
    assert json.loads(json.dumps(row)) == row
    assert list(parse("").to_dict().values()) == ["", [], [], [], [], [], [], []]


WORDS = st.sampled_from(
    sorted(
        _words("a the dog dogs red two and , . of in is riding 's ’s &amp; 🐕 group front other it lot light")
    )
)


@settings(deadline=None, max_examples=150)
@given(st.one_of(st.text(), st.lists(WORDS, max_size=25).map(" ".join)))
@example("x" * 10_000)
@example("a man riding a horse " * 500)
@example("-" * 5_000 + "'" * 5_000)
@example("&" * 10_000)
@example("\ud800 dog \x00 İ ﬁ ² ½ 一 ٣ dogs")
@example("9" * 5_000 + " dogs")
@example("&#" + "1" * 5_000 + ";")
@example("palm " * 3_000 + "tree")
def test_any_string_has_a_consistent_row(text: str) -> None:
    found = parse(text)
    assert found.caption == text
    for part in (
        found.objects,
        found.attributes,
        found.actions,
        found.scenes,
        found.pairs,
        found.relations,
        found.counts,
    ):
        assert len(set(part)) == len(part)
    assert set(found.scenes) <= set(found.objects)
    assert all(scene.split()[-1] in SCENES for scene in found.scenes)
    assert {obj for _, obj in found.pairs} <= set(found.objects)
    assert {attribute for attribute, _ in found.pairs} <= set(found.attributes)
    assert {obj for _, obj in found.counts} <= set(found.objects)
    assert {side for s, _, o in found.relations for side in (s, o)} <= set(found.objects)
    assert all(name == name.lower() and name.strip() for name in found.objects)
    assert parse(text) == found


def test_lines_come_in_order_from_one_process_and_from_two() -> None:
    lines = ["a red car", "", "two dogs run by the sea", "A MAN 's hat"] * 2500
    alone = list(parse_lines(lines))
    assert [row.caption for row in alone] == lines
    assert alone[:4] == [parse(line) for line in lines[:4]]
    assert list(parse_lines(lines, workers=2)) == alone


@settings(deadline=None, max_examples=60)
@given(st.lists(st.one_of(st.text(max_size=40), st.lists(WORDS, max_size=12).map(" ".join)), max_size=70))
def test_a_batch_gives_what_single_calls_give(texts: list[str]) -> None:
    assert list(CaptionParser().parse_many(texts)) == [parse(text) for text in texts]


@pytest.mark.parametrize("noun", ["dog", "bird", "bus", "tree", "car", "horse", "emu", "man", "beach"])
@pytest.mark.parametrize("form", ["{}", "a {}", "the {}", "a {}.", "a red {}", "A photo of a {}"])
def test_a_noun_alone_is_an_object(noun: str, form: str) -> None:
    assert noun in parse(form.format(noun)).objects


def test_slips_of_the_pen_are_put_right() -> None:
    assert parse("two peopole in a green shrit").objects == ("person", "shirt")


def test_short_lists_start_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(method: str) -> None:
        raise AssertionError(method)

    monkeypatch.setattr("multiprocessing.get_context", refuse)
    assert list(in_processes(len, ["a", "b"], workers=8)) == [2]
    assert list(in_processes(len, [], workers=8)) == []


def test_the_table_of_words_starts_anew_when_it_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taglens.language.tagger._MOST_WORDS", 3)
    parser, lines = CaptionParser(), ["a red car", "two dogs run", "a cat sits on a table"] * 200
    assert list(parser.parse_many(lines)) == [parse(line) for line in lines]


def test_threads_share_a_parser() -> None:
    parser = CaptionParser()
    lines = [f"a man number {n} rides horse{n % 50}" for n in range(500)]
    expected = list(CaptionParser().parse_many(lines))
    with ThreadPoolExecutor(8) as threads:
        for found in threads.map(lambda _: list(parser.parse_many(lines)), range(8)):
            assert found == expected


def test_names_are_read_with_remarks_and_refused_without_a_sign(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("# who\nguy = person  # anyone\n\n")
    assert read_names(path) == {"guy": "person"}
    path.write_text("guy person\n")
    with pytest.raises(DataError, match="line 1"):
        read_names(path)


def test_gold_graphs(shared: Callable[[str], Path]) -> None:
    """F1 of entities, attributes and actions as sets on 1,000 captions that the tagger never saw."""
    folder = shared("data/scene-graphs")
    score = runpy.run_path(str(folder / "score.py"))
    with gzip.open(folder / "dev.csv.gz", "rt") as lines:
        rows = list(csv.DictReader(lines))
    said = CaptionParser().parse_many(row["caption"] for row in rows)
    pairs = [
        (
            score["normal"](*score["gold_sets"](row["scene_graph"])),
            score["normal"](found.objects, found.attributes, found.actions),
        )
        for row, found in zip(rows, said, strict=True)
    ]
    entities, attributes, actions = (score["f1"](pairs, kind)[2] for kind in range(3))
    assert entities > 0.95, entities
    assert attributes > 0.87, attributes
    assert actions > 0.91, actions

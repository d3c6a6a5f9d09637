"""Reading corpora and finding their tags: forms, malformed rows, homographs, compounds, real files."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taglens.data.labelling import caption_rules_version, label_from_captions, label_from_names
from taglens.data.sources import (
    Row,
    find_source,
    read_captions,
    read_labels,
    read_rows,
    source_form,
)
from taglens.errors import DataError
from taglens.language.word_lists import WordLists
from taglens.vocabulary import Entry, Vocabulary


def write(path: Path, *rows: Any) -> Path:
    """Rows as JSON; strings as they stand."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


# -- the two forms -----------------------------------------------------------------------------------


def test_captions_rows(tmp_path: Path) -> None:
    file = write(
        tmp_path / "c.jsonl",
        {"image": "images/a.jpg", "captions": ["A dog .", "Another\u2028one"], "split": "train"},
        "",
        {"image": "b.jpg", "captions": None},
    )
    assert list(read_captions(file)) == [
        Row(
            0,
            "images/a.jpg",
            tmp_path / "images/a.jpg",
            captions=("A dog .", "Another\u2028one"),
            split="train",
        ),
        Row(1, "b.jpg", tmp_path / "b.jpg"),
    ]
    assert [row.labelled for row in read_rows(file)] == [True, False]


def test_labels_rows(tmp_path: Path) -> None:
    file = write(
        tmp_path / "l.jsonl",
        {"image": "a.jpg", "labels": ["train", "red"], "kind": ["action", None], "split": "val"},
        {"image": "b.jpg", "labels": ["x", "y"], "kind": "object"},
        {"image": "c.jpg", "labels": None, "split": None},
        {"image": "d.jpg", "labels": [], "more": 1},
    )
    rows = list(read_labels(file))
    assert [row.labels for row in rows] == [("train", "red"), ("x", "y"), None, ()]
    assert [row.kinds for row in rows] == [("action", None), ("object", "object"), (), ()]
    assert [row.split for row in rows] == ["val", None, None, None]
    assert [row.labelled for row in rows] == [True, True, False, True]


def test_a_byte_order_mark_and_a_separator_inside_a_string_are_no_line_ends(tmp_path: Path) -> None:
    file = tmp_path / "c.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + '{"image": "a.jpg", "captions": ["one\u2028two\u0085"]}\r\n'.encode())
    assert [row.captions for row in read_captions(file)] == [("one\u2028two\u0085",)]


GOOD = {"image": "a.jpg", "labels": ["dog"]}


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        ("{", "JSON"),
        ("[1]", "object"),
        ("null", "object"),
        ("[" * 100_000, "JSON"),
        ({"labels": []}, "image"),
        ({"image": 3, "labels": []}, "image"),
        ({"image": " ", "labels": []}, "image"),
        ({"image": "a\0.jpg", "labels": []}, "NUL"),
        ({"image": "a.jpg"}, "labels"),
        ({"image": "a.jpg", "captions": ["A dog"]}, "labels"),
        ({"image": "a.jpg", "labels": "dog"}, "list"),
        ({"image": "a.jpg", "labels": {"dog": 1}}, "list"),
        ({"image": "a.jpg", "labels": [1]}, "labels"),
        ({"image": "a.jpg", "labels": [""]}, "labels"),
        ({"image": "a.jpg", "labels": ["\ud800"]}, "surrogate"),
        ({"image": "a.jpg", "labels": ["dog"], "split": "../up"}, "split"),
        ({"image": "a.jpg", "labels": ["dog"], "split": 1}, "split"),
        ({"image": "a.jpg", "labels": ["dog"], "split": ""}, "split"),
        ({"image": "a.jpg", "labels": ["dog"], "kind": "thing"}, "kind"),
        ({"image": "a.jpg", "labels": ["dog"], "kind": "typed"}, "kind"),
        ({"image": "a.jpg", "labels": ["dog"], "kind": []}, "kinds"),
        ({"image": "a.jpg", "labels": ["dog"], "kind": [["object"]]}, "kind"),
    ],
)
def test_a_malformed_row_is_named_with_file_and_line(tmp_path: Path, bad: Any, word: str) -> None:
    file = write(tmp_path / "l.jsonl", GOOD, "", bad, GOOD)
    with pytest.raises(DataError, match=word) as caught:
        list(read_labels(file))
    assert f"{file}, line 3" in str(caught.value)


def test_no_caption_at_all_and_bytes_that_are_no_text(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="line 1: captions is empty"):
        list(read_captions(write(tmp_path / "c.jsonl", {"image": "a.jpg", "captions": []})))
    file = tmp_path / "l.jsonl"
    file.write_bytes(json.dumps(GOOD).encode() + b'\n{"image": "\xff.jpg", "labels": []}\n')
    with pytest.raises(DataError, match=r"line 2: .*UTF-8"):
        list(read_labels(file))
    with pytest.raises(DataError, match="cannot read"):
        list(read_labels(tmp_path / "absent.jsonl"))


@given(
    st.lists(
        st.tuples(
            st.lists(st.text(st.characters(exclude_categories=["Cs"])).filter(str.strip), max_size=3),
            st.sampled_from(["train", "val", None]),
        ),
        max_size=5,
    )
)
def test_what_was_written_is_read(tmp_path_factory: pytest.TempPathFactory, rows: list[Any]) -> None:
    file = tmp_path_factory.mktemp("corpus") / "l.jsonl"
    text = "".join(
        json.dumps({"image": f"{n}.jpg", "labels": labels, "split": split}, ensure_ascii=n % 2 == 0) + "\n"
        for n, (labels, split) in enumerate(rows)
    )
    file.write_bytes(text.encode())
    assert [(list(row.labels or ()), row.split) for row in read_labels(file)] == rows


def test_the_first_row_says_the_form(tmp_path: Path) -> None:
    assert source_form(write(tmp_path / "1", GOOD)) == "labels"
    assert source_form(write(tmp_path / "2", {"image": "a", "captions": None})) == "captions"
    refused: list[tuple[list[Any], str]] = [
        ([{"image": "a"}], "beside"),
        ([{"image": "a", "captions": ["b"], "labels": []}], "both"),
        ([""], "empty"),
    ]
    for rows, word in refused:
        with pytest.raises(DataError, match=word):
            source_form(write(tmp_path / "3", *rows))


def test_find_source(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="neither"):
        find_source(tmp_path)
    labels = write(tmp_path / "labels.jsonl", GOOD)
    assert find_source(tmp_path) == find_source(labels) == labels
    write(tmp_path / "captions.jsonl", {"image": "a", "captions": ["b"]})
    with pytest.raises(DataError, match="name the one"):
        find_source(tmp_path)
    with pytest.raises(DataError, match="no such"):
        find_source(tmp_path / "nowhere")


# -- labels to columns -------------------------------------------------------------------------------

VOCABULARY = Vocabulary(
    [
        Entry("animal", "object"),
        Entry("dog", "object", parents=("object:animal",), synonyms=("hound",)),
        Entry("puppy", "object", parents=("object:dog",)),
        Entry("train", "object", count=9),
        Entry("train", "action", count=3),
        Entry("tree trunk", "object"),
        Entry("trunk", "object"),
        Entry("tree", "object"),
        Entry("kitchen", "scene"),
        Entry("red", "attribute"),
        Entry("orange", "object"),
        Entry("orange", "attribute"),
        Entry("run", "action"),
    ],
    name="small",
)


def ids(columns: tuple[int, ...]) -> list[str]:
    assert list(columns) == sorted(set(columns))
    return [VOCABULARY[column].id for column in columns]


def labelled(*labels: str, kinds: tuple[Any, ...] = ()) -> Row:
    return Row(0, "a.jpg", Path("a.jpg"), labels=labels, kinds=kinds)


def test_names_synonyms_parents_and_names_that_are_lacking() -> None:
    label = label_from_names(VOCABULARY)
    found = label(labelled("Hound", "red", "unicorn", "unicorn", "elf"))
    assert ids(found.columns) == ["object:animal", "object:dog", "attribute:red"]
    assert found.unmatched == ("unicorn", "elf")
    assert label(labelled()).columns == ()


def test_a_kind_decides_between_homographs_and_only_between_them() -> None:
    label = label_from_names(VOCABULARY)
    assert ids(label(labelled("train")).columns) == ["object:train"]
    assert ids(label(labelled("train", kinds=("action",))).columns) == ["action:train"]
    assert ids(label(labelled("kitchen", kinds=("object",))).columns) == ["scene:kitchen"]
    both = labelled("train", "train", kinds=("action", "object"))
    assert ids(label(both).columns) == ["object:train", "action:train"]


@dataclass(frozen=True)
class Parts:
    """What a parser gives, written by hand."""

    objects: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    scenes: tuple[str, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()


def captioned(*captions: str) -> Row:
    return Row(0, "a.jpg", Path("a.jpg"), captions=captions)


def columns_of(parts: Parts, lists: WordLists | None = None) -> list[str]:
    return ids(label_from_captions(VOCABULARY, lambda _: parts, lists=lists)(captioned("x")).columns)


def test_a_compound_backs_off_to_its_last_words_and_gives_nothing_else() -> None:
    assert columns_of(Parts(objects=("tree trunk",))) == ["object:tree trunk"]
    assert columns_of(Parts(objects=("big tree trunk",))) == ["object:tree trunk"]
    assert columns_of(Parts(objects=("steamer trunk",))) == ["object:trunk"]
    assert columns_of(Parts(objects=("trunk lid",))) == []
    assert columns_of(Parts(objects=("puppy",))) == ["object:animal", "object:dog", "object:puppy"]


def test_each_part_is_looked_for_among_its_own_kind() -> None:
    assert columns_of(Parts(objects=("orange", "train"))) == ["object:train", "object:orange"]
    assert columns_of(Parts(attributes=("orange",))) == ["attribute:orange"]
    assert columns_of(Parts(actions=("train", "run"))) == ["action:train", "action:run"]
    assert columns_of(Parts(objects=("kitchen",))) == ["scene:kitchen"]
    assert columns_of(Parts(scenes=("kitchen", "tree"))) == ["object:tree", "scene:kitchen"]
    # An attribute is one word to the parser: its last words are no attribute of their own.
    assert columns_of(Parts(attributes=("dark red",), actions=("dog run",))) == []


def test_a_pair_that_makes_a_tag_gives_it() -> None:
    parts = Parts(objects=("trunk",), attributes=("tree",), pairs=(("tree", "trunk"), ("red", "trunk")))
    assert "object:tree trunk" in columns_of(parts)


def test_captions_are_joined_and_what_found_no_tag_is_told() -> None:
    parts = {"one": Parts(objects=("dog", "elf")), "two": Parts(objects=("elf",), attributes=("red",))}
    found = label_from_captions(VOCABULARY, parts.__getitem__)(captioned("one", "two"))
    assert ids(found.columns) == ["object:animal", "object:dog", "attribute:red"]
    assert found.unmatched == ("elf",)


def test_word_lists_move_merge_and_forbid() -> None:
    lists = WordLists(
        synonyms={("object", "pooch"): ("object", "dog")},
        moves={("attribute", "wooded"): ("object", "tree")},
        not_edges=frozenset({(("object", "prairie dog"), ("object", "dog"))}),
    )
    assert columns_of(Parts(objects=("pooch",)), lists) == ["object:animal", "object:dog"]
    assert columns_of(Parts(objects=("prairie pooch",)), lists) == ["object:animal", "object:dog"]
    assert columns_of(Parts(objects=("prairie dog", "big prairie dog")), lists) == []
    assert columns_of(Parts(objects=("prairie dog",))) == ["object:animal", "object:dog"]
    assert columns_of(Parts(attributes=("wooded",)), lists) == ["object:tree"]


def test_a_row_of_the_other_form_is_refused() -> None:
    with pytest.raises(DataError, match="expected labels"):
        label_from_names(VOCABULARY)(captioned("A dog ."))
    with pytest.raises(DataError, match="expected captions"):
        label_from_captions(VOCABULARY, lambda _: Parts())(labelled("dog"))


def test_the_version_of_the_rules_is_the_same_twice() -> None:
    version = caption_rules_version()
    assert version == caption_rules_version()
    assert len(version) == 12
    assert set(version) <= set("0123456789abcdef")


# -- real files --------------------------------------------------------------------------------------


def test_flickr8k_reads_and_its_pictures_are_there(shared: Callable[[str], Path]) -> None:
    rows = list(islice(read_captions(shared("data/flickr8k/captions.jsonl")), 50))
    assert len(rows) == 50
    assert all(row.path.is_file() and row.captions is not None and len(row.captions) == 5 for row in rows)
    assert {row.split for row in rows} <= {"train", "val"}


@pytest.mark.parametrize(
    "corpus", ["voc-5class", "houses-rooms", "intel-scenes", "clothing-small", "grocery"]
)
def test_label_sets_read_to_their_end(shared: Callable[[str], Path], corpus: str) -> None:
    file = shared(f"data/{corpus}/labels.jsonl")
    rows = list(read_labels(file))
    assert len(rows) == file.read_bytes().count(b"\n")
    assert all(row.labels for row in rows)
    assert [row.index for row in rows] == list(range(len(rows)))

"""The original release's annotation files, on tiny ones of each form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from taglens.data.annotations import label_from_ids, read_annotations
from taglens.errors import DataError
from taglens.vocabulary import Entry, Vocabulary

VOCABULARY = Vocabulary(
    [
        Entry("animal", "object"),
        Entry("dog", "object", parents=("object:animal",)),
        Entry("red", "attribute"),
    ],
    name="list",
)
COCO: dict[str, Any] = {
    "image_path": "coco/train/1.jpg",
    "caption": ["a dog", "a red dog"],
    "union_label_id": [1, 2],
    "parse_label_id": [[1], [1, 2]],
}


def file(tmp_path: Path, *rows: object) -> Path:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(list(rows)))
    return path


def test_every_form_is_read(tmp_path: Path) -> None:
    sbu = {"image_path": "sbu/2.jpg", "caption": "one caption", "union_label_id": [], "parse_label_id": [0]}
    plain = {"image_path": "cc3m/3.jpg", "caption": ["only text"]}
    first, second, third = read_annotations(file(tmp_path, COCO, sbu, plain), pictures=tmp_path / "p")
    assert first.path == tmp_path / "p" / "coco" / "train" / "1.jpg" and first.captions == (
        "a dog",
        "a red dog",
    )
    assert (first.union, first.parsed) == ((1, 2), ((1,), (1, 2)))
    assert (second.captions, second.union, second.parsed) == (("one caption",), (), ((0,),))
    assert (third.index, third.union, third.parsed) == (2, None, None)


def test_one_list_of_parsed_tags_stands_for_every_caption(tmp_path: Path) -> None:
    (row,) = read_annotations(file(tmp_path, {**COCO, "parse_label_id": [2]}), pictures=tmp_path)
    assert row.parsed == ((2,), (2,))


def test_numbers_become_tags_with_what_they_imply(tmp_path: Path) -> None:
    (row,) = read_annotations(file(tmp_path, {**COCO, "union_label_id": [1]}), pictures=tmp_path)
    assert label_from_ids(VOCABULARY)(row).columns == (0, 1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image_path": None}, "picture 0: expected an object with image_path"),
        ({"image_path": "/etc/passwd"}, "leads out of the folder"),
        ({"image_path": "a/../../b.jpg"}, "leads out of the folder"),
        ({"caption": []}, "caption must be"),
        ({"caption": [1]}, "caption must be"),
        ({"union_label_id": "1"}, "union_label_id must be a list of whole numbers"),
        ({"union_label_id": [True]}, "whole numbers"),
        ({"parse_label_id": [[1]]}, "1 lists for 2 captions"),
    ],
)
def test_a_malformed_row_is_named(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        list(read_annotations(file(tmp_path, {**COCO, **change}), pictures=tmp_path))


def test_what_is_no_list_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for content in ("{}", "[", "null"):
        path.write_text(content)
        with pytest.raises(DataError, match=r"a\.json"):
            list(read_annotations(path, pictures=tmp_path))
    with pytest.raises(DataError, match="cannot read"):
        list(read_annotations(tmp_path / "none.json", pictures=tmp_path))


def test_a_number_of_another_list_is_refused(tmp_path: Path) -> None:
    (row,) = read_annotations(file(tmp_path, {**COCO, "union_label_id": [4584]}), pictures=tmp_path)
    with pytest.raises(DataError, match="4584 is none of the 3 tags"):
        label_from_ids(VOCABULARY)(row)
    (row,) = read_annotations(file(tmp_path, {"image_path": "a", "caption": "b"}), pictures=tmp_path)
    with pytest.raises(DataError, match="parse its captions instead"):
        label_from_ids(VOCABULARY)(row)

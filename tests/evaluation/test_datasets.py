"""Label and caption files: splits, null rows, kinds, paths, and what a broken line is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from taglens.errors import DataError, UsageError
from taglens.evaluation.datasets import LabelledImage, read_captions, read_labels


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def test_rows_come_in_order_with_null_ones_left_out(tmp_path: Path) -> None:
    file = write(
        tmp_path / "labels.jsonl",
        {"image": "b.jpg", "labels": ["dog", "grass"]},
        {"image": "c.jpg", "labels": None},
        {"image": "sub/a.jpg", "labels": []},
    )
    assert read_labels(file) == [
        LabelledImage(tmp_path / "b.jpg", "b.jpg", ("dog", "grass"), (None, None), None),
        LabelledImage(tmp_path / "sub" / "a.jpg", "sub/a.jpg", (), (), None),
    ]


def test_val_is_the_default_where_the_file_has_it(tmp_path: Path) -> None:
    both = write(
        tmp_path / "both.jsonl",
        {"image": "t", "labels": ["a"], "split": "train"},
        {"image": "v", "labels": ["a"], "split": "val"},
        {"image": "n", "labels": ["a"], "split": None},
    )
    assert [image.image for image in read_labels(both)] == ["v"]
    assert [image.image for image in read_labels(str(both), split="train")] == ["t"]
    assert [image.image for image in read_labels(both, default_split=None)] == ["t", "v", "n"]
    train = write(
        tmp_path / "t.jsonl",
        {"image": "t", "labels": ["a"], "split": "train"},
        {"image": "n", "labels": ["b"]},
    )
    assert [image.image for image in read_labels(train)] == ["t", "n"]
    with pytest.raises(UsageError, match="no row of split 'val'; splits in the file: 'train'"):
        read_labels(train, split="val")


def test_an_unlabelled_val_split_does_not_become_train(tmp_path: Path) -> None:
    file = write(
        tmp_path / "labels.jsonl",
        {"image": "t", "labels": ["a"], "split": "train"},
        {"image": "v", "labels": None, "split": "val"},
    )
    with pytest.raises(DataError, match="no row of split 'val' has labels"):
        read_labels(file)


def test_a_kind_is_for_the_row_or_for_each_label(tmp_path: Path) -> None:
    file = write(
        tmp_path / "labels.jsonl",
        {"image": "a", "labels": ["train", "bus"], "kind": "object"},
        {"image": "b", "labels": ["train", "red"], "kind": ["action", None]},
        {"image": "c", "labels": ["x"], "kind": None},
    )
    assert [image.kinds for image in read_labels(file)] == [("object", "object"), ("action", None), (None,)]


def test_captions(tmp_path: Path) -> None:
    file = write(
        tmp_path / "captions.jsonl",
        {"image": "a.jpg", "captions": ["A dog .", "a dog runs"], "split": "val"},
        {"image": "b.jpg", "captions": None, "split": "val"},
        {"image": "c.jpg", "captions": ["x"], "split": "train"},
    )
    (only,) = read_captions(file)
    assert only.captions == ("A dog .", "a dog runs")
    assert (only.path, only.image, only.split) == (tmp_path / "a.jpg", "a.jpg", "val")
    assert (only.labels, only.kinds) == (None, None)


def test_captions_may_have_labels_too(tmp_path: Path) -> None:
    row = {"image": "a.jpg", "captions": ["x"], "labels": ["dog", "run"], "kind": ["object", "action"]}
    file = write(
        tmp_path / "captions.jsonl", row, {**row, "labels": None}, {**row, "labels": [], "kind": None}
    )
    assert [(image.labels, image.kinds) for image in read_captions(file)] == [
        (("dog", "run"), ("object", "action")),
        (None, None),
        ((), ()),
    ]
    with pytest.raises(DataError, match="2 labels and 1 kinds"):
        read_captions(write(file, {**row, "kind": ["object"]}))


def test_odd_but_honest_bytes(tmp_path: Path) -> None:
    # A byte order mark, CRLF, blank lines, and U+2028 and U+0085 inside a string, which do not end a line.
    file = tmp_path / "labels.jsonl"
    line = json.dumps({"image": "é\u2028\x85.jpg", "labels": ["日本"]}, ensure_ascii=False).encode()
    file.write_bytes(b"\xef\xbb\xbf\r\n" + line + b"\r\n  \n" + line)
    assert [image.image for image in read_labels(file)] == ["é\u2028\x85.jpg"] * 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"image": "a", "labels": ["x"]', "no JSON"),
        (b'\xff{"image": "a"}', "UTF-8"),
        (b"[" * 100_000, "no JSON"),
        (b'["a"]', "expected a JSON object"),
        (b'{"labels": ["x"]}', "expected image to be text"),
        (b'{"image": 3, "labels": ["x"]}', "expected image to be text"),
        (b'{"image": "a\\u0000b", "labels": ["x"]}', "NUL"),
        (b'{"image": "a"}', 'expected "labels"'),
        (b'{"image": "a", "captions": ["x"]}', "caption file"),
        (b'{"image": "a", "labels": "dog"}', "list or null"),
        (b'{"image": "a", "labels": ["dog", 1]}', "each of labels"),
        (b'{"image": "a", "labels": [" "]}', "not blank"),
        (b'{"image": "a", "labels": ["\\ud800"]}', "half a character"),
        (b'{"image": "a", "labels": ["x"], "split": 1}', "expected split"),
        (b'{"image": "a", "labels": ["x"], "kind": "thing"}', "kind 'thing'"),
        (b'{"image": "a", "labels": ["x"], "kind": "typed"}', "kind 'typed'"),
        (b'{"image": "a", "labels": ["x"], "kind": [["object"]]}', "is not one of"),
        (b'{"image": "a", "labels": ["x"], "kind": ["object", "object"]}', "1 labels and 2 kinds"),
    ],
)
def test_a_broken_line_is_named_whatever_its_split(tmp_path: Path, line: bytes, message: str) -> None:
    file = tmp_path / "labels.jsonl"
    good = b'{"image": "v", "labels": ["x"], "split": "val"}\n'
    file.write_bytes(good + b"\n" + line + b"\n" + good)
    with pytest.raises(DataError, match=message) as caught:
        read_labels(file)
    assert f"{file}, line 3" in str(caught.value)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"image": "a", "labels": ["x"]}, "label file"),
        ({"image": "a", "captions": []}, "write null"),
        ({"image": "a", "captions": "A dog"}, "list or null"),
    ],
)
def test_a_broken_caption_line(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_captions(write(tmp_path / "captions.jsonl", row))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*none\.jsonl"):
        read_labels(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="cannot read"):
        read_labels(tmp_path)
    with pytest.raises(DataError, match="is empty"):
        read_labels(write(tmp_path / "empty.jsonl"))
    with pytest.raises(DataError, match="all are null"):
        read_captions(write(tmp_path / "null.jsonl", {"image": "a", "captions": None}))


def test_pictures_may_lie_elsewhere_unless_a_root_is_given(tmp_path: Path) -> None:
    inside, outside = tmp_path / "set", tmp_path / "elsewhere"
    inside.mkdir()
    outside.mkdir()
    (inside / "link").symlink_to(outside)
    file = inside / "labels.jsonl"
    for image in ("../elsewhere/a.jpg", str(outside / "a.jpg"), "link/a.jpg"):
        write(file, {"image": image, "labels": ["x"]})
        assert read_labels(file)[0].path.resolve() == outside / "a.jpg"
        with pytest.raises(DataError, match=r"line 1: .* lies outside"):
            read_labels(file, root=inside)
        assert read_labels(file, root=tmp_path)
    write(file, {"image": "down/../a.jpg", "labels": ["x"]})
    assert read_labels(file, root=inside)[0].path.resolve() == inside / "a.jpg"


@pytest.mark.parametrize(
    "name",
    ["tiny-imagenet", "intel-scenes", "houses-rooms", "clothing-small", "grocery", "voc-5class"],
)
def test_every_label_file_at_hand_is_read_whole(shared: Callable[[str], Path], name: str) -> None:
    file = shared(f"data/{name}/labels.jsonl")
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]
    everything = read_labels(file, default_split=None, root=file.parent)
    assert [(image.image, list(image.labels), image.split) for image in everything] == [
        (row["image"], row["labels"], row["split"]) for row in rows
    ]
    val = read_labels(file)
    assert 0 < len(val) < len(everything) and {image.split for image in val} == {"val"}
    assert val[0].path.is_file() and val[-1].path.is_file()


def test_the_yardstick_and_the_captions_it_comes_from(shared: Callable[[str], Path]) -> None:
    tags = read_labels(shared("data/flickr8k/val-tags.jsonl"))
    assert len(tags) == 1000
    assert len({label for image in tags for label in image.labels}) == 184
    captions = read_captions(shared("data/flickr8k/captions.jsonl"), split="val")
    assert {len(image.captions) for image in captions} == {5}
    assert {image.image for image in tags} == {image.image for image in captions}
    assert len(read_captions(shared("data/flickr8k/captions.jsonl"), default_split=None)) == 7091

"""Annotation files, by their own rules and, where it is installed, by the program that they are for."""

from __future__ import annotations

import json
import weakref
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from PIL import Image
from writer_rows import MODEL, account, row, stored, tag

from taglens.collection.rows_in import StoredRow
from taglens.collection.writers.annotations import (
    named_by,
    write_coco,
    write_datumaro,
    write_fiftyone,
    write_hf,
    write_labelstudio,
)
from taglens.collection.writers.export import Format, Order, export
from taglens.collection.writers.files import Pictures
from taglens.errors import UsageError

HERE = named_by(Pictures())
ROWS = [
    row("x/a b.jpg", "cat", tag("train", 0.6, "object"), caption="A cat"),
    row("x/b#ü.jpg"),
    row("c.jpg", tag("train", 0.7, "action"), "cat", 'a "quoted" <tag>'),
]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("x").mkdir()
    for one in ROWS:
        Image.new("RGB", (40, 30)).save(one["source"])
    return tmp_path


def load(path: str | Path) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))


# -- COCO -------------------------------------------------------------------------------------------------


def test_coco(here: Path) -> None:
    counted, _ = account()
    write_coco(stored(*ROWS), Path("labels.json"), named=HERE, account=counted)
    found = load("labels.json")
    assert [one["file_name"] for one in found["images"]] == [one["source"] for one in ROWS]
    assert {(one["width"], one["height"]) for one in found["images"]} == {(40, 30)}
    names = {one["id"]: one["name"] for one in found["categories"]}
    marks = [(one["image_id"], names[one["category_id"]], one["score"]) for one in found["annotations"]]
    assert marks == [
        (1, "cat", 0.9),
        (1, "train (object:train)", 0.6),
        (3, "train (action:train)", 0.7),
        (3, "cat", 0.89),
        (3, 'a "quoted" <tag>', 0.88),
    ]
    assert len({one["id"] for one in found["annotations"]}) == 5 and min(names) == 1
    assert found["annotations"][0]["attributes"] == {
        "id": "object:cat",
        "kind": "object",
        "score": 0.9,
        "model": MODEL,
        "vocabulary": "words@ba9876543210",
        "by": "taglens",
    }
    assert (counted.written, counted.tags) == (3, 5)


def test_coco_is_read_by_pycocotools(here: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed")
    counted, _ = account()
    write_coco(stored(*ROWS), Path("labels.json"), named=HERE, account=counted)
    found = coco.COCO("labels.json")
    (cat,) = found.getCatIds(catNms=["cat"])
    assert found.getImgIds(catIds=[cat]) == [1, 3]


def test_names_below_the_pictures_folder(here: Path) -> None:
    counted, failures = account()
    named = named_by(Pictures(Path("x")))
    write_coco(
        stored(row("a.jpg", "cat"), row("../b.jpg", "cat")), Path("labels.json"), named=named, account=counted
    )
    assert [one["file_name"] for one in load("labels.json")["images"]] == ["a.jpg"]
    assert [source for source, _ in failures] == ["../b.jpg"] and counted.written == 1


# -- Datumaro -----------------------------------------------------------------------------------------------


def test_datumaro(here: Path) -> None:
    counted, _ = account()
    write_datumaro(stored(*ROWS), Path("labels.json"), named=HERE, account=counted)
    found = load("labels.json")
    names = [one["name"] for one in found["categories"]["label"]["labels"]]
    marks = [[names[mark["label_id"]] for mark in one["annotations"]] for one in found["items"]]
    assert marks == [
        ["cat", "train (object:train)"],
        [],
        ["train (action:train)", "cat", 'a "quoted" <tag>'],
    ]
    assert found["items"][0]["image"] == {"path": "x/a b.jpg", "size": [30, 40]}


def test_datumaro_is_read_by_datumaro(here: Path) -> None:
    datumaro = pytest.importorskip("datumaro", reason="datumaro is not installed")
    Path("set/annotations").mkdir(parents=True)
    counted, _ = account()
    write_datumaro(stored(*ROWS), Path("set/annotations/default.json"), named=HERE, account=counted)
    found = list(datumaro.Dataset.import_from("set", "datumaro"))
    assert [one.id for one in found] == [one["source"] for one in ROWS]
    assert [len(one.annotations) for one in found] == [2, 0, 3]
    assert found[0].annotations[0].attributes["score"] == 0.9


# -- FiftyOne -----------------------------------------------------------------------------------------------


def test_fiftyone(here: Path) -> None:
    counted, _ = account()
    write_fiftyone(stored(*ROWS), Path("out"), pictures=Pictures(), account=counted)
    labels, places = load("out/labels.json"), load("out/data.json")
    assert labels["labels"].keys() == places.keys() == {"000000000", "000000001", "000000002"}
    assert all(Path(place).is_absolute() and Path(place).is_file() for place in places.values())
    assert [one["label"] for one in labels["labels"]["000000000"]] == ["cat", "train"]
    assert labels["labels"]["000000001"] == []
    assert labels["labels"]["000000002"][0]["confidence"] == 0.7
    assert labels["classes"] == ['a "quoted" <tag>', "cat", "train"]


def test_fiftyone_replaces_its_own_and_nobody_elses(here: Path) -> None:
    def write(**options: bool) -> None:
        counted, _ = account()
        write_fiftyone(stored(*ROWS), Path("out"), pictures=Pictures(), account=counted, **options)

    Path("out/.part").mkdir(parents=True)
    Path("out/.part/mine").write_text("mine")
    write()
    write()
    for name in ("labels.json", "data.json", "taglens-export.json"):
        Path("out", name).write_text("mine")
        with pytest.raises(UsageError, match="--overwrite"):
            write()
        assert Path("out", name).read_text() == "mine"
        write(overwrite=True)
        assert load(Path("out", name)) and Path("out/.part/mine").read_text() == "mine"
    Path("out/taglens-export.json").unlink()
    with pytest.raises(UsageError, match="not what an export left"):
        write()


def test_fiftyone_leaves_no_half_of_a_folder(here: Path) -> None:
    def rows() -> Iterator[StoredRow]:
        yield from stored(*ROWS)
        raise KeyboardInterrupt

    counted, _ = account()
    with pytest.raises(KeyboardInterrupt):
        write_fiftyone(rows(), Path("out"), pictures=Pictures(), account=counted)
    assert not Path("out").exists()


# -- Label Studio ---------------------------------------------------------------------------------------------


def test_labelstudio(here: Path) -> None:
    counted, _ = account()
    write_labelstudio(stored(*ROWS), Path("tasks.json"), named=HERE, account=counted)
    first, empty, last = load("tasks.json")
    assert first["data"]["image"] == "/data/local-files/?d=x/a%20b.jpg"
    assert empty["data"]["image"].endswith("x/b%23%C3%BC.jpg") and empty["predictions"] == []
    (prediction,) = first["predictions"]
    assert (prediction["model_version"], prediction["score"]) == (MODEL, 0.75)
    (result,) = prediction["result"]
    assert result["value"] == {"choices": ["cat", "train"]} and result["type"] == "choices"
    assert [one["score"] for one in first["data"]["taglens"]] == [0.9, 0.6]
    config = ET.parse("tasks.config.xml").getroot()
    control = config.find("Choices")
    assert control is not None and control.attrib["choice"] == "multiple"
    assert (control.attrib["name"], control.attrib["toName"]) == (result["from_name"], result["to_name"])
    choices = {one.attrib["value"] for one in control}
    assert choices == {"cat", "train", 'a "quoted" <tag>'}
    assert set(last["predictions"][0]["result"][0]["value"]["choices"]) <= choices


# -- Hugging Face ---------------------------------------------------------------------------------------------


def test_hf(here: Path) -> None:
    counted, failures = account()
    rows = stored(*ROWS, row("../elsewhere.jpg", "cat"))
    write_hf(rows, Path(), pictures=Pictures(), account=counted)
    lines = [json.loads(line) for line in Path("metadata.jsonl").read_text().splitlines()]
    assert [one["file_name"] for one in lines] == [one["source"] for one in ROWS]
    assert lines[0]["tags"] == ["cat", "train"] and lines[0]["tag_scores"] == [0.9, 0.6]
    assert [source for source, _ in failures] == ["../elsewhere.jpg"]
    write_hf(stored(row("x/a b.jpg", "dog")), Path("x"), pictures=Pictures(), account=counted)
    assert load("x/metadata.jsonl")["file_name"] == "a b.jpg"


def test_somebodys_metadata_is_not_replaced(here: Path) -> None:
    counted, _ = account()
    write_hf(stored(*ROWS), Path(), pictures=Pictures(), account=counted)
    ours = Path("metadata.jsonl").read_text()
    mine = '{"file_name": "c.jpg", "text": "mine"}\n'
    for content in (mine, "junk", "\n" + mine, ours + mine, ours.replace('"caption"', '"text"', 1)):
        Path("metadata.jsonl").write_text(content)
        with pytest.raises(UsageError, match="not written by taglens"):
            write_hf(stored(*ROWS), Path(), pictures=Pictures(), account=counted)
        assert Path("metadata.jsonl").read_text() == content
    Path("metadata.jsonl").unlink()
    for _ in range(2):
        write_hf(stored(*ROWS), Path("metadata.jsonl"), pictures=Pictures(), account=counted)
    with pytest.raises(UsageError, match=r"metadata\.jsonl"):
        write_hf(stored(*ROWS), Path("other.jsonl"), pictures=Pictures(), account=counted)


def test_hf_is_read_by_datasets(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(here / "cache"))
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    counted, _ = account()
    write_hf(stored(*ROWS), Path(), pictures=Pictures(), account=counted)
    found = datasets.load_dataset(
        "imagefolder", data_dir=str(here), split="train", cache_dir=str(here / "cache")
    )
    assert sorted(one["tags"] for one in found) == sorted(
        [tag["name"] for tag in one["tags"]] for one in ROWS
    )
    assert found[0]["image"].size == (40, 30)


# -- memory ---------------------------------------------------------------------------------------------------


class Raw(dict[str, Any]):
    """A row's own object, which can be watched."""

    __hash__ = object.__hash__  # type: ignore[assignment]


FORMATS = get_args(Format)


@pytest.mark.parametrize("format", [name for name in FORMATS if name != "parquet"])
def test_rows_are_let_go_as_they_are_written(here: Path, format: Format) -> None:
    alive: weakref.WeakSet[Raw] = weakref.WeakSet()
    most = 0

    def rows() -> Iterator[StoredRow]:
        nonlocal most
        for number in range(30):
            (one,) = stored(row("c.jpg", f"tag {number}"))
            raw = Raw(one.raw)
            alive.add(raw)
            yield replace(one, raw=raw, number=number)
            del one, raw
            most = max(most, len(alive))

    out = Path("metadata.jsonl" if format == "hf" else "out")
    counted, _ = account()
    export(rows(), Order(format, out), account=counted)
    assert most <= 3

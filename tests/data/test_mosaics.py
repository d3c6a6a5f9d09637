"""Mosaics: a complete truth, the same every time, and classes that exclude each other."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from taglens import images
from taglens.data import exclusive, mosaics
from taglens.data.exclusive import ANYWHERE, COMPANIES, JUDGED, Exclusive, choose, meet, read_exclusive
from taglens.data.mosaics import MosaicPlan, draw, gather, is_complete, make, render
from taglens.errors import DataError, UsageError
from taglens.evaluation.datasets import read_labels
from taglens.language.concepts import read_concepts
from taglens.vocabulary import Vocabulary

COLOURS = {
    "koala": (200, 30, 30),
    "gorilla": (30, 200, 30),
    "goldfish": (30, 30, 200),
    "cannon": (200, 200, 30),
    "oboe": (30, 200, 200),
    "train": (200, 30, 200),
}


@pytest.fixture
def sets(tmp_path: Path) -> list[Path]:
    """Two sets of pictures in one colour a class; the second also holds what is left out."""
    folders = []
    for at, name in enumerate(("first", "second")):
        folder = tmp_path / name
        (folder / "images").mkdir(parents=True)
        rows = []
        for label, colour in list(COLOURS.items())[at * 3 : at * 3 + 3]:
            for number in range(6):
                image = f"images/{label}-{number}.png"
                Image.new("RGB", (40, 40 - 10 * (number % 2)), colour).save(folder / image)
                labels = [label, "parent", *(["person"] if number == 3 else [])]
                rows.append({"image": image, "labels": labels, "split": "val" if number == 5 else "train"})
        rows.append({"image": "images/none.png", "labels": ["street"], "split": "train"})
        rows.append({"image": "images/none.png", "labels": None, "split": "train"})
        (folder / "labels.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
        )
        folders.append(folder)
    return folders


# -- which classes -------------------------------------------------------------------------------------


def test_no_two_kept_classes_may_meet() -> None:
    everything = [name for names in JUDGED.values() for name in names] + list(ANYWHERE)
    chosen = choose(everything)
    assert len(chosen.themes) > 40
    for one, other in itertools.combinations(chosen.themes, 2):
        assert meet(one, other) is None and meet(other, one) is None
    assert chosen.themes.keys() | chosen.left_out.keys() == set(everything)
    assert not chosen.themes.keys() & ANYWHERE.keys()


def test_the_choice_does_not_hang_on_the_order_of_the_names() -> None:
    names = [name for names in JUDGED.values() for name in names] + ["person", "gadget"]
    assert choose(names) == choose(names[::-1]) or choose(names).themes == choose(names[::-1]).themes
    assert choose(["gazelle", "lion"]).themes == {"lion": "zoo"}
    assert "waterhole" in choose(["gazelle", "lion"]).left_out["gazelle"]
    assert choose(["gazelle"]).themes == {"gazelle": "zoo"}, "what it would meet is not there"
    assert "not judged" in choose(["gadget"]).left_out["gadget"]
    assert "people" in choose(["skirt"]).left_out["skirt"]


def test_the_judgement_names_every_class_once() -> None:
    names = [name for names in JUDGED.values() for name in names]
    assert len(names) == len(set(names)) and not set(names) & ANYWHERE.keys()
    met = {name for groups in COMPANIES.values() for group in groups for name in group}
    assert met <= set(names), "a company of classes that nobody judged does nothing"
    assert exclusive.SENSES.keys() | exclusive.SCENES <= set(names)
    assert all(len(groups) in (1, 2) for groups in COMPANIES.values())


def test_two_groups_meet_across_and_not_within() -> None:
    assert meet("kitchen", "milk") and meet("milk", "kitchen") == "in a kitchen"
    assert meet("milk", "cabbage") is None
    assert meet("milk", "juice") == "in a refrigerated shelf"


def test_a_judgement_of_ones_own(tmp_path: Path, sets: list[Path]) -> None:
    file = tmp_path / "own.txt"
    file.write_text("# mine\nparent\nkoala\tzoo\n\nunseen\n", encoding="utf-8")
    own = read_exclusive(file)
    assert own == Exclusive({"parent": "all", "koala": "zoo", "unseen": "all"})
    stock = gather(sets, exclusive=own)
    assert stock.classes == ("parent", "koala")
    assert stock.exclusive.left_out == {"unseen": "no picture is labelled with it"}
    for content, named in (("koala", "1 classes"), ("a\nb\nA", "line 3")):
        file.write_text(content, encoding="utf-8")
        with pytest.raises(DataError, match=named):
            read_exclusive(file)
    with pytest.raises(DataError, match="cannot read"):
        read_exclusive(tmp_path / "none")


# -- what is drawn -------------------------------------------------------------------------------------


def test_labels_are_exactly_what_the_tiles_show(sets: list[Path]) -> None:
    stock = gather(sets)
    assert set(stock.classes) == set(COLOURS)
    sizes = Counter()
    for mosaic in draw(stock, MosaicPlan(200, seed=1, side=16)):
        shown = [label for tile in mosaic.tiles for label in tile.candidate.labels]
        assert len(shown) == len(set(shown)), "a class comes once"
        assert sorted(shown) == list(mosaic.labels)
        assert len({tile.candidate.split for tile in mosaic.tiles}) == 1
        boxes = [tile.box for tile in mosaic.tiles]
        assert len(set(boxes)) == len(boxes)
        assert all(x + s <= mosaic.width and y + s <= mosaic.height for x, y, s in boxes)
        sizes[len(mosaic.tiles)] += 1
    assert sizes.keys() == {2, 3, 4} and min(sizes.values()) > 40


def test_the_truth_is_in_the_pixels(sets: list[Path]) -> None:
    """The colours of a mosaic are those of its labels, all of them and no other."""
    stock = gather(sets)
    for mosaic in draw(stock, MosaicPlan(30, side=16)):
        pixels = render(mosaic)
        assert pixels.shape == (mosaic.height, mosaic.width, 3)
        colours = {tuple(map(int, colour)) for colour in pixels.reshape(-1, 3)} - {(mosaics.GREY,) * 3}
        assert colours == {COLOURS[label] for label in mosaic.labels}


def test_themes_come_together(sets: list[Path]) -> None:
    stock = gather(sets)

    def of_one_theme(together: float) -> float:
        drawn = draw(stock, MosaicPlan(300, together=together, fewest=2, most=2))
        return float(np.mean([{"koala", "gorilla"} == set(one.labels) for one in drawn]))

    assert of_one_theme(1.0) > 2 * of_one_theme(0.0)


def test_a_mosaic_is_the_same_whatever_the_count_and_another_for_another_seed(sets: list[Path]) -> None:
    stock = gather(sets)
    few, many, other = (list(draw(stock, MosaicPlan(n, seed=s))) for n, s in ((5, 0), (20, 0), (5, 1)))
    assert few == many[:5] != other


def test_one_split_gives_that_split(sets: list[Path]) -> None:
    assert {one.tiles[0].candidate.split for one in draw(gather(sets, split="val"), MosaicPlan(9))} == {"val"}
    with pytest.raises(UsageError, match="test"):
        gather(sets, split="test")


# -- what is written -----------------------------------------------------------------------------------


def test_two_makings_are_equal_byte_by_byte_and_readable(sets: list[Path], tmp_path: Path) -> None:
    plan = MosaicPlan(12, seed=3, side=20)
    first, second = tmp_path / "one", tmp_path / "two"
    told: list[tuple[int, int]] = []
    manifest = make(gather(sets), plan, first, progress=lambda done, of: told.append((done, of)))
    make(gather(sets), plan, second)
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert len(files) == 12 + 5
    assert all((first / file).read_bytes() == (second / file).read_bytes() for file in files)
    assert told == [(number, 12) for number in range(1, 13)]
    rows = read_labels(first / "labels.jsonl", default_split=None)
    assert [row.labels for row in rows] == [one.labels for one in draw(gather(sets), plan)]
    assert all(images.load(row.path).width in (20, 40) for row in rows)
    vocabulary = Vocabulary.load(first / "vocabulary.jsonl")
    assert {entry.name for entry in vocabulary} == set(COLOURS) and not vocabulary.problems()
    assert manifest == json.loads((first / "mosaics.json").read_text("utf-8"))
    assert manifest["truth"] == "complete" and sum(manifest["splits"].values()) == 12
    assert {"street", "parent", "person"} <= manifest["left_out"].keys()
    assert "gorilla: chimpanzee\n" in (first / "senses.txt").read_text("utf-8")
    concepts = read_concepts(first / "concepts.jsonl", vocabulary)
    assert concepts["object:gorilla"]["super_category"] == "ape" and concepts["object:train"]["phrases"]
    assert is_complete(first / "labels.jsonl") and not is_complete(sets[0] / "labels.jsonl")
    origin = json.loads((first / "labels.jsonl").read_text("utf-8").splitlines()[0])["tiles"][0]
    assert (tmp_path / origin["set"] / origin["image"]).is_file()


def test_nothing_is_written_over_or_left_half(sets: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds other things"):
        make(gather(sets), MosaicPlan(2), sets[0])
    (sets[0] / "images" / "koala-0.png").write_bytes(b"broken")
    with pytest.raises(Exception, match="koala-0"):
        make(gather(sets), MosaicPlan(200), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "wrong",
    [{"count": 0}, {"side": 8}, {"together": 1.5}, {"fewest": 1}, {"fewest": 4, "most": 3}, {"most": 5}],
)
def test_a_plan_refuses_nonsense(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        MosaicPlan(**{"count": 1, **wrong})


def test_sets_that_cannot_make_mosaics_are_refused(sets: list[Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="called 'first'"):
        gather([sets[0], sets[0]])
    (tmp_path / "own.txt").write_text("koala\nunseen\n", encoding="utf-8")
    with pytest.raises(DataError, match="at least two"):
        gather(sets, exclusive=read_exclusive(tmp_path / "own.txt"))
    with pytest.raises(DataError, match="no split has 4 classes"):
        list(draw(gather([sets[0]]), MosaicPlan(1)))


def test_pictures_that_show_everything_leave_nothing_for_a_second_tile(sets: list[Path]) -> None:
    file = sets[0] / "labels.jsonl"
    row = {"image": "images/koala-0.png", "labels": ["koala", "gorilla", "goldfish", "train"]}
    file.write_text(json.dumps(row) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match="2 tiles"):
        list(draw(gather(sets[:1]), MosaicPlan(1)))


def test_the_shared_sets_give_a_vocabulary(shared: Callable[[str], Path]) -> None:
    names = ("tiny-imagenet", "intel-scenes", "houses-rooms", "clothing-small", "grocery", "voc-5class")
    stock = gather([shared(f"data/{name}") for name in names])
    assert len(stock.classes) >= 40
    assert stock.sets["clothing-small"]["drawn_from"] == 0, "people wear it everywhere"
    assert all(stock.sets[name]["drawn_from"] for name in names if name != "clothing-small")
    for mosaic in draw(stock, MosaicPlan(20)):
        assert 2 <= len(mosaic.labels) <= 4 and all(tile.candidate.path.is_file() for tile in mosaic.tiles)

"""Proposals of regions: windows, a detector's boxes, what is cut out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import colours
from taglens.errors import DataError, UsageError
from taglens.training.engine_regions import WHOLE, BoxesFile, Seen, SlidingCrops, cut


def seen(width: int = 60, height: int = 40, path: str = "a.png") -> Seen:
    return Seen(Path(path), np.zeros((height, width, 3), np.uint8), width, height)


def test_windows_lie_inside_and_cover_the_picture() -> None:
    found = SlidingCrops()(seen(), ["attribute:red"])
    assert len(found) == 1 + 4 + 9
    assert found[0].box == WHOLE and all(region.tag is None for region in found)
    for left, top, right, bottom in (region.box for region in found):
        assert 0 <= left < right <= 1 + 1e-9 and 0 <= top < bottom <= 1 + 1e-9
        assert right - left == pytest.approx(bottom - top)
    halves = [region.box for region in found if region.box[2] - region.box[0] == pytest.approx(0.5)]
    covered = np.zeros((40, 60), bool)
    for box in halves:
        covered[int(box[1] * 40) : int(box[3] * 40), int(box[0] * 60) : int(box[2] * 60)] = True
    assert covered.all() and len(halves) == 9


def test_a_small_picture_has_no_windows() -> None:
    assert [region.box for region in SlidingCrops()(seen(20, 20), [])] == [WHOLE]


def test_other_windows_are_another_configuration() -> None:
    assert SlidingCrops().name != SlidingCrops(((1.0, 1),)).name
    for grids in (((0.0, 1),), ((1.5, 1),), ((0.5, 0),), ()):
        with pytest.raises(UsageError):
            SlidingCrops(grids)


@given(st.integers(1, 50), st.integers(1, 50), st.lists(st.floats(0, 1), min_size=4, max_size=4, unique=True))
def test_a_cut_is_never_empty_and_holds_its_box(width: int, height: int, edges: list[float]) -> None:
    (left, right), (top, bottom) = sorted(edges[:2]), sorted(edges[2:])
    pixels = np.arange(width * height * 3).reshape(height, width, 3).astype(np.uint8)
    found = cut(pixels, (left, top, right, bottom))
    assert found.shape[0] >= max(1, int((bottom - top) * height - 1e-3))
    assert found.shape[1] >= max(1, int((right - left) * width - 1e-3))
    assert found.shape[0] <= (bottom - top) * height + 2 and found.shape[1] <= (right - left) * width + 2


def test_the_whole_is_the_picture() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (7, 9, 3)).astype(np.uint8)
    assert (cut(pixels, WHOLE) == pixels).all()
    assert (cut(pixels, (2 / 9, 3 / 7, 5 / 9, 6 / 7)) == pixels[3:6, 2:5]).all()


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def test_boxes_are_found_by_picture_and_tag(tmp_path: Path) -> None:
    boxes = [
        {"box": [0, 0, 30, 20], "name": "red", "score": 0.9},
        {"box": [30, 20, 90, 40], "name": "attribute:green"},
        {"box": [0, 0, 5, 5], "name": "red", "score": 0.1},
        {"box": [0, 0, 5, 5], "name": "unheard of"},
    ]
    file = BoxesFile(
        write(tmp_path / "boxes.jsonl", {"image": "x/../a.png", "boxes": boxes}),
        colours.VOCABULARY,
        least=0.5,
    )
    picture = seen(path=str(tmp_path / "a.png"))
    (tmp_path / "x").mkdir()
    found = file(picture, ["attribute:red", "attribute:green"])
    assert [(region.box, region.tag, region.score) for region in found] == [
        ((0.0, 0.0, 0.5, 0.5), "attribute:red", 0.9),
        ((0.5, 0.5, 1.0, 1.0), "attribute:green", 1.0),  # cut off at the picture's edge
    ]
    assert [region.tag for region in file(picture, ["attribute:green"])] == ["attribute:green"]
    assert file(seen(path=str(tmp_path / "b.png")), ["attribute:red"]) == []
    assert file.strange == {"unheard of": 1}


@pytest.mark.parametrize(
    "row",
    [
        {"image": "a"},
        {"image": "a", "boxes": [{"box": [0, 0, 1], "name": "red"}]},
        {"image": "a", "boxes": [{"box": [5, 0, 1, 1], "name": "red"}]},
        {"image": "a", "boxes": [{"box": [0, 0, 1, 1]}]},
        {"image": " ", "boxes": []},
        [1],
    ],
)
def test_malformed_boxes_are_refused_with_their_line(tmp_path: Path, row: object) -> None:
    path = write(tmp_path / "boxes.jsonl", {"image": "a", "boxes": []}, row)
    with pytest.raises(DataError, match=r"boxes.jsonl, line 2: expected"):
        BoxesFile(path, colours.VOCABULARY)

"""Which picture the simulated annotator is shown, and what it is told of it."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent))

from population import truth

from taglens.errors import DataError, ImageError
from taglens.server.simulated_truth import Truth, UnknownPictureError
from taglens.vocabulary import Entry, Vocabulary


def scene(number: int, *, width: int = 160, height: int = 120) -> npt.NDArray[np.uint8]:
    """Smooth colour fields, as photographs have, and not noise."""
    coarse = np.random.default_rng(number).integers(0, 256, (4, 5, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def encoded(
    pixels: npt.NDArray[np.uint8], *, form: str = "JPEG", scale: float = 1.0, quality: int = 75
) -> bytes:
    picture = Image.fromarray(pixels)
    size = (round(picture.width * scale), round(picture.height * scale))
    kept = io.BytesIO()
    picture.resize(size).save(kept, form, quality=quality)
    return kept.getvalue()


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    rows = []
    for number in range(12):
        Image.fromarray(scene(number)).save(tmp_path / "images" / f"{number}.png")
        named = ["sea", "boat"] if number % 2 else ["train", "street"]
        rows.append({"image": f"images/{number}.png", "labels": named[: 1 + number % 3]})
    rows.append({"image": "images/none.png", "labels": None})
    file = tmp_path / "labels.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("form", "scale", "quality"),
    [("JPEG", 1.0, 30), ("JPEG", 0.5, 50), ("PNG", 2.0, 75), ("WEBP", 0.7, 40)],
)
def test_a_picture_is_known_however_it_was_saved(labels: Path, form: str, scale: float, quality: int) -> None:
    known = Truth.read(labels)
    for number in range(12):
        data = encoded(scene(number), form=form, scale=scale, quality=quality)
        for _ in range(2):
            seen = known.recognise(data)
            assert (seen.row, seen.width, seen.height) == (number, round(160 * scale), round(120 * scale))


def test_another_picture_is_not(labels: Path) -> None:
    known = Truth.read(labels)
    with pytest.raises(UnknownPictureError, match="12 labelled ones"):
        known.recognise(encoded(scene(99)))
    with pytest.raises(ImageError):
        known.recognise(b"no picture")


def test_labels_are_tags_or_are_counted(labels: Path) -> None:
    own = Truth.read(labels.parent)
    assert [entry.name for entry in own.vocabulary] == ["train", "sea", "boat", "street"]
    assert not own.unmatched and not own.complete
    words = Vocabulary([Entry("ship", "object", synonyms=("boat",)), Entry("train", "object")])
    other = Truth.read(labels, vocabulary=words)
    assert other.unmatched == {"sea": 6, "street": 4}
    assert other.true.sum(axis=0).tolist() == [4, 6]


def test_a_picture_that_is_missing_is_named(labels: Path) -> None:
    (labels.parent / "images" / "3.png").unlink()
    with pytest.raises(DataError, match=r"3\.png"):
        Truth.read(labels)


def test_company_is_what_comes_together_oftener_than_by_chance() -> None:
    """Against the formula, pair by pair."""
    known = truth(pictures=150)
    true = known.true
    slow = np.zeros(known.together.shape)
    for one in range(true.shape[1]):
        for other in range(true.shape[1]):
            both = int((true[:, one] & true[:, other]).sum())
            if one != other and both:
                chance = true[:, one].mean() * true[:, other].mean()
                share = both / len(true)
                slow[one, other] = max(np.log(share / chance) / -np.log(share), 0.0) * both / (both + 2)
    np.testing.assert_allclose(known.together, slow / slow.max(), atol=1e-6)
    assert np.array_equal(known.together, known.together.T)


def test_no_company_among_tags_that_never_meet() -> None:
    thumbnail = np.zeros((16, 16, 3), np.uint8)
    known = Truth(
        Vocabulary([Entry("a", "object"), Entry("b", "object")]),
        [("x", thumbnail, [0]), ("y", thumbnail, [1])],
    )
    assert not known.together.any()
    with pytest.raises(DataError, match="no labelled picture"):
        Truth(known.vocabulary, [])

"""What every kind of pixel becomes: modes, turning, reduced decoding, and the model's input."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hostile import HEIGHT, ORIENTATION, WIDTH, encoded, scene, write_hostile
from taglens.errors import ImageError, UsageError
from taglens.images import load, prepare

SCENE = scene()
PHOTO = Image.fromarray(SCENE)
Pixels = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_hostile(tmp_path_factory.mktemp("hostile"))


def difference(left: Pixels, right: Pixels) -> float:
    """Mean absolute difference, in 255ths."""
    return float(np.abs(left.astype(int) - right.astype(int)).mean())


# Modes


@pytest.mark.parametrize("name", ["plain.jpg", "cmyk.jpg", "lab.tiff", "corrupt-exif.jpg"])
def test_colour_survives_its_encoding(hostile: dict[str, Path], name: str) -> None:
    picture = load(hostile[name])
    assert difference(picture.pixels, SCENE) < 3
    assert picture.notes == ()


def test_lossless_colour_is_exact(hostile: dict[str, Path]) -> None:
    np.testing.assert_array_equal(load(hostile["plain.png"]).pixels, SCENE)


@pytest.mark.parametrize("name", ["gray16.png", "uint16.tiff", "float.tiff", "float-wide.tiff"])
def test_deep_grey_is_scaled_by_its_range(hostile: dict[str, Path], name: str) -> None:
    picture = load(hostile[name])
    ramp = np.linspace(0, 255, WIDTH * HEIGHT).reshape(HEIGHT, WIDTH, 1)
    np.testing.assert_allclose(picture.pixels, np.repeat(ramp, 3, axis=2), atol=0.51)
    assert len(picture.notes) == 1


def test_deep_grey_that_uses_little_of_its_range_stays_dark() -> None:
    values = np.full((4, 4), 2570, np.uint16)
    assert load(encoded(Image.fromarray(values), "PNG")).pixels.tolist() == [[[10, 10, 10]] * 4] * 4


def test_deep_colour_keeps_its_high_byte(hostile: dict[str, Path]) -> None:
    picture = load(hostile["rgb16.png"])
    ramp = np.linspace(0, 65535, WIDTH * HEIGHT).astype(np.uint16).reshape(HEIGHT, WIDTH)
    np.testing.assert_array_equal(picture.pixels[:, :, 0], ramp >> 8)
    assert picture.notes == ("16-bit values scaled from 0-65535",)


def test_white_is_zero_in_deep_grey_too() -> None:
    values = np.array([[0, 65535]], np.uint16)
    white_is_zero = encoded(Image.fromarray(values), "TIFF", tiffinfo={262: 0})
    assert load(white_is_zero).pixels[:, :, 0].tolist() == [[255, 0]]


def test_signed_values_are_stretched_and_a_flat_picture_has_no_range() -> None:
    values = np.array([[-1000, 0, 1000]], np.int32)
    picture = load(Image.fromarray(values))
    assert picture.pixels[0, :, 0].tolist() == [0, 128, 255]
    assert picture.notes == ("values -1000 to 1000 stretched to the full range",)
    with pytest.raises(ImageError, match="every value is 70000"):
        load(Image.fromarray(np.full((3, 3), 70_000, np.int32)))


@pytest.mark.parametrize(
    "name", ["alpha.png", "la.png", "palette-transparent.png", "palette-transparent.gif"]
)
def test_transparency_is_laid_over_white(hostile: dict[str, Path], name: str) -> None:
    picture = load(hostile[name])
    assert picture.pixels[2, 2].tolist() == [255, 255, 255]
    assert picture.notes == ("transparency laid over white",)
    assert picture.pixels[-2, -2].max() < 220


def test_half_transparent_black_over_white_is_grey() -> None:
    pixels = load(np.full((2, 2, 4), [0, 0, 0, 128], np.uint8)).pixels
    assert pixels.tolist() == [[[127, 127, 127]] * 2] * 2


def test_opaque_alpha_is_no_news() -> None:
    opaque = np.dstack([SCENE, np.full(SCENE.shape[:2], 255, np.uint8)])
    picture = load(encoded(Image.fromarray(opaque), "PNG"))
    np.testing.assert_array_equal(picture.pixels, SCENE)
    assert picture.notes == ()


@pytest.mark.parametrize(
    "mode",
    [
        "1",
        "L",
        "LA",
        "La",
        "P",
        "PA",
        "RGB",
        "RGBA",
        "RGBa",
        "RGBX",
        "CMYK",
        "YCbCr",
        "HSV",
        "LAB",
        "I",
        "F",
        "I;16",
    ],
)
def test_a_pillow_image_of_any_mode_becomes_rgb_and_is_left_alone(mode: str) -> None:
    through = {"La": "LA", "RGBa": "RGBA", "PA": "P", "I;16": "I"}.get(mode)
    image = (PHOTO.convert(through) if through else PHOTO).convert(mode)
    before = image.tobytes()
    picture = load(image, at_least=8)
    assert picture.pixels.shape[2] == 3
    assert (picture.width, picture.height) == (WIDTH, HEIGHT)
    assert (image.mode, image.size, image.tobytes()) == (mode, (WIDTH, HEIGHT), before)


# Turning


def turned_by_hand(pixels: Pixels, orientation: int) -> Pixels:
    """What the EXIF standard says of where row 0 and column 0 of the stored picture lie."""
    flat = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.transpose(1, 0, 2),
        6: pixels[::-1].transpose(1, 0, 2),
        7: pixels[::-1, ::-1].transpose(1, 0, 2),
        8: pixels[:, ::-1].transpose(1, 0, 2),
    }
    return flat[orientation]


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options: dict[str, object] = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95}}.get(format, {})
    data = encoded(PHOTO, format, exif=exif, **options)
    expected = turned_by_hand(SCENE, orientation)
    for source in (data, Image.open(io.BytesIO(data))):
        picture = load(source)
        assert picture.pixels.shape == expected.shape
        assert difference(picture.pixels, expected) < 3
        assert (picture.height, picture.width) == expected.shape[:2]
    reduced = load(data, at_least=16)
    assert (reduced.height, reduced.width) == expected.shape[:2]


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_is_none_turns_nothing(orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    np.testing.assert_array_equal(load(encoded(PHOTO, "PNG", exif=exif)).pixels, SCENE)


# Reduced decoding and the model's input


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
@pytest.mark.parametrize("size", [(1203, 817), (811, 1290), (800, 600), (1500, 63), (64, 64), (31, 40)])
@pytest.mark.parametrize("side", [16, 40])
def test_a_reduced_decode_changes_little(format: str, size: tuple[int, int], side: int) -> None:
    data = encoded(Image.fromarray(scene(*size)).resize(size), format, quality=95)
    full, reduced = load(data), load(data, at_least=side)
    assert (reduced.width, reduced.height) == (full.width, full.height) == size
    assert full.pixels.shape == (size[1], size[0], 3)
    assert min(reduced.pixels.shape[:2]) >= min(2 * side, *size)
    if min(size) >= 4 * side:
        assert reduced.pixels.size < full.pixels.size / 3, "nothing was reduced"
    moved = np.abs(prepare(full.pixels, side) - prepare(reduced.pixels, side)) * 255
    assert moved.mean() < 1


def test_a_reduced_decode_of_photographs_changes_little(shared: Callable[[str], Path]) -> None:
    for name in ("chelsea.png", "rocket.jpg"):
        with Image.open(shared("data/photos") / name) as image:
            data = encoded(image.convert("RGB").resize((1205, 1157)), "JPEG", quality=90)
        moved = np.abs(prepare(load(data).pixels, 144) - prepare(load(data, at_least=144).pixels, 144)) * 255
        assert moved.mean() < 0.8
        assert moved.max() < 16


@settings(max_examples=40, deadline=None)
@given(height=st.integers(1, 90), width=st.integers(1, 90), side=st.integers(1, 48), seed=st.integers(0, 99))
def test_prepare_is_an_antialiased_squash(height: int, width: int, side: int, seed: int) -> None:
    # From six times the side on, a box reduction comes first; noise is no fair test of that.
    height, width = min(height, 6 * side - 1), min(width, 6 * side - 1)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    prepared = prepare(pixels, side)
    assert prepared.shape == (3, side, side)
    assert prepared.dtype == np.float32
    assert prepared.flags.c_contiguous
    assert prepared.flags.writeable
    assert 0 <= prepared.min() <= prepared.max() <= 1
    np.testing.assert_array_equal(prepared, prepare(pixels, side))
    expected = np.stack([squash(pixels[:, :, channel].astype(float), side) for channel in range(3)])
    np.testing.assert_allclose(prepared * 255, expected, atol=1.51)


def test_prepare_of_a_big_picture_is_that_squash_too() -> None:
    pixels = scene(700, 430)
    expected = np.stack([squash(pixels[:, :, channel].astype(float), 20) for channel in range(3)])
    moved = np.abs(prepare(pixels, 20) * 255 - expected)
    assert moved.mean() < 0.6
    assert moved.max() < 8


def squash(values: npt.NDArray[np.float64], side: int) -> npt.NDArray[np.float64]:
    """[h, w] -> [side, side]: each output pixel is a triangle-weighted mean around its place in the input."""

    def weights(length: int) -> npt.NDArray[np.float64]:
        scale = length / side
        support = max(scale, 1.0)
        rows = []
        for place in range(side):
            centre = (place + 0.5) * scale
            triangle = np.array(
                [max(0.0, 1 - abs(index + 0.5 - centre) / support) for index in range(length)]
            )
            rows.append(triangle / triangle.sum())
        return np.array(rows)

    return weights(values.shape[0]) @ values @ weights(values.shape[1]).T


def test_prepare_at_its_own_side_only_divides() -> None:
    pixels = np.arange(256 * 3, dtype=np.uint16).astype(np.uint8).reshape(16, 16, 3)
    np.testing.assert_array_equal(
        prepare(pixels, 16), pixels.transpose(2, 0, 1).astype(np.float32) / np.float32(255)
    )


def test_prepare_keeps_flat_colour_exact() -> None:
    flat = np.full((301, 997, 3), [0, 100, 255], np.uint8)
    assert np.unique(prepare(flat, 33).reshape(3, -1), axis=1).T.tolist() == [
        [0.0, float(np.float32(100) / 255), 1.0]
    ]


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((3, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_prepare_refuses_other_pixels(pixels: npt.NDArray[Any]) -> None:
    with pytest.raises(UsageError, match=r"\[h, w, 3\]"):
        prepare(pixels, 8)
    with pytest.raises(UsageError, match="1 or more"):
        prepare(SCENE, 0)

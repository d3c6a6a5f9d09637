"""Every way a picture comes in, and every way it can be bad. What its pixels become: test_images_pixels.py."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from hostile import FRAMES, HAS_AVIF, HEIGHT, WIDTH, encoded, scene, write_hostile
from taglens.errors import ImageError, ImageErrorType, UsageError
from taglens.images import IMAGE_SUFFIXES, Picture, is_image_file, load, prepare

SCENE = scene()
PHOTO = Image.fromarray(SCENE)
Pixels = npt.NDArray[np.uint8]

BAD = {
    "truncated.jpg": "truncated",
    "no-end.jpg": "truncated",
    "truncated-progressive.jpg": "truncated",
    "truncated.png": "truncated",
    "truncated.gif": "truncated",
    "truncated.webp": "truncated",
    "truncated.tiff": "truncated",
    "zero.jpg": "empty",
    "text.jpg": "not_image",
    "html.jpg": "not_image",
    "folder.jpg": "not_image",
    "broken-checksum.png": "not_image",
    "noise.jpg": "truncated",
    "float-nan.tiff": "unsupported",
    "bomb.png": "too_large",
    "text-bomb.png": "too_large",
    "photo.heic": "unsupported",
    "drawing.svg": "unsupported",
    "script.eps": "unsupported",
}
SKIPPED_IN_FOLDERS = {"zero.jpg", "text.jpg", "html.jpg", "folder.jpg", "drawing.svg", "script.eps"}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_hostile(tmp_path_factory.mktemp("hostile"))


NEEDS_AVIF = pytest.param("AVIF", marks=pytest.mark.skipif(not HAS_AVIF, reason="this Pillow has no AVIF"))


def refusal(source: Any, **options: Any) -> ImageError:
    with pytest.raises(ImageError) as caught:
        load(source, **options)
    return caught.value


# The hostile folder


def test_every_hostile_file_is_read_or_refused_with_its_own_type(hostile: dict[str, Path]) -> None:
    found = {}
    for name, path in hostile.items():
        try:
            picture = load(path)
        except ImageError as error:
            found[name] = error.type
            assert error.source == str(path)
            assert str(error).startswith(repr(str(path)) + ": ")
            assert "; " in str(error), "a message ends with the cure"
            assert "\n" not in str(error)
        else:
            assert picture.pixels.dtype == np.uint8
            assert picture.pixels.shape == (picture.height, picture.width, 3)
    assert found == BAD
    assert set(found.values()) <= set(get_args(ImageErrorType))


def test_bytes_fare_as_their_file_does(hostile: dict[str, Path]) -> None:
    for name, path in hostile.items():
        if path.is_dir():
            continue
        if name in BAD:
            error = refusal(path.read_bytes())
            assert (error.type, error.source) == (BAD[name], "<bytes>"), name
        else:
            of_bytes, of_path = load(path.read_bytes()), load(str(path))
            np.testing.assert_array_equal(of_bytes.pixels, of_path.pixels)
            assert of_bytes.notes == of_path.notes


def test_sniffing_a_folder(hostile: dict[str, Path]) -> None:
    assert {name for name, path in hostile.items() if not is_image_file(path)} == SKIPPED_IN_FOLDERS
    for odd in ("absent", "zero\0byte", "", "x" * 5000):
        assert not is_image_file(odd)


@pytest.mark.parametrize(
    "name", ["two words.jpg", "line\nbreak.jpg", "Ünï-語-🐈.jpg", "no-suffix", "really-a-jpeg.png"]
)
def test_names_change_nothing(hostile: dict[str, Path], name: str) -> None:
    np.testing.assert_array_equal(load(hostile[name]).pixels, load(hostile["plain.jpg"]).pixels)


@pytest.mark.parametrize("name", ["animated.gif", "animated.webp", "animated.png"])
def test_an_animation_gives_its_first_frame(hostile: dict[str, Path], name: str) -> None:
    picture = load(hostile[name])
    assert picture.notes == (f"first frame of {FRAMES}",)
    assert np.unique(picture.pixels.reshape(-1, 3), axis=0).tolist() == [[255, 0, 0]]


# Paths and other sources


def test_paths_that_name_no_file(tmp_path: Path) -> None:
    for path in (
        tmp_path / "absent.jpg",
        tmp_path / "absent" / "a.jpg",
        "",
        "a\0b.jpg",
        tmp_path / ("x" * 5000),
    ):
        assert refusal(path).type == "not_found", path
    (tmp_path / "file").write_bytes(b"x")
    assert refusal(tmp_path / "file" / "a.jpg").type == "not_found"
    (tmp_path / "loop").symlink_to("loop")
    assert refusal(tmp_path / "loop").type == "not_found"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    assert refusal(tmp_path / "pipe.jpg").type == "not_image"
    assert not is_image_file(tmp_path / "pipe.jpg")


def test_a_forbidden_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secret.jpg"
    path.write_bytes(encoded(PHOTO, "JPEG"))

    def refuse(*_arguments: object, **_options: object) -> None:
        raise PermissionError(13, "Permission denied")

    # Not by chmod: the tests may run as a user whom no permission stops.
    monkeypatch.setattr(Path, "open", refuse)
    assert refusal(path).type == "permission"
    assert is_image_file(path), "what cannot be looked into is judged by its suffix"
    path.rename(tmp_path / "secret.doc")
    assert not is_image_file(tmp_path / "secret.doc")


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux only")
def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.jpg")
    path.write_bytes(b"")
    error = refusal(path)
    assert error.type == "empty"
    str(error).encode("utf-8")


@pytest.mark.parametrize("source", [None, 3, bytearray(b"x"), [SCENE], io.BytesIO(b"x")])
def test_other_types_are_refused(source: object) -> None:
    error = refusal(source)
    assert error.type == "unsupported"
    assert type(source).__name__ in str(error)


def test_a_pillow_image_that_was_closed_or_cut() -> None:
    data = encoded(PHOTO, "JPEG")
    closed = Image.open(io.BytesIO(data))
    closed.close()
    assert refusal(closed).type == "truncated"
    assert refusal(Image.open(io.BytesIO(data[:-100]))).type == "truncated"
    assert refusal(Image.new("RGB", (0, 5))).type == "empty"


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([[0, 255]], np.uint8), [[0, 0, 0], [255, 255, 255]]),
        (np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8), [[1, 2, 3], [4, 5, 6]]),
        (np.array([[0, 65535]], np.uint16), [[0, 0, 0], [255, 255, 255]]),
        (np.array([[[0, 257, 514]]], ">u2"), [[0, 1, 2]]),
        (np.array([[0.0, 0.5, 1.0]], np.float16), [[0] * 3, [128] * 3, [255] * 3]),
        (np.array([[[0.2, 0.4, 0.6]]], np.float64), [[51, 102, 153]]),
    ],
)
def test_arrays(array: npt.NDArray[Any], expected: list[list[int]]) -> None:
    before = array.copy()
    assert load(array).pixels[0].tolist() == expected
    np.testing.assert_array_equal(array, before)


@pytest.mark.parametrize(
    ("array", "type"),
    [
        (np.zeros((3, 8, 8), np.uint8), "unsupported"),
        (np.zeros((8, 8, 1), np.uint8), "unsupported"),
        (np.zeros(8, np.uint8), "unsupported"),
        (np.zeros((1, 8, 8, 3), np.uint8), "unsupported"),
        (np.zeros((8, 8), np.int64), "unsupported"),
        (np.zeros((8, 8), bool), "unsupported"),
        (np.zeros((8, 8), object), "unsupported"),
        (np.zeros((8, 8), complex), "unsupported"),
        (np.full((8, 8), 1.5), "unsupported"),
        (np.full((8, 8), -0.5), "unsupported"),
        (np.full((8, 8), np.nan), "unsupported"),
        (np.zeros((0, 8, 3), np.uint8), "empty"),
    ],
)
def test_arrays_that_cannot_be_pictures(array: npt.NDArray[Any], type: str) -> None:
    error = refusal(array)
    assert (error.type, error.source) == (type, "<array>")


def test_pixels_are_the_pictures_own() -> None:
    array = SCENE.copy()
    picture = load(array)
    array[:] = 0
    np.testing.assert_array_equal(picture.pixels, SCENE)
    with pytest.raises(ValueError, match="read-only"):
        picture.pixels[0, 0] = 1


def test_strided_arrays() -> None:
    np.testing.assert_array_equal(load(SCENE[::2, ::-1]).pixels, SCENE[::2, ::-1])


# Limits


def test_the_pixel_limit_is_inclusive_and_asked_of_every_source() -> None:
    for source in (encoded(PHOTO, "PNG"), PHOTO, SCENE):
        assert load(source, max_pixels=WIDTH * HEIGHT).width == WIDTH
        error = refusal(source, max_pixels=WIDTH * HEIGHT - 1)
        assert error.type == "too_large"
        assert f"{WIDTH * HEIGHT - 1:,}" in str(error)


def test_nothing_is_decoded_beyond_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    def decoded(_image: ImageFile.ImageFile) -> None:
        pytest.fail("decoded before the limit was asked")

    data = encoded(PHOTO, "JPEG")
    monkeypatch.setattr(ImageFile.ImageFile, "load", decoded)
    assert refusal(data, max_pixels=10).type == "too_large"


def test_the_limit_is_ours_and_not_pillows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    np.testing.assert_array_equal(load(encoded(PHOTO, "PNG")).pixels, SCENE)


def test_running_out_of_memory_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(_image: ImageFile.ImageFile) -> None:
        raise MemoryError

    data = encoded(PHOTO, "JPEG")
    monkeypatch.setattr(ImageFile.ImageFile, "load", exhausted)
    assert refusal(data).type == "too_large"


def test_an_oversized_file_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded(PHOTO, "PNG"))
    size = path.stat().st_size
    monkeypatch.setattr("taglens.images.MAX_FILE_BYTES", size)
    assert load(path).width == WIDTH
    monkeypatch.setattr("taglens.images.MAX_FILE_BYTES", size - 1)
    assert refusal(path).type == "too_large"


@pytest.mark.parametrize("options", [{"max_pixels": 0}, {"at_least": 0}, {"at_least": -5}])
def test_limits_that_cannot_be_meant(options: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        load(SCENE, **options)


def test_a_format_that_this_pillow_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(feature: str) -> bool:
        warnings.warn(f"Unknown feature {feature}", UserWarning, stacklevel=1)
        return False

    monkeypatch.setattr("PIL.features.check", unknown)
    error = refusal(encoded(PHOTO, "WEBP"))
    assert error.type == "unsupported"
    assert "built without WebP" in str(error)


# Damage


@pytest.mark.parametrize(
    "format", ["JPEG", "PNG", "GIF", "WEBP", NEEDS_AVIF, "BMP", "TIFF", "JPEG2000", "PPM"]
)
def test_every_shorter_file_is_truncated(format: str) -> None:
    data = encoded(PHOTO, format)
    for length in sorted({*range(64, len(data), 1 + len(data) // 25), *range(len(data) - 4, len(data))}):
        assert refusal(data[:length]).type == "truncated", f"{length} of {len(data)} bytes"


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_deflate", "jpeg"])
def test_every_shorter_compressed_tiff_is_truncated(compression: str) -> None:
    data = encoded(PHOTO, "TIFF", compression=compression)
    for length in sorted({*range(64, len(data), 1 + len(data) // 25), *range(len(data) - 4, len(data))}):
        assert refusal(data[:length]).type == "truncated", f"{length} of {len(data)} bytes"


SMALL = Image.fromarray(scene(24, 16))
SEEDS = [
    encoded(SMALL, format) for format in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "JPEG2000", "PPM")
]


@settings(max_examples=150, deadline=None)
@given(
    seed=st.sampled_from(SEEDS),
    changes=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8
    ),
    early=st.booleans(),
)
def test_damage_gives_a_picture_or_an_image_error(
    seed: bytes, changes: list[tuple[float, int]], early: bool
) -> None:
    data = bytearray(seed)
    reach = min(len(data), 120) if early else len(data)
    for place, value in changes:
        data[int(place * reach)] = value
    try:
        picture = load(bytes(data), max_pixels=1_000_000)
    except ImageError as error:
        assert error.type in get_args(ImageErrorType)
    else:
        assert picture.pixels.shape == (picture.height, picture.width, 3)


@pytest.mark.parametrize(
    "fault",
    [OSError, SyntaxError, KeyError, ValueError, EOFError, OverflowError, RecursionError, UserWarning],
)
def test_what_a_decoder_raises_becomes_an_image_error(
    monkeypatch: pytest.MonkeyPatch, fault: type[Exception]
) -> None:
    def broken(_image: ImageFile.ImageFile) -> None:
        raise fault("from within")

    data = encoded(PHOTO, "JPEG")
    monkeypatch.setattr(ImageFile.ImageFile, "load", broken)
    error = refusal(data)
    assert error.type == "truncated"
    assert "from within" in str(error)
    assert isinstance(error.__cause__, fault)


# Warnings and threads


def warns_in_pillow(_image: ImageFile.ImageFile) -> None:
    warnings.warn("from within", UserWarning, stacklevel=1)
    raise OSError("and then broken")


def test_no_warning_escapes_and_none_of_others_is_lost(
    hostile: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageFile.ImageFile, "load", warns_in_pillow)
    assert "and then broken" in str(refusal(hostile["plain.png"]))
    with pytest.warns(UserWarning, match="ours"):
        warnings.warn("ours", UserWarning, stacklevel=1)


def test_warnings_of_other_threads_are_heard_while_one_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, heard = threading.Event(), threading.Event()

    def wait(_image: ImageFile.ImageFile) -> None:
        reading.set()
        assert heard.wait(10)
        raise OSError("done")

    monkeypatch.setattr(ImageFile.ImageFile, "load", wait)
    with ThreadPoolExecutor(1) as pool:
        refused = pool.submit(refusal, encoded(PHOTO, "PNG"))
        assert reading.wait(10)
        with pytest.warns(UserWarning, match="meanwhile"):
            warnings.warn("meanwhile", UserWarning, stacklevel=1)
        heard.set()
        assert refused.result().type == "truncated"


def test_the_filters_do_not_grow(hostile: dict[str, Path]) -> None:
    load(hostile["plain.png"])
    before = len(warnings.filters)
    with warnings.catch_warnings():
        for _ in range(3):
            warnings.simplefilter("error")
            load(hostile["corrupt-exif.jpg"])
    assert len(warnings.filters) == before


def test_threads_give_what_one_thread_gives(hostile: dict[str, Path]) -> None:
    names = [name for name in hostile if name not in BAD] * 4

    def read(name: str) -> bytes:
        return prepare(load(hostile[name], at_least=16).pixels, 16).tobytes()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(read, names)) == [read(name) for name in names]


def test_pictures_are_compared_by_identity_and_cross_processes() -> None:
    picture = load(SCENE)
    assert picture != load(SCENE)
    copy = pickle.loads(pickle.dumps(picture))
    assert isinstance(copy, Picture)
    np.testing.assert_array_equal(copy.pixels, picture.pixels)


def test_suffixes_are_lower_case_with_their_dot() -> None:
    assert all(suffix.startswith(".") and suffix == suffix.lower() for suffix in IMAGE_SUFFIXES)
    assert {".jpg", ".jpeg", ".png", ".webp", ".heic"} <= IMAGE_SUFFIXES


def test_reading_needs_no_other_program_and_no_heavy_package() -> None:
    unwanted = ("torch", "onnxruntime", "subprocess", "PIL.EpsImagePlugin")
    code = f"import sys, taglens.images; print([name for name in {unwanted} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"

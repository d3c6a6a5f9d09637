"""Picture files as bytes: kinds, ends, frames; compared with what Pillow reads."""

from __future__ import annotations

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hostile import HAS_AVIF, animation, encoded, scene
from taglens.containers import SNIFFED_BYTES, cut_short, gif_frames, sniff, tiff_pages

PHOTO = Image.fromarray(scene())
SAMPLES = {
    "JPEG": encoded(PHOTO, "JPEG"),
    "PNG": encoded(PHOTO, "PNG"),
    "GIF": encoded(PHOTO, "GIF"),
    "WebP": encoded(PHOTO, "WEBP"),
    "BMP": encoded(PHOTO, "BMP"),
    "TIFF": encoded(PHOTO, "TIFF"),
    "JPEG 2000": encoded(PHOTO, "JPEG2000"),
    "PPM": encoded(PHOTO, "PPM"),
} | ({"AVIF": encoded(PHOTO, "AVIF")} if HAS_AVIF else {})
STARTS = {
    "BMP": [b"BM" + bytes(12) + b"\x28\0\0\0"],
    "TIFF": [b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"],
    "AVIF": [b"\0\0\0\x1cftypmif1\0\0\0\0miafavif"],
    "HEIC": [b"\0\0\0\x18ftypheic", b"\0\0\0\x18ftypmif1\0\0\0\0heicmif1"],
    "JPEG 2000": [b"\xff\x4f\xff\x51"],
    "PPM": [b"P4 8 8\n", b"P6\n# a comment\n12 8\n255\n"],
    "SVG": [b"<svg xmlns='x'>", b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- a -->\n<svg>"],
    "Photoshop": [b"8BPS\0\x01"],
}
NO_PICTURES = [
    b"",
    b"BMW is a maker of cars",
    b"P2P networks",
    b"GIF89 is a format",
    b"RIFF\0\0\0\0WAVE",
    b"%PDF-1.7",
    b"\0" * 64,
]


@pytest.mark.parametrize("kind", SAMPLES)
def test_a_written_file_is_known_and_whole(kind: str) -> None:
    data = SAMPLES[kind]
    assert sniff(data[:SNIFFED_BYTES]) == kind
    assert not cut_short(kind, data)
    assert not cut_short(kind, data + bytes(8)), "bytes after the end do no harm"


@pytest.mark.parametrize(
    ("kind", "start"), [(kind, start) for kind, starts in STARTS.items() for start in starts]
)
def test_starts_that_pillow_does_not_write(kind: str, start: bytes) -> None:
    assert sniff(start) == kind


@pytest.mark.parametrize("head", NO_PICTURES)
def test_other_files_have_no_kind(head: bytes) -> None:
    assert sniff(head) is None


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WebP", "TIFF"])
def test_every_shorter_file_is_cut_short(kind: str) -> None:
    data = SAMPLES[kind]
    lengths = {*range(8, len(data), 97), *range(len(data) - 12, len(data))}
    assert [length for length in sorted(lengths) if not cut_short(kind, data[:length])] == []


def test_an_end_marker_inside_a_segment_does_not_count() -> None:
    thumbnail = b"\xff\xd8\xff\xd9" * 3
    data = encoded(PHOTO, "JPEG", comment=thumbnail)
    assert not cut_short("JPEG", data)
    assert cut_short("JPEG", data[:-2])


def test_a_progressive_jpeg_is_whole() -> None:
    assert not cut_short("JPEG", encoded(PHOTO, "JPEG", progressive=True, quality=95))


@pytest.mark.parametrize("count", [1, 2, 12])
def test_frames_are_counted_as_pillow_counts_them(count: int) -> None:
    first, *rest = animation()[:count]
    gif = encoded(first, "GIF", save_all=True, append_images=rest, duration=50)
    tiff = encoded(first, "TIFF", save_all=True, append_images=rest)
    big = encoded(first, "TIFF", save_all=True, append_images=rest, big_tiff=True)
    with Image.open(io.BytesIO(gif)) as image:
        assert gif_frames(gif) == image.n_frames == count
    with Image.open(io.BytesIO(tiff)) as image:
        assert tiff_pages(tiff) == image.n_frames == count
    assert tiff_pages(big) == count


def test_a_tiff_that_leads_back_to_itself_ends() -> None:
    data = bytearray(SAMPLES["TIFF"])
    table = int.from_bytes(data[4:8], "little")
    entries = int.from_bytes(data[table : table + 2], "little")
    end = table + 2 + 12 * entries
    data[end : end + 4] = data[4:8]
    assert tiff_pages(bytes(data)) == 1


@settings(max_examples=100, deadline=None)
@given(kind=st.sampled_from([*SAMPLES, "unheard of"]), data=st.binary(max_size=200))
def test_nothing_makes_them_raise(kind: str, data: bytes) -> None:
    start = SAMPLES.get(kind, b"")[:12]
    for content in (data, start + data):
        assert cut_short(kind, content) in (True, False)
        sniff(content)
        gif_frames(content)
        tiff_pages(content)

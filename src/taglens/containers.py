"""Picture files as bytes: which kind a file is by its first bytes, and whether it reaches its own end.

Knows the outermost structure of each format: markers, chunks, blocks, boxes. Refuses to know pixels and
decoders. Pure functions of bytes that raise nothing, whatever they are given.
"""

from __future__ import annotations

import re
import struct
from typing import Final

SNIFFED_BYTES: Final = 1024

_MAGIC: tuple[tuple[str, re.Pattern[bytes]], ...] = tuple(
    (kind, re.compile(pattern, re.DOTALL))
    for kind, pattern in (
        ("JPEG", rb"\xff\xd8\xff"),
        ("PNG", rb"\x89PNG\r\n\x1a\n"),
        ("GIF", rb"GIF8[79]a"),
        ("WebP", rb"RIFF....WEBP"),
        # "BM" alone opens many a text; the DIB header's size, one of eight, settles it.
        ("BMP", rb"BM.{12}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\x00\x00\x00"),
        ("TIFF", rb"II[\x2a\x2b]\x00|MM\x00[\x2a\x2b]"),
        ("AVIF", rb"....ftyp(?:avif|avis|(?:mif1|msf1|miaf)....(?:.{4}){0,8}?avi[fs])"),
        ("HEIC", rb"....ftyp(?:hei[cxms]|hev[cxms]|mif1|msf1)"),
        ("JPEG 2000", rb"\x00\x00\x00\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"),
        ("JPEG XL", rb"\x00\x00\x00\x0cJXL \r\n\x87\n|\xff\x0a"),
        ("PPM", rb"P[1-6]\s(?:\s|#[^\n]*\n)*\d+\s"),
        ("Photoshop", rb"8BPS\x00[\x01\x02]"),
        ("SVG", rb"(?:\xef\xbb\xbf)?\s*(?:<svg[\s>]|<\?xml.*?<svg[\s>])"),
        ("PostScript", rb"%!PS|\xc5\xd0\xd3\xc6"),
        ("icon", rb"\x00\x00[\x01\x02]\x00[\x01-\xff]\x00.{4}[\x00\x01]\x00"),
    )
)


def sniff(head: bytes) -> str | None:
    """The kind of a file by its first `SNIFFED_BYTES`, or None for no picture."""
    return next((kind for kind, pattern in _MAGIC if pattern.match(head)), None)


def cut_short(kind: str, data: bytes) -> bool:
    """Whether a file stops before the end that its own container announces.

    Worth asking of every file, because a decoder may accept a JPEG, PNG or GIF that lacks its last bytes
    without a word. Formats whose decoder never does so (BMP, PPM) answer False.
    """
    match kind:
        case "JPEG":
            return not _jpeg_ends(data)
        case "PNG":
            return not _png_ends(data)
        case "GIF":
            return gif_frames(data) is None
        case "WebP":
            return int.from_bytes(data[4:8], "little") + 8 > len(data)
        case "TIFF":
            return tiff_pages(data) is None
        case "AVIF" | "JPEG 2000":
            return not _boxes_end(data)
        case _:
            return False


_JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]", re.DOTALL)


def _jpeg_ends(data: bytes) -> bool:
    """Whether the end marker comes after the segments, and not inside one (an EXIF thumbnail has its own)."""
    at = 2
    while marker := _JPEG_MARKER.search(data, at):
        at = marker.end()
        if marker.group() == b"\xff\xd9":
            return True
        at += int.from_bytes(data[at : at + 2], "big")
    return False


def _png_ends(data: bytes) -> bool:
    at = 8
    while at + 12 <= len(data):
        last = data[at + 4 : at + 8] == b"IEND"
        at += 12 + int.from_bytes(data[at : at + 4], "big")
        if last:
            return at <= len(data)
    return False


def gif_frames(data: bytes) -> int | None:
    """How many frames a GIF has, or None for a file that stops before its trailer."""

    def colours(packed: int) -> int:
        return 3 << ((packed & 7) + 1) if packed & 0x80 else 0

    if len(data) < 13:
        return None
    frames, at = 0, 13 + colours(data[10])
    while at < len(data):
        block = data[at]
        if block == 0x3B:
            return frames
        if block == 0x21:
            at += 2
        elif block == 0x2C and at + 10 <= len(data):
            frames += 1
            at += 11 + colours(data[at + 9])
        else:
            at += 1  # stray bytes between blocks are passed over, as Pillow does
            continue
        while at < len(data) and data[at]:
            at += 1 + data[at]
        at += 1
    return None


def _boxes_end(data: bytes) -> bool:
    """Whether the outermost ISO boxes lie inside the file; a bare codestream has none, and passes."""
    if data[:2] == b"\xff\x4f":
        return True
    at = 0
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if size == 0:  # "up to the end of the file"
            return True
        if size == 1:
            size = int.from_bytes(data[at + 8 : at + 16], "big")
        at += max(size, 8)
    return at <= len(data)


# Entries of a TIFF page without which its pixels cannot be found or understood; first the offsets and byte
# counts of strips, and of tiles.
_TIFF_OFFSETS = {273: 279, 324: 325}
_TIFF_NEEDED = {*_TIFF_OFFSETS, *_TIFF_OFFSETS.values(), 258, 277, 320, 338, 339}
_TIFF_WIDTHS = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}
_TIFF_INTEGERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}


def tiff_pages(data: bytes) -> int | None:
    """How many pages a TIFF has, or None if a page's table or the first one's pixels lie outside the file."""
    order = "<" if data[:1] == b"I" else ">"
    wide = 43 in data[2:4]  # BigTIFF
    number, entry, first = ("Q", order + "HHQ", 8) if wide else ("H", order + "HHI", 4)
    offset = order + entry[-1]
    seen: set[int] = set()
    try:
        (at,) = struct.unpack_from(offset, data, first)
        while at and at not in seen:  # a table that leads back to itself ends the file, as for Pillow
            (entries,) = struct.unpack_from(order + number, data, at)
            start, step = at + struct.calcsize(number), struct.calcsize(entry) + struct.calcsize(offset)
            table = range(start, start + entries * step, step)
            (following,) = struct.unpack_from(offset, data, table.stop)
            if not seen and not _tiff_pixels_end(data, entry, table):
                return None
            seen.add(at)
            at = following
    except (struct.error, OverflowError):  # reading past the end
        return None
    return len(seen)


def _tiff_pixels_end(data: bytes, entry: str, table: range) -> bool:
    """Whether the strips or tiles of one page, and what describes them, lie inside the file."""
    values: dict[int, tuple[int, ...]] = {}
    inline = struct.calcsize(entry) - 4
    for at in table:
        tag, kind, number = struct.unpack_from(entry, data, at)
        if tag not in _TIFF_NEEDED or tag in values or kind not in _TIFF_WIDTHS:
            continue
        place = at + struct.calcsize(entry)
        size = number * _TIFF_WIDTHS[kind]
        if size > inline:
            (place,) = struct.unpack_from(entry[0] + entry[-1], data, place)
        if place + size > len(data):
            return False
        if kind in _TIFF_INTEGERS:
            values[tag] = struct.unpack_from(f"{entry[0]}{number}{_TIFF_INTEGERS[kind]}", data, place)
    return all(
        offset + count <= len(data)
        for offsets, counts in _TIFF_OFFSETS.items()
        for offset, count in zip(values.get(offsets, ()), values.get(counts, ()), strict=False)
    )

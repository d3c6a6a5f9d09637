"""A folder of files that break careless readers, written afresh for each test that asks.

Knows how to make each file; the tests say what ought to happen to it. Everything is deterministic and small.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

ORIENTATION = 0x0112
FRAMES = 12
WIDTH, HEIGHT = 96, 64
HAS_AVIF = ".avif" in Image.registered_extensions()  # since Pillow 11.3, where built in


def scene(width: int = WIDTH, height: int = HEIGHT) -> npt.NDArray[np.uint8]:
    """[h, w, 3]: smooth colour, and bright top left corner that shows which way up the picture is."""
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([x * 200 // width, y * 200 // height, (x + y) * 200 // (width + height)], axis=2)
    pixels[: height // 4, : width // 4] = 255
    return pixels.astype(np.uint8)


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    """The content of a file in this format."""
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, *, depth: int, colour: int, rows: bytes, extra: bytes = b"") -> bytes:
    """A PNG from its parts; ``rows`` carry their filter bytes, ``extra`` holds further chunks."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    data = png_chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + extra + data + png_chunk(b"IEND", b"")


def animation() -> list[Image.Image]:
    """Twelve frames, the first of them red."""
    colours = "red lime blue yellow cyan magenta black white gray navy olive teal".split()  # noqa: SIM905
    return [Image.new("RGB", (WIDTH, HEIGHT), colour) for colour in colours[:FRAMES]]


def write_hostile(folder: Path) -> dict[str, Path]:
    """Write every hostile file into an existing folder; file name -> path.

    The folder then holds nothing else, except what was there before.
    """
    photo = Image.fromarray(scene())
    grey = photo.convert("L")
    ramp16 = np.linspace(0, 65535, WIDTH * HEIGHT).astype(np.uint16).reshape(HEIGHT, WIDTH)
    ramp_float = np.linspace(0, 1, WIDTH * HEIGHT, dtype=np.float32).reshape(HEIGHT, WIDTH)
    alpha = photo.copy()
    alpha.putalpha(grey.point(lambda value: 0 if value == 255 else 255))
    palette = photo.quantize(16)
    rgb16 = np.stack([ramp16, ramp16[::-1], ramp16[:, ::-1]], axis=2).astype(">u2")
    rgb16_rows = b"".join(b"\0" + row.tobytes() for row in rgb16)
    turned = Image.Exif()
    turned[ORIENTATION] = 6
    jpeg = encoded(photo, "JPEG", quality=90)
    first, *rest = animation()
    frames: dict[str, object] = {"save_all": True, "append_images": rest, "duration": 80}
    text_bomb = png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(4 << 20)))

    contents: dict[str, bytes] = {
        "plain.jpg": jpeg,
        "plain.png": encoded(photo, "PNG"),
        "truncated.jpg": jpeg[: len(jpeg) // 2],
        "no-end.jpg": jpeg[:-2],
        "truncated-progressive.jpg": (prog := encoded(photo, "JPEG", progressive=True))[: len(prog) // 2],
        "truncated.png": (cut := encoded(photo, "PNG"))[: len(cut) // 2],
        "truncated.gif": (gif := encoded(first, "GIF", **frames))[: len(gif) // 2],
        "truncated.webp": (webp := encoded(photo, "WEBP"))[: len(webp) // 2],
        "truncated.tiff": (tiff := encoded(photo, "TIFF"))[: len(tiff) // 2],
        "zero.jpg": b"",
        "text.jpg": b"This is not a picture, whatever its name says.\n" * 20,
        "html.jpg": b"<!DOCTYPE html><html><head><title>404 Not Found</title></head></html>\n",
        "gray16.png": encoded(Image.fromarray(ramp16), "PNG"),
        "rgb16.png": png(WIDTH, HEIGHT, depth=16, colour=2, rows=rgb16_rows),
        "uint16.tiff": encoded(Image.fromarray(ramp16), "TIFF"),
        "float.tiff": encoded(Image.fromarray(ramp_float), "TIFF"),
        "float-wide.tiff": encoded(Image.fromarray(ramp_float * 3000 - 1000), "TIFF"),
        "float-nan.tiff": encoded(Image.fromarray(np.full((8, 8), np.nan, np.float32)), "TIFF"),
        "cmyk.jpg": encoded(photo.convert("CMYK"), "JPEG", quality=95),
        "lab.tiff": encoded(photo.convert("LAB"), "TIFF"),
        "palette.png": encoded(palette, "PNG"),
        "palette-transparent.png": encoded(palette, "PNG", transparency=0),
        "palette-transparent.gif": encoded(palette, "GIF", transparency=0),
        "alpha.png": encoded(alpha, "PNG"),
        "gray.png": encoded(grey, "PNG"),
        "la.png": encoded(alpha.convert("LA"), "PNG"),
        "1-bit.png": encoded(grey.convert("1"), "PNG"),
        "animated.gif": encoded(first, "GIF", **frames),
        "animated.webp": encoded(first, "WEBP", lossless=True, **frames),
        "animated.png": encoded(first, "PNG", **frames),
        "exif-turned.jpg": encoded(photo, "JPEG", exif=turned, quality=95),
        "corrupt-exif.jpg": encoded(
            photo, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x40\0\x12\x01\x03\0garbage"
        ),
        "bomb.png": png(30_000, 30_000, depth=8, colour=0, rows=bytes(30_001)),
        "text-bomb.png": png(2, 2, depth=8, colour=0, rows=bytes(6), extra=text_bomb),
        "broken-checksum.png": (whole := encoded(photo, "PNG"))[:20] + b"\x01" + whole[21:],
        "noise.jpg": b"\xff\xd8\xff" + np.random.default_rng(0).bytes(2000),
        "photo.heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64),
        "drawing.svg": b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg" width="4"/>\n',
        "script.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\nshowpage\n",
        "really-a-jpeg.png": jpeg,
        "no-suffix": jpeg,
        "two words.jpg": jpeg,
        "line\nbreak.jpg": jpeg,
        "Ünï-語-🐈.jpg": jpeg,
    }
    paths = {name: folder / name for name in contents}
    for name, content in contents.items():
        paths[name].write_bytes(content)
    paths["folder.jpg"] = folder / "folder.jpg"
    paths["folder.jpg"].mkdir()
    return paths


def write_hostile_places(folder: Path) -> tuple[int, int]:
    """Write names, links and special files that break careless walks; how many are given and passed over.

    What this system cannot hold is left out. A lost picture, a link whose end is gone, counts as given.
    """
    jpeg = encoded(Image.fromarray(scene()), "JPEG", quality=90)
    names = [b"line\nbreak.jpg", b"-rf.jpg", b"#1.jpg", b"a{1,2}.jpg", b"[x].jpg", b"%41.jpg", b" .jpg"]
    names += [b"x" * 251 + b".jpg", b"caf\xe9.jpg", b"\xff\xfe.jpg", "Ünï-語.jpg".encode()]
    given = passed = 0
    for name in names:
        try:
            (folder / os.fsdecode(name)).write_bytes(jpeg)
        except OSError:
            continue
        given += 1
    (folder / ".hidden.jpg").write_bytes(jpeg)
    (folder / "notes.jpg").write_text("no picture")
    passed += 2
    deep = folder / "deep" / "er"
    deep.mkdir(parents=True)
    (deep / "in.jpg").write_bytes(jpeg)
    given += 1
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "pipe.jpg")
        (folder / "round").symlink_to(folder)
        (deep / "up").symlink_to("..")
        (folder / "self.jpg").symlink_to("self.jpg")
        (folder / "lost.jpg").symlink_to("nowhere.jpg")
        (folder / "device.jpg").symlink_to("/dev/null")
        given += 2  # self.jpg and lost.jpg: somebody's pictures once
        passed += 4
    return given, passed

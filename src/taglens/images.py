"""A picture from anywhere (file, bytes, Pillow image, array) to RGB bytes, and from those to a model's input.

Knows decoders, what makes a picture too big, cut or unreadable, and how every kind of pixel becomes RGB.
Refuses to know models: mean and deviation belong to the encoder, which normalises its own pixels.

What is done, and what is not:

- Only the formats in `_DECODERS` are opened, by content and never by suffix; no outside program is run.
- The pixel limit is checked on the header's size, before a pixel is decoded.
- A file that does not reach its own end is an error, even where Pillow would fill up with grey: `cut_short`.
  One damage stays unseen: pixel data that stops early and was properly closed again by whoever cut it.
- 16-bit grey runs from 0 to 65535, or to the 2^n - 1 of a TIFF that states n bits; of 16-bit colour Pillow
  keeps the high byte. Floats that stay within 0 to 1 are taken as such. Other floats, and 32-bit or signed
  integers, have no range of their own: the picture's least and greatest value become black and white. A note
  says which.
- Transparency is laid over white. CMYK and YCCK are converted without their ICC profile; RGB is taken to be
  sRGB whatever its profile says.
- EXIF orientation is applied wherever the source still carries it; damaged EXIF turns nothing.

Safe to call from several threads. What Pillow merely warns about is either an error here or of no
consequence, so its warnings are dropped, on the reading thread and while it reads: `taglens.quiet`.
Shapes: h, w a picture's height and width; S the side of a model's input.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image, features

from taglens.containers import SNIFFED_BYTES, cut_short, gif_frames, sniff, tiff_pages
from taglens.errors import ImageError, ImageErrorType, UsageError
from taglens.quiet import quiet

DEFAULT_MAX_PIXELS: Final = 178_000_000
# A file is read whole before it is decoded; no picture within any sensible pixel limit is larger than this.
MAX_FILE_BYTES: Final = 2 << 30
# fmt: off
IMAGE_SUFFIXES: Final = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".gif", ".webp", ".avif", ".bmp", ".tif",
    ".tiff", ".jp2", ".j2k", ".j2c", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm", ".heic", ".heif", ".jxl", ".psd",
})
# fmt: on

_ORIENTATION_TAG = 0x0112
_BITS_TAG, _PHOTOMETRIC_TAG = 258, 262
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Everything Pillow's decoders were seen to raise, or raise by reading their code, on damaged files.
_DECODER_FAULTS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    EOFError,
    RuntimeError,
    struct.error,
    zlib.error,
    Warning,  # only where warnings are errors and `quiet` could not get in front of that
)

# Kind by content -> the Pillow class that reads it, and the feature that Pillow may have been built without.
# Classes and not Image.open: that one has a pixel limit of its own, process-wide, and would try formats that
# start other programs (EPS).
_DECODERS = {
    "JPEG": ("PIL.JpegImagePlugin", "JpegImageFile", "jpg"),
    "PNG": ("PIL.PngImagePlugin", "PngImageFile", "zlib"),
    "GIF": ("PIL.GifImagePlugin", "GifImageFile", None),
    "WebP": ("PIL.WebPImagePlugin", "WebPImageFile", "webp"),
    "AVIF": ("PIL.AvifImagePlugin", "AvifImageFile", "avif"),
    "BMP": ("PIL.BmpImagePlugin", "BmpImageFile", None),
    "TIFF": ("PIL.TiffImagePlugin", "TiffImageFile", None),
    "JPEG 2000": ("PIL.Jpeg2KImagePlugin", "Jpeg2KImageFile", "jpg_2000"),
    "PPM": ("PIL.PpmImagePlugin", "PpmImageFile", None),
}
# Pictures that are known and not read; in a folder they are reported and not passed over.
_UNREAD_PICTURES = frozenset({"HEIC", "JPEG XL", "Photoshop"})

_COPY_ANEW = "copy or download it anew"
_CONVERT = "convert it to JPEG or PNG"


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """One decoded picture.

    Attributes:
        pixels: [h, w, 3] RGB, read-only; smaller than ``width`` x ``height`` after a reduced decode.
        width, height: the picture's own size in pixels, after EXIF turning.
        notes: what was done to it that its owner may want to know ("first frame of 12").
    """

    pixels: npt.NDArray[np.uint8]
    width: int
    height: int
    notes: tuple[str, ...] = ()


def load(
    source: str | os.PathLike[str] | bytes | Image.Image | npt.NDArray[Any],
    *,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    at_least: int | None = None,
    name: str | None = None,
) -> Picture:
    """Read one picture as RGB.

    Args:
        source: a path; a file's content as bytes; a Pillow image (its current frame is taken); or an array
            [h, w], [h, w, 3] or [h, w, 4] of uint8, uint16 or floats from 0 to 1.
        max_pixels: the largest width x height that is decoded.
        at_least: the side of the model's input, if that is all the picture is wanted for. A big one is then
            decoded at a fraction of its size, its short side no less than twice this; JPEG gains most.
        name: what messages call bytes, an image or an array.

    Raises:
        ImageError: with the contract's type, the source's name, what was found and the cure.
        UsageError: ``max_pixels`` or ``at_least`` below 1.
    """
    if max_pixels < 1 or (at_least is not None and at_least < 1):
        raise UsageError(f"max_pixels and at_least must be 1 or more, not {max_pixels} and {at_least}")
    if isinstance(source, str | os.PathLike):
        name = os.fsdecode(source)
        # repr keeps line breaks and undecodable bytes of a file's name out of messages.
        reader = _Reader(name, repr(name), max_pixels, at_least)
        return reader.read_bytes(reader.fetch())
    kinds = ((bytes, "<bytes>"), (Image.Image, "<image>"), (np.ndarray, "<array>"))
    anonymous = next((shown for kind, shown in kinds if isinstance(source, kind)), "")
    reader = _Reader(name or anonymous, repr(name) if name else anonymous, max_pixels, at_least)
    if isinstance(source, bytes):
        return reader.read_bytes(source)
    if isinstance(source, Image.Image):
        return reader.read_image(source)
    if isinstance(source, np.ndarray):
        return reader.read_array(source)
    raise _Reader("", f"<{type(source).__name__}>", max_pixels, at_least).error(
        "unsupported", "is no source", "pass a path, bytes, a Pillow image or a numpy array"
    )


# What `prepare` and the encoders' own normalisation do to a picture, as model folders record it.
PIXELS: dict[str, Any] = {
    "resize": "bilinear",
    "keep_aspect": False,
    "range": [0, 1],
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
}


def prepare(pixels: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.float32]:
    """A model's input: `squash`, then `as_input`.

    Args:
        pixels: [h, w, 3] RGB.
        side: S, in pixels.

    Returns:
        [3, S, S] in [0, 1], contiguous.

    Raises:
        UsageError: another shape or type, or a side below 1.
    """
    return as_input(squash(pixels, side))


def as_input(square: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Squares [..., S, S, 3] as a model takes them: float32 [..., 3, S, S] in [0, 1], contiguous."""
    turned = np.moveaxis(square, -1, -3)
    prepared = np.empty(turned.shape, np.float32)
    np.divide(turned, np.float32(255), out=prepared)
    return prepared


def squash(pixels: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.uint8]:
    """RGB [h, w, 3] as a square [S, S, 3]: proportions are not kept, antialiased bilinear.

    A picture that is S x S already is not resampled.

    Raises:
        UsageError: another shape or type, or a side below 1.
    """
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or 0 in pixels.shape:
        raise UsageError(f"expected RGB uint8 pixels [h, w, 3], came {pixels.dtype} {list(pixels.shape)}")
    if side < 1:
        raise UsageError(f"the side of a model's input must be 1 or more, not {side}")
    if pixels.shape[:2] != (side, side):
        # reducing_gap: a box reduction by a whole number first, to no less than three times the side. It
        # halves the time on big pictures and moves values, on average, by no more than rounding them does.
        squashed = Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR, reducing_gap=3.0)
        pixels = np.asarray(squashed)
    return pixels


def is_image_file(path: str | os.PathLike[str]) -> bool:
    """Whether a file found in a folder is a picture, judged by its first bytes.

    True also for pictures that `load` will refuse (cut, too large, HEIC): those deserve an error and not
    silence. A file that may not be read is judged by its suffix. Never raises.
    """
    try:
        # Asked first, because opening a named pipe would wait for a writer.
        if not stat.S_ISREG(Path(path).stat().st_mode):
            return False
        with Path(path).open("rb") as file:
            kind = sniff(file.read(SNIFFED_BYTES))
    except PermissionError:
        return Path(path).suffix.lower() in IMAGE_SUFFIXES
    except (OSError, ValueError):
        return False
    return kind in _DECODERS or kind in _UNREAD_PICTURES


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads one source; holds what every refusal must name and every decode must respect."""

    name: str
    shown: str
    max_pixels: int
    at_least: int | None

    def error(self, type: ImageErrorType, found: str, cure: str) -> ImageError:
        return ImageError(type, f"{self.shown}: {found}; {cure}", source=self.name)

    @contextmanager
    def faults_are(self, type: ImageErrorType, found: str, cure: str) -> Iterator[None]:
        """Turn what a decoder raises into this error; what is plainly too much is always too_large."""
        try:
            yield
        except (MemoryError, Image.DecompressionBombError) as fault:
            found = f"does not fit into memory or into Pillow's own limits ({fault})"
            raise self.error("too_large", found, "scale it down") from fault
        except NotImplementedError as fault:
            raise self.error("unsupported", f"a variant that is not read ({fault})", _CONVERT) from fault
        except _DECODER_FAULTS as fault:
            if "MAX_TEXT_" in str(fault):  # Pillow's guard against metadata that inflates without end
                raise self.error("too_large", f"holds too much metadata ({fault})", "save it anew") from fault
            raise self.error(type, f"{found} ({fault})", cure) from fault

    def fetch(self) -> bytes:
        """The file's content, whole."""
        try:
            mode = os.stat(self.name).st_mode  # noqa: PTH116 - Path("") would be the current folder
            if stat.S_ISDIR(mode):
                raise self.error("not_image", "is a directory", "name the pictures inside it")
            if not stat.S_ISREG(mode):
                raise self.error("not_image", "is a pipe or a device, not a file", "save it to a file first")
            with Path(self.name).open("rb") as file:
                head = file.read(SNIFFED_BYTES)
                self.check_kind(head)  # before gigabytes of something else are read
                data = head + file.read(MAX_FILE_BYTES + 1 - len(head))
        except MemoryError as fault:
            raise self.error("too_large", "the file does not fit into memory", "scale it down") from fault
        except ValueError as fault:  # a name with a zero byte
            raise self.error("not_found", "no file can have this name", "check the spelling") from fault
        except PermissionError as fault:
            raise self.error(
                "permission", "may not be read by this user", "change its permissions"
            ) from fault
        except OSError as fault:
            if fault.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
                raise self.error("not_found", "there is no such file", "check the spelling") from fault
            raise self.error("truncated", f"reading broke off ({fault.strerror})", _COPY_ANEW) from fault
        if len(data) > MAX_FILE_BYTES:
            raise self.error("too_large", f"the file has more than {MAX_FILE_BYTES:,} bytes", "scale it down")
        return data

    def check_kind(self, head: bytes) -> str:
        """Which of `_DECODERS` reads what starts like this."""
        if not head:
            raise self.error("empty", "has no content (0 bytes)", _COPY_ANEW)
        kind = sniff(head)
        if kind is None:
            found = f"starts like no picture ({head[:8]!r})"
            raise self.error("not_image", found, f"give one of {', '.join(_DECODERS)}")
        if kind not in _DECODERS:
            raise self.error("unsupported", f"{kind} is not read", _CONVERT)
        return kind

    def check_size(self, width: int, height: int) -> None:
        pixels = width * height
        if pixels > self.max_pixels:
            found = f"{width} x {height} is {pixels:,} pixels, more than the limit of {self.max_pixels:,}"
            raise self.error("too_large", found, "scale it down or raise max_pixels (--max-pixels)")

    def read_bytes(self, data: bytes) -> Picture:
        kind = self.check_kind(data[:SNIFFED_BYTES])
        module, decoder, feature = _DECODERS[kind]
        with quiet():  # a Pillow that has never heard of the feature warns, and says no
            if feature is not None and not features.check(feature):
                raise self.error("unsupported", f"this Pillow was built without {kind}", _CONVERT)
        open_image = getattr(import_module(module), decoder)
        cut = cut_short(kind, data)
        cut_error = self.error("truncated", f"the {kind} file is cut short", _COPY_ANEW)
        with quiet(), io.BytesIO(data) as file:
            try:
                with self.faults_are(
                    "not_image", f"starts like {kind}, but its header is invalid", _COPY_ANEW
                ):
                    opened: Image.Image = open_image(file)
            except ImageError as error:
                raise (cut_error if cut and error.type == "not_image" else error) from error.__cause__
            with opened as image:
                size = image.size
                self.check_size(*size)
                if cut:
                    raise cut_error
                with self.faults_are("truncated", f"its {kind} data is cut or damaged", _COPY_ANEW):
                    frames = _count_frames(image, kind, data)
                    draft = None
                    if self.at_least is not None and kind == "JPEG":
                        draft = image.draft(None, (2 * self.at_least, 2 * self.at_least))
                    image.load()
                notes: tuple[str, ...] = (f"first frame of {frames}",) if frames > 1 else ()
                depth = data[24] if kind == "PNG" else _bits(image)
                if depth == 16 and image.mode in ("RGB", "RGBA", "LA", "CMYK"):
                    notes += ("16-bit values scaled from 0-65535",)
                return self.finish(image, size, notes, extent=draft[1][2:] if draft else None)

    def read_image(self, image: Image.Image) -> Picture:
        size = image.size
        if 0 in size:
            raise self.error("empty", f"is {size[0]} x {size[1]}", "expected at least 1 x 1")
        self.check_size(*size)
        with quiet():
            with self.faults_are("truncated", "its data is closed, cut or damaged", "open it anew"):
                image.load()
            return self.finish(image, size)

    def read_array(self, array: npt.NDArray[Any]) -> Picture:
        came = f"came {array.dtype} {list(array.shape)}"
        if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
            found = f"expected [h, w], [h, w, 3] or [h, w, 4], {came}"
            raise self.error("unsupported", found, "put channels last")
        if array.size == 0:
            raise self.error("empty", f"expected at least one pixel, {came}", "leave it out")
        height, width = array.shape[:2]
        self.check_size(width, height)
        with self.faults_are("unsupported", "cannot be converted", "pass uint8"):
            if array.dtype.kind == "u" and array.dtype.itemsize == 2:  # of either byte order
                array = _from_integers(array, 65535)
            elif array.dtype.kind == "f":
                low, high = array.min(), array.max()
                if not (low >= 0 and high <= 1):  # written so that NaN fails too
                    found = f"expected floats from 0 to 1, came {low} to {high}"
                    raise self.error("unsupported", found, "rescale them")
                array = _from_floats(array, 0.0, 1.0)
            elif array.dtype != np.uint8:
                found = f"expected uint8, uint16 or floats from 0 to 1, {came}"
                raise self.error("unsupported", found, "convert it")
            image = Image.fromarray(np.ascontiguousarray(array))
        return self.finish(image, (width, height))

    def finish(
        self,
        image: Image.Image,
        size: tuple[int, int],
        notes: tuple[str, ...] = (),
        *,
        extent: tuple[float, float] | None = None,
    ) -> Picture:
        """RGB, reduced, turned.

        Args:
            size: width and height before reduction and turning.
            extent: width and height in decoded pixels: 353.125 where an eighth of 2825 was decoded into
                354, the last of them in part.
        """
        with self.faults_are("unsupported", f"{image.mode} pixels cannot be made RGB", _CONVERT):
            turn = _orientation(image)
            rgb, more_notes = self.to_rgb(image)
            wide, high = extent or rgb.size
            factor = 1 if self.at_least is None else int(min(wide, high)) // (2 * self.at_least)
            if factor > 1:
                rgb = rgb.reduce(factor)
                wide, high = wide / factor, high / factor
            if (wide, high) != rgb.size:
                # Part pixels left in would shift everything, for several times the error of the reduction.
                rgb = rgb.resize(
                    (round(wide), round(high)), Image.Resampling.BILINEAR, box=(0, 0, wide, high)
                )
            if turn in _TURNS:
                rgb = rgb.transpose(_TURNS[turn])
            pixels = np.asarray(rgb)
        pixels.flags.writeable = False
        width, height = size[::-1] if turn >= 5 else size
        return Picture(pixels, width, height, notes + more_notes)

    def to_rgb(self, image: Image.Image) -> tuple[Image.Image, tuple[str, ...]]:
        """8-bit RGB of any mode, and the notes on it. May be the image itself."""
        if image.mode in ("I", "F") or image.mode.startswith("I;16"):
            grey, note = self.to_grey(image)
            return Image.fromarray(grey).convert("RGB"), (note,)
        if image.has_transparency_data:
            # Pillow knows no direct way from premultiplied grey.
            layered = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
            alpha = layered.getchannel("A")
            white = Image.new("RGB", image.size, "white")
            white.paste(layered, mask=alpha)
            return white, () if alpha.getextrema()[0] == 255 else ("transparency laid over white",)
        return image if image.mode == "RGB" else image.convert("RGB"), ()

    def to_grey(self, image: Image.Image) -> tuple[npt.NDArray[np.uint8], str]:
        """[h, w] of a picture with more than 8 bits of grey, and the note that names its range."""
        values = np.asarray(image)
        if image.mode not in ("I", "F") or (image.mode == "I" and image.format in ("PNG", "PPM")):
            full = (1 << _bits(image)) - 1
            grey = _from_integers(values, full)
            # "White is zero", which Pillow honours for 8 bits and fewer.
            inverted = _tiff_tag(image, _PHOTOMETRIC_TAG) == 0
            return np.bitwise_not(
                grey
            ) if inverted else grey, f"{_bits(image)}-bit values scaled from 0-{full}"
        low, high = float(values.min()), float(values.max())
        if not np.isfinite(high - low):  # NaN and infinity both reach min or max
            raise self.error("unsupported", "has values that are not finite", "replace them")
        if image.mode == "F" and low >= 0 and high <= 1:
            return _from_floats(values, 0.0, 1.0), "float values scaled from 0-1"
        if low == high:
            raise self.error(
                "unsupported", f"every value is {low:g}, which says nothing of its range", "save 8 bits"
            )
        return _from_floats(values, low, high), f"values {low:g} to {high:g} stretched to the full range"


def _count_frames(image: Image.Image, kind: str, data: bytes) -> int:
    match kind:
        case "GIF":
            return gif_frames(data) or 1
        case "TIFF":
            return tiff_pages(data) or 1
        case "JPEG":  # what else it may hold (a gain map, a second eye) is no frame of it
            return 1
        case _:
            return int(getattr(image, "n_frames", 1))


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; damaged EXIF turns nothing."""
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except _DECODER_FAULTS:
        return 1
    return value if isinstance(value, int) and value in _TURNS else 1


def _tiff_tag(image: Image.Image, tag: int) -> Any:
    tags = getattr(image, "tag_v2", None)
    return None if tags is None else tags.get(tag)


def _bits(image: Image.Image) -> int:
    """Bits per channel as the file states them; by the mode where no file says."""
    stated = _tiff_tag(image, _BITS_TAG)
    if isinstance(stated, tuple) and stated and isinstance(stated[0], int) and 1 <= stated[0] <= 16:
        return stated[0]
    return 16 if image.mode.startswith("I") else 8


def _from_integers(values: npt.NDArray[Any], full: int) -> npt.NDArray[np.uint8]:
    """0..full to 0..255, rounded; by a table, which needs no wide copy of a big picture."""
    table = ((np.arange(full + 1, dtype=np.uint32) * 255 + full // 2) // full).astype(np.uint8)
    return table.take(values, mode="clip")


def _from_floats(values: npt.NDArray[Any], low: float, high: float) -> npt.NDArray[np.uint8]:
    """low..high to 0..255, rounded."""
    scaled = values.astype(np.float64)
    scaled -= low
    scaled *= 255 / (high - low)
    return np.rint(scaled, out=scaled).clip(0, 255, out=scaled).astype(np.uint8)

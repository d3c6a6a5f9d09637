"""Pictures read and prepared ahead of the engine, in order, whatever form they come in.

Knows what counts as a picture and what a row calls it; a picture that cannot be read is handed on with its error.
Refuses to know models. Shapes: S side of a model's input.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from taglens import images
from taglens.errors import ImageError, UsageError
from taglens.inference.sources import Source

if TYPE_CHECKING:
    import PIL.Image

Picture: TypeAlias = "str | os.PathLike[str] | bytes | PIL.Image.Image | npt.NDArray[Any] | Source"


@dataclass(frozen=True, slots=True, eq=False)
class Ready:
    """A picture on its way to the engine: prepared pixels [3, S, S], or why there are none."""

    source: Source
    pixels: npt.NDArray[np.float32] | None = None
    width: int | None = None
    height: int | None = None
    notes: tuple[str, ...] = ()
    error: ImageError | None = None


def read_ahead(sources: Any, *, batch_size: int, side: int, max_pixels: int) -> Iterator[list[Ready]]:
    """Groups of up to ``batch_size`` pictures, in order; drawn from ``sources`` as they are needed.

    Raises:
        UsageError: at once, for a size below 1 or what is neither a picture nor an iterable of pictures.
    """
    if batch_size < 1:
        raise UsageError(f"batch size {batch_size} is below 1")
    if max_pixels < 1:
        raise UsageError(f"max_pixels {max_pixels} is below 1")
    return _groups(_each(sources), batch_size, side, max_pixels)


def _groups(
    pictures: Iterator[Picture], batch_size: int, side: int, max_pixels: int
) -> Iterator[list[Ready]]:
    workers = min(8, os.cpu_count() or 1)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="taglens-decode")
    ahead: deque[Future[Ready]] = deque()
    try:
        while True:
            # One batch in the engine, one being decoded: memory stays bounded by two batches.
            for picture in islice(pictures, 2 * batch_size - len(ahead)):
                ahead.append(pool.submit(_read, picture, side, max_pixels))
            if not ahead:
                return
            yield [ahead.popleft().result() for _ in range(min(batch_size, len(ahead)))]
    finally:
        pool.shutdown(cancel_futures=True)


def _read(picture: Picture, side: int, max_pixels: int) -> Ready:
    source, content = _named(picture)
    try:
        loaded = images.load(content, max_pixels=max_pixels, at_least=side)
    except ImageError as error:
        return Ready(source, error=error)
    pixels = images.prepare(loaded.pixels, side)
    return Ready(source, pixels, loaded.width, loaded.height, loaded.notes)


def _each(sources: Any) -> Iterator[Picture]:
    """One picture or many, one after another. Raises UsageError for what is neither."""
    if _is_one(sources):
        return iter([sources])
    try:
        return iter(sources)
    except TypeError:
        raise UsageError(
            f"expected a picture or an iterable of pictures, came {type(sources).__name__}"
        ) from None


def _is_one(sources: Any) -> bool:
    """Whether this is a single picture: a name, bytes, a Source, an array of pixels, or a Pillow image."""
    if isinstance(sources, str | os.PathLike | bytes | bytearray | Source | np.ndarray):
        return True
    return hasattr(sources, "getbands") and hasattr(sources, "size")


def _named(picture: Picture) -> tuple[Source, Any]:
    """A picture's name for its row, and what `images.load` is to read."""
    if isinstance(picture, Source):
        return picture, picture.path
    if isinstance(picture, str | os.PathLike):
        source = Source.of(picture)
        return source, source.path
    if isinstance(picture, bytes | bytearray):
        return Source.of("<bytes>"), bytes(picture)
    if isinstance(picture, np.ndarray):
        return Source.of("<array>"), picture
    return Source.of(getattr(picture, "filename", "") or "<image>"), picture

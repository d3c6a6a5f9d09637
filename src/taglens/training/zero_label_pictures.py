"""Pictures without labels: which of them can be read, and what a host sees of each, kept where it fits.

Knows files and memory; what "seen" means is the host's to know. A picture that cannot be read is left out and
counted, never replaced.
Shapes: N pictures that could be read, C width of the encoder's features.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Generic

import torch
from torch import Tensor

from taglens import images
from taglens.errors import DataError, ImageError
from taglens.training.zero_label_hosts import Host, Pixels, S

KEPT_BYTES = 2 << 30
_AT_ONCE = 32
_THREADS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True, slots=True)
class Unread:
    """A picture that was left out, and why."""

    path: Path
    why: str


class Album(Generic[S]):
    """Pictures as one host sees them, by number.

    What the host makes of a picture is kept where all of it fits; where not, a picture is read again whenever it is
    asked for, and only its features stay.

    Args:
        paths: of pictures, in an order that numbers follow.
        kept_bytes: the most that may be kept.
        progress: told after each part how many pictures were looked at in all.
    """

    def __init__(
        self,
        host: Host[S],
        paths: Sequence[Path],
        *,
        kept_bytes: int = KEPT_BYTES,
        max_pixels: int = images.DEFAULT_MAX_PIXELS,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self._host = host
        self._max_pixels = max_pixels
        self.unread: list[Unread] = []
        self.paths: list[Path] = []
        parts: list[S] = []
        features: list[Tensor] = []
        keep = True
        looked = 0
        for group, found in self._read(paths):
            looked += len(group)
            pixels = [each for each in found if not isinstance(each, ImageError)]
            for path, each in zip(group, found, strict=True):
                if isinstance(each, ImageError):
                    self.unread.append(Unread(path, str(each)))
                else:
                    self.paths.append(path)
            if pixels:
                seen = host.see(pixels)
                features.append(seen.features.clone())
                keep = keep and seen.nbytes / len(seen) * len(paths) <= kept_bytes
                parts = [*parts, seen] if keep else []
            if progress:
                progress(looked)
        self.features = torch.cat(features) if features else torch.zeros(0, host.vision_width)
        self._seen = host.joined(parts) if parts else None

    @classmethod
    def of(cls, host: Host[S], paths: Sequence[Path], seen: S) -> Album[S]:
        """An album of pictures that the host has seen already; ``seen`` is of ``paths``, in order."""
        if len(paths) != len(seen):
            raise DataError(f"{len(paths)} pictures and what was seen of {len(seen)}; expected as many")
        album = cls(host, [])
        album.paths, album.features, album._seen = list(paths), seen.features, seen
        return album

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def keeps(self) -> bool:
        """Whether what was seen is in memory."""
        return self._seen is not None

    def all(self) -> S:
        """What the host sees of every picture, at no cost where the album `keeps` that."""
        return self.at(torch.arange(len(self))) if self._seen is None else self._seen

    def at(self, numbers: Tensor) -> S:
        """What the host sees of the pictures at ``numbers`` [B].

        Raises:
            DataError: a picture could be read before and cannot any more.
        """
        if self._seen is not None:
            return self._seen.at(numbers)
        paths = [self.paths[number] for number in numbers.tolist()]
        found = [each for _, group in self._read(paths) for each in group]
        for path, each in zip(paths, found, strict=True):
            if isinstance(each, ImageError):
                raise DataError(f"{path} could be read when the run began and cannot now: {each}")
        return self._host.see([each for each in found if not isinstance(each, ImageError)])

    def _read(self, paths: Sequence[Path]) -> Iterator[tuple[tuple[Path, ...], list[Pixels | ImageError]]]:
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="taglens-decode") as pool:
            for start in range(0, len(paths), _AT_ONCE):
                group = tuple(paths[start : start + _AT_ONCE])
                yield group, list(pool.map(self._load, group))

    def _load(self, path: Path) -> Pixels | ImageError:
        try:
            return images.load(path, max_pixels=self._max_pixels, at_least=self._host.least_side).pixels
        except ImageError as error:
            return error

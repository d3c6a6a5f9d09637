"""What a run can be told, and what of it a row depends on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from taglens.collection.store import digest
from taglens.errors import UsageError
from taglens.images import DEFAULT_MAX_PIXELS
from taglens.inference.tagger import Tagger


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What a run can be told.

    Attributes:
        threshold, top, language: as for `Tagger.__call__`.
        caption: also a sentence per picture.
        features: keep what the model made of the pictures, so that they can be asked about again.
        shard_size: pictures a shard.
        workers: processes that decode; 0: threads.
        part: (k, n): only shards whose number leaves k when divided by n; others are left to other runs.
        max_failures: stop when more pictures have failed; None: never.
        retry_failed: try again what failed before.
        forget: go on although a source is gone of which the store holds rows.
        reread: read pictures again of which nothing can be said without, such as those of a web server.
        retag: go on although the configuration has changed.
        trust: take the pictures for those of the store by their names alone.
    """

    threshold: float | None = None
    top: int | None = None
    language: str | None = None
    caption: bool = False
    features: bool = False
    shard_size: int = 1000
    batch_size: int = 16
    max_pixels: int = DEFAULT_MAX_PIXELS
    workers: int = 0
    part: tuple[int, int] | None = None
    max_failures: int | None = None
    retry_failed: bool = False
    forget: bool = False
    reread: bool = False
    retag: bool = False
    trust: bool = False

    def __post_init__(self) -> None:
        for name, least in (("shard_size", 1), ("batch_size", 1), ("max_pixels", 1), ("workers", 0)):
            if getattr(self, name) < least:
                raise UsageError(f"{name} must be {least} or more, found {getattr(self, name)}")
        if self.part is not None and not 0 <= self.part[0] < self.part[1]:
            raise UsageError(f"part {self.part[0]}/{self.part[1]} is none: expected K/N with 0 <= K < N")
        if self.max_failures is not None and self.max_failures < 0:
            raise UsageError(f"max_failures must be 0 or more, found {self.max_failures}")

    def configuration(self, tagger: Tagger) -> dict[str, Any]:
        """Everything that a row depends on beside its picture."""
        thresholds = [entry.threshold for entry in tagger.vocabulary]
        return {
            "model": tagger.ref,
            "vocabulary": tagger.vocabulary.ref,
            "thresholds": digest(thresholds)[:12],
            "threshold": self.threshold,
            "top": self.top or None,
            "language": self.language,
            "caption": self.caption,
            "features": self.features,
            "shard_size": self.shard_size,
            "max_pixels": self.max_pixels,
        }

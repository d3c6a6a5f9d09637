"""A store's own pictures as the items of another run: asked again, never read.

Knows what a store must hold for that; the asking is `taglens.collection.runs`'.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from taglens.collection.items import Item
from taglens.collection.shard_maker import seen_by
from taglens.collection.store import Store
from taglens.errors import DataError, ImageError, MismatchError
from taglens.inference.tagger import Tagger


@dataclass(frozen=True, slots=True)
class Nowhere:
    """A picture of which only the features are at hand."""

    def read(self, max_bytes: int) -> bytes:
        raise ImageError(
            "not_found",
            "the store holds no features of this picture; run 'taglens run' on the pictures again",
        )


@dataclass(frozen=True, slots=True)
class Stored:
    """What a store's run was of."""

    store: Store
    sources: tuple[str, ...]
    shard_size: int
    max_pixels: int
    caption: bool
    pictures: int

    def items(self) -> Iterator[Item]:
        """Its pictures, in order."""
        for row in self.store.known_rows():
            yield Item(
                source=row["source"],
                source_bytes=row.get("source_bytes"),
                signature=row["signature"],
                where=Nowhere(),
                failure=None,
                skipped=None,
                path=None,
            )


def stored_items(store: Store, tagger: Tagger) -> Stored:
    """A store that can be asked again by this model.

    Raises:
        DataError: the run is not complete, or kept no features.
        MismatchError: the features are another model's.
    """
    # Of a store that is being asked again and was stopped, the run before is meant.
    run, receipts = store.earlier(), store.known_receipts()
    if run is None or run.totals is None or len(receipts) != run.totals["shards"]:
        raise DataError(
            f"{store.folder} is not complete; finish it first: the same 'taglens run' command goes on"
        )
    configuration: dict[str, Any] = dict(run.configuration)
    if not all(
        one.features_sha256 and store.features_path(one.shard, store.known_folder(one.shard)).is_file()
        for one in receipts.values()
    ):
        raise DataError(
            f"{store.folder} holds no features to ask; make them once: taglens run SOURCE --out {store.folder} "
            "--features --retag"
        )
    wanted = seen_by(tagger, int(configuration["max_pixels"]))
    if any(one.seen != wanted for one in receipts.values()):
        raise MismatchError(
            f"the features of {store.folder}",
            expected=str(configuration["model"]),
            found=tagger.ref,
            cure="Give the run's own model with --model, or tag the pictures anew: taglens run … --retag.",
        )
    pictures = sum(one.pictures for one in receipts.values())
    return Stored(
        store,
        run.sources,
        int(configuration["shard_size"]),
        int(configuration["max_pixels"]),
        bool(configuration["caption"]),
        pictures,
    )

"""What makes one shard after another: a model, decoders, and what an earlier run knows.

The unit of work that can be handed to another process or machine: a number and a list of items in, a shard and its
receipt in the store. Making the same one twice does no harm.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from taglens.collection.decoding import Decoders
from taglens.collection.features import Features, joined
from taglens.collection.items import Item
from taglens.collection.previous import Previous
from taglens.collection.run_options import RunOptions
from taglens.collection.shard_rows import FAILED, ShardRows
from taglens.collection.store import Receipt, Store, digest
from taglens.inference.tagger import Tagger


@dataclass(frozen=True, slots=True)
class Work:
    """One shard to be made; ``inputs`` is the digest of its items, as the receipt has it."""

    number: int
    items: list[Item]
    inputs: str


class Count(Protocol):
    """Told of rows as they come: how many, and of these how many failed, were looked at, were known."""

    def __call__(self, *, pictures: int, failed: int, made: int, reused: int) -> None: ...


def seen_by(tagger: Tagger, max_pixels: int) -> str:
    """What features depend on, as receipts have it."""
    return digest([tagger.ref, tagger.side, max_pixels])[:12]


class ShardMaker:
    """Makes shards into a store; a context manager.

    Args:
        configuration: fingerprint of the run.
        known: another store whose rows and features may be used; None: this one's.
    """

    def __init__(
        self,
        tagger: Tagger,
        store: Store,
        options: RunOptions,
        configuration: str,
        *,
        known: Store | None = None,
    ) -> None:
        self._tagger = tagger
        self._store = store
        self._options = options
        self._configuration = configuration
        self._seen = seen_by(tagger, options.max_pixels)
        self._previous = Previous(known or store, configuration=configuration, seen=self._seen)
        self._decoders = Decoders(
            side=tagger.side,
            max_pixels=options.max_pixels,
            processes=options.workers,
            window=max(64, 4 * options.batch_size),
        )

    def __enter__(self) -> ShardMaker:
        self._decoders.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._decoders.__exit__(kind, error, trace)

    def make(self, work: Work, count: Count) -> Receipt:
        """Make one shard. Raises OSError where it cannot be written; the store is then as it was, or lacks it."""

        def told(row: dict[str, Any], *, reused: bool) -> None:
            failed = row["status"] == FAILED
            count(pictures=1, failed=int(failed), made=int(not reused and not failed), reused=int(reused))

        self._store.set_aside(work.number)
        rows = ShardRows(
            work.items,
            self._tagger,
            self._options,
            previous=self._previous,
            decoders=self._decoders,
            count=told,
        )
        rows.fill()
        content = None
        if self._options.features:
            content = (joined(rows.features) or self._no_features()).to_bytes()
        receipt = Receipt(
            shard=work.number,
            pictures=len(work.items),
            failed=sum(row["status"] == FAILED for row in rows.rows),
            inputs=work.inputs,
            configuration=self._configuration,
            seen=self._seen,
            rows_sha256="",
        )
        return self._store.write_shard(receipt, rows.rows, content)

    def _no_features(self) -> Features:
        """Those of a shard in which no picture could be read."""
        return Features(np.zeros(0, np.int64), np.zeros((0, len(self._tagger.knows)), np.float32), None)

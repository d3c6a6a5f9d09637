"""What an earlier run knows of pictures: their rows and features, found by name wherever in the store they stand.

A collection that gained a picture at its beginning has all others in other places; they are not read again for that.
What is written over meanwhile is kept aside by the store until the run is complete, so that a run which was killed
finds what it would have found. Knows stores and features; knows nothing of models.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np

from taglens.collection.features import Features
from taglens.collection.items import Item
from taglens.collection.store import Receipt, Store
from taglens.errors import DataError

# Shards whose rows are held at once.
_OPEN = 4


@dataclass(frozen=True, slots=True)
class Old:
    """What is known of one picture.

    Attributes:
        row: as it stands in the store.
        features: of this picture alone; None where none were kept, or they are another model's.
        same_configuration: whether the row says what the present run would.
    """

    row: dict[str, Any]
    features: Features | None
    same_configuration: bool

    @property
    def failed(self) -> bool:
        return bool(self.row.get("error"))

    @property
    def can_be_used(self) -> bool:
        """Whether the row, or the features behind it, answer the present run."""
        return self.same_configuration or self.features is not None

    def is_of(self, item: Item, *, trust: bool = False) -> bool:
        """Whether the picture has not changed since, by its signature, and what is known of it is of use.

        Args:
            trust: ask no signature.
        """
        unchanged = trust or (bool(item.signature) and self.row.get("signature") == item.signature)
        return unchanged and (self.failed or self.can_be_used)


class Previous:
    """The rows of a store that are of use to the present run.

    Args:
        configuration, seen: the present run's, as receipts have them.
    """

    def __init__(self, store: Store, *, configuration: str, seen: str) -> None:
        self._store = store
        self._configuration = configuration
        # Rows of another model say nothing.
        known = store.known_receipts()
        self._receipts = {number: one for number, one in known.items() if one.seen == seen}
        self._where: dict[bytes, int] | None = None
        self._open: OrderedDict[int, dict[str, Old]] = OrderedDict()

    def find(self, item: Item) -> Old | None:
        """What is known of a picture of this name."""
        if not self._receipts:
            return None
        key = _key(item.source, item.source_bytes)
        number = self._index().get(_short(key))
        return None if number is None else self._shard(number).get(key)

    def _index(self) -> dict[bytes, int]:
        """Shard by a digest of the name: about a hundred bytes a picture, and no row is held."""
        if self._where is None:
            self._where = {}
            for number, receipt in self._receipts.items():
                for line in self._lines(receipt):
                    row = json.loads(line)
                    self._where[_short(_key(row["source"], row.get("source_bytes")))] = number
        return self._where

    def _lines(self, receipt: Receipt) -> list[bytes]:
        # Another process may set the shard aside between asking where it stands and reading it.
        for _ in range(2):
            try:
                return self._store.lines(receipt, self._store.known_folder(receipt.shard))
            except DataError:
                continue
        return []  # a damaged shard knows nothing; it is made anew when its turn comes

    def _shard(self, number: int) -> dict[str, Old]:
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        found = self._open[number] = self._load(self._receipts[number])
        if len(self._open) > _OPEN:
            self._open.popitem(last=False)
        return found

    def _load(self, receipt: Receipt) -> dict[str, Old]:
        features = self._features(receipt)
        at = {} if features is None else {int(place): n for n, place in enumerate(features.places)}
        same = receipt.configuration == self._configuration
        found = {}
        for place, line in enumerate(self._lines(receipt)):
            row = json.loads(line)
            own = None if features is None or place not in at else features.at(np.array([at[place]]))
            # Where the shard had features and they are gone, its rows are not all that the run would leave.
            whole = same and (own is not None or receipt.features_sha256 is None)
            found[_key(row["source"], row.get("source_bytes"))] = Old(row, own, whole)
        return found

    def _features(self, receipt: Receipt) -> Features | None:
        if receipt.features_sha256 is None:
            return None
        for _ in range(2):
            path = self._store.features_path(receipt.shard, self._store.known_folder(receipt.shard))
            try:
                content = path.read_bytes()
                if hashlib.sha256(content).hexdigest() == receipt.features_sha256:
                    return Features.from_bytes(content, str(path))
            except (OSError, DataError):
                continue
        return None


def _key(source: str, source_bytes: str | None) -> str:
    return source if source_bytes is None else f"\0{source_bytes}"


def _short(key: str) -> bytes:
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()

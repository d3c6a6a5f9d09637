"""What an earlier run knows of pictures: their rows and features, found by name wherever in the store they stand.

A collection that gained a picture at its beginning has all others in other places; they are not read again for that.
Knows stores and features; knows nothing of models.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping
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

    def __init__(
        self, store: Store, receipts: Mapping[int, Receipt], *, configuration: str, seen: str
    ) -> None:
        self._store = store
        self._configuration = configuration
        # Rows of another model say nothing.
        self._receipts = {number: one for number, one in receipts.items() if one.seen == seen}
        self._where: dict[bytes, int] | None = None
        self._open: OrderedDict[int, dict[str, Old]] = OrderedDict()
        self._aside: dict[str, Old] = {}

    def find(self, item: Item) -> Old | None:
        """What is known of a picture of this name; given once."""
        if not self._receipts and not self._aside:
            return None
        key = _key(item.source, item.source_bytes)
        if (old := self._aside.pop(key, None)) is not None:
            return old
        number = self._index().get(_short(key))
        return None if number is None else self._shard(number).pop(key, None)

    def put_aside(self, number: int) -> None:
        """Keep what is known from a shard that is about to be written over."""
        if number in self._receipts:
            self._index()
            self._aside |= self._shard(number)
            self._open.pop(number, None)
            del self._receipts[number]

    def _index(self) -> dict[bytes, int]:
        """Shard by name: eight bytes a picture, so that a million fit."""
        if self._where is None:
            self._where = {}
            for number, receipt in self._receipts.items():
                for line in self._lines(receipt):
                    row = json.loads(line)
                    self._where[_short(_key(row["source"], row.get("source_bytes")))] = number
        return self._where

    def _lines(self, receipt: Receipt) -> list[bytes]:
        try:
            return self._store.lines(receipt)
        except DataError:
            return []  # a damaged shard knows nothing; it is made anew when its turn comes

    def _shard(self, number: int) -> dict[str, Old]:
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        receipt = self._receipts.get(number)
        found = {} if receipt is None else self._load(receipt)
        self._open[number] = found
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
            found[_key(row["source"], row.get("source_bytes"))] = Old(row, own, same)
        return found

    def _features(self, receipt: Receipt) -> Features | None:
        if receipt.features_sha256 is None:
            return None
        path = self._store.features_path(receipt.shard)
        try:
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() != receipt.features_sha256:
                return None
            return Features.from_bytes(content, str(path))
        except (OSError, DataError):
            return None


def _key(source: str, source_bytes: str | None) -> str:
    return source if source_bytes is None else f"\0{source_bytes}"


def _short(key: str) -> bytes:
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()

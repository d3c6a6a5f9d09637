"""The rows of one shard, as they come: at once from what is known, by the batch from the model.

Knows what makes a row and when an old one is of use. Refuses to know files (`taglens.collection.store`) and the order
of shards (`taglens.collection.runs`). Shapes: B batch, S side.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from taglens.collection.decoding import Decoders, Seen, Task
from taglens.collection.features import Features
from taglens.collection.items import Item
from taglens.collection.previous import Old, Previous
from taglens.collection.run_options import RunOptions
from taglens.errors import DataError
from taglens.images import as_input
from taglens.inference.engines import Output
from taglens.inference.tagger import Tagger
from taglens.results import Failure, Prediction

DONE, FAILED = "done", "failed"


class Count(Protocol):
    """Told of every row; ``reused`` where no picture was looked at for it."""

    def __call__(self, row: dict[str, Any], *, reused: bool) -> None: ...


class ShardRows:
    """The rows of one shard, as they come: at once from what is known, by the batch from the model."""

    def __init__(
        self,
        items: list[Item],
        tagger: Tagger,
        options: RunOptions,
        *,
        previous: Previous,
        decoders: Decoders,
        count: Count,
    ) -> None:
        self.items = items
        self.tagger = tagger
        self.options = options
        self.previous = previous
        self.decoders = decoders
        self.count = count
        self.rows: list[dict[str, Any]] = [{}] * len(items)
        self.features: list[Features] = []

    def fill(self) -> None:
        """Make every row."""
        olds = [self._known(item) for item in self.items]
        anew: list[tuple[int, Old]] = []
        to_read: list[int] = []
        for place, (item, old) in enumerate(zip(self.items, olds, strict=True)):
            if item.failure is not None:
                self._put(place, self._error(item, item.failure, None))
            elif old is None or not old.is_of(item, trust=self.options.trust):
                to_read.append(place)
            elif not self._take_over(place, old):
                anew.append((place, old))
        self._read(to_read, olds, anew)
        self._ask_again(anew)

    def _known(self, item: Item) -> Old | None:
        if item.failure is not None:
            return None
        old = self.previous.find(item)
        if old is not None and old.failed and self.options.retry_failed:
            old = None
        if old is not None and self.options.caption and not old.same_configuration:
            # A sentence is written from tokens, which not every store has kept.
            kept = old.features
            old = replace(old, features=None if kept is None or kept.tokens is None else kept)
        if self.options.trust and (old is None or not (old.failed or old.can_be_used)):
            raise DataError(
                f"the store holds no features of {item.source!r} that could be asked: they were damaged or removed; "
                "tag the pictures anew: taglens run … --features --retag"
            )
        return old

    def _take_over(self, place: int, old: Old) -> bool:
        """Use a row again as it is; False where it must be asked anew."""
        item = self.items[place]
        if old.failed and item.signature == old.row.get("signature"):
            failure = Failure(**old.row["error"])
            self._put(place, self._error(item, failure, old.row["sha256"]), reused=True)
            return True
        if not old.same_configuration or (self.options.features and old.features is None):
            return False
        if old.features is not None:
            self.features.append(replace(old.features, places=np.array([place])))
        self._put(place, {**old.row, **self._named(item)}, reused=True)
        return True

    def _read(self, places: list[int], olds: list[Old | None], anew: list[tuple[int, Old]]) -> None:
        """Pictures through the decoders and, by the batch, the model."""

        def task(place: int) -> Task:
            item, old = self.items[place], olds[place]
            known = None if old is None or old.failed or not old.can_be_used else str(old.row["sha256"])
            return Task(item.source, item.where, known)

        batch: list[tuple[int, Seen]] = []
        for place, seen in zip(places, self.decoders(map(task, places)), strict=True):
            if seen.failure is not None:
                self._put(place, self._error(self.items[place], seen.failure, seen.sha256))
            elif seen.square is None:
                old = olds[place]
                # The content is what it was: only its name or its time has changed.
                if old is not None and not self._take_over(place, old):
                    anew.append((place, old))
            else:
                batch.append((place, seen))
                if len(batch) == self.options.batch_size:
                    self._look(batch)
                    batch = []
        if batch:
            self._look(batch)

    def _look(self, batch: list[tuple[int, Seen]]) -> None:
        places = [place for place, _ in batch]
        output = self._output([seen.square for _, seen in batch if seen.square is not None])
        if self.options.features:
            asked = self.tagger.reads_text or self.tagger.writes
            tokens = output.tokens if asked else None
            self.features.append(Features(np.array(places), output.scores, tokens))
        about = [(seen.width, seen.height, seen.notes, seen.sha256) for _, seen in batch]
        self._tag(places, output, about, reused=False)

    def _output(self, squares: list[npt.NDArray[np.uint8]]) -> Output:
        """The model's answer to some pictures.

        Always given a whole batch, filled up with black: the last bits of a product depend on how many rows it has,
        and a picture's row must not depend on which others were new.
        """
        count, size = len(squares), self.options.batch_size
        filled = np.zeros((size, *squares[0].shape), np.uint8)
        filled[:count] = squares
        found = self.tagger.look(as_input(filled))
        return Output(found.scores[:count], found.pooled[:count], found.tokens[:count])

    def _ask_again(self, anew: list[tuple[int, Old]]) -> None:
        """Rows whose picture is known and whose question is new: their features are asked, by the batch."""
        size = self.options.batch_size
        for start in range(0, len(anew), size):
            group = anew[start : start + size]
            kept = [old.features for _, old in group if old.features is not None]
            places = [place for place, _ in group]
            moved = [
                replace(features, places=np.array([place]))
                for place, features in zip(places, kept, strict=True)
            ]
            if self.options.features:
                self.features += moved
            scores = np.concatenate([features.scores for features in kept])
            tokens = [features.tokens for features in kept if features.tokens is not None]
            seen = np.concatenate(tokens) if tokens else np.zeros((len(scores), 1, 0), np.float32)
            about = [
                (old.row["width"], old.row["height"], tuple(old.row["notes"]), old.row["sha256"])
                for _, old in group
            ]
            self._tag(places, Output(scores, seen[:, 0], seen), about, reused=True)

    def _tag(
        self,
        places: list[int],
        output: Output,
        about: list[tuple[int | None, int | None, tuple[str, ...], str | None]],
        *,
        reused: bool,
    ) -> None:
        tagger, options = self.tagger, self.options
        tags = tagger.tags_of(output, threshold=options.threshold, top=options.top, language=options.language)
        sentences: list[str | None] = [None] * len(places)
        if options.caption:
            sentences = list(tagger.sentences(output, threshold=options.threshold))
        for place, found, sentence, (width, height, notes, sha256) in zip(
            places, tags, sentences, about, strict=True
        ):
            item = self.items[place]
            prediction = Prediction(
                source=item.source,
                source_bytes=item.source_bytes,
                width=width,
                height=height,
                tags=found,
                model=tagger.ref,
                vocabulary=tagger.vocabulary.ref,
                caption=sentence,
                notes=notes,
            )
            row = {**prediction.to_dict(), "sha256": sha256, "signature": item.signature, "status": DONE}
            self._put(place, row, reused=reused)

    def _error(self, item: Item, failure: Failure, sha256: str | None) -> dict[str, Any]:
        tagger = self.tagger
        prediction = Prediction(
            source=item.source,
            source_bytes=item.source_bytes,
            width=None,
            height=None,
            tags=None,
            model=tagger.ref,
            vocabulary=tagger.vocabulary.ref,
            error=failure,
        )
        return {**prediction.to_dict(), "sha256": sha256, "signature": item.signature, "status": FAILED}

    @staticmethod
    def _named(item: Item) -> dict[str, Any]:
        return {"signature": item.signature}

    def _put(self, place: int, row: dict[str, Any], *, reused: bool = False) -> None:
        self.rows[place] = row
        self.count(row, reused=reused)

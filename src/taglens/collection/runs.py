"""A collection through a model: shard after shard, each whole or not there, none twice.

A shard is skipped when its receipt says that the same pictures went through the same configuration. Otherwise what is
known of each picture is used again, by its name and signature, then by its content; where only what is asked for has
changed, its stored features are asked anew. Refuses to know commands and terminals (`taglens.cli.run`).
Shapes: B batch, S side.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Protocol

from taglens.collection.items import Item
from taglens.collection.run_options import RunOptions
from taglens.collection.shard_maker import Count, ShardMaker, Work
from taglens.collection.store import Receipt, RunFile, Store, digest
from taglens.errors import MismatchError, TaglensError, UsageError
from taglens.inference.tagger import Tagger


class Spread(Protocol):
    """Has shards made, here or elsewhere, in any order; a shard whose receipt comes is in the store."""

    def __call__(self, works: Iterator[Work], count: Count, /) -> Iterator[Receipt]: ...


class TooManyFailuresError(TaglensError):
    """More pictures failed than were allowed to."""


@dataclass(slots=True)
class Progress:
    """What happened so far; given to whoever watches after every picture and every shard.

    Attributes:
        pictures, failed: rows that stand in finished shards or were made since.
        made: pictures that the model looked at in this run.
        reused: rows taken over because neither picture nor configuration changed, or asked anew from features.
        kept: shards that had their receipt already, and ``kept_failed`` the failures in them.
        finished: the receipt of the shard just finished; None in between.
    """

    pictures: int = 0
    failed: int = 0
    made: int = 0
    reused: int = 0
    shards: int = 0
    kept: int = 0
    kept_failed: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    finished: Receipt | None = None


Watch = Callable[[Progress], None]


def run(
    tagger: Tagger,
    items: Iterable[Item],
    store: Store,
    options: RunOptions,
    *,
    sources: Sequence[str],
    watch: Watch = lambda _: None,
    known: Store | None = None,
    progress: Progress | None = None,
    spread: Spread | None = None,
) -> Progress:
    """Tag a collection into a store.

    Args:
        items: of ``sources``, in their order (`taglens.collection.inputs.open_inputs`).
        sources: as typed; a store is of one collection.
        watch: called after every picture and every shard.
        known: another store of the same pictures, whose rows and features may be used.
        progress: counts into this, so that a caller has it whatever happens.
        spread: who makes the shards; None: this process.

    Raises:
        UsageError: nothing is there to tag, or the store is of other sources.
        MismatchError: the store was made with another configuration, and ``options.retag`` is not set.
        TooManyFailuresError: what is done so far is kept, and the same call goes on.
        DataError: the store is damaged.
        ModelError: the model's scores are not finite.
    """
    wanted = RunFile(tuple(sources), options.configuration(tagger))
    before = store.run()
    if before is not None:
        _compare(before, wanted, store, retag=options.retag)
        if not (options.forget or options.trust):
            _require_sources(sources, store)
    progress = Progress() if progress is None else progress
    shards = _shards(items, options.shard_size, progress)
    first = next(shards, None)
    if first is None or all(item.failure and item.failure.type == "not_found" for item in first):
        raise UsageError(_nothing(first or [], progress, store, before))
    if spread is None:
        spread = partial(_here, tagger, store, options, wanted.fingerprint, known)
    with store.locked(shared=options.part is not None):
        if before is not None and before.totals is not None:
            store.set_run_aside()
        if before is None or before.fingerprint != wanted.fingerprint:
            store.write_run(wanted)
        _Run(store, options, wanted, progress, watch).all(chain([first], shards), spread)
    return progress


def _here(
    tagger: Tagger,
    store: Store,
    options: RunOptions,
    configuration: str,
    known: Store | None,
    works: Iterator[Work],
    count: Count,
) -> Iterator[Receipt]:
    """Every shard in this process."""
    with ShardMaker(tagger, store, options, configuration, known=known) as maker:
        for work in works:
            yield maker.make(work, count)


def _compare(before: RunFile, wanted: RunFile, store: Store, *, retag: bool) -> None:
    if before.sources != wanted.sources:
        raise UsageError(
            f"{store.folder} is of {', '.join(before.sources)}, not of {', '.join(wanted.sources)}; "
            "name another folder"
        )
    if before.fingerprint == wanted.fingerprint or retag:
        return
    old, new = before.configuration, wanted.configuration
    changed = [
        f"{key} {old.get(key)} -> {new.get(key)}"
        for key in new.keys() | old.keys()
        if old.get(key) != new.get(key)
    ]
    raise MismatchError(
        f"{store.folder} was made with another configuration ({'; '.join(sorted(changed))})",
        expected=before.fingerprint,
        found=wanted.fingerprint,
        cure="Make it anew with --retag, or name another folder.",
    )


def _require_sources(sources: Sequence[str], store: Store) -> None:
    """Raises UsageError where a file or folder is gone, or empty, of which the store holds rows."""
    for source in sources:
        if "://" in source or not _is_gone(source):
            continue
        below = source.rstrip(os.sep) + os.sep
        held = sum(
            not row["error"] and (row["source"] == source or row["source"].startswith(below))
            for row in store.known_rows()
        )
        if held:
            raise UsageError(
                f"{source} is gone, empty or may not be read, and {store.folder} holds {held} of its pictures; it is "
                "left as it is: is their disk there? To drop them: --forget"
            )


def _is_gone(source: str) -> bool:
    """Whether a name, which may be a pattern or a list, stands for a folder or file of which nothing can be read."""
    path = Path(source)
    try:
        return not any(path.iterdir()) if path.is_dir() else not os.path.lexists(source)
    except OSError:
        return True


def _nothing(first: list[Item], progress: Progress, store: Store, before: RunFile | None) -> str:
    reasons = [item.failure.message for item in first if item.failure] or ["no picture in the given sources"]
    if progress.skipped:
        reasons.append("skipped: " + ", ".join(f"{n} {why}" for why, n in progress.skipped.most_common()))
    held = "" if before is None else f"; {store.folder} is left as it is: are the pictures' disks there?"
    return f"nothing to tag: {'; '.join(reasons)}{held}"


def _shards(items: Iterable[Item], size: int, progress: Progress) -> Iterator[list[Item]]:
    """Items by the shard; what is skipped is counted and left out."""

    def pictures() -> Iterator[Item]:
        for item in items:
            if item.skipped is not None:
                progress.skipped[item.skipped] += 1
            else:
                yield item

    coming = pictures()
    while shard := list(islice(coming, size)):
        yield shard


class _Run:
    """One run at work: which shards are still to be made, and what has come of them."""

    def __init__(
        self, store: Store, options: RunOptions, wanted: RunFile, progress: Progress, watch: Watch
    ) -> None:
        self.store = store
        self.options = options
        self.wanted = wanted
        self.progress = progress
        self.watch = watch
        self.receipts = store.receipts()
        self.shards = 0
        self.inputs: dict[int, str] = {}

    def all(self, shards: Iterator[list[Item]], spread: Spread) -> None:
        """Every shard, then the totals."""
        for receipt in spread(self._wanting(shards), self._count):
            self._finished(receipt)
        self._conclude()

    def _wanting(self, shards: Iterator[list[Item]]) -> Iterator[Work]:
        """The shards that this run must make; what has its receipt is counted and passed over."""
        part, complete = self.options.part, True
        for number, items in enumerate(shards):
            self.shards = number + 1
            work = Work(number, items, _digest_of(items))
            self.inputs[number] = work.inputs
            if part is not None and number % part[1] != part[0]:
                continue
            receipt = self.receipts.get(number)
            if receipt is not None and self._is_good(receipt, work):
                self.progress.kept += 1
                self.progress.kept_failed += receipt.failed
                self._count(pictures=receipt.pictures, failed=receipt.failed, made=0, reused=0)
                self._finished(receipt)
                continue
            if complete:
                # From here on, and until the end, the store is not what its totals say.
                complete, before = False, self.store.run()
                if before is not None and before.totals is not None:
                    self.store.write_run(self.wanted)
            yield work

    def _is_good(self, receipt: Receipt, work: Work) -> bool:
        if self.options.retry_failed and receipt.failed:
            return False
        same = (receipt.inputs, receipt.configuration) == (work.inputs, self.wanted.fingerprint)
        if not self.options.reread:
            return same
        # Nothing can be said of some pictures without reading them.
        return same and all(item.signature or item.failure for item in work.items)

    def _count(self, *, pictures: int, failed: int, made: int, reused: int) -> None:
        self.progress.pictures += pictures
        self.progress.failed += failed
        self.progress.made += made
        self.progress.reused += reused
        most = self.options.max_failures
        if most is not None and self.progress.failed > most:
            raise TooManyFailuresError(
                f"{self.progress.failed} pictures failed, {most} were allowed; what is done is kept: mend or remove "
                "them, or raise --max-failures, and the same command goes on"
            )
        self.watch(self.progress)

    def _finished(self, receipt: Receipt) -> None:
        self.progress.shards += 1
        self.progress.finished = receipt
        self.watch(self.progress)
        self.progress.finished = None

    def _conclude(self) -> None:
        receipts = self.store.receipts()
        here = [receipts.get(number) for number in range(self.shards)]
        done = [
            one
            for one in here
            if one is not None
            and (one.inputs, one.configuration) == (self.inputs[one.shard], self.wanted.fingerprint)
        ]
        if len(done) < self.shards:
            # Other parts are still at work, and what an earlier run says of the whole is no longer true.
            before = self.store.run()
            if before is not None and before.totals is not None:
                self.store.write_run(self.wanted)
            return
        self.store.drop_from(self.shards)
        totals = {
            "shards": self.shards,
            "pictures": sum(one.pictures for one in done),
            "failed": sum(one.failed for one in done),
            "skipped": dict(sorted(self.progress.skipped.items())),
        }
        complete = replace(self.wanted, totals=totals)
        if self.store.run() != complete:
            self.store.write_run(complete)
        self.store.forget()


def _digest_of(items: Sequence[Item]) -> str:
    return digest([[item.source, item.source_bytes, item.signature] for item in items])

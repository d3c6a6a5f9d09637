"""``taglens run`` and ``taglens retag``: a whole collection into a store, and asked again.

Knows the options, the progress line, the log and the exit status. Refuses to know how a collection is worked through
(`taglens.collection.runs`) or what an argument names (`taglens.collection.inputs`).
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from taglens.cli.console import OK, SOME_FAILED, TOO_MANY_FAILED, ProgressLine, fail, is_terminal, say
from taglens.cli.options import (
    AddTags,
    BatchSize,
    Caption,
    Device,
    Engine,
    Language,
    MaxPixels,
    Model,
    Quiet,
    Tags,
    Threshold,
    Top,
    VocabularyFile,
)
from taglens.cli.rows import SKIPPED_WORDS
from taglens.cli.tag import TagOptions, load_tagger, split_tags
from taglens.errors import TaglensError, UsageError

if TYPE_CHECKING:
    from taglens.collection.items import Item
    from taglens.collection.run_options import RunOptions
    from taglens.collection.runs import Progress, Spread
    from taglens.collection.store import Store
    from taglens.inference.tagger import Tagger

Log = Annotated[
    Path | None,
    typer.Option("--log", metavar="FILE", help="Append what happens, as JSON Lines with times."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the totals as one object at the end.")]
RAY = "ray"
_PART = re.compile(r"(\d+)/(\d+)")


def run(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE",
            help="Folders, pictures, patterns, .tar files, lists (.csv, .parquet, .jsonl, .txt), s3:// and the like.",
        ),
    ],
    *,
    out: Annotated[Path, typer.Option("--out", metavar="STORE", help="The folder to keep the rows in.")],
    model: Model = "starter",
    tags: Tags = None,
    add_tags: AddTags = False,
    vocabulary: VocabularyFile = None,
    language: Language = None,
    threshold: Threshold = None,
    top: Top = None,
    caption: Caption = False,
    features: Annotated[
        bool,
        typer.Option("--features", help="Keep what the model saw, so that 'taglens retag' reads no picture."),
    ] = False,
    column: Annotated[
        str | None,
        typer.Option("--column", help="Of a list: where the pictures stand.", show_default="found by name"),
    ] = None,
    shard_size: Annotated[int, typer.Option("--shard-size", help="Pictures a shard.")] = 1000,
    batch_size: BatchSize = 16,
    workers: Annotated[
        int,
        typer.Option("--workers", help="Processes that decode; 0: threads of this one. On Ray: actors."),
    ] = 0,
    gpus: Annotated[float, typer.Option("--gpus", help="Of each actor on Ray.")] = 0.0,
    part: Annotated[
        str | None,
        typer.Option("--part", metavar="K/N", help="Only every N-th shard from K on; others do the rest."),
    ] = None,
    device: Device = "auto",
    engine: Annotated[
        str, typer.Option("--engine", help="auto, onnx or torch; ray: shards made by actors on Ray.")
    ] = "auto",
    max_pixels: MaxPixels = None,
    max_failures: Annotated[
        int | None, typer.Option("--max-failures", help="Stop, with status 3, when more pictures failed.")
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try again what failed before.")
    ] = False,
    reread: Annotated[
        bool,
        typer.Option("--reread", help="Read again what may have changed unseen, such as web pictures."),
    ] = False,
    forget: Annotated[bool, typer.Option("--forget", help="Drop the rows of a source that is gone.")] = False,
    retag: Annotated[
        bool, typer.Option("--retag", help="Go on although model, tags or other settings have changed.")
    ] = False,
    log: Log = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> int:
    """Tag a whole collection, shard by shard; the same command goes on where one was stopped.

    Pictures that changed since are done again, others are not.

    A picture that cannot be used gets a row that says why; the exit status is then 1.
    """
    from taglens.collection.inputs import open_inputs
    from taglens.collection.run_options import RunOptions
    from taglens.collection.store import Store
    from taglens.images import DEFAULT_MAX_PIXELS

    options = RunOptions(
        threshold=threshold,
        top=top,
        language=language,
        caption=caption,
        features=features,
        shard_size=shard_size,
        batch_size=batch_size,
        max_pixels=DEFAULT_MAX_PIXELS if max_pixels is None else max_pixels,
        workers=0 if engine == RAY else workers,
        part=_part(part),
        max_failures=max_failures,
        retry_failed=retry_failed,
        reread=reread,
        forget=forget,
        retag=retag,
    )
    wanted = TagOptions(
        model=model,
        tags=split_tags(tags),
        add_tags=add_tags,
        vocabulary=vocabulary,
        language=language,
        threshold=threshold,
        top=top,
        batch_size=batch_size,
        device=device,
        engine="auto" if engine == RAY else engine,
    )
    tagger = load_tagger(wanted)
    spread = None
    if engine == RAY:
        spread = _on_ray(wanted, out, options, tagger, workers=workers, gpus=gpus)

    own = out.absolute()

    def items() -> Iterator[Item]:
        for item in open_inputs(sources, column=column):
            # A store inside the folder that it is of is no part of the collection.
            if item.path is None or not item.path.absolute().is_relative_to(own):
                yield item

    total = 0
    if not quiet and is_terminal(sys.stderr):
        # Someone is watching: know the end before starting.
        total = sum(item.skipped is None for item in items())
    told = _Told(sources, total, log, as_json, quiet)
    return _work(tagger, items(), Store(out), options, told, spread=spread)


def retag(
    store: Annotated[Path, typer.Argument(metavar="STORE", help="Made by 'taglens run --features'.")],
    *,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="STORE", help="Another store for the new rows.", show_default="the same"
        ),
    ] = None,
    model: Annotated[
        str, typer.Option("--model", help="The model of the run, by name or folder.")
    ] = "starter",
    tags: Tags = None,
    add_tags: AddTags = False,
    vocabulary: VocabularyFile = None,
    language: Language = None,
    threshold: Threshold = None,
    top: Top = None,
    device: Device = "auto",
    engine: Engine = "auto",
    log: Log = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> int:
    """Ask a store's pictures about other tags or thresholds, from its features: no picture is read."""
    from taglens.collection.retagging import stored_items
    from taglens.collection.run_options import RunOptions
    from taglens.collection.store import Store, open_store

    tagger = load_tagger(
        TagOptions(
            model=model,
            tags=split_tags(tags),
            add_tags=add_tags,
            vocabulary=vocabulary,
            language=language,
            threshold=threshold,
            top=top,
            device=device,
            engine=engine,
        )
    )
    old = open_store(store)
    stored = stored_items(old, tagger)
    options = RunOptions(
        threshold=threshold,
        top=top,
        language=language,
        caption=stored.caption,
        features=True,
        shard_size=stored.shard_size,
        max_pixels=stored.max_pixels,
        retag=True,
        trust=True,
    )
    told = _Told(list(stored.sources), stored.pictures, log, as_json, quiet)
    known = None if out is None else old
    return _work(tagger, stored.items(), old if out is None else Store(out), options, told, known=known)


class _Told:
    """What a person and a log are told of a run."""

    def __init__(self, sources: list[str], total: int, log: Path | None, as_json: bool, quiet: bool) -> None:
        self.sources = sources
        self.as_json = as_json
        self.quiet = quiet
        self._line = ProgressLine(total)
        self._log = log
        self._begun = time.monotonic()
        self._last = 0

    def event(self, event: str, **about: Any) -> None:
        """A line of the log."""
        if self._log is None:
            return
        row = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **about}
        try:
            with self._log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")  # escapes: a name may be no UTF-8
        except OSError as error:
            raise UsageError(f"cannot write --log {self._log}: {error.strerror or error}") from None

    def watch(self, progress: Progress) -> None:
        """After every picture and every shard."""
        new, self._last = progress.pictures - self._last, progress.pictures
        if not self.quiet and new:
            self._line.move(progress.pictures, failed=progress.failed, free=self._free(progress))
        if (receipt := progress.finished) is not None:
            self.event(
                "shard",
                shard=receipt.shard,
                pictures=receipt.pictures,
                failed=receipt.failed,
                done=progress.pictures,
                images_per_second=round(self.rate(progress), 2),
            )

    def _free(self, progress: Progress) -> int:
        """Pictures that were there already and cost no time."""
        return progress.pictures - progress.made - progress.reused - (progress.failed - progress.kept_failed)

    def rate(self, progress: Progress) -> float:
        """Pictures looked at or asked again, a second."""
        return (progress.made + progress.reused) / max(time.monotonic() - self._begun, 1e-9)

    def clear(self) -> None:
        self._line.clear()


def _work(
    tagger: Tagger,
    items: Iterable[Item],
    store: Store,
    options: RunOptions,
    told: _Told,
    *,
    known: Store | None = None,
    spread: Spread | None = None,
) -> int:
    from taglens.collection.runs import Progress, TooManyFailuresError
    from taglens.collection.runs import run as work

    progress = Progress()
    told.event(
        "start", store=str(store.folder), sources=told.sources, configuration=options.configuration(tagger)
    )
    status, code = "failed", OK
    try:
        work(
            tagger,
            items,
            store,
            options,
            sources=told.sources,
            watch=told.watch,
            known=known,
            progress=progress,
            spread=spread,
        )
        status = "done"
    except TooManyFailuresError as error:
        status, code = "too many failures", TOO_MANY_FAILED
        told.clear()
        fail(str(error))
    except KeyboardInterrupt:
        status = "interrupted"
        told.clear()
        say("what is done is kept: the same command goes on")
        raise
    except OSError as error:
        raise UsageError(
            f"cannot write {store.folder}: {error.strerror or error}; what is done is kept: make room, and the same "
            "command goes on"
        ) from None
    except TaglensError as error:
        status = str(error)
        raise
    finally:
        told.clear()
        with contextlib.suppress(UsageError):
            told.event("end", status=status, **_totals(progress))
    if not told.quiet:
        say(_summary(progress, store, told.rate(progress)))
    if told.as_json:
        row = {"store": str(store.folder), "model": tagger.ref, "vocabulary": tagger.vocabulary.ref}
        typer.echo(json.dumps(row | _totals(progress), ensure_ascii=False))
    return code or (SOME_FAILED if progress.failed else OK)


def _on_ray(
    wanted: TagOptions, out: Path, options: RunOptions, tagger: Tagger, *, workers: int, gpus: float
) -> Spread:
    from taglens.collection.ray_spread import RaySpread, require_ray
    from taglens.collection.store import RunFile

    require_ray()
    fingerprint = RunFile((), options.configuration(tagger)).fingerprint
    # An actor has one core; threads of several engines on the same cores wait for one another.
    load = partial(load_tagger, replace(wanted, threads=1))
    return RaySpread(load, out, options, fingerprint, workers or 1, gpus)


def _totals(progress: Progress) -> dict[str, Any]:
    return {
        "pictures": progress.pictures,
        "failed": progress.failed,
        "made": progress.made,
        "reused": progress.reused,
        "shards": progress.shards,
        "kept_shards": progress.kept,
        "skipped": dict(sorted(progress.skipped.items())),
    }


def _summary(progress: Progress, store: Store, rate: float) -> str:
    parts = [f"{progress.pictures:,} picture{'' if progress.pictures == 1 else 's'} in {store.folder}"]
    if progress.failed:
        parts.append(f"{progress.failed:,} failed")
    if progress.kept:
        parts.append(f"{progress.kept:,} of {progress.shards:,} shards were there already")
    if progress.reused:
        parts.append(f"{progress.reused:,} known from before")
    if progress.made:
        parts.append(f"{rate:.1f} a second")
    skipped = [f"{count:,} {SKIPPED_WORDS.get(why, why)}" for why, count in progress.skipped.most_common()]
    return ", ".join(parts) + (f"; skipped: {', '.join(skipped)}" if skipped else "")


def _part(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    if (found := _PART.fullmatch(text)) is None:
        raise UsageError(f"--part {text}: expected K/N, such as 0/4 for the first of four")
    return int(found[1]), int(found[2])

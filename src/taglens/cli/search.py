"""``taglens search``: pictures that answer a text, some keywords, or another picture.

Knows the options, and how hits are shown. Refuses to know how pictures are compared (`taglens.inference.search`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from taglens.cli.captions import require_files, require_folder
from taglens.cli.console import OK, SOME_FAILED, ProgressLine, printable, say
from taglens.cli.listing import MOST_TAGS
from taglens.cli.options import AsRows, BatchSize, Device, Engine, Model, Quiet
from taglens.cli.rows import Tally, watched
from taglens.cli.tag import split_tags
from taglens.errors import UsageError
from taglens.inference.sources import Skipped, Source, Unopened, expand
from taglens.results import Prediction

if TYPE_CHECKING:
    from taglens.inference.alignment import Embedded
    from taglens.inference.search import Hit, Narrow, PictureIndex, Unfound
    from taglens.inference.tagger import Tagger

# Pictures that are kept together: an index on disk lacks at most so many of those seen.
_AT_ONCE = 1_000


@dataclass(frozen=True, slots=True)
class Asked:
    """What is looked for, and among what; refuses what cannot be meant.

    Attributes:
        query: free text; tags: keywords; like: a picture. One of them, or none with sources and an index, which is
            then only made or brought up to date.
        weight: lambda, of ``query``.
        index: where what was seen of the pictures is kept.
    """

    sources: tuple[str, ...]
    query: str | None = None
    tags: tuple[str, ...] | None = None
    like: Path | None = None
    weight: float | None = None
    index: Path | None = None
    page: Path | None = None

    def __post_init__(self) -> None:
        given = [self.query is not None, self.tags is not None, self.like is not None]
        if sum(given) > 1:
            raise UsageError(
                "--query, --tags and --like are three ways to ask; give one, and narrow it with --only"
            )
        if not any(given) and (self.index is None or not self.sources or self.page is not None):
            raise UsageError(
                'say what to look for: --query "dog on a beach", --tags "dog,beach" or --like PICTURE'
            )
        if self.tags == ():
            raise UsageError(
                '--tags names no tag; expected names with commas between them: --tags "dog,beach"'
            )
        if self.query is not None and not self.query.strip():
            raise UsageError('--query is blank; write some words: --query "dog on a beach"')
        if self.weight is not None and (self.query is None or not 0.0 <= self.weight < float("inf")):
            raise UsageError("--lambda is a number of 0 or more and belongs to --query; leave it out")
        if not self.sources and self.index is None:
            raise UsageError("name pictures or folders to search, or an index: --index FILE")
        if not self.sources and self.index is not None and not self.index.is_file():
            raise UsageError(f"--index {self.index}: no such file; name pictures to make it from")
        if self.like is not None:
            require_files("--like", [self.like])
        require_folder("--index", self.index)
        require_folder("--page", self.page)


def run(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SOURCE",
            help="Pictures, folders (recursive) and patterns; none with --index: what is there.",
        ),
    ] = None,
    *,
    query: Annotated[
        str | None,
        typer.Option("--query", help="A text: --query 'dog on a beach' (needs a model with an aligner)."),
    ] = None,
    tags: Annotated[
        str | None,
        typer.Option("--tags", metavar='"A,B"', help="Keywords: tags that the pictures should all have."),
    ] = None,
    like: Annotated[
        Path | None, typer.Option("--like", metavar="PICTURE", help="Pictures like this one.")
    ] = None,
    only: Annotated[
        str | None, typer.Option("--only", metavar='"A,B"', help="Only pictures that have all of these tags.")
    ] = None,
    top: Annotated[int, typer.Option("--top", help="At most this many; 0: all.")] = 10,
    least: Annotated[
        float | None, typer.Option("--least", help="Lowest score of a hit.", show_default="any")
    ] = None,
    weight: Annotated[
        float | None,
        typer.Option("--lambda", help="What matching tags weigh in --query.", show_default="the model's"),
    ] = None,
    index: Annotated[
        Path | None,
        typer.Option(
            "--index", metavar="FILE.npz", help="Keep what was seen here; only new pictures are read."
        ),
    ] = None,
    model: Model = "starter",
    batch_size: BatchSize = 16,
    device: Device = "auto",
    engine: Engine = "auto",
    json: AsRows = False,
    page: Annotated[
        Path | None,
        typer.Option("--page", "--html", metavar="FILE", help="Also write a self-contained HTML page."),
    ] = None,
    quiet: Quiet = False,
) -> int:
    """Find pictures by a text, by keywords, or by another picture; the best first.

    With --index, pictures are looked at once and searched as often as you like.

    A picture that cannot be used gets a row that says why; the exit status is then 1.
    """
    asked = Asked(tuple(sources or ()), query, split_tags(tags), like, weight, index, page)
    from taglens.inference.search import Narrow, PictureIndex
    from taglens.inference.tagger import Tagger

    narrow = Narrow(top=top, only=split_tags(only) or (), least=least)
    tagger = Tagger.from_pretrained(model, engine=engine, device=device)
    if asked.query is not None:
        tagger.embed_text([asked.query])  # refuses before the pictures are read
    pictures = PictureIndex(tagger)
    if index is not None and index.is_file():
        pictures = PictureIndex.load(index, tagger)
    pictures.columns((*(asked.tags or ()), *narrow.only))  # so does this
    failed = _fill(pictures, asked, batch_size=batch_size, quiet=quiet) if asked.sources else []
    hits = _hits(pictures, asked, narrow)
    _show(hits, failed, json=json)
    if page is not None:
        _write_page(hits, asked, tagger, page)
    return SOME_FAILED if failed else OK


def _fill(pictures: PictureIndex, asked: Asked, *, batch_size: int, quiet: bool) -> list[Unfound]:
    """Look at what the sources name and is not there yet, and keep it; returns what could not be read.

    Raises:
        UsageError: nothing was there to look at.
    """
    from taglens.inference.search import Unfound

    tagger, before = pictures.tagger, len(pictures)
    tally = Tally()
    failed: list[Unfound] = []
    found, progress = watched(expand(asked.sources), quiet=quiet)

    def new() -> Iterator[Source]:
        for item in found:
            if isinstance(item, Skipped):
                tally.skipped[item.reason] += 1
            elif isinstance(item, Unopened):
                source = item.source
                failed.append(Unfound(source.shown, item.failure, tagger.ref, source.source_bytes))
            else:
                tally.pictures += 1
                if pictures.holds(item):
                    progress.advance()
                else:
                    yield item

    rows = tagger.embed(new(), batch_size=batch_size)
    try:
        while some := list(islice(_counted(rows, progress), _AT_ONCE)):
            for row in pictures.add_rows(some):
                if row.error is not None:
                    failed.append(Unfound(row.source, row.error, row.model, row.source_bytes))
            # What was seen is kept, should the work be stopped.
            if asked.index is not None and len(pictures):
                pictures.save(asked.index)
    finally:
        progress.clear()
    if not quiet and tally.skipped:
        say(tally.skipped_text())
    if not tally.pictures and all(row.error.type == "not_found" for row in failed):
        reasons = [row.error.message for row in failed] or ["no picture in the given folders"]
        raise UsageError(f"nothing to search: {'; '.join(reasons)}")
    if asked.index is not None and not quiet:
        say(f"{asked.index}: {len(pictures)} pictures, {len(pictures) - before} of them new")
    return failed


def _counted(rows: Iterable[Embedded], progress: ProgressLine) -> Iterator[Embedded]:
    for row in rows:
        progress.advance(failed=int(row.error is not None))
        yield row


def _hits(pictures: PictureIndex, asked: Asked, narrow: Narrow) -> list[Hit]:
    if not len(pictures):
        return []
    if asked.query is not None:
        return pictures.search(asked.query, weight=asked.weight, narrow=narrow)
    if asked.tags is not None:
        return pictures.by_tags(asked.tags, narrow=narrow)
    return [] if asked.like is None else pictures.like(asked.like, narrow=narrow)


def _show(hits: Iterable[Hit], failed: Iterable[Unfound], *, json: bool) -> None:
    """Hits on standard output; what could not be read as rows behind them, or for a person on standard error."""
    for hit in hits:
        line = hit.to_json() if json else _line(hit)
        sys.stdout.write(line + "\n")
    for row in failed:
        if json:
            sys.stdout.write(row.to_json() + "\n")
        else:
            say(f"{row.source}: {row.error.message}")
    sys.stdout.flush()


def _line(hit: Hit) -> str:
    tags = ", ".join(f"{printable(tag.name)} {tag.score:.2f}" for tag in hit.tags[:MOST_TAGS])
    return f"{hit.score:.3f}  {printable(hit.source)}" + (f"  [{tags}]" if tags else "")


def _write_page(hits: Iterable[Hit], asked: Asked, tagger: Tagger, page: Path) -> None:
    from taglens.collection.page import write_page

    title = asked.query or ", ".join(asked.tags or ()) or f"Like {asked.like}"
    rows = (
        (
            Prediction(
                source=hit.source,
                width=hit.width,
                height=hit.height,
                tags=hit.tags,
                model=hit.model,
                vocabulary=tagger.vocabulary.ref,
                notes=_parts(hit),
                source_bytes=hit.source_bytes,
            ),
            hit.path,
        )
        for hit in hits
    )
    write_page(rows, page, title=title, card=f"Found by {tagger.ref}; tags are those asked for")


def _parts(hit: Hit) -> tuple[str, ...]:
    """What a hit's score is made of, in words."""
    named = (("score", hit.score), ("similarity", hit.similarity), ("overlap of tags", hit.overlap))
    return tuple(f"{name} {value:.2f}" for name, value in named if value is not None)

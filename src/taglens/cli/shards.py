"""``taglens shards``: pack a corpus into shards, and say what a folder of shards holds.

Thin: calls `taglens.data.building.build_shards` and `taglens.data.shards.ShardSet`, and prints. Results go to
standard output, accounts of the work to standard error.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from taglens.cli.console import OK, SOME_FAILED, ProgressLine, say
from taglens.errors import UsageError
from taglens.results import to_line

if TYPE_CHECKING:
    from taglens.data.building import BuildReport
    from taglens.data.labelling import Labeller
    from taglens.data.shards import Scope, ShardSet, ShardSettings
    from taglens.data.sources import SourceForm
    from taglens.vocabulary import Vocabulary

_ABSENT = {"negative": 1.0, "unknown": 0.0}
_SHOWN = 10  # names that found no tag, and tags, in the short accounts


def build(
    source: Annotated[
        Path, typer.Argument(help="captions.jsonl or labels.jsonl, or the folder that holds one of them.")
    ],
    *,
    vocabulary: Annotated[Path, typer.Option("--vocabulary", help="The vocabulary that says what a tag is.")],
    out: Annotated[Path, typer.Option("--out", help="The folder to write.")],
    absent: Annotated[
        str | None,
        typer.Option(
            "--absent",
            help="What a tag that a picture was not given is: negative, unknown, or a weight from 0 (unknown)"
            " to 1 (negative). By default negative for captions, unknown for labels.",
        ),
    ] = None,
    scope: Annotated[
        str | None,
        typer.Option(
            "--scope",
            help="The tags that --absent speaks of: all, or labels (those the corpus names at least once; "
            "the rest are unknown). By default all for captions, labels for labels.",
        ),
    ] = None,
    samples_per_shard: Annotated[int, typer.Option("--samples-per-shard", help="Rows to a shard.")] = 1000,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Start anew, also over shards of another configuration.")
    ] = False,
) -> int:
    """Pack a corpus into shards. A killed build goes on where it stood when run again."""
    from taglens.data.building import build_shards
    from taglens.data.sources import find_source, source_form
    from taglens.vocabulary import Vocabulary

    corpus = find_source(source)
    form = source_form(corpus)
    words = Vocabulary.load(vocabulary)
    label, labeller = _labeller(form, words)
    settings = _settings(form, labeller, absent=absent, scope=scope, samples_per_shard=samples_per_shard)
    progress = _Progress()
    try:
        report = build_shards(
            corpus,
            out,
            vocabulary=words,
            label=label,
            settings=settings,
            overwrite=overwrite,
            progress=progress,
        )
    finally:
        progress.clear()
    _account(report)
    return SOME_FAILED if report.failed else OK


def show(
    directory: Annotated[Path, typer.Argument(help="A folder of shards.")],
    *,
    verify: Annotated[bool, typer.Option("--verify", help="Compare every shard with its checksum.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> int:
    """Say what a folder of shards holds: samples, tags, what was asked for, what failed."""
    from taglens.data.shards import ShardSet

    shards = ShardSet.open(directory)
    if verify:
        shards.verify()
        say(f"{directory}: all {len(shards.receipts)} shards agree with their receipts")
    if json:
        typer.echo(to_line(_summary(shards)))
    else:
        _print_summary(shards)
    return OK


class _Progress:
    """A progress line that learns its total from the first call."""

    def __init__(self) -> None:
        self._line: ProgressLine | None = None

    def __call__(self, done: int, total: int) -> None:
        if self._line is None:
            self._line = ProgressLine(total)
        self._line.advance()

    def clear(self) -> None:
        if self._line is not None:
            self._line.clear()


def _labeller(form: SourceForm, vocabulary: Vocabulary) -> tuple[Labeller, str]:
    """What finds the tags, and the name under which the configuration remembers it."""
    from taglens.data.labelling import caption_rules_version, label_from_captions, label_from_names

    if form == "labels":
        return label_from_names(vocabulary), "names"
    from taglens.language.parser import parse
    from taglens.language.word_lists import packaged

    label = label_from_captions(vocabulary, parse, lists=packaged())
    return label, f"captions@{caption_rules_version()}"


def _settings(
    form: SourceForm, labeller: str, *, absent: str | None, scope: str | None, samples_per_shard: int
) -> ShardSettings:
    from taglens.data.shards import ShardSettings

    settings = replace(ShardSettings.for_form(form, labeller=labeller), samples_per_shard=samples_per_shard)
    if absent is not None:
        settings = replace(settings, absent=_weight(absent))
    if scope is not None:
        settings = replace(settings, scope=cast("Scope", scope))
    return settings


def _weight(absent: str) -> float:
    if absent in _ABSENT:
        return _ABSENT[absent]
    try:
        weight = float(absent)
    except ValueError:
        weight = float("nan")
    if not 0.0 <= weight <= 1.0:
        raise UsageError(f"--absent {absent!r}: expected negative, unknown, or a weight from 0 to 1")
    return weight


def _account(report: BuildReport) -> None:
    splits = ", ".join(f"{split} {count:,}" for split, count in report.splits.items())
    say(f"{report.directory}: {report.samples:,} samples ({splits})")
    say(f"{report.written} shards written, {report.skipped} were finished before")
    if report.unlabelled:
        say(f"{report.unlabelled:,} rows without captions or labels were left out")
    if report.unmatched:
        most = ", ".join(f"{name} ({count:,})" for name, count in list(report.unmatched.items())[:_SHOWN])
        say(f"{len(report.unmatched):,} names found no tag in this vocabulary: {most}")
    if report.failed:
        say(f"{report.failed:,} pictures cannot be used: see {report.directory / 'failures.jsonl'}")


def _summary(shards: ShardSet) -> dict[str, Any]:
    return {
        "directory": str(shards.directory),
        "vocabulary": shards.vocabulary.ref,
        "configuration": shards.plan.configuration,
        "plan": asdict(shards.plan),
        "shards": len(shards.receipts),
        "bytes": sum(receipt.bytes for receipt in shards.receipts),
        "samples": sum(shards.splits.values()),
        "splits": shards.splits,
        "failed": shards.failed,
        "unlabelled": shards.unlabelled,
        "scope": len(shards.scope),
        "tags": shards.tag_counts(),
        "unmatched": shards.unmatched,
    }


def _print_summary(shards: ShardSet) -> None:
    settings = shards.plan.settings
    meaning = {1.0: "negative", 0.0: "unknown"}.get(settings.absent, f"negative by {settings.absent:g}")
    counts = shards.tag_counts()
    frequent = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_SHOWN]
    size = sum(receipt.bytes for receipt in shards.receipts) / 1e6
    rows = {
        "source": shards.plan.source,
        "samples": ", ".join(f"{split} {count:,}" for split, count in shards.splits.items()),
        "shards": f"{len(shards.receipts):,} of up to {settings.samples_per_shard:,} rows, {size:,.1f} MB",
        "vocabulary": f"{shards.vocabulary.ref}, {len(shards.vocabulary):,} tags",
        "labelled by": settings.labeller or "not said",
        "scope": f"{len(shards.scope):,} tags; one that a picture was not given is {meaning}",
        "tags given": f"{len(counts):,}; {', '.join(f'{tag} {count:,}' for tag, count in frequent)}",
        "found no tag": f"{len(shards.unmatched):,} names",
        "left out": f"{shards.failed:,} failed, {shards.unlabelled:,} unlabelled",
        "configuration": shards.plan.configuration,
    }
    for name, value in rows.items():
        typer.echo(f"{name:<14} {value}")

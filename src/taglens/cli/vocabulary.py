"""``taglens vocabulary``: build, show, check and compare vocabularies.

Thin: each command calls public functions of `taglens.language` or `taglens.vocabulary` and prints. Results go
to standard output, accounts of the work to standard error.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from taglens.cli.captions import CaptionProgress, require_files, require_folder, require_workers
from taglens.errors import UsageError
from taglens.results import to_line
from taglens.vocabulary import KINDS, Entry, Vocabulary, normalise

if TYPE_CHECKING:
    from taglens.language.vocabulary_builder import LeftOut

Files = list[Path]


def build(
    *,
    out: Annotated[Path, typer.Option("--out", help="The vocabulary file to write.")],
    captions: Annotated[
        Files | None, typer.Option("--captions", help="Text or .gz, one caption a line, or captions.jsonl.")
    ] = None,
    labels: Annotated[
        Files | None, typer.Option("--labels", help="labels.jsonl; every label is a tag.")
    ] = None,
    name: Annotated[str, typer.Option("--name", help="The vocabulary's name.")] = "vocabulary",
    description: Annotated[str, typer.Option("--description", help="One line for the file's header.")] = "",
    top: Annotated[int | None, typer.Option("--top", help="At most this many frequent words.")] = None,
    min_count: Annotated[int, typer.Option("--min-count", help="Captions that must name a word.")] = 10,
    split: Annotated[str, typer.Option("--split", help="The rows of captions.jsonl to read.")] = "train",
    synonyms: Annotated[
        Files | None, typer.Option("--synonyms", help="More synonyms; they win over the shipped ones.")
    ] = None,
    deny: Annotated[Files | None, typer.Option("--deny", help="More words that are never a tag.")] = None,
    allow: Annotated[
        Files | None, typer.Option("--allow", help="More words that are tags though rare or denied.")
    ] = None,
    sensitive: Annotated[
        Files | None,
        typer.Option("--sensitive", help="More words about people that are hidden, or left out ('!')."),
    ] = None,
    descriptions: Annotated[
        Files | None,
        typer.Option(
            "--descriptions", help="More visual descriptions (JSON Lines); they win over the shipped ones."
        ),
    ] = None,
    left_out: Annotated[
        Path | None, typer.Option("--left-out", help="Also write what did not enter, and why, as TSV.")
    ] = None,
    workers: Annotated[int, typer.Option("--workers", help="Parsing processes; 0: one per processor.")] = 0,
) -> None:
    """Build a vocabulary from captions and label sets."""
    from taglens.cli.vocabulary_files import require_jsonl
    from taglens.language.descriptions import SHIPPED, describe, read_descriptions
    from taglens.language.parser import parse_lines
    from taglens.language.vocabulary_builder import (
        build_vocabulary,
        count_words,
        read_captions,
        read_labels,
    )
    from taglens.language.word_lists import packaged

    if not captions and not labels:
        raise UsageError("nothing to build from: give --captions FILE, --labels FILE, or both")
    require_files("--captions", captions or (), pipes=True)
    require_files("--labels", labels or (), pipes=True)
    require_workers(workers)
    require_jsonl(out, command="build")
    require_folder("--out", out)
    require_folder("--left-out", left_out)
    described = read_descriptions([SHIPPED, *(descriptions or ())])
    lists = packaged(synonyms=synonyms or (), deny=deny or (), allow=allow or (), sensitive=sensitive or ())
    lines = chain.from_iterable(read_captions(path, split=split) for path in captions or ())
    progress = CaptionProgress(None, unit="captions")
    try:
        counts = count_words(progress.watch(lines), lambda texts: parse_lines(texts, workers=workers), lists)
    finally:
        progress.clear()
    result = build_vocabulary(
        counts,
        lists,
        labels=read_labels(labels or (), lists, counts),
        min_count=min_count,
        top=top,
        name=name,
        description=description,
    )
    vocabulary = describe(result.vocabulary, described)
    vocabulary.save(out)
    if left_out is not None:
        left_out.write_text("".join(_left_out_lines(result.left_out)), encoding="utf-8")
    wrote(out, vocabulary)
    for problem in vocabulary.problems():
        typer.echo(f"problem: {problem}", err=True)


def wrote(path: Path, vocabulary: Vocabulary) -> None:
    """The account of a written vocabulary: what it is, and how many tags of each kind it has."""
    kinds = Counter(entry.kind for entry in vocabulary)
    said = ", ".join(f"{kinds[kind]} {kind}" for kind in KINDS if kinds[kind])
    typer.echo(f"{path}: {vocabulary.ref}, {len(vocabulary)} tags ({said})", err=True)


def _left_out_lines(left_out: tuple[LeftOut, ...]) -> Iterator[str]:
    yield "kind\tname\tcount\treason\n"
    for word in left_out:
        yield f"{word.kind}\t{word.name}\t{word.count}\t{word.reason}\n"


def show(
    file: Annotated[Path, typer.Argument(help="A vocabulary file.")],
    name: Annotated[
        str | None, typer.Argument(help="One tag, by name or synonym: everything about it.")
    ] = None,
    *,
    kind: Annotated[str | None, typer.Option("--kind", help="object, scene, attribute or action.")] = None,
    json: Annotated[bool, typer.Option("--json", help="JSON lines on standard output.")] = False,
) -> None:
    """List a vocabulary, or one tag of it with its homographs, parents and children."""
    if kind is not None and kind not in KINDS:
        raise UsageError(f"--kind {kind!r}; expected one of {', '.join(KINDS)}")
    vocabulary = Vocabulary.load(file)
    if name is not None:
        rows = [_full_row(vocabulary, entry) for entry in _senses(vocabulary, name, kind=kind)]
        if not rows:
            raise UsageError(
                f"{vocabulary.ref} has no tag or synonym {name!r}{f' of kind {kind}' if kind else ''}"
            )
    else:
        rows = [entry.to_dict() for entry in vocabulary if kind in (None, entry.kind)]
    if json:
        for row in rows:
            typer.echo(to_line(row))
    elif name is not None:
        for row in rows:
            typer.echo("\n".join(f"{key:<12} {_cell(value)}" for key, value in row.items()) + "\n")
    else:
        _print_table(vocabulary, rows)


def _senses(vocabulary: Vocabulary, name: str, *, kind: str | None) -> list[Entry]:
    """The tags that a word can mean, the one that `Vocabulary.find` gives first."""
    key = normalise(name)
    first = vocabulary.find(name)
    found = [
        (position != first, position)
        for position, entry in enumerate(vocabulary)
        if key in (normalise(entry.name), *map(normalise, entry.synonyms)) and kind in (None, entry.kind)
    ]
    return [vocabulary[position] for _, position in sorted(found)]


def _full_row(vocabulary: Vocabulary, entry: Entry) -> dict[str, Any]:
    row = entry.to_dict()
    position = vocabulary.position(entry.id)
    row["homographs"] = [
        other.id
        for other in vocabulary
        if other.id != entry.id and normalise(other.name) == normalise(entry.name)
    ]
    row["implies"] = sorted(vocabulary[p].id for p in vocabulary.with_parents([position]) - {position})
    row["children"] = [other.id for other in vocabulary if entry.id in other.parents]
    return row


def _cell(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _print_table(vocabulary: Vocabulary, rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{vocabulary.ref}: {len(rows)} of {len(vocabulary)} tags", title_justify="left")
    table.add_column("count", justify="right")
    for column in ("name", "kind", "parents", "synonyms"):
        table.add_column(column, overflow="fold")
    for row in rows:
        shown = row["name"] + (" (hidden)" if row.get("hidden") else "")
        table.add_row(
            str(row.get("count", 0)),
            shown,
            row["kind"],
            ", ".join(parent.partition(":")[2] for parent in row.get("parents", ())),
            ", ".join(row.get("synonyms", ())),
        )
    # Names are told as they are: brackets in them are no styles.
    Console(file=sys.stdout, markup=False, emoji=False).print(table)


def check(
    file: Annotated[Path, typer.Argument(help="A vocabulary file.")],
    *,
    sensitive: Annotated[
        Files | None, typer.Option("--sensitive", help="More words about people that should be hidden.")
    ] = None,
) -> None:
    """Say what a careful reader would object to; exit status 1 when there is anything."""
    from taglens.language.sensitive import sensitive_problems, sensitive_tags
    from taglens.language.word_lists import packaged

    vocabulary = Vocabulary.load(file)
    lists = packaged(sensitive=sensitive or ())
    problems = vocabulary.problems() + sensitive_problems(vocabulary, lists)
    for problem in problems:
        typer.echo(problem)
    hidden = sum(entry.hidden for entry in sensitive_tags(vocabulary, lists))
    typer.echo(
        f"{vocabulary.ref}: {len(vocabulary)} tags, {len(problems)} problems"
        + (f"; sensitive and hidden: {hidden}" if hidden else ""),
        err=True,
    )
    if problems:
        raise typer.Exit(1)


def diff(
    old: Annotated[Path, typer.Argument(help="The vocabulary before.")],
    new: Annotated[Path, typer.Argument(help="The vocabulary after.")],
    *,
    json: Annotated[bool, typer.Option("--json", help="JSON lines on standard output.")] = False,
) -> None:
    """Say what was added, removed, renamed or changed."""
    from taglens.language.vocabulary_diff import change_text, compare

    before, after = Vocabulary.load(old), Vocabulary.load(new)
    difference = compare(before, after)
    for row in difference.rows():
        typer.echo(to_line(row) if json else change_text(row))
    usable = "models fit both" if before.fingerprint == after.fingerprint else "models do not carry over"
    typer.echo(f"{before.ref} -> {after.ref}: {usable}", err=True)

"""``taglens vocabulary review`` and ``apply``: a page in which a person decides about tags, and what becomes of it.

Thin: gathers with `taglens.language.vocabulary_review`, writes with `taglens.collection.review_page`, applies with
`taglens.language.vocabulary_decisions`, and prints.
"""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from taglens.cli.captions import (
    caption_progress,
    require_files,
    require_folder,
    require_workers,
    texts_of,
)
from taglens.cli.console import OK, SOME_FAILED, printable, say
from taglens.cli.vocabulary_files import require_jsonl
from taglens.errors import UsageError
from taglens.results import to_line
from taglens.vocabulary import Vocabulary

if TYPE_CHECKING:
    from taglens.language.vocabulary_decisions import Applied

Files = list[Path]


def review(
    file: Annotated[Path, typer.Argument(help="A vocabulary file.")],
    *,
    out: Annotated[Path, typer.Option("--out", help="The HTML page to write.")],
    captions: Annotated[
        Files | None,
        typer.Option("--captions", help="Text or .gz, one caption a line, or captions.jsonl; repeatable."),
    ] = None,
    split: Annotated[
        str | None, typer.Option("--split", help="The rows of captions.jsonl to read; all by default.")
    ] = None,
    examples: Annotated[int, typer.Option("--examples", help="Captions to show for a tag.")] = 5,
    workers: Annotated[int, typer.Option("--workers", help="Parsing processes; 0: one per processor.")] = 0,
) -> int:
    """Write a page in which a person keeps, denies, merges and renames tags, offline."""
    if not captions:
        raise UsageError("a review needs captions that name the tags: give --captions FILE")
    require_files("--captions", captions)
    require_folder("--out", out)
    require_workers(workers)
    if examples < 0:
        raise UsageError(f"--examples must be 0 or more, found {examples}")
    from taglens.collection.review_page import write_review
    from taglens.language.parser import parse_lines
    from taglens.language.text_encoder import shipped
    from taglens.language.vocabulary_review import review as gather
    from taglens.language.word_lists import packaged

    vocabulary = Vocabulary.load(file)
    with caption_progress(captions, split=split) as progress:
        reviewed = gather(
            vocabulary,
            chain.from_iterable(texts_of(path, split=split) for path in captions),
            lambda texts: parse_lines(texts, workers=workers),
            packaged(),
            examples=examples,
            encoder=shipped(),
            told=progress.tell,
        )
    write_review(reviewed, out)
    proposals = sum(tag.proposal is not None for tag in reviewed.tags)
    unnamed = sum(not tag.frequency for tag in reviewed.tags)
    say(
        f"{out}: {len(vocabulary):,} tags of {vocabulary.ref} beside {reviewed.texts:,} captions, "
        f"{proposals:,} proposals, {unnamed:,} tags that no caption names"
    )
    return OK


def apply(
    file: Annotated[Path, typer.Argument(help="The vocabulary that was reviewed.")],
    *,
    decisions: Annotated[Path, typer.Option("--decisions", help="What the page of review downloads.")],
    out: Annotated[Path, typer.Option("--out", help="The vocabulary file to write.")],
    force: Annotated[
        bool, typer.Option("--force", help="Apply by tag id also what was decided about another vocabulary.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="JSON lines on standard output.")] = False,
) -> int:
    """Apply a reviewer's decisions, and say what changed."""
    from taglens.language.vocabulary_decisions import apply as carry_out
    from taglens.language.vocabulary_decisions import read_decisions
    from taglens.language.vocabulary_diff import change_text

    require_jsonl(out, command="apply")
    require_files("--decisions", [decisions])
    require_folder("--out", out)
    before = Vocabulary.load(file)
    applied = carry_out(before, read_decisions(decisions), force=force)
    applied.vocabulary.save(out)
    for row in _changes(before, applied):
        typer.echo(to_line(row) if json else printable(change_text(row)))
    for skipped in applied.skipped:
        say(f"skipped: {skipped}")
    counts = {
        "kept": "keep",
        "denied": "deny",
        "merged": "merge",
        "renamed": "rename",
        "of another kind": "kind",
    }
    said = ", ".join(f"{applied.verdicts[verdict]:,} {word}" for word, verdict in counts.items())  # type: ignore[index]
    usable = (
        "models fit both"
        if before.fingerprint == applied.vocabulary.fingerprint
        else "models do not carry over"
    )
    say(f"{said}; {applied.undecided:,} undecided stay as they are")
    say(f"{out}: {before.ref} -> {applied.vocabulary.ref}, {len(applied.vocabulary):,} tags: {usable}")
    return SOME_FAILED if applied.skipped else OK


def _changes(before: Vocabulary, applied: Applied) -> list[dict[str, Any]]:
    """The rows of the difference; a tag that was merged says into what."""
    from taglens.language.vocabulary_diff import compare

    rows = compare(before, applied.vocabulary).rows()
    for row in rows:
        if row["change"] == "removed" and (into := applied.gone.get(row["id"])) is not None:
            row["into"] = into
    return rows

"""``taglens annotate review`` and ``apply``: a page to accept and reject labels in, and what becomes of it.

Thin: `taglens.collection.annotation_review` writes the page, `taglens.collection.annotation_decisions` applies.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from taglens.cli.annotate_report import AnnotationFolder, Others, Split, VocabularyFile, meet, suspected
from taglens.cli.captions import require_files, require_folder
from taglens.cli.console import OK, SOME_FAILED, say
from taglens.errors import UsageError

# Rows that are named, of those that could not be changed.
_NAMED = 5


def review(
    folder: AnnotationFolder,
    *,
    out: Annotated[Path, typer.Option("--out", help="The HTML page to write.")],
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only",
            metavar="given|dropped|unsettled|suspected|TAG",
            help="Only such labels; may be repeated.",
        ),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Pictures on the page.")] = 300,
    page: Annotated[int, typer.Option("--page", min=1, help="Which page of so many pictures.")] = 1,
    truth: Annotated[
        Path | None,
        typer.Option("--truth", help="People's labels: show what is suspected, the most suspect first."),
    ] = None,
    vocabulary: VocabularyFile = None,
    split: Split = None,
    others: Others = None,
) -> int:
    """Write a page in which a person accepts and rejects labels, offline; apply reads what it downloads.

    Dropped candidates and unsettled tags are shown too, and can be accepted. The page holds small copies of the
    pictures and asks the network for nothing.
    """
    from taglens.collection.annotated import read_annotated
    from taglens.collection.annotation_review import Only, cards, write_annotation_review
    from taglens.collection.review_frame import require_page

    require_page(out)
    wanted = Only.of(only or ())
    if truth is None and (wanted.suspected or vocabulary or split or others):
        raise UsageError(
            "--only suspected, --vocabulary, --split and --with are about people's labels: give --truth"
        )
    suspicions = None
    if truth is not None:
        suspicions = suspected(meet(folder, truth, vocabulary, split), others or ())
    found = cards(read_annotated(folder), wanted, suspicions=suspicions)
    if not found:
        say(f"nothing to review in {folder}; no page is written")
        return OK
    pages = -(-len(found) // limit)
    if page > pages:
        raise UsageError(f"--page {page}: there are {pages} pages of {limit:,} pictures")
    chosen = found[(page - 1) * limit : page * limit]
    which = f" · page {page} of {pages}, {len(found):,} pictures in all" if pages > 1 else ""
    note = f"{chosen[0].row.model} · {chosen[0].row.strategy} · {len(chosen):,} pictures{which}"
    written = write_annotation_review(chosen, out, title=folder.absolute().name, note=note)
    cut = sum(card.cut for card in chosen)
    more = f"; of {len(found):,} pictures this is page {page} of {pages}" if pages > 1 else ""
    more += f"; {cut:,} labels of long lists are not on it" if cut else ""
    more += f"; {written.unseen:,} pictures could not be read and have no preview" if written.unseen else ""
    say(
        f"{out}: {written.marks:,} labels of {written.pictures:,} pictures, {written.bytes / 1e6:.1f} MB{more}"
    )
    return OK


def apply(
    folder: AnnotationFolder,
    *,
    decisions: Annotated[
        list[Path] | None,
        typer.Option("--decisions", metavar="FILE", help="What the page downloads; may be repeated."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", help="The rows to write.", show_default="DIR/labels.jsonl itself"
        ),
    ] = None,
    undo: Annotated[bool, typer.Option("--undo", help="Take the last review out of DIR again.")] = False,
) -> int:
    """Apply a reviewer's decisions; in place they can be undone, with --out DIR stays as it is.

    Decisions about a picture whose labels have changed since the page was made are refused; the exit status is
    then 1.
    """
    from taglens.collection import annotation_decisions as reviews

    if undo:
        if decisions or out is not None:
            raise UsageError("--undo takes the last review out of DIR; it goes with no other option")
        undone = reviews.undo(folder)
        _tell_rows("changed since, and stay", undone.changed_since)
        say(f"{folder}: {undone.restored:,} pictures are as they were before the last review")
        return SOME_FAILED if undone.changed_since else OK
    if not decisions:
        raise UsageError("give what the page of review downloads: --decisions FILE (or --undo)")
    require_files("--decisions", decisions)
    if out is not None:
        require_folder("--out", out)
    wanted = reviews.read_decisions(decisions)
    applied = reviews.apply_in_place(folder, wanted) if out is None else reviews.apply_to(folder, wanted, out)
    _tell_rows("stale: their labels have changed since the page was made, make it anew", applied.stale)
    _tell_rows("not in this annotation, or without labels", applied.unknown)
    say(
        f"{folder if out is None else out}: {applied.pictures:,} pictures reviewed, {applied.accepted:,} labels "
        f"accepted ({applied.added:,} new), {applied.rejected:,} rejected ({applied.removed:,} taken out)"
        + ("; taglens annotate apply DIR --undo takes it back" if out is None and applied.pictures else "")
    )
    return SOME_FAILED if applied.stale or applied.unknown else OK


def _tell_rows(what: str, sources: list[str] | tuple[str, ...]) -> None:
    if sources:
        more = f" and {len(sources) - _NAMED:,} more" if len(sources) > _NAMED else ""
        say(f"{len(sources):,} refused, {what}: {', '.join(sources[:_NAMED])}{more}")

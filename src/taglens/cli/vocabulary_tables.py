"""The report of ``taglens vocabulary stats`` as tables that a person reads.

Knows the report's fields (`docs/COMMANDS.md`) and layout. Refuses to count anything.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

Row = Mapping[str, Any]

_CORPUS_ROWS = {
    "images": "images",
    "texts": "texts",
    "texts_per_image": "texts / image",
    "tag_mentions": "tags over texts",
    "tags_per_text": "tags / text",
    "tags": "tags over images",
    "tags_per_image": "tags / image",
    "tags_used": "tags of the vocabulary",
}
_DENIED_SHOWN = 10


def print_report(report: Row) -> None:
    """Write the report to standard output."""
    from rich.console import Console

    # No wider than needed, and never folded into columns of letters where nobody watches.
    console = Console(file=sys.stdout, highlight=False, markup=False, soft_wrap=True)
    _print_kinds(console, report)
    if report["corpora"]:
        _print_corpora(console, report["corpora"])
    if report["coverage"]:
        _print_coverage(console, report["coverage"])
    if report["unmatched_labels"]:
        said = ", ".join(f"{row['name']} ({row['count']:,})" for row in report["unmatched_labels"])
        console.print(f"\nLabels that are no tag, with their pictures: {said}")
    if report["classes"]:
        _print_classes(console, report["classes"])


def _print_kinds(console: Console, report: Row) -> None:
    table = _table(f"{report['vocabulary']}: {report['tags']:,} tags")
    table.add_column("")
    for kind in report["kinds"]:
        table.add_column(kind, justify="right")
    for what in ("tags", "hidden", "synonyms", "parents", "descriptions"):
        table.add_row(what, *(f"{figures[what]:,}" for figures in report["kinds"].values()))
        if f"with_{what}" in next(iter(report["kinds"].values())):
            table.add_row(
                "  tags with any", *(f"{figures[f'with_{what}']:,}" for figures in report["kinds"].values())
            )
    console.print(table)


def _print_corpora(console: Console, corpora: Sequence[Row]) -> None:
    table = _table("Corpora")
    table.add_column("")
    for row in corpora:
        table.add_column("/".join(Path(row["name"]).parts[-2:]), justify="right", overflow="fold")
    for field, said in _CORPUS_ROWS.items():
        table.add_row(said, *(_cell(row[field]) for row in corpora))
    console.print()
    console.print(table)


def _print_coverage(console: Console, coverage: Row) -> None:
    console.print(
        f"\nCoverage: {_percent(coverage['share'])}, {coverage['covered']:,} of {coverage['mentions']:,} mentions "
        f"({coverage['by_head']:,} of them by their last words)"
    )
    kinds = (f"{kind} {_percent(row['share'])}" for kind, row in coverage["kinds"].items())
    console.print("By kind of mention: " + ", ".join(kinds))
    points = (f"{point['tags']:,} cover {_percent(point['share'])}" for point in coverage["curve"])
    console.print("By the most named tags: " + ", ".join(points))
    if coverage["denied"]:
        words = (f"{row['name']} ({row['count']:,})" for row in coverage["denied_words"][:_DENIED_SHOWN])
        console.print(
            f"Denied by the word lists: {coverage['denied']:,} mentions, such as {', '.join(words)}"
        )
    if not coverage["uncovered"]:
        return
    table = _table(f"The most frequent of {coverage['uncovered_words']:,} other words without a tag")
    table.add_column("captions", justify="right")
    table.add_column("word", overflow="fold")
    table.add_column("kind")
    table.add_column("why", overflow="fold")
    for row in coverage["uncovered"]:
        why = f"there is {row['other']}" if row["other"] else row["why"]
        table.add_row(f"{row['count']:,}", row["name"], row["kind"], why)
    console.print()
    console.print(table)


def _print_classes(console: Console, classes: Row) -> None:
    console.print(
        f"\nClasses: {classes['found']:,} of {classes['classes']:,} are tags ({_percent(classes['share'])}; "
        f"{classes['by_name']:,} by name, {classes['by_synonym']:,} by synonym)"
    )
    if classes["missing"]:
        console.print(f"Missing: {', '.join(classes['missing'])}")


def _table(title: str) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    return Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)


def _cell(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.2f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"

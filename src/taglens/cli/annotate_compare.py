"""``taglens annotate compare``: strategies side by side, on the same pictures.

Thin: calls `taglens.evaluation.annotations.compare` and prints a row a folder.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer

from taglens.cli.captions import require_files
from taglens.cli.console import OK, say
from taglens.results import significant

_FIGURES = ("OP", "OR", "OF1", "CP", "CR", "CF1")


def run(
    folders: Annotated[list[Path], typer.Argument(metavar="OUT", help="Folders of taglens annotate.")],
    *,
    labels: Annotated[
        Path, typer.Option("--labels", help="What is true: a labels.jsonl of the same pictures.")
    ],
    vocabulary: Annotated[
        Path | None,
        typer.Option(
            "--vocabulary", help="The tags asked for; names and synonyms then meet.", show_default="none"
        ),
    ] = None,
    split: Annotated[str | None, typer.Option("--split", help="Of the labels, only these rows.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="JSON Lines on standard output, a folder a line.")
    ] = False,
) -> int:
    """Measure annotations against labels: precision, recall, F1, overall (O) and by class (C), and what they took."""
    from taglens.evaluation.annotations import Compared, compare
    from taglens.vocabulary import Vocabulary

    require_files("--labels", [labels])
    tags = None if vocabulary is None else Vocabulary.load(vocabulary)
    found = compare(folders, labels, split=split, vocabulary=tags)

    def row(one: Compared) -> dict[str, Any]:
        figures, ledger = one.figures, one.ledger
        return {
            "out": str(one.folder),
            "model": one.model,
            "strategy": one.strategy,
            "images": found.pictures,
            "classes": found.classes,
            "OP": _number(figures.overall_precision),
            "OR": _number(figures.overall_recall),
            "OF1": _number(figures.overall_f1),
            "CP": _number(figures.class_precision),
            "CR": _number(figures.class_recall),
            "CF1": _number(figures.class_f1),
            "labels_per_picture": significant(one.labels_per_picture),
            "queries": ledger.get("queries"),
            "tokens": ledger.get("prompt_tokens", 0) + ledger.get("completion_tokens", 0),
            "query_seconds": ledger.get("query_seconds"),
            "cost": ledger.get("cost"),
        }

    rows = [row(one) for one in found.rows]
    if found.left_out:
        say(f"{found.left_out:,} pictures are not in all files, and left out")
    if as_json:
        for each in rows:
            typer.echo(json.dumps(each, ensure_ascii=False))
        return OK
    typer.echo(f"{found.pictures:,} pictures, {found.classes:,} classes; figures in per cent")
    heads = "".join(f"{name:>7}" for name in _FIGURES)
    typer.echo(f"{'strategy':<12}{heads}{'queries':>10}{'tokens':>12}{'cost':>10}")
    for each in rows:
        figures = "".join(_percent(each[name]) for name in _FIGURES)
        took = f"{each['queries'] or 0:>10,}{each['tokens']:>12,}{each['cost'] or 0:>10.4f}"
        typer.echo(f"{each['strategy']:<12}{figures}{took}")
    return OK


def _number(value: float) -> float | None:
    return None if math.isnan(value) else significant(value)


def _percent(value: float | None) -> str:
    return f"{'-':>7}" if value is None else f"{100 * value:>7.2f}"

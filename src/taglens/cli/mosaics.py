"""``taglens mosaics``: pictures with a complete truth, made from label files whose own truth is not.

Thin: calls `taglens.data.mosaics`, and tells what was kept and what was left out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from taglens.cli.console import OK, ProgressLine, say
from taglens.results import to_line


def run(
    labels: Annotated[
        list[Path], typer.Argument(help="labels.jsonl files, or the folders that hold them; each is a set.")
    ],
    *,
    count: Annotated[int, typer.Option("--count", help="How many mosaics.")],
    out: Annotated[Path, typer.Option("--out", help="The folder to write: new, or empty.")],
    seed: Annotated[int, typer.Option("--seed", help="Another seed, other mosaics.")] = 0,
    side: Annotated[int, typer.Option("--side", help="The side of a tile, in pixels.")] = 96,
    together: Annotated[
        float,
        typer.Option("--together", help="How often a further tile is of the first one's theme, from 0 to 1."),
    ] = 0.6,
    split: Annotated[
        str | None, typer.Option("--split", help="Pictures of this split only.", show_default="all")
    ] = None,
    exclusive: Annotated[
        Path | None,
        typer.Option(
            "--exclusive",
            help="Classes, one a line (and a theme after a tab), that you vouch cannot be in each other's pictures.",
            show_default="those that were judged, see mosaics.json",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="The manifest on standard output.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no summary.")] = False,
) -> int:
    """Make pictures of two to four tiles whose truth is complete: no class can be in a tile of another.

    Writes images/, labels.jsonl, vocabulary.jsonl, senses.txt (what a class is taken for), concepts.jsonl (what tells
    it apart) and mosaics.json (what was left out of the vocabulary, and why). Run again with the same sets and seed,
    it writes the same.
    """
    from taglens.data.exclusive import read_exclusive
    from taglens.data.mosaics import MosaicPlan, gather, make

    plan = MosaicPlan(count, seed, side, together)
    stock = gather(labels, exclusive=None if exclusive is None else read_exclusive(exclusive), split=split)
    line = ProgressLine(count, unit="mosaics")
    try:
        manifest = make(stock, plan, out, progress=None if quiet else lambda done, _: line.reach(done))
    finally:
        line.clear()
    if json:
        typer.echo(to_line(manifest))
    if not quiet:
        splits = ", ".join(f"{name} {number:,}" for name, number in manifest["splits"].items())
        sets = ", ".join(f"{name} {facts['drawn_from']:,}" for name, facts in stock.sets.items())
        say(f"{out}: {count:,} mosaics ({splits}) of {len(stock.classes)} classes; pictures of {sets}")
        say(f"{len(stock.exclusive.left_out)} classes were left out; mosaics.json says why")
    return OK

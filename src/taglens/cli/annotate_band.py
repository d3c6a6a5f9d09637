"""``taglens annotate band``: how wide the hybrid's band must be, from a few labelled pictures.

Thin: calls `taglens.collection.annotation_band` and prints the options to give.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from taglens.cli.annotate_plan import askable_tags
from taglens.cli.captions import require_files
from taglens.cli.console import OK, ProgressLine, say
from taglens.cli.options import Quiet

# Fewer labelled tags than this say little about the rare misses that a band is to leave out.
_LITTLE = 100


def run(
    labels: Annotated[
        Path,
        typer.Argument(metavar="LABELS", help="A labels.jsonl in which everything that is there is named."),
    ],
    *,
    vocabulary: Annotated[
        Path, typer.Option("--vocabulary", help="The vocabulary whose tags are to be asked for.")
    ],
    model: Annotated[str, typer.Option("--model", help="The tagger that proposes.")] = "starter",
    split: Annotated[str | None, typer.Option("--split", help="Only rows of this split.")] = None,
    lost: Annotated[
        float,
        typer.Option("--lost", min=0.0, max=1.0, help="Of the true tags so many may lie below the band."),
    ] = 0.02,
    wrong: Annotated[
        float, typer.Option("--wrong", min=0.0, max=1.0, help="Of the tags above it so many may be wrong.")
    ] = 0.05,
    as_json: Annotated[bool, typer.Option("--json", help="One object on standard output.")] = False,
    quiet: Quiet = False,
) -> int:
    """Fit --below and --above of taglens annotate --strategy hybrid to labelled pictures; asks nobody."""
    from taglens.collection.annotation_band import band_of_labels
    from taglens.inference.tagger import Tagger

    require_files("LABELS", [labels])
    tagger = Tagger.from_pretrained(model).with_vocabulary(askable_tags(vocabulary))
    line: ProgressLine | None = None

    def watch(done: int, total: int) -> None:
        nonlocal line
        if not quiet:
            line = line or ProgressLine(total, unit="pictures")
            line.reach(done)

    try:
        found = band_of_labels(tagger, labels, split=split, lost=lost, wrong=wrong, watch=watch)
    finally:
        if line is not None:
            line.clear()
    if as_json:
        typer.echo(json.dumps(found.to_dict(), ensure_ascii=False))
    else:
        typer.echo(f"--below {found.below:g} --above {found.above:g}")
    if not quiet:
        bad = "nothing lies above it" if found.wrong is None else f"above it {found.wrong:.1%} are wrong"
        say(
            f"{found.pictures:,} pictures, {found.true:,} labels: {found.lost:.1%} of them lie below the band, "
            f"{bad}; a picture has {found.given:.1f} tags above it and {found.asked:.1f} of {found.tags:,} inside, "
            "which are asked about"
        )
        if found.true < _LITTLE:
            say(f"note: {found.true:,} labels are few to fit a band on; {_LITTLE} or more say what is rare")
    return OK

"""``taglens untag``: what exports wrote beside or into pictures goes; everything else stays.

Knows the options. Refuses to know how (`taglens.collection.writers.untag`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from taglens.cli.console import OK, SOME_FAILED, say
from taglens.collection.writers.text import Undone
from taglens.collection.writers.untag import untag


def run(
    sources: Annotated[
        list[Path],
        typer.Argument(metavar="SOURCE", help="Folders, sidecars, or pictures that have sidecars."),
    ],
    *,
    model: Annotated[
        str | None, typer.Option("--model", help="Only tags of this model: NAME or NAME@FINGERPRINT.")
    ] = None,
    embedded: Annotated[
        bool, typer.Option("--embedded", help="Also look inside pictures, by exiftool.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No summary.")] = False,
) -> int:
    """Take back exactly what taglens export wrote into .txt and .xmp sidecars.

    A tag that was there before stays, and so does what you have changed since; a file that an export made, and that
    holds nothing else, goes.
    """
    from taglens.collection.writers.sidecars import ExifTool

    tool = ExifTool.find() if embedded else None
    undone = Undone()
    failed = 0

    def fail(_source: str, reason: str) -> None:
        nonlocal failed
        failed += 1
        say(reason)

    for source in sources:
        untag(source, undone=undone, on_failure=fail, model=model, tool=tool)
    if not quiet or failed:
        parts = [f"{undone.restored} without our tags", f"{undone.removed} removed"]
        if undone.cleaned:
            parts.append(f"{undone.cleaned} edited since, and only our tags taken out")
        if undone.kept:
            parts.append(
                f"{undone.kept} edited after we replaced them: their earlier text stays in the journal"
            )
        if failed:
            parts.append(f"{failed} failed")
        say("sidecars: " + ", ".join(parts))
    return SOME_FAILED if failed else OK

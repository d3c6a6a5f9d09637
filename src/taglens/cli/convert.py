"""``taglens convert``: a published file of weights becomes a model folder of this project.

Thin: calls `taglens.models.published` and `taglens.models.convert`. Needs the ``train`` extra.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from taglens.cli.console import OK, ProgressLine, say

if TYPE_CHECKING:
    from taglens.models.convert import Converted
    from taglens.vocabulary import Vocabulary


def run(
    file: Annotated[Path, typer.Argument(help="Weights of RAM++, RAM or Tag2Text: .pth or .safetensors.")],
    *,
    out: Annotated[Path, typer.Option("--out", help="The model folder to write.")],
    tags: Annotated[
        Path | None, typer.Option("--tags", help="The model's tags: its tag list, or a vocabulary.")
    ] = None,
    thresholds: Annotated[
        Path | None, typer.Option("--thresholds", help="A number a line, in the order of the tags.")
    ] = None,
    descriptions: Annotated[
        int | None, typer.Option("--descriptions", help="Texts per tag of RAM++.", show_default="51")
    ] = None,
    side: Annotated[
        int | None, typer.Option("--side", help="Side of the input, px.", show_default="as trained")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="The model's name.", show_default="FILE's")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was done as one object.")] = False,
) -> int:
    """Turn the original release's weights into a model folder, strictly: every tensor is accounted for."""
    from taglens.inference.engines import require_torch

    require_torch("converting a model")
    from taglens.models.convert import DESCRIPTIONS, convert
    from taglens.models.published import (
        numbered_tags,
        read_published,
        require_place,
        save_converted,
        vocabulary_of,
    )

    require_place(out)
    given = None if tags is None else _with_thresholds(_read(tags), thresholds)
    assumed: tuple[str, ...] = ()
    line = ProgressLine(3, unit="steps")
    try:
        published = read_published(file)
        line.reach(1, "read")
        converted = convert(
            published,
            tags=None if given is None else len(given),
            descriptions=DESCRIPTIONS if descriptions is None else descriptions,
            side=side,
        )
        model_name = name or file.stem
        if given is None:
            assumed = (
                f"no tag list: tags are called tag 1 to tag {converted.config.tags}; give --tags FILE",
            )
            given = _with_thresholds(numbered_tags(converted, name=model_name), thresholds)
        named = vocabulary_of(converted, given)
        line.reach(2, "converted")
        save_converted(converted, named.vocabulary, out, name=model_name)
        line.reach(3, "written")
    finally:
        line.clear()
    notes = (*converted.notes, *assumed, *named.notes)
    _report(converted, named.vocabulary, out, notes, as_json=as_json)
    return OK


def _read(tags: Path) -> Vocabulary:
    from taglens.language.vocabulary_files import read_vocabulary

    return read_vocabulary(tags).vocabulary


def _with_thresholds(vocabulary: Vocabulary, thresholds: Path | None) -> Vocabulary:
    from taglens.language.vocabulary_files import with_threshold_file

    return vocabulary if thresholds is None else with_threshold_file(vocabulary, thresholds)


def _report(
    converted: Converted, vocabulary: Vocabulary, out: Path, notes: tuple[str, ...], *, as_json: bool
) -> None:
    from taglens.inference.bundle import checksum
    from taglens.models.checkpoint import WEIGHTS, read_config

    config = converted.config
    ref = f"{read_config(out)['name']}@{checksum(out / WEIGHTS)[:12]}"
    values = sum(value.numel() for value in converted.state.values())
    dropped = Counter(converted.dropped.values())
    for note in notes:
        say(note)
    for why, count in dropped.items():
        say(f"left out {count} tensors: {why}")
    say(
        f"{out}: {ref}, {converted.family}, {values / 1e6:.1f} M values, {config.tags} tags, side {config.side}; "
        f"to tag without torch: taglens bundle {out} --out DIR"
    )
    if as_json:
        row = {
            "model": ref,
            "vocabulary": vocabulary.ref,
            "folder": str(out),
            "family": converted.family,
            "tags": config.tags,
            "descriptions": config.descriptions,
            "side": config.side,
            "values": values,
            "used": len(converted.used),
            "tied": len(converted.tied),
            "dropped": dict(dropped),
            "notes": list(notes),
        }
        typer.echo(json.dumps(row, ensure_ascii=False))

"""``taglens bundle``: make a trained model into a folder that tags without torch.

Thin: calls `taglens.training.calibration` and `taglens.inference.export`. Needs the ``train`` extra.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from taglens.cli.console import OK, say
from taglens.errors import UsageError


def run(
    model: Annotated[Path, typer.Argument(help="A trained model folder (RUN/model).")],
    *,
    out: Annotated[Path, typer.Option("--out", help="The bundle folder to write.")],
    name: Annotated[
        str | None, typer.Option("--name", help="The bundle's name; by default the model's.")
    ] = None,
    calibrate: Annotated[
        list[Path] | None,
        typer.Option("--calibrate", help="Shard folder whose val split the thresholds are fitted on."),
    ] = None,
    split: Annotated[str, typer.Option("--split", help="The split to calibrate on.")] = "val",
    side: Annotated[
        int | None, typer.Option("--side", help="Side of the input, px; by default as trained.")
    ] = None,
    tag_weight: Annotated[
        float | None,
        typer.Option(
            "--lambda", min=0.0, help="Store how much tags weigh in search; by default the model folder's."
        ),
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Store weights in fp32 instead of fp16.")] = False,
) -> int:
    """Export a trained model to ONNX, with calibrated scores and a threshold for every tag."""
    from taglens.inference.engines import require_torch

    require_torch("exporting a model")
    from dataclasses import replace

    from taglens.data.batches import decode_set
    from taglens.inference.bundle import tag_weight as stored_weight
    from taglens.inference.export import export, texts_of
    from taglens.models.checkpoint import (
        PIECES,
        aligner_from_pretrained,
        captioner_from_pretrained,
        from_pretrained,
        read_config,
    )
    from taglens.training.calibration import fit
    from taglens.training.recipes import open_sources

    recognizer, vocabulary, trained_name = from_pretrained(model)
    config = read_config(model)
    converted = "converted" in config
    if side is not None:
        if side % recognizer.config.encoder.stride:
            raise UsageError(
                f"--side {side} is not a multiple of the encoder's stride {recognizer.config.encoder.stride}"
            )
        recognizer.config = replace(recognizer.config, side=side)
    calibration = None
    if calibrate:
        if converted:
            raise UsageError("--calibrate: a converted model keeps the thresholds that it came with")
        sets = [
            decode_set(source, vocabulary, split=split, side=recognizer.config.side)
            for source in open_sources(calibrate)
            if source.splits.get(split)
        ]
        fitted = fit(recognizer, vocabulary, sets)
        vocabulary, calibration = fitted.vocabulary, fitted.calibration
        pictures = sum(len(s) for s in sets)
        say(
            f"calibrated; thresholds of {fitted.own} of {len(vocabulary)} tags fitted on {pictures:,} pictures, "
            "the rest shared"
        )
    captioner = captioner_from_pretrained(model, recognizer)
    aligner = None if captioner is None else aligner_from_pretrained(model, captioner)
    bundle = export(
        recognizer,
        vocabulary,
        out,
        name=name or trained_name,
        calibration=calibration,
        text=texts_of(model),
        captioner=captioner,
        aligner=aligner,
        tag_weight=stored_weight(config) if tag_weight is None else tag_weight,
        pieces=None if captioner is None else (model / PIECES).read_bytes(),
        # Converted models answer as the original does, for which half precision is too coarse.
        half=not (full or converted),
    )
    say(
        f"{out}: {bundle.ref}, {bundle.graph.stat().st_size / 1e6:.1f} MB, {len(vocabulary)} tags, side {bundle.side}"
        + ("" if captioner is None else ", writes captions")
        + ("" if aligner is None else ", compares pictures with texts")
        + ("" if bundle.typed_threshold is None else ", reads any tag")
    )
    return OK

"""``taglens train``: train a tagger from shard folders.

Thin: reads options, calls `taglens.training.recipes.run`, draws progress. Needs the ``train`` extra (torch).
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from taglens.cli.console import OK, ProgressLine, say
from taglens.errors import MissingExtraError, UsageError

if TYPE_CHECKING:
    from taglens.training.loop import Progress


def run(
    *,
    shards: Annotated[
        list[str],
        typer.Option("--shards", help="A shard folder, or FOLDER=SHARE for its share of the draws."),
    ],
    out: Annotated[Path, typer.Option("--out", help="The run's folder; the same one resumes a run.")],
    steps: Annotated[int, typer.Option("--steps", min=1, help="Updates to make.")],
    until: Annotated[int, typer.Option("--until", min=0, help="Stop after so many of them; 0: all.")] = 0,
    name: Annotated[str, typer.Option("--name", help="The model's name.")] = "model",
    init: Annotated[
        Path | None, typer.Option("--init", help="Start from this model folder; tags are matched by id.")
    ] = None,
    encoder: Annotated[str, typer.Option("--encoder", help="convnet, hybrid, swin or vit.")] = "convnet",
    side: Annotated[int, typer.Option("--side", min=32, help="Side of the training pictures, px.")] = 128,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1)] = 64,
    lr: Annotated[float, typer.Option("--lr", help="Peak learning rate.")] = 1e-3,
    warmup: Annotated[int, typer.Option("--warmup", min=0, help="Steps to the peak.")] = 200,
    weight_decay: Annotated[float, typer.Option("--weight-decay", min=0.0)] = 0.05,
    average: Annotated[float, typer.Option("--average", help="Decay of the weight average.")] = 0.999,
    accumulate: Annotated[
        int, typer.Option("--accumulate", min=1, help="Parts a batch is worked off in, for less memory.")
    ] = 1,
    tags_per_step: Annotated[
        int, typer.Option("--tags-per-step", min=0, help="Tags asked of the decoder a step; 0: all.")
    ] = 96,
    loss_weight: Annotated[
        list[str] | None,
        typer.Option(
            "--loss-weight",
            help="NAME=WEIGHT for tag, rank, text, pooled_tag, pooled_rank, pooled_text or distil.",
        ),
    ] = None,
    gamma_negative: Annotated[
        float,
        typer.Option("--gamma-negative", min=0.0, help="Focus of the asymmetric loss on hard negatives."),
    ] = 7.0,
    shift: Annotated[
        float,
        typer.Option(
            "--shift",
            min=0.0,
            max=0.5,
            help="Negatives below this probability are left alone; 0, with --gamma-negative 0: cross-entropy.",
        ),
    ] = 0.05,
    gamma_text: Annotated[
        float,
        typer.Option("--gamma-text", min=0.0, help="The same where the batch's captions are asked."),
    ] = 4.0,
    text_labels: Annotated[
        bool,
        typer.Option(
            "--text-labels",
            help="Read label embeddings from the tags' names and descriptions instead of learning them: "
            "the model then scores any text.",
        ),
    ] = False,
    views: Annotated[
        int,
        typer.Option(
            "--views",
            min=0,
            help="Encode every picture so many times ahead and train the rest on that; the encoder stands still.",
        ),
    ] = 0,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", help="Train only this part (decoder, encoder, …); freeze the rest."),
    ] = None,
    fresh: Annotated[
        list[str] | None, typer.Option("--fresh", help="Do not take this part from --init; start it anew.")
    ] = None,
    least_area: Annotated[
        float,
        typer.Option("--least-area", min=0.05, max=1.0, help="Smallest part of a picture a crop keeps."),
    ] = 0.35,
    precision: Annotated[
        str,
        typer.Option(
            "--precision", help="fp32, bf16, or auto: bf16 where the processor multiplies it natively."
        ),
    ] = "auto",
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    evaluate_every: Annotated[
        int, typer.Option("--evaluate-every", min=0, help="In steps; 0: at the end.")
    ] = 0,
    checkpoint_every: Annotated[int, typer.Option("--checkpoint-every", min=0, help="In steps.")] = 200,
) -> int:
    """Train a tagger. A killed run goes on from its last checkpoint when the same command is given again."""
    for package in ("torch", "safetensors"):
        if find_spec(package) is None:
            raise MissingExtraError(package, extra="train", purpose="training")
    from taglens.language.text_encoder import shipped
    from taglens.training import parallel, recipes
    from taglens.training.augment import AugmentConfig
    from taglens.training.loop import LoopConfig
    from taglens.training.objectives import TagObjective

    folders, shares = _sources(shards)
    if encoder not in recipes.ENCODERS:
        raise UsageError(f"unknown --encoder {encoder!r}; use {' or '.join(recipes.ENCODERS)}")
    device = parallel.start(device_for(device))
    first = parallel.rank() == 0
    sources = recipes.open_sources(folders)
    config = recipes.RunConfig(
        loop=LoopConfig(
            steps=steps,
            until=until,
            side=side,
            lr=lr,
            warmup=warmup,
            weight_decay=weight_decay,
            average=average,
            seed=seed,
            precision=precision_for(precision, device),
            accumulate=accumulate,
            only=tuple(only or ()),
            augment=AugmentConfig(least_area=least_area),
            evaluate_every=evaluate_every,
            checkpoint_every=checkpoint_every,
        ),
        batch_size=batch_size,
        shares=shares,
        objective=TagObjective(
            gamma_negative=gamma_negative,
            shift=shift,
            gamma_text=gamma_text,
            tags_per_step=tags_per_step,
            weights=weights_from(loss_weight or [], TagObjective().weights),
        ),
        encoder=recipes.ENCODERS[encoder],
        text=shipped() if text_labels else None,
        views=views,
        fresh_parts=tuple(fresh or ()),
    )
    line = ProgressLine(until or steps)

    def report(progress: Progress) -> None:
        losses = "  ".join(f"{key} {value:.3f}" for key, value in progress.losses.items())
        line.reach(progress.step, f"{progress.images_per_s:.0f} images/s  {losses}")

    try:
        folder = recipes.run(
            sources,
            config,
            out=out,
            name=name,
            start=init,
            device=device,
            report=report,
            say=say if first else lambda _: None,
        )
    finally:
        line.clear()
    if first:
        say(f"model: {folder}; log: {out / 'log.jsonl'}")
    parallel.leave(OK)
    return OK


def _sources(given: list[str]) -> tuple[list[Path], dict[str, float]]:
    """``FOLDER`` and ``FOLDER=SHARE`` arguments; shares for all or for none."""
    folders: list[Path] = []
    shares: dict[str, float] = {}
    for argument in given:
        folder, sign, share = argument.rpartition("=")
        if not sign:
            folders.append(Path(argument))
            continue
        folders.append(Path(folder))
        try:
            value = float(share)
        except ValueError:
            value = -1.0
        if not 0 <= value < float("inf"):
            raise UsageError(f"--shards {argument}: the share after = must be a number of at least 0")
        shares[Path(folder).resolve().name] = value
    if shares and len(shares) != len(folders):
        raise UsageError("give a share (FOLDER=SHARE) for every --shards or for none")
    return folders, shares


def weights_from(given: list[str], default: Mapping[str, float]) -> dict[str, float]:
    """``NAME=WEIGHT`` arguments over an objective's defaults."""
    weights = dict(default)
    for argument in given:
        name, _, weight = argument.partition("=")
        if name not in weights:
            raise UsageError(
                f"--loss-weight {argument}: expected NAME=WEIGHT with one of {', '.join(weights)}"
            )
        try:
            weights[name] = float(weight)
        except ValueError:
            raise UsageError(f"--loss-weight {argument}: {weight!r} is no number") from None
    return weights


def device_for(asked: str) -> str:
    import torch

    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if asked.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError("--device cuda: this torch sees no CUDA device; use --device cpu")
    if asked != "cpu" and not asked.startswith("cuda"):
        raise UsageError(f"unknown --device {asked!r}; use auto, cpu or cuda")
    return asked


def precision_for(asked: str, device: str) -> str:
    """bf16 pays where it is native; on AVX2 it measured far slower than fp32 (EXPERIMENTS.md)."""
    import torch

    if asked != "auto":
        return asked
    if device.startswith("cuda"):
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() else "fp32"

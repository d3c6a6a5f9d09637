"""``taglens train captions``: teach a tagger to write captions and to compare pictures with texts.

Thin: reads options, calls `taglens.training.text_recipes.run`, draws progress. Needs the ``train`` extra (torch).
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from taglens.cli.captions import require_files, texts_of
from taglens.cli.console import OK, ProgressLine, say
from taglens.cli.train import device_for, precision_for, weights_from
from taglens.errors import MissingExtraError, UsageError

if TYPE_CHECKING:
    from taglens.training.loop import Progress


def run(
    *,
    init: Annotated[
        Path,
        typer.Option("--init", help="The model folder to begin with: a tagger, or one that writes already."),
    ],
    out: Annotated[Path, typer.Option("--out", help="The run's folder; the same one resumes a run.")],
    steps: Annotated[int, typer.Option("--steps", min=1, help="Updates to make.")],
    until: Annotated[int, typer.Option("--until", min=0, help="Stop after so many of them; 0: all.")] = 0,
    shards: Annotated[
        list[Path] | None,
        typer.Option("--shards", help="A shard folder made from captions; may be repeated."),
    ] = None,
    text: Annotated[
        list[Path] | None,
        typer.Option("--text", help="A file of captions without pictures, one a line or captions.jsonl."),
    ] = None,
    questions: Annotated[
        Path | None,
        typer.Option(
            "--questions", help="A file of questions about the same pictures, as taglens questions makes it."
        ),
    ] = None,
    tagger: Annotated[
        str | None,
        typer.Option(
            "--tagger", help="Model whose tags count as recognised, with its thresholds; by default --init."
        ),
    ] = None,
    name: Annotated[str, typer.Option("--name", help="The model's name.")] = "model",
    parsed: Annotated[
        float,
        typer.Option(
            "--parsed",
            min=0.0,
            max=1.0,
            help="Share of captions guided by the tags that they say; the others by recognised tags.",
        ),
    ] = 0.5,
    unguided: Annotated[
        float, typer.Option("--unguided", min=0.0, max=1.0, help="Share guided by no tags at all.")
    ] = 0.1,
    loss_weight: Annotated[
        list[str] | None, typer.Option("--loss-weight", help="NAME=WEIGHT for lm, itc, itm or tag.")
    ] = None,
    matched: Annotated[
        int, typer.Option("--matched", min=0, help="Pairs a step that are asked for matching (itm); 0: all.")
    ] = 0,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only",
            help="Train only this part (captioner, aligner, recognizer); by default captioner and aligner, "
            "which leaves tagging as it is.",
        ),
    ] = None,
    views: Annotated[
        int,
        typer.Option(
            "--views",
            min=0,
            help="Encode every picture so many times ahead; 0: in every step, as an encoder that "
            "learns needs it.",
        ),
    ] = 8,
    keep_views: Annotated[
        Path | None,
        typer.Option(
            "--keep-views",
            help="Folder for encoded pictures, which other runs find there; by default in --out until it is done.",
        ),
    ] = None,
    width: Annotated[int, typer.Option("--width", min=1, help="Of a captioner that starts anew.")] = 192,
    depth: Annotated[int, typer.Option("--depth", min=1, help="Layers, likewise.")] = 2,
    heads: Annotated[int, typer.Option("--heads", min=1, help="Likewise.")] = 4,
    ffn_width: Annotated[int, typer.Option("--ffn-width", min=1, help="Likewise.")] = 384,
    shared_layers: Annotated[
        int,
        typer.Option(
            "--shared-layers",
            min=0,
            help="Lowest layers that are the tag decoder's too (Tag2Text), likewise.",
        ),
    ] = 0,
    see_picture: Annotated[
        bool,
        typer.Option(
            "--see-picture/--see-tags",
            help="Whether the decoder reads the picture's tokens, too, likewise.",
        ),
    ] = True,
    most_tags: Annotated[
        int, typer.Option("--most-tags", min=0, help="Recognised tags that guide; 0: all. Likewise.")
    ] = 10,
    least_count: Annotated[
        int, typer.Option("--least-count", min=1, help="Of a word that becomes a word piece, likewise.")
    ] = 20,
    batch_size: Annotated[int, typer.Option("--batch-size", min=2)] = 64,
    lr: Annotated[float, typer.Option("--lr", help="Peak learning rate.")] = 1e-3,
    warmup: Annotated[int, typer.Option("--warmup", min=0, help="Steps to the peak.")] = 200,
    weight_decay: Annotated[float, typer.Option("--weight-decay", min=0.0)] = 0.05,
    average: Annotated[float, typer.Option("--average", help="Decay of the weight average.")] = 0.999,
    least_area: Annotated[
        float,
        typer.Option("--least-area", min=0.05, max=1.0, help="Smallest part of a picture a crop keeps."),
    ] = 0.5,
    precision: Annotated[str, typer.Option("--precision", help="fp32, bf16, or auto.")] = "auto",
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    evaluate_every: Annotated[
        int, typer.Option("--evaluate-every", min=0, help="In steps; 0: at the end.")
    ] = 0,
    checkpoint_every: Annotated[int, typer.Option("--checkpoint-every", min=0, help="In steps.")] = 200,
) -> int:
    """Teach a tagger to write captions and to find pictures by text (Tag2Text 1.4 to 1.7).

    A killed run goes on from its last checkpoint when the same command is given again. Export the result with
    taglens bundle.
    """
    for package in ("torch", "safetensors"):
        if find_spec(package) is None:
            raise MissingExtraError(package, extra="train", purpose="training")
    from taglens.data.questions import read_questions
    from taglens.training import text_recipes
    from taglens.training.augment import AugmentConfig
    from taglens.training.loop import LoopConfig
    from taglens.training.recipes import open_sources
    from taglens.training.text_data import GuideMix
    from taglens.training.text_settings import CaptionerSizes, TextRunConfig, Texts
    from taglens.training.text_tasks import TextObjective

    require_files("--text", text or [])
    require_files("--questions", [] if questions is None else [questions])
    parts = tuple(only or ("captioner", "aligner"))
    weights = weights_from(loss_weight or [], TextObjective().weights)
    if "aligner" in parts and not (weights["itc"] or weights["itm"]):
        parts = tuple(part for part in parts if part != "aligner")
    if views and "recognizer" in parts:
        say("pictures are encoded ahead (--views), so the encoder itself stays as it is")
    device = device_for(device)
    config = TextRunConfig(
        loop=LoopConfig(
            steps=steps,
            until=until,
            side=text_recipes.side_of(init),
            lr=lr,
            warmup=warmup,
            weight_decay=weight_decay,
            average=average,
            seed=seed,
            precision=precision_for(precision, device),
            only=parts,
            augment=AugmentConfig(least_area=least_area),
            evaluate_every=evaluate_every,
            checkpoint_every=checkpoint_every,
        ),
        batch_size=batch_size,
        mix=GuideMix(parsed=parsed, none=unguided),
        weights=weights,
        matched=matched,
        views=views,
        sizes=CaptionerSizes(
            width=width,
            depth=depth,
            heads=heads,
            ffn_width=ffn_width,
            shared_layers=shared_layers,
            see_picture=see_picture,
            most_tags=most_tags,
            least=least_count,
        ),
        tagger=tagger,
        keep_views=keep_views,
    )
    plain = [caption for path in text or [] for texts in texts_of(path, split="train") for caption in texts]
    if text and not plain:
        raise UsageError("no caption in the files given with --text; check them")
    asked = [] if questions is None else read_questions(questions, split="train")
    lines = {"steps": ProgressLine(until or steps, unit="steps")}
    line = lines["steps"]

    def prepared(what: str, done: int, total: int) -> None:
        if what not in lines:
            for each in lines.values():
                each.clear()
        lines.setdefault(what, ProgressLine(total, unit=what)).move(done, failed=0)

    def report(progress: Progress) -> None:
        losses = "  ".join(f"{key} {value:.3f}" for key, value in progress.losses.items())
        line.reach(progress.step, f"{progress.images_per_s:.0f} captions/s  {losses}")

    try:
        folder = text_recipes.run(
            open_sources(shards) if shards else [],
            Texts(plain, asked),
            config,
            start=init,
            out=out,
            name=name,
            device=device,
            report=report,
            prepared=prepared,
            say=say,
        )
    finally:
        for each in lines.values():
            each.clear()
    say(f"model: {folder}; log: {out / 'log.jsonl'}; export it with: taglens bundle {folder} --out DIR")
    return OK

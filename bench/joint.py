"""Tagging and captions learned together or apart, and what the tagging head is made of (Tag2Text 1.4 and 1.11).

    python bench/joint.py --start DIR --shards DIR [--steps 500] [--seeds 0] [--arms ...] [--record]

Every arm starts anew over the same frozen encoder's tokens of Flickr8k's training pictures. Arms:
    tags                 the decoder head alone, no captions
    captions             captions alone, no tagging
    joint                the decoder head and captions, nothing shared
    joint shared         the same; the head's two layers are the captioner's encoder's, too, as the paper has it
    joint fully          a fully connected head on the picture's own token, and captions
Told are parameters beyond the encoder and the labels, mAP on val-tags.jsonl, CIDEr with its 95 % interval, BLEU-4 and
the held-out writing losses. --start is a model that writes captions: its encoder, its sizes and its word pieces are
used, none of its other weights. Small runs: arms compare with each other. Needs the extras train and eval.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from captions import Judge
from common import record, shared
from guidance import AT_ONCE, Runs, add_arguments, configured, held_images, held_tokens
from taglens.evaluation.datasets import read_labels
from taglens.evaluation.metrics import average_precisions
from taglens.models.captioner import Captioner
from taglens.models.checkpoint import from_pretrained
from taglens.models.recognizer import Recognizer
from taglens.training.loop import Progress, run_steps
from taglens.training.objectives import TagObjective
from taglens.training.text_data import GuideMix
from taglens.training.text_settings import Texts
from taglens.training.text_steps import Trainer
from taglens.training.text_tasks import Tag2Text
from taglens.vocabulary import Vocabulary

ARMS = ("tags", "captions", "joint", "joint shared", "joint fully")


class FullyConnected(nn.Module):
    """A weight vector and bias for each tag on the picture's own token, called as the decoder is."""

    def __init__(self, width: int, tags: int, *, bias: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.read = nn.Linear(width, tags)
        nn.init.constant_(self.read.bias, bias)

    def forward(self, labels: Tensor, tokens: Tensor, chosen: Tensor | None = None) -> Tensor:
        logits: Tensor = self.read(self.norm(tokens[:, 0]))
        return logits if chosen is None else logits[:, chosen]


def fresh(runs: Runs, arm: str) -> Tag2Text:
    """A model that knows nothing beyond its encoder."""
    torch.manual_seed(runs.config.loop.seed)
    trained = runs.model
    config = replace(trained.recognizer.config, descriptions=0, pooled_term=False, closed_term=False)
    recognizer = Recognizer(config)
    recognizer.encoder = trained.recognizer.encoder
    if arm == "joint fully":
        # As rare as tags are: the decoder's read-out starts there, too.
        bias = float(recognizer.decoder.head.bias.detach()[0])
        recognizer.decoder = FullyConnected(config.token_width, config.tags, bias=bias)  # type: ignore[assignment]
    sizes = replace(trained.captioner.config, shared_layers=2 if arm == "joint shared" else 0)
    captioner = Captioner(sizes)
    if sizes.shared_layers:
        captioner.share_layers(list(recognizer.decoder.layers))
    captioner.train()
    return Tag2Text(recognizer, captioner, None)


def parameters(model: Tag2Text, arm: str) -> int:
    """What is learned, labels and encoder apart; what two parts share counts once."""
    parts: list[nn.Module] = [model.recognizer.project]
    if arm != "captions":
        parts.append(model.recognizer.decoder)
    if arm != "tags":
        parts.append(model.captioner)
    return sum(each.numel() for each in {id(p): p for part in parts for p in part.parameters()}.values())


def precision(model: Tag2Text, runs: Runs, vocabulary: Vocabulary) -> float:
    """mAP over the yardstick's names."""
    rows = read_labels(shared() / "data" / "flickr8k" / "val-tags.jsonl")
    given = {Path(row.path).name: set(row.labels) for row in rows}
    names = sorted(set().union(*given.values()))
    columns = [vocabulary.find(name) for name in names]
    if None in columns:
        raise SystemExit(f"the vocabulary lacks {names[columns.index(None)]!r} of the yardstick")
    truth = np.array([[name in given[picture] for name in names] for picture in runs.held_names], np.uint8)
    tokens = torch.from_numpy(held_tokens(model, runs.held, runs.config.loop.side))
    with torch.inference_mode():
        parts = [
            model.recognizer.score(tokens[at : at + AT_ONCE]).logits for at in range(0, len(tokens), AT_ONCE)
        ]
    return float(average_precisions(torch.cat(parts)[:, columns].numpy(), truth).mean())


def teller(arm: str) -> Callable[[Progress], None]:
    return lambda progress: print(arm, progress.step, progress.losses, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_arguments(parser, steps=500, batch_size=64)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    options = parser.parse_args()
    base = replace(
        configured(options, only=("recognizer", "captioner")),
        mix=GuideMix(parsed=0.5, none=0.1),
        tagging=TagObjective(
            gamma_negative=0.0, shift=0.0, tags_per_step=96, weights={"tag": 1.0, "rank": 0.0, "text": 0.0}
        ),
    )
    runs = Runs(options.start, options.shards, base)
    _, vocabulary, _ = from_pretrained(options.start)
    judge = Judge(held_images(runs), vocabulary)
    for seed in options.seeds:
        for arm in options.arms:
            weights = {
                "lm": 0.0 if arm == "tags" else 1.0,
                "itc": 0.0,
                "itm": 0.0,
                "tag": 0.0 if arm == "captions" else 1.0,
            }
            runs.config = runs.reader.config = replace(
                base, loop=replace(base.loop, seed=seed), weights=weights
            )
            model = fresh(runs, arm)
            count = parameters(model, arm)
            trainer = Trainer(
                model, runs.reader, runs.reader.streams(runs.sources, Texts(), runs.seen), runs.seen.views
            )
            started = time.perf_counter()
            with tempfile.TemporaryDirectory() as folder:
                model = run_steps(
                    model,
                    trainer.gradients,
                    runs.config.loop,
                    out=Path(folder),
                    report=teller(arm),
                )
            figures: dict[str, object] = {
                "parameters": count,
                "seconds": round(time.perf_counter() - started),
            }
            if arm != "captions":
                figures["mAP"] = round(precision(model, runs, vocabulary), 4)
            if arm != "tags":
                found = judge(runs.captions(model, guided=True, beams=3))
                losses = {name: round(value, 4) for name, value in trainer.judge(model, runs.held).items()}
                figures |= {
                    name: found[name] for name in ("CIDEr", "CIDEr_95", "BLEU-4", "distinct")
                } | losses
            settings = {
                "arm": arm,
                "seed": seed,
                "steps": options.steps,
                "batch_size": options.batch_size,
                "views": options.views,
                "threads": torch.get_num_threads(),
            }
            if options.record:
                record("joint", settings, figures)
            else:
                print(settings, figures, flush=True)


if __name__ == "__main__":
    main()

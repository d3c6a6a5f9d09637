"""What the loss and the head cost: heads trained over one frozen encoder, scored on the fixed yardstick.

    python bench/heads.py --model MODEL --shards SHARDS/flickr8k [--epochs 16]

Every head sees the same cached tokens (each picture as it is and mirrored) and is trained by AdamW with a cosine to
zero. Compared are focus and shift of the asymmetric loss against plain cross-entropy, and a linear head on the mean
token against one with the maximum, and one with a hidden layer. Appends one line to bench/results/heads.jsonl.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from common import record, shared
from taglens.data.batches import decode_set
from taglens.data.shards import ShardSet
from taglens.evaluation.metrics import average_precisions
from taglens.models.checkpoint import from_pretrained
from taglens.training.augment import AugmentConfig
from taglens.training.cached import encode
from taglens.training.losses import asymmetric_loss

MIRROR = AugmentConfig(least_area=1.0, aspect=1.0, turn=0.0, colour=0.0, flip=1.0, erase=0.0)
# name -> (gamma on negatives, shift)
LOSSES = {
    "cross-entropy": (0.0, 0.0),
    "focus 0, shift 0.05": (0.0, 0.05),
    "focus 2, shift 0.05": (2.0, 0.05),
    "focus 4, shift 0.05": (4.0, 0.05),
    "focus 7, shift 0.05": (7.0, 0.05),
}


def features(tokens: np.ndarray, *, maximum: bool) -> Tensor:
    """The mean token [N, C], and beside it the maximum over the others."""
    whole = torch.from_numpy(tokens).float()
    mean = whole[:, 0]
    return torch.cat([mean, whole[:, 1:].amax(1)], dim=1) if maximum else mean


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="a trained folder; its encoder is used")
    parser.add_argument("--shards", type=Path, required=True, help="flickr8k as shards")
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    model, _, name = from_pretrained(options.model)
    shards = ShardSet.open(options.shards)
    yardstick = shared() / "data" / "flickr8k" / "val-tags.jsonl"
    given = {row["image"]: set(row["labels"]) for row in map(json.loads, yardstick.open())}
    names = sorted(set().union(*given.values()))
    columns = [shards.vocabulary.find(each) for each in names]
    assert None not in columns, "the vocabulary lacks a name of the yardstick"
    truth = np.array([[n in given[s.source] for n in names] for s in shards.samples("val")], np.uint8)

    train = decode_set(shards, shards.vocabulary, split="train", side=options.side)
    val = decode_set(shards, shards.vocabulary, split="val", side=options.side)
    (plain,) = encode(model, train, side=options.side)
    (mirrored,) = encode(model, train, side=options.side, views=1, config=MIRROR)
    (held,) = encode(model, val, side=options.side)
    targets = torch.from_numpy(train.present).float().repeat(2, 1)

    def score(loss: tuple[float, float], *, maximum: bool = False, hidden: int = 0) -> float:
        torch.manual_seed(options.seed)
        seen = torch.cat([features(s.pixels, maximum=maximum) for s in (plain, mirrored)])
        asked = features(held.pixels, maximum=maximum)
        mean, spread = seen.mean(0), seen.std(0) + 1e-6
        seen, asked = (seen - mean) / spread, (asked - mean) / spread
        last = nn.Linear(hidden or seen.shape[1], targets.shape[1])
        nn.init.zeros_(last.weight)
        nn.init.constant_(last.bias, -4.0)
        head: nn.Module = last
        if hidden:
            head = nn.Sequential(nn.Linear(seen.shape[1], hidden), nn.GELU(), nn.Dropout(0.3), last)
        optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3, weight_decay=0.01)
        steps, size = options.epochs * (len(train) // 64), 64
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = 0.5e-3 * (1 + math.cos(math.pi * step / steps))
            rows = torch.randint(len(seen), (size,))
            logits = head(seen[rows])
            cost = asymmetric_loss(
                logits, targets[rows], torch.ones_like(logits), gamma_negative=loss[0], shift=loss[1]
            )
            optimizer.zero_grad()
            (cost.sum() / targets[rows].sum()).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        head.eval()
        with torch.inference_mode():
            scores = head(asked)[:, columns].numpy()
        return round(float(average_precisions(scores, truth).mean()), 4)

    figures = {f"linear, {loss}": score(settings) for loss, settings in LOSSES.items()}
    figures["linear on mean and maximum, cross-entropy"] = score((0.0, 0.0), maximum=True)
    figures["one hidden layer of 512, cross-entropy"] = score((0.0, 0.0), hidden=512)
    settings = {"model": name, "side": options.side, "epochs": options.epochs, "seed": options.seed}
    record("heads", settings, figures)


if __name__ == "__main__":
    main()

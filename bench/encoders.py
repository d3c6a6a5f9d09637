"""The two encoders side by side: the same minutes, data and settings, from scratch.

    python bench/encoders.py --shards FOLDER [--shards FOLDER ...] [--minutes 5] [--side 64]

Steps are chosen so that each encoder trains for about the same time on this machine (its speed is measured first);
what counts is what is learned in that time. Appends one line to bench/results/encoders.jsonl.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from common import record
from taglens.models.configs import EncoderConfig, RecognizerConfig
from taglens.models.recognizer import Recognizer
from taglens.training.loop import LoopConfig
from taglens.training.objectives import TagObjective
from taglens.training.recipes import ENCODERS, RunConfig, open_sources, run

RATES: Mapping[str, float] = {"convnet": 2e-3, "hybrid": 1e-3}
PROBE_STEPS = 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shards", type=Path, action="append", required=True)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    sources = open_sources(options.shards)
    figures: dict[str, Any] = {}
    for name, encoder in ENCODERS.items():
        with tempfile.TemporaryDirectory() as folder:
            probe = trial(sources, encoder, options, Path(folder) / "probe", PROBE_STEPS, RATES[name])
            steps = max(20, int(options.minutes * 60 * probe["images_per_s"] / options.batch_size))
            figures[name] = trial(sources, encoder, options, Path(folder) / "run", steps, RATES[name])
    settings = {
        "minutes": options.minutes,
        "side": options.side,
        "batch_size": options.batch_size,
        "seed": options.seed,
        "rates": dict(RATES),
        "sources": [source.name for source in sources],
        "threads": torch.get_num_threads(),
    }
    record("encoders", settings, figures)


def trial(
    sources: Any, encoder: EncoderConfig, options: argparse.Namespace, out: Path, steps: int, rate: float
) -> dict[str, Any]:
    config = RunConfig(
        loop=LoopConfig(
            steps=steps,
            side=options.side,
            lr=rate,
            warmup=min(100, steps // 4),
            average=0.99,
            seed=options.seed,
            checkpoint_every=0,
        ),
        batch_size=options.batch_size,
        objective=TagObjective(tags_per_step=32),
        encoder=encoder,
    )
    start = time.perf_counter()
    run(sources, config, out=out, name="trial")
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    speed = [row["images_per_s"] for row in rows if "images_per_s" in row][-1]
    scores = [row["evaluation"] for row in rows if "evaluation" in row][-1]
    tags = len(sources[0].vocabulary)
    model = Recognizer(RecognizerConfig(encoder=encoder, tags=tags, side=options.side))
    return {
        "parameters_millions": round(sum(p.numel() for p in model.encoder.parameters()) / 1e6, 2),
        "steps": steps,
        "images_per_s": speed,
        "seconds": round(time.perf_counter() - start, 1),
        "mAP": {name: round(value, 4) for name, value in scores.items()},
    }


if __name__ == "__main__":
    main()

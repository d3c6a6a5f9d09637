"""Two updates of RAM++ at the papers' size: time and memory.

    python bench/full_size.py [--batch-size 2] [--accumulate 1]

Head, label bank, objective and schedule are the published ones (`taglens.training.papers.RAM_PLUS`): 4,585 tags of 51
descriptions each, 512 wide, a decoder of two layers 768 wide, captions beside the tags, distillation, 224 px. The
encoder is this release's convolutional one at about the size of Swin-B. Pictures, texts and the teacher's features
are noise: nothing is learned, only measured. Appends one line to bench/results/full_size.jsonl.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from common import record
from taglens.data.batches import BatchStream, PictureSet
from taglens.models.configs import ConvNetConfig, DecoderConfig, RecognizerConfig
from taglens.models.label_bank import DescriptionBank
from taglens.models.recognizer import Recognizer
from taglens.training.loop import Progress, train
from taglens.training.papers import RAM_PLUS, loop_config

TAGS, DESCRIPTIONS, WIDTH = 4585, 51, 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--accumulate", type=int, default=1)
    options = parser.parse_args()
    stage = RAM_PLUS.stages[0]
    config = RecognizerConfig(
        encoder=ConvNetConfig(widths=(128, 256, 512, 1024), depths=(2, 3, 6, 3), stem_width=64),
        tags=TAGS,
        decoder=DecoderConfig(width=768, depth=2, heads=4, ffn_width=3072, input_norm=False),
        token_width=WIDTH,
        label_width=WIDTH,
        descriptions=DESCRIPTIONS,
        pooled_term=False,
        side=stage.side,
    )
    torch.manual_seed(0)
    model = Recognizer(config)
    texts = F.normalize(torch.randn(TAGS, DESCRIPTIONS, WIDTH), dim=-1)
    model.bank = DescriptionBank(texts, torch.full((TAGS,), DESCRIPTIONS))
    rng = np.random.default_rng(0)
    count = 4 * options.batch_size
    captions = rng.standard_normal((count, 1, WIDTH)).astype(np.float32)
    pictures = PictureSet(
        "noise",
        rng.integers(0, 256, (count, stage.side, stage.side, 3), np.uint8),
        (rng.random((count, TAGS)) < 0.003).astype(np.uint8),
        np.ones(TAGS, np.float32),
        texts=captions / np.linalg.norm(captions, axis=-1, keepdims=True),
        text_counts=np.ones(count, np.int64),
        taught=rng.standard_normal((count, WIDTH)).astype(np.float32),
    )
    loop = replace(
        loop_config(stage, pictures=count),
        steps=2,
        log_every=1,
        checkpoint_every=0,
        accumulate=options.accumulate,
    )
    objective = replace(RAM_PLUS.objective, tags_per_step=0, weights=RAM_PLUS.losses)
    ends: list[float] = []
    losses: dict[str, float] = {}

    def report(progress: Progress) -> None:
        ends.append(time.perf_counter())
        losses.update(progress.losses)

    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        stream = BatchStream([pictures], batch_size=options.batch_size)
        train(model, stream, objective, loop, out=Path(folder), report=report)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    figures = {
        "parameters_millions": round(millions, 1),
        "label_values_millions": round(texts.numel() / 1e6, 1),
        "first_update_s": round(ends[0] - begun, 2),
        "second_update_s": round(ends[1] - ends[0], 2),
        "peak_memory_gib": round(peak, 2),
        "losses": {name: round(value, 3) for name, value in losses.items()},
    }
    settings = {
        "batch_size": options.batch_size,
        "accumulate": options.accumulate,
        "side": stage.side,
        "precision": loop.precision,
        "threads": torch.get_num_threads(),
    }
    record("full_size", settings, figures)


if __name__ == "__main__":
    main()

"""Where a training step's time goes, as ratios within one run.

    python bench/training.py [--batch-size 64] [--side 64] [--tags 1332] [--repeat 5]

Times a 3x3 convolution in fp32 and in bf16 autocast, and a forward and backward pass of the starter's model with the
decoder asked about all tags, a sample of them, and not run. Appends one line to bench/results/training.jsonl.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from common import record
from taglens.models.configs import ConvNetConfig, RecognizerConfig
from taglens.models.recognizer import Recognizer


def median_s(work: Callable[[], Any], repeat: int) -> float:
    work()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def convolution_gflops(precision: torch.dtype, repeat: int, *, width: int = 256, side: int = 8) -> float:
    """Forward and backward of one 3x3 convolution over 32 pictures."""
    layer = nn.Conv2d(width, width, 3, padding=1, bias=False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.randn(32, width, side, side).to(memory_format=torch.channels_last).requires_grad_()

    def work() -> None:
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            y = layer(x)
        y.float().sum().backward()

    return 6 * width * width * 9 * side * side * 32 / median_s(work, repeat) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--tags", type=int, default=1332)
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    config = RecognizerConfig(encoder=ConvNetConfig(), tags=options.tags, side=options.side)
    model = Recognizer(config).train()
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.rand(options.batch_size, 3, options.side, options.side)
    images = images.contiguous(memory_format=torch.channels_last)

    def step(asked: int) -> Callable[[], None]:
        def work() -> None:
            tokens = model.tokens(images)
            answer = model.pooled_logits(tokens)
            if asked:
                answer = answer[:, :asked] + model.decoder(model.bank.plain()[:asked], tokens)
            answer.sum().backward()  # type: ignore[no-untyped-call]

        return work

    alone = median_s(step(0), options.repeat)
    figures = {
        "convolution_fp32_gflops": round(convolution_gflops(torch.float32, options.repeat), 1),
        "convolution_bf16_gflops": round(convolution_gflops(torch.bfloat16, options.repeat), 1),
        "step_without_decoder_s": round(alone, 3),
        "step_96_tags_ratio": round(median_s(step(96), options.repeat) / alone, 2),
        "step_all_tags_ratio": round(median_s(step(options.tags), options.repeat) / alone, 2),
    }
    settings = {
        "batch_size": options.batch_size,
        "side": options.side,
        "tags": options.tags,
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
    }
    record("training", settings, figures)


if __name__ == "__main__":
    main()

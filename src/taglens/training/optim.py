"""Optimiser, learning-rate schedule and weight averaging."""

from __future__ import annotations

import copy
import math
from typing import Generic, TypeVar

import torch
from torch import nn

Model = TypeVar("Model", bound=nn.Module)


def adamw(model: nn.Module, *, lr: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW over what is not frozen; only matrices decay, not biases, norms, scales, tables, label embeddings."""
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        # Positions and tables of relative positions are no maps; they stand under names of their own.
        matrix = parameter.ndim > 1 and name.endswith("weight") and not name.startswith("bank.")
        (decayed if matrix else free).append(parameter)
    return torch.optim.AdamW(
        [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}],
        lr=lr,
        betas=(0.9, 0.98),
    )


def rate(
    step: int,
    *,
    steps: int,
    warmup: int,
    peak: float,
    floor: float = 0.01,
    decay: float | None = None,
    every: int = 0,
) -> float:
    """Linear warm-up over ``warmup`` steps, then half a cosine down to ``floor * peak``.

    With ``decay`` the rate is instead multiplied by it after every ``every`` steps, counted from the first: the
    papers' schedule, an epoch each.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    if decay is not None:
        return peak * decay ** (step // every)
    along = (step - warmup) / max(1, steps - warmup)
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, along))))


class Average(Generic[Model]):
    """An exponential moving average of a model's weights, held as a model of its own.

    The decay grows with the number of updates, ``min(decay, (1 + n) / (10 + n))``, so that early noise is forgotten.
    Batch statistics are averaged with the weights they were measured under; counters are copied.
    """

    def __init__(self, model: Model, decay: float) -> None:
        self.model: Model = copy.deepcopy(model)
        self.model.eval().requires_grad_(False)
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        mine = [p.detach() for p in self.model.parameters()]
        # As a step towards the new value, so that what stands still is left exactly as it is.
        torch._foreach_lerp_(mine, [p.detach() for p in model.parameters()], 1 - decay)
        for buffer, fresh in zip(self.model.buffers(), model.buffers(), strict=True):
            if buffer.is_floating_point():
                buffer.lerp_(fresh, 1 - decay)
            else:
                buffer.copy_(fresh)

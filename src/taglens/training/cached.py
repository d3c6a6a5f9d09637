"""Training the rest of a model over an encoder that stands still: what it sees of every picture is computed once.

A step over cached tokens costs only the heads, so that a change to them is judged in minutes. Each picture is seen in
several views, cropped and tinted as the loop would, and each view becomes a `PictureSet` of its own whose ``pixels``
are the encoder's tokens.
Shapes: N pictures, S side, P tokens, C encoder width, K token width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from taglens.data.batches import Batch, PictureSet
from taglens.models.recognizer import Recognizer
from taglens.training.augment import AugmentConfig, augment, plain

_AT_ONCE = 64


def encode(
    model: Recognizer,
    pictures: PictureSet,
    *,
    side: int,
    views: int = 0,
    config: AugmentConfig | None = None,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> list[PictureSet]:
    """A set per view, ``pixels`` float16 [N, 1 + P, C]; with ``views`` 0 one set of the pictures as they are.

    Args:
        config: how views differ; required with views.
        progress: told after each part how many pictures were encoded in all.
    """
    if views and config is None:
        raise ValueError("views differ by an augmentation: give its configuration")
    device = next(model.parameters()).device
    model.eval()
    found = []
    done = 0
    for view in range(max(views, 1)):
        # One generator a view: the same seed gives the same views.
        generator = torch.Generator().manual_seed((seed * 1_000_003 + view) % 2**63)
        rows = []
        with torch.inference_mode():
            for start in range(0, len(pictures), _AT_ONCE):
                pixels = torch.from_numpy(pictures.pixels[start : start + _AT_ONCE]).to(device)
                if views and config is not None:
                    seen = augment(pixels, side, config, generator=generator)
                else:
                    seen = plain(pixels, side)
                rows.append(model.encoder(seen).half().cpu().numpy())
                done += len(pixels)
                if progress:
                    progress(done)
        name = f"{pictures.name}.{view}" if views else pictures.name
        found.append(replace(pictures, name=name, pixels=np.concatenate(rows)))
    return found


def teach(
    pictures: PictureSet, teacher: Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]
) -> PictureSet:
    """The set with what a frozen teacher makes of its pictures, for distillation.

    Args:
        teacher: uint8 [B, S, S, 3] to float32 [B, K], as wide as the model's tokens (the papers: CLIP).
    """
    rows = [teacher(pictures.pixels[start : start + _AT_ONCE]) for start in range(0, len(pictures), _AT_ONCE)]
    return replace(pictures, taught=np.concatenate(rows))


def look(model: Recognizer, batch: Batch, rows: npt.NDArray[np.intp], generator: torch.Generator) -> Tensor:
    """Tokens [R, 1 + P, K] of the rows of a batch drawn from such sets: what the loop takes in place of pictures."""
    device = next(model.parameters()).device
    tokens: Tensor = model.project(torch.from_numpy(batch.pixels[rows]).to(device).float())
    return tokens

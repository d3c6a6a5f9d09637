"""Regions where a model's alignment decoder looks when it is asked for a tag: a detector that costs no labels.

Knows attention maps and boxes around their bright parts. Needs torch and a trained model: an exported bundle gives no
attention. Shapes: J tags, H heads, N tokens in a square grid of side G, D decoder width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from taglens import images
from taglens.errors import ModelError, UsageError
from taglens.models.alignment import AlignmentDecoder, CrossAttention
from taglens.models.recognizer import Recognizer
from taglens.training.engine_regions import WHOLE, Box, Region, Seen
from taglens.vocabulary import Vocabulary


class AttentionCrops:
    """The whole picture, and for each tag a box around where the decoder's last layer looks for it.

    Args:
        model: a trained model; vocabulary: its own.
        ref: ``name@fingerprint`` of it.
        bright: cells whose attention reaches this share of the tag's highest belong to its box.

    Raises:
        UsageError: a share outside 0 to 1.
    """

    def __init__(self, model: Recognizer, vocabulary: Vocabulary, *, ref: str, bright: float = 0.5) -> None:
        if not 0.0 < bright <= 1.0:
            raise UsageError(f"bright is {bright}: expected a share above 0, up to 1")
        self._model = model.eval()
        self._vocabulary = vocabulary
        self._ref = ref
        self._bright = bright

    @property
    def name(self) -> str:
        return f"attention of {self._ref} from {self._bright:g}"

    def __call__(self, picture: Seen, tags: Sequence[str]) -> list[Region]:
        known = [tag for tag in tags if tag in self._vocabulary]
        regions = [Region(WHOLE)]
        if known:
            columns = [self._vocabulary.position(tag) for tag in known]
            pixels = images.prepare(picture.pixels, self._model.config.side)
            maps = attention_maps(self._model, torch.from_numpy(pixels), columns)
            regions += [
                Region(bright_box(each, bright=self._bright), tag)
                for tag, each in zip(known, maps, strict=True)
            ]
        return regions


def attention_maps(model: Recognizer, pixels: Tensor, columns: Sequence[int]) -> npt.NDArray[np.float32]:
    """How the last layer's attention for tags [J] spreads over a picture [3, S, S]: [J, G, G], heads averaged.

    Raises:
        ModelError: the tokens form no square.
    """
    device = next(model.parameters()).device
    decoder: AlignmentDecoder = model.decoder
    attention: Any = decoder.layers[-1].attention
    kept: list[tuple[Tensor, Tensor]] = []
    hook = attention.register_forward_pre_hook(lambda _, given: kept.append((given[0], given[1])))
    try:
        with torch.inference_mode():
            tokens = model.tokens(pixels[None].to(device))
            model.score(tokens, torch.as_tensor(list(columns), device=device))
            weights = _weights(attention, *kept[-1])
    finally:
        hook.remove()
    # Token 0 is the pooled one, which is nowhere.
    spatial = weights.mean(dim=1)[0, :, 1:]
    side = int(spatial.shape[1] ** 0.5)
    if side * side != spatial.shape[1]:
        raise ModelError(f"the model's {spatial.shape[1]} tokens form no square: use sliding crops")
    maps: npt.NDArray[np.float32] = spatial.reshape(len(columns), side, side).float().cpu().numpy()
    return maps


def _weights(attention: CrossAttention, queries: Tensor, tokens: Tensor) -> Tensor:
    """Softmax weights [1, H, J, 1 + N] that `CrossAttention` mixes values with."""
    query, key = attention._split(attention.query(queries)), attention._split(attention.key(tokens))
    return torch.softmax(query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5, dim=-1)


def bright_box(attention: npt.NDArray[np.float32], *, bright: float) -> Box:
    """The box of the connected cells [G, G] around the brightest that reach a share of its brightness."""
    side = len(attention)
    able = attention >= bright * attention.max()
    first = np.unravel_index(int(attention.argmax()), attention.shape)
    waiting = [(int(first[0]), int(first[1]))]
    found: set[tuple[int, int]] = set()
    while waiting:
        row, column = waiting.pop()
        if 0 <= row < side and 0 <= column < side and able[row, column] and (row, column) not in found:
            found.add((row, column))
            waiting += [(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)]
    rows, columns = zip(*found, strict=True)
    return min(columns) / side, min(rows) / side, (max(columns) + 1) / side, (max(rows) + 1) / side

"""State dicts under the original release's key names, of any size, with random numbers.

Knows the names and shapes from the format of the published files alone, so that the converter is tested against them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

SMALL = {"width": 8, "depths": (2, 2), "heads": (1, 2), "window": 2}
SWIN_L = {"width": 192, "depths": (2, 2, 18, 2), "heads": (6, 12, 24, 48), "window": 12}


def swin_shapes(width: int, depths: tuple[int, ...], heads: tuple[int, ...], window: int) -> dict[str, tuple]:
    """Names and shapes of `visual_encoder.*`."""
    shapes: dict[str, tuple] = {
        "patch_embed.proj.weight": (width, 3, 4, 4),
        "patch_embed.proj.bias": (width,),
    }
    shapes |= _norm("patch_embed.norm", width)
    for stage, (depth, head) in enumerate(zip(depths, heads, strict=True)):
        c = width << stage
        for number in range(depth):
            block = f"layers.{stage}.blocks.{number}"
            shapes |= _norm(f"{block}.norm1", c) | _norm(f"{block}.norm2", c)
            shapes[f"{block}.attn.relative_position_bias_table"] = ((2 * window - 1) ** 2, head)
            shapes |= _linear(f"{block}.attn.qkv", c, 3 * c) | _linear(f"{block}.attn.proj", c, c)
            shapes |= _linear(f"{block}.mlp.fc1", c, 4 * c) | _linear(f"{block}.mlp.fc2", 4 * c, c)
        if stage < len(depths) - 1:
            shapes |= _norm(f"layers.{stage}.downsample.norm", 4 * c)
            shapes[f"layers.{stage}.downsample.reduction.weight"] = (2 * c, 4 * c)
    shapes |= _norm("norm", width << (len(depths) - 1))
    return {f"visual_encoder.{key}": shape for key, shape in shapes.items()}


def head_shapes(width: int, token_width: int, ffn: int, depth: int = 2) -> dict[str, tuple]:
    """Names and shapes of `tagging_head.*`."""
    shapes: dict[str, tuple] = {}
    for number in range(depth):
        layer = f"tagging_head.encoder.layer.{number}"
        shapes |= _linear(f"{layer}.crossattention.self.query", width, width)
        shapes |= _linear(f"{layer}.crossattention.self.key", token_width, width)
        shapes |= _linear(f"{layer}.crossattention.self.value", token_width, width)
        shapes |= _linear(f"{layer}.crossattention.output.dense", width, width)
        shapes |= _norm(f"{layer}.crossattention.output.LayerNorm", width)
        shapes |= _linear(f"{layer}.intermediate.dense", width, ffn)
        shapes |= _linear(f"{layer}.output.dense", ffn, width) | _norm(f"{layer}.output.LayerNorm", width)
    return shapes


def ram(
    swin: dict = SMALL,
    *,
    tags: int = 5,
    descriptions: int = 51,
    labels: int = 12,
    width: int = 16,
    ffn: int = 32,
    plus: bool = True,
    seed: int = 0,
) -> dict[str, Tensor]:
    """A RAM++ state dict, or (``plus`` false) a RAM one."""
    out = swin["width"] << (len(swin["depths"]) - 1)
    shapes = swin_shapes(**swin) | head_shapes(width, labels, ffn)
    shapes |= _linear("image_proj", out, labels) | _linear("wordvec_proj", labels, width)
    shapes |= _linear("fc", width, 1)
    state = _random(shapes, seed)
    table = _numbers((tags * (descriptions if plus else 1), labels), seed)
    state["label_embed"] = table.div_(table.norm(dim=-1, keepdim=True))
    if plus:
        state["reweight_scale"] = torch.tensor(2.66)
    return state


def tag2text(swin: dict = SMALL, *, tags: int = 7, width: int = 16, seed: int = 0) -> dict[str, Tensor]:
    """A Tag2Text state dict with a rest of its captioner."""
    out = swin["width"] << (len(swin["depths"]) - 1)
    state = _random(swin_shapes(**swin) | head_shapes(width, out, 32), seed)
    state["label_embed.weight"] = _numbers((tags, width), seed)
    state["fc.W"], state["fc.b"] = _numbers((1, tags, width), seed + 1), _numbers((1, tags), seed + 2)
    shared = "encoder.layer.0.crossattention.output.dense.weight"
    state[f"tag_encoder.{shared}"] = state[f"tagging_head.{shared}"].clone()
    state["tag_encoder.embeddings.word_embeddings.weight"] = _numbers((9, width), seed)
    state["text_decoder.cls.predictions.bias"] = _numbers((9,), seed)
    return state


def _random(shapes: dict[str, tuple], seed: int) -> dict[str, Tensor]:
    state = {}
    for number, (key, shape) in enumerate(shapes.items()):
        scale = shape[-1] ** -0.5 if len(shape) == 2 else 0.1
        near = 1.0 if "norm" in key.lower() and key.endswith("weight") else 0.0
        state[key] = _numbers(shape, seed + number).mul_(scale).add_(near)
    return state


def _numbers(shape: tuple, seed: int) -> Tensor:
    """Normal numbers that repeat from the millionth on: drawing hundreds of millions would take a minute."""
    count = math.prod(shape)
    some = torch.randn(min(count, 1_000_003), generator=torch.Generator().manual_seed(seed))
    return some.repeat(-(-count // len(some)))[:count].view(shape)


def _linear(name: str, inner: int, outer: int) -> dict[str, tuple]:
    return {f"{name}.weight": (outer, inner), f"{name}.bias": (outer,)}


def _norm(name: str, width: int) -> dict[str, tuple]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}

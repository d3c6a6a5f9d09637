"""State dicts under the original release's key names, of any size, with random numbers.

Knows the names and shapes from the format of the published files alone, so that the converter is tested against them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

SMALL = {"width": 8, "depths": (2, 2), "heads": (1, 2), "window": 2}
SWIN_L = {"width": 192, "depths": (2, 2, 18, 2), "heads": (6, 12, 24, 48), "window": 12}
VIT_SMALL = {"width": 128, "depth": 2, "patch": 4, "grid": 4}
VIT_B = {"width": 768, "depth": 12, "patch": 16, "grid": 24}
POSITIONS = 48  # most pieces of a caption


def encoder_shapes(encoder: dict) -> dict[str, tuple]:
    """Names and shapes of `visual_encoder.*`: a Swin's, or those of a plain vision transformer, which has a grid."""
    return vit_shapes(**encoder) if "grid" in encoder else swin_shapes(**encoder)


def out_width(encoder: dict) -> int:
    return encoder["width"] if "grid" in encoder else encoder["width"] << (len(encoder["depths"]) - 1)


def vit_shapes(width: int, depth: int, patch: int, grid: int) -> dict[str, tuple]:
    """Names and shapes of `visual_encoder.*`."""
    shapes: dict[str, tuple] = {"cls_token": (1, 1, width), "pos_embed": (1, 1 + grid**2, width)}
    shapes |= {"patch_embed.proj.weight": (width, 3, patch, patch), "patch_embed.proj.bias": (width,)}
    for number in range(depth):
        block = f"blocks.{number}"
        shapes |= _norm(f"{block}.norm1", width) | _norm(f"{block}.norm2", width)
        shapes |= _linear(f"{block}.attn.qkv", width, 3 * width) | _linear(f"{block}.attn.proj", width, width)
        shapes |= _linear(f"{block}.mlp.fc1", width, 4 * width)
        shapes |= _linear(f"{block}.mlp.fc2", 4 * width, width)
    shapes |= _norm("norm", width)
    return {f"visual_encoder.{key}": shape for key, shape in shapes.items()}


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
    encoder: dict = SMALL,
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
    shapes = encoder_shapes(encoder) | head_shapes(width, labels, ffn)
    shapes |= _linear("image_proj", out_width(encoder), labels) | _linear("wordvec_proj", labels, width)
    shapes |= _linear("fc", width, 1)
    state = _random(shapes, seed)
    table = _numbers((tags * (descriptions if plus else 1), labels), seed)
    state["label_embed"] = table.div_(table.norm(dim=-1, keepdim=True))
    if plus:
        state["reweight_scale"] = torch.tensor(2.66)
    return state


def caption_shapes(width: int, token_width: int, ffn: int, words: int, depth: int) -> dict[str, tuple]:
    """Names and shapes of `tag_encoder.*` and `text_decoder.*`, each number once."""
    shapes: dict[str, tuple] = {}
    for side, source in (("tag_encoder", token_width), ("text_decoder.bert", width)):
        shapes[f"{side}.embeddings.word_embeddings.weight"] = (words, width)
        shapes[f"{side}.embeddings.position_embeddings.weight"] = (POSITIONS, width)
        shapes |= _norm(f"{side}.embeddings.LayerNorm", width)
        for number in range(depth):
            layer = f"{side}.encoder.layer.{number}"
            for part, inner in (("attention", width), ("crossattention", source)):
                shapes |= _linear(f"{layer}.{part}.self.query", width, width)
                shapes |= _linear(f"{layer}.{part}.self.key", inner, width)
                shapes |= _linear(f"{layer}.{part}.self.value", inner, width)
                shapes |= _linear(f"{layer}.{part}.output.dense", width, width)
                shapes |= _norm(f"{layer}.{part}.output.LayerNorm", width)
            shapes |= _linear(f"{layer}.intermediate.dense", width, ffn)
            shapes |= _linear(f"{layer}.output.dense", ffn, width) | _norm(f"{layer}.output.LayerNorm", width)
    head = "text_decoder.cls.predictions"
    shapes |= _linear(f"{head}.transform.dense", width, width) | _norm(f"{head}.transform.LayerNorm", width)
    return shapes | {f"{head}.bias": (words,)}


def captioner(state: dict[str, Tensor], *, words: int, depth: int = 3, seed: int = 0) -> dict[str, Tensor]:
    """The whole captioner beside the tagging half ``state``: shared layers are equal, the head's weights stand twice.

    Words and what is seen of a picture count for more than in a fresh model, so that captions of noise differ.
    """
    width, token_width = state["tagging_head.encoder.layer.0.crossattention.self.key.weight"].shape
    ffn = state["tagging_head.encoder.layer.0.intermediate.dense.weight"].shape[0]
    own = _random(caption_shapes(width, token_width, ffn, words, depth), seed)
    own["text_decoder.bert.embeddings.word_embeddings.weight"].mul_(4.0)
    for key, value in own.items():
        if key.endswith(("crossattention.self.value.weight", "crossattention.output.dense.weight")):
            value.mul_(3.0)
    for key, value in state.items():
        if key.startswith("tagging_head."):
            own[key.replace("tagging_head", "tag_encoder")] = value.clone()
    head, words_key = "text_decoder.cls.predictions", "text_decoder.bert.embeddings.word_embeddings.weight"
    own[f"{head}.decoder.weight"], own[f"{head}.decoder.bias"] = (
        own[words_key].clone(),
        own[f"{head}.bias"].clone(),
    )
    return own


def tag2text(
    encoder: dict = SMALL,
    *,
    tags: int = 7,
    width: int = 16,
    seed: int = 0,
    captions: bool = False,
    words: int = 9,
) -> dict[str, Tensor]:
    """A Tag2Text state dict with a rest of its captioner, or (``captions``) with all of it.

    Args:
        width: with ``captions`` a multiple of 12, the published number of heads.
        words: pieces that captions are written with, [DEC] and [ENC] included.
    """
    state = _random(encoder_shapes(encoder) | head_shapes(width, out_width(encoder), 32), seed)
    state["label_embed.weight"] = _numbers((tags, width), seed)
    state["fc.W"], state["fc.b"] = _numbers((1, tags, width), seed + 1), _numbers((1, tags), seed + 2)
    if captions:
        return state | captioner(state, words=words, seed=seed)
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

"""CLIP's text tower in small: merges of pieces, and random weights under the names of both releases.

Knows names and shapes from the format of the published files alone, so that the conversion is tested against them.
The merges were learned from sentences made up for it; with the single bytes and the marks they make 571 pieces.
"""

from __future__ import annotations

import torch
from torch import Tensor

_LEARNED = """
    t+h i+n d+o th+e</w> in+g</w> th+e a+n r+e</w> c+a an+d</w> g+ing</w> in+ging</w> '+s</w> a+l g+s</w>
    i+t</w> v+e</w> º+Ð Ð+ºÐ ç+Ĭ th+ing</w> do+g</w> do+gs</w> '+t</w> '+d</w> '+m</w> '+re</w> '+ve</w>
    a+t</w> b+r d+e e+e e+r</w> l+ee o+w o+u</w> o+f</w> s+a s+u s+inging</w> s+lee t+s</w> w+e</w> w+al
    y+ou</w> ¬+ã Ð+° Ñ+ģ do+n</w> the+y</w> ca+t</w> ca+ts</w> ÐºÐ+°</w> çĬ+¬ã slee+p Ñģ+Ð çĬ¬ã+ģ
"""
MERGES = [(left, right) for left, _, right in (pair.partition("+") for pair in _LEARNED.split())]
PIECES = 571


def hub_state(
    *, width: int = 64, depth: int = 2, projection: int = 512, pieces: int = PIECES, seed: int = 0
) -> dict[str, Tensor]:
    """As the hub's files have it, with a rest of the vision tower."""
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int, scale: float = 0.3, near: float = 0.0) -> Tensor:
        return torch.randn(shape, generator=random) * scale + near

    def linear(name: str, inner: int, outer: int) -> dict[str, Tensor]:
        return {
            f"{name}.weight": normal(outer, inner, scale=1.5 * inner**-0.5),
            f"{name}.bias": normal(outer),
        }

    def norm(name: str) -> dict[str, Tensor]:
        return {f"{name}.weight": normal(width, near=1.0), f"{name}.bias": normal(width)}

    state = {
        "text_model.embeddings.position_ids": torch.arange(77)[None],
        "text_model.embeddings.token_embedding.weight": normal(pieces, width, scale=1.0),
        "text_model.embeddings.position_embedding.weight": normal(77, width),
        "text_projection.weight": normal(projection, width, scale=width**-0.5),
        "logit_scale": torch.tensor(4.6),
        "visual_projection.weight": normal(projection, 8),
        "vision_model.embeddings.class_embedding": normal(8),
    }
    for number in range(depth):
        layer = f"text_model.encoder.layers.{number}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            state |= linear(f"{layer}.self_attn.{part}", width, width)
        state |= linear(f"{layer}.mlp.fc1", width, 4 * width) | linear(f"{layer}.mlp.fc2", 4 * width, width)
        state |= norm(f"{layer}.layer_norm1") | norm(f"{layer}.layer_norm2")
    return state | norm("text_model.final_layer_norm")


def original_state(hub: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same numbers as the original release has them."""
    embeddings = "text_model.embeddings"
    state = {
        "token_embedding.weight": hub[f"{embeddings}.token_embedding.weight"],
        "positional_embedding": hub[f"{embeddings}.position_embedding.weight"],
        "text_projection": hub["text_projection.weight"].T.contiguous(),
        "logit_scale": hub["logit_scale"],
        "visual.class_embedding": hub["vision_model.embeddings.class_embedding"],
        "input_resolution": torch.tensor(224),
        "context_length": torch.tensor(77),
        "vocab_size": torch.tensor(len(hub[f"{embeddings}.token_embedding.weight"])),
    }
    depth = sum(key.endswith("layer_norm1.bias") for key in hub)
    for kind in ("weight", "bias"):
        state[f"ln_final.{kind}"] = hub[f"text_model.final_layer_norm.{kind}"]
        for number in range(depth):
            theirs, block = f"text_model.encoder.layers.{number}", f"transformer.resblocks.{number}"
            parts = [hub[f"{theirs}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            state[f"{block}.attn.in_proj_{kind}"] = torch.cat(parts)
            state[f"{block}.attn.out_proj.{kind}"] = hub[f"{theirs}.self_attn.out_proj.{kind}"]
            state[f"{block}.mlp.c_fc.{kind}"] = hub[f"{theirs}.mlp.fc1.{kind}"]
            state[f"{block}.mlp.c_proj.{kind}"] = hub[f"{theirs}.mlp.fc2.{kind}"]
            for which in "12":
                state[f"{block}.ln_{which}.{kind}"] = hub[f"{theirs}.layer_norm{which}.{kind}"]
    return state

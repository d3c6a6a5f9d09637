"""Published captioner weights to ours: key maps without a network, strict on both sides (Tag2Text 1.4).

Published names are those of Tag2Text's and RAM's releases: ``tag_encoder.*`` and ``text_decoder.*``. Tensors that
stand twice (the word embeddings are the head's weight, its bias stands twice, the encoder's lowest layers are the
tagging head's) must be equal; one of each is taken.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from taglens.errors import ModelError
from taglens.models.captioner import Captioner, CaptionerConfig

ENCODER, DECODER, TAGGING = "tag_encoder.", "text_decoder.", "tagging_head."

# Counts that every release stores or not, as it pleases: 0, 1, 2, ...
_BUFFERS = ("tag_encoder.embeddings.position_ids", "text_decoder.bert.embeddings.position_ids")

_HEAD = {
    "cls.predictions.transform.dense.weight": "head.dense.weight",
    "cls.predictions.transform.dense.bias": "head.dense.bias",
    "cls.predictions.transform.LayerNorm.weight": "head.norm.weight",
    "cls.predictions.transform.LayerNorm.bias": "head.norm.bias",
    "cls.predictions.bias": "head.bias",
}
# The same numbers under a second name.
_TWICE = {
    "text_decoder.cls.predictions.decoder.weight": "text_decoder.bert.embeddings.word_embeddings.weight",
    "text_decoder.cls.predictions.decoder.bias": "text_decoder.cls.predictions.bias",
}
_EMBEDDINGS = {
    "word_embeddings.weight": "words.weight",
    "position_embeddings.weight": "positions.weight",
    "LayerNorm.weight": "norm.weight",
    "LayerNorm.bias": "norm.bias",
}
_LAYER = {
    "attention.self.query": "self_attention.query",
    "attention.self.key": "self_attention.key",
    "attention.self.value": "self_attention.value",
    "attention.output.dense": "self_attention.out",
    "attention.output.LayerNorm": "self_norm",
    "crossattention.self.query": "attention.query",
    "crossattention.self.key": "attention.key",
    "crossattention.self.value": "attention.value",
    "crossattention.output.dense": "attention.out",
    "crossattention.output.LayerNorm": "norm1",
    "intermediate.dense": "ffn.0",
    "output.dense": "ffn.2",
    "output.LayerNorm": "norm2",
}
_LAYER_KEY = re.compile(r"encoder\.layer\.(\d+)\.(.+)\.(weight|bias)")
# What a tagging head without self-attention has of a layer.
_SHARED = tuple(name for name in _LAYER if not name.startswith("attention."))


def is_captioner_key(key: str) -> bool:
    """Whether a published key belongs to the captioner."""
    return key.startswith((ENCODER, DECODER))


def accounted(state: Mapping[str, Tensor]) -> tuple[list[str], list[str]]:
    """The captioner's keys in a published state dict: those that are taken, those that repeat others' numbers."""
    keys = [key for key in state if is_captioner_key(key) and key not in _BUFFERS]
    return [key for key in keys if key not in _TWICE], [key for key in keys if key in _TWICE]


def captioner_config(
    state: Mapping[str, Tensor], *, heads: int = 12, pieces: int | None = None, **others: Any
) -> CaptionerConfig:
    """Sizes read off published tensors; what shapes do not tell, ``heads`` and special pieces, is given.

    [DEC] and [ENC] are the last two pieces unless given otherwise.

    Args:
        pieces: how many the caller can name.

    Raises:
        ModelError: tensors that tell sizes are missing, the sizes are nonsense, or there are not ``pieces`` pieces.
    """
    words = _tensor(state, "text_decoder.bert.embeddings.word_embeddings.weight")
    if pieces is not None and pieces != words.shape[0]:
        raise ModelError(
            f"the captioner writes with {words.shape[0]:,} word pieces and {pieces:,} were given ([DEC] and [ENC] "
            "included); give the vocab.txt that the model was trained with"
        )
    depth = {
        int(found[1]) for key in state if (found := re.match(r"tag_encoder\.encoder\.layer\.(\d+)\.", key))
    }
    sizes = {
        "image_width": _tensor(state, "tag_encoder.encoder.layer.0.crossattention.self.key.weight").shape[1],
        "words": words.shape[0],
        "positions": _tensor(state, "text_decoder.bert.embeddings.position_embeddings.weight").shape[0],
        "width": words.shape[1],
        "depth": len(depth),
        "heads": heads,
        "ffn_width": _tensor(state, "tag_encoder.encoder.layer.0.intermediate.dense.weight").shape[0],
        "start": words.shape[0] - 2,
        "tags": words.shape[0] - 1,
    }
    return CaptionerConfig(**{**sizes, **others})


def captioner_state(state: Mapping[str, Tensor], config: CaptionerConfig) -> dict[str, Tensor]:
    """The captioner's published tensors under our names.

    Args:
        state: a published state dict, or its captioner's part; tensors of other parts are looked at only where the
            captioner's stand among them a second time.

    Returns:
        every tensor in fp32; those that were, themselves.

    Raises:
        ModelError: naming every key that is unknown, missing, of another shape, not finite, or unlike its second
            name.
    """
    found = {key: value for key, value in state.items() if is_captioner_key(key)}
    renamed: dict[str, Tensor] = {}
    unknown: list[str] = []
    for key, value in found.items():
        if key in _TWICE or key in _BUFFERS:
            continue
        ours = _ours(key)
        if ours is None:
            unknown.append(key)
        else:
            renamed[ours] = value.float()
    _check(renamed, config, unknown)
    _check_twice(state, config)
    return renamed


def _ours(key: str) -> str | None:
    """Our name of a published key, None where we have none."""
    side, rest = ("encoder", key.removeprefix(ENCODER)) if key.startswith(ENCODER) else ("decoder", key)
    if side == "decoder":
        rest = key.removeprefix(DECODER)
        if rest in _HEAD:
            return _HEAD[rest]
        if not rest.startswith("bert."):
            return None
        rest = rest.removeprefix("bert.")
    if rest.startswith("embeddings."):
        name = _EMBEDDINGS.get(rest.removeprefix("embeddings."))
        return None if name is None else f"{side}.embeddings.{name}"
    if not (layer := _LAYER_KEY.fullmatch(rest)) or layer[2] not in _LAYER:
        return None
    return f"{side}.layers.{layer[1]}.{_LAYER[layer[2]]}.{layer[3]}"


def _expected(config: CaptionerConfig) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {key: tuple(value.shape) for key, value in Captioner(config).state_dict().items()}


def _check(renamed: dict[str, Tensor], config: CaptionerConfig, unknown: list[str]) -> None:
    expected = _expected(config)
    missing = sorted(expected.keys() - renamed.keys())
    unknown = sorted(unknown) + sorted(renamed.keys() - expected.keys())
    shapes = [
        f"{key} {tuple(value.shape)} where {expected[key]} fits"
        for key, value in sorted(renamed.items())
        if key in expected and tuple(value.shape) != expected[key]
    ]
    damaged = sorted(key for key, value in renamed.items() if not torch.isfinite(value).all())
    faults = {"unknown": unknown, "missing": missing, "of another shape": shapes, "not finite": damaged}
    told = [f"{what}: {', '.join(keys)}" for what, keys in faults.items() if keys]
    if told:
        raise ModelError(f"the captioner's published tensors do not fit; {'; '.join(told)}")


def _check_twice(state: Mapping[str, Tensor], config: CaptionerConfig) -> None:
    pairs = list(_TWICE.items())
    for layer in range(config.shared_layers):
        for name in _SHARED:
            for end in ("weight", "bias"):
                key = f"encoder.layer.{layer}.{name}.{end}"
                pairs.append((TAGGING + key, ENCODER + key))
    unlike = [
        f"{second} and {first}"
        for second, first in pairs
        if second in state and first in state and not torch.equal(state[second], state[first])
    ]
    if unlike:
        raise ModelError(
            f"tensors that should be one differ: {', '.join(unlike)}; the file is damaged or another model's"
        )


def _tensor(state: Mapping[str, Tensor], key: str) -> Tensor:
    if key not in state:
        raise ModelError(f"no published captioner: {key} is missing")
    return state[key]

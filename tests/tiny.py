"""Models, vocabularies and pictures small enough to be made afresh by any test that asks.

Knows how to make them; the tests say what ought to hold. Everything follows from its arguments.
"""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from taglens.data.batches import PictureSet
from taglens.models.configs import (
    ConvNetConfig,
    DecoderConfig,
    EncoderConfig,
    HybridConfig,
    RecognizerConfig,
    SwinConfig,
    ViTConfig,
)
from taglens.models.recognizer import Recognizer
from taglens.vocabulary import Entry, Vocabulary

# What is this small is done before a second thread has woken up, and waits for it on a busy machine.
torch.set_num_threads(1)

SIDE = 32
CONVNET = ConvNetConfig(widths=(8, 16), depths=(1, 1), stem_width=8)
HYBRID = HybridConfig(
    widths=(8, 16), depths=(1, 1), stem_width=8, attention_width=16, attention_depth=1, heads=2
)
SWIN = SwinConfig(width=8, depths=(2, 2), heads=(1, 2), window=2)
VIT = ViTConfig(width=16, depth=1, heads=2, patch=8, grid=3)
ENCODERS: dict[str, EncoderConfig] = {"convnet": CONVNET, "hybrid": HYBRID, "swin": SWIN, "vit": VIT}
DECODER = DecoderConfig(width=16, depth=2, heads=2, ffn_width=32)
NAMES = ("dog", "cat", "beach", "red", "run", "boat")


def config(
    encoder: EncoderConfig = CONVNET, *, tags: int = 6, pooled_term: bool = True, descriptions: int = 0
) -> RecognizerConfig:
    return RecognizerConfig(
        encoder=encoder,
        tags=tags,
        decoder=DECODER,
        token_width=16,
        label_width=16,
        descriptions=descriptions,
        pooled_term=pooled_term,
        side=SIDE,
    )


def recognizer(
    encoder: EncoderConfig = CONVNET,
    *,
    tags: int = 6,
    pooled_term: bool = True,
    descriptions: int = 0,
    seed: int = 0,
) -> Recognizer:
    """A model in eval mode whose every parameter and statistic has left its starting value.

    A fresh one hides faults: its blocks are their shortcuts, its statistics 0 and 1, its per-tag biases 0.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Recognizer(config(encoder, tags=tags, pooled_term=pooled_term, descriptions=descriptions))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.ndim <= 1:
                    parameter.add_(torch.randn_like(parameter) * 0.3)
                elif name == "bank.embeddings":
                    parameter.mul_(3)
            for name, buffer in model.named_buffers():
                if name.endswith("running_mean"):
                    buffer.normal_(0, 0.2)
                elif name.endswith("running_var"):
                    buffer.uniform_(0.3, 1.0)
    return model.eval()


def vocabulary(tags: int = 6, *, name: str = "tiny", prefix: str = "") -> Vocabulary:
    """``tags`` entries of several kinds, with thresholds, a synonym and, from seven on, plain numbers."""
    known = [
        Entry(f"{prefix}dog", "object", synonyms=(f"{prefix}hound",), threshold=0.2),
        Entry(f"{prefix}cat", "object"),
        Entry(f"{prefix}beach", "scene", threshold=0.3),
        Entry(f"{prefix}red", "attribute", threshold=0.1),
        Entry(f"{prefix}run", "action"),
        Entry(f"{prefix}boat", "object"),
    ]
    more = [Entry(f"{prefix}thing {number}", "object") for number in range(6, tags)]
    return Vocabulary([*known, *more][:tags], name=name)


def pixels(count: int, *, side: int = SIDE, seed: int = 0) -> npt.NDArray[np.uint8]:
    """[count, side, side, 3]: smooth pictures that all differ."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 3), np.uint8)
    images = [Image.fromarray(c).resize((side, side), Image.Resampling.BILINEAR) for c in coarse]
    return np.stack([np.asarray(image) for image in images])


def png(picture: npt.NDArray[np.uint8]) -> bytes:
    """A PNG file's content."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


def picture_set(
    name: str, count: int, *, tags: int = 6, side: int = SIDE, absent: float = 1.0, seed: int = 0
) -> PictureSet:
    """Pictures whose tag is their number, round and round; every tag is in reach."""
    present = np.zeros((count, tags), np.uint8)
    present[np.arange(count), np.arange(count) % tags] = 1
    return PictureSet(name, pixels(count, side=side, seed=seed), present, np.full(tags, absent, np.float32))

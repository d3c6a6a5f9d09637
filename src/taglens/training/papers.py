"""The papers' training recipes as plain values: what was reported, not what was run here.

Sections are those of PAPERS.md: Tag2Text 1.6, RAM 2.2 and 2.3, RAM++ 3.1 and 3.5. Batch sizes are those of all GPUs
together. ``loop_config`` turns a stage into what `taglens.training.loop` takes, for a corpus of a given size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from taglens.training.augment import AugmentConfig
from taglens.training.loop import LoopConfig
from taglens.training.objectives import TagObjective


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a recipe.

    Attributes:
        data: the corpora by name.
        batch: pictures an update.
        warmup: steps to the peak rate.
        decay: factor of the rate after every epoch; None: half a cosine down to 0.
        side: px.
    """

    data: tuple[str, ...]
    epochs: int
    batch: int
    lr: float
    warmup: int
    decay: float | None
    side: int
    weight_decay: float = 0.05


@dataclass(frozen=True, slots=True)
class Recipe:
    """A paper's whole training.

    Attributes:
        start: where each part's first weights come from.
        teacher: whose image features the pooled token is drawn to; None: nobody's.
        losses: factor of each loss; "lm" is the captioner's.
    """

    stages: tuple[Stage, ...]
    start: Mapping[str, str]
    teacher: str | None
    losses: Mapping[str, float]
    objective: TagObjective = field(default_factory=TagObjective)


_SMALL = ("coco", "vg", "sbu", "cc3m")
_LARGE = (*_SMALL, "cc12m")
_COCO = Stage(("coco",), epochs=1, batch=208, lr=5e-6, warmup=0, decay=None, side=384)
_START = {"encoder": "ImageNet-pretrained Swin", "decoder": "bert-base-uncased"}

TAG2TEXT = Recipe(
    stages=(Stage(_LARGE, epochs=20, batch=960, lr=1e-4, warmup=3000, decay=0.9, side=224), _COCO),
    start=_START,
    teacher=None,
    losses={"tag": 1.0, "lm": 1.0},
)
RAM = Recipe(
    stages=(Stage(_LARGE, epochs=5, batch=720, lr=1e-4, warmup=3000, decay=0.9, side=224), _COCO),
    start=_START,
    teacher="CLIP ViT-B/16",
    losses={"tag": 1.0, "lm": 1.0, "distil": 1.0},
)
RAM_PLUS = Recipe(
    stages=(Stage(_LARGE, epochs=5, batch=720, lr=1e-4, warmup=3000, decay=0.9, side=224), _COCO),
    start=_START,
    teacher="CLIP ViT-B/16",
    losses={"tag": 1.0, "text": 1.0, "distil": 1.0},
)


def loop_config(stage: Stage, *, pictures: int, seed: int = 0) -> LoopConfig:
    """The loop's settings for a stage on a corpus of so many pictures.

    The papers' crops keep at least a fifth of a picture, and mirror it; nothing is turned or erased.
    """
    each = math.ceil(pictures / stage.batch)
    return LoopConfig(
        steps=stage.epochs * each,
        side=stage.side,
        lr=stage.lr,
        warmup=stage.warmup,
        weight_decay=stage.weight_decay,
        decay=stage.decay,
        decay_every=each if stage.decay is not None else 0,
        seed=seed,
        augment=AugmentConfig(least_area=0.2, turn=0.0, erase=0.0),
    )

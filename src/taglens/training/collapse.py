"""Whether a captioner that learns from its own captions still says something: figures on held-out pictures.

A mapper that learned the mean picture, or captions that all become one, look like success to a loss of cosines (V4).
Knows features, captions and figures; refuses to know who wrote them.
Shapes: B pictures, C width of features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from taglens.errors import ModelError, UsageError

# Pictures that are told apart at once: of how many is not to depend on how many are held out.
AMONG = 50


class CollapseError(ModelError):
    """Training made captions worse beyond doubt and was stopped."""


@dataclass(frozen=True, slots=True)
class MapFigures:
    """How much of a picture is in what its caption maps to.

    Attributes:
        cos: mean cosine of the mapped and the picture's own features.
        mean_cos: the same for one guess for all pictures, the mean feature; gain: how much more ``cos`` is.
        retrieval: share of captions whose own picture is the nearest, of `AMONG` or of fewer where there are fewer.
        pairwise: mean cosine between what different captions map to; 1: all to one place.
        features_pairwise: the same between the pictures' own features.
    """

    cos: float
    mean_cos: float
    retrieval: float
    pairwise: float
    features_pairwise: float

    @property
    def gain(self) -> float:
        return self.cos - self.mean_cos

    def to_dict(self) -> dict[str, float]:
        return asdict(self) | {"gain": self.gain}


def map_figures(mapped: Tensor, features: Tensor, mean: Tensor) -> MapFigures:
    """Figures of mapped [B, C] beside features [B, C].

    Args:
        mean: [C], of the features of the pictures that were learned from.
    """
    near = F.normalize(mapped, dim=-1)
    own = F.normalize(features, dim=-1)
    hits = 0
    for start in range(0, len(near), AMONG):
        similar = near[start : start + AMONG] @ own[start : start + AMONG].T
        # Of equals none is nearest: where all map to one place, nothing was found.
        others = similar.masked_fill(torch.eye(len(similar), dtype=torch.bool, device=similar.device), -2.0)
        hits += int((similar.diagonal() > others.amax(1)).sum())
    return MapFigures(
        cos=float((near * own).sum(1).mean()),
        mean_cos=float((own @ F.normalize(mean, dim=0)).mean()),
        retrieval=hits / max(len(near), 1),
        pairwise=_pairwise(near),
        features_pairwise=_pairwise(own),
    )


def _pairwise(units: Tensor) -> float:
    """Mean cosine of all pairs of different rows of unit vectors; 1 of a single row."""
    count = len(units)
    if count < 2:
        return 1.0
    # The sum over all pairs is the length of the sum, squared.
    return float((units.sum(0).square().sum() - units.square().sum()) / (count * (count - 1)))


@dataclass(frozen=True, slots=True)
class CaptionFigures:
    """How captions of held-out pictures look.

    Attributes:
        distinct: share of different ones; words: their mean length; empty: share without a word.
        score: how well a judge finds that they suit the pictures.
    """

    distinct: float
    words: float
    empty: float
    score: float

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


def caption_figures(captions: Sequence[str], score: float) -> CaptionFigures:
    """Raises UsageError where there is no caption."""
    if not captions:
        raise UsageError("no caption to look at; hold out at least one picture")
    count = len(captions)
    return CaptionFigures(
        distinct=len(set(captions)) / count,
        words=sum(len(text.split()) for text in captions) / count,
        empty=sum(not text.split() for text in captions) / count,
        score=score,
    )


@dataclass(frozen=True, slots=True)
class Limits:
    """Where captions count as collapsed, all beside those of the captioner that training began with.

    Attributes:
        distinct, words: least shares of the base's; most_words: the greatest multiple of its length.
        empty: how many more captions may be empty, as a share.
        spread: least share of the base's spread of mapped features, 1 - pairwise.
    """

    distinct: float = 0.5
    words: float = 0.5
    most_words: float = 2.0
    empty: float = 0.05
    spread: float = 0.1

    def __post_init__(self) -> None:
        for name in ("distinct", "words", "empty", "spread"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise UsageError(f"the limit of {name} must be a share, 0 to 1; found {getattr(self, name)}")
        if self.most_words < 1.0:
            raise UsageError(f"the limit of most_words must be 1 or more, found {self.most_words}")


def require_sound(
    base: CaptionFigures,
    now: CaptionFigures,
    mapped: tuple[MapFigures, MapFigures] | None,
    limits: Limits,
    *,
    step: int,
) -> None:
    """Go on silently while captions are sound.

    Args:
        mapped: of the base and now, where there is a mapper.

    Raises:
        CollapseError: they are not; the message says by which figure.
    """
    found: list[str] = []
    if now.empty > base.empty + limits.empty:
        found.append(f"{now.empty:.0%} of captions are empty, {base.empty:.0%} were")
    if now.distinct < base.distinct * limits.distinct:
        found.append(f"{now.distinct:.0%} of captions differ from each other, {base.distinct:.0%} did")
    if now.words < base.words * limits.words or now.words > base.words * limits.most_words:
        found.append(f"captions have {now.words:.1f} words, they had {base.words:.1f}")
    if mapped is not None:
        before, after = (1.0 - each.pairwise for each in mapped)
        if after < before * limits.spread:
            found.append(
                f"captions map nearly to one place: mean cosine {1 - after:.4f}, it was {1 - before:.4f}"
            )
    if not math.isfinite(now.score):
        found.append("the score is not finite")
    if found:
        raise CollapseError(
            f"captions collapsed by step {step} and training was stopped: {'; '.join(found)}. Lower --lr or --steps, "
            "weigh --contrast, or learn from more pictures"
        )

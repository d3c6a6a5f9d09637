"""Augmentation of a whole batch on whatever device it lies: one affine sampling and a few colour sums.

Everything random comes from the generator passed in, so a step can be repeated exactly.
Shapes: B images, S side of the source, s side of the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, slots=True)
class AugmentConfig:
    """Strengths.

    Attributes:
        least_area: smallest part of the picture's area that a crop may keep.
        aspect: a crop's sides differ by at most this factor.
        turn: largest rotation in degrees.
        colour: brightness, contrast and saturation change by at most this fraction.
        flip: probability of a mirror image.
        erase: probability that a rectangle is greyed out.
    """

    least_area: float = 0.35
    aspect: float = 4 / 3
    turn: float = 8.0
    colour: float = 0.3
    flip: float = 0.5
    erase: float = 0.25


def augment(
    images: Tensor,
    side: int,
    config: AugmentConfig,
    *,
    generator: torch.Generator,
    rows: Tensor | None = None,
    of: int | None = None,
) -> Tensor:
    """uint8 [B, S, S, 3] to float [B, 3, s, s] in [0, 1], each image cropped, turned, mirrored and tinted.

    Args:
        rows, of: [B], where the images stand in a batch of so many, of which they are a part: each is then changed as
            it would be within the whole.
    """
    b = images.shape[0]
    whole = b if of is None else of

    def random(*shape: int) -> Tensor:
        drawn = torch.rand(whole, *shape, generator=generator)
        return drawn if rows is None else drawn[rows]

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return random(*shape) * (high - low) + low

    area = uniform(config.least_area, 1.0)
    ratio = torch.exp(uniform(-math.log(config.aspect), math.log(config.aspect)))
    width = (area * ratio).sqrt().clamp(max=1.0)
    height = (area / ratio).sqrt().clamp(max=1.0)
    x = uniform(-1.0, 1.0) * (1 - width)
    y = uniform(-1.0, 1.0) * (1 - height)
    mirror = torch.where(uniform(0.0, 1.0) < config.flip, -1.0, 1.0)
    angle = uniform(-config.turn, config.turn) * math.pi / 180
    cos, sin = angle.cos(), angle.sin()
    theta = torch.stack(
        [
            torch.stack([mirror * width * cos, -height * sin, x], dim=1),
            torch.stack([mirror * width * sin, height * cos, y], dim=1),
        ],
        dim=1,
    ).to(images.device)
    pixels = images.permute(0, 3, 1, 2).float().div_(255)
    grid = F.affine_grid(theta, [b, 3, side, side], align_corners=False)
    out = F.grid_sample(pixels, grid, mode="bilinear", padding_mode="reflection", align_corners=False)

    def factor() -> Tensor:
        return uniform(1 - config.colour, 1 + config.colour, 1, 1, 1).to(images.device)

    grey = out.mean(1, keepdim=True)
    out = grey + (out - grey) * factor()
    level = out.mean((1, 2, 3), keepdim=True)
    out = level + (out - level) * factor()
    out = (out * factor()).clamp_(0, 1)
    if config.erase:
        out = _erase(out, config.erase, random)
    return out


def _erase(images: Tensor, probability: float, random: Callable[..., Tensor]) -> Tensor:
    s = images.shape[2]
    hit = random() < probability
    size = random(2) * 0.3 + 0.1
    corner = random(2) * (1 - size)
    position = (torch.arange(s) + 0.5) / s
    inside = [
        (position >= corner[:, axis, None]) & (position < (corner + size)[:, axis, None]) for axis in (0, 1)
    ]
    mask = (inside[0][:, :, None] & inside[1][:, None, :] & hit[:, None, None])[:, None].to(images.device)
    return images.masked_fill(mask, 0.5)


def plain(images: Tensor, side: int) -> Tensor:
    """uint8 [B, S, S, 3] to float [B, 3, s, s] in [0, 1], only resized: what evaluation sees."""
    pixels = images.permute(0, 3, 1, 2).float().div_(255)
    if pixels.shape[-1] != side:
        pixels = F.interpolate(pixels, (side, side), mode="bilinear", antialias=True, align_corners=False)
    return pixels

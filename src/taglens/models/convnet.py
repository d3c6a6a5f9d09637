"""The starter's convolutional encoder: pixels in [0, 1] to tokens.

Small data wants strong priors: plain 3x3 residual blocks with batch normalisation learn more from twenty thousand
small pictures than attention does, and run at the full speed of a CPU's matrix units (EXPERIMENTS.md).
Shapes: B images, S side, C width, N tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from taglens.models.configs import PIXEL_MEAN, PIXEL_STD, ConvNetConfig


class PixelNorm(nn.Module):
    """(x - mean) / std per channel, with the statistics stored in the model."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(PIXEL_MEAN, device="cpu").view(3, 1, 1))
        self.register_buffer("std", torch.tensor(PIXEL_STD, device="cpu").view(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std


def conv_norm(inner: int, outer: int, *, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inner, outer, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outer),
    )


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut; a shrinking shortcut averages before it projects."""

    def __init__(self, inner: int, outer: int, *, stride: int) -> None:
        super().__init__()
        self.first = conv_norm(inner, outer, stride=stride)
        self.second = conv_norm(outer, outer)
        # The block starts as its shortcut, which keeps a deep stack trainable at a high rate.
        last = self.second[1]
        assert isinstance(last, nn.BatchNorm2d)
        nn.init.zeros_(last.weight)
        self.shortcut: nn.Module
        if stride == 1 and inner == outer:
            self.shortcut = nn.Identity()
        else:
            pool = nn.AvgPool2d(2, stride, ceil_mode=True) if stride > 1 else nn.Identity()
            self.shortcut = nn.Sequential(pool, conv_norm(inner, outer, kernel=1))
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.act(self.first(x)))
        return torch.relu(y + self.shortcut(x))


def stages(stem_width: int, widths: tuple[int, ...], depths: tuple[int, ...]) -> nn.Sequential:
    """Stem (stride 4) and residual stages; every stage after the first halves the side."""
    layers: list[nn.Module] = [
        conv_norm(3, stem_width, stride=2),
        nn.ReLU(inplace=True),
        conv_norm(stem_width, widths[0], stride=2),
        nn.ReLU(inplace=True),
    ]
    inner = widths[0]
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        for block in range(depth):
            layers.append(ResidualBlock(inner, width, stride=2 if stage and not block else 1))
            inner = width
    return nn.Sequential(*layers)


class ConvNet(nn.Module):
    """Images [B, 3, S, S] in [0, 1] to tokens [B, 1 + N, C]; token 0 is the mean of the others."""

    def __init__(self, config: ConvNetConfig) -> None:
        super().__init__()
        self.config = config
        self.pixels = PixelNorm()
        self.body = stages(config.stem_width, config.widths, config.depths)

    def forward(self, images: Tensor) -> Tensor:
        grid: Tensor = self.body(self.pixels(images))
        tokens = grid.flatten(2).transpose(1, 2)
        return torch.cat([tokens.mean(1, keepdim=True), tokens], dim=1)

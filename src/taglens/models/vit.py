"""A plain vision transformer, the other encoder of Tag2Text (PAPERS.md 1.4): patches, a class token, positions.

Token 0 is the class token after the final norm, as in the published models; Swin's is a mean of the others, and no
such mean is taken here. It carries its own position; those of patches are learned for one grid and read by
interpolation on any other.
Shapes: B images, S side, C width, N tokens, g side of the grid of patches.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from taglens.errors import ModelError
from taglens.models.configs import ViTConfig
from taglens.models.convnet import PixelNorm
from taglens.models.hybrid import SelfAttentionBlock
from taglens.models.resampling import resized_positions


class ViT(nn.Module):
    """Images [B, 3, S, S] in [0, 1] to tokens [B, 1 + N, C]; token 0 is the class token."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        self.pixels = PixelNorm()
        self.patches = nn.Conv2d(3, config.width, config.patch, config.patch)
        self.first = nn.Parameter(torch.randn(config.width) * 0.02)
        self.positions = nn.Parameter(torch.randn(config.grid, config.grid, config.width) * 0.02)
        self.blocks = nn.Sequential(
            *[SelfAttentionBlock(config.width, config.heads) for _ in range(config.depth)]
        )
        self.norm = nn.LayerNorm(config.width)
        # The blocks are shared with an encoder that has another.
        for part in self.modules():
            if isinstance(part, nn.LayerNorm):
                part.eps = config.layer_norm_eps

    def places(self, grid: int) -> Tensor:
        """Positions [g * g, C] on a grid of this side."""
        return resized_positions(self.positions, grid).flatten(0, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Raises ModelError for a side that does not divide into patches."""
        side = images.shape[-1]
        if images.shape[-2] != side or side % self.config.patch:
            raise ModelError(
                f"pictures of {side} x {images.shape[-2]} px do not divide into a square of patches; "
                f"sides must be multiples of {self.config.patch}"
            )
        tokens = self.patches(self.pixels(images)).flatten(2).transpose(1, 2)
        tokens = tokens + self.places(side // self.config.patch)
        first = self.first.expand(tokens.shape[0], 1, -1)
        y: Tensor = self.norm(self.blocks(torch.cat([first, tokens], dim=1)))
        return y

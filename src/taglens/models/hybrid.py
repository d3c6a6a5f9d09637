"""The other encoder that was measured: convolutions first, attention over what they leave.

Position comes from the convolutions' zero padding and one depth-wise convolution in front of the attention, so
that any side works without a table of positions.
Shapes: B images, S side, C width, N tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from taglens.models.configs import HybridConfig
from taglens.models.convnet import PixelNorm, conv_norm, stages


class SelfAttentionBlock(nn.Module):
    """Pre-norm self-attention and feed-forward over tokens [B, N, C]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.ffn = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c)
        x = x + self.out(mixed)
        y: Tensor = x + self.ffn(self.norm2(x))
        return y


class Hybrid(nn.Module):
    """Images [B, 3, S, S] in [0, 1] to tokens [B, 1 + N, C]; token 0 is the mean of the others."""

    def __init__(self, config: HybridConfig) -> None:
        super().__init__()
        self.config = config
        width = config.attention_width
        self.pixels = PixelNorm()
        self.body = stages(config.stem_width, config.widths, config.depths)
        self.widen = conv_norm(config.widths[-1], width, kernel=1)
        self.position = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.blocks = nn.Sequential(
            *[SelfAttentionBlock(width, config.heads) for _ in range(config.attention_depth)]
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, images: Tensor) -> Tensor:
        grid = self.widen(self.body(self.pixels(images)))
        grid = grid + self.position(grid)
        tokens = self.norm(self.blocks(grid.flatten(2).transpose(1, 2)))
        return torch.cat([tokens.mean(1, keepdim=True), tokens], dim=1)

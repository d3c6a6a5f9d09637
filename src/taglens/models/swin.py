"""Swin, the encoder of the published models (PAPERS.md 1.4): attention in windows that shift, on a grid that halves.

Token 0 is the mean of the final normalised tokens. Windows are gathered, and heads split, in one copy for queries,
keys and values together; the relative position bias, and the mask of shifted windows, go into fused attention as its
mask, so that scores are never held.
Shapes: B images, S side, H x W grid, C width, w window side, M windows of a picture, N tokens of
a window (w * w), A heads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from taglens.errors import ModelError
from taglens.models.configs import SwinConfig
from taglens.models.convnet import PixelNorm

# What keeps tokens apart that only the shift has brought into one window.
# Parity: a finite value, as the published models were trained with; exp(-100) is 0 beside anything they see.
MASKED = -100.0


def relative_positions(window: int) -> Tensor:
    """[N, N]: for each pair of tokens of a window, the row of the bias table that holds their offset."""
    # On the processor even in a model that is made without numbers: it is not loaded but computed.
    axis = torch.arange(window, device="cpu")
    rows, columns = axis.repeat_interleave(window), axis.repeat(window)
    down = rows[:, None] - rows[None] + window - 1
    across = columns[:, None] - columns[None] + window - 1
    return down * (2 * window - 1) + across


def shift_mask(height: int, width: int, window: int, *, device: torch.device) -> Tensor:
    """[M, 1, N, N]: 0 between tokens of one region, `MASKED` between those rolled together from two ends."""

    def bands(size: int) -> Tensor:
        axis = torch.arange(size, device=device)
        return (axis >= size - window).long() + (axis >= size - window // 2).long()

    regions = 3 * bands(height)[:, None] + bands(width)[None]
    tiles = regions.view(height // window, window, width // window, window).transpose(1, 2)
    each = tiles.reshape(-1, 1, window * window)
    return (each[:, :, :, None] != each[:, :, None]).float() * MASKED


class WindowAttention(nn.Module):
    """Self-attention inside windows of a grid [B, H, W, C], with a learned bias for every offset."""

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.table, std=0.02)
        self.register_buffer("positions", relative_positions(window).flatten(), persistent=False)
        self.positions: Tensor

    def bias(self) -> Tensor:
        """[A, N, N]."""
        tokens = self.window**2
        return self.table[self.positions].T.reshape(self.heads, tokens, tokens)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """``mask``: [M, 1, N, N], added to every head's scores."""
        _, height, width, c = x.shape
        w, a = self.window, self.heads
        down, across, d = height // w, width // w, c // a
        tiles = self.qkv(x).view(-1, down, w, across, w, 3, a, d).permute(5, 0, 1, 3, 6, 2, 4, 7)
        bias = self.bias()
        # Windows of all pictures share the bias; with a mask each window of a picture has its own.
        parallel = a if mask is None else down * across * a
        if mask is not None:
            bias = (mask.to(bias.dtype) + bias).reshape(parallel, w * w, w * w)
        q, k, v = tiles.reshape(3, -1, parallel, w * w, d)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None].to(q.dtype))
        grid = mixed.reshape(-1, down, across, a, w, w, d).permute(0, 1, 4, 2, 5, 3, 6)
        y: Tensor = self.out(grid.reshape(-1, height, width, c))
        return y


class SwinBlock(nn.Module):
    """Pre-norm window attention and feed-forward; every second block looks through windows shifted by half."""

    def __init__(self, width: int, heads: int, window: int, *, shifted: bool) -> None:
        super().__init__()
        self.shift = window // 2 if shifted else 0
        self.norm1 = nn.LayerNorm(width)
        self.attention = WindowAttention(width, heads, window)
        self.norm2 = nn.LayerNorm(width)
        self.ffn = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """``mask``: of shifted windows, see `shift_mask`; None: the grid is one window, nothing shifts."""
        if self.shift and mask is not None:
            rolled = torch.roll(self.norm1(x), (-self.shift, -self.shift), (1, 2))
            x = x + torch.roll(self.attention(rolled, mask), (self.shift, self.shift), (1, 2))
        else:
            x = x + self.attention(self.norm1(x))
        y: Tensor = x + self.ffn(self.norm2(x))
        return y


class PatchMerging(nn.Module):
    """[B, H, W, C] to [B, H/2, W/2, 2C]: four neighbours side by side, normalised, projected."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.reduce = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        _, height, width, c = x.shape
        # Columns outside rows: (even, even), (odd row, even), (even, odd column), (odd, odd).
        fours = x.view(-1, height // 2, 2, width // 2, 2, c).permute(0, 1, 3, 4, 2, 5)
        y: Tensor = self.reduce(self.norm(fours.reshape(-1, height // 2, width // 2, 4 * c)))
        return y


class SwinStage(nn.Module):
    """Blocks over one grid, and the merging that leads to the next."""

    def __init__(self, width: int, depth: int, heads: int, window: int, *, last: bool) -> None:
        super().__init__()
        self.window = window
        self.blocks = nn.ModuleList(
            [SwinBlock(width, heads, window, shifted=bool(block % 2)) for block in range(depth)]
        )
        self.merge: nn.Module = nn.Identity() if last else PatchMerging(width)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        shifts = len(self.blocks) > 1 and self.window > 1 and min(height, width) > self.window
        mask = shift_mask(height, width, self.window, device=x.device) if shifts else None
        for block in self.blocks:
            x = block(x, mask)
        y: Tensor = self.merge(x)
        return y


class Swin(nn.Module):
    """Images [B, 3, S, S] in [0, 1] to tokens [B, 1 + N, C]; token 0 is the mean of the others."""

    def __init__(self, config: SwinConfig) -> None:
        super().__init__()
        self.config = config
        self.pixels = PixelNorm()
        self.patches = nn.Conv2d(3, config.width, config.patch, config.patch)
        self.patch_norm = nn.LayerNorm(config.width)
        last = len(config.depths) - 1
        self.stages = nn.Sequential(
            *[
                SwinStage(config.width << n, depth, heads, config.window, last=n == last)
                for n, (depth, heads) in enumerate(zip(config.depths, config.heads, strict=True))
            ]
        )
        self.norm = nn.LayerNorm(config.out_width)

    def forward(self, images: Tensor) -> Tensor:
        """Raises ModelError for a side that does not divide into windows."""
        if images.shape[-1] % self.config.stride or images.shape[-2] % self.config.stride:
            raise ModelError(
                f"pictures of {images.shape[-1]} x {images.shape[-2]} px do not divide into windows; "
                f"sides must be multiples of {self.config.stride}"
            )
        grid = self.patches(self.pixels(images)).permute(0, 2, 3, 1)
        tokens = self.norm(self.stages(self.patch_norm(grid))).flatten(1, 2)
        return torch.cat([tokens.mean(1, keepdim=True), tokens], dim=1)

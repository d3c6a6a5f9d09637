"""The alignment decoder: label embeddings ask, image tokens answer (Tag2Text 1.4, RAM 2.2, RAM++ 3.1).

There is no self-attention between labels, so a label's logit does not depend on which others are asked: any subset,
any order, any number. Training uses that to score a sample of the tags at each step.
Shapes: B images, N tokens, K token width, T labels, L label width, D decoder width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from taglens.models.configs import DecoderConfig

# Few tags of thousands are present: read-outs start from a low probability instead of one half.
START_BIAS = -3.0


class CrossAttention(nn.Module):
    """Multi-head attention of queries [B, T, D] over tokens [B, N, K], with output projection."""

    def __init__(self, width: int, token_width: int, *, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(token_width, width)
        self.value = nn.Linear(token_width, width)
        self.out = nn.Linear(width, width)

    def _split(self, x: Tensor) -> Tensor:
        b, n, d = x.shape
        return x.view(b, n, self.heads, d // self.heads).transpose(1, 2)

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        b = tokens.shape[0]
        t, d = queries.shape[1:]
        # Queries that are the same for every image (batch of 1) are projected once and broadcast.
        q = self._split(self.query(queries)).expand(b, -1, -1, -1)
        k, v = self._split(self.key(tokens)), self._split(self.value(tokens))
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, d)
        y: Tensor = self.out(mixed)
        return y


class DecoderLayer(nn.Module):
    """Cross-attention, then feed-forward; normalised after each sum, as in BERT."""

    def __init__(self, config: DecoderConfig, token_width: int) -> None:
        super().__init__()
        self.attention = CrossAttention(config.width, token_width, heads=config.heads)
        self.norm1 = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.ffn = nn.Sequential(
            nn.Linear(config.width, config.ffn_width), nn.GELU(), nn.Linear(config.ffn_width, config.width)
        )
        self.norm2 = nn.LayerNorm(config.width, eps=config.layer_norm_eps)

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        x = self.norm1(queries + self.attention(queries, tokens))
        y: Tensor = self.norm2(x + self.ffn(x))
        return y


class OwnHeads(nn.Module):
    """A read-out vector and bias for each tag: decoded labels [B, J, D] to logits [B, J]."""

    def __init__(self, tags: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(tags, width) * width**-0.5)
        self.bias = nn.Parameter(torch.full((tags,), START_BIAS))

    def forward(self, decoded: Tensor, chosen: Tensor | None = None) -> Tensor:
        weight, bias = (
            (self.weight, self.bias) if chosen is None else (self.weight[chosen], self.bias[chosen])
        )
        return torch.einsum("bjd,jd->bj", decoded, weight) + bias


class AlignmentDecoder(nn.Module):
    """Label embeddings [T, L] or [B, T, L] and image tokens [B, N, K] to logits [B, T].

    A linear map and ReLU take labels to the decoder's width; one linear read-out is shared by every label, which is
    what lets a label that was never trained be scored (RAM 2.2). Tag2Text has neither (`DecoderConfig`).
    """

    def __init__(self, config: DecoderConfig, *, label_width: int, token_width: int, tags: int = 0) -> None:
        """
        Args:
            tags: T, needed where every tag has a head of its own.
        """
        super().__init__()
        self.label_map = config.label_map
        if config.label_map:
            self.label_in = nn.Linear(label_width, config.width)
        self.label_norm: nn.Module = nn.Identity()
        self.token_norm: nn.Module = nn.Identity()
        if config.input_norm:
            self.label_norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
            self.token_norm = nn.LayerNorm(token_width, eps=config.layer_norm_eps)
        self.layers = nn.ModuleList([DecoderLayer(config, token_width) for _ in range(config.depth)])
        self.own_heads = config.own_heads
        if config.own_heads:
            self.heads = OwnHeads(tags, config.width)
        else:
            self.head = nn.Linear(config.width, 1)
            nn.init.constant_(self.head.bias, START_BIAS)

    def forward(self, labels: Tensor, tokens: Tensor, chosen: Tensor | None = None) -> Tensor:
        """Logits; ``chosen`` says which tags the labels are, where each has a head of its own (None: all)."""
        x = self.label_norm(torch.relu(self.label_in(labels)) if self.label_map else labels)
        tokens = self.token_norm(tokens)
        if x.ndim == 2:
            x = x[None]
        for layer in self.layers:
            x = layer(x, tokens)
        y: Tensor = self.heads(x, chosen) if self.own_heads else self.head(x).squeeze(-1)
        return y

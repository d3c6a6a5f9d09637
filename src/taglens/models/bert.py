"""The transformer blocks of BERT that read tags and write captions (Tag2Text 1.4).

Word and position embeddings without token types; layers of self-attention, cross-attention and feed-forward, each
normalised after its sum; a causal form that continues from kept keys and values. Knows nothing of what the words say.
Shapes: B texts, L their length, D width, H heads, d = D / H, M memory tokens, K their width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from taglens.errors import ModelError

# Parity: what must not be seen is pushed this far down, not to minus infinity. A row that may see nothing at all
# (a text of padding only) is then spread over everything instead of undefined.
HIDDEN = -10000.0


@dataclass(frozen=True, slots=True)
class BertConfig:
    """Sizes of one stack of layers; defaults are those of BERT-base with two added pieces.

    Attributes:
        words: pieces of the vocabulary.
        positions: the longest text.
        memory_width: K, width of the tokens that cross-attention reads.
        dropout: share of activations dropped in training.
    """

    memory_width: int
    words: int = 30524
    positions: int = 512
    width: int = 768
    depth: int = 12
    heads: int = 12
    ffn_width: int = 3072
    dropout: float = 0.1
    layer_norm_eps: float = 1e-12

    def __post_init__(self) -> None:
        for name in ("memory_width", "words", "positions", "width", "depth", "heads", "ffn_width"):
            if getattr(self, name) < 1:
                raise ModelError(f"BertConfig.{name} must be at least 1, found {getattr(self, name)}")
        if self.width % self.heads:
            raise ModelError(f"BertConfig: width {self.width} is not a multiple of {self.heads} heads")
        if not 0.0 <= self.dropout < 1.0:
            raise ModelError(f"BertConfig.dropout must be in [0, 1), found {self.dropout}")
        if self.layer_norm_eps <= 0.0:
            raise ModelError(f"BertConfig.layer_norm_eps must be above 0, found {self.layer_norm_eps}")


@dataclass(frozen=True, slots=True)
class KeysValues:
    """What attention looks up, projected once: keys and values [B, H, N, d]."""

    keys: Tensor
    values: Tensor

    def followed_by(self, other: KeysValues) -> KeysValues:
        return KeysValues(torch.cat((self.keys, other.keys), 2), torch.cat((self.values, other.values), 2))

    def at(self, rows: Tensor) -> KeysValues:
        """The texts at ``rows`` [R], in that order, repeated where a row stands twice."""
        return KeysValues(self.keys[rows], self.values[rows])

    def __len__(self) -> int:
        return self.keys.shape[2]


def visible(mask: Tensor) -> Tensor:
    """A mask [B, N] of 1 and 0 as what is added to attention's scores [B, 1, 1, N]."""
    return ((1.0 - mask.float()) * HIDDEN)[:, None, None, :]


def causal(length: int, *, past: int = 0, device: torch.device | None = None) -> Tensor:
    """[1, 1, L, past + L]: position i sees the past and positions up to i."""
    seen = torch.ones(length, past + length, device=device).tril(diagonal=past)
    return ((1.0 - seen) * HIDDEN)[None, None]


class Attention(nn.Module):
    """Multi-head attention of queries [B, L, D] over sources [B, N, K], with output projection."""

    def __init__(self, config: BertConfig, source_width: int) -> None:
        super().__init__()
        self.heads = config.heads
        self.dropout = config.dropout
        self.query = nn.Linear(config.width, config.width)
        self.key = nn.Linear(source_width, config.width)
        self.value = nn.Linear(source_width, config.width)
        self.out = nn.Linear(config.width, config.width)

    def _split(self, x: Tensor) -> Tensor:
        b, n, d = x.shape
        return x.view(b, n, self.heads, d // self.heads).transpose(1, 2)

    def look_up(self, source: Tensor) -> KeysValues:
        return KeysValues(self._split(self.key(source)), self._split(self.value(source)))

    def forward(self, x: Tensor, source: KeysValues, mask: Tensor | None = None) -> Tensor:
        """``mask`` is added to the scores [B, H, L, N]."""
        q = self._split(self.query(x))
        mixed = F.scaled_dot_product_attention(
            q,
            source.keys,
            source.values,
            attn_mask=None if mask is None else mask.to(q.dtype),
            dropout_p=self.dropout if self.training else 0.0,
        )
        y: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return y


class BertLayer(nn.Module):
    """Self-attention, cross-attention, feed-forward; normalised after each sum."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        width, eps = config.width, config.layer_norm_eps
        self.self_attention = Attention(config, width)
        self.self_norm = nn.LayerNorm(width, eps=eps)
        self.attention = Attention(config, config.memory_width)
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.ffn = nn.Sequential(
            nn.Linear(width, config.ffn_width), nn.GELU(), nn.Linear(config.ffn_width, width)
        )
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.drop = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        memory: KeysValues | None,
        own: KeysValues,
        mask: Tensor | None,
        memory_mask: Tensor | None,
    ) -> Tensor:
        """``own``: what self-attention looks up, this text and all before it; ``memory`` None: a text by itself."""
        x = self.self_norm(x + self.drop(self.self_attention(x, own, mask)))
        if memory is not None:
            x = self.norm1(x + self.drop(self.attention(x, memory, memory_mask)))
        y: Tensor = self.norm2(x + self.drop(self.ffn(x)))
        return y


class Embeddings(nn.Module):
    """Pieces [B, L] to vectors [B, L, D]: word plus position, normalised."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.words = nn.Embedding(config.words, config.width)
        self.positions = nn.Embedding(config.positions, config.width)
        self.norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, ids: Tensor, *, past: int = 0) -> Tensor:
        """``past``: how many pieces stand before these. Raises ModelError where the text grows too long."""
        return self.at(ids, self.places(ids, past))

    def places(self, ids: Tensor, past: int) -> Tensor:
        """[L], the positions of pieces [B, L] after ``past`` others. Raises ModelError beyond the last."""
        end = past + ids.shape[1]
        if end > self.positions.num_embeddings:
            raise ModelError(
                f"a text of {end} pieces: this model has {self.positions.num_embeddings} positions; shorten it"
            )
        return torch.arange(past, end, device=ids.device)

    def at(self, ids: Tensor, places: Tensor) -> Tensor:
        """Pieces [B, L] at positions [L]."""
        y: Tensor = self.drop(self.norm(self.words(ids) + self.positions(places)))
        return y


class Bert(nn.Module):
    """Embeddings and layers; bidirectional as an encoder of tags, causal as a writer of captions."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList([BertLayer(config) for _ in range(config.depth)])
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def look_up(self, memory: Tensor) -> list[KeysValues]:
        """Memory tokens [B, M, K], projected for every layer."""
        if memory.shape[-1] != self.config.memory_width:
            raise ModelError(
                f"memory tokens are {memory.shape[-1]} wide, the model reads {self.config.memory_width}"
            )
        return [layer.attention.look_up(memory) for layer in self._layers()]

    def forward(
        self,
        ids: Tensor,
        memory: list[KeysValues] | None,
        *,
        mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
    ) -> Tensor:
        """Texts [B, L] to the last layer's output [B, L, D].

        Args:
            memory: as `look_up` gives it; None: the texts by themselves, without cross-attention.
            mask: added to self-attention's scores [B or 1, 1, L or 1, L].
            memory_mask: added to cross-attention's scores [B or 1, 1, 1, M].
        """
        x = self.embeddings(ids)
        looked_up: Sequence[KeysValues | None] = memory or [None] * self.config.depth
        for layer, seen in zip(self._layers(), looked_up, strict=True):
            x = layer(x, seen, layer.self_attention.look_up(x), mask, memory_mask)
        out: Tensor = x
        return out

    def go_on(
        self,
        ids: Tensor,
        memory: list[KeysValues],
        past: list[KeysValues],
        *,
        memory_mask: Tensor | None = None,
    ) -> tuple[Tensor, list[KeysValues]]:
        """Causally, pieces [B, L] after those that ``past`` holds (empty: after nothing).

        Returns:
            [B, L, D], the same as the whole text gives at these positions; and the past with these pieces added.
        """
        before = len(past[0]) if past else 0
        places = self.embeddings.places(ids, before)
        mask = causal(ids.shape[1], past=before, device=ids.device)
        return self.go_on_at(ids, places, mask, memory, past, memory_mask=memory_mask)

    def go_on_at(
        self,
        ids: Tensor,
        places: Tensor,
        mask: Tensor,
        memory: list[KeysValues],
        past: list[KeysValues],
        *,
        memory_mask: Tensor | None = None,
    ) -> tuple[Tensor, list[KeysValues]]:
        """`go_on` told what else follows from the lengths, so that no length is part of what an exporter records.

        Args:
            places: [L], positions of the pieces.
            mask: added to self-attention's scores [1, 1, L, past + L].
        """
        x = self.embeddings.at(ids, places)
        kept = []
        for number, layer in enumerate(self._layers()):
            own = layer.self_attention.look_up(x)
            if past:
                own = past[number].followed_by(own)
            kept.append(own)
            x = layer(x, memory[number], own, mask, memory_mask)
        return x, kept

    def _layers(self) -> list[BertLayer]:
        return [layer for layer in self.layers if isinstance(layer, BertLayer)]

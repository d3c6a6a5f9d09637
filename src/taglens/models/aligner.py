"""The alignment encoder of Tag2Text (1.4): a picture and a text as two vectors, and whether they belong together.

Its layers are the caption decoder's, read both ways: each has a self-attention of its own, and shares the rest with
the decoder's layer of the same number. By itself a text gives a vector for image-text contrast (ITC); looking at what
the decoder looks at, a picture's tags and tokens, it gives a logit for image-text matching (ITM).
Knows numbers of pieces; the objective is `taglens.training.text_objectives`.
Shapes: B pictures, T texts, L their length, N image tokens, C their width, E width of the vectors, M memory's length.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from taglens.errors import ModelError
from taglens.models.bert import Bert, KeysValues, visible
from taglens.models.captioner import Captioner


@dataclass(frozen=True, slots=True)
class AlignerConfig:
    """Sizes beyond the captioner's.

    Attributes:
        width: E, of the vectors that are compared.
        temperature: what similarities are divided by at the start of training; learned.
        dropout: share of activations dropped in training, in its own parts.
    """

    width: int = 256
    temperature: float = 0.07
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ModelError(f"AlignerConfig.width must be at least 1, found {self.width}")
        if not self.temperature > 0:
            raise ModelError(f"AlignerConfig.temperature must be above 0, found {self.temperature}")
        if not 0.0 <= self.dropout < 1.0:
            raise ModelError(f"AlignerConfig.dropout must be in [0, 1), found {self.dropout}")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, row: dict[str, Any]) -> AlignerConfig:
        """The inverse of `to_dict`. Raises ModelError naming what is unknown."""
        try:
            return cls(**row)
        except TypeError as error:
            raise ModelError(f"the aligner's configuration is unknown to this release: {error}") from None


class Aligner(nn.Module):
    """Pictures and texts as unit vectors, and a logit for a picture and a text together.

    Args:
        captioner: whose decoder's embeddings, cross-attention and feed-forward it reads with; see `share_decoder`.
    """

    def __init__(self, config: AlignerConfig, captioner: Captioner) -> None:
        super().__init__()
        self.config = config
        sizes = captioner.config.decoder
        self.bert = Bert(sizes)
        self.share_decoder(captioner)
        width = captioner.config
        self.picture_out = nn.Sequential(
            nn.LayerNorm(width.image_width),
            nn.Dropout(config.dropout),
            nn.Linear(width.image_width, config.width),
        )
        self.text_out = nn.Linear(width.width, config.width)
        self.match_out = nn.Linear(width.width, 1)
        self.scale = nn.Parameter(torch.tensor(config.temperature).reciprocal().log())

    def share_decoder(self, captioner: Captioner) -> None:
        """Make everything but self-attention the very tensors of the caption decoder's."""
        decoder = captioner.decoder
        self.bert.embeddings = decoder.embeddings
        for mine, theirs in zip(self.bert.layers, decoder.layers, strict=True):
            for part in ("attention", "norm1", "ffn", "norm2"):
                setattr(mine, part, getattr(theirs, part))

    def own_state(self) -> dict[str, Tensor]:
        """The state dict without what is the decoder's."""
        shared = tuple(
            f"bert.layers.{number}.{part}."
            for number in range(len(self.bert.layers))
            for part in ("attention", "norm1", "ffn", "norm2")
        )
        return {
            key: value
            for key, value in self.state_dict().items()
            if not key.startswith((*shared, "bert.embeddings."))
        }

    def pictures(self, tokens: Tensor) -> Tensor:
        """Image tokens [B, N, C], the pooled one first, to unit vectors [B, E]."""
        return F.normalize(self.picture_out(tokens[:, 0]), dim=-1)

    def texts(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Texts [T, L], opened by [CLS], and their mask to unit vectors [T, E]."""
        x = self.bert(ids, None, mask=visible(mask))
        return F.normalize(self.text_out(x[:, 0]), dim=-1)

    def match(
        self, ids: Tensor, mask: Tensor, memory: list[KeysValues], memory_mask: Tensor | None
    ) -> Tensor:
        """How well each text suits the memory of the same number: logits [B].

        Args:
            ids: [B, L], texts opened by [ENC]; mask: 1 where there is a piece.
            memory, memory_mask: what the decoder's layers look up of a picture and its tags, see `Captioner.start`.
        """
        x = self.bert(ids, memory, mask=visible(mask), memory_mask=memory_mask)
        logits: Tensor = self.match_out(x[:, 0]).squeeze(-1)
        return logits

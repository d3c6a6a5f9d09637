"""What the decoder asks about: one embedding per tag, in three forms.

- `LearnedBank`: free embeddings, learned with the model (Tag2Text 1.4).
- `EmbeddedBank`: one frozen text embedding per tag (RAM 2.2).
- `DescriptionBank`: several frozen embeddings per tag, one per description, blended anew for every picture by how
  well each fits it (RAM++ 3.3, Eq. 1).

A bank is asked for label embeddings, of all tags or of some, and knows nothing of names. Any of the last two may be
put in the place of another (`Recognizer.with_labels`): that is the open vocabulary.
Shapes: B images, T tags, J chosen tags, K descriptions, L label width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from taglens.errors import ModelError

# CLIP's temperature, from which the published models start too.
SHARPNESS = math.log(1 / 0.07)


class LearnedBank(nn.Module):
    """A free embedding per tag."""

    def __init__(self, tags: int, width: int) -> None:
        super().__init__()
        self.embeddings = nn.Parameter(torch.randn(tags, width) * width**-0.5)

    def __len__(self) -> int:
        return self.embeddings.shape[0]

    def forward(self, pooled: Tensor, chosen: Tensor | None = None) -> Tensor:
        """Label embeddings [T, L], or [J, L] for ``chosen`` columns [J]; the same for every picture."""
        return self.embeddings if chosen is None else self.embeddings[chosen]

    def plain(self) -> Tensor:
        """[T, L]: each tag without any picture."""
        return self.embeddings


class EmbeddedBank(nn.Module):
    """One frozen embedding per tag: a buffer, saved with the model and never trained."""

    embeddings: Tensor

    def __init__(self, embeddings: Tensor) -> None:
        """Args: embeddings: [T, L]."""
        super().__init__()
        if embeddings.ndim != 2:
            raise ModelError(f"a bank of embeddings is [tags, width], found {list(embeddings.shape)}")
        self.register_buffer("embeddings", embeddings)

    def __len__(self) -> int:
        return self.embeddings.shape[0]

    def forward(self, pooled: Tensor, chosen: Tensor | None = None) -> Tensor:
        """Label embeddings [T, L], or [J, L] for ``chosen`` columns [J]; the same for every picture."""
        return self.embeddings if chosen is None else self.embeddings[chosen]

    def plain(self) -> Tensor:
        """[T, L]: each tag without any picture."""
        return self.embeddings


class DescriptionBank(nn.Module):
    """K frozen embeddings per tag, re-weighted by the picture: ``softmax_k(exp(s) unit(v) . d_k)`` blends the d_k.

    Tags may have different numbers of descriptions: rows of ``embeddings`` past a tag's count are never looked at.
    With one description per tag it is an `EmbeddedBank`, whatever the picture.
    """

    embeddings: Tensor
    counts: Tensor

    def __init__(self, embeddings: Tensor, counts: Tensor) -> None:
        """
        Args:
            embeddings: [T, K, L], unit vectors, as the text encoder gives them.
            counts: [T], how many of the K are a tag's own, 1 to K.
        """
        super().__init__()
        if embeddings.ndim != 3 or counts.shape != embeddings.shape[:1]:
            raise ModelError(
                "a bank of descriptions is [tags, descriptions, width] with a count per tag, "
                f"found {list(embeddings.shape)} and {list(counts.shape)}"
            )
        if len(counts) and not (int(counts.min()) >= 1 and int(counts.max()) <= embeddings.shape[1]):
            raise ModelError(f"every tag needs 1 to {embeddings.shape[1]} descriptions")
        self.register_buffer("embeddings", embeddings)
        self.register_buffer("counts", counts)
        self.sharpness = nn.Parameter(torch.tensor(SHARPNESS))

    @classmethod
    def ragged(cls, rows: Sequence[Tensor]) -> DescriptionBank:
        """From one tensor [K_t, L] per tag."""
        counts = torch.tensor([len(row) for row in rows])
        return cls(nn.utils.rnn.pad_sequence(list(rows), batch_first=True), counts)

    def __len__(self) -> int:
        return self.embeddings.shape[0]

    def forward(self, pooled: Tensor, chosen: Tensor | None = None) -> Tensor:
        """Label embeddings [B, T, L], or [B, J, L] for ``chosen`` columns [J], for the pictures ``pooled`` [B, L]."""
        described = self.embeddings if chosen is None else self.embeddings[chosen]
        return torch.einsum("bjk,jkl->bjl", self.weights(pooled, chosen), described)

    def plain(self) -> Tensor:
        """[T, L]: each tag without any picture, the mean of its descriptions."""
        own = _own(self.counts, self.embeddings.shape[1]).to(self.embeddings.dtype)
        return torch.einsum("tk,tkl->tl", own, self.embeddings) / self.counts[:, None]

    def fit(self, pooled: Tensor, chosen: Tensor | None = None) -> Tensor:
        """How well each description fits [B, J, K]. Only the picture is normalised here: descriptions come so."""
        described = self.embeddings if chosen is None else self.embeddings[chosen]
        return torch.einsum("bl,jkl->bjk", F.normalize(pooled, dim=-1), described) * self.sharpness.exp()

    def weights(self, pooled: Tensor, chosen: Tensor | None = None) -> Tensor:
        """How much each description counts [B, J, K]; adds up to 1 over a tag's own, 0 beyond them."""
        counts = self.counts if chosen is None else self.counts[chosen]
        fit = self.fit(pooled, chosen)
        return fit.masked_fill(~_own(counts, self.embeddings.shape[1]), float("-inf")).softmax(dim=-1)


def _own(counts: Tensor, most: int) -> Tensor:
    """[T, K], true where a tag has a description."""
    return torch.arange(most, device=counts.device) < counts[:, None]


LabelBank = LearnedBank | EmbeddedBank | DescriptionBank


def empty_bank(*, tags: int, width: int, descriptions: int) -> LabelBank:
    """A bank of the given shape, to be learned, loaded or filled; see `RecognizerConfig.descriptions`."""
    if descriptions == 0:
        return LearnedBank(tags, width)
    if descriptions == 1:
        return EmbeddedBank(torch.zeros(tags, width))
    # Counts are looked at, so that they are numbers even in a model without (`empty_recognizer`).
    counts = torch.full((tags,), descriptions, dtype=torch.long, device="cpu")
    return DescriptionBank(torch.zeros(tags, descriptions, width), counts)

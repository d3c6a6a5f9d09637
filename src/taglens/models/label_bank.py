"""What the decoder asks about: one embedding per tag.

This release holds the learned form (Tag2Text 1.4). A bank is asked for label embeddings, whole or for some tags,
and knows nothing of names. Shapes: T tags, L label width, J chosen tags.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LearnedBank(nn.Module):
    """A free embedding per tag, learned with the model."""

    def __init__(self, tags: int, width: int) -> None:
        super().__init__()
        self.embeddings = nn.Parameter(torch.randn(tags, width) * width**-0.5)

    def __len__(self) -> int:
        return self.embeddings.shape[0]

    def forward(self, chosen: Tensor | None = None) -> Tensor:
        """Label embeddings [T, L], or [J, L] for ``chosen`` columns [J]."""
        return self.embeddings if chosen is None else self.embeddings[chosen]

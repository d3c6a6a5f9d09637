"""Losses as pure functions that return unreduced values; the caller takes the mean.

Shapes: B images, T tags.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def asymmetric_loss(
    logits: Tensor,
    targets: Tensor,
    weights: Tensor,
    *,
    gamma_negative: float = 7.0,
    gamma_positive: float = 0.0,
    shift: float = 0.05,
) -> Tensor:
    """The tagging loss of all three papers (PAPERS.md 1.5 and 3.1), per image and tag.

    With p the probability and p' = max(p - shift, 0), a positive costs ``(1 - p)^g+ * -log p`` and a negative
    ``p'^g- * -log(1 - p')``; the focal factors carry no gradient.

    Args:
        logits: [B, T].
        targets: [B, T], 1 present, 0 absent.
        weights: [B, T], how sure the target is; 0 masks an unknown tag.

    Returns:
        [B, T], 0 where masked.
    """
    probability = torch.sigmoid(logits)
    # Log of the shifted complement without ever taking the log of zero: 1 - p' >= min(1, 1 - p + shift).
    complement = (1.0 - probability + shift).clamp(max=1.0)
    positive = -F.logsigmoid(logits)
    negative = -torch.log(complement.clamp(min=1e-8))
    with torch.no_grad():
        focus_positive = (1.0 - probability) ** gamma_positive
        focus_negative = (1.0 - complement) ** gamma_negative
    loss = targets * focus_positive * positive + (1.0 - targets) * focus_negative * negative
    return loss * weights


def ranking_loss(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """A listwise loss for pictures whose absent tags are not known to be absent.

    A label set that names one thing per picture says little about what else is there, but it does say that its name
    fits better than the others it could have chosen. For each positive j, over the absent tags a that the source
    could have named: ``-log(exp(z_j) / (exp(z_j) + sum_a exp(z_a)))``. Nothing is claimed about the absolute
    probability of an absent tag.

    Args:
        logits: [B, T].
        targets: [B, T], 1 present, 0 absent.
        weights: [B, T]; an absent tag with weight 0 is out of the source's reach and not compared.

    Returns:
        [B]: the mean over each image's positives; 0 for an image without positives or without rivals.
    """
    floor = torch.finfo(logits.dtype).min
    rivals = (targets == 0) & (weights > 0)
    against = torch.logsumexp(logits.masked_fill(~rivals, floor), dim=1, keepdim=True)
    each = F.softplus(against - logits) * targets
    mean = each.sum(1) / targets.sum(1).clamp(min=1)
    return torch.where(rivals.any(1), mean, torch.zeros_like(mean))

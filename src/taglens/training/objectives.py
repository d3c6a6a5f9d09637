"""What a training step minimises: named losses over one batch.

Shapes: B images, T tags, J tags asked of the decoder at this step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from taglens.models.recognizer import Recognizer
from taglens.training.losses import asymmetric_loss, ranking_loss


@dataclass(frozen=True, slots=True)
class TagObjective:
    """The tagging objective.

    Attributes:
        gamma_negative, gamma_positive, shift: the asymmetric loss (PAPERS.md 3.1).
        tags_per_step: J; the decoder answers for J random tags a step (0: all). Labels do not see each other in the
            decoder, so this is a plain sample of the same sum.
        weights: factor of each named loss: ``tag`` and ``rank`` on the model's answer, ``pooled_tag`` and
            ``pooled_rank`` on the pooled term alone, which carries the gradient of every tag to the encoder. With
            ``tag`` and ``rank`` at 0 the decoder is not run at all, with both pooled ones at 0 the pooled term is
            only part of the answer.
    """

    gamma_negative: float = 7.0
    gamma_positive: float = 0.0
    shift: float = 0.05
    tags_per_step: int = 384
    weights: Mapping[str, float] = field(
        default_factory=lambda: {"tag": 1.0, "rank": 0.5, "pooled_tag": 0.5, "pooled_rank": 1.0}
    )

    def losses(
        self,
        model: Recognizer,
        images: Tensor,
        targets: Tensor,
        weights: Tensor,
        *,
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        """Scalar losses by name, unweighted.

        Args:
            images: [B, 3, S, S] in [0, 1]; targets, weights: [B, T].
            generator: decides which tags the decoder is asked about.
        """
        if not self._weighs("tag", "rank"):
            pooled_logits = model.pooled_logits(model.tokens(images))
            return self._pair("pooled_", pooled_logits, targets, weights)
        total = targets.shape[1]
        chosen = None
        if 0 < self.tags_per_step < total:
            chosen = torch.randperm(total, generator=generator)[: self.tags_per_step].to(images.device)
        found = model(images, chosen)
        some = (targets, weights) if chosen is None else (targets[:, chosen], weights[:, chosen])
        named = self._pair("", found.logits, *some)
        if found.pooled_logits is not None and self._weighs("pooled_tag", "pooled_rank"):
            named |= self._pair("pooled_", found.pooled_logits, targets, weights)
        return named

    def _weighs(self, *names: str) -> bool:
        return any(self.weights.get(name, 0.0) for name in names)

    def _pair(self, prefix: str, logits: Tensor, targets: Tensor, weights: Tensor) -> dict[str, Tensor]:
        logits = logits.float()
        tag = asymmetric_loss(
            logits,
            targets,
            weights,
            gamma_negative=self.gamma_negative,
            gamma_positive=self.gamma_positive,
            shift=self.shift,
        )
        # Per positive: the papers' sum over tags, on a scale that does not depend on how many tags were asked.
        positives = targets.sum().clamp(min=1)
        # Where every tag is a sure negative or positive the asymmetric loss says all; ranking is for the rest.
        unsure = (weights < 1).any(1)
        ranked = ranking_loss(logits, targets, weights)[unsure]
        rank = ranked.mean() if len(ranked) else logits.sum() * 0
        return {f"{prefix}tag": tag.sum() / positives, f"{prefix}rank": rank}

    def total(self, named: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum."""
        terms = [value * self.weights.get(name, 0.0) for name, value in named.items()]
        return torch.stack(terms).sum()

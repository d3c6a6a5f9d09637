"""What a training step minimises: named losses over one batch.

Shapes: B images, N tokens, K token width, T tags, J tags asked of the decoder at this step, D texts, L label width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from taglens.data.batches import Batch
from taglens.models.recognizer import Recognizer
from taglens.training.losses import asymmetric_loss, ranking_loss


@dataclass(frozen=True, slots=True)
class Totals:
    """What the losses of one update are divided by, over all its parts and processes.

    Parts that are each divided by these add up to the loss of the whole, so that an update does not depend on how it
    was cut up.

    Attributes:
        pictures: how many; unsure: those of them with a tag that is neither sure to be there nor sure to be absent;
        captioned: those with a caption; positives: tags present, over all pictures.
    """

    pictures: float
    unsure: float
    captioned: float
    positives: float


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """What is known about the pictures of a batch.

    Attributes:
        targets, weights: [B, T]; 1 present, 0 absent; weight 0 where unknown.
        texts: [D, L], embedded captions, those of other processes included.
        described: [E], which pictures of the batch have a caption.
        matches: [E, D], 1 where the text is that picture's.
        taught: [B, K], what a teacher makes of the pictures; None without a teacher.
        totals: of the whole update where these pictures are only a part of it; None: they are all of it.
    """

    targets: Tensor
    weights: Tensor
    texts: Tensor
    described: Tensor
    matches: Tensor
    taught: Tensor | None = None
    totals: Totals | None = None

    def own_totals(self) -> Totals:
        """Of these pictures alone."""
        return Totals(
            pictures=len(self.targets),
            unsure=float((self.weights < 1).any(1).sum()),
            captioned=len(self.described),
            positives=float(self.targets.sum()),
        )

    @classmethod
    def of(cls, batch: Batch, *, device: torch.device) -> Asked:
        """A batch of arrays on a device, each caption matching its own picture."""
        texts = torch.from_numpy(batch.texts).to(device)
        return cls(
            torch.from_numpy(batch.targets).to(device),
            torch.from_numpy(batch.weights).to(device),
            texts,
            torch.from_numpy(batch.described).to(device),
            torch.eye(len(texts), device=device),
            None if batch.taught is None else torch.from_numpy(batch.taught).to(device),
        )

    def part(self, rows: Tensor) -> Asked:
        """What is asked of the pictures ``rows`` [R], rising; texts and totals stay those of the whole."""
        mine = torch.isin(self.described, rows)
        return replace(
            self,
            targets=self.targets[rows],
            weights=self.weights[rows],
            described=torch.searchsorted(rows, self.described[mine]),
            matches=self.matches[mine],
            taught=None if self.taught is None else self.taught[rows],
            totals=self.totals or self.own_totals(),
        )


@dataclass(frozen=True, slots=True)
class TagObjective:
    """The objective of RAM++ (PAPERS.md 3.1) and, for small models, the pooled term's own.

    Attributes:
        gamma_negative, gamma_positive, shift: the asymmetric loss on tags.
        gamma_text: its focus on negatives where whole captions are asked.
        tags_per_step: J; the decoder answers for about J random tags a step (0: all). Labels do not see each other
            in the decoder, so a weighted sample stands for the same sum.
        frequency: [T], the share of pictures that have each tag: common tags are drawn more often, see `inclusion`;
            None: all alike.
        weights: factor of each named loss. On the decoder's answer: ``tag`` and ``rank`` for tags, ``text`` for the
            batch's captions against its pictures. On the pooled term, which carries the gradient of every tag to the
            encoder: ``pooled_tag``, ``pooled_rank``, ``pooled_text``. Each term has losses of its own: trained on
            their sum, the decoder learns nothing that the pooled term already says (EXPERIMENTS.md). ``distil``: the
            pooled token against a teacher's. A loss of factor 0 is not computed.
    """

    gamma_negative: float = 7.0
    gamma_positive: float = 0.0
    shift: float = 0.05
    gamma_text: float = 4.0
    tags_per_step: int = 384
    frequency: Tensor | None = None
    weights: Mapping[str, float] = field(
        default_factory=lambda: {
            "tag": 1.0,
            "rank": 0.5,
            "text": 1.0,
            "pooled_tag": 0.5,
            "pooled_rank": 1.0,
            "pooled_text": 0.5,
            "distil": 1.0,
        }
    )

    def losses(
        self, model: Recognizer, tokens: Tensor, asked: Asked, *, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Scalar losses by name, unweighted.

        Args:
            tokens: [B, 1 + N, K], as `Recognizer.tokens` gives them.
            generator: decides which tags the decoder is asked about.
        """
        named: dict[str, Tensor] = {}
        totals = asked.totals or asked.own_totals()
        pools = model.config.pooled_term
        if self._weighs("tag", "rank"):
            chosen, targets, weights, factors = self._sample(asked, generator)
            answer = model.decoder(model.bank(tokens[:, 0], chosen), tokens, chosen)
            named |= self._pair("", answer, targets, weights, factors, totals)
        if pools and self._weighs("pooled_tag", "pooled_rank"):
            pooled = model.pooled_logits(tokens)
            named |= self._pair("pooled_", pooled, asked.targets, asked.weights, asked.weights, totals)
        if len(asked.described) and self._weighs("text"):
            answer = model.decoder(asked.texts, tokens[asked.described])
            named["text"] = self._texts(answer, asked.matches) / totals.captioned
        if len(asked.described) and pools and self._weighs("pooled_text"):
            pooled = model.pooled_texts(tokens[asked.described], asked.texts)
            named["pooled_text"] = self._texts(pooled, asked.matches) / totals.captioned
        if asked.taught is not None and self._weighs("distil"):
            gap = (tokens[:, 0] - asked.taught).abs().float()
            named["distil"] = gap.mean(1).sum() / totals.pictures
        return named

    def total(self, named: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum."""
        if not named:
            return torch.zeros(())
        terms = [value * self.weights.get(name, 0.0) for name, value in named.items()]
        return torch.stack(terms).sum()

    def _weighs(self, *names: str) -> bool:
        return any(self.weights.get(name, 0.0) for name in names)

    def _sample(
        self, asked: Asked, generator: torch.Generator
    ) -> tuple[Tensor | None, Tensor, Tensor, Tensor]:
        """Which tags are asked [J] (None: all), and for them targets, weights, and weights over chances [B, J]."""
        total = asked.targets.shape[1]
        if not 0 < self.tags_per_step < total:
            return None, asked.targets, asked.weights, asked.weights
        frequency = torch.ones(total) if self.frequency is None else self.frequency
        chance = inclusion(frequency, self.tags_per_step)
        chosen = draw(chance, generator=generator)
        factor = (1 / chance[chosen]).to(asked.weights.device)
        chosen = chosen.to(asked.weights.device)
        weights = asked.weights[:, chosen]
        return chosen, asked.targets[:, chosen], weights, weights * factor

    def _pair(
        self,
        prefix: str,
        logits: Tensor,
        targets: Tensor,
        weights: Tensor,
        factors: Tensor,
        totals: Totals,
    ) -> dict[str, Tensor]:
        """Both losses of one term: ``weights`` as the source gives them, ``factors`` with the sample's share in."""
        logits = logits.float()
        tag = asymmetric_loss(
            logits,
            targets,
            factors,
            gamma_negative=self.gamma_negative,
            gamma_positive=self.gamma_positive,
            shift=self.shift,
        )
        # Where every tag is a sure negative or positive the asymmetric loss says all; ranking is for the rest.
        unsure = (weights < 1).any(1)
        rank = ranking_loss(logits, targets, weights)[unsure].sum() / max(totals.unsure, 1)
        # Per positive: the papers' sum over tags, on a scale that does not depend on how many tags were asked.
        return {f"{prefix}tag": tag.sum() / max(totals.positives, 1), f"{prefix}rank": rank}

    def _texts(self, logits: Tensor, matches: Tensor) -> Tensor:
        """Every picture that has a caption against every caption [E, D], summed."""
        loss = asymmetric_loss(
            logits.float(),
            matches,
            torch.ones_like(matches),
            gamma_negative=self.gamma_text,
            gamma_positive=self.gamma_positive,
            shift=self.shift,
        )
        return loss.sum()


def inclusion(frequency: Tensor, count: int) -> Tensor:
    """The chance [T] of each tag to be among ``count`` drawn ones: as the root of its frequency, none above 1.

    What a tag adds to the gradient varies about as its frequency does, and a sample is steadiest when a part is drawn
    as the root of its variance. Tags that were never seen keep a small chance: they must be pushed down.
    """
    root = frequency.double().clamp(min=1e-4).sqrt()
    sure = torch.zeros(len(root), dtype=torch.bool)
    while True:
        rest = (count - sure.sum()) / root[~sure].sum()
        chance = torch.where(sure, 1.0, root * rest)
        over = (chance > 1) & ~sure
        if not over.any():
            return chance.float()
        sure |= over


def draw(chance: Tensor, *, generator: torch.Generator) -> Tensor:
    """Numbers [J] of tags, each drawn with its own ``chance`` [T], J within one of their sum, in random order.

    A comb with teeth one apart is laid, at a random offset, over the chances put end to end in random order.
    """
    order = torch.randperm(len(chance), generator=generator)
    ends = chance[order].double().cumsum(0)
    offset = torch.rand((), generator=generator, dtype=torch.float64)
    teeth = (ends - offset).floor()
    before = torch.cat([(-offset).floor()[None], teeth[:-1]])
    return order[teeth > before]

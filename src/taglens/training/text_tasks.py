"""What the joint model of Tag2Text minimises over a batch of captions: writing, contrast, matching, tagging.

Shapes: B captions, each with its picture; N image tokens, C their width, M pieces of a tag list, L of a caption.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from taglens.models.aligner import Aligner
from taglens.models.bert import KeysValues
from taglens.models.captioner import Captioner, learned_places
from taglens.models.recognizer import Recognizer
from taglens.training.objectives import Asked, TagObjective
from taglens.training.text_data import NO_PICTURE, TextBatch

# Similarities are never divided by less than a hundredth.
LARGEST_SCALE = 100.0


class Tag2Text(nn.Module):
    """The parts that are trained together. Layers that two of them share are one."""

    def __init__(self, recognizer: Recognizer, captioner: Captioner, aligner: Aligner | None) -> None:
        super().__init__()
        self.recognizer = recognizer
        self.captioner = captioner
        if aligner is not None:
            self.aligner = aligner

    @property
    def aligns(self) -> bool:
        return hasattr(self, "aligner")


@dataclass(frozen=True, slots=True, eq=False)
class TextTensors:
    """A `TextBatch` on a device.

    Attributes:
        own: bool [B], where a caption is about a picture.
        targets, weights: [B, T], the pictures' tags as `taglens.training.objectives.Asked` has them; None where no
            tags are learned.
    """

    guides: Tensor
    guide_mask: Tensor
    written: Tensor
    written_mask: Tensor
    own: Tensor
    prompt: int
    read: Tensor | None = None
    read_mask: Tensor | None = None
    same: Tensor | None = None
    shown: Tensor | None = None
    shown_mask: Tensor | None = None
    targets: Tensor | None = None
    weights: Tensor | None = None

    @classmethod
    def of(cls, batch: TextBatch, *, device: torch.device) -> TextTensors:
        """Without tags to learn."""

        def there(array: np.ndarray[Any, Any]) -> Tensor:
            return torch.from_numpy(array).to(device)

        found = cls(
            there(batch.guides),
            there(batch.guide_mask),
            there(batch.written),
            there(batch.written_mask),
            there(batch.pictures != NO_PICTURE),
            batch.prompt,
        )
        beside: dict[str, Any] = {
            name: there(array)
            for name in ("read", "read_mask", "same", "shown", "shown_mask")
            if (array := getattr(batch, name)) is not None
        }
        return replace(found, **beside)


@dataclass(frozen=True, slots=True)
class TextObjective:
    """The losses of Tag2Text's joint training (1.5, choice T2).

    Attributes:
        weights: factor of each named loss: ``lm`` writing, ``itc`` image-text contrast, ``itm`` image-text matching,
            ``tag`` all of the tagging objective. One of factor 0 is not computed.
        matched: pairs of a batch for which matching is asked, each of them three times; 0: all. It is the dearest.
        rescale_tags: bring the tagging loss to the size of the writing loss, by a ratio without gradient.
        tagging: the tagging objective.
    """

    weights: Mapping[str, float] = field(
        default_factory=lambda: {"lm": 1.0, "itc": 1.0, "itm": 1.0, "tag": 0.0}
    )
    matched: int = 0
    rescale_tags: bool = True
    tagging: TagObjective = field(default_factory=TagObjective)

    def losses(
        self, model: Tag2Text, tokens: Tensor, batch: TextTensors, *, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Scalar losses by name, unweighted.

        Args:
            tokens: [B, N, C], as the recogniser projects them; of captions about no picture anything.
            generator: draws what pictures and captions are confused with.
        """
        captioner = model.captioner
        named: dict[str, Tensor] = {}
        memory = captioner.encode(batch.guides, batch.guide_mask, tokens)
        if self.weights.get("lm"):
            named["lm"] = self.writing(model, memory, batch)
        rows = batch.own.nonzero()[:, 0]
        if model.aligns and len(rows) > 1 and (self.weights.get("itc") or self.weights.get("itm")):
            named |= self._aligned(model, tokens, batch, rows, generator)
        if self.weights.get("tag") and len(rows) and batch.targets is not None and batch.weights is not None:
            nothing = torch.zeros(0, device=tokens.device)
            asked = Asked(batch.targets[rows], batch.weights[rows], nothing, nothing.long(), nothing)
            found = self.tagging.losses(model.recognizer, tokens[rows], asked, generator=generator)
            named["tag"] = self.tagging.total(found)
        return named

    def writing(self, model: Tag2Text, memory: Tensor, batch: TextTensors) -> Tensor:
        """The mean loss of a piece that is learned, given what the decoder sees, as `Captioner.encode` gives it."""
        captioner = model.captioner
        hidden = captioner.hidden(
            batch.written, memory, mask=batch.written_mask, memory_mask=batch.guide_mask
        )
        # As `caption_losses`, but the whole vocabulary, which is dear, is asked only where something is learned.
        learned = learned_places(batch.written, prompt=batch.prompt, pad=captioner.config.pad)
        return F.cross_entropy(
            captioner.logits(hidden[:, :-1][learned]),
            batch.written[:, 1:][learned],
            label_smoothing=captioner.config.label_smoothing,
        )

    def total(self, named: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum."""
        terms = []
        for name, value in named.items():
            term = value * self.weights.get(name, 0.0)
            if name == "tag" and self.rescale_tags and "lm" in named:
                term = term * (named["lm"].detach() / value.detach().clamp(min=1e-6))
            terms.append(term)
        return torch.stack(terms).sum()

    def _aligned(
        self,
        model: Tag2Text,
        tokens: Tensor,
        batch: TextTensors,
        rows: Tensor,
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        """Contrast and matching of the captions ``rows`` that are about pictures; nothing of answers."""
        aligner, captioner = model.aligner, model.captioner
        if batch.read is None or batch.read_mask is None or batch.same is None:
            return {}
        ids, mask, same = batch.read[rows], batch.read_mask[rows], batch.same[rows][:, rows]
        pictures, texts = aligner.pictures(tokens[rows]), aligner.texts(ids, mask)
        similarity = aligner.scale.exp().clamp(max=LARGEST_SCALE) * pictures @ texts.T
        named = {"itc": contrast(similarity, same)}
        if self.weights.get("itm") and batch.shown is not None and batch.shown_mask is not None:
            text, picture = hard_negatives(similarity.detach(), same, generator)
            opened = ids.clone()
            opened[:, 0] = captioner.config.tags
            # The pair itself, its picture with a wrong text, its text with a wrong picture.
            right = torch.arange(len(rows), device=rows.device)[: self.matched or None]
            count = len(right)
            shown = torch.cat((right, right, picture[:count]))
            told = torch.cat((right, text[:count], right))
            looked, place = torch.unique(shown, return_inverse=True)
            guides, guide_mask = batch.shown[rows][looked], batch.shown_mask[rows][looked]
            memory = captioner.encode(guides, guide_mask, tokens[rows][looked])
            seen = captioner.decoder.look_up(memory)
            hidden = captioner.memory_mask(guide_mask, memory)
            logits = aligner.match(
                opened[told], mask[told], [KeysValues.at(each, place) for each in seen], _at(hidden, place)
            )
            truth = torch.zeros_like(logits)
            truth[:count] = 1.0
            named["itm"] = F.binary_cross_entropy_with_logits(logits, truth)
        return named


def contrast(similarity: Tensor, same: Tensor) -> Tensor:
    """Image-text contrast, both ways: similarities [B, B], pictures down, texts across, already scaled.

    Args:
        same: bool [B, B], pairs that belong together; several share the truth evenly.
    """
    share = same.float() / same.sum(1, keepdim=True)
    # ``same`` is symmetric: texts ask pictures with the same truth.
    return (F.cross_entropy(similarity, share) + F.cross_entropy(similarity.T, share)) / 2


def hard_negatives(similarity: Tensor, same: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """For each picture a text, and for each text a picture, that do not belong to it [B].

    The more alike, the likelier. Where a batch holds nothing else (one picture's captions only), the pair itself.
    """
    alone = same.all(1, keepdim=True)

    def drawn(scores: Tensor) -> Tensor:
        chance = scores.softmax(1) + 1e-6  # what is far off must stay possible
        chance = torch.where(same, 0.0, chance)
        chance = torch.where(alone, torch.eye(len(chance), device=chance.device), chance)
        return torch.multinomial(chance.cpu(), 1, generator=generator)[:, 0].to(scores.device)

    return drawn(similarity), drawn(similarity.T)


def _at(mask: Tensor | None, rows: Tensor) -> Tensor | None:
    return None if mask is None else mask[rows]

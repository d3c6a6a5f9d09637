"""The assembled model: encoder, projection, label bank, alignment decoder.

Shapes: B images, S side, N tokens, K token width, T tags, J chosen tags.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from taglens.errors import ModelError
from taglens.models.alignment import AlignmentDecoder
from taglens.models.configs import (
    ConvNetConfig,
    EncoderConfig,
    HybridConfig,
    RecognizerConfig,
    SwinConfig,
)
from taglens.models.convnet import ConvNet
from taglens.models.hybrid import Hybrid
from taglens.models.label_bank import DescriptionBank, EmbeddedBank, LabelBank, LearnedBank, empty_bank
from taglens.models.swin import Swin
from taglens.models.vit import ViT


def build_encoder(config: EncoderConfig) -> ConvNet | Hybrid | Swin | ViT:
    if isinstance(config, ConvNetConfig):
        return ConvNet(config)
    if isinstance(config, HybridConfig):
        return Hybrid(config)
    return Swin(config) if isinstance(config, SwinConfig) else ViT(config)


@dataclass(frozen=True, slots=True)
class Recognition:
    """What one forward pass yields.

    Attributes:
        logits: [B, J], the model's answer: the sum of its terms.
        decoder_logits: [B, J], the decoder's term alone.
        pooled_logits: [B, T], the pooled term alone and for every tag, None where the model has no such term.
        tokens: [B, 1 + N, K], the projected tokens; the first is the pooled one.
    """

    logits: Tensor
    decoder_logits: Tensor
    pooled_logits: Tensor | None
    tokens: Tensor

    @property
    def pooled(self) -> Tensor:
        """[B, K], the picture's own vector."""
        return self.tokens[:, 0]


class ClosedTerm(nn.Module):
    """What a model learned about the tags it was trained on: the encoder's pooled token [B, C] to logits [B, T].

    The pooled term of a model whose label embeddings were learned, kept when its labels become texts: a text says
    what a tag shares with others, an embedding of its own also what it does not.
    """

    def __init__(self, encoder_width: int, width: int, tags: int) -> None:
        super().__init__()
        self.project = nn.Linear(encoder_width, width)
        self.norm = nn.LayerNorm(width)
        self.read = nn.Linear(width, tags)

    def forward(self, pooled: Tensor) -> Tensor:
        logits: Tensor = self.read(self.norm(self.project(pooled)))
        return logits


class Recognizer(nn.Module):
    """Images [B, 3, S, S] in [0, 1] to a logit per image and tag."""

    def __init__(self, config: RecognizerConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = build_encoder(config.encoder)
        self.project: nn.Module = nn.Identity()
        if config.projected:
            self.project = nn.Linear(config.encoder.out_width, config.token_width)
        self.bank: LabelBank = empty_bank(
            tags=config.tags, width=config.label_width, descriptions=config.descriptions
        )
        self.decoder = AlignmentDecoder(
            config.decoder,
            label_width=config.label_width,
            token_width=config.token_width,
            tags=config.tags,
        )
        if config.pooled_term:
            width = config.label_width
            self.pooled_norm = nn.LayerNorm(config.token_width)
            self.pooled_scale = nn.Parameter(torch.zeros(()))
            if config.descriptions == 0:
                self.pooled_bias = nn.Parameter(torch.zeros(config.tags))
            else:
                # Frozen embeddings say what a word means; what to look for, and how common it is, is read from them.
                self.pooled_query = nn.Sequential(
                    nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width + 1)
                )

        if config.closed_term:
            self.closed = ClosedTerm(config.encoder.out_width, config.token_width, config.tags)

    def with_labels(self, bank: LabelBank) -> Recognizer:
        """The same weights asking about other labels: the open vocabulary. A new object; this one is unchanged.

        Raises:
            ModelError: label embeddings of another width, or a model whose own are learned: it knows no text.
        """
        if self.config.descriptions == 0 or isinstance(bank, LearnedBank):
            raise ModelError(
                "this model's label embeddings were learned, not read from text: it has no open vocabulary"
            )
        if bank.embeddings.shape[-1] != self.config.label_width:
            raise ModelError(
                f"labels are {bank.embeddings.shape[-1]} wide, the model takes {self.config.label_width}"
            )
        many = 1 if isinstance(bank, EmbeddedBank) else bank.embeddings.shape[1]
        other = copy.copy(self)
        other._modules = dict(self._modules)
        other._modules.pop("closed", None)
        other.config = replace(self.config, tags=len(bank), descriptions=many, closed_term=False)
        if isinstance(bank, DescriptionBank) and isinstance(self.bank, DescriptionBank):
            bank.sharpness = self.bank.sharpness
        other.bank = bank
        return other

    def forward(self, images: Tensor, chosen: Tensor | None = None) -> Recognition:
        """Score the tags at the columns ``chosen`` [J], by default all."""
        seen = self.encoder(images)
        found = self.score(self.project(seen), chosen)
        if not self.config.closed_term:
            return found
        closed = self.closed(seen[:, 0])
        own = closed if chosen is None else closed[:, chosen]
        return replace(found, logits=own + self.config.open_share * found.decoder_logits)

    def tokens(self, images: Tensor) -> Tensor:
        """Projected tokens [B, 1 + N, K] of images [B, 3, S, S]; token 0 is the pooled one."""
        projected: Tensor = self.project(self.encoder(images))
        return projected

    def score(self, tokens: Tensor, chosen: Tensor | None = None) -> Recognition:
        """The same from tokens [B, 1 + N, K], as `tokens` gives them, but without the closed term."""
        answer = self.decoder(self.bank(tokens[:, 0], chosen), tokens, chosen)
        if not self.config.pooled_term:
            return Recognition(answer, answer, None, tokens)
        pooled = self.pooled_logits(tokens)
        return Recognition(answer + (pooled if chosen is None else pooled[:, chosen]), answer, pooled, tokens)

    def pooled_logits(self, tokens: Tensor) -> Tensor:
        """The pooled term [B, T] of tokens [B, 1 + N, K]; only where the configuration has one."""
        return self.pooled_texts(tokens, self.bank.plain())

    def pooled_texts(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """The pooled term [B, M] for other labels [M, L], as `with_labels` would have it."""
        query, prior = labels, torch.zeros(())
        if self.config.descriptions == 0:
            prior = self.pooled_bias
        else:
            read: Tensor = self.pooled_query(labels)
            query, prior = read[:, :-1], read[:, -1]
        logits: Tensor = self.pooled_scale.exp() * (self.pooled_norm(tokens[:, 0]) @ query.T) + prior
        return logits


def empty_recognizer(config: RecognizerConfig) -> Recognizer:
    """A model without numbers, to be filled by ``load_state_dict(state, assign=True)``; costs no time, no memory."""
    with torch.device("meta"):
        return Recognizer(config)

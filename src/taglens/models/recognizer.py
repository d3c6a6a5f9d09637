"""The assembled model: encoder, projection, label bank, alignment decoder.

Shapes: B images, S side, N tokens, K token width, T tags, J chosen tags.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from taglens.models.alignment import AlignmentDecoder
from taglens.models.configs import ConvNetConfig, EncoderConfig, RecognizerConfig
from taglens.models.convnet import ConvNet
from taglens.models.hybrid import Hybrid
from taglens.models.label_bank import LearnedBank


def build_encoder(config: EncoderConfig) -> ConvNet | Hybrid:
    return ConvNet(config) if isinstance(config, ConvNetConfig) else Hybrid(config)


@dataclass(frozen=True, slots=True)
class Recognition:
    """What one forward pass yields.

    Attributes:
        logits: [B, J], the model's answer.
        pooled_logits: [B, T], the pooled term alone and for every tag, None where the model has no such term.
        pooled: [B, K], the projected pooled token.
    """

    logits: Tensor
    pooled_logits: Tensor | None
    pooled: Tensor


class Recognizer(nn.Module):
    """Images [B, 3, S, S] in [0, 1] to a logit per image and tag."""

    def __init__(self, config: RecognizerConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = build_encoder(config.encoder)
        self.project = nn.Linear(config.encoder.out_width, config.token_width)
        self.bank = LearnedBank(config.tags, config.label_width)
        self.decoder = AlignmentDecoder(
            config.decoder, label_width=config.label_width, token_width=config.token_width
        )
        if config.pooled_term:
            self.pooled_norm = nn.LayerNorm(config.token_width)
            self.pooled_scale = nn.Parameter(torch.zeros(()))
            self.pooled_bias = nn.Parameter(torch.zeros(config.tags))

    def forward(self, images: Tensor, chosen: Tensor | None = None) -> Recognition:
        """Score the tags at the columns ``chosen`` [J], by default all."""
        tokens = self.tokens(images)
        logits = self.decoder(self.bank(chosen), tokens)
        pooled_logits = None
        if self.config.pooled_term:
            pooled_logits = self.pooled_logits(tokens)
            logits = logits + (pooled_logits if chosen is None else pooled_logits[:, chosen])
        return Recognition(logits, pooled_logits, tokens[:, 0])

    def tokens(self, images: Tensor) -> Tensor:
        """Projected tokens [B, 1 + N, K] of images [B, 3, S, S]; token 0 is the pooled one."""
        projected: Tensor = self.project(self.encoder(images))
        return projected

    def pooled_logits(self, tokens: Tensor) -> Tensor:
        """The pooled term [B, T] of tokens [B, 1 + N, K]; only where the configuration has one."""
        product = self.pooled_norm(tokens[:, 0]) @ self.bank().T
        logits: Tensor = self.pooled_scale.exp() * product + self.pooled_bias
        return logits

"""Sizes of every part, as small frozen values that refuse nonsense at birth.

Shape legend of the package: B images, N tokens, C encoder width, D decoder width, L label width, T tags.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from taglens.errors import ModelError

# Statistics of natural photographs in [0, 1], RGB; encoders keep them as buffers and normalise their own pixels,
# so that training and inference cannot disagree about them.
PIXEL_MEAN = (0.485, 0.456, 0.406)
PIXEL_STD = (0.229, 0.224, 0.225)
# Sides in tokens beyond which attention, which pairs all tokens, would not fit any machine; 1,024 and 2,048 px.
LARGEST_WINDOW, LARGEST_GRID = 32, 128


def _positive(owner: str, **values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise ModelError(f"{owner}.{name} must be at least 1, found {value}")


@dataclass(frozen=True, slots=True)
class ConvNetConfig:
    """A residual convolutional encoder: stride 4 after the stem, halved again before stages 2, 3 and 4."""

    widths: tuple[int, ...] = (48, 96, 192, 384)
    depths: tuple[int, ...] = (2, 2, 2, 2)
    stem_width: int = 24

    def __post_init__(self) -> None:
        if len(self.widths) != len(self.depths) or not self.widths:
            raise ModelError(f"ConvNetConfig: {len(self.widths)} widths for {len(self.depths)} depths")
        _positive("ConvNetConfig", stem_width=self.stem_width, width=min(self.widths), depth=min(self.depths))

    @property
    def out_width(self) -> int:
        return self.widths[-1]

    @property
    def stride(self) -> int:
        return 1 << (1 + len(self.widths))


@dataclass(frozen=True, slots=True)
class HybridConfig:
    """Convolutions down to stride 16, then transformer blocks over what is left (64 tokens at side 128)."""

    widths: tuple[int, ...] = (48, 96, 192)
    depths: tuple[int, ...] = (2, 2, 2)
    stem_width: int = 24
    attention_width: int = 256
    attention_depth: int = 4
    heads: int = 4

    def __post_init__(self) -> None:
        if len(self.widths) != len(self.depths) or not self.widths:
            raise ModelError(f"HybridConfig: {len(self.widths)} widths for {len(self.depths)} depths")
        _positive(
            "HybridConfig", stem_width=self.stem_width, attention_depth=self.attention_depth, heads=self.heads
        )
        if self.attention_width % self.heads:
            raise ModelError(
                f"HybridConfig: attention_width {self.attention_width} is not a multiple of {self.heads} heads"
            )

    @property
    def out_width(self) -> int:
        return self.attention_width

    @property
    def stride(self) -> int:
        return 1 << (1 + len(self.widths))


@dataclass(frozen=True, slots=True)
class SwinConfig:
    """A transformer in shifted windows: patches, then stages of which each but the first halves the grid.

    Attributes:
        width: of the first stage; every further stage doubles it.
        window: side of an attention window, in tokens. Each stage's grid must divide into windows, see `stride`.
        patch: px.
    """

    width: int = 48
    depths: tuple[int, ...] = (2, 2, 4)
    heads: tuple[int, ...] = (2, 4, 8)
    window: int = 4
    patch: int = 4

    def __post_init__(self) -> None:
        if len(self.heads) != len(self.depths) or not self.depths:
            raise ModelError(f"SwinConfig: {len(self.heads)} heads for {len(self.depths)} depths")
        _positive("SwinConfig", width=self.width, window=self.window, patch=self.patch)
        _positive("SwinConfig", depth=min(self.depths), heads=min(self.heads))
        if self.window > LARGEST_WINDOW:
            raise ModelError(f"SwinConfig.window must be at most {LARGEST_WINDOW}, found {self.window}")
        for stage, heads in enumerate(self.heads):
            if (self.width << stage) % heads:
                raise ModelError(
                    f"SwinConfig: stage {stage} is {self.width << stage} wide, no multiple of {heads} heads"
                )

    @property
    def out_width(self) -> int:
        return self.width << (len(self.depths) - 1)

    @property
    def stride(self) -> int:
        """Px: a side must be a multiple of it, so that the last stage still divides into windows."""
        return (self.patch << (len(self.depths) - 1)) * self.window


@dataclass(frozen=True, slots=True)
class ViTConfig:
    """A plain vision transformer: patches, a class token, a learned position for each patch.

    Attributes:
        patch: px.
        grid: side of the table of positions, in patches; other grids read it by interpolation.
        layer_norm_eps: added to variances; published models have 1e-6.
    """

    width: int = 192
    depth: int = 6
    heads: int = 3
    patch: int = 16
    grid: int = 8
    layer_norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        _positive("ViTConfig", width=self.width, depth=self.depth, heads=self.heads)
        _positive("ViTConfig", patch=self.patch, grid=self.grid)
        if self.grid > LARGEST_GRID:
            raise ModelError(f"ViTConfig.grid must be at most {LARGEST_GRID}, found {self.grid}")
        if not self.layer_norm_eps > 0:
            raise ModelError(f"ViTConfig.layer_norm_eps must be above 0, found {self.layer_norm_eps}")
        if self.width % self.heads:
            raise ModelError(f"ViTConfig: width {self.width} is not a multiple of {self.heads} heads")

    @property
    def out_width(self) -> int:
        return self.width

    @property
    def stride(self) -> int:
        return self.patch


EncoderConfig = ConvNetConfig | HybridConfig | SwinConfig | ViTConfig
_ENCODERS: dict[str, type[ConvNetConfig] | type[HybridConfig] | type[SwinConfig] | type[ViTConfig]] = {
    "convnet": ConvNetConfig,
    "hybrid": HybridConfig,
    "swin": SwinConfig,
    "vit": ViTConfig,
}

# The published encoders (PAPERS.md 1.4); at 224 px Swin's windows are 7 wide.
SWIN_B = SwinConfig(width=128, depths=(2, 2, 18, 2), heads=(4, 8, 16, 32), window=12)
SWIN_L = SwinConfig(width=192, depths=(2, 2, 18, 2), heads=(6, 12, 24, 48), window=12)
VIT_B = ViTConfig(width=768, depth=12, heads=12, patch=16, grid=24, layer_norm_eps=1e-6)


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """The alignment decoder (Tag2Text 1.4, RAM 2.2): cross-attention and feed-forward, no self-attention.

    Attributes:
        input_norm: normalise labels and tokens on their way in. Published models do not; without it a decoder that
            is trained from scratch over a free encoder drowns its labels in the tokens (EXPERIMENTS.md).
        label_map: a linear map and ReLU take labels to the decoder's width (RAM 2.2); without it they have that width
            and are asked as they are (Tag2Text 1.4).
        own_heads: every tag is read out by a vector and bias of its own (Tag2Text 1.4) instead of one for all, which
            ties the decoder to its tags.
    """

    width: int = 192
    depth: int = 2
    heads: int = 4
    ffn_width: int = 384
    layer_norm_eps: float = 1e-12
    input_norm: bool = True
    label_map: bool = True
    own_heads: bool = False

    def __post_init__(self) -> None:
        _positive("DecoderConfig", width=self.width, depth=self.depth, heads=self.heads, ffn=self.ffn_width)
        if self.width % self.heads:
            raise ModelError(f"DecoderConfig: width {self.width} is not a multiple of {self.heads} heads")


@dataclass(frozen=True, slots=True)
class RecognizerConfig:
    """The assembled model.

    Attributes:
        tags: T, the vocabulary's length.
        token_width: width to which image tokens are projected before the decoder.
        label_width: L, width of a label embedding.
        descriptions: K, frozen text embeddings per tag (`label_bank`): 0, none, label embeddings are learned; 1, one
            embedding; more, re-weighted by the picture.
        pooled_term: add the scaled product of the projected pooled token and the label embedding to the decoder's
            logit. Published models have none; at the starter's size it lets the encoder learn sooner.
        closed_term: keep, beside labels that are texts, what an earlier model learned about its own tags.
        open_share: how much the decoder's answer counts beside the closed term's.
        projected: a linear map takes the encoder's tokens to ``token_width``; without it that is the encoder's own.
        side: side in pixels of the square that the model was last trained on.
    """

    encoder: EncoderConfig
    tags: int
    decoder: DecoderConfig = DecoderConfig()
    token_width: int = 192
    label_width: int = 192
    descriptions: int = 0
    pooled_term: bool = True
    closed_term: bool = False
    open_share: float = 0.5
    projected: bool = True
    side: int = 128

    def __post_init__(self) -> None:
        _positive(
            "RecognizerConfig", tags=self.tags, token_width=self.token_width, label_width=self.label_width
        )
        if self.descriptions < 0:
            raise ModelError(f"RecognizerConfig: descriptions {self.descriptions} is below 0")
        if self.descriptions > 1 and self.token_width != self.label_width:
            raise ModelError(
                f"RecognizerConfig: re-weighting compares tokens and labels: token_width {self.token_width} must "
                f"equal label_width {self.label_width}"
            )
        if self.closed_term and not self.descriptions:
            raise ModelError(
                "RecognizerConfig: a closed term stands beside labels that are texts, these are learned"
            )
        if self.pooled_term and self.token_width != self.label_width:
            raise ModelError(
                f"RecognizerConfig: the pooled term needs token_width {self.token_width} "
                f"equal to label_width {self.label_width}"
            )
        if not self.projected and self.token_width != self.encoder.out_width:
            raise ModelError(
                f"RecognizerConfig: tokens that are not projected are {self.encoder.out_width} wide, "
                f"token_width is {self.token_width}"
            )
        if not self.decoder.label_map and self.label_width != self.decoder.width:
            raise ModelError(
                f"RecognizerConfig: labels that are not mapped must have the decoder's width {self.decoder.width}, "
                f"label_width is {self.label_width}"
            )
        if self.decoder.own_heads and self.descriptions:
            raise ModelError("RecognizerConfig: heads of their own go with learned labels, these are texts")
        if isinstance(self.encoder, SwinConfig | ViTConfig) and self.side % self.encoder.stride:
            raise ModelError(
                f"RecognizerConfig: side {self.side} is no multiple of the encoder's stride {self.encoder.stride}"
            )
        if self.side < self.encoder.stride:
            raise ModelError(
                f"RecognizerConfig: side {self.side} is below the encoder's stride {self.encoder.stride}"
            )

    def to_dict(self) -> dict[str, Any]:
        kind = next(name for name, each in _ENCODERS.items() if isinstance(self.encoder, each))
        return {**asdict(self), "encoder": {"type": kind, **asdict(self.encoder)}}

    @classmethod
    def from_dict(cls, row: dict[str, Any]) -> RecognizerConfig:
        """The inverse of `to_dict`. Raises ModelError naming what is unknown or missing."""
        try:
            parts = dict(row)
            encoder = dict(parts.pop("encoder"))
            kind = encoder.pop("type")
            if kind not in _ENCODERS:
                raise ModelError(f"unknown encoder {kind!r}; this release knows {', '.join(_ENCODERS)}")
            encoder = {key: tuple(v) if isinstance(v, list) else v for key, v in encoder.items()}
            # Folders written before there was a choice hold decoders without it.
            decoder = DecoderConfig(**{"input_norm": False, **parts.pop("decoder")})
            return cls(encoder=_ENCODERS[kind](**encoder), decoder=decoder, **parts)
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(
                f"the model's configuration is incomplete or unknown to this release: {error}"
            ) from None

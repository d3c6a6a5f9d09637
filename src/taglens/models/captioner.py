"""The captioner of Tag2Text (1.4): an encoder in which tags look at the picture, a decoder that writes about them.

Knows numbers of pieces; the words are `taglens.language.caption_text`'s, the search for a caption
`taglens.inference.generation`'s, published weights `taglens.models.caption_weights`'s.
Shapes: B pictures, N image tokens, C their width, M pieces of a tag list, L pieces of a caption, D width, V pieces
of the vocabulary, R rows of a search (several to a picture).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from taglens.errors import ModelError
from taglens.models.bert import Bert, BertConfig, KeysValues, causal, visible

# Parts of a layer that an alignment decoder's has, too.
SHARED_PARTS = ("attention", "norm1", "ffn", "norm2")


@dataclass(frozen=True, slots=True)
class CaptionerConfig:
    """Sizes of the captioner; defaults are the published ones.

    Attributes:
        image_width: C, width of the image tokens that the tag encoder reads.
        words: V, [DEC] and [ENC] included.
        tag_length: M, pieces to which tag lists are cut or filled up.
        depth: layers of the encoder, and of the decoder.
        shared_layers: how many of the encoder's lowest layers share cross-attention and feed-forward with the
            alignment decoder (Tag2Text 1.4), where there is one.
        pad, end, start, tags: the pieces [PAD], [SEP], [DEC] and [ENC].
        label_smoothing: share of the training target that is spread over the whole vocabulary.
        see_padding: let the decoder read the encoder's output where the tag list was filled up, too. The published
            models do; without it a caption does not depend on the length to which lists are filled up.
        see_picture: let the decoder read the image tokens, too, behind the tags. The published models do not: what
            they write about has passed through the tags' places, which a small model without tags has two of.
        most_tags: recognised tags that guide a caption, those with the highest scores and without what they imply; 0:
            all, in the vocabulary's order, as the published models have it.
        answers: whether it was taught to answer questions, too (Tag2Text 1.10); it changes nothing here.
    """

    image_width: int = 1024
    words: int = 30524
    positions: int = 512
    tag_length: int = 40
    width: int = 768
    depth: int = 12
    heads: int = 12
    ffn_width: int = 3072
    shared_layers: int = 2
    pad: int = 0
    end: int = 102
    start: int = 30522
    tags: int = 30523
    dropout: float = 0.1
    label_smoothing: float = 0.1
    see_padding: bool = True
    see_picture: bool = False
    most_tags: int = 0
    answers: bool = False

    def __post_init__(self) -> None:
        _ = self.encoder, self.decoder  # their sizes refuse nonsense themselves
        if not 2 <= self.tag_length <= self.positions:
            raise ModelError(
                f"CaptionerConfig.tag_length must be in 2..{self.positions} (positions), found {self.tag_length}"
            )
        if not 0 <= self.shared_layers <= self.depth:
            raise ModelError(
                f"CaptionerConfig.shared_layers must be in 0..{self.depth}, found {self.shared_layers}"
            )
        if self.most_tags < 0:
            raise ModelError(f"CaptionerConfig.most_tags must be 0 or more, found {self.most_tags}")
        special = {name: getattr(self, name) for name in ("pad", "end", "start", "tags")}
        for name, id in special.items():
            if not 0 <= id < self.words:
                raise ModelError(f"CaptionerConfig.{name} is {id}, outside a vocabulary of {self.words}")
        if len(set(special.values())) != len(special):
            raise ModelError(f"CaptionerConfig: special pieces must differ, found {special}")
        if not 0.0 <= self.label_smoothing < 1.0:
            raise ModelError(
                f"CaptionerConfig.label_smoothing must be in [0, 1), found {self.label_smoothing}"
            )

    def _bert(self, memory_width: int) -> BertConfig:
        return BertConfig(
            memory_width=memory_width,
            words=self.words,
            positions=self.positions,
            width=self.width,
            depth=self.depth,
            heads=self.heads,
            ffn_width=self.ffn_width,
            dropout=self.dropout,
        )

    @property
    def encoder(self) -> BertConfig:
        return self._bert(self.image_width)

    @property
    def decoder(self) -> BertConfig:
        return self._bert(self.width)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, row: dict[str, Any]) -> CaptionerConfig:
        """The inverse of `to_dict`. Raises ModelError naming what is unknown."""
        try:
            return cls(**row)
        except TypeError as error:
            raise ModelError(f"the captioner's configuration is unknown to this release: {error}") from None


@dataclass(frozen=True, slots=True)
class SpecialPieces:
    """How many pieces a tokenizer has, and which of them are [PAD], [SEP], [DEC] and [ENC]."""

    count: int
    pad: int
    end: int
    start: int
    tags: int


class WordHead(nn.Module):
    """Decoder output [B, L, D] to a logit per piece [B, L, V]; its weight is the word embeddings' own."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.width, config.width)
        self.norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.words))

    def forward(self, x: Tensor, words: Tensor) -> Tensor:
        return F.linear(self.norm(F.gelu(self.dense(x))), words, self.bias)


@dataclass(frozen=True, slots=True)
class CaptionState:
    """Where a search stands: what was written, for R rows.

    Attributes:
        memory: per layer, what each picture's tags offer to cross-attention, B pictures.
        memory_mask: [B, 1, 1, M], None where everything is seen.
        pictures: [R], the picture that a row writes about.
        past: per layer, what each row has written; empty before the prompt.
    """

    memory: list[KeysValues]
    memory_mask: Tensor | None
    pictures: Tensor
    past: list[KeysValues]


class Captioner(nn.Module):
    """Image tokens and tag pieces to captions."""

    def __init__(self, config: CaptionerConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Bert(config.encoder)
        self.decoder = Bert(config.decoder)
        self.head = WordHead(config.decoder)
        # The decoder's words are its output, too: a tag that looks alike from the start is soon said again.
        self.encoder.embeddings.words.load_state_dict(self.decoder.embeddings.words.state_dict())
        if config.see_picture:
            self.picture = nn.Sequential(
                nn.Linear(config.image_width, config.width), nn.LayerNorm(config.width)
            )

    def share_layers(self, layers: Sequence[nn.Module]) -> None:
        """Make the lowest layers' cross-attention and feed-forward the very tensors of an alignment decoder's.

        Heads stay each module's own: the published models read the same weights with 12 heads here and with 4 there.

        Args:
            layers: the alignment decoder's, with the parts `SHARED_PARTS`.

        Raises:
            ModelError: too few layers, or tensors of another shape.
        """
        if len(layers) < self.config.shared_layers:
            raise ModelError(
                f"{len(layers)} layers to share, the configuration shares {self.config.shared_layers}"
            )
        for number in range(self.config.shared_layers):
            mine, theirs = self.encoder.layers[number], layers[number]
            for part in SHARED_PARTS:
                _share(mine.get_submodule(part), theirs.get_submodule(part), name=f"layers.{number}.{part}")

    def own_state(self) -> dict[str, Tensor]:
        """The state dict without what `share_layers` takes from an alignment decoder."""
        shared = tuple(
            f"encoder.layers.{number}.{part}."
            for number in range(self.config.shared_layers)
            for part in SHARED_PARTS
        )
        return {key: value for key, value in self.state_dict().items() if not key.startswith(shared)}

    def encode(self, ids: Tensor, mask: Tensor, image: Tensor) -> Tensor:
        """The image-tag interaction encoder: tag pieces [B, M], their mask, image tokens [B, N, C] to memory.

        Returns:
            [B, M, D]; [B, M + N, D] where the decoder sees the picture, too.
        """
        out: Tensor = self.encoder(ids, self.encoder.look_up(image), mask=visible(mask))
        return torch.cat((out, self.picture(image)), 1) if self.config.see_picture else out

    def write(self, ids: Tensor, memory: Tensor, *, mask: Tensor, memory_mask: Tensor) -> Tensor:
        """Logits [B, L, V] of the piece after each of caption pieces [B, L], all at once; see `hidden`."""
        return self.logits(self.hidden(ids, memory, mask=mask, memory_mask=memory_mask))

    def hidden(self, ids: Tensor, memory: Tensor, *, mask: Tensor, memory_mask: Tensor) -> Tensor:
        """What the decoder makes of caption pieces [B, L], each seeing those before it: [B, L, D].

        Args:
            memory: as `encode` gives it.
            mask: [B, L], 1 where the caption has a piece.
            memory_mask: [B, M], 1 where the tag list has a piece.
        """
        both = torch.minimum(causal(ids.shape[1], device=ids.device), visible(mask))
        unseen = self.memory_mask(memory_mask, memory)
        x: Tensor = self.decoder(ids, self.decoder.look_up(memory), mask=both, memory_mask=unseen)
        return x

    def start(self, memory: Tensor, memory_mask: Tensor) -> CaptionState:
        """The state before the prompt: one row for each picture of memory, as `encode` gives it."""
        everyone = torch.arange(memory.shape[0], device=memory.device)
        hidden = self.memory_mask(memory_mask, memory)
        return CaptionState(self.decoder.look_up(memory), hidden, everyone, [])

    def step(self, ids: Tensor, state: CaptionState, rows: Tensor) -> tuple[Tensor, CaptionState]:
        """Write on: row r of the result goes on from row ``rows[r]`` of ``state`` with pieces ``ids[r]``.

        Returns:
            [R, V], logits of the piece after the last one given, and the state of these R rows.
        """
        pictures = state.pictures[rows]
        hidden = None if state.memory_mask is None else state.memory_mask[pictures]
        x, past = self.decoder.go_on(
            ids,
            [one.at(pictures) for one in state.memory],
            [one.at(rows) for one in state.past],
            memory_mask=hidden,
        )
        return self.logits(x[:, -1:])[:, 0], CaptionState(state.memory, state.memory_mask, pictures, past)

    @torch.inference_mode()
    def numpy_step(
        self, ids: NDArray[np.int64], state: CaptionState, rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], CaptionState]:
        """`step` for `taglens.inference.generation`, which knows no torch."""
        device = self.head.bias.device
        logits, after = self.step(torch.from_numpy(ids).to(device), state, torch.from_numpy(rows).to(device))
        return logits.float().cpu().numpy(), after

    def logits(self, x: Tensor) -> Tensor:
        """Of the next piece [..., V], from what the decoder makes of a place [..., D]."""
        logits: Tensor = self.head(x, self.decoder.embeddings.words.weight)
        return logits

    def memory_mask(self, mask: Tensor, memory: Tensor) -> Tensor | None:
        """What is added to scores of looking at memory [B, 1, 1, M or M + N]; None where everything is seen.

        Args:
            mask: [B, M], 1 where the tag list has a piece.
        """
        if self.config.see_padding:  # Parity: the published decoder reads padding too.
            return None
        return visible(F.pad(mask, (0, memory.shape[1] - mask.shape[1]), value=1))


def learned_places(ids: Tensor, *, prompt: int, pad: int) -> Tensor:
    """bool [B, L - 1]: whether the piece after each of captions [B, L] is to be learned.

    Args:
        pad: the piece that captions are filled up with.
        prompt: how many pieces at the start are given and not learned, [DEC] included.
    """
    learned = ids[:, 1:] != pad
    # The piece at position p is the target at p - 1.
    learned[:, : max(prompt - 1, 0)] = False
    return learned


def caption_losses(
    logits: Tensor, ids: Tensor, *, prompt: int, pad: int, label_smoothing: float
) -> tuple[Tensor, Tensor]:
    """The language-model loss of every piece that a caption's prefix should lead to (Tag2Text 1.5).

    With smoothing e the target is 1 - e on the true piece and e / V on each of all V.

    Args:
        logits: [B, L, V], of the piece after each position.
        ids: [B, L], the captions, filled up with ``pad``.
        prompt: how many pieces at the start are given and not learned, [DEC] included.

    Returns:
        [B, L - 1], unreduced, 0 where nothing is learned; and the same shape, 1 where something is. The published
        loss is the one's sum over the other's.
    """
    targets, learned = ids[:, 1:], learned_places(ids, prompt=prompt, pad=pad)
    losses = F.cross_entropy(
        logits[:, :-1].flatten(0, 1), targets.flatten(), reduction="none", label_smoothing=label_smoothing
    ).view_as(targets)
    return losses * learned, learned.float()


def _share(mine: nn.Module, theirs: nn.Module, *, name: str) -> None:
    own, other = dict(mine.named_parameters()), dict(theirs.named_parameters())
    if unlike := sorted(own.keys() ^ other.keys()):
        raise ModelError(f"{name} cannot be shared: {unlike[0]} stands on one side only")
    for key, value in own.items():
        if value.shape != other[key].shape:
            raise ModelError(
                f"{name}.{key} cannot be shared: {tuple(value.shape)} here, {tuple(other[key].shape)} there"
            )
        owner, _, leaf = key.rpartition(".")
        setattr(mine.get_submodule(owner), leaf, other[key])

"""Our captioner as a host of ViZer: adapters beside its decoder's matrices; encoder, tagger and tag encoder frozen.

Knows pieces and pictures' tensors; the adapters themselves are `taglens.models.lora`'s. The recognised tags that
guide a caption are found once a picture, as in inference.
Shapes: B pictures, N image tokens, C the encoder's width, K the tokens' width once projected, T tags, M length of
what the decoder looks at, L pieces of a text, D width, V pieces of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from taglens import images
from taglens.errors import ModelError, UsageError
from taglens.inference.bundle import PIECES, is_trained, trained_ref
from taglens.inference.captioning import Search, guiding
from taglens.inference.engines import torch_device
from taglens.inference.tagger import Tagger
from taglens.language.caption_text import CaptionText
from taglens.language.wordpiece import WordPiece
from taglens.models.captioner import Captioner
from taglens.models.checkpoint import captioner_from_pretrained, from_pretrained
from taglens.models.lora import Lora, LoraConfig, save_adapter
from taglens.models.recognizer import Recognizer
from taglens.training.zero_label_hosts import Drawn, Pixels, Texts, chooser, load_state, state_of
from taglens.training.zero_label_judges import Looked
from taglens.vocabulary import Vocabulary

# A text's pieces behind the prompt before it may end, and all of them: what captions are searched with.
LEAST, MOST = Search().min_length, Search().max_length


@dataclass(frozen=True, slots=True, eq=False)
class CaptionerSeen:
    """Pictures as our captioner's frozen parts see them.

    Attributes:
        features: [B, C], the mean of the encoder's tokens.
        memory: [B, M, D], what the decoder looks at: tags that have looked at the picture, and its tokens.
        guide_mask: [B, G], 1 where the tag list has a piece.
        pooled, scores: [B, K] and [B, T], the picture's own vector and its tags' scores, of the model that says which
            tags guide.
    """

    features: Tensor
    memory: Tensor
    guide_mask: Tensor
    pooled: Tensor
    scores: Tensor

    def _all(self) -> tuple[Tensor, ...]:
        return self.features, self.memory, self.guide_mask, self.pooled, self.scores

    @property
    def nbytes(self) -> int:
        return sum(each.nbytes for each in self._all())

    def __len__(self) -> int:
        return len(self.features)

    def at(self, rows: Tensor) -> CaptionerSeen:
        return CaptionerSeen(*(each[rows.to(each.device)] for each in self._all()))


class CaptionerHost:
    """A model folder's captioner, or one that stands in memory.

    Args:
        recognizer, captioner: frozen here; the captioner must have no adapters at work, and its decoder's matrices
            must not be read by anything else meanwhile, an aligner say.
        fingerprint: of both, see `open`.
        tagger: whose tags guide captions, with its thresholds; None: the recogniser itself, with the vocabulary's.
        seed: of the adapters' first values.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        captioner: Captioner,
        vocabulary: Vocabulary,
        text: CaptionText,
        *,
        name: str,
        fingerprint: str,
        lora: LoraConfig = LoraConfig(),
        tagger: Tagger | None = None,
        seed: int = 0,
    ) -> None:
        self.name = name
        self.fingerprint = fingerprint
        self.vocabulary = vocabulary
        self.text = text
        self.captioner = captioner.eval().requires_grad_(False)
        self.guided_by = f"{name}@{fingerprint}" if tagger is None else tagger.ref
        self._tagger = tagger
        self._recognizer = recognizer.eval().requires_grad_(False)
        self._lora = Lora(captioner, lora, seed=seed)
        config = captioner.config
        prompt = len(text.prompt_ids)
        self._least, self._most = min(LEAST, config.positions), min(MOST, config.positions)
        if prompt >= self._most:
            raise UsageError(
                f"{name} has {config.positions} positions, which its prompt of {prompt} fills; it cannot be improved"
            )

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        device: str = "cpu",
        lora: LoraConfig = LoraConfig(),
        tagger: Tagger | None = None,
        seed: int = 0,
    ) -> CaptionerHost:
        """The captioner of a model folder for torch; other arguments as for the class.

        Raises:
            UsageError: an exported bundle, or a model that writes no captions.
            ModelError: a file is missing or damaged.
        """
        if not is_trained(folder):
            raise UsageError(
                f"{folder} is no trained model folder; adapters are trained on one, not on an exported bundle: give "
                "the folder that the bundle was made from"
            )
        recognizer, vocabulary, name = from_pretrained(folder)
        captioner = captioner_from_pretrained(folder, recognizer)
        if captioner is None:
            raise UsageError(
                f"{folder} gives tags and writes no captions; teach it first: taglens train captions --init {folder}"
            )
        on = torch_device(device)
        text = CaptionText(WordPiece.load(folder / PIECES), length=captioner.config.tag_length)
        if len(text.pieces) != captioner.config.words:
            raise ModelError(
                f"{folder / PIECES} has {len(text.pieces):,} pieces and the captioner another number"
            )
        return cls(
            recognizer.to(on),
            captioner.to(on),
            vocabulary,
            text,
            name=name,
            fingerprint=fingerprint_of(folder, name),
            lora=lora,
            tagger=tagger,
            seed=seed,
        )

    # -- what it is ------------------------------------------------------------------------------

    @property
    def hidden_width(self) -> int:
        return self.captioner.config.width

    @property
    def adapter_scale(self) -> float:
        return self._lora.config.scale

    @property
    def vision_width(self) -> int:
        return self._recognizer.config.encoder.out_width

    @property
    def least_side(self) -> int | None:
        return self._recognizer.config.side

    @property
    def device(self) -> torch.device:
        return self.captioner.head.bias.device

    # -- pictures --------------------------------------------------------------------------------

    @torch.no_grad()
    def see(self, pictures: Sequence[Pixels]) -> CaptionerSeen:
        recognizer, side = self._recognizer, self._recognizer.config.side
        pixels = torch.from_numpy(np.stack([images.prepare(each, side) for each in pictures])).to(self.device)
        if self._tagger is None:
            encoded: list[Tensor] = []
            # What the encoder says is the feature space; the model tells only what it makes of it.
            watch = recognizer.encoder.register_forward_hook(lambda *told: encoded.append(told[2]))
            try:
                found = recognizer(pixels)
            finally:
                watch.remove()
            tokens, seen = found.tokens, encoded[0]
            pooled, scores = found.pooled.contiguous(), torch.sigmoid(found.logits)
            chosen = [self.vocabulary.select(row) for row in scores.float().cpu().numpy()]
            words = self.vocabulary
        else:
            seen = recognizer.encoder(pixels)
            tokens = recognizer.project(seen)
            told = self._tagger.look(np.stack([images.prepare(each, self._tagger.side) for each in pictures]))
            pooled, scores = (torch.from_numpy(each).to(self.device) for each in (told.pooled, told.scores))
            chosen, words = self._tagger.tags_of(told), self._tagger.vocabulary
        most = self.captioner.config.most_tags
        guides, mask = self._read([[tag.name for tag in guiding(tags, words, most=most)] for tags in chosen])
        memory = self.captioner.encode(guides, mask, tokens)
        # The encoder's first token is its summary of the others.
        return CaptionerSeen(seen[:, 1:].mean(1), memory, mask, pooled, scores)

    def _read(self, lists: Sequence[Sequence[str]]) -> tuple[Tensor, Tensor]:
        pieces = [self.text.tags(names) for names in lists]
        ids, mask = ([getattr(one, part) for one in pieces] for part in ("ids", "mask"))
        return torch.tensor(ids, device=self.device), torch.tensor(mask, device=self.device)

    def joined(self, parts: Sequence[CaptionerSeen]) -> CaptionerSeen:
        return CaptionerSeen(
            *(torch.cat(each) for each in zip(*(part._all() for part in parts), strict=True))
        )

    def looked(self, seen: CaptionerSeen, tagger: Tagger) -> Looked:
        """What the tagger that `guided_by` names makes of pictures, without their being looked at again."""
        scores, pooled = (each.float().cpu().numpy() for each in (seen.scores, seen.pooled))
        return Looked(scores, tagger.alignment.pictures(pooled[:, None]) if tagger.aligns else None)

    # -- texts -----------------------------------------------------------------------------------

    @torch.no_grad()
    def write(self, seen: CaptionerSeen, *, drawn: Drawn | None = None) -> Texts:
        text, end = self.text, self.text.pieces.sep
        ids = torch.tensor(text.prompt_ids, device=self.device).repeat(len(seen), 1)
        state = self.captioner.start(seen.memory, seen.guide_mask)
        rows = torch.arange(len(seen), device=self.device)
        choose = chooser(drawn)
        given, open_ = ids, torch.ones(len(seen), dtype=torch.bool, device=self.device)
        while ids.shape[1] < self._most and bool(open_.any()):
            logits, state = self.captioner.step(given, state, rows)
            if ids.shape[1] < self._least:
                logits[:, end] = -torch.inf
            # Rows that have ended are carried on, unread: they would have to be taken out of every tensor.
            given = torch.where(open_, choose(logits), text.pieces.pad)[:, None]
            ids = torch.cat((ids, given), 1)
            open_ &= given[:, 0] != end
        return self._texts(ids, len(text.prompt_ids))

    def texts(self, captions: Sequence[str]) -> Texts:
        cut = self.text.captions([self.text.prompt + caption for caption in captions])
        longest = self.captioner.config.positions
        ids = torch.tensor([one.ids for one in cut], device=self.device)[:, :longest]
        found = self._texts(ids, len(self.text.prompt_ids))
        return Texts(found.ids, found.mask, found.ends, tuple(captions))

    def _texts(self, ids: Tensor, prompt: int) -> Texts:
        words, pad, end = self.text, self.text.pieces.pad, self.text.pieces.sep
        ends = ids == end
        after = (ends.cumsum(1) - ends.long()) > 0
        behind = torch.arange(ids.shape[1], device=ids.device) >= prompt
        mask = behind & ~ends & ~after & (ids != pad)
        strings = [words.read([piece for piece in row if piece != pad]) for row in ids.tolist()]
        return Texts(ids, mask, ends & ~after, tuple(strings))

    def hidden(self, seen: CaptionerSeen | None, texts: Texts) -> Tensor:
        memory, guide = self._nothing(len(texts)) if seen is None else (seen.memory, seen.guide_mask)
        # What fills a text up stands behind it, where nothing before can see it.
        return self.captioner.hidden(texts.ids, memory, mask=torch.ones_like(texts.ids), memory_mask=guide)

    @torch.no_grad()
    def _nothing(self, count: int) -> tuple[Tensor, Tensor]:
        """What the decoder looks at where there is no picture, as it learned it: no tags and one empty token."""
        ids, mask = self._read([[]])
        empty = torch.zeros(1, 1, self.captioner.config.image_width, device=self.device)
        memory = self.captioner.encode(ids, mask, empty)
        return memory.expand(count, -1, -1), mask.expand(count, -1)

    def log_probs(self, seen: CaptionerSeen, texts: Texts) -> Tensor:
        logits = self.captioner.logits(self.hidden(seen, texts)[:, :-1])
        chosen = logits.log_softmax(-1).gather(2, texts.ids[:, 1:, None])[:, :, 0]
        found = torch.nn.functional.pad(chosen, (1, 0))
        return torch.where(texts.written, found, 0.0)

    # -- adapters --------------------------------------------------------------------------------

    def parameters(self) -> Mapping[str, nn.Parameter]:
        return self._lora.named()

    def adapters_off(self) -> AbstractContextManager[None]:
        return self._lora.off()

    def adapter_state(self) -> dict[str, Tensor]:
        return state_of(self.parameters())

    def load_adapter_state(self, state: Mapping[str, Tensor]) -> None:
        load_state(self.parameters(), state)

    def save_adapter(self, folder: Path, *, about: Mapping[str, Any]) -> None:
        save_adapter(folder, self.adapter_state(), self._lora.config, base=self.fingerprint, about=about)


def fingerprint_of(folder: Path, name: str) -> str:
    """Of a model folder's weights, as rows of results name it."""
    return trained_ref(folder, name).rpartition("@")[2]

"""A causal language model that reads prompts with pictures in them, and writes behind them.

Knows embeddings, positions, masks and chance; refuses to know pictures, families of models and adapters. Prompts of
different lengths end in one column, so that texts begin in one: what is filled up stands before them and is hidden.
Shapes: B pictures, C width of the encoder's tokens, P pieces of a prompt, n of them places of the picture's tokens,
A axes of a position, L pieces of a text, D width of hidden states, V pieces of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from taglens.errors import UsageError
from taglens.training.zero_label_hosts import Drawn, Texts, chooser


@dataclass(frozen=True, slots=True, eq=False)
class VlmSeen:
    """Pictures and the prompts that they stand in.

    Attributes:
        features: [B, C], the mean of the encoder's own tokens, float32.
        ids: B times int64 [P], the prompt's pieces.
        places: B times bool [P], where the picture's tokens stand.
        tokens: B times [n, D], as the language model reads them.
        positions: B times int64 [A, P].
    """

    features: Tensor
    ids: tuple[Tensor, ...]
    places: tuple[Tensor, ...]
    tokens: tuple[Tensor, ...]
    positions: tuple[Tensor, ...]

    @property
    def nbytes(self) -> int:
        several = (*self.ids, *self.places, *self.tokens, *self.positions)
        return self.features.nbytes + sum(each.nbytes for each in several)

    def __len__(self) -> int:
        return len(self.features)

    def at(self, rows: Tensor) -> VlmSeen:
        chosen = rows.tolist()
        several = (self.ids, self.places, self.tokens, self.positions)
        return VlmSeen(
            self.features[rows.to(self.features.device)],
            *(tuple(each[row] for row in chosen) for each in several),
        )


def joined(parts: Sequence[VlmSeen]) -> VlmSeen:
    """Pictures seen apart, in order. Raises UsageError: there are none."""
    if not parts:
        raise UsageError("no pictures to look at; expected one or more")
    several = ("ids", "places", "tokens", "positions")
    return VlmSeen(
        torch.cat([part.features for part in parts]),
        *(tuple(each for part in parts for each in getattr(part, name)) for name in several),
    )


class Spoken:
    """A tokenizer, and the question that it is asked.

    Args:
        question: the prompt with one place for the picture, and whether it is a conversation: then every mark that it
            needs stands in it.
        image: the piece in the question that stands for a picture.
        ends: pieces that end a text; given texts are ended with the first.
        longest: pieces of a text at the most, the end included.
    """

    def __init__(
        self, tokenizer: Any, question: tuple[str, bool], *, image: str, ends: Sequence[int], longest: int
    ) -> None:
        self._tokenizer = tokenizer
        self._question, self._marked = question
        self.image = image
        self.ends = tuple(ends)
        self.longest = longest
        # What continues a line begins with a space, as it does where models wrote it.
        self._between = "" if not self._question or self._question[-1].isspace() else " "

    def prompt(self, places: str) -> Tensor:
        """int64 [P]; ``places`` stands where the image piece stood."""
        text = self._question.replace(self.image, places)
        return torch.tensor(self._tokenizer(text, add_special_tokens=not self._marked)["input_ids"])

    def opening(self) -> list[int]:
        """What stands before a text that stands alone: the piece that opens texts, where there is one."""
        opens = self._tokenizer.bos_token_id
        return [] if opens is None else [int(opens)]

    def texts(self, captions: Sequence[str], *, device: torch.device) -> Texts:
        """Captions cut to the greatest length and ended; an ended text that is too long has no end."""
        rows = []
        for caption in captions:
            ids = self._tokenizer(self._between + caption.strip(), add_special_tokens=False)["input_ids"]
            rows.append([*(ids if caption.strip() else []), self.ends[0]][: self.longest])
        return self.read(self._table(rows, device), captions)

    def read(self, ids: Tensor, captions: Sequence[str] | None = None) -> Texts:
        """Pieces [B, L] as texts; what stands behind the first end is filling."""
        ending = torch.isin(ids, torch.tensor(self.ends, device=ids.device))
        after = ending.cumsum(1) - ending.long() > 0
        mask = ~ending & ~after
        strings = captions if captions is not None else self._strings(ids, mask)
        return Texts(ids, mask, ending & ~after, tuple(strings))

    def _strings(self, ids: Tensor, mask: Tensor) -> list[str]:
        rows = [row[kept].tolist() for row, kept in zip(ids, mask, strict=True)]
        return [self._tokenizer.decode(row, skip_special_tokens=True).strip() for row in rows]

    def _table(self, rows: Sequence[Sequence[int]], device: torch.device) -> Tensor:
        width = max(map(len, rows))
        return torch.tensor([[*row, *[self.ends[0]] * (width - len(row))] for row in rows], device=device)


@dataclass(frozen=True, slots=True, eq=False)
class _Behind:
    """Prompts that end in one column: embeddings [B, P, D], mask [B, P], positions [A, B, P], the next one [B]."""

    embeddings: Tensor
    mask: Tensor
    positions: Tensor
    following: Tensor


class Reader:
    """The language model.

    Args:
        model: embeddings to hidden states; head: hidden states to logits.
    """

    def __init__(self, model: Any, head: Any, spoken: Spoken) -> None:
        self._model = model
        self._head = head
        self._spoken = spoken

    def hidden(self, seen: VlmSeen | None, texts: Texts) -> Tensor:
        """[B, L, D] in float32; see `taglens.training.zero_label_hosts.Host.hidden`."""
        states, before = self._states(seen, texts)
        return states[:, before:].float()

    def log_probs(self, seen: VlmSeen, texts: Texts) -> Tensor:
        """[B, L]; see `taglens.training.zero_label_hosts.Host.log_probs`."""
        states, before = self._states(seen, texts)
        # A piece is told by what stands before it: the first by the prompt's last.
        logits = self._head(states[:, before - 1 : -1]).float()
        chosen = logits.log_softmax(-1).gather(2, texts.ids[:, :, None])[:, :, 0]
        return torch.where(texts.written, chosen, 0.0)

    def _states(self, seen: VlmSeen | None, texts: Texts) -> tuple[Tensor, int]:
        """[B, P + L, D], and P."""
        device = texts.ids.device
        behind = self._alone(len(texts), device) if seen is None else self._behind(seen)
        length = texts.ids.shape[1]
        steps = torch.arange(length, device=device)
        positions = behind.following[None, :, None] + steps
        embeddings = self._model.get_input_embeddings()(texts.ids)
        found = self._run(
            torch.cat((behind.embeddings, embeddings), 1),
            torch.cat((behind.mask, texts.written.long()), 1),
            torch.cat((behind.positions, positions.expand(len(behind.positions), -1, -1)), 2),
        )
        return found.last_hidden_state, behind.mask.shape[1]

    def write(self, seen: VlmSeen, *, drawn: Drawn | None = None) -> Texts:
        """See `taglens.training.zero_label_hosts.Host.write`."""
        behind = self._behind(seen)
        config = self._model.config
        cache = import_module("transformers").DynamicCache(config=config)
        choose = chooser(drawn)
        ends = torch.tensor(self._spoken.ends, device=behind.mask.device)
        open_ = torch.ones(len(seen), dtype=torch.bool, device=behind.mask.device)
        embeddings, mask, positions = behind.embeddings, behind.mask, behind.positions
        written: list[Tensor] = []
        while len(written) < self._spoken.longest and bool(open_.any()):
            found = self._run(embeddings, mask, positions, cache)
            chosen = choose(self._head(found.last_hidden_state[:, -1]))
            # Rows that have ended are carried on, unread.
            chosen = torch.where(open_, chosen, ends[0])
            mask = torch.cat((mask, open_[:, None].long()), 1)
            open_ = open_ & ~torch.isin(chosen, ends)
            embeddings = self._model.get_input_embeddings()(chosen[:, None])
            place = behind.following + len(written)
            positions = place[None, :, None].expand(len(behind.positions), -1, -1)
            written.append(chosen)
        return self._spoken.read(torch.stack(written, 1))

    def _run(self, embeddings: Tensor, mask: Tensor, positions: Tensor, cache: Any = None) -> Any:
        return self._model(
            inputs_embeds=embeddings,
            attention_mask=mask,
            # One axis is told as a plain table.
            position_ids=positions[0] if len(positions) == 1 else positions,
            past_key_values=cache,
            use_cache=cache is not None,
        )

    def _alone(self, count: int, device: torch.device) -> _Behind:
        ids = torch.tensor([self._spoken.opening()], dtype=torch.long, device=device).expand(count, -1)
        width = ids.shape[1]
        positions = torch.arange(width, device=device).expand(1, count, -1)
        return _Behind(
            self._model.get_input_embeddings()(ids),
            torch.ones_like(ids),
            positions,
            torch.full((count,), width, device=device),
        )

    def _behind(self, seen: VlmSeen) -> _Behind:
        width = max(map(len, seen.ids))
        embedded, masks, positions, following = [], [], [], []
        for ids, places, tokens, where in zip(
            seen.ids, seen.places, seen.tokens, seen.positions, strict=True
        ):
            before = width - len(ids)
            plain = self._model.get_input_embeddings()(ids)
            row = plain.masked_scatter(places[:, None], tokens.to(plain.dtype))
            embedded.append(pad(row, (0, 0, before, 0)))
            masks.append(pad(torch.ones_like(ids), (before, 0)))
            positions.append(pad(where, (before, 0)))
            following.append(where.max() + 1)
        return _Behind(
            torch.stack(embedded), torch.stack(masks), torch.stack(positions, 1), torch.stack(following)
        )

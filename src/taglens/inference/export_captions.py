"""A captioner as two graphs that need no torch: its tag encoder, and one step of its decoder.

Knows how `taglens.inference.caption_engines` asks them; knows nothing of words.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from taglens.inference.bundle import GUIDE, PIECES, WRITER, checksum
from taglens.inference.caption_engines import (
    GUIDE_GIVES,
    GUIDE_TAKES,
    UNSEEN,
    WRITER_GIVES,
    WRITER_TAKES,
    OnnxCaptionEngine,
    TorchCaptionEngine,
)
from taglens.inference.graphs import write_graph

if TYPE_CHECKING:
    from taglens.models.captioner import Captioner

_FREE = {
    "ids": {0: "r", 1: "l"},
    "places": {0: "l"},
    "mask": {0: "r", 1: "l"},
    "tokens": {0: "r", 1: "n"},
    "memory": {1: "r", 3: "m"},
    "past": {1: "r", 3: "p"},
    "after": {1: "r", 3: "q"},
    "logits": {0: "r"},
    UNSEEN: {0: "r", 3: "m"},
}


def export_captioner(
    captioner: Captioner, pieces: bytes, folder: Path, *, half: bool
) -> tuple[dict[str, Any], float]:
    """Write the graphs and the word pieces.

    Args:
        pieces: content of the file of word pieces.

    Returns:
        what the bundle's configuration says of the captioner, and the largest difference of a next piece's
        probability between torch and the graphs, on noise.
    """
    config = captioner.config
    # A copy on the processor would cost its memory again; exporting moves nothing.
    _export_guide(captioner.eval(), folder / GUIDE, half=half)
    _export_writer(captioner, folder / WRITER, half=half)
    beside = folder / (PIECES + ".part")
    beside.write_bytes(pieces)
    beside.replace(folder / PIECES)
    about = {
        "tag_length": config.tag_length,
        "positions": config.positions,
        "pieces": config.words,
        "see_padding": config.see_padding,
        "most_tags": config.most_tags,
        "answers": config.answers,
        "guide_sha256": checksum(folder / GUIDE),
        "writer_sha256": checksum(folder / WRITER),
        "pieces_sha256": checksum(folder / PIECES),
    }
    return about, _difference(captioner, folder)


def _export_guide(captioner: Captioner, path: Path, *, half: bool) -> None:
    """Write the graph from tag pieces, their mask and image tokens to the decoder's keys and values of them."""
    import torch

    class Guide(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.captioner = captioner

        def forward(self, ids: torch.Tensor, mask: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
            memory = self.captioner.decoder.look_up(self.captioner.encode(ids, mask, tokens))
            return torch.stack([part for one in memory for part in (one.keys, one.values)])

    config = captioner.config
    ids = torch.arange(14).view(2, 7) % config.words
    given = dict(
        zip(GUIDE_TAKES, (ids, torch.ones_like(ids), torch.rand(2, 5, config.image_width)), strict=True)
    )
    free = {**_FREE, "mask": {0: "r", 1: "l"}, "memory": {1: "r", 3: "l"}}
    write_graph(Guide().eval(), given, GUIDE_GIVES, path, half=half, free=free)


def _export_writer(captioner: Captioner, path: Path, *, half: bool) -> None:
    """Write the graph of one step; every length stays free, the past's may be 0."""
    import torch

    from taglens.models.bert import KeysValues

    def pairs(stacked: torch.Tensor) -> list[KeysValues]:
        return [
            KeysValues(stacked[2 * layer], stacked[2 * layer + 1]) for layer in range(captioner.config.depth)
        ]

    class Writer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.decoder, self.head = captioner.decoder, captioner.head

        def forward(
            self,
            ids: torch.Tensor,
            places: torch.Tensor,
            mask: torch.Tensor,
            memory: torch.Tensor,
            past: torch.Tensor,
            unseen: torch.Tensor | None = None,
        ) -> tuple[torch.Tensor, torch.Tensor]:
            x, after = self.decoder.go_on_at(
                ids, places, mask, pairs(memory), pairs(past), memory_mask=unseen
            )
            logits = self.head(x[:, -1], self.decoder.embeddings.words.weight)
            return logits, torch.stack([part for one in after for part in (one.keys, one.values)])

    config = captioner.config
    rows, length, before, tags = 2, 3, 4, 5
    layers, width = 2 * config.depth, config.width // config.heads
    ids = torch.arange(rows * length).view(rows, length) % config.words
    given = [
        ids,
        torch.arange(before, before + length),
        torch.zeros(1, 1, length, before + length),
        torch.rand(layers, rows, config.heads, tags, width),
        torch.rand(layers, rows, config.heads, before, width),
    ]
    named = dict(zip(WRITER_TAKES, given, strict=True))
    if not config.see_padding:
        named[UNSEEN] = torch.zeros(rows, 1, 1, tags)
    free = {**_FREE, "mask": {2: "l", 3: "q"}}
    write_graph(Writer().eval(), named, WRITER_GIVES, path, half=half, free=free)


def _difference(captioner: Captioner, folder: Path) -> float:
    """The largest difference of a next piece's probability over a prompt and a few steps, rows changing places."""
    config = captioner.config
    ours = TorchCaptionEngine(captioner, device="cpu")
    graphs = OnnxCaptionEngine(folder / GUIDE, folder / WRITER, see_padding=config.see_padding, device="cpu")
    rng = np.random.default_rng(0)
    # Other numbers than those the graphs were traced with: every axis must have stayed free.
    ids = rng.integers(0, config.words, (3, config.tag_length))
    mask = (np.arange(config.tag_length) < np.array([[config.tag_length], [6], [1]])).astype(np.int64)
    tokens = rng.standard_normal((3, 9, config.image_width)).astype(np.float32)
    wanted_state, found_state = ours.start(ids, mask, tokens), graphs.start(ids, mask, tokens)
    prompt = rng.integers(0, config.words, (3, 4))
    worst = 0.0
    for pieces, rows in (
        (prompt, np.arange(3)),
        (prompt[[0, 0, 2, 1], :1], np.array([0, 0, 2, 1])),
        (prompt[[1, 2], :1], np.array([3, 1])),
    ):
        wanted, wanted_state = ours.step(pieces, wanted_state, rows)
        found, found_state = graphs.step(pieces, found_state, rows)
        # Not ``max``, which may overlook what is no number.
        worst = float(np.maximum(worst, np.abs(_softmax(found) - _softmax(wanted)).max()))
    return worst


def _softmax(logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))

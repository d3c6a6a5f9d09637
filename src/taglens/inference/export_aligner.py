"""An aligner as three graphs that need no torch: pictures' vectors, texts' vectors, and matching.

Beside a captioner's graphs they are small: the aligner reads with the caption decoder's embeddings, cross-attention
and feed-forward, so that nearly all of its weights stand in writer.onnx already. A weight whose very bytes stand in
an older file of the folder is not written again: the graph names the file and the place in it (ONNX calls this
external data, and every runtime reads it).
Knows how `taglens.inference.alignment` asks the graphs; knows nothing of words.
Shapes: B pictures, N image tokens, T texts, L their length, C and E widths; memory as the captioner's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from taglens.inference.alignment import (
    MATCH_GIVES,
    MATCH_TAKES,
    PICTURES_GIVE,
    PICTURES_TAKE,
    TEXTS_GIVE,
    TEXTS_TAKE,
    OnnxAlignEngine,
    TorchAlignEngine,
)
from taglens.inference.bundle import GUIDE, MATCH, PICTURES, TEXTS, WRITER, checksum
from taglens.inference.caption_engines import UNSEEN, OnnxCaptionEngine, TorchCaptionEngine
from taglens.inference.graphs import write_graph

if TYPE_CHECKING:
    from taglens.models.aligner import Aligner
    from taglens.models.captioner import Captioner

_FREE = {
    "tokens": {0: "b", 1: "n"},
    "ids": {0: "t", 1: "l"},
    "mask": {0: "t", 1: "l"},
    "memory": {1: "t", 3: "m"},
    "pictures": {0: "b"},
    "texts": {0: "t"},
    "logits": {0: "t"},
    UNSEEN: {0: "t", 3: "m"},
}
# Smaller weights may stand somewhere by chance, and cost nothing.
_WORTH_SHARING = 4096  # bytes


def export_aligner(
    aligner: Aligner, captioner: Captioner, folder: Path, *, half: bool
) -> tuple[dict[str, Any], float]:
    """Write the graphs into a folder in which the captioner's stand already, in the same precision.

    Returns:
        what the bundle's configuration says of the aligner, and the largest difference between torch and the graphs,
        on noise: of a unit vector's value, or of the probability of a match.
    """
    import torch

    config = captioner.config
    aligner.eval()
    tokens = torch.rand(2, 5, config.image_width)
    ids = torch.arange(14).view(2, 7) % config.words
    texts = {"ids": ids, "mask": torch.ones_like(ids)}
    memory = torch.rand(2 * config.depth, 2, config.heads, 6, config.width // config.heads)
    looks = {**texts, "memory": memory}
    if not config.see_padding:
        looks[UNSEEN] = torch.zeros(2, 1, 1, 6)
    given: list[tuple[str, Any, dict[str, Any], list[str]]] = [
        (PICTURES, _pictures(aligner), dict(zip(PICTURES_TAKE, (tokens,), strict=True)), PICTURES_GIVE),
        (TEXTS, _texts(aligner), dict(zip(TEXTS_TAKE, texts.values(), strict=True)), TEXTS_GIVE),
        (MATCH, _match(aligner), looks, MATCH_GIVES),
    ]
    assert list(looks)[: len(MATCH_TAKES)] == MATCH_TAKES
    for file, whole, inputs, outputs in given:
        write_graph(whole.eval(), inputs, outputs, folder / file, half=half, free=_FREE)
    share_weights(folder / TEXTS, [folder / WRITER])
    share_weights(folder / MATCH, [folder / WRITER, folder / TEXTS])
    about = {
        "width": aligner.config.width,
        "pictures_sha256": checksum(folder / PICTURES),
        "texts_sha256": checksum(folder / TEXTS),
        "match_sha256": checksum(folder / MATCH),
    }
    return about, _difference(aligner, captioner, folder)


def share_weights(graph: Path, others: Sequence[Path]) -> int:
    """Take the weights out of a graph that stand, byte for byte, in other files of its folder; it reads them there.

    Returns:
        how many bytes need not be stored.
    """
    import onnx

    model = onnx.load(str(graph), load_external_data=False)
    contents = [(other.name, other.read_bytes()) for other in others]
    saved = 0
    for weight in model.graph.initializer:
        raw = weight.raw_data
        if len(raw) < _WORTH_SHARING:
            continue
        for name, content in contents:
            if (at := content.find(raw)) >= 0:
                place = {"location": name, "offset": str(at), "length": str(len(raw))}
                weight.ClearField("raw_data")
                weight.data_location = onnx.TensorProto.EXTERNAL
                for key, value in place.items():
                    weight.external_data.add(key=key, value=value)
                saved += len(raw)
                break
    beside = graph.with_name(graph.name + ".part")
    beside.write_bytes(model.SerializeToString())
    beside.replace(graph)
    return saved


def _pictures(aligner: Aligner) -> Any:
    import torch

    class Pictures(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.aligner = aligner

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return self.aligner.pictures(tokens)

    return Pictures()


def _texts(aligner: Aligner) -> Any:
    import torch

    class Texts(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.aligner = aligner

        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return self.aligner.texts(ids, mask)

    return Texts()


def _match(aligner: Aligner) -> Any:
    import torch

    from taglens.models.bert import KeysValues

    class Match(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.aligner = aligner

        def forward(
            self,
            ids: torch.Tensor,
            mask: torch.Tensor,
            memory: torch.Tensor,
            unseen: torch.Tensor | None = None,
        ) -> torch.Tensor:
            layers = range(len(self.aligner.bert.layers))
            seen = [KeysValues(memory[2 * layer], memory[2 * layer + 1]) for layer in layers]
            return self.aligner.match(ids, mask, seen, unseen)

    return Match()


def _difference(aligner: Aligner, captioner: Captioner, folder: Path) -> float:
    """The largest difference over texts of several lengths, each with several pictures."""
    config = captioner.config
    rng = np.random.default_rng(0)
    # Other numbers than those the graphs were traced with: every axis must have stayed free.
    tags = rng.integers(0, config.words, (3, config.tag_length))
    tag_mask = _lengths([config.tag_length, 6, 2], config.tag_length)
    tokens = rng.standard_normal((3, 9, config.image_width)).astype(np.float32)
    longest = min(11, config.positions)
    ids, mask = rng.integers(0, config.words, (4, longest)), _lengths([longest, 7, 3, 2], longest)
    rows = np.array([2, 0, 0, 1])
    found: list[list[npt.NDArray[np.float32]]] = []
    ours = TorchAlignEngine(aligner, device="cpu")
    state = TorchCaptionEngine(captioner, device="cpu").start(tags, tag_mask, tokens)
    found.append([ours.pictures(tokens), ours.texts(ids, mask), _share(ours.match(ids, mask, state, rows))])
    graphs = OnnxAlignEngine(folder, device="cpu")
    engine = OnnxCaptionEngine(folder / GUIDE, folder / WRITER, see_padding=config.see_padding, device="cpu")
    begun = engine.start(tags, tag_mask, tokens)
    found.append(
        [graphs.pictures(tokens), graphs.texts(ids, mask), _share(graphs.match(ids, mask, begun, rows))]
    )
    worst = 0.0
    for wanted, given in zip(*found, strict=True):
        # Not ``max``, which may overlook what is no number.
        worst = float(np.maximum(worst, np.abs(wanted - given).max()))
    return worst


def _lengths(lengths: list[int], longest: int) -> npt.NDArray[np.int64]:
    return (np.arange(longest) < np.array(lengths)[:, None]).astype(np.int64)


def _share(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Probabilities of logits, which a large logit does not overflow."""
    return np.exp(-np.logaddexp(0.0, -logits.astype(np.float64))).astype(np.float32)

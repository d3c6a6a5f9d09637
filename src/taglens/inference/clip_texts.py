"""CLIP's text tower beside a model whose labels came embedded: in its folder, in its bundle, and at work.

    text.safetensors   the tower, in a model folder for torch
    text.onnx          the same in a bundle: numbers of pieces [M, N] -> vectors [M, L]
    text_vocab.json, text_merges.txt, text_templates.txt    how a tag is written for it, in both

Knows files, checksums and what runs the tower; knows nothing of prompts (`taglens.language.clip_encoder`).
Shapes: M texts, N pieces, L width of the label space.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from taglens.errors import ModelError, UsageError
from taglens.inference.engines import open_session
from taglens.inference.graphs import write_graph
from taglens.language.clip_encoder import (
    SHIPPED_TEMPLATES,
    ClipEncoder,
    combined,
    read_templates,
    write_templates,
)
from taglens.language.clip_pieces import ClipPieces

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

    from taglens.models.clip_text import ClipText, ConvertedText
    from taglens.models.configs import RecognizerConfig

Floats = npt.NDArray[np.float32]
TOWER, GRAPH = "text.safetensors", "text.onnx"
PIECES, MERGES, TEMPLATES = "text_vocab.json", "text_merges.txt", "text_templates.txt"
# The row of a configuration that says what stands beside.
ABOUT = "text_tower"
# The lowest score at which the original release gives a tag outside its list (RAM++ 3.6).
THRESHOLD = 0.5
_FREE = {"ids": {0: "m", 1: "n"}, "vectors": {0: "m"}}


@dataclass(frozen=True, slots=True, eq=False)
class TextParts:
    """A tower with its pieces and templates, in torch: what a converted model needs to read text."""

    tower: ConvertedText
    pieces: ClipPieces
    templates: tuple[str, ...]

    def __post_init__(self) -> None:
        rows = self.tower.config.pieces
        if len(self.pieces) != rows or self.pieces.end != rows - 1:
            raise ModelError(
                f"the text tower knows {rows} pieces and the list has {len(self.pieces)} (the end mark is number "
                f"{self.pieces.end}); give the list that belongs to the tower"
            )

    @classmethod
    def read(cls, tower: Path, pieces: Path, templates: Path | None = None) -> TextParts:
        """Of the user's files; ``templates`` None: those of the package.

        Raises:
            ModelError: the tower cannot be read, or its pieces are others.
            VocabularyError: the list of pieces or the templates cannot be read.
        """
        from taglens.models.clip_text import read_tower

        sentences = read_templates(SHIPPED_TEMPLATES if templates is None else templates)
        return cls(read_tower(tower), ClipPieces.load(pieces), sentences)

    @classmethod
    def load(cls, folder: Path, about: Mapping[str, Any]) -> TextParts:
        """Of a model folder, as `save` wrote it. Raises as `read` does, and ModelError where a part was replaced."""
        from taglens.models.clip_text import load_tower

        pieces, templates = _read_words(folder)
        parts = cls(load_tower(folder / TOWER), pieces, templates)
        _require(parts.tower.fingerprint(), pieces, templates, about, folder)
        return parts

    @property
    def notes(self) -> tuple[str, ...]:
        """What was changed on the way from the user's files, in sentences."""
        dropped = Counter(self.tower.dropped.values())
        left = (f"of the text tower's file {count} tensors left out: {why}" for why, count in dropped.items())
        return (*self.tower.notes, *left)

    def require_fit(self, config: RecognizerConfig) -> None:
        """Raises UsageError where the model's labels are no texts, or of another width than the tower's vectors."""
        if config.descriptions == 0:
            raise UsageError(
                "a text tower is for RAM and RAM++: this model learned its labels, and reads no text"
            )
        if self.tower.config.projection != config.label_width:
            raise UsageError(
                f"the text tower gives vectors of {self.tower.config.projection}, the model's labels have "
                f"{config.label_width}; give the tower of CLIP ViT-B/16"
            )

    def about(self) -> dict[str, Any]:
        """What a configuration says of it."""
        tower = self.tower.fingerprint()
        return {
            "tower": tower,
            "fingerprint": combined(tower, self.pieces, self.templates),
            "width": self.tower.config.projection,
            "positions": self.tower.config.positions,
        }

    def rows(self) -> dict[str, Any]:
        """What a model folder's configuration has to say."""
        return {"reads_text": True, ABOUT: self.about()}

    def save(self, folder: Path) -> None:
        """Write the files into a model folder."""
        from taglens.models.clip_text import save_tower

        save_tower(self.tower, folder / TOWER)
        self._write_words(folder)

    def export(self, folder: Path, *, half: bool) -> tuple[dict[str, Any], float]:
        """Write the files into a bundle.

        Args:
            half: store large weights in fp16; also done where nothing is lost by it.

        Returns:
            what `about` gives, and the largest difference of a unit vector's value between torch and the graph.
        """
        lossless = all(bool((value == value.half().float()).all()) for value in self.tower.state.values())
        model = self.tower.model()
        end = self.pieces.end
        ids = np.full((3, 6), end, np.int64)
        ids[:, :3] = np.arange(9).reshape(3, 3) % end
        _write_graph(model, ids[:2, :5], folder / GRAPH, half=half or lossless)
        self._write_words(folder)
        # Other numbers than those it was traced with: every axis must have stayed free.
        wanted, found = TorchTower(model, device="cpu")(ids), OnnxTower(folder / GRAPH, device="cpu")(ids)
        unit = [vectors / np.linalg.norm(vectors, axis=-1, keepdims=True) for vectors in (wanted, found)]
        return self.about(), float(np.abs(unit[0] - unit[1]).max())

    def encoder(self, *, device: str = "auto") -> ClipEncoder:
        """At work in torch."""
        return _encoder(
            TorchTower(self.tower.model(), device=device), self.pieces, self.templates, self.about()
        )

    def _write_words(self, folder: Path) -> None:
        self.pieces.save(folder / PIECES, folder / MERGES)
        write_templates(self.templates, folder / TEMPLATES)


def open_exported(
    folder: Path, about: Mapping[str, Any], *, device: str = "auto", threads: int | None = None
) -> ClipEncoder:
    """The tower of a bundle, whose graph was verified, at work without torch.

    Raises:
        ModelError: the words are not those the configuration was written for.
        VocabularyError: the pieces or templates cannot be read.
    """
    pieces, templates = _read_words(folder)
    _require(str(about.get("tower")), pieces, templates, about, folder)
    return _encoder(OnnxTower(folder / GRAPH, device=device, threads=threads), pieces, templates, about)


class OnnxTower:
    """The tower's graph in ONNX Runtime: int64 [M, N] to float32 [M, L]. Errors: see `engines.OnnxEngine`.

    Opened when it is asked and closed to rest: at the published sizes it holds 0.4 GB, which pictures want.
    """

    def __init__(self, graph: Path, *, device: str = "auto", threads: int | None = None) -> None:
        self._open = partial(
            open_session, graph, ["ids"], ["vectors"], device=device, threads=threads, lean=True
        )
        self._session: InferenceSession | None = None

    def __call__(self, ids: npt.NDArray[np.int64]) -> Floats:
        if self._session is None:
            self._session = self._open()
        vectors: Floats = self._session.run(["vectors"], {"ids": ids})[0]
        return vectors

    def rest(self) -> None:
        self._session = None


class TorchTower:
    """The same in torch, on the CPU or a CUDA device."""

    def __init__(self, tower: ClipText, *, device: str = "auto") -> None:
        import torch

        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self._device = device
        self._tower = tower.eval().to(device)

    def __call__(self, ids: npt.NDArray[np.int64]) -> Floats:
        import torch

        with torch.inference_mode():
            found: Floats = self._tower(torch.from_numpy(ids).to(self._device)).float().cpu().numpy()
        return found

    def rest(self) -> None:
        """Nothing: who has torch has the memory."""


def _write_graph(model: ClipText, ids: npt.NDArray[np.int64], path: Path, *, half: bool) -> None:
    import torch

    write_graph(model, {"ids": torch.from_numpy(ids)}, ["vectors"], path, half=half, free=_FREE)


def _read_words(folder: Path) -> tuple[ClipPieces, tuple[str, ...]]:
    return ClipPieces.read(folder / PIECES, folder / MERGES), read_templates(folder / TEMPLATES)


def _require(
    tower: str, pieces: ClipPieces, templates: tuple[str, ...], about: Mapping[str, Any], folder: Path
) -> None:
    found, wanted = combined(tower, pieces, templates), about.get("fingerprint")
    if found != wanted:
        raise ModelError(
            f"what reads texts in {folder} is not what the model was made with ({wanted} expected, {found} found): "
            f"a text_… file was replaced; to use another one, convert with --text-tower, --text-pieces or --templates"
        )


def _encoder(
    tower: OnnxTower | TorchTower, pieces: ClipPieces, templates: tuple[str, ...], about: Mapping[str, Any]
) -> ClipEncoder:
    return ClipEncoder(
        pieces,
        templates,
        tower,
        tower_fingerprint=str(about["tower"]),
        width=int(about["width"]),
        positions=int(about["positions"]),
    )

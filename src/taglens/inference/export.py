"""From a torch model folder to a bundle that needs no torch.

Large weights are stored in half precision and widened when the session starts (the runtime folds the cast away), so
a bundle is half the size of its checkpoint and still computes in fp32.
"""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from taglens.errors import MissingExtraError, ModelError, UsageError
from taglens.inference.bundle import (
    CONFIG,
    GRAPH,
    LABELS,
    TABLE,
    TEXT,
    VOCABULARY,
    Bundle,
    checksum,
    write_config,
)
from taglens.inference.bundle import read_config as read_bundle_config
from taglens.inference.clip_texts import ABOUT, THRESHOLD, TextParts
from taglens.inference.clip_texts import GRAPH as TEXT_GRAPH
from taglens.inference.engines import LabelEngine, OnnxEngine, TableEngine, require_torch
from taglens.inference.export_aligner import export_aligner
from taglens.inference.export_captions import export_captioner
from taglens.inference.graphs import write_graph
from taglens.staging import require_place, staged
from taglens.vocabulary import Vocabulary

if TYPE_CHECKING:
    from taglens.language.text_encoder import TextEncoder
    from taglens.models.aligner import Aligner
    from taglens.models.captioner import Captioner
    from taglens.models.recognizer import Recognizer


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """Turns logits into probabilities that mean the same for every tag: ``sigmoid(slope * logit + offset)``.

    The asymmetric loss leaves scores high for every tag, by an amount that differs from tag to tag, so that raw
    scores rank pictures for a tag well and tags for a picture badly.

    Attributes:
        slope: one positive number, so that no tag's ranking of pictures changes.
        offsets: float32 [T].
        typed_slope, typed_offset: the same for a tag that a user types.
        typed_threshold: the lowest calibrated score at which such a tag is given.
    """

    slope: float
    offsets: npt.NDArray[np.float32]
    typed_slope: float = 1.0
    typed_offset: float = 0.0
    typed_threshold: float = 0.5

    def apply(self, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Probabilities [N, T] of logits [N, T]."""
        shifted = self.slope * logits.astype(np.float64) + self.offsets
        # 1 / (1 + exp(-x)), whose exponential would overflow far below 0.
        return np.exp(-np.logaddexp(0.0, -shifted)).astype(np.float32)


def export(
    model: Recognizer,
    vocabulary: Vocabulary,
    out: str | os.PathLike[str],
    *,
    name: str,
    calibration: Calibration | None = None,
    text: TextEncoder | TextParts | None = None,
    captioner: Captioner | None = None,
    aligner: Aligner | None = None,
    pieces: bytes | None = None,
    tag_weight: float | None = None,
    half: bool = True,
    tolerance: float = 2e-3,
) -> Bundle:
    """Write a bundle folder, whole or not at all, once it is seen to answer like the model it came from.

    A model whose labels are texts gets a second graph, which scores any texts on a picture's tokens. Where these came
    embedded, as in published models, the second graph scores the model's own tags too, from a table beside it
    (`taglens.inference.engines.TableEngine`).

    Args:
        text: the encoder that made the label embeddings; where they came embedded, CLIP's text tower or None, and
            None where they were learned.
        calibration: applied to the logits inside the graph; None: scores are plain sigmoids.
        captioner, pieces: what writes captions, and the content of its file of word pieces; both or neither.
        aligner: what compares pictures with texts, with the captioner's layers.
        tag_weight: what matching tags weigh beside similarity in search, where that is known.
        half: store large weights in fp16.
        tolerance: largest difference of a score that is accepted between torch and the bundle, on noise.

    Raises:
        MissingExtraError: torch or onnx is not installed.
        ModelError: the exported graph does not agree with the model, or the vocabulary has another length.
        UsageError: the folder holds other things than a bundle.
        OSError: it cannot be written; what was there before is whole.
    """
    if len(vocabulary) != model.config.tags:
        raise ModelError(f"the model has {model.config.tags} tags and {vocabulary.ref} has {len(vocabulary)}")
    if (captioner is None) != (pieces is None):
        raise ModelError("a captioner and its word pieces are exported together")
    if aligner is not None and captioner is None:
        raise ModelError("an aligner reads with a captioner's layers; export it together with that captioner")
    if tag_weight is not None and not 0.0 <= tag_weight < float("inf"):
        raise UsageError(f"the weight of tags in search must be 0 or more, found {tag_weight}")
    require_torch("exporting a model")
    if find_spec("onnx") is None:
        raise MissingExtraError("onnx", extra="train", purpose="exporting a model")

    config = model.config
    if isinstance(text, TextParts):
        text.require_fit(config)
    # Neither sees labels but through the decoder: what published models are.
    apart = config.descriptions > 0 and not (config.pooled_term or config.closed_term)
    apart = apart and (text is None or isinstance(text, TextParts))
    if not apart and (text is None) != (config.descriptions == 0):
        raise ModelError(
            "labels that were read from text need their text encoder in the bundle, others have none"
        )
    if apart and calibration is not None:
        raise ModelError("a model whose label texts came embedded keeps its own thresholds: not calibrated")
    calibration = calibration or Calibration(1.0, np.zeros(len(vocabulary), np.float32))
    target = Path(out)
    require_place(target, what="a bundle", holds=_is_bundle)
    model.eval()
    with staged(target, last=CONFIG) as folder:
        side = config.side
        if apart:
            error = _export_apart(model, calibration, folder, half=half)
        else:
            error = _export_tags(model, calibration, folder / GRAPH, half=half)
        about: dict[str, Any] = {
            "tags": len(vocabulary),
            "half": half,
            "calibrated": bool(calibration.offsets.any()),
            "export_error": float(f"{error:.3g}"),
        }
        if apart:
            about["labels_sha256"] = checksum(folder / LABELS)
            about["table_sha256"] = checksum(folder / TABLE)
        if isinstance(text, TextParts):
            tower, difference = text.export(folder, half=half)
            error = _larger(error, difference)
            about[ABOUT] = {**tower, "graph_sha256": checksum(folder / TEXT_GRAPH)}
            about["typed_threshold"] = THRESHOLD
        elif text is not None:
            error = _larger(error, _export_labels(model, calibration, folder / LABELS, half=half))
            text.save(folder / TEXT)
            about["labels_sha256"] = checksum(folder / LABELS)
            about["text_encoder"] = text.fingerprint
            about["typed_threshold"] = calibration.typed_threshold
        if captioner is not None and pieces is not None:
            about["captioner"], difference = export_captioner(captioner, pieces, folder, half=half)
            error = _larger(error, difference)
            if aligner is not None:
                about["aligner"], difference = export_aligner(aligner, captioner, folder, half=half)
                error = _larger(error, difference)
        if tag_weight is not None:
            about["retrieval"] = {"lambda": tag_weight}
        if not error <= tolerance:
            raise ModelError(
                f"the exported graph differs from the model by {error:.2g}, above {tolerance:.2g}"
            )
        vocabulary.save(folder / VOCABULARY)
        write_config(folder, name=name, side=side, vocabulary=vocabulary, about=about)
    return Bundle.open(target)


def _larger(first: float, second: float) -> float:
    """The larger of two differences; what is no number is larger than any, which ``max`` does not promise."""
    return float(np.maximum(first, second))


def _is_bundle(folder: Path) -> bool:
    try:
        read_bundle_config(folder)
    except ModelError:
        return False
    return True


def texts_of(folder: Path) -> TextEncoder | TextParts | None:
    """What reads texts beside the weights in a model folder; None where the model reads none.

    Raises:
        ModelError, VocabularyError: a file of it is missing, damaged or another than the configuration's.
    """
    from taglens.language.text_encoder import TextEncoder
    from taglens.models.checkpoint import read_config, reads_text

    if not reads_text(folder):
        return None
    if (about := read_config(folder).get(ABOUT)) is not None:
        return TextParts.load(folder, about)
    return TextEncoder.load(folder / TEXT)


def _export_tags(model: Recognizer, calibration: Calibration, path: Path, *, half: bool) -> float:
    """Write the graph from pixels to scores, pooled vector and tokens; returns its largest error on noise."""
    import torch

    class Tags(torch.nn.Module):
        offsets: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.model = model
            self.register_buffer("offsets", torch.from_numpy(calibration.offsets))

        def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
            found = self.model(pixels)
            scores = torch.sigmoid(calibration.slope * found.logits + self.offsets)
            return scores, found.pooled, found.tokens

    side = model.config.side
    whole = Tags().eval()
    write_graph(
        whole, {"pixels": torch.rand(2, 3, side, side)}, ["scores", "pooled", "tokens"], path, half=half
    )
    noise = np.random.default_rng(0).random((3, 3, side, side), dtype=np.float32)
    with torch.inference_mode():
        wanted = whole(torch.from_numpy(noise))[0].numpy()
    return float(np.abs(OnnxEngine(path, device="cpu")(noise).scores - wanted).max())


def _export_apart(model: Recognizer, calibration: Calibration, folder: Path, *, half: bool) -> float:
    """Write the graph from pixels to tokens, that from texts to scores, and the texts; returns the largest error."""
    import torch

    class Tokens(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.project = model.encoder, model.project

        def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
            tokens = self.project(self.encoder(pixels))
            return tokens[:, 0], tokens

    side = model.config.side
    pixels = {"pixels": torch.rand(2, 3, side, side)}
    write_graph(Tokens().eval(), pixels, ["pooled", "tokens"], folder / GRAPH, half=half)
    error = _export_labels(model, calibration, folder / LABELS, half=half)
    _write_table(model, folder / TABLE)
    noise = np.random.default_rng(0).random((1, 3, side, side), dtype=np.float32)
    with torch.inference_mode():
        wanted = torch.sigmoid(model(torch.from_numpy(noise)).logits).numpy()
    engine = TableEngine(folder / GRAPH, folder / LABELS, folder / TABLE, device="cpu")
    return _larger(error, float(np.abs(engine(noise).scores - wanted).max()))


def _write_table(model: Recognizer, path: Path) -> None:
    """The label embeddings in fp16, [T, D, L]."""
    from taglens.models.label_bank import DescriptionBank

    bank = model.bank
    table = bank.embeddings.detach().cpu()
    if isinstance(bank, DescriptionBank) and not bool((bank.counts == table.shape[1]).all()):
        raise ModelError("labels that came embedded must have as many texts each")
    most = np.finfo(np.float16).max
    if not bool(table.max() <= most and table.min() >= -most):
        raise ModelError("label embeddings do not fit half precision: they are no unit vectors")
    whole = table.view(len(bank), -1, model.config.label_width).numpy().astype(np.float16)
    beside = path.with_name(path.name + ".part")
    with beside.open("wb") as file:
        np.save(file, whole)
    beside.replace(path)


def _export_labels(model: Recognizer, calibration: Calibration, path: Path, *, half: bool) -> float:
    """Write the graph from tokens and embedded texts to scores; returns its largest error on noise."""
    import torch

    from taglens.models.label_bank import DescriptionBank

    class Labels(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            # Without what the graph does not need, of which the exporter would make copies.
            self.asked = copy.copy(model)
            self.asked._modules = {k: v for k, v in model._modules.items() if k not in ("encoder", "project")}

        def forward(
            self, tokens: torch.Tensor, embeddings: torch.Tensor, counts: torch.Tensor
        ) -> torch.Tensor:
            asked = self.asked.with_labels(DescriptionBank(embeddings, counts))
            logits = asked.score(tokens).logits
            return torch.sigmoid(calibration.typed_slope * logits + calibration.typed_offset)

    config = model.config
    rng = np.random.default_rng(0)

    def given(pictures: int, tags: int, most: int) -> dict[str, torch.Tensor]:
        tokens = rng.standard_normal((pictures, 5, config.token_width)).astype(np.float32)
        texts = rng.standard_normal((tags, most, config.label_width)).astype(np.float32)
        texts /= np.linalg.norm(texts, axis=-1, keepdims=True)
        counts = np.arange(tags) % most + 1
        return {
            "tokens": torch.from_numpy(tokens),
            "embeddings": torch.from_numpy(texts),
            "counts": torch.from_numpy(counts),
        }

    whole = Labels().eval()
    write_graph(whole, given(2, 3, 2), ["scores"], path, half=half)
    # Other numbers than those it was traced with: every axis must have stayed free.
    other = given(3, 4, 3)
    with torch.inference_mode():
        wanted = whole(*other.values()).numpy()
    found = LabelEngine(path, device="cpu")(*(value.numpy() for value in other.values()))
    return float(np.abs(found - wanted).max())

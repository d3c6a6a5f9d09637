"""From a torch model folder to a bundle that needs no torch.

Large weights are stored in half precision and widened when the session starts (the runtime folds the cast away), so
a bundle is half the size of its checkpoint and still computes in fp32.
"""

from __future__ import annotations

import io
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from taglens.errors import MissingExtraError, ModelError
from taglens.inference.bundle import GRAPH, VOCABULARY, Bundle, write_config
from taglens.inference.engines import OnnxEngine, require_torch
from taglens.vocabulary import Vocabulary

if TYPE_CHECKING:
    from taglens.models.recognizer import Recognizer

OPSET = 18
# Below this many values a weight stays in fp32: norms and biases cost nothing and matter most.
_SMALL = 1024


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """Turns logits into probabilities that mean the same for every tag: ``sigmoid(slope * logit + offset)``.

    The asymmetric loss leaves scores high for every tag, by an amount that differs from tag to tag, so that raw
    scores rank pictures for a tag well and tags for a picture badly.

    Attributes:
        slope: one positive number, so that no tag's ranking of pictures changes.
        offsets: float32 [T].
    """

    slope: float
    offsets: npt.NDArray[np.float32]

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
    half: bool = True,
    tolerance: float = 2e-3,
) -> Bundle:
    """Write a bundle folder and check that it answers like the model it came from.

    Args:
        calibration: applied to the logits inside the graph; None: scores are plain sigmoids.
        half: store large weights in fp16.
        tolerance: largest difference of a score that is accepted between torch and the bundle, on noise.

    Raises:
        MissingExtraError: torch or onnx is not installed.
        ModelError: the exported graph does not agree with the model, or the vocabulary has another length.
    """
    if len(vocabulary) != model.config.tags:
        raise ModelError(f"the model has {model.config.tags} tags and {vocabulary.ref} has {len(vocabulary)}")
    torch = require_torch("exporting a model")
    try:
        import onnx
    except ModuleNotFoundError:
        raise MissingExtraError("onnx", extra="train", purpose="exporting a model") from None

    class Graph(torch.nn.Module):  # type: ignore[misc, name-defined]
        """Pixels to what a bundle gives."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model
            self.slope = 1.0 if calibration is None else calibration.slope
            offsets = np.zeros(len(vocabulary), np.float32) if calibration is None else calibration.offsets
            self.register_buffer("offsets", torch.from_numpy(offsets))

        def forward(self, pixels: Any) -> Any:
            found = self.model(pixels)
            return torch.sigmoid(self.slope * found.logits + self.offsets), found.pooled

    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    side = model.config.side
    memory = io.BytesIO()
    model.eval()
    whole = Graph().eval()
    with warnings.catch_warnings():
        # The tracing exporter is announced as old; the new one asks for one more package and unrolls nothing here.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            whole,
            (torch.rand(2, 3, side, side),),
            memory,
            input_names=["pixels"],
            output_names=["scores", "pooled"],
            dynamic_axes={"pixels": {0: "b"}, "scores": {0: "b"}, "pooled": {0: "b"}},
            opset_version=OPSET,
            dynamo=False,
        )
    graph = onnx.load_from_string(memory.getvalue())
    if half:
        _store_half(graph, onnx)
    onnx.checker.check_model(graph)
    beside = folder / (GRAPH + ".part")
    beside.write_bytes(graph.SerializeToString())
    beside.replace(folder / GRAPH)
    vocabulary.save(folder / VOCABULARY)

    noise = np.random.default_rng(0).random((3, 3, side, side), dtype=np.float32)
    with torch.inference_mode():
        wanted = whole(torch.from_numpy(noise))[0].numpy()
    error = float(np.abs(OnnxEngine(folder / GRAPH, device="cpu")(noise).scores - wanted).max())
    if not error <= tolerance:
        raise ModelError(f"the exported graph differs from the model by {error:.2g}, above {tolerance:.2g}")
    about = {
        "tags": len(vocabulary),
        "half": half,
        "calibrated": calibration is not None,
        "export_error": float(f"{error:.3g}"),
    }
    write_config(folder, name=name, side=side, vocabulary=vocabulary, about=about)
    return Bundle.open(folder)


def _store_half(graph: Any, onnx: Any) -> None:
    """Replace each large fp32 constant by its fp16 twin and a cast in front of its readers."""
    casts = []
    for tensor in graph.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or int(np.prod(tensor.dims)) < _SMALL:
            continue
        values = onnx.numpy_helper.to_array(tensor)
        if np.abs(values).max() > np.finfo(np.float16).max:
            continue
        name = tensor.name
        stored = f"{name}_half"
        tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), stored))
        casts.append(
            onnx.helper.make_node("Cast", [stored], [name], to=onnx.TensorProto.FLOAT, name=f"widen_{name}")
        )
    for cast in reversed(casts):
        graph.graph.node.insert(0, cast)

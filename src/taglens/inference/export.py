"""From a torch model folder to a bundle that needs no torch.

Large weights are stored in half precision and widened when the session starts (the runtime folds the cast away), so
a bundle is half the size of its checkpoint and still computes in fp32.
"""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from taglens.errors import MissingExtraError, ModelError
from taglens.inference.bundle import GRAPH, VOCABULARY, Bundle, write_config
from taglens.inference.engines import OnnxEngine, TorchEngine, require_torch
from taglens.vocabulary import Vocabulary

if TYPE_CHECKING:
    from taglens.models.recognizer import Recognizer

OPSET = 18
# Below this many values a weight stays in fp32: norms and biases cost nothing and matter most.
_SMALL = 1024


def export(
    model: Recognizer,
    vocabulary: Vocabulary,
    out: str | os.PathLike[str],
    *,
    name: str,
    half: bool = True,
    tolerance: float = 2e-3,
) -> Bundle:
    """Write a bundle folder and check that it answers like the model it came from.

    Args:
        half: store large weights in fp16.
        tolerance: largest difference of a score that is accepted between torch and the bundle, on noise.

    Raises:
        MissingExtraError: torch or onnx is not installed.
        ModelError: the exported graph does not agree with the model.
    """
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

        def forward(self, pixels: Any) -> Any:
            found = self.model(pixels)
            return torch.sigmoid(found.logits), found.pooled

    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    side = model.config.side
    memory = io.BytesIO()
    model.eval()
    with warnings.catch_warnings():
        # The tracing exporter is announced as old; the new one asks for one more package and unrolls nothing here.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Graph().eval(),
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
    ours, theirs = OnnxEngine(folder / GRAPH, device="cpu")(noise), TorchEngine(model, device="cpu")(noise)
    error = float(np.abs(ours.scores - theirs.scores).max())
    if not error <= tolerance:
        raise ModelError(f"the exported graph differs from the model by {error:.2g}, above {tolerance:.2g}")
    about = {"tags": len(vocabulary), "half": half, "export_error": float(f"{error:.3g}")}
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

"""A torch module traced on examples, stored as an ONNX graph.

Knows the exporter, half precision and files; knows nothing of what a graph computes (`taglens.inference.export`,
`taglens.inference.export_captions`).
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

OPSET = 18
# Below this many values a weight stays in fp32: norms and biases cost nothing and matter most.
_SMALL = 1024
# Weights that hold something of each tag, under the names that `taglens.inference.export` gives them.
_OF_TAGS = {
    "offsets",
    *(
        f"model.{name}"
        for name in (
            "bank.embeddings",
            "bank.counts",
            "pooled_bias",
            "closed.read.weight",
            "closed.read.bias",
            "decoder.heads.weight",
            "decoder.heads.bias",
        )
    ),
}
# Axes of any length, by the names of a graph's inputs and outputs.
FREE = {
    "pixels": {0: "b"},
    "tokens": {0: "b", 1: "p"},
    "embeddings": {0: "t", 1: "k"},
    "counts": {0: "t"},
    "pooled": {0: "b"},
    "scores": {0: "b", 1: "t"},
}


def write_graph(
    whole: Any,
    given: dict[str, Any],
    outputs: list[str],
    path: Path,
    *,
    half: bool,
    free: Mapping[str, Mapping[int, str]] = FREE,
) -> None:
    """Trace a torch module on the inputs ``given`` and store it as an ONNX graph, whole or not at all.

    The exporter sees no weights, of which it would hold four copies at once: they are added to the file one by one.
    """
    import onnx
    import torch

    memory = io.BytesIO()
    # Without a thought of gradients, for which all that was ever computed would be kept.
    with warnings.catch_warnings(), torch.no_grad():
        # The tracing exporter is announced as old; the new one asks for one more package and unrolls nothing here.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            whole,
            tuple(given.values()),
            memory,  # type: ignore[arg-type]
            input_names=list(given),
            output_names=outputs,
            dynamic_axes={name: free[name] for name in (*given, *outputs)},
            opset_version=OPSET,
            dynamo=False,
            export_params=False,
            do_constant_folding=False,
        )
    model = onnx.load_from_string(memory.getvalue())
    onnx.checker.check_model(model)
    state = whole.state_dict()
    weights = [each.name for each in model.graph.input if each.name not in given]
    axes = _turned(model.graph, set(weights))
    for each in [each for each in model.graph.input if each.name not in given]:
        model.graph.input.remove(each)
    stored = {
        name: f"{name}_half" if half and _fits_half(state[name]) else name
        for name in _read(model.graph, weights)
    }
    for name in reversed([name for name in stored if stored[name] != name]):
        widen = onnx.helper.make_node(
            "Cast", [stored[name]], [name], to=onnx.TensorProto.FLOAT, name=f"widen_{name}"
        )
        model.graph.node.insert(0, widen)
    beside = path.with_name(path.name + ".part")
    with beside.open("wb") as file:
        file.write(model.SerializeToString())
        for name, stored_name in stored.items():
            values = state[name].detach().cpu().numpy()
            if name in axes:
                values = np.ascontiguousarray(values.transpose(axes[name]))
            if stored_name != name:
                values = values.astype(np.float16)
            # Messages of the format that follow each other are read as one, their lists joined.
            more = onnx.ModelProto()
            more.graph.initializer.append(onnx.numpy_helper.from_array(values, stored_name))
            file.write(more.SerializeToString())
    beside.replace(path)


def choosing(path: Path) -> bytes | None:
    """A stored graph of pixels to scores with a second input, ``tags`` [J]: the columns that are asked about.

    Everything that a tag has of its own is a weight with the tags on its first axis; of these weights only the
    wanted rows are taken, and all that follows is the same.

    Returns:
        The graph's content; None where onnx is not installed, or weights are not as said.
    """
    try:
        import onnx
    except ModuleNotFoundError:
        return None
    model = onnx.load(str(path))
    graph = model.graph
    shape = next((each.type.tensor_type.shape for each in graph.output if each.name == "scores"), None)
    tags = _tags(graph)
    if shape is None or tags is None:
        return None
    for each in tags:
        node = onnx.helper.make_node(
            "Gather", [each.name, "tags"], [f"{each.name}_chosen"], axis=0, name=f"choose_{each.name}"
        )
        for reader in graph.node:
            for place, read in enumerate(reader.input):
                if read == each.name:
                    reader.input[place] = f"{each.name}_chosen"
        graph.node.insert(0, node)
    graph.input.append(onnx.helper.make_tensor_value_info("tags", onnx.TensorProto.INT64, ["j"]))
    # What was inferred of shapes was of all tags.
    del graph.value_info[:]
    shape.dim[1].ClearField("dim_value")
    shape.dim[1].dim_param = "j"
    content: bytes = model.SerializeToString()
    return content


def _tags(graph: Any) -> list[Any] | None:
    """The weights with the tags on their first axis; None where one has them on another.

    None, too, where labels do not depend on the picture: their number is then built into the graph in other places.
    """
    found = [each for each in graph.initializer if each.name.removesuffix("_half") in _OF_TAGS]
    counts = {each.dims[0] if each.dims else 0 for each in found}
    blended = any(each.name == "model.bank.counts" for each in found)
    return found if blended and len(counts) == 1 else None


def _turned(graph: Any, weights: set[str]) -> dict[str, list[int]]:
    """Take out the transpositions of weights that are read in no other way; weight -> axes, as it is to be stored."""
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in weights.intersection(node.input):
            readers.setdefault(name, []).append(node)
    axes: dict[str, list[int]] = {}
    instead: dict[str, str] = {}
    for name, nodes in readers.items():
        ways = {str(node.attribute) if node.op_type == "Transpose" else "" for node in nodes}
        if len(ways) == 1 and "" not in ways:
            axes[name] = list(nodes[0].attribute[0].ints)
            instead.update((node.output[0], name) for node in nodes)
    kept = [node for node in graph.node if node.output[0] not in instead]
    for node in kept:
        for place, read in enumerate(node.input):
            if read in instead:
                node.input[place] = instead[read]
    graph.node.clear()
    graph.node.extend(kept)
    return axes


def _read(graph: Any, weights: list[str]) -> list[str]:
    """Those of the weights that a node reads."""
    read = {name for node in graph.node for name in node.input}
    return [name for name in weights if name in read]


def _fits_half(weight: Any) -> bool:
    """Whether a weight is large enough to be worth storing in fp16, and small enough in value."""
    if not weight.is_floating_point() or weight.numel() < _SMALL:
        return False
    return bool(weight.abs().max() <= np.finfo(np.float16).max)

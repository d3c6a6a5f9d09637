"""One call from prepared pixels to scores, whatever runs it.

Knows ONNX Runtime and torch, each imported only when asked for. Knows nothing of files of pictures or of tags.
Shapes: B images, S side, T tags, N tokens, K token width, U typed labels, D texts of a label, L text width.
"""

from __future__ import annotations

import ctypes
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from taglens.errors import MissingExtraError, ModelError, UsageError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

    from taglens.models.recognizer import Recognizer

Array = npt.NDArray[np.float32]


# Largest difference between the scores of some tags alone and among all: rounding.
_NEAR = 1e-4


@dataclass(frozen=True, slots=True, eq=False)
class Output:
    """scores [B, T], probabilities in [0, 1]; pooled [B, K], the picture's own vector; tokens [B, 1 + N, K]."""

    scores: Array
    pooled: Array
    tokens: Array


class Engine(Protocol):
    """Anything that scores prepared pixels."""

    def __call__(self, pixels: Array) -> Output:
        """Score float32 [B, 3, S, S] in [0, 1]."""
        ...


class Ask(Protocol):
    """Anything that scores texts on what an `Engine` made of pictures: the open vocabulary."""

    def __call__(self, tokens: Array, embeddings: Array, counts: npt.NDArray[np.int64]) -> Array:
        """Scores [B, U] of tokens [B, 1 + N, K] for texts [U, D, L] of which the first counts [U] are a label's."""
        ...


def finite(output: Output, model: str) -> Output:
    """The output unchanged. Raises ModelError when a score is not a number: such a model has no answer to give."""
    if not np.isfinite(output.scores).all():
        raise ModelError(
            f"{model} gives scores that are not finite: its weights are damaged; copy or train it again"
        )
    return output


class OnnxEngine:
    """ONNX Runtime on the CPU or a CUDA device.

    Args:
        threads: threads inside one operator; None: all cores.

    Raises:
        ModelError: the graph cannot be loaded, or does not have the bundle's inputs and outputs.
        UsageError: the device is not one this installation has.
    """

    def __init__(self, graph: Path, *, device: str = "auto", threads: int | None = None) -> None:
        self._session = open_session(
            graph, ["pixels"], ["scores", "pooled", "tokens"], device=device, threads=threads
        )
        self._graph, self._device, self._threads = graph, device, threads
        self._choosing: InferenceSession | Literal[False] | None = None

    def __call__(self, pixels: Array) -> Output:
        return Output(*self._session.run(["scores", "pooled", "tokens"], {"pixels": pixels}))

    def some(self, pixels: Array, columns: npt.NDArray[np.intp]) -> Output | None:
        """The same with the scores [B, J] of some columns [J]: the decoder is asked about these alone.

        None where that cannot be had: the package onnx is not installed, or the graph is of another form.
        """
        if self._choosing is None:
            self._choosing = self._chooser(pixels[:1])
        if self._choosing is False:
            return None
        given = {"pixels": pixels, "tags": columns.astype(np.int64)}
        return Output(*self._choosing.run(["scores", "pooled", "tokens"], given))

    def _chooser(self, pixels: Array) -> InferenceSession | Literal[False]:
        """What `some` asks, once it is seen to answer like the whole on a picture; False where it does not."""
        from taglens.inference.graphs import choosing

        content = choosing(self._graph)
        if content is None:
            return False
        whole = self(pixels).scores
        columns = np.arange(0, whole.shape[1], 2)
        gives = ["scores", "pooled", "tokens"]
        try:
            session = open_session(
                content, ["pixels", "tags"], gives, device=self._device, threads=self._threads
            )
            some = session.run(gives, {"pixels": pixels, "tags": columns})[0]
        except Exception:  # noqa: BLE001 - a graph with the number of tags built in; the runtime has its own classes
            return False
        near = some.shape == whole[:, columns].shape and np.abs(some - whole[:, columns]).max() < _NEAR
        return session if near else False


class LabelEngine:
    """The second graph of a bundle in ONNX Runtime: texts scored on tokens. Arguments, errors: see `OnnxEngine`."""

    def __init__(
        self, graph: Path, *, device: str = "auto", threads: int | None = None, lean: bool = False
    ) -> None:
        takes = ["tokens", "embeddings", "counts"]
        self._session = open_session(graph, takes, ["scores"], device=device, threads=threads, lean=lean)

    def __call__(self, tokens: Array, embeddings: Array, counts: npt.NDArray[np.int64]) -> Array:
        given = {"tokens": tokens, "embeddings": embeddings, "counts": counts}
        scores: Array = self._session.run(["scores"], given)[0]
        return scores


class TableEngine:
    """A bundle whose labels are a table of embedded texts beside the graphs: `OnnxEngine`'s answer in less memory.

    The published tables are too large to stand in a graph, where they would be widened whole: 4,585 tags of 51 texts
    are 0.5 GB in fp32. Here they stay in a file, in fp16, and are widened some tags at a time; labels do not see
    each other, so that the parts' scores are the whole's. On a processor pictures are encoded one by one, which is no
    slower and needs the memory of one; nor are weights kept twice, as stored and as packed for multiplication.

    Arguments, errors: see `OnnxEngine`.
    """

    # Labels times pictures that the decoder sees at once: at the published sizes 50 MB of texts and as much besides.
    AT_ONCE = 512

    def __init__(
        self, graph: Path, labels: Path, table: Path, *, device: str = "auto", threads: int | None = None
    ) -> None:
        _give_memory_back()
        self._session = open_session(
            graph, ["pixels"], ["pooled", "tokens"], device=device, threads=threads, lean=True
        )
        self._ask = LabelEngine(labels, device=device, threads=threads, lean=True)
        self._path = table
        self._shape = self._table().shape
        self._alone = self._session.get_providers()[0] == "CPUExecutionProvider"

    def __call__(self, pixels: Array) -> Output:
        group = 1 if self._alone else len(pixels)
        encoded = [
            self._session.run(["pooled", "tokens"], {"pixels": pixels[start : start + group]})
            for start in range(0, len(pixels), group)
        ]
        pooled, tokens = (np.concatenate([each[part] for each in encoded]) for part in (0, 1))
        return Output(self._scores(tokens), pooled, tokens)

    def _table(self) -> npt.NDArray[np.float16]:
        try:
            table: npt.NDArray[np.float16] = np.load(self._path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise ModelError(f"cannot read {self._path}: {error}; copy or export the bundle again") from None
        return table

    def _scores(self, tokens: Array) -> Array:
        tags, each, _ = self._shape
        scores = np.empty((len(tokens), tags), np.float32)
        step = max(self.AT_ONCE // max(len(tokens), 1), 64)
        for start in range(0, tags, step):
            # Mapped anew for every part, so that pages which were read do not stay with the process.
            part = self._table()[start : start + step].astype(np.float32)
            scores[:, start : start + step] = self._ask(tokens, part, np.full(len(part), each, np.int64))
        return scores


def _give_memory_back() -> None:
    """Have large arrays, once freed, go back to the system at once, where the C library can be told to.

    Otherwise the process keeps what a picture's activations leave: at the published sizes 0.2 GB, by chance more.
    """
    if sys.platform == "linux" and (tell := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        tell(-3, 1 << 20)  # M_MMAP_THRESHOLD, bytes


def open_session(
    graph: Path | bytes,
    inputs: list[str],
    outputs: list[str],
    *,
    device: str,
    threads: int | None,
    lean: bool = False,
) -> InferenceSession:
    """A graph, or its file, loaded into ONNX Runtime; errors as `OnnxEngine` says.

    Args:
        inputs, outputs: names that the graph must have, in this order.
        lean: trade a tenth of the speed for memory, as large models want.
    """
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or (os.cpu_count() or 1)
    if lean:
        options.enable_cpu_mem_arena = False
        options.add_session_config_entry("session.disable_prepacking", "1")
    providers = _providers(device, onnxruntime.get_available_providers())
    try:
        given = graph if isinstance(graph, bytes) else str(graph)
        session = onnxruntime.InferenceSession(given, options, providers=providers)
    except Exception as error:  # noqa: BLE001 - the runtime raises classes of its own, one per status code
        if "bad_alloc" in str(error):
            raise MemoryError(str(error)) from None
        raise ModelError(f"cannot load {_name(graph)}: {error}") from None
    takes = [each.name for each in session.get_inputs()]
    gives = [output.name for output in session.get_outputs()]
    if takes != inputs or gives != outputs:
        raise ModelError(
            f"{_name(graph)} takes {takes} and gives {gives}; expected {inputs} and {outputs}: "
            "it was exported by another release; export it again: taglens bundle MODEL --out DIR"
        )
    return session


def _name(graph: Path | bytes) -> str:
    return "a graph" if isinstance(graph, bytes) else str(graph)


def _providers(device: str, available: list[str]) -> list[str]:
    wanted = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}
    kind = device.partition(":")[0]
    if kind == "auto":
        return [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in available]
    if kind not in wanted:
        raise UsageError(f"unknown device {device!r}; use auto, cpu or cuda")
    if wanted[kind] not in available:
        raise UsageError(
            f"device {device!r} is not available in this ONNX Runtime ({', '.join(available)}); "
            "for CUDA install onnxruntime-gpu in its place, or use cpu"
        )
    return [wanted[kind], *(["CPUExecutionProvider"] if kind == "cuda" else [])]


def torch_device(device: str) -> str:
    """The torch device that "auto", "cpu" or "cuda" means here. Raises UsageError for one that is not here."""
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.partition(":")[0] not in ("cpu", "cuda"):
        raise UsageError(f"unknown device {device!r}; use auto, cpu or cuda")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"device {device!r}: this torch sees no CUDA device; use cpu")
    return device


class TorchEngine:
    """A torch model in eval mode, on the CPU or a CUDA device."""

    def __init__(self, model: Recognizer, *, device: str = "auto") -> None:
        self._device = torch_device(device)
        self._model = model.eval().to(self._device)

    def __call__(self, pixels: Array) -> Output:
        import torch

        with torch.inference_mode():
            found = self._model(torch.from_numpy(pixels).to(self._device))
            given = (torch.sigmoid(found.logits), found.pooled, found.tokens)
        return Output(*(value.float().cpu().numpy() for value in given))

    def some(self, pixels: Array, columns: npt.NDArray[np.intp]) -> Output:
        """The same with the scores [B, J] of some columns [J]: the decoder is asked about these alone."""
        import torch

        chosen = torch.from_numpy(columns.astype(np.int64)).to(self._device)
        with torch.inference_mode():
            found = self._model(torch.from_numpy(pixels).to(self._device), chosen)
            given = (torch.sigmoid(found.logits), found.pooled, found.tokens)
        return Output(*(value.float().cpu().numpy() for value in given))

    def ask(self, tokens: Array, embeddings: Array, counts: npt.NDArray[np.int64]) -> Array:
        """Texts scored on tokens, see `Ask`. Raises ModelError where labels were learned and not read from text."""
        import torch

        from taglens.models.label_bank import DescriptionBank

        bank = DescriptionBank(torch.from_numpy(embeddings), torch.from_numpy(counts)).to(self._device)
        with torch.inference_mode():
            asked = self._model.with_labels(bank)
            logits = asked.score(torch.from_numpy(tokens).to(self._device)).logits
        scores: Array = torch.sigmoid(logits).float().cpu().numpy()
        return scores


def require_torch(purpose: str) -> Any:
    """torch, or MissingExtraError with the pip line."""
    try:
        import torch
    except ModuleNotFoundError:
        raise MissingExtraError("torch", extra="train", purpose=purpose) from None
    return torch

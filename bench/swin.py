"""Swin, this project's and a library's: the same weights, the same pictures, time and memory side by side.

    python bench/swin.py [--pairs 7]

The library is transformers' SwinModel; without it the benchmark stops. Forward passes take turns, so that whatever
else the machine does falls on both; medians are compared. Peaks are those of a process that loads one model and runs
it once. Graphs are this project's encoder in ONNX Runtime. Appends one line to bench/results/swin.jsonl.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common import record
from published import timed

if TYPE_CHECKING:
    import torch

    from taglens.models.swin import Swin

SIDE, THREADS = 384, 2
SIZES = ("swin_b", "swin_l")
PEAK = "import sys; sys.path.insert(0, {here!r}); import swin; swin.run_once({which!r}, {size!r}, {batch})"
IMPORT = "import {module}"
# Our names -> theirs; queries, keys and values stand apart there.
RENAMED = (
    ("patches", "embeddings.patch_embeddings.projection"),
    ("patch_norm", "embeddings.norm"),
    ("norm.", "layernorm."),
    ("stages.", "encoder.layers."),
    (".norm1.", ".layernorm_before."),
    (".norm2.", ".layernorm_after."),
    (".attention.out.", ".attention.o_proj."),
    (".attention.table", ".attention.relative_position_bias.relative_position_bias_table"),
    (".ffn.0.", ".mlp.fc1."),
    (".ffn.2.", ".mlp.fc2."),
    (".merge.norm.", ".downsample.norm."),
    (".merge.reduce.", ".downsample.reduction."),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--pairs", type=int, default=7, help="Passes of each with one picture; fewer with four."
    )
    options = parser.parse_args()
    if find_spec("transformers") is None:
        raise SystemExit("no transformers to compare with: pip install transformers")
    load = os.getloadavg()[0]
    here = str(Path(__file__).resolve().parent)
    figures: dict[str, Any] = {
        f"import_{module}_s": round(
            statistics.median(timed(IMPORT.format(module=module))[0] for _ in range(3)), 2
        )
        for module in ("torch", "transformers.models.swin.modeling_swin", "taglens.models.swin")
    }
    cases = [(size, batch) for size in SIZES for batch in (1, 4)]
    # Before this process holds a model itself: a child would be charged for it.
    for size, batch in cases:
        figures[f"{size} x {batch}"] = {
            f"{which}_peak_mb": round(timed(PEAK.format(here=here, which=which, size=size, batch=batch))[1])
            for which in ("ours", "library")
        }
    for size, batch in cases:
        pairs = options.pairs if batch == 1 else max(options.pairs // 2, 3)
        figures[f"{size} x {batch}"] |= compare(size, batch, pairs)
        print(size, batch, figures[f"{size} x {batch}"], file=sys.stderr)
    settings = {
        "side": SIDE,
        "threads": THREADS,
        "pairs": options.pairs,
        "precision": "float32",
        "versions": {name: version(name) for name in ("torch", "transformers", "onnxruntime")},
        "load_before": round(load, 2),
    }
    record("swin", settings, figures)


def compare(size: str, batch: int, pairs: int) -> dict[str, Any]:
    """Median seconds of each, and how far their tokens are apart at most."""
    import onnxruntime
    import torch

    from taglens.inference.graphs import write_graph

    ours = _ours(size)
    library = _library(size, ours)
    pixels = torch.rand(batch, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    normal = ours.pixels(pixels)
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder) / "model.onnx"
        write_graph(ours, {"pixels": pixels[:1].repeat(2, 1, 1, 1)}, ["tokens"], graph, half=False)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    given = {"pixels": pixels.numpy()}
    runs: dict[str, Callable[[], Any]] = {
        "ours": lambda: ours(pixels)[:, 1:],
        "library": lambda: library(normal).last_hidden_state,
        "graph": lambda: torch.from_numpy(session.run(None, given)[0])[:, 1:],
    }
    took: dict[str, list[float]] = {name: [] for name in runs}
    with torch.inference_mode():
        tokens = {name: run() for name, run in runs.items()}  # also the first, slower pass
        for _ in range(pairs):
            for name, run in runs.items():
                begun = time.perf_counter()
                run()
                took[name].append(time.perf_counter() - begun)
    medians = {name: statistics.median(each) for name, each in took.items()}
    return {
        **{f"{name}_s": round(seconds, 3) for name, seconds in medians.items()},
        **{f"{name}_fastest_s": round(min(each), 3) for name, each in took.items()},
        "library_to_ours": round(medians["library"] / medians["ours"], 3),
        "graph_to_ours": round(medians["graph"] / medians["ours"], 3),
        "difference": float(f"{(tokens['library'] - tokens['ours']).abs().max():.2g}"),
    }


def run_once(which: str, size: str, batch: int) -> None:
    """What a process does whose peak is measured: make a model, run it once."""
    import torch

    pixels = torch.rand(batch, 3, SIDE, SIDE)
    model = _ours(size) if which == "ours" else _library(size)
    with torch.inference_mode():
        model(pixels)


def _ours(size: str) -> Swin:
    import torch

    from taglens.models.configs import SWIN_B, SWIN_L
    from taglens.models.swin import Swin

    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    return Swin({"swin_b": SWIN_B, "swin_l": SWIN_L}[size]).eval()


def _library(size: str, ours: Swin | None = None) -> torch.nn.Module:
    """The library's model, with the weights of ours where these are given."""
    import torch

    from taglens.models.configs import SWIN_B, SWIN_L

    torch.set_num_threads(THREADS)
    sizes = {"swin_b": SWIN_B, "swin_l": SWIN_L}[size]
    transformers = import_module("transformers")
    config = transformers.SwinConfig(
        image_size=SIDE,
        patch_size=sizes.patch,
        embed_dim=sizes.width,
        depths=list(sizes.depths),
        num_heads=list(sizes.heads),
        window_size=sizes.window,
    )
    model: torch.nn.Module = transformers.SwinModel(config, add_pooling_layer=False).eval()
    if ours is not None:
        model.load_state_dict(dict(_renamed(ours)))
    return model


def _renamed(ours: Swin) -> list[tuple[str, torch.Tensor]]:
    named: list[tuple[str, torch.Tensor]] = []
    for key, value in ours.state_dict().items():
        if key.startswith("pixels."):
            continue
        for old, new in RENAMED:
            if old.startswith(".") or key.startswith(old):
                key = key.replace(old, new, 1)  # noqa: PLW2901 - one name after the other
        if ".qkv." in key:
            parts = zip("qkv", value.chunk(3), strict=True)
            named += [(key.replace(".qkv.", f".{part}_proj."), chunk) for part, chunk in parts]
        else:
            named.append((key, value))
    return named


if __name__ == "__main__":
    main()

"""How much of the engine's own rate a run over a collection keeps, and what reduced decoding does to scores.

    python bench/collection.py [--model NAME_OR_DIR] [--pictures 400] [--repeat 3]

Two collections: photographs of Flickr8k as they lie in the shared data, and the same blown up to 4000 x 3000 as JPEG.
The engine alone is given prepared pixels in the same batches. Rates alternate within one process, medians over
``--repeat`` rounds. Appends one line to bench/results/collection.jsonl.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from common import record, shared
from taglens import images
from taglens.collection.inputs import open_inputs
from taglens.collection.run_options import RunOptions
from taglens.collection.runs import run
from taglens.collection.store import Store
from taglens.inference.tagger import Tagger

BATCH = 16


def engine_rate(tagger: Tagger, pictures: int) -> float:
    """Prepared pictures a second."""
    noise = np.random.default_rng(0).random((BATCH, 3, tagger.side, tagger.side), dtype=np.float32)
    tagger.look(noise)
    start = time.perf_counter()
    for _ in range(pictures // BATCH):
        tagger.look(noise)
    return pictures // BATCH * BATCH / (time.perf_counter() - start)


def run_rate(tagger: Tagger, source: Path, *, workers: int) -> float:
    """Pictures of a folder a second, listing and writing included."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        progress = run(
            tagger,
            open_inputs([str(source)]),
            Store(Path(folder) / "store"),
            RunOptions(batch_size=BATCH, workers=workers),
            sources=[str(source)],
        )
        return progress.made / (time.perf_counter() - start)


def reduced_change(tagger: Tagger, paths: list[Path]) -> dict[str, float]:
    """How far scores move when pictures are decoded at a fraction of their size, over all pictures and tags."""
    moves = []
    for path in paths:
        whole = images.prepare(images.load(path).pixels, tagger.side)
        part = images.prepare(images.load(path, at_least=tagger.side).pixels, tagger.side)
        scores = tagger.look(np.stack([whole, part])).scores
        moves.append(np.abs(scores[0] - scores[1]))
    every = np.concatenate(moves)
    return {
        "reduced_decode_mean_score_change": float(f"{every.mean():.3g}"),
        "reduced_decode_share_above_0.001": float(f"{(every > 1e-3).mean():.3g}"),
        "reduced_decode_largest_score_change": float(f"{every.max():.3g}"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="starter")
    parser.add_argument("--pictures", type=int, default=400)
    parser.add_argument("--large", type=int, default=48)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    tagger = Tagger.from_pretrained(options.model)
    found = sorted((shared() / "data" / "flickr8k" / "images").iterdir())[: options.pictures]
    with tempfile.TemporaryDirectory() as folder:
        small, large = Path(folder) / "small", Path(folder) / "large"
        small.mkdir()
        large.mkdir()
        for path in found:
            (small / path.name).symlink_to(path)
        for path in found[: options.large]:
            Image.open(path).convert("RGB").resize((4000, 3000)).save(large / f"{path.stem}.jpg", quality=90)
        rates: dict[str, list[float]] = {}
        for _ in range(options.repeat):
            rates.setdefault("engine", []).append(engine_rate(tagger, options.pictures))
            for name, source in (("small", small), ("12mp", large)):
                for workers in (0, 2):
                    kind = f"{name}_{'processes' if workers else 'threads'}"
                    rates.setdefault(kind, []).append(run_rate(tagger, source, workers=workers))
        change = reduced_change(tagger, sorted(large.iterdir()))
    figures = {f"{name}_per_s": round(statistics.median(found), 2) for name, found in rates.items()}
    shares = {
        f"{name}_share": round(
            statistics.median(a / b for a, b in zip(rates[name], rates["engine"], strict=True)), 3
        )
        for name in rates
        if name != "engine"
    }
    figures |= shares | change
    settings = {"model": tagger.ref, "batch": BATCH, **vars(options)}
    record("collection", settings, figures)


if __name__ == "__main__":
    main()

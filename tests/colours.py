"""A tagger without weights, for tests of what surrounds one: scores are the shares of the colours.

Run as a program it works through a collection, slowly, so that it can be killed: ``colours.py STORE SOURCE...``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from taglens.inference.engines import Output
from taglens.inference.tagger import Tagger
from taglens.inference.typed import Labels, OpenVocabulary
from taglens.vocabulary import Entry, Vocabulary

SIDE = 8
NAMES = ("red", "green", "blue", "dark")
VOCABULARY = Vocabulary([Entry(name, "attribute", threshold=0.3) for name in NAMES], name="colours")


class Colours:
    """Engine: mean red, green and blue, and how dark it is. ``looked`` counts pictures, ``wait`` seconds a batch."""

    def __init__(self, *, wait: float = 0.0) -> None:
        self.looked = 0
        self.batches: list[int] = []
        self.wait = wait

    def __call__(self, pixels: npt.NDArray[np.float32]) -> Output:
        time.sleep(self.wait)
        self.looked += len(pixels)
        self.batches.append(len(pixels))
        means = pixels.mean(axis=(2, 3))
        scores = np.concatenate([means, 1 - means.mean(axis=1, keepdims=True)], axis=1).astype(np.float32)
        return Output(scores, means, np.stack([means, means[:, ::-1]], axis=1))


class Mixture(OpenVocabulary):
    """Typed tags score the share of the colour in their second word's place: "much red" is red."""

    def __init__(self) -> None:
        self.threshold = 0.5

    def embed(self, entries: Sequence[Entry]) -> Labels:
        rows = [np.eye(3, dtype=np.float32)[NAMES.index(entry.name.split()[-1])] for entry in entries]
        return Labels(np.stack(rows)[:, None], np.ones(len(rows), np.int64))

    @staticmethod
    def ask(  # type: ignore[override]
        tokens: npt.NDArray[np.float32], embeddings: npt.NDArray[np.float32], counts: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float32]:
        scores: npt.NDArray[np.float32] = tokens[:, 0] @ embeddings[:, 0].T
        return scores

    def guesses(self, entries: Sequence[Entry]) -> list[str]:
        return []


def tagger(engine: Colours | None = None, *, ref: str = "colours@000000000000") -> Tagger:
    return Tagger(engine or Colours(), VOCABULARY, ref=ref, side=SIDE, open_vocabulary=Mixture())


def write_pictures(folder: Path, count: int, *, seed: int = 0) -> list[Path]:
    """Plain PNGs of random colours, in a few folders."""
    colours = np.random.default_rng(seed).integers(0, 256, (count, 3), np.uint8)
    paths = []
    for number, colour in enumerate(colours):
        path = folder / f"{number // 10}" / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.tile(colour, (9, 12, 1))).save(path)
        paths.append(path)
    return paths


def main(store: str, *sources: str) -> None:
    from taglens.collection.inputs import open_inputs
    from taglens.collection.run_options import RunOptions
    from taglens.collection.runs import run
    from taglens.collection.store import Store

    options = RunOptions(shard_size=7, batch_size=4, features=True)
    print("begun", flush=True)
    run(tagger(Colours(wait=0.004)), open_inputs(sources), Store(Path(store)), options, sources=sources)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""A Tag2Text small enough to be converted and exported by any test that asks: words, tags, folders, pictures.

Knows how to make them; the tests say what ought to hold. Everything follows from its arguments.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

import published_weights as published
from taglens.inference.export import export
from taglens.language.wordpiece import SPECIAL, WordPiece
from taglens.models.captioner import SpecialPieces
from taglens.models.checkpoint import captioner_from_pretrained, from_pretrained
from taglens.models.convert import Converted, convert
from taglens.models.published import save_converted
from taglens.vocabulary import Entry, Vocabulary

torch.set_num_threads(1)

SIDE = 16
WORDS = "a picture of | man men dog dogs cat car boat tree grass run running runs on in the red blue two"
PIECES = [
    *SPECIAL,
    *WORDS.split(),
    *"bcdefghijklmnopqrstuvwxyz",
    *(f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"),
]
ENTRIES = (
    Entry("dog", "object", synonyms=("puppy",)),
    Entry("cat", "object", synonyms=("kitten", "grass")),
    Entry("run", "action"),
    Entry("tree", "object"),
    Entry("red", "attribute"),
    Entry("secret", "object", hidden=True),
    Entry("boat", "object"),
)


def vocabulary() -> Vocabulary:
    return Vocabulary(ENTRIES, name="small-words")


def state(*, seed: int = 0) -> dict[str, torch.Tensor]:
    """Published tensors, captioner included."""
    return published.tag2text(tags=len(ENTRIES), width=24, seed=seed, captions=True, words=len(PIECES) + 2)


def write_pieces(path: Path) -> Path:
    path.write_text("\n".join(PIECES) + "\n", "utf-8")
    return path


def special(pieces: WordPiece) -> SpecialPieces:
    return SpecialPieces(len(pieces), pieces.pad, pieces.sep, pieces.dec, pieces.enc)


def converted(*, seed: int = 0) -> Converted:
    return convert(state(seed=seed), pieces=special(WordPiece(PIECES)))


def model_folder(folder: Path, *, seed: int = 0) -> Path:
    """A converted model for torch."""
    pieces = ("\n".join(PIECES) + "\n").encode()
    save_converted(converted(seed=seed), vocabulary(), folder, name="small", pieces=pieces)
    return folder


def bundle_folder(model: Path, folder: Path) -> Path:
    """The same without torch, in full precision."""
    recognizer, words, name = from_pretrained(model)
    captioner = captioner_from_pretrained(model, recognizer)
    assert captioner is not None
    pieces = (model / "vocab.txt").read_bytes()
    export(recognizer, words, folder, name=name, captioner=captioner, pieces=pieces, half=False)
    return folder


def made(factory: pytest.TempPathFactory) -> Path:
    """A folder with the model as ``model`` and ``bundle``, made once for all tests of a run; never to be changed."""
    if not _MADE:
        place = factory.mktemp("small-captioner")
        bundle_folder(model_folder(place / "model"), place / "bundle")
        _MADE.append(place)
    return _MADE[0]


_MADE: list[Path] = []


def pictures(count: int) -> list[npt.NDArray[np.uint8]]:
    """Blots of colour, each another."""
    rng = np.random.default_rng(7)
    small = rng.integers(0, 256, (count, 4, 4, 3), np.uint8)
    return [np.kron(one, np.ones((8, 6, 1), np.uint8)) for one in small]

"""A model that tags, writes and aligns, small enough to be made and exported by any test that asks.

Knows how to make it; the tests say what ought to hold. Everything follows from its arguments.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import small_captioner as small
import tiny
from taglens.inference.bundle import CONFIG, locate
from taglens.inference.export import export
from taglens.language.wordpiece import WordPiece
from taglens.models.aligner import Aligner, AlignerConfig
from taglens.models.captioner import Captioner, CaptionerConfig
from taglens.models.checkpoint import save_pretrained
from taglens.models.recognizer import Recognizer
from taglens.vocabulary import Entry, Vocabulary

PIECES = ("\n".join(small.PIECES) + "\n").encode()
_WORDS = WordPiece(small.PIECES)
CAPTIONER = CaptionerConfig(
    image_width=16,
    words=len(_WORDS),
    positions=48,
    tag_length=20,
    width=16,
    depth=2,
    heads=2,
    ffn_width=24,
    shared_layers=0,
    pad=_WORDS.pad,
    end=_WORDS.sep,
    start=_WORDS.dec,
    tags=_WORDS.enc,
    see_padding=False,
    see_picture=True,
)
ALIGNER = AlignerConfig(width=8)


def vocabulary() -> Vocabulary:
    """Six tags, of which a dog is an animal by its parent."""
    return Vocabulary(
        [
            Entry("dog", "object", synonyms=("puppy",), parents=("object:cat",), threshold=0.4),
            Entry("cat", "object", threshold=0.5),
            Entry("grass", "scene", threshold=0.45),
            Entry("red", "attribute", threshold=0.5),
            Entry("run", "action", threshold=0.5),
            Entry("boat", "object", hidden=True),
        ],
        name="aligned-words",
    )


def random_parts(
    config: CaptionerConfig = CAPTIONER, *, width: int = 8, seed: int = 0
) -> tuple[Captioner, Aligner]:
    """A captioner and its aligner, whose answers depend on all that they are shown."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        captioner = Captioner(config)
        aligner = Aligner(replace(ALIGNER, width=width), captioner)
        with torch.no_grad():
            for part in (captioner, aligner):
                for value in part.parameters():
                    if value.ndim == 2:
                        value.copy_(torch.randn(value.shape) * value.shape[1] ** -0.5)
                    elif value.ndim == 1:
                        value.add_(torch.randn(value.shape) * 0.2)
    return captioner.eval(), aligner.eval()


def recognizer() -> Recognizer:
    return tiny.recognizer(tags=6)


def save(folder: Path, *, tag_weight: float | None = None, seed: int = 0) -> Path:
    """A model folder for torch."""
    captioner, aligner = random_parts(seed=seed)
    save_pretrained(
        recognizer(),
        vocabulary(),
        folder,
        name="aligned",
        captioner=captioner,
        aligner=aligner,
        pieces=PIECES,
        about=None if tag_weight is None else {"retrieval": {"lambda": tag_weight}},
    )
    return folder


def bundle(folder: Path, *, tag_weight: float | None = None, half: bool = False) -> Path:
    """The same without torch."""
    captioner, aligner = random_parts()
    export(
        recognizer(),
        vocabulary(),
        folder,
        name="aligned",
        captioner=captioner,
        aligner=aligner,
        pieces=PIECES,
        tag_weight=tag_weight,
        half=half,
    )
    return folder


def made(factory: pytest.TempPathFactory) -> Path:
    """A folder with the model as ``model`` and ``bundle``, made once for all tests of a run; never to be changed."""
    if not _MADE:
        place = factory.mktemp("small-aligner")
        save(place / "model", tag_weight=0.25)
        bundle(place / "bundle", tag_weight=0.25)
        _MADE.append(place)
    return _MADE[0]


def only_tags(folder: Path) -> Path:
    """The starter without what writes captions and compares pictures with texts; it still reads typed tags."""
    starter = locate("starter")
    folder.mkdir(parents=True)
    for file in starter.iterdir():
        (folder / file.name).symlink_to(file)
    config = json.loads((starter / CONFIG).read_text())
    (folder / CONFIG).unlink()
    kept = {key: value for key, value in config.items() if key not in ("captioner", "aligner", "retrieval")}
    (folder / CONFIG).write_text(json.dumps(kept))
    return folder


_MADE: list[Path] = []

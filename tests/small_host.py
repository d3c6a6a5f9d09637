"""A captioner small enough to be improved by any test that asks, and pictures for it.

Knows how to make them; the tests say what ought to hold. Everything follows from its arguments.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

import small_aligner as small
import small_captioner
import tiny
from taglens.language.caption_text import CaptionText
from taglens.language.wordpiece import WordPiece
from taglens.models.lora import LoraConfig
from taglens.training.captioner_host import CaptionerHost, CaptionerSeen
from taglens.training.zero_label_pictures import Album
from taglens.training.zero_label_settings import EnhanceConfig, Judges

LORA = LoraConfig(rank=4, alpha=8)
CONFIG = EnhanceConfig(batch_size=4, steps=4, checkpoint_every=2, evaluate_every=2, mapper_epochs=2, lr=1e-2)


def host(*, lora: LoraConfig = LORA, seed: int = 0) -> CaptionerHost:
    """Fresh each time, the same each time."""
    captioner, _ = small.random_parts()
    with torch.no_grad():
        # Less sure of itself than chance made it, so that what is drawn differs.
        captioner.decoder.embeddings.words.weight.mul_(0.3)
    return CaptionerHost(
        small.recognizer(),
        captioner,
        small.vocabulary(),
        CaptionText(WordPiece(small_captioner.PIECES), length=captioner.config.tag_length),
        name="small",
        fingerprint="0" * 12,
        lora=lora,
        seed=seed,
    )


def stir(made: CaptionerHost, *, seed: int = 1, by: float = 0.3) -> None:
    """Adapters as after training."""
    chance = torch.Generator().manual_seed(seed)
    state = made.adapter_state()
    made.load_adapter_state({k: v + by * torch.randn(v.shape, generator=chance) for k, v in state.items()})


def seen(made: CaptionerHost, count: int = 6) -> CaptionerSeen:
    return made.see(list(tiny.pixels(count)))


def pictures(folder: Path, count: int, *, seed: int = 0) -> list[Path]:
    """PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:03d}.png" for number in range(count)]
    for path, pixels in zip(paths, tiny.pixels(count, seed=seed), strict=True):
        Image.fromarray(pixels).save(path)
    return paths


class LetterJudge:
    """Likes one letter: the share of a caption's characters that are it."""

    def __init__(self, letter: str = "o") -> None:
        self._letter = letter

    def __call__(self, numbers: Sequence[int], captions: Sequence[str]) -> npt.NDArray[np.float32]:
        assert len(numbers) == len(captions)
        return np.array([text.count(self._letter) / max(len(text), 1) for text in captions], np.float32)


class Scripted:
    """Gives scores in turn, whatever it is shown."""

    def __init__(self, *scores: float) -> None:
        self._scores = itertools.chain(scores, itertools.repeat(scores[-1]))

    def __call__(self, numbers: Sequence[int], captions: Sequence[str]) -> npt.NDArray[np.float32]:
        return np.full(len(captions), next(self._scores), np.float32)


def judges() -> Judges:
    judge = LetterJudge()
    return Judges(judge, "letters", tags=judge, reward=judge)


def album(made: CaptionerHost, folder: Path, count: int = 12) -> Album[CaptionerSeen]:
    return Album(made, pictures(folder, count))

"""Training the rest of a model over an encoder that stands still: what it sees of every picture is computed once.

A step over cached tokens costs only the heads, so that a change to them is judged in minutes. Each picture is seen in
several views, cropped and tinted as the loop would, and each view becomes a `PictureSet` of its own whose ``pixels``
are the encoder's tokens.
Shapes: N pictures, S side, P tokens, C encoder width, K token width.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from taglens.data.batches import Batch, PictureSet
from taglens.errors import DataError
from taglens.models.recognizer import Recognizer
from taglens.training.augment import AugmentConfig, augment, plain

_AT_ONCE = 64
Tokens = npt.NDArray[Any]  # float16, where a set has its pixels


def encode(
    model: Recognizer,
    pictures: PictureSet,
    *,
    side: int,
    views: int = 0,
    config: AugmentConfig | None = None,
    seed: int = 0,
    keep: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[PictureSet]:
    """A set per view, ``pixels`` float16 [N, 1 + P, C]; with ``views`` 0 one set of the pictures as they are.

    Args:
        config: how views differ; required with views.
        keep: a folder in which views are written down, and looked for; encoder, pictures and views decide which.
        progress: told after each part how many pictures were encoded in all.
    """
    if views and config is None:
        raise ValueError("views differ by an augmentation: give its configuration")
    looks = asdict(config) if views and config is not None else None
    kept = (
        None if keep is None else _Kept(keep, model, pictures, {"side": side, "seed": seed, "looks": looks})
    )
    found: list[PictureSet] = []
    for view in range(max(views, 1)):
        before = view * len(pictures)

        def told(done: int, before: int = before) -> None:
            if progress:
                progress(before + done)

        tokens = None if kept is None else kept.read(view)
        if tokens is None:
            # One generator a view: the same seed gives the same views.
            generator = torch.Generator().manual_seed((seed * 1_000_003 + view) % 2**63)
            tokens = _view(model, pictures, side, config if views else None, generator, told)
            if kept is not None:
                kept.write(view, tokens)
        told(len(pictures))
        name = f"{pictures.name}.{view}" if views else pictures.name
        found.append(replace(pictures, name=name, pixels=tokens))
    return found


def _view(
    model: Recognizer,
    pictures: PictureSet,
    side: int,
    config: AugmentConfig | None,
    generator: torch.Generator,
    told: Callable[[int], None],
) -> Tokens:
    """The tokens of one view of every picture; of the pictures as they are without ``config``."""
    device = next(model.parameters()).device
    model.eval()
    rows: list[Tokens] = []
    with torch.inference_mode():
        for start in range(0, len(pictures), _AT_ONCE):
            pixels = torch.from_numpy(pictures.pixels[start : start + _AT_ONCE]).to(device)
            seen = augment(pixels, side, config, generator=generator) if config else plain(pixels, side)
            rows.append(model.encoder(seen).half().cpu().numpy())
            told(start + len(pixels))
    return np.concatenate(rows)


class _Kept:
    """Views in files, named after all that decides what is in them."""

    def __init__(self, folder: Path, model: Recognizer, pictures: PictureSet, looks: dict[str, Any]) -> None:
        self._folder = folder
        self._count = len(pictures)
        digest = hashlib.sha256(json.dumps(looks, sort_keys=True).encode())
        for name, tensor in sorted(model.encoder.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.cpu().numpy().tobytes())
        digest.update(str(pictures.pixels.shape).encode())
        digest.update(pictures.pixels.tobytes())
        self._key = digest.hexdigest()[:16]

    def _path(self, view: int) -> Path:
        return self._folder / f"{self._key}.{view}.npy"

    def read(self, view: int) -> Tokens | None:
        """The view, left on disk until it is looked at; None where it was not written down."""
        path = self._path(view)
        if not path.exists():
            return None
        try:
            tokens: Tokens = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise DataError(f"encoded views in {path} cannot be read ({error}); delete the file") from None
        if len(tokens) != self._count:
            raise DataError(f"{path}: expected {self._count} pictures, found {len(tokens)}; delete the file")
        return tokens

    def write(self, view: int, tokens: Tokens) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        # Beside, then renamed: a killed run leaves no half view under a whole one's name.
        beside = self._folder / f"{self._key}.{view}.part"
        with beside.open("wb") as file:
            np.save(file, tokens, allow_pickle=False)
        beside.replace(self._path(view))


def teach(
    pictures: PictureSet, teacher: Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]
) -> PictureSet:
    """The set with what a frozen teacher makes of its pictures, for distillation.

    Args:
        teacher: uint8 [B, S, S, 3] to float32 [B, K], as wide as the model's tokens (the papers: CLIP).
    """
    rows = [teacher(pictures.pixels[start : start + _AT_ONCE]) for start in range(0, len(pictures), _AT_ONCE)]
    return replace(pictures, taught=np.concatenate(rows))


def look(model: Recognizer, batch: Batch, rows: npt.NDArray[np.intp], generator: torch.Generator) -> Tensor:
    """Tokens [R, 1 + P, K] of the rows of a batch drawn from such sets: what the loop takes in place of pictures."""
    device = next(model.parameters()).device
    tokens: Tensor = model.project(torch.from_numpy(batch.pixels[rows]).to(device).float())
    return tokens

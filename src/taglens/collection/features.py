"""What a model made of the pictures of a shard, small enough to keep and exact enough to tag from again.

Scores are kept in 65,536 steps (an error of at most 8e-6), tokens as 16-bit numbers beside the largest of each token.
Knows arrays and their file; knows nothing of pictures, models or tags.
Shapes: P pictures, T tags of the model, N tokens, K token width.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from taglens.errors import DataError

Array = npt.NDArray[np.float32]
_STEPS = 65535
_MOST = 32767


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """What pictures became.

    Attributes:
        places: int64 [P], rising: which of the shard's rows they belong to.
        scores: [P, T] in [0, 1], of every tag of the model.
        tokens: [P, N, K]; None where the model reads no text, so that nobody can ask about them.
    """

    places: npt.NDArray[np.int64]
    scores: Array
    tokens: Array | None

    def __len__(self) -> int:
        return len(self.places)

    def at(self, picked: npt.NDArray[np.intp]) -> Features:
        """Some of them, by position."""
        tokens = None if self.tokens is None else self.tokens[picked]
        return Features(self.places[picked], self.scores[picked], tokens)

    def to_bytes(self) -> bytes:
        """An .npz file's content; equal features give equal bytes."""
        scores = np.rint(self.scores * np.float32(_STEPS)).astype(np.uint16)
        arrays = {"places": self.places.astype(np.int64), "scores": scores}
        if self.tokens is not None:
            largest = np.abs(self.tokens).max(axis=-1, keepdims=True, initial=0.0)
            scale = np.where(largest > 0, largest / np.float32(_MOST), np.float32(1)).astype(np.float32)
            arrays["tokens"] = np.rint(self.tokens / scale).astype(np.int16)
            arrays["scale"] = scale
        file = io.BytesIO()
        np.savez(file, **arrays)
        return file.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes, where: str) -> Features:
        """The inverse of `to_bytes`, within its steps. Raises DataError, naming ``where``, for anything else."""
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as stored:
                places, scores = stored["places"], stored["scores"].astype(np.float32) / np.float32(_STEPS)
                tokens = stored["tokens"].astype(np.float32) * stored["scale"] if "tokens" in stored else None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(f"{where} is damaged: {error}") from None
        if len(places) != len(scores) or (tokens is not None and len(tokens) != len(places)):
            raise DataError(f"{where} is damaged: its arrays have different lengths")
        return cls(places, scores, tokens)


def joined(parts: list[Features]) -> Features | None:
    """Parts one after the other, sorted by place; None for none."""
    if not parts:
        return None
    places = np.concatenate([part.places for part in parts])
    order = np.argsort(places, kind="stable")
    kept = [part.tokens for part in parts if part.tokens is not None]
    tokens = np.concatenate(kept)[order] if len(kept) == len(parts) else None
    return Features(places[order], np.concatenate([part.scores for part in parts])[order], tokens)

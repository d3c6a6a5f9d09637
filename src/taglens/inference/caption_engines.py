"""One call from a picture's tokens and its tags to a place where writing begins, one from there to the next piece.

Knows ONNX Runtime and torch, each imported only when asked for. Knows nothing of words
(`taglens.language.caption_text`) or of how a caption is searched for (`taglens.inference.generation`).
Shapes: B pictures, R rows (several to a picture), N image tokens, C their width, M pieces of a tag list, L pieces of
a text, P pieces before them, V pieces of the vocabulary, K keys and values of all layers, H heads, d width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from taglens.inference.engines import open_session, torch_device

if TYPE_CHECKING:
    from taglens.models.captioner import Captioner, CaptionState

Array = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
State = TypeVar("State")

# What must not be seen is pushed this far down, as in training.
HIDDEN = -10000.0
GUIDE_TAKES, GUIDE_GIVES = ["ids", "mask", "tokens"], ["memory"]
WRITER_TAKES, WRITER_GIVES = ["ids", "places", "mask", "memory", "past"], ["logits", "after"]
UNSEEN = "memory_mask"  # a further input, where padding of the tag list is not read


class CaptionEngine(Protocol[State]):
    """Anything that writes about pictures, piece by piece."""

    def start(self, ids: Ids, mask: Ids, tokens: Array) -> State:
        """The state before the prompt: tag pieces [B, M], their mask, image tokens [B, N, C] to B rows."""
        ...

    def step(self, ids: Ids, state: State, rows: Ids, /) -> tuple[Array, State]:
        """See `taglens.inference.generation.Step`."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class OnnxState:
    """Where a search stands.

    Attributes:
        memory: [K, B, H, M, d], what each picture's tags offer; ``unseen`` [B, 1, 1, M] is added to what looks there,
            None where all is seen.
        pictures: [R], the picture that a row writes about.
        seen: ``memory`` at these, [K, R, H, M, d]; kept, because most steps do not change whom they write about.
        past: [K, R, H, P, d], what each row has written.
    """

    memory: Array
    unseen: Array | None
    pictures: Ids
    seen: Array
    past: Array


class OnnxCaptionEngine:
    """Two graphs in ONNX Runtime: the tag encoder, and one step of the caption decoder.

    Args:
        see_padding: as the captioner's configuration has it.
        device, threads, and errors: see `taglens.inference.engines.OnnxEngine`.
    """

    def __init__(
        self,
        guide: Path,
        writer: Path,
        *,
        see_padding: bool,
        device: str = "auto",
        threads: int | None = None,
    ) -> None:
        self._see_padding = see_padding
        takes = WRITER_TAKES if see_padding else [*WRITER_TAKES, UNSEEN]
        self._guide = open_session(guide, GUIDE_TAKES, GUIDE_GIVES, device=device, threads=threads, lean=True)
        self._writer = open_session(writer, takes, WRITER_GIVES, device=device, threads=threads, lean=True)

    def start(self, ids: Ids, mask: Ids, tokens: Array) -> OnnxState:
        given = {"ids": ids, "mask": mask, "tokens": tokens}
        memory: Array = self._guide.run(GUIDE_GIVES, given)[0]
        unseen = None
        if not self._see_padding:
            # Behind the tags may stand the picture's own tokens, all of them seen.
            unseen = np.zeros((len(mask), 1, 1, memory.shape[3]), np.float32)
            unseen[:, 0, 0, : mask.shape[1]] = (1 - mask) * np.float32(HIDDEN)
        layers, pictures, heads, _, width = memory.shape
        past = np.zeros((layers, pictures, heads, 0, width), np.float32)
        return OnnxState(memory, unseen, np.arange(pictures), memory, past)

    def step(self, ids: Ids, state: OnnxState, rows: Ids, /) -> tuple[Array, OnnxState]:
        pictures = state.pictures[rows]
        same = np.array_equal(pictures, state.pictures)
        seen = state.seen if same else np.ascontiguousarray(state.memory[:, pictures])
        past = state.past
        if not np.array_equal(rows, np.arange(past.shape[1])):
            past = np.ascontiguousarray(past[:, rows])
        before, length = past.shape[3], ids.shape[1]
        visible = np.tri(length, before + length, before, dtype=np.float32)
        given = {
            "ids": ids,
            "places": np.arange(before, before + length),
            "mask": ((1.0 - visible) * np.float32(HIDDEN))[None, None],
            "memory": seen,
            "past": past,
        }
        if state.unseen is not None:
            given[UNSEEN] = state.unseen[pictures]
        logits, after = self._writer.run(WRITER_GIVES, given)
        return logits, OnnxState(state.memory, state.unseen, pictures, seen, after)


class TorchCaptionEngine:
    """A torch captioner in eval mode, on the CPU or a CUDA device. Raises UsageError for a device it lacks."""

    def __init__(self, captioner: Captioner, *, device: str = "auto") -> None:
        self._device = torch_device(device)
        self._captioner = captioner.eval().to(self._device)

    def start(self, ids: Ids, mask: Ids, tokens: Array) -> CaptionState:
        import torch

        pieces, seen, image = (torch.from_numpy(given).to(self._device) for given in (ids, mask, tokens))
        with torch.inference_mode():
            return self._captioner.start(self._captioner.encode(pieces, seen, image), seen)

    def step(self, ids: Ids, state: CaptionState, rows: Ids, /) -> tuple[Array, CaptionState]:
        return self._captioner.numpy_step(ids, state, rows)

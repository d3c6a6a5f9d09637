"""Pictures and texts in one space, and whether a picture and a text belong together (Tag2Text 1.4, 1.9).

Knows ONNX Runtime and torch, each imported only when asked for; joins the words
(`taglens.language.caption_text`), what the captioner's engine sees of a picture, and an engine of its own. Knows
nothing of files of pictures or of search (`taglens.inference.search`).
Shapes: B pictures, N image tokens, C their width, T texts, L pieces of a text, E width of the space, R pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from taglens.errors import DataError, ModelError, UsageError
from taglens.inference.bundle import MATCH, PICTURES, TEXTS, Bundle
from taglens.inference.caption_engines import UNSEEN, OnnxState
from taglens.inference.captioning import CaptionWriter, guiding
from taglens.inference.engines import open_session, torch_device
from taglens.inference.pictures import Ready
from taglens.results import Failure
from taglens.vocabulary import Vocabulary

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

    from taglens.models.aligner import Aligner
    from taglens.models.captioner import CaptionState
    from taglens.models.recognizer import Recognizer

Array = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
State = TypeVar("State", contravariant=True)

PICTURES_TAKE, PICTURES_GIVE = ["tokens"], ["pictures"]
TEXTS_TAKE, TEXTS_GIVE = ["ids", "mask"], ["texts"]
MATCH_TAKES, MATCH_GIVES = ["ids", "mask", "memory"], ["logits"]
# Texts that go through the network at once.
_AT_ONCE = 64


class AlignEngine(Protocol[State]):
    """Anything that compares pictures with texts; ``State``: what the captioner's engine of its kind begins with."""

    def pictures(self, tokens: Array) -> Array:
        """Unit vectors [B, E] of image tokens [B, N, C]."""
        ...

    def texts(self, ids: Ids, mask: Ids) -> Array:
        """Unit vectors [T, E] of texts [T, L] opened by [CLS], and their mask."""
        ...

    def match(self, ids: Ids, mask: Ids, state: State, rows: Ids, /) -> Array:
        """Logits [R]: how well text r, opened by [ENC], suits the picture ``rows[r]`` of ``state``."""
        ...


class OnnxAlignEngine:
    """Three graphs of a folder in ONNX Runtime, each opened when needed. Arguments, errors: see `OnnxEngine`."""

    def __init__(self, folder: Path, *, device: str = "auto", threads: int | None = None) -> None:
        self._folder = folder
        self._device = device
        self._threads = threads

    def _open(self, file: str, takes: list[str], gives: list[str]) -> InferenceSession:
        return open_session(
            self._folder / file, takes, gives, device=self._device, threads=self._threads, lean=True
        )

    @cached_property
    def _pictures(self) -> InferenceSession:
        return self._open(PICTURES, PICTURES_TAKE, PICTURES_GIVE)

    @cached_property
    def _texts(self) -> InferenceSession:
        return self._open(TEXTS, TEXTS_TAKE, TEXTS_GIVE)

    @cached_property
    def _plain_match(self) -> InferenceSession:
        return self._open(MATCH, MATCH_TAKES, MATCH_GIVES)

    @cached_property
    def _masked_match(self) -> InferenceSession:
        return self._open(MATCH, [*MATCH_TAKES, UNSEEN], MATCH_GIVES)

    def pictures(self, tokens: Array) -> Array:
        vectors: Array = self._pictures.run(PICTURES_GIVE, {"tokens": tokens})[0]
        return vectors

    def texts(self, ids: Ids, mask: Ids) -> Array:
        vectors: Array = self._texts.run(TEXTS_GIVE, {"ids": ids, "mask": mask})[0]
        return vectors

    def match(self, ids: Ids, mask: Ids, state: OnnxState, rows: Ids, /) -> Array:
        given = {"ids": ids, "mask": mask, "memory": np.ascontiguousarray(state.memory[:, rows])}
        if state.unseen is None:
            found = self._plain_match.run(MATCH_GIVES, given)
        else:
            found = self._masked_match.run(MATCH_GIVES, {**given, UNSEEN: state.unseen[rows]})
        logits: Array = found[0]
        return logits


class TorchAlignEngine:
    """A torch aligner in eval mode, on the CPU or a CUDA device. Raises UsageError for a device it lacks."""

    def __init__(self, aligner: Aligner, *, device: str = "auto") -> None:
        self._device = torch_device(device)
        self._aligner = aligner.eval().to(self._device)

    def pictures(self, tokens: Array) -> Array:
        import torch

        with torch.inference_mode():
            found = self._aligner.pictures(torch.from_numpy(tokens).to(self._device))
        vectors: Array = found.float().cpu().numpy()
        return vectors

    def texts(self, ids: Ids, mask: Ids) -> Array:
        import torch

        with torch.inference_mode():
            found = self._aligner.texts(*(torch.from_numpy(each).to(self._device) for each in (ids, mask)))
        vectors: Array = found.float().cpu().numpy()
        return vectors

    def match(self, ids: Ids, mask: Ids, state: CaptionState, rows: Ids, /) -> Array:
        import torch

        pieces, seen, at = (torch.from_numpy(each).to(self._device) for each in (ids, mask, rows))
        with torch.inference_mode():
            hidden = None if state.memory_mask is None else state.memory_mask[at]
            found = self._aligner.match(pieces, seen, [one.at(at) for one in state.memory], hidden)
        logits: Array = found.float().cpu().numpy()
        return logits


class Alignment:
    """An aligner with its words.

    Args:
        load_writer: gives the model's captioner, whose words it reads and whose sight of a picture it matches texts
            with; called when a text is first read.
        ref: the model's name, for messages.
    """

    def __init__(
        self, engine: AlignEngine[Any], load_writer: Callable[[], CaptionWriter], *, ref: str
    ) -> None:
        self._engine = engine
        self._load_writer = load_writer
        self._ref = ref

    def pictures(self, tokens: Array) -> Array:
        """Unit vectors [B, E] of pictures by their tokens [B, N, C]. Raises ModelError: they are not finite."""
        return self._finite(self._engine.pictures(np.ascontiguousarray(tokens)))

    def texts(self, texts: Sequence[str]) -> Array:
        """Unit vectors [T, E] of texts, read to the length that training did.

        Raises:
            UsageError: a text without a letter, digit or mark in it.
            ModelError: the vectors are not finite, or the captioner's files are damaged.
        """
        if not len(texts):
            # Nobody has been asked for the width yet.
            return self._engine.texts(*_table([[0]]))[:0]
        pieces = self._pieces(texts)
        order = np.argsort([len(one) for one in pieces], kind="stable")
        found: list[Array] = [
            self._engine.texts(*_table([pieces[row] for row in order[start : start + _AT_ONCE]]))
            for start in range(0, len(order), _AT_ONCE)
        ]
        vectors = np.concatenate(found)
        return self._finite(vectors[np.argsort(order)])

    def match(
        self, tokens: Array, guides: Sequence[Sequence[str]], texts: Sequence[str], pairs: Ids
    ) -> Array:
        """How well texts suit pictures: logits [R].

        Args:
            tokens: [B, N, C]; every picture is looked at once.
            guides: per picture the tags that it is looked at with.
            pairs: [R, 2], numbers of a picture and of a text.

        Raises:
            UsageError, ModelError: as `texts`.
        """
        logits = np.empty(len(pairs), np.float32)
        if not len(pairs):
            return logits
        writer = self._load_writer()
        state = writer.look(tokens, guides)
        opened = [[writer.text.pieces.enc, *ids[1:]] for ids in self._pieces(texts)]
        order = np.argsort([len(opened[text]) for _, text in pairs], kind="stable")
        for start in range(0, len(order), _AT_ONCE):
            rows = order[start : start + _AT_ONCE]
            ids, mask = _table([opened[text] for text in pairs[rows, 1]])
            logits[rows] = self._engine.match(ids, mask, state, np.ascontiguousarray(pairs[rows, 0]))
        return self._finite(logits)

    def guides(self, vocabulary: Vocabulary, scores: Array) -> list[list[str]]:
        """The tags that pictures are looked at with, by scores [B, T]: those that would guide their captions."""
        most = self._load_writer().most_tags
        found = (guiding(vocabulary.select(row), vocabulary, most=most) for row in scores)
        return [[tag.name for tag in tags] for tags in found]

    def _pieces(self, texts: Sequence[str]) -> list[list[int]]:
        words = self._load_writer().text
        found = []
        for text in texts:
            ids = words.pieces.ids(text, longest=words.length)
            if len(ids) == 2:
                raise UsageError(f"the text {text!r} holds nothing to look for; write some words")
            found.append(ids)
        return found

    def _finite(self, values: Array) -> Array:
        if not np.isfinite(values).all():
            raise ModelError(
                f"{self._ref} gives vectors that are not finite: its weights are damaged; copy or train it again"
            )
        return values


def _table(rows: Sequence[Sequence[int]]) -> tuple[Ids, Ids]:
    """Texts filled up to the longest of them, and 1 where a piece stands. What fills up is never seen."""
    width = max(map(len, rows))
    ids = np.array([[*row, *[0] * (width - len(row))] for row in rows], np.int64)
    mask = (np.arange(width) < np.array([[len(row)] for row in rows])).astype(np.int64)
    return ids, mask


def bundled_alignment(
    bundle: Bundle, load_writer: Callable[[], CaptionWriter], *, device: str, threads: int | None
) -> Alignment:
    """The aligner of a bundle that has one. Raises ModelError when its files are damaged or do not fit."""
    bundle.verify_aligner()
    engine = OnnxAlignEngine(bundle.folder, device=device, threads=threads)
    return Alignment(engine, load_writer, ref=bundle.ref)


def trained_alignment(
    folder: Path, model: Recognizer, load_writer: Callable[[], CaptionWriter], *, ref: str, device: str
) -> Alignment:
    """The aligner of a model folder that has one; ``model`` is the folder's own. Raises ModelError as above."""
    from taglens.models.checkpoint import aligner_from_pretrained, captioner_from_pretrained

    captioner = captioner_from_pretrained(folder, model)
    aligner = None if captioner is None else aligner_from_pretrained(folder, captioner)
    if aligner is None:
        raise ModelError(f"{folder} has no aligner, or no captioner to read with")
    return Alignment(TorchAlignEngine(aligner, device=device), load_writer, ref=ref)


@dataclass(frozen=True, slots=True, eq=False)
class Embedded:
    """One picture as numbers.

    Attributes:
        source: as the caller named it; source_bytes, width, height, notes, error: see `taglens.results.Prediction`.
        vector: float32 [E], of unit length; None on error.
        scores: float32 [T], of the tagger's vocabulary; None on error.
        model: ``name@fingerprint``; vectors of different models do not compare.
        tokens: float32 [N, C], where they were asked for.
    """

    source: str
    vector: Array | None
    scores: Array | None
    model: str
    width: int | None = None
    height: int | None = None
    notes: tuple[str, ...] = ()
    error: Failure | None = None
    source_bytes: str | None = None
    tokens: Array | None = None


def unread(ready: Ready, model: str) -> Embedded:
    """The row of a picture that could not be read."""
    assert ready.error is not None
    source = ready.source
    return Embedded(
        source.shown, None, None, model, error=Failure.of(ready.error), source_bytes=source.source_bytes
    )


def embedded(
    group: Sequence[Ready], vectors: Array, scores: Array, tokens: Array | None, model: str
) -> Iterator[Embedded]:
    """Rows of a group of pictures from the numbers of those that could be read, in their order."""
    number = 0
    for ready in group:
        if ready.error is not None:
            yield unread(ready, model)
            continue
        yield Embedded(
            ready.source.shown,
            vectors[number],
            scores[number],
            model,
            width=ready.width,
            height=ready.height,
            notes=ready.notes,
            source_bytes=ready.source.source_bytes,
            tokens=None if tokens is None else tokens[number],
        )
        number += 1


def stacked(rows: Sequence[Embedded]) -> Array:
    """The vectors of pictures as one array [N, E], row for row.

    Raises:
        DataError: a picture has none; it could not be read.
    """
    failed = [row.source for row in rows if row.vector is None]
    if failed or not rows:
        named = ", ".join(failed[:5]) or "there are no rows"
        raise DataError(
            f"{len(failed)} of {len(rows)} pictures have no vector ({named}); leave them out: "
            "[row for row in rows if row.error is None]"
        )
    return np.stack([row.vector for row in rows if row.vector is not None])


def unit(vectors: Array) -> Array:
    """Vectors [N, E] at unit length; what is all zeros stays so."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    found: Array = (vectors / np.maximum(lengths, np.float32(1e-12))).astype(np.float32)
    return found

"""`Tagger`: pictures in, predictions out, one at a time or a million.

Decoding runs ahead of the engine in a few threads; results come in the order of the sources; a picture that cannot
be read becomes a row with its error and never stops the others.
Shapes: B batch, S side, T tags, K pooled width.
"""

from __future__ import annotations

import copy
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from taglens import images
from taglens.errors import ImageError, UsageError, VocabularyError
from taglens.inference.bundle import TEXT, Bundle, checksum, is_trained, locate
from taglens.inference.engines import (
    Engine,
    LabelEngine,
    OnnxEngine,
    Output,
    TableEngine,
    TorchEngine,
    finite,
    require_torch,
)
from taglens.inference.sources import Source
from taglens.inference.typed import Labels, OpenVocabulary
from taglens.results import Failure, Prediction, Tag
from taglens.vocabulary import DEFAULT_THRESHOLD, Entry, Vocabulary

if TYPE_CHECKING:
    import PIL.Image

Array = npt.NDArray[np.float32]
Picture: TypeAlias = "str | os.PathLike[str] | bytes | PIL.Image.Image | npt.NDArray[Any] | Source"
ENGINES = ("auto", "onnx", "torch")


@dataclass(frozen=True, slots=True, eq=False)
class _Ready:
    """A picture on its way to the engine: prepared pixels [3, S, S], or why there are none."""

    source: Source
    pixels: Array | None = None
    width: int | None = None
    height: int | None = None
    notes: tuple[str, ...] = ()
    error: ImageError | None = None


class Tagger:
    """A model with its vocabulary, ready to tag.

    Calling it is lazy: rows come as they are made, and sources are drawn as they are needed.
    """

    def __init__(
        self,
        engine: Engine,
        vocabulary: Vocabulary,
        *,
        ref: str,
        side: int,
        open_vocabulary: OpenVocabulary | None = None,
    ) -> None:
        """
        Args:
            open_vocabulary: how to score tags outside ``vocabulary``; None where the model reads no text.
        """
        self.vocabulary = vocabulary
        self.ref = ref
        self.side = side
        self._engine = engine
        self._known = vocabulary
        self._open = open_vocabulary
        # Per tag of `vocabulary` its column among the engine's, or -1 for the next of the typed ones; None: as is.
        self._columns: npt.NDArray[np.intp] | None = None
        self._labels: Labels | None = None

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | os.PathLike[str] = "starter",
        *,
        engine: str = "auto",
        device: str = "auto",
        threads: int | None = None,
    ) -> Tagger:
        """Load a shipped model by name, an exported bundle, or (with torch) a trained model folder.

        Args:
            engine: "onnx", "torch", or "auto": whatever the folder was written for.
            device: "auto", "cpu" or "cuda".
            threads: threads of the engine; None: all cores.

        Raises:
            ModelError: no such model, or its files are damaged.
            MismatchError: the vocabulary beside the model belongs to another.
            UsageError: an engine or device that does not exist or does not fit the folder.
        """
        if engine not in ENGINES:
            raise UsageError(f"unknown engine {engine!r}; use {', '.join(ENGINES)}")
        folder = locate(name_or_folder)
        trained = is_trained(folder)
        if engine == "auto":
            engine = "torch" if trained else "onnx"
        if engine == "torch":
            if not trained:
                raise UsageError(
                    f"engine torch needs a trained model folder; {folder} is an exported bundle: use onnx"
                )
            return cls._from_trained(folder, device=device)
        bundle = Bundle.open(folder)
        typed = None
        if bundle.typed_threshold is not None:
            typed = OpenVocabulary(
                lambda: LabelEngine(bundle.labels, device=device, threads=threads),
                bundle.text_encoder,
                bundle.typed_threshold,
            )
        runs: Engine
        if bundle.has_table:
            runs = TableEngine(bundle.graph, bundle.labels, bundle.table, device=device, threads=threads)
        else:
            runs = OnnxEngine(bundle.graph, device=device, threads=threads)
        return cls(
            runs,
            bundle.vocabulary,
            ref=bundle.ref,
            side=bundle.side,
            open_vocabulary=typed,
        )

    @classmethod
    def _from_trained(cls, folder: Path, *, device: str) -> Tagger:
        require_torch("the torch engine")
        from taglens.models.checkpoint import WEIGHTS, from_pretrained, reads_text

        model, vocabulary, name = from_pretrained(folder)
        ref = f"{name}@{checksum(folder / WEIGHTS)[:12]}"
        engine = TorchEngine(model, device=device)
        typed = None
        if reads_text(folder):
            from taglens.language.text_encoder import TextEncoder

            typed = OpenVocabulary(
                lambda: engine.ask, lambda: TextEncoder.load(folder / TEXT), DEFAULT_THRESHOLD
            )
        return cls(engine, vocabulary, ref=ref, side=model.config.side, open_vocabulary=typed)

    # -- other vocabularies ----------------------------------------------------------------------

    @property
    def reads_text(self) -> bool:
        """Whether tags outside the model's own vocabulary can be scored."""
        return self._open is not None

    def typed(self, names: Sequence[str]) -> Tagger:
        """The same model giving only these tags, each scored as text even where the vocabulary knows it.

        Raises:
            UsageError: the model reads no text, or a name holds no letter or digit.
            VocabularyError: a name stands twice.
        """
        vocabulary = Vocabulary([Entry(name, "typed") for name in names], name="typed")
        return self._with(vocabulary, [None] * len(vocabulary))

    def with_vocabulary(self, vocabulary: Vocabulary) -> Tagger:
        """The same model giving only these tags; a new object.

        A tag is matched by id, then by name or synonym; one that the model was not taught is scored as text, by its
        name and descriptions, where the model reads text. Names, synonyms, thresholds and hidden marks are the given
        vocabulary's own; a tag without a threshold there takes the model's.

        Raises:
            VocabularyError: a tag that the model was not trained on, and the model reads no text.
            UsageError: such a tag's name or description holds no letter or digit.
        """
        columns = [self._column(entry) for entry in vocabulary]
        strange = [entry.name for entry, column in zip(vocabulary, columns, strict=True) if column is None]
        if strange and self._open is None:
            more = f" and {len(strange) - 5} more" if len(strange) > 5 else ""
            raise VocabularyError(
                f"{self.ref} does not know {', '.join(repr(n) for n in strange[:5])}{more}: it scores the "
                f"{len(self._known)} tags it was trained on; list them with: taglens vocabulary show"
            )
        return self._with(vocabulary, columns)

    def guesses(self) -> list[str]:
        """Names of typed tags of which no word is known: their scores follow from spelling alone."""
        if self._open is None or self._columns is None:
            return []
        typed = [self.vocabulary[int(t)] for t in np.flatnonzero(self._columns < 0)]
        return self._open.guesses(typed)

    def _column(self, entry: Entry) -> int | None:
        """The engine's column for a tag, or None."""
        if entry.kind == "typed":
            return None
        if entry.id in self._known:
            return self._known.position(entry.id)
        found = (self._known.find(name) for name in (entry.name, *entry.synonyms))
        return next((column for column in found if column is not None), None)

    def _with(self, vocabulary: Vocabulary, columns: Sequence[int | None]) -> Tagger:
        typed = [entry for entry, column in zip(vocabulary, columns, strict=True) if column is None]
        if typed and self._open is None:
            raise UsageError(
                f"{self.ref} reads no text: it scores the {len(self._known)} tags it was trained on"
            )

        def stored(column: int | None) -> float | None:
            if column is not None:
                return self._known[column].threshold
            return None if self._open is None else self._open.threshold

        thresholds = [
            stored(column) if entry.threshold is None else entry.threshold
            for entry, column in zip(vocabulary, columns, strict=True)
        ]
        other = copy.copy(self)
        other.vocabulary = vocabulary.with_thresholds(thresholds)
        other._columns = np.array([-1 if column is None else column for column in columns], np.intp)
        other._labels = self._open.embed(typed) if typed and self._open is not None else None
        return other

    # -- tagging ---------------------------------------------------------------------------------

    def __call__(
        self,
        sources: Picture | Iterable[Picture],
        *,
        threshold: float | None = None,
        top: int | None = None,
        batch_size: int = 16,
        max_pixels: int = images.DEFAULT_MAX_PIXELS,
        language: str | None = None,
    ) -> Iterator[Prediction]:
        """Tag pictures, in order.

        Args:
            sources: paths, encoded bytes, Pillow images or arrays; one of them or any iterable of them.
            threshold: lowest score given, 0 to 1; None takes the vocabulary's own per tag.
            top: at most this many tags, after the threshold; None or 0: no limit.
            batch_size: pictures per engine call.
            max_pixels: larger pictures are refused before they are decoded.
            language: give tags by their names in this language where the vocabulary has them; ids stay.

        Raises:
            UsageError: at once, for an argument that cannot be meant, or a language without a name.
            ModelError: the model's scores are not finite.
        """
        if threshold is not None and not 0.0 <= threshold <= 1.0:
            raise UsageError(f"threshold {threshold} is not between 0 and 1")
        if top is not None and top < 0:
            raise UsageError(f"top {top} is below 0; 0 means no limit")
        # A few chosen tags may all lack a name in a language that their model has names in.
        if language is not None and language not in self._known.languages:
            self.vocabulary.require_language(language)
        select = partial(self.vocabulary.select, threshold=threshold, top=top, language=language)
        stream = self._stream(_pictures(sources), *_limits(batch_size, max_pixels))
        return (self._prediction(ready, scores, select) for ready, scores in stream)

    def scores(
        self, sources: Picture | Iterable[Picture], *, batch_size: int = 16
    ) -> Iterator[tuple[Path, Array | None]]:
        """Every tag's score [T] per picture, with its path; None where the picture could not be read."""
        stream = self._stream(_pictures(sources), *_limits(batch_size, images.DEFAULT_MAX_PIXELS))
        return ((ready.source.path, scores) for ready, scores in stream)

    def _prediction(
        self, ready: _Ready, scores: Array | None, select: Callable[[Array], tuple[Tag, ...]]
    ) -> Prediction:
        return Prediction(
            source=ready.source.shown,
            source_bytes=ready.source.source_bytes,
            width=ready.width,
            height=ready.height,
            tags=None if scores is None else select(scores),
            model=self.ref,
            vocabulary=self.vocabulary.ref,
            notes=ready.notes,
            error=None if ready.error is None else Failure.of(ready.error),
        )

    def _stream(
        self, pictures: Iterator[Picture], batch_size: int, max_pixels: int
    ) -> Iterator[tuple[_Ready, Array | None]]:
        workers = min(8, os.cpu_count() or 1)
        pool = ThreadPoolExecutor(workers, thread_name_prefix="taglens-decode")
        ahead: deque[Future[_Ready]] = deque()
        try:
            while True:
                # One batch in the engine, one being decoded: memory stays bounded by two batches.
                for picture in islice(pictures, 2 * batch_size - len(ahead)):
                    ahead.append(pool.submit(self._read, picture, max_pixels))
                if not ahead:
                    return
                group = [ahead.popleft().result() for _ in range(min(batch_size, len(ahead)))]
                yield from self._score(group)
        finally:
            pool.shutdown(cancel_futures=True)

    def _read(self, picture: Picture, max_pixels: int) -> _Ready:
        source, content = _named(picture)
        try:
            loaded = images.load(content, max_pixels=max_pixels, at_least=self.side)
        except ImageError as error:
            return _Ready(source, error=error)
        pixels = images.prepare(loaded.pixels, self.side)
        return _Ready(source, pixels, loaded.width, loaded.height, loaded.notes)

    def _score(self, group: list[_Ready]) -> Iterator[tuple[_Ready, Array | None]]:
        pixels = [ready.pixels for ready in group if ready.pixels is not None]
        rows: Iterator[Array] = iter(())
        if pixels:
            rows = iter(self._chosen(finite(self._engine(np.stack(pixels)), self.ref)))
        for ready in group:
            yield ready, None if ready.pixels is None else next(rows)

    def _chosen(self, output: Output) -> Array:
        """Scores [B, T] of the vocabulary's tags, typed ones among them."""
        if self._columns is None:
            return output.scores
        scores = output.scores[:, self._columns]
        if self._labels is not None and self._open is not None:
            asked = self._open.ask(output.tokens, self._labels.embeddings, self._labels.counts)
            scores[:, self._columns < 0] = asked
        return scores


def _limits(batch_size: int, max_pixels: int) -> tuple[int, int]:
    """The two unchanged. Raises UsageError for one below 1."""
    if batch_size < 1:
        raise UsageError(f"batch size {batch_size} is below 1")
    if max_pixels < 1:
        raise UsageError(f"max_pixels {max_pixels} is below 1")
    return batch_size, max_pixels


def _pictures(sources: Any) -> Iterator[Picture]:
    """One picture or many, one after another. Raises UsageError for what is neither."""
    if _is_one(sources):
        return iter([sources])
    try:
        return iter(sources)
    except TypeError:
        raise UsageError(
            f"expected a picture or an iterable of pictures, came {type(sources).__name__}"
        ) from None


def _is_one(sources: Any) -> bool:
    """Whether this is a single picture: a name, bytes, a Source, an array of pixels, or a Pillow image."""
    if isinstance(sources, str | os.PathLike | bytes | bytearray | Source | np.ndarray):
        return True
    return hasattr(sources, "getbands") and hasattr(sources, "size")


def _named(picture: Picture) -> tuple[Source, Any]:
    """A picture's name for its row, and what `images.load` is to read."""
    if isinstance(picture, Source):
        return picture, picture.path
    if isinstance(picture, str | os.PathLike):
        source = Source.of(picture)
        return source, source.path
    if isinstance(picture, bytes | bytearray):
        return Source.of("<bytes>"), bytes(picture)
    if isinstance(picture, np.ndarray):
        return Source.of("<array>"), picture
    return Source.of(getattr(picture, "filename", "") or "<image>"), picture

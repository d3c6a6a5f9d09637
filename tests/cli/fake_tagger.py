"""A stand-in for `taglens.inference.tagger.Tagger`: same interface, no model, scores from the mean colour."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from taglens.errors import ImageError, ModelError, UsageError, VocabularyError
from taglens.images import DEFAULT_MAX_PIXELS, load
from taglens.inference.sources import Source
from taglens.results import Failure, Prediction, Tag
from taglens.vocabulary import Entry, Vocabulary

Array = npt.NDArray[np.uint8]

VOCABULARY = Vocabulary(
    [
        Entry("red thing", "object", synonyms=("tomato",)),
        Entry("meadow", "scene", threshold=0.6),
        Entry("blue", "attribute"),
        Entry("run", "action"),
        Entry("secret", "object", hidden=True),
    ],
    name="fake-words",
)


class FakeTagger:
    """Scores: red, green, blue share of the picture, then 0.25, then 0.99 for the hidden tag; 0.7 for a typed one.

    Class attributes: ``calls`` the arguments of every call; ``interrupt_after`` raises KeyboardInterrupt
    then; ``reads_text`` opens the vocabulary.
    """

    calls: ClassVar[list[dict[str, Any]]] = []
    loads: ClassVar[list[dict[str, Any]]] = []
    interrupt_after: ClassVar[int | None] = None
    reads_text: ClassVar[bool] = False

    def __init__(self, vocabulary: Vocabulary = VOCABULARY) -> None:
        self.vocabulary = vocabulary
        self.ref = "fake@0123456789ab"

    @classmethod
    def from_pretrained(
        cls,
        name_or_dir: str = "starter",
        *,
        engine: str = "auto",
        device: str = "auto",
        threads: int | None = None,
    ) -> FakeTagger:
        if name_or_dir != "starter":
            raise ModelError(f"no model {name_or_dir!r}; expected starter or a folder")
        cls.loads.append({"engine": engine, "device": device})
        return cls()

    def with_vocabulary(self, vocabulary: Vocabulary) -> FakeTagger:
        unknown = [entry.id for entry in vocabulary if entry.id not in VOCABULARY]
        if unknown and not self.reads_text:
            raise VocabularyError(f"this model has a closed vocabulary and does not know {unknown[0]}")
        return FakeTagger(vocabulary)

    def guesses(self) -> list[str]:
        return [entry.name for entry in self.vocabulary if entry.name.startswith("xyz")]

    def __call__(
        self,
        sources: Iterable[Source | Path | Array] | Path | Array,
        *,
        threshold: float | None = None,
        top: int | None = None,
        batch_size: int = 16,
        max_pixels: int = DEFAULT_MAX_PIXELS,
        language: str | None = None,
        caption: bool = False,
    ) -> Iterator[Prediction]:
        if caption:
            raise UsageError(f"{self.ref} gives tags and writes no captions")
        self.calls.append(
            {"threshold": threshold, "top": top, "batch_size": batch_size, "max_pixels": max_pixels}
        )
        select = partial(self.vocabulary.select, threshold=threshold, top=top, language=language)
        done = 0
        waiting = iter([sources] if isinstance(sources, Path | np.ndarray) else sources)
        # Reads ahead by whole batches, as an engine does.
        while batch := list(islice(waiting, batch_size)):
            for source in batch:
                if done == self.interrupt_after:
                    raise KeyboardInterrupt
                yield self._one(source, select, max_pixels)
                done += 1

    def _one(
        self,
        source: Source | Path | Array,
        select: Callable[[npt.NDArray[np.float32]], tuple[Tag, ...]],
        max_pixels: int,
    ) -> Prediction:
        if isinstance(source, Path):
            source = Source.of(source)
        named: dict[str, Any] = {
            "source": source.shown if isinstance(source, Source) else "array",
            "source_bytes": source.source_bytes if isinstance(source, Source) else None,
            "model": self.ref,
            "vocabulary": self.vocabulary.ref,
        }
        try:
            picture = load(source.path if isinstance(source, Source) else source, max_pixels=max_pixels)
        except ImageError as error:
            return Prediction(width=None, height=None, tags=None, error=Failure.of(error), **named)
        mean = picture.pixels.reshape(-1, 3).mean(axis=0) / 255
        every = np.array([*mean, 0.25, 0.99], np.float32)
        scores = np.array(
            [every[VOCABULARY.position(id)] if id in VOCABULARY else 0.7 for id in self.vocabulary.ids],
            np.float32,
        )
        return Prediction(
            width=picture.width,
            height=picture.height,
            tags=select(scores),
            notes=picture.notes,
            **named,
        )

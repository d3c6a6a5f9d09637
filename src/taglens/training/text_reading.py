"""From shard folders, captions and questions to the streams that a run learns from.

Captions are cut into pieces and read for their tags, pictures are tagged and decoded, or encoded ahead.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from taglens.data.batches import PictureSet, decode_set
from taglens.data.questions import Question
from taglens.data.shards import ShardSet
from taglens.errors import DataError
from taglens.inference.captioning import guiding
from taglens.inference.tagger import Tagger
from taglens.language.caption_text import CaptionText
from taglens.language.parser import parse_lines
from taglens.language.text_tags import TextTags
from taglens.language.word_lists import packaged
from taglens.language.wordpiece import WordPiece
from taglens.training import cached
from taglens.training.answer_data import AskedOf, numbered
from taglens.training.text_data import AnswerStream, Captions, TextStream
from taglens.training.text_settings import TextRunConfig, Texts
from taglens.training.text_tasks import Tag2Text
from taglens.vocabulary import Vocabulary

T = TypeVar("T")
Prepared = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, eq=False)
class Corpus:
    """Captioned pictures of one split.

    Attributes:
        views: the pictures; encoded ahead, a set of tokens for each view of them.
        captions: about them, in pieces.
    """

    views: Sequence[PictureSet]
    captions: Captions


class Reader:
    """Captions as pieces and tags, pictures as pixels or tokens: all that a run learns from."""

    def __init__(
        self,
        start: Path,
        model: Tag2Text,
        vocabulary: Vocabulary,
        pieces: bytes,
        config: TextRunConfig,
        prepared: Prepared,
        *,
        keep: Path | None = None,
    ) -> None:
        self.config = config
        self._keep = keep
        self._prepared = prepared
        self.text = CaptionText(
            WordPiece(pieces.decode().removesuffix("\n").split("\n")),
            length=model.captioner.config.tag_length,
        )
        self.names = [entry.name for entry in vocabulary]
        self._recognizer = model.recognizer
        self._vocabulary = vocabulary
        self._tags = TextTags(vocabulary, packaged(), parse_lines)
        self._tagger = Tagger.from_pretrained(config.tagger or start)
        self._most = model.captioner.config.most_tags
        vocabulary.require(self._tagger.vocabulary.fingerprint, what=f"the tagger {self._tagger.ref}")

    def said(self, captions: Sequence[str]) -> list[tuple[int, ...]]:
        """Per caption the columns of the tags that it says."""
        read = self._counted("captions read", captions, len(captions))
        return [tuple(sorted(tags)) for tags in self._tags(read)]

    def streams(
        self, sources: Sequence[ShardSet], texts: Texts, seen: Corpus | None
    ) -> list[TextStream | AnswerStream]:
        """What every step draws from, each an even part of the batch: captioned pictures, captions, questions."""
        config, text, names = self.config, self.text, self.names
        kinds = [seen is not None, bool(texts.plain), bool(texts.questions)]
        size, seed = config.batch_size // sum(kinds), config.loop.seed * 3
        found: list[TextStream | AnswerStream] = []
        if seen is not None:
            found.append(TextStream(seen.captions, text, names, batch_size=size, mix=config.mix, seed=seed))
        if texts.plain:
            plain = Captions.of(text, texts.plain, said=self.said(texts.plain))
            found.append(TextStream(plain, text, names, batch_size=size, mix=config.mix, seed=seed + 1))
        if texts.questions and seen is not None:
            found.append(
                AnswerStream(
                    _about(texts.questions, sources),
                    text,
                    names,
                    recognised=seen.captions.recognised,
                    batch_size=size,
                    none=config.mix.none,
                    seed=seed + 2,
                )
            )
        return found

    def corpus(self, sources: Sequence[ShardSet], split: str, *, views: int) -> Corpus:
        """The captioned pictures of shard folders, encoded ahead in several views or, with 0, as they are."""
        each = [texts for source in sources for texts in told(source, split)]
        flat = [text for texts in each for text in texts]
        captions = Captions.of(
            self.text,
            flat,
            said=self.said(flat),
            pictures=[number for number, texts in enumerate(each) for _ in texts],
            recognised=list(self._counted("pictures tagged", self._recognised(sources, split), len(each))),
        )
        loop = self.config.loop
        side = loop.side if split == "val" else round(loop.side * self.config.store_scale)
        whole = _joined([decode_set(source, self._vocabulary, split=split, side=side) for source in sources])
        if not views:
            return Corpus([whole], captions)
        total = len(whole) * views
        encoded = cached.encode(
            self._recognizer,
            whole,
            side=loop.side,
            views=views,
            config=loop.augment,
            seed=loop.seed,
            keep=self._keep,
            progress=lambda done: self._prepared("views encoded", done, total),
        )
        return Corpus(encoded, captions)

    def _recognised(self, sources: Sequence[ShardSet], split: str) -> Iterator[tuple[int, ...]]:
        """Per picture the columns of the tags that guide a caption where the user gives none."""
        position = self._vocabulary.position
        for row in self._tagger(sample.image for source in sources for sample in source.samples(split)):
            tags = () if row.tags is None else guiding(row.tags, self._vocabulary, most=self._most)
            yield tuple(position(tag.id) for tag in tags)

    def _counted(self, what: str, items: Iterable[T], total: int) -> Iterator[T]:
        for done, item in enumerate(items, 1):
            yield item
            self._prepared(what, done, total)


def told(source: ShardSet, split: str) -> list[tuple[str, ...]]:
    """The captions of each picture of a split. Raises DataError where there is none at all."""
    told = [sample.captions for sample in source.samples(split)]
    if not any(told):
        raise DataError(f"shard folder {source.name} has no captions in its split {split!r}; leave it out")
    return told


def _about(questions: Sequence[Question], sources: Sequence[ShardSet]) -> list[AskedOf]:
    """The questions with the numbers of their pictures.

    A file of questions names pictures from its own folder, and a source from the folder it was made from: the end of
    the question's path must be what the source says.

    Raises:
        DataError: none is about any of them.
    """
    places = [sample.source for source in sources for sample in source.samples("train")]
    numbers = {place: number for number, place in enumerate(places)}
    paths = {
        os.path.abspath(each.path): numbers[place]  # noqa: PTH100 - as `numbered` looks for them
        for each in questions
        if (place := _place(each.image, numbers)) is not None
    }
    return numbered(questions, paths)


def _place(image: str, known: Mapping[str, int]) -> str | None:
    """The longest end of a path, cut at its slashes, that is known."""
    while image not in known:
        _, slash, image = image.partition("/")
        if not slash:
            return None
    return image


def _joined(sets: Sequence[PictureSet]) -> PictureSet:
    """Several sets as one; an absent tag counts as far as in the least sure of them."""
    if len(sets) == 1:
        return sets[0]
    return PictureSet(
        "+".join(each.name for each in sets),
        np.concatenate([each.pixels for each in sets]),
        np.concatenate([each.present for each in sets]),
        np.minimum.reduce([each.absent_weight for each in sets]),
    )

"""Captions to learn from: cut into word pieces once, each with its tags; streams of batches of them and of answers.

A batch is a function of its number, as in `taglens.data.batches`. Knows numbers of pictures; their pixels or tokens
are the recipe's. Shapes: K captions, B of them in a batch, M pieces of a tag list, L of a caption.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from taglens.errors import DataError, UsageError
from taglens.language.caption_text import CaptionText
from taglens.training.answer_data import AskedOf, examples
from taglens.training.answer_data import batch as answer_batch

Ids = npt.NDArray[np.int64]
NO_PICTURE = -1


@dataclass(frozen=True, slots=True)
class GuideMix:
    """Which tags guide a caption in training (Tag2Text 1.7, choice T3).

    Attributes:
        parsed: share of captions guided by the tags that they say themselves; the others are guided by the tags that
            are recognised in the picture, as they will be when nobody has written one yet.
        none: share, of all, that is guided by no tags at all.
    """

    parsed: float = 0.5
    none: float = 0.1

    def __post_init__(self) -> None:
        for name in ("parsed", "none"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise UsageError(
                    f"the share of captions with {name} tags must be in 0..1, found {getattr(self, name)}"
                )


@dataclass(frozen=True, slots=True, eq=False)
class Captions:
    """Captions of some pictures, or of none.

    Attributes:
        pictures: [K], the number of the picture that each is about; `NO_PICTURE` where there is none.
        written: [K], prompt and caption as pieces, what the decoder learns to write.
        read: [K], [CLS], caption and [SEP] as pieces, what the alignment encoder reads.
        said: [K], columns of the tags that each caption says.
        recognised: per picture the columns of the tags recognised in it.
    """

    pictures: Ids
    written: Sequence[Sequence[int]]
    read: Sequence[Sequence[int]]
    said: Sequence[Sequence[int]]
    recognised: Sequence[Sequence[int]]

    def __post_init__(self) -> None:
        if not len(self.pictures) == len(self.written) == len(self.read) == len(self.said):
            raise DataError("captions, their pieces and their tags must be as many")
        if len(self.pictures) and self.pictures.max() >= len(self.recognised):
            raise DataError(
                f"a caption is about picture {self.pictures.max()}, there are {len(self.recognised)}"
            )

    def __len__(self) -> int:
        return len(self.pictures)

    @classmethod
    def of(
        cls,
        text: CaptionText,
        captions: Sequence[str],
        *,
        said: Sequence[Sequence[int]],
        pictures: Sequence[int] | None = None,
        recognised: Sequence[Sequence[int]] = (),
    ) -> Captions:
        """Cut captions into pieces. ``pictures`` None: they are about none."""
        numbers = [NO_PICTURE] * len(captions) if pictures is None else pictures
        written = [text.captions([text.prompt + caption])[0].ids for caption in captions]
        read = [tuple(text.pieces.ids(caption, longest=text.length)) for caption in captions]
        return cls(np.array(numbers, np.int64), written, read, said, recognised)


@dataclass(frozen=True, slots=True, eq=False)
class TextBatch:
    """What a step learns from.

    Attributes:
        pictures: int64 [B], `NO_PICTURE` where a caption is about none.
        guides, guide_mask: int64 [B, M], the tag lists; 1 where a piece stands.
        written, written_mask: int64 [B, L], prompt and caption; or answers.
        prompt: pieces at the start of each that are given and not learned, [DEC] included.
        read, read_mask: int64 [B, L'], the caption opened by [CLS]; None of answers, which say nothing by themselves.
        same: bool [B, B], whether two captions are about one picture, or are the same text; None likewise.
        shown, shown_mask: int64 [B, M'], the tags recognised in each picture, with which matching is asked: a
            caption's own would give the answer away; None likewise.
    """

    pictures: Ids
    guides: Ids
    guide_mask: Ids
    written: Ids
    written_mask: Ids
    prompt: int
    read: Ids | None = None
    read_mask: Ids | None = None
    same: npt.NDArray[np.bool_] | None = None
    shown: Ids | None = None
    shown_mask: Ids | None = None

    def __len__(self) -> int:
        return len(self.pictures)


class TextStream:
    """Batches of captions in random order, each gone through in full before it repeats.

    Args:
        names: of the vocabulary's tags, by column.
        seed: with the batch number, decides everything.
    """

    def __init__(
        self,
        captions: Captions,
        text: CaptionText,
        names: Sequence[str],
        *,
        batch_size: int,
        mix: GuideMix = GuideMix(),
        seed: int = 0,
    ) -> None:
        if batch_size < 2:
            raise UsageError(f"a batch needs at least 2 captions to tell apart, found {batch_size}")
        if not len(captions):
            raise DataError("no captions to learn from")
        self.batch_size = batch_size
        self._captions = captions
        self._text = text
        self._names = names
        self._mix = mix
        self._seed = seed
        self._order = _Order(len(captions), seed)

    def __len__(self) -> int:
        """How many captions there are."""
        return len(self._captions)

    def batch(self, number: int) -> TextBatch:
        """Batch ``number``, the same whenever it is asked for."""
        rng = np.random.default_rng((self._seed, 1, number))
        rows = self._order.batch(number, self.batch_size)
        given, pad = self._captions, self._text.pieces.pad
        guide_ids, guide_mask = self._lists([self._guide(row, rng) for row in rows])
        shown, shown_mask = self._lists([self._shown(int(given.pictures[row]), rng) for row in rows])
        written, written_mask = _table([given.written[row] for row in rows], pad)
        read, read_mask = _table([given.read[row] for row in rows], pad)
        pictures = given.pictures[rows]
        same = (pictures[:, None] == pictures) & (pictures != NO_PICTURE)[:, None]
        same |= (read[:, None] == read).all(2)
        prompt = len(self._text.prompt_ids)
        return TextBatch(
            pictures,
            guide_ids,
            guide_mask,
            written,
            written_mask,
            prompt,
            read,
            read_mask,
            same,
            shown,
            shown_mask,
        )

    def _lists(self, guides: Sequence[Sequence[int]]) -> tuple[Ids, Ids]:
        """Columns of tags as lists of pieces, filled up to the longest."""
        lists = [self._text.tags([self._names[tag] for tag in guide]) for guide in guides]
        return _table([one.ids[: sum(one.mask)] for one in lists], self._text.pieces.pad)

    def _shown(self, picture: int, rng: np.random.Generator) -> list[int]:
        tags = () if picture == NO_PICTURE else self._captions.recognised[picture]
        return [tags[place] for place in rng.permutation(len(tags))]

    def _guide(self, row: int, rng: np.random.Generator) -> list[int]:
        """Columns of the tags that guide a caption, in random order (Tag2Text 1.4: no place means anything)."""
        nothing, parsed = rng.random() < self._mix.none, rng.random() < self._mix.parsed
        if nothing:
            return []
        picture = int(self._captions.pictures[row])
        alone = parsed or picture == NO_PICTURE
        tags = self._captions.said[row] if alone else self._captions.recognised[picture]
        return [tags[place] for place in rng.permutation(len(tags))]


class AnswerStream:
    """Batches of answered questions, likewise; each is read with the tags recognised in its picture, or with none.

    The tags that captions say are not for them: questions made from captions would hold their own answers.

    Args:
        recognised: per picture the columns of the tags recognised in it.
        none: share of questions that is read without tags.
    """

    def __init__(
        self,
        questions: Sequence[AskedOf],
        text: CaptionText,
        names: Sequence[str],
        *,
        recognised: Sequence[Sequence[int]],
        batch_size: int,
        none: float = 0.1,
        seed: int = 0,
    ) -> None:
        if batch_size < 1 or not questions:
            raise DataError(f"{len(questions)} questions in batches of {batch_size}: nothing to learn from")
        self.batch_size = batch_size
        self._questions = questions
        self._text = text
        self._names = names
        self._recognised = recognised
        self._none = none
        self._seed = seed
        self._order = _Order(len(questions), seed)

    def __len__(self) -> int:
        """How many questions there are."""
        return len(self._questions)

    def batch(self, number: int) -> TextBatch:
        """Batch ``number``, the same whenever it is asked for."""
        rng = np.random.default_rng((self._seed, 1, number))

        def tags(picture: int) -> list[str]:
            columns = self._recognised[picture]
            order = rng.permutation(len(columns))
            return [] if rng.random() < self._none else [self._names[columns[place]] for place in order]

        rows = [self._questions[row] for row in self._order.batch(number, self.batch_size)]
        pieces = self._text.pieces
        found = answer_batch(list(examples(rows, self._text, tags, generator=rng)), pad=pieces.pad)
        return TextBatch(
            found.pictures,
            found.guides,
            found.guide_mask,
            found.answers,
            found.answer_mask,
            len(self._text.answer_ids),
        )


class _Order:
    """Members of batches: all in random order, again and again."""

    def __init__(self, count: int, seed: int) -> None:
        self._count = count
        self._seed = seed
        self._epochs: dict[int, Ids] = {}

    def batch(self, number: int, size: int) -> list[int]:
        return [self._member(draw) for draw in range(number * size, (number + 1) * size)]

    def _member(self, draw: int) -> int:
        epoch, place = divmod(draw, self._count)
        if epoch not in self._epochs:
            # A batch may reach back into the epoch before.
            self._epochs = {key: order for key, order in self._epochs.items() if key == epoch - 1}
            self._epochs[epoch] = np.random.default_rng((self._seed, 0, epoch)).permutation(self._count)
        return int(self._epochs[epoch][place])


def _table(rows: Sequence[Sequence[int]], pad: int) -> tuple[Ids, Ids]:
    """Texts filled up to the longest, and 1 where a piece stands."""
    lengths = np.array([len(row) for row in rows])
    mask = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)
    table = np.full(mask.shape, pad, np.int64)
    table[mask == 1] = np.concatenate([np.asarray(row, np.int64) for row in rows])
    return table, mask

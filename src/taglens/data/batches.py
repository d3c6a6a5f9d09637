"""Pictures and targets in memory, and the stream of batches drawn from several sources.

A batch is a function of its number: nothing is kept between steps, so a run that was killed goes on exactly where
it stopped. Shapes: N pictures, S side, T tags, B batch, M captions of a picture at most, L width of a text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from taglens import images
from taglens.data.shards import Sample, ShardSet
from taglens.errors import DataError
from taglens.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True, eq=False)
class PictureSet:
    """One source, decoded.

    Attributes:
        name: the source's name.
        pixels: uint8 [N, S, S, 3]; or, of cached pictures, the encoder's tokens (`taglens.training.cached`).
        present: uint8 [N, T], 1 where a tag was given.
        absent_weight: float32 [T]: how far a tag that was not given counts as absent; 1 is a negative, 0 unknown.
        texts: float32 [N, M, L], the captions' embeddings; None where they were not asked for.
        text_counts: int64 [N], how many of the M are a picture's own.
        taught: float32 [N, K], what a teacher makes of each picture; None without a teacher.
    """

    name: str
    pixels: npt.NDArray[np.uint8]
    present: npt.NDArray[np.uint8]
    absent_weight: npt.NDArray[np.float32]
    texts: npt.NDArray[np.float32] | None = None
    text_counts: npt.NDArray[np.int64] | None = None
    taught: npt.NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.pixels)


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """What a step learns from.

    Attributes:
        pixels: uint8 [B, S, S, 3].
        targets: float32 [B, T] in {0, 1}.
        weights: float32 [B, T], 0 where unknown.
        texts: float32 [D, L], one caption's embedding for each picture that has captions; D is 0 without any.
        described: int64 [D], which rows of the batch these are.
        taught: float32 [B, K]; None without a teacher.
    """

    pixels: npt.NDArray[np.uint8]
    targets: npt.NDArray[np.float32]
    weights: npt.NDArray[np.float32]
    texts: npt.NDArray[np.float32]
    described: npt.NDArray[np.int64]
    taught: npt.NDArray[np.float32] | None = None


def decode_set(
    shards: ShardSet,
    vocabulary: Vocabulary,
    *,
    split: str,
    side: int,
    workers: int = 2,
    embed: Callable[[Sequence[str]], npt.NDArray[np.float32]] | None = None,
    progress: Callable[[int], None] | None = None,
) -> PictureSet:
    """Decode a split of a shard folder into memory, every picture squashed to ``side`` as at inference.

    Args:
        embed: texts to unit vectors [M, L]; with it captions are kept, embedded.

    Raises:
        DataError: the folder has no such split.
        MismatchError: the shards were built with another vocabulary.
    """
    vocabulary.require(shards.vocabulary.fingerprint, what=f"the shard folder {shards.name}")
    count = shards.splits.get(split, 0)
    if not count:
        raise DataError(
            f"shard folder {shards.name} has no split {split!r}; it has {', '.join(shards.splits)}"
        )
    pixels = np.empty((count, side, side, 3), np.uint8)
    present = np.zeros((count, len(vocabulary)), np.uint8)
    captions: list[tuple[str, ...]] = [()] * count

    def place(item: tuple[int, Sample]) -> None:
        number, sample = item
        picture = images.load(sample.image, at_least=side)
        prepared = images.prepare(picture.pixels, side)
        pixels[number] = np.rint(prepared.transpose(1, 2, 0) * 255)
        present[number, [vocabulary.position(id) for id in sample.tags]] = 1
        captions[number] = sample.captions

    samples = enumerate(shards.samples(split))
    done = 0
    with ThreadPoolExecutor(workers) as pool:
        # A window at a time: the encoded pictures of a whole split need not be in memory at once.
        while window := list(islice(samples, 512)):
            list(pool.map(place, window))
            done += len(window)
            if progress:
                progress(done)
    weight = np.zeros(len(vocabulary), np.float32)
    weight[shards.scope] = shards.absent_weight
    decoded = PictureSet(shards.name, pixels, present, weight)
    return decoded if embed is None else replace(decoded, **_embedded(captions, embed))


def _embedded(
    captions: Sequence[tuple[str, ...]], embed: Callable[[Sequence[str]], npt.NDArray[np.float32]]
) -> dict[str, Any]:
    """The fields of a `PictureSet` that hold captions. A caption without a word is as good as none."""
    kept = [[text for text in texts if any(letter.isalnum() for letter in text)] for texts in captions]
    counts = np.array([len(texts) for texts in kept], np.int64)
    if not counts.any():
        return {}
    flat = embed([text for texts in kept for text in texts])
    table = np.zeros((len(kept), int(counts.max()), flat.shape[1]), np.float32)
    table[np.arange(table.shape[1]) < counts[:, None]] = flat
    return {"texts": table, "text_counts": counts}


class BatchStream:
    """Batches that mix several sources in fixed shares.

    Args:
        sets: the sources.
        shares: relative share of each source in the draws; by default its size.
        batch_size: B.
        seed: with the batch number, decides everything.
    """

    def __init__(
        self,
        sets: Sequence[PictureSet],
        *,
        batch_size: int,
        seed: int = 0,
        shares: Mapping[str, float] | None = None,
    ) -> None:
        if not sets or batch_size < 1:
            raise DataError(
                f"a stream needs sources and a batch size of at least 1, found {len(sets)} and {batch_size}"
            )
        if len({s.taught is None for s in sets}) > 1:
            raise DataError(
                f"some sources have a teacher's features and some have none: {[s.name for s in sets]}"
            )
        given = np.array([len(s) if shares is None else shares.get(s.name, 0.0) for s in sets], np.float64)
        if given.sum() <= 0:
            raise DataError(f"no source has a share above 0: {[s.name for s in sets]}")
        self.sets = list(sets)
        self.batch_size = batch_size
        self.seed = seed
        self._shares = given / given.sum()
        self._orders: dict[tuple[int, int], npt.NDArray[np.int64]] = {}

    def frequency(self) -> npt.NDArray[np.float32]:
        """The share of drawn pictures that have each tag, float32 [T]."""
        each = [share * s.present.mean(0) for share, s in zip(self._shares, self.sets, strict=True)]
        return np.asarray(np.sum(each, axis=0), np.float32)

    def _order(self, source: int, epoch: int) -> npt.NDArray[np.int64]:
        key = (source, epoch)
        if key not in self._orders:
            self._orders = {k: v for k, v in self._orders.items() if k[0] != source or k[1] == epoch - 1}
            rng = np.random.default_rng((self.seed, source, epoch))
            self._orders[key] = rng.permutation(len(self.sets[source]))
        return self._orders[key]

    def _drawn(self, pictures: int) -> list[int]:
        """How often each source has been drawn when so many pictures were: [S], adding up to ``pictures``.

        One source after the other takes its part of what the earlier ones left. So taken, no count ever falls as
        ``pictures`` grows, which would make a batch too large and a picture come twice.
        """
        drawn = []
        left = pictures
        for share, rest in zip(self._shares, np.cumsum(self._shares[::-1])[::-1], strict=True):
            taken = math.floor(left * (share / rest) + 1e-6) if share else 0
            drawn.append(taken)
            left -= taken
        return drawn

    def members(self, number: int) -> list[tuple[int, npt.NDArray[np.int64]]]:
        """Which pictures make up batch ``number``: (source, rows [k]) per source drawn from.

        After n batches source s has been drawn n B share times, to within the number of sources, so shares hold in
        the long run, and each source is gone through in full before it repeats.
        """
        drawn = [self._drawn(n * self.batch_size) for n in (number, number + 1)]
        chosen = []
        for source, (before, after) in enumerate(zip(*drawn, strict=True)):
            draws = range(before, after)
            if draws:
                size = len(self.sets[source])
                rows = [self._order(source, d // size)[d % size] for d in draws]
                chosen.append((source, np.array(rows, np.int64)))
        return chosen

    def batch(self, number: int) -> Batch:
        """Batch ``number``, the same whenever it is asked for."""
        pixels, targets, weights = [], [], []
        texts, described, taught = [], [], []
        rng = np.random.default_rng((self.seed, len(self.sets), number))
        first = 0
        for source, rows in self.members(number):
            s = self.sets[source]
            if s.texts is not None and s.text_counts is not None:
                which = np.floor(rng.random(len(rows)) * s.text_counts[rows]).astype(np.int64)
                own = s.text_counts[rows] > 0
                texts.append(s.texts[rows[own], which[own]])
                described.append(first + np.flatnonzero(own))
            first += len(rows)
            present = s.present[rows].astype(np.float32)
            pixels.append(s.pixels[rows])
            targets.append(present)
            if s.taught is not None:
                taught.append(s.taught[rows])
            weights.append(np.where(present > 0, np.float32(1), s.absent_weight))
        return Batch(
            np.concatenate(pixels),
            np.concatenate(targets),
            np.concatenate(weights),
            np.concatenate(texts) if texts else np.zeros((0, 0), np.float32),
            np.concatenate(described) if described else np.zeros(0, np.int64),
            np.concatenate(taught) if taught else None,
        )

"""BLEU, ROUGE-L and CIDEr as their papers tell them, in loops that one can check by eye.

For comparing the package with, and for tests that need some measure where the package is not installed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from types import TracebackType

References = Sequence[Sequence[str]]


def grams(text: str, n: int) -> list[tuple[str, ...]]:
    words = text.split()
    return [tuple(words[at : at + n]) for at in range(len(words) - n + 1)]


def bleu(references: References, captions: Sequence[str], n: int) -> float:
    """Corpus BLEU, with the reference length that is closest to the caption's (of two, the shorter)."""
    logs = 0.0
    for size in range(1, n + 1):
        right = given = 0
        for texts, caption in zip(references, captions, strict=True):
            said = grams(caption, size)
            given += len(said)
            for gram in set(said):
                right += min(said.count(gram), max(grams(text, size).count(gram) for text in texts))
        if right == 0:
            return 0.0
        logs += math.log(right / given) / n
    length = sum(len(caption.split()) for caption in captions)
    closest = 0
    for texts, caption in zip(references, captions, strict=True):
        own = len(caption.split())
        closest += min((abs(len(text.split()) - own), len(text.split())) for text in texts)[1]
    return math.exp(logs + min(0.0, 1 - closest / length))


def common(one: Sequence[str], other: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    if not one or not other:
        return 0
    if one[-1] == other[-1]:
        return 1 + common(one[:-1], other[:-1])
    return max(common(one[:-1], other), common(one, other[:-1]))


def rouge(references: References, captions: Sequence[str]) -> float:
    """Mean over pictures of F with beta 1.2, of the best precision and the best recall over the references."""
    total = 0.0
    for texts, caption in zip(references, captions, strict=True):
        said = caption.split()
        shared = [(common(text.split(), said), len(text.split())) for text in texts]
        precision = max(length / max(len(said), 1) for length, _ in shared)
        recall = max(length / whole for length, whole in shared)
        if precision and recall:
            total += (1 + 1.2**2) * precision * recall / (recall + 1.2**2 * precision)
    return total / len(captions)


def cider(references: References, captions: Sequence[str]) -> float:
    """CIDEr-D: cosines of capped n-gram counts, weighed by rarity, with a penalty on length; times ten."""

    @cache
    def vector(text: str, n: int) -> dict[tuple[str, ...], float]:
        found = grams(text, n)
        weighed = {}
        for gram in set(found):
            within = sum(any(gram in grams(text, n) for text in texts) for texts in references)
            weighed[gram] = found.count(gram) * (math.log(len(references)) - math.log(max(1, within)))
        return weighed

    def length(vector: dict[tuple[str, ...], float]) -> float:
        return math.sqrt(sum(weight**2 for weight in vector.values()))

    total = 0.0
    for texts, caption in zip(references, captions, strict=True):
        for text in texts:
            apart = len(grams(caption, 2)) - len(grams(text, 2))
            for n in (1, 2, 3, 4):
                one, other = vector(caption, n), vector(text, n)
                if length(one) and length(other):
                    product = sum(
                        min(one[gram], other[gram]) * other[gram] for gram in one.keys() & other.keys()
                    )
                    cosine = product / length(one) / length(other)
                    total += cosine * math.exp(-(apart**2) / (2 * 6**2)) / (4 * len(texts))
    return 10 * total / len(captions)


class TwinMetrics:
    """What `taglens.evaluation.caption_metrics.CaptionMetrics` does, without the package."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.closed = False

    def __call__(self, references: References, captions: Sequence[str]) -> dict[str, float | None]:
        return {
            **{f"BLEU-{n}": bleu(references, captions, n) for n in (1, 2, 3, 4)},
            "ROUGE-L": rouge(references, captions),
            "CIDEr": cider(references, captions) if len(captions) > 1 else None,
        }

    def __enter__(self) -> TwinMetrics:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closed = True

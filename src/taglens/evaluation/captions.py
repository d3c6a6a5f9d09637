"""Scoring captions of pictures: by people's sentences, by the tags they say, and beside a caption written blindly.

Knows what the contract's object says. Refuses to know models: captions come as texts (`taglens.evaluation.written`
reads them from files), and what measures them is passed in.

What counts
- A picture without a caption (it could not be read, or nobody wrote one) is left out of every figure and listed.
- References are compared as words (`taglens.evaluation.caption_words`); one without a word is no reference.
- The truth of tags is the labels of the rows that have some, and if none does, what the references say.
- The baseline is one caption for all pictures, the most typical (`taglens.evaluation.typical`) of other rows, or of
  the references themselves where there are no others: then no caption that is always the same does much better.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from taglens.errors import DataError, UsageError
from taglens.evaluation.caption_tags import CaptionTags, TagFigures, Tags, compare, key, union
from taglens.evaluation.caption_words import words
from taglens.evaluation.datasets import CaptionedImage
from taglens.evaluation.typical import typical

# Enough to know what is typical; more would cost memory and minutes.
MOST_TYPICAL_OF = 2_000

Measure = Callable[[Sequence[Sequence[str]], Sequence[str]], Mapping[str, float | None]]
# Figures that take pictures, and texts as they were written.
Score = Callable[[Sequence[CaptionedImage], Sequence[str]], Mapping[str, float]]
ChosenFrom = Literal["train", "evaluated"]


@dataclass(frozen=True, slots=True)
class Figures:
    """What is measured of one caption for each picture.

    Attributes:
        metrics: name -> fraction, None where undefined.
        tags: None where no picture has known tags.
        distinct: captions that differ in their words.
    """

    metrics: Mapping[str, float | None]
    tags: TagFigures | None
    distinct: int

    def to_dict(self) -> dict[str, Any]:
        none = dict.fromkeys(TagFigures(0.0, None, None, None).to_dict())
        return {
            **self.metrics,
            **(none if self.tags is None else self.tags.to_dict()),
            "distinct_captions": self.distinct,
        }


@dataclass(frozen=True, slots=True)
class CaptionReport:
    """What `evaluate_captions` found.

    Attributes:
        images: rows evaluated, failed ones among them.
        failed: pictures without a caption, as the file named them.
        tag_truth: where the true tags are from.
        tag_images: pictures whose true tags are known.
        vocabulary: ``name@fingerprint`` of the tags.
        baseline: figures of ``constant`` for every picture.
        chosen_from: where the constant is from.
        scored_by: score -> the model that it was computed with; empty without models.
    """

    images: int
    failed: tuple[str, ...]
    figures: Figures
    tag_truth: Literal["captions", "labels"]
    tag_images: int
    vocabulary: str
    constant: str
    chosen_from: ChosenFrom
    baseline: Figures
    scored_by: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The contract's object; an undefined figure is null."""
        return {
            "images": self.images,
            "failed": len(self.failed),
            **self.figures.to_dict(),
            "tag_truth": self.tag_truth,
            "tag_images": self.tag_images,
            "vocabulary": self.vocabulary,
            **({"scored_by": dict(self.scored_by)} if self.scored_by else {}),
            "constant_baseline": {
                "caption": self.constant,
                "chosen_from": self.chosen_from,
                **self.baseline.to_dict(),
            },
        }


def references(images: Sequence[CaptionedImage]) -> list[list[str]]:
    """Per picture its captions as words with a space between them.

    Raises:
        DataError: a picture has no caption with a word in it.
    """
    found = [[text for text in map(_as_words, image.captions) if text] for image in images]
    for image, texts in zip(images, found, strict=True):
        if not texts:
            raise DataError(
                f"{image.image}: none of its captions holds a word, such as {image.captions[0]!r}; "
                "write null for a picture without captions"
            )
    return found


def evaluate_captions(
    images: Sequence[CaptionedImage],
    captions: Sequence[str | None],
    *,
    measure: Measure,
    tags: CaptionTags,
    others: Sequence[CaptionedImage] = (),
    score: Score | None = None,
    scored_by: Mapping[str, str] | None = None,
) -> CaptionReport:
    """Compare one caption of each picture with what people wrote.

    Args:
        captions: None where there is none.
        measure: references and captions, all as words with a space between them, to named figures.
        others: rows to take the constant caption from; none: ``images``.
        score: gives more figures, from pictures and texts as they were written.
        scored_by: what it computes them with, for the report.

    Raises:
        UsageError: no pictures, or not as many captions.
        DataError: no picture has a caption, or one has no reference with a word in it.
    """
    if not images or len(images) != len(captions):
        raise UsageError(
            f"{len(captions)} captions for {len(images)} pictures; expected one for each, or None"
        )
    kept = [(image, text) for image, text in zip(images, captions, strict=True) if text is not None]
    if not kept:
        raise DataError(
            f"none of the {len(images)} pictures has a caption, such as {images[0].image}; "
            "look whether pictures and captions belong together"
        )
    shown = [image for image, _ in kept]
    truth = _Truth(shown, tags)
    known = references(shown)

    def figures(texts: Sequence[str]) -> Figures:
        plain = [_as_words(text) for text in texts]
        metrics = {**measure(known, plain), **(score(shown, texts) if score is not None else {})}
        return Figures(metrics, truth.compare(texts), len(set(plain)))

    constant = typical(references(_some(others)) if others else _spread(shown, known))
    return CaptionReport(
        images=len(images),
        failed=tuple(image.image for image, text in zip(images, captions, strict=True) if text is None),
        figures=figures([text for _, text in kept]),
        tag_truth="labels" if truth.by_labels else "captions",
        tag_images=truth.pictures,
        vocabulary=tags.vocabulary.ref,
        constant=constant,
        chosen_from="train" if others else "evaluated",
        baseline=figures([constant] * len(shown)),
        scored_by=scored_by or {},
    )


class _Truth:
    """The tags that pictures are known to show."""

    def __init__(self, images: Sequence[CaptionedImage], tags: CaptionTags) -> None:
        self._tags = tags
        self._labels = {
            number: tuple(zip(image.labels, image.kinds or (None,) * len(image.labels), strict=True))
            for number, image in enumerate(images)
            if image.labels is not None
        }
        self.by_labels = bool(self._labels)
        self._names = tuple(dict.fromkeys(label for row in self._labels.values() for label in row))
        self._rows = list(self._labels) if self.by_labels else list(range(len(images)))
        if self.by_labels:
            self._truth: list[Tags] = [
                frozenset(key(name, kind) for name, kind in row) for row in self._labels.values()
            ]
        else:
            said = tags.of(text for image in images for text in image.captions)
            self._truth = union(said, [len(image.captions) for image in images])

    @property
    def pictures(self) -> int:
        return len(self._rows)

    def compare(self, captions: Sequence[str]) -> TagFigures | None:
        texts = [captions[row] for row in self._rows]
        # The constant caption stands there a thousand times.
        once = list(dict.fromkeys(texts))
        said = self._tags.labels_of(once, self._names) if self.by_labels else self._tags.of(once)
        found = dict(zip(once, said, strict=True))
        return compare([found[text] for text in texts], self._truth)


def _as_words(caption: str) -> str:
    return " ".join(words(caption))


def _some(images: Sequence[CaptionedImage]) -> list[CaptionedImage]:
    """At most so many as it takes to know what is typical; which does not hang on the order of the rows."""
    ordered = sorted(images, key=lambda image: image.image)
    return ordered[:: -(-len(ordered) // MOST_TYPICAL_OF)]


def _spread(images: Sequence[CaptionedImage], known: Sequence[list[str]]) -> list[list[str]]:
    order = sorted(range(len(images)), key=lambda row: images[row].image)
    return [known[row] for row in order[:: -(-len(order) // MOST_TYPICAL_OF)]]

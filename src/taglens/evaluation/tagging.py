"""Scoring a tagger on labelled pictures: classes from labels, columns from a vocabulary, one report.

Knows how a label finds its column and what the contract's object says. Refuses to know engines and models:
what scores the pictures is passed in as a `Scorer`.

What counts
- A class is a distinct label, as written. A label that means several tags by its rows' kinds ("train" the
  object and "train" the action) is one class per tag, each then named by its tag's id.
- A class is matched to the vocabulary by name or synonym. Among homographs the row's kind decides, without
  one the sense with the larger corpus count. Two labels that mean the same tag are two classes sharing a
  column.
- A label that matches nothing (or every label, for an open set) is scored as typed text. Where the model
  cannot read text, such a class has no scores: it is listed in ``left_out``, has ``"matched": null``, and
  stands in no array.
- A label absent from a row is negative. Classes without a positive or without a negative among the pictures
  that could be scored leave every figure (CP to OF1 too) and are listed; their ``ap`` is null.
- A row is a picture: a file named in two rows is scored and counted twice.

Shapes: N pictures that could be scored, C classes that could be scored.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import numpy.typing as npt

from taglens.errors import DataError, MismatchError, ModelError, UsageError
from taglens.evaluation.datasets import LabelledImage
from taglens.evaluation.metrics import average_precisions, evaluable, precision_recall
from taglens.results import Kind
from taglens.vocabulary import KINDS, Vocabulary, normalise


class Scorer(Protocol):
    """Whatever scores pictures against a vocabulary."""

    @property
    def vocabulary(self) -> Vocabulary:
        """What the T columns of the scores mean."""

    def scores(
        self, sources: Iterable[Path], *, batch_size: int
    ) -> Iterator[tuple[Path, npt.NDArray[np.float32] | None]]:
        """One answer per source, in order: its scores [T] in [0, 1], or None where the picture failed."""


@runtime_checkable
class OpenScorer(Scorer, Protocol):
    """A scorer whose model may also read text."""

    @property
    def reads_text(self) -> bool: ...

    def typed(self, names: list[str]) -> Scorer:
        """A scorer for these names (no two equal after `normalise`), which its vocabulary finds."""


@dataclass(frozen=True, slots=True)
class ClassResult:
    """One class.

    Attributes:
        name: the label, or the tag's id where one label means several tags.
        ap: average precision; NaN for a class that leaves the means.
        positives: pictures that have it, among those that could be scored.
        matched: the tag's id, "typed", or None where nothing could score it.
    """

    name: str
    ap: float
    positives: int
    matched: str | None

    def to_dict(self) -> dict[str, Any]:
        return {"ap": _number(self.ap), "positives": self.positives, "matched": self.matched}


@dataclass(frozen=True, slots=True)
class TaggingReport:
    """What `evaluate_tagging` found; fractions in [0, 1], NaN over no class.

    Attributes:
        images: rows evaluated, failed ones among them.
        failed: the pictures that could not be scored, as the file named them.
        per_class: every class, by name.
        left_out: names of the classes that leave the means, sorted.
        threshold: the one given, None for the stored ones.
        scores, truth: [N, C] float32 and 0/1.
        classes: [C] names of the columns: those of ``per_class`` that could be scored, in the same order.
        image_names: [N], as the file named them.
    """

    images: int
    failed: tuple[str, ...]
    per_class: tuple[ClassResult, ...]
    left_out: tuple[str, ...]
    threshold: float | None
    mean_average_precision: float
    class_precision: float
    class_recall: float
    class_f1: float
    overall_precision: float
    overall_recall: float
    overall_f1: float
    scores: npt.NDArray[np.float32] = field(repr=False, compare=False)
    truth: npt.NDArray[np.uint8] = field(repr=False, compare=False)
    classes: tuple[str, ...] = field(repr=False)
    image_names: tuple[str, ...] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """The contract's object; an undefined figure is null."""
        return {
            "images": self.images,
            "failed": len(self.failed),
            "classes": len(self.per_class),
            "left_out": list(self.left_out),
            "threshold": "stored" if self.threshold is None else self.threshold,
            "mAP": _number(self.mean_average_precision),
            "CP": _number(self.class_precision),
            "CR": _number(self.class_recall),
            "CF1": _number(self.class_f1),
            "OP": _number(self.overall_precision),
            "OR": _number(self.overall_recall),
            "OF1": _number(self.overall_f1),
            "per_class": {result.name: result.to_dict() for result in self.per_class},
        }

    def save_scores(self, path: str | os.PathLike[str]) -> None:
        """Write ``scores``, ``truth``, ``classes`` and ``images`` as npz at just this path, without pickle.

        Written beside and renamed, so that the path never holds half a file.

        Raises:
            UsageError: the path cannot be written.
        """
        path = Path(path)
        beside = path.with_name(path.name + ".part")
        try:
            # An open file, because numpy adds ".npz" to a bare path.
            with beside.open("wb") as file:
                np.savez(
                    file,
                    scores=self.scores,
                    truth=self.truth,
                    classes=np.array(self.classes, np.str_),
                    images=np.array(self.image_names, np.str_),
                )
            beside.replace(path)
        except OSError as error:
            beside.unlink(missing_ok=True)
            raise UsageError(f"cannot write scores to {path}: {error.strerror or error}") from None


@dataclass(frozen=True, slots=True)
class _Class:
    """A class before scoring: its label, its vocabulary column (None: typed) and the rows that have it."""

    label: str
    column: int | None
    rows: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Pass:
    """One run over the pictures: ``columns`` of the scorer's vocabulary fill ``targets`` of the scores."""

    scorer: Scorer
    columns: npt.NDArray[np.intp]
    targets: npt.NDArray[np.intp]


def evaluate_tagging(
    scorer: Scorer,
    images: Sequence[LabelledImage],
    *,
    threshold: float | None = None,
    open_set: bool = False,
    typed: Callable[[list[str]], Scorer] | None = None,
    batch_size: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> TaggingReport:
    """Score labelled pictures and compare.

    Labels inside the vocabulary and labels scored as text are two runs over the pictures; one that fails in
    either is failed. A tag counts as given when ``score >= threshold`` in float32, hidden tags too: hiding
    one is a matter of display.

    Args:
        threshold: one for all classes, in [0, 1]; None takes the vocabularies' stored ones.
        open_set: score every label as typed text.
        typed: names -> a scorer for them; None where the model reads no text.
        progress: called with (pictures done, pictures to do), counted over all runs.

    Raises:
        UsageError: no pictures; a threshold outside [0, 1]; an open set without ``typed``; no label that can
            be scored.
        DataError: no row names a label; every picture failed.
        ModelError: a score is not finite.
        MismatchError: the scorer answers out of order, or with more or fewer columns than its vocabulary.
    """
    if not images:
        raise UsageError("no pictures to evaluate: expected at least one labelled row")
    if threshold is not None and not 0.0 <= threshold <= 1.0:
        raise UsageError(f"threshold is {threshold}; expected a number from 0 to 1")
    if open_set and typed is None:
        raise UsageError(
            "an open set is scored as typed text, and this model reads no text: choose a model with a text "
            "encoder or evaluate its own vocabulary"
        )
    named = _classes(images, None if open_set else scorer.vocabulary)
    scored = {name: one for name, one in named.items() if one.column is not None or typed is not None}
    if not scored:
        raise UsageError(
            f"none of the {len(named)} labels, such as {next(iter(named))!r}, is a tag or synonym of "
            f"vocabulary {scorer.vocabulary.ref}, and this model reads no text: choose a model with a text "
            "encoder, or add the labels to the vocabulary as synonyms"
        )
    passes = _passes(scorer, list(scored.values()), typed)

    truth = np.zeros((len(images), len(scored)), np.uint8)
    for target, one in enumerate(scored.values()):
        truth[list(one.rows), target] = 1
    scores, alive = _run(passes, images, classes=len(scored), batch_size=batch_size, progress=progress)
    failed = tuple(image.image for image, fine in zip(images, alive, strict=True) if not fine)
    if len(failed) == len(images):
        raise DataError(
            f"none of the {len(images)} pictures could be read, such as {images[0].path}: "
            "image paths are relative to the label file's folder"
        )
    scores, truth = scores[alive], truth[alive]

    least = np.zeros(len(scored), np.float32)
    for each in passes:
        stored = each.scorer.vocabulary.least()[each.columns]
        least[each.targets] = stored if threshold is None else np.float32(threshold)
    keep = evaluable(truth)
    precisions = np.where(keep, average_precisions(scores, truth), np.nan)
    decided = precision_recall(scores >= least, truth)

    results = []
    column_of = {name: target for target, name in enumerate(scored)}
    for name, one in named.items():
        positives = sum(bool(alive[row]) for row in one.rows)
        if name not in column_of:
            results.append(ClassResult(name, math.nan, positives, None))
            continue
        matched = "typed" if one.column is None else scorer.vocabulary[one.column].id
        results.append(ClassResult(name, float(precisions[column_of[name]]), positives, matched))
    return TaggingReport(
        images=len(images),
        failed=failed,
        per_class=tuple(results),
        left_out=tuple(result.name for result in results if math.isnan(result.ap)),
        threshold=threshold,
        mean_average_precision=float(precisions[keep].mean()) if keep.any() else math.nan,
        class_precision=decided.class_precision,
        class_recall=decided.class_recall,
        class_f1=decided.class_f1,
        overall_precision=decided.overall_precision,
        overall_recall=decided.overall_recall,
        overall_f1=decided.overall_f1,
        scores=scores,
        truth=truth,
        classes=tuple(scored),
        image_names=tuple(image.image for image, fine in zip(images, alive, strict=True) if fine),
    )


def find_label(vocabulary: Vocabulary, label: str, *, kind: str | None = None) -> int | None:
    """The column that a label means, by name or synonym only, or None.

    A kind chooses among homographs and does nothing for a word with one sense. A homograph that has no sense
    of that kind means none of them.
    """
    if kind is None:
        return vocabulary.find(label)
    exact = vocabulary.find(label, kinds=[cast(Kind, kind)])
    if exact is not None:
        return exact
    senses = {vocabulary.find(label, kinds=[each]) for each in KINDS} - {None}
    return senses.pop() if len(senses) == 1 else None


def _classes(images: Sequence[LabelledImage], vocabulary: Vocabulary | None) -> dict[str, _Class]:
    """The classes by name, sorted; without a vocabulary every label is for typed text."""
    found: dict[tuple[str, str | None], int | None] = {}
    rows: dict[tuple[str, int | None], dict[int, None]] = {}
    for row, image in enumerate(images):
        for label, kind in zip(image.labels, image.kinds, strict=True):
            if (label, kind) not in found:
                found[label, kind] = None if vocabulary is None else find_label(vocabulary, label, kind=kind)
            # A dict, so that a label standing twice in a row counts once.
            rows.setdefault((label, found[label, kind]), {})[row] = None
    if not rows:
        raise DataError("no row names a label (all lists are empty): expected at least one label")
    senses: dict[str, int] = {}
    for label, _ in rows:
        senses[label] = senses.get(label, 0) + 1
    named: dict[str, _Class] = {}
    for (label, column), having in rows.items():
        name = label
        if senses[label] > 1:
            name = (
                f"typed:{normalise(label)}" if column is None or vocabulary is None else vocabulary[column].id
            )
        if name in named:
            raise DataError(f"two classes would be called {name!r}: rename one of the labels {label!r}")
        named[name] = _Class(label, column, tuple(having))
    return dict(sorted(named.items()))


def _passes(
    scorer: Scorer, classes: Sequence[_Class], typed: Callable[[list[str]], Scorer] | None
) -> list[_Pass]:
    passes = []
    inside = [(one.column, target) for target, one in enumerate(classes) if one.column is not None]
    if inside:
        columns, targets = np.array(inside, np.intp).T
        passes.append(_Pass(scorer, columns, targets))
    outside = [(one.label, target) for target, one in enumerate(classes) if one.column is None]
    if outside and typed is not None:
        # "Dog" and "dog" are two classes and one text.
        texts = {normalise(label): label for label, _ in reversed(outside)}
        reader = typed(sorted(texts.values()))
        pairs = []
        for label, target in outside:
            column = reader.vocabulary.find(label)
            if column is None:
                raise MismatchError(
                    "the scorer for typed labels does not know one of them",
                    expected=f"{label!r} in its vocabulary",
                    found=reader.vocabulary.ref,
                    cure="A typed scorer's vocabulary holds the names it was made for.",
                )
            pairs.append((column, target))
        columns, targets = np.array(pairs, np.intp).T
        passes.append(_Pass(reader, columns, targets))
    return passes


def _run(
    passes: Sequence[_Pass],
    images: Sequence[LabelledImage],
    *,
    classes: int,
    batch_size: int,
    progress: Callable[[int, int], None] | None,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Scores [rows, C], undefined where a picture failed, and which rows did not fail, [rows]."""
    scores = np.zeros((len(images), classes), np.float32)
    alive = np.ones(len(images), bool)
    total = len(images) * len(passes)
    for number, each in enumerate(passes):
        rows = [row for row, fine in enumerate(alive) if fine]
        # What failed in an earlier run is not tried again and counts as done.
        done = len(images) * (number + 1) - len(rows)
        answers = each.scorer.scores((images[row].path for row in rows), batch_size=batch_size)
        for row in rows:
            path, answer = next(answers, (None, None))
            if path is None or path != images[row].path:
                raise MismatchError(
                    "the scorer answered out of order",
                    expected=f"scores of {images[row].path}",
                    found="nothing" if path is None else str(path),
                    cure="A scorer gives one answer per picture, in order.",
                )
            if answer is None:
                alive[row] = False
            else:
                scores[row, each.targets] = _checked(answer, each, path)
            done += 1
            if progress is not None:
                progress(done, total)
    return scores, alive


def _checked(answer: npt.NDArray[np.float32], each: _Pass, path: Path) -> npt.NDArray[np.float32]:
    vocabulary = each.scorer.vocabulary
    if answer.shape != (len(vocabulary),):
        raise MismatchError(
            "scores and vocabulary do not fit",
            expected=f"{len(vocabulary)} scores for {vocabulary.ref}",
            found=f"shape {answer.shape}",
            cure="Load the vocabulary that was saved with the model.",
        )
    chosen = answer[each.columns]
    if not np.isfinite(chosen).all():
        column = int(each.columns[np.flatnonzero(~np.isfinite(chosen))[0]])
        raise ModelError(
            f"the score of {vocabulary[column].id!r} for {path} is {answer[column]}; expected a number "
            "from 0 to 1. The model is damaged or overflows in its precision"
        )
    return chosen


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value

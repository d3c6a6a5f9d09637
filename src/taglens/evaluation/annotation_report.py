"""An annotation against people's labels: figures, what each stage did, which tags are confused, and suspicions.

Knows how rows of ``taglens annotate`` meet a truth tag by tag. Refuses to know pages and what becomes of suspicions.
A suspicion is a label about which annotator and people disagree; it says nothing of who is wrong. Classes are the
names of the truth that the annotation could give: about other tags nothing is known.

Shapes: N pictures, C classes.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from taglens.collection.annotated import Annotated, Mark, State, read_annotated
from taglens.collection.annotation_review import Suspicion
from taglens.collection.annotation_store import CONCEPTS
from taglens.errors import UsageError
from taglens.evaluation.datasets import LabelledImage, read_labels
from taglens.evaluation.metrics import PrecisionRecall, precision_recall
from taglens.language.annotation_prompts import plain
from taglens.language.corpora import json_object, text_lines
from taglens.vocabulary import Vocabulary, normalise

Booleans = npt.NDArray[np.bool_]


class Meeting:
    """Pictures that an annotation and a truth have in common, over the classes of the truth.

    Attributes:
        rows: [N]; truth: [N, C]; classes: [C], keys; names: [C], for people.
        given, dropped, unsettled: [N, C], what the annotation says.
        left_out: pictures that one of the two lacks, or that could not be used.
    """

    def __init__(
        self,
        annotation: Path,
        truth: Path,
        *,
        split: str | None = None,
        vocabulary: Vocabulary | None = None,
    ) -> None:
        """Read both.

        Args:
            vocabulary: the tags that were asked for; names and synonyms then meet, and names that it lacks are no
                classes. None: all names of the truth are, compared letter for letter.

        Raises:
            DataError, UsageError: a file cannot be read, or they have no picture or class in common.
        """
        self._vocabulary = vocabulary
        wanted = {os.path.realpath(image.path): image for image in read_labels(truth, split=split)}
        rows = {
            os.path.realpath(row.path): row for row in read_annotated(annotation) if row.given is not None
        }
        places = [place for place in rows if place in wanted]
        if not places:
            raise UsageError(
                f"no picture of {truth} has labels in {annotation}; give the labels of the same pictures"
            )
        self.rows = [rows[place] for place in places]
        self.left_out = len(rows.keys() | wanted.keys()) - len(places)
        true = [self._of_truth(wanted[place]) for place in places]
        names: dict[str, str] = {}
        for each in true:
            names |= each
        if not names:
            raise UsageError(
                f"no name of {truth} is a tag of the vocabulary; give the one that was asked for"
            )
        self.classes = sorted(names)
        self.names = [names[key] for key in self.classes]
        self.columns = {key: column for column, key in enumerate(self.classes)}
        self.truth = self._matrix(true)
        self.given = self._matrix([self.keys(row.given or ()) for row in self.rows])
        self.dropped = self._matrix([self.keys(row.dropped) for row in self.rows])
        self.unsettled = self._matrix([self.keys(row.unsettled) for row in self.rows])

    def key(self, mark: Mark) -> str | None:
        """A tag as classes are called; None for one that the vocabulary lacks."""
        if self._vocabulary is None:
            return normalise(mark.name)
        column = None if mark.kind is None else self._vocabulary.find(mark.name, kinds=(mark.kind,))
        column = self._vocabulary.find(mark.name) if column is None else column
        return None if column is None else self._vocabulary[column].id

    def keys(self, marks: Iterable[Mark]) -> dict[str, Mark]:
        return {key: mark for mark in marks if (key := self.key(mark)) is not None}

    def _of_truth(self, image: LabelledImage) -> dict[str, str]:
        marks = (Mark(name, kind) for name, kind in zip(image.labels, image.kinds, strict=True))
        return {key: self._called(key, mark) for key, mark in self.keys(marks).items()}

    def _called(self, key: str, mark: Mark) -> str:
        if self._vocabulary is None:
            return mark.name
        return self._vocabulary[self._vocabulary.position(key)].name

    def _matrix(self, keys: Sequence[Iterable[str]]) -> Booleans:
        found = np.zeros((len(self.rows), len(self.classes)), bool)
        for row, each in enumerate(keys):
            found[row, [self.columns[key] for key in each if key in self.columns]] = True
        return found


# -- figures ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Judged:
    """Labels by the people's: how many, and how many of them they gave too."""

    labels: int
    right: int

    def to_dict(self) -> dict[str, Any]:
        share = self.right / self.labels if self.labels else None
        return {"labels": self.labels, "right": self.right, "precision": _round(share)}


@dataclass(frozen=True, slots=True)
class Confusion:
    """A tag that was said where people gave another one and not it.

    Attributes:
        pictures: in which that is so; instead: those of them in which the other one was not said.
        alike: concepts call one of them a look-alike of the other.
    """

    said: str
    truth: str
    pictures: int
    instead: int
    alike: bool

    def to_dict(self) -> dict[str, Any]:
        return {
            "said": self.said,
            "truth": self.truth,
            "pictures": self.pictures,
            "instead": self.instead,
            "look_alikes": self.alike,
        }


@dataclass(frozen=True, slots=True)
class Report:
    """Everything, over the classes of the truth.

    Attributes:
        by_stage: labels by the stage that had the last word.
        proposed: what the first stage proposed, candidates that were dropped later among them.
        dropped: candidates that the second stage denied, ``right`` those that people do not give either.
        unsettled: tags without an answer, ``right`` those that people give: what is missing for want of one.
        recall_lost: [proposing, settling, unsettled], labels of people that are missing, by where they were lost.
    """

    pictures: int
    left_out: int
    classes: tuple[str, ...]
    figures: PrecisionRecall
    by_stage: Mapping[str, Judged]
    proposed: Judged
    dropped: Judged
    unsettled: Judged
    wanted: int
    recall_lost: tuple[int, int, int]
    confusions: tuple[Confusion, ...]
    per_class: tuple[tuple[str, int, int, int], ...]

    def to_dict(self) -> dict[str, Any]:
        figures = self.figures
        never, settled, open = self.recall_lost
        return {
            "images": self.pictures,
            "left_out": self.left_out,
            "classes": len(self.classes),
            "OP": _round(figures.overall_precision),
            "OR": _round(figures.overall_recall),
            "OF1": _round(figures.overall_f1),
            "CP": _round(figures.class_precision),
            "CR": _round(figures.class_recall),
            "CF1": _round(figures.class_f1),
            "stages": {stage: judged.to_dict() for stage, judged in self.by_stage.items()},
            "proposed": {
                **self.proposed.to_dict(),
                "recall": _round(self.proposed.right / self.wanted if self.wanted else None),
            },
            "dropped": {
                "labels": self.dropped.labels,
                "rightly": self.dropped.right,
                "wrongly": self.dropped.labels - self.dropped.right,
            },
            "unsettled": {"labels": self.unsettled.labels, "in_truth": self.unsettled.right},
            "missing": {"never_proposed": never, "dropped": settled, "unsettled": open},
            "confusions": [one.to_dict() for one in self.confusions],
            "per_class": {
                name: {"truth": wanted, "given": given, "right": right}
                for name, wanted, given, right in self.per_class
            },
        }


def report(meeting: Meeting, *, alike: frozenset[tuple[str, str]] = frozenset(), most: int = 20) -> Report:
    """All figures of a meeting.

    Args:
        alike: pairs of classes' keys that look alike (`look_alikes`), in either order.
        most: confusions to tell, of look-alikes and of others each.
    """
    given, true = meeting.given, meeting.truth
    stages: dict[str, list[int]] = {}
    for row, one in enumerate(meeting.rows):
        for key, mark in meeting.keys(one.given or ()).items():
            if (column := meeting.columns.get(key)) is not None:
                counts = stages.setdefault(mark.stage or "unknown", [0, 0])
                counts[0] += 1
                counts[1] += int(true[row, column])
    proposed = given | meeting.dropped
    dropped = meeting.dropped & ~given
    open = meeting.unsettled & ~given
    missing = true & ~given
    return Report(
        len(meeting.rows),
        meeting.left_out,
        tuple(meeting.names),
        precision_recall(given, true.astype(np.uint8)),
        {stage: Judged(*counts) for stage, counts in sorted(stages.items())},
        Judged(int(proposed.sum()), int((proposed & true).sum())),
        Judged(int(dropped.sum()), int((dropped & ~true).sum())),
        Judged(int(open.sum()), int((open & true).sum())),
        int(true.sum()),
        (
            int((missing & ~dropped & ~open).sum()),
            int((missing & dropped).sum()),
            int((missing & open & ~dropped).sum()),
        ),
        _confusions(meeting, alike, most),
        tuple(
            (name, int(true[:, c].sum()), int(given[:, c].sum()), int((given & true)[:, c].sum()))
            for c, name in enumerate(meeting.names)
        ),
    )


def _confusions(meeting: Meeting, alike: frozenset[tuple[str, str]], most: int) -> tuple[Confusion, ...]:
    """Look-alikes first; each by how often one stood for the other, then by how often they met at all."""
    wrong = (meeting.given & ~meeting.truth).astype(np.float32)
    missed = (meeting.truth & ~meeting.given).astype(np.float32)
    met = wrong.T @ meeting.truth.astype(np.float32)
    instead = wrong.T @ missed
    found = []
    for a, b in zip(*np.nonzero(met), strict=True):
        first, second = meeting.classes[a], meeting.classes[b]
        near = (first, second) in alike or (second, first) in alike
        one = Confusion(meeting.names[a], meeting.names[b], int(met[a, b]), int(instead[a, b]), near)
        # What merely stood in the same picture is no confusion, unless they look alike.
        if near or one.instead:
            found.append(one)
    found.sort(key=lambda one: (-one.instead, -one.pictures, one.said, one.truth))
    near_ones = [one for one in found if one.alike]
    return (*near_ones[:most], *[one for one in found if not one.alike][:most])


def look_alikes(meeting: Meeting, files: Iterable[Path]) -> frozenset[tuple[str, str]]:
    """Pairs of keys that files of concepts (``taglens annotate concepts``) call look-alikes.

    Raises:
        DataError: a file cannot be read.
    """
    found = set()
    for path in files:
        for number, line in text_lines(path):
            row = json_object(path, number, line)
            others = row.get("look_alikes") or ()
            own = meeting.key(_shown(str(row.get("name", ""))))
            found |= {(own, key) for other in others if (key := meeting.key(_shown(str(other)))) and own}
    return frozenset(found)


def concept_files(folder: Path, more: Iterable[Path] = ()) -> list[Path]:
    """The concepts that a folder was annotated with, and further files."""
    own = folder / CONCEPTS
    return [*([own] if own.is_file() else []), *more]


def _shown(name: str) -> Mark:
    """A name as questions show it: with its kind behind where names repeat."""
    for kind in ("object", "scene", "attribute", "action"):
        if plain(name).endswith(f" ({kind})"):
            return Mark(name.strip()[: -len(kind) - 3], kind)
    return Mark(name)


# -- suspicions ------------------------------------------------------------------------------------


def suspicions(meeting: Meeting, others: Sequence[Path] = ()) -> dict[str, list[Suspicion]]:
    """A picture's key -> labels about which annotator and people disagree, each with a rank; none says who is wrong.

    The rank is the smoothed share of the voices for the annotator (its votes, a tagger that was sure, and every other
    annotation of the picture) times how often the two agree about that class elsewhere: where they mostly agree, a
    disagreement is more likely a slip. What is unsettled is no disagreement.

    Args:
        others: further annotations of the same pictures, by other strategies or models.
    """
    said_by = [_by_place(meeting, folder) for folder in others]
    agree = _agreement(meeting)
    found: dict[str, list[Suspicion]] = {}
    for number, row in enumerate(meeting.rows):
        given = meeting.keys(row.given or ())
        dropped = meeting.keys(row.dropped)
        place = os.path.realpath(row.path)
        elsewhere = [each[place] for each in said_by if place in each]
        own = []
        for column in np.flatnonzero(meeting.truth[number] != meeting.given[number]):
            key = meeting.classes[column]
            said = bool(meeting.given[number, column])
            if not said and meeting.unsettled[number, column]:
                continue
            mark, state = _named(meeting, int(column), given.get(key), dropped.get(key))
            voices, against, why = _voices(mark, state, said=said)
            same = sum((key in yes) == said for yes, known in elsewhere if key in known)
            asked = sum(key in known for _, known in elsewhere)
            rank = (voices + same + 1) / (voices + against + asked + 2)
            common = float(agree[int(said), number, column])
            if asked:
                why += f"; {same} of {asked} other annotations say the same"
            people = "people do not give it" if said else "people give it"
            why = f"{people}; {why}; elsewhere both agree in {100 * common:.0f} %"
            own.append(Suspicion(mark, state, said, _round(rank * common) or 0.0, why))
        if own:
            found[row.key] = sorted(own, key=lambda one: (-one.rank, one.mark.id))
    return found


def _named(meeting: Meeting, column: int, given: Mark | None, dropped: Mark | None) -> tuple[Mark, State]:
    if given is not None:
        return given, "given"
    if dropped is not None:
        return dropped, "dropped"
    key = meeting.classes[column]
    kind, _, _ = key.partition(":")
    named = kind if kind in ("object", "scene", "attribute", "action") and ":" in key else None
    return Mark(meeting.names[column], named), "absent"  # type: ignore[arg-type]


def _voices(mark: Mark, state: State, *, said: bool) -> tuple[float, float, str]:
    """Voices for what the annotator says and against it, in its own answers."""
    if not said:
        return (1, 0, "asked for by itself and denied") if state == "dropped" else (0.5, 0, "never proposed")
    if mark.votes is not None:
        yes, read = mark.votes
        return yes, read - yes, f"{yes} of {read} votes for it"
    if mark.stage == "tagger":
        score = "" if mark.tagger_score is None else f" ({mark.tagger_score:.2f})"
        return 1, 0, f"the tagger was sure{score}"
    # A person's word in a review weighs as two.
    return (2, 0, "accepted in a review") if mark.stage == "review" else (1, 0, "given")


def _agreement(meeting: Meeting) -> npt.NDArray[np.float64]:
    """[2, N, C]: of the labels of a class in other pictures, the share that both give, smoothed.

    [0] of those that people give (where the annotator finds nearly all, one that it does not find is suspicious);
    [1] of those that the annotator gives.
    """
    both = (meeting.given & meeting.truth).astype(float)
    right = both.sum(axis=0)
    precision = (right + 1) / (meeting.given.sum(axis=0) - meeting.given + 2)
    recall = (right + 1) / (meeting.truth.sum(axis=0) - meeting.truth + 2)
    # Disagreements are never in `both`, so that the picture itself is left out of the right ones too.
    return np.stack([recall, precision])


def _by_place(meeting: Meeting, folder: Path) -> dict[str, tuple[set[str], set[str]]]:
    """Picture -> (classes that an annotation gives, classes that it has an answer for)."""
    found = {}
    for row in read_annotated(folder):
        if row.given is not None:
            yes = set(meeting.keys(row.given))
            unsettled = set(meeting.keys(row.unsettled))
            found[os.path.realpath(row.path)] = (yes, set(meeting.classes) - unsettled)
    return found


def suspicion_rows(
    meeting: Meeting, found: Mapping[str, Sequence[Suspicion]], *, most: int | None = None
) -> list[dict[str, Any]]:
    """Suspicions by falling rank, as the lines of a file that says of itself what it is."""
    by_key: Mapping[str, Annotated] = {row.key: row for row in meeting.rows}
    flat = [(key, one) for key, several in found.items() for one in several]
    flat.sort(key=lambda pair: (-pair[1].rank, pair[0], pair[1].mark.id))
    return [
        {
            "suspicion": "label_missing" if one.said else "label_wrong",
            "source": by_key[key].source,
            "image": by_key[key].path,
            "label": one.mark.name,
            "kind": one.mark.kind,
            "rank": one.rank,
            "why": one.why,
            "votes": None if one.mark.votes is None else list(one.mark.votes),
            "stage": one.mark.stage,
            "tagger_score": one.mark.tagger_score,
        }
        for key, one in flat[:most]
    ]


def most_suspected(found: Mapping[str, Sequence[Suspicion]]) -> list[tuple[str, int]]:
    """(label, how often) of those that are suspected most often."""
    return Counter(one.mark.name for several in found.values() for one in several).most_common()


def _round(value: float | None) -> float | None:
    return None if value is None or np.isnan(value) else float(f"{value:.6g}")

"""Before and after: what a data engine changed, tag by tag, with examples; against a yardstick where there is one.

Knows counts, precision and recall. Refuses to know how labels were made or judged, and files beyond their rows.
Shapes: N pictures, C tags that the yardstick knows.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from taglens.data.labelling import label_from_names
from taglens.data.sources import read_labels
from taglens.errors import DataError
from taglens.evaluation.metrics import precision_recall
from taglens.training.engine_cleaning import TagReport, Verdict
from taglens.training.engine_generate import Entrant, Known, Label
from taglens.training.engine_regions import real_path
from taglens.vocabulary import Vocabulary

STAGES = ("given", "merged", "cleaned")
_EXAMPLES = 3
_SHOWN = 30


def read_truth(path: Path, pictures: Sequence[Entrant], vocabulary: Vocabulary) -> list[dict[str, Any]]:
    """A yardstick's rows for these pictures: ``{"row", "tags"}``, and first ``{"classes"}``, all that it speaks of.

    Names that are no tag are left out: no label of the engine's could say them. What a tag implies counts as there.

    Raises:
        DataError: the file breaks its form, or speaks of none of these pictures or of no tag.
    """
    find = label_from_names(vocabulary)
    rows = {real_path(each.path): number for number, each in enumerate(pictures)}
    classes: set[int] = set()
    found: dict[int, list[str]] = {}
    for row in read_labels(path):
        if row.labels is None:
            continue
        columns = find(row).columns
        named = {vocabulary.find(name) for name in row.labels}
        classes |= {column for column in columns if column in named}
        number = rows.get(real_path(row.path))
        if number is not None:
            found[number] = [vocabulary[column].id for column in columns]
    if not found or not classes:
        raise DataError(
            f"{path} speaks of none of the {len(pictures)} pictures, or of no tag of {vocabulary.ref}: name the "
            "labels of these very files"
        )
    first: dict[str, Any] = {"classes": [vocabulary[column].id for column in sorted(classes)]}
    return [first, *({"row": number, "tags": found[number]} for number in sorted(found))]


@dataclass(slots=True)
class _OfTag:
    """One tag's numbers."""

    stages: Counter[str] = field(default_factory=Counter)
    why: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {"added": [], "removed": []})


class Tally:
    """Counts pictures one after another, and then says what was found.

    Args:
        truth: rows as `read_truth` gives them; none: no yardstick.
    """

    def __init__(self, vocabulary: Vocabulary, *, truth: Iterable[Mapping[str, Any]] = ()) -> None:
        self._vocabulary = vocabulary
        self._pictures = self._failed = self._written = 0
        self._origins: dict[str, Counter[str]] = {stage: Counter() for stage in STAGES}
        self._tags: dict[int, _OfTag] = defaultdict(_OfTag)
        self._undone = 0
        self._implied = 0
        rows = list(truth)
        self._classes = [vocabulary.position(tag) for tag in rows[0]["classes"]] if rows else []
        self._truth = {int(row["row"]): {vocabulary.position(tag) for tag in row["tags"]} for row in rows[1:]}
        self._measured: list[dict[str, set[int]]] = []

    def add(
        self, known: Known, going: Mapping[int, Verdict], labels: Sequence[Label], *, spared: int
    ) -> None:
        """One picture: what was known, what cleaning takes, what stands in the end; ``spared``: verdicts ignored."""
        words = self._vocabulary
        self._pictures += 1
        self._written += known.written is not None
        if known.error is not None:
            self._failed += 1
            return
        self._implied += spared
        stages = {
            "given": [label for label in known.labels if label.own],
            "merged": list(known.labels),
            "cleaned": list(labels),
        }
        columns = {stage: {words.position(label.tag) for label in held} for stage, held in stages.items()}
        for stage, held in stages.items():
            for label in held:
                origins = label.as_given().origins if stage == "given" else label.origins
                self._origins[stage].update(origins)
            for column in columns[stage]:
                self._tags[column].stages[stage] += 1
        for column in sorted(columns["cleaned"] - columns["given"]):
            self._example(known, column, "added", {})
        for column, verdict in going.items():
            if column in columns["cleaned"]:
                self._undone += 1
                continue
            self._tags[column].why.update(verdict.why)
            self._example(known, column, "removed", {"why": list(verdict.why), "region": verdict.to_dict()})
        if known.row in self._truth:
            right = self._truth[known.row]
            closed = {stage: words.with_parents(held) for stage, held in columns.items()}
            self._measured.append({**closed, "truth": words.with_parents(right)})

    def _example(self, known: Known, column: int, change: str, more: Mapping[str, Any]) -> None:
        kept = self._tags[column].examples[change]
        if len(kept) < _EXAMPLES:
            label = next(each for each in known.labels if each.tag == self._vocabulary[column].id)
            about = {"image": known.image, "origins": list(label.origins), "score": label.score}
            kept.append({**about, **more})

    def report(self, tags: Mapping[int, TagReport], *, about: Mapping[str, Any]) -> dict[str, Any]:
        """All of it as one object; ``tags``: what judging found of each."""
        alive = self._pictures - self._failed
        stages = {}
        for stage in STAGES:
            labels = sum(each.stages[stage] for each in self._tags.values())
            stages[stage] = {
                "labels": labels,
                "per_picture": round(labels / alive, 4) if alive else None,
                "tags": sum(each.stages[stage] > 0 for each in self._tags.values()),
                "origins": dict(sorted(self._origins[stage].items())),
            }
        reasons: Counter[str] = Counter()
        for each in self._tags.values():
            reasons.update(each.why)
        outcomes = Counter(each.outcome for each in tags.values())
        return {
            **about,
            "pictures": self._pictures,
            "failed": self._failed,
            "captions_written": self._written,
            "stages": stages,
            "removed_because": dict(sorted(reasons.items())),
            "kept_because_spared_or_implied": self._implied,
            "taken_back": self._undone,
            "tags_judged": dict(sorted(outcomes.items())),
            "truth": self._against_truth() if self._truth else None,
            "tags": [self._of_tag(column, tags.get(column)) for column in self._order()],
        }

    def _order(self) -> list[int]:
        """Tags by how much changed, the most first."""
        return sorted(
            self._tags,
            key=lambda column: (
                -abs(self._tags[column].stages["merged"] - self._tags[column].stages["given"])
                - abs(self._tags[column].stages["merged"] - self._tags[column].stages["cleaned"]),
                column,
            ),
        )

    def _of_tag(self, column: int, found: TagReport | None) -> dict[str, Any]:
        entry, own = self._vocabulary[column], self._tags[column]
        return {
            "tag": entry.id,
            "name": entry.name,
            **{stage: own.stages[stage] for stage in STAGES},
            "removed_because": dict(sorted(own.why.items())),
            "judged": None if found is None else found.to_dict(),
            "examples": own.examples,
        }

    # -- against a yardstick ---------------------------------------------------------------------------

    def _against_truth(self) -> dict[str, Any]:
        truth = self._table("truth")
        found: dict[str, Any] = {"pictures": len(self._measured), "tags": len(self._classes)}
        for stage in STAGES:
            measured = precision_recall(self._table(stage), truth)
            found[stage] = {
                "CP": _number(measured.class_precision),
                "CR": _number(measured.class_recall),
                "CF1": _number(measured.class_f1),
                "OP": _number(measured.overall_precision),
                "OR": _number(measured.overall_recall),
                "OF1": _number(measured.overall_f1),
            }
        given, merged, cleaned = (self._table(stage) for stage in STAGES)
        right = truth.astype(bool)
        for name, changed, good in (
            ("added", merged & ~given, right),
            ("removed", merged & ~cleaned, ~right),
            ("removed_of_given", given & ~cleaned, ~right),
        ):
            count = int(changed.sum())
            found[name] = {"labels": count, "rightly": int((changed & good).sum())}
        return found

    def _table(self, name: str) -> npt.NDArray[np.bool_]:
        """[N, C]"""
        table = np.zeros((len(self._measured), len(self._classes)), bool)
        for place, each in enumerate(self._measured):
            table[place] = [column in each[name] for column in self._classes]
        return table


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)


# -- for eyes --------------------------------------------------------------------------------------------


def page(report: Mapping[str, Any]) -> str:
    """The report as Markdown."""
    stages = report["stages"]
    lines = [
        "# What the data engine changed",
        "",
        (
            f"{report['pictures']:,} pictures, {report['failed']:,} of them unreadable; "
            f"model {_cell(report['model'])}, vocabulary {_cell(report['vocabulary'])}, "
            f"regions: {_cell(report['regions'])}."
        ),
        "",
        "| | labels | a picture | different tags | origins |",
        "|---|---:|---:|---:|---|",
    ]
    for stage in STAGES:
        row = stages[stage]
        origins = ", ".join(f"{name} {count:,}" for name, count in row["origins"].items()) or "none"
        each = "-" if row["per_picture"] is None else f"{row['per_picture']:.2f}"
        lines.append(f"| {stage} | {row['labels']:,} | {each} | {row['tags']:,} | {origins} |")
    because = ", ".join(f"{why} {count:,}" for why, count in report["removed_because"].items()) or "nothing"
    judged = ", ".join(f"{_OUTCOMES[name]} {count:,}" for name, count in report["tags_judged"].items())
    lines += [
        "",
        (
            f"Removed because: {because} (a label may have both reasons). Verdicts not carried out, because the "
            f"label is spared or another one implies it: {report['kept_because_spared_or_implied']:,}. Taken back "
            f"by a person: {report['taken_back']:,}."
        ),
        f"Tags: {judged or 'none'}.",
        "",
    ]
    if report["truth"] is not None:
        lines += _truth_lines(report["truth"])
    lines += [
        f"## The {min(_SHOWN, len(report['tags']))} tags that changed most",
        "",
        "| tag | given | merged | cleaned | outlier | disagrees | regions that agree |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    shown = report["tags"][:_SHOWN]
    for row in shown:
        why, judged = row["removed_because"], row["judged"]
        agree = "-"
        if judged is not None and judged["outcome"] in ("judged", "doubtful"):
            agree = f"{judged['agreeing']:,} of {judged['regions']:,}"
        lines.append(
            f"| {_cell(row['tag'])} | {row['given']:,} | {row['merged']:,} | {row['cleaned']:,} | "
            f"{why.get('outlier', 0):,} | {why.get('disagrees', 0):,} | {agree} |"
        )
    lines += ["", "## Examples", ""]
    for row in shown:
        for change in ("removed", "added"):
            for each in row["examples"][change]:
                lines.append(f"- {_cell(row['tag'])} {change}: {_cell(each['image'])}{_told(each)}")
    return "\n".join(lines) + "\n"


_OUTCOMES = {
    "judged": "judged",
    "doubtful": "judged by distance alone, because the model confirms too few of their regions,",
    "few": "left alone for want of pictures",
    "kind": "left alone for their kind",
}


def _truth_lines(truth: Mapping[str, Any]) -> list[str]:
    lines = [
        f"## Against the yardstick ({truth['pictures']:,} pictures, {truth['tags']:,} tags)",
        "",
        "| | CP | CR | CF1 | OP | OR | OF1 |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for stage in STAGES:
        values = (truth[stage][name] for name in ("CP", "CR", "CF1", "OP", "OR", "OF1"))
        lines.append(f"| {stage} | " + " | ".join("-" if v is None else f"{v:.3f}" for v in values) + " |")
    told = [
        f"{truth[name]['rightly']:,} of {truth[name]['labels']:,} {what}"
        for name, what in (
            ("added", "added labels are right"),
            ("removed", "removed ones were wrong"),
            ("removed_of_given", "removed ones that the corpus had given were wrong"),
        )
    ]
    return [*lines, "", f"By the yardstick {'; '.join(told)}.", ""]


def _told(example: Mapping[str, Any]) -> str:
    score = "" if example["score"] is None else f", {example['score']:.2f} on the whole picture"
    text = f" ({', '.join(example['origins'])}{score}"
    if "region" in example:
        region = example["region"]
        far = "" if region["limit"] is None else f", outliers from {region['limit']:.2f}"
        text += (
            f"; {' and '.join(example['why'])}: region scores {region['score']:.2f}, needs {region['needed']:.2f}; "
            f"distance {region['distance']:.2f}{far}"
        )
    return text + ")"


def _cell(text: str) -> str:
    """Text that Markdown shows and does not obey."""
    flat = " ".join(str(text).split())
    return "".join("\\" + letter if letter in "\\`*_[]<>|#~" else letter for letter in flat)

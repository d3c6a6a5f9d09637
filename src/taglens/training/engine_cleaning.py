"""Which labels are wrong, tag by tag: far from the others' regions, or not seen in them (RAM 2.3, steps 5 to 7).

Knows distances, agreement, and how the two are joined (choice R2). Refuses to know how regions were looked at
(`taglens.training.engine_looks`) and files.
Shapes: n regions of one tag, E width, T tags.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from taglens.errors import UsageError
from taglens.results import Kind, significant
from taglens.training.engine_clusters import cluster_count, k_means, outliers
from taglens.training.engine_generate import ORIGINS, Known, Label, Origin
from taglens.training.engine_looks import Looks
from taglens.vocabulary import KINDS, Vocabulary

Rule = Literal["either", "both", "outliers", "regions"]
RULES: tuple[Rule, ...] = get_args(Rule)
Outcome = Literal["judged", "kind", "few", "doubtful"]

# Regions of tags that are gathered together, in bytes of their vectors.
_GROUP_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Cleaning:
    """How labels are judged.

    Attributes:
        kinds: of the tags that are judged. The original cleaned 534 categories that a detector finds: things.
        least_pictures: tags with fewer regions are not judged.
        per_cluster, most_clusters: one centre for every so many regions, at most so many.
        share: of a tag's regions that are outliers, the farthest.
        rule: what removes a label: an outlier or a region that disagrees ("either"), only both together, only one.
        agree: the score at which a region agrees; None: each tag's own threshold.
        trust: the share of a tag's regions that must agree for the others to count as disagreeing: of a tag that the
            model mostly misses, what it says tells nothing. 0: it is always believed, as in the original.
        spare: labels of these origins are never removed.
        seed: of the clusters.

    Raises:
        UsageError: a value outside its range.
    """

    kinds: tuple[Kind, ...] = ("object", "scene")
    least_pictures: int = 20
    per_cluster: int = 50
    most_clusters: int = 8
    share: float = 0.1
    rule: Rule = "either"
    agree: float | None = None
    trust: float = 0.5
    spare: tuple[Origin, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        for what, values, known in (
            ("kind", self.kinds, KINDS),
            ("rule", (self.rule,), RULES),
            ("origin to spare", self.spare, ORIGINS),
        ):
            for value in values:
                if value not in known:
                    raise UsageError(f"{what} {value!r}: expected one of {', '.join(known)}")
        if min(self.least_pictures, self.per_cluster, self.most_clusters) < 1 or self.seed < 0:
            raise UsageError(
                "pictures of a tag, regions per centre and centres must be 1 or more, the seed 0 or more; came "
                f"{self.least_pictures}, {self.per_cluster}, {self.most_clusters} and {self.seed}"
            )
        if not 0.0 <= self.share < 1.0:
            raise UsageError(f"the share of outliers is {self.share}: expected 0 up to, but not, 1")
        for what, share in (("agree", self.agree), ("trust", self.trust)):
            if share is not None and not 0.0 <= share <= 1.0:
                raise UsageError(f"{what} is {share}: expected 0 to 1")

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "kinds": list(self.kinds), "spare": list(self.spare)}


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why one label of one picture is wrong.

    Attributes:
        why: "outlier", "disagrees".
        box: of the tag's best region, fractions of width and height; score: the model's for the tag there.
        needed: the score at which it would agree.
        distance: to the nearest of ``clusters`` centres, the ``cluster``-th; limit: the least that is an outlier's.
    """

    why: tuple[str, ...]
    box: tuple[float, ...]
    score: float
    needed: float
    distance: float
    limit: float | None
    cluster: int
    clusters: int

    def to_dict(self) -> dict[str, Any]:
        row: dict[str, Any] = asdict(self)
        del row["why"]
        return {**row, "box": list(self.box)}


@dataclass(frozen=True, slots=True)
class TagReport:
    """What was found of one tag: ``outcome`` says whether it was judged, and if not, why.

    Attributes:
        outcome: "judged"; "kind" or "few": not; "doubtful": too few regions agreed for the others to be believed to
            disagree, and so by distance alone.
        regions, clusters, agreeing: how many.
    """

    outcome: Outcome
    regions: int = 0
    clusters: int = 0
    agreeing: int = 0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Judgement:
    """verdicts: row -> column -> why it goes; tags: column -> what was found, for tags with a region."""

    verdicts: Mapping[int, Mapping[int, Verdict]] = field(default_factory=dict)
    tags: Mapping[int, TagReport] = field(default_factory=dict)


def judge(read: Callable[[], Iterable[Looks]], vocabulary: Vocabulary, *, cleaning: Cleaning) -> Judgement:
    """Every tag's regions against each other, and against what the model says of them.

    Args:
        read: gives all looks, piece by piece; called anew for every group of tags that fits into memory.
    """
    counts = np.zeros(len(vocabulary), np.int64)
    width = 1
    for part in read():
        counts += np.bincount(part.columns, minlength=len(vocabulary))
        width = max(width, part.vectors.shape[1])
    kinds = np.array([entry.kind in cleaning.kinds for entry in vocabulary], bool)
    reports: dict[int, TagReport] = {}
    for column in np.flatnonzero(counts).tolist():
        if not kinds[column]:
            reports[column] = TagReport("kind", int(counts[column]))
        elif counts[column] < cleaning.least_pictures:
            reports[column] = TagReport("few", int(counts[column]))
    able = [column for column in np.flatnonzero(counts).tolist() if column not in reports]
    verdicts: dict[int, dict[int, Verdict]] = {}
    needed = (
        vocabulary.least() if cleaning.agree is None else np.full(len(vocabulary), cleaning.agree, np.float32)
    )
    for group in _groups(able, counts, 2 * width):
        mask = np.zeros(len(vocabulary), bool)
        mask[group] = True
        looks = Looks.joined([part.of(mask) for part in read()])
        for column in group:
            own = looks.at(np.flatnonzero(looks.columns == column))
            reports[column], found = judge_tag(
                own, tag=vocabulary[column].id, needed=float(needed[column]), cleaning=cleaning
            )
            for row, verdict in found.items():
                verdicts.setdefault(row, {})[column] = verdict
    return Judgement(verdicts, dict(sorted(reports.items())))


def _groups(columns: list[int], counts: npt.NDArray[np.int64], each: int) -> Iterator[list[int]]:
    group: list[int] = []
    size = 0
    for column in columns:
        more = int(counts[column]) * each
        if group and size + more > _GROUP_BYTES:
            yield group
            group, size = [], 0
        group.append(column)
        size += more
    if group:
        yield group


def judge_tag(
    looks: Looks, *, tag: str, needed: float, cleaning: Cleaning
) -> tuple[TagReport, dict[int, Verdict]]:
    """One tag's regions [n] to the verdicts on its pictures, by row. Depends on nothing else than these regions."""
    n = len(looks)
    count = cluster_count(n, per_cluster=cleaning.per_cluster, most=cleaning.most_clusters)
    # A stream of its own per tag: what else is in the vocabulary changes nothing.
    random = np.random.default_rng([cleaning.seed, zlib.crc32(tag.encode())])
    clusters = k_means(looks.vectors, count, random=random)
    far = outliers(clusters.distance, share=cleaning.share)
    agrees = looks.scores >= np.float32(needed)
    # Parity: the original believes its model of every category; ours may be weak in some.
    believed = bool(agrees.mean() >= cleaning.trust)
    against = ~agrees if believed else np.zeros(n, bool)
    gone = {
        "either": far | against,
        "both": far & against,
        "outliers": far,
        "regions": against,
    }[cleaning.rule]
    limit = float(clusters.distance[far].min()) if far.any() else None
    found = {}
    for place in np.flatnonzero(gone).tolist():
        why = (*(("outlier",) if far[place] else ()), *(("disagrees",) if against[place] else ()))
        found[int(looks.rows[place])] = Verdict(
            why,
            tuple(significant(float(value)) for value in looks.boxes[place]),
            significant(float(looks.scores[place])),
            significant(needed),
            significant(float(clusters.distance[place])),
            None if limit is None else significant(limit),
            int(clusters.nearest[place]),
            count,
        )
    report = TagReport("judged" if believed else "doubtful", n, count, int(agrees.sum()))
    return report, found


def removed(
    known: Known, verdicts: Mapping[int, Verdict], vocabulary: Vocabulary, *, spare: Iterable[Origin] = ()
) -> dict[int, Verdict]:
    """The labels of a picture that go: those with a verdict, unless spared, or implied by one that stays."""
    spared = set(spare)
    columns = {vocabulary.position(label.tag): label for label in known.labels}
    going = {
        column: verdict
        for column, verdict in verdicts.items()
        if column in columns and spared.isdisjoint(columns[column].origins)
    }
    implied = vocabulary.with_parents(columns.keys() - going.keys())
    return {column: verdict for column, verdict in sorted(going.items()) if column not in implied}


# -- decisions: what leads from the corpus's labels to the cleaned ones, and back -----------------------


def decisions(known: Known, going: Mapping[int, Verdict], vocabulary: Vocabulary) -> list[dict[str, Any]]:
    """A row for every label that the engine added to a picture, then one for every label that it removed."""
    rows = []
    for label in known.labels:
        if not label.own:
            rows.append(_decision(known, label, vocabulary, change="added", why=list(label.origins)))
    labels = {label.tag: label for label in known.labels}
    for column, verdict in going.items():
        label = labels[vocabulary[column].id]
        row = _decision(known, label, vocabulary, change="removed", why=list(verdict.why))
        rows.append({**row, "region": verdict.to_dict()})
    return rows


def _decision(
    known: Known, label: Label, vocabulary: Vocabulary, *, change: str, why: list[str]
) -> dict[str, Any]:
    name = vocabulary[vocabulary.position(label.tag)].name
    return {
        "row": known.row,
        "image": known.image,
        "change": change,
        "tag": label.tag,
        "name": name,
        "why": why,
        "origins": list(label.origins),
        "score": label.score,
    }


def forward(given: Iterable[str], rows: Iterable[Mapping[str, Any]]) -> set[str]:
    """The corpus's tags of a picture and its decisions, in order, to the cleaned ones."""
    tags = set(given)
    for row in rows:
        if row["change"] == "added":
            tags.add(row["tag"])
        else:
            tags.discard(row["tag"])
    return tags


def backward(cleaned: Iterable[str], rows: Iterable[Mapping[str, Any]]) -> set[str]:
    """The cleaned tags of a picture and the same decisions, in the same order, to the corpus's."""
    tags = set(cleaned)
    for row in reversed(list(rows)):
        if row["change"] == "added":
            tags.discard(row["tag"])
        else:
            tags.add(row["tag"])
    return tags


# -- taking back ----------------------------------------------------------------------------------------

Stage = Literal["given", "merged"]
EVERY = "*"


def standing(
    known: Known, going: Iterable[str], undone: Mapping[str, Stage] | None = None
) -> tuple[Label, ...]:
    """A picture's labels as they are to be written.

    Args:
        going: ids of the tags that cleaning removes from it.
        undone: tag (or `EVERY`) -> the state that was asked back: as merged, or as the corpus gave it. What is said
            of a tag itself goes before what is said of every one.
    """
    undone = undone or {}
    gone = set(going)
    found = []
    for label in known.labels:
        back = undone.get(label.tag, undone.get(EVERY))
        if back == "given":
            if label.own:
                found.append(label.as_given())
        elif back == "merged" or label.tag not in gone:
            found.append(label)
    return tuple(found)

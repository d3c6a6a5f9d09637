"""A reviewer's decisions about tags, read back and applied to the vocabulary they were made for.

Knows the decisions file, what makes a set of decisions impossible, and what becomes of names, counts and parents.
Refuses to know how decisions are made (`taglens.collection.review_page`) and how a difference is printed.

The file: ``{"taglens_decisions": 1, "vocabulary": {"name", "fingerprint"}, "decisions": [row, ...]}`` with rows
``{"id", "decision": "keep" | "deny"}``, ``{"id", "decision": "merge", "into": id}``, ``{"id", "decision": "rename",
"name"}`` and ``{"id", "decision": "kind", "kind"}``. A tag without a row stays as it is.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from taglens.errors import DataError, MismatchError, VocabularyError
from taglens.language.word_lists import PARSED_KINDS
from taglens.results import Kind
from taglens.vocabulary import Entry, Vocabulary, normalise, tag_id

FORMAT_VERSION = 1
Verdict = Literal["keep", "deny", "merge", "rename", "kind"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)

# decision -> the field it needs besides the id.
_NEEDS: Mapping[Verdict, str | None] = {
    "keep": None,
    "deny": None,
    "merge": "into",
    "rename": "name",
    "kind": "kind",
}


@dataclass(frozen=True, slots=True)
class Decision:
    """One row; ``where`` names it in messages, and ``value`` is what its decision needs (an id, a name, a kind)."""

    where: str
    id: str
    verdict: Verdict
    value: str = ""


@dataclass(frozen=True, slots=True)
class Decisions:
    """A decisions file; ``vocabulary`` is the fingerprint and ``name`` the name of what was reviewed."""

    vocabulary: str
    name: str
    rows: tuple[Decision, ...]


@dataclass(frozen=True, slots=True)
class Applied:
    """What came of applying decisions.

    Attributes:
        vocabulary: the tags that are left, in their old order.
        verdicts: how many rows of each decision were applied; ``undecided`` tags had none.
        gone: id of every tag that is no more -> the id it was merged into, or None where it was denied.
        skipped: sentences about rows that could not be applied (with ``force`` only).
    """

    vocabulary: Vocabulary
    verdicts: Mapping[Verdict, int]
    undecided: int
    gone: Mapping[str, str | None]
    skipped: tuple[str, ...] = ()


# -- reading -------------------------------------------------------------------------------------------


def read_decisions(path: Path) -> Decisions:
    """Read a decisions file.

    Raises:
        DataError: it cannot be read or breaks its form; the message names the row.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"cannot read the decisions {path}: {error}") from None
    if not isinstance(content, dict) or "taglens_decisions" not in content:
        raise DataError(
            f"{path} is no decisions file: expected what the page of `taglens vocabulary review` downloads"
        )
    if content["taglens_decisions"] != FORMAT_VERSION:
        raise DataError(
            f"{path} has decisions format {content['taglens_decisions']!r}; this release reads {FORMAT_VERSION}"
        )
    of = content.get("vocabulary")
    if not isinstance(of, dict) or not isinstance(of.get("fingerprint"), str):
        raise DataError(f"{path}: expected the vocabulary's name and fingerprint under 'vocabulary'")
    rows = content.get("decisions")
    if not isinstance(rows, list):
        raise DataError(f"{path}: expected a list under 'decisions', found {str(rows)[:60]}")
    decided = tuple(_decision(row, f"{path}, decision {number}") for number, row in enumerate(rows, 1))
    first: dict[str, Decision] = {}
    for row in decided:
        if first.setdefault(row.id, row) is not row:
            raise DataError(
                f"{row.where}: the tag was decided before, in {first[row.id].where}; keep one row"
            )
    return Decisions(of["fingerprint"], str(of.get("name", "")), decided)


def _decision(row: Any, where: str) -> Decision:
    if not isinstance(row, dict) or not isinstance(row.get("id"), str):
        raise DataError(f"{where}: expected an object with an id, found {str(row)[:80]}")
    where = f"{where} ({row['id']})"
    verdict = row.get("decision")
    if verdict not in VERDICTS:
        raise DataError(f"{where}: {verdict!r} is no decision; expected one of {', '.join(VERDICTS)}")
    needed = _NEEDS[verdict]
    unknown = row.keys() - {"id", "decision", needed}
    if unknown:
        raise DataError(f"{where}: a {verdict} has no field {sorted(unknown)[0]!r}; remove it")
    value = "" if needed is None else row.get(needed)
    if not isinstance(value, str) or (needed is not None and not normalise(value)):
        raise DataError(f"{where}: a {verdict} needs {needed!r}, a text, found {value!r}")
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise DataError(f"{where}: {needed} {value!r} holds half a character (a lone surrogate); correct it")
    if verdict == "kind" and value not in PARSED_KINDS:
        raise DataError(f"{where}: kind {value!r}; expected one of {', '.join(PARSED_KINDS)}")
    return Decision(where, row["id"], verdict, " ".join(value.split()))


# -- applying ------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Plan:
    """Decisions by id of the vocabulary: ``fate`` of every tag that goes (what it is merged into, or None)."""

    rows: dict[str, Decision] = field(default_factory=dict)
    fate: dict[str, str | None] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)

    def end(self, id: str) -> str | None:
        """Where a tag is after all merges; None where it is denied."""
        at: str | None = id
        while at is not None and at in self.fate:
            at = self.fate[at]
        return at


def apply(vocabulary: Vocabulary, decisions: Decisions, *, force: bool = False) -> Applied:
    """Apply decisions: tags merge, go, or change name or kind; the rest stays in its place.

    A merged tag's name and synonyms become synonyms of the other, and its count is added; descriptions, parents and
    translations are taken over where the other has none. A renamed tag's old name becomes a synonym. Children of a
    tag that goes imply what it was merged into, or, where it was denied, what it implied.

    Args:
        force: apply by id also what was decided about another vocabulary; rows about unknown tags are skipped.

    Raises:
        MismatchError: the decisions are about another vocabulary, and ``force`` is not given.
        VocabularyError: a row names an unknown tag, merges into a denied one, merges in a circle, or gives a tag the
            id of another; nothing would be left.
    """
    if not force and decisions.vocabulary != vocabulary.fingerprint:
        raise MismatchError(
            "the decisions were made for another vocabulary",
            expected=vocabulary.ref,
            found=f"{decisions.name}@{decisions.vocabulary}",
            cure="Apply them to the vocabulary that was reviewed, review this one, or apply them by tag id: --force.",
        )
    plan = _plan(vocabulary, decisions.rows, force=force)
    _refuse_impossible(plan)
    kept = [entry for entry in vocabulary if entry.id not in plan.fate]
    if not kept:
        raise VocabularyError("every tag is denied or merged away: nothing is left; keep at least one tag")
    ids = _new_ids(kept, plan)
    merged: dict[str, list[Entry]] = {}
    for entry in vocabulary:
        if entry.id in plan.fate and (end := plan.end(entry.id)) is not None:
            merged.setdefault(end, []).append(entry)
    changed = (_entry(entry, merged.get(entry.id, ()), plan, ids, vocabulary) for entry in kept)
    entries = [
        _without_tags(new, old, set(ids.values()), vocabulary) for new, old in zip(changed, kept, strict=True)
    ]
    result = vocabulary.with_entries(entries)
    _refuse_circles(vocabulary, result, plan)
    verdicts = Counter(row.verdict for row in plan.rows.values())
    return Applied(
        result,
        {verdict: verdicts[verdict] for verdict in VERDICTS},
        len(vocabulary) - len(plan.rows),
        {id: None if (end := plan.end(id)) is None else ids[end] for id in plan.fate},
        tuple(plan.skipped),
    )


def _plan(vocabulary: Vocabulary, rows: Sequence[Decision], *, force: bool) -> _Plan:
    plan = _Plan()
    for row in rows:
        unknown = [
            id for id in (row.id, *([row.value] if row.verdict == "merge" else [])) if id not in vocabulary
        ]
        if unknown:
            said = f"{row.where}: there is no tag {unknown[0]!r} in {vocabulary.ref}"
            if not force:
                raise VocabularyError(f"{said}; correct the id, or remove the row")
            plan.skipped.append(said)
            continue
        plan.rows[row.id] = row
        if row.verdict in ("deny", "merge"):
            plan.fate[row.id] = row.value or None
    return plan


def _refuse_impossible(plan: _Plan) -> None:
    """Merges that go round, or that end in a denied tag."""
    for row in plan.rows.values():
        if row.verdict != "merge":
            continue
        way = [row.id]
        at: str | None = row.value
        while at is not None and at in plan.fate:
            if at in way:
                circle = " -> ".join([*way, at])
                raise VocabularyError(
                    f"{row.where}: merges go round in a circle: {circle}; take one of them back"
                )
            way.append(at)
            at = plan.fate[at]
        if at is None:
            denied = plan.rows[way[-1]].where
            raise VocabularyError(
                f"{row.where}: merged into {way[-1]}, which is denied ({denied}); "
                "deny this tag too, or keep the other"
            )


def _new_ids(kept: Sequence[Entry], plan: _Plan) -> dict[str, str]:
    """Old id -> new id of the tags that stay."""
    ids: dict[str, str] = {}
    taken: set[str] = set()
    # Those whose id changes come last: a clash is then the fault of the row at hand.
    for entry in sorted(kept, key=lambda entry: tag_id(_kind(entry, plan), _name(entry, plan)) != entry.id):
        new = tag_id(_kind(entry, plan), _name(entry, plan))
        if new in taken:
            row = plan.rows[entry.id]
            raise VocabularyError(
                f"{row.where}: the change gives {new}, which is another tag; merge the two instead"
            )
        ids[entry.id] = new
        taken.add(new)
    return ids


def _name(entry: Entry, plan: _Plan) -> str:
    row = plan.rows.get(entry.id)
    return row.value if row is not None and row.verdict == "rename" else entry.name


def _kind(entry: Entry, plan: _Plan) -> Kind:
    row = plan.rows.get(entry.id)
    if row is not None and row.verdict == "kind":
        return next(kind for kind in PARSED_KINDS if kind == row.value)
    return entry.kind


def _entry(
    entry: Entry, merged: Sequence[Entry], plan: _Plan, ids: Mapping[str, str], vocabulary: Vocabulary
) -> Entry:
    """The tag with what decisions changed of it and what merged tags bring; ids are the new ones."""
    name = _name(entry, plan)
    synonyms: dict[str, str] = {}
    brought = ((other.name, *other.synonyms) for other in merged)
    for synonym in (*entry.synonyms, entry.name, *(text for texts in brought for text in texts)):
        if normalise(synonym) != normalise(name):
            synonyms.setdefault(normalise(synonym), synonym)
    position = vocabulary.position(entry.id)
    above = entry.parents or tuple(
        parent
        for other in merged
        for parent in other.parents
        # A parent that implies this tag would go round.
        if parent in vocabulary and position not in vocabulary.with_parents([vocabulary.position(parent)])
    )
    parents = dict.fromkeys(id for parent in above for id in _settled(parent, plan, ids, vocabulary))
    parents.pop(ids[entry.id], None)
    translations = {
        key: text for other in (*reversed(merged), entry) for key, text in other.translations.items()
    }
    return replace(
        entry,
        name=name,
        kind=_kind(entry, plan),
        synonyms=tuple(synonyms.values()),
        parents=tuple(parents),
        descriptions=next((one.descriptions for one in (entry, *merged) if one.descriptions), ()),
        translations=translations,
        count=entry.count + sum(other.count for other in merged),
    )


def _settled(
    parent: str,
    plan: _Plan,
    ids: Mapping[str, str],
    vocabulary: Vocabulary,
    seen: frozenset[str] = frozenset(),
) -> Iterable[str]:
    """The new ids that stand for a parent; one that is not in the vocabulary is left as it is."""
    if parent not in vocabulary:
        return (parent,)
    end = plan.end(parent)
    if end is not None:
        return (ids[end],)
    # Denied: what it implied is implied by its children; parents that go round are followed once.
    above = vocabulary[vocabulary.position(parent)].parents if parent not in seen else ()
    return [id for far in above for id in _settled(far, plan, ids, vocabulary, seen | {parent})]


def _without_tags(new: Entry, old: Entry, ids: set[str], before: Vocabulary) -> Entry:
    """The entry without synonyms that decisions made another tag's name, of its kind: that tag is what they mean."""
    kept = tuple(
        synonym
        for synonym in new.synonyms
        if (id := tag_id(new.kind, synonym)) not in ids or (id in before and synonym in old.synonyms)
    )
    return replace(new, synonyms=kept)


def _refuse_circles(before: Vocabulary, after: Vocabulary, plan: _Plan) -> None:
    """Refuse tags that have become their own ancestors."""
    known = {entry.id for entry in _own_ancestors(before)}
    new = [entry for entry in _own_ancestors(after) if entry.id not in known]
    if new:
        ids = {entry.id for entry in new}
        rows = [row for row in plan.rows.values() if row.verdict == "merge" and row.value in ids]
        where = rows[0].where if rows else "the decisions"
        raise VocabularyError(
            f"{where}: {new[0].id} would be its own ancestor; merge in the other direction, or keep both"
        )


def _own_ancestors(vocabulary: Vocabulary) -> list[Entry]:
    found = []
    for position, entry in enumerate(vocabulary):
        parents = [vocabulary.position(parent) for parent in entry.parents if parent in vocabulary]
        if position in vocabulary.with_parents(parents):
            found.append(entry)
    return found

"""The label system: what a column of scores means.

Knows ids, names, kinds, synonyms, parents, thresholds, descriptions, translations, and the one rule that
turns scores into tags. Refuses to know how a vocabulary was gathered (`taglens.language.vocabulary_builder`)
or scored.

A tag's identity is its id, ``kind:name``: names repeat ("train" the vehicle and "train" the verb), ids do not.
The file is JSON Lines: a header, then one tag a line, in column order; see `Vocabulary.save`.
Shapes: T tags.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from taglens.errors import MismatchError, UsageError, VocabularyError
from taglens.results import Kind, Tag

FORMAT_VERSION = 1
DEFAULT_THRESHOLD = 0.5
KINDS: tuple[Kind, ...] = get_args(Kind)

_SPACE = re.compile(r"\s+")


def normalise(name: str) -> str:
    """The form under which names are compared: NFC, case-folded, single spaces."""
    return _SPACE.sub(" ", unicodedata.normalize("NFC", name)).strip().casefold()


def tag_id(kind: Kind, name: str) -> str:
    return f"{kind}:{normalise(name)}"


@dataclass(frozen=True, slots=True)
class Entry:
    """One tag of a vocabulary.

    Attributes:
        synonyms: other names that mean this tag ("human" for "person").
        parents: ids of tags that this one implies ("object:animal" for "object:dog").
        threshold: lowest score at which the tag is given; None takes the vocabulary's default.
        descriptions: any number of visual descriptions (RAM++ section 3.2).
        translations: language code -> name.
        count: how often the corpora named it; decides between homographs.
        hidden: scored but never given to a user.
    """

    name: str
    kind: Kind
    synonyms: tuple[str, ...] = ()
    parents: tuple[str, ...] = ()
    threshold: float | None = None
    descriptions: tuple[str, ...] = ()
    translations: Mapping[str, str] = field(default_factory=dict)
    count: int = 0
    hidden: bool = False

    def __post_init__(self) -> None:
        if not normalise(self.name):
            raise VocabularyError("a tag has an empty name")
        if any(map(_half_characters, (self.name, *self.synonyms, *self.translations.values()))):
            raise VocabularyError(f"tag {self.name!r} has half a character in a name; no file can hold it")
        if self.kind not in KINDS:
            raise VocabularyError(
                f"tag {self.name!r} has kind {self.kind!r}; expected one of {', '.join(KINDS)}"
            )
        if self.threshold is not None and not 0.0 <= self.threshold <= 1.0:
            raise VocabularyError(f"tag {self.name!r} has threshold {self.threshold}; expected 0 to 1")
        if self.count < 0:
            raise VocabularyError(f"tag {self.name!r} has count {self.count}; expected 0 or more")
        for language, name in self.translations.items():
            if not normalise(name):
                raise VocabularyError(f"tag {self.name!r} has an empty name in {language!r}; leave it out")

    @property
    def id(self) -> str:
        return tag_id(self.kind, self.name)

    def to_dict(self) -> dict[str, Any]:
        row: dict[str, Any] = {"id": self.id, "name": self.name, "kind": self.kind}
        if self.synonyms:
            row["synonyms"] = list(self.synonyms)
        if self.parents:
            row["parents"] = list(self.parents)
        if self.threshold is not None:
            row["threshold"] = self.threshold
        if self.descriptions:
            row["descriptions"] = list(self.descriptions)
        if self.translations:
            row["translations"] = dict(sorted(self.translations.items()))
        if self.count:
            row["count"] = self.count
        if self.hidden:
            row["hidden"] = True
        return row


_ENTRY_FIELDS = {"id", *Entry.__dataclass_fields__}


def _half_characters(text: str) -> bool:
    """Lone surrogates: what JSON can write and UTF-8 cannot."""
    return not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text)


def read_entry(row: Any, where: str) -> Entry:
    """A tag from a row of a vocabulary file; ``where`` opens the message of what is refused.

    Raises:
        VocabularyError: an unknown field, a value of the wrong type, or an id that does not fit kind and name.
    """
    if not isinstance(row, dict) or not isinstance(row.get("name"), str):
        raise VocabularyError(f"{where}: expected an object with a name, found {str(row)[:80]}")
    unknown = row.keys() - _ENTRY_FIELDS
    if unknown:
        raise VocabularyError(
            f"{where}: unknown field {sorted(unknown)[0]!r}; known: {', '.join(sorted(_ENTRY_FIELDS))}"
        )
    for key in ("synonyms", "parents", "descriptions"):
        value = row.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise VocabularyError(f"{where}: {key} must be a list of strings")
    threshold = row.get("threshold")
    if threshold is not None and (isinstance(threshold, bool) or not isinstance(threshold, int | float)):
        raise VocabularyError(f"{where}: threshold must be a number, found {threshold!r}")
    translations = row.get("translations", {})
    if not isinstance(translations, dict) or not all(isinstance(v, str) for v in translations.values()):
        raise VocabularyError(f"{where}: translations must map language codes to names")
    count = row.get("count", 0)
    if isinstance(count, bool) or not isinstance(count, int):
        raise VocabularyError(f"{where}: count must be a whole number, found {count!r}")
    try:
        entry = Entry(
            name=row["name"],
            kind=row.get("kind", "object"),
            synonyms=tuple(row.get("synonyms", ())),
            parents=tuple(row.get("parents", ())),
            threshold=None if threshold is None else float(threshold),
            descriptions=tuple(row.get("descriptions", ())),
            translations=dict(translations),
            count=count,
            hidden=bool(row.get("hidden", False)),
        )
    except VocabularyError as error:
        raise VocabularyError(f"{where}: {error}") from None
    if "id" in row and row["id"] != entry.id:
        raise VocabularyError(
            f"{where}: id {row['id']!r} does not fit kind and name, which give {entry.id!r}; "
            "leave the id out or correct it"
        )
    return entry


class Vocabulary:
    """An ordered, immutable list of tags. Column t of a score array belongs to entry t.

    Raises:
        VocabularyError: two entries share an id.
    """

    def __init__(
        self,
        entries: Iterable[Entry],
        *,
        name: str = "vocabulary",
        description: str = "",
        strict: bool = False,
    ) -> None:
        """
        Args:
            strict: a tag is given above its stored threshold and not at it, see `select`.
        """
        self.entries: tuple[Entry, ...] = tuple(entries)
        self.name = name
        self.description = description
        self.strict = strict
        self._position: dict[str, int] = {}
        for position, entry in enumerate(self.entries):
            if entry.id in self._position:
                raise VocabularyError(
                    f"{entry.id!r} stands twice in vocabulary {name!r} (tags {self._position[entry.id] + 1} "
                    f"and {position + 1}): merge the two or give one another kind"
                )
            self._position[entry.id] = position
        self._by_name: dict[str, list[int]] = {}
        for position, entry in enumerate(self.entries):
            self._by_name.setdefault(normalise(entry.name), []).append(position)
        # A name beats a synonym: "train" finds the tag called so before a tag that lists it.
        self._by_synonym: dict[str, list[int]] = {}
        for position, entry in enumerate(self.entries):
            for synonym in entry.synonyms:
                self._by_synonym.setdefault(normalise(synonym), []).append(position)
        identity = json.dumps([[e.id, e.name, e.kind] for e in self.entries], ensure_ascii=False)
        self.fingerprint: str = hashlib.sha256(identity.encode()).hexdigest()[:12]

    # -- reading ---------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def __getitem__(self, position: int) -> Entry:
        return self.entries[position]

    def __contains__(self, id: object) -> bool:
        return id in self._position

    def __repr__(self) -> str:
        return f"Vocabulary({self.ref}, {len(self)} tags)"

    @property
    def ref(self) -> str:
        """``name@fingerprint``. The fingerprint covers order, ids, names and kinds: what a column means.

        Thresholds, synonyms, descriptions and translations may be edited without making a model unusable.
        """
        return f"{self.name}@{self.fingerprint}"

    @property
    def ids(self) -> list[str]:
        return [entry.id for entry in self.entries]

    def position(self, id: str) -> int:
        """The column of an id. Raises VocabularyError when the id is not here."""
        try:
            return self._position[id]
        except KeyError:
            raise VocabularyError(f"no tag {id!r} in vocabulary {self.ref}") from None

    def find(
        self, text: str, *, kinds: Sequence[Kind] | None = None, language: str | None = None
    ) -> int | None:
        """The column that a word means, or None.

        Names in ``language``, if one is given, go before names and these before synonyms; among homographs the
        larger corpus count wins (ties: the earlier). A translation "desk/spreadsheet" is found by either part.
        """
        key = normalise(text)
        tables = [self._by_name, self._by_synonym]
        if language is not None:
            tables = [*self._by_translation(language), *tables]
        for table in tables:
            found = [p for p in table.get(key, ()) if kinds is None or self.entries[p].kind in kinds]
            if found:
                return max(found, key=lambda p: (self.entries[p].count, -p))
        return None

    def with_parents(self, positions: Iterable[int]) -> set[int]:
        """The columns and everything they imply, through any number of parents."""
        closed: set[int] = set()
        waiting = list(positions)
        while waiting:
            position = waiting.pop()
            if position not in closed:
                closed.add(position)
                waiting.extend(
                    self._position[parent]
                    for parent in self.entries[position].parents
                    if parent in self._position
                )
        return closed

    # -- languages -------------------------------------------------------------------------------

    @property
    def languages(self) -> dict[str, int]:
        """Language code -> how many tags have a name in it; by code."""
        counts = Counter(language for entry in self.entries for language in entry.translations)
        return dict(sorted(counts.items()))

    def require_language(self, language: str) -> None:
        """Raise UsageError, naming the languages that there are, for one in which no tag has a name."""
        if language not in self.languages:
            there = ", ".join(f"{code} ({count} tags)" for code, count in self.languages.items())
            raise UsageError(
                f"no tag of {self.ref} has a name in {language!r}; languages: {there or 'none'}. Names are added "
                f"with: taglens vocabulary import FILE --translations {language}=NAMES.txt --out OUT.jsonl"
            )

    def _by_translation(self, language: str) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
        """Whole names in a language, and the parts of those like "desk/spreadsheet" -> columns."""
        whole: dict[str, list[int]] = {}
        parts: dict[str, list[int]] = {}
        for position, entry in enumerate(self.entries):
            name = entry.translations.get(language, "")
            whole.setdefault(normalise(name), []).append(position)
            for part in name.split("/"):
                parts.setdefault(normalise(part), []).append(position)
        return {k: v for k, v in whole.items() if k}, {k: v for k, v in parts.items() if k}

    # -- scores to tags --------------------------------------------------------------------------

    def thresholds(self, *, default: float = DEFAULT_THRESHOLD) -> npt.NDArray[np.float32]:
        """Stored thresholds, shape [T]."""
        return np.array([default if e.threshold is None else e.threshold for e in self.entries], np.float32)

    def least(self) -> npt.NDArray[np.float32]:
        """The lowest score at which each tag is given, shape [T]: its stored threshold, or the number after it."""
        # Parity: published models want their thresholds exceeded; everywhere else reaching one is enough, so that
        # a threshold of 0 gives every tag.
        stored = self.thresholds()
        return np.nextafter(stored, np.float32(2)) if self.strict else stored

    def select(
        self,
        scores: npt.NDArray[np.float32],
        *,
        threshold: float | None = None,
        top: int | None = None,
        language: str | None = None,
    ) -> tuple[Tag, ...]:
        """Scores [T] to tags by falling score: the one rule.

        A tag is given when ``score >= threshold``; hidden tags never are. The threshold cuts first, then
        ``top`` (None or 0: no limit). ``threshold=None`` takes the stored ones, which a ``strict`` vocabulary wants
        exceeded: there a threshold of 1 is never reached. Where a tag has a name in
        ``language`` it is given under that one; its id stays.
        """
        if scores.shape != (len(self),):
            raise MismatchError(
                "scores and vocabulary do not fit",
                expected=f"{len(self)} scores for {self.ref}",
                found=f"shape {scores.shape}",
                cure="Load the vocabulary that was saved with the model.",
            )
        least = self.least() if threshold is None else np.float32(threshold)
        keep = np.flatnonzero(scores >= least)
        order = keep[np.argsort(-scores[keep], kind="stable")]
        tags = []
        for position in order:
            entry = self.entries[position]
            if not entry.hidden:
                name = entry.name if language is None else entry.translations.get(language, entry.name)
                tags.append(Tag(entry.id, name, entry.kind, float(scores[position])))
        return tuple(tags[:top] if top else tags)

    # -- making others ---------------------------------------------------------------------------

    def with_thresholds(self, thresholds: Sequence[float | None]) -> Vocabulary:
        """The same tags with other thresholds, [T]."""
        if len(thresholds) != len(self):
            raise VocabularyError(f"{len(thresholds)} thresholds for the {len(self)} tags of {self.ref}")
        return self.with_entries(
            [replace(e, threshold=t) for e, t in zip(self.entries, thresholds, strict=True)]
        )

    def with_entries(self, entries: Iterable[Entry], *, name: str | None = None) -> Vocabulary:
        """Other tags under the same name (or another), description and rule."""
        return Vocabulary(
            entries,
            name=self.name if name is None else name,
            description=self.description,
            strict=self.strict,
        )

    def require(self, fingerprint: str, *, what: str) -> None:
        """Refuse a thing that was made for another vocabulary."""
        if fingerprint != self.fingerprint:
            raise MismatchError(
                f"{what} was made for another vocabulary",
                expected=self.ref,
                found=f"fingerprint {fingerprint}",
                cure="Use the vocabulary it was made with, or make it again with this one.",
            )

    # -- files -----------------------------------------------------------------------------------

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Vocabulary:
        """Read a vocabulary file.

        A file without a header is taken as a list: JSON Lines entries, or plain text with one name a line.

        Raises:
            VocabularyError: the file is missing or breaks the format; the message names file and line.
        """
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise VocabularyError(f"cannot read vocabulary {path}: {error}") from None
        lines = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
        if not lines:
            raise VocabularyError(f"vocabulary {path} is empty: expected one tag a line")
        if path.suffix.lower() in (".csv", ".tsv"):
            raise VocabularyError(
                f"{path} is a table, not a vocabulary file; make it one: taglens vocabulary import {path} --out "
                f"{path.with_suffix('.jsonl')}"
            )
        header: dict[str, Any] = {}
        if not lines[0][1].lstrip().startswith("{"):
            entries = [Entry(line.strip(), "object") for _, line in lines]
        else:
            rows: list[tuple[int, Any]] = []
            for number, line in lines:
                try:
                    rows.append((number, json.loads(line)))
                except (ValueError, RecursionError) as error:
                    raise VocabularyError(f"{path}, line {number}: not JSON ({error})") from None
            first = rows[0][1]
            if isinstance(first, dict) and "taglens_vocabulary" in first:
                header = first
                rows = rows[1:]
                if header["taglens_vocabulary"] != FORMAT_VERSION:
                    raise VocabularyError(
                        f"{path} has vocabulary format {header['taglens_vocabulary']!r}; "
                        f"this release reads {FORMAT_VERSION}"
                    )
            entries = [read_entry(row, f"{path}, line {number}") for number, row in rows]
        if not entries:
            raise VocabularyError(f"vocabulary {path} holds a header and no tags")
        vocabulary = cls(
            entries,
            name=str(header.get("name") or path.stem),
            description=str(header.get("description", "")),
            strict=header.get("strict") is True,
        )
        stored = header.get("fingerprint")
        if stored is not None and stored != vocabulary.fingerprint:
            raise MismatchError(
                f"{path}: tags were added, removed, renamed or re-ordered after the file was written",
                expected=f"fingerprint {stored} (in its first line)",
                found=vocabulary.fingerprint,
                cure="If the edit is meant, remove the fingerprint from the first line and save it again.",
            )
        return vocabulary

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file: a header line, then one tag a line, written beside and renamed."""
        path = Path(path)
        header = {
            "taglens_vocabulary": FORMAT_VERSION,
            "name": self.name,
            "fingerprint": self.fingerprint,
            "tags": len(self),
        }
        if self.description:
            header["description"] = self.description
        if self.strict:
            header["strict"] = True
        lines = [header, *(entry.to_dict() for entry in self.entries)]
        text = "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in lines)
        beside = path.with_name(path.name + ".part")
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)

    # -- checking --------------------------------------------------------------------------------

    def problems(self) -> list[str]:
        """What a careful reader would object to, in sentences; empty when all is well."""
        found: list[str] = []
        for key, positions in sorted(self._by_synonym.items()):
            owners = [self.entries[p].id for p in positions]
            kinds = [self.entries[p].kind for p in positions]
            if len(set(kinds)) < len(kinds):
                found.append(f"synonym {key!r} belongs to {' and '.join(sorted(set(owners)))}")
            for position in positions:
                for named in self._by_name.get(key, ()):
                    if self.entries[named].kind == self.entries[position].kind:
                        other = self.entries[named].id
                        found.append(
                            f"synonym {key!r} of {self.entries[position].id} is itself the tag {other}"
                        )
        for key, positions in sorted(self._by_name.items()):
            kinds = [self.entries[p].kind for p in positions]
            if "object" in kinds and "scene" in kinds:
                found.append(f"{key!r} is both an object and a scene: keep one")
        squeezed: dict[tuple[str, str], str] = {}
        for entry in self.entries:
            if entry.name != normalise(entry.name) and entry.name.casefold() == entry.name:
                found.append(f"{entry.id} has a name with stray white space: {entry.name!r}")
            key2 = (entry.kind, re.sub(r"[\s\-_']", "", normalise(entry.name)))
            if key2 in squeezed:
                found.append(f"{entry.id} and {squeezed[key2]} differ only in spaces or hyphens")
            squeezed.setdefault(key2, entry.id)
            if entry.threshold is not None and (entry.threshold >= 1.0 or math.isnan(entry.threshold)):
                found.append(f"{entry.id} has threshold {entry.threshold} and will hardly ever be given")
            for parent in entry.parents:
                if parent not in self._position:
                    found.append(f"{entry.id} names a parent that is not here: {parent}")
            if any(not text.strip() for text in entry.descriptions):
                found.append(f"{entry.id} has an empty description")
        for position, entry in enumerate(self.entries):
            above = self.with_parents(
                self._position[parent] for parent in entry.parents if parent in self._position
            )
            if position in above:
                found.append(f"{entry.id} is its own ancestor")
        return found

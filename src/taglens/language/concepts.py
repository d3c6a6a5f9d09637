"""What the tags of a vocabulary mean, for questions about pictures: from its own entries, a language model, a person.

Knows the file (JSON Lines, a tag a line), how tags are shown in questions, how a model's answer is held to the
vocabulary, and who overrides whom: a person every other, field by field. Refuses to know pictures and wording
(`taglens.language.annotation_prompts`).

Shapes: T tags.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from taglens.errors import ChatError, DataError
from taglens.language.annotation_prompts import (
    LOOK_ALIKES,
    PHRASES,
    Concept,
    concept_of,
    concept_schema,
    invisible,
    plain,
    read_object,
)
from taglens.language.chat import Ask, Chat, Reply, ask_all
from taglens.language.corpora import json_object, text_lines
from taglens.vocabulary import Vocabulary, normalise

Source = Literal["llm", "vocabulary", "user"]
Concepts = Mapping[str, Concept]  # by tag id

MOST_OFFERED = 300  # names among which a model looks for look-alikes; a longer vocabulary is shortlisted
_MOST_WORDS = 12  # of a phrase, or of a super-category
_FIELDS = {"id", "name", "super_category", "look_alikes", "phrases", "source"}
_ANSWERS = {"no", "none"}


def shown_names(vocabulary: Vocabulary) -> tuple[str, ...]:
    """[T]: each tag as questions name it: by its name, with its kind behind where names repeat.

    So is a tag that is called like an answer ("no"), which a list could not hold.
    """
    alike = Counter(plain(entry.name) for entry in vocabulary)
    return tuple(
        f"{entry.name} ({entry.kind})"
        if alike[plain(entry.name)] > 1 or plain(entry.name) in _ANSWERS
        else entry.name
        for entry in vocabulary
    )


# -- from the vocabulary itself ------------------------------------------------------------------------


def from_vocabulary(vocabulary: Vocabulary) -> dict[str, Concept]:
    """What the entries say: a parent as the super-category, siblings as look-alikes, synonyms as phrases.

    Of the siblings those of one last word come first ("tennis racket", "badminton racket"), then the commonest. A
    tag without parents or synonyms has an empty concept, and is asked for by its name alone.
    """
    shown = shown_names(vocabulary)
    below: dict[str, list[int]] = {}
    for column, entry in enumerate(vocabulary):
        for parent in entry.parents:
            below.setdefault(parent, []).append(column)
    implied = [vocabulary.with_parents([column]) for column in range(len(vocabulary))]
    concepts = {}
    for column, entry in enumerate(vocabulary):
        above = next((parent for parent in entry.parents if parent in vocabulary), None)
        siblings = {
            other
            for parent_id in entry.parents
            for other in below[parent_id]
            # Neither what it implies nor what implies it: those are no other things.
            if other not in implied[column] and column not in implied[other] and not vocabulary[other].hidden
        }
        head = normalise(entry.name).split()[-1]

        def alike(other: int, head: str = head) -> tuple[bool, int, int]:
            return (normalise(vocabulary[other].name).split()[-1] != head, -vocabulary[other].count, other)

        concepts[entry.id] = Concept(
            super_category="" if above is None else vocabulary[vocabulary.position(above)].name,
            look_alikes=tuple(shown[other] for other in sorted(siblings, key=alike)[:LOOK_ALIKES]),
            phrases=(entry.name, *entry.synonyms)[:PHRASES] if entry.synonyms else (),
            source="vocabulary",
        )
    return concepts


# -- from a language model -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Asked:
    """A tag's concept after its model was asked; ``problems`` says what of the answers was not used, and why."""

    id: str
    concept: Concept
    problems: tuple[str, ...] = ()


def from_llm(
    chat: Chat, vocabulary: Vocabulary, *, ids: Iterable[str] | None = None, tries: int = 2, at_once: int = 4
) -> Generator[Asked, None, None]:
    """A concept per tag, in order, each from one question; a bad answer is told what is wrong and asked again.

    What of the last answer is still wrong is left out and told: a look-alike that is no tag, a phrase too long. A
    tag whose model gives nothing keeps what the vocabulary says, with its source.

    Args:
        ids: which tags; None: all that are not hidden.
    """
    fallback = from_vocabulary(vocabulary)
    shown = shown_names(vocabulary)
    by_name = {plain(name): name for name in shown}
    wanted = [entry.id for entry in vocabulary if not entry.hidden] if ids is None else list(ids)

    def question(id: str, wrong: Sequence[str], number: int) -> Ask:
        column = vocabulary.position(id)
        entry = vocabulary[column]
        about = f"It is an {entry.kind}." if entry.kind in ("object", "attribute", "action") else ""
        if entry.synonyms:
            about = f"{about} Other names for it: {', '.join(entry.synonyms)}.".strip()
        offered = _offered(vocabulary, shown, column, fallback[id])
        text = concept_of(shown[column], offered, about=about, wrong=wrong)
        return Ask(text, schema=concept_schema(), max_tokens=400, seed=number or None)

    replies = ask_all(chat, (question(id, (), 0) for id in wanted), at_once=at_once)
    for id, first in zip(wanted, replies, strict=True):
        reply = first
        name = shown[vocabulary.position(id)]
        found, problems = _read(reply, name, by_name)
        for number in range(1, tries):
            if not problems or isinstance(reply, ChatError):
                break
            try:
                reply = chat(question(id, problems, number))
            except ChatError as error:
                reply = error
            again, problems = _read(reply, name, by_name)
            found = again or found
        if not found:
            yield Asked(id, fallback[id], (*problems, "kept what the vocabulary says"))
        else:
            yield Asked(id, found, problems)


def _offered(vocabulary: Vocabulary, shown: Sequence[str], column: int, own: Concept) -> list[str]:
    """Names to look for look-alikes among: all of a short vocabulary, else those nearest by parents and words."""
    others = [c for c, entry in enumerate(vocabulary) if c != column and not entry.hidden]
    if len(others) > MOST_OFFERED:
        words = set(normalise(vocabulary[column].name).split())
        parents = set(vocabulary[column].parents)
        kind = vocabulary[column].kind

        def far(other: int) -> tuple[bool, int, int, bool, int, int]:
            entry = vocabulary[other]
            return (
                shown[other] not in own.look_alikes,
                -len(parents & set(entry.parents)),
                -len(words & set(normalise(entry.name).split())),
                entry.kind != kind,
                -entry.count,
                other,
            )

        others = sorted(sorted(others, key=far)[:MOST_OFFERED])
    return [shown[other] for other in others]


def _read(
    reply: Reply | ChatError, name: str, by_name: Mapping[str, str]
) -> tuple[Concept | None, tuple[str, ...]]:
    """What of an answer can be used, and what is wrong with the rest."""
    if isinstance(reply, ChatError):
        return None, (f"no answer: {reply}",)
    if reply.refused or reply.cut:
        return None, (f"the answer was {'refused' if reply.refused else 'cut off'}",)
    row = read_object(reply.text)
    if row is None or set(row) != {"super_category", "look_alikes", "phrases"}:
        return None, ("the answer was not the JSON that was asked for",)
    problems: list[str] = []
    above = _phrase(row["super_category"])
    if above is None and row["super_category"] != "":
        problems.append("super_category was no short phrase")
    if above is not None and plain(above) == plain(name):
        above = None
        problems.append("super_category was the tag itself")
    alike: dict[str, None] = {}
    for other in _list(row["look_alikes"], "look_alikes", problems):
        known = by_name.get(plain(other)) if isinstance(other, str) else None
        if known is None or known == name:
            problems.append(f"look-alike {str(other)[:60]!r} is no other name of the list")
        else:
            alike[known] = None
    phrases: dict[str, None] = {}
    for text in _list(row["phrases"], "phrases", problems):
        phrase = _phrase(text)
        if phrase is None:
            problems.append(f"phrase {str(text)[:60]!r} was no short phrase")
        else:
            phrases[phrase] = None
    concept = Concept(above or "", tuple(alike)[:LOOK_ALIKES], tuple(phrases), "llm")
    return (concept if concept or not problems else None), tuple(problems)


def _list(value: Any, what: str, problems: list[str]) -> list[Any]:
    if isinstance(value, list):
        return value
    problems.append(f"{what} was no list")
    return []


def _phrase(value: Any) -> str | None:
    """A short text on one line, all of it to be seen; None for anything else."""
    if not isinstance(value, str):
        return None
    text = " ".join(value.split()).rstrip(".")
    usable = text and len(text.split()) <= _MOST_WORDS and invisible(text) is None
    return text if usable else None


# -- files ---------------------------------------------------------------------------------------------


def read_concepts(path: Path, vocabulary: Vocabulary) -> dict[str, dict[str, Any]]:
    """A file's fields by tag id: only those that a line states, so that a person can override one and no other.

    A line names its tag by id or, where names do not repeat, by name.

    Raises:
        DataError: the file cannot be read, or a line is malformed, names no tag, names one twice, or a look-alike
            that is no tag; file and line are named.
    """
    shown = shown_names(vocabulary)
    by_name = {plain(name): name for name in shown}
    by_shown = {plain(name): entry.id for name, entry in zip(shown, vocabulary, strict=True)}
    found: dict[str, dict[str, Any]] = {}
    for number, line in text_lines(path):
        where = f"{path}, line {number}"
        row = json_object(path, number, line)
        if unknown := row.keys() - _FIELDS:
            raise DataError(f"{where}: unknown field {min(unknown)!r}; known: {', '.join(sorted(_FIELDS))}")
        id = row.get("id") or by_shown.get(plain(str(row.get("name", ""))))
        if not isinstance(id, str) or id not in vocabulary:
            raise DataError(
                f"{where}: {row.get('id') or row.get('name')!r} is no tag of {vocabulary.ref}; expected the id or "
                "the name of one"
            )
        if id in found:
            raise DataError(f"{where}: {id} stands there twice; keep one of the lines")
        found[id] = _fields(row, where, by_name, shown[vocabulary.position(id)])
    return found


def _fields(row: Mapping[str, Any], where: str, by_name: Mapping[str, str], own: str) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if "super_category" in row:
        if row["super_category"] != "" and _phrase(row["super_category"]) is None:
            raise DataError(
                f"{where}: super_category must be text of up to {_MOST_WORDS} words, found {row['super_category']!r}"
            )
        fields["super_category"] = _phrase(row["super_category"]) or ""
    for key in ("look_alikes", "phrases"):
        if key not in row:
            continue
        value = row[key]
        if not isinstance(value, list) or any(_phrase(text) is None for text in value):
            raise DataError(
                f"{where}: {key} must be a list of texts of up to {_MOST_WORDS} words each, found {value!r}"
            )
        fields[key] = tuple(_phrase(text) for text in value)
    if "look_alikes" in fields:
        names = []
        for name in fields["look_alikes"]:
            known = by_name.get(plain(name))
            if known is None or known == own:
                raise DataError(
                    f"{where}: look-alike {name!r} is no other tag of the vocabulary; correct it or take it out"
                )
            names.append(known)
        fields["look_alikes"] = tuple(names)
    if "source" in row:
        if row["source"] not in get_args(Source):
            raise DataError(
                f"{where}: source must be one of {', '.join(get_args(Source))}, found {row['source']!r}"
            )
        fields["source"] = row["source"]
    return fields


def overridden(
    concepts: Concepts, fields: Mapping[str, Mapping[str, Any]], *, source: Source | None = None
) -> dict[str, Concept]:
    """The concepts with the fields of a file laid over them; other fields stay.

    Args:
        source: who made the file; None: as its lines say, and a person where they do not.
    """
    changed = dict(concepts)
    for id, row in fields.items():
        stated = dict(row)
        stated["source"] = source or stated.get("source", "user")
        changed[id] = replace(changed.get(id, Concept()), **stated)
    return changed


def concept_lines(vocabulary: Vocabulary, concepts: Concepts) -> str:
    """All concepts in the vocabulary's order, a tag a line: a file to edit."""
    lines = []
    for name, entry in zip(shown_names(vocabulary), vocabulary, strict=True):
        if (concept := concepts.get(entry.id)) is not None:
            row = {
                "id": entry.id,
                "name": name,
                "super_category": concept.super_category,
                "look_alikes": list(concept.look_alikes),
                "phrases": list(concept.phrases),
                "source": concept.source,
            }
            lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    return "".join(lines)


def write_concepts(path: Path, vocabulary: Vocabulary, concepts: Concepts) -> None:
    """`concept_lines` as a file, written beside and renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".part")
    with beside.open("w", encoding="utf-8") as file:
        file.write(concept_lines(vocabulary, concepts))
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)

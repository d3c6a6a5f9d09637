"""Vocabularies in and out: CSV, plain lists, and the files that published models come with.

Knows what a file holds by its name and first sign, and how files that go line by line with a tag list join it.
Refuses to know columns and cells (`taglens.language.vocabulary_csv`) and what a tag may hold
(`taglens.vocabulary`).

The published files (recognize-anything): a tag list, one name a line, whose line n is output column n - 1;
thresholds and names in a language, one a line in the same order; descriptions, a JSON list of ``{name: [texts]}``.
Order is always kept. Nothing is skipped: an empty line would shift every column after it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from taglens.errors import UsageError, VocabularyError
from taglens.language.descriptions import read_descriptions
from taglens.language.vocabulary_csv import from_csv, number, to_csv
from taglens.language.word_lists import PARSED_KINDS, WordLists, packaged
from taglens.results import Kind
from taglens.vocabulary import Entry, Vocabulary, normalise

Format = Literal["jsonl", "csv", "list"]
FORMATS: tuple[Format, ...] = get_args(Format)
_SUFFIXES: Mapping[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "list",
    ".list": "list",
}


@dataclass(frozen=True, slots=True)
class Block:
    """From this line on, names without a stated kind are of this kind; lines count from 1."""

    kind: Kind
    first: int


# Published lists in which names repeat, one block a kind, by the digest of their names.
_KNOWN_BLOCKS: Mapping[str, tuple[Block, ...]] = {
    # tag2text_ori_tag_list.txt, 3,429 names, 114 of them two or three times
    "7d05c7cb88ed": (Block("object", 1), Block("action", 3013), Block("attribute", 3253)),
}


@dataclass(frozen=True, slots=True)
class Described:
    """A vocabulary with descriptions, and the names or ids that described no tag of it."""

    vocabulary: Vocabulary
    unused: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Read:
    """A vocabulary from a file, and the fingerprint that the file states for it, if it does."""

    vocabulary: Vocabulary
    stated: str | None = None


# -- reading -------------------------------------------------------------------------------------------


def read_vocabulary(
    path: Path, *, format: Format | None = None, blocks: Sequence[Block] = (), name: str | None = None
) -> Read:
    """A vocabulary from JSON Lines, CSV, a plain list, or a JSON list of descriptions.

    A name without a kind is an object, or a scene where the shipped word lists say so.

    Args:
        format: None: by the first sign of the content ("{", "["), else by the suffix, else a list.
        blocks: kinds of a plain list's lines; () for published lists that are known, and for lists of things.
        name: the vocabulary's; None: what the file states, else the file's own name.

    Raises:
        VocabularyError: the file cannot be read or breaks its format; the message names file and line.
    """
    text = _text(path)
    if not text.strip():
        raise VocabularyError(f"{path} is empty: expected one tag a line")
    first = text.lstrip()[0]
    form = format or ("jsonl" if first == "{" else _SUFFIXES.get(path.suffix.lower(), "list"))
    if blocks and (form != "list" or first == "["):
        raise UsageError(f"--kinds says what the lines of a plain list are; {path} states its own kinds")
    guess = _guesser(packaged())
    stated = None
    if form == "jsonl":
        vocabulary = Vocabulary.load(path)
    elif form == "csv":
        vocabulary, stated = from_csv(text, where=str(path), guess=guess, name=path.stem)
    elif first == "[" and format is None:
        described = _published_descriptions(text, path)
        vocabulary = Vocabulary(
            (Entry(tag, guess(tag), descriptions=texts) for tag, texts in described.items()), name=path.stem
        )
    else:
        vocabulary = Vocabulary(_from_list(path, text, guess, blocks), name=path.stem)
    if name is not None:
        vocabulary = vocabulary.with_entries(vocabulary, name=name)
    return Read(vocabulary, stated)


def _text(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise VocabularyError(f"cannot read {path}: {error.strerror or error}") from None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise VocabularyError(
            f"{path}, line {line}: not UTF-8 ({error.reason}); save the file as UTF-8"
        ) from None


def _lines(path: Path, text: str) -> list[str]:
    """Every line, stripped; a line without text is refused, for it would shift the rest."""
    lines = [line.strip() for line in text.removesuffix("\n").split("\n")]
    if "" in lines:
        raise VocabularyError(
            f"{path}, line {lines.index('') + 1} is empty; every line is a tag's: remove it, or fill it in"
        )
    return lines


def _guesser(lists: WordLists) -> Callable[[str], Kind]:
    """Scene for what the word lists call a place, by name or synonym; object for everything else."""

    def guess(name: str) -> Kind:
        return "scene" if lists.merged("object", name)[0] == "scene" else "object"

    return guess


def _from_list(path: Path, text: str, guess: Callable[[str], Kind], blocks: Sequence[Block]) -> list[Entry]:
    names = _lines(path, text)
    if all(_is_number(name) for name in names):
        raise VocabularyError(
            f"{path} holds numbers and no names; thresholds are given with --thresholds {path}"
        )
    digest = hashlib.sha256("\n".join(map(normalise, names)).encode()).hexdigest()[:12]
    kinds = _kinds(len(names), blocks or _KNOWN_BLOCKS.get(digest, ()), path)
    entries: list[Entry] = []
    lines: dict[str, int] = {}
    for line, (name, kind) in enumerate(zip(names, kinds, strict=True), 1):
        entry = Entry(name, guess(name) if kind == "object" else kind)
        if entry.id in lines:
            raise VocabularyError(
                f"{path}, line {line}: {name!r} stands already in line {lines[entry.id]}; remove one of the two, or "
                "say which lines are of another kind: --kinds object=1,action=3013"
            )
        lines[entry.id] = line
        entries.append(entry)
    return entries


def _kinds(lines: int, blocks: Sequence[Block], path: Path) -> list[Kind]:
    kinds: list[Kind] = ["object"] * lines
    for block in sorted(blocks, key=lambda block: block.first):
        if not 1 <= block.first <= lines:
            raise UsageError(f"--kinds {block.kind}={block.first}: {path} has lines 1 to {lines}")
        kinds[block.first - 1 :] = [block.kind] * (lines - block.first + 1)
    return kinds


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


# -- joining -------------------------------------------------------------------------------------------


def with_threshold_file(vocabulary: Vocabulary, path: Path) -> Vocabulary:
    """The same tags with thresholds from a file, one number from 0 to 1 a line, in the order of the tags.

    Raises:
        VocabularyError: the file cannot be read, a line is no such number, or there are not as many as tags.
    """
    lines = _aligned(vocabulary, path, "thresholds")
    return vocabulary.with_thresholds(
        [number(text, f"{path}, line {line}") for line, text in enumerate(lines, 1)]
    )


def with_translation_file(vocabulary: Vocabulary, language: str, path: Path) -> Vocabulary:
    """The same tags with names in a language from a file, one a line, in the order of the tags.

    Raises:
        VocabularyError: the file cannot be read, or has not as many names as there are tags.
    """
    names = _aligned(vocabulary, path, "names")
    entries = [
        replace(entry, translations={**entry.translations, language: name})
        for entry, name in zip(vocabulary, names, strict=True)
    ]
    return vocabulary.with_entries(entries)


def _aligned(vocabulary: Vocabulary, path: Path, what: str) -> list[str]:
    lines = _lines(path, _text(path))
    if len(lines) != len(vocabulary):
        short, of = (path, what) if len(lines) < len(vocabulary) else (vocabulary.ref, "tags")
        line = min(len(lines), len(vocabulary)) + 1
        raise VocabularyError(
            f"{path} has {len(lines)} {what} for the {len(vocabulary)} tags of {vocabulary.ref}: from line {line} on "
            f"{short} has no {of}; line n belongs to tag n, so give the two files that were made together"
        )
    return lines


def with_description_file(vocabulary: Vocabulary, path: Path) -> Described:
    """The same tags with descriptions from a file: a JSON list of ``{name: [texts]}``, or JSON Lines with ids.

    A name finds its tag as everywhere: by name or synonym, of homographs the most frequent, else the first.

    Raises:
        VocabularyError: the file cannot be read or breaks its format, or describes none of the tags.
    """
    text = _text(path)
    if text.lstrip().startswith("["):
        named = _published_descriptions(text, path)
        found = {name: vocabulary.find(name) for name in named}
    else:
        named = read_descriptions([path])
        found = {id: vocabulary.position(id) if id in vocabulary else None for id in named}
    entries = list(vocabulary)
    for name, position in found.items():
        if position is not None:
            entries[position] = replace(entries[position], descriptions=named[name])
    unused = tuple(name for name, position in found.items() if position is None)
    if len(unused) == len(named):
        raise VocabularyError(
            f"{path} describes none of the {len(vocabulary)} tags of {vocabulary.ref}; it begins with "
            f"{next(iter(named), 'nothing')!r}"
        )
    return Described(vocabulary.with_entries(entries), unused)


def _published_descriptions(text: str, path: Path) -> dict[str, tuple[str, ...]]:
    try:
        rows = json.loads(text, object_pairs_hook=tuple)  # pairs, so that a name that stands twice is seen
    except json.JSONDecodeError as error:
        raise VocabularyError(f"{path}, line {error.lineno}: not JSON ({error.msg})") from None
    except (ValueError, RecursionError) as error:
        raise VocabularyError(f"{path}: not JSON ({error})") from None
    found: dict[str, tuple[str, ...]] = {}
    seen = {""}
    for index, row in enumerate(rows, 1):
        if not isinstance(row, tuple) or not row:
            raise VocabularyError(
                f"{path}, object {index}: expected {{name: [texts]}}, found {str(row)[:60]}"
            )
        for name, texts in row:
            where = f"{path}, object {index}: {name!r}"
            if normalise(name) in seen:
                raise VocabularyError(f"{where} {'stands twice' if normalise(name) else 'is no name'}")
            if not isinstance(texts, list) or not texts or not all(_is_text(item) for item in texts):
                raise VocabularyError(f"{where}: descriptions must be a list of texts, none of them empty")
            found[name] = tuple(texts)
            seen.add(normalise(name))
    return found


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


# -- writing -------------------------------------------------------------------------------------------


def write_vocabulary(vocabulary: Vocabulary, path: Path, *, format: Format | None = None) -> list[str]:
    """Write a file, beside its place and renamed.

    Args:
        format: None: by the suffix.

    Returns:
        What a list of names has no place for, in words ("synonyms of 3 tags"); empty for the other formats.

    Raises:
        UsageError: a suffix that says nothing.
        VocabularyError: a list, and a name holds a line break.
    """
    form = format or _SUFFIXES.get(path.suffix.lower())
    if form is None:
        raise UsageError(
            f"{path}: expected a name that ends in .jsonl, .csv or .txt; or give --format FORMAT"
        )
    if form == "jsonl":
        vocabulary.save(path)
        return []
    if form == "csv":
        # The mark tells spreadsheets that the letters are UTF-8.
        _write(path, "\ufeff" + to_csv(vocabulary))
        return []
    broken = next((entry.id for entry in vocabulary if re.search(r"[\r\n]", entry.name)), None)
    if broken is not None:
        raise VocabularyError(
            f"{broken!r} holds a line break and cannot stand in a list; write a .csv instead"
        )
    _write(path, "".join(entry.name + "\n" for entry in vocabulary))
    return _left_out(vocabulary)


def _write(path: Path, text: str) -> None:
    beside = path.with_name(path.name + ".part")
    try:
        beside.write_text(text, encoding="utf-8", newline="")
        beside.replace(path)
    except UnicodeEncodeError as error:
        raise VocabularyError(
            f"cannot write {path}: a text holds half a character ({error.reason})"
        ) from None
    finally:
        beside.unlink(missing_ok=True)


def _left_out(vocabulary: Vocabulary) -> list[str]:
    counts: Counter[str] = Counter()
    for entry in vocabulary:
        counts.update(key for key in entry.to_dict() if key not in ("id", "name", "kind"))
        counts["kind"] += entry.kind != "object"
    words = {
        "kind": "kinds other than object",
        "hidden": "hidden marks",
        "threshold": "thresholds",
        "count": "counts",
    }
    said = [f"{words.get(key, key)} of {count} tags" for key, count in counts.items() if count]
    return said + ([f"the description {vocabulary.description!r}"] if vocabulary.description else [])


def repeated_names(vocabulary: Iterable[Entry]) -> list[str]:
    """Names that several tags have, in a list of names indistinguishable."""
    counts = Counter(normalise(entry.name) for entry in vocabulary)
    return [name for name, count in counts.items() if count > 1]


def parse_blocks(text: str) -> tuple[Block, ...]:
    """``"object=1,action=3013"`` to blocks. Raises UsageError for anything else."""
    blocks = []
    for piece in text.split(","):
        kind, _, first = piece.strip().partition("=")
        if kind not in PARSED_KINDS or not re.fullmatch("[0-9]{1,9}", first.strip()):
            raise UsageError(
                f"--kinds {piece.strip()!r}: expected KIND=LINE, the first line of that kind, such as "
                f"object=1,action=3013; kinds: {', '.join(PARSED_KINDS)}"
            )
        blocks.append(Block(kind, int(first)))
    return tuple(blocks)

"""``taglens vocabulary export`` and ``import``: vocabularies to tables and lists, and from them.

Thin: each command calls `taglens.language.vocabulary_files` and says on standard error what it wrote.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from taglens.cli.console import say
from taglens.cli.vocabulary import wrote
from taglens.errors import UsageError

if TYPE_CHECKING:
    from taglens.language.vocabulary_files import Format
    from taglens.vocabulary import Vocabulary

MOST_NAMED = 5


def export_file(
    file: Annotated[Path, typer.Argument(help="A vocabulary: JSON Lines, CSV, or a list of names.")],
    *,
    out: Annotated[Path, typer.Option("--out", help="The file to write: .jsonl, .csv or .txt.")],
    format: Annotated[
        str | None,
        typer.Option("--format", help="Of OUT: jsonl, csv or list.", show_default="by its suffix"),
    ] = None,
) -> None:
    """Write a vocabulary as JSON Lines, as a table for spreadsheets, or as a list of names."""
    from taglens.language.vocabulary_files import read_vocabulary, repeated_names, write_vocabulary

    wanted = _format(format)
    read = read_vocabulary(file)
    _say_if_changed(read.vocabulary, read.stated, file)
    left_out = write_vocabulary(read.vocabulary, out, format=wanted)
    wrote(out, read.vocabulary)
    if left_out:
        say(f"{out} holds names only; left out: {', '.join(left_out)}")
        if repeated := repeated_names(read.vocabulary):
            say(f"{_some(repeated)} stand for several tags each, which a list cannot tell apart")


def import_file(
    file: Annotated[Path, typer.Argument(help="CSV, a list of names, or a published tag list.")],
    *,
    out: Annotated[Path, typer.Option("--out", help="The vocabulary file to write.")],
    thresholds: Annotated[
        Path | None, typer.Option("--thresholds", help="A number a line, in the order of the tags.")
    ] = None,
    translations: Annotated[
        list[str] | None,
        typer.Option("--translations", metavar="CODE=FILE", help="A name a line, in the order of the tags."),
    ] = None,
    descriptions: Annotated[
        list[Path] | None,
        typer.Option("--descriptions", help="A JSON list of {name: texts}, or JSON Lines with ids."),
    ] = None,
    kinds: Annotated[
        str | None,
        typer.Option("--kinds", metavar="KIND=LINE,...", help="The first line of each kind in a list."),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option("--format", help="Of FILE: jsonl, csv or list.", show_default="by its content"),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="The vocabulary's name.", show_default="as stated, or FILE's")
    ] = None,
) -> None:
    """Read a table or a list of names, and what goes with it line by line, into a vocabulary."""
    from taglens.language.vocabulary_files import (
        parse_blocks,
        read_vocabulary,
        with_description_file,
        with_threshold_file,
        with_translation_file,
    )

    require_jsonl(out, command="import")
    languages = _languages(translations or ())
    blocks = () if kinds is None else parse_blocks(kinds)
    read = read_vocabulary(file, format=_format(format), blocks=blocks, name=name)
    vocabulary = read.vocabulary
    _say_if_changed(vocabulary, read.stated, file)
    if thresholds is not None:
        vocabulary = with_threshold_file(vocabulary, thresholds)
    for language, path in languages.items():
        vocabulary = with_translation_file(vocabulary, language, path)
    for path in descriptions or ():
        described = with_description_file(vocabulary, path)
        vocabulary = described.vocabulary
        if described.unused:
            say(f"{path}: left out what describes no tag here: {_some(list(described.unused))}")
    vocabulary.save(out)
    wrote(out, vocabulary)
    if problems := len(vocabulary.problems()):
        say(f"{problems} problems in it: taglens vocabulary check {out}")


def require_jsonl(out: Path, *, command: str) -> None:
    """Raise UsageError for the suffix of a table or list: the file would be JSON Lines and refused as a table."""
    if out.suffix.lower() in (".csv", ".tsv", ".txt"):
        raise UsageError(
            f"--out {out}: {command} writes JSON Lines; name it {out.with_suffix('.jsonl')}, then: vocabulary export"
        )


def _format(text: str | None) -> Format | None:
    from taglens.language.vocabulary_files import FORMATS

    if text is None:
        return None
    for form in FORMATS:
        if text == form:
            return form
    raise UsageError(f"--format {text!r}; expected one of {', '.join(FORMATS)}")


def _languages(given: list[str] | tuple[str, ...]) -> dict[str, Path]:
    """``["zh=names.txt"]`` to language -> file."""
    found: dict[str, Path] = {}
    for text in given:
        language, sign, path = text.partition("=")
        if not (sign and path) or not language or not language.replace("-", "").isalnum():
            raise UsageError(
                f"--translations {text!r}: expected CODE=FILE, such as zh=names.txt; a code has letters, digits and "
                "hyphens (zh-TW)"
            )
        if language in found:
            raise UsageError(f"--translations: {language} is given twice; keep one file for each language")
        found[language] = Path(path)
    return found


def _say_if_changed(vocabulary: Vocabulary, stated: str | None, file: Path) -> None:
    if stated is not None and stated != vocabulary.fingerprint:
        say(
            f"note: {file} was written for fingerprint {stated}; tags were added, removed, renamed or re-ordered "
            f"since, and models made for it do not fit {vocabulary.ref}"
        )


def _some(names: list[str]) -> str:
    """The first few, and how many more there are."""
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(map(repr, names[:MOST_NAMED])) + more

"""``taglens pull``: fetch a published model, verify it and make it a model folder of this project.

Thin: `taglens.hub` fetches, `taglens.models` converts. Needs the ``hub`` and ``train`` extras.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from taglens.cli.console import OK, ProgressLine, say
from taglens.cli.convert import read_pieces
from taglens.errors import ModelError, UsageError

if TYPE_CHECKING:
    from taglens.hub.catalogue import Source
    from taglens.inference.clip_texts import TextParts

MB = 1_000_000
_SURE = {
    "pinned": "the pinned one",
    "given": "as given",
    "stated": "as the hub states",
    "nothing": "nothing to compare it with; pin it with --sha256",
}


def run(
    model: Annotated[str, typer.Argument(help="ram-plus, ram or tag2text.")],
    *,
    out: Annotated[
        Path | None, typer.Option("--out", help="The model folder to make.", show_default="./MODEL")
    ] = None,
    revision: Annotated[
        str | None,
        typer.Option("--revision", help="Branch, tag or commit.", show_default="the pinned commit"),
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Use what is on this machine alone.")] = False,
    endpoint: Annotated[
        str | None,
        typer.Option(
            "--endpoint", help="Another hub's address.", show_default="HF_ENDPOINT or the public hub"
        ),
    ] = None,
    lists: Annotated[
        str | None,
        typer.Option(
            "--lists", help="Folder with the tag lists, or an address.", show_default="the release's host"
        ),
    ] = None,
    sha256: Annotated[
        str | None, typer.Option("--sha256", help="Of the checkpoint.", show_default="the pinned one")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the weights in the cache.")] = False,
    no_text: Annotated[
        bool,
        typer.Option(
            "--no-text", help="Leave out CLIP's text tower: the model then knows its own tags alone."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was done as one object.")] = False,
) -> int:
    """Fetch a published model from where its authors put it, and turn it into a model folder."""
    from taglens.hub.catalogue import SOURCES

    if model not in SOURCES:
        raise UsageError(f"no published model {model!r}; expected one of {', '.join(SOURCES)}")
    from taglens.hub.lookup import Hub, require_hub, told_to_stay_offline
    from taglens.hub.pull import Pull, Wishes
    from taglens.inference.engines import require_torch

    require_hub()
    require_torch("converting a model")
    source = replace(SOURCES[model], text={}) if no_text else SOURCES[model]
    offline = offline or told_to_stay_offline()
    wishes = Wishes(
        out or Path(model), revision=revision, sha256=sha256, lists=lists, offline=offline, keep=keep
    )
    progress = _Progress()
    notes: list[str] = []

    def tell(sentence: str) -> None:
        progress.clear()
        say(sentence)

    def convert(files: Mapping[str, Path], folder: Path) -> None:
        progress.clear()
        notes.extend(convert_files(source, files, folder))

    try:
        pulled = Pull(source, wishes, Hub.connect(endpoint, offline=offline), convert, tell, progress).run()
    except KeyboardInterrupt:
        tell("what came is kept: the same command goes on")
        raise
    finally:
        progress.clear()
    for note in notes:
        say(note)
    _report(pulled.out, pulled.row, notes, present=pulled.present, as_json=as_json)
    return OK


def convert_files(source: Source, files: Mapping[str, Path], folder: Path) -> tuple[str, ...]:
    """A checkpoint and its lists into a model folder. Returns sentences on what was assumed."""
    from taglens.language.vocabulary_files import (
        read_vocabulary,
        with_threshold_file,
        with_translation_file,
    )
    from taglens.models.convert import convert
    from taglens.models.published import read_published, save_converted, vocabulary_of

    vocabulary = read_vocabulary(files["tags"], name=source.name).vocabulary
    if "thresholds" in files:
        vocabulary = with_threshold_file(vocabulary, files["thresholds"])
    for language in source.translations:
        vocabulary = with_translation_file(vocabulary, language, files[f"names:{language}"])
    words = files.get("beside:vocab.txt")
    pieces = None if words is None else read_pieces(words)
    converted = convert(read_published(files["checkpoint"]), tags=len(vocabulary), pieces=pieces)
    if converted.family != source.family:
        raise ModelError(f"{files['checkpoint'].name} holds {converted.family}, expected {source.family}")
    named = vocabulary_of(converted, vocabulary)
    content = None if words is None else words.read_bytes()
    text = _read_text(files) if source.text else None
    if text is not None:
        text.require_fit(converted.config)
    save_converted(converted, named.vocabulary, folder, name=source.name, pieces=content, text=text)
    return (*converted.notes, *named.notes, *(() if text is None else text.notes))


def _read_text(files: Mapping[str, Path]) -> TextParts:
    """What reads any tag, of the fetched files."""
    from taglens.inference.clip_texts import TextParts
    from taglens.language.clip_encoder import SHIPPED_TEMPLATES, read_templates
    from taglens.language.clip_pieces import ClipPieces
    from taglens.models.clip_text import read_tower

    pieces = ClipPieces.read(files["text:vocabulary"], files["text:merges"])
    return TextParts(read_tower(files["text:tower"]), pieces, read_templates(SHIPPED_TEMPLATES))


class _Progress:
    """A line a file, in megabytes, of what was still missing when it began."""

    def __init__(self, line: Callable[..., ProgressLine] = ProgressLine) -> None:
        self._make = line
        self._line: ProgressLine | None = None
        self._name, self._begun = "", 0

    def __call__(self, name: str, done: int, size: int | None) -> None:
        if self._line is None or name != self._name:
            self.clear()
            self._name, self._begun = name, done // MB
            self._line = self._make(None if size is None else size // MB - self._begun, unit="MB")
        if (came := done // MB - self._begun) > 0:  # a line has no rate before the first
            self._line.reach(came, f"MB of {name}")

    def clear(self) -> None:
        if self._line is not None:
            self._line.clear()


def _report(out: Path, row: Mapping[str, Any], notes: list[str], *, present: bool, as_json: bool) -> None:
    (checkpoint,) = (file for file in row["files"] if file["role"] == "checkpoint")
    say(
        f"{checkpoint['path']} of {checkpoint['repository']}@{checkpoint['commit']}, licence "
        f"{checkpoint['licence'] or 'not known here: see the repository'}"
    )
    say(f"sha256 {checkpoint['sha256']}, {_SURE[checkpoint['verified']]}")
    for file in row["files"]:
        if file["role"] == "text:tower":
            say(
                f"reads any tag: {file['path']} of {file['repository']}@{file['commit']}, licence "
                f"{file['licence'] or 'not stated there'}; sha256 {_SURE[file['verified']]}"
            )
    done = "was there already" if present else "made"
    say(f"{out} {done}; to tag: taglens tag PICTURE --model {out}")
    if as_json:
        about = {"model": row["source"], "folder": str(out), "present": present, "notes": notes}
        typer.echo(json.dumps(about | {"files": row["files"]}, ensure_ascii=False))

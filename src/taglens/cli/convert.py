"""``taglens convert``: a published file of weights becomes a model folder of this project.

Thin: calls `taglens.models.published` and `taglens.models.convert`. Needs the ``train`` extra.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from taglens.cli.console import OK, ProgressLine, say
from taglens.errors import UsageError

if TYPE_CHECKING:
    from taglens.inference.clip_texts import TextParts
    from taglens.models.captioner import SpecialPieces
    from taglens.models.convert import Converted
    from taglens.vocabulary import Vocabulary


def run(
    file: Annotated[Path, typer.Argument(help="Weights of RAM++, RAM or Tag2Text: .pth or .safetensors.")],
    *,
    out: Annotated[Path, typer.Option("--out", help="The model folder to write.")],
    tags: Annotated[
        Path | None, typer.Option("--tags", help="The model's tags: its tag list, or a vocabulary.")
    ] = None,
    thresholds: Annotated[
        Path | None, typer.Option("--thresholds", help="A number a line, in the order of the tags.")
    ] = None,
    descriptions: Annotated[
        int | None, typer.Option("--descriptions", help="Texts per tag of RAM++.", show_default="51")
    ] = None,
    word_pieces: Annotated[
        Path | None,
        typer.Option(
            "--word-pieces",
            help="vocab.txt of bert-base-uncased: what Tag2Text writes captions with.",
            show_default="vocab.txt beside FILE",
        ),
    ] = None,
    text_tower: Annotated[
        Path | None,
        typer.Option(
            "--text-tower",
            help="Weights of CLIP ViT-B/16, of which the text tower is taken: RAM and RAM++ then read any tag.",
        ),
    ] = None,
    text_pieces: Annotated[
        Path | None,
        typer.Option(
            "--text-pieces",
            help="What its texts are cut into: bpe_simple_vocab_16e6.txt.gz, or vocab.json beside merges.txt.",
            show_default="beside the tower",
        ),
    ] = None,
    templates: Annotated[
        Path | None,
        typer.Option(
            "--templates",
            help="What it is asked about a tag, a sentence a line with {} or {a} in it.",
            show_default="the package's",
        ),
    ] = None,
    side: Annotated[
        int | None, typer.Option("--side", help="Side of the input, px.", show_default="as trained")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="The model's name.", show_default="FILE's")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was done as one object.")] = False,
) -> int:
    """Turn the original release's weights into a model folder, strictly: every tensor is accounted for."""
    from taglens.inference.engines import require_torch

    require_torch("converting a model")
    from taglens.models.convert import DESCRIPTIONS, TAG2TEXT, convert, family_of
    from taglens.models.published import (
        numbered_tags,
        read_published,
        require_place,
        save_converted,
        vocabulary_of,
    )

    require_place(out)
    given = None if tags is None else _with_thresholds(_read(tags), thresholds)
    assumed: tuple[str, ...] = ()
    pieces = None if word_pieces is None else read_pieces(word_pieces)
    text = read_text(text_tower, text_pieces, templates)
    line = ProgressLine(3, unit="steps")
    try:
        published = read_published(file)
        line.reach(1, "read")
        if family_of(published) == TAG2TEXT:
            # What stands beside other models is none of theirs.
            if word_pieces is None and (beside := file.parent / "vocab.txt").is_file():
                word_pieces, pieces = beside, read_pieces(beside)
        elif word_pieces is not None:
            raise UsageError(
                f"--word-pieces: {file} is no Tag2Text and writes no captions; leave the option out"
            )
        converted = convert(
            published,
            tags=None if given is None else len(given),
            descriptions=DESCRIPTIONS if descriptions is None else descriptions,
            side=side,
            pieces=pieces,
        )
        if text is not None:
            text.require_fit(converted.config)
        model_name = name or file.stem
        if given is None:
            assumed = (
                f"no tag list: tags are called tag 1 to tag {converted.config.tags}; give --tags FILE",
            )
            given = _with_thresholds(numbered_tags(converted, name=model_name), thresholds)
        named = vocabulary_of(converted, given)
        line.reach(2, "converted")
        content = None
        if word_pieces is not None and converted.captioner is not None:
            content = word_pieces.read_bytes()
        save_converted(converted, named.vocabulary, out, name=model_name, pieces=content, text=text)
        line.reach(3, "written")
    finally:
        line.clear()
    notes = (*converted.notes, *assumed, *named.notes, *(() if text is None else text.notes))
    _report(converted, named.vocabulary, out, notes, as_json=as_json)
    return OK


def read_pieces(path: Path) -> SpecialPieces:
    """What a captioner must know of a file of word pieces. Raises VocabularyError when it is none."""
    from taglens.language.wordpiece import WordPiece
    from taglens.models.captioner import SpecialPieces

    pieces = WordPiece.load(path)
    return SpecialPieces(len(pieces), pieces.pad, pieces.sep, pieces.dec, pieces.enc)


def read_text(tower: Path | None, pieces: Path | None, templates: Path | None) -> TextParts | None:
    """What reads texts, of the user's files; None where no tower is given.

    Raises:
        UsageError: pieces or templates without a tower, or a tower without pieces.
        ModelError, VocabularyError: a file that is none, or files that do not belong together.
    """
    from taglens.inference.clip_texts import TextParts
    from taglens.language.clip_pieces import VOCABULARY

    if tower is None:
        if pieces is not None or templates is not None:
            raise UsageError("--text-pieces and --templates say what a --text-tower reads; give that too")
        return None
    if pieces is None:
        beside = (tower.with_name(VOCABULARY), tower.with_name("bpe_simple_vocab_16e6.txt.gz"))
        pieces = next((path for path in beside if path.is_file()), None)
    if pieces is None:
        raise UsageError(
            f"--text-pieces: neither {beside[0].name} nor {beside[1].name} stands beside {tower}; name the file"
        )
    return TextParts.read(tower, pieces, templates)


def _read(tags: Path) -> Vocabulary:
    from taglens.language.vocabulary_files import read_vocabulary

    return read_vocabulary(tags).vocabulary


def _with_thresholds(vocabulary: Vocabulary, thresholds: Path | None) -> Vocabulary:
    from taglens.language.vocabulary_files import with_threshold_file

    return vocabulary if thresholds is None else with_threshold_file(vocabulary, thresholds)


def _report(
    converted: Converted, vocabulary: Vocabulary, out: Path, notes: tuple[str, ...], *, as_json: bool
) -> None:
    from taglens.inference.bundle import trained_ref
    from taglens.models.checkpoint import read_config
    from taglens.models.convert import CAPTIONER

    config = converted.config
    written = read_config(out)
    ref = trained_ref(out, str(written["name"]))
    writes, reads = converted.captioner is not None, bool(written["reads_text"])
    values = sum(value.numel() for value in converted.state.values())
    if converted.captioner is not None:
        values += sum(value.numel() for value in converted.captioner.state.values())
    dropped = Counter(converted.dropped.values())
    for note in notes:
        say(note)
    for why, count in dropped.items():
        say(f"left out {count} tensors: {why}")
    if CAPTIONER in dropped:
        say("note: to write captions too, give --word-pieces FILE, the vocab.txt of bert-base-uncased")
    able = f"{', writes captions' if writes else ''}{', reads any tag' if reads else ''}"
    say(
        f"{out}: {ref}, {converted.family}, {values / 1e6:.1f} M values, {config.tags} tags, side {config.side}"
        f"{able}; to use it without torch: taglens bundle {out} --out DIR"
    )
    if as_json:
        row = {
            "model": ref,
            "vocabulary": vocabulary.ref,
            "folder": str(out),
            "family": converted.family,
            "tags": config.tags,
            "descriptions": config.descriptions,
            "side": config.side,
            "values": values,
            "captions": writes,
            "reads_text": reads,
            "used": len(converted.used),
            "tied": len(converted.tied),
            "dropped": dict(dropped),
            "notes": list(notes),
        }
        typer.echo(json.dumps(row, ensure_ascii=False))

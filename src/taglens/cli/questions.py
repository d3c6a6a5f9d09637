"""``taglens questions``: a file of captions in, a file of questions and answers out.

Knows files, options and the counts that are told. Refuses to know what a question is (`taglens.data.question_maker`).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from taglens.cli.captions import caption_progress, require_files, require_folder, require_workers
from taglens.cli.console import OK, say
from taglens.data.question_maker import TYPES, QuestionPlan, make_questions
from taglens.data.questions import Question
from taglens.data.sources import read_captions
from taglens.errors import UsageError
from taglens.inference.bundle import STARTER, VOCABULARY, locate
from taglens.language.parsed import ParsedCaption
from taglens.language.parser import parse_lines
from taglens.language.word_lists import packaged
from taglens.results import to_line
from taglens.vocabulary import Vocabulary


def run(
    captions: Annotated[Path, typer.Argument(help="captions.jsonl: image, captions, split.")],
    *,
    out: Annotated[Path, typer.Option("--out", help="Where the questions go, one a line.")],
    vocabulary: Annotated[
        Path | None,
        typer.Option("--vocabulary", help="Whose things are asked about.", show_default="the starter's"),
    ] = None,
    most: Annotated[
        int,
        typer.Option("--most", help="Questions of each type for a picture, and as many answered no."),
    ] = 2,
    most_share: Annotated[
        float,
        typer.Option(
            "--most-share", help="Of the questions that ask one word, at most so many have one answer."
        ),
    ] = 0.5,
    seed: Annotated[int, typer.Option("--seed", help="Another seed, other questions.")] = 0,
    workers: Annotated[int, typer.Option("--workers", help="Parsing processes; 0: one per processor.")] = 1,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no summary.")] = False,
) -> int:
    """Make questions about captioned pictures, answered by what the captions say.

    "Is there a dog?", "what colour is the dog?", "what is the dog doing?", "how many dogs are there?", balanced so
    that answers do not follow from the words. What no caption names may be in a picture all the same.
    """
    plan = QuestionPlan(most, most_share, seed)
    require_files("captions", [captions])
    require_folder("--out", out)
    require_workers(workers)
    if vocabulary is not None:
        require_files("--vocabulary", [vocabulary])
    if out.resolve() == captions.resolve():
        raise UsageError(f"--out {out} is the file of captions; give another name")
    words = Vocabulary.load(vocabulary or locate(STARTER) / VOCABULARY)
    with caption_progress([captions], split=None) as progress:

        def parse(texts: Iterable[str]) -> Iterable[ParsedCaption]:
            return parse_lines(texts if quiet else progress.watch(texts), workers=workers)

        found = make_questions(read_captions(captions), words, packaged(), parse=parse, plan=plan)
    _write(found, out)
    if not quiet:
        for line in summary(found):
            say(line)
    return OK


def _write(questions: Sequence[Question], out: Path) -> None:
    """All rows or none; pictures are named from the file's own folder."""
    folder = os.path.abspath(out.parent)  # noqa: PTH100 -- links are not followed, as nowhere in such files
    beside = out.with_name(out.name + ".part")
    try:
        with beside.open("w", encoding="utf-8", newline="\n") as file:
            for one in questions:
                file.write(to_line(replace(one, image=_named_from(one.path, folder)).to_dict()) + "\n")
        beside.replace(out)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _named_from(path: Path, folder: str) -> str:
    whole = os.path.abspath(path)  # noqa: PTH100
    try:
        return Path(os.path.relpath(whole, folder)).as_posix()
    except ValueError:  # on another drive
        return Path(whole).as_posix()


def summary(questions: Sequence[Question]) -> list[str]:
    """How many questions there are, by split and type."""
    splits = sorted({one.split for one in questions}, key=lambda split: (split is not None, split))
    lines = []
    for split in splits:
        rows = [one for one in questions if one.split == split]
        counts = Counter(one.type for one in rows)
        told = ", ".join(f"{counts[type]} {type}" for type in TYPES if counts[type])
        name = "questions" if split is None else f"{split}: questions"
        lines.append(f"{name} {len(rows)} about {len({one.path for one in rows})} pictures ({told})")
    return lines

"""``taglens annotate report``: one annotation against people's labels, and the labels in doubt.

Thin: calls `taglens.evaluation.annotation_report` and prints it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from taglens.cli.captions import require_files, require_folder
from taglens.cli.console import OK, printable, say
from taglens.results import to_line

if TYPE_CHECKING:
    from taglens.collection.annotation_review import Suspicions
    from taglens.evaluation.annotation_report import Confusion, Meeting, Report

AnnotationFolder = Annotated[Path, typer.Argument(metavar="DIR", help="A folder of taglens annotate.")]
VocabularyFile = Annotated[
    Path | None,
    typer.Option(
        "--vocabulary", help="The tags asked for; names and synonyms then meet.", show_default="none"
    ),
]
Split = Annotated[str | None, typer.Option("--split", help="Of the labels, only these rows.")]
Others = Annotated[
    list[Path] | None,
    typer.Option("--with", metavar="DIR", help="Other annotations of these pictures, for suspicions."),
]


def run(
    folder: AnnotationFolder,
    *,
    truth: Annotated[
        Path, typer.Option("--truth", help="People's labels: a labels.jsonl of the same pictures.")
    ],
    vocabulary: VocabularyFile = None,
    split: Split = None,
    concepts: Annotated[
        list[Path] | None,
        typer.Option("--concepts", metavar="FILE", help="Look-alikes, beside those DIR was made with."),
    ] = None,
    suspicions: Annotated[
        Path | None,
        typer.Option(
            "--suspicions", metavar="FILE", help="Write the labels in doubt, the most suspect first."
        ),
    ] = None,
    most: Annotated[int | None, typer.Option("--most", min=1, help="Suspicions at most.")] = None,
    others: Others = None,
    as_json: Annotated[bool, typer.Option("--json", help="One object on standard output.")] = False,
) -> int:
    """Measure an annotation against people's labels: figures, what each stage did, which tags it takes for others.

    --suspicions lists where annotator and people disagree most surely. It is a list of suspicions: who is wrong is
    for a person to say (taglens annotate review DIR --truth).
    """
    from taglens.evaluation.annotation_report import (
        concept_files,
        look_alikes,
        report,
        suspicion_rows,
    )

    require_files("--concepts", concepts or ())
    if suspicions is not None:
        require_folder("--suspicions", suspicions)
    meeting = meet(folder, truth, vocabulary, split)
    found = report(meeting, alike=look_alikes(meeting, concept_files(folder, concepts or ())))
    if suspicions is not None:
        from taglens.collection.store import replace

        rows = suspicion_rows(meeting, suspected(meeting, others or ()), most=most)
        replace(suspicions, "".join(to_line(row) + "\n" for row in rows).encode())
        say(f"{suspicions}: {len(rows):,} suspicions, the most suspect first; they are no verdicts")
    if as_json:
        typer.echo(json.dumps({"out": str(folder), **found.to_dict()}, ensure_ascii=False))
    else:
        for line in _text(found):
            typer.echo(printable(line))
    return OK


def meet(folder: Path, truth: Path, vocabulary: Path | None, split: str | None) -> Meeting:
    """The annotation and the truth; says what is left out."""
    from taglens.evaluation.annotation_report import Meeting
    from taglens.vocabulary import Vocabulary

    require_files("--truth", [truth])
    tags = None if vocabulary is None else Vocabulary.load(vocabulary)
    meeting = Meeting(folder, truth, split=split, vocabulary=tags)
    if meeting.left_out:
        say(f"{meeting.left_out:,} pictures are not in both, or could not be used, and are left out")
    return meeting


def suspected(meeting: Meeting, others: Sequence[Path]) -> Suspicions:
    from taglens.evaluation.annotation_report import suspicions

    return suspicions(meeting, others)


def _text(found: Report) -> Iterable[str]:
    row = found.to_dict()
    yield f"{found.pictures:,} pictures, {len(found.classes):,} classes; figures in per cent"
    names = ("OP", "OR", "OF1", "CP", "CR", "CF1")
    yield "".join(f"{name:>8}" for name in names)
    yield "".join(_percent(row[name]) for name in names)
    yield ""
    yield f"{'labels by stage':<22}{'labels':>8}{'right':>8}{'precision':>11}"
    for stage, judged in found.by_stage.items():
        share = judged.right / judged.labels if judged.labels else None
        yield f"{stage:<22}{judged.labels:>8,}{judged.right:>8,}{_percent(share):>11}"
    yield ""
    never, settled, open = found.recall_lost
    recall = found.proposed.right / found.wanted if found.wanted else None
    yield (
        f"proposed {found.proposed.labels:,}, of people's {found.wanted:,} labels {found.proposed.right:,} "
        f"({_percent(recall).strip()})"
    )
    yield (
        f"dropped {found.dropped.labels:,}: {found.dropped.right:,} rightly, "
        f"{found.dropped.labels - found.dropped.right:,} wrongly"
    )
    yield f"missing: {never:,} never proposed, {settled:,} dropped, {open:,} unsettled"
    for alike, title in ((True, "look-alikes"), (False, "other tags")):
        rows = [one for one in found.confusions if one.alike is alike][:10]
        if rows:
            yield ""
            yield from _confused(title, rows)


def _confused(title: str, rows: Sequence[Confusion]) -> Iterable[str]:
    yield f"said, where people have another tag and not it: {title}"
    yield f"{'said':<24}{'people have':<24}{'pictures':>9}{'instead':>9}"
    for one in rows:
        yield f"{one.said:<24}{one.truth:<24}{one.pictures:>9,}{one.instead:>9,}"


def _percent(value: float | None) -> str:
    return f"{'-':>8}" if value is None else f"{100 * value:>8.2f}"

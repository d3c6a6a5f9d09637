"""``taglens evaluate``: read a label file, score its pictures, print one JSON object.

`command` is what a terminal calls; `run` holds the order of things (cheap refusals first, the score file before
the printing) and does not know how a model is loaded: that is passed in.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TextIO

import typer

from taglens.cli.console import ProgressLine
from taglens.errors import UsageError
from taglens.evaluation.datasets import read_labels
from taglens.evaluation.tagging import OpenScorer, Scorer, evaluate_tagging
from taglens.results import to_line

_MOST_NAMED = 10


def command(
    *,
    data: Annotated[Path, typer.Option("--data", help="labels.jsonl: image, labels, split.")],
    model: Annotated[
        str, typer.Option("--model", help="A shipped model's name, or a model folder.")
    ] = "starter",
    split: Annotated[
        str | None, typer.Option("--split", help="By default val where the file has it, else all rows.")
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option("--threshold", min=0.0, max=1.0, help="By default the model's own per tag."),
    ] = None,
    open_set: Annotated[
        bool,
        typer.Option("--open-set", help="Score every label as typed text (needs a model that reads text)."),
    ] = False,
    scores: Annotated[
        Path | None, typer.Option("--scores", help="Also write scores and truth to this .npz file.")
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1)] = 32,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
    engine: Annotated[str, typer.Option("--engine", help="auto, onnx or torch.")] = "auto",
    _json: Annotated[
        bool, typer.Option("--json", help="Accepted as in other commands; JSON is the only form.")
    ] = False,
) -> int:
    """Measure a model on labelled pictures; prints one JSON object."""

    def load() -> Scorer:
        from taglens.inference.tagger import Tagger

        return Tagger.from_pretrained(model, engine=engine, device=device)

    line: list[ProgressLine] = []

    def progress(done: int, total: int) -> None:
        if not line:
            line.append(ProgressLine(total))
        line[0].reach(done)

    try:
        return run(
            load,
            data=data,
            split=split,
            threshold=threshold,
            open_set=open_set,
            scores=scores,
            batch_size=batch_size,
            stdout=sys.stdout,
            progress=progress,
        )
    finally:
        for drawn in line:
            drawn.clear()


def run(
    scorer_factory: Callable[[], Scorer],
    *,
    data: Path,
    split: str | None,
    threshold: float | None,
    open_set: bool,
    scores: Path | None,
    batch_size: int,
    stdout: TextIO,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Evaluate tags and print the contract's object as one line.

    Labels outside the vocabulary are scored as text when the scorer is an `OpenScorer` that reads it. Pictures that
    failed are named on standard error.

    Args:
        scorer_factory: called once, after the label file has been read.
        scores: where to write the arrays, before anything is printed.

    Returns:
        The exit status: 0, or 1 when some pictures failed.

    Raises:
        TaglensError: see `read_labels` and `evaluate_tagging`; the folder for ``scores`` is missing.
    """
    if scores is not None and (scores.is_dir() or not scores.parent.is_dir()):
        # Said now and not after an hour of scoring.
        raise UsageError(f"cannot write scores to {scores}: expected a file name in a folder that exists")
    images = read_labels(data, split=split)
    scorer = scorer_factory()
    report = evaluate_tagging(
        scorer,
        images,
        threshold=threshold,
        open_set=open_set,
        typed=scorer.typed if isinstance(scorer, OpenScorer) and scorer.reads_text else None,
        batch_size=batch_size,
        progress=progress,
    )
    if scores is not None:
        report.save_scores(scores)
    stdout.write(to_line(report.to_dict()) + "\n")
    stdout.flush()
    if report.failed:
        names = ", ".join(report.failed[:_MOST_NAMED])
        more = len(report.failed) - _MOST_NAMED
        tail = f" and {more} more" if more > 0 else ""
        told = f"{len(report.failed)} of {report.images} pictures could not be scored and are left out"
        sys.stderr.write(f"{told}: {names}{tail}\n")
    return 1 if report.failed else 0

"""``taglens evaluate``: read a label file, score its pictures, print one JSON object.

`command` is what a terminal calls for every task; `run` holds the order of things for tags (cheap refusals first,
the score file before the printing) and does not know how a model is loaded: that is passed in. For captions that is
`taglens.cli.evaluate_captions`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, TextIO

import typer

from taglens.cli.console import ProgressLine
from taglens.errors import UsageError
from taglens.evaluation.datasets import read_labels
from taglens.evaluation.tagging import OpenScorer, Scorer, evaluate_tagging
from taglens.results import to_line

_MOST_NAMED = 10

TASKS = ("tagging", "caption", "retrieval", "vqa")


def command(
    *,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            help="labels.jsonl (image, labels, split); for captions and retrieval a captions.jsonl, for vqa a "
            "questions.jsonl.",
        ),
    ] = None,
    task: Annotated[str, typer.Option("--task", help="tagging, caption, retrieval or vqa.")] = "tagging",
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
    predictions: Annotated[
        Path | None,
        typer.Option("--predictions", help="Captions: rows of taglens caption --json, instead of a model."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Captions: keep those that the model writes in this file.")
    ] = None,
    tags: Annotated[
        str | None, typer.Option("--tags", metavar='"A,B"', help="Captions: as in taglens caption.")
    ] = None,
    add_tags: Annotated[bool, typer.Option("--add-tags", help="Captions: as in taglens caption.")] = False,
    no_tags: Annotated[bool, typer.Option("--no-tags", help="Captions: written without any guide.")] = False,
    beams: Annotated[
        int | None,
        typer.Option("--beams", help="Captions: as in taglens caption.", show_default="3"),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option("--labels", help="Captions: a labels.jsonl with true tags of the same pictures."),
    ] = None,
    vocabulary: Annotated[
        Path | None,
        typer.Option(
            "--vocabulary", help="Captions: of the tags they are read for.", show_default="the starter's"
        ),
    ] = None,
    meteor: Annotated[
        bool | None,
        typer.Option(
            "--meteor/--no-meteor", help="Captions: METEOR, which needs Java.", show_default="where Java is"
        ),
    ] = None,
    spice: Annotated[
        bool, typer.Option("--spice", help="Captions: SPICE, which needs Java and fetches its own parts.")
    ] = False,
    bertscore: Annotated[
        Path | None,
        typer.Option("--bertscore", metavar="DIR", help="Captions: BERTScore by a bert or roberta on disk."),
    ] = None,
    bertscore_layer: Annotated[
        int | None,
        typer.Option(
            "--bertscore-layer", min=1, help="Captions: its layer.", show_default="as published, if it is"
        ),
    ] = None,
    bertscore_idf: Annotated[
        bool, typer.Option("--bertscore-idf", help="Captions: rare pieces weigh more in BERTScore.")
    ] = False,
    clipscore: Annotated[
        Path | None, typer.Option("--clipscore", metavar="DIR", help="Captions: CLIPScore by a CLIP on disk.")
    ] = None,
    similarity: Annotated[
        str | None,
        typer.Option(
            "--similarity",
            metavar="MODEL",
            help="Captions: mean cosine of picture and caption, by a model of taglens that aligns them.",
        ),
    ] = None,
    weight: Annotated[
        float | None,
        typer.Option(
            "--lambda",
            help="Retrieval: what matching tags weigh beside similarity.",
            show_default="the model's",
        ),
    ] = None,
    tune_split: Annotated[
        str | None, typer.Option("--tune-split", help="Retrieval: choose lambda on another split's pictures.")
    ] = None,
    rerank: Annotated[
        int | None, typer.Option("--rerank", metavar="K", help="Retrieval: rank the first K answers anew.")
    ] = None,
    rerank_by: Annotated[
        str | None,
        typer.Option("--rerank-by", help="Retrieval: match or labels.", show_default="match"),
    ] = None,
    overlap: Annotated[
        str | None,
        typer.Option("--overlap", help="Retrieval: recognised or likely.", show_default="recognised"),
    ] = None,
    questions: Annotated[
        Path | None, typer.Option("--questions", help="vqa: VQAv2's questions, instead of --data.")
    ] = None,
    annotations: Annotated[
        Path | None, typer.Option("--annotations", help="vqa: VQAv2's annotations of these questions.")
    ] = None,
    pictures: Annotated[
        Path | None, typer.Option("--images", metavar="DIR", help="vqa: the folder of their pictures.")
    ] = None,
    _json: Annotated[
        bool, typer.Option("--json", help="Accepted as in other commands; JSON is the only form.")
    ] = False,
) -> int:
    """Measure a model on labelled or captioned pictures; prints one JSON object."""
    if task not in TASKS:
        raise UsageError(f"--task {task}: expected one of {', '.join(TASKS)}")
    of_captions = {
        "--predictions": predictions,
        "--out": out,
        "--tags": tags,
        "--add-tags": add_tags,
        "--no-tags": no_tags,
        "--beams": beams,
        "--labels": labels,
        "--vocabulary": vocabulary,
        "--meteor": meteor is not None,
        "--spice": spice,
        "--bertscore": bertscore,
        "--bertscore-layer": bertscore_layer,
        "--bertscore-idf": bertscore_idf,
        "--clipscore": clipscore,
        "--similarity": similarity,
    }
    of_retrieval = {
        "--lambda": weight,
        "--tune-split": tune_split,
        "--rerank": rerank,
        "--rerank-by": rerank_by,
        "--overlap": overlap,
    }
    measured = ("--meteor", "--spice", *(name for name in of_captions if "score" in name), "--similarity")
    theirs = {"--questions": questions, "--annotations": annotations, "--images": pictures}
    if task == "vqa":
        refuse({"--scores": scores, "--open-set": open_set}, task="--task tagging")
        refuse(of_retrieval, task="--task retrieval")
        refuse(
            {name: of_captions[name] for name in (*measured, "--labels", "--vocabulary")},
            task="--task caption",
        )
        told = {"--tags": tags, "--add-tags": add_tags, "--no-tags": no_tags, "--beams": beams}
        if predictions is not None:
            refuse({**told, "--threshold": threshold}, task="a model, without --predictions")
        from taglens.cli.evaluate_answers import AnswerTask, answerer, ask_options
        from taglens.cli.evaluate_answers import run as run_answers

        return run_answers(
            AnswerTask(data, questions, annotations, pictures, split, predictions, out),
            answerer(
                model,
                ask_options(
                    tags=tags,
                    add_tags=add_tags,
                    no_tags=no_tags,
                    threshold=threshold,
                    beams=beams,
                    batch_size=batch_size,
                ),
                engine=engine,
                device=device,
            ),
            stdout=sys.stdout,
        )
    refuse(theirs, task="--task vqa")
    if data is None:
        raise UsageError(f"--data is missing: --task {task} needs a file; see taglens evaluate --help")
    if task != "retrieval":
        refuse(of_retrieval, task="--task retrieval")
    else:
        refuse({"--scores": scores, "--open-set": open_set, "--threshold": threshold}, task="--task tagging")
        refuse(of_captions, task="--task caption")
        from taglens.cli.evaluate_retrieval import evaluate

        return evaluate(
            data,
            model=model,
            split=split,
            weight=weight,
            tune_split=tune_split,
            rerank=(rerank, rerank_by, overlap),
            batch_size=batch_size,
            runs_on=(engine, device),
        )
    if task == "caption":
        refuse({"--scores": scores, "--open-set": open_set}, task="--task tagging")
        from taglens.cli.evaluate_captions import (
            CaptionTask,
            ScoreModels,
            caption_options,
            measured_by_package,
            writer,
        )
        from taglens.cli.evaluate_captions import run as run_captions

        chosen = CaptionTask(data, split, predictions, out, labels, vocabulary)
        judges = ScoreModels(bertscore, clipscore, similarity, bertscore_layer, bertscore_idf)
        guide = {"--tags": tags, "--add-tags": add_tags, "--no-tags": no_tags}
        if predictions is not None:
            refuse(
                {**guide, "--beams": beams, "--threshold": threshold}, task="a model, without --predictions"
            )
        options = caption_options(
            tags=tags,
            add_tags=add_tags,
            no_tags=no_tags,
            threshold=threshold,
            beams=beams,
            batch_size=batch_size,
        )
        return run_captions(
            chosen,
            writer(model, options, guided=not no_tags, engine=engine, device=device),
            metrics=measured_by_package(meteor=meteor, spice=spice),
            scores=lambda: judges.opened(device=device, engine=engine),
            stdout=sys.stdout,
        )
    refuse(of_captions, task="--task caption")

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


def refuse(options: Mapping[str, object], *, task: str) -> None:
    """Raise UsageError for an option that was given and means nothing here: it belongs to ``task``."""
    for option, value in options.items():
        if value is not None and value is not False:
            raise UsageError(f"{option} belongs to {task}; leave it out")


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

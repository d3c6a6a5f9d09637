"""``taglens evaluate --task vqa``: answers that a model gives, or gave, against those of people.

Knows the options and the order of things: cheap refusals, the questions, the model, the figures. Refuses to know how
an answer is found and what a figure means.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from taglens.cli.ask import AskOptions
from taglens.cli.captions import require_files, require_folder
from taglens.cli.console import OK, SOME_FAILED, ProgressLine, say
from taglens.cli.tag import split_tags
from taglens.data.questions import Question, read_questions, read_vqa
from taglens.errors import UsageError
from taglens.evaluation.answered import read_answers
from taglens.evaluation.answers import evaluate_answers
from taglens.inference.sources import Source
from taglens.results import to_line

if TYPE_CHECKING:
    from taglens.inference.answering import Answered

_MOST_NAMED = 10

Answer = Callable[[Iterable[tuple[Source, str]]], Iterator["Answered"]]


@dataclass(frozen=True, slots=True)
class AnswerTask:
    """What is evaluated, and against what.

    Attributes:
        data: a questions.jsonl.
        questions, annotations, images: VQAv2's two files and the folder of the pictures, instead.
        split: None: val where the file has it, else all rows.
        predictions: rows of answers, or VQAv2's results, instead of a model.
        out: where the rows that a model gives are kept.
    """

    data: Path | None = None
    questions: Path | None = None
    annotations: Path | None = None
    images: Path | None = None
    split: str | None = None
    predictions: Path | None = None
    out: Path | None = None

    def __post_init__(self) -> None:
        theirs = {"--questions": self.questions, "--annotations": self.annotations, "--images": self.images}
        given = [option for option, path in theirs.items() if path is not None]
        if self.data is not None and given:
            raise UsageError(
                f"--data is a questions.jsonl and {given[0]} belongs to VQAv2's files; give one of the two"
            )
        if self.data is None and len(given) < len(theirs):
            missing = ", ".join(option for option, path in theirs.items() if path is None)
            raise UsageError(
                "--task vqa needs --data questions.jsonl, or VQAv2's --questions, --annotations and --images"
                + (f"; missing: {missing}" if given else "")
            )
        if self.predictions is not None and self.out is not None:
            raise UsageError(
                "--out keeps what a model answers, and --predictions are given already; give one"
            )
        files = {"--data": self.data, **theirs, "--predictions": self.predictions}
        for option, path in files.items():
            if path is not None and option != "--images":
                require_files(option, [path])
        if self.images is not None and not self.images.is_dir():
            raise UsageError(f"--images: expected a folder at {self.images}, found none; check the path")
        require_folder("--out", self.out)

    def read(self) -> tuple[list[Question], list[Question]]:
        """The questions, and those to count baselines on: of split train where another is evaluated."""
        if self.data is None:
            assert self.questions is not None and self.annotations is not None and self.images is not None
            rows = read_vqa(self.questions, self.annotations, images=self.images, split=self.split)
            return rows, []
        rows = read_questions(self.data, split=self.split)
        if any(row.split == "train" for row in rows):
            return rows, []
        every = read_questions(self.data, default_split=None)
        return rows, [row for row in every if row.split == "train"]


def ask_options(
    *,
    tags: str | None,
    add_tags: bool,
    no_tags: bool,
    threshold: float | None,
    beams: int | None,
    batch_size: int,
) -> AskOptions:
    """What a model is told. Raises UsageError for what cannot be meant."""
    return AskOptions(
        tags=split_tags(tags),
        add_tags=add_tags,
        no_tags=no_tags,
        threshold=threshold,
        beams=beams,
        batch_size=batch_size,
    )


def answerer(model: str, options: AskOptions, *, engine: str, device: str) -> Callable[[], Answer]:
    """What loads a model and gives what answers with it."""

    def load() -> Answer:
        from taglens.inference.tagger import Tagger

        tagger = Tagger.from_pretrained(model, engine=engine, device=device)
        search = options.search()

        def answer(asked: Iterable[tuple[Source, str]]) -> Iterator[Answered]:
            return tagger.answer(
                asked,
                tags=options.guide,
                add_tags=options.add_tags,
                threshold=options.threshold,
                search=search,
                batch_size=options.batch_size,
            )

        return answer

    return load


def run(task: AnswerTask, load: Callable[[], Answer], *, stdout: TextIO) -> int:
    """Evaluate answers and print one object as one line.

    Questions without an answer are counted on standard error, the first named.

    Args:
        load: gives what answers; not called with ``predictions``.

    Returns:
        The exit status: 0, or 1 when some questions have no answer.

    Raises:
        TaglensError: a file that is not what it should be, or what the model raises.
    """
    questions, others = task.read()
    if task.predictions is None:
        answers = _asked(questions, load(), out=task.out)
    else:
        answers = _predicted(questions, task.predictions)
    report = evaluate_answers(questions, answers, others=others)
    stdout.write(to_line(report.to_dict()) + "\n")
    stdout.flush()
    if report.failed:
        names = ", ".join(dict.fromkeys(image for image, _ in report.failed[:_MOST_NAMED]))
        say(
            f"{len(report.failed)} of {report.questions} questions have no answer and are left out; the first are "
            f"about {names}"
        )
    return SOME_FAILED if report.failed else OK


def _asked(questions: Sequence[Question], answer: Answer, *, out: Path | None) -> list[str | None]:
    """A model's answers, in order; all rows are in ``out`` before anything is measured."""
    # Those about one picture in a row, so that it is looked at once.
    first: dict[Path, int] = {}
    for place, one in enumerate(questions):
        first.setdefault(one.path, place)
    order = sorted(range(len(questions)), key=lambda place: first[questions[place].path])
    progress = ProgressLine(len(questions), unit="questions")
    rows: list[Answered | None] = [None] * len(questions)
    pairs = (
        # Rows name pictures as the data file does.
        (Source(one.path, one.image), one.question)
        for one in (questions[place] for place in order)
    )
    try:
        for place, row in zip(order, answer(pairs), strict=True):
            rows[place] = row
            progress.advance(failed=int(row.error is not None))
    finally:
        progress.clear()
    if out is not None:
        beside = out.with_name(out.name + ".part")
        try:
            lines = (row.to_json() + "\n" for row in rows if row is not None)
            beside.write_text("".join(lines), encoding="utf-8", newline="\n")
            beside.replace(out)
        except OSError:
            beside.unlink(missing_ok=True)
            raise
    return [None if row is None else row.answer for row in rows]


def _predicted(questions: Sequence[Question], path: Path) -> list[str | None]:
    """The answers that a file has to the questions."""
    found = read_answers(path, questions)
    if found.unused:
        say(f"{found.unused} of {found.rows} rows of {path} answer none of the questions evaluated")
    return list(found.answers)

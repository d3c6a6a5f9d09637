"""``taglens ask``: answers to questions about pictures, guided by tags.

Knows the options and how an answer is laid out for a person. Refuses to know how it is found
(`taglens.inference.answering`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from taglens.cli import options
from taglens.cli.console import is_terminal, printable
from taglens.cli.rows import Tally, conclude, deliver, rows, show_json, watched
from taglens.cli.tag import split_tags
from taglens.errors import UsageError
from taglens.inference.sources import Found, Skipped, Source, Unopened, expand

if TYPE_CHECKING:
    from taglens.inference.answering import Answered, AnswerSearch


@dataclass(frozen=True, slots=True)
class AskOptions:
    """What ``taglens ask`` can be told; refuses what cannot be meant. None takes the default."""

    tags: tuple[str, ...] | None = None
    add_tags: bool = False
    no_tags: bool = False
    threshold: float | None = None
    beams: int | None = None
    max_length: int | None = None
    batch_size: int = 16
    max_pixels: int | None = None

    def __post_init__(self) -> None:
        if self.no_tags and (self.tags is not None or self.threshold is not None):
            raise UsageError(
                "--no-tags answers without a guide, and --tags and --threshold say which; give one"
            )
        if self.tags == ():
            raise UsageError('--tags names no tag; expected names with commas between them: --tags "dog,cat"')
        if self.add_tags and self.tags is None:
            raise UsageError('--add-tags says what to do with --tags; give both: --tags "dog,cat" --add-tags')
        if self.threshold is not None and not 0.0 <= self.threshold <= 1.0:
            raise UsageError(f"--threshold must lie between 0 and 1, found {self.threshold:g}")
        least = {
            "--beams": (self.beams, 1),
            "--max-length": (self.max_length, 2),
            "--batch-size": (self.batch_size, 1),
            "--max-pixels": (self.max_pixels, 1),
        }
        for option, (found, lowest) in least.items():
            if found is not None and found < lowest:
                raise UsageError(f"{option} must be {lowest} or more, found {found}")

    @property
    def guide(self) -> tuple[str, ...] | None:
        """The tags as `Tagger.answer` takes them."""
        return () if self.no_tags else self.tags

    def search(self) -> AnswerSearch:
        from taglens.inference.answering import AnswerSearch

        given = {"beams": self.beams, "max_length": self.max_length}
        return AnswerSearch(**{name: value for name, value in given.items() if value is not None})


def run(
    sources: options.Sources,
    *,
    question: Annotated[
        list[str], typer.Option("--question", metavar="TEXT", help="What to ask; may be given several times.")
    ],
    model: Annotated[
        str, typer.Option("--model", help="The folder of a model that answers questions.")
    ] = "starter",
    tags: Annotated[
        str | None,
        typer.Option(
            "--tags",
            metavar='"A,B"',
            help="What the model reads beside the question, instead of the recognised tags.",
        ),
    ] = None,
    add_tags: options.JoinRecognised = False,
    no_tags: Annotated[
        bool, typer.Option("--no-tags", help="Nothing but the question and the picture.")
    ] = False,
    threshold: options.RecognisedThreshold = None,
    beams: Annotated[
        int | None, typer.Option("--beams", help="Beams of the search; 1: greedy.", show_default="3")
    ] = None,
    max_length: Annotated[
        int | None, typer.Option("--max-length", help="Word pieces of an answer.", show_default="12")
    ] = None,
    batch_size: options.BatchSize = 16,
    device: options.Device = "auto",
    engine: options.Engine = "auto",
    max_pixels: options.MaxPixels = None,
    json: options.AsRows = False,
    quiet: options.Quiet = False,
) -> int:
    """Answer questions about each picture, in the order given.

    The model reads the question together with the tags found in the picture, or yours. A picture that cannot be used
    gets a row that says why; the exit status is then 1.
    """
    asking = AskOptions(
        tags=split_tags(tags),
        add_tags=add_tags,
        no_tags=no_tags,
        threshold=threshold,
        beams=beams,
        max_length=max_length,
        batch_size=batch_size,
        max_pixels=max_pixels,
    )
    for text in question:
        _require(text)
    # Looked up here: the engine behind it is heavy, and a wrong option should not have to wait for it.
    from taglens.inference.answering import unanswered
    from taglens.inference.tagger import Tagger

    search = asking.search()
    tagger = Tagger.from_pretrained(model, engine=engine, device=device)
    limits: dict[str, Any] = {} if max_pixels is None else {"max_pixels": max_pixels}
    next_question = cycle(question)

    def answer(pictures: Iterator[Source]) -> Iterator[Answered]:
        # Each picture comes as often as there are questions, one time after another.
        return tagger.answer(
            zip(pictures, cycle(question)),
            tags=asking.guide,
            add_tags=add_tags,
            threshold=threshold,
            search=search,
            batch_size=batch_size,
            **limits,
        )

    def barred(item: Unopened) -> Answered:
        return unanswered(item.source, next(next_question), item.failure, model=tagger.ref)

    tally = Tally()
    found, progress = watched(_repeated(expand(sources), len(question)), quiet=quiet)
    show = show_json if json else AnswerListing(sys.stdout).show
    for _ in deliver(
        rows(found, answer, barred, tally=tally, purpose="ask about"), show, tally=tally, progress=progress
    ):
        pass
    # Rows were counted, and people count pictures.
    tally.pictures, tally.failed = (-(-count // len(question)) for count in (tally.pictures, tally.failed))
    return conclude(tally, quiet=quiet)


def _require(question: str) -> None:
    try:
        question.encode("utf-8")
    except UnicodeEncodeError:
        raise UsageError(f"--question {question!r} is not UTF-8 text") from None
    if not any(map(str.isalnum, question)):
        raise UsageError(f'--question {question!r} holds no word; ask something: --question "what is this?"')


def _repeated(found: Iterable[Found], times: int) -> Iterator[Found]:
    for item in found:
        for _ in range(1 if isinstance(item, Skipped) else times):
            yield item


class AnswerListing:
    """Writes answers to a stream: the question, the answer with its probability, what the model read."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._coloured = is_terminal(stream)

    def show(self, row: Answered) -> None:
        lines = [(printable(row.source), "bold"), (f"  {printable(row.question)}", "")]
        if row.error is not None:
            lines.append((f"  error: {row.error.type}: {printable(row.error.message)}", "red"))
        if row.answer is not None and row.score is not None:
            lines.append((f"  {printable(row.answer) or '(no words)'}  {row.score:.2f}", "green"))
        if row.guide_tags:
            lines.append((f"  guided by: {printable(', '.join(row.guide_tags))}", "dim"))
        lines += [(f"  note: {printable(note)}", "dim italic") for note in row.notes]
        if self._coloured:
            from rich.console import Console
            from rich.text import Text

            console = Console(file=self._stream, highlight=False)
            for line, style in lines:
                console.print(Text(line, style), soft_wrap=True)
            console.print()
        else:
            self._stream.write("\n".join(line for line, _ in lines) + "\n\n")
        self._stream.flush()

"""``taglens evaluate --task caption``: captions that a model writes, or wrote, against those of people.

Knows the options and the order of things: cheap refusals, the model, the captions' own file, the figures. Refuses to
know how a caption is written and what a figure means: `run` is given both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TextIO

from taglens.cli.caption import CaptionOptions
from taglens.cli.captions import require_files, require_folder
from taglens.cli.console import OK, SOME_FAILED, ProgressLine, say
from taglens.cli.tag import split_tags
from taglens.errors import DataError, UsageError
from taglens.evaluation.caption_metrics import CaptionMetrics, require_scorers
from taglens.evaluation.caption_tags import CaptionTags
from taglens.evaluation.captions import evaluate_captions, references
from taglens.evaluation.datasets import CaptionedImage, read_captions, read_labels
from taglens.evaluation.written import captions_of, place, read_written
from taglens.inference.bundle import STARTER, VOCABULARY, locate
from taglens.inference.sources import Source
from taglens.language.parser import parse_lines
from taglens.language.word_lists import packaged
from taglens.results import Captioned, to_line
from taglens.vocabulary import Vocabulary

_MOST_NAMED = 10

Write = Callable[[Iterable[Source]], Iterator[Captioned]]


class Scores(Protocol):
    """What models say of captions; see `taglens.evaluation.caption_towers.ModelScores`."""

    @property
    def about(self) -> Mapping[str, str]: ...
    def __call__(self, rows: Sequence[CaptionedImage], captions: Sequence[str]) -> Mapping[str, float]: ...


class Metrics(Protocol):
    """What measures captions; see `taglens.evaluation.caption_metrics.CaptionMetrics`."""

    @property
    def notes(self) -> Sequence[str]: ...
    def __call__(
        self, references: Sequence[Sequence[str]], captions: Sequence[str]
    ) -> Mapping[str, float | None]: ...


@dataclass(frozen=True, slots=True)
class CaptionTask:
    """What is evaluated, and against what.

    Attributes:
        data: a captions.jsonl.
        split: None: val where the file has it, else all rows.
        predictions: rows of captions, instead of a model.
        out: where the rows that a model writes are kept.
        labels: a labels.jsonl with the true tags of the same pictures.
        vocabulary: of the tags that captions are read for; None: the starter's.
    """

    data: Path
    split: str | None = None
    predictions: Path | None = None
    out: Path | None = None
    labels: Path | None = None
    vocabulary: Path | None = None

    def __post_init__(self) -> None:
        if self.predictions is not None and self.out is not None:
            raise UsageError(
                "--out keeps what a model writes, and --predictions are written already; give one"
            )
        require_files("--data", [self.data])
        for option, path in (("--predictions", self.predictions), ("--labels", self.labels)):
            if path is not None:
                require_files(option, [path])
        require_folder("--out", self.out)


def caption_options(
    *,
    tags: str | None,
    add_tags: bool,
    no_tags: bool,
    threshold: float | None,
    beams: int | None,
    batch_size: int,
) -> CaptionOptions:
    """What a model is told. Raises UsageError for what cannot be meant."""
    if no_tags and (tags is not None or threshold is not None):
        raise UsageError("--no-tags writes without a guide, and --tags and --threshold say which; give one")
    return CaptionOptions(
        tags=split_tags(tags), add_tags=add_tags, threshold=threshold, beams=beams, batch_size=batch_size
    )


def writer(
    model: str, options: CaptionOptions, *, guided: bool, engine: str, device: str
) -> Callable[[], Write]:
    """What loads a model and gives what writes captions with it; ``guided``: by tags at all."""

    def load() -> Write:
        from taglens.inference.tagger import Tagger

        tagger = Tagger.from_pretrained(model, engine=engine, device=device)
        search = options.search()

        def write(pictures: Iterable[Source]) -> Iterator[Captioned]:
            return tagger.caption(
                pictures,
                tags=options.tags if guided else (),
                add_tags=options.add_tags,
                threshold=options.threshold,
                search=search,
                batch_size=options.batch_size,
            )

        return write

    return load


def measured_by_package(*, meteor: bool | None, spice: bool) -> Callable[[], CaptionMetrics]:
    """What makes the metrics, later. Raises MissingExtraError at once, where the package is absent."""
    require_scorers()
    return lambda: CaptionMetrics(meteor=meteor, spice=spice)


@dataclass(frozen=True, slots=True)
class ScoreModels:
    """The models that score captions, whichever were named.

    Attributes:
        bert, clip: transformers folders. layer, rare: of BERTScore.
        aligner: a model of this library, by name or folder.
    """

    bert: Path | None = None
    clip: Path | None = None
    aligner: str | None = None
    layer: int | None = None
    rare: bool = False

    def __post_init__(self) -> None:
        if self.bert is None and (self.layer is not None or self.rare):
            raise UsageError(
                "--bertscore-layer and --bertscore-idf belong to --bertscore; name its folder, too"
            )
        for option, folder in (("--bertscore", self.bert), ("--clipscore", self.clip)):
            if folder is not None and not folder.is_dir():
                raise UsageError(
                    f"{option} {folder} is no folder; expected a model in transformers' form on this disk: "
                    "nothing is fetched here"
                )

    def opened(self, *, device: str, engine: str) -> Scores | None:
        """None where no model was named. Raises TaglensError: one cannot be opened."""
        if self.bert is None and self.clip is None and self.aligner is None:
            return None
        from taglens.evaluation.caption_towers import AlignerTowers, BertPieces, ClipTowers, ModelScores
        from taglens.inference.tagger import Tagger

        return ModelScores(
            pieces=None if self.bert is None else BertPieces(self.bert, layer=self.layer, device=device),
            rare=self.rare,
            clip=None if self.clip is None else ClipTowers(self.clip, device=device),
            aligner=None
            if self.aligner is None
            else AlignerTowers(Tagger.from_pretrained(self.aligner, engine=engine, device=device)),
        )


def run(
    task: CaptionTask,
    load: Callable[[], Write],
    *,
    metrics: Callable[[], AbstractContextManager[Metrics]],
    scores: Callable[[], Scores | None] = lambda: None,
    stdout: TextIO,
) -> int:
    """Evaluate captions and print the contract's object as one line.

    Pictures without a caption are named on standard error.

    Args:
        load: gives what writes captions; not called with ``predictions``.
        metrics: gives what measures them.
        scores: gives what else measures them, if anything; by models.

    Returns:
        The exit status: 0, or 1 when some pictures have no caption.

    Raises:
        TaglensError: a file that is not what it should be, or what the model or the metrics raise.
    """
    images = read_captions(task.data, split=task.split)
    references(images)  # refuses what cannot be scored, before the long work
    others = _others(task.data, images)
    if task.labels is not None:
        images = _labelled(images, task.labels)
    vocabulary = Vocabulary.load(task.vocabulary or locate(STARTER) / VOCABULARY)
    tags = CaptionTags(vocabulary, packaged(), parse_lines)
    # Entered before the long work: what cannot measure says so there.
    with metrics() as measure:
        score = scores()
        captions = (
            _written(images, load(), out=task.out)
            if task.predictions is None
            else _predicted(images, task.predictions)
        )
        report = evaluate_captions(
            images,
            captions,
            measure=measure,
            tags=tags,
            others=others,
            score=score,
            scored_by=None if score is None else score.about,
        )
        notes = list(measure.notes)
    stdout.write(to_line(report.to_dict()) + "\n")
    stdout.flush()
    for note in notes:
        say(note)
    if report.failed:
        names = ", ".join(report.failed[:_MOST_NAMED])
        more = len(report.failed) - _MOST_NAMED
        tail = f" and {more} more" if more > 0 else ""
        say(
            f"{len(report.failed)} of {report.images} pictures have no caption and are left out: {names}{tail}"
        )
    return SOME_FAILED if report.failed else OK


def _others(data: Path, images: Sequence[CaptionedImage]) -> list[CaptionedImage]:
    """The rows of split train, where it is not the one that is evaluated, or a part of that."""
    if any(image.split == "train" for image in images):
        return []
    every = read_captions(data, default_split=None)
    return [image for image in every if image.split == "train"]


def _labelled(images: Sequence[CaptionedImage], labels: Path) -> list[CaptionedImage]:
    """The pictures with the labels that the file has for them."""
    known = {place(row.path): row for row in read_labels(labels, default_split=None)}
    found = [
        replace(image, labels=None if row is None else row.labels, kinds=None if row is None else row.kinds)
        for image in images
        for row in (known.get(place(image.path)),)
    ]
    if all(image.labels is None for image in found):
        raise DataError(
            f"{labels} has no labels of the {len(images)} pictures, such as {images[0].image}; expected the same "
            "pictures, each named from its file's own folder"
        )
    return found


def _written(images: Sequence[CaptionedImage], write: Write, *, out: Path | None) -> list[str | None]:
    """The captions that a model writes, best of each picture; all rows are in ``out`` before anything is measured."""
    progress = ProgressLine(len(images))
    rows = []
    try:
        # Rows name pictures as the data file does.
        for row in write(Source(image.path, image.image) for image in images):
            rows.append(row)
            progress.advance(failed=int(row.error is not None))
    finally:
        progress.clear()
    if out is not None:
        beside = out.with_name(out.name + ".part")
        try:
            beside.write_text("".join(row.to_json() + "\n" for row in rows), encoding="utf-8", newline="\n")
            beside.replace(out)
        except OSError:
            beside.unlink(missing_ok=True)
            raise
    return [row.caption for row in rows]


def _predicted(images: Sequence[CaptionedImage], path: Path) -> list[str | None]:
    """The captions that a file has of the pictures."""
    rows = read_written(path)
    found = captions_of(images, rows)
    unused = len(rows) - len({row.where for row in found if row is not None})
    if unused:
        say(f"{unused} of {len(rows)} rows of {path} are about none of the pictures evaluated")
    return [None if row is None else row.caption for row in found]

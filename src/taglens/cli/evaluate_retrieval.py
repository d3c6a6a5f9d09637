"""``taglens evaluate --task retrieval``: pictures found by captions, captions by pictures, pictures by keywords.

Knows the options and the order of things: cheap refusals, the model, every picture and text once, lambda, figures.
Refuses to know what a figure means (`taglens.evaluation.retrieval`, `taglens.evaluation.keywords`).
Shapes: N pictures, M texts, T tags, E width of the vectors' space.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO

import numpy as np
import numpy.typing as npt

from taglens.cli.captions import require_files
from taglens.cli.console import OK, SOME_FAILED, ProgressLine, say
from taglens.errors import DataError, UsageError
from taglens.evaluation.datasets import CaptionedImage, read_captions
from taglens.evaluation.keywords import draw_keywords, measure_keywords
from taglens.evaluation.retrieval import Pairs, choose_weight, measure, rerank
from taglens.inference.sources import Source
from taglens.inference.tag_overlap import DEFAULT_WEIGHT, all_of, likely, overlap, recognised
from taglens.language.parser import parse_lines
from taglens.language.text_tags import TextTags
from taglens.language.word_lists import packaged
from taglens.results import to_line
from taglens.vocabulary import Vocabulary

if TYPE_CHECKING:
    from taglens.inference.alignment import Embedded
    from taglens.inference.tagger import Tagger

Array = npt.NDArray[np.float32]
By = Literal["match", "labels"]
RERANK_BY: tuple[By, ...] = ("match", "labels")
Shown = Literal["recognised", "likely"]
SHOWN: dict[Shown, Callable[[Vocabulary, Array], Array]] = {"recognised": recognised, "likely": likely}

MOST_TUNED = 1_000
_MOST_NAMED = 10
# Pictures whose pairs are matched at once.
_TOGETHER = 8


@dataclass(frozen=True, slots=True)
class RetrievalTask:
    """What is evaluated, and how.

    Attributes:
        data: a captions.jsonl.
        split: None: val where the file has it, else all rows.
        weight: lambda; None: chosen on ``tune_split``, else the model's own, else `DEFAULT_WEIGHT`.
        tune_split: another split, on at most `MOST_TUNED` pictures of which lambda is chosen.
        overlap: what a picture has of a text's tags: those "recognised" in it, or all, as "likely" as they are.
        rerank: how many of the first answers are ranked anew; 0: none.
        rerank_by: "match", the model's image-text matching; "labels", the score of the text as a typed tag.
    """

    data: Path
    split: str | None = None
    weight: float | None = None
    tune_split: str | None = None
    overlap: Shown = "recognised"
    rerank: int = 0
    rerank_by: By = "match"
    batch_size: int = 32

    def __post_init__(self) -> None:
        require_files("--data", [self.data])
        if self.weight is not None and self.tune_split is not None:
            raise UsageError("--lambda says what tags weigh, and --tune-split finds out; give one")
        if self.weight is not None and not 0.0 <= self.weight < float("inf"):
            raise UsageError(f"--lambda must be 0 or more, found {self.weight}")
        if self.rerank < 0:
            raise UsageError(f"--rerank must be 0 (none) or more, found {self.rerank}")


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """Pictures as the model sees them, and their texts.

    Attributes:
        vectors: [N, E]; scores: [N, T]; tokens: per picture, where they were kept.
        texts: [M]; owner: [M], the picture of each; text_vectors: [M, E].
        said: per text the columns of the tags that it says.
    """

    images: tuple[CaptionedImage, ...]
    vectors: Array
    scores: Array
    tokens: tuple[Array, ...]
    texts: tuple[str, ...]
    owner: npt.NDArray[np.int64]
    text_vectors: Array
    said: tuple[frozenset[int], ...]

    def pairs(self, tagger: Tagger, by: Shown) -> Pairs:
        shown = SHOWN[by](tagger.vocabulary, self.scores)
        return Pairs(self.vectors @ self.text_vectors.T, overlap(shown, self.said), self.owner)


def evaluate(
    data: Path,
    *,
    model: str,
    split: str | None,
    weight: float | None,
    tune_split: str | None,
    rerank: tuple[int | None, str | None, str | None],
    batch_size: int,
    runs_on: tuple[str, str],
) -> int:
    """What the command line asks for.

    Args:
        rerank: how many answers, by what, and how tags overlap before that; None: not said.
        runs_on: engine and device.
    """
    top, by, shown = rerank
    if shown is not None and shown not in SHOWN:
        raise UsageError(f"--overlap {shown}: expected one of {', '.join(SHOWN)}")
    if by is not None and by not in RERANK_BY:
        raise UsageError(f"--rerank-by {by}: expected one of {', '.join(RERANK_BY)}")
    if by is not None and top is None:
        raise UsageError("--rerank-by says by what to rank anew, and --rerank K how many; give both")
    engine, device = runs_on
    task = RetrievalTask(
        data,
        split,
        weight,
        tune_split,
        overlap="likely" if shown == "likely" else "recognised",
        rerank=top or 0,
        rerank_by="labels" if by == "labels" else "match",
        batch_size=batch_size,
    )

    def load() -> Tagger:
        from taglens.inference.tagger import Tagger

        return Tagger.from_pretrained(model, engine=engine, device=device)

    return run(task, load, stdout=sys.stdout)


def run(task: RetrievalTask, load: Callable[[], Tagger], *, stdout: TextIO) -> int:
    """Evaluate retrieval and print the contract's object as one line.

    Pictures that cannot be read are named on standard error and left out, with their captions.

    Args:
        load: gives the model; called once the file has been read.

    Returns:
        The exit status: 0, or 1 when some pictures failed.

    Raises:
        TaglensError: a file that is not what it should be, a model that does not compare pictures with texts.
    """
    images = read_captions(task.data, split=task.split)
    others = _others(task, images)
    tagger = load()
    _ = tagger.alignment  # refuses at once
    if task.rerank and task.rerank_by == "labels" and not tagger.reads_text:
        raise UsageError(f"--rerank-by labels scores captions as tags, and {tagger.ref} reads no text")
    read = TextTags(tagger.vocabulary, packaged(), parse_lines)
    progress = ProgressLine(len(images) + len(others))
    try:
        tuned = None
        if others:
            seen, _ = look(tagger, others, read, task, progress=progress)
            tuned = choose_weight(seen.pairs(tagger, task.overlap))
        seen, failed = look(tagger, images, read, task, keep_tokens=task.rerank > 0, progress=progress)
    finally:
        progress.clear()
    weight, origin = _weight(task, tagger, tuned)
    row = {
        "images": len(images),
        "failed": len(failed),
        "captions": len(seen.texts),
        **figures(tagger, seen, weight, task),
        "lambda": weight,
        "lambda_from": origin,
        "tuned": None
        if tuned is None
        else {
            "pictures": len(others),
            "mean_recall": {f"{each:g}": value for each, value in tuned[1].items()},
        },
        "captions_without_tags": sum(not tags for tags in seen.said),
        "keywords": keywords(tagger, seen, weight),
        "model": tagger.ref,
        "vocabulary": tagger.vocabulary.ref,
    }
    stdout.write(to_line(row) + "\n")
    stdout.flush()
    if failed:
        more = len(failed) - _MOST_NAMED
        tail = f" and {more} more" if more > 0 else ""
        say(
            f"{len(failed)} of {len(images)} pictures could not be read and are left out with their captions: "
            f"{', '.join(failed[:_MOST_NAMED])}{tail}"
        )
    return SOME_FAILED if failed else OK


def _others(task: RetrievalTask, images: Sequence[CaptionedImage]) -> list[CaptionedImage]:
    """Pictures to choose lambda on, spread over the split; none that is evaluated."""
    if task.tune_split is None:
        return []
    evaluated = {image.path for image in images}
    found = [
        image for image in read_captions(task.data, split=task.tune_split) if image.path not in evaluated
    ]
    if not found:
        raise UsageError(
            f"--tune-split {task.tune_split}: all its pictures are among those evaluated; lambda must be chosen on "
            "others, or given: --lambda"
        )
    ordered = sorted(found, key=lambda image: image.image)
    return ordered[:: -(-len(ordered) // MOST_TUNED)]


def _weight(
    task: RetrievalTask, tagger: Tagger, tuned: tuple[float, dict[float, float]] | None
) -> tuple[float, str]:
    """Lambda, and where it is from."""
    if task.weight is not None:
        return task.weight, "given"
    if tuned is not None:
        return tuned[0], f"split {task.tune_split}"
    if tagger.tag_weight is not None:
        return tagger.tag_weight, "model"
    return DEFAULT_WEIGHT, "default"


def look(
    tagger: Tagger,
    images: Sequence[CaptionedImage],
    read: TextTags,
    task: RetrievalTask,
    *,
    keep_tokens: bool = False,
    progress: ProgressLine | None = None,
) -> tuple[Seen, list[str]]:
    """Everything the model says of the pictures and of their texts, and the pictures that could not be read.

    Raises:
        DataError: no picture could be read.
    """
    rows: list[Embedded] = []
    kept: list[CaptionedImage] = []
    failed: list[str] = []
    sources = (Source(image.path, image.image) for image in images)
    found = tagger.embed(sources, batch_size=task.batch_size, keep_tokens=keep_tokens)
    for image, row in zip(images, found, strict=True):
        if row.error is None:
            rows.append(row)
            kept.append(image)
        else:
            failed.append(image.image)
        if progress is not None:
            progress.advance(failed=int(row.error is not None))
    if not rows:
        raise DataError(
            f"none of the {len(images)} pictures can be read, such as {images[0].path}; look whether the file "
            "lies beside its pictures"
        )
    texts = tuple(text for image in kept for text in image.captions)
    owner = np.repeat(np.arange(len(kept)), [len(image.captions) for image in kept])
    hidden = {column for column, entry in enumerate(tagger.vocabulary) if entry.hidden}
    seen = Seen(
        images=tuple(kept),
        vectors=np.stack([row.vector for row in rows if row.vector is not None]),
        scores=np.stack([row.scores for row in rows if row.scores is not None]),
        tokens=tuple(row.tokens for row in rows if row.tokens is not None),
        texts=texts,
        owner=owner.astype(np.int64),
        text_vectors=tagger.embed_text(texts),
        said=tuple(frozenset(tags - hidden) for tags in read(texts)),
    )
    return seen, failed


def figures(tagger: Tagger, seen: Seen, weight: float, task: RetrievalTask) -> dict[str, Any]:
    """Recall of every method; ``i2t`` and ``t2i`` are the last one's."""
    pairs = seen.pairs(tagger, task.overlap)
    fused = pairs.scores(weight)
    methods = {
        "similarity": measure(pairs.similarity, pairs.owner),
        "tags": measure(pairs.overlap, pairs.owner),
        "similarity+tags": measure(fused, pairs.owner),
    }
    best = methods["similarity+tags"]
    if task.rerank:
        second = SECOND[task.rerank_by]
        best = rerank(fused, pairs.owner, partial(second, tagger, seen), top=task.rerank)
        methods[f"reranked by {task.rerank_by}"] = best
    return {
        **best.to_dict(),
        "overlap": task.overlap,
        "rerank": {"top": task.rerank, "by": task.rerank_by} if task.rerank else None,
        "methods": {name: found.to_dict() for name, found in methods.items()},
    }


def by_match(tagger: Tagger, seen: Seen, pairs: npt.NDArray[np.int64], first: Array) -> Array:
    """What image-text matching says of pairs [R, 2], sorted by picture: logit plus the first score."""
    found = np.empty(len(pairs), np.float32)
    for start, end in _groups(pairs[:, 0]):
        here = pairs[start:end]
        pictures, at = np.unique(here[:, 0], return_inverse=True)
        tokens = np.stack([seen.tokens[picture] for picture in pictures])
        guides = tagger.alignment.guides(tagger.vocabulary, seen.scores[pictures])
        texts, text_at = np.unique(here[:, 1], return_inverse=True)
        asked = np.stack([at.ravel(), text_at.ravel()], axis=1)
        found[start:end] = tagger.alignment.match(tokens, guides, [seen.texts[text] for text in texts], asked)
    return np.asarray(found + first, np.float32)


def by_labels(tagger: Tagger, seen: Seen, pairs: npt.NDArray[np.int64], first: Array) -> Array:
    """What the tags' own decoder says of texts as if they were tags: log-odds plus the first score."""
    found = np.empty(len(pairs), np.float32)
    starts = np.flatnonzero(np.diff(pairs[:, 0], prepend=-1))
    for start, end in zip(starts, [*starts[1:], len(pairs)], strict=True):
        tokens = seen.tokens[int(pairs[start, 0])][None]
        found[start:end] = tagger.ask(tokens, [seen.texts[text] for text in pairs[start:end, 1]])[0]
    sure = np.clip(found, 1e-6, 1 - 1e-6)
    return np.asarray(np.log(sure / (1 - sure)) + first, np.float32)


SECOND: dict[By, Callable[[Any, Seen, npt.NDArray[np.int64], Array], Array]] = {
    "match": by_match,
    "labels": by_labels,
}


def _groups(pictures: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """Where runs of up to `_TOGETHER` pictures begin and end among sorted numbers."""
    starts = np.flatnonzero(np.diff(pictures, prepend=-1))[::_TOGETHER]
    return list(zip(starts.tolist(), [*starts[1:].tolist(), len(pictures)], strict=True))


def keywords(tagger: Tagger, seen: Seen, weight: float) -> dict[str, Any]:
    """How well one to four tags find the pictures whose captions say them all, by number of tags."""
    vocabulary = tagger.vocabulary
    told: list[frozenset[int]] = [frozenset() for _ in seen.images]
    for tags, picture in zip(seen.said, seen.owner, strict=True):
        told[picture] |= tags
    probable, shown = likely(vocabulary, seen.scores), recognised(vocabulary, seen.scores)
    found = {}
    for asked in draw_keywords(vocabulary, told):
        texts = [", ".join(vocabulary[column].name for column in query) for query in asked.queries]
        similarity = seen.vectors @ tagger.embed_text(texts).T
        sure = all_of(probable, asked.queries)
        found[str(asked.size)] = measure_keywords(
            asked,
            {
                "similarity": similarity,
                "recognised tags": overlap(shown, asked.queries),
                "tags": sure,
                "similarity+tags": np.asarray(similarity + np.float32(weight) * sure, np.float32),
            },
        )
    return found

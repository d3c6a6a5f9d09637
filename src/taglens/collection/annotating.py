"""A collection annotated by a language model that sees: picture by picture, resumable to the question.

Knows how a picture is made ready once for all of its questions, how many pictures are out at a time, what is done
already. Refuses to know how a picture is asked about (`taglens.language.annotate`), who answers
(`taglens.language.chat`) and what it costs (`taglens.collection.annotation_costs`).

Questions about one picture follow each other, so that a server which keeps what it computed for a beginning finds
picture and instructions there; several pictures are out side by side. What is out when a run is stopped is waited for
and kept. Every answer is on the disk before it is used, so a killed run repeats at most the questions in flight.
"""

from __future__ import annotations

import os
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from taglens.collection.annotation_store import NO_ANSWER, AnnotationStore, Known, identity
from taglens.collection.items import Item
from taglens.errors import ChatError, ImageError, UsageError
from taglens.images import DEFAULT_MAX_PIXELS, MAX_FILE_BYTES, load
from taglens.inference.sources import shown_name
from taglens.language.annotate import Annotation, FromTagger, Seen, Strategy
from taglens.language.chat import Ask, Chat, ChatPicture, Reply
from taglens.results import Failure, significant
from taglens.vocabulary import Vocabulary

if TYPE_CHECKING:
    from taglens.inference.tagger import Tagger

Scores = Callable[[bytes], npt.NDArray[np.float32]]

SIDE = 768
_QUALITY = 90
# Pictures in a row without an answer: the server is gone.
_SILENT = 10
# No picture fares better with the next question: a wrong key, no right, no such model, an empty account.
_HOPELESS = {401, 402, 403, 404}


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """What is to be done with each picture.

    Attributes:
        vocabulary: [T], the tags that strategy numbers; hidden ones left out.
        configuration: everything that a row depends on beside its picture; another one is refused in the same folder.
        parts: files to keep beside it, by name.
        scores: a tagger's, for strategies that want them (`scores_of`); called from many threads, one at a time.
        side: of the longer side of pictures as they are sent, in pixels.
        split: written into the rows.
        at_once: pictures that are out at a time.
    """

    strategy: Strategy
    vocabulary: Vocabulary
    configuration: Mapping[str, Any]
    parts: Mapping[str, bytes] = field(default_factory=dict)
    scores: Scores | None = None
    side: int = SIDE
    max_pixels: int = DEFAULT_MAX_PIXELS
    split: str | None = None
    at_once: int = 4
    max_failures: int | None = None

    def __post_init__(self) -> None:
        if self.side < 32 or self.max_pixels < 1 or self.at_once < 1:
            raise UsageError(
                f"a picture's side must be 32 or more, its limit of pixels and the pictures at a time 1 or more; "
                f"found {self.side}, {self.max_pixels} and {self.at_once}"
            )
        if isinstance(self.strategy.propose, FromTagger) and self.scores is None:
            raise UsageError("this strategy begins with a tagger's scores: pass who scores a picture")


@dataclass(slots=True)
class Progress:
    """What happened so far; ``kept`` pictures were done before, ``failed`` ones are among ``pictures``."""

    pictures: int = 0
    kept: int = 0
    failed: int = 0
    labels: int = 0
    unsettled: int = 0
    off_list: int = 0
    malformed: int = 0
    refused: int = 0
    cut: int = 0
    skipped: Counter[str] = field(default_factory=Counter)


class TooManyFailuresError(UsageError):
    """More pictures failed than were allowed for."""


def annotate(
    job: Job,
    items: Iterable[Item],
    store: AnnotationStore,
    chat: Chat,
    *,
    progress: Progress | None = None,
    watch: Callable[[Progress], object] = lambda _: None,
    show: Callable[[Mapping[str, Any]], object] = lambda _: None,
) -> Progress:
    """A row for every picture that has none yet, in order; for who holds the store (`AnnotationStore.opened`).

    A picture that failed because a question had no answer is tried again; so is one that has changed.

    Args:
        watch: called after every picture.
        show: called with every new row, after it is written.

    Raises:
        BudgetError: there is no money for the next question; what is done is kept.
        ChatError: the server lets nobody in, or has no such model: no picture would fare better.
        TooManyFailuresError: more than ``job.max_failures`` pictures failed.
        OSError: rows or answers cannot be written.
    """
    progress = Progress() if progress is None else progress
    store.mend()
    known = store.known()
    worker = _Worker(job, chat, os.path.realpath(store.folder))
    silent = 0
    with store.rows() as rows, _Pool(job.at_once, worker) as pool:

        def finish(item: Item, done: Future[dict[str, Any]] | None) -> None:
            nonlocal silent
            if done is None:
                old = known[identity(item.source, item.source_bytes)]
                progress.kept += 1
                progress.labels += old.labels
                failed = old.failed
            else:
                try:
                    row = done.result()
                except CancelledError:
                    # A later picture ended the run before this one was through; that one says why.
                    raise worker.reason or UsageError("the run was stopped") from None
                rows.add(row)
                _count(progress, row)
                show(row)
                failed = row["error"] is not None
                silent = silent + 1 if row["error"] is not None and row["error"]["type"] == NO_ANSWER else 0
            progress.pictures += 1
            progress.failed += failed
            watch(progress)
            if silent == _SILENT:
                raise TooManyFailuresError(
                    f"the server answered nothing about {silent} pictures in a row; see that it runs, and give the "
                    "same command again: it asks about them once more"
                )
            if job.max_failures is not None and progress.failed > job.max_failures:
                raise TooManyFailuresError(
                    f"{progress.failed} pictures failed, more than the {job.max_failures} allowed; the rows say why"
                )

        for item, done in pool.over(items, known, progress):
            finish(item, done)
    store.settle()
    return progress


class _Pool:
    """Threads that work on pictures; what is out when the block ends is waited for, what has not begun is dropped."""

    def __init__(self, at_once: int, worker: _Worker) -> None:
        self._threads = ThreadPoolExecutor(at_once, thread_name_prefix="taglens-annotate")
        self._window = 2 * at_once
        self._worker = worker

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self._worker.stop.set()
        self._threads.shutdown(cancel_futures=True)

    def over(
        self, items: Iterable[Item], known: Mapping[str, Known], progress: Progress
    ) -> Iterator[tuple[Item, Future[dict[str, Any]] | None]]:
        """Each picture with its row to come, in order; None where it is done already."""
        waiting: deque[tuple[Item, Future[dict[str, Any]] | None]] = deque()
        for item in items:
            if item.skipped is not None:
                progress.skipped[item.skipped] += 1
                continue
            free = is_done(item, known)
            waiting.append((item, None if free else self._threads.submit(self._worker, item)))
            while len(waiting) >= self._window or (waiting and waiting[0][1] is None):
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()


def is_done(item: Item, known: Mapping[str, Known]) -> bool:
    """Whether a picture has a row that stands: its content is the same, and it was not for want of an answer."""
    old = known.get(identity(item.source, item.source_bytes))
    return old is not None and not old.unanswered and item.signature != "" and old.signature == item.signature


class _StoppedError(Exception):
    """Another picture ended the run; this one is not to begin another question."""


@dataclass(slots=True)
class _Worker:
    """One picture to its row."""

    job: Job
    chat: Chat
    folder: str
    stop: threading.Event = field(default_factory=threading.Event)
    reason: BaseException | None = None
    _scoring: threading.Lock = field(default_factory=threading.Lock)

    @property
    def model(self) -> str:
        return self.chat.model

    def __call__(self, item: Item) -> dict[str, Any]:
        try:
            row = self._row(item)
        except ImageError as error:
            return self._failed(item, Failure.of(error).to_dict())
        except ChatError as error:
            if error.status in _HOPELESS:
                self._end(error)
                raise
            return self._failed(item, {"type": NO_ANSWER, "message": str(error)})
        except _StoppedError:
            raise CancelledError from None
        except BaseException as error:
            # No money, no room on the disk: before the next picture begins, and not when its turn comes.
            self._end(error)
            raise
        return row

    def _end(self, reason: BaseException) -> None:
        self.reason = self.reason or reason
        self.stop.set()

    def ask(self, ask: Ask) -> Reply:
        """The chat, until the run is to stop."""
        if self.stop.is_set():
            raise _StoppedError
        return self.chat(ask)

    def _row(self, item: Item) -> dict[str, Any]:
        if item.failure is not None:
            raise ImageError(item.failure.type, item.failure.message, source=item.source)
        content = item.where.read(MAX_FILE_BYTES)
        picture, size = _encoded(
            content, side=self.job.side, max_pixels=self.job.max_pixels, name=item.source
        )
        scores = None
        if self.job.scores is not None:
            with self._scoring:
                scores = self.job.scores(content)
        annotation = self.job.strategy(_Stoppable(self), Seen(picture, scores))
        provenance = self._provenance(annotation)
        if scores is not None:
            provenance["tagger_scores"] = [significant(scores[label.column]) for label in annotation.given]
        if annotation.useless:
            tally = annotation.tally
            message = (
                f"{self.model} gave no answer that can be read in {tally.queries} queries ({tally.refused} refused, "
                f"{tally.malformed} malformed, {tally.cut} cut off); what it said stands in queries.jsonl"
            )
            return self._failed(item, {"type": "unusable", "message": message}, provenance)
        given = [label.column for label in annotation.given]
        provenance["stages"] = [label.stage for label in annotation.given]
        provenance["votes"] = [
            None if label.votes is None else list(label.votes) for label in annotation.given
        ]
        return {
            **self._about(item),
            "width": size[0],
            "height": size[1],
            "labels": self._names(given),
            "kind": self._kinds(given),
            "provenance": provenance,
            "error": None,
        }

    def _failed(
        self, item: Item, error: Mapping[str, Any], provenance: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        about = self._origin() if provenance is None else dict(provenance)
        return {**self._about(item), "labels": None, "provenance": about, "error": dict(error)}

    def _about(self, item: Item) -> dict[str, Any]:
        image = item.source
        if item.path is not None and item.source_bytes is None:
            path = os.path.abspath(item.path)  # noqa: PTH100 - links stay as they are
            near = Path(os.path.relpath(path, self.folder)).as_posix()
            # On the way there may be a folder whose name is no UTF-8, though what was typed is.
            image = near if shown_name(near)[1] is None else item.source
        row: dict[str, Any] = {"image": image, "source": item.source}
        if item.source_bytes is not None:
            row["source_bytes"] = item.source_bytes
        if self.job.split is not None:
            row["split"] = self.job.split
        row["signature"] = item.signature
        return row

    def _origin(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "strategy": self.job.strategy.name,
            "vocabulary": self.job.vocabulary.ref,
        }

    def _names(self, columns: Iterable[int]) -> list[str]:
        return [self.job.vocabulary[column].name for column in columns]

    def _kinds(self, columns: Iterable[int]) -> list[str | None]:
        """A kind tells homographs apart where the file is read; "typed" is how a label is scored."""
        kinds = [self.job.vocabulary[column].kind for column in columns]
        return [None if kind == "typed" else kind for kind in kinds]

    def _provenance(self, annotation: Annotation) -> dict[str, Any]:
        tally = annotation.tally
        return {
            **self._origin(),
            "dropped": self._names(annotation.dropped),
            "dropped_kind": self._kinds(annotation.dropped),
            "unsettled": self._names(annotation.unsettled),
            "unsettled_kind": self._kinds(annotation.unsettled),
            "off_list": dict(islice(sorted(tally.off_list.items()), 20)),
            "queries": tally.queries,
            "refused": tally.refused,
            "malformed": tally.malformed,
            "cut": tally.cut,
        }


@dataclass(frozen=True, slots=True)
class _Stoppable:
    """The worker's chat as strategies see it."""

    worker: _Worker

    @property
    def model(self) -> str:
        return self.worker.model

    def __call__(self, ask: Ask) -> Reply:
        return self.worker.ask(ask)


def _count(progress: Progress, row: Mapping[str, Any]) -> None:
    provenance = row["provenance"]
    progress.labels += len(row["labels"] or ())
    progress.unsettled += len(provenance.get("unsettled", ()))
    progress.off_list += sum(provenance.get("off_list", {}).values())
    progress.malformed += provenance.get("malformed", 0)
    progress.refused += provenance.get("refused", 0)
    progress.cut += provenance.get("cut", 0)


def scores_of(tagger: Tagger) -> Scores:
    """A tagger's scores [T] of a picture's file; they raise ImageError for one that it cannot read."""

    def score(content: bytes) -> npt.NDArray[np.float32]:
        _, scores = next(iter(tagger.scores([content])))
        if scores is None:
            raise ImageError("not_image", "the tagger cannot read this picture; convert it to JPEG or PNG")
        return scores

    return score


def encoded(content: bytes, *, side: int, max_pixels: int, name: str) -> ChatPicture:
    """A picture's file as it is sent: turned upright, its longer side no longer than ``side``, JPEG.

    Raises:
        ImageError: it cannot be read.
    """
    return _encoded(content, side=side, max_pixels=max_pixels, name=name)[0]


def _encoded(content: bytes, *, side: int, max_pixels: int, name: str) -> tuple[ChatPicture, tuple[int, int]]:
    """As `encoded`, with the width and height that the picture itself has, turned upright."""
    import io

    from PIL import Image

    loaded = load(content, max_pixels=max_pixels, at_least=side, name=name)
    image = Image.fromarray(loaded.pixels)
    longer = max(image.size)
    if longer > side:
        width, height = (max(1, round(length * side / longer)) for length in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_QUALITY)
    return ChatPicture(file.getvalue(), "image/jpeg"), (loaded.width, loaded.height)

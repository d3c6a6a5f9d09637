"""Pictures read, hashed and squashed ahead of the engine, in order, by threads or processes.

A process that a picture kills takes nothing with it: the others are read again, and that picture becomes an error.
Knows how a picture is read (`taglens.images`); knows nothing of models or stores. Shapes: S side of a model's input.
"""

from __future__ import annotations

import hashlib
import multiprocessing
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from types import TracebackType

import numpy as np
import numpy.typing as npt

from taglens import images
from taglens.collection.items import Where
from taglens.errors import ImageError
from taglens.results import Failure


@dataclass(frozen=True, slots=True)
class Task:
    """One picture to be read.

    Attributes:
        name: what messages call it.
        known: sha256 of content that need not be looked at again; None: none.
    """

    name: str
    where: Where
    known: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What reading it gave.

    Attributes:
        sha256: of the content; None where it could not be read.
        square: uint8 [S, S, 3]; None on failure, and where the content is the known one.
    """

    sha256: str | None = None
    square: npt.NDArray[np.uint8] | None = None
    width: int | None = None
    height: int | None = None
    notes: tuple[str, ...] = ()
    failure: Failure | None = None


def see(task: Task, side: int, max_pixels: int) -> Seen:
    """Read one picture; never raises for what a picture may be."""
    sha256 = None
    try:
        content = task.where.read(images.MAX_FILE_BYTES)
        sha256 = hashlib.sha256(content).hexdigest()
        if sha256 == task.known:
            return Seen(sha256)
        picture = images.load(content, max_pixels=max_pixels, at_least=side, name=task.name)
        square = images.squash(picture.pixels, side)
    except ImageError as error:
        return Seen(sha256, failure=Failure.of(error))
    return Seen(sha256, square, picture.width, picture.height, picture.notes)


class Decoders:
    """A pool that reads pictures; a context manager.

    Args:
        side: S.
        processes: how many; 0: threads of this process, which decoders leave free for one another most of the time.
        window: pictures that may be on their way at once.
    """

    THREADS = 4

    def __init__(self, *, side: int, max_pixels: int, processes: int = 0, window: int = 64) -> None:
        self._side = side
        self._max_pixels = max_pixels
        self._processes = processes
        self._window = window
        self._pool = self._new_pool()

    def __enter__(self) -> Decoders:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=kind is None, cancel_futures=True)

    def _new_pool(self) -> Executor:
        if not self._processes:
            return ThreadPoolExecutor(self.THREADS, thread_name_prefix="taglens-decode")
        # Never by fork: the engine's threads would be copied in whatever state they are.
        return ProcessPoolExecutor(self._processes, mp_context=multiprocessing.get_context("spawn"))

    def __call__(self, tasks: Iterable[Task]) -> Iterator[Seen]:
        """What each task gives, in order; tasks are drawn as there is room for them."""
        waiting: deque[tuple[Task, Future[Seen]]] = deque()
        coming = iter(tasks)
        while True:
            while len(waiting) < self._window and (task := next(coming, None)) is not None:
                waiting.append((task, self._submit(task)))
            if not waiting:
                return
            task, future = waiting.popleft()
            try:
                yield future.result()
            except BrokenProcessPool:
                # One of those on their way did it; which one, only reading them one by one can tell.
                self._renew()
                yield from map(self._alone, (task, *(other for other, _ in waiting)))
                waiting.clear()

    def _submit(self, task: Task) -> Future[Seen]:
        try:
            return self._pool.submit(see, task, self._side, self._max_pixels)
        except BrokenProcessPool:
            # Broken by a picture that is still waiting to be told so: it is found when its turn comes.
            broken: Future[Seen] = Future()
            broken.set_exception(BrokenProcessPool())
            return broken

    def _renew(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._pool = self._new_pool()

    def _alone(self, task: Task) -> Seen:
        """A picture that was on its way when a process died: read again with nothing beside it."""
        try:
            return self._pool.submit(see, task, self._side, self._max_pixels).result()
        except BrokenProcessPool:
            self._renew()
            message = f"{task.name!r}: reading it ended the process that read it; look at it by itself"
            return Seen(failure=Failure("too_large", message))

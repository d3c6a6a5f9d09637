"""Answers that are kept: a file of replies, a `Chat` that asks each question once, and one that only replays.

Knows one file format, a header and then a JSON object per reply, only ever appended to. A reply is on the disk before
it is handed out, so that a killed run has lost what was in flight and nothing else. Refuses to know who answers.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Future
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final, Self

from taglens.errors import ChatError, DataError, UsageError
from taglens.language.chat import Ask, Chat, Reply, Usage

_HEADER: Final = b'{"format":"taglens replies","version":1}\n'


class Replies:
    """A file of replies by key, held by one process at a time; used from many threads at once.

    What an interrupted write left at its end is cut off when it is opened. Where one key has several lines the last
    one counts, so that such files can be joined end to end.

    Args:
        path: a file; made if it is not there, with its folder.

    Raises:
        DataError: for a file that is no such file, and for a damaged line that is not its last.
        UsageError: when another process, or another object of this one, holds it.
        OSError: when it cannot be opened.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        self._fault: str | None = None
        self.path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)
        self._file: int | None = os.open(self.path, flags, 0o666)
        try:
            _hold(self._file, self.path)
            self._places, self._end = self._opened(self._file)
        except BaseException:
            os.close(self._file)
            raise

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let others have the file."""
        with self._lock:
            if self._file is not None:
                os.close(self._file)
                self._file = None

    def get(self, key: str) -> Reply | None:
        """The kept reply, marked as such; None if there is none."""
        with self._lock:
            place = self._places.get(key)
            if place is None:
                return None
            line = _read(self._open_file(), *place)
        return _reply(json.loads(line)[1])

    def add(self, key: str, reply: Reply) -> None:
        """Put a reply on the disk; it is there when this returns.

        Raises:
            OSError: when it cannot be written, naming the file. Earlier lines are whole, and nothing more is written
                until the file is opened anew.
        """
        line = _line(key, reply)
        with self._lock:
            self.check_writable()
            file = self._open_file()
            try:
                _write(file, line, at=self._end)
                os.fsync(file)
                place = (self._end, len(line))
                self._end += len(line)
                self._places[key] = place
            except BaseException as error:
                # Half a line would spoil the next one; if even this fails, opening the file cuts it off.
                with contextlib.suppress(OSError):
                    os.ftruncate(file, self._end)
                if not isinstance(error, OSError):
                    raise
                self._fault = error.strerror or str(error)
                raise OSError(
                    error.errno,
                    f"a reply could not be kept ({self._fault}), and is lost; the {len(self._places):,} kept before "
                    "it are whole: make room, then start again, which asks only what is missing",
                    str(self.path),
                ) from None

    def check_writable(self) -> None:
        """Nothing, unless a write failed before: then the same error again, so that nobody pays for what is lost."""
        if self._fault is not None:
            raise OSError(
                errno.EIO,
                f"an earlier reply could not be kept ({self._fault}): make room, then open the file anew",
                str(self.path),
            )

    def _open_file(self) -> int:
        if self._file is None:
            raise UsageError(f"{self.path} is closed; open it anew")
        return self._file

    def _opened(self, file: int) -> tuple[dict[str, tuple[int, int]], int]:
        """Where each reply is, and where the next one goes, after the end was put right."""
        size = os.fstat(file).st_size
        begin = _read(file, 0, min(size, len(_HEADER)))
        if begin != _HEADER:
            # Only the beginning of a header is ours to replace: whatever else this is, somebody wants it.
            if not _HEADER.startswith(begin):
                raise DataError(
                    f"{self.path} is no file of kept replies (its first line would be {_HEADER.decode().strip()}); "
                    "name another file, which is made if it is not there"
                )
            os.ftruncate(file, 0)
            _write(file, _HEADER, at=0)
            os.fsync(file)
            _settle_name(self.path)
            return {}, len(_HEADER)
        places: dict[str, tuple[int, int]] = {}
        end = 0
        with self.path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                found = "" if line == _HEADER else _checked(line)
                whole = line.endswith(b"\n")
                if found is None and whole:
                    raise DataError(
                        f"line {number} of {self.path} is damaged, it should be [key, reply], got {line[:80]!r}; "
                        "remove that line, and its question is asked again"
                    )
                if found is None:
                    break
                if not whole:  # all of it but its end: a reply that was paid for
                    _write(file, b"\n", at=end + len(line))
                length = len(line) + (not whole)
                if found:
                    places[found] = (end, length)
                end += length
        os.ftruncate(file, end)
        os.fsync(file)
        return places, end


class KeptChat:
    """A `Chat` that asks each question once, and gives kept answers ever after.

    Equal questions that are asked at the same time wait for one answer. Refused and cut answers are kept like others;
    a question that failed is not.

    Args:
        chat: who is asked; its `model` is part of every key.
        file: where answers are kept. Two servers that call different models by one name need a file each.
        on_kept: told of every answer that was not asked for, such as a ledger's `saw_kept`.

    Raises:
        DataError, UsageError, OSError: as `Replies` does.
    """

    def __init__(
        self, chat: Chat, file: str | Path | Replies, *, on_kept: Callable[[Reply], object] | None = None
    ) -> None:
        self._chat = chat
        self.replies = file if isinstance(file, Replies) else Replies(file)
        self._on_kept = on_kept
        self._lock = threading.Lock()
        self._in_flight: dict[str, Future[Reply]] = {}

    @property
    def model(self) -> str:
        return self._chat.model

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let others have the file."""
        self.replies.close()

    def __call__(self, ask: Ask) -> Reply:
        """The kept answer, or a new one, which is kept before it is returned.

        Raises:
            ChatError: when there finally is none.
            OSError: when it cannot be kept; after that nothing new is asked.
        """
        key = ask.key(self.model)
        while True:
            with self._lock:
                # What is no longer in flight is on the disk, so the disk is looked at second.
                flying = self._in_flight.get(key)
                reply = self.replies.get(key) if flying is None else None
                if flying is None and reply is None:
                    mine = self._in_flight[key] = Future()
            if flying is not None:
                try:
                    reply = replace(flying.result(), kept=True)
                except CancelledError:  # who asked was interrupted; this one was not
                    continue
            if reply is None:
                return self._asked(ask, key, mine)
            if self._on_kept is not None:
                self._on_kept(reply)
            return reply

    def _asked(self, ask: Ask, key: str, mine: Future[Reply]) -> Reply:
        try:
            self.replies.check_writable()
            reply = self._chat(ask)
            self.replies.add(key, reply)
            mine.set_result(reply)
        except Exception as error:
            mine.set_exception(error)
            raise
        finally:
            with self._lock:
                del self._in_flight[key]
            mine.cancel()
        return reply


class ReplayChat:
    """A `Chat` that asks nobody: for tests, and for answers that were fetched before.

    Args:
        answers: what is answered: by the text of a question, by whatever a function says (and raises), or by the
            replies of a file (`Replies`), which go by all of a question and by `model`.
        model: whose answers these are.
    """

    def __init__(
        self,
        answers: Mapping[str, str | Reply] | Callable[[Ask], str | Reply] | Replies,
        *,
        model: str = "replay",
    ) -> None:
        self._answers = answers
        self._model = model

    @property
    def model(self) -> str:
        return self._model

    def __call__(self, ask: Ask) -> Reply:
        """The recorded answer.

        Raises:
            ChatError: for a question that has none.
        """
        if isinstance(self._answers, Replies):
            answer: str | Reply | None = self._answers.get(ask.key(self._model))
            where = f"in {self._answers.path}, under {ask.key(self._model)}"
        elif isinstance(self._answers, Mapping):
            answer, where = self._answers.get(ask.text), f"among {len(self._answers):,} texts"
        else:
            answer, where = self._answers(ask), ""
        if answer is None:
            raise ChatError(
                f"no answer of {self._model!r} is recorded for {ask.text[:80]!r} ({where}): the question or the "
                "settings are others than those that were recorded; ask a server for it"
            )
        return Reply(answer, self._model) if isinstance(answer, str) else answer


def _line(key: str, reply: Reply) -> bytes:
    content = asdict(replace(reply, kept=False))
    line = json.dumps([key, content], ensure_ascii=False, separators=(",", ":"))
    return line.encode(errors="surrogatepass") + b"\n"  # as `json.loads` reads it


def _checked(line: bytes) -> str | None:
    """The key of a line; None if it is damaged."""
    try:
        key, content = json.loads(line)
        reply = _reply(content)
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return key if isinstance(key, str) and isinstance(reply.text, str) else None


def _reply(content: dict[str, Any]) -> Reply:
    return Reply(**{**content, "usage": Usage(**content["usage"]), "kept": True})


def _read(file: int, begin: int, length: int) -> bytes:
    os.lseek(file, begin, os.SEEK_SET)
    pieces = []
    while length and (piece := os.read(file, length)):
        pieces.append(piece)
        length -= len(piece)
    return b"".join(pieces)


def _write(file: int, content: bytes, *, at: int) -> None:
    os.lseek(file, at, os.SEEK_SET)
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(file, rest) :]


def _settle_name(path: Path) -> None:
    """Bring a new file's name to the disk, where folders can be asked for that."""
    with contextlib.suppress(OSError):
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _hold(file: int, path: Path) -> None:
    """Hold a file until it is closed; where the system has no such locks, one user at a time is the user's care."""
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise UsageError(
                f"{path} is in use by another run, and replies of two would mix; wait for it, or name another file"
            ) from None
        raise OSError(
            error.errno,
            f"cannot be locked ({error.strerror}); put the kept replies on a local disk",
            str(path),
        ) from None

"""Questions that are answered offline: files of requests in OpenAI's batch format, and their results.

Knows that format, which hosted servers take at a lower price and vLLM runs from a file (`vllm run-batch`). The name
of a request is the key of its answer, so that results go straight into the file of kept replies, and the run that
asks the same questions finds them there. Refuses to upload anything, and to know what is asked.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from taglens.errors import DataError, UsageError
from taglens.language.chat import Ask, Reply
from taglens.language.chat_kept import Replies
from taglens.language.chat_wire import (
    PATH,
    MalformedAnswerError,
    error_message,
    filtered,
    model_label,
    quoted,
    reply_of,
    request_body,
)

# What hosted servers take in one file: 50,000 requests, and 200 MB.
_MOST_REQUESTS = 50_000
_MOST_BYTES = 190_000_000
_KEY = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class BatchWritten:
    """What was written.

    Args:
        files: in their order.
        requests: in all files together.
        kept: questions left out because their answers are there.
        repeated: questions left out because they were written already.
    """

    files: tuple[Path, ...]
    requests: int
    kept: int
    repeated: int


@dataclass(frozen=True, slots=True)
class BatchRead:
    """What was read.

    Args:
        replies: newly kept.
        known: left out because their answers were there.
        failed: (key, what the server said) of the requests that it did not answer: they are asked again with the next
            batch, or live.
    """

    replies: int
    known: int
    failed: tuple[tuple[str, str], ...]


def write_batch(
    asks: Iterable[Ask],
    folder: str | Path,
    *,
    model: str,
    kept: Replies | None = None,
    extra: Mapping[str, Any] | None = None,
    structured: bool = True,
    most_requests: int = _MOST_REQUESTS,
    most_bytes: int = _MOST_BYTES,
) -> BatchWritten:
    """Write questions as ``batch-00000.jsonl`` and so on; all files appear at the end, or none.

    Args:
        folder: made if it is not there; it must hold no batch files yet.
        model: its name at the server, and `extra` as `ServerChat` has it: both are part of every key.
        kept: replies that need no asking.
        structured: whether schemas are sent.
        most_requests, most_bytes: of one file.

    Raises:
        UsageError: for a folder with a batch in it, for limits below 1, and for a question larger than a file.
    """
    folder = Path(folder)
    if most_requests < 1 or most_bytes < 1:
        raise UsageError(
            f"a file holds at least 1 request, got {most_requests} and {most_bytes} bytes at most"
        )
    if any(folder.glob("batch-*.jsonl")):
        raise UsageError(
            f"{folder} holds a batch already, and two would mix; read that one, or name another folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    files = _Files(folder, most_requests, most_bytes)
    seen: set[str] = set()
    known = repeated = 0
    try:
        for ask in asks:
            key = ask.key(model_label(model, extra))
            if key in seen:
                repeated += 1
            elif kept is not None and key in kept:
                known += 1
            else:
                seen.add(key)
                body = request_body(ask, model, structured=structured, extra=extra)
                request = {"custom_id": key, "method": "POST", "url": f"/v1/{PATH}", "body": body}
                files.add(json.dumps(request, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
        return BatchWritten(files.finished(), len(seen), known, repeated)
    finally:
        files.clear()


def read_batch(file: str | Path, replies: Replies, *, model: str) -> BatchRead:
    """Keep the answers in a file of results; reading it twice changes nothing.

    Args:
        file: what the server made of one file of requests, in any order; a file of its errors does as well.
        model: its name, for answers that leave it out.

    Raises:
        DataError: for a line that is no result of a batch of ours; what stood before it is kept.
    """
    file = Path(file)
    fresh = known = 0
    failed: list[tuple[str, str]] = []
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            key, response, error = _result(line, f"line {number} of {file}")
            if key in replies:
                known += 1
                continue
            reply = _answered(response, error, model)
            if isinstance(reply, Reply):
                replies.add(key, reply)
                fresh += 1
            else:
                failed.append((key, reply))
    return BatchRead(fresh, known, tuple(failed))


class _Files:
    """Numbered files that are begun as they are needed, and take their names together."""

    def __init__(self, folder: Path, most_requests: int, most_bytes: int) -> None:
        self._folder = folder
        self._most_requests = most_requests
        self._most_bytes = most_bytes
        self._parts: list[Path] = []
        self._file: IO[bytes] | None = None
        self._requests = self._bytes = 0

    def add(self, line: bytes) -> None:
        if len(line) > self._most_bytes:
            raise UsageError(
                f"one question takes {len(line):,} bytes, and a file holds at most {self._most_bytes:,}; "
                "use smaller pictures"
            )
        full = self._requests == self._most_requests or self._bytes + len(line) > self._most_bytes
        if self._file is None or full:
            self._close()
            self._parts.append(self._folder / f"batch-{len(self._parts):05d}.jsonl.part")
            self._file = self._parts[-1].open("wb")
            self._requests = self._bytes = 0
        self._file.write(line)
        self._requests += 1
        self._bytes += len(line)

    def finished(self) -> tuple[Path, ...]:
        self._close()
        return tuple(part.replace(part.with_suffix("")) for part in self._parts)

    def clear(self) -> None:
        """Remove what took no name."""
        with contextlib.suppress(OSError):
            self._close()
        for part in self._parts:
            part.unlink(missing_ok=True)

    def _close(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            file.close()


def _result(line: bytes, where: str) -> tuple[str, object, object]:
    try:
        result = json.loads(line)
    except (ValueError, RecursionError):
        result = None
    key = result.get("custom_id") if isinstance(result, dict) else None
    if not isinstance(key, str) or not _KEY.fullmatch(key) or not ("response" in result or "error" in result):
        raise DataError(
            f"{where} is no result of a batch written here (an object with custom_id and response), got "
            f"{quoted(line)}; name the file of results that the server gave back, whole"
        )
    return key, result.get("response"), result.get("error")


def _answered(response: object, error: object, model: str) -> Reply | str:
    """The reply of one result, or why there is none."""
    status = response.get("status_code") if isinstance(response, dict) else None
    body = response.get("body") if isinstance(response, dict) else None
    if error:
        return error_message({"error": error})
    if filtered(body):
        return Reply(error_message(body), model, refused=True)
    if status != 200:
        return f"status {status}: {quoted(error_message(body))}"
    try:
        return reply_of(body, model=model)
    except MalformedAnswerError as fault:
        return str(fault)

"""What all commands share on the terminal: streams in UTF-8, one-line errors, exit statuses, a progress line.

Knows exit statuses, standard output and standard error. Refuses to know what any command does.

Exit statuses: 0 all fine, 1 some inputs failed, 2 usage error, model or vocabulary that cannot be used, or
nothing matched, 130 interrupted, 141 the reader of standard output went away (what a shell reports for any
such program).
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import sys
import time
import unicodedata
from collections.abc import Callable
from typing import Any, TextIO

import typer

from taglens.errors import TaglensError

OK, SOME_FAILED, USAGE, TOO_MANY_FAILED, INTERRUPTED, PIPE_CLOSED = 0, 1, 2, 3, 130, 141

# Characters that re-order or hide text: a file name may hold them, a terminal must not obey them.
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def prepare_streams() -> None:
    """UTF-8 and ``\\n`` on both streams, whatever the locale; what UTF-8 cannot hold is escaped."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace", newline="\n")


def printable(text: str) -> str:
    """Text that a terminal shows and does not obey: control and direction characters are escaped."""
    if text.isprintable():
        return text
    return "".join(
        character.encode("unicode_escape").decode("ascii")
        if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or character in _BIDI
        else character
        for character in text
    )


def say(message: str) -> None:
    """One line on standard error."""
    typer.echo(f"taglens: {printable(message)}", err=True)


def fail(message: str) -> None:
    say(f"error: {message}")


def _discard_output() -> None:
    """Point standard output nowhere, so that the interpreter's last flush does not complain."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def guarded(command: Callable[..., int | None]) -> Callable[..., None]:
    """A command that never shows a traceback for what a user can cause.

    The command returns its exit status (None: 0). The signature, which typer reads, is kept.
    """

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            status = command(*args, **kwargs) or OK
            sys.stdout.flush()
        except TaglensError as error:
            fail(str(error))
            status = USAGE
        except BrokenPipeError:
            _discard_output()
            status = PIPE_CLOSED
        except OSError as error:
            # A full disk, a forbidden folder: the machine's state, not a fault of the program.
            fail(str(error))
            status = USAGE
        except (MemoryError, RuntimeError) as error:
            # torch tells of it in words alone.
            if not isinstance(error, MemoryError) and "can't allocate memory" not in str(error):
                raise
            fail("there is not enough memory; close other programs, or use a machine with more")
            status = USAGE
        except KeyboardInterrupt:
            with contextlib.suppress(OSError):
                sys.stdout.flush()
            say("interrupted; what was written so far is complete rows")
            status = INTERRUPTED
        if status != OK:
            raise typer.Exit(status)

    return run


def is_terminal(stream: TextIO) -> bool:
    """Whether a stream leads to a person. ``TERM=dumb`` does not understand drawing, so it does not count."""
    return stream.isatty() and os.environ.get("TERM", "") != "dumb"


class ProgressLine:
    """One line on standard error that redraws itself: ``███▌      35/100  2 failed  18.2/s  0:04 left``.

    Draws only on a terminal, only for more than one item, and at most ten times a second. ``clear`` before
    anything else is written to the same terminal.
    """

    WIDTH = 24

    def __init__(
        self,
        total: int | None,
        *,
        unit: str = "pictures",
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._active = is_terminal(self._stream) and (total is None or total > 1)
        self._total, self._unit = total, unit
        self._clock = clock
        self._start = clock()
        self._drawn_at = float("-inf")
        self._visible = False
        self._done = 0
        self._failed = 0
        self._free = 0
        self._note = ""

    def advance(self, *, failed: int = 0) -> None:
        """One more item is done."""
        self._done += 1
        self._failed += failed
        now = self._clock()
        if self._active and (now - self._drawn_at >= 0.1 or self._done == self._total):
            self._drawn_at, self._visible = now, True
            self._stream.write("\r\x1b[2K" + self._text(now))
            self._stream.flush()

    def move(self, done: int, *, failed: int, free: int = 0) -> None:
        """``done`` items are done, ``failed`` of them badly, ``free`` of them at no cost; for who counts himself."""
        self._done, self._failed, self._free = done - 1, failed, free
        self.advance()

    def reach(self, done: int, note: str = "") -> None:
        """``done`` items are done; ``note`` stands at the end of the line."""
        self._done, self._note = done - 1, note
        self.advance()

    def clear(self) -> None:
        """Leave the line empty."""
        if self._visible:
            self._visible = False
            self._stream.write("\r\x1b[2K")
            self._stream.flush()

    def _text(self, now: float) -> str:
        rate = (self._done - self._free) / max(now - self._start, 1e-9)
        parts = []
        if self._total:
            filled = bar(self._done / self._total, width=self.WIDTH)
            parts.append(f"{filled:<{self.WIDTH}}  {self._done}/{self._total}")
        else:
            parts.append(f"{self._done} {self._unit}")
        if self._failed:
            parts.append(f"{self._failed} failed")
        parts.append(f"{rate:.1f}/s")
        if self._total and rate > 0:
            left = int((self._total - self._done) / rate)
            parts.append(f"{left // 60}:{left % 60:02d} left")
        if self._note:
            parts.append(self._note)
        return "  ".join(parts)


def bar(share: float, *, width: int) -> str:
    """A bar of eighths of a character for a share in [0, 1]; anything above 0 shows at least an eighth."""
    eighths = round(share * width * 8)
    if share > 0:
        eighths = max(eighths, 1)
    whole, rest = divmod(min(max(eighths, 0), width * 8), 8)
    return "█" * whole + ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")[rest]

"""When a question may be sent: how fast the questions of all threads follow each other, and how long to wait again.

Knows clocks and what a server says about waiting. Refuses to know what is sent.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from taglens.errors import UsageError


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a server is waited for, in seconds, and how often it is asked again.

    Args:
        connect: until a connection stands.
        read: between two pieces of an answer; for an answer that comes in one piece, until all of it is there.
        retries: further attempts after the first.
        first_wait: before the first of them; doubled each time, and shortened at random by up to a half so that many
            threads do not come back at once.
        longest_wait: where the doubling ends; a server that asks for a longer wait is given up.

    Raises:
        UsageError: for a number that is negative or none.
    """

    connect: float = 10.0
    read: float = 180.0
    retries: int = 5
    first_wait: float = 1.0
    longest_wait: float = 60.0

    def __post_init__(self) -> None:
        for name, zero in (
            ("connect", False),
            ("read", False),
            ("retries", True),
            ("first_wait", True),
            ("longest_wait", True),
        ):
            value = getattr(self, name)
            if not math.isfinite(value) or value < 0 or (value == 0 and not zero):
                least = "a number from 0 on" if zero else "a number above 0"
                raise UsageError(f"{name} has to be {least}, got {value}")

    def wait(self, retry: int) -> float:
        """Seconds before the further attempt number `retry`, counted from 0."""
        # The exponent is bounded: 2.0 ** 1024 is no number any more.
        longest = min(self.first_wait * 2.0 ** min(retry, 64), self.longest_wait)
        return longest * random.uniform(0.5, 1.0)


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that may be sent in a minute, all threads together; None for no limit.

    Args:
        requests_per_minute: attempts, repeated ones included.
        tokens_per_minute: of questions by their length and of answers by their `max_tokens`, the way hosted servers
            reckon before they answer.

    Raises:
        UsageError: for a limit that is not above 0.
    """

    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None

    def __post_init__(self) -> None:
        for name in ("requests_per_minute", "tokens_per_minute"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise UsageError(f"{name} has to be a number above 0, got {value}; leave it out for no limit")

    def gap(self, tokens: int) -> float:
        """Seconds between a request of `tokens` tokens and the next one."""
        requests = 60 / self.requests_per_minute if self.requests_per_minute else 0.0
        return max(requests, tokens * 60 / self.tokens_per_minute if self.tokens_per_minute else 0.0)


class Pace:
    """Lets the threads that share it go on one after the other, as `limits` allow.

    Requests are spaced evenly: a burst after a pause is what rate limits punish.

    Args:
        clock: seconds that only ever rise.
        sleep: waits that many seconds; says whether it was interrupted for good, if it can be.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._limits = limits
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._next = -math.inf
        self._held = -math.inf

    def turn(self, tokens: int) -> None:
        """Return when a request of `tokens` tokens may be sent."""
        with self._lock:
            at = max(self._clock(), self._next, self._held)
            self._next = at + self._limits.gap(tokens)
        # Another thread may have been told to wait meanwhile.
        while (left := max(at, self._held) - self._clock()) > 0:
            if self._sleep(left):
                return

    def hold(self, seconds: float) -> None:
        """Let nobody go on for so long: the server asked for it."""
        with self._lock:
            self._held = max(self._held, self._clock() + seconds)


def asked_wait(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to be left alone for; None where it does not say, or says it unreadably."""
    in_seconds = _number(headers.get("retry-after-ms"))
    if in_seconds is not None:
        return in_seconds / 1000
    said = headers.get("retry-after")
    if said is None:
        return None
    in_seconds = _number(said)
    if in_seconds is not None:
        return in_seconds
    try:
        return max(0.0, parsedate_to_datetime(said).timestamp() - time.time())
    except (ValueError, OverflowError, OSError):
        return None


def _number(said: str | None) -> float | None:
    try:
        value = float(said or "")
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None

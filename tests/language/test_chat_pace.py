"""How fast questions follow each other, on a clock that only the test moves."""

from __future__ import annotations

import time
from email.utils import formatdate
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taglens.errors import UsageError
from taglens.language.chat_pace import Limits, Pace, Patience, asked_wait


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


@given(st.integers(1, 600), st.lists(st.floats(0, 5), min_size=2, max_size=40))
def test_no_minute_holds_more_requests_than_allowed(most: int, pauses: list[float]) -> None:
    clock = Clock()
    pace = Pace(Limits(requests_per_minute=most), clock=clock, sleep=clock.sleep)
    sent = []
    for pause in pauses:
        clock.now += pause
        pace.turn(10)
        sent.append(clock.now)
    assert all(later - earlier >= 60 / most - 1e-6 for earlier, later in pairwise(sent))


def test_tokens_space_requests_by_their_size() -> None:
    clock = Clock()
    pace = Pace(Limits(requests_per_minute=600, tokens_per_minute=6000), clock=clock, sleep=clock.sleep)
    sent = []
    for tokens in (1000, 100, 1, 1):
        pace.turn(tokens)
        sent.append(clock.now)
    assert sent == pytest.approx([0, 10, 11, 11.1])


def test_without_limits_nobody_waits_until_a_server_asks_for_it() -> None:
    clock = Clock()
    pace = Pace(Limits(), clock=clock, sleep=clock.sleep)
    pace.turn(10**9)
    pace.turn(10**9)
    assert clock.now == 0
    pace.hold(7)
    pace.hold(3)
    pace.turn(1)
    assert clock.now == 7


def test_a_wait_that_is_asked_for_meanwhile_is_kept_too() -> None:
    clock = Clock()

    def sleep(seconds: float) -> None:
        if clock.now == 0:
            pace.hold(100)  # another thread learns it while this one waits for its turn
        clock.sleep(seconds)

    pace = Pace(Limits(requests_per_minute=60), clock=clock, sleep=sleep)
    pace.turn(1)
    pace.turn(1)
    assert clock.now == 100


@given(st.integers(0, 2000))
def test_waits_double_within_their_bounds(retry: int) -> None:
    patience = Patience(first_wait=0.5, longest_wait=8)
    whole = min(0.5 * 2 ** min(retry, 50), 8)
    assert whole / 2 <= patience.wait(retry) <= whole


def test_waits_differ() -> None:
    assert len({Patience().wait(3) for _ in range(20)}) > 10


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "2"}, 2.0),
        ({"retry-after": "0.25"}, 0.25),
        ({"retry-after": "9", "retry-after-ms": "1500"}, 1.5),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "Sun, 06 Nov 1994 08:49:37 GMT"}, 0.0),
    ],
)
def test_what_servers_say_about_waiting(headers: dict[str, str], seconds: float | None) -> None:
    assert asked_wait(headers) == seconds


def test_a_date_is_a_wait_until_then() -> None:
    seconds = asked_wait({"retry-after": formatdate(time.time() + 100, usegmt=True)})
    assert seconds is not None
    assert 90 < seconds <= 101


@pytest.mark.parametrize(
    "make",
    [
        lambda: Patience(connect=0),
        lambda: Patience(read=-1),
        lambda: Patience(retries=-1),
        lambda: Patience(first_wait=float("inf")),
        lambda: Limits(requests_per_minute=0),
        lambda: Limits(tokens_per_minute=float("nan")),
    ],
)
def test_nonsense_is_refused_at_birth(make: object) -> None:
    with pytest.raises(UsageError):
        make()  # type: ignore[operator]

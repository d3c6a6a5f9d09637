"""What is counted, what it costs, and where it stops."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taglens.errors import BudgetError, ChatError, UsageError
from taglens.language.chat import Ask, ChatPicture, Reply, Usage, ask_all, prompt_tokens_at_most
from taglens.language.chat_kept import KeptChat, ReplayChat
from taglens.language.ledger import CountedChat, Ledger, Prices


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def reply(prompt: int = 100, answer: int = 10, cached: int = 0, **more: object) -> Reply:
    return Reply("yes", "m", Usage(prompt, answer, cached), **more)  # type: ignore[arg-type]


def test_counts_and_money() -> None:
    said = iter(
        [
            reply(1000, 10, 400, seconds=2.0, retries=2),
            reply(500, 20, refused=True, seconds=1.0),
            reply(500, 30, cut=True),
        ]
    )
    ledger = Ledger(Prices(prompt=2, cached=0.5, completion=10, request=0.01))
    chat = CountedChat(ReplayChat(lambda ask: next(said), model="m"), ledger)
    for _ in range(3):
        chat(Ask("a"))
    totals = ledger.totals
    assert (totals.queries, totals.refused, totals.cut, totals.retries, totals.failed) == (3, 1, 1, 2, 0)
    assert totals.usage == Usage(2000, 60, 400)
    assert totals.seconds == 3.0
    assert totals.cost == pytest.approx((1600 * 2 + 400 * 0.5 + 60 * 10) / 1e6 + 0.03)
    assert chat.model == "m"


def test_cached_tokens_cost_what_others_do_unless_a_price_is_given() -> None:
    assert Prices(prompt=3).of(Usage(1_000_000, 0, 600_000), queries=1) == pytest.approx(3)
    assert Prices(prompt=3, cached=0.0).of(Usage(1_000_000, 0, 600_000)) == pytest.approx(1.2)


def test_failures_are_counted_with_their_retries_and_cost_nothing() -> None:
    def answer(ask: Ask) -> str:
        raise ChatError("no", retries=5)

    ledger = Ledger(Prices(prompt=1))
    with pytest.raises(ChatError):
        CountedChat(ReplayChat(answer), ledger)(Ask("a"))
    assert (ledger.totals.failed, ledger.totals.retries, ledger.totals.queries) == (1, 5, 0)
    assert ledger.totals.cost == 0


def test_an_interrupted_query_gives_its_money_back() -> None:
    def answer(ask: Ask) -> Reply:
        if ask.text == "stop":
            raise KeyboardInterrupt
        return reply(1, 1)

    ask = Ask("stop", max_tokens=100)
    ledger = Ledger(Prices(completion=10_000), max_cost=1.0)
    chat = CountedChat(ReplayChat(answer), ledger)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            chat(ask)
    chat(Ask("go", max_tokens=100))
    assert (ledger.totals.queries, ledger.totals.failed) == (1, 0)


def test_unknown_usage_is_said_and_charged_as_set_aside() -> None:
    ask = Ask("how many are there?", max_tokens=50)
    ledger = Ledger(Prices(prompt=1, completion=4, request=0.5))
    chat = CountedChat(ReplayChat({ask.text: "three"}), ledger)
    chat(ask)
    totals = ledger.totals
    estimated = (prompt_tokens_at_most(ask) + 4 * 50) / 1e6
    assert (totals.queries, totals.unknown_usage, totals.usage) == (1, 1, Usage())
    assert totals.cost_estimated == pytest.approx(estimated)
    assert totals.cost == pytest.approx(estimated + 0.5)
    with pytest.raises(UsageError, match="nothing to project"):
        ledger.projected(10)


@settings(max_examples=40)
@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=40),
    st.integers(0, 2000),
    st.integers(1, 6),
)
def test_the_limit_is_never_passed(answers: list[int], most: int, at_once: int) -> None:
    """Whatever the answers' lengths up to `max_tokens`, and however many are asked together."""
    ledger = Ledger(Prices(completion=1e6), max_cost=most)
    said = ReplayChat(lambda ask: reply(1, int(ask.text)))
    asks = [Ask(str(length), max_tokens=60) for length in answers]
    try:
        got = len(list(ask_all(CountedChat(said, ledger), asks, at_once=at_once)))
    except BudgetError:
        # It stopped no earlier than where the next might have passed it.
        assert ledger.totals.cost > most - 60
    else:
        assert got == len(answers)
        assert ledger.totals.cost == sum(answers)
    assert ledger.totals.cost <= most


def test_queries_in_flight_hold_their_money_and_others_wait_for_it() -> None:
    """A reservation of 60 and a limit of 100: the second question waits, and then there is enough for it."""
    inside, go = threading.Event(), threading.Event()

    def answer(ask: Ask) -> Reply:
        inside.set()
        assert go.wait(60)
        return reply(1, 10)

    ledger = Ledger(Prices(completion=1e6), max_cost=100)
    chat = CountedChat(ReplayChat(answer), ledger)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(chat, Ask("a", max_tokens=60))
        assert inside.wait(60)
        inside.clear()
        second = threads.submit(chat, Ask("b", max_tokens=60))
        assert not inside.wait(0.05)  # it has not been asked
        with pytest.raises(BudgetError):  # no waiting would help this one
            chat(Ask("c", max_tokens=101))
        go.set()
        first.result()
        second.result()
    assert ledger.totals.cost == 20


def test_no_money_means_not_asked_and_says_the_figures() -> None:
    asked = []

    def answer(ask: Ask) -> Reply:
        asked.append(ask)
        return reply(1, 40)

    chat = CountedChat(ReplayChat(answer), Ledger(Prices(completion=1e6), max_cost=100))
    chat(Ask("a", max_tokens=60))
    chat(Ask("b", max_tokens=60))
    with pytest.raises(BudgetError, match=r"60\.000000 USD.*80\.000000 of at most 100\.000000"):
        chat(Ask("c", max_tokens=60))
    assert len(asked) == 2


def test_estimates_follow_what_a_server_really_counts() -> None:
    """Pictures that take three times what was thought: the limit holds from the second query on."""
    ledger = Ledger(Prices(prompt=1e6), max_cost=11_000, picture_tokens=1000)
    ask = Ask("a", pictures=(ChatPicture(b"x"),))
    chat = CountedChat(ReplayChat(lambda ask: reply(3000, 1)), ledger)
    with pytest.raises(BudgetError):
        for _ in range(10):
            chat(ask)
    assert ledger.totals.cost == 9000


def test_kept_answers_cost_nothing_and_need_no_money(tmp_path: object) -> None:
    ledger = Ledger(Prices(completion=1e6), max_cost=60)
    server = CountedChat(ReplayChat(lambda ask: reply(1, 50)), ledger)
    with KeptChat(server, f"{tmp_path}/kept.jsonl", on_kept=ledger.saw_kept) as chat:
        for _ in range(4):
            chat(Ask("a", max_tokens=60))
        with pytest.raises(BudgetError):
            chat(Ask("b", max_tokens=60))
    totals = ledger.totals
    assert (totals.queries, totals.kept, totals.cost) == (1, 3, 50)
    assert totals.kept_usage == Usage(3, 150)
    assert totals.usage == Usage(1, 50)


def test_hours_are_those_in_which_anything_is_out() -> None:
    clock = Clock()
    ledger = Ledger(Prices(hour=36), clock=clock)
    ask = Ask("a")
    one = ledger.begin(ask)
    clock.now = 10
    two = ledger.begin(ask)
    clock.now = 30
    ledger.end(one, reply(seconds=30.0))
    clock.now = 50
    assert ledger.totals.busy_seconds == 50
    ledger.end(two, reply(seconds=40.0))
    clock.now = 1000  # nothing is out
    three = ledger.begin(ask)
    clock.now = 1010
    ledger.end(three, reply(seconds=10.0))
    assert ledger.totals.busy_seconds == 60
    assert ledger.totals.seconds == 80
    assert ledger.totals.cost == pytest.approx(0.6)
    # 20 s each, as busy as it was.
    assert ledger.projected(1800).cost == pytest.approx(360)


def test_projections_come_from_the_averages_or_from_what_is_given() -> None:
    clock = Clock()
    ledger = Ledger(Prices(prompt=1, completion=10, cached=0, request=0.001), clock=clock)
    for prompt, answer, cached in ((1000, 10, 500), (3000, 30, 500)):
        item = ledger.begin(Ask("a"))
        clock.now += 1
        ledger.end(item, reply(prompt, answer, cached))
    measured = ledger.projected(1_000_000)
    assert measured.usage == Usage(2_000_000_000, 20_000_000, 500_000_000)
    assert measured.cost == pytest.approx(1500 + 200 + 1000)
    assert (measured.measured, measured.seconds) == (2, 1_000_000)
    given_ones = ledger.projected(1000, usage=Usage(100, 1), seconds=7)
    assert given_ones.usage == Usage(100_000, 1000)
    assert given_ones.cost == pytest.approx(0.1 + 0.01 + 1)
    assert (given_ones.measured, given_ones.seconds) == (0, 7000)
    assert "1,000 queries" in str(given_ones)
    assert Ledger().projected(5, usage=Usage(10)).usage == Usage(50)
    with pytest.raises(UsageError, match="-1"):
        ledger.projected(-1)


def test_it_is_written_for_machines_and_for_people() -> None:
    ledger = Ledger(Prices(prompt=1_000_000), max_cost=5000)
    CountedChat(ReplayChat(lambda ask: reply(1234, 5)), ledger)(Ask("a"))
    written = json.loads(json.dumps(ledger.to_dict()))
    assert written["usage"] == {"prompt_tokens": 1234, "completion_tokens": 5, "cached_tokens": 0}
    assert (written["cost"], written["max_cost"], written["prices"]["currency"]) == (1234, 5000, "USD")
    table = ledger.table()
    assert "1,234.0000 USD" in table
    assert len({len(line) for line in table.splitlines()}) == 1
    assert "no prices given" in Ledger().table()


def test_many_threads_lose_nothing() -> None:
    ledger = Ledger(Prices(prompt=1))
    chat = CountedChat(ReplayChat(lambda ask: reply(3, 2, 1)), ledger)
    list(ask_all(chat, (Ask(str(n)) for n in range(500)), at_once=8))
    assert ledger.totals.queries == 500
    assert ledger.totals.usage == Usage(1500, 1000, 500)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Prices(prompt=-1),
        lambda: Prices(cached=float("nan")),
        lambda: Ledger(max_cost=1),
        lambda: Ledger(Prices(prompt=1), max_cost=-1),
        lambda: Ledger(Prices(prompt=1), picture_tokens=-1),
    ],
)
def test_nonsense_is_refused(make: object) -> None:
    with pytest.raises(UsageError):
        make()  # type: ignore[operator]


def test_a_query_ends_once() -> None:
    ledger = Ledger()
    item = ledger.begin(Ask("a"))
    ledger.end(item, reply())
    with pytest.raises(UsageError, match="ended before"):
        ledger.end(item, reply())

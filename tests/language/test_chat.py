"""Questions, the names of their answers, and many questions at once."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taglens.errors import BudgetError, ChatError, UsageError
from taglens.language.chat import Ask, ChatPicture, Reply, Usage, ask_all, prompt_tokens_at_most
from taglens.language.chat_kept import ReplayChat

FULL = Ask(
    "what is it?",
    system="be brief",
    pictures=(ChatPicture(b"one"), ChatPicture(b"two", "image/png")),
    schema={"type": "object", "properties": {"a": {"type": "string"}}},
    max_tokens=9,
    temperature=0.5,
    seed=3,
)


@pytest.mark.parametrize(
    "change",
    [
        {"text": "what is this?"},
        {"system": "be long"},
        {"pictures": FULL.pictures[:1]},
        {"pictures": FULL.pictures[::-1]},
        {"pictures": (ChatPicture(b"one", "image/png"), FULL.pictures[1])},
        {"pictures": (ChatPicture(b"onf"), FULL.pictures[1])},
        {"schema": None},
        {"schema": {"type": "string"}},
        {"max_tokens": 10},
        {"temperature": 0.0},
        {"seed": None},
        {"seed": 0},
    ],
)
def test_everything_that_decides_an_answer_is_in_its_key(change: dict[str, object]) -> None:
    other = dataclasses.replace(FULL, **change)  # type: ignore[arg-type]
    assert other.key("m") != FULL.key("m")


def test_a_key_is_a_stable_name_of_the_content() -> None:
    # Written down: a key that changes orphans every file of kept answers.
    assert Ask("hello").key("m") == "6c96652b5b304eba39eb9dd67b03f4dab8780d1beceb6ebd012d9223a8f55fbb"
    assert FULL.key("m") != FULL.key("n")
    turned = dataclasses.replace(FULL, schema={"properties": {"a": {"type": "string"}}, "type": "object"})
    assert turned.key("m") == FULL.key("m")


@given(st.lists(st.text(min_size=1).filter(str.strip), min_size=2, max_size=2, unique=True))
def test_texts_do_not_run_into_each_other(texts: list[str]) -> None:
    one, two = texts
    assert Ask(one, system=two).key("m") != Ask(two, system=one).key("m")
    assert Ask(one + two).key("m") != Ask(one, system=two).key("m")


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Ask(" "), "text"),
        (lambda: Ask("a", max_tokens=0), "max_tokens=0"),
        (lambda: Ask("a", temperature=float("nan")), "nan"),
        (lambda: Ask("a", temperature=-1), "-1"),
        (lambda: Ask("bad \udcff name"), "udcff"),
        (lambda: Ask("a", system="\ud800"), "system"),
        (lambda: ChatPicture(b""), "none"),
        (lambda: ChatPicture(b"a", "text/html"), "text/html"),
        (lambda: Ask("a", schema={"a": object()}).key("m"), "JSON"),
    ],
)
def test_what_cannot_be_asked_is_refused(make: object, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        make()  # type: ignore[operator]


def test_pictures_are_not_printed() -> None:
    assert "secret" not in repr(Ask("a", pictures=(ChatPicture(b"secret" * 99),)))


def test_usage_adds_up_and_knows_whether_it_is_known() -> None:
    assert Usage(1, 2, 1) + Usage(10, 20, 3) == Usage(11, 22, 4)
    assert Usage(1).known
    assert not Usage().known


@given(st.text(min_size=1).filter(str.strip), st.integers(0, 3))
def test_longer_questions_are_never_reckoned_smaller(text: str, pictures: int) -> None:
    asks = [Ask(text * 2, pictures=(ChatPicture(b"x"),) * count) for count in (pictures, pictures + 1)]
    assert prompt_tokens_at_most(asks[0]) < prompt_tokens_at_most(asks[1])
    assert prompt_tokens_at_most(Ask(text)) <= prompt_tokens_at_most(asks[0])


def asks(count: int) -> list[Ask]:
    return [Ask(str(number)) for number in range(count)]


@pytest.mark.parametrize("at_once", [1, 3, 8])
def test_replies_come_in_order_and_no_more_than_so_many_are_asked_together(at_once: int) -> None:
    lock, now, most = threading.Lock(), 0, 0
    together = threading.Barrier(at_once)  # which nobody passes unless so many are inside

    def answer(ask: Ask) -> str:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        together.wait(30)
        time.sleep(0.002 * (int(ask.text) % 3))  # so that later ones end before earlier ones
        with lock:
            now -= 1
        return ask.text

    replies = list(ask_all(ReplayChat(answer), asks(24), at_once=at_once))
    assert [reply.text for reply in replies if isinstance(reply, Reply)] == [str(n) for n in range(24)]
    assert most == at_once


def test_a_question_that_fails_is_a_value_in_its_place() -> None:
    def answer(ask: Ask) -> str:
        if ask.text == "2":
            raise ChatError("no", retries=4)
        return ask.text

    replies = list(ask_all(ReplayChat(answer), asks(5), at_once=2))
    assert [isinstance(reply, ChatError) for reply in replies] == [False, False, True, False, False]


def test_no_money_is_raised_in_its_place_after_what_came_before() -> None:
    def answer(ask: Ask) -> str:
        if int(ask.text) >= 3:
            raise BudgetError("poor")
        time.sleep(0.02)
        return ask.text

    got = []
    with pytest.raises(BudgetError, match="poor"):
        for reply in ask_all(ReplayChat(answer), asks(50), at_once=4):
            got.append(reply)
    assert [reply.text for reply in got if isinstance(reply, Reply)] == ["0", "1", "2"]


def test_questions_are_taken_as_needed_and_no_longer_once_closed() -> None:
    taken = 0
    asked: list[str] = []

    def questions() -> Iterator[Ask]:
        nonlocal taken
        for number in range(1000):
            taken += 1
            yield Ask(str(number))

    def answer(ask: Ask) -> str:
        time.sleep(0.005)
        asked.append(ask.text)
        return ask.text

    replies = ask_all(ReplayChat(answer), questions(), at_once=3)
    assert taken == 0
    for given_out in range(1, 11):
        next(replies)
        assert taken <= given_out + 2 * 3
    replies.close()
    at_closing = len(asked)
    assert 10 <= at_closing <= 16
    time.sleep(0.03)
    assert len(asked) == at_closing


def test_closing_waits_for_what_is_in_flight() -> None:
    done = threading.Event()

    def answer(ask: Ask) -> str:
        if ask.text != "0":
            time.sleep(0.1)
            done.set()
        return ask.text

    replies = ask_all(ReplayChat(answer), asks(3), at_once=2)
    next(replies)
    replies.close()
    assert done.is_set()


def test_what_the_questions_raise_comes_through() -> None:
    def questions() -> Iterator[Ask]:
        yield Ask("0")
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        list(ask_all(ReplayChat(lambda ask: "a"), questions(), at_once=2))


def test_nobody_can_ask_nobody() -> None:
    with pytest.raises(UsageError, match="at_once=0"):
        ask_all(ReplayChat({}), [], at_once=0)
    assert list(ask_all(ReplayChat({}), [], at_once=2)) == []

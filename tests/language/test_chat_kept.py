"""Answers on the disk: asked once, kept before they are given out, and whole after whatever happens."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import taglens
from fake_chat import FakeChat, question
from taglens.errors import BudgetError, ChatError, DataError, UsageError
from taglens.language.chat import Ask, Reply, Usage, ask_all
from taglens.language.chat_kept import KeptChat, ReplayChat, Replies

HEADER = '{"format":"taglens replies","version":1}\n'


class Counted:
    """A chat that knows how often it was asked."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.asked: list[str] = []
        self._seconds = seconds
        self.model = "counted"

    def __call__(self, ask: Ask) -> Reply:
        self.asked.append(ask.text)
        time.sleep(self._seconds)
        return Reply(f"answer to {ask.text}", "m", Usage(3, 2, 1), seconds=0.5, retries=1)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "new" / "kept.jsonl"


def fill(file: Path, *texts: str) -> list[str]:
    """Keep answers to these texts; returns their keys."""
    with KeptChat(Counted(), file) as chat:
        for text in texts:
            chat(Ask(text))
        return [Ask(text).key("counted") for text in texts]


def test_a_question_is_asked_once_and_its_answer_comes_back_whole(file: Path) -> None:
    inner, seen = Counted(), list[Reply]()
    with KeptChat(inner, file, on_kept=seen.append) as chat:
        first, second = chat(Ask("a")), chat(Ask("a"))
        chat(Ask("a", max_tokens=5))
        assert chat.model == "counted"
    assert first == Reply("answer to a", "m", Usage(3, 2, 1), seconds=0.5, retries=1)
    assert second == Reply("answer to a", "m", Usage(3, 2, 1), seconds=0.5, retries=1, kept=True)
    assert seen == [second]
    assert inner.asked == ["a", "a"]
    with KeptChat(inner, file) as chat:  # another day
        assert chat(Ask("a")) == second
    assert inner.asked == ["a", "a"]


@settings(max_examples=25)
@given(
    st.text(),
    st.text(min_size=1),
    st.tuples(*[st.integers(0, 10**12)] * 3),
    st.floats(0, 1e9),
    st.booleans(),
    st.booleans(),
)
def test_any_reply_is_read_as_it_was_written(
    text: str, model: str, usage: tuple[int, int, int], seconds: float, refused: bool, was_cut: bool
) -> None:
    reply = Reply(text, model, Usage(*usage), seconds, refused, was_cut, kept=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kept.jsonl"
        with Replies(path) as replies:
            replies.add("one", reply)
            replies.add("two", Reply("other", "m"))
            assert replies.get("one") == reply
        with Replies(path) as replies:
            assert (len(replies), replies.get("one"), replies.get("three")) == (2, reply, None)
            assert "two" in replies
            assert "three" not in replies


def test_halves_of_characters_do_not_stop_the_file(file: Path) -> None:
    with Replies(file) as replies:
        replies.add("one", Reply("\ud83d", "m"))
    with Replies(file) as replies:
        assert replies.get("one") == Reply("\ud83d", "m", kept=True)


def test_failures_are_not_kept(file: Path) -> None:
    said = iter([ChatError("no"), "yes"])

    def answer(ask: Ask) -> str:
        match next(said):
            case ChatError() as error:
                raise error
            case str(text):
                return text

    with KeptChat(ReplayChat(answer), file) as chat:
        with pytest.raises(ChatError):
            chat(Ask("a"))
        assert chat(Ask("a")).text == "yes"


def test_the_last_of_several_lines_counts_and_files_can_be_joined(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    [key] = fill(file, "a")
    fill(other, "b")
    with Replies(other) as replies:
        replies.add(key, Reply("newer", "m"))
    file.write_bytes(file.read_bytes() + other.read_bytes())
    with Replies(file) as replies:
        assert len(replies) == 2
        assert replies.get(key) == Reply("newer", "m", kept=True)


def test_equal_questions_at_one_time_are_one_query(file: Path) -> None:
    inner, seen = Counted(seconds=0.05), list[Reply]()
    with KeptChat(inner, file, on_kept=seen.append) as chat:
        asks = [Ask(str(number % 3)) for number in range(24)]
        replies = list(ask_all(chat, asks, at_once=8))
    assert sorted(inner.asked) == ["0", "1", "2"]
    assert [reply.text for reply in replies if isinstance(reply, Reply)] == [
        f"answer to {n % 3}" for n in range(24)
    ]
    assert sum(reply.kept for reply in replies if isinstance(reply, Reply)) == len(seen) == 21
    assert file.read_text().count("\n") == 4


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set once anybody waits for what another thread is about to know."""
    began, result = threading.Event(), Future.result

    def begin_waiting(future: Future[object], timeout: float | None = None) -> object:
        began.set()
        return result(future, timeout)

    monkeypatch.setattr(Future, "result", begin_waiting)
    return began


@pytest.mark.parametrize("error", [ChatError("no"), BudgetError("poor")])
def test_who_waits_for_an_equal_question_shares_its_failure(
    file: Path, error: Exception, waiting: threading.Event
) -> None:
    asked, go = threading.Event(), threading.Event()
    count = 0

    def answer(ask: Ask) -> str:
        nonlocal count
        count += 1
        asked.set()
        assert go.wait(60)
        raise error

    with KeptChat(ReplayChat(answer), file) as chat, ThreadPoolExecutor(2) as threads:
        first = threads.submit(chat, Ask("a"))
        assert asked.wait(60)
        second = threads.submit(chat, Ask("a"))
        assert waiting.wait(60)
        go.set()
        for one in (first, second):
            with pytest.raises(type(error)):
                one.result()
    assert count == 1


def test_who_waits_for_one_that_is_interrupted_asks_anew(file: Path, waiting: threading.Event) -> None:
    asked, go = threading.Event(), threading.Event()
    said = iter([KeyboardInterrupt(), "yes"])

    def answer(ask: Ask) -> str:
        match next(said):
            case str(text):
                return text
            case stop:
                asked.set()
                assert go.wait(60)
                raise stop

    with KeptChat(ReplayChat(answer), file) as chat, ThreadPoolExecutor(2) as threads:
        first = threads.submit(chat, Ask("a"))
        assert asked.wait(60)
        second = threads.submit(chat, Ask("a"))
        assert waiting.wait(60)
        go.set()
        with pytest.raises(KeyboardInterrupt):
            first.result()
        assert second.result().text == "yes"


@settings(max_examples=25)
@given(st.data())
def test_wherever_the_end_was_torn_the_lines_before_it_are_whole(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kept.jsonl"
        keys = fill(file, "a", "b", "ü")
        content = file.read_bytes()
        ends = [index + 1 for index, byte in enumerate(content) if byte == ord("\n")]
        size = data.draw(st.integers(0, len(content)))
        torn = data.draw(st.sampled_from([b"", b"\0\0\0"]))
        file.write_bytes(content[:size] + (torn if size > len(HEADER) else b""))
        with Replies(file) as replies:
            # A line that lacks its last byte only is all there.
            whole = sum(end <= size or (end == size + 1 and not torn) for end in ends[1:])
            assert [key in replies for key in keys] == [place < whole for place in range(3)]
            replies.add("new", Reply("new", "m"))
        lines = file.read_bytes().splitlines(keepends=True)
        assert lines[0].decode() == HEADER
        assert b"".join(lines[1:-1]) == content[ends[0] : ends[whole]]
        assert json.loads(lines[-1])[0] == "new"


@pytest.mark.parametrize(
    "content",
    [
        b"\x89PNG\r\n\x1a\n",
        b"important",
        b"a,b\n1,2\n",
        b'{"image": "a.jpg"}\n',
        HEADER.encode()[:-1] + b" \n",
    ],
)
def test_a_file_of_something_else_is_left_as_it_is(file: Path, content: bytes) -> None:
    file.parent.mkdir()
    file.write_bytes(content)
    with pytest.raises(DataError, match="no file of kept replies"):
        Replies(file)
    assert file.read_bytes() == content


@pytest.mark.parametrize(
    "line",
    [
        "not json",
        "[]",
        '["key"]',
        '[5, {"text":"a","model":"m","usage":{}}]',
        '["key", {"text":5,"model":"m","usage":{}}]',
        '["key", {"text":"a","model":"m","usage":{},"mood":"good"}]',
        '["key", {"text":"a","model":"m"}]',
        "",
        "\0\0",
    ],
)
def test_a_damaged_line_in_the_middle_is_named_and_nothing_is_changed(file: Path, line: str) -> None:
    fill(file, "a", "b")
    lines = file.read_text().splitlines(keepends=True)
    damaged = "".join([*lines[:2], line + "\n", *lines[2:]])
    file.write_text(damaged)
    with pytest.raises(DataError, match="line 3 of"):
        Replies(file)
    assert file.read_text() == damaged


def test_two_do_not_write_into_one_file(file: Path) -> None:
    script = f"from taglens.language.chat_kept import Replies; Replies({str(file)!r})"
    with Replies(file) as replies:
        with pytest.raises(UsageError, match="in use by another run"):
            Replies(file)
        run = subprocess.run(
            [sys.executable, "-c", script], env=environment(), capture_output=True, text=True
        )
        assert "in use by another run" in run.stderr
        replies.add("one", Reply("a", "m"))
    subprocess.run([sys.executable, "-c", script], env=environment(), check=True)
    with pytest.raises(UsageError, match="closed"):
        replies.add("two", Reply("a", "m"))
    with pytest.raises(UsageError, match="closed"):
        replies.get("one")


@contextmanager
def a_full_disk(size: int) -> Iterator[None]:
    """Files of this process end at `size` bytes: a write that passes it is cut, and the next one fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_an_error_that_names_the_file_and_loses_no_earlier_line(file: Path) -> None:
    keys = fill(file, "a", "b")
    content = file.read_bytes()
    inner = Counted()
    with KeptChat(inner, file) as chat:
        with (
            a_full_disk(len(content) + 20),
            pytest.raises(OSError, match="2 kept before it are whole") as error,
        ):
            chat(Ask("c"))
        assert str(file) in str(error.value)
        assert file.read_bytes() == content
        # Whoever cannot keep answers pays for no more of them; kept ones are there.
        with pytest.raises(OSError, match="an earlier reply could not be kept"):
            chat(Ask("d"))
        assert inner.asked == ["c"]
        assert chat(Ask("b")).kept
    with KeptChat(inner, file) as chat:
        chat(Ask("d"))
        assert all(key in chat.replies for key in keys)


def test_an_interrupted_write_leaves_room_for_the_next_one(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    [key] = fill(file, "a")
    with Replies(file) as replies:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(os, "fsync", interrupted)
            replies.add("long", Reply("long" * 99, "m"))
        assert "long" not in replies
        replies.add("short", Reply("s", "m"))
    with Replies(file) as replies:
        assert [name in replies for name in (key, "long", "short")] == [True, False, True]


def test_a_write_that_fails_stops_many_questions_at_once(file: Path) -> None:
    fill(file, "a")
    inner = Counted()
    full = a_full_disk(file.stat().st_size + 20)
    with KeptChat(inner, file) as chat, full, pytest.raises(OSError, match="could not be kept"):
        list(ask_all(chat, (Ask(str(number)) for number in range(100)), at_once=4))
    assert len(inner.asked) <= 4


def environment() -> dict[str, str]:
    source = Path(taglens.__file__).resolve().parent.parent
    return {**os.environ, "PYTHONPATH": str(source)}


WORKER = """
import json, sys, urllib.request
from taglens.language.chat import Ask, Reply, ask_all
from taglens.language.chat_kept import KeptChat
url, file, count, at_once = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])

class Plain:
    model = "fake"
    def __call__(self, ask):
        body = json.dumps({"messages": [{"role": "user", "content": ask.text}]}).encode()
        with urllib.request.urlopen(url + "/chat/completions", body) as answer:
            return Reply(json.load(answer)["choices"][0]["message"]["content"], "fake")

with KeptChat(Plain(), file) as chat:
    for number, reply in enumerate(ask_all(chat, (Ask(f"q{n}") for n in range(count)), at_once=at_once)):
        assert isinstance(reply, Reply) and reply.text == f"q{number}", reply
        print(reply.text, flush=True)
"""


def test_a_killed_run_repeats_at_most_what_was_in_flight(tmp_path: Path) -> None:
    count, at_once, file = 60, 4, tmp_path / "kept.jsonl"
    command = [sys.executable, "-c", WORKER]
    with FakeChat(question, seconds=0.01) as fake:
        arguments = [fake.url, str(file), str(count), str(at_once)]
        killed = subprocess.Popen(
            [*command, *arguments], env=environment(), stdout=subprocess.PIPE, text=True
        )
        deadline = time.monotonic() + 60
        while fake.count < 23 and killed.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)
        killed.send_signal(signal.SIGKILL)
        given_out = len(killed.communicate()[0].splitlines())
        assert killed.returncode == -signal.SIGKILL
        before = fake.count
        with Replies(file) as replies:
            kept = len(replies)
            # Whatever was given out is on the disk, and so is all but what was in flight.
            assert all(Ask(f"q{number}").key("fake") in replies for number in range(given_out))
        assert before - at_once <= kept < count
        again = subprocess.run([*command, *arguments], env=environment(), capture_output=True, text=True)
        assert again.returncode == 0, again.stderr
        assert again.stdout.splitlines() == [f"q{number}" for number in range(count)]
        assert fake.count - before == count - kept
        assert fake.count <= count + at_once


def test_replays_go_by_text_by_function_and_by_file(file: Path) -> None:
    assert ReplayChat({"a": "b"})(Ask("a")) == Reply("b", "replay")
    given_one = Reply("b", "m", Usage(1))
    assert ReplayChat({"a": given_one})(Ask("a")) is given_one
    assert ReplayChat(lambda ask: ask.text.upper(), model="loud")(Ask("a")) == Reply("A", "loud")
    fill(file, "a")
    with Replies(file) as replies:
        replay = ReplayChat(replies, model="counted")
        assert replay.model == "counted"
        assert replay(Ask("a")).text == "answer to a"
        for other in (Ask("a", seed=1), Ask("b")):
            with pytest.raises(ChatError, match="no answer of 'counted'"):
                replay(other)
    with pytest.raises(ChatError, match="no answer of 'replay' is recorded for 'c'"):
        ReplayChat({"a": "b"})(Ask("c"))

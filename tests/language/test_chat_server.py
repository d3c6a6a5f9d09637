"""Asking a server that misbehaves in every way servers do."""

from __future__ import annotations

import base64
import json
import logging
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from fake_chat import FakeChat, Fault, completion, cut, question, raw, send, silent, status, whole
from taglens.errors import ChatError, MissingExtraError, UsageError
from taglens.language.chat import Ask, ChatPicture, Reply, Usage, ask_all
from taglens.language.chat_pace import Limits, Pace, Patience
from taglens.language.chat_server import ServerChat
from taglens.language.ledger import CountedChat, Ledger

SECRET = "sk-very-secret-0123456789"
QUICK = Patience(connect=5, read=5, retries=3, first_wait=0.001, longest_wait=0.5)
SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}}


def server(fake: FakeChat, **settings: Any) -> ServerChat:
    return ServerChat(fake.url, "fake", **{"patience": QUICK, **settings})


def test_a_question_goes_out_whole_and_its_pictures_before_its_text() -> None:
    pictures = (ChatPicture(b"\xff\xd8one"), ChatPicture(b"two", "image/png"))
    ask = Ask(
        "what?", system="be brief", pictures=pictures, schema=SCHEMA, max_tokens=7, temperature=0.5, seed=3
    )
    with FakeChat(lambda body: "a cat") as fake, server(fake) as chat:
        reply = chat(ask)
    [body] = fake.requests
    assert (body["model"], body["max_tokens"], body["temperature"], body["seed"]) == ("fake", 7, 0.5, 3)
    assert body["response_format"]["json_schema"]["schema"] == SCHEMA
    system, user = body["messages"]
    assert system == {"role": "system", "content": "be brief"}
    *sent, text = user["content"]
    assert text == {"type": "text", "text": "what?"}
    urls = [part["image_url"]["url"] for part in sent]
    assert urls == [
        f"data:{each.media_type};base64,{base64.b64encode(each.data).decode()}" for each in pictures
    ]
    assert (reply.text, reply.model, reply.usage) == ("a cat", "fake", Usage(100, 2))
    assert reply.seconds > 0
    assert not (reply.refused or reply.cut or reply.kept or reply.retries)


def test_a_question_without_pictures_is_a_plain_string() -> None:
    with FakeChat() as fake, server(fake) as chat:
        chat(Ask("what?"))
    [body] = fake.requests
    assert body["messages"] == [{"role": "user", "content": "what?"}]
    assert body["temperature"] == 0
    assert not {"seed", "response_format"} & body.keys()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (completion(None), ("", False, False)),
        (completion(""), ("", False, False)),
        (completion("half of", finish="length"), ("half of", False, True)),
        (completion(None, refusal="I will not"), ("I will not", True, False)),
        (completion("", finish="content_filter"), ("", True, False)),
        (completion(None, finish="length"), ("", False, True)),
        ({**completion("x"), "choices": [{"message": {"content": "bare"}}]}, ("bare", False, False)),
        (
            {
                **completion("x"),
                "choices": [{"message": {"content": [{"type": "text", "text": p} for p in "ab"]}}],
            },
            ("ab", False, False),
        ),
    ],
)
def test_what_answers_can_look_like(answer: dict[str, Any], expected: tuple[str, bool, bool]) -> None:
    with FakeChat(lambda body: answer) as fake, server(fake) as chat:
        reply = chat(Ask("a"))
    assert (reply.text, reply.refused, reply.cut) == expected
    assert fake.count == 1


@pytest.mark.parametrize(
    ("sent", "usage"),
    [
        (None, Usage()),
        ({}, Usage()),
        ({"prompt_tokens": 5, "completion_tokens": 2}, Usage(5, 2)),
        ({"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": None}, Usage(5, 2)),
        (
            {"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}},
            Usage(5, 2, 4),
        ),
        (
            {"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 6}},
            Usage(),
        ),
        ({"prompt_tokens": "5", "completion_tokens": 2}, Usage()),
        ({"prompt_tokens": 5, "completion_tokens": -1}, Usage()),
        ({"prompt_tokens": True, "completion_tokens": 1}, Usage()),
        ("many", Usage()),
    ],
)
def test_usage_is_read_or_unknown(sent: object, usage: Usage) -> None:
    with FakeChat(lambda body: completion("a", usage=sent)) as fake, server(fake) as chat:
        assert chat(Ask("a")).usage == usage


PASSING = [
    cut,
    silent,
    status(408),
    status(409),
    status(429),
    status(429, retry_after="0.01"),
    status(500),
    status(503, retry_after="0"),
    raw(b"<html><body>down</body></html>", kind="text/html", code=502),
    raw(b"<html><body>hello</body></html>", kind="text/html"),
    raw(b'{"choices": [{"mess'),
    raw(b""),
    raw(b"\xff\xfe\x00 not text"),
    raw(b"[1, 2]"),
    whole({"choices": []}),
    whole({"choices": [{"message": None}]}),
    whole({"choices": [{"message": {"content": 5}}]}),
    whole({"choices": [{"message": {"content": [{"type": "image"}]}}]}),
    whole({"error": {"message": "overloaded"}}),
    raw(b"[" * 100_000),
]


@pytest.mark.parametrize("fault", PASSING)
def test_what_passes_is_tried_again_and_counted(fault: Fault) -> None:
    ledger = Ledger()
    with FakeChat(faults=[fault, fault]) as fake, server(fake) as chat:
        reply = CountedChat(chat, ledger)(Ask("a"))
    assert (reply.text, reply.retries, fake.count) == ("yes", 2, 3)
    assert (ledger.totals.queries, ledger.totals.retries) == (1, 2)


@pytest.mark.parametrize("fault", PASSING)
def test_what_does_not_pass_is_given_up_after_so_many_attempts(fault: Fault) -> None:
    ledger = Ledger()
    with FakeChat(always=fault) as fake, server(fake) as chat:
        with pytest.raises(ChatError, match="after 4 attempts") as error:
            CountedChat(chat, ledger)(Ask("a"))
        assert fake.url in str(error.value)
    assert (fake.count, error.value.retries) == (4, 3)
    assert (ledger.totals.failed, ledger.totals.retries) == (1, 3)


@pytest.mark.parametrize(
    ("fault", "code", "cure"),
    [
        (status(400, "too long a prompt"), 400, "too long a prompt"),
        (status(401, "bad key"), 401, "key_variable"),
        (status(403), 403, "key_variable"),
        (status(404, "no such model"), 404, "it has fake"),
        (status(413), 413, "smaller pictures"),
        (raw(b'{"error": {"message": "odd", "code": ["a"]}}', code=400), 400, "odd"),
        (raw(b'{"error": "a plain text"}', code=400), 400, "a plain text"),
        (raw(b'["odd"]', code=400), 400, "odd"),
        (status(422, "what is seed?"), 422, "what is seed"),
        (status(307, location="http://elsewhere/v1"), 307, "http://elsewhere/v1"),
        (status(429, "pay first", error_code="insufficient_quota"), 429, "no money"),
        (status(429, retry_after="3600"), 429, "3,600 s"),
        (raw(b"<html>what?</html>", kind="text/html", code=400), 400, "<html>what"),
    ],
)
def test_what_cannot_get_better_is_not_tried_again(fault: Fault, code: int, cure: str) -> None:
    with FakeChat(always=fault) as fake, server(fake) as chat, pytest.raises(ChatError) as error:
        chat(Ask("a"))
    assert cure in str(error.value)
    assert (error.value.status, error.value.retries, fake.count) == (code, 0, 1)


def test_a_server_that_says_nothing_is_given_up_in_time() -> None:
    patience = Patience(connect=5, read=0.1, retries=1, first_wait=0.001)
    with FakeChat() as fake, server(fake, patience=patience) as chat:
        fake.faults.extend([fake.hang, fake.hang])
        with pytest.raises(ChatError, match=r"no answer in time \(connect 5 s, read 0.1 s\)"):
            chat(Ask("a"))
        assert fake.count == 2
        assert chat(Ask("a")).text == "yes"


def test_a_server_that_is_not_there_is_said_to_be() -> None:
    with FakeChat() as fake:
        url = fake.url
    with ServerChat(url, "fake", patience=QUICK) as chat:
        with pytest.raises(ChatError, match="check that it runs at this address"):
            chat(Ask("a"))
        with pytest.raises(ChatError, match="could not be reached"):
            chat.check()


def test_a_wait_that_the_server_asks_for_is_kept_by_all_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    held = threading.Event()
    hold = Pace.hold

    def hold_and_tell(pace: Pace, seconds: float) -> None:
        hold(pace, seconds)
        held.set()

    monkeypatch.setattr(Pace, "hold", hold_and_tell)
    answered: list[float] = []

    def answer(body: dict[str, Any]) -> str:
        answered.append(time.monotonic())
        return "yes"

    fake = FakeChat(answer, faults=[status(429, retry_after="0.3")])
    with fake, server(fake) as chat, ThreadPoolExecutor(2) as threads:
        began = time.monotonic()
        first = threads.submit(chat, Ask("a"))
        assert held.wait(60)
        second = threads.submit(chat, Ask("b"))  # which the server has told nothing
        assert (first.result().retries, second.result().retries) == (1, 0)
    assert min(answered) - began >= 0.3  # a lower bound: no machine is too slow for it


def test_threads_share_one_rate() -> None:
    limits = Limits(requests_per_minute=60 / 0.05)
    with FakeChat() as fake, server(fake, limits=limits) as chat:
        began = time.monotonic()
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(chat, [Ask(str(number)) for number in range(5)]))
        assert time.monotonic() - began >= 4 * 0.05


def refuse_schemas(handler: Any, body: dict[str, Any]) -> None:
    if "response_format" in body:
        status(400, "response_format is not supported")(handler, body)
    else:
        send(handler, json.dumps(completion("plain")).encode())


def test_a_server_without_structured_output_is_asked_for_it_once() -> None:
    with FakeChat(always=refuse_schemas) as fake, server(fake) as chat:
        assert chat.structured
        replies = [chat(Ask(str(number), schema=SCHEMA)) for number in range(4)]
        assert not chat.structured
    assert [reply.retries for reply in replies] == [1, 0, 0, 0]
    assert ["response_format" in body for body in fake.requests] == [True, False, False, False, False]


def test_a_bad_question_with_a_schema_does_not_end_structured_output() -> None:
    """What is refused without the schema as well was not refused because of it."""
    with FakeChat(faults=[status(400, "too long")] * 2) as fake, server(fake) as chat:
        with pytest.raises(ChatError, match="too long"):
            chat(Ask("a", schema=SCHEMA))
        assert chat.structured
        chat(Ask("b", schema=SCHEMA))
    assert "response_format" in fake.requests[-1]


def test_a_model_that_wants_its_limit_under_another_name_gets_it() -> None:
    def choosy(handler: Any, body: dict[str, Any]) -> None:
        if "max_tokens" in body:
            message = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
            status(400, message)(handler, body)
        else:
            refuse_schemas(handler, body)

    with FakeChat(always=choosy) as fake, server(fake) as chat:
        assert chat(Ask("a", schema=SCHEMA, max_tokens=5)).retries == 2
        assert chat(Ask("b", schema=SCHEMA, max_tokens=5)).retries == 0
    assert fake.requests[-1]["max_completion_tokens"] == 5


def test_extra_fields_are_sent_and_part_of_the_name() -> None:
    with FakeChat() as fake:
        with server(fake, extra={"temperature": None, "reasoning_effort": "low"}) as chat:
            chat(Ask("a"))
            assert chat.model == 'fake {"reasoning_effort":"low","temperature":null}'
        with server(fake) as plain:
            assert Ask("a").key(plain.model) != Ask("a").key(chat.model)
    [body] = fake.requests
    assert "temperature" not in body
    assert (body["reasoning_effort"], body["model"]) == ("low", "fake")


def test_a_filter_before_the_model_is_a_refusal() -> None:
    fault = status(400, "the prompt was filtered", error_code="content_filter")
    with FakeChat(always=fault) as fake, server(fake) as chat:
        reply = chat(Ask("a", schema=SCHEMA))
    assert (reply.refused, reply.text, fake.count) == (True, "the prompt was filtered", 1)


def test_models_are_listed_and_a_wrong_name_is_named_with_ten_of_them() -> None:
    names = tuple(f"model-{number:02d}" for number in range(13))
    with FakeChat(names=names) as fake, server(fake) as chat:
        assert chat.models() == names
        with pytest.raises(
            ChatError, match=r"no model 'fake'; it has model-00.*model-09 and 3 more"
        ) as error:
            chat.check()
        assert "model-10" not in str(error.value)
    with FakeChat() as fake, server(fake) as chat:
        chat.check()
    assert fake.count == 0


def test_a_key_goes_where_it_was_named_for_and_nowhere_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.setenv("OPENAI_ORG_ID", "our-org")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "our-project")
    with FakeChat() as fake, server(fake) as chat:
        chat(Ask("a"))
        chat.check()
    assert SECRET not in str(fake.headers)
    assert not {"authorization", "openai-organization", "openai-project"} & fake.headers[0].keys()

    monkeypatch.setenv("MY_KEY", SECRET)
    caplog.set_level(logging.DEBUG)
    echo = raw(json.dumps({"error": {"message": f"{'x' * 190} {SECRET} is wrong"}}).encode(), code=400)
    deny = status(401, f"Incorrect API key provided: {SECRET[:8]}***{SECRET[-4:]}")
    repeated = whole(completion(f"your key is {SECRET}"))
    with FakeChat(faults=[echo, deny, repeated]) as fake, server(fake, key_variable="MY_KEY") as chat:
        said = [repr(chat)]
        for _ in range(2):
            with pytest.raises(ChatError) as error:
                chat(Ask("a"))
            said += [str(error.value), repr(error.getrepr(style="long", chain=True))]
        said += [repr(chat(Ask("a"))), caplog.text]
    assert fake.headers[0]["authorization"] == f"Bearer {SECRET}"
    assert "MY_KEY" in said[3]
    for text in said:
        assert SECRET not in text
        assert SECRET[-4:] not in text
    assert SECRET[:6] not in said[1]


def test_a_key_in_the_place_that_a_server_points_to_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", SECRET)
    moved = status(302, location=f"https://other.example/v1?key={SECRET}")
    with FakeChat(faults=[moved]) as fake, server(fake, key_variable="MY_KEY") as chat:
        with pytest.raises(ChatError, match=r"other\.example/v1\?key=\[key\]") as error:
            chat(Ask("a"))
        assert SECRET not in str(error.value)


def test_a_word_for_a_key_takes_nothing_from_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "x")
    with FakeChat(lambda _: "box") as fake, server(fake, key_variable="MY_KEY") as chat:
        assert chat(Ask("a")).text == "box"


def test_the_key_of_openai_is_for_openai(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(UsageError, match="OPENAI_API_KEY holds no key"):
        ServerChat("https://api.openai.com/v1", "m")
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    with ServerChat("https://api.openai.com/v1", "m") as chat:
        assert SECRET not in repr(chat)


@pytest.mark.parametrize("value", ["", "  ", "two words", "line\nbreak", "clé"])
def test_what_is_no_key_is_refused_without_repeating_it(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("MY_KEY", value)
    with pytest.raises(UsageError, match="MY_KEY") as error:
        ServerChat("http://127.0.0.1:9/v1", "m", key_variable="MY_KEY")
    assert not value.strip() or value not in str(error.value)


@pytest.mark.parametrize(
    ("url", "cure"),
    [
        ("http://me:hunter2@host/v1", "key_variable"),
        ("http://hunter2@host/v1", "key_variable"),
        ("https://host/v1?key=hunter2", "key_variable"),
        ("https://host/v1#hunter2", "before"),
        ("http://host:hunter2/v1", "cannot be read"),
        ("ftp://host/v1", "http://"),
        ("file:///etc/passwd", "http://"),
        ("host:8000/v1", "http://"),
        ("http:///v1", "http://"),
        ("http://a..b/v1", "cannot be read"),
        ("http://a b/v1", "cannot be read"),
        ("http://a\nb/v1", "cannot be read"),
        ("", "http://"),
    ],
)
def test_addresses_that_cannot_be_asked_are_refused(url: str, cure: str) -> None:
    with pytest.raises(UsageError, match=cure) as error:
        ServerChat(url, "m")
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize("extra", [{"stream": True}, {"messages": []}, {"model": None}, {"top_p": object()}])
def test_extra_fields_are_not_the_question_itself(extra: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="extra settings"):
        ServerChat("http://127.0.0.1:9/v1", "m", extra=extra)


def test_a_model_needs_a_name() -> None:
    with pytest.raises(UsageError, match="name of a model"):
        ServerChat("http://127.0.0.1:9/v1", " ")


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(MissingExtraError, match=r"taglens\[llm\]"):
        ServerChat("http://127.0.0.1:9/v1", "m")


def test_a_proxy_does_not_see_what_goes_to_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    with FakeChat() as fake, server(fake) as chat:
        assert chat(Ask("a")).text == "yes"


@pytest.mark.parametrize("slow", [{"first_wait": 600, "longest_wait": 1200}, {}])
def test_closing_ends_every_wait(slow: dict[str, float]) -> None:
    """That before another attempt, and that for a turn."""
    limits = None if slow else Limits(requests_per_minute=0.001)
    arrived = threading.Event()

    def refuse(handler: Any, body: dict[str, Any]) -> None:
        status(500)(handler, body)
        arrived.set()

    with FakeChat(always=refuse) as fake, server(fake, patience=Patience(**slow), limits=limits) as chat:
        with ThreadPoolExecutor(2) as threads:
            asked = [threads.submit(chat, Ask(text)) for text in "ab"]
            assert arrived.wait(60)
            chat.close()
            for one in asked:
                with pytest.raises(ChatError, match=r"closed|answered 500"):
                    one.result(timeout=60)
        with pytest.raises(ChatError, match="closed"):
            chat(Ask("c"))
        with pytest.raises(ChatError, match="closed"):
            chat.models()


def test_cutting_ends_what_is_in_flight_and_what_comes_later() -> None:
    """A server that never answers holds nobody up; an answer that comes in time is had."""
    with FakeChat() as fake, server(fake, patience=Patience(read=600)) as chat:
        fake.faults.extend([fake.hang] * 2)
        with ThreadPoolExecutor(2) as threads:
            asked = [threads.submit(chat, Ask(text)) for text in "ab"]
            while fake.count < 2:
                time.sleep(0.005)
            chat.cut(after=0.01)
            for one in asked:
                with pytest.raises(ChatError, match="closed"):
                    one.result(timeout=20)
        assert not fake.ending.is_set()
        with pytest.raises(ChatError, match="closed"):
            chat(Ask("c"))
    with FakeChat(seconds=0.2) as fake, server(fake) as chat, ThreadPoolExecutor(1) as threads:
        slow = threads.submit(chat, Ask("a"))
        while not fake.count:
            time.sleep(0.005)
        chat.cut(after=20)
        assert slow.result(timeout=20).text == "yes"


def test_a_server_that_lists_no_models_is_not_waited_for_as_long_as_for_an_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("taglens.language.chat_server._LISTING", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"http://127.0.0.1:{mute.getsockname()[1]}/v1"
        chat = ServerChat(url, "m", patience=Patience(read=600))
        with chat, pytest.raises(ChatError, match=r"no answer in time .*read 0.05 s"):
            chat.models()


def test_many_threads_ask_together_and_nothing_gets_mixed_up() -> None:
    asks = [Ask(f"question {number}") for number in range(40)]
    with FakeChat(question, seconds=0.005) as fake, server(fake) as chat:
        replies = list(ask_all(chat, asks, at_once=8))
    assert [reply.text for reply in replies if isinstance(reply, Reply)] == [ask.text for ask in asks]
    assert fake.most_at_once <= 8

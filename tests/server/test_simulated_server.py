"""The simulated annotator over HTTP: the protocol's good days and its errors."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from population import NAMES, truth
from test_simulated_truth import encoded, scene

from taglens import images
from taglens.errors import ChatError, UsageError
from taglens.language.annotation_prompts import (
    Concept,
    open_ended,
    read_names,
    read_yes_no,
    several,
    several_schema,
    yes_no,
)
from taglens.language.chat import Ask, ChatPicture
from taglens.language.chat_server import ServerChat
from taglens.server.simulated import MODEL, SimulatedServer, cut, picture_tokens, text_tokens
from taglens.server.simulated_answers import Annotator, Faults
from taglens.server.simulated_truth import SIDE, Truth

PICTURES = 8
DATA = [encoded(scene(number), scale=0.8) for number in range(PICTURES)]  # 128 x 96


@pytest.fixture(scope="module")
def known() -> Truth:
    invented = truth(pictures=PICTURES)
    rows = [
        (name, images.squash(scene(number), SIDE), np.flatnonzero(invented.true[number]).tolist())
        for number, name in enumerate(invented.images)
    ]
    return Truth(invented.vocabulary, rows)


@pytest.fixture
def server(known: Truth) -> Iterator[SimulatedServer]:
    with SimulatedServer(Annotator(known, seed=5), max_bytes=200_000) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def call(server: SimulatedServer, method: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
    place = urlsplit(server.url)
    connection = http.client.HTTPConnection(str(place.hostname), place.port, timeout=20)
    connection.request(method, path, body)
    reply = connection.getresponse()
    content = json.loads(reply.read())
    connection.close()
    return reply.status, content


def body(text: str, *pictures: bytes, **others: Any) -> dict[str, Any]:
    urls = [f"data:image/jpeg;base64,{base64.b64encode(data).decode()}" for data in pictures]
    parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    user = {"role": "user", "content": [*parts, {"type": "text", "text": text}]}
    return {
        "model": MODEL,
        "temperature": 0,
        "messages": [{"role": "system", "content": "Be brief."}, user],
        **others,
    }


def ask(server: SimulatedServer, row: Any) -> tuple[int, Any]:
    return call(server, "POST", "/v1/chat/completions", json.dumps(row).encode())


def content(server: SimulatedServer, row: Any) -> Any:
    status, reply = ask(server, row)
    assert status == 200, reply
    return reply["choices"][0]["message"]["content"]


def test_it_stays_on_this_machine_unless_told(server: SimulatedServer) -> None:
    assert server.url.startswith("http://127.0.0.1:")
    with pytest.raises(UsageError, match=f":{server.server_port}.*--port"):
        SimulatedServer(server.annotator, port=server.server_port)
    for wrong in ({"port": 70000}, {"delay": -1.0}):
        with pytest.raises(UsageError):
            SimulatedServer(server.annotator, **wrong)  # type: ignore[arg-type]


def test_every_kind_of_question_is_answered_for_its_picture(server: SimulatedServer) -> None:
    said = server.annotator
    for row, data in enumerate(DATA):
        listed = read_names(content(server, body(several(NAMES[:16]), data)), NAMES[:16])
        assert listed.names == said.present(row, NAMES[:16])
        held = {
            "type": "json_schema",
            "json_schema": {"name": "a", "strict": True, "schema": several_schema(NAMES)},
        }
        told = content(server, body(several(NAMES), data, response_format=held))
        assert tuple(json.loads(told)["present"]) == said.present(row, NAMES)
        assert read_yes_no(content(server, body(yes_no(NAMES[0]), data))) is said.says_yes(row, NAMES[0])
        aligned = yes_no(NAMES[0], Concept("thing", phrases=("a red one",)))
        assert read_yes_no(content(server, body(aligned, data))) is said.says_yes(row, NAMES[0], aligned=True)
        assert content(server, body(open_ended(), data)) == ("\n".join(said.free(row)) or "NO")


def test_counts_tell_what_was_asked_and_tokens_follow_the_rule(server: SimulatedServer) -> None:
    question = several(NAMES[:5])
    _, first = ask(server, body(question, DATA[0]))
    _, again = ask(server, body(yes_no(NAMES[0]), DATA[0]))
    ask(server, body(open_ended(), DATA[1]))
    ask(server, {"model": MODEL})
    picture = picture_tokens(128, 96)
    assert picture == 5 * 4
    assert first["usage"]["prompt_tokens"] == picture + text_tokens("Be brief.") + text_tokens(question)
    assert first["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}
    assert again["usage"]["prompt_tokens_details"] == {"cached_tokens": picture + text_tokens("Be brief.")}
    assert again["usage"]["completion_tokens"] == text_tokens("yes") == 2
    assert first["model"] == MODEL and first["choices"][0]["finish_reason"] == "stop"
    status, counts = call(server, "GET", "/counts")
    assert status == 200 and counts["simulated"] is True
    assert counts["requests"] == {"total": 4, "open": 1, "several": 1, "yes_no": 1, "rejected": 1}
    assert counts["pictures"] == 2 and counts["names"] == 6
    assert counts["tokens"]["cached"] == picture + text_tokens("Be brief.")
    assert counts["truth"] == {"pictures": PICTURES, "names": len(NAMES), "complete": False}


def test_models_are_listed(server: SimulatedServer) -> None:
    status, row = call(server, "GET", "/v1/models")
    assert status == 200 and [model["id"] for model in row["data"]] == [MODEL]


def test_repeats_agree_at_temperature_0_and_seeds_decide_above(known: Truth, server: SimulatedServer) -> None:
    server.annotator = Annotator(known, faults=Faults(refuse=0.5))

    def said(**others: Any) -> list[Any]:
        return [content(server, body(several(NAMES), data, **others)) for data in DATA]

    cold = said()
    assert said() == cold
    warm = [said(temperature=1.0, seed=seed) for seed in (1, 1, 2)]
    assert warm[0] == warm[1] != warm[2]
    assert len({tuple(said(temperature=0.7)) for _ in range(3)}) == 3, "without a seed no answer comes twice"


def test_refusals_and_cuts_stand_where_clients_look(known: Truth, server: SimulatedServer) -> None:
    question = several(NAMES)
    held = {"type": "json_schema", "json_schema": {"name": "a", "schema": several_schema(NAMES)}}
    server.annotator = Annotator(known, faults=Faults(refuse=1.0))
    _, reply = ask(server, body(question, DATA[0], response_format=held))
    message = reply["choices"][0]["message"]
    assert message["content"] is None and message["refusal"]
    said = content(server, body(question, DATA[0]))
    assert "can't help" in said or "cannot answer" in said
    server.annotator = Annotator(known)
    _, reply = ask(server, body(question, DATA[0], max_tokens=4))
    whole = content(server, body(question, DATA[0]))
    assert reply["choices"][0]["finish_reason"] == "length"
    assert reply["choices"][0]["message"]["content"] == " ".join(whole.split()[:3])
    assert call(server, "GET", "/counts")[1]["answers"] == {
        "refused": 2,
        "off_list": 0,
        "broken": 0,
        "cut": 1,
    }


def test_a_server_without_schemas_refuses_them_and_answers_in_lines(server: SimulatedServer) -> None:
    server.structured = False
    held = {"type": "json_schema", "json_schema": {"name": "a", "schema": several_schema(NAMES)}}
    status, reply = ask(server, body(several(NAMES), DATA[0], response_format=held))
    assert status == 400 and "response_format" in reply["error"]["message"]
    assert read_names(content(server, body(several(NAMES), DATA[0])), NAMES).names


def test_our_own_client_and_it_understand_each_other(known: Truth, server: SimulatedServer) -> None:
    pytest.importorskip("openai", reason="pip install 'taglens[llm]'")
    question = Ask(several(NAMES), "Be brief.", (ChatPicture(DATA[0]),), schema=several_schema(NAMES))
    with ServerChat(server.url, MODEL) as chat:
        assert chat.models() == (MODEL,)
        first, again = chat(question), chat(replace(question, text=yes_no(NAMES[0]), schema=None))
        assert read_names(first.text, NAMES).names == server.annotator.present(0, NAMES)
        assert read_yes_no(again.text) is server.annotator.says_yes(0, NAMES[0])
        assert first.usage.cached_tokens == 0 < again.usage.cached_tokens < again.usage.prompt_tokens
        server.annotator = Annotator(known, faults=Faults(refuse=1.0))
        assert chat(question).refused
        with pytest.raises(ChatError, match="unknown picture"):
            chat(Ask(open_ended(), pictures=(ChatPicture(encoded(scene(77))),)))
    server.structured = False
    with ServerChat(server.url, MODEL) as chat:
        assert "cannot" in chat(question).text or "can't" in chat(question).text


def test_many_at_once_are_answered_as_one_by_one(server: SimulatedServer) -> None:
    rows = [body(several(NAMES), data) for data in DATA] * 4
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(lambda row: content(server, row), rows))
    assert together == [content(server, row) for row in rows]


GOOD = body(several(["red thing a"]), DATA[0])
USER = GOOD["messages"][1]["content"]
BAD: dict[str, tuple[Any, int, str]] = {
    "no object": ([], 400, "messages"),
    "no messages": ({"model": MODEL}, 400, "messages"),
    "another model": ({**GOOD, "model": "gpt"}, 404, "gpt"),
    "no model": ({"messages": GOOD["messages"]}, 404, "None"),
    "a stream": ({**GOOD, "stream": True}, 400, "stream"),
    "an assistant": ({**GOOD, "messages": [{"role": "assistant", "content": "yes"}]}, 400, "assistant"),
    "a message of text": ({**GOOD, "messages": ["hello"]}, 400, "role"),
    "no content": ({**GOOD, "messages": [{"role": "user"}]}, 400, "content"),
    "sound": (
        {**GOOD, "messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
        400,
        "input_audio",
    ),
    "an address": (
        {
            **GOOD,
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://a/b"}}]}
            ],
        },
        400,
        "data URL",
    ),
    "no base64": (
        {
            **GOOD,
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,%"}}],
                }
            ],
        },
        400,
        "base64",
    ),
    "half a character": (
        {**GOOD, "messages": [{"role": "system", "content": "\ud800"}, *GOOD["messages"]]},
        200,
        "",
    ),
    "a text that is no question": (body("What is this?", DATA[0]), 400, "not a question"),
    "no picture": (body(open_ended()), 400, "found 0"),
    "two pictures": (body(open_ended(), DATA[0], DATA[1]), 400, "found 2"),
    "an unknown picture": (body(open_ended(), encoded(scene(77))), 400, "unknown picture"),
    "a broken picture": (body(open_ended(), DATA[0][:500]), 400, "cannot read the picture"),
    "no schema": ({**GOOD, "response_format": {"type": "json_object"}}, 400, "json_schema"),
    "a schema of numbers": (
        {**GOOD, "response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "number"}}}},
        400,
        "schema",
    ),
    "a temperature of words": ({**GOOD, "temperature": "hot"}, 400, "temperature"),
    "a temperature below 0": ({**GOOD, "temperature": -1}, 400, "temperature"),
    "no temperature": ({**GOOD, "temperature": float("nan")}, 400, "temperature"),
    "half a token": ({**GOOD, "max_tokens": 1.5}, 400, "max_tokens"),
    "too much": ({**GOOD, "more": "x" * 250_000}, 413, "200,000"),
}


@pytest.mark.parametrize(("row", "status", "named"), BAD.values(), ids=BAD)
def test_a_bad_request_gets_a_status_and_an_error_object(
    server: SimulatedServer, row: Any, status: int, named: str
) -> None:
    found, reply = ask(server, row)
    assert found == status
    if status != 200:
        assert named in reply["error"]["message"]
        assert reply["error"]["type"] == "invalid_request_error"
        assert call(server, "GET", "/counts")[1]["requests"]["rejected"] == 1


@pytest.mark.parametrize(
    ("method", "path", "sent", "status"),
    [
        ("POST", "/v1/chat/completions", b"{", 400),
        ("POST", "/v1/chat/completions", b"\xff", 400),
        ("POST", "/v1/chat/completions", b"[" * 100_000, 400),
        ("POST", "/v1/completions", b"{}", 404),
        ("GET", "/", None, 404),
        ("GET", "/v1/chat/completions", None, 405),
        ("POST", "/counts", b"{}", 405),
        ("PUT", "/counts", b"{}", 501),
    ],
)
def test_other_requests_are_errors_too(
    server: SimulatedServer, method: str, path: str, sent: bytes | None, status: int
) -> None:
    found, reply = call(server, method, path, sent)
    assert found == status and reply["error"]["message"]


@pytest.mark.parametrize("length", [None, "many", "-1", "9" * 5000])
def test_a_body_without_a_length_is_refused(server: SimulatedServer, length: str | None) -> None:
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=20) as line:
        header = "" if length is None else f"Content-Length: {length}\r\n"
        line.sendall(f"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n{header}\r\n".encode())
        reply = line.makefile("rb").read()
    assert reply.startswith((b"HTTP/1.1 411", b"HTTP/1.1 413")) and b'"error"' in reply


def test_a_connection_serves_many_requests(server: SimulatedServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    for path, status in (("/counts", 200), ("/nothing", 404), ("/v1/models", 200)):
        connection.request("GET", path)
        reply = connection.getresponse()
        assert reply.status == status
        reply.read()
    connection.close()


def test_a_cut_keeps_whole_words() -> None:
    assert cut("a b c", None) == ("a b c", False)
    assert cut("a b c", 4) == ("a b c", False)
    assert cut("a b c", 3) == ("a b", True)
    assert cut("a", 0) == ("", True)

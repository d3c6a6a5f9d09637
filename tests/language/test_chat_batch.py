"""Questions that go into files, and their answers that come back out of others."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fake_chat import completion
from taglens.errors import DataError, UsageError
from taglens.language.chat import Ask, ChatPicture, Reply, Usage
from taglens.language.chat_batch import BatchRead, read_batch, write_batch
from taglens.language.chat_kept import KeptChat, ReplayChat, Replies
from taglens.language.chat_wire import model_label

ASKS = [Ask(f"question {number}", pictures=(ChatPicture(b"picture"),)) for number in range(7)]


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def result(key: str, body: object, *, status: int = 200, error: object = None) -> str:
    response = {"status_code": status, "request_id": "r", "body": body}
    return json.dumps({"id": "b", "custom_id": key, "response": response, "error": error}) + "\n"


def nobody(ask: Ask) -> str:
    raise AssertionError(f"{ask.text} was asked live")


def test_questions_go_out_and_answers_come_back_as_kept_ones(tmp_path: Path) -> None:
    written = write_batch(ASKS, tmp_path / "batch", model="m")
    assert (written.requests, written.kept, written.repeated) == (7, 0, 0)
    [file] = written.files
    requests = lines(file)
    assert {(each["method"], each["url"], each["body"]["model"]) for each in requests} == {
        ("POST", "/v1/chat/completions", "m")
    }
    assert [each["custom_id"] for each in requests] == [ask.key("m") for ask in ASKS]
    said = [
        result(each["custom_id"], completion(each["body"]["messages"][-1]["content"][-1]["text"] + "!"))
        for each in reversed(requests)
    ]
    results = tmp_path / "results.jsonl"
    results.write_text("".join(said))
    with Replies(tmp_path / "kept.jsonl") as replies:
        assert read_batch(results, replies, model="m") == BatchRead(7, 0, ())
        assert read_batch(results, replies, model="m") == BatchRead(0, 7, ())
        chat = KeptChat(ReplayChat(nobody, model="m"), replies)
        assert [chat(ask).text for ask in ASKS] == [f"question {number}!" for number in range(7)]
        assert chat(ASKS[0]).usage == Usage(100, 2)
        # The next batch asks for nothing that is there.
        more = write_batch([*ASKS, Ask("new"), Ask("new")], tmp_path / "more", model="m", kept=replies)
        assert (more.requests, more.kept, more.repeated) == (1, 7, 1)


def test_extra_settings_are_part_of_the_key_and_of_the_request(tmp_path: Path) -> None:
    extra = {"temperature": None, "top_p": 0.5}
    [file] = write_batch(ASKS[:1], tmp_path, model="m", extra=extra, structured=False).files
    [request] = lines(file)
    assert request["custom_id"] == ASKS[0].key(model_label("m", extra)) != ASKS[0].key("m")
    assert request["body"]["top_p"] == 0.5
    assert "temperature" not in request["body"]


@pytest.mark.parametrize("limits", [{"most_requests": 3}, {"most_bytes": 1000}])
def test_files_stay_within_their_limits_and_lose_nothing(tmp_path: Path, limits: dict[str, int]) -> None:
    written = write_batch(ASKS, tmp_path, model="m", **limits)
    assert len(written.files) > 2
    assert [file.name for file in written.files] == sorted(file.name for file in tmp_path.iterdir())
    assert all(len(lines(file)) <= limits.get("most_requests", 99) for file in written.files)
    assert all(file.stat().st_size <= limits.get("most_bytes", 10**9) for file in written.files)
    keys = [each["custom_id"] for file in written.files for each in lines(file)]
    assert keys == [ask.key("m") for ask in ASKS]


def test_a_batch_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    def questions() -> Iterator[Ask]:
        yield from ASKS
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        write_batch(questions(), tmp_path, model="m", most_requests=2)
    with pytest.raises(UsageError, match="smaller pictures"):
        write_batch(ASKS, tmp_path, model="m", most_bytes=100)
    assert list(tmp_path.iterdir()) == []


def test_batches_do_not_mix(tmp_path: Path) -> None:
    write_batch(ASKS, tmp_path, model="m")
    with pytest.raises(UsageError, match="holds a batch already"):
        write_batch(ASKS, tmp_path, model="m")
    with pytest.raises(UsageError, match="at least 1"):
        write_batch(ASKS, tmp_path / "other", model="m", most_requests=0)


def test_what_failed_is_said_and_refusals_are_answers(tmp_path: Path) -> None:
    keys = [ask.key("m") for ask in ASKS]
    (tmp_path / "results.jsonl").write_text(
        result(keys[0], {"error": {"message": "too long"}}, status=400)
        + result(keys[1], {"error": {"message": "filtered", "code": "content_filter"}}, status=400)
        + result(keys[2], {"choices": []})
        + json.dumps({"custom_id": keys[3], "response": None, "error": {"message": "expired"}})
        + "\n\n"
        + result(keys[4], completion(None, refusal="never"))
        + result(keys[5], None, status=500)
    )
    with Replies(tmp_path / "kept.jsonl") as replies:
        read = read_batch(tmp_path / "results.jsonl", replies, model="m")
        assert [key for key, _ in read.failed] == [keys[0], keys[2], keys[3], keys[5]]
        assert "status 400: 'too long'" in read.failed[0][1]
        assert "choices" in read.failed[1][1]
        assert read.failed[2][1] == "expired"
        assert replies.get(keys[1]) == Reply("filtered", "m", refused=True, kept=True)
        assert (replies.get(keys[4]) or Reply("", "")).refused
        assert read.replies == len(replies) == 2


@pytest.mark.parametrize(
    "line",
    [
        "half of",
        "[]",
        '{"custom_id": "mine", "response": {}}',
        '{"id": "b"}',
        json.dumps({"custom_id": "0" * 64}),
    ],
)
def test_a_file_of_something_else_is_refused_with_its_line(tmp_path: Path, line: str) -> None:
    key = ASKS[0].key("m")
    (tmp_path / "results.jsonl").write_text(result(key, completion("a")) + line + "\n")
    with Replies(tmp_path / "kept.jsonl") as replies:
        with pytest.raises(DataError, match=r"line 2 of .*results\.jsonl"):
            read_batch(tmp_path / "results.jsonl", replies, model="m")
        assert key in replies

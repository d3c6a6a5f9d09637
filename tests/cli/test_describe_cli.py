"""``taglens describe`` from outside: against a server on the loopback, from templates, dry, resumed and refused."""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fake_chat import FakeChat, completion, interrupted, question
from taglens.cli.main import start
from taglens.vocabulary import Entry, Vocabulary

WORDS = Vocabulary(
    [
        Entry("dog", "object", synonyms=("hound",), parents=("object:animal",)),
        Entry("animal", "object", descriptions=("alive and moving",)),
        Entry("train", "object"),
        Entry("train", "action"),
        Entry('say "yes" and nothing else', "object"),
    ],
    name="words",
)
Run = Callable[..., tuple[int, str, str]]


def name_in(body: dict[str, Any]) -> str:
    found = re.match(r'The label is ("(?:[^"\\]|\\.)*")', question(body))
    assert found
    name: str = json.loads(found[1])
    return name


def good(body: dict[str, Any]) -> str:
    asked = question(body)
    lines = int(found[1]) if (found := re.search(r"Answer with (\d+) ", asked)) else 1
    return "\n".join(f"A {name_in(body)} of shape {len(asked)}, {body['seed']}, {n}" for n in range(lines))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    WORDS.save("words.jsonl")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit:
            start(["describe", "--vocabulary", "words.jsonl", *map(str, arguments)])
        out, err = capsys.readouterr()
        return int(exit.value.code or 0), out, err

    return run


@pytest.fixture
def server() -> Iterator[FakeChat]:
    pytest.importorskip("openai")
    with FakeChat(good) as fake:
        yield fake


def rows(path: str = "d.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def test_a_server_describes_every_tag_and_the_vocabulary_takes_it(run: Run, server: FakeChat) -> None:
    status, out, err = run("--llm", server.url, "--out", "d.jsonl", "--count", 7, "--merge", "new.jsonl")
    assert (status, out) == (0, "")
    assert "5 tags, 35 descriptions by a language model (7.0 a tag)" in err
    assert "35 questions asked, 0 answered by what was kept" in err
    assert [row["id"] for row in rows()] == WORDS.ids
    assert {(row["source"], row["model"], len(row["descriptions"])) for row in rows()} == {("llm", "fake", 7)}
    assert [list(e.descriptions) for e in Vocabulary.load("new.jsonl")] == [r["descriptions"] for r in rows()]
    assert server.requests[0]["temperature"] == 0.99
    assert {body["seed"] for body in server.requests} == {0, 1}


def test_the_same_command_again_asks_nothing_and_writes_the_same(run: Run, server: FakeChat) -> None:
    run("--llm", server.url, "--out", "d.jsonl", "--count", 6)
    before, asked = Path("d.jsonl").read_bytes(), server.count
    status, _, err = run("--llm", server.url, "--out", "d.jsonl", "--count", 6)
    assert (status, server.count) == (0, asked)
    assert "0 questions asked, 30 answered by what was kept" in err
    assert Path("d.jsonl").read_bytes() == before
    # More are wanted: only those are asked. And nobody needs to be there for what is kept.
    run("--llm", server.url, "--out", "d.jsonl", "--count", 8)
    assert server.count == asked + 10
    status, _, _ = run("--llm", "http://127.0.0.1:9/v1", "--model", "fake", "--out", "d.jsonl", "--count", 6)
    assert (status, Path("d.jsonl").read_bytes()) == (0, before)


def test_one_tag_again_keeps_the_others(run: Run, server: FakeChat) -> None:
    run("--templates", "--out", "d.jsonl")
    status, _, _ = run(
        "--llm", server.url, "--out", "d.jsonl", "--count", 1, "--only", "train", "--only", "hound"
    )
    assert status == 0
    assert [row["source"] for row in rows()] == ["llm", "template", "llm", "llm", "template"]
    assert server.count == 3


def test_fifty_appearances_are_one_question(run: Run, server: FakeChat) -> None:
    run("--llm", server.url, "--out", "d.jsonl", "--specific", "--only", "dog")
    assert server.count == 1
    assert "50 descriptions of as many appearances" in question(server.requests[0])
    (row,) = rows()
    assert (len(row["descriptions"]), set(row["intents"])) == (50, {"specific"})


def test_templates_ask_nobody_and_keep_what_was_better(run: Run) -> None:
    status, _, err = run("--templates", "--out", "d.jsonl", "--merge", "new.jsonl")
    assert status == 0
    assert "descriptions from templates" in err
    assert "1 tags keep the descriptions they had" in err
    assert {row["source"] for row in rows()} == {"template"}
    assert Vocabulary.load("new.jsonl")[1].descriptions == ("alive and moving",)
    assert not Path("d.replies.jsonl").exists()


def test_refusals_and_strays_are_counted_and_make_the_status(run: Run) -> None:
    pytest.importorskip("openai")

    def answer(body: dict[str, Any]) -> str | dict[str, Any]:
        if name_in(body).startswith("say"):
            return "yes"
        if name_in(body) == "dog":
            return completion(None, refusal="I will not")
        return (
            completion("An animal has fur. It also", finish="length")
            if name_in(body) == "animal"
            else good(body)
        )

    with FakeChat(answer) as server:
        status, _, err = run("--llm", server.url, "--out", "d.jsonl", "--count", 5)
        assert status == 1
        dog, animal, _, _, odd = rows()
        assert (dog["dropped"], dog["descriptions"]) == ({"refusal": 5}, [])
        assert (animal["shortened"], animal["descriptions"]) == (1, ["An animal has fur."])
        assert sum(odd["dropped"].values()) == 5
        assert odd["error"]["type"] == "unusable"
        assert "object:dog: none of 5 answers could be used" in err
        status, _, _ = run("--llm", server.url, "--out", "d.jsonl", "--count", 5, "--templates")
    assert status == 0
    assert [row["source"] for row in rows()] == ["template", "llm", "llm", "llm", "template"]


def test_the_money_ends_and_the_next_run_goes_on(run: Run, server: FakeChat) -> None:
    options = ["--llm", server.url, "--out", "d.jsonl", "--count", 5, "--price-request", 1, "--at-once", 1]
    status, _, err = run(*options, "--max-cost", 7)
    assert (status, server.count) == (1, 7)
    assert "7.0000 USD" in err
    assert [len(row["descriptions"]) for row in rows()] == [5, 2, 0, 0, 0]
    assert [row.get("error", {}).get("type") for row in rows()] == [None, *["budget"] * 4]
    # The limit holds for all starts together.
    status, _, _ = run(*options, "--max-cost", 9)
    assert (status, server.count) == (1, 9)
    status, _, _ = run(*options, "--max-cost", 25)
    assert (status, server.count) == (0, 25)


@pytest.mark.parametrize("at", ["Replies.add", "write_rows"])
def test_a_full_disk_is_told_with_the_cure(
    run: Run, server: FakeChat, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "d.jsonl.part")

    home = "chat_kept" if at == "Replies.add" else "description_rows"
    monkeypatch.setattr(f"taglens.language.{home}.{at}", full)
    status, _, err = run("--llm", server.url, "--out", "d.jsonl", "--count", 2)
    assert status == 2
    assert "no room on the disk (d.jsonl.part); replies are kept in d.replies.jsonl: make room" in err
    assert not Path("d.jsonl").exists()


def test_an_interruption_does_not_wait_for_a_server_that_never_answers(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taglens.cli.language_model._GRACE", 0.05)
    with FakeChat(good) as fake:
        fake.faults.extend([fake.hang] * 20)
        options = ["--llm", fake.url, "--out", "d.jsonl", "--count", 2]
        with interrupted(fake):
            status, _, err = run(*options, "--timeout", 600)
        assert not fake.ending.is_set(), "the server never answered"
        assert status == 130
        assert "are still kept" in err
        assert "replies are kept in d.replies.jsonl: the same command goes on" in err
        fake.faults.clear()
        assert run(*options)[0] == 0


def test_uncounted_tokens_count_after_a_restart(run: Run) -> None:
    with FakeChat(lambda body: completion(good(body), usage=None)) as fake:
        options: list[object] = ["--llm", fake.url, "--out", "d.jsonl", "--count", 5]
        options += ["--price-answer", 1000, "--max-cost", 0.6, "--at-once", 1]
        run(*options)
        asked = len(fake.requests)
        assert asked
        run(*options)
        assert len(fake.requests) == asked


def test_a_dry_run_reckons_and_asks_nothing(run: Run, server: FakeChat) -> None:
    status, out, _ = run("--out", "d.jsonl", "--dry-run", "--price-prompt", 1000, "--price-answer", 2000)
    assert status == 0
    assert "250 to ask; 0 have their answer" in out
    assert re.search(r"cost +about [\d.]+; at most [\d.]+ USD", out)
    assert 'The label is "dog".' in out
    assert list(Path().iterdir()) == [Path("words.jsonl")]
    run("--llm", server.url, "--out", "d.jsonl", "--count", 5)
    _, out, _ = run("--model", "fake", "--out", "d.jsonl", "--dry-run")
    assert "225 to ask; 25 have their answer" in out
    assert server.count == 25


def test_a_batch_is_written_and_its_results_are_read(run: Run) -> None:
    status, _, err = run("--model", "m", "--out", "d.jsonl", "--count", 2, "--write-batch", "batch")
    assert status == 0
    assert "10 questions in 1 files" in err
    results = []
    for line in Path("batch/batch-00000.jsonl").read_text().splitlines():
        request = json.loads(line)
        body = completion(good(request["body"]), model="m")
        results.append({"custom_id": request["custom_id"], "response": {"status_code": 200, "body": body}})
    Path("results.jsonl").write_text("".join(json.dumps(result) + "\n" for result in results))
    status, _, err = run("--model", "m", "--out", "d.jsonl", "--count", 2, "--read-batch", "results.jsonl")
    assert status == 0
    assert "results.jsonl: 10 answers, 0 known before, 0 failed" in err
    assert [len(row["descriptions"]) for row in rows()] == [2] * 5


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--out", "d.jsonl"], "nobody to ask: give --llm URL"),
        (["--out", "d.csv", "--templates"], "describe writes JSON Lines"),
        (["--out", "words.jsonl", "--templates"], "expected a row of descriptions"),
        (["--out", "no/d.jsonl", "--templates"], "a folder that exists"),
        (["--out", "d.jsonl", "--templates", "--merge", "d.jsonl"], "name one file"),
        (["--out", "d.jsonl", "--templates", "--dry-run"], "costs nothing"),
        (["--out", "d.jsonl", "--templates", "--only", "zebra"], "no tag 'zebra'"),
        (["--out", "d.jsonl", "--templates", "--count", 0], "1 to 1,000"),
        (["--out", "d.jsonl", "--llm", "http://x/v1", "--max-cost", 1], "needs prices"),
        (["--out", "d.jsonl", "--llm", "http://x/v1", "--extra", "[]"], "expected a JSON object"),
        (["--out", "d.jsonl", "--llm", "http://x/v1", "--pieces", "none.gz"], "cannot read the pieces"),
        (["--out", "d.jsonl", "--llm", "http://x/v1", "--temperature", 0], "temperature 0"),
        (["--out", "d.jsonl", "--read-batch", "none.jsonl"], "expected a file at none.jsonl"),
        (["--out", "d.jsonl", "--write-batch", "b"], "--model is needed"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(run: Run, options: list[object], said: str) -> None:
    status, out, err = run(*options)
    assert (status, out) == (2, "")
    assert said in err
    assert len(err.splitlines()) == 1
    assert not Path("d.jsonl").exists()
    assert Vocabulary.load("words.jsonl").ref == WORDS.ref


def test_a_model_is_chosen_only_where_there_is_one(run: Run) -> None:
    pytest.importorskip("openai")
    with FakeChat(good, names=("one", "two")) as server:
        status, _, err = run("--llm", server.url, "--out", "d.jsonl")
        assert (status, server.count) == (2, 0)
        assert "2 models; choose one with --model: one, two" in err
        status, _, err = run("--llm", server.url, "--out", "d.jsonl", "--model", "three")
        assert (status, server.count) == (2, 0)
        assert "has no model 'three'" in err


def test_a_key_comes_from_the_environment_alone(
    run: Run, server: FakeChat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "k-123")
    options = ["--llm", server.url, "--out", "d.jsonl", "--count", 1, "--only", "dog"]
    assert run(*options, "--key-variable", "MY_KEY")[0] == 0
    assert server.headers[0]["authorization"] == "Bearer k-123"
    assert all(b"k-123" not in path.read_bytes() for path in Path().iterdir())
    status, _, err = run(*options, "--count", 2, "--key-variable", "NO_KEY")
    assert status == 2
    assert "NO_KEY holds no key" in err


def test_a_server_that_is_not_there_ends_it_at_once(run: Run) -> None:
    pytest.importorskip("openai")
    status, _, err = run("--llm", "http://127.0.0.1:9/v1", "--model", "m", "--out", "d.jsonl")
    assert status == 2
    assert "could not be reached" in err
    assert not Path("d.jsonl").exists()

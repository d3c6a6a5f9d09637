"""``taglens annotate`` from the command line, against a server on this machine that sees colours."""

from __future__ import annotations

import base64
import errno
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import colours
from fake_chat import FakeChat, completion, interrupted, question, status
from taglens.cli.main import start
from taglens.collection.annotated import read_annotated
from taglens.collection.annotation_store import RowWriter
from taglens.errors import UsageError
from taglens.inference.tagger import Tagger
from taglens.language.annotation_prompts import asked
from taglens.language.chat import Reply
from taglens.language.chat_kept import Replies
from taglens.vocabulary import Entry, Vocabulary

pytest.importorskip("openai")

Run = Callable[..., tuple[int, str, str]]
TAGS = Vocabulary([*colours.VOCABULARY, Entry("purple", "attribute", hidden=True)], name="colours")


def answer(body: dict[str, Any]) -> str:
    """What a server that sees would say; a question about the vocabulary gets a poor concept."""
    content = body["messages"][-1]["content"]
    try:
        wanted = asked(question(body))
    except UsageError:
        return '{"super_category": "colour", "look_alikes": ["unicorn"], "phrases": ["very much"]}'
    data = base64.b64decode(content[0]["image_url"]["url"].partition(",")[2])
    means = (np.asarray(Image.open(io.BytesIO(data)), np.float32) / 255).mean(axis=(0, 1))
    shares = zip(colours.NAMES, [*means, 1 - means.mean()], strict=True)
    there = [name for name, share in shares if share > 0.5]
    if wanted.kind == "open":
        return "\n".join([*there, "unicorn"])
    if wanted.kind == "several":
        return "\n".join(name for name in wanted.names if name in there) or "NO"
    return "yes" if wanted.names[0] in there else "no"


@pytest.fixture
def server() -> Iterator[FakeChat]:
    with FakeChat(answer) as fake:
        yield fake


@pytest.fixture
def taglens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in a folder with ``pictures/`` (5 of them) and ``tags.jsonl``; status, output, errors."""
    monkeypatch.chdir(tmp_path)
    colours.write_pictures(Path("pictures"), 5)
    TAGS.save("tags.jsonl")
    monkeypatch.setattr(Tagger, "from_pretrained", lambda *_, **__: colours.tagger())

    def run(*arguments: Any) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit:
            start([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return int(exit.value.code or 0), out, err

    return run


def common(server: FakeChat, out: str = "out") -> list[str]:
    return ["annotate", "pictures", "--vocabulary", "tags.jsonl", "--mllm", server.url, "--out", out]


def rows(out: str = "out") -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(out, "labels.jsonl").read_text().splitlines()]


def truth() -> dict[str, list[str]]:
    """Picture -> its colours, by the file."""
    found = {}
    for path in sorted(Path("pictures").rglob("*.png")):
        means = (np.asarray(Image.open(path), np.float32) / 255).mean(axis=(0, 1))
        shares = zip(colours.NAMES, [*means, 1 - means.mean()], strict=True)
        found[str(path)] = [name for name, share in shares if share > 0.5]
    return found


def test_a_folder_is_annotated_and_the_same_command_asks_nobody(taglens: Run, server: FakeChat) -> None:
    code, out, err = taglens(*common(server), "--price-prompt", 1, "--json")
    assert code == 0, err
    (ledger,) = map(json.loads, out.splitlines())
    assert ledger["queries"] == server.count and ledger["cost"] > 0 and ledger["finished"] is True
    assert {row["source"]: row["labels"] for row in rows()} == truth()
    assert {path.name for path in Path("out").iterdir()} == {
        "annotation.json",
        "concepts.jsonl",
        "groups.json",
        "labels.jsonl",
        "ledger.json",
        "queries.jsonl",
    }
    assert "5 pictures to do" in err and "5 pictures in out" in err
    assert "purple" not in "".join(map(question, server.requests)), "hidden tags are not asked for"
    asked_before = server.count
    code, out, err = taglens(*common(server))
    assert (code, out) == (0, "") and server.count == asked_before and "5 were done before" in err


@pytest.mark.parametrize("strategy", ["open", "options", "binary", "two-stage", "grouped", "full", "hybrid"])
def test_every_strategy_says_what_is_there(taglens: Run, server: FakeChat, strategy: str) -> None:
    width = ["--below", 2, "--above", 9] if strategy == "hybrid" else []
    code, out, err = taglens(*common(server), "--strategy", strategy, "-q", *width)
    assert (code, out, err) == (0, "", "")
    assert {row["source"]: row["labels"] for row in rows()} == truth()
    assert {row["provenance"]["strategy"] for row in rows()} == {strategy}


def test_a_dry_run_asks_nobody_and_writes_nothing(taglens: Run, server: FakeChat) -> None:
    code, out, err = taglens(*common(server), "--strategy", "binary", "--dry-run", "--json")
    assert code == 0 and server.count == 0 and not Path("out").exists()
    assert json.loads(out)["queries"] == 20 and "about 20 queries" in err
    code, out, _ = taglens(*common(server), "--grouping", "llm", "--group-size", 2, "--dry-run", "--json")
    assert code == 0 and server.count == 0 and json.loads(out)["queries_least"] == 10


def test_many_queries_are_said_even_when_quiet(taglens: Run, server: FakeChat) -> None:
    Path("many.txt").write_text("".join(f"tag {n}\n" for n in range(5000)))
    arguments = [*common(server), "--strategy", "binary", "--dry-run", "-q"]
    arguments[3] = "many.txt"
    code, _, err = taglens(*arguments)
    assert code == 0 and "25,000 queries" in err and "5,000 queries a picture" in err
    arguments = [*common(server), "--dry-run", "--json"]
    arguments[3] = "many.txt"
    code, out, err = taglens(*arguments)
    assert "167 groups of up to 30 tags" in err and json.loads(out)["queries_most"] == 5 * (167 + 200)


def test_groups_from_statistics_and_from_a_file(taglens: Run, server: FakeChat) -> None:
    pairs = [["red", "green"], ["blue", "dark"]] * 5
    Path("seen.jsonl").write_text(
        "".join(json.dumps({"image": "a", "labels": pair}) + "\n" for pair in pairs)
    )
    two = ["--group-size", 2, "--strategy", "grouped"]
    assert taglens(*common(server, "near"), "--statistics", "seen.jsonl", *two)[0] == 0
    assert json.loads(Path("near/groups.json").read_text())["groups"] == [["red", "green"], ["blue", "dark"]]
    far = ["--statistics", "seen.jsonl", "--grouping", "apart", *two]
    assert taglens(*common(server, "far"), *far)[0] == 0
    found = json.loads(Path("far/groups.json").read_text())["groups"]
    assert not any(sorted(group) in (["green", "red"], ["blue", "dark"]) for group in found)
    assert taglens(*common(server, "file"), "--grouping", "near/groups.json", *two)[0] == 0
    Path("bad.json").write_text('{"groups": [["red", "green", "blue"]]}')
    code, _, err = taglens(*common(server, "bad"), "--grouping", "bad.json", *two)
    assert code == 2 and "'dark' is missing" in err and "bad.json" in err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--strategy", "best"], "expected one of open, options, binary"),
        (["--grouping", "together"], "--statistics FILE"),
        (["--grouping", "sorted"], "or a file of groups"),
        (["--strategy", "binary", "--grouping", "random"], "are for --strategy grouped and full"),
        (["--strategy", "grouped", "--concepts", "tags.jsonl"], "are for --strategy full and hybrid"),
        (["--max-cost", 1], "--max-cost needs prices"),
        (["--extra", "[]"], "expected a JSON object"),
    ],
)
def test_options_that_cannot_be_meant(taglens: Run, server: FakeChat, options: list[Any], said: str) -> None:
    code, out, err = taglens(*common(server), *options)
    assert code == 2 and out == "" and said.replace("are for", "is for") in err.replace("are for", "is for")
    assert server.count == 0 and not Path("out").exists()


def test_nothing_to_annotate(taglens: Run, server: FakeChat) -> None:
    for arguments in (common(server), ["annotate", "nowhere.jpg", *common(server)[2:]]):
        if arguments[1] == "pictures":
            arguments = ["annotate", "empty", *arguments[2:]]
            Path("empty").mkdir()
        code, _, err = taglens(*arguments)
        assert code == 2 and "nothing to annotate" in err and not Path("out").exists()


def test_another_strategy_in_the_same_folder_is_refused(taglens: Run, server: FakeChat) -> None:
    assert taglens(*common(server))[0] == 0
    before = server.count
    code, _, err = taglens(*common(server), "--strategy", "binary")
    assert code == 2 and 'strategy: "full" there, "binary" now' in err and server.count == before


def test_pictures_that_cannot_be_used_have_rows_and_status_1(taglens: Run, server: FakeChat) -> None:
    Path("pictures/cut.png").write_bytes(Path("pictures/0/000.png").read_bytes()[:-20])
    code, _, err = taglens(*common(server))
    assert code == 1 and "1 failed" in err
    (failed,) = (row for row in rows() if row["error"])
    assert failed["source"] == "pictures/cut.png" and failed["labels"] is None
    code, out, err = taglens(*common(server, "other"), "--max-failures", 0, "--json")
    assert code == 3 and "1 pictures failed" in err and json.loads(out)["failed"] == 1


def test_no_money_for_the_groups_still_gives_the_ledger(taglens: Run, server: FakeChat) -> None:
    groups = ["--grouping", "llm", "--group-size", 2, "--price-request", 2, "--max-cost", 1]
    code, out, err = taglens(*common(server), *groups, "--json")
    assert code == 3 and "raise the limit" in err and server.count == 0
    assert json.loads(out)["queries"] == 0


def test_names_that_are_no_utf8_have_rows_of_their_own(taglens: Run, server: FakeChat) -> None:
    first, second = sorted(Path("pictures").rglob("*.png"))[:2]
    try:
        for name, picture in ((b"\xff.png", first), (b"\xfe.png", second)):
            (Path(os.fsdecode(b"pictures/" + name))).write_bytes(picture.read_bytes())
    except OSError:
        pytest.skip("this disk takes no such names")
    assert taglens(*common(server))[0] == 0
    odd = {base64.b64decode(row["source_bytes"]): row for row in rows() if "source_bytes" in row}
    assert set(odd) == {b"pictures/\xff.png", b"pictures/\xfe.png"} and len(rows()) == 7
    assert {row["source"] for row in odd.values()} == {"pictures/\ufffd.png"}
    labels = truth()
    assert odd[b"pictures/\xff.png"]["labels"] == labels[str(first)]
    assert odd[b"pictures/\xfe.png"]["labels"] == labels[str(second)]
    before, asked_before = Path("out/labels.jsonl").read_bytes(), server.count
    code, _, err = taglens(*common(server))
    assert code == 0 and "7 were done before" in err
    assert Path("out/labels.jsonl").read_bytes() == before and server.count == asked_before
    assert taglens("export", "out", "--format", "jsonl", "--out", "rows.jsonl")[0] == 0
    assert len(Path("rows.jsonl").read_text().splitlines()) == 7
    assert taglens("annotate", "review", "out", "--out", "page.html")[0] == 0
    decisions = [
        {"source": row["source"], "source_bytes": row["source_bytes"], "state": parsed.state}
        | {"accept": [{"name": "purple", "kind": "attribute"}]}
        for parsed in read_annotated(Path("out"))
        if (row := parsed.raw).get("source_bytes") == base64.b64encode(b"pictures/\xfe.png").decode()
    ]
    Path("decisions.json").write_text(json.dumps({"taglens_review": 1, "decisions": decisions}))
    assert taglens("annotate", "apply", "out", "--decisions", "decisions.json")[0] == 0
    changed = [row for row in rows() if "purple" in row["labels"]]
    assert [base64.b64decode(row["source_bytes"]) for row in changed] == [b"pictures/\xfe.png"]
    assert taglens("annotate", "apply", "out", "--undo")[0] == 0
    assert Path("out/labels.jsonl").read_bytes() == before


def test_a_folder_on_the_way_may_have_any_name(
    taglens: Run, server: FakeChat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = tmp_path / os.fsdecode(b"odd\xff")
    try:
        odd.mkdir()
    except OSError:
        pytest.skip("this disk takes no such names")
    Path("pictures").rename(odd / "pictures")
    Path("tags.jsonl").rename(odd / "tags.jsonl")
    monkeypatch.chdir(odd)
    assert taglens(*common(server, str(tmp_path / "out")))[0] == 0
    assert {row["image"] for row in rows(str(tmp_path / "out"))} == set(truth())


@pytest.mark.parametrize("letter", ["\x1b", "\u2028", "\u202e"])
def test_a_vocabulary_with_what_nobody_sees_is_refused(taglens: Run, server: FakeChat, letter: str) -> None:
    for entry in (Entry(f"re{letter}d", "object"), Entry("red", "object", synonyms=(f"re{letter}d",))):
        Vocabulary([entry]).save("tags.jsonl")
        for command in (common(server), ["annotate", "concepts", "--vocabulary", "tags.jsonl", "--out", "c"]):
            code, out, err = taglens(*command)
            assert (code, out) == (2, "") and f"U+{ord(letter):04X}" in err and letter not in err
    assert server.count == 0 and not Path("out").exists()


def test_a_full_disk_is_told_with_the_cure(
    taglens: Run, server: FakeChat, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = RowWriter.add

    def full(writer: RowWriter, row: Mapping[str, Any]) -> None:
        if len(rows()) == 2:
            raise OSError(errno.ENOSPC, "No space left on device", "out/labels.jsonl")
        add(writer, row)

    with monkeypatch.context() as patched:
        patched.setattr(RowWriter, "add", full)
        code, _, err = taglens(*common(server), "--at-once", 1)
    assert code == 2 and "make room, and the same command goes on" in err and "labels.jsonl" in err
    assert "what is done is kept in out" in err and len(rows()) == 2
    assert taglens(*common(server))[0] == 0 and len(rows()) == 5


def test_an_answer_that_finds_no_room_ends_the_run(
    taglens: Run, server: FakeChat, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(replies: Replies, key: str, reply: Reply) -> None:
        raise OSError(errno.ENOSPC, "a reply could not be kept", str(replies.path))

    monkeypatch.setattr(Replies, "add", full)
    code, _, err = taglens(*common(server), "--at-once", 1)
    assert code == 2 and "make room, and the same command goes on" in err and "queries.jsonl" in err
    assert server.count == 1, "nothing is asked whose answer could not be kept"


@pytest.mark.parametrize("command", ["annotate", "concepts"])
def test_an_interruption_does_not_wait_for_a_server_that_never_answers(
    taglens: Run, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taglens.cli.language_model._GRACE", 0.05)
    with FakeChat(answer) as fake:
        asked_for = common(fake)
        if command == "concepts":
            asked_for = [
                "annotate",
                "concepts",
                "--vocabulary",
                "tags.jsonl",
                "--llm",
                fake.url,
                "--out",
                "c",
            ]
        fake.faults.extend([fake.hang] * 20)
        with interrupted(fake):
            code, _, err = taglens(*asked_for, "--timeout", 600)
        assert not fake.ending.is_set(), "the server never answered"
        assert code == 130 and "are still kept" in err and "the same command goes on" in err
        fake.faults.clear()
        assert taglens(*asked_for)[0] == 0


def test_money_ends_and_more_goes_on(taglens: Run, server: FakeChat) -> None:
    priced = ["--price-request", 1, "--at-once", 1]
    code, out, err = taglens(*common(server), *priced, "--max-cost", 3, "--json")
    assert code == 3 and "raise the limit" in err and server.count == 3
    (ledger,) = map(json.loads, out.splitlines())
    assert ledger["queries"] == 3 and ledger["finished"] is False
    code, _, err = taglens(*common(server), "--price-request", 1, "--max-cost", 4, "--at-once", 1)
    assert code == 3 and server.count == 4, "the limit is of all starts together"
    code, _, _ = taglens(*common(server))
    whole = json.loads(Path("out/ledger.json").read_text())["queries"]
    assert code == 0 and server.count == whole and {row["source"]: row["labels"] for row in rows()} == truth()


def test_a_server_that_hangs_and_one_that_refuses_all(taglens: Run) -> None:
    with FakeChat(answer) as fake:
        fake.faults.append(fake.hang)
        code, _, err = taglens(*common(fake), "--timeout", 0.3, "--retries", 0, "--at-once", 1)
        assert code == 1 and "1 failed" in err and rows()[0]["error"]["type"] == "no_answer"
        assert taglens(*common(fake))[0] == 0, "it is tried again"
        assert {row["source"]: row["labels"] for row in rows()} == truth()
    with FakeChat(answer, always=status(401)) as fake:
        code, _, err = taglens(*common(fake, "locked"))
        assert code == 2 and "401" in err and fake.count <= 4
    code, _, err = taglens(*common(fake, "gone"))
    assert code == 2 and "could not be reached" in err and not Path("gone").exists()


def test_answers_are_replayed_without_a_server(taglens: Run, server: FakeChat) -> None:
    assert taglens(*common(server))[0] == 0
    Path("answers.jsonl").write_bytes(Path("out/queries.jsonl").read_bytes())
    arguments = common(server, "again")
    arguments[5] = "answers.jsonl"
    code, _, err = taglens(*arguments)
    assert code == 2 and "--mllm-model" in err
    before = server.count
    assert taglens(*arguments, "--mllm-model", "fake")[0] == 0
    assert server.count == before and rows("again") == rows()


def test_several_models_must_be_chosen_from(taglens: Run) -> None:
    with FakeChat(answer, names=("one", "two")) as fake:
        code, _, err = taglens(*common(fake))
        assert code == 2 and "choose one with --mllm-model: one, two" in err
        assert taglens(*common(fake), "--mllm-model", "two")[0] == 0
        assert {body["model"] for body in fake.requests} == {"two"}


# -- concepts and comparison ---------------------------------------------------------------------------


def concepts(path: str = "c.jsonl") -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in map(json.loads, Path(path).read_text().splitlines())}


def test_concepts_are_prepared_edited_and_used(taglens: Run, server: FakeChat) -> None:
    arguments = ["annotate", "concepts", "--vocabulary", "tags.jsonl", "--out", "c.jsonl"]
    assert taglens(*arguments)[0] == 0
    assert {row["source"] for row in concepts().values()} == {"vocabulary"} and server.count == 0
    code, _, err = taglens(*arguments, "--llm", server.url)
    assert code == 0 and "'unicorn' is no other name" in err and server.count == 8, "each was asked twice"
    assert concepts()["red"]["phrases"] == ["very much"] and concepts()["red"]["source"] == "llm"
    lines = concepts()
    lines["red"] |= {"phrases": ["the red one"], "source": "user"}
    Path("c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines.values()))
    assert "purple" not in concepts(), "what is never asked for needs no meaning"
    Path("mine.jsonl").write_text('{"name": "blue", "look_alikes": ["dark"]}\n')
    assert taglens(*arguments, "--llm", server.url, "--concepts", "mine.jsonl", "-q")[:2] == (0, "")
    assert server.count == 8, "answers are kept beside the file"
    assert concepts()["red"]["phrases"] == ["the red one"] and concepts()["blue"]["source"] == "user"
    assert concepts()["blue"]["look_alikes"] == ["dark"] and concepts()["blue"]["phrases"] == ["very much"]
    assert taglens(*common(server), "--concepts", "c.jsonl")[0] == 0
    texts = "".join(map(question, server.requests))
    assert 'Does the picture show "the red one"?' in texts and '"blue" does not mean "dark".' in texts
    code, _, err = taglens(*common(server))
    assert code == 2 and "concepts" in err, "other concepts are another configuration"


def test_strategies_are_compared_on_the_same_pictures(taglens: Run, server: FakeChat) -> None:
    lines = [{"image": name, "labels": names} for name, names in truth().items()]
    lines[0]["labels"] = [*lines[0]["labels"], "purple"]
    Path("truth.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    for strategy in ("options", "binary"):
        assert taglens(*common(server, strategy), "--strategy", strategy, "-q")[0] == 0
    arguments = ["annotate", "compare", "options", "binary", "--labels", "truth.jsonl"]
    code, out, _ = taglens(*arguments, "--vocabulary", "tags.jsonl", "--json")
    found = list(map(json.loads, out.splitlines()))
    assert code == 0 and [row["strategy"] for row in found] == ["options", "binary"]
    assert [row["queries"] for row in found] == [5, 20]
    # Classes that are true of all pictures or of none say nothing, as everywhere in taglens.
    told = [[name in row["labels"] for row in lines] for name in (*colours.NAMES, "purple")]
    hits = [sum(row) for row in told[:4] if 0 < sum(row) < 5]
    for row in found:
        assert row["images"] == 5 and row["OP"] == 1.0
        # One of the five is hidden and was never asked for.
        assert row["OR"] == pytest.approx(sum(hits) / (sum(hits) + 1), abs=1e-6)
    code, out, _ = taglens(*arguments)
    assert code == 0 and "100.00" in out and "strategy" in out
    code, _, err = taglens("annotate", "compare", "pictures", "--labels", "truth.jsonl")
    assert code == 2 and "cannot read" in err


def test_a_dry_run_does_not_even_ask_for_the_models_name(taglens: Run) -> None:
    command = ["annotate", "pictures", "--vocabulary", "tags.jsonl", "--out", "out", "--dry-run"]
    code, _, err = taglens(*command, "--mllm", "http://127.0.0.1:9/v1")
    assert code == 0 and "queries" in err
    assert not Path("out").exists()


def test_other_peoples_unfinished_files_are_left_alone(taglens: Run, server: FakeChat) -> None:
    Path("out").mkdir()
    Path("out/film.mkv.part").write_text("half a film")
    code, _, err = taglens(*common(server))
    assert code == 2 and "film.mkv.part" in err and Path("out/film.mkv.part").exists()
    Path("out/film.mkv.part").unlink()
    Path("out/labels.jsonl.12-ab.part").write_text("half a row")
    assert taglens(*common(server))[0] == 0
    assert not list(Path("out").glob("*.part"))


def test_what_uncounted_tokens_were_charged_counts_after_a_restart(taglens: Run) -> None:
    prices = [
        "--price-prompt",
        1,
        "--price-answer",
        1000,
        "--max-cost",
        0.3,
        "--group-size",
        1,
        "--at-once",
        1,
    ]
    with FakeChat(lambda body: completion(answer(body), usage=None)) as fake:
        assert taglens(*common(fake), *prices)[0] == 3
        asked_first = len(fake.requests)
        assert asked_first
        assert taglens(*common(fake), *prices)[0] == 3
        assert len(fake.requests) == asked_first


def test_a_damaged_line_of_answers_is_named(taglens: Run, server: FakeChat) -> None:
    assert taglens(*common(server))[0] == 0
    file = Path("out/queries.jsonl")
    first, *rest = file.read_text().splitlines(keepends=True)
    file.write_text("".join([first, '["x"]\n', *rest]))
    code, _, err = taglens(*common(server))
    assert code == 2 and "queries.jsonl" in err and "Traceback" not in err

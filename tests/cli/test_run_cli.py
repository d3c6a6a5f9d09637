"""``taglens run`` and ``taglens retag`` from the command line: options, streams, exit status, the log."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import colours
from taglens.cli.main import start
from taglens.inference.tagger import Tagger

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def taglens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in a folder with ``pictures/`` (12 of them, one cut, and a text); status, output, errors."""
    monkeypatch.chdir(tmp_path)
    paths = colours.write_pictures(Path("pictures"), 12)
    paths[4].write_bytes(paths[4].read_bytes()[:-20])
    Path("pictures/notes.txt").write_text("no picture")
    monkeypatch.setattr(Tagger, "from_pretrained", lambda *_, **__: colours.tagger())

    def run(*arguments: Any) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit:
            start([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return int(exit.value.code or 0), out, err

    return run


def rows(store: str) -> list[dict[str, Any]]:
    lines = [path.read_text().splitlines() for path in sorted(Path(store, "shards").glob("*.jsonl"))]
    return [json.loads(line) for shard in lines for line in shard]


def test_a_folder_goes_into_a_store(taglens: Run) -> None:
    status, out, err = taglens("run", "pictures", "--out", "store", "--shard-size", 5, "--json")
    assert status == 1, "one picture failed"
    (row,) = map(json.loads, out.splitlines())
    assert (row["pictures"], row["failed"], row["made"], row["shards"]) == (12, 1, 11, 3)
    assert row["skipped"] == {"not_image": 1} and row["model"] == "colours@000000000000"
    assert "12 pictures in store, 1 failed" in err and "skipped: 1 no image" in err
    found = rows("store")
    assert [one["source"] for one in found] == [f"pictures/{n // 10}/{n:03d}.png" for n in range(12)]
    contract = {"source", "width", "height", "tags", "caption", "model", "vocabulary", "notes", "error"}
    assert all(set(one) == contract | {"sha256", "signature", "status"} for one in found)
    assert [n for n, one in enumerate(found) if one["status"] == "failed"] == [4]
    status, out, err = taglens("run", "pictures", "--out", "store", "--shard-size", 5)
    assert (status, out) == (1, "") and "3 of 3 shards were there already" in err


def test_nothing_wrong_is_status_0_and_quiet_is_quiet(taglens: Run) -> None:
    assert taglens("run", "pictures/1", "--out", "store", "-q") == (0, "", "")


def test_failures_beyond_the_limit_are_status_3(taglens: Run) -> None:
    status, out, err = taglens("run", "pictures", "--out", "store", "--max-failures", 0)
    assert (status, out) == (3, "") and "1 pictures failed, 0 were allowed" in err
    status, out, _ = taglens("run", "pictures", "--out", "other", "--max-failures", 0, "--json")
    assert status == 3 and json.loads(out)["failed"] == 1
    assert taglens("run", "pictures", "--out", "store", "--max-failures", 1)[0] == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["pictures", "--out", "s", "--part", "3"], "--part 3: expected K/N"),
        (["pictures", "--out", "s", "--part", "3/2"], "part 3/2"),
        (["pictures", "--out", "s", "--shard-size", "0"], "shard_size"),
        (["pictures", "--out", "s", "--threshold", "2"], "--threshold"),
        (["nowhere", "--out", "s"], "nothing to tag"),
        (["pictures/notes.txt", "--out", "s"], ""),
        (["pictures", "--out", "pictures/notes.txt"], "notes.txt"),
        (["pictures", "--out", "s", "--engine", "ray", "--workers", "-1"], ""),
    ],
)
def test_what_cannot_be_meant_is_one_line_and_status_2(taglens: Run, arguments: list[str], told: str) -> None:
    status, out, err = taglens("run", *arguments)
    assert (status, out) == (2, "") and told in err and err.startswith("taglens: error: ")
    assert len(err.splitlines()) == 1 and not Path("s").exists()


def test_a_changed_configuration_is_refused_until_retag(taglens: Run) -> None:
    taglens("run", "pictures", "--out", "store")
    status, _, err = taglens("run", "pictures", "--out", "store", "--top", 1)
    assert status == 2 and "top None -> 1" in err and "--retag" in err
    assert taglens("run", "pictures", "--out", "store", "--top", 1, "--retag")[0] == 1
    assert max(len(one["tags"] or []) for one in rows("store")) == 1


def test_other_tags_are_asked_of_the_store_alone(taglens: Run) -> None:
    assert taglens("retag", "nowhere")[0] == 2
    taglens("run", "pictures", "--out", "plain")
    status, _, err = taglens("retag", "plain", "--tags", "blue")
    assert status == 2 and "--features --retag" in err
    taglens("run", "pictures", "--out", "store", "--features")
    before = rows("store")
    shutil.rmtree("pictures")
    status, out, err = taglens(
        "retag", "store", "--tags", "blue,much red", "--threshold", 0, "--out", "new", "--json"
    )
    assert status == 1 and json.loads(out)["reused"] == 12 and "12 known from before" in err
    found = rows("new")
    assert [one["source"] for one in found] == [one["source"] for one in before] and rows("store") == before
    assert {tag["id"] for one in found for tag in one["tags"] or []} == {"attribute:blue", "typed:much red"}
    assert found[4]["error"] == before[4]["error"] and found[4]["sha256"] == before[4]["sha256"]
    # In place, and back again.
    taglens("retag", "store", "--threshold", 0.9)
    assert rows("store") != before
    taglens("retag", "store")
    assert [one["tags"] and [tag["id"] for tag in one["tags"]] for one in rows("store")] == [
        one["tags"] and [tag["id"] for tag in one["tags"]] for one in before
    ]


def test_the_log_tells_what_happened_for_a_program(taglens: Run) -> None:
    taglens("run", "pictures", "--out", "store", "--shard-size", 5, "--log", "log.jsonl")
    taglens("run", "pictures", "--out", "store", "--shard-size", 5, "--log", "log.jsonl", "--max-failures", 0)
    events = [json.loads(line) for line in Path("log.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events] == ["start", "shard", "shard", "shard", "end", "start", "end"]
    assert events[0]["configuration"]["model"] == "colours@000000000000" and events[0]["sources"] == [
        "pictures"
    ]
    assert [event["pictures"] for event in events[1:4]] == [5, 5, 2] and events[1]["failed"] == 1
    assert events[4]["status"] == "done" and events[6]["status"] == "too many failures"
    assert all(event["time"].endswith("+00:00") for event in events)
    status, _, err = taglens("run", "pictures", "--out", "store", "--shard-size", 5, "--log", "no/log.jsonl")
    assert status == 2 and "--log no/log.jsonl" in err


def test_a_stopped_run_says_that_it_goes_on(taglens: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = colours.Colours()

    def look(pixels: Any) -> Any:
        if engine.looked >= 8:
            raise KeyboardInterrupt
        return engine(pixels)

    monkeypatch.setattr(Tagger, "from_pretrained", lambda *_, **__: colours.tagger(look))  # type: ignore[arg-type]
    arguments = ("run", "pictures", "--out", "store", "--shard-size", 4, "--batch-size", 4)
    status, _, err = taglens(*arguments)
    assert status == 130 and "the same command goes on" in err
    monkeypatch.setattr(Tagger, "from_pretrained", lambda *_, **__: colours.tagger())
    status, _, err = taglens(*arguments)
    assert status == 1 and "of 3 shards were there already" in err

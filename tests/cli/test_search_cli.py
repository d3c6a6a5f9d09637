"""``taglens search`` from outside: three ways to ask, indexes that are kept, rows, statuses, refusals."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import small_aligner as small
import tiny
from taglens.cli.main import start
from taglens.inference.tagger import Tagger


class Outcome:
    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def sources(self) -> list[str]:
        return [row["source"] for row in self.rows]


Run = Callable[..., Outcome]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with four pictures in ``p`` and something else."""
    monkeypatch.chdir(tmp_path)
    Path("p").mkdir()
    for number, picture in enumerate(tiny.pixels(4, seed=2)):
        Path(f"p/{number}.png").write_bytes(tiny.png(picture))
    Path("p/notes.txt").write_text("no picture")
    Path("broken.png").write_bytes(Path("p/0.png").read_bytes()[:60])
    return tmp_path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path_factory: pytest.TempPathFactory, here: Path) -> Run:
    model = small.made(tmp_path_factory) / "bundle"

    def call(*options: str, model: str = str(model)) -> Outcome:
        with pytest.raises(SystemExit) as end:
            start(["search", *options, "--model", model])
        out, err = capsys.readouterr()
        return Outcome(int(end.value.code or 0), out, err)

    return call


def test_a_query_lists_all_pictures_best_first(run: Run) -> None:
    found = run("p", "--query", "a dog on the grass", "--json")
    assert found.status == 0
    assert sorted(found.sources) == [f"p/{number}.png" for number in range(4)]
    scores = [row["score"] for row in found.rows]
    assert scores == sorted(scores, reverse=True)
    for number, row in enumerate(found.rows, 1):
        assert (row["rank"], row["error"], row["width"]) == (number, None, 32)
        assert row["score"] == pytest.approx(row["similarity"] + 0.25 * row["overlap"], abs=1e-6)
    assert "skipped: 1 no image" in found.err and "skipped" not in found.out
    alone = run("p", "--query", "a dog on the grass", "--json", "--lambda", "0", "--quiet")
    assert all(row["score"] == row["similarity"] for row in alone.rows) and not alone.err


def test_for_a_person_a_line_each(run: Run) -> None:
    lines = run("p", "--tags", "grass,dog", "--top", "2").out.splitlines()
    assert len(lines) == 2
    assert all(line.split()[1].startswith("p/") and "[grass 0." in line for line in lines)


def test_like_a_picture(run: Run) -> None:
    found = run("p", "--like", "p/2.png", "--json", "--top", "1")
    assert found.sources == ["p/2.png"] and found.rows[0]["score"] == pytest.approx(1, abs=1e-5)


def test_pictures_that_cannot_be_read_have_rows_behind_the_hits(run: Run) -> None:
    found = run("broken.png", "p", "none.png", "--tags", "dog", "--json", "--top", "1")
    assert found.status == 1
    assert [row["rank"] for row in found.rows] == [1, None, None]
    assert {row["error"]["type"] for row in found.rows[1:]} == {"truncated", "not_found"}
    told = run("broken.png", "p", "--tags", "dog", "--top", "1")
    assert told.status == 1 and len(told.out.splitlines()) == 1 and "broken.png: " in told.err


def test_an_index_is_made_searched_and_brought_up_to_date(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    made = run("p", "--index", "i.npz")
    assert (made.status, made.out) == (0, "") and "i.npz: 4 pictures, 4 of them new" in made.err
    fresh = run("p", "--query", "a cat", "--json")
    kept = run("--index", "i.npz", "--query", "a cat", "--json")
    assert kept.rows == fresh.rows

    looked: list[str] = []
    embed = Tagger.embed

    def watched(self: Tagger, sources: Any, **more: Any) -> Any:
        return embed(self, (looked.append(each.shown) or each for each in sources), **more)  # type: ignore[func-returns-value]

    monkeypatch.setattr(Tagger, "embed", watched)
    shutil.copy("p/0.png", "p/new.png")
    shutil.copy("p/1.png", "p/2.png")
    os.utime("p/2.png", (5, 5))
    again = run("p", "--index", "i.npz", "--tags", "grass", "--top", "0", "--json")
    assert looked == ["p/2.png", "p/new.png"], "only what is new or has changed"
    assert len(again.rows) == 5 and "5 pictures, 1 of them new" in again.err


def test_only_and_least_narrow(run: Run) -> None:
    every = run("p", "--tags", "red", "--json", "--top", "0").rows
    assert len(run("p", "--tags", "red", "--json", "--least", str(every[1]["score"] - 1e-6)).rows) == 2
    assert run("p", "--query", "a dog", "--only", "dog", "--json").out == "", "no picture has it"
    assert len(run("p", "--query", "a dog", "--only", "grass,run", "--json").rows) == 4


def test_a_page_shows_the_hits(run: Run) -> None:
    found = run("p", "--query", "a <dog> on grass", "--page", "found.html", "--top", "2")
    assert found.status == 0
    page = Path("found.html").read_text("utf-8")
    assert page.count('<article class="card">') == 2 and "a &lt;dog&gt; on grass" in page
    assert "similarity 0." in page or "similarity -0." in page
    assert run("p", "--tags", "dog", "--html", "other.html").status == 0 and Path("other.html").exists()


def test_a_model_without_an_aligner_finds_by_tags_and_likeness(run: Run, tmp_path: Path) -> None:
    plain = str(small.only_tags(tmp_path / "tags"))
    assert len(run("p", "--tags", "dog,beach", "--json", model=plain).rows) == 4
    assert run("p", "--like", "p/1.png", "--json", model=plain).sources[0] == "p/1.png"
    refused = run("p", "--query", "a dog", model=plain)
    assert refused.status == 2 and "has no aligner" in refused.err


def test_the_starter_searches_by_sentences(run: Run) -> None:
    rows = run("p", "--query", "a dog on the grass", "--json", model="starter").rows
    assert len(rows) == 4 and all(row["similarity"] is not None for row in rows)


REFUSED = {
    "p": "say what to look for",
    "p --query dog --tags dog": "give one",
    "p --tags ,": "--tags names no tag",
    "p --tags dgo": "nearest: dog",
    "p --only boat --tags dog": "'boat' is no tag",
    "p --tags dog --lambda 1": "--lambda is a number of 0 or more and belongs to --query",
    "p --query dog --lambda -1": "--lambda is a number",
    "p --tags dog --top -1": "top -1 is below 0",
    "p --like none.png": "--like: expected a file at none.png",
    "p --like p/notes.txt": "cannot look for pictures like p/notes.txt",
    "p --tags dog --index none/i.npz": "a folder that exists",
    "p --tags dog --page none/p.html": "a folder that exists",
    "p --tags dog --batch-size 0": "batch size 0",
    "p --tags dog --index broken.png": "no picture index",
    "--tags dog": "name pictures or folders to search",
    "--tags dog --index none.npz": "no such file",
    "--index none.npz": "say what to look for",
    "none --tags dog --index p": "expected a file name",
}


@pytest.mark.parametrize("options", REFUSED)
def test_what_cannot_be_meant_is_refused(options: str, run: Run) -> None:
    found = run(*options.split())
    assert (found.status, found.out) == (2, "")
    assert REFUSED[options] in found.err


def test_a_blank_query_and_an_empty_folder(run: Run) -> None:
    assert "--query is blank" in run("p", "--query", " ").err
    Path("empty").mkdir()
    found = run("empty", "--tags", "dog")
    assert found.status == 2 and "nothing to search: no picture in the given folders" in found.err
    found = run("*.jpg", "--tags", "dog")
    assert found.status == 2 and "nothing to search" in found.err


def test_an_index_of_another_model_is_refused(run: Run) -> None:
    assert run("p", "--index", "i.npz").status == 0
    found = run("--index", "i.npz", "--tags", "dog", model="starter")
    assert found.status == 2 and "was made with another model" in found.err and "aligned@" in found.err

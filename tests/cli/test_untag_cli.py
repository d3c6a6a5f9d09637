"""``taglens untag`` from outside."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from taglens.cli.main import start

Run = Callable[..., tuple[int, str]]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rows = []
    for name in ("x/a.jpg", "x/y/b.jpg"):
        Path(name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 6)).save(name)
        tags = [{"id": "object:cat", "name": "cat", "kind": "object", "score": 0.9}]
        one = {
            "source": name,
            "width": 8,
            "height": 6,
            "tags": tags,
            "model": "toy@1",
            "vocabulary": "words@2",
        }
        rows.append(json.dumps({**one, "error": None}) + "\n")
    Path("rows.jsonl").write_text("".join(rows))
    return tmp_path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: object) -> tuple[int, str]:
        with pytest.raises(SystemExit) as exit:
            start([*map(str, arguments)])
        out, err = capsys.readouterr()
        assert out == ""
        return int(exit.value.code or 0), err

    return run


def files() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path("x").rglob("*") if path.is_file()}


def test_all_of_it_is_taken_back(run: Run) -> None:
    Path("x/a.txt").write_bytes(b"mine\n")
    before = files()
    run("export", "rows.jsonl", "--format", "txt", "--on-existing", "append")
    run("export", "rows.jsonl", "--format", "xmp")
    assert len(files()) == len(before) + 5  # one .txt, two .xmp, two journals
    status, said = run("untag", "x")
    assert status == 0 and said == "taglens: sidecars: 1 without our tags, 3 removed\n"
    assert files() == before
    assert run("untag", "x", "--quiet") == (0, "")


def test_a_picture_a_sidecar_and_a_model(run: Run) -> None:
    before = files()
    run("export", "rows.jsonl", "--format", "txt")
    run("export", "rows.jsonl", "--format", "xmp")
    assert "0 without our tags, 0 removed" in run("untag", "x", "--model", "other")[1]
    assert "2 removed" in run("untag", "x/a.jpg", "--model", "toy@1")[1]
    assert "2 removed" in run("untag", "x/y/b.txt", "x/y/b.jpg.xmp", "--model", "toy")[1]
    assert files() == before


def test_what_cannot_be_read_is_told_and_the_rest_done(run: Run) -> None:
    run("export", "rows.jsonl", "--format", "xmp")
    Path("x/a.jpg.xmp").write_text("taglens broke this")
    status, said = run("untag", "x")
    assert status == 1
    assert said.splitlines()[0].startswith(
        "taglens: cannot take tags out of x/a.jpg.xmp: is no well-formed XML"
    )
    assert said.splitlines()[1] == "taglens: sidecars: 0 without our tags, 1 removed, 1 failed"
    assert not Path("x/y/b.jpg.xmp").exists() and Path("x/a.jpg.xmp").exists()


def test_nothing_there_and_no_exiftool(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("untag", "nowhere") == (
        2,
        "taglens: error: nowhere does not exist; name a folder, a sidecar or a picture\n",
    )
    monkeypatch.setenv("PATH", "")
    status, said = run("untag", "x", "--embedded")
    assert status == 2 and "exiftool" in said


def test_links_to_folders_are_not_followed(run: Run) -> None:
    run("export", "rows.jsonl", "--format", "xmp")
    Path("z").mkdir()
    Path("z/link").symlink_to(Path("x").absolute())
    assert "0 removed" in run("untag", "z")[1]
    assert Path("x/a.jpg.xmp").exists()

"""``taglens export`` from outside: options that fit, statuses, and what is said."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from PIL import Image

from taglens.cli.export import FITS, STREAMED, FormatName
from taglens.cli.main import start
from taglens.collection.writers.export import ONE_FILE, Format

FORMATS = [name.value for name in FormatName]
Run = Callable[..., tuple[int, str, str]]


def line(source: str, *names: str, **fields: Any) -> str:
    tags = [
        {"id": f"object:{name}", "name": name, "kind": "object", "score": 0.9 - place / 10}
        for place, name in enumerate(names)
    ]
    one = {"source": source, "width": 8, "height": 6, "tags": tags, "caption": None, "model": "toy@1"}
    return json.dumps({**one, "vocabulary": "words@2", "notes": [], "error": None, **fields}) + "\n"


FAILED = line("broken.jpg", tags=None, error={"type": "truncated", "message": "cut"})


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("x").mkdir()
    for name in ("x/a.jpg", "x/b.jpg"):
        Image.new("RGB", (8, 6)).save(name)
    Path("rows.jsonl").write_text(line("x/a.jpg", "cat", "red car", "dog") + FAILED + line("x/b.jpg", "sofa"))
    return tmp_path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit:
            start(["export", *map(str, arguments)])
        out, err = capsys.readouterr()
        return int(exit.value.code or 0), out, err

    return run


def test_the_command_and_the_library_know_the_same_formats() -> None:
    assert list(get_args(Format)) == FORMATS
    assert {format for formats in FITS.values() for format in formats} <= set(FORMATS)


@pytest.mark.parametrize("format", [name for name in FORMATS if name != "parquet"])
def test_every_format_says_what_was_done(run: Run, format: str) -> None:
    out = {"hf": "x", "fiftyone": "out", "webdataset": "out", "txt": "out", "xmp": "out"}.get(
        format, "out.file"
    )
    status, printed, said = run("rows.jsonl", "--format", format, "--out", out)
    assert (status, printed) == (0, "")
    if format == "jsonl":
        assert said == "taglens: 3 pictures, 4 tags; out.file\n"
    else:
        assert said == f"taglens: 2 pictures, 4 tags; left out: 1 error row; {out}\n"
    assert Path(out).exists()
    again = ["--overwrite"] if Path(out).is_file() else []
    assert run("rows.jsonl", "--format", format, "--out", out, "--quiet", *again)[::2] == (0, "")


@pytest.mark.parametrize("format", sorted(ONE_FILE - {"parquet"}))
def test_a_file_that_is_there_is_kept_unless_asked(run: Run, format: str) -> None:
    Path("mine.json").write_text("mine")
    status, printed, said = run("rows.jsonl", "--format", format, "--out", "mine.json")
    assert (status, printed) == (2, "") and "mine.json is there already" in said and "--overwrite" in said
    assert Path("mine.json").read_text() == "mine"
    assert sorted(path.name for path in Path().iterdir()) == ["mine.json", "rows.jsonl", "x"]
    assert run("rows.jsonl", "--format", format, "--out", "mine.json", "--overwrite")[0] == 0
    assert Path("mine.json").read_text() != "mine"


def test_the_labelling_beside_the_tasks_is_kept_too(run: Run) -> None:
    Path("mine.config.xml").write_text("mine")
    status, _, said = run("rows.jsonl", "--format", "labelstudio", "--out", "mine.json")
    assert status == 2 and "mine.config.xml is there already" in said
    assert Path("mine.config.xml").read_text() == "mine" and not Path("mine.json").exists()


def test_a_dangling_link_and_a_device_are_not_replaced(run: Run) -> None:
    Path("link.csv").symlink_to("nowhere")
    assert run("rows.jsonl", "--format", "csv", "--out", "link.csv")[0] == 2
    assert Path("link.csv").is_symlink()
    os.mkfifo("pipe")
    status, _, said = run("rows.jsonl", "--format", "csv", "--out", "pipe", "--overwrite")
    assert status == 2 and "cannot write pipe" in said and Path("pipe").is_fifo()


@pytest.mark.parametrize("format", STREAMED)
def test_without_a_place_it_goes_to_standard_output(run: Run, format: str) -> None:
    before = sorted(Path().rglob("*"))
    status, printed, said = run("rows.jsonl", "--format", format)
    assert status == 0 and said.startswith("taglens: ") and "4 tags" in said and said.count("\n") == 1
    assert sorted(Path().rglob("*")) == before
    assert run("rows.jsonl", "--format", format, "--out", "file")[0] == 0
    assert printed == Path("file").read_text(encoding="utf-8") != ""


@pytest.mark.parametrize("content", ["", line("x/a.jpg", "cat") + "junk\n"])
@pytest.mark.parametrize("format", STREAMED)
def test_nothing_is_passed_on_of_what_cannot_be_done(run: Run, format: str, content: str) -> None:
    Path("rows.jsonl").write_text(content)
    status, printed, said = run("rows.jsonl", "--format", format)
    assert (status, printed) == (2, "") and said.count("\n") == 1


def test_tags_are_chosen(run: Run) -> None:
    Path("without.txt").write_text("sofa # not this one\n\nDOG\n")
    run(
        "rows.jsonl",
        "--format",
        "csv",
        "--out",
        "a.csv",
        "--exclude",
        "without.txt",
        "--underscores",
        "--top",
        2,
    )
    with Path("a.csv").open(newline="") as file:
        names = [one["name"] for one in csv.DictReader(file)]
    assert names == ["cat", "red_car", ""]
    run("rows.jsonl", "--format", "jsonl", "--out", "b.jsonl", "--threshold", 0.85, "--kinds", "object,scene")
    rows = [json.loads(one) for one in Path("b.jsonl").read_text().splitlines()]
    assert [one["tags"] and [tag["name"] for tag in one["tags"]] for one in rows] == [["cat"], None, ["sofa"]]
    run(
        "rows.jsonl",
        "--format",
        "csv",
        "--out",
        "c.csv",
        "--exclude",
        "cat, red car",
        "--wide",
        "--separator",
        "+",
    )
    assert "dog" in Path("c.csv").read_text() and "red car" not in Path("c.csv").read_text()


def test_sidecars_beside_the_pictures(run: Run) -> None:
    Path("x/b.txt").write_text("mine")
    status, _, said = run("rows.jsonl", "--format", "txt", "--prefix", "sks", "--separator", "; ")
    assert status == 0 and "skipped: 1 with a .txt" in said
    assert Path("x/a.txt").read_text() == "sks; cat; red car; dog"
    run("rows.jsonl", "--format", "txt", "--on-existing", "append", "--pictures", ".")
    assert Path("x/b.txt").read_text() == "mine, sofa"
    run("rows.jsonl", "--format", "xmp", "--no-subject", "--root", "machine", "--xmp-name", "stem")
    text = Path("x/a.xmp").read_text()
    assert "machine|red car" in text and "dc:subject" not in text


def test_failures_are_told_and_counted(run: Run) -> None:
    with Path("rows.jsonl").open("a") as rows:
        rows.writelines(line(f"gone{number}\u202e.jpg", "cat") for number in range(30))
    status, _, said = run("rows.jsonl", "--format", "txt")
    lines = said.splitlines()
    assert status == 1 and len(lines) == 22
    assert lines[0].startswith("taglens: gone0\\u202e.jpg: is not there")
    assert lines[-1] == "taglens: 2 pictures, 4 tags, 30 failed; left out: 1 error row"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--format", "parquet"], "needs --out"),
        (["--format", "fiftyone"], "needs --out"),
        (["--format", "txt", "--overwrite"], "--overwrite goes with"),
        (["--format", "csv", "--out", "a.csv", "--prefix", "x"], "--prefix goes with --format txt, not csv"),
        (["--format", "csv", "--out", "a.csv", "--separator", ";"], "--wide"),
        (["--format", "jsonl", "--out", "a", "--separator", ";"], "txt or csv"),
        (["--format", "txt", "--embed"], "--embed goes with"),
        (["--format", "xmp", "--embed", "--out", "out"], "without --out"),
        (["--format", "txt", "--on-existing", "merge"], "skip, append or overwrite"),
        (["--format", "xmp", "--xmp-name", "both"], "full"),
        (["--format", "txt", "--out", "x/a.jpg"], "is a file"),
        (["--format", "jsonl", "--out", "rows.jsonl"], "would replace what is read"),
        (["--format", "jsonl", "--out", "x"], "cannot write"),
        (["--format", "jsonl", "--out", "nowhere/a"], "cannot write"),
        (["--format", "txt", "--pictures", "nowhere"], "no folder"),
        (["--format", "txt", "--kinds", "thing"], "--kinds"),
        (["--format", "txt", "--threshold", "2"], "--threshold"),
        (["--format", "txt", "--top", "-1"], "--top"),
        (["--format", "webdataset", "--out", "out", "--shard-size", "0"], "--shard-size"),
        (["--format", "webdataset", "--out", "."], "other things"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_a_line(run: Run, arguments: list[str], why: str) -> None:
    before = sorted(Path().rglob("*"))
    status, printed, said = run("rows.jsonl", *arguments)
    assert (status, printed) == (2, "")
    assert said.startswith("taglens: error: ") and why in said and said.count("\n") == 1
    assert sorted(Path().rglob("*")) == before


def test_rows_that_are_none(run: Run) -> None:
    Path("rows.jsonl").write_text(line("x/a.jpg", "cat") + "junk\n")
    status, _, said = run("rows.jsonl", "--format", "csv", "--out", "a.csv")
    assert status == 2 and "rows.jsonl, line 2" in said and not Path("a.csv").exists()
    Path("rows.jsonl").write_text("")
    assert run("rows.jsonl", "--format", "csv", "--out", "a.csv")[0] == 2 and not Path("a.csv").exists()
    assert "does not exist" in run("none.jsonl", "--format", "csv", "--out", "a.csv")[2]


def test_a_disk_that_is_full(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("a.csv").write_text("old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    status, _, said = run("rows.jsonl", "--format", "csv", "--out", "a.csv", "--overwrite")
    assert status == 2 and "No space left" in said and Path("a.csv").read_text() == "old"


def test_killed_in_the_middle_the_old_file_stays(here: Path) -> None:
    """The rows come through a pipe that stays open, so that the program waits in the middle of its work."""
    Path("a.jsonl").write_text("old")
    os.mkfifo("pipe")
    program = (
        "from pathlib import Path\n"
        "from taglens.collection import rows_in\n"
        "from taglens.collection.writers.choosing import Account\n"
        "from taglens.collection.writers.export import Order, export\n"
        "def rows():\n"
        "    with open('pipe', 'rb') as pipe:\n"
        "        for number, line in enumerate(pipe):\n"
        "            yield rows_in.parse_row(line, number=number, where='pipe')\n"
        "export(rows(), Order('jsonl', Path('a.jsonl'), overwrite=True), account=Account())\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    worker = subprocess.Popen([sys.executable, "-c", program], env=environment)
    with Path("pipe").open("wb", buffering=0) as pipe:
        for _ in range(100):
            pipe.write(line("x/a.jpg", "cat").encode())
        worker.kill()
        worker.wait()
    assert Path("a.jsonl").read_text() == "old"
    assert len(list(Path().glob("a.jsonl.*.part"))) == 1  # it was in the middle

from __future__ import annotations

import base64
import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from fake_tagger import VOCABULARY, FakeTagger
from PIL import Image

from taglens.cli import console, tag
from taglens.cli.console import ProgressLine, bar, guarded, printable
from taglens.cli.listing import Listing, plain
from taglens.cli.main import HOMES, start
from taglens.results import Failure, Prediction, Tag
from taglens.vocabulary import Entry, Vocabulary

CONTRACT_FIELDS = {"source", "width", "height", "tags", "caption", "model", "vocabulary", "notes", "error"}

# The program with the fake model, for what only a process of its own can show.
PROGRAM = """
import sys, types
import fake_tagger
module = types.ModuleType("taglens.inference.tagger")
module.Tagger = fake_tagger.FakeTagger
sys.modules["taglens.inference.tagger"] = module
from taglens.cli import main
main()
"""


@pytest.fixture(autouse=True)
def fake_model(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("taglens.inference.tagger")
    module.Tagger = FakeTagger  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "taglens.inference.tagger", module)
    monkeypatch.setattr(FakeTagger, "calls", [])
    monkeypatch.setattr(FakeTagger, "loads", [])
    monkeypatch.setattr(FakeTagger, "interrupt_after", None)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with three pictures, ``d/notes.txt`` and the damaged ``broken.png``."""
    monkeypatch.chdir(tmp_path)
    Path("d/sub").mkdir(parents=True)
    for name, colour in (("red.png", "#ff3300"), ("d/green.png", "#00ff00"), ("d/sub/blue.png", "#0000ff")):
        Image.new("RGB", (12, 8), colour).save(name)
    Path("d/notes.txt").write_text("no picture")
    data = Path("red.png").read_bytes()
    Path("broken.png").write_bytes(data[: len(data) // 2])
    return tmp_path


class Outcome:
    """Exit status, rows of standard output, and standard error."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def sources(self) -> list[str]:
        return [row["source"] for row in self.rows]


@pytest.fixture
def taglens(here: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*arguments: str) -> Outcome:
        with pytest.raises(SystemExit) as exit:
            start([*arguments])
        out, err = capsys.readouterr()
        code = exit.value.code
        return Outcome(0 if code is None else int(code), out, err)

    return run


def environment(**more: str) -> dict[str, str]:
    """A process's surroundings in which ``fake_tagger`` is found and standard output is buffered as usual."""
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    return kept | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])} | more


def process(*arguments: str | bytes) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )


# -- rows ------------------------------------------------------------------------------------------


def test_a_row_holds_what_the_contract_says(taglens: Any) -> None:
    outcome = taglens("tag", "red.png", "--json")
    (row,) = outcome.rows
    assert set(row) == CONTRACT_FIELDS
    assert (row["source"], row["width"], row["height"], row["error"]) == ("red.png", 12, 8, None)
    assert row["tags"] == [{"id": "object:red thing", "name": "red thing", "kind": "object", "score": 1.0}]
    assert row["model"] == "fake@0123456789ab" and row["vocabulary"] == VOCABULARY.ref
    assert (outcome.status, outcome.err) == (0, "")


def test_scores_keep_six_digits(taglens: Any) -> None:
    (row,) = taglens("tag", "red.png", "--json", "--threshold", "0").rows
    assert {entry["score"] for entry in row["tags"]} == {1.0, 0.2, 0.25, 0.0}
    Image.fromarray(np.full((4, 4, 3), 100, np.uint8)).save("grey.png")
    (row,) = taglens("tag", "grey.png", "--json", "--threshold", "0").rows
    assert row["tags"][0]["score"] == pytest.approx(100 / 255, abs=5e-7)


def test_input_order_with_errors_in_their_place(taglens: Any) -> None:
    outcome = taglens("tag", "missing.jpg", "d", "broken.png", "red.png", "--json", "--batch-size", "2")
    assert outcome.sources == ["missing.jpg", "d/green.png", "d/sub/blue.png", "broken.png", "red.png"]
    assert [row["error"] and row["error"]["type"] for row in outcome.rows] == [
        "not_found",
        None,
        None,
        "truncated",
        None,
    ]
    assert [row["tags"] is None for row in outcome.rows] == [True, False, False, True, False]
    assert outcome.status == 1
    assert "2 failed" in outcome.err and "1 no image" in outcome.err
    assert all(set(row) == CONTRACT_FIELDS for row in outcome.rows)


def test_found_files_are_skipped_and_counted_but_named_ones_fail(taglens: Any) -> None:
    outcome = taglens("tag", "d", "--json")
    assert outcome.sources == ["d/green.png", "d/sub/blue.png"]
    assert outcome.status == 0
    assert "skipped: 1 no image" in outcome.err
    outcome = taglens("tag", "d/notes.txt", "--json")
    assert outcome.rows[0]["error"]["type"] == "not_image"
    assert outcome.status == 1


def test_quiet_says_nothing(taglens: Any) -> None:
    outcome = taglens("tag", "d", "broken.png", "--json", "--quiet")
    assert (outcome.status, outcome.err) == (1, "")


def test_a_pattern_that_the_shell_left_alone(taglens: Any) -> None:
    assert taglens("tag", "**/*.png", "--json").sources == [
        "broken.png",
        "d/green.png",
        "d/sub/blue.png",
        "red.png",
    ]


def test_a_pattern_without_a_fit_is_a_row_beside_others(taglens: Any) -> None:
    outcome = taglens("tag", "x*.png", "red.png", "y*.png", "--json")
    assert [(row["source"], row["error"] and row["error"]["type"]) for row in outcome.rows] == [
        ("x*.png", "not_found"),
        ("red.png", None),
        ("y*.png", "not_found"),
    ]
    assert outcome.status == 1


@pytest.mark.parametrize("arguments", [["x*.png"], ["empty"], ["empty", "x*.png"]])
def test_nothing_matched_is_status_2(taglens: Any, arguments: list[str]) -> None:
    Path("empty").mkdir()
    Path("empty/notes.txt").write_text("no picture")
    outcome = taglens("tag", *arguments, "--json")
    assert (outcome.status, outcome.out) == (2, "")
    assert outcome.err.startswith("taglens: error: nothing to tag: ")
    assert len(outcome.err.splitlines()) == 1


def test_a_locked_folder_is_an_error_row(taglens: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def refuse(path: str) -> Any:
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    outcome = taglens("tag", "d", "red.png", "--json", "--batch-size", "1")
    assert outcome.sources == ["d/green.png", "d/sub", "red.png"]
    assert outcome.rows[1]["error"]["type"] == "permission"
    assert outcome.status == 1
    outcome = taglens("tag", "d/sub", "--json")
    assert (outcome.status, outcome.sources) == (1, ["d/sub"])


@pytest.mark.skipif(os.name != "posix", reason="names are text on this system")
def test_undecodable_names_travel_through(here: Path) -> None:
    raw = b"caf\xe9.png"
    try:
        Path(os.fsdecode(raw)).write_bytes(Path("red.png").read_bytes())
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    with process("tag", raw, "--json") as program:
        out, err = program.communicate(timeout=60)
    (row,) = [json.loads(line) for line in out.decode("utf-8").splitlines()]
    assert row["source"] == "caf\ufffd.png" and base64.b64decode(row["source_bytes"]) == raw
    assert row["width"] == 12
    assert (program.returncode, err) == (0, b"")


# -- options ---------------------------------------------------------------------------------------


def test_options_reach_the_model(taglens: Any) -> None:
    taglens(
        *["tag", "red.png", "--json", "--threshold", "0.3", "--top", "2", "--batch-size", "3"],
        *["--max-pixels", "500", "--device", "cpu", "--engine", "onnx"],
    )
    assert FakeTagger.calls == [{"threshold": 0.3, "top": 2, "batch_size": 3, "max_pixels": 500}]
    assert FakeTagger.loads == [{"engine": "onnx", "device": "cpu"}]


def test_the_pixel_limit(taglens: Any) -> None:
    outcome = taglens("tag", "red.png", "--json", "--max-pixels", "95")
    assert outcome.rows[0]["error"]["type"] == "too_large" and outcome.status == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--threshold", "1.5"], "between 0 and 1"),
        (["--threshold", "nan"], "between 0 and 1"),
        (["--threshold", "-0.1"], "between 0 and 1"),
        (["--top", "-1"], "--top"),
        (["--batch-size", "0"], "--batch-size"),
        (["--max-pixels", "0"], "--max-pixels"),
        (["--tags", ""], "names no tag"),
        (["--tags", " , "], "names no tag"),
        (["--add-tags"], "--tags"),
        (["--tags", "blue", "--vocabulary", "v.jsonl"], "--add-tags"),
        (["--vocabulary", "missing.jsonl"], "missing.jsonl"),
        (["--model", "nonesuch"], "nonesuch"),
        (["--page", "nowhere/page.html"], "folder that exists"),
    ],
)
def test_usage_errors_are_one_line_and_status_2(taglens: Any, arguments: list[str], words: str) -> None:
    outcome = taglens("tag", "red.png", "--json", *arguments)
    assert (outcome.status, outcome.out) == (2, "")
    assert outcome.err.startswith("taglens: error: ") and words in outcome.err
    assert len(outcome.err.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments", [[], ["--threshold", "high", "red.png"], ["red.png", "--no-such-option"]]
)
def test_unreadable_command_lines_are_status_2(taglens: Any, arguments: list[str]) -> None:
    outcome = taglens("tag", *arguments)
    assert (outcome.status, outcome.out) == (2, "")
    assert "Traceback" not in outcome.err


def test_unknown_command(taglens: Any) -> None:
    outcome = taglens("tga")
    assert outcome.status == 2 and "tag" in outcome.err


def test_chosen_tags_replace_the_vocabulary(taglens: Any) -> None:
    # A synonym, an id, and a repeat under another name.
    outcome = taglens(
        "tag", "red.png", "--json", "--tags", "Tomato, action:run ,red thing,", "--threshold", "0"
    )
    (row,) = outcome.rows
    assert [entry["id"] for entry in row["tags"]] == ["object:red thing", "action:run"]
    assert row["vocabulary"] != VOCABULARY.ref
    (row,) = taglens("tag", "red.png", "--json", "--tags", "blue", "--add-tags", "--threshold", "0").rows
    assert len(row["tags"]) == 4 and row["vocabulary"] == VOCABULARY.ref


def test_any_words_are_tags_where_the_model_reads_text(taglens: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeTagger, "reads_text", True)
    (row,) = taglens("tag", "red.png", "--json", "--tags", "Red  Car,tomato,red car").rows
    assert [(entry["id"], entry["kind"]) for entry in row["tags"]] == [
        ("object:red thing", "object"),
        ("typed:red car", "typed"),
    ]
    (row,) = taglens("tag", "red.png", "--json", "--tags", "corgi", "--add-tags", "--threshold", "0").rows
    assert len(row["tags"]) == 5 and "typed:corgi" in [entry["id"] for entry in row["tags"]]
    hidden = taglens("tag", "red.png", "--tags", "secret")
    assert hidden.status == 2 and "'secret'" in hidden.err


def test_a_score_from_spelling_alone_is_said_to_be_one(taglens: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeTagger, "reads_text", True)
    outcome = taglens("tag", "red.png", "--json", "--tags", "xyzzy,corgi")
    assert outcome.status == 0 and len(outcome.rows) == 1
    assert "no word of 'xyzzy' is known" in outcome.err and "corgi" not in outcome.err


def test_unknown_tags_are_named_with_the_nearest_known(taglens: Any) -> None:
    outcome = taglens("tag", "red.png", "--json", "--tags", "blue,meadows,xyzzy,tomatoe,secret")
    assert (outcome.status, outcome.out) == (2, "")
    assert "'meadows' (nearest: meadow)" in outcome.err
    assert "'tomatoe' (nearest: tomato" in outcome.err
    assert "'xyzzy' (nothing near)" in outcome.err
    # A hidden tag is never given, so it counts as unknown and is not offered.
    assert "'secret' (nothing near)" in outcome.err
    assert "'blue'" not in outcome.err
    assert "4 tags" in outcome.err


def test_a_vocabulary_file_with_its_thresholds(taglens: Any) -> None:
    Vocabulary([Entry("red thing", "object", threshold=0.1), Entry("run", "action", threshold=0.2)]).save(
        "v.jsonl"
    )
    (row,) = taglens("tag", "d/green.png", "--json", "--vocabulary", "v.jsonl").rows
    assert [entry["name"] for entry in row["tags"]] == ["run"]
    joined = taglens(
        "tag", "d/green.png", "--json", "--vocabulary", "v.jsonl", "--tags", "meadow", "--add-tags"
    ).rows
    assert [entry["name"] for entry in joined[0]["tags"]] == ["meadow", "run"]
    Vocabulary([Entry("unicorn", "object")]).save("v.jsonl")
    outcome = taglens("tag", "red.png", "--json", "--vocabulary", "v.jsonl")
    assert outcome.status == 2 and "closed vocabulary" in outcome.err


# -- for people ------------------------------------------------------------------------------------


def test_the_plain_listing(taglens: Any) -> None:
    outcome = taglens("tag", "red.png", "broken.png", "d/green.png")
    blocks = outcome.out.split("\n\n")
    assert blocks[0] == "red.png  12 × 8\n  1.0000  object     red thing"
    assert re.match(r"broken\.png\n  error: truncated: .*anew", blocks[1])
    assert "\x1b" not in outcome.out


def test_the_listing_says_when_nothing_passes(taglens: Any) -> None:
    assert "--threshold 0" in taglens("tag", "red.png", "--tags", "run").out


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_coloured_listing_obeys_no_file_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    hostile = "a\x1b[2Jb\r\u202ec[red].png"
    row = Prediction(
        source=hostile,
        width=3,
        height=4,
        tags=(Tag("object:dog", "dog", "object", 0.912), Tag("typed:\x07[bold]", "\x07[bold]", "typed", 0.0)),
        model="m",
        vocabulary="v",
        notes=("first frame of 2",),
    )
    failed = Prediction("x", None, None, None, "m", "v", error=Failure("empty", "has \x9b2J no content"))
    stream = Terminal()
    listing = Listing(stream)
    listing.show(row)
    listing.show(failed)
    text = stream.getvalue()
    assert "a\\x1b[2Jb\\r\\u202ec[red].png" in text
    assert "\\x07[bold]" in text and "has \\x9b2J no content" in text
    assert "\x1b[2J" not in text and "\r" not in text and "\u202e" not in text
    assert "\x1b[" in text and "0.91" in text and "first frame of 2" in text
    # Without the colours, the words of both forms are the same.
    assert {"dog", "object", "3", "4"} <= set(re.sub(r"\x1b\[[\d;]*m", "", text).split())
    assert printable(hostile) in plain(row)


@pytest.mark.parametrize("text", ["plain", "Ünïcödé 日本語 👩‍🚀.jpg", "right to left שלום"])
def test_ordinary_names_are_printed_as_they_are(text: str) -> None:
    assert printable(text) == text


def test_bars() -> None:
    assert [bar(share, width=2) for share in (0.0, 1e-9, 0.5, 0.53, 1.0, 1.2)] == [
        "",
        "▏",
        "█",
        "█",
        "██",
        "██",
    ]
    assert all(len(bar(n / 100, width=20)) <= 20 for n in range(101))


def test_progress_draws_only_for_someone_and_for_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    for stream, total in ((io.StringIO(), 5), (Terminal(), 1)):
        line = ProgressLine(total, stream=stream)
        line.advance()
        line.clear()
        assert stream.getvalue() == ""
    now = iter(range(100))
    stream = Terminal()
    line = ProgressLine(4, stream=stream, clock=lambda: float(next(now)))
    line.advance()
    line.advance(failed=1)
    assert "2/4  1 failed  1.0/s  0:02 left" in stream.getvalue()
    line.clear()
    assert stream.getvalue().endswith("\r\x1b[2K")


def test_what_was_there_already_is_no_part_of_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    now, stream = iter([0.0, 2.0, 4.0]), Terminal()
    line = ProgressLine(1000, stream=stream, clock=lambda: next(now))
    line.move(900, failed=0, free=900)
    assert stream.getvalue().endswith("900/1000  0.0/s")
    line.move(908, failed=1, free=900)
    assert stream.getvalue().endswith("908/1000  1 failed  2.0/s  0:46 left")


def test_progress_and_rows_on_one_terminal(taglens: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    monkeypatch.setattr(console.sys, "stderr", stream)
    outcome = taglens("tag", "red.png", "d", "--json")
    assert outcome.sources == ["red.png", "d/green.png", "d/sub/blue.png"]
    assert "1/3" in stream.getvalue()
    assert stream.getvalue().endswith("\r\x1b[2Ktaglens: 3 pictures; skipped: 1 no image\n")


def test_a_page_beside_the_rows(taglens: Any) -> None:
    outcome = taglens("tag", "red.png", "broken.png", "--json", "--page", "out.html")
    assert outcome.sources == ["red.png", "broken.png"] and outcome.status == 1
    text = Path("out.html").read_text(encoding="utf-8")
    assert text.count("<article") == 2 and text.count("data:image/jpeg") == 1
    assert "fake@0123456789ab" in text


# -- ends ------------------------------------------------------------------------------------------


def test_an_interruption_keeps_what_was_written(taglens: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeTagger, "interrupt_after", 2)
    outcome = taglens("tag", "red.png", "d", "--json", "--page", "out.html")
    assert outcome.status == 130
    assert outcome.sources == ["red.png", "d/green.png"]
    assert "interrupted" in outcome.err and "Traceback" not in outcome.err
    assert Path("out.html").read_text(encoding="utf-8").count("<article") == 2


@pytest.mark.skipif(os.name != "posix", reason="signals differ")
def test_a_real_interruption_and_rows_that_come_at_once(here: Path) -> None:
    """Rows arrive while the program still waits for the rest (a pipe that never gives its picture)."""
    os.mkfifo("slow")
    program = (
        # Whoever runs the tests in the background may have the signal ignored.
        "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        + PROGRAM.replace("main()\n", "")
        + "load = fake_tagger.load\n"
        + "def slow(path, **rest):\n"
        + "    return open('slow').read() if str(path) == 'slow' else load(path, **rest)\n"
        + "fake_tagger.load = slow\n"
        + "main()\n"
    )
    command = [sys.executable, "-c", program, "tag", "red.png", "slow", "--json", "--batch-size", "1"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    ) as running:
        assert running.stdout is not None
        assert json.loads(running.stdout.readline())["source"] == "red.png"
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=60)
    assert (running.returncode, out) == (130, b"")
    assert b"interrupted" in err and b"Traceback" not in err


@pytest.mark.skipif(os.name != "posix", reason="pipes differ")
def test_a_reader_that_leaves_is_no_error(here: Path) -> None:
    with process("tag", *["red.png"] * 3000, "--json", "--batch-size", "1") as program:
        assert program.stdout is not None and program.stderr is not None
        program.stdout.readline()
        program.stdout.close()
        err = program.stderr.read()
    assert (program.wait(), err) == (console.PIPE_CLOSED, b"")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), BrokenPipeError()])
def test_the_machine_s_troubles_show_no_traceback(
    error: OSError, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import typer

    monkeypatch.setattr(console, "_discard_output", lambda: None)

    @guarded
    def command() -> int:
        raise error

    with pytest.raises(typer.Exit) as exit:
        command()
    err = capfd.readouterr().err
    if isinstance(error, BrokenPipeError):
        assert (exit.value.exit_code, err) == (console.PIPE_CLOSED, "")
    else:
        assert (exit.value.exit_code, err) == (2, "taglens: error: [Errno 28] No space left on device\n")


def test_faults_of_the_program_are_not_hidden() -> None:
    @guarded
    def command() -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        command()


# -- the program -----------------------------------------------------------------------------------


def test_help_and_version_load_nothing_heavy() -> None:
    program = (
        "import sys, contextlib, io\n"
        "from taglens.cli.main import start\n"
        "for argument in ('--help', '--version'):\n"
        "    with contextlib.suppress(SystemExit):\n"
        "        start([argument])\n"
        "heavy = {'numpy', 'PIL', 'onnxruntime', 'torch', 'skimage'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert "taglens 0." in done.stdout
    assert all(name in done.stdout for name in HOMES)


@pytest.mark.parametrize(
    "path",
    [[name] for name in HOMES] + [[name, sub] for name, home in HOMES.items() for sub in home.commands],
)
def test_every_command_has_help(taglens: Any, path: list[str]) -> None:
    outcome = taglens(*path, "--help")
    assert outcome.status == 0
    assert "Usage: taglens " + " ".join(path) in outcome.out


def test_output_is_utf8_whatever_the_locale(here: Path) -> None:
    Path("red.png").rename("日本語.png")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "tag", "日本語.png", "--json"],
        capture_output=True,
        env=environment(PYTHONIOENCODING="ascii"),
    )
    assert json.loads(done.stdout.decode("utf-8"))["source"] == "日本語.png"
    assert "日本語".encode() in done.stdout


def test_options_are_refused_before_a_model_is_loaded() -> None:
    with pytest.raises(tag.UsageError):
        tag.TagOptions(threshold=2.0)
    assert tag.split_tags(None) is None
    assert tag.split_tags(" a, b b ,,") == ("a", "b b")
    assert not FakeTagger.loads

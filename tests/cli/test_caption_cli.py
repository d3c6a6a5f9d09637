"""``taglens caption`` from outside: rows as the contract has them, exit statuses, and one line for what cannot be."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors.torch import save_file

import published_weights as published
import small_captioner as small
from taglens.cli import console
from taglens.cli.listing import CaptionListing
from taglens.cli.main import start
from taglens.errors import UsageError
from taglens.inference.captioning import Search
from taglens.inference.generation import Sampling
from taglens.inference.tagger import Tagger
from taglens.models.checkpoint import writes_captions
from taglens.results import Caption, Captioned, Failure

FIELDS = [
    "source",
    "width",
    "height",
    "caption",
    "captions",
    "guide_tags",
    "unmet",
    "model",
    "notes",
    "error",
]


class Outcome:
    """Exit status, rows of standard output, and standard error."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


Run = Callable[..., Outcome]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small captioning model as ``bundle``, and for torch as ``model``."""
    return small.made(tmp_path_factory)


@pytest.fixture
def here(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: pictures 0.png to 2.png, d/3.png, the damaged broken.png, d/notes.txt; models linked."""
    monkeypatch.chdir(tmp_path)
    Path("d").mkdir()
    for name, picture in zip(("0", "1", "2", "d/3"), small.pictures(4), strict=True):
        Image.fromarray(picture).save(f"{name}.png")
    data = Path("0.png").read_bytes()
    Path("broken.png").write_bytes(data[: len(data) // 2])
    Path("d/notes.txt").write_text("no picture")
    for name in ("bundle", "model"):
        (tmp_path / name).symlink_to(models / name, target_is_directory=True)
    return tmp_path


@pytest.fixture(autouse=True)
def loaded_once(monkeypatch: pytest.MonkeyPatch, models: Path) -> None:
    """Loading a model takes longer than all that is asked of it here."""
    load = Tagger.from_pretrained

    def once(
        name: str, *, engine: str, device: str, threads: int | None = None, adapter: Path | None = None
    ) -> Tagger:
        if name != "bundle" or engine != "auto" or device != "auto" or adapter is not None:
            return load(name, engine=engine, device=device, threads=threads, adapter=adapter)
        if models not in LOADED:
            LOADED[models] = load(models / "bundle", threads=1)
        return LOADED[models]

    monkeypatch.setattr(Tagger, "from_pretrained", once)


LOADED: dict[Path, Tagger] = {}


@pytest.fixture
def taglens(here: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: object) -> Outcome:
        with pytest.raises(SystemExit) as exit:
            start([*map(str, arguments)])
        out, err = capsys.readouterr()
        return Outcome(int(exit.value.code or 0), out, err)

    return run


@pytest.fixture
def caption(taglens: Run) -> Run:
    return lambda *arguments: taglens("caption", *arguments, "--model", "bundle")


# -- rows ------------------------------------------------------------------------------------------


def test_a_row_holds_what_the_contract_says(caption: Run) -> None:
    outcome = caption("0.png", "--json")
    (row,) = outcome.rows
    assert list(row) == FIELDS
    assert (row["source"], row["width"], row["height"], row["error"]) == ("0.png", 24, 32, None)
    assert [list(one) for one in row["captions"]] == [["text", "score", "mentioned", "unmet"]]
    assert row["caption"] == row["captions"][0]["text"] != ""
    assert row["guide_tags"] and row["unmet"] == [] and row["notes"] == []
    assert row["captions"][0]["score"] < 0 and row["model"].startswith("small@")
    assert (outcome.status, outcome.err) == (0, "")


def test_rows_are_those_of_the_library(caption: Run, models: Path) -> None:
    (row,) = caption("0.png", "--json", "--tags", "car, Dog", "--add-tags", "--number", "2").rows
    (expected,) = LOADED[models].caption("0.png", tags=["car", "Dog"], add_tags=True, search=Search(number=2))
    assert row == expected.to_dict() and row["guide_tags"][:2] == ["car", "Dog"]


def test_input_order_with_errors_in_their_place(caption: Run) -> None:
    outcome = caption("gone.png", "2.png", "d", "broken.png", "[01].png", "--json", "--batch-size", "2")
    rows = outcome.rows
    assert [row["source"] for row in rows] == ["gone.png", "2.png", "d/3.png", "broken.png", "0.png", "1.png"]
    failed = [row["error"] and row["error"]["type"] for row in rows]
    assert failed == ["not_found", None, None, "truncated", None, None]
    for row in rows:
        assert list(row) == FIELDS
        none = [row[key] is None for key in ("width", "caption", "captions", "guide_tags", "unmet")]
        assert none == [row["error"] is not None] * 5
    assert outcome.status == 1 and len({row["caption"] for row in rows}) == 5
    assert "6 pictures, 2 failed; skipped: 1 no image" in outcome.err
    assert caption("gone.png", "d", "--json", "--quiet").err == ""


@pytest.mark.parametrize("arguments", [["x*.png"], ["empty"]])
def test_nothing_matched_is_status_2(caption: Run, arguments: list[str]) -> None:
    Path("empty").mkdir()
    outcome = caption(*arguments, "--json")
    assert (outcome.status, outcome.out) == (2, "")
    assert outcome.err.startswith("taglens: error: nothing to caption: ") and outcome.err.count("\n") == 1


def test_a_pattern_without_a_fit_is_a_row_beside_others(caption: Run) -> None:
    outcome = caption("x*.png", "0.png", "--json")
    assert [row["error"] is None for row in outcome.rows] == [False, True] and outcome.status == 1


def test_unmet_tags_are_told_and_are_no_failure(caption: Run) -> None:
    outcome = caption("0.png", "--json", "--tags", "zebra，run")
    (row,) = outcome.rows
    assert outcome.status == 0 and row["guide_tags"] == ["zebra", "run"]
    said = "run" in row["caption"]
    assert row["unmet"] == (["zebra"] if said else ["zebra", "run"]) == row["captions"][0]["unmet"]
    assert row["captions"][0]["mentioned"] == (["run"] if said else [])


def asked(caption: Run, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> dict[str, Any]:
    """What the library is asked for."""
    seen: list[dict[str, Any]] = []

    def watch(self: Tagger, pictures: Any, **options: Any) -> Iterator[Any]:
        seen.append(options)
        raise UsageError("seen")

    monkeypatch.setattr(Tagger, "caption", watch)
    assert caption("0.png", *arguments).err == "taglens: error: seen\n"
    return seen[0]


PLAIN = {"tags": None, "add_tags": False, "threshold": None, "batch_size": 16}


@pytest.mark.parametrize(
    ("arguments", "search", "more"),
    [
        ([], Search(), {}),
        (["--beams", 5], Search(beams=5), {}),
        (["--beams", 1], Search(beams=1), {}),
        (["--number", 5], Search(beams=5, number=5), {}),
        (["--number", 2], Search(number=2), {}),
        (["--beams", 4, "--number", 4], Search(beams=4, number=4), {}),
        (["--min-length", 20, "--max-length", 25], Search(min_length=20, max_length=25), {}),
        (["--max-length", 7], Search(min_length=7, max_length=7), {}),
        (["--repetition-penalty", 1.5], Search(repetition_penalty=1.5), {}),
        (["--sample"], Search(sampling=Sampling(0, 0.9), repetition_penalty=1.1), {}),
        (
            ["--sample", "--seed", 4, "--top-p", 0.5, "--number", 7, "--repetition-penalty", 1],
            Search(beams=7, sampling=Sampling(4, 0.5), number=7),
            {},
        ),
        (["--tags", "a b,c", "--add-tags"], Search(), {"tags": ("a b", "c"), "add_tags": True}),
        (
            ["--threshold", 0.3, "--batch-size", 3, "--max-pixels", 99],
            Search(),
            {"threshold": 0.3, "batch_size": 3, "max_pixels": 99},
        ),
    ],
    ids=str,
)
def test_options_reach_the_search(
    arguments: list[object],
    search: Search,
    more: dict[str, Any],
    caption: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert asked(caption, monkeypatch, *arguments) == PLAIN | {"search": search} | more


def test_a_model_folder_writes_as_its_bundle(taglens: Run) -> None:
    rows = [
        taglens("caption", "0.png", "d", "--json", "--model", model).rows for model in ("bundle", "model")
    ]
    bundle, model = ([row["caption"] for row in each] for each in rows)
    assert bundle == model
    assert all(row["model"].startswith("small@") for each in rows for row in each)


# -- for people ------------------------------------------------------------------------------------


def test_the_plain_listing(caption: Run) -> None:
    outcome = caption("0.png", "broken.png", "--tags", "zebra,car", "--number", "2")
    (row, _) = caption("0.png", "broken.png", "--tags", "zebra,car", "--number", "2", "--json").rows
    first, second = (one["text"] for one in row["captions"])
    blocks = outcome.out.split("\n\n")
    assert blocks[0].splitlines() == [
        "0.png  24 × 32",
        f"  {first}",
        "    not said: zebra, car",
        f"  {second}",
        "    not said: zebra, car",
        "  guided by: zebra, car",
    ]
    assert blocks[1].startswith("broken.png\n  error: truncated: ")
    assert "\x1b" not in outcome.out and "2 pictures, 1 failed" in outcome.err


def test_the_listing_says_that_nothing_guides_and_what_does_not_fit(caption: Run) -> None:
    assert (
        "  guided by: no tag reaches its threshold; guide it: --tags"
        in caption("0.png", "--threshold", "1").out
    )
    many = ",".join(f"{a}{b}" for a in "bcde" for b in "fghi")
    assert "  note: 13 of 16 guide tags were read whole" in caption("0.png", "--tags", many).out


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_names_tags_and_captions_cannot_command_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    hostile = "a\x1b[2Jb\r[red]"
    said = Caption(hostile, -1.0, unmet=(hostile,))
    row = Captioned(hostile, 3, 4, (said, Caption("", -2.0)), (hostile,), "m", notes=("first frame of 2",))
    failed = Captioned("x", None, None, None, None, "m", error=Failure("empty", "has \x9b2J no content"))
    shown = []
    for stream in (Terminal(), io.StringIO()):
        listing = CaptionListing(stream)
        listing.show(row)
        listing.show(failed)
        text = stream.getvalue()
        assert "\x1b[2J" not in text and "\r" not in text and "\x9b" not in text
        assert text.count("a\\x1b[2Jb\\r[red]") == 4 and "has \\x9b2J no content" in text
        assert "(no words)" in text and "first frame of 2" in text
        shown.append(text)
    assert "\x1b[" in shown[0] and "\x1b[" not in shown[1]
    assert re.sub(r"\x1b\[[\d;]*m", "", shown[0]).split() == shown[1].split()


# -- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--tags", ""], "--tags names no tag"),
        (["--tags", " , "], "--tags names no tag"),
        (["--add-tags"], "--add-tags says what to do with --tags"),
        (["--threshold", "1.5"], "--threshold must lie between 0 and 1, found 1.5"),
        (["--threshold", "nan"], "--threshold must lie between 0 and 1, found nan"),
        (["--beams", "0"], "--beams must be 1 or more, found 0"),
        (["--number", "0"], "--number must be 1 or more, found 0"),
        (["--number", "5", "--beams", "3"], "--number 5 needs as many --beams, found 3"),
        (["--max-length", "0"], "--max-length must be 1 or more, found 0"),
        (["--max-length", "4"], "--max-length must be 5 to 48 for this model"),
        (
            ["--max-length", "49"],
            "--max-length must be 5 to 48 for this model, the prompt included; found 49",
        ),
        (["--min-length", "-1"], "--min-length must be 0 or more, found -1"),
        (["--min-length", "31"], "--min-length 31 is above --max-length, 30"),
        (["--sample", "--top-p", "0"], "--top-p must be above 0 and at most 1, found 0"),
        (["--sample", "--top-p", "nan"], "--top-p must be above 0"),
        (["--sample", "--seed", "-1"], "--seed must be 0 or more, found -1"),
        (["--sample", "--beams", "2"], "--sample draws words and --beams searches"),
        (["--top-p", "0.5"], "--seed and --top-p say how --sample draws"),
        (["--seed", "0"], "--seed and --top-p say how --sample draws"),
        (["--repetition-penalty", "0"], "--repetition-penalty must be above 0, found 0"),
        (["--repetition-penalty", "inf"], "--repetition-penalty must be above 0, found inf"),
        (["--batch-size", "0"], "--batch-size must be 1 or more, found 0"),
        (["--max-pixels", "0"], "--max-pixels must be 1 or more, found 0"),
        (["--device", "tpu"], "tpu"),
        (["--engine", "torch"], "use onnx"),
    ],
    ids=" ".join,
)
def test_refusals_are_one_line_that_names_the_option(caption: Run, arguments: list[str], words: str) -> None:
    outcome = caption("0.png", "--json", *arguments)
    assert (outcome.status, outcome.out) == (2, "")
    assert outcome.err.startswith("taglens: error: ") and words in outcome.err
    assert outcome.err.count("\n") == 1


def test_a_short_caption_needs_no_other_least_length(caption: Run) -> None:
    assert caption("0.png", "--max-length", "6", "--json").rows[0]["caption"]


@pytest.mark.parametrize("command", [["caption"], ["tag", "--caption"]])
def test_a_model_without_captions_is_refused_with_the_cure(
    command: list[str], taglens: Run, weights: Path
) -> None:
    assert taglens("convert", weights, "--out", "mute", "--json").status == 0
    outcome = taglens(*command, "0.png", "--json", "--model", "mute")
    assert (outcome.status, outcome.out) == (2, "")
    assert "writes no captions" in outcome.err and "the starter" in outcome.err
    assert "taglens pull tag2text" in outcome.err and outcome.err.count("\n") == 1


def test_the_starter_writes_captions(taglens: Run) -> None:
    outcome = taglens("caption", "0.png", "--json", "--beams", "2", "--number", "2")
    assert outcome.status == 0
    (row,) = outcome.rows
    assert row["caption"] == row["captions"][0]["text"] and len(row["caption"].split()) > 2
    assert row["captions"][0]["score"] >= row["captions"][1]["score"]
    assert len(row["guide_tags"]) <= 10
    tagged = taglens("tag", "0.png", "--caption", "--json").rows[0]
    assert isinstance(tagged["caption"], str)


def test_a_damaged_bundle_is_named_and_still_tags(taglens: Run, models: Path) -> None:
    shutil.copytree(models / "bundle", "cut")
    Path("cut/writer.onnx").write_bytes(Path("cut/writer.onnx").read_bytes()[:-1])
    outcome = taglens("caption", "0.png", "--model", "cut", "--json")
    assert (outcome.status, outcome.out) == (2, "") and "writer.onnx" in outcome.err
    assert taglens("tag", "0.png", "--model", "cut", "--json").status == 0


def test_an_interruption_keeps_what_was_written(caption: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Tagger.caption

    def interrupted(self: Tagger, *given: Any, **more: Any) -> Iterator[Any]:
        rows = whole(self, *given, **more)
        yield next(rows)
        raise KeyboardInterrupt

    monkeypatch.setattr(Tagger, "caption", interrupted)
    outcome = caption("0.png", "1.png", "2.png", "--json")
    assert outcome.status == console.INTERRUPTED == 130
    assert [row["source"] for row in outcome.rows] == ["0.png"]
    assert "interrupted" in outcome.err and "Traceback" not in outcome.err


# -- beside tags -----------------------------------------------------------------------------------


def test_tags_with_the_same_sentence(caption: Run, taglens: Run) -> None:
    rows = caption("0.png", "gone.png", "1.png", "--json").rows
    outcome = taglens("tag", "0.png", "gone.png", "1.png", "--json", "--caption", "--model", "bundle")
    assert outcome.status == 1
    assert [row["caption"] for row in outcome.rows] == [row["caption"] for row in rows]
    assert all(row["tags"] for row in outcome.rows if row["error"] is None)
    shown = taglens("tag", "0.png", "--caption", "--model", "bundle", "--top", "1").out
    assert f"  caption: {rows[0]['caption']}\n" in shown
    assert "caption" not in taglens("tag", "0.png", "--model", "bundle").out


# -- conversion ------------------------------------------------------------------------------------


@pytest.fixture
def weights(here: Path) -> Path:
    """A published Tag2Text in a folder of its own, where nothing stands beside it."""
    Path("w").mkdir()
    save_file(small.state(), "w/t2t.safetensors")
    return Path("w/t2t.safetensors")


def test_word_pieces_by_option_or_beside_the_file_make_a_writer(taglens: Run, weights: Path) -> None:
    (Path("words.txt"), small.write_pieces(Path("words.txt")))
    outcome = taglens("convert", weights, "--out", "m1", "--word-pieces", "words.txt", "--json")
    assert outcome.status == 0 and outcome.rows[0]["captions"] is True, outcome.err
    assert "writes captions" in outcome.err and "left out" not in outcome.err
    small.write_pieces(Path("w/vocab.txt"))
    assert taglens("convert", weights, "--out", "m2", "--json").rows[0]["captions"] is True
    captions = []
    for folder in ("m1", "m2"):
        assert writes_captions(folder)
        assert Path(folder, "vocab.txt").read_bytes() == Path("words.txt").read_bytes()
        captions.append(taglens("caption", "0.png", "--model", folder, "--json").rows[0]["caption"])
    assert captions[0] == captions[1]


def test_without_word_pieces_the_cure_is_told(taglens: Run, weights: Path) -> None:
    outcome = taglens("convert", weights, "--out", "m", "--json")
    assert outcome.status == 0 and outcome.rows[0]["captions"] is False
    assert "without the word pieces nothing can be written" in outcome.err
    assert "--word-pieces FILE" in outcome.err and "bert-base-uncased" in outcome.err
    assert not writes_captions("m") and not Path("m/vocab.txt").exists()
    outcome = taglens("caption", "0.png", "--model", "m")
    assert outcome.status == 2 and "writes no captions" in outcome.err


def test_other_word_pieces_are_refused_and_nothing_is_written(taglens: Run, weights: Path) -> None:
    lines = [*small.PIECES, "more"]
    Path("more.txt").write_text("\n".join(lines) + "\n", "utf-8")
    Path("none.txt").write_text("a\nb\n", "utf-8")
    for file, words in (
        ("more.txt", "word pieces"),
        ("none.txt", "none.txt"),
        ("gone.txt", "gone.txt"),
        ("d", "d"),
    ):
        outcome = taglens("convert", weights, "--out", "m", "--word-pieces", file)
        assert outcome.status == 2 and words in outcome.err and outcome.err.count("\n") == 1, file
        assert outcome.err.startswith("taglens: error: ") and not Path("m").exists()


def test_a_vocabulary_beside_a_model_that_writes_nothing_is_none_of_its(taglens: Run, here: Path) -> None:
    save_file({key: value.contiguous() for key, value in published.ram().items()}, "ram.safetensors")
    Path("vocab.txt").write_text("no word pieces\n", "utf-8")
    outcome = taglens("convert", "ram.safetensors", "--out", "m", "--json")
    assert outcome.status == 0 and outcome.rows[0]["captions"] is False, outcome.err
    small.write_pieces(Path("words.txt"))
    outcome = taglens("convert", "ram.safetensors", "--out", "n", "--word-pieces", "words.txt")
    assert outcome.status == 2 and "--word-pieces" in outcome.err and not Path("n").exists()


def test_a_bundle_says_that_it_writes(taglens: Run) -> None:
    outcome = taglens("bundle", "model", "--out", "b")
    assert outcome.status == 0 and outcome.err.rstrip().endswith("writes captions"), outcome.err
    assert sorted(path.name for path in Path("b").iterdir()) == sorted(
        ["config.json", "guide.onnx", "model.onnx", "vocab.txt", "vocabulary.jsonl", "writer.onnx"]
    )
    rows = [taglens("caption", "0.png", "--model", model, "--json").rows[0] for model in ("b", "bundle")]
    assert rows[0] == rows[1], "made anew, it has the same fingerprint too"

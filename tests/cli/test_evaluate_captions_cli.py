"""``taglens evaluate --task caption`` from outside: models and files of captions, one object, statuses, refusals."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from caption_twins import TwinMetrics
from taglens.cli import evaluate_captions
from taglens.cli.main import start
from taglens.errors import MissingExtraError
from taglens.inference.captioning import Search
from taglens.inference.sources import Source
from taglens.inference.tagger import Tagger
from taglens.results import Caption, Captioned, Failure

TRAIN = [
    {"image": f"{n}.jpg", "captions": [f"a man runs on {where}"], "split": "train"}
    for n, where in enumerate(("grass", "sand", "ice"))
]
VAL = [
    {"image": "pictures/a.jpg", "captions": ["A dog runs .", "the dog"], "split": "val"},
    {"image": "pictures/b.jpg", "captions": ["A cat sits on the grass ."], "split": "val"},
    {"image": "pictures/c.jpg", "captions": ["Two men ."], "split": "val"},
]
SAID = {"pictures/a.jpg": "a dog runs", "pictures/b.jpg": "a cat on the grass", "pictures/c.jpg": "two men"}


class Outcome:
    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    @property
    def found(self) -> dict[str, Any]:
        (line,) = self.out.splitlines()
        found: dict[str, Any] = json.loads(line)
        return found


Run = Callable[..., Outcome]


class FakeCaptioner:
    """Says `SAID` of the pictures, and of others that they are not there."""

    ref = "fake@0123456789ab"

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def caption(self, sources: Iterable[Source], **arguments: Any) -> Iterator[Captioned]:
        self.calls.append(arguments)
        for source in sources:
            said = SAID.get(source.shown)
            captions = None if said is None else (Caption(said, -1.0),)
            error = Failure("not_found", f"{source.path}: there is none") if said is None else None
            yield Captioned(source.shown, None, None, captions, (), self.ref, error=error)


def write(path: Path, rows: Iterable[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def captioner(monkeypatch: pytest.MonkeyPatch) -> FakeCaptioner:
    fake = FakeCaptioner()
    monkeypatch.setattr(Tagger, "from_pretrained", lambda *_, **__: fake)
    return fake


@pytest.fixture
def metrics(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The slow twins in place of the package; what the package would have been told."""
    told: list[dict[str, Any]] = []

    def measured(**arguments: Any) -> Callable[[], TwinMetrics]:
        told.append(arguments)
        return TwinMetrics

    monkeypatch.setattr(evaluate_captions, "measured_by_package", measured)
    return told


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "captions.jsonl", [*TRAIN, *VAL])
    write(
        tmp_path / "rows.jsonl",
        [{"source": image, "caption": text, "error": None} for image, text in SAID.items()],
    )
    return tmp_path


@pytest.fixture
def evaluate(here: Path, metrics: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: object) -> Outcome:
        with pytest.raises(SystemExit) as exit:
            start(["evaluate", "--task", "caption", "--data", "captions.jsonl", *map(str, arguments)])
        out, err = capsys.readouterr()
        return Outcome(int(exit.value.code or 0), out, err)

    return run


def test_a_model_is_asked_once_for_every_picture(evaluate: Run, captioner: FakeCaptioner) -> None:
    outcome = evaluate(
        "--model", "whatever", "--beams", 2, "--tags", "dog, cat", "--add-tags", "--batch-size", 4
    )
    assert (outcome.status, outcome.err) == (0, "")
    assert (outcome.found["images"], outcome.found["failed"], outcome.found["distinct_captions"]) == (3, 0, 3)
    assert outcome.found["constant_baseline"]["chosen_from"] == "train"
    assert outcome.found["constant_baseline"]["caption"].startswith("a man runs on")
    (call,) = captioner.calls
    assert call == {
        "tags": ("dog", "cat"),
        "add_tags": True,
        "threshold": None,
        "search": Search(beams=2),
        "batch_size": 4,
    }


def test_captions_are_searched_for_as_the_caption_command_does(
    evaluate: Run, captioner: FakeCaptioner
) -> None:
    evaluate()
    evaluate("--no-tags")
    evaluate("--threshold", "0.25")
    assert [call["tags"] for call in captioner.calls] == [None, (), None]
    assert [call["threshold"] for call in captioner.calls] == [None, None, 0.25]
    assert all(call["search"] == Search() for call in captioner.calls)


def test_what_a_model_writes_can_be_kept_and_evaluated_again(
    evaluate: Run, captioner: FakeCaptioner, here: Path
) -> None:
    write(here / "captions.jsonl", [*TRAIN, *VAL, {**VAL[0], "image": "pictures/gone.jpg"}])
    outcome = evaluate("--out", "kept.jsonl")
    assert outcome.status == 1 and outcome.found["failed"] == 1
    rows = [json.loads(line) for line in Path("kept.jsonl").read_text("utf-8").splitlines()]
    assert [row["caption"] for row in rows] == [*SAID.values(), None]
    assert not list(here.glob("*.part"))
    again = evaluate("--predictions", "kept.jsonl")
    assert again.out == outcome.out and again.status == 1
    assert len(captioner.calls) == 1


def test_a_file_of_captions_needs_no_model(evaluate: Run) -> None:
    outcome = evaluate("--predictions", "rows.jsonl", "--json")
    assert outcome.status == 0 and outcome.err == ""
    # dog, run; cat, grass; man. The cat also sits.
    assert outcome.found["tag_precision"] == 1 and 0.5 < outcome.found["tag_recall"] < 1
    assert outcome.found["vocabulary"].startswith("starter@")
    assert outcome.found["BLEU-1"] > 0.5 > outcome.found["constant_baseline"]["BLEU-1"]


def test_pictures_without_a_caption_are_told_and_status_is_one(evaluate: Run, here: Path) -> None:
    error = {"type": "empty", "message": "0 bytes"}
    write(
        here / "rows.jsonl",
        [
            {"source": "x/a.jpg", "caption": "other"},
            {"source": "pictures/a.jpg", "caption": "a dog"},
            {"source": "pictures/b.jpg", "caption": None, "error": error},
        ],
    )
    outcome = evaluate("--predictions", "rows.jsonl")
    assert outcome.status == 1 and outcome.found["failed"] == 2 and outcome.found["CIDEr"] is None
    assert "1 of 3 rows of rows.jsonl are about none of the pictures" in outcome.err
    assert "2 of 3 pictures have no caption and are left out: pictures/b.jpg, pictures/c.jpg" in outcome.err


def test_a_split_is_chosen_and_train_is_not_its_own_judge(evaluate: Run, here: Path) -> None:
    write(here / "rows.jsonl", [{"source": row["image"], "caption": "a man"} for row in TRAIN])
    outcome = evaluate("--predictions", "rows.jsonl", "--split", "train")
    assert outcome.found["images"] == 3
    assert outcome.found["constant_baseline"]["chosen_from"] == "evaluated"


def test_true_tags_from_another_file(evaluate: Run, here: Path) -> None:
    rows = [
        {"image": "pictures/a.jpg", "labels": ["hound", "run"]},
        {"image": "pictures/c.jpg", "labels": None},
    ]
    outcome = evaluate("--predictions", "rows.jsonl", "--labels", write(here / "labels.jsonl", rows))
    assert (outcome.found["tag_truth"], outcome.found["tag_images"]) == ("labels", 1)
    write(here / "labels.jsonl", [{"image": "a.jpg", "labels": ["dog"]}])
    outcome = evaluate("--predictions", "rows.jsonl", "--labels", "labels.jsonl")
    assert outcome.status == 2 and "has no labels of the 3 pictures, such as pictures/a.jpg" in outcome.err


def test_tags_of_another_vocabulary(evaluate: Run, here: Path) -> None:
    (here / "words.txt").write_text("dog\n")
    outcome = evaluate("--predictions", "rows.jsonl", "--vocabulary", "words.txt")
    assert outcome.found["tag_recall"] == 1 and outcome.found["constant_baseline"]["tag_recall"] == 0


def test_java_programs_are_asked_for_by_options(evaluate: Run, metrics: list[dict[str, Any]]) -> None:
    for options in ((), ("--no-meteor",), ("--meteor", "--spice")):
        evaluate("--predictions", "rows.jsonl", *options)
    assert metrics == [
        {"meteor": None, "spice": False},
        {"meteor": False, "spice": False},
        {"meteor": True, "spice": True},
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--scores", "x.npz"], "--scores belongs to --task tagging"),
        (["--open-set"], "--open-set belongs to --task tagging"),
        (
            ["--predictions", "rows.jsonl", "--beams", "2"],
            "--beams belongs to a model, without --predictions",
        ),
        (["--predictions", "rows.jsonl", "--no-tags"], "--no-tags belongs to a model"),
        (["--predictions", "rows.jsonl", "--out", "x.jsonl"], "give one"),
        (["--predictions", "none.jsonl"], "--predictions: expected a file at none.jsonl"),
        (["--predictions", "captions.jsonl"], "source"),
        (["--labels", "none.jsonl"], "--labels: expected a file"),
        (["--vocabulary", "none.jsonl"], "cannot read vocabulary none.jsonl"),
        (["--out", "no/x.jsonl"], "--out no/x.jsonl: expected a file name in a folder that exists"),
        (["--no-tags", "--tags", "dog"], "--no-tags writes without a guide"),
        (["--add-tags"], "--add-tags says what to do with --tags"),
        (["--tags", " , "], "--tags names no tag"),
        (["--beams", "0"], "--beams must be 1 or more"),
        (["--split", "test"], "no row of split 'test'"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_a_model_is_loaded(
    evaluate: Run, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    def loaded(*_: object, **__: object) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr(Tagger, "from_pretrained", loaded)
    outcome = evaluate(*options)
    assert outcome.status == 2 and outcome.out == ""
    assert message in outcome.err and "Traceback" not in outcome.err


def test_options_of_captions_are_refused_for_tags(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(here / "labels.jsonl", [{"image": "a.jpg", "labels": ["dog"]}])
    for options in (
        ["--predictions", "rows.jsonl"],
        ["--beams", "2"],
        ["--spice"],
        ["--no-meteor"],
        ["--no-tags"],
    ):
        with pytest.raises(SystemExit) as exit:
            start(["evaluate", "--data", "labels.jsonl", *options])
        assert exit.value.code == 2
        assert (
            f"{options[0].replace('--no-meteor', '--meteor')} belongs to --task caption"
            in capsys.readouterr().err
        )
    with pytest.raises(SystemExit):
        start(["evaluate", "--data", "labels.jsonl", "--task", "dance"])
    assert "--task dance: expected one of tagging, caption" in capsys.readouterr().err


def test_without_the_package_nothing_is_begun(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent() -> None:
        raise MissingExtraError("pycocoevalcap", extra="eval", purpose="evaluating captions")

    monkeypatch.setattr(evaluate_captions, "require_scorers", absent)
    with pytest.raises(SystemExit) as exit:
        start(["evaluate", "--task", "caption", "--data", "captions.jsonl"])
    assert exit.value.code == 2
    assert "pip install 'taglens[eval]'" in capsys.readouterr().err

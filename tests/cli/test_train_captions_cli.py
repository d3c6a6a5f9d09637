"""From a tagger to one that writes and finds, on the command line: train captions, bundle, caption."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner, Result

import tiny
from taglens.cli.main import app
from taglens.errors import UsageError
from taglens.models.checkpoint import save_pretrained
from taglens.training import text_recipes
from taglens.training.loop import LoopConfig
from taglens.training.text_data import TextStream
from taglens.training.text_settings import TextRunConfig, Texts
from taglens.vocabulary import Entry, Vocabulary

COLOURS = {"red": (220, 40, 30), "green": (40, 200, 60), "blue": (30, 60, 220)}
WORDS = Vocabulary(
    [
        Entry("dog", "object", threshold=0.3),
        Entry("ball", "object", threshold=0.3),
        *(Entry(name, "attribute", threshold=0.3) for name in COLOURS),
        Entry("run", "action", threshold=0.3),
    ],
    name="colours",
)
SMALL = ("--width", 16, "--depth", 1, "--heads", 2, "--ffn-width", 32, "--least-count", 2, "--most-tags", 3)


def taglens(*arguments: object, status: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == status, result.output
    return result


def write_captions(folder: Path) -> Path:
    """Twelve pictures of one colour each, every third for validation, two captions each."""
    folder.mkdir(parents=True)
    rows = []
    for number in range(12):
        colour = list(COLOURS)[number % 3]
        Image.fromarray(np.full((40, 48, 3), COLOURS[colour], np.uint8)).save(folder / f"{number:02d}.png")
        captions = [f"A {colour} dog runs .", f"A dog with a {colour} ball ."]
        split = "val" if number >= 9 else "train"
        rows.append({"image": f"{number:02d}.png", "captions": captions, "split": split})
    path = folder / "captions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``tagger/``, the shard folder ``shards/``, and plain captions in ``plain.txt``."""
    root = tmp_path_factory.mktemp("captions")
    WORDS.save(root / "words.jsonl")
    torch.manual_seed(0)
    save_pretrained(tiny.recognizer(tags=len(WORDS)), WORDS, root / "tagger", name="colours")
    captions = write_captions(root / "corpus")
    taglens("shards", "build", captions, "--vocabulary", root / "words.jsonl", "--out", root / "shards")
    (root / "plain.txt").write_text("a blue ball on the grass\na dog runs over the grass\n" * 3)
    return root


def train(place: Path, out: Path, *more: object, steps: int = 3, status: int = 0) -> Result:
    return taglens(
        *("train", "captions", "--init", place / "tagger", "--shards", place / "shards", "--out", out),
        *("--steps", steps, "--batch-size", 4, "--warmup", 1, "--views", 2, "--precision", "fp32"),
        *("--device", "cpu", *SMALL, *more),
        status=status,
    )


def tensors(run: Path) -> dict[str, torch.Tensor]:
    files = ("model", "captioner", "aligner")
    found = {file: load_file(run / "model" / f"{file}.safetensors") for file in files}
    return {f"{file}.{key}": value for file, state in found.items() for key, value in state.items()}


def same(one: Path, other: Path) -> bool:
    left, right = tensors(one), tensors(other)
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def log(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def trained(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "run"
    train(place, out)
    return out


def test_the_result_writes_finds_and_tags_as_before(place: Path, trained: Path, tmp_path: Path) -> None:
    taglens("bundle", trained / "model", "--out", tmp_path / "bundle")
    picture = place / "corpus" / "00.png"
    row = json.loads(taglens("caption", picture, "--model", tmp_path / "bundle", "--json").stdout)
    assert row["error"] is None and isinstance(row["caption"], str) and len(row["guide_tags"]) <= 3
    rows = [
        json.loads(taglens("tag", picture, "--model", model, "--threshold", 0, "--top", 0, "--json").stdout)
        for model in (place / "tagger", trained / "model")
    ]
    assert rows[0]["tags"] == rows[1]["tags"] and len(rows[0]["tags"]) == len(WORDS)


def test_the_log_names_each_loss_and_what_held_out_pictures_say(trained: Path) -> None:
    *_, losses, figures = log(trained)
    assert {"lm", "itc", "itm"} < set(losses)
    assert set(figures["evaluation"]) == {"lm", "lm_said", "lm_none", "R@10"}
    assert figures["evaluation"]["R@10"] == 1.0  # of three pictures
    assert losses["lm"] > 0


def test_the_same_command_resumes_to_the_bit(
    place: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = TextStream.batch

    def killed(self: TextStream, number: int) -> Any:
        if number == 2 and self.batch_size == 4:
            raise KeyboardInterrupt
        return original(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(TextStream, "batch", killed)
        said = train(place, tmp_path / "killed", "--checkpoint-every", 1, status=130)
    assert "interrupted" in said.stderr and not (tmp_path / "killed" / "model").exists()
    said = train(place, tmp_path / "killed", "--parsed", 0.1, status=2)
    assert "begun with other mix" in said.stderr
    train(place, tmp_path / "killed")
    assert same(trained, tmp_path / "killed")
    train(place, tmp_path / "other", "--seed", 1)
    assert not same(trained, tmp_path / "other")


def test_encoded_pictures_serve_the_next_run_and_do_not_stay_behind(place: Path, tmp_path: Path) -> None:
    views = tmp_path / "views"
    train(place, tmp_path / "first", "--until", 1)
    kept = list((tmp_path / "first" / "views").iterdir())
    assert len(kept) == 2
    train(place, tmp_path / "first")
    assert not (tmp_path / "first" / "views").exists()
    train(place, tmp_path / "second", "--keep-views", views)
    stamps = {path: path.stat().st_mtime_ns for path in views.iterdir()}
    train(place, tmp_path / "third", "--keep-views", views, "--parsed", 1.0)
    assert {path: path.stat().st_mtime_ns for path in views.iterdir()} == stamps and len(stamps) == 2
    assert same(tmp_path / "first", tmp_path / "second") and not same(tmp_path / "first", tmp_path / "third")


def test_plain_captions_teach_writing_before_and_beside_pictures(place: Path, tmp_path: Path) -> None:
    text = ("--text", place / "plain.txt")
    taglens(
        *("train", "captions", "--init", place / "tagger", *text, "--out", tmp_path / "first", "--steps", 2),
        *("--batch-size", 4, "--loss-weight", "itc=0", "--loss-weight", "itm=0", *SMALL),
    )
    assert set(log(tmp_path / "first")[0]) >= {"plain_lm"}
    assert not (tmp_path / "first" / "model" / "aligner.safetensors").exists()
    train(place, tmp_path / "both", "--init", tmp_path / "first" / "model", *text)
    assert {"plain_lm", "lm", "itc"} < set(log(tmp_path / "both")[0])
    pieces = [(tmp_path / run / "model" / "vocab.txt").read_text() for run in ("first", "both")]
    assert pieces[0] == pieces[1] and "grass" in pieces[0].split("\n")


def test_questions_are_learned_beside_captions_and_asked_without_torch(place: Path, tmp_path: Path) -> None:
    rows = [
        {
            "image": f"{number:02d}.png",
            "question": "what is it?",
            "answers": ["a dog"],
            "type": "thing",
            "split": "train",
        }
        for number in range(9)
    ]
    questions = place / "corpus" / "questions.jsonl"
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    train(place, tmp_path / "run", "--questions", questions, "--batch-size", 6)
    assert {"lm", "answer_lm", "itc"} < set(log(tmp_path / "run")[0])
    taglens("bundle", tmp_path / "run" / "model", "--out", tmp_path / "bundle")
    asked = ("ask", place / "corpus" / "00.png", "--question", "what is it?", "--json")
    row = json.loads(taglens(*asked, "--model", tmp_path / "bundle").stdout)
    assert row["error"] is None and isinstance(row["answer"], str)
    other = tmp_path / "elsewhere.jsonl"
    other.write_text(json.dumps(rows[0] | {"image": "boat.png"}) + "\n")
    said = train(place, tmp_path / "none", "--questions", other, status=2)
    assert "none of 1 questions is about" in " ".join(said.stderr.split())


def test_the_whole_model_learns_where_it_is_asked_to(place: Path, tmp_path: Path) -> None:
    parts = [("--only", part) for part in ("recognizer", "captioner", "aligner")]
    shared = ("--shared-layers", 1, "--see-tags", "--loss-weight", "tag=1", "--views", 0)
    train(place, tmp_path / "run", *(word for part in parts for word in part), *shared)
    assert {"lm", "itc", "itm", "tag"} < set(log(tmp_path / "run")[0])
    before = load_file(place / "tagger" / "model.safetensors")
    after = load_file(tmp_path / "run" / "model" / "model.safetensors")
    moved = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
    assert {"encoder", "project", "decoder"} < moved


def test_what_cannot_be_learned_from_is_refused(place: Path, tmp_path: Path) -> None:
    def refused(*arguments: object) -> str:
        said = taglens("train", "captions", "--out", tmp_path / "run", "--steps", 1, *arguments, status=2)
        return " ".join(said.stderr.split())

    tagger = ("--init", place / "tagger")
    assert "nothing to learn from" in refused(*tagger)
    assert "no model folder" in refused("--init", tmp_path)
    assert "expected a file" in refused(*tagger, "--text", tmp_path / "none.txt")
    (tmp_path / "empty.txt").write_text("")
    assert "no caption" in refused(*tagger, "--text", tmp_path / "empty.txt")
    assert "would change with them" in refused(
        *tagger, "--text", place / "plain.txt", *SMALL, "--shared-layers", 1
    )
    assert "one of lm, itc, itm, tag" in refused(*tagger, "--loss-weight", "rank=1")
    other = Vocabulary([*WORDS.entries, Entry("boat", "object")], name="other")
    save_pretrained(tiny.recognizer(tags=len(other)), other, tmp_path / "other", name="other")
    said = refused("--init", tmp_path / "other", "--shards", place / "shards")
    assert WORDS.fingerprint in said and other.fingerprint in said
    assert not (tmp_path / "run" / "model").exists()


def test_shards_without_captions_are_named(place: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.jsonl"
    picture = str(place / "corpus" / "00.png")
    labels.write_text(json.dumps({"image": picture, "labels": ["dog"], "split": "train"}) + "\n")
    taglens("shards", "build", labels, "--vocabulary", place / "words.jsonl", "--out", tmp_path / "shards")
    said = taglens(
        *("train", "captions", "--init", place / "tagger", "--shards", tmp_path / "shards"),
        *("--out", tmp_path / "run", "--steps", 1),
        status=2,
    )
    assert "has no captions" in said.stderr


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch, place: Path, tmp_path: Path) -> None:
    monkeypatch.setattr(text_recipes.parallel, "size", lambda: 2)
    with pytest.raises(UsageError, match="one process"):
        text_recipes.run([], Texts(["a dog"]), _config(), start=place / "tagger", out=tmp_path, name="x")


def _config() -> TextRunConfig:
    return TextRunConfig(loop=LoopConfig(steps=1))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)

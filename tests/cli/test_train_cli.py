"""From pictures to a tagger on the command line: vocabulary, shards, train, bundle, tag."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner, Result

import tiny
from taglens.cli import train as command
from taglens.cli.main import app
from taglens.data.shards import ShardSet
from taglens.errors import MismatchError, UsageError
from taglens.training import recipes
from taglens.vocabulary import Vocabulary

# Words that no word list knows: what is built is what is labelled.
COLOURS = {"wug": (220, 40, 30), "dax": (40, 200, 60), "blicket": (30, 60, 220)}


@pytest.fixture(autouse=True)
def small_encoders(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program as it is, with encoders that take no time."""
    for name, encoder in tiny.ENCODERS.items():
        monkeypatch.setitem(recipes.ENCODERS, name, encoder)  # type: ignore[arg-type]


def taglens(*arguments: object, status: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == status, result.output
    return result


def write_corpus(folder: Path) -> Path:
    """Twelve pictures of three things, every third of them for validation."""
    (folder / "pictures").mkdir(parents=True)
    rows = []
    rng = np.random.default_rng(0)
    for number in range(12):
        name = list(COLOURS)[number % 3]
        noise = rng.integers(-30, 31, (40, 48, 3))
        pixels = np.clip(np.array(COLOURS[name]) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "pictures" / f"{number:02d}.png")
        split = "val" if number >= 8 else "train"
        rows.append({"image": f"pictures/{number:02d}.png", "labels": [name], "split": split})
    path = folder / "labels.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``corpus/``, ``words.jsonl`` and the shard folder ``shards/``."""
    root = tmp_path_factory.mktemp("corpus")
    labels = write_corpus(root / "corpus")
    taglens("vocabulary", "build", "--labels", labels, "--out", root / "words.jsonl", "--name", "three")
    taglens(
        *("shards", "build", labels, "--vocabulary", root / "words.jsonl"),
        *("--out", root / "shards", "--absent", "negative"),
    )
    return root


def train(out: Path, *more: object, shards: object, status: int = 0, steps: int = 2) -> Result:
    return taglens(
        *("train", "--shards", shards, "--out", out, "--steps", steps, "--side", 32, "--batch-size", 4),
        *("--warmup", 1, "--lr", "1e-3", "--precision", "fp32", "--device", "cpu", *more),
        status=status,
    )


def weights(run: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_file(run / "model" / "model.safetensors")
    return found


def same(left: Path, right: Path) -> bool:
    ours, theirs = weights(left), weights(right)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


# -- the whole way -----------------------------------------------------------------------------------


def test_from_captions_to_any_word(tmp_path: Path) -> None:
    """Labels read from text, captions asked beside them, tokens computed ahead: then any word is a tag."""
    labels = write_corpus(tmp_path / "corpus")
    rows = [json.loads(line) for line in labels.read_text().splitlines()]
    names = {"wug": "a dog on the grass", "dax": "a red boat", "blicket": "two people at the beach"}
    captions = labels.with_name("captions.jsonl")
    captions.write_text(
        "".join(
            json.dumps({"image": r["image"], "captions": [names[r["labels"][0]]], "split": r["split"]}) + "\n"
            for r in rows
        )
    )
    words, shards = tmp_path / "words.jsonl", tmp_path / "shards"
    taglens("vocabulary", "build", "--captions", captions, "--min-count", 1, "--out", words)
    described = {entry.name: entry.descriptions for entry in Vocabulary.load(words)}
    assert len(described["dog"]) >= 3, "the shipped descriptions join a vocabulary"
    taglens("shards", "build", captions, "--vocabulary", words, "--out", shards)

    run = tmp_path / "run"
    said = train(run, "--text-labels", "--views", 2, "--tags-per-step", 0, "--name", "reader", shards=shards)
    assert "shards: 8 pictures encoded in 2 views" in said.stderr
    log = json.loads((run / "log.jsonl").read_text().splitlines()[0])
    assert {"tag", "text", "pooled_tag", "pooled_text"} <= log.keys()
    # Tokens were computed before the first step: the encoder stood still, the rest did not.
    first = train(tmp_path / "first", "--text-labels", "--views", 1, shards=shards, steps=1)
    assert first.exit_code == 0
    ours, theirs = weights(run), weights(tmp_path / "first")
    still = [key for key in ours if key.startswith("encoder.")]
    assert still and all(torch.equal(ours[key], theirs[key]) for key in still)
    assert not torch.equal(ours["project.weight"], theirs["project.weight"])

    bundle = tmp_path / "bundle"
    taglens("bundle", run / "model", "--out", bundle, "--calibrate", shards)
    picture = str(tmp_path / "corpus" / "pictures" / "00.png")
    asked = ("--tags", "dog,rocket launch", "--threshold", 0, "--json")
    for model in (bundle, run / "model"):
        (row,) = [
            json.loads(line) for line in taglens("tag", picture, "--model", model, *asked).stdout.splitlines()
        ]
        assert {tag["id"] for tag in row["tags"]} == {"object:dog", "typed:rocket launch"}
    found = json.loads(taglens("evaluate", "--data", labels, "--model", bundle, "--open-set").stdout)
    assert found["classes"] == 3 and {c["matched"] for c in found["per_class"].values()} == {"typed"}


def test_learned_labels_give_way_to_text(corpus: Path, tmp_path: Path) -> None:
    """A model that learned its labels starts one that reads them: what saw pictures is taken over."""
    train(tmp_path / "learned", shards=corpus / "shards")
    train(
        *(tmp_path / "reader", "--text-labels", "--views", 1, "--init", tmp_path / "learned" / "model"),
        shards=corpus / "shards",
    )
    before, after = weights(tmp_path / "learned"), weights(tmp_path / "reader")
    assert "pooled_bias" in before and "pooled_query.0.weight" in after and "pooled_bias" not in after
    still = [key for key in after if key.startswith("encoder.")]
    assert all(torch.equal(before[key], after[key]) for key in still)
    # What was learned of the tags themselves is kept beside the text, and goes on to a third model.
    assert torch.equal(after["closed.read.bias"], before["pooled_bias"])
    assert torch.equal(after["closed.project.weight"], before["project.weight"])
    train(
        *(tmp_path / "third", "--text-labels", "--views", 1, "--init", tmp_path / "reader" / "model"),
        shards=corpus / "shards",
    )
    assert torch.equal(weights(tmp_path / "third")["closed.read.weight"], after["closed.read.weight"])


def test_from_pictures_to_tags(corpus: Path, tmp_path: Path) -> None:
    words = Vocabulary.load(corpus / "words.jsonl")
    assert sorted(words.ids) == ["object:blicket", "object:dax", "object:wug"]
    assert ShardSet.open(corpus / "shards").splits == {"train": 8, "val": 4}

    said = train(tmp_path / "run", "--name", "colours", shards=corpus / "shards")
    assert said.stdout == "" and "shards train: 8 pictures at 40 px" in said.stderr
    assert "shards val: 4 pictures at 32 px" in said.stderr
    assert f"model: {tmp_path / 'run' / 'model'}; log: {tmp_path / 'run' / 'log.jsonl'}" in said.stderr
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert log[0]["step"] == 2 and log[1]["step"] == 2 and set(log[1]["evaluation"]) == {"shards"}

    model = tmp_path / "run" / "model"
    said = taglens("bundle", model, "--out", tmp_path / "bundle", "--calibrate", corpus / "shards")
    assert "tags fitted on 4 pictures" in said.stderr and "colours@" in said.stderr
    stored = Vocabulary.load(tmp_path / "bundle" / "vocabulary.jsonl")
    assert stored.ref == words.ref and all(entry.threshold is not None for entry in stored)

    pictures = corpus / "corpus" / "pictures"
    tag = ("tag", pictures, "--json", "--threshold", 0, "--top", 0, "--quiet")
    said = taglens(*tag, "--model", tmp_path / "bundle")
    rows = [json.loads(line) for line in said.stdout.splitlines()]
    assert [row["source"] for row in rows] == [str(pictures / f"{number:02d}.png") for number in range(12)]
    for row in rows:
        assert (row["width"], row["height"], row["error"]) == (48, 40, None)
        assert sorted(tag["id"] for tag in row["tags"]) == sorted(words.ids)
        assert row["model"].startswith("colours@") and row["vocabulary"] == words.ref

    # The trained folder tags too, where torch is: as the bundle would, had it not been calibrated.
    taglens("bundle", model, "--out", tmp_path / "raw")
    tables = []
    for folder in (model, tmp_path / "raw"):
        said = taglens(*tag, "--model", folder, "--device", "cpu")
        tables.append([scores(json.loads(line)) for line in said.stdout.splitlines()])
    assert len(tables[0]) == len(tables[1]) == 12
    for left, right in zip(*tables, strict=True):
        assert left == pytest.approx(right, abs=2e-3)
    assert scores(rows[0]) != pytest.approx(tables[1][0], abs=2e-3), "and calibration does something"


def scores(row: dict[str, Any]) -> dict[str, float]:
    return {tag["id"]: tag["score"] for tag in row["tags"]}


# -- resuming and starting ---------------------------------------------------------------------------


def test_the_same_command_resumes_and_another_is_refused(corpus: Path, tmp_path: Path) -> None:
    shards = corpus / "shards"
    train(tmp_path / "straight", shards=shards, steps=3)
    calls = 0
    whole = recipes.train

    def killed(*arguments: Any, **options: Any) -> Any:
        def report(progress: Any) -> None:
            raise KeyboardInterrupt

        nonlocal calls
        calls += 1
        return whole(*arguments, **{**options, "report": report})

    # Killed at its end, after the checkpoint of its second step.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipes, "train", killed)
        said = train(tmp_path / "killed", "--checkpoint-every", 2, shards=shards, steps=3, status=130)
    assert calls == 1 and "interrupted" in said.stderr
    assert not (tmp_path / "killed" / "model").exists()
    said = train(tmp_path / "killed", "--seed", 5, shards=shards, steps=3, status=2)
    assert "other settings" in said.stderr and "another --out" in said.stderr
    # What the loop does not know of is compared too, and named.
    for more, named in (
        (("--loss-weight", "tag=2"), "other objective"),
        (("--gamma-negative", 2), "other objective"),
        (("--encoder", "hybrid"), "other encoder"),
    ):
        said = train(tmp_path / "killed", *more, shards=shards, steps=3, status=2)
        assert named in said.stderr and "another --out" in said.stderr
    said = train(tmp_path / "killed", shards=f"{shards}=1", steps=3, status=2)
    assert "other shares" in said.stderr
    train(tmp_path / "killed", shards=shards, steps=3)
    assert same(tmp_path / "straight", tmp_path / "killed")


def test_a_run_starts_from_another(corpus: Path, tmp_path: Path) -> None:
    shards = corpus / "shards"
    train(tmp_path / "first", shards=shards)
    said = train(
        tmp_path / "second", "--init", tmp_path / "first" / "model", "--only", "decoder", shards=shards
    )
    assert "0 of 3 tags are new" in said.stderr
    first, second = weights(tmp_path / "first"), weights(tmp_path / "second")
    for key, value in first.items():
        if not key.startswith("decoder."):
            # An average of equal weights is equal to rounding.
            assert torch.allclose(second[key].float(), value.float(), atol=1e-6), key
    assert any(not torch.equal(second[key], first[key]) for key in first if key.startswith("decoder."))
    said = train(
        *(tmp_path / "anew", "--init", tmp_path / "first" / "model", "--fresh", "decoder", "--seed", 7),
        shards=shards,
    )
    anew = weights(tmp_path / "anew")
    key = "decoder.layers.0.ffn.0.weight"
    assert (anew[key] - first[key]).abs().max() > 0.02 > (second[key] - first[key]).abs().max()
    said = train(
        tmp_path / "third",
        "--init",
        tmp_path / "first" / "model",
        "--encoder",
        "hybrid",
        shards=shards,
        status=2,
    )
    assert "another architecture" in said.stderr


def test_shares_choose_among_sources(corpus: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    taglens(
        *("shards", "build", corpus / "corpus" / "labels.jsonl", "--vocabulary", corpus / "words.jsonl"),
        *("--out", other),
    )
    said = train(tmp_path / "run", "--shards", f"{other}=0", shards=f"{corpus / 'shards'}=1")
    assert "shards train: 8" in said.stderr and "other" not in said.stderr, (
        "a source without a share is not read"
    )


# -- what cannot be meant ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (("--encoder", "pyramid"), "use convnet or hybrid"),
        (("--device", "gpu"), "use auto, cpu or cuda"),
        (("--precision", "fp16"), "use fp32 or bf16"),
        (("--lr", "0"), "above 0"),
        (("--loss-weight", "speed=1"), "tag, rank, text, pooled_tag, pooled_rank, pooled_text, distil"),
        (("--loss-weight", "tag=much"), "no number"),
        (("--only", "tail"), "no part 'tail'"),
        (("--init", "nowhere"), "no model folder"),
        (("--only", "decoder", "--loss-weight", "tag=0", "--loss-weight", "rank=0"), "nothing to learn"),
        (("--shards", "nowhere"), "nowhere"),
        (("--side", "16"), "32"),
        (("--steps", "0"), "1"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_a_wrong_option_is_named(more: tuple[str, ...], named: str, corpus: Path, tmp_path: Path) -> None:
    said = train(tmp_path / "run", *more, shards=corpus / "shards", status=2)
    assert named in said.stderr
    assert not (tmp_path / "run" / "model").exists()


def test_shard_arguments() -> None:
    folders = [Path("a/x"), Path("b/y")]
    assert command._sources(["a/x", "b/y"]) == (folders, {})
    assert command._sources(["a/x=0.5", "b/y=2"]) == (folders, {"x": 0.5, "y": 2.0})
    assert command._sources(["k=v/x=3"]) == ([Path("k=v/x")], {"x": 3.0})
    for wrong in (["a/x=1", "b/y"], ["a/x=-1"], ["a/x=much"], ["a/x="], ["a/x=nan"], ["a/x=inf"]):
        with pytest.raises(UsageError):
            command._sources(wrong)


def test_sources_of_different_vocabularies_do_not_mix(corpus: Path, tmp_path: Path) -> None:
    words = Vocabulary.load(corpus / "words.jsonl")
    Vocabulary(list(words)[::-1], name="turned").save(tmp_path / "turned.jsonl")
    taglens(
        *("shards", "build", corpus / "corpus" / "labels.jsonl", "--vocabulary", tmp_path / "turned.jsonl"),
        *("--out", tmp_path / "turned"),
    )
    with pytest.raises(MismatchError, match="different vocabularies"):
        recipes.open_sources([corpus / "shards", tmp_path / "turned"])
    with pytest.raises(UsageError, match="at least one"):
        recipes.open_sources([])
    train(tmp_path / "run", shards=corpus / "shards")
    said = taglens(
        *(
            "bundle",
            tmp_path / "run" / "model",
            "--out",
            tmp_path / "bundle",
            "--calibrate",
            tmp_path / "turned",
        ),
        status=2,
    )
    assert "another vocabulary" in said.stderr
    assert not (tmp_path / "bundle" / "config.json").exists()


def test_bundle_options(corpus: Path, tmp_path: Path) -> None:
    train(tmp_path / "run", shards=corpus / "shards")
    model = tmp_path / "run" / "model"
    said = taglens("bundle", model, "--out", tmp_path / "b", "--name", "other", "--side", 64, "--full")
    assert "other@" in said.stderr and "side 64" in said.stderr
    row = json.loads((tmp_path / "b" / "config.json").read_text())
    assert (row["name"], row["side"], row["half"], row["calibrated"]) == ("other", 64, False, False)
    for arguments, named in (
        (("--side", 33), "not a multiple of the encoder's stride 8"),
        (("--side", 0), "side 0"),
        (("--calibrate", corpus / "shards", "--split", "test"), "no held-out pictures"),
    ):
        said = taglens("bundle", model, "--out", tmp_path / "c", *arguments, status=2)
        assert named in said.stderr
    said = taglens("bundle", tmp_path / "b", "--out", tmp_path / "c", status=2)
    assert "is a bundle, exported already" in said.stderr

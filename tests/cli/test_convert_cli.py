"""``taglens convert``: published weights and lists in, a model folder out, or one line that says why not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

import published_weights as published
from taglens.cli.main import app
from taglens.vocabulary import Vocabulary

torch.set_num_threads(1)
NAMES = ("dog", "cat", "boat", "tree", "kite")


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.save({"model": published.ram()}, tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


@pytest.fixture
def tags(tmp_path: Path) -> Path:
    (tmp_path / "tags.txt").write_text("\n".join(NAMES) + "\n", "utf-8")
    return tmp_path / "tags.txt"


@pytest.fixture
def thresholds(tmp_path: Path) -> Path:
    (tmp_path / "thresholds.txt").write_text("0.05\n0.1\n0.15\n1.0\n0.65\n", "utf-8")
    return tmp_path / "thresholds.txt"


def test_weights_become_a_folder_and_a_bundle_that_tag(
    weights: Path, tags: Path, thresholds: Path, tmp_path: Path
) -> None:
    model, bundle, picture = tmp_path / "model", tmp_path / "bundle", tmp_path / "noise.png"
    run = invoke("convert", weights, "--tags", tags, "--thresholds", thresholds, "--out", model, "--json")
    assert run.exit_code == 0, run.stderr
    (row,) = (json.loads(line) for line in run.stdout.splitlines())
    assert (row["family"], row["tags"], row["descriptions"], row["side"]) == ("RAM++", 5, 51, 16)
    assert row["model"].startswith("weights@") and row["folder"] == str(model)
    vocabulary = Vocabulary.load(model / "vocabulary.jsonl")
    assert [entry.name for entry in vocabulary] == list(NAMES) and vocabulary.strict
    assert vocabulary.thresholds().tolist() == np.float32([0.05, 0.1, 0.15, 1.0, 0.65]).tolist()

    run = invoke("bundle", model, "--out", bundle)
    assert run.exit_code == 0, run.stderr
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)).save(picture)
    rows = []
    for folder in (model, bundle):
        run = invoke("tag", picture, "--model", folder, "--threshold", 0, "--json", "--device", "cpu")
        assert run.exit_code == 0, run.stderr
        rows.append({tag["name"]: tag["score"] for tag in json.loads(run.stdout)["tags"]})
    assert set(rows[0]) == set(NAMES)
    assert rows[1] == pytest.approx(rows[0], abs=1e-3)
    run = invoke("tag", picture, "--model", bundle, "--tags", "corgi")
    assert run.exit_code == 2 and "corgi" in run.stderr


def test_what_was_assumed_is_said(weights: Path, thresholds: Path, tmp_path: Path) -> None:
    run = invoke("convert", weights, "--out", tmp_path / "model")
    assert run.exit_code == 0 and run.stdout == ""
    assert "tags are called tag 1 to tag 5" in run.stderr and "no thresholds given" in run.stderr
    run = invoke(
        "convert", weights, "--out", tmp_path / "model", "--thresholds", thresholds, "--name", "mine"
    )
    assert run.exit_code == 0 and "no thresholds given" not in run.stderr and "mine@" in run.stderr


def test_a_converted_model_is_not_calibrated(weights: Path, tmp_path: Path) -> None:
    assert invoke("convert", weights, "--out", tmp_path / "model").exit_code == 0
    run = invoke("bundle", tmp_path / "model", "--out", tmp_path / "bundle", "--calibrate", tmp_path)
    assert run.exit_code == 2 and "keeps the thresholds" in run.stderr


@pytest.mark.parametrize("lines", ["dog\ncat\n", "dog\n" * 2, ""])
def test_other_tags_are_refused_and_nothing_is_written(weights: Path, lines: str, tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text(lines, "utf-8")
    run = invoke("convert", weights, "--tags", tmp_path / "other.txt", "--out", tmp_path / "model")
    assert run.exit_code == 2 and run.stdout == "" and run.stderr.startswith("taglens: error: ")
    assert run.stderr.count("\n") == 1
    assert not (tmp_path / "model").exists()


def test_other_files_are_refused_and_nothing_is_written(weights: Path, tmp_path: Path) -> None:
    weights.write_bytes(weights.read_bytes()[:-100])
    for file in (weights, tmp_path / "none.pth", tmp_path):
        run = invoke("convert", file, "--out", tmp_path / "model")
        assert run.exit_code == 2 and run.stderr.startswith("taglens: error: ")
        assert run.stderr.count("\n") == 1
        assert not (tmp_path / "model").exists()

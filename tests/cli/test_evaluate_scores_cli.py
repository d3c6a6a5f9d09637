"""``taglens evaluate --task caption`` with models that score captions: figures beside the others, or refusals."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tiny_transformers as tiny
from caption_twins import TwinMetrics
from taglens.cli import evaluate_captions
from taglens.cli.main import start
from taglens.evaluation.caption_scores import Array
from taglens.inference.tagger import Tagger

needs_transformers = pytest.mark.skipif(
    find_spec("transformers") is None,
    reason="transformers is not installed: pip install 'taglens[vlm]'",
)
SAID = {"a.png": "a dog runs", "b.png": "the cat sits"}
OTHERS = {"BERTScore-P", "BERTScore-R", "BERTScore-F1", "CLIPScore", "RefCLIPScore", "picture_similarity"}

Run = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.fixture
def evaluate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(evaluate_captions, "measured_by_package", lambda **_: TwinMetrics)
    rng = np.random.default_rng(0)
    rows, captions = [], []
    for name, said in SAID.items():
        Image.fromarray(rng.integers(0, 255, (20, 30, 3), dtype=np.uint8)).save(tmp_path / name)
        rows.append({"image": name, "captions": [f"{said} .", "a dog and a cat"], "split": "val"})
        captions.append({"source": name, "caption": said, "error": None})
    for file, content in (("captions.jsonl", rows), ("rows.jsonl", captions)):
        (tmp_path / file).write_text("".join(json.dumps(row) + "\n" for row in content))

    def run(*arguments: object) -> tuple[int, dict[str, Any], str]:
        with pytest.raises(SystemExit) as exit:
            start(
                [
                    *("evaluate", "--task", "caption", "--data", "captions.jsonl"),
                    *("--predictions", "rows.jsonl", *map(str, arguments)),
                ]
            )
        out, err = capsys.readouterr()
        return int(exit.value.code or 0), json.loads(out) if out else {}, err

    return run


def test_without_models_there_are_no_such_figures(evaluate: Run) -> None:
    status, found, _ = evaluate()
    assert status == 0 and not (OTHERS | {"scored_by"}) & (found.keys() | found["constant_baseline"].keys())


@needs_transformers
def test_models_on_disk_score_captions_and_the_constant_one(evaluate: Run, tmp_path: Path) -> None:
    bert, clip = tiny.bert(tmp_path / "bert"), tiny.clip(tmp_path / "clip")
    status, found, _ = evaluate(
        "--bertscore", bert, "--bertscore-layer", 2, "--clipscore", clip, "--device", "cpu"
    )
    wanted = OTHERS - {"picture_similarity"}
    assert status == 0 and wanted < found.keys() and wanted < found["constant_baseline"].keys()
    assert found["BERTScore-F1"] > found["constant_baseline"]["BERTScore-F1"]
    assert list(found["scored_by"]) == ["BERTScore", "CLIPScore"]
    assert (
        found["scored_by"]["BERTScore"].startswith("bert@") and ", layer 2" in found["scored_by"]["BERTScore"]
    )
    _, rare, _ = evaluate("--bertscore", bert, "--bertscore-layer", 2, "--bertscore-idf", "--device", "cpu")
    assert "rare pieces weigh more" in rare["scored_by"]["BERTScore"] and "CLIPScore" not in rare
    status, found, told = evaluate("--bertscore", bert, "--device", "cpu")
    assert (status, found) == (2, {}) and "say it with --bertscore-layer, 1 to 3" in told


class Aligned:
    """A tagger that aligns: every picture is one text, every text another."""

    ref = "aligned@0123456789ab"
    alignment = None

    def embed(self, files: Sequence[Path]) -> list[Any]:
        class Row:
            vector = np.array([1.0, 0.0], np.float32)

        return [Row() for _ in files]

    def embed_text(self, texts: Sequence[str]) -> Array:
        return np.array([[0.6, 0.8]] * len(texts), np.float32)


def test_a_model_of_our_own_compares_pictures_with_captions(
    evaluate: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[Any, ...]] = []

    def load(model: str, **options: Any) -> Aligned:
        told.append((model, options))
        return Aligned()

    monkeypatch.setattr(Tagger, "from_pretrained", load)
    status, found, _ = evaluate("--similarity", "some/model", "--device", "cpu", "--engine", "torch")
    assert status == 0 and found["picture_similarity"] == pytest.approx(0.6)
    assert found["constant_baseline"]["picture_similarity"] == pytest.approx(0.6)
    assert found["scored_by"] == {"picture_similarity": "aligned@0123456789ab"}
    assert told == [("some/model", {"engine": "torch", "device": "cpu"})]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--bertscore", "nowhere"], "--bertscore nowhere is no folder"),
        (["--clipscore", "rows.jsonl"], "nothing is fetched here"),
        (["--bertscore-layer", "3"], "belong to --bertscore"),
        (["--bertscore-idf"], "belong to --bertscore"),
        (["--task", "tagging", "--similarity", "x"], "belongs to --task caption"),
        (["--task", "retrieval", "--clipscore", "x"], "belongs to --task caption"),
        (["--task", "vqa", "--bertscore", "x"], "--bertscore belongs to --task caption"),
        (["--task", "vqa", "--bertscore-layer", "3"], "belongs to --task caption"),
        (["--task", "vqa", "--similarity", "x"], "belongs to --task caption"),
    ],
)
def test_what_cannot_be_meant_is_refused(evaluate: Run, options: list[str], message: str) -> None:
    status, found, told = evaluate(*options)
    assert (status, found) == (2, {}) and message in told


@needs_transformers
def test_a_folder_of_another_kind_is_refused(evaluate: Run, tmp_path: Path) -> None:
    status, _, told = evaluate("--clipscore", tiny.bert(tmp_path / "bert"))
    assert status == 2 and "is a bert; CLIPScore is computed with a clip" in told

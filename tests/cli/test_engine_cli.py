"""``taglens engine`` as a person calls it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import colours
from taglens.cli import engine as command
from taglens.cli.main import start


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(command, "_tagger", lambda *_: colours.tagger())
    rows = []
    for number in range(12):
        pixels = np.zeros((16, 16, 3), np.uint8)
        pixels[..., 2 if number == 4 else 0] = 200 + number
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        rows.append({"image": f"{number}.png", "labels": ["red"]})
    path = tmp_path / "labels.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def call(*words: object) -> int:
    with pytest.raises(SystemExit) as end:
        start(["engine", *map(str, words)])
    return int(end.value.code or 0)


def reds(out: Path) -> int:
    return sum(
        "red" in json.loads(line)["labels"] for line in (out / "labels.jsonl").read_text().splitlines()
    )


def test_run_undo_redo(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    options = ["--out", out, "--no-captions", "--kinds", "attribute", "--least-pictures", 5]
    assert call("run", corpus, *options, "--truth", corpus, "--json") == 0
    told = capsys.readouterr()
    report = json.loads(told.out)
    assert report["stages"]["given"]["labels"] == 12 and report["truth"]["pictures"] == 12
    assert "12 pictures in" in told.err and reds(out) == 11
    assert call("undo", out, "--tag", "red", "--quiet") == 0
    assert reds(out) == 12 and capsys.readouterr().err == ""
    assert call("redo", out, "--tag", "red") == 0
    assert reds(out) == 11
    assert call("undo", out, "--to", "yesterday") == 2
    assert "expected merged or given" in capsys.readouterr().err


def test_refusals_and_failures(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert call("run", corpus, "--out", out) == 2
    assert "writes no captions: leave them out (--no-captions)" in capsys.readouterr().err
    assert call("run", corpus, "--out", out, "--no-captions", "--regions", "dreams") == 2
    assert "expected crops, windows, attention, or a file of boxes" in capsys.readouterr().err
    assert call("run", corpus, "--out", out, "--no-captions", "--regions", "attention") == 2
    assert "needs a trained model folder" in capsys.readouterr().err
    assert not out.exists()
    (tmp_path / "3.png").write_bytes(b"")
    boxes = tmp_path / "boxes.jsonl"
    box = {"box": [0, 0, 8, 8], "name": "unheard of"}
    boxes.write_text(json.dumps({"image": "0.png", "boxes": [box]}) + "\n", "utf-8")
    assert call("run", corpus, "--out", out, "--no-captions", "--regions", boxes) == 1
    told = capsys.readouterr().err
    assert "unheard of (1)" in told and "1 pictures cannot be read" in told
    assert call("run", corpus, "--out", out, "--no-captions", "--regions", boxes, "--threshold", 0.9) == 2
    assert "Name another folder" in capsys.readouterr().err
    assert call("run", corpus, "--out", tmp_path / "b", "--no-captions", "--max-failures", 0) == 3

"""``taglens mosaics`` and ``taglens simulate-mllm`` from outside: from two sets to an answer about a mosaic."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from taglens.cli.main import start
from taglens.language.annotation_prompts import several
from taglens.vocabulary import Vocabulary

NAMES = ("koala", "goldfish", "cannon", "oboe", "trilobite", "train")


@pytest.fixture
def sets(tmp_path: Path) -> list[Path]:
    for at, name in enumerate(("first", "second")):
        folder = tmp_path / name
        folder.mkdir()
        rows = []
        for number, label in enumerate(NAMES[at * 3 : at * 3 + 3]):
            Image.new("RGB", (24, 24), (90 * number, 200 * at, 50 + 60 * number)).save(
                folder / f"{label}.png"
            )
            rows.append({"image": f"{label}.png", "labels": [label, "thing"]})
        (folder / "labels.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
        )
    return [tmp_path / "first", tmp_path / "second"]


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as exit:
        start([*map(str, arguments)])
    out, err = capsys.readouterr()
    return int(exit.value.code or 0), out, err


def test_mosaics_are_made_and_told(
    capsys: pytest.CaptureFixture[str], sets: list[Path], tmp_path: Path
) -> None:
    status, out, err = run(
        capsys, "mosaics", *sets, "--count", 7, "--side", 24, "--out", tmp_path / "m", "--json"
    )
    assert status == 0
    manifest = json.loads(out)
    assert manifest["plan"]["count"] == 7 and manifest["truth"] == "complete"
    assert "7 mosaics" in err and "6 classes" in err and "1 classes were left out" in err
    assert len((tmp_path / "m" / "labels.jsonl").read_text("utf-8").splitlines()) == 7
    status, out, err = run(capsys, "mosaics", *sets, "--count", 7, "--out", tmp_path / "m", "-q")
    assert status == 2 and out == "" and "name a new folder" in err
    status, out, err = run(capsys, "mosaics", *sets, "--count", 0, "--out", tmp_path / "n")
    assert status == 2 and "--count 0" in err and not (tmp_path / "n").exists()


def test_a_simulated_annotator_answers_counts_and_stops(
    capsys: pytest.CaptureFixture[str], sets: list[Path], tmp_path: Path
) -> None:
    run(capsys, "mosaics", *sets, "--count", 4, "--side", 32, "--out", tmp_path / "m", "-q")
    command = [sys.executable, "-c", "from taglens.cli.main import start; start()", "simulate-mllm"]
    given = [
        "--truth",
        tmp_path / "m",
        "--vocabulary",
        tmp_path / "m" / "vocabulary.jsonl",
        "--port",
        0,
        "--json",
    ]
    given += ["--senses", tmp_path / "m" / "senses.txt"]
    source = str(Path(__file__).resolve().parents[2] / "src")
    with subprocess.Popen(
        [*command, *map(str, given)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": source},
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        try:
            ready: dict[str, Any] = json.loads(process.stdout.readline())
            data = (tmp_path / "m" / "images" / "000000.jpg").read_bytes()
            url = f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
            parts = [
                {"type": "image_url", "image_url": {"url": url}},
                {"type": "text", "text": several(NAMES)},
            ]
            body = {
                "model": ready["model"],
                "temperature": 0,
                "messages": [{"role": "user", "content": parts}],
            }
            request = urllib.request.Request(f"{ready['url']}/chat/completions", json.dumps(body).encode())
            with urllib.request.urlopen(request, timeout=20) as reply:
                answer = json.load(reply)
            process.send_signal(signal.SIGTERM)
            rest = process.stdout.read()
            said = process.stderr.read()
            assert process.wait(20) == 0
        finally:
            process.kill()
    assert ready["url"].startswith("http://127.0.0.1:") and ready["simulated"] is True
    assert set(answer["choices"][0]["message"]["content"].split("\n")) <= {*NAMES, "NO"}
    assert json.loads(rest)["requests"]["several"] == 1
    assert "complete by construction" in said and "no model's" in said and "after 1 requests" in said


def test_a_truth_that_is_not_complete_is_said_to_be_so_and_nonsense_is_refused(
    capsys: pytest.CaptureFixture[str], sets: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taglens.cli.simulate_mllm._serve", lambda server: None)
    status, out, err = run(capsys, "simulate-mllm", "--truth", sets[0], "--port", 0, "--host", "0.0.0.0")
    assert status == 0 and out == ""
    assert "not known to be complete" in err and "no password" in err
    quiet = ["simulate-mllm", "--truth", sets[0], "--port", 0, "--off-list", 0.5]
    assert "add --no-schema" in run(capsys, *quiet)[2]
    assert "--no-schema" not in run(capsys, *quiet, "--no-schema")[2]
    words = sets[0] / "words.jsonl"
    Vocabulary.load(_list(sets[0], "koala\n")).save(words)
    status, _, err = run(capsys, "simulate-mllm", "--truth", sets[0], "--port", 0, "--vocabulary", words)
    assert status == 0 and "3 labels (5 times) are no tag" in err
    for option, value in (
        ("--refuse", 2),
        ("--port", 99999),
        ("--delay", -1),
        ("--senses", sets[0] / "none"),
    ):
        status, _, err = run(capsys, "simulate-mllm", "--truth", sets[0], option, value)
        assert status == 2 and "error" in err


def _list(folder: Path, names: str) -> Path:
    (folder / "words.txt").write_text(names, encoding="utf-8")
    return folder / "words.txt"

"""``taglens annotate band``, ``cost`` and ``downstream`` from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import colours
from taglens.cli.main import start
from taglens.inference.tagger import Tagger
from taglens.results import to_line

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def taglens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command beside ``train.jsonl`` (60 pictures), ``test.jsonl`` (40 others), ``bad.jsonl``, tags."""
    monkeypatch.chdir(tmp_path)
    tagger = colours.tagger()
    colours.VOCABULARY.save("tags.jsonl")
    draw = np.random.default_rng(0)
    for name, count, seed in (("train", 60, 0), ("test", 40, 1)):
        pictures = colours.write_pictures(Path(name), count, seed=seed)
        right, wrong = [], []
        for path, scores in tagger.scores(pictures):
            assert scores is not None
            names = [each for each, score in zip(colours.NAMES, scores, strict=True) if score > 0.5]
            right.append(to_line({"image": str(path), "labels": names}) + "\n")
            chance = [each for each in colours.NAMES if draw.random() < 0.5]
            wrong.append(to_line({"image": str(path), "labels": chance}) + "\n")
        Path(f"{name}.jsonl").write_text("".join(right))
        if name == "train":
            Path("bad.jsonl").write_text("".join(wrong))
    monkeypatch.setattr(Tagger, "from_pretrained", lambda *_, **__: tagger)

    def run(*arguments: Any) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit:
            start(["annotate", *map(str, arguments)])
        out, err = capsys.readouterr()
        return int(exit.value.code or 0), out, err

    return run


def test_a_band_is_printed_as_the_options_to_give(taglens: Run) -> None:
    code, out, err = taglens("band", "train.jsonl", "--vocabulary", "tags.jsonl")
    assert code == 0 and out.startswith("--below ") and " --above " in out
    assert "60 pictures" in err and "few to fit a band on" not in err
    code, out, _ = taglens(
        "band", "train.jsonl", "--vocabulary", "tags.jsonl", "--json", "--quiet", "--lost", 0.5
    )
    row = json.loads(out)
    assert code == 0 and row["pictures"] == 60 and row["lost"] <= 0.5
    code, _, err = taglens("band", "absent.jsonl", "--vocabulary", "tags.jsonl")
    assert code == 2 and "expected a file at absent.jsonl" in err


def test_sources_are_taught_and_told(taglens: Run) -> None:
    given = (
        "--human",
        "train.jsonl",
        "--test",
        "test.jsonl",
        "--epochs",
        20,
        "--resamples",
        20,
        "--seeds",
        2,
    )
    names = ("same=train.jsonl", "bad=bad.jsonl")
    code, out, _ = taglens("downstream", *names, *given, "--baseline", "bad", "--features", "kept.npz")
    assert code == 0 and "60 pictures taught, 40 tested, 4 classes" in out and "the best baseline" in out
    assert Path("kept.npz").exists() and Path("kept.npz.test").exists()
    code, out, _ = taglens(
        "downstream", *names, *given, "--baseline", "bad", "--features", "kept.npz", "--json",
        "--vocabulary", "tags.jsonl",
    )  # fmt: skip
    row = json.loads(out)["sources"]
    assert code == 0 and set(row) == {"human", "same", "bad"}
    assert row["same"]["mAP"] == row["human"]["mAP"] and row["same"]["quality"]["OF1"] == 1.0
    assert row["bad"]["mAP"][0] < row["human"]["mAP"][0] and row["bad"]["gap_closed"][0] == 0.0
    assert row["same"]["gap_closed"][0] == 1.0 and row["bad"]["of_human"][0] < 1.0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train.jsonl"], "expected NAME=LABELS"),
        (["human=train.jsonl"], "stands twice"),
        (["a=train.jsonl", "a=bad.jsonl"], "stands twice"),
        (["a=bad.jsonl", "--baseline", "b"], "expected a source"),
        (["a=bad.jsonl", "--test", "train.jsonl"], "trained and tested on"),
        (["a=test.jsonl"], "label the same pictures"),
    ],
)
def test_sources_that_cannot_be_meant(taglens: Run, arguments: list[str], said: str) -> None:
    given = ["--human", "train.jsonl"] + ([] if "--test" in arguments else ["--test", "test.jsonl"])
    code, out, err = taglens("downstream", *arguments, *given)
    assert code == 2 and said in err and not out


def test_the_cost_beside_people_tells_its_inputs(taglens: Run) -> None:
    folder = Path("out")
    folder.mkdir()
    row = {
        "pictures": 10, "failed": 0, "labels": 30, "queries": 50, "prompt_tokens": 1000, "completion_tokens": 100,
        "cached_tokens": 0, "cost": 0.0, "currency": "USD", "busy_seconds": 7.0,
        "this_start": {"busy_seconds": 7.0},
    }  # fmt: skip
    (folder / "ledger.json").write_text(json.dumps(row))
    (folder / "annotation.json").write_text(json.dumps({"configuration": {"model": "simulated-annotator"}}))
    code, _, err = taglens("cost", "out")
    assert code == 2 and "--price-hour" in err
    code, out, err = taglens("cost", "out", "--price-hour", 2)
    assert code == 0 and "no model's" in err
    assert "220 s a picture / 3600 x 15 USD" in out and "2 an hour" in out and "7.0 s busy" in out
    code, out, _ = taglens(
        "cost", "out", "--price-per-hour", 2, "--human-seconds", 20, "--human-wage", 9, "--json"
    )
    found = json.loads(out)
    assert found["share"] == pytest.approx((7 * 2 / 3600 / 10) / (20 * 9 / 3600))
    (folder / "ledger.json").write_text(json.dumps(row | {"cost": 2.0, "unknown_usage": 3}))
    code, out, err = taglens("cost", "out", "--currency", "EUR")
    assert code == 2 and "was charged in USD" in err and not out
    code, out, err = taglens("cost", "out", "--currency", "USD")
    assert code == 0 and "charged 2.000000 USD" in out and "no tokens are known" not in err
    code, out, err = taglens("cost", "out", "--currency", "EUR", "--price-hour", 2)
    assert code == 0 and "EUR a picture" in out and "of 3 queries no tokens are known" in err

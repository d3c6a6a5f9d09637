"""What each strategy of annotation does to precision, recall and cost, with a simulated annotator.

    python bench/annotation.py [--count 120] [--seed 0] [--out FOLDER] [--record]

Mosaics, pictures whose truth is complete, are annotated by ``taglens annotate`` through ``taglens simulate-mllm``,
whose errors are invented after TagLLM's analysis: figures show the mechanism and its cost, and are no model's. Told
for each strategy: OP, OR, OF1, CP, CR, CF1 in per cent on the mosaics of training pictures, queries and tokens a
picture, and how many queries its outlook had expected. The fitted bands are those of ``taglens annotate band`` on 80
other mosaics. Needs the extra llm.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import REPOSITORY, record, shared
from taglens.evaluation.annotations import compare
from taglens.vocabulary import Vocabulary

SETS = ("tiny-imagenet", "intel-scenes", "houses-rooms", "grocery", "voc-5class")
# The name in the table -> what the command is told.
STRATEGIES: dict[str, tuple[str, ...]] = {
    "open": ("--strategy", "open"),
    "options": ("--strategy", "options"),
    "binary": ("--strategy", "binary"),
    "two-stage": ("--strategy", "two-stage"),
    "grouped at random": ("--strategy", "grouped", "--grouping", "random", "--group-size", "15"),
    "grouped together": ("--strategy", "grouped", "--grouping", "together", "--group-size", "15"),
    "grouped apart": ("--strategy", "grouped", "--grouping", "apart", "--group-size", "15"),
    "grouped together, with concepts": ("--strategy", "full", "--grouping", "together", "--group-size", "15"),
    "hybrid, with concepts": ("--strategy", "hybrid"),
    "hybrid, with concepts, fitted band": ("--strategy", "hybrid"),
    "hybrid, with concepts, band that may lose a tenth": ("--strategy", "hybrid"),
}
# What is said to taglens annotate band for those with a fitted one.
BANDS: dict[str, tuple[str, ...]] = {"fitted": (), "tenth": ("--lost", "0.1")}
FEW = 80


def taglens(arguments: Sequence[object], **more: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "from taglens.cli import main; main()", *map(str, arguments)]
    environment = dict(os.environ, PYTHONPATH=str(REPOSITORY / "src"))
    return subprocess.Popen(command, env=environment, text=True, **more)


def done(arguments: Sequence[object]) -> None:
    if status := taglens(arguments).wait():
        raise SystemExit(f"taglens {arguments[0]} ended with status {status}")


def answered(arguments: Sequence[object]) -> dict[str, Any]:
    """What a command prints as one object."""
    program = taglens(arguments, stdout=subprocess.PIPE)
    line, _ = program.communicate()
    if program.returncode:
        raise SystemExit(f"taglens {arguments[0]} ended with status {program.returncode}")
    found: dict[str, Any] = json.loads(line)
    return found


def bands(folder: Path, sets: Sequence[Path], seed: int) -> dict[str, dict[str, Any]]:
    """Bands fitted to mosaics that are not annotated."""
    few = folder / "few"
    if not (few / "labels.jsonl").exists():
        done(
            [
                "mosaics",
                *sets,
                "--count",
                FEW,
                "--seed",
                seed + 1,
                "--split",
                "train",
                "--out",
                few,
                "--quiet",
            ]
        )
    words = folder / "mosaics" / "vocabulary.jsonl"
    return {
        name: answered(["annotate", "band", few / "labels.jsonl", "--vocabulary", words, "--json", *told])
        for name, told in BANDS.items()
    }


def annotated(
    folder: Path, name: str, told: Sequence[str], url: str, band: dict[str, Any] | None
) -> tuple[Path, float]:
    """The folder of one strategy's labels, and how many queries a picture were expected before."""
    out = folder / name.replace(" ", "-").replace(",", "")
    arguments: list[object] = [
        "annotate", folder / "mosaics" / "images", "--vocabulary", folder / "mosaics" / "vocabulary.jsonl",
        "--mllm", url, "--out", out, "--at-once", 4, "--quiet", *told,
    ]  # fmt: skip
    if "together" in told or "apart" in told:
        arguments += ["--statistics", folder / "mosaics" / "labels.jsonl"]
    if "concepts" in name:
        arguments += ["--concepts", folder / "mosaics" / "concepts.jsonl"]
    if band is not None:
        arguments += ["--below", band["below"], "--above", band["above"]]
    # Nothing is kept yet when it looks ahead: another folder, where the strategy was measured before.
    ahead = [
        *arguments[: arguments.index("--out") + 1],
        folder / "ahead",
        *arguments[arguments.index("--out") + 2 :],
    ]
    look = answered([*ahead, "--mllm-model", "simulated-annotator", "--dry-run", "--json"])
    done(arguments)
    return out, look["queries"] / max(look["pictures"], 1)


def measure(folder: Path, count: int, seed: int) -> dict[str, Any]:
    mosaics = folder / "mosaics"
    sets = [shared() / "data" / name for name in SETS]
    if not (mosaics / "labels.jsonl").exists():
        done(["mosaics", *sets, "--count", count, "--seed", seed, "--out", mosaics, "--quiet"])
    fitted = bands(folder, sets, seed)
    server = taglens(
        ["simulate-mllm", "--truth", mosaics, "--vocabulary", mosaics / "vocabulary.jsonl",
         "--senses", mosaics / "senses.txt", "--port", 0, "--seed", seed, "--json"],
        stdout=subprocess.PIPE,
    )  # fmt: skip
    assert server.stdout is not None
    try:
        url = json.loads(server.stdout.readline())["url"]
        made = {
            name: annotated(
                folder, name, told, url, next((band for how, band in fitted.items() if how in name), None)
            )
            for name, told in STRATEGIES.items()
        }
    finally:
        server.terminate()
        server.wait()
    vocabulary = Vocabulary.load(mosaics / "vocabulary.jsonl")
    found = compare(
        [out for out, _ in made.values()], mosaics / "labels.jsonl", split="train", vocabulary=vocabulary
    )
    figures: dict[str, Any] = {
        "pictures": found.pictures,
        "classes": found.classes,
        "strategies": {},
        "bands": fitted,
    }
    for name, row in zip(made, found.rows, strict=True):
        scores = {
            key: round(100 * getattr(row.figures, field), 2)
            for key, field in {
                "OP": "overall_precision",
                "OR": "overall_recall",
                "OF1": "overall_f1",
                "CP": "class_precision",
                "CR": "class_recall",
                "CF1": "class_f1",
            }.items()
        }
        ledger = row.ledger
        figures["strategies"][name] = scores | {
            "queries_a_picture": round(ledger["queries"] / ledger["pictures"], 2),
            "expected_queries_a_picture": round(made[name][1], 2),
            "tokens_a_picture": round(
                (ledger["prompt_tokens"] + ledger["completion_tokens"]) / ledger["pictures"], 1
            ),
        }
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=120, help="mosaics")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="keep the folders here, and go on there")
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.out or Path(scratch)
        figures = measure(folder, options.count, options.seed)
    if options.record:
        told = {"count": options.count, "seed": options.seed, "simulated": True, "band_fitted_on": FEW}
        record("annotation", told, figures)
    else:
        print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()

"""Quality of a model on held-out pictures, beside a baseline that never looks.

    python bench/quality.py [--model NAME_OR_DIR] [--batch-size 32]

The fixed yardstick is flickr8k/val-tags.jsonl (184 names); the label sets' validation splits follow. The baseline
gives every picture the same scores: how often each label stands in the training captions or labels.
Appends one line to bench/results/quality.jsonl.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from common import record, shared
from taglens.evaluation.datasets import read_captions, read_labels
from taglens.evaluation.metrics import mean_average_precision
from taglens.evaluation.tagging import evaluate_tagging
from taglens.evaluation.thresholds import frequency_baseline
from taglens.inference.tagger import Tagger

LABEL_SETS = ("tiny-imagenet", "intel-scenes", "houses-rooms", "clothing-small", "grocery", "voc-5class")


def baseline_counts(data: Path, name: str, classes: list[str]) -> dict[str, int]:
    """How often each class stands in the training rows: in labels, or as a word of the captions."""
    if name != "flickr8k":
        given = Counter(
            label for row in read_labels(data / name / "labels.jsonl", split="train") for label in row.labels
        )
        return {label: given[label] for label in classes}
    words: Counter[str] = Counter()
    for row in read_captions(data / "flickr8k" / "captions.jsonl", split="train"):
        words.update(set(re.findall(r"[a-z][a-z'-]*", " ".join(row.captions).lower())))
    return {label: words[label] for label in classes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="starter")
    parser.add_argument("--batch-size", type=int, default=32)
    options = parser.parse_args()
    data = shared() / "data"
    tagger = Tagger.from_pretrained(options.model)
    figures: dict[str, Any] = {"model": tagger.ref, "vocabulary": tagger.vocabulary.ref}
    for name in ("flickr8k", *LABEL_SETS):
        file = data / name / ("val-tags.jsonl" if name == "flickr8k" else "labels.jsonl")
        images = read_labels(file, split="val")
        report = evaluate_tagging(tagger, images, batch_size=options.batch_size)
        found = report.to_dict()
        measured = [c for c, row in found["per_class"].items() if row["ap"] is not None]
        counts = baseline_counts(data, name, measured)
        truth = np.array([[c in set(image.labels) for c in measured] for image in images], np.uint8)
        never_looks = frequency_baseline(np.array([counts[c] for c in measured]), len(images))
        figures[name] = {
            **{key: found[key] for key in ("images", "classes", "mAP", "CP", "CR", "CF1", "OP", "OR", "OF1")},
            "left_out": len(found["left_out"]),
            "frequency_baseline_mAP": round(float(mean_average_precision(never_looks, truth)), 4),
        }
        if name == "flickr8k":
            best = sorted(measured, key=lambda c: -found["per_class"][c]["ap"])
            aps = {c: round(found["per_class"][c]["ap"], 3) for c in best}
            figures[name] |= {
                "best": dict(list(aps.items())[:10]),
                "worst": dict(list(aps.items())[-10:]),
            }
        print(name, json.dumps(figures[name]), file=sys.stderr)
    record("quality", {"model": options.model, "thresholds": "stored"}, figures)


if __name__ == "__main__":
    main()

"""The same pictures tagged three ways (Tag2Text 1.11): by the tagging head, by similarity with names, by a caption.

    python bench/three_ways.py [--model starter] [--record]

On flickr8k/val-tags.jsonl, 184 names. Head: the scores. Similarity: the product of a picture's vector with those
of a few sentences that hold the name. Caption: what the guided caption says, by name or synonym. Precision and recall
are means over names; head and similarity are cut at one threshold each, fitted by CF1 on every other picture and told
of the rest. A caption has no scores and so no mAP.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
import numpy.typing as npt

from common import record, shared
from taglens.evaluation.caption_tags import CaptionTags, key
from taglens.evaluation.datasets import read_labels
from taglens.evaluation.metrics import mean_average_precision, precision_recall
from taglens.evaluation.tagging import evaluate_tagging
from taglens.evaluation.thresholds import best_uniform_threshold
from taglens.inference.tagger import Tagger
from taglens.language.parser import parse_lines
from taglens.language.word_lists import packaged

SENTENCES = ("a picture of {}", "there is {} in the picture", "{} outside", "a photo with {}")


def told(given: npt.NDArray[np.bool_], truth: npt.NDArray[np.uint8]) -> dict[str, float]:
    found = precision_recall(given, truth)
    return {
        "CP": round(found.class_precision, 4),
        "CR": round(found.class_recall, 4),
        "CF1": round(found.class_f1, 4),
        "OP": round(found.overall_precision, 4),
        "OR": round(found.overall_recall, 4),
        "OF1": round(found.overall_f1, 4),
        "tags_a_picture": round(float(given.sum(1).mean()), 2),
    }


def ranked(scores: npt.NDArray[np.float32], truth: npt.NDArray[np.uint8]) -> dict[str, float]:
    """Cut where every other picture says, told of the rest; mAP over all."""
    threshold = best_uniform_threshold(scores[::2], truth[::2])
    rest = told(scores[1::2] >= np.float32(threshold), truth[1::2])
    return {"mAP": round(mean_average_precision(scores, truth), 4), **rest, "threshold": round(threshold, 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="starter")
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()

    images = read_labels(shared() / "data" / "flickr8k" / "val-tags.jsonl", split="val")
    tagger = Tagger.from_pretrained(options.model)
    report = evaluate_tagging(tagger, images)
    truth, names = report.truth, report.classes
    paths = [image.path for image in images]
    figures: dict[str, Any] = {"model": tagger.ref, "images": len(images), "names": len(names)}
    figures["head"] = ranked(report.scores, truth)

    pictures = np.stack([row.vector for row in tagger.embed(paths) if row.vector is not None])
    texts = np.mean([tagger.embed_text([s.format(name) for name in names]) for s in SENTENCES], axis=0)
    similar = pictures @ (texts / np.linalg.norm(texts, axis=1, keepdims=True)).T
    figures["similarity"] = ranked(((similar + 1) / 2).astype(np.float32), truth)

    tags = CaptionTags(tagger.vocabulary, packaged(), parse_lines)
    captions = [row.caption or "" for row in tagger.caption(paths)]
    said = tags.labels_of(captions, [(name, None) for name in names])
    given = np.array([[key(name, None) in each for name in names] for each in said])
    figures["caption"] = told(given[1::2], truth[1::2])
    settings = {"data": "flickr8k/val-tags.jsonl", "sentences": list(SENTENCES)}
    if options.record:
        record("three_ways", settings, figures)
    else:
        print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()

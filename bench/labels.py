"""How far tags parsed from captions agree with word matching in the same captions.

    python bench/labels.py [--model NAME_OR_DIR]

Parses Flickr8k's validation captions into the model's vocabulary, as the shard builder does, and compares with the
fixed yardstick (flickr8k/val-tags.jsonl). Appends one line to bench/results/labels.jsonl.
"""

from __future__ import annotations

import argparse

from common import record, shared
from taglens.data.labelling import label_from_captions
from taglens.data.sources import read_captions
from taglens.evaluation.datasets import read_labels
from taglens.inference.bundle import locate
from taglens.language.parser import parse
from taglens.language.word_lists import packaged
from taglens.vocabulary import Vocabulary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="starter")
    options = parser.parse_args()
    data = shared() / "data" / "flickr8k"
    vocabulary = Vocabulary.load(locate(options.model) / "vocabulary.jsonl")
    label = label_from_captions(vocabulary, parse, lists=packaged())
    parsed = {
        row.image: set(label(row).columns)
        for row in read_captions(data / "captions.jsonl")
        if row.split == "val"
    }
    truth = {row.image: set(row.labels) for row in read_labels(data / "val-tags.jsonl")}
    f1 = {}
    for name in sorted(set().union(*truth.values())):
        column = vocabulary.find(name)
        said = {image for image in truth if column in parsed[image]}
        wanted = {image for image in truth if name in truth[image]}
        f1[name] = 2 * len(said & wanted) / (len(said) + len(wanted))
    lowest = sorted(f1, key=lambda name: f1[name])[:12]
    figures = {
        "names": len(f1),
        "mean_f1": round(sum(f1.values()) / len(f1), 4),
        "lowest": {name: round(f1[name], 2) for name in lowest},
    }
    record("labels", {"vocabulary": vocabulary.ref, "pictures": len(truth)}, figures)


if __name__ == "__main__":
    main()

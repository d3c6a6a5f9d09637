"""The open vocabulary on held-out pictures: known tags asked as text, descriptions taken away, words never taught.

    python bench/open_tags.py [--model NAME_OR_DIR]

On the fixed yardstick (flickr8k/val-tags.jsonl): every name scored by the model's own column, as typed text, and as
typed text with the tag's descriptions. Then things that the validation captions name and that no tag or synonym of
the vocabulary means, found by the parser in at least five pictures: scored as typed text, and under each other's
names, as chance would. Appends one line to bench/results/open_tags.jsonl.
"""

from __future__ import annotations

import argparse
from collections import defaultdict

import numpy as np
import numpy.typing as npt

from common import record, shared
from taglens.data.sources import read_captions
from taglens.evaluation.datasets import read_labels
from taglens.evaluation.metrics import mean_average_precision
from taglens.inference.tagger import Tagger
from taglens.language.parser import parse
from taglens.vocabulary import Entry, Vocabulary

LEAST = 5
SHUFFLES = 20


def score(tagger: Tagger, pictures: list[str]) -> npt.NDArray[np.float32]:
    return np.stack([row for _, row in tagger.scores(pictures, batch_size=32) if row is not None])


def new_words(known: Vocabulary, captions: list[tuple[str, ...]]) -> dict[str, list[int]]:
    """Thing -> rows of the pictures whose captions name it, for things that the vocabulary does not mean."""
    found: dict[str, set[int]] = defaultdict(set)
    for row, texts in enumerate(captions):
        for text in texts:
            for name in parse(text).objects:
                found[name].add(row)
    return {
        name: sorted(rows)
        for name, rows in sorted(found.items())
        if len(rows) >= LEAST and known.find(name) is None
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="starter")
    options = parser.parse_args()
    folder = shared() / "data" / "flickr8k"
    tagger = Tagger.from_pretrained(options.model)
    known = tagger.vocabulary
    rows = read_labels(folder / "val-tags.jsonl", split="val")
    pictures = [str(row.path) for row in rows]
    names = sorted({label for row in rows for label in row.labels})
    truth = np.array([[name in set(row.labels) for name in names] for row in rows], np.uint8)

    columns = [column for name in names if (column := known.find(name)) is not None]
    assert len(columns) == len(names), "the vocabulary lacks a name of the yardstick"
    entries = [known[column] for column in columns]
    described = Vocabulary(
        [Entry(name, "typed", descriptions=e.descriptions) for name, e in zip(names, entries, strict=True)]
    )
    own = score(tagger, pictures)[:, columns]
    typed = score(tagger.typed(names), pictures)
    with_descriptions = score(tagger.with_vocabulary(described), pictures)

    captions = {row.image: row.captions or () for row in read_captions(folder / "captions.jsonl")}
    words = new_words(known, [captions[row.image] for row in rows])
    new = np.zeros((len(rows), len(words)), np.uint8)
    for column, having in enumerate(words.values()):
        new[having, column] = 1
    asked = score(tagger.typed(list(words)), pictures)
    rng = np.random.default_rng(0)
    chance = [mean_average_precision(asked[:, rng.permutation(len(words))], new) for _ in range(SHUFFLES)]
    apart = np.abs(with_descriptions - typed)
    figures = {
        "model": tagger.ref,
        "names": len(names),
        "own_columns_mAP": round(mean_average_precision(own, truth), 4),
        "typed_mAP": round(mean_average_precision(typed, truth), 4),
        "typed_with_descriptions_mAP": round(mean_average_precision(with_descriptions, truth), 4),
        "score_change_by_descriptions": {
            "mean": round(float(apart.mean()), 5),
            "largest": round(float(apart.max()), 4),
        },
        "new_words": len(words),
        "new_words_mAP": round(mean_average_precision(asked, new), 4),
        "new_words_shuffled_mAP": round(float(np.mean(chance)), 4),
        "new_words_shuffled_deviation": round(float(np.std(chance, ddof=1)), 4),
        "examples": ", ".join(sorted(words, key=lambda word: -len(words[word]))[:40]),
    }
    record("open_tags", {"least": LEAST, "shuffles": SHUFFLES}, figures)


if __name__ == "__main__":
    main()

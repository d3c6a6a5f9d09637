"""Captions of the shipped model on Flickr8k's validation pictures: what guidance by tags is worth, and what it costs.

    python bench/captions.py [--model starter] [--images N] [--plot FILE] [--record]

Told for each way of writing, against people's captions: CIDEr with the 95 % interval over pictures (2,000 draws),
BLEU-4, ROUGE-L, precision and recall of the tags that captions say (Tag2Text 1.11), distinct captions, words.
Ways: guided by recognised tags, by none, by tags above one threshold for all (controllability, 1.8), by the tags that
people's captions say (what perfect recognition would give), and by one to five tags that the picture does not have
(what users' mistakes do): of those the share that captions say. Needs the extras eval and, for --plot, plots.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from common import record, shared
from taglens.evaluation.caption_metrics import CaptionMetrics
from taglens.evaluation.caption_tags import CaptionTags, compare, union
from taglens.evaluation.caption_words import words
from taglens.evaluation.captions import references
from taglens.evaluation.datasets import CaptionedImage, read_captions
from taglens.evaluation.typical import typical
from taglens.inference.captioning import Search
from taglens.inference.tagger import Tagger
from taglens.language.parser import parse_lines
from taglens.language.word_lists import packaged
from taglens.results import Captioned
from taglens.vocabulary import Vocabulary

THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.95)
WRONG = (1, 2, 3, 5)
DRAWS = 2_000


def interval(each: np.ndarray[Any, Any]) -> list[float]:
    """95 % of the means of pictures drawn with replacement."""
    rng = np.random.default_rng(0)
    means = [each[rng.integers(0, len(each), len(each))].mean() for _ in range(DRAWS)]
    return [round(float(edge), 4) for edge in np.percentile(means, (2.5, 97.5))]


class Judge:
    """Measures one caption of each picture."""

    def __init__(self, images: Sequence[CaptionedImage], vocabulary: Vocabulary) -> None:
        from pycocoevalcap.cider.cider import Cider

        self.known = references(images)
        self.tags = CaptionTags(vocabulary, packaged(), parse_lines)
        said = self.tags.of(text for image in images for text in image.captions)
        self.truth = union(said, [len(image.captions) for image in images])
        self._cider = Cider()

    def __call__(self, captions: Sequence[str]) -> dict[str, Any]:
        plain = [" ".join(words(text)) for text in captions]
        with CaptionMetrics(meteor=False) as measure:
            found = measure(self.known, plain)
        truth = dict(enumerate(self.known))
        each = self._cider.compute_score(truth, {n: [text] for n, text in enumerate(plain)})[1]
        tags = compare(self.tags.of(captions), self.truth)
        return {
            **{name: round(float(found[name] or 0.0), 4) for name in ("CIDEr", "BLEU-4", "ROUGE-L")},
            "CIDEr_95": interval(np.asarray(each)),
            "tag_precision": round(tags.precision, 4),
            "tag_recall": round(float(tags.recall or 0.0), 4),
            "distinct": len(set(plain)),
            "words": round(float(np.mean([len(text.split()) for text in plain])), 2),
        }


def texts(rows: Sequence[Captioned]) -> list[str]:
    if failed := [row for row in rows if not row.captions]:
        raise SystemExit(f"{failed[0].source}: {failed[0].error}")
    return [str(row.caption) for row in rows]


def per_picture(
    tagger: Tagger, images: Sequence[CaptionedImage], tags: Callable[[int], tuple[str, ...]], search: Search
) -> list[Captioned]:
    """Captions guided by tags of each picture's own."""
    return [
        row
        for number, image in enumerate(images)
        for row in tagger.caption([image.path], tags=tags(number), search=search)
    ]


def wrong_tags(truth: Sequence[frozenset[str]], names: dict[str, str], count: int) -> list[tuple[str, ...]]:
    """For each picture tags that none of its captions says, as common as tags are."""
    pool = [tag for tags in truth for tag in sorted(tags)]
    found = []
    for number, own in enumerate(truth):
        dice, drawn = random.Random(number), dict[str, None]()
        while len(drawn) < count:
            tag = dice.choice(pool)
            if tag not in own and names[tag] not in {names[each] for each in own}:
                drawn[names[tag]] = None
        found.append(tuple(drawn))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="starter")
    parser.add_argument("--images", type=int, help="the first so many")
    parser.add_argument("--beams", type=int, default=Search().beams)
    parser.add_argument("--plot", type=Path, help="draw figures over thresholds here, PNG")
    parser.add_argument(
        "--only", nargs="+", choices=("ways", "thresholds", "wrong"), default=["ways", "thresholds", "wrong"]
    )
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()

    data = shared() / "data" / "flickr8k" / "captions.jsonl"
    images = read_captions(data, split="val")[: options.images]
    tagger = Tagger.from_pretrained(options.model)
    judge = Judge(images, tagger.vocabulary)
    paths = [image.path for image in images]
    search = Search(beams=options.beams)
    figures: dict[str, Any] = {"model": tagger.ref, "images": len(images)}

    if "ways" in options.only:
        started = time.perf_counter()
        guided = list(tagger.caption(paths, search=search))
        figures["guided"] = judge(texts(guided)) | {
            "seconds_a_picture": round((time.perf_counter() - started) / len(paths), 4)
        }
        figures["unguided"] = judge(texts(list(tagger.caption(paths, tags=(), search=search))))
        figures["greedy"] = judge(texts(list(tagger.caption(paths, search=replace(search, beams=1)))))
        names = {entry.id: entry.name for entry in tagger.vocabulary}
        own = [tuple(names[tag] for tag in sorted(tags)) for tags in judge.truth]
        figures["guided_by_people"] = judge(texts(per_picture(tagger, images, own.__getitem__, search)))
        train = read_captions(data, split="train")
        constant = typical(references(train[::10]))
        figures["constant"] = judge([constant] * len(images)) | {"caption": constant}
    if "thresholds" in options.only:
        figures["thresholds"] = {
            str(threshold): judge(texts(list(tagger.caption(paths, threshold=threshold, search=search))))
            for threshold in THRESHOLDS
        }
    if "wrong" in options.only:
        names = {entry.id: entry.name for entry in tagger.vocabulary}
        figures["wrong"] = {}
        for count in WRONG:
            given = wrong_tags(judge.truth, names, count)
            for way, more in (("alone", False), ("added", True)):
                rows = [
                    row
                    for path, tags in zip(paths, given, strict=True)
                    for row in tagger.caption([path], tags=tags, add_tags=more, search=search)
                ]
                unmet = sum(len(row.captions[0].unmet) for row in rows if row.captions)
                figures["wrong"][f"{count}_{way}"] = {
                    "said": round(1 - unmet / (count * len(rows)), 4),
                    "CIDEr": judge(texts(rows))["CIDEr"],
                }
    if options.plot is not None and "thresholds" in figures:
        draw(figures, options.plot)
    settings = {"split": "val", "beams": options.beams, "images": options.images}
    if options.record:
        record("captions", settings, figures)
    else:
        import json

        print(json.dumps(figures, indent=1))


def draw(figures: dict[str, Any], out: Path) -> None:
    """Quality of captions over the threshold of their guiding tags."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    found = figures["thresholds"]
    x = [float(threshold) for threshold in found]
    fig, axes = pyplot.subplots(figsize=(6.4, 4.0), layout="constrained")
    for name, mark in (("CIDEr", "o"), ("tag_precision", "^"), ("tag_recall", "v")):
        label = name.replace("tag_", "tags said: ")
        axes.plot(x, [each[name] for each in found.values()], marker=mark, label=label)
    axes.set_xlabel("threshold of the tags that guide")
    axes.set_ylim(bottom=0)
    axes.set_title(f"Captions of {figures['images']:,} pictures, {figures['model']}", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend()
    fig.savefig(out, dpi=120)
    pyplot.close(fig)


if __name__ == "__main__":
    main()

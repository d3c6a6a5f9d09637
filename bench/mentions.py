"""Captions that must mention given tags beside captions that are only guided by them: what is said, at what cost.

    python bench/mentions.py --model DIR --labels FILE [--split S] [--images N] [--tags-each 1 3 5] [--wrong]
    python bench/mentions.py --model DIR --pictures SOURCE... --tags "man,dog"

With labels every picture is given some of its own, drawn by --seed (--wrong: of the others', which it does not have);
with --tags all are given the same. Told for both: the share of tags that captions say, of captions that say all, the
model's own mean log-probability (--beams is the same), words, and seconds a picture; and the difference of the
log-probabilities, picture by picture, with the half width of its 95 % interval; with --captions also CIDEr against
people's. --out writes the captions, to be read. Prints its figures; --record appends them to
bench/results/mentions.jsonl too.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from captions import Judge
from common import record
from taglens.evaluation.datasets import read_captions, read_labels
from taglens.inference.captioning import Search
from taglens.inference.sources import Source, expand
from taglens.inference.tagger import Tagger
from taglens.results import Caption

Given = tuple[Path, tuple[str, ...]]  # a picture and its tags
Lines = list[dict[str, Any]]


def drawn(rows: Sequence[tuple[Path, tuple[str, ...]]], count: int, *, wrong: bool, seed: int) -> list[Given]:
    """Every picture that has enough labels with ``count`` of them, or of those it does not have."""
    names = sorted({name for _, labels in rows for name in labels})
    found = []
    for path, labels in rows:
        # A stream for each picture: what one is given does not hang on the others.
        dice = random.Random(f"{seed}:{path.name}")
        among = [name for name in names if name not in labels] if wrong else sorted(labels)
        if len(among) >= count:
            found.append((path, tuple(dice.sample(among, count))))
    return found


def written(tagger: Tagger, given: Sequence[Given], search: Search) -> tuple[list[Caption], float]:
    """A caption for each picture, and the seconds all took. The benchmark stops at a picture that is none."""
    started, found = time.perf_counter(), []
    for path, tags in given:
        (row,) = tagger.caption(path, tags=tags, search=search)
        if not row.captions:
            raise SystemExit(f"{path}: {row.error}")
        found.append(row.captions[0])
    return found, time.perf_counter() - started


def told(captions: Sequence[Caption], given: Sequence[Given], seconds: float) -> dict[str, float]:
    tags = sum(len(names) for _, names in given)
    return {
        "mentioned": round(1 - sum(len(one.unmet) for one in captions) / tags, 4),
        "all_mentioned": round(float(np.mean([not one.unmet for one in captions])), 4),
        "score": round(float(np.mean([one.score for one in captions])), 4),
        "words": round(float(np.mean([len(one.text.split()) for one in captions])), 2),
        "distinct": len({one.text for one in captions}),
        "seconds_a_picture": round(seconds / len(given), 3),
    }


def compared(tagger: Tagger, given: Sequence[Given], search: Search) -> tuple[dict[str, Any], Lines]:
    free, seconds = written(tagger, given, search)
    bound, longer = written(tagger, given, replace(search, must_mention=True))
    apart = np.array([after.score - before.score for before, after in zip(free, bound, strict=True)])
    figures = {
        "pictures": len(given),
        "free": told(free, given, seconds),
        "must_mention": told(bound, given, longer),
        "score_difference": round(float(apart.mean()), 4),
        "half_width_95": round(1.96 * float(apart.std(ddof=1)) / len(apart) ** 0.5, 4)
        if len(apart) > 1
        else None,
    }
    lines = [
        {"image": str(path), "tags": list(tags), "free": before.to_dict(), "must_mention": after.to_dict()}
        for (path, tags), before, after in zip(given, free, bound, strict=True)
    ]
    return figures, lines


def judge_of(captions: Path, given: Sequence[Given], tagger: Tagger) -> Judge:
    """What compares captions of these pictures with people's."""
    told = {Path(image.path).name: image for image in read_captions(captions)}
    if unknown := [path for path, _ in given if path.name not in told]:
        raise SystemExit(f"{captions} says nothing of {unknown[0].name}")
    return Judge([told[path.name] for path, _ in given], tagger.vocabulary)


def pictures(sources: Sequence[str]) -> Iterator[Path]:
    for item in expand(sources):
        if isinstance(item, Source):
            yield item.path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", required=True, help="a model that writes captions")
    parser.add_argument("--labels", type=Path, help="labels.jsonl beside its pictures")
    parser.add_argument("--captions", type=Path, help="captions.jsonl with people's, for CIDEr (extra eval)")
    parser.add_argument("--split")
    parser.add_argument("--images", type=int, help="the first so many")
    parser.add_argument("--tags-each", type=int, nargs="+", default=[1, 3, 5])
    parser.add_argument("--wrong", action="store_true", help="tags that the pictures do not have")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pictures", nargs="+", metavar="SOURCE")
    parser.add_argument("--tags", metavar='"A,B"')
    parser.add_argument("--beams", type=int, default=3)
    parser.add_argument("--max-length", type=int, default=30)
    parser.add_argument("--out", type=Path, help="write the captions here, JSON Lines")
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    if (options.labels is None) == (options.pictures is None) or (options.pictures is None) != (
        options.tags is None
    ):
        parser.error("give --labels FILE, or --pictures SOURCE... with --tags")

    tagger = Tagger.from_pretrained(options.model)
    sets: dict[str, list[Given]] = {}
    if options.labels is not None:
        rows = [(row.path, row.labels) for row in read_labels(options.labels, split=options.split)]
        for count in options.tags_each:
            found = drawn(rows[: options.images], count, wrong=options.wrong, seed=options.seed)
            sets[f"{count}_tags"] = found
    else:
        tags = tuple(name.strip() for name in options.tags.split(",") if name.strip())
        sets["given_tags"] = [(path, tags) for path in list(pictures(options.pictures))[: options.images]]
    if empty := [name for name, given in sets.items() if not given]:
        raise SystemExit(f"no picture for {', '.join(empty)}")

    search = Search(beams=options.beams, max_length=options.max_length)
    figures: dict[str, Any] = {"model": tagger.ref}
    lines: Lines = []
    for name, given in sets.items():
        figures[name], more = compared(tagger, given, search)
        if options.captions is not None:
            judge = judge_of(options.captions, given, tagger)
            for way in ("free", "must_mention"):
                figures[name][way]["CIDEr"] = judge([line[way]["text"] for line in more])["CIDEr"]
        lines += more
    if options.out is not None:
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        options.out.write_text(text, encoding="utf-8")
    settings = {
        "labels": None if options.labels is None else options.labels.name,
        "tags": options.tags,
        "wrong": options.wrong,
        "seed": options.seed,
        "images": options.images,
        "beams": search.beams,
        "max_length": search.max_length,
    }
    if options.record:
        record("mentions", settings, figures)
    else:
        print(json.dumps({"settings": settings, "figures": figures}, ensure_ascii=False, indent=1))


if __name__ == "__main__":
    main()

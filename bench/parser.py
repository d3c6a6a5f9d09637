"""How well captions are parsed, against gold scene graphs, and how fast.

    python bench/parser.py [--tagger FILE]

F1 of entities, attributes and actions on scene-graphs/dev.csv.gz by the score.py that lies beside it, with its
intervals (95 %, 200 resamples of captions), and of relations, pairs and counts as whole tuples. Each error is counted
by what went wrong. Speed: Flickr30k's captions, all different, one process and one thread after a first pass over
other captions; then `taglens parse` on the whole file, as a process of its own. Appends one line to
bench/results/parser.jsonl.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import random
import runpy
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from common import record, shared
from taglens.language.graphs import graph_tuples
from taglens.language.parser import CaptionParser, ParsedCaption
from taglens.language.tagger import Tagger

KINDS = ("entities", "attributes", "actions")
RESAMPLES = 200
Sets = tuple[set[str], set[str], set[str]]
Tuples = set[tuple[str, ...]]


def errors(pairs: Sequence[tuple[Sets, Sets]], captions: Sequence[str]) -> dict[str, dict[str, int]]:
    """Kind -> what went wrong -> how often."""
    found: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    for (gold, said), caption in zip(pairs, captions, strict=True):
        for k, kind in enumerate(KINDS):
            missed, extra = gold[k] - said[k], said[k] - gold[k]
            for item in missed:
                elsewhere = any(item in said[j] for j in range(3) if j != k)
                found[kind]["missed: " + reason(item, extra, caption, elsewhere)] += 1
            for item in extra:
                elsewhere = any(item in gold[j] for j in range(3) if j != k)
                found[kind]["extra: " + reason(item, missed, caption, elsewhere)] += 1
    return {kind: dict(counts.most_common()) for kind, counts in found.items()}


def reason(item: str, opposite: set[str], caption: str, elsewhere: bool) -> str:
    words = set(item.split())
    if any(words & set(other.split()) for other in opposite):
        return "cut otherwise"
    if elsewhere:
        return "of another kind"
    if not any(word[:4] in caption.lower() for word in words):
        return "in other words than the caption's"
    return "nothing like it on the other side"


def tuples_f1(gold: Sequence[Tuples], said: Sequence[Tuples]) -> float:
    right = sum(len(g & s) for g, s in zip(gold, said, strict=True))
    return round(2 * right / max(1, sum(map(len, gold)) + sum(map(len, said))), 4)


def structure(
    graphs: Sequence[str], parsed: Sequence[ParsedCaption], one: Callable[[str], str]
) -> dict[str, float]:
    """F1 of what hangs together; ``one``: the measure's own singular."""

    def name(text: str) -> str:
        return " ".join(one(word) for word in text.lower().split())

    graph = [graph_tuples(text) for text in graphs]
    relations: list[Tuples] = [{(name(s), p, name(o)) for s, p, o in g if p != "is"} for g in graph]
    related: list[Tuples] = [{(s, o) for s, _, o in g} for g in relations]
    pairs: list[Tuples] = [
        {(o, name(s)) for s, p, o in g if p == "is" and not o.isdigit() and not o.endswith(" of")}
        for g in graph
    ]
    counts: list[Tuples] = [{(o, name(s)) for s, p, o in g if p == "is" and o.isdigit()} for g in graph]
    said: list[Tuples] = [{(name(s), p, name(o)) for s, p, o in found.relations} for found in parsed]
    return {
        "relations": tuples_f1(relations, said),
        "subject and object of relations": tuples_f1(related, [{(s, o) for s, _, o in g} for g in said]),
        "attribute pairs": tuples_f1(pairs, [{(a, name(o)) for a, o in found.pairs} for found in parsed]),
        "counts": tuples_f1(
            counts, [{(str(n), name(o)) for n, o in found.counts if isinstance(n, int)} for found in parsed]
        ),
    }


def speed(parser: CaptionParser, file: Path) -> dict[str, float]:
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        captions = list(dict.fromkeys(line.rstrip("\n") for line in lines))
    random.Random(0).shuffle(captions)
    half = len(captions) // 2
    for _ in parser.parse_many(captions[:half]):
        pass
    rates = []
    step = (len(captions) - half) // 5
    with threadpool_limits(1):
        for start in range(half, half + 5 * step, step):
            begun = time.process_time()
            for _ in parser.parse_many(captions[start : start + step]):
                pass
            rates.append(step / (time.process_time() - begun))
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-c",
            "from taglens.cli import main; main()",
            "parse",
            "--input",
            str(file),
        ]
        begun = time.perf_counter()
        subprocess.run([*command, "--output", str(Path(folder) / "out.jsonl")], check=True)
        whole = time.perf_counter() - begun
        rows = sum(1 for _ in (Path(folder) / "out.jsonl").open("rb"))
    return {
        "captions_per_cpu_second": round(sorted(rates)[2]),
        "slowest_fifth": round(min(rates)),
        "fastest_fifth": round(max(rates)),
        "command_captions_per_second": round(rows / whole),
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--tagger", type=Path, help="another tagger than the shipped one")
    chosen = options.parse_args()
    folder = shared() / "data" / "scene-graphs"
    score: dict[str, Any] = runpy.run_path(str(folder / "score.py"))
    with gzip.open(folder / "dev.csv.gz", "rt") as lines:
        rows = list(csv.DictReader(lines))
    parser = CaptionParser(Tagger.load(chosen.tagger) if chosen.tagger else None)
    captions = [row["caption"] for row in rows]
    parsed = list(parser.parse_many(captions))
    pairs = [
        (
            score["normal"](*score["gold_sets"](row["scene_graph"])),
            score["normal"](found.objects, found.attributes, found.actions),
        )
        for row, found in zip(rows, parsed, strict=True)
    ]
    chance = random.Random(0)
    figures: dict[str, Any] = {}
    for k, kind in enumerate(KINDS):
        precision, recall, f1 = score["f1"](pairs, k)
        drawn = sorted(score["f1"](chance.choices(pairs, k=len(pairs)), k)[2] for _ in range(RESAMPLES))
        figures[kind] = {
            "precision": round(precision, 4),
            "recall": round(recall, 4),
            "f1": round(f1, 4),
            "low": round(drawn[5], 4),
            "high": round(drawn[194], 4),
        }
    figures["structure"] = structure([row["scene_graph"] for row in rows], parsed, score["singular"])
    figures["errors"] = errors(pairs, captions)
    figures["speed"] = speed(parser, shared() / "data" / "captions" / "flickr30k.en.txt.gz")
    settings = {"tagger": str(chosen.tagger or "shipped"), "captions": len(rows), "threads": 1}
    record("parser", settings, figures)


if __name__ == "__main__":
    main()

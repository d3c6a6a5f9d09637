"""What the data engine does to labels, and whether its cleaning finds labels that were planted wrong.

    python bench/engine.py [--pictures 1000] [--rate 0.2] [--out FOLDER] [--record]

Flickr8k's validation pictures with the tags of the *first* caption, as its parser finds them. Into these, wrong ones
are planted: for so many of a picture's own labels one that none of its five captions names, drawn as often as the
corpus says each. Every rule then cleans; what it removes is told of the planted labels (precision, recall, beside
what removing as many by chance would reach) and of own labels that val-tags.jsonl confirms. What the model adds is
told against val-tags.jsonl. Both yardsticks are made of captions: what nobody wrote counts as wrong.

Pictures are looked at once, for the labels of all seeds together; seeds differ in what is planted. Needs the extra
train. Everything is kept in FOLDER; the same command goes on there.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from common import record, shared
from taglens.data.labelling import label_from_captions
from taglens.data.sources import read_captions, read_labels
from taglens.evaluation.metrics import precision_recall
from taglens.inference.tagger import Tagger
from taglens.language.parser import parse
from taglens.language.word_lists import packaged
from taglens.results import to_line
from taglens.training.data_engine import Job, all_known, all_looks, run
from taglens.training.engine_cleaning import RULES, Cleaning, judge, removed
from taglens.training.engine_clusters import cluster_count, k_means
from taglens.training.engine_generate import Known
from taglens.training.engine_looks import Looks
from taglens.training.engine_store import EngineStore
from taglens.vocabulary import Vocabulary

SEEDS = (0, 1, 2)
CORPUS, ENGINE, SECONDS = "labels.jsonl", "engine", "seconds.json"

Labels = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Corpus:
    """Pictures and what is said of them [N, T]: own by the first caption, any by all five, planted by seed."""

    pictures: list[Path]
    own: Labels
    any: Labels
    planted: dict[int, Labels]


def corpus(words: Vocabulary, pictures: int, rate: float) -> Corpus:
    rows = [
        row
        for row in read_captions(shared() / "data" / "flickr8k" / "captions.jsonl")
        if row.split == "val" and row.captions
    ][:pictures]
    find = label_from_captions(words, parse, lists=packaged())
    own, said = (np.zeros((len(rows), len(words)), bool) for _ in range(2))
    for number, row in enumerate(rows):
        own[number, list(find(replace(row, captions=(row.captions or ())[:1])).columns)] = True
        said[number, list(find(row).columns)] = True
    planted = {}
    often = own.sum(axis=0).astype(float)
    often[[entry.kind not in ("object", "scene") for entry in words]] = 0
    for seed in SEEDS:
        chance = np.random.default_rng(seed)
        table = np.zeros_like(own)
        for number in range(len(rows)):
            free = np.where(said[number], 0, often)
            for _ in range(chance.binomial(int(own[number].sum()), rate)):
                column = int(chance.choice(len(words), p=free / free.sum()))
                table[number, sorted(words.with_parents([column]))] = True
        planted[seed] = table & ~said
    return Corpus([row.path for row in rows], own, said, planted)


def looked(folder: Path, tagger: Tagger, found: Corpus) -> tuple[list[Known], Looks, float]:
    """The engine's own stages over the labels of all seeds together; and the seconds that they took."""
    words = tagger.vocabulary
    every = found.own | np.any(list(found.planted.values()), axis=0)
    lines = []
    for path, row in zip(found.pictures, every, strict=True):
        entries = [words[column] for column in np.flatnonzero(row).tolist()]
        kinds = [entry.kind for entry in entries]
        lines.append(to_line({"image": str(path), "labels": [e.name for e in entries], "kind": kinds}) + "\n")
    (folder / CORPUS).write_text("".join(lines), encoding="utf-8")
    begun = time.process_time()
    took = folder / SECONDS
    if not took.exists():
        run(Job((folder / CORPUS,), tagger, captions=False), folder / ENGINE)
        took.write_text(json.dumps(time.process_time() - begun), encoding="utf-8")
    store = EngineStore(folder / ENGINE)
    return list(all_known(store)), Looks.joined(list(all_looks(store))), json.loads(took.read_text())


def given(known: Sequence[Known], labels: Labels, words: Vocabulary) -> list[Known]:
    """What would be known had the corpus said just ``labels`` [N, T]."""
    found = []
    for row, one in zip(labels, known, strict=True):
        kept = []
        for label in one.labels:
            mine = bool(row[words.position(label.tag)])
            origins = tuple(o for o in label.origins if mine or o != "given")
            if origins:
                kept.append(replace(label, origins=origins))
        found.append(replace(one, labels=tuple(kept)))
    return found


def table(known: Sequence[Known], words: Vocabulary, origin: str | None = None) -> Labels:
    found = np.zeros((len(known), len(words)), bool)
    for number, one in enumerate(known):
        for label in one.labels:
            if origin is None or origin in label.origins:
                found[number, words.position(label.tag)] = True
    return found


def going(
    known: Sequence[Known], looks: Looks, words: Vocabulary, cleaning: Cleaning
) -> tuple[Labels, Labels]:
    """What cleaning removes [N, T], and the tags that it judged [T]."""
    there = table(known, words)
    mine = looks.at(np.flatnonzero(there[looks.rows, looks.columns]))
    judgement = judge(lambda: [mine], words, cleaning=cleaning)
    gone = np.zeros_like(there)
    for number, one in enumerate(known):
        gone[number, list(removed(one, judgement.verdicts.get(number, {}), words))] = True
    judged = np.zeros(len(words), bool)
    judged[[c for c, report in judgement.tags.items() if report.outcome in ("judged", "doubtful")]] = True
    return gone, judged


def auc(values: npt.NDArray[np.float64], wrong: Labels) -> float:
    """How often a wrong label has the larger value than a right one."""
    order = np.argsort(np.argsort(values, kind="stable"), kind="stable") + 1
    bad, good = int(wrong.sum()), int((~wrong).sum())
    return float((order[wrong].sum() - bad * (bad + 1) / 2) / max(bad * good, 1))


def signs(
    known: Sequence[Known], looks: Looks, words: Vocabulary, planted: Labels, judged: Labels
) -> dict[str, float]:
    """How well each sign tells planted labels from the corpus's own, tag by tag: areas under the curve, weighted."""
    scores = {
        (n, words.position(label.tag)): label.score for n, one in enumerate(known) for label in one.labels
    }
    mine = table(known, words, "given")
    totals: Counter[str] = Counter()
    weight = 0
    for column in np.flatnonzero(judged):
        here = np.flatnonzero((looks.columns == column) & mine[looks.rows, looks.columns])
        part = looks.at(here)
        wrong = planted[part.rows, column]
        if not wrong.any() or wrong.all():
            continue
        centres = cluster_count(len(part), per_cluster=50, most=8)
        far = k_means(part.vectors, centres, random=np.random.default_rng(0)).distance
        whole = np.array([scores[row, int(column)] or 0.0 for row in part.rows])
        pairs = int(wrong.sum()) * int((~wrong).sum())
        weight += pairs
        for name, values in (("distance", far), ("region", -part.scores), ("whole picture", -whole)):
            totals[name] += pairs * auc(np.asarray(values, np.float64), wrong)  # type: ignore[assignment]
    return {name: round(total / weight, 4) for name, total in totals.items()}


def against(labels: Labels, truth: Labels, columns: Sequence[int]) -> dict[str, float]:
    found = precision_recall(labels[:, columns], truth.astype(np.uint8))
    return {
        "OP": round(found.overall_precision, 4),
        "OR": round(found.overall_recall, 4),
        "OF1": round(found.overall_f1, 4),
        "labels_a_picture": round(float(labels[:, columns].sum(axis=1).mean()), 3),
    }


def yardstick(words: Vocabulary, pictures: Sequence[Path]) -> tuple[Labels, list[int]]:
    """val-tags.jsonl of these pictures [N, C], with what names imply, and the columns of those that are tags."""
    rows = {row.path.resolve(): row for row in read_labels(shared() / "data" / "flickr8k" / "val-tags.jsonl")}
    names = sorted({name for row in rows.values() for name in row.labels or ()})
    columns = {name: column for name in names if (column := words.find(name)) is not None}
    order = sorted(set(columns.values()))
    truth = np.zeros((len(pictures), len(words)), bool)
    for number, path in enumerate(pictures):
        row = rows.get(path.resolve())
        said = [columns[name] for name in (row.labels or ()) if name in columns] if row is not None else []
        truth[number, sorted(words.with_parents(said))] = True
    return truth[:, order], order


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    tagger = Tagger.from_pretrained(options.model, threads=options.threads)
    words = tagger.vocabulary
    found = corpus(words, options.pictures, options.rate)
    known, looks, seconds = looked(folder, tagger, found)
    np.savez_compressed(folder / "own.npz", own=found.own)
    truth, columns = yardstick(words, found.pictures)
    plain = given(known, found.own, words)
    merged = table(plain, words)
    gone, judged = going(plain, looks, words, Cleaning())
    added = merged & ~found.own
    right = added[:, columns] & truth
    figures: dict[str, Any] = {
        "model": tagger.ref,
        "pictures": len(found.pictures),
        "cpu_seconds_a_picture": round(seconds / len(found.pictures), 3),
        "tags_judged": int(judged.sum()),
        "unplanted": {
            "given": against(found.own, truth, columns),
            "merged": against(merged, truth, columns),
            "cleaned": against(merged & ~gone, truth, columns),
            "added": int(added[:, columns].sum()),
            "added_right": int(right.sum()),
            "removed_of_added": int((gone & added)[:, columns].sum()),
            "removed_of_added_wrong": int(((gone & added)[:, columns] & ~truth).sum()),
        },
    }
    rules: dict[str, Any] = {}
    for rule in RULES:
        rules[rule] = _mean(
            [_planted(found, known, looks, words, seed, Cleaning(rule=rule)) for seed in SEEDS]
        )
    figures["rules"] = rules
    areas = []
    for seed in SEEDS:
        ours = given(known, found.own | found.planted[seed], words)
        _, judged = going(ours, looks, words, Cleaning())
        areas.append(signs(ours, looks, words, found.planted[seed], judged))
    figures["signs"] = {name: round(float(np.mean([one[name] for one in areas])), 4) for name in areas[0]}
    ours = given(known, found.own | found.planted[SEEDS[0]], words)
    gone, _ = going(ours, looks, words, Cleaning())
    noisy = found.own | found.planted[SEEDS[0]]
    figures["noisy"] = {
        "given": against(noisy, truth, columns),
        "given_cleaned": against(noisy & ~gone, truth, columns),
    }
    return figures


def _planted(
    found: Corpus, known: Sequence[Known], looks: Looks, words: Vocabulary, seed: int, cleaning: Cleaning
) -> dict[str, float]:
    wrong = found.planted[seed]
    labels = found.own | wrong
    gone, judged = going(given(known, labels, words), looks, words, cleaning)
    gone &= labels
    confirmed = found.own & found.any
    caught = int((gone & wrong).sum())
    return {
        "planted": int(wrong.sum()),
        "planted_in_judged_tags": int(wrong[:, judged].sum()),
        "removed": int(gone.sum()),
        "precision": caught / max(int(gone.sum()), 1),
        "recall": caught / max(int(wrong.sum()), 1),
        "precision_by_chance": wrong[:, judged].sum() / max(int(labels[:, judged].sum()), 1),
        "own_removed": float((gone & confirmed).sum() / confirmed.sum()),
    }


def _mean(rows: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Means over seeds, and the least and greatest precision and recall."""
    found: dict[str, Any] = {name: round(float(np.mean([row[name] for row in rows])), 4) for name in rows[0]}
    for name in ("precision", "recall"):
        found[f"{name}_range"] = [round(f(row[name] for row in rows), 4) for f in (min, max)]
    return found


def labels_after(folder: Path, pictures: Sequence[Path], words: Vocabulary) -> dict[str, Labels]:
    """Of an earlier run: the first caption's labels after generating, and after cleaning too [N, T]."""
    store = EngineStore(folder / ENGINE)
    with np.load(folder / "own.npz") as file:
        own = file["own"]
    known = given(list(all_known(store)), own, words)
    place = {(store.folder / one.path).resolve(): number for number, one in enumerate(known)}
    rows = [place[path.resolve()] for path in pictures]
    merged = table(known, words)
    gone, _ = going(known, Looks.joined(list(all_looks(store))), words, Cleaning())
    return {
        "one person's caption, engine adds": merged[rows],
        "one person's caption, engine adds and cleans": (merged & ~gone)[rows],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=0.2, help="planted labels for each of a picture's own")
    parser.add_argument("--model", default="starter")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="keep everything here, and go on there")
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.out or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        figures = measure(folder, options)
    told = {"pictures": options.pictures, "rate": options.rate, "seeds": list(SEEDS), "threshold": 0.5}
    if options.record:
        record("engine", told, figures)
    else:
        print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()

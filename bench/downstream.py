"""What labels from each source teach a classifier, against people's labels (TagLLM 4.6).

    python bench/downstream.py mosaics [--train 300] [--test 300] [--out FOLDER] [--record]
    python bench/downstream.py flickr8k [--pictures 500] [--engine FOLDER] [--out FOLDER] [--record]

Mosaics: the truth is complete. Tiles of training and test mosaics come from different splits of their sets, so that
no picture is in both; the encoder stands still and was trained on the former. 80 further mosaics, whose truth may be
looked at, fit one threshold of the dot product and the hybrid's band, as a person with a few labelled pictures would.
Annotators are **simulated** (taglens simulate-mllm): their figures show the machine at work and are no model's.

Flickr8k: validation pictures, tested crosswise in four folds, against val-tags.jsonl, which is made of what five
people wrote and so leaves things out. No annotator is simulated there.

Needs the extras train and llm. Everything is kept in FOLDER; the same command goes on there.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from annotation import SETS, done, taglens
from common import record, shared
from taglens.data.labelling import label_from_captions
from taglens.data.sources import Row, read_labels
from taglens.evaluation.caption_tags import CaptionTags, key
from taglens.evaluation.datasets import read_captions
from taglens.evaluation.thresholds import best_uniform_threshold
from taglens.inference.tagger import Tagger
from taglens.language.parser import parse, parse_lines
from taglens.language.word_lists import packaged
from taglens.results import to_line
from taglens.training.engine_store import REPORT
from taglens.training.label_sources import Judged, Recipe, crosswise, judge, taught
from taglens.training.label_trials import Sources, features, read_sources
from taglens.vocabulary import Vocabulary

FEW = 80
SEEDS = (0, 1, 2)
SENTENCES = ("a picture of {}", "there is {} in the picture", "{} outside", "a photo with {}")
GROUPED = ("--grouping", "together", "--group-size", "15")
# The name in the table -> what taglens annotate is told.
ANNOTATORS: dict[str, tuple[str, ...]] = {
    "multi-option": ("--strategy", "options"),
    "multi-option, simple prompt": ("--strategy", "options", "--simple"),
    "binary": ("--strategy", "binary"),
    "two-stage": ("--strategy", "two-stage"),
    "two-stage, groups": ("--strategy", "grouped", *GROUPED),
    "two-stage, groups, concepts": ("--strategy", "full", *GROUPED),
    "the same, simple prompt": ("--strategy", "full", *GROUPED, "--simple"),
    "hybrid, concepts": ("--strategy", "hybrid"),
    "hybrid, concepts, fitted band": ("--strategy", "hybrid"),
}
BASELINES = ("tagger", "dot product", "caption", "multi-option")

Labels = npt.NDArray[np.bool_]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def write_labels(path: Path, pictures: Iterable[Path], labels: Iterable[Iterable[str]]) -> Path:
    rows = zip(pictures, labels, strict=True)
    lines = [to_line({"image": str(picture), "labels": sorted(names)}) for picture, names in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def kept(path: Path, make: Callable[[], Sequence[Any]]) -> list[Any]:
    """A list of JSON values, made once."""
    if not path.exists():
        rows = make()
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def scored(tagger: Tagger, pictures: Sequence[Path], path: Path) -> npt.NDArray[np.float32]:
    """Every tag's score [N, T], made once."""
    if not path.exists():
        np.save(path, np.stack([row for _, row in tagger.scores(pictures) if row is not None]))
    found: npt.NDArray[np.float32] = np.load(path)
    return found


def written(tagger: Tagger, pictures: Sequence[Path], path: Path) -> list[str]:
    return kept(path, lambda: [row.caption or "" for row in tagger.caption(pictures)])


def products(
    tagger: Tagger, names: Sequence[str], pictures: Sequence[Path], path: Path
) -> npt.NDArray[np.float32]:
    """How near pictures are to sentences that hold a name, in [0, 1]: [N, C]."""
    if not path.exists():
        np.save(path, np.stack([row.vector for row in tagger.embed(pictures) if row.vector is not None]))
    vectors = np.load(path)
    texts = np.mean([tagger.embed_text([s.format(name) for name in names]) for s in SENTENCES], axis=0)
    near = vectors @ (texts / np.linalg.norm(texts, axis=1, keepdims=True)).T
    found: npt.NDArray[np.float32] = ((near + 1) / 2).astype(np.float32)
    return found


def named(given: Labels, names: Sequence[str]) -> list[list[str]]:
    return [[names[column] for column in np.flatnonzero(row).tolist()] for row in given]


def true_of(sets: Path, classes: Sequence[str]) -> tuple[list[Path], Labels]:
    rows = list(read_labels(sets / "labels.jsonl"))
    table = [[name in (row.labels or ()) for name in classes] for row in rows]
    return [row.path for row in rows], np.array(table, bool)


# -- mosaics ---------------------------------------------------------------------------------------------


def make_mosaics(folder: Path, train: int, test: int) -> None:
    sets = [shared() / "data" / name for name in SETS]
    for name, count, split, seed in (
        ("train", train, "train", 0),
        ("few", FEW, "train", 1),
        ("test", test, "val", 2),
    ):
        if not (folder / name / "labels.jsonl").exists():
            more = ["--count", count, "--split", split, "--seed", seed, "--out", folder / name, "--quiet"]
            done(["mosaics", *sets, *more])


def took(folder: Path) -> dict[str, Any] | None:
    """What a finished annotation took; None where it is not finished."""
    ledger = folder / "ledger.json"
    row = json.loads(ledger.read_text(encoding="utf-8")) if ledger.exists() else {"finished": False}
    if not row["finished"]:
        return None
    tokens = row["prompt_tokens"] + row["completion_tokens"]
    return {
        "queries_a_picture": round(row["queries"] / row["pictures"], 2),
        "tokens_a_picture": round(tokens / row["pictures"], 1),
    }


def simulated(folder: Path, band: Sequence[object]) -> dict[str, dict[str, Any]]:
    """Each strategy's labels of the training mosaics; returns what it took."""
    places = {name: folder / name.replace(" ", "-").replace(",", "") for name in ANNOTATORS}
    found = {name: each for name, out in places.items() if (each := took(out)) is not None}
    if len(found) == len(ANNOTATORS):
        return found
    mosaics = folder / "train"
    words = mosaics / "vocabulary.jsonl"
    server = taglens(
        ["simulate-mllm", "--truth", mosaics, "--vocabulary", words, "--senses", mosaics / "senses.txt",
         "--port", 0, "--seed", 0, "--json"],
        stdout=-1,
    )  # fmt: skip
    assert server.stdout is not None
    try:
        url = json.loads(server.stdout.readline())["url"]
        for name, told in ANNOTATORS.items():
            out = places[name]
            more: list[object] = list(band) if "fitted" in name else []
            if "together" in told:
                more += ["--statistics", folder / "few" / "labels.jsonl"]
            if "concepts" in name or "same" in name:
                more += ["--concepts", mosaics / "concepts.jsonl"]
            done(["annotate", mosaics / "images", "--vocabulary", words, "--mllm", url, "--mllm-model",
                  "simulated-annotator", "--out", out, "--quiet", *told, *more])  # fmt: skip
            found[name] = took(out) or {}
            say(f"{name}: {found[name]}")
    finally:
        server.terminate()
        server.wait()
    return found


def mosaics(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    make_mosaics(folder, options.train, options.test)
    words = Vocabulary.load(folder / "train" / "vocabulary.jsonl")
    names = [entry.name for entry in words]
    tagger = Tagger.from_pretrained(options.model, threads=options.threads)
    asked = tagger.with_vocabulary(words)
    train, _ = true_of(folder / "train", names)
    few, few_truth = true_of(folder / "few", names)
    test, test_truth = true_of(folder / "test", names)
    files = {"human": folder / "train" / "labels.jsonl"}

    least = asked.vocabulary.thresholds()
    sure = scored(asked, train, folder / "train-scores.npy")
    files["tagger"] = write_labels(folder / "tagger.jsonl", train, named(sure >= least, names))
    some = scored(asked, few, folder / "few-scores.npy")
    one = best_uniform_threshold(some, few_truth.astype(np.uint8))
    files["tagger, one fitted threshold"] = write_labels(
        folder / "tagger-fitted.jsonl", train, named(sure >= np.float32(one), names)
    )
    near = products(tagger, names, few, folder / "few-vectors.npy")
    cut = best_uniform_threshold(near, few_truth.astype(np.uint8))
    near = products(tagger, names, train, folder / "train-vectors.npy")
    given = near >= np.float32(cut)
    files["dot product"] = write_labels(folder / "dot.jsonl", train, named(given, names))
    say("captions")
    find = label_from_captions(words, parse, lists=packaged())
    texts = written(tagger, train, folder / "train-captions.jsonl")
    told = [
        find(Row(index=0, image="", path=Path(), captions=(text,))).columns if text else () for text in texts
    ]
    files["caption"] = write_labels(
        folder / "captions.jsonl", train, [[names[column] for column in row] for row in told]
    )

    line = taglens(
        ["annotate", "band", folder / "few" / "labels.jsonl", "--vocabulary",
         folder / "train" / "vocabulary.jsonl", "--model", options.model, "--json"],
        stdout=-1,
    )  # fmt: skip
    band = json.loads(line.communicate()[0])
    asked_for = simulated(folder, ["--below", band["below"], "--above", band["above"]])
    for name in ANNOTATORS:
        files[name] = folder / name.replace(" ", "-").replace(",", "")

    engine = folder / "engine"
    if not (engine / REPORT).exists():
        done(["engine", "run", files["multi-option"] / "labels.jsonl", "--vocabulary",
              folder / "train" / "vocabulary.jsonl", "--model", options.model, "--no-captions", "--out", engine,
              "--quiet"])  # fmt: skip
    files["multi-option, engine"] = engine
    say("features")
    sources = read_sources(files, classes=[entry.id for entry in words], vocabulary=words)
    x = features(tagger, sources.pictures, keep=folder / "train-features.npz")
    z = features(tagger, test, keep=folder / "test-features.npz")
    recipe = Recipe()
    worth = {
        name: taught(x, labels, z, recipe=recipe, seeds=SEEDS) for name, labels in sources.labels.items()
    }
    found = judge(worth, sources.labels, test_truth, baselines=BASELINES, resamples=options.resamples)
    return {
        "model": tagger.ref, **found.to_dict(), "took": asked_for, "band": band, "left_out": sources.left_out,
        "same_labels_by_simple_prompt": _same(sources),
    }  # fmt: skip


def _same(sources: Sources) -> float:
    """The share of decisions that a simple prompt leaves as they were."""
    pairs = (
        ("multi-option", "multi-option, simple prompt"),
        ("two-stage, groups, concepts", "the same, simple prompt"),
    )
    return float(np.mean([(sources.labels[a] == sources.labels[b]).mean() for a, b in pairs]))


# -- Flickr8k --------------------------------------------------------------------------------------------


def flickr8k(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    data = shared() / "data" / "flickr8k"
    yardstick = [row for row in read_labels(data / "val-tags.jsonl") if row.labels is not None]
    yardstick = yardstick[: options.pictures]
    names = sorted({name for row in yardstick for name in row.labels or ()})
    pictures = [row.path for row in yardstick]
    truth = np.array([[name in (row.labels or ()) for name in names] for row in yardstick], bool)
    tagger = Tagger.from_pretrained(options.model, threads=options.threads)
    labels: dict[str, Labels] = {"human": truth}
    words = tagger.vocabulary
    columns = [words.find(name) for name in names]

    scores = scored(tagger, pictures, folder / "scores.npy")
    labels["tagger"] = _known(scores >= words.thresholds(), columns)
    near = products(tagger, names, pictures, folder / "vectors.npy")
    # Without a picture whose labels may be looked at, as many labels are given as the tagger gives.
    most = np.sort(near, axis=None)[-int(labels["tagger"].sum()) :][0]
    labels["dot product"] = near >= most
    say("captions")
    tags = CaptionTags(words, packaged(), parse_lines)
    labels["caption"] = _said(tags, written(tagger, pictures, folder / "captions.jsonl"), names)
    people = {row.path.resolve(): row.captions for row in read_captions(data / "captions.jsonl", split="val")}
    first = [people[path.resolve()][0] for path in pictures]
    labels["one person's caption"] = _said(tags, first, names)
    if options.engine is not None:
        from engine import labels_after

        for name, given in labels_after(options.engine, pictures, words).items():
            labels[name] = _known(given, columns)
    say("features")
    x = features(tagger, pictures, keep=folder / "features.npz")
    recipe = Recipe()
    worth = {name: crosswise(x, each, recipe=recipe, seeds=SEEDS) for name, each in labels.items()}
    found: Judged = judge(
        worth, labels, truth, baselines=("tagger", "dot product"), resamples=options.resamples
    )
    return {"model": tagger.ref, **found.to_dict()}


def _known(given: Labels, columns: Sequence[int | None]) -> Labels:
    """[N, T] to [N, C]; what the vocabulary lacks is never given."""
    return np.stack(
        [np.zeros(len(given), bool) if column is None else given[:, column] for column in columns], axis=1
    )


def _said(tags: CaptionTags, texts: Sequence[str], names: Sequence[str]) -> Labels:
    said = tags.labels_of(list(texts), [(name, None) for name in names])
    return np.array([[key(name, None) in each for name in names] for each in said], bool)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("part", choices=("mosaics", "flickr8k"))
    parser.add_argument("--train", type=int, default=300, help="mosaics that are labelled")
    parser.add_argument("--test", type=int, default=300, help="mosaics that classifiers are tested on")
    parser.add_argument(
        "--pictures", type=int, default=500, help="of Flickr8k's validation pictures, the first"
    )
    parser.add_argument("--engine", type=Path, help="for flickr8k: the folder of bench/engine.py --out")
    parser.add_argument("--model", default="starter")
    parser.add_argument("--resamples", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="keep everything here, and go on there")
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.out or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        figures = {options.part: {"mosaics": mosaics, "flickr8k": flickr8k}[options.part](folder, options)}
    told: dict[str, Any] = {"seeds": list(SEEDS), "recipe": _recipe(), "resamples": options.resamples}
    if options.part == "mosaics":
        told |= {"train": options.train, "test": options.test, "few": FEW, "simulated": True}
    else:
        told |= {"pictures": options.pictures, "folds": 4}
    if options.record:
        record("downstream", told, figures)
    else:
        print(json.dumps(figures, indent=1))


def _recipe() -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(Recipe())


if __name__ == "__main__":
    main()

"""Better labels teach better, the same ones the same; gaps and shares are what their words say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import colours
from taglens.errors import DataError, UsageError
from taglens.evaluation.metrics import mean_average_precision
from taglens.results import to_line
from taglens.training.label_sources import (
    Recipe,
    Scored,
    crosswise,
    judge,
    taught,
    train_classifier,
)
from taglens.training.label_trials import classes_of, features, read_sources

QUICK = Recipe(epochs=12, batch_size=32, rate=0.05, hidden=0)


def world(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features [count, 8] of which the first four show the four classes, through noise."""
    draw = np.random.default_rng(seed)
    labels = draw.random((count, 4)) < 0.3
    seen = np.concatenate([labels + draw.normal(0, 0.4, labels.shape), draw.normal(0, 1, (count, 4))], 1)
    return seen.astype(np.float32), labels


def test_a_classifier_learns_what_its_labels_say() -> None:
    x, y = world(300)
    other, truth = world(200, seed=1)
    classifier = train_classifier(x, y, recipe=QUICK)
    scores = classifier(other)
    assert mean_average_precision(scores, truth.astype(np.uint8)) > 0.85
    assert ((scores >= classifier.threshold) == truth).mean() > 0.85
    assert (train_classifier(x, y, recipe=QUICK)(other) == scores).all(), "the same seed, the same head"
    assert (train_classifier(x, y, recipe=QUICK, seed=1)(other) != scores).any()
    deep = train_classifier(x, y, recipe=Recipe(epochs=12, batch_size=32, hidden=16, rate=0.02))
    assert mean_average_precision(deep(other), truth.astype(np.uint8)) > 0.85
    again = train_classifier(x, y, recipe=Recipe(epochs=12, batch_size=32, hidden=16, rate=0.02))
    assert (again(other) == deep(other)).all(), "what is dropped is the seed's, too"


def test_sources_stand_in_the_order_of_their_quality() -> None:
    x, y = world(300)
    other, truth = world(300, seed=1)
    draw = np.random.default_rng(2)
    labels = {
        "human": y,
        "good": y ^ (draw.random(y.shape) < 0.05),
        "bad": y ^ (draw.random(y.shape) < 0.35),
        "none": draw.random(y.shape) < 0.3,
    }
    scored = {name: taught(x, each, other, recipe=QUICK, seeds=(0, 1)) for name, each in labels.items()}
    found = judge(scored, labels, truth, baselines=("none", "bad"), resamples=40)
    worth = [found.sources[name].mean_precision.value for name in ("none", "bad", "good", "human")]
    assert worth == sorted(worth) and found.baseline == "bad"
    human, bad = found.sources["human"], found.sources["bad"]
    assert human.of_human.to_list() == [1.0, 1.0, 1.0] and human.quality.overall_f1 == 1.0
    assert bad.gap_closed is not None and bad.gap_closed.to_list() == [0.0, 0.0, 0.0]
    assert human.gap_closed is not None and human.gap_closed.value == 1.0
    good = found.sources["good"]
    assert good.mean_precision.low < good.mean_precision.value < good.mean_precision.high
    # The slow twin of the figures: every seed by itself.
    each = [mean_average_precision(s, truth.astype(np.uint8)) for s in scored["good"].scores]
    assert good.mean_precision.value == pytest.approx(np.mean(each))
    assert good.deviation == pytest.approx(np.std(each, ddof=1))
    assert good.gap_closed is not None
    assert good.gap_closed.value == pytest.approx(
        (np.mean(each) - bad.mean_precision.value) / (human.mean_precision.value - bad.mean_precision.value)
    )
    row = found.to_dict()["sources"]["good"]
    assert row["mAP"][0] == pytest.approx(np.mean(each), abs=1e-6)


def test_no_gap_where_people_teach_no_more() -> None:
    x, y = world(100)
    scored = {
        "human": taught(x, y, x, recipe=QUICK, seeds=(0,)),
        "same": taught(x, y, x, recipe=QUICK, seeds=(0,)),
    }
    found = judge(scored, {"human": y, "same": y}, y, baselines=("same",), resamples=5)
    assert found.sources["same"].gap_closed is None and found.sources["same"].deviation == 0.0
    assert judge(scored, {"human": y, "same": y}, y, resamples=5).baseline is None


def test_folds_test_every_picture_by_a_head_that_never_saw_it() -> None:
    x, y = world(90)
    found = crosswise(x, y, folds=3, recipe=QUICK, seeds=(5,))
    for fold in range(3):
        own = np.arange(90) % 3 == fold
        alone = taught(x[~own], y[~own], x[own], recipe=QUICK, seeds=(5,))
        assert (found.scores[:, own] == alone.scores).all() and (found.given[:, own] == alone.given).all()


def test_what_cannot_be_meant() -> None:
    x, y = world(60)
    scored = {"human": Scored(np.zeros((1, 60, 4), np.float32), np.zeros((1, 60, 4), bool))}
    for call, said in (
        (lambda: train_classifier(x[:10], y[:10]), "10 pictures"),
        (lambda: train_classifier(x, y[:50]), "features"),
        (lambda: train_classifier(x * np.nan, y), "finite"),
        (lambda: taught(x, y, x, seeds=()), "a seed or more"),
        (lambda: taught(x, y, x[:, :3]), "test features"),
        (lambda: crosswise(x, y, folds=1), "2 or more"),
        (lambda: judge(scored, {"human": y}, y, human="people"), "'people'"),
        (lambda: judge(scored, {"human": y}, y, baselines=("human",)), "baselines"),
        (lambda: judge(scored, {"human": y}, y[:50]), "another shape"),
        (lambda: judge(scored, {"human": y}, y & False), "no class"),
        (lambda: Recipe(epochs=0), "epochs"),
        (lambda: Recipe(averaging=1.0), "averaging"),
    ):
        with pytest.raises(UsageError, match=said):
            call()


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(to_line(row) + "\n" for row in rows))
    return path


def test_sources_meet_by_picture_and_by_name(tmp_path: Path) -> None:
    one = write(
        tmp_path / "one" / "labels.jsonl",
        [
            {"image": "../a.png", "labels": ["Red"], "split": "train"},
            {"image": "../b.png", "labels": ["green", "unheard of"], "split": "train"},
            {"image": "../c.png", "labels": ["blue"], "split": "val"},
        ],
    )
    two = write(
        tmp_path / "two.jsonl",
        [
            {"image": "b.png", "labels": []},
            {"image": "a.png", "labels": ["red", "blue"]},
            {"image": "d.png", "labels": None},
        ],
    )
    classes = classes_of(one, vocabulary=colours.VOCABULARY)
    assert classes == [
        colours.VOCABULARY[c].id for c in sorted(range(3), key=lambda c: colours.VOCABULARY[c].id)
    ]
    found = read_sources({"one": one.parent, "two": two}, classes=classes, vocabulary=colours.VOCABULARY)
    assert [path.name for path in found.pictures] == ["a.png", "b.png"] and found.left_out == 1
    red, green, blue = (classes.index(f"attribute:{name}") for name in ("red", "green", "blue"))
    assert found.labels["one"][:, [red, green]].tolist() == [[True, False], [False, True]]
    assert found.labels["two"][:, [red, blue]].tolist() == [[True, True], [False, False]]
    assert classes_of(one, split="val") == ["blue"]
    with pytest.raises(UsageError, match="no row of split"):
        classes_of(one, split="test")
    with pytest.raises(UsageError, match="label the same pictures"):
        other = write(tmp_path / "three.jsonl", [{"image": "z.png", "labels": ["red"]}])
        read_sources({"one": one, "three": other}, classes=classes)
    with pytest.raises(UsageError, match="has no label"):
        classes_of(
            write(tmp_path / "four.jsonl", [{"image": "a.png", "labels": ["x"]}]),
            vocabulary=colours.VOCABULARY,
        )


def test_features_are_made_once(tmp_path: Path) -> None:
    colours.write_pictures(tmp_path, 5)
    pictures = sorted(tmp_path.rglob("*.png"))
    tagger, kept, told = colours.tagger(), tmp_path / "kept.npz", []
    found = features(tagger, pictures, keep=kept, batch_size=2, watch=told.append)
    assert found.shape == (5, 6) and told == [2, 4, 5]
    assert (features(colours.tagger(), pictures, keep=kept, watch=told.append) == found).all() and told[
        -1
    ] == 5
    assert len(told) == 4, "nothing was looked at again"
    assert len(features(colours.tagger(), pictures[:3], keep=kept)) == 3, "other pictures are made anew"
    kept.write_bytes(b"something")
    with pytest.raises(DataError, match="holds no features"):
        features(tagger, pictures, keep=kept)
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="leave its rows out"):
        features(tagger, [tmp_path / "bad.png"])


def test_resamples_in_which_nothing_can_be_told_apart_are_left_out() -> None:
    """Of two pictures every second resample holds one of them twice."""
    truth = np.array([[True], [False]])
    scored = Scored(np.array([[[0.9], [0.1]]], np.float32), np.array([[[True], [False]]]))
    found = judge({"human": scored}, {"human": truth}, truth, resamples=20).sources["human"]
    assert found.mean_precision.to_list() == found.of_human.to_list() == [1.0, 1.0, 1.0]

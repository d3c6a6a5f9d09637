"""Evaluating a tagger: how labels find columns, what leaves the means, and the contract's object."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from taglens.cli.evaluate import run
from taglens.errors import DataError, MismatchError, ModelError, UsageError
from taglens.evaluation.datasets import LabelledImage
from taglens.evaluation.metrics import average_precision
from taglens.evaluation.tagging import TaggingReport, evaluate_tagging, find_label
from taglens.vocabulary import Entry, Vocabulary


class FakeScorer:
    """Scores from a table {picture: [T] or None}; remembers what it was asked for."""

    def __init__(self, vocabulary: Vocabulary, table: dict[str, Sequence[float] | None]) -> None:
        self.vocabulary = vocabulary
        self.table = table
        self.asked: list[str] = []
        self.batch_sizes: list[int] = []

    def scores(
        self, sources: Iterable[Path], *, batch_size: int
    ) -> Iterator[tuple[Path, np.ndarray[Any, np.dtype[np.float32]] | None]]:
        self.batch_sizes.append(batch_size)
        for source in sources:
            self.asked.append(source.name)
            row = self.table[source.name]
            yield source, None if row is None else np.array(row, np.float32)


class FakeReader(FakeScorer):
    """A scorer that reads text too: every typed name scores by its length, over the picture's number."""

    def __init__(self, vocabulary: Vocabulary, table: dict[str, Sequence[float] | None]) -> None:
        super().__init__(vocabulary, table)
        self.typed_names: list[list[str]] = []
        self.readers: list[FakeScorer] = []

    reads_text = True

    def typed(self, names: list[str]) -> FakeScorer:
        self.typed_names.append(names)
        vocabulary = Vocabulary([Entry(name, "typed") for name in names], name="typed")
        table: dict[str, Sequence[float] | None] = {
            picture: None if picture.startswith("unreadable") else [len(name) / (10 + i) for name in names]
            for i, picture in enumerate(self.table)
        }
        reader = FakeScorer(vocabulary, table)
        self.readers.append(reader)
        return reader


VOCABULARY = Vocabulary(
    [
        Entry("person", "object", synonyms=("human",), count=50, threshold=0.6),
        Entry("train", "object", count=40),
        Entry("train", "action", count=10, threshold=0.2),
        Entry("dog", "object", synonyms=("hound",), count=30),
        Entry("kite", "object", count=5),
        Entry("fly", "action", synonyms=("kite",), count=2),
        Entry("secret", "object", hidden=True),
    ],
    name="small",
)
TABLE: dict[str, Sequence[float] | None] = {
    "a": [0.9, 0.1, 0.3, 0.8, 0.2, 0.1, 0.9],
    "b": [0.5, 0.7, 0.1, 0.6, 0.3, 0.2, 0.1],
    "c": [0.7, 0.2, 0.4, 0.1, 0.4, 0.3, 0.8],
    "d": [0.1, 0.6, 0.2, 0.3, 0.5, 0.4, 0.2],
}


def image(name: str, *labels: str, kinds: Sequence[str | None] | None = None) -> LabelledImage:
    return LabelledImage(Path("set") / name, name, labels, tuple(kinds or [None] * len(labels)), "val")


IMAGES = [image("a", "person", "dog"), image("b", "person", "train"), image("c", "dog"), image("d", "train")]


def object_of(report: TaggingReport) -> dict[str, Any]:
    """What a script reads: through strict JSON, so that a NaN cannot hide."""
    parsed: dict[str, Any] = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    return parsed


def test_the_object_has_the_contract_fields_and_the_right_numbers() -> None:
    found = object_of(evaluate_tagging(FakeScorer(VOCABULARY, TABLE), IMAGES))
    # Stored thresholds: person 0.6, the others 0.5. Given: person a c, dog a b, train b d.
    # Positives stand at ranks: person (a 0.9, c 0.7, b 0.5) 1 and 3; dog (a, b, d, c) 1 and 4; train 1 and 2.
    assert found == {
        "images": 4,
        "failed": 0,
        "classes": 3,
        "left_out": [],
        "threshold": "stored",
        "mAP": pytest.approx(((1 + 2 / 3) / 2 + (1 + 2 / 4) / 2 + 1) / 3),
        "CP": pytest.approx((0.5 + 0.5 + 1) / 3),
        "CR": pytest.approx((0.5 + 0.5 + 1) / 3),
        "CF1": pytest.approx(2 / 3),
        "OP": pytest.approx(4 / 6),
        "OR": pytest.approx(4 / 6),
        "OF1": pytest.approx(4 / 6),
        "per_class": {
            "dog": {"ap": pytest.approx(0.75), "positives": 2, "matched": "object:dog"},
            "person": {"ap": pytest.approx(5 / 6), "positives": 2, "matched": "object:person"},
            "train": {"ap": 1.0, "positives": 2, "matched": "object:train"},
        },
    }


def test_a_given_threshold_replaces_the_stored_ones_and_equality_passes() -> None:
    report = evaluate_tagging(FakeScorer(VOCABULARY, TABLE), IMAGES, threshold=0.7)
    # 0.7 in float32 lies below 0.7 in float64: person c and train b are given all the same.
    assert (report.overall_precision, report.overall_recall) == pytest.approx((3 / 4, 3 / 6))
    assert object_of(report)["threshold"] == 0.7
    everything = evaluate_tagging(FakeScorer(VOCABULARY, TABLE), IMAGES, threshold=0.0)
    assert (everything.class_precision, everything.class_recall) == (0.5, 1.0)
    nothing = evaluate_tagging(FakeScorer(VOCABULARY, TABLE), IMAGES, threshold=1.0)
    assert (nothing.class_precision, nothing.overall_precision, nothing.class_f1) == (0.0, 0.0, 0.0)
    for bad in (-0.1, 1.5, math.nan):
        with pytest.raises(UsageError, match="from 0 to 1"):
            evaluate_tagging(FakeScorer(VOCABULARY, TABLE), IMAGES, threshold=bad)


def test_synonyms_share_a_column_and_stay_two_classes() -> None:
    images = [image("a", "human", "hound"), image("b", "Person"), image("c", "person"), image("d")]
    report = evaluate_tagging(FakeScorer(VOCABULARY, TABLE), images)
    assert report.classes == ("Person", "hound", "human", "person")
    assert {result.matched for result in report.per_class} == {"object:person", "object:dog"}
    np.testing.assert_array_equal(report.scores[:, 0], report.scores[:, 2])
    assert report.truth[:, [0, 2, 3]].T.tolist() == [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0]]


def test_homographs() -> None:
    assert find_label(VOCABULARY, "train") == 1, "the larger corpus count"
    assert find_label(VOCABULARY, "train", kind="action") == 2
    assert find_label(VOCABULARY, "train", kind="scene") is None, "no sense of that kind"
    assert find_label(VOCABULARY, "dog", kind="scene") == 3, "one sense only: nothing to choose"
    assert find_label(VOCABULARY, "kite", kind="action") == 5, "a synonym is a sense"
    assert find_label(VOCABULARY, "dogs") is None, "no inflections"


def test_a_label_that_means_two_tags_is_two_classes() -> None:
    images = [
        image("a", "train", kinds=["action"]),
        image("b", "train", kinds=["object"]),
        image("c", "train"),
        image("d", "dog"),
    ]
    report = evaluate_tagging(FakeScorer(VOCABULARY, TABLE), images)
    # The row without a kind means the commoner sense and joins it.
    assert report.classes == ("action:train", "dog", "object:train")
    assert report.truth.T.tolist() == [[1, 0, 0, 0], [0, 0, 0, 1], [0, 1, 1, 0]]
    assert object_of(report)["per_class"]["action:train"]["matched"] == "action:train"
    one_kind = evaluate_tagging(
        FakeScorer(VOCABULARY, TABLE), [image("a", "train", kinds=["action"]), image("b", "dog")]
    )
    assert object_of(one_kind)["per_class"]["train"]["matched"] == "action:train"


def test_a_label_standing_twice_in_a_row_counts_once() -> None:
    report = evaluate_tagging(FakeScorer(VOCABULARY, TABLE), [image("a", "dog", "dog"), image("b")])
    assert report.truth.tolist() == [[1], [0]]
    assert report.per_class[0].positives == 1


def test_unknown_labels_are_scored_as_text_in_a_second_run() -> None:
    reader = FakeReader(VOCABULARY, TABLE)
    images = [image("a", "person", "Zebra"), image("b", "zebra"), image("c", "okapi"), image("d")]
    steps: list[tuple[int, int]] = []
    report = evaluate_tagging(
        reader,
        images,
        typed=reader.typed,
        batch_size=3,
        progress=lambda done, total: steps.append((done, total)),
    )
    assert reader.typed_names == [["Zebra", "okapi"]], "two spellings are one text"
    assert {r.name: r.matched for r in report.per_class} == {
        "Zebra": "typed",
        "okapi": "typed",
        "person": "object:person",
        "zebra": "typed",
    }
    np.testing.assert_array_equal(report.scores[:, 0], np.array([5 / 10, 5 / 11, 5 / 12, 5 / 13], np.float32))
    assert report.truth.T.tolist() == [[1, 0, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0]]
    assert steps == [(n, 8) for n in range(1, 9)]
    assert reader.batch_sizes == reader.readers[0].batch_sizes == [3]


def test_an_open_set_reads_every_label() -> None:
    reader = FakeReader(VOCABULARY, TABLE)
    report = evaluate_tagging(reader, IMAGES, open_set=True, typed=reader.typed)
    assert {result.matched for result in report.per_class} == {"typed"}
    assert reader.asked == [], "the vocabulary's own scores are not needed"
    with pytest.raises(UsageError, match="reads no text"):
        evaluate_tagging(FakeScorer(VOCABULARY, TABLE), IMAGES, open_set=True)


def test_without_a_text_encoder_unknown_labels_leave_the_means() -> None:
    images = [image("a", "person", "zebra"), image("b", "dog"), image("c", "zebra"), image("d")]
    report = evaluate_tagging(FakeScorer(VOCABULARY, TABLE), images)
    found = object_of(report)
    assert found["left_out"] == ["zebra"]
    assert found["classes"] == 3
    assert found["per_class"]["zebra"] == {"ap": None, "positives": 2, "matched": None}
    assert report.classes == ("dog", "person")
    known = evaluate_tagging(
        FakeScorer(VOCABULARY, TABLE), [image("a", "person"), image("b", "dog"), image("c"), image("d")]
    )
    assert (found["mAP"], found["CF1"]) == (known.mean_average_precision, known.class_f1)
    with pytest.raises(UsageError, match="none of the 1 labels, such as 'zebra'"):
        evaluate_tagging(FakeScorer(VOCABULARY, TABLE), [image("a", "zebra"), image("b")])


def test_classes_without_a_positive_or_a_negative_leave_the_means() -> None:
    table = {**TABLE, "broken": None}
    images = [
        image("a", "person", "dog"),
        image("b", "person"),
        image("broken", "kite", "dog"),
        image("c", "person", "train"),
    ]
    report = evaluate_tagging(FakeScorer(VOCABULARY, table), images)
    found = object_of(report)
    assert (found["images"], found["failed"], report.failed) == (4, 1, ("broken",))
    assert report.image_names == ("a", "b", "c")
    assert found["left_out"] == ["kite", "person"]
    assert found["per_class"]["kite"] == {"ap": None, "positives": 0, "matched": "object:kite"}
    assert found["per_class"]["person"] == {"ap": None, "positives": 3, "matched": "object:person"}
    assert found["per_class"]["dog"]["positives"] == 1
    # dog: a 0.8 given rightly, b 0.6 wrongly; train: c 0.2 missed, b 0.7 wrongly given.
    assert (found["CP"], found["CR"], found["OP"], found["OR"]) == pytest.approx((0.25, 0.5, 1 / 3, 0.5))


def test_no_class_left_prints_null() -> None:
    found = object_of(evaluate_tagging(FakeScorer(VOCABULARY, TABLE), [image("a", "dog")]))
    assert found["left_out"] == ["dog"]
    assert [found[key] for key in ("mAP", "CP", "CR", "CF1", "OP", "OR", "OF1")] == [None] * 7


def test_a_picture_that_fails_as_text_only_is_failed_and_not_asked_for_twice() -> None:
    table: dict[str, Sequence[float] | None] = {**TABLE, "unreadable": TABLE["a"], "gone": None}
    reader = FakeReader(VOCABULARY, table)
    images = [image("gone", "dog"), image("a", "dog", "zebra"), image("unreadable", "dog"), image("b")]
    steps: list[int] = []
    report = evaluate_tagging(
        reader, images, typed=reader.typed, progress=lambda done, total: steps.append(done)
    )
    assert report.failed == ("gone", "unreadable")
    assert reader.readers[0].asked == ["a", "unreadable", "b"]
    assert report.scores.shape == (2, 2)
    assert steps == [1, 2, 3, 4, 6, 7, 8]


def test_nothing_to_measure_is_an_error_with_a_cure() -> None:
    with pytest.raises(UsageError, match="no pictures"):
        evaluate_tagging(FakeScorer(VOCABULARY, TABLE), [])
    with pytest.raises(DataError, match="no row names a label"):
        evaluate_tagging(FakeScorer(VOCABULARY, TABLE), [image("a"), image("b")])
    with pytest.raises(DataError, match=r"none of the 2 pictures could be read, such as set.x"):
        evaluate_tagging(
            FakeScorer(VOCABULARY, {"x": None, "y": None}), [image("x", "dog"), image("y", "dog")]
        )


def test_a_scorer_that_breaks_its_word_is_caught() -> None:
    class Reversed(FakeScorer):
        def scores(self, sources: Iterable[Path], *, batch_size: int) -> Iterator[Any]:
            return super().scores(reversed(list(sources)), batch_size=batch_size)

    class Short(FakeScorer):
        def scores(self, sources: Iterable[Path], *, batch_size: int) -> Iterator[Any]:
            return super().scores(list(sources)[:1], batch_size=batch_size)

    with pytest.raises(MismatchError, match="out of order"):
        evaluate_tagging(Reversed(VOCABULARY, TABLE), IMAGES)
    with pytest.raises(MismatchError, match="found nothing"):
        evaluate_tagging(Short(VOCABULARY, TABLE), IMAGES)
    with pytest.raises(MismatchError, match=r"expected 7 scores for small@"):
        evaluate_tagging(FakeScorer(VOCABULARY, {"a": [0.5] * 6}), [image("a", "dog")])
    with pytest.raises(ModelError, match="object:dog"):
        evaluate_tagging(FakeScorer(VOCABULARY, {"a": [0.5] * 3 + [math.nan] * 4}), [image("a", "dog")])

    def forgetful(names: list[str]) -> FakeScorer:
        return FakeScorer(VOCABULARY, TABLE)

    with pytest.raises(MismatchError, match="'zebra' in its vocabulary"):
        evaluate_tagging(FakeScorer(VOCABULARY, TABLE), [image("a", "zebra")], typed=forgetful)


def test_the_score_file_lets_anyone_repeat_the_figures(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    names = [f"{n}.jpg" for n in range(40)]
    table: dict[str, Sequence[float] | None] = {name: rng.random(7).round(1).tolist() for name in names}
    table["7.jpg"] = None
    labels = ["person", "train", "dog", "kite", "zebra"]
    images = [image(name, *[label for label in labels if rng.random() < 0.3]) for name in names]
    report = evaluate_tagging(FakeScorer(VOCABULARY, table), images, threshold=0.5)
    path = tmp_path / "out.bin"
    report.save_scores(path)
    assert [found.name for found in tmp_path.iterdir()] == ["out.bin"]
    with np.load(path, allow_pickle=False) as stored:
        assert set(stored) == {"scores", "truth", "classes", "images"}
        scores, truth = stored["scores"], stored["truth"]
        assert (scores.dtype, truth.dtype) == (np.float32, np.uint8)
        assert stored["classes"].dtype.kind == stored["images"].dtype.kind == "U"
        assert stored["classes"].tolist() == ["dog", "kite", "person", "train"]
        assert stored["images"].tolist() == [name for name in names if name != "7.jpg"]
    found = object_of(report)
    each = [average_precision(scores[:, c], truth[:, c]) for c in range(4)]
    assert found["mAP"] == pytest.approx(np.mean(each))
    right = ((scores >= np.float32(0.5)) & (truth == 1)).sum()
    assert found["OP"] == pytest.approx(right / (scores >= np.float32(0.5)).sum())
    assert found["OR"] == pytest.approx(right / truth.sum())
    with pytest.raises(UsageError, match="cannot write scores"):
        report.save_scores(tmp_path / "no" / "folder.npz")


# -- the command ---------------------------------------------------------------------------------


def label_file(folder: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path = folder / "labels.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def command(scorer: FakeScorer, data: Path, **options: Any) -> tuple[int, str]:
    chosen: dict[str, Any] = {
        "split": None,
        "threshold": None,
        "open_set": False,
        "scores": None,
        "batch_size": 8,
        **options,
    }
    out = io.StringIO()
    return run(lambda: scorer, data=data, stdout=out, **chosen), out.getvalue()


def test_the_command_prints_one_object_and_writes_the_scores(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = label_file(
        tmp_path,
        [
            {"image": "a", "labels": ["dog", "zebra"], "split": "val"},
            {"image": "b", "labels": ["person"], "split": "val"},
            {"image": "c", "labels": ["person"], "split": "train"},
        ],
    )
    scores = tmp_path / "scores"
    status, text = command(FakeReader(VOCABULARY, TABLE), data, scores=scores)
    assert status == 0
    assert text.count("\n") == 1 and json.loads(text)["images"] == 2
    assert json.loads(text)["per_class"]["zebra"]["matched"] == "typed", "a scorer that reads is used so"
    with np.load(scores, allow_pickle=False) as stored:
        assert stored["scores"].shape == (2, 3)
    _, text = command(FakeScorer(VOCABULARY, TABLE), data)
    assert json.loads(text)["per_class"]["zebra"]["matched"] is None
    assert capsys.readouterr() == ("", "")


def test_the_command_names_failed_pictures_on_standard_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = {f"x{n}": None for n in range(12)}
    data = label_file(tmp_path, [{"image": name, "labels": ["dog"]} for name in ["a", *bad]])
    status, text = command(FakeScorer(VOCABULARY, {**TABLE, **bad}), data)
    assert status == 1
    assert json.loads(text)["failed"] == 12
    assert "12 of 13 pictures" in (told := capsys.readouterr().err)
    assert told.endswith("x9 and 2 more\n")


def test_the_command_refuses_before_it_loads_a_model(tmp_path: Path) -> None:
    def factory() -> FakeScorer:
        raise AssertionError("loaded")

    data = label_file(tmp_path, [{"image": "a", "labels": ["dog"]}])
    options: dict[str, Any] = {"threshold": None, "open_set": False, "batch_size": 1, "stdout": io.StringIO()}
    for scores in (tmp_path / "no" / "out.npz", tmp_path):
        with pytest.raises(UsageError, match="cannot write scores"):
            run(factory, data=data, split=None, scores=scores, **options)
    with pytest.raises(UsageError, match="no row of split"):
        run(factory, data=data, split="test", scores=None, **options)

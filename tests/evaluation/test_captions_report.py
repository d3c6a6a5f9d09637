"""Evaluating captions: what is left out, what counts as truth, the constant caption, and the contract's object."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from caption_twins import TwinMetrics
from taglens.errors import DataError, UsageError
from taglens.evaluation import captions as module
from taglens.evaluation.caption_tags import CaptionTags
from taglens.evaluation.captions import CaptionReport, evaluate_captions
from taglens.evaluation.datasets import CaptionedImage
from taglens.language.parser import parse_lines
from taglens.language.word_lists import WordLists
from taglens.results import to_line
from taglens.vocabulary import Entry, Vocabulary

TAGS = CaptionTags(
    Vocabulary(
        [Entry("dog", "object"), Entry("cat", "object"), Entry("grass", "object"), Entry("run", "action")],
        name="small",
    ),
    WordLists(),
    parse_lines,
)


def image(name: str, *captions: str, **more: Any) -> CaptionedImage:
    return CaptionedImage(Path("/pictures") / name, name, captions, None, **more)


IMAGES = [
    image("a.jpg", "A dog runs on the grass .", "the dog"),
    image("b.jpg", "A cat sits on the grass ."),
    image("c.jpg", "Two dogs ."),
]


def report(images: list[CaptionedImage], texts: list[str | None], **more: Any) -> CaptionReport:
    return evaluate_captions(images, texts, measure=TwinMetrics(), tags=TAGS, **more)


def found(images: list[CaptionedImage], texts: list[str | None], **more: Any) -> dict[str, Any]:
    row = report(images, texts, **more).to_dict()
    assert json.loads(to_line(row)) == row
    return row


CONTRACT = ["images", "BLEU-4", "ROUGE-L", "CIDEr", "tag_precision", "tag_recall", "distinct_captions"]


def test_the_object_has_what_the_contract_says() -> None:
    row = found(IMAGES, ["a dog runs on the grass", "a cat", "a dog"])
    assert {*CONTRACT, "failed", "constant_baseline"} <= row.keys()
    assert {*CONTRACT[1:], "caption", "chosen_from"} <= row["constant_baseline"].keys()
    # Said: dog, run, grass; cat; dog. There: dog, run, grass; cat, grass; dog.
    assert (row["images"], row["failed"], row["distinct_captions"]) == (3, 0, 3)
    assert row["tag_precision"] == 1 and row["tag_recall"] == pytest.approx(5 / 6)
    assert (row["tag_truth"], row["tag_images"]) == ("captions", 3)
    assert (
        row["BLEU-1"]
        == TwinMetrics()(
            [["a dog runs on the grass", "the dog"], ["a cat sits on the grass"], ["two dogs"]],
            ["a dog runs on the grass", "a cat", "a dog"],
        )["BLEU-1"]
    )


def test_case_and_punctuation_do_not_count() -> None:
    plain: list[str | None] = ["a dog runs", "a cat", "a dog runs"]
    dressed: list[str | None] = ["A dog runs .", "A CAT!", '"a dog" runs...']
    assert found(IMAGES, plain) == found(IMAGES, dressed)
    assert found(IMAGES, dressed)["distinct_captions"] == 2


def test_a_picture_without_a_caption_is_counted_and_left_out() -> None:
    whole = report(IMAGES, ["a dog", None, "a dog"])
    assert whole.failed == ("b.jpg",)
    row = found(IMAGES, ["a dog", None, "a dog"])
    assert {**row, "images": 2, "failed": 0} == found([IMAGES[0], IMAGES[2]], ["a dog", "a dog"])
    # An empty caption is one, and a bad one.
    assert found(IMAGES, ["a dog", "", "a dog"])["failed"] == 0
    with pytest.raises(DataError, match="none of the 3 pictures has a caption, such as a"):
        report(IMAGES, [None] * 3)


def test_the_order_of_rows_changes_nothing() -> None:
    texts: list[str | None] = ["a dog runs", "a cat", "two dogs on grass"]
    one, other = found(IMAGES, texts), found(IMAGES[::-1], texts[::-1])
    assert one.pop("constant_baseline") == pytest.approx(other.pop("constant_baseline"))
    assert one == pytest.approx(other)


def test_labels_are_the_truth_where_there_are_some() -> None:
    images = [
        image("a.jpg", "a dog", labels=("puppy dog", "run"), kinds=(None, "action")),
        image("b.jpg", "a cat"),
        image("c.jpg", "a cat", labels=(), kinds=()),
    ]
    row = found(images, ["a dog runs", "a cat", "a cat runs"])
    # "puppy dog" is no tag, nor what the first says; the cat is no label; b's truth is not known.
    assert (row["tag_truth"], row["tag_images"]) == ("labels", 2)
    assert (row["tag_precision"], row["tag_recall"]) == (1 / 2, 1 / 2)
    assert found([image("a.jpg", "x", labels=("dog",))] * 2, ["a dog", ""])["tag_recall"] == 1 / 2


def test_the_constant_comes_from_other_rows_where_there_are_some() -> None:
    others = [image("t.jpg", "A man , a plan ."), image("u.jpg", "A man !"), image("v.jpg", "the canal")]
    chosen = report(IMAGES, ["a dog", "a cat", "a dog"], others=others)
    assert chosen.chosen_from == "train" and chosen.constant in ("a man a plan", "a man", "the canal")
    own = report(IMAGES, ["a dog", "a cat", "a dog"])
    assert own.chosen_from == "evaluated" and own.constant in [
        "a dog runs on the grass", "the dog", "a cat sits on the grass", "two dogs"
    ]  # fmt: skip
    # Scored as if a model had written it.
    assert own.baseline == report(IMAGES, [own.constant] * 3).figures
    assert own.baseline.distinct == 1


def test_of_many_rows_some_do_whatever_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_TYPICAL_OF", 2)
    others = [image(f"{n}.jpg", f"a {'dog' if n % 2 else 'cat'} number {n} runs") for n in range(7)]
    one = report(IMAGES, ["a dog"] * 3, others=others)
    assert one.constant == report(IMAGES, ["a dog"] * 3, others=others[::-1]).constant
    assert one.constant.split()[3] in ("0", "4")


def test_references_without_a_word() -> None:
    assert found([image("a.jpg", "...", "a dog"), *IMAGES[1:]], ["a dog"] * 3)["images"] == 3
    with pytest.raises(DataError, match=r"a.jpg: none of its captions holds a word, such as '\.\.\.'"):
        report([image("a.jpg", "...", "!")], ["a dog"])


def test_what_does_not_fit_is_refused() -> None:
    for images, texts in (([], []), (IMAGES, ["a"])):
        with pytest.raises(UsageError, match="expected one for each"):
            report(list(images), list(texts))

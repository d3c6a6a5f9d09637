"""Answers of a small random Tag2Text, and of an engine that writes what it is told: what may change them."""

from __future__ import annotations

import json
import math
import shutil
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

import small_aligner
import small_captioner as small
from taglens.errors import UsageError
from taglens.inference.answering import Answered, Answering, AnswerSearch, by_picture
from taglens.inference.bundle import CONFIG, PIECES, CaptionParts
from taglens.inference.captioning import CaptionWriter
from taglens.inference.tagger import Tagger
from taglens.language.caption_text import CaptionText
from taglens.language.wordpiece import WordPiece
from taglens.models.checkpoint import captioner_from_pretrained, from_pretrained

Array = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
FIVE = small.pictures(5)
QUESTIONS = ("is a dog on the grass?", "two men run?", "is it red?")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One model that says that it answers, for torch and as a bundle."""
    place = tmp_path_factory.mktemp("answering") / "made"
    shutil.copytree(small.made(tmp_path_factory), place)
    for folder in (place / "model", place / "bundle"):
        row = json.loads((folder / CONFIG).read_text("utf-8"))
        row["captioner"]["answers"] = True
        (folder / CONFIG).write_text(json.dumps(row), "utf-8")
    return {"torch": place / "model", "onnx": place / "bundle"}


@pytest.fixture(scope="module")
def taggers(folders: dict[str, Path]) -> dict[str, Tagger]:
    return {name: Tagger.from_pretrained(folder, device="cpu", threads=1) for name, folder in folders.items()}


@pytest.fixture(scope="module", params=["torch", "onnx"])
def tagger(request: pytest.FixtureRequest, taggers: dict[str, Tagger]) -> Tagger:
    return taggers[request.param]


@pytest.fixture(scope="module")
def bundled(taggers: dict[str, Tagger]) -> Tagger:
    return taggers["onnx"]


def pairs(times: int = 5) -> list[tuple[Any, str]]:
    return [(picture, question) for picture in FIVE[:times] for question in QUESTIONS]


def said(rows: Sequence[Answered]) -> list[str | None]:
    return [row.answer for row in rows]


# -- a real network ----------------------------------------------------------------------------------


def test_a_batch_answers_what_its_questions_alone_do(tagger: Tagger) -> None:
    together = list(tagger.answer(pairs()))
    alone = [row for pair in pairs() for row in tagger.answer(pair)]
    assert said(together) == said(alone) == said(list(tagger.answer(pairs(), batch_size=2)))
    assert [row.score for row in together] == pytest.approx([row.score for row in alone], abs=1e-5)
    assert [row.guide_tags for row in together] == [row.guide_tags for row in alone]
    assert [row.question for row in together] == [question for _, question in pairs()]
    assert len(set(said(together))) > 3, "answers that are all alike would show nothing"


def test_both_engines_answer_the_same(taggers: dict[str, Tagger]) -> None:
    torch_rows, onnx_rows = (list(each.answer(pairs())) for each in taggers.values())
    assert said(torch_rows) == said(onnx_rows)
    assert [row.score for row in torch_rows] == pytest.approx([row.score for row in onnx_rows], abs=1e-5)


def test_the_score_is_the_answers_probability(folders: dict[str, Path], taggers: dict[str, Tagger]) -> None:
    """Against the whole answer read anew, with everything that may follow each of its pieces."""
    model, _, _ = from_pretrained(folders["torch"])
    captioner = captioner_from_pretrained(folders["torch"], model)
    assert captioner is not None
    text = CaptionText(WordPiece.load(folders["torch"] / PIECES))
    from taglens import images
    from taglens.inference.engines import TorchEngine

    engine = TorchEngine(model, device="cpu")
    for picture, question in pairs(2):
        (row,) = taggers["torch"].answer((picture, question), search=AnswerSearch(beams=1, max_length=6))
        guide = text.question(question, row.guide_tags or ())
        tokens = torch.from_numpy(engine(images.prepare(picture, small.SIDE)[None]).tokens)
        mask = torch.tensor([guide.mask])
        ids, total = list(text.answer_ids), 0.0
        with torch.inference_mode():
            memory = captioner.encode(torch.tensor([guide.ids]), mask, tokens)
            while len(ids) < 6 and ids[-1] != text.pieces.sep:
                given = torch.tensor([ids])
                logits = captioner.write(given, memory, mask=torch.ones_like(given), memory_mask=mask)[0, -1]
                chances = logits.double().log_softmax(0)
                if len(ids) == 1:
                    chances[text.pieces.sep] = -torch.inf
                ids.append(int(chances.argmax()))
                total += float(chances[ids[-1]])
        assert row.answer == text.read_answer(ids)
        assert row.score == pytest.approx(math.exp(total), rel=1e-3)


def test_more_beams_find_what_is_no_less_likely(bundled: Tagger) -> None:
    one, five = (
        [row.score for row in bundled.answer(pairs(), search=AnswerSearch(beams, 8))] for beams in (1, 5)
    )
    assert all(
        wide is not None and greedy is not None and wide >= greedy - 1e-6
        for wide, greedy in zip(five, one, strict=True)
    )


def test_question_picture_and_tags_each_matter(bundled: Tagger) -> None:
    (plain,) = bundled.answer((FIVE[0], QUESTIONS[0]))
    other = [*bundled.answer((FIVE[0], QUESTIONS[1])), *bundled.answer((FIVE[3], QUESTIONS[0]))]
    other += bundled.answer((FIVE[0], QUESTIONS[0]), tags=["car", "two men"])
    assert all(row.score != plain.score for row in other)
    (same,) = bundled.answer((FIVE[0], f"  {QUESTIONS[0].removesuffix('?')} "))
    assert (same.answer, same.score) == (plain.answer, plain.score)


def test_tags_guide_as_they_guide_captions(bundled: Tagger) -> None:
    asked = [(picture, QUESTIONS[0]) for picture in FIVE]
    recognised = [row.guide_tags for row in bundled.caption(FIVE)]
    assert [row.guide_tags for row in bundled.answer(asked)] == recognised
    assert any(recognised)
    assert {row.guide_tags for row in bundled.answer(asked, tags=["car", "Car", "two dogs"])} == {
        ("car", "two dogs")
    }
    assert {row.guide_tags for row in bundled.answer(asked, tags=())} == {()}
    added = [row.guide_tags for row in bundled.answer(asked, tags=["Dog"], add_tags=True)]
    wanted = [("Dog", *(tag for tag in guide or () if tag != "dog")) for guide in recognised]
    assert added == wanted
    assert {row.guide_tags for row in bundled.answer(asked, threshold=1.0)} == {()}


def test_one_picture_is_looked_at_once(bundled: Tagger, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    look = bundled.look
    monkeypatch.setattr(bundled, "look", lambda pixels: (seen.append(len(pixels)), look(pixels))[1])
    assert len(list(bundled.answer(pairs()))) == 15
    assert sum(seen) == 5
    # Apart, it is another visit.
    seen.clear()
    list(bundled.answer([(FIVE[0], "is it?"), (FIVE[1], "is it?"), (FIVE[0], "is it?")]))
    assert sum(seen) == 3


def test_hundreds_of_questions_about_one_picture(bundled: Tagger) -> None:
    few = list(bundled.answer([(FIVE[0], question) for question in QUESTIONS]))
    many = list(bundled.answer([(FIVE[0], question) for _ in range(30) for question in QUESTIONS]))
    assert said(many) == said(few) * 30


def test_pairs_are_drawn_as_they_are_needed(bundled: Tagger) -> None:
    drawn = 0

    def endless() -> Iterator[tuple[Any, str]]:
        nonlocal drawn
        while True:
            drawn += 1
            yield FIVE[drawn % 5], QUESTIONS[0]

    rows = bundled.answer(endless(), batch_size=2)
    assert drawn == 0
    next(rows)
    assert drawn <= 6


def test_a_picture_that_cannot_be_read_is_a_row_for_each_question(bundled: Tagger, tmp_path: Path) -> None:
    missing = tmp_path / "none.jpg"
    asked = [(FIVE[0], "is it?"), (missing, "is it?"), (missing, "was it?"), (FIVE[1], "is it?")]
    rows = list(bundled.answer(asked))
    assert [row.error is None for row in rows] == [True, False, False, True]
    broken = rows[1].to_dict()
    assert broken["error"]["type"] == "not_found" and broken["source"] == str(missing)
    assert (broken["answer"], broken["score"], broken["guide_tags"]) == (None, None, None)
    assert [row.question for row in rows] == [question for _, question in asked]
    (only,) = bundled.answer((missing, "is it?"))
    assert only.error is not None
    assert list(bundled.answer([])) == []


# -- notes -------------------------------------------------------------------------------------------


def test_a_question_too_long_is_cut_and_says_so(bundled: Tagger) -> None:
    (row,) = bundled.answer((FIVE[0], " ".join(["dog"] * 500)), tags=["car"])
    assert row.answer is not None
    # The question mark is not among the small model's pieces.
    assert row.notes[:3] == (
        "the question was cut to its first 38 of 501 word pieces: the model has no room for more",
        "0 of 1 guide tags were read whole: the model has no room for more",
        "1 of the question's 501 word pieces are unknown to the model",
    )


def test_letters_that_the_model_lacks_are_told(bundled: Tagger) -> None:
    (row,) = bundled.answer((FIVE[0], "где собака"), tags=())
    assert "3 of the question's 3 word pieces are unknown to the model" in row.notes


def test_an_answer_that_does_not_end_is_told(bundled: Tagger) -> None:
    rows = list(bundled.answer(pairs(), search=AnswerSearch(max_length=2)))
    assert all("the answer was cut at 2 word pieces" in row.notes for row in rows)


# -- refusals ----------------------------------------------------------------------------------------


def never() -> Iterator[tuple[str, str]]:
    raise AssertionError("a picture was drawn before the arguments were looked at")
    yield


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"threshold": 1.5}, "threshold 1.5"),
        ({"batch_size": 0}, "batch size 0"),
        ({"add_tags": True}, "add_tags"),
        ({"tags": [], "add_tags": True}, "add_tags"),
        ({"tags": "dog"}, "one text"),
        (
            {"search": AnswerSearch(max_length=99)},
            "max_length 99 cannot be: answers of this model have at most 48",
        ),
    ],
    ids=str,
)
def test_arguments_are_refused_at_once(arguments: dict[str, Any], told: str, bundled: Tagger) -> None:
    with pytest.raises(UsageError, match=told):
        bundled.answer(never(), **arguments)


def test_searches_that_cannot_be_meant() -> None:
    with pytest.raises(UsageError, match="beams must be 1"):
        AnswerSearch(beams=0)
    with pytest.raises(UsageError, match="max_length of 2"):
        AnswerSearch(max_length=1)


@pytest.mark.parametrize("question", ["", " ", "?!", "\n"])
def test_a_question_without_a_word_is_refused(question: str, bundled: Tagger) -> None:
    with pytest.raises(UsageError, match="a question with a word in it"):
        list(bundled.answer((FIVE[0], question)))


@pytest.mark.parametrize(
    "asked", [3, ["a.jpg"], [("a.jpg", 3)], [("a.jpg", "is it?", "x")], "a.jpg"], ids=str
)
def test_what_is_no_pair_is_refused(asked: Any, bundled: Tagger) -> None:
    with pytest.raises(UsageError, match=r"\(picture, question\)"):
        list(bundled.answer(asked))


def test_a_model_that_was_not_taught_says_what_to_do(tmp_path_factory: pytest.TempPathFactory) -> None:
    for name in ("model", "bundle"):
        plain = Tagger.from_pretrained(small.made(tmp_path_factory) / name, device="cpu", threads=1)
        with pytest.raises(
            UsageError, match=r"writes captions and was not taught .*; train .* taglens questions"
        ):
            plain.answer(never())
    folder = small_aligner.only_tags(tmp_path_factory.mktemp("plain") / "tags")
    with pytest.raises(UsageError, match="gives tags and was not taught"):
        Tagger.from_pretrained(folder, threads=1).answer(never())


@pytest.mark.parametrize("said", [True, False])
def test_an_export_says_what_its_model_says(
    said: bool, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The graphs are left out: they are the same either way."""
    from taglens.inference import export_captions

    for step in ("_export_guide", "_export_writer", "_difference"):
        monkeypatch.setattr(export_captions, step, lambda *_, **__: 0.0)
    monkeypatch.setattr(export_captions, "checksum", lambda _: "0" * 64)
    model, _, _ = from_pretrained(folders["torch"])
    captioner = captioner_from_pretrained(folders["torch"], model)
    assert captioner is not None and captioner.config.answers
    captioner.config = replace(captioner.config, answers=said)
    about, _ = export_captions.export_captioner(captioner, b"x", tmp_path, half=False)
    assert CaptionParts.read(about).answers is said


def test_bundles_from_before_questions_do_not_answer(folders: dict[str, Path]) -> None:
    row = json.loads((folders["onnx"] / CONFIG).read_text("utf-8"))["captioner"]
    assert CaptionParts.read(row).answers
    assert not CaptionParts.read({key: value for key, value in row.items() if key != "answers"}).answers


# -- an engine that writes what it is told ------------------------------------------------------------


class Told:
    """Writes the answer that stands in a table under the pieces read; state: (what is written, how far)."""

    def __init__(self, text: CaptionText, answers: dict[tuple[str, ...], str]) -> None:
        self._text = text
        self._answers = answers
        self.read: list[tuple[str, ...]] = []

    def start(self, ids: Ids, mask: Ids, tokens: Array) -> list[tuple[tuple[int, ...], int]]:
        pieces = self._text.pieces
        rows = []
        for row in ids:
            words = tuple(pieces.decode(row.tolist()).split(" | "))
            self.read.append(words)
            rows.append((tuple(pieces.ids(self._answers[words])[1:]), -1))
        return rows

    def step(self, ids: Ids, state: Any, rows: Ids, /) -> tuple[Array, Any]:
        after = [(state[row][0], state[row][1] + 1) for row in rows]
        logits = np.zeros((len(after), len(self._text.pieces)), np.float32)
        for place, (answer, at) in enumerate(after):
            logits[place, answer[min(at, len(answer) - 1)]] = 9.0
        return logits, after


def test_what_is_read_and_what_comes_of_it() -> None:
    text = CaptionText(WordPiece([*small.PIECES, "?"]))
    table = {
        ("is it red?", "dog", "red"): "red",
        ("is it red?", "cat"): "two dogs",
        ("two men?", "cat"): "in the car",
    }
    engine = Told(text, table)
    writer = CaptionWriter(engine, text, positions=48, answers=True)
    answering = Answering(writer, small.vocabulary(), ref="fake@0")
    scores = np.zeros((2, len(small.ENTRIES)), np.float32)
    scores[0, [0, 4]] = scores[1, 1] = 1.0
    found = answering(np.zeros((2, 3, 4), np.float32), scores, [["is it red"], ["is it red?", "two men?"]])
    assert [[one.answer for one in each] for each in found] == [["red"], ["two dogs", "in the car"]]
    assert engine.read == list(table)
    assert all(0.9 < one.score <= 1.0 and one.notes == () for each in found for one in each)


def test_pictures_without_questions_are_passed_over() -> None:
    waiting: deque[tuple[str, ...]] = deque()
    asked = [("a.jpg", "is it?"), ("a.jpg", "was it?"), ("b.jpg", "is it?"), (Path("b.jpg"), "is it?")]
    assert list(by_picture(asked, waiting)) == ["a.jpg", "b.jpg", Path("b.jpg")]
    assert list(waiting) == [("is it?", "was it?"), ("is it?",), ("is it?",)]


def test_a_row_is_one_line_of_json(bundled: Tagger) -> None:
    (row,) = bundled.answer((FIVE[0], "is it “red”?"), tags=["car"])
    found = json.loads(row.to_json())
    assert list(found) == ["source", "question", "answer", "score", "guide_tags", "model", "notes", "error"]
    assert found["question"] == "is it “red”?" and found["guide_tags"] == ["car"] and 0 < found["score"] <= 1
    assert found["model"] == bundled.ref

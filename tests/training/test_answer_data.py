"""Questions as training examples: pictures by number, question and tags in, one drawn answer out."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import small_captioner as small
from taglens.data.questions import Question
from taglens.errors import DataError
from taglens.inference.answering import Answering
from taglens.inference.caption_engines import TorchCaptionEngine
from taglens.inference.captioning import CaptionWriter, Search
from taglens.language.caption_text import CaptionText
from taglens.language.wordpiece import WordPiece
from taglens.models.captioner import Captioner, CaptionerConfig, caption_losses
from taglens.training.answer_data import AskedOf, batch, examples, numbered

TEXT = CaptionText(WordPiece([*small.PIECES, "?"]), length=16)
TAGS = {0: ["dog", "red"], 1: [], 2: ["car"] * 30}


def ask(image: str, question: str, *answers: str) -> Question:
    return Question(image, Path("folder") / image, question, answers or None)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_rows_find_their_pictures_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [ask("b.jpg", "is it?", "yes"), ask("sub/../a.jpg", "is it?", "no"), ask("c.jpg", "is it?", "no")]
    rows.append(ask("a.jpg", "is it?"))
    found = numbered(rows, {str(tmp_path / "folder" / "a.jpg"): 7, str(tmp_path / "folder" / "b.jpg"): 2})
    assert [(one.picture, one.row) for one in found] == [(2, rows[0]), (7, rows[1])]
    with pytest.raises(DataError, match="none of 4 questions is about one of the 1 pictures"):
        numbered(rows, {"/elsewhere/a.jpg": 0})
    with pytest.raises(DataError, match="none of 0 questions"):
        numbered([], {})


def test_an_example_is_the_question_with_tags_and_an_answer() -> None:
    rows = [
        AskedOf(0, ask("a", "is it red", "red")),
        AskedOf(1, ask("b", "is it?", "two dogs")),
        AskedOf(2, ask("c", "is it?", "no")),
    ]
    first, second, third = examples(rows, TEXT, TAGS.__getitem__, generator=generator())
    assert [one.picture for one in (first, second, third)] == [0, 1, 2]
    assert TEXT.pieces.decode(first.guide) == "is it red? | dog | red"
    assert first.guide[0] == TEXT.pieces.enc and first.guide[-1] == TEXT.pieces.sep
    assert TEXT.pieces.pad not in (*first.guide, *second.guide)
    assert TEXT.read_answer(second.answer) == "two dogs"
    assert second.answer[0] == TEXT.pieces.dec and second.answer[-1] == TEXT.pieces.sep
    assert len(third.guide) == 16 and TEXT.pieces.decode(third.guide).startswith("is it? | car")


def test_answers_are_drawn_by_their_votes_and_by_the_generator() -> None:
    row = AskedOf(0, ask("a", "is it?", "red", "red", "red", "blue"))
    drawn = [
        TEXT.read_answer(one.answer)
        for one in examples([row] * 400, TEXT, TAGS.__getitem__, generator=generator())
    ]
    counts = Counter(drawn)
    assert counts.keys() == {"red", "blue"} and 250 < counts["red"] < 350
    again = examples([row] * 400, TEXT, TAGS.__getitem__, generator=generator())
    assert drawn == [TEXT.read_answer(one.answer) for one in again]


def test_a_question_that_nobody_answered_is_refused() -> None:
    with pytest.raises(DataError, match="no answer to learn"):
        list(examples([AskedOf(0, ask("a", "is it?"))], TEXT, TAGS.__getitem__, generator=generator()))


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from(["red", "two dogs", "in the car"])),
        min_size=1,
        max_size=6,
    )
)
def test_a_batch_holds_its_examples(asked: list[tuple[int, str]]) -> None:
    rows = [AskedOf(picture, ask("a", "is it red?", answer)) for picture, answer in asked]
    found = list(examples(rows, TEXT, TAGS.__getitem__, generator=generator()))
    together = batch(found, pad=TEXT.pieces.pad)
    assert together.pictures.tolist() == [one.picture for one in found]
    for place, one in enumerate(found):
        for ids, mask, wanted in (
            (together.guides, together.guide_mask, one.guide),
            (together.answers, together.answer_mask, one.answer),
        ):
            assert tuple(ids[place][mask[place] == 1].tolist()) == wanted
            assert set(ids[place][mask[place] == 0].tolist()) <= {TEXT.pieces.pad}
            assert mask[place].tolist() == sorted(mask[place].tolist(), reverse=True)
    assert together.guides.shape[1] == max(len(one.guide) for one in found)


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(DataError, match="no questions"):
        batch([], pad=0)


def test_all_of_an_answer_behind_its_prompt_is_learned() -> None:
    (one,) = examples(
        [AskedOf(1, ask("b", "is it?", "two dogs"))], TEXT, TAGS.__getitem__, generator=generator()
    )
    ids = torch.tensor([one.answer])
    logits = torch.zeros(1, ids.shape[1], len(TEXT.pieces))
    _, learned = caption_losses(
        logits, ids, prompt=len(TEXT.answer_ids), pad=TEXT.pieces.pad, label_smoothing=0.0
    )
    assert learned.tolist() == [[1.0] * (len(one.answer) - 1)], "the end mark too"


def test_one_captioner_learns_to_answer_and_to_caption() -> None:
    """Two pictures that look different, questions whose answers hang on both, and captions in between."""
    tokens = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
    asked = [
        (0, "is it red?", "red"),
        (1, "is it red?", "blue"),
        (0, "two dogs?", "two"),
        (1, "two dogs?", "the cat"),
    ]
    rows = [AskedOf(picture, ask("a", question, answer)) for picture, question, answer in asked]
    captions = ["a picture of dogs", "a picture of the cat"]
    config = CaptionerConfig(
        image_width=8,
        words=len(TEXT.pieces),
        positions=20,
        tag_length=TEXT.length,
        width=32,
        depth=1,
        heads=2,
        ffn_width=32,
        shared_layers=0,
        pad=TEXT.pieces.pad,
        end=TEXT.pieces.sep,
        start=TEXT.pieces.dec,
        tags=TEXT.pieces.enc,
        dropout=0.0,
        label_smoothing=0.0,
        see_padding=False,
        answers=True,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        captioner = Captioner(config)
    steps = torch.optim.Adam(captioner.parameters(), lr=1e-2)
    written = TEXT.captions(captions)
    guide = TEXT.tags([])
    for step in range(60):
        given = batch(
            list(examples(rows, TEXT, lambda _: [], generator=generator(step))), pad=TEXT.pieces.pad
        )
        parts = [
            (given.guides, given.guide_mask, given.answers, given.answer_mask, given.pictures, 1),
            (
                *(np.array([each, each]) for each in (guide.ids, guide.mask)),
                *(np.array([getattr(one, name) for one in written]) for name in ("ids", "mask")),
                np.arange(2),
                len(TEXT.prompt_ids),
            ),
        ]
        loss = torch.zeros(())
        for read, seen, ids, mask, pictures, prompt in parts:
            read, seen, ids, mask = (torch.from_numpy(np.asarray(each)) for each in (read, seen, ids, mask))
            memory = captioner.encode(read, seen, tokens[pictures])
            logits = captioner.write(ids, memory, mask=mask, memory_mask=seen)
            losses, learned = caption_losses(
                logits, ids, prompt=prompt, pad=TEXT.pieces.pad, label_smoothing=0.0
            )
            loss = loss + losses.sum() / learned.sum()
        steps.zero_grad()
        loss.backward()
        steps.step()
    engine = TorchCaptionEngine(captioner, device="cpu")
    writer = CaptionWriter(engine, TEXT, positions=20, answers=True)
    answering = Answering(writer, small.vocabulary(), ref="taught@0", recognise=False)
    scores = np.zeros((2, len(small.ENTRIES)), np.float32)
    found = answering(tokens.numpy(), scores, [["is it red?", "two dogs?"]] * 2)
    assert [[one.answer for one in each] for each in found] == [["red", "two"], ["blue", "the cat"]]
    assert all(one.score > 0.5 for each in found for one in each)
    said = writer.write(tokens.numpy(), [[], []], Search(beams=1, min_length=1, max_length=10))
    assert ["a picture of " + one.text for (one,) in said] == captions

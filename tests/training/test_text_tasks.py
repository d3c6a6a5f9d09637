"""Contrast, matching and writing, against slow obvious twins."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

import small_aligner as small
import tiny
from taglens.language.caption_text import CaptionText
from taglens.language.wordpiece import WordPiece
from taglens.training.objectives import Asked, TagObjective
from taglens.training.text_data import Captions, GuideMix, TextStream
from taglens.training.text_tasks import Tag2Text, TextObjective, TextTensors, contrast, hard_negatives

CPU = torch.device("cpu")
TEXT = CaptionText(WordPiece(small.PIECES.decode().split("\n")[:-1]), length=20)
TEXTS = ["a red dog", "the dog runs", "a man on the grass", "two cats", "a boat", "a red boat in the grass"]


def model(*, aligned: bool = True) -> Tag2Text:
    captioner, aligner = small.random_parts()
    return Tag2Text(tiny.recognizer(tags=6), captioner, aligner if aligned else None).eval()


def batch(*, plain: bool = False, size: int = 6) -> TextTensors:
    pictures = None if plain else [0, 0, 1, 2, 3, 3]
    given = Captions.of(TEXT, TEXTS, said=[(0,)] * 6, pictures=pictures, recognised=[(1,)] * 4)
    names = [entry.name for entry in small.vocabulary()]
    stream = TextStream(given, TEXT, names, batch_size=size, mix=GuideMix(none=0.0))
    return TextTensors.of(stream.batch(0), device=CPU)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def losses(objective: TextObjective, given: TextTensors, tokens: Tensor) -> dict[str, float]:
    with torch.no_grad():
        found = objective.losses(model(), tokens, given, generator=generator())
    return {name: float(value) for name, value in found.items()}


def test_contrast_is_the_mean_over_both_ways() -> None:
    similarity = torch.randn(4, 4, generator=generator())
    same = torch.eye(4, dtype=torch.bool)
    same[0, 1] = same[1, 0] = True
    values, truth = similarity.double().numpy(), same.numpy()
    expected = 0.0
    for table in (values, values.T):
        for row, right in zip(table, truth, strict=True):
            whole = math.log(sum(math.exp(value) for value in row))
            expected -= sum(row[right] - whole) / right.sum() / 4
    assert float(contrast(similarity, same)) == pytest.approx(expected / 2, rel=1e-5)


def test_contrast_of_what_belongs_together_is_less_than_of_what_does_not() -> None:
    same = torch.eye(3, dtype=torch.bool)
    right = 5.0 * torch.eye(3)
    assert contrast(right, same) < contrast(right.roll(1, 0), same)


def test_a_negative_never_belongs_to_its_picture_and_the_alike_are_drawn_more() -> None:
    same = torch.eye(4, dtype=torch.bool)
    same[0, 1] = same[1, 0] = True
    similarity = torch.zeros(4, 4)
    similarity[0, 2] = 2.0  # e^2 times as likely as the only other one
    drawn = Counter()
    for seed in range(400):
        texts, pictures = hard_negatives(similarity, same, generator(seed))
        assert not same[torch.arange(4), texts].any()
        assert not same[torch.arange(4), pictures].any()
        drawn[int(texts[0])] += 1
    assert drawn[2] / 400 == pytest.approx(math.exp(2) / (1 + math.exp(2)), abs=0.06)


def test_where_all_belong_together_the_pair_itself_is_drawn() -> None:
    texts, pictures = hard_negatives(torch.zeros(2, 2), torch.ones(2, 2, dtype=torch.bool), generator())
    assert texts.tolist() == pictures.tolist() == [0, 1]


def test_writing_is_the_mean_over_pieces_behind_the_prompt() -> None:
    given, made = batch(), model()
    objective = TextObjective()
    tokens = torch.randn(6, 5, 16, generator=generator())
    captioner = made.captioner
    with torch.no_grad():
        memory = captioner.encode(given.guides, given.guide_mask, tokens)
        found = float(objective.writing(made, memory, given))
        logits = captioner.write(
            given.written, memory, mask=given.written_mask, memory_mask=given.guide_mask
        ).log_softmax(-1)
    e, total, count = captioner.config.label_smoothing, 0.0, 0
    for row in range(6):
        length = int(given.written_mask[row].sum())
        for place in range(len(TEXT.prompt_ids), length):
            said = logits[row, place - 1]
            total -= float((1 - e) * said[given.written[row, place]] + e * said.mean())
            count += 1
    assert found == pytest.approx(total / count, rel=1e-4)


def test_captions_about_no_picture_teach_writing_only() -> None:
    objective = TextObjective()
    assert set(losses(objective, batch(plain=True), torch.zeros(6, 1, 16))) == {"lm"}
    assert set(losses(objective, batch(), torch.randn(6, 5, 16))) == {"lm", "itc", "itm"}


def test_a_loss_of_no_weight_is_not_computed() -> None:
    tokens = torch.randn(6, 5, 16, generator=generator())
    only = TextObjective(weights={"lm": 1.0, "itc": 0.0, "itm": 0.0})
    assert set(losses(only, batch(), tokens)) == {"lm"}
    without = TextObjective(weights={"lm": 0.0, "itc": 1.0, "itm": 0.0})
    assert set(losses(without, batch(), tokens)) == {"itc"}


def test_matching_asks_each_pair_and_two_wrong_ones() -> None:
    """Against asking the aligner pair by pair, guided by what is recognised: a caption's own tags give it away."""
    given, made = batch(), model()
    tokens = torch.randn(6, 5, 16, generator=generator())
    objective = TextObjective(weights={"itm": 1.0}, matched=3)
    found = losses(objective, given, tokens)["itm"]
    captioner, aligner = made.captioner, made.aligner
    with torch.no_grad():
        vectors = aligner.pictures(tokens), aligner.texts(given.read, given.read_mask)
        similarity = aligner.scale.exp() * vectors[0] @ vectors[1].T
        texts, pictures = hard_negatives(similarity, given.same, generator())
        pairs = [(n, n, 1.0) for n in range(3)]
        pairs += [(n, int(texts[n]), 0.0) for n in range(3)] + [(int(pictures[n]), n, 0.0) for n in range(3)]
        expected = []
        for picture, text, truth in pairs:
            at = slice(picture, picture + 1)
            state = captioner.start(
                captioner.encode(given.shown[at], given.shown_mask[at], tokens[at]), given.shown_mask[at]
            )
            ids = given.read[text : text + 1].clone()
            ids[:, 0] = captioner.config.tags
            logit = aligner.match(ids, given.read_mask[text : text + 1], state.memory, state.memory_mask)
            expected.append(
                float(torch.nn.functional.binary_cross_entropy_with_logits(logit, torch.tensor([truth])))
            )
    assert found == pytest.approx(float(np.mean(expected)), rel=1e-4)


def test_tagging_is_brought_to_the_size_of_writing_without_a_gradient_through_the_ratio() -> None:
    objective = TextObjective(weights={"lm": 1.0, "tag": 1.0})
    lm, tag = torch.tensor(6.0, requires_grad=True), torch.tensor(0.5, requires_grad=True)
    total = objective.total({"lm": lm, "tag": tag})
    assert float(total.detach()) == pytest.approx(12.0)
    total.backward()
    assert lm.grad == pytest.approx(1.0)
    assert tag.grad == pytest.approx(12.0)


def test_tags_are_learned_of_the_pictures_that_are_there() -> None:
    given = batch()
    targets = torch.zeros(6, 6)
    targets[:, 0] = 1.0
    tagging = TagObjective(tags_per_step=0, weights={"tag": 1.0})
    objective = TextObjective(weights={"lm": 1.0, "tag": 1.0}, tagging=tagging)
    made = model()
    images = torch.rand(6, 3, tiny.SIDE, tiny.SIDE, generator=generator())
    with torch.no_grad():
        tokens = made.recognizer.tokens(images)
    known = replace(given, targets=targets, weights=torch.ones(6, 6))
    assert "tag" not in losses(objective, given, tokens)
    with torch.no_grad():
        found = objective.losses(made, tokens, known, generator=generator())["tag"]
        nothing = torch.zeros(0)
        asked = Asked(targets, torch.ones(6, 6), nothing, nothing.long(), nothing)
        expected = tagging.losses(made.recognizer, tokens, asked, generator=generator())["tag"]
    assert float(found) == pytest.approx(float(expected))

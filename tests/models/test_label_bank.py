"""The three label banks: each against its slow twin, and how they relate to one another."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import tiny
from taglens.errors import ModelError
from taglens.models.checkpoint import keeps_closed_term, save_pretrained, start_from
from taglens.models.label_bank import DescriptionBank, EmbeddedBank, LearnedBank, empty_bank
from taglens.models.recognizer import Recognizer

WIDTH = 16


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def unit(*shape: int) -> Tensor:
    return F.normalize(torch.randn(*shape, WIDTH), dim=-1)


def slow_blend(bank: DescriptionBank, pooled: Tensor) -> list[list[Tensor]]:
    """Equation 1 with loops and the standard library's exponential."""
    blended = []
    sharp = float(bank.sharpness.detach().exp())
    for picture in pooled:
        length = math.sqrt(sum(float(x) ** 2 for x in picture))
        row = []
        for described, count in zip(bank.embeddings, bank.counts, strict=True):
            own = described[: int(count)]
            fit = [
                sharp * sum(float(a) * float(b) for a, b in zip(picture, d, strict=True)) / length
                for d in own
            ]
            raised = [math.exp(f - max(fit)) for f in fit]
            row.append(sum(r / sum(raised) * d for r, d in zip(raised, own, strict=True)))
        blended.append(row)
    return blended


def test_descriptions_are_blended_by_how_well_they_fit_the_picture() -> None:
    bank = DescriptionBank.ragged([unit(3), unit(1), unit(5)])
    pooled = torch.randn(4, WIDTH)
    found = bank(pooled)
    for i, row in enumerate(slow_blend(bank, pooled)):
        for j, wanted in enumerate(row):
            assert torch.allclose(found[i, j], wanted, atol=1e-5)
    assert found.shape == (4, 3, WIDTH)
    assert torch.allclose(bank(pooled, torch.tensor([2, 0])), found[:, [2, 0]])


def test_weights_add_up_over_a_tags_own_descriptions_and_start_at_clips_temperature() -> None:
    bank = DescriptionBank.ragged([unit(2), unit(4)])
    assert float(bank.sharpness.detach().exp()) == pytest.approx(1 / 0.07)
    weights = bank.weights(torch.randn(3, WIDTH))
    assert torch.allclose(weights.sum(-1), torch.ones(3, 2))
    assert bool((weights[:, 0, 2:] == 0).all()) and bool((weights[:, 1] > 0).all())


def test_the_temperature_learns_and_the_texts_do_not() -> None:
    bank = DescriptionBank.ragged([unit(2), unit(4)])
    bank(torch.randn(3, WIDTH)).square().sum().backward()
    assert [name for name, _ in bank.named_parameters()] == ["sharpness"]
    assert bank.sharpness.grad is not None and float(bank.sharpness.grad) != 0


def test_what_stands_beyond_a_tags_own_is_never_looked_at() -> None:
    bank = DescriptionBank.ragged([unit(2), unit(4)])
    pooled = torch.randn(3, WIDTH)
    found, plain = bank(pooled), bank.plain()
    bank.embeddings[0, 2:] = 100.0
    assert torch.equal(bank(pooled), found) and torch.equal(bank.plain(), plain)
    assert torch.allclose(plain[0], bank.embeddings[0, :2].mean(0))


def test_one_description_is_a_plain_embedding() -> None:
    texts = unit(5)
    pooled = torch.randn(2, WIDTH)
    described = DescriptionBank(texts[:, None], torch.ones(5, dtype=torch.long))
    embedded = EmbeddedBank(texts)
    assert torch.allclose(described(pooled), embedded(pooled).expand(2, -1, -1), atol=1e-6)
    assert torch.allclose(described.plain(), embedded.plain())


def test_a_far_better_fit_takes_all() -> None:
    near, far = torch.eye(WIDTH)[0], torch.eye(WIDTH)[1]
    bank = DescriptionBank.ragged([torch.stack([far, near])])
    assert torch.allclose(bank(near[None] * 7)[0, 0], near, atol=1e-5)


@pytest.mark.parametrize("kind", [0, 1, 3])
def test_an_empty_bank_has_its_shape(kind: int) -> None:
    bank = empty_bank(tags=4, width=WIDTH, descriptions=kind)
    assert isinstance(bank, {0: LearnedBank, 1: EmbeddedBank, 3: DescriptionBank}[kind])
    assert len(bank) == 4 and bank.plain().shape == (4, WIDTH)


def test_published_shapes_fit() -> None:
    """RAM++ holds 51 descriptions of 512 numbers per tag, class-major in one table."""
    table = F.normalize(torch.randn(7 * 51, 512), dim=-1)
    bank = DescriptionBank(table.view(7, 51, 512), torch.full((7,), 51))
    assert bank(torch.randn(2, 512)).shape == (2, 7, 512)
    assert torch.equal(bank.embeddings[3, 50], table[3 * 51 + 50])


def test_nonsense_is_refused() -> None:
    with pytest.raises(ModelError, match="1 to 2 descriptions"):
        DescriptionBank(unit(3, 2), torch.tensor([1, 2, 0]))
    with pytest.raises(ModelError, match="1 to 2 descriptions"):
        DescriptionBank(unit(3, 2), torch.tensor([1, 2, 3]))
    with pytest.raises(ModelError, match="count per tag"):
        DescriptionBank(unit(3, 2), torch.tensor([1, 2]))
    with pytest.raises(ModelError, match=r"\[tags, width\]"):
        EmbeddedBank(unit(3, 2))


# -- in the model ------------------------------------------------------------------------------------


def model(descriptions: int) -> Recognizer:
    made = tiny.recognizer(descriptions=descriptions)
    made.bank.embeddings.copy_(unit(*made.bank.embeddings.shape[:-1]))
    return made


@pytest.mark.parametrize("descriptions", [1, 3])
@torch.no_grad()
def test_other_labels_leave_the_model_as_it_was(descriptions: int) -> None:
    first = model(descriptions)
    given = torch.rand(2, 3, tiny.SIDE, tiny.SIDE)
    before = first(given).logits
    other = first.with_labels(EmbeddedBank(unit(9)))
    assert other(given).logits.shape == (2, 9) and other.config.tags == 9
    assert torch.equal(first(given).logits, before) and first.config.tags == 6
    assert other.project is first.project, "weights are shared"


@torch.no_grad()
def test_a_models_own_labels_given_back_score_the_same() -> None:
    first = model(3)
    assert isinstance(first.bank, DescriptionBank)
    first.bank.sharpness.fill_(1.0)
    given = torch.rand(2, 3, tiny.SIDE, tiny.SIDE)
    order = torch.tensor([4, 2, 2])
    again = first.with_labels(DescriptionBank(first.bank.embeddings[order], first.bank.counts[order]))
    assert torch.allclose(again(given).logits, first(given).logits[:, order], atol=1e-5)


@torch.no_grad()
def test_the_terms_of_an_answer_add_up() -> None:
    first = model(3)
    tokens = first.tokens(torch.rand(2, 3, tiny.SIDE, tiny.SIDE))
    found = first.score(tokens)
    assert found.pooled_logits is not None
    assert torch.allclose(found.logits, found.decoder_logits + found.pooled_logits)
    assert torch.allclose(first.pooled_texts(tokens, first.bank.plain()), found.pooled_logits)


def with_closed_term(tmp_path: Path) -> tuple[Recognizer, Recognizer]:
    """A model that learned its labels, and one that reads them and started from it."""
    learned = tiny.recognizer()
    save_pretrained(learned, tiny.vocabulary(), tmp_path, name="learned")
    assert keeps_closed_term(tmp_path)
    reader = Recognizer(replace(tiny.config(descriptions=2), closed_term=True)).eval()
    torch.nn.init.normal_(reader.bank.embeddings)
    start_from(reader, tmp_path, tiny.vocabulary())
    return learned, reader


@torch.no_grad()
def test_what_was_learned_of_the_tags_is_kept_beside_the_text(tmp_path: Path) -> None:
    learned, reader = with_closed_term(tmp_path)
    given = torch.rand(2, 3, tiny.SIDE, tiny.SIDE)
    before, found = learned(given), reader(given)
    assert before.pooled_logits is not None
    closed = found.logits - reader.config.open_share * found.decoder_logits
    assert torch.allclose(closed, before.pooled_logits, atol=1e-5)
    chosen = torch.tensor([3, 0])
    assert torch.allclose(reader(given, chosen).logits, found.logits[:, chosen], atol=1e-6)


@torch.no_grad()
def test_other_labels_know_nothing_of_what_was_learned(tmp_path: Path) -> None:
    _, reader = with_closed_term(tmp_path)
    given = torch.rand(2, 3, tiny.SIDE, tiny.SIDE)
    other = reader.with_labels(reader.bank)
    assert torch.allclose(other(given).logits, reader.score(reader.tokens(given)).logits)
    assert not torch.allclose(other(given).logits, reader(given).logits)
    assert reader.config.closed_term and not other.config.closed_term and hasattr(reader, "closed")


def test_a_closed_term_needs_labels_that_are_texts() -> None:
    with pytest.raises(ModelError, match="stands beside labels that are texts"):
        replace(tiny.config(), closed_term=True)


def test_labels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ModelError, match="no open vocabulary"):
        tiny.recognizer().with_labels(EmbeddedBank(unit(2)))
    with pytest.raises(ModelError, match="8 wide, the model takes 16"):
        model(1).with_labels(EmbeddedBank(torch.zeros(2, 8)))

"""Losses against their definitions written with loops and ifs; the objective against plain sums of them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

import tiny
from taglens.models.recognizer import Recognizer
from taglens.training.losses import asymmetric_loss, ranking_loss
from taglens.training.objectives import Asked, TagObjective, draw, inclusion

# -- slow twins --------------------------------------------------------------------------------------


def slow_asymmetric(
    logits: Tensor, targets: Tensor, weights: Tensor, *, negative: float, positive: float, shift: float
) -> list[list[float]]:
    rows = []
    for z_row, y_row, w_row in zip(logits.tolist(), targets.tolist(), weights.tolist(), strict=True):
        row = []
        for z, y, w in zip(z_row, y_row, w_row, strict=True):
            p = 1 / (1 + math.exp(-z))
            if y == 1:
                loss = (1 - p) ** positive * -math.log(p)
            else:
                shifted = max(p - shift, 0.0)
                loss = shifted**negative * -math.log(1 - shifted)
            row.append(w * loss)
        rows.append(row)
    return rows


def slow_ranking(logits: Tensor, targets: Tensor, weights: Tensor) -> list[float]:
    rows = []
    for z, y, w in zip(logits.tolist(), targets.tolist(), weights.tolist(), strict=True):
        rivals = [z[t] for t in range(len(z)) if y[t] == 0 and w[t] > 0]
        losses = []
        for t in range(len(z)):
            if y[t] == 1 and rivals:
                losses.append(-math.log(math.exp(z[t]) / (math.exp(z[t]) + sum(map(math.exp, rivals)))))
        rows.append(sum(losses) / len(losses) if losses else 0.0)
    return rows


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, targets and weights [B, T]; positives weigh 1, as they do in a batch."""
    images, tags = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    number = st.floats(-8, 8, width=32)
    cell = st.tuples(number, st.booleans(), st.sampled_from([0.0, 0.25, 1.0]))
    rows = draw(st.lists(st.lists(cell, min_size=tags, max_size=tags), min_size=images, max_size=images))
    logits = torch.tensor([[z for z, _, _ in row] for row in rows])
    targets = torch.tensor([[float(y) for _, y, _ in row] for row in rows])
    weights = torch.tensor([[1.0 if y else w for _, y, w in row] for row in rows])
    return logits, targets, weights


@settings(max_examples=60, deadline=None)
@given(
    cases(),
    st.sampled_from([0.0, 1.0, 2.0, 4.0, 7.0]),
    st.sampled_from([0.0, 1.0]),
    st.sampled_from([0.0, 0.05, 0.2]),
)
def test_asymmetric_loss_equals_its_loops(
    case: tuple[Tensor, Tensor, Tensor], negative: float, positive: float, shift: float
) -> None:
    found = asymmetric_loss(*case, gamma_negative=negative, gamma_positive=positive, shift=shift)
    expected = slow_asymmetric(*case, negative=negative, positive=positive, shift=shift)
    assert torch.allclose(found, torch.tensor(expected), rtol=2e-4, atol=2e-6)


@settings(max_examples=60, deadline=None)
@given(cases())
def test_ranking_loss_equals_its_loops(case: tuple[Tensor, Tensor, Tensor]) -> None:
    found = ranking_loss(*case)
    assert torch.allclose(found, torch.tensor(slow_ranking(*case)), rtol=1e-4, atol=1e-5)


# -- the asymmetric loss -----------------------------------------------------------------------------

LOGITS = torch.tensor([[-3.0, -0.5, 0.0, 1.5, 4.0], [2.0, 0.1, -0.1, -2.0, 0.7]])
TARGETS = torch.tensor([[1.0, 0.0, 1.0, 0.0, 1.0], [0.0, 0.0, 1.0, 1.0, 0.0]])
ONES = torch.ones_like(LOGITS)


def gradient(loss: Tensor, logits: Tensor) -> Tensor:
    return torch.autograd.grad(loss.sum(), logits)[0]


def test_without_focus_and_shift_it_is_cross_entropy() -> None:
    logits = LOGITS.clone().requires_grad_()
    found = asymmetric_loss(logits, TARGETS, ONES, gamma_negative=0, gamma_positive=0, shift=0)
    plain = F.binary_cross_entropy_with_logits(logits, TARGETS, reduction="none")
    assert torch.allclose(found, plain, atol=1e-5)
    assert torch.allclose(gradient(found, logits), gradient(plain, logits), atol=1e-5)


def test_the_defaults_are_the_papers() -> None:
    found = asymmetric_loss(LOGITS, TARGETS, ONES)
    assert torch.equal(
        found, asymmetric_loss(LOGITS, TARGETS, ONES, gamma_negative=7, gamma_positive=0, shift=0.05)
    )


def test_focal_factors_carry_no_gradient() -> None:
    """The gradient is the factor, taken as a number, times the plain loss's gradient."""
    logits = LOGITS.clone().requires_grad_()
    found = gradient(
        asymmetric_loss(logits, TARGETS, ONES, gamma_negative=4, gamma_positive=1, shift=0.05), logits
    )
    for row in range(2):
        for tag in range(5):
            p = torch.sigmoid(LOGITS[row, tag]).item()
            if TARGETS[row, tag] == 1:
                expected = (1 - p) * -(1 - p)
            else:
                shifted = max(p - 0.05, 0)
                expected = shifted**4 * (p * (1 - p) / (1 - shifted) if p > 0.05 else 0)
            assert float(found[row, tag]) == pytest.approx(expected, rel=1e-4, abs=1e-7)


def test_a_negative_below_the_shift_costs_nothing() -> None:
    logits = torch.tensor([[-3.0, -2.9]]).requires_grad_()  # probabilities 0.047 and 0.052
    loss = asymmetric_loss(logits, torch.zeros(1, 2), torch.ones(1, 2), gamma_negative=1, shift=0.05)
    assert loss[0, 0] == 0 and loss[0, 1] > 0
    slope = gradient(loss, logits)
    assert slope[0, 0] == 0 and slope[0, 1] > 0


def test_masked_tags_cost_nothing_and_teach_nothing() -> None:
    logits = (LOGITS * 10).requires_grad_()
    weights = (torch.arange(10).view(2, 5) % 2).float()
    loss = asymmetric_loss(logits, TARGETS, weights, gamma_negative=1)
    slope = gradient(loss, logits)
    assert bool((loss[weights == 0] == 0).all()) and bool((slope[weights == 0] == 0).all())
    assert bool((loss[weights == 1] > 0).any())


def test_a_weight_is_a_factor() -> None:
    half = asymmetric_loss(LOGITS, TARGETS, ONES * 0.25)
    assert torch.allclose(half, asymmetric_loss(LOGITS, TARGETS, ONES) * 0.25)


@pytest.mark.parametrize("gamma", [0.0, 1.0, 7.0])
@pytest.mark.parametrize("shift", [0.0, 0.05])
def test_extreme_logits_stay_finite(gamma: float, shift: float) -> None:
    logits = torch.tensor([[100.0, -100.0, 100.0, -100.0, 1e4, -1e4]]).requires_grad_()
    targets = torch.tensor([[1.0, 1.0, 0.0, 0.0, 0.0, 1.0]])
    ones = torch.ones_like(targets)
    loss = asymmetric_loss(logits, targets, ones, gamma_negative=gamma, gamma_positive=gamma, shift=shift)
    assert bool(torch.isfinite(loss).all())
    assert bool(torch.isfinite(gradient(loss, logits)).all())
    assert bool((loss >= 0).all())
    assert loss[0, 0] < 1e-6 and loss[0, 3] < 1e-6, "what is right costs nothing"
    assert loss[0, 1] > 50, "a sure miss of a positive costs its logit"


# -- the ranking loss --------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(cases(), st.floats(-50, 50, width=32))
def test_only_differences_count(case: tuple[Tensor, Tensor, Tensor], constant: float) -> None:
    logits, targets, weights = case
    moved = ranking_loss(logits + constant, targets, weights)
    assert torch.allclose(moved, ranking_loss(logits, targets, weights), atol=2e-4)


def test_tags_out_of_reach_have_no_effect() -> None:
    targets = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]])
    weights = torch.tensor([[1.0, 0.3, 0.0, 0.3], [0.3, 1.0, 0.0, 0.3]])
    low = torch.tensor([[0.5, -1.0, 0.2, 1.1], [0.3, 0.9, -0.4, -1.5]])
    high = low.clone()
    high[:, 2] += 1000
    assert torch.equal(ranking_loss(low, targets, weights), ranking_loss(high, targets, weights))
    logits = high.requires_grad_()
    slope = gradient(ranking_loss(logits, targets, weights), logits)
    assert bool((slope[:, 2] == 0).all()) and bool((slope[:, [0, 1, 3]] != 0).all())


def test_how_sure_an_absence_is_does_not_weigh() -> None:
    targets = torch.tensor([[1.0, 0.0, 0.0]])
    logits = torch.tensor([[0.3, 0.1, -2.0]])
    one = ranking_loss(logits, targets, torch.tensor([[1.0, 0.1, 0.9]]))
    assert torch.equal(one, ranking_loss(logits, targets, torch.ones(1, 3)))


def test_positives_do_not_compete_with_each_other() -> None:
    targets = torch.tensor([[1.0, 1.0, 0.0]])
    found = ranking_loss(torch.tensor([[2.0, 5.0, 1.0]]), targets, torch.ones(1, 3))
    expected = (math.log1p(math.exp(-1.0)) + math.log1p(math.exp(-4.0))) / 2
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_without_positives_or_rivals_there_is_nothing_to_rank() -> None:
    logits = torch.randn(3, 4).requires_grad_()
    targets = torch.tensor([[0.0, 0, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]])
    weights = torch.tensor([[1.0, 1, 1, 1], [1, 1, 1, 1], [1, 0, 0, 0]])
    loss = ranking_loss(logits, targets, weights)
    slope = gradient(loss, logits)
    assert loss.tolist() == [0, 0, 0]
    assert bool((slope == 0).all())


@pytest.mark.parametrize("size", [100.0, 1e4])
def test_extreme_differences_stay_finite(size: float) -> None:
    logits = torch.tensor([[size, -size, 0.0], [-size, size, size]]).requires_grad_()
    targets = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    loss = ranking_loss(logits, targets, torch.ones(2, 3))
    assert bool(torch.isfinite(loss).all()) and bool(torch.isfinite(gradient(loss, logits)).all())
    first, second = loss.tolist()
    assert first < 1e-6 and second == pytest.approx(2 * size, rel=1e-2)


# -- the objective -----------------------------------------------------------------------------------


def batch(absent: float = 0.3) -> tuple[Tensor, Tensor, Tensor]:
    """Images [3, 3, S, S], targets and weights [3, 6]; the last image's absences are all sure."""
    torch.manual_seed(3)
    targets = torch.zeros(3, 6)
    targets[0, [0, 2]] = targets[1, 4] = targets[2, 5] = 1
    weights = torch.where(targets > 0, 1.0, absent)
    weights[0, 3] = 0
    weights[2] = 1
    return torch.rand(3, 3, tiny.SIDE, tiny.SIDE), targets, weights


def losses(objective: TagObjective, seed: int = 0, *, pooled_term: bool = True) -> dict[str, Tensor]:
    model = tiny.recognizer(pooled_term=pooled_term)
    images, targets, weights = batch()
    none = torch.zeros(0, 16)
    asked = Asked(targets, weights, none, torch.zeros(0, dtype=torch.long), none[:, :0])
    found = objective.losses(
        model, model.tokens(images), asked, generator=torch.Generator().manual_seed(seed)
    )
    return {name: value.detach() for name, value in found.items()}


def test_the_objective_is_its_losses_summed_and_ranked() -> None:
    images, targets, weights = batch()
    found = losses(TagObjective(gamma_negative=2, gamma_positive=1, shift=0.1, tags_per_step=0))
    recognition = tiny.recognizer()(images)
    for prefix, logits in (("", recognition.decoder_logits), ("pooled_", recognition.pooled_logits)):
        tag = slow_asymmetric(logits, targets, weights, negative=2, positive=1, shift=0.1)
        assert float(found[f"{prefix}tag"]) == pytest.approx(sum(map(sum, tag)) / 4, rel=1e-3)
        rank = slow_ranking(logits, targets, weights)
        # The third image leaves nothing open: ranking has nothing to add there.
        assert float(found[f"{prefix}rank"]) == pytest.approx((rank[0] + rank[1]) / 2, rel=1e-3)
    assert set(found) == {"tag", "rank", "pooled_tag", "pooled_rank"}


def test_asking_for_all_tags_is_asking_for_no_sample() -> None:
    whole = losses(TagObjective(tags_per_step=0))
    for many in (6, 100):
        assert all(
            torch.equal(whole[key], value) for key, value in losses(TagObjective(tags_per_step=many)).items()
        )


def test_a_sample_of_tags_follows_the_generator_and_spares_the_pooled_term() -> None:
    objective = TagObjective(tags_per_step=2)
    found = [losses(objective, seed) for seed in range(6)]
    whole = losses(TagObjective(tags_per_step=0))
    assert all(torch.equal(one["pooled_tag"], whole["pooled_tag"]) for one in found)
    assert torch.equal(found[0]["tag"], losses(objective, 0)["tag"])
    assert len({round(float(one["tag"]), 6) for one in found}) > 1


def test_a_sample_of_tags_stands_for_all_of_them() -> None:
    """Common tags are drawn more often and weigh less for it: on average the loss is that over every tag."""
    frequency = torch.tensor([0.5, 0.3, 0.2, 0.1, 0.1, 0.05])
    plain = {"gamma_negative": 0.0, "shift": 0.0}
    whole = losses(TagObjective(tags_per_step=0, **plain))["tag"]
    sampled = TagObjective(tags_per_step=3, frequency=frequency, **plain)
    each = torch.stack([losses(sampled, seed)["tag"] for seed in range(400)])
    error = float(each.std()) / 400**0.5
    assert abs(float(each.mean() - whole)) < 4 * error and error < 0.05 * float(whole)


def test_chances_add_up_to_the_sample_and_grow_with_the_root_of_the_frequency() -> None:
    frequency = torch.tensor([0.9, 0.04, 0.01, 0.0025, 0.0])
    chance = inclusion(frequency, 2)
    assert float(chance.sum()) == pytest.approx(2) and float(chance[0]) == 1
    assert float(chance[1] / chance[2]) == pytest.approx(2) and float(chance[2] / chance[3]) == pytest.approx(
        2
    )
    assert float(chance[4]) > 0
    assert torch.allclose(inclusion(torch.ones(8), 2), torch.full((8,), 0.25))


def test_every_tag_is_drawn_as_often_as_its_chance() -> None:
    chance = torch.tensor([1.0, 0.5, 0.25, 0.15, 0.1])
    times = torch.zeros(5)
    generator = torch.Generator().manual_seed(0)
    for _ in range(2000):
        drawn = draw(chance, generator=generator)
        assert len(drawn) == len(set(drawn.tolist())) == 2
        times[drawn] += 1
    assert torch.allclose(times / 2000, chance, atol=0.04) and times[0] == 2000


def test_what_weighs_nothing_is_not_computed() -> None:
    """And what does weigh is the same as beside the other."""
    whole = losses(TagObjective(tags_per_step=2))
    answer = losses(TagObjective(tags_per_step=2, weights={"tag": 1.0, "rank": 0.0}))
    pooled = losses(TagObjective(tags_per_step=2, weights={"pooled_tag": 0.0, "pooled_rank": 0.5}))
    assert set(answer) == {"tag", "rank"} and set(pooled) == {"pooled_tag", "pooled_rank"}
    for name, value in {**answer, **pooled}.items():
        assert torch.allclose(whole[name], value), name


def test_a_model_without_pooled_term_has_no_pooled_losses() -> None:
    assert set(losses(TagObjective(), pooled_term=False)) == {"tag", "rank"}


def test_where_everything_is_sure_nothing_is_ranked() -> None:
    images, targets, _ = batch()
    model = tiny.recognizer()
    none = torch.zeros(0, 16)
    asked = Asked(targets, torch.ones_like(targets), none, torch.zeros(0, dtype=torch.long), none[:, :0])
    found = TagObjective().losses(
        model, model.tokens(images), asked, generator=torch.Generator().manual_seed(0)
    )
    assert found["rank"] == 0 and found["pooled_rank"] == 0
    assert found["rank"].requires_grad, "a step over it must not fail"


def described(*, taught: Tensor | None = None) -> tuple[Recognizer, Tensor, Asked]:
    """A model that reads text, tokens of three pictures, and captions for the first and the last of them."""
    torch.manual_seed(5)
    model = tiny.recognizer(descriptions=2)
    model.bank.embeddings.copy_(F.normalize(torch.randn(6, 2, 16), dim=-1))
    images, targets, weights = batch()
    texts = F.normalize(torch.randn(2, 16), dim=-1)
    asked = Asked(targets, weights, texts, torch.tensor([0, 2]), torch.eye(2), taught)
    return model, model.tokens(images), asked


def test_captions_are_told_from_those_of_other_pictures() -> None:
    model, tokens, asked = described()
    objective = TagObjective(gamma_text=3, shift=0.1, weights={"text": 1.0})
    found = objective.losses(model, tokens, asked, generator=torch.Generator())
    assert set(found) == {"text"}
    logits = model.decoder(asked.texts, tokens[[0, 2]])
    slow = slow_asymmetric(logits, torch.eye(2), torch.ones(2, 2), negative=3, positive=0, shift=0.1)
    assert float(found["text"].detach()) == pytest.approx(sum(map(sum, slow)) / 2, rel=1e-3)


def test_parts_of_a_batch_add_up_to_the_whole() -> None:
    """What several processes or parts of an update do: a part's pictures against all the texts, divided by all."""
    model, tokens, asked = described(taught=torch.randn(3, 16))
    objective = TagObjective(tags_per_step=3)
    whole = objective.losses(model, tokens, asked, generator=torch.Generator().manual_seed(0))
    assert asked.taught is not None
    summed = dict.fromkeys(whole, 0.0)
    # The first picture with the first caption; the others with the second, which is the last picture's.
    for rows, owner, match in (([0], [0], [0]), ([1, 2], [1], [1])):
        part = replace(
            asked,
            targets=asked.targets[rows],
            weights=asked.weights[rows],
            described=torch.tensor(owner),
            matches=asked.matches[match],
            taught=asked.taught[rows],
            totals=asked.own_totals(),
        )
        found = objective.losses(model, tokens[rows], part, generator=torch.Generator().manual_seed(0))
        for name, value in found.items():
            summed[name] += float(value.detach())
    for name, value in whole.items():
        assert summed[name] == pytest.approx(float(value.detach()), rel=1e-5), name


def test_a_teacher_is_followed() -> None:
    model, tokens, asked = described(taught=torch.randn(3, 16))
    assert asked.taught is not None
    objective = TagObjective(weights={"distil": 1.0})
    found = objective.losses(model, tokens, asked, generator=torch.Generator())
    wanted = (tokens[:, 0] - asked.taught).abs().mean()
    assert set(found) == {"distil"} and torch.allclose(found["distil"], wanted)
    same = replace(asked, taught=tokens[:, 0].detach())
    assert float(objective.losses(model, tokens, same, generator=torch.Generator())["distil"].detach()) < 1e-6


def test_every_loss_of_the_paper_is_there_with_equal_weight() -> None:
    model, tokens, asked = described(taught=torch.randn(3, 16))
    found = TagObjective().losses(model, tokens, asked, generator=torch.Generator())
    assert set(found) == {"tag", "rank", "text", "pooled_tag", "pooled_rank", "pooled_text", "distil"}
    assert {TagObjective().weights[name] for name in ("tag", "text", "distil")} == {1.0}


def test_the_total_is_weighted_by_name() -> None:
    named = {"tag": torch.tensor(2.0), "rank": torch.tensor(5.0), "other": torch.tensor(7.0)}
    assert float(TagObjective(weights={"tag": 0.5, "rank": 0.1}).total(named)) == pytest.approx(1.5)

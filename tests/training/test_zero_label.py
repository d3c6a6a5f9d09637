"""ViZer's mathematics beside slow twins, and that what is to be learned is learned."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import small_host
from taglens.errors import MismatchError, ModelError, UsageError
from taglens.training.captioner_host import CaptionerHost, CaptionerSeen
from taglens.training.collapse import CollapseError
from taglens.training.loop import LoopConfig
from taglens.training.zero_label import (
    Adapters,
    BestOfDrawn,
    Latent,
    Mapper,
    MapperConfig,
    Pairs,
    SelfCritical,
    Shown,
    batch_of,
    contrast_losses,
    latent_losses,
    pool,
    teach_mapper,
    tune,
)
from taglens.training.zero_label_hosts import Drawn, Texts

LOOP = LoopConfig(steps=1, lr=0.02, warmup=0, average=0.0, weight_decay=0.01)


def loop(steps: int, **more: float) -> LoopConfig:
    return LoopConfig(**{"steps": steps, "lr": 0.02, "warmup": 0, "average": 0.0, **more})  # type: ignore[arg-type]


def draws(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# -- mathematics -----------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_pooling_is_a_loop_over_the_captions_own_pieces(seed: int, last: bool) -> None:
    hidden = draws(seed, 3, 5, 2)
    mask = draws(seed + 1, 3, 5) > 0
    for row, pooled in enumerate(pool(hidden, mask, last=last)):
        own = [hidden[row, place] for place in range(5) if mask[row, place]]
        twin = torch.zeros(2)
        if own:
            twin = own[-1] if last else sum(own, torch.zeros(2)) / len(own)
        torch.testing.assert_close(pooled, twin, atol=1e-5, rtol=1e-4)


def test_what_is_not_finite_beside_the_caption_stays_beside_it() -> None:
    hidden, mask = torch.full((1, 3, 2), torch.nan), torch.tensor([[False, True, False]])
    hidden[0, 1] = 4.0
    assert pool(hidden, mask).tolist() == [[4.0, 4.0]]


@settings(deadline=None)
@given(st.integers(0, 10_000))
def test_the_losses_are_loops(seed: int) -> None:
    mapped, features = draws(seed, 4, 3), draws(seed + 1, 4, 3)

    def cos(one: Tensor, other: Tensor) -> float:
        return float(one @ other / (one.norm() * other.norm()))

    twin = [1 - cos(mapped[n], features[n]) for n in range(4)]
    torch.testing.assert_close(latent_losses(mapped, features), torch.tensor(twin), atol=1e-5, rtol=1e-4)
    table = [[math.exp(cos(m, f) / 0.5) for f in features] for m in mapped]
    twin = [
        -(math.log(table[n][n] / sum(table[n])) + math.log(table[n][n] / sum(table[m][n] for m in range(4))))
        / 2
        for n in range(4)
    ]
    found = contrast_losses(mapped, features, temperature=0.5)
    torch.testing.assert_close(found, torch.tensor(twin), atol=1e-4, rtol=1e-3)


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 10), st.integers(0, 5))
def test_an_epoch_takes_each_once(count: int, size: int, seed: int) -> None:
    size = min(size, count)
    each = count // size
    taken = [batch_of(step, count=count, size=size, seed=seed) for step in range(2 * each)]
    assert all(len(rows) == size for rows in taken)
    for epoch in (taken[:each], taken[each:]):
        numbers = torch.cat(epoch).tolist()
        assert len(set(numbers)) == len(numbers)
        assert set(numbers) <= set(range(count))


# -- the mapper ------------------------------------------------------------------------------------


def test_a_mapper_has_one_layer_between_of_its_width() -> None:
    mapper = Mapper(6, 9, MapperConfig(width=5))
    assert mapper(torch.zeros(4, 6)).shape == (4, 9)
    assert [tuple(value.shape) for value in mapper.parameters()] == [(5, 6), (5,), (9, 5), (9,)]
    with pytest.raises(UsageError):
        MapperConfig(width=0)


def pairs(seed: int = 0) -> Pairs:
    """Features that follow from hidden states."""
    hidden = draws(seed, 64, 6)
    return Pairs(hidden, torch.tanh(hidden @ draws(99, 6, 5)))


def test_a_mapper_learns_what_there_is_to_learn(tmp_path: Path) -> None:
    given = pairs()
    mapper = teach_mapper(given, (6, 5), MapperConfig(width=32), loop(120), batch_size=16, out=tmp_path)
    other = pairs(1)
    assert float(latent_losses(mapper(other.hidden), other.features).mean()) < 0.15
    guess = given.features.mean(0).expand_as(other.features)
    assert float(latent_losses(guess, other.features).mean()) > 0.6
    assert not any(value.requires_grad for value in mapper.parameters())


def test_a_mapper_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    whole = teach_mapper(pairs(), (6, 5), MapperConfig(), loop(4), batch_size=16, out=tmp_path / "whole")
    half = {"batch_size": 16, "out": tmp_path / "half"}
    teach_mapper(pairs(), (6, 5), MapperConfig(), loop(4, until=2), **half)  # type: ignore[arg-type]
    again = teach_mapper(pairs(), (6, 5), MapperConfig(), loop(4), **half)  # type: ignore[arg-type]
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))


# -- signals ---------------------------------------------------------------------------------------


def shown(host: CaptionerHost, count: int = 6, *, seed: int = 5) -> Shown[CaptionerSeen]:
    seen = small_host.seen(host, count)
    return Shown(seen, torch.arange(count), seen.features, host.write(seen), seed)


def mapper_for(host: CaptionerHost) -> Mapper:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Mapper(host.hidden_width, host.vision_width, MapperConfig(width=8))


def test_the_latent_signal_is_the_papers_formula_and_reaches_adapters_alone() -> None:
    host = small_host.host()
    small_host.stir(host)
    mapper, given = mapper_for(host), shown(host)
    found = Latent(mapper).losses(host, given)
    assert found.keys() == {"latent"}
    hidden = host.hidden(given.seen, given.own)
    twin = 0.0
    for row in range(6):
        own = [hidden[row, at] for at in range(hidden.shape[1]) if given.own.mask[row, at]]
        mapped = mapper(torch.stack(own).mean(0))
        twin += 1 - float(torch.cosine_similarity(mapped, given.features[row], dim=0).detach())
    assert float(found["latent"].detach()) == pytest.approx(twin / 6, abs=1e-5)
    found["latent"].backward()  # type: ignore[no-untyped-call]
    assert all(value.grad is not None and value.grad.any() for value in host.parameters().values())
    assert all(value.grad is None for value in [*mapper.parameters(), *host.captioner.parameters()])


def test_captions_that_say_nothing_teach_nothing() -> None:
    host = small_host.host()
    given = shown(host)
    mask = given.own.mask.clone()
    mask[2] = False
    own = Texts(given.own.ids, mask, given.own.ends, given.own.strings)
    without = Shown(given.seen, given.numbers, given.features, own, given.seed)
    rows = torch.tensor([0, 1, 3, 4, 5])
    rest = Shown(given.seen.at(rows), rows, given.features[rows], given.own.at(rows), given.seed)
    signal = Latent(mapper_for(host), contrast=True)
    found, twin = signal.losses(host, without), signal.losses(host, rest)
    assert found.keys() == {"latent", "contrast"}
    for name, value in found.items():
        torch.testing.assert_close(value, twin[name])


def test_of_drawn_captions_the_one_liked_best_becomes_likelier() -> None:
    host = small_host.host()
    judge = small_host.LetterJudge()
    given = shown(host)
    found = BestOfDrawn(judge, count=3, top_p=1.0).losses(host, given)
    each = torch.arange(6).repeat_interleave(3)
    drawn = host.write(given.seen.at(each), drawn=Drawn(given.seed))
    likely = host.log_probs(given.seen.at(each), drawn).detach()
    twin, better = 0.0, 0
    for picture in range(6):
        liked = [float(judge([0], [drawn.strings[3 * picture + n]])[0]) for n in range(3)]
        best = liked.index(max(liked))
        if max(liked) > float(judge([0], [given.own.strings[picture]])[0]):
            better += 1
            row = 3 * picture + best
            twin -= float(likely[row].sum()) / int(drawn.written[row].sum())
    assert better > 0
    assert float(found["tags"].detach()) == pytest.approx(twin / 6, rel=1e-4)
    assert float(found["_tags_better"]) == pytest.approx(better / 6)


def test_where_no_drawn_caption_is_better_nothing_is_learned() -> None:
    host = small_host.host()
    found = BestOfDrawn(small_host.Scripted(1.0, 0.5)).losses(host, shown(host))
    assert float(found["tags"].detach()) == 0.0
    found["tags"].backward()  # type: ignore[no-untyped-call]
    assert not any(value.grad is not None and value.grad.any() for value in host.parameters().values())


def test_the_rival_is_its_formula() -> None:
    host = small_host.host()
    small_host.stir(host)
    judge = small_host.LetterJudge()
    given = shown(host)
    found = SelfCritical(judge, keep=0.5).losses(host, given)
    drawn = host.write(given.seen, drawn=Drawn(given.seed))
    now = host.log_probs(given.seen, drawn).detach()
    with host.adapters_off():
        before = host.log_probs(given.seen, drawn).detach()
    gains = [
        float(judge([0], [drawn.strings[n]])[0] - judge([0], [given.own.strings[n]])[0]) for n in range(6)
    ]
    mean = sum(gains) / 6
    spread = math.sqrt(sum((gain - mean) ** 2 for gain in gains) / 6)
    reward, distance = 0.0, 0.0
    for n in range(6):
        places = [at for at in range(now.shape[1]) if drawn.written[n, at]]
        reward -= gains[n] / spread * sum(float(now[n, at]) for at in places) / len(places) / 6
        away = [float(before[n, at] - now[n, at]) for at in places]
        distance += sum(math.exp(each) - each - 1 for each in away) / len(places) / 6
    assert float(found["_distance"]) == pytest.approx(distance, rel=1e-3)
    assert distance > 0
    assert float(found["reward"].detach()) == pytest.approx(reward + 0.5 * distance, rel=1e-3)


# -- stage 2 ---------------------------------------------------------------------------------------


def shows(host: CaptionerHost, seen: CaptionerSeen) -> object:
    def show(step: int) -> Shown[CaptionerSeen]:
        return Shown(seen, torch.arange(len(seen)), seen.features, host.write(seen), step)

    return show


def latent(host: CaptionerHost, mapper: Mapper) -> float:
    with torch.no_grad():
        return float(Latent(mapper).losses(host, shown(host))["latent"])


def test_the_latent_loss_falls_and_the_model_stays(tmp_path: Path) -> None:
    host = small_host.host()
    mapper, seen = mapper_for(host), small_host.seen(host)
    plain = {name: value.clone() for name, value in host.captioner.state_dict().items()}
    before = latent(host, mapper)
    tune(host, shows(host, seen), [({}, Latent(mapper))], loop(12), out=tmp_path)  # type: ignore[arg-type]
    assert latent(host, mapper) < before - 0.05
    assert all(torch.equal(value, plain[name]) for name, value in host.captioner.state_dict().items())
    with host.adapters_off():
        assert latent(host, mapper) == pytest.approx(before, abs=1e-6)


def test_self_training_makes_captions_that_are_liked(tmp_path: Path) -> None:
    host = small_host.host()
    seen, judge = small_host.seen(host), small_host.LetterJudge()
    before = judge(range(6), host.write(seen).strings).mean()
    signal = BestOfDrawn(judge, count=6, top_p=1.0)
    tune(host, shows(host, seen), [({}, signal)], loop(12), out=tmp_path)  # type: ignore[arg-type]
    assert judge(range(6), host.write(seen).strings).mean() > before + 0.05


def test_weights_weigh(tmp_path: Path) -> None:
    """A signal whose losses weigh nothing moves nothing; another moves all, however little it weighs."""
    for weights, moves in (
        ({"latent": 0.0, "contrast": 0.0}, False),
        ({"contrast": 0.01, "latent": 0.0}, True),
    ):
        host = small_host.host()
        fresh = host.adapter_state()
        signal = Latent(mapper_for(host), contrast=True)
        show = shows(host, small_host.seen(host))
        tune(host, show, [(weights, signal)], loop(1, weight_decay=0.0), out=tmp_path / str(moves))  # type: ignore[arg-type]
        same = all(torch.equal(value, fresh[name]) for name, value in host.adapter_state().items())
        assert same is not moves


def test_a_step_without_words_stops_the_run(tmp_path: Path) -> None:
    host = small_host.host()
    given = shown(host)
    empty = Texts(given.own.ids, torch.zeros_like(given.own.mask), given.own.ends, ("",) * 6)

    def show(step: int) -> Shown[CaptionerSeen]:
        return Shown(given.seen, given.numbers, given.features, empty, step)

    with pytest.raises(CollapseError, match="step 1 every one of 6 is empty"):
        tune(host, show, [({}, Latent(mapper_for(host)))], loop(2), out=tmp_path)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    host = small_host.host()
    seen = small_host.seen(host)
    broken = CaptionerSeen(seen.features * torch.nan, seen.memory, seen.guide_mask, seen.pooled, seen.scores)
    with pytest.raises(ModelError, match="not finite at step 1"):
        tune(host, shows(host, broken), [({}, Latent(mapper_for(host)))], loop(2), out=tmp_path)  # type: ignore[arg-type]


def test_what_cannot_be_meant_is_refused(tmp_path: Path) -> None:
    host = small_host.host()
    show = shows(host, small_host.seen(host))
    with pytest.raises(UsageError, match="nothing to learn"):
        tune(host, show, [], loop(2), out=tmp_path)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="average 0"):
        tune(host, show, [({}, Latent(mapper_for(host)))], loop(2, average=0.9), out=tmp_path)  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        BestOfDrawn(small_host.LetterJudge(), count=0)
    with pytest.raises(UsageError):
        SelfCritical(small_host.LetterJudge(), keep=-1.0)


def test_the_module_holds_the_hosts_own_tensors() -> None:
    host = small_host.host()
    own = {value.data_ptr() for value in host.parameters().values()}
    assert {value.data_ptr() for value in Adapters(host).parameters()} == own


def test_adapters_of_another_rank_are_refused() -> None:
    from taglens.models.lora import LoraConfig

    host, other = small_host.host(), small_host.host(lora=LoraConfig(rank=2, alpha=4))
    before = host.adapter_state()
    with pytest.raises(MismatchError, match="adapters do not fit"):
        host.load_adapter_state(other.adapter_state())
    assert all(torch.equal(value, before[name]) for name, value in host.adapter_state().items())

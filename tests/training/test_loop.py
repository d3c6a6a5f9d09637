"""The loop: a killed run ends like one that was not, what does not fit is refused, a few pictures can be learnt."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import tiny
from taglens.data.batches import Batch, BatchStream
from taglens.errors import MismatchError, ModelError, UsageError
from taglens.models.configs import EncoderConfig
from taglens.models.recognizer import Recognizer
from taglens.training.augment import AugmentConfig
from taglens.training.loop import LOG, STATE, LoopConfig, Progress, train
from taglens.training.objectives import Asked, TagObjective
from taglens.training.optim import Average, adamw, rate
from taglens.training.recipes import logits_of

CONFIG = LoopConfig(
    steps=4, side=tiny.SIDE, lr=1e-2, warmup=1, average=0.9, seed=3, log_every=1, checkpoint_every=2
)
OBJECTIVE = TagObjective(gamma_negative=2, tags_per_step=4)


def stream() -> BatchStream:
    # Larger than the training side, as in a real run, and two sources, one of them unsure of what is absent.
    sets = [tiny.picture_set("sure", 5, side=40), tiny.picture_set("unsure", 3, side=40, absent=0.2, seed=1)]
    return BatchStream(sets, batch_size=4, seed=3)


def run(
    out: Path, *, encoder: EncoderConfig = tiny.CONVNET, config: LoopConfig = CONFIG, **options: Any
) -> Recognizer:
    options = {"stream": stream(), "objective": OBJECTIVE, **options}
    return train(
        tiny.recognizer(encoder), options.pop("stream"), options.pop("objective"), config, out=out, **options
    )


def rows(out: Path) -> list[dict[str, Any]]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in (out / LOG).read_text().splitlines()]


def tensors(value: Any) -> list[Tensor]:
    """Every tensor inside, in order."""
    if isinstance(value, Tensor):
        return [value]
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return [tensor for part in parts for tensor in tensors(part)]


def equal(left: Any, right: Any) -> bool:
    ours, theirs = tensors(left), tensors(right)
    return len(ours) == len(theirs) > 0 and all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def state(out: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(out / STATE, weights_only=True)
    return loaded


class Killed(BaseException):
    """Not an Exception: nothing in between may swallow it."""


def kill_at(step: int) -> Any:
    def report(progress: Progress) -> None:
        if progress.step == step:
            raise Killed

    return report


@dataclass
class KillingStream:
    """Raises instead of giving this batch."""

    number: int

    def batch(self, number: int) -> Batch:
        if number == self.number:
            raise Killed
        return stream().batch(number)


def test_a_run_that_stops_early_goes_on_to_the_same_end(tmp_path: Path) -> None:
    straight = run(tmp_path / "straight")
    early = run(tmp_path / "early", config=replace(CONFIG, until=2))
    assert state(tmp_path / "early")["step"] == 2
    assert not equal(straight.state_dict(), early.state_dict())
    assert equal(straight.state_dict(), run(tmp_path / "early").state_dict())
    with pytest.raises(UsageError, match="stands at step 4 already"):
        run(tmp_path / "early", config=replace(CONFIG, until=2))
    with pytest.raises(UsageError, match="until 9"):
        replace(CONFIG, until=9)


# -- going on ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoder", tiny.ENCODERS.values(), ids=tiny.ENCODERS)
def test_a_killed_run_ends_like_one_that_was_not(encoder: EncoderConfig, tmp_path: Path) -> None:
    straight = run(tmp_path / "straight", encoder=encoder)
    with pytest.raises(Killed):
        run(tmp_path / "killed", encoder=encoder, report=kill_at(3))
    assert state(tmp_path / "killed")["step"] == 2
    resumed = run(tmp_path / "killed", encoder=encoder)
    assert equal(straight.state_dict(), resumed.state_dict())
    for part in ("model", "optimizer", "average"):
        assert equal(state(tmp_path / "straight")[part], state(tmp_path / "killed")[part]), part
    assert state(tmp_path / "killed")["updates"] == state(tmp_path / "straight")["updates"] == 4
    # The steps after the checkpoint were done again, with the same figures.
    named = ("tag", "rank", "pooled_tag", "pooled_rank", "lr", "grad_norm")
    told = [{key: row[key] for key in ("step", *named)} for row in rows(tmp_path / "killed")]
    assert [row["step"] for row in told] == [1, 2, 3, 3, 4]
    assert told[2] == told[3]
    assert told[4] == {key: rows(tmp_path / "straight")[3][key] for key in told[4]}


def test_a_run_may_be_killed_anywhere_and_twice(tmp_path: Path) -> None:
    config = replace(CONFIG, checkpoint_every=1)
    straight = run(tmp_path / "straight", config=config)
    for number in (0, 1, 3):
        with pytest.raises(Killed):
            run(tmp_path / "killed", config=config, stream=KillingStream(number))
    assert equal(straight.state_dict(), run(tmp_path / "killed", config=config).state_dict())


def test_weights_move_and_the_seed_matters(tmp_path: Path) -> None:
    """What the equalities above are worth: steps change the weights, other draws change them otherwise."""
    first, other = run(tmp_path / "a"), run(tmp_path / "b", config=replace(CONFIG, seed=4))
    assert not equal(first.state_dict(), tiny.recognizer().state_dict())
    assert not equal(first.state_dict(), other.state_dict())


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    finished = run(tmp_path)
    told = rows(tmp_path)
    again = run(tmp_path, stream=KillingStream(4), report=kill_at(4))
    assert equal(finished.state_dict(), again.state_dict())
    assert rows(tmp_path) == told


def test_a_half_written_state_is_ignored(tmp_path: Path) -> None:
    beside = tmp_path / (STATE + ".part")
    beside.write_bytes(b"half of a file")
    straight = run(tmp_path / "straight")
    assert equal(run(tmp_path).state_dict(), straight.state_dict())
    assert not beside.exists(), "the next state takes its place"


def test_a_killed_write_keeps_the_state_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(CONFIG, checkpoint_every=1)
    written = 0
    save = torch.save

    def torn(value: Any, path: Path) -> None:
        nonlocal written
        written += 1
        if written == 3:
            path.write_bytes(b"half")
            raise Killed
        save(value, path)

    straight = run(tmp_path / "straight", config=config)
    monkeypatch.setattr(torch, "save", torn)
    with pytest.raises(Killed):
        run(tmp_path / "killed", config=config)
    assert state(tmp_path / "killed")["step"] == 2
    assert equal(run(tmp_path / "killed", config=config).state_dict(), straight.state_dict())


# -- what does not fit -------------------------------------------------------------------------------

CHANGES: dict[str, dict[str, Any]] = {
    "steps": {"steps": 5},
    "side": {"side": 24},
    "lr": {"lr": 2e-2},
    "warmup": {"warmup": 2},
    "weight decay": {"weight_decay": 0.1},
    "clip": {"clip": 2.0},
    "average": {"average": 0.8},
    "seed": {"seed": 4},
    "augmentation": {"augment": AugmentConfig(flip=0)},
    "precision": {"precision": "bf16"},
    "parts": {"only": ("decoder",)},
}


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unfinished")
    with pytest.raises(Killed):
        run(out, report=kill_at(3))
    return out


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
def test_other_settings_refuse_to_resume(changes: dict[str, Any], unfinished: Path) -> None:
    before = (unfinished / STATE).read_bytes()
    with pytest.raises(MismatchError, match=r"other settings.*another --out"):
        run(unfinished, config=replace(CONFIG, **changes))
    assert (unfinished / STATE).read_bytes() == before


def test_another_model_refuses_to_resume(unfinished: Path) -> None:
    with pytest.raises(MismatchError, match="another model"):
        run(unfinished, encoder=tiny.HYBRID)
    with pytest.raises(MismatchError, match="another model"):
        train(tiny.recognizer(tags=5), stream(), OBJECTIVE, CONFIG, out=unfinished)


def test_how_often_to_log_may_change(unfinished: Path, tmp_path: Path) -> None:
    straight = run(tmp_path / "straight")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / STATE).write_bytes((unfinished / STATE).read_bytes())
    config = replace(CONFIG, log_every=3, checkpoint_every=0, evaluate_every=1)
    assert equal(run(tmp_path / "out", config=config).state_dict(), straight.state_dict())
    assert [row["step"] for row in rows(tmp_path / "out")] == [3, 4]


@pytest.mark.parametrize("content", [b"", b"no archive", None], ids=["empty", "text", "cut"])
def test_a_damaged_state_is_named(content: bytes | None, unfinished: Path, tmp_path: Path) -> None:
    whole = (unfinished / STATE).read_bytes()
    (tmp_path / STATE).write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(ModelError, match=r"state\.pt is damaged.*delete it") as caught:
        run(tmp_path)
    assert "weights_only" not in str(caught.value), "nobody is told to load it unsafely"


@pytest.mark.parametrize("value", [[1, 2], {"step": 3}, torch.zeros(2)], ids=["list", "other", "tensor"])
def test_a_file_that_is_no_state_is_named(value: Any, tmp_path: Path) -> None:
    torch.save(value, tmp_path / STATE)
    with pytest.raises(ModelError, match=r"state\.pt is no run's state.*delete it"):
        run(tmp_path)


@pytest.mark.parametrize(
    "changes", [{"steps": 0}, {"side": 4}, {"lr": 0.0}, {"lr": -1.0}, {"precision": "fp16"}], ids=str
)
def test_a_run_that_cannot_be_meant_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        replace(CONFIG, **changes)


def test_a_part_that_the_model_lacks_cannot_be_trained(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no part 'head'.*encoder"):
        run(tmp_path, config=replace(CONFIG, only=("decoder", "head")))


@dataclass(frozen=True)
class Poisoned:
    """The tagging objective, spoilt at the third step."""

    poison: str

    def losses(
        self, model: Recognizer, tokens: Tensor, asked: Asked, *, generator: torch.Generator
    ) -> dict[str, Tensor]:
        named = OBJECTIVE.losses(model, tokens, asked, generator=generator)
        if model.steps == 3:  # type: ignore[comparison-overlap]
            # NaN, infinity, and a finite loss whose slope is infinite.
            spoilt = {"nan": named["tag"] * math.nan, "inf": named["tag"] * math.inf}
            named["tag"] = spoilt.get(self.poison, named["tag"] + (named["tag"] * 0).sqrt())
        return named

    def total(self, named: Mapping[str, Tensor]) -> Tensor:
        return OBJECTIVE.total(named)


@pytest.mark.parametrize("poison", ["nan", "inf", "slope"])
def test_a_loss_that_is_not_finite_stops_the_run_before_it_is_saved(poison: str, tmp_path: Path) -> None:
    model = tiny.recognizer()

    def count(*_: Any) -> None:
        model.steps += 1  # type: ignore[operator]

    model.steps = 0  # type: ignore[assignment]
    model.encoder.register_forward_pre_hook(count)
    # Logged seldom, saved at every step: what is saved must not depend on what is logged.
    config = replace(CONFIG, log_every=100, checkpoint_every=1)
    with pytest.raises(ModelError, match=r"not finite at step 3.*--lr"):
        train(model, stream(), Poisoned(poison), config, out=tmp_path)
    kept = state(tmp_path)
    assert kept["step"] == 2
    assert all(bool(torch.isfinite(tensor).all()) for tensor in tensors(kept))


# -- what is told ------------------------------------------------------------------------------------


def test_evaluations_see_the_average_and_reach_the_log(tmp_path: Path) -> None:
    seen: list[tuple[bool, dict[str, Tensor]]] = []

    def evaluate(model: Recognizer) -> dict[str, float]:
        seen.append((model.training, {key: value.clone() for key, value in model.state_dict().items()}))
        return {"a": 0.5, "b": math.nan}

    finished = run(tmp_path, config=replace(CONFIG, evaluate_every=3), evaluate=evaluate)
    assert [row for row in rows(tmp_path) if "evaluation" in row] == [
        {"step": 3, "evaluation": {"a": 0.5, "b": None}},
        {"step": 4, "evaluation": {"a": 0.5, "b": None}},
    ]
    assert [training for training, _ in seen] == [False, False]
    assert equal(seen[-1][1], finished.state_dict()) and not equal(seen[0][1], seen[1][1])
    assert not finished.training and equal(finished.state_dict(), state(tmp_path)["average"])


def test_a_step_reports_itself(tmp_path: Path) -> None:
    told: list[Progress] = []
    run(tmp_path, config=replace(CONFIG, log_every=3), report=told.append)
    assert [(progress.step, progress.steps) for progress in told] == [(3, 4), (4, 4)]
    assert set(told[0].losses) == {"tag", "rank", "pooled_tag", "pooled_rank"}
    assert [row["lr"] for row in rows(tmp_path)] == [progress.lr for progress in told]
    assert told[0].images_per_s > 0


# -- learning ----------------------------------------------------------------------------------------


def test_only_the_chosen_parts_learn(tmp_path: Path) -> None:
    config = replace(CONFIG, only=("decoder", "bank"))
    before, after = tiny.recognizer().state_dict(), run(tmp_path / "straight", config=config).state_dict()
    for key, value in before.items():
        moved = (after[key] - value).abs().max() if value.is_floating_point() else int(value != after[key])
        # The average of equal weights is equal to rounding.
        assert (moved > 1e-5) == key.startswith(("decoder.", "bank.")) or key.endswith("key.bias"), key
    with pytest.raises(Killed):
        run(tmp_path / "killed", config=config, report=kill_at(3))
    assert equal(after, run(tmp_path / "killed", config=config).state_dict())


def test_a_run_leaves_a_chosen_part_free_for_the_next(tmp_path: Path) -> None:
    model = tiny.recognizer()
    train(model, stream(), OBJECTIVE, replace(CONFIG, only=("decoder",)), out=tmp_path / "first")
    train(model, stream(), OBJECTIVE, CONFIG, out=tmp_path / "second")
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())


def test_four_pictures_are_learnt(tmp_path: Path) -> None:
    torch.manual_seed(0)
    four = replace(
        tiny.picture_set("four", 4, tags=4), pixels=np.repeat(tiny.pixels(4, side=8), 4, 1).repeat(4, 2)
    )
    config = LoopConfig(
        steps=60, side=32, lr=1e-2, warmup=5, average=0.9, log_every=1, augment=AugmentConfig(erase=0, turn=0)
    )
    model = train(
        Recognizer(tiny.config(tags=4)),
        BatchStream([four], batch_size=4),
        TagObjective(gamma_negative=2, tags_per_step=0),
        config,
        out=tmp_path,
    )
    told = rows(tmp_path)
    assert told[-1]["tag"] < 0.1 * told[0]["tag"]
    scores = 1 / (1 + np.exp(-logits_of(model, four, side=32)))
    assert scores.shape == (4, 4)
    assert np.array_equal(scores.argmax(1), np.arange(4)) and np.array_equal(scores.argmax(0), np.arange(4))
    assert scores.diagonal().min() > 0.5 > np.where(np.eye(4), 0, scores).max()


# -- optimiser, schedule, average --------------------------------------------------------------------


def test_matrices_decay_and_the_rest_does_not() -> None:
    for encoder in tiny.ENCODERS.values():
        model = tiny.recognizer(encoder)
        decayed, free = adamw(model, lr=1e-3, weight_decay=0.07).param_groups
        assert (decayed["weight_decay"], free["weight_decay"]) == (0.07, 0.0)
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        kept = sorted(names[id(p)] for p in free["params"])
        shrunk = sorted(names[id(p)] for p in decayed["params"])
        assert sorted(kept + shrunk) == sorted(names.values()), "each in one group"
        assert "bank.embeddings" in kept
        assert all(name.endswith("weight") for name in shrunk)
        assert not [name for name in shrunk if "norm" in name]


def test_what_is_frozen_is_not_optimised() -> None:
    model = tiny.recognizer()
    model.encoder.requires_grad_(False)
    ours = {id(p) for group in adamw(model, lr=1e-3, weight_decay=0.1).param_groups for p in group["params"]}
    assert ours == {id(p) for name, p in model.named_parameters() if not name.startswith("encoder.")}


def test_the_rate_rises_then_falls_between_its_ends() -> None:
    rates = [rate(step, steps=100, warmup=10, peak=2.0, floor=0.1) for step in range(101)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[9] == rates[10] == pytest.approx(2.0)
    assert rates[55] == pytest.approx(2.0 * (0.1 + 0.9 / 2))
    assert rates[100] == pytest.approx(0.2)
    assert rates[:10] == sorted(rates[:10]) and rates[10:] == sorted(rates[10:], reverse=True)
    assert rate(0, steps=10, warmup=0, peak=2.0) == 2.0
    assert rate(500, steps=10, warmup=0, peak=2.0) == pytest.approx(0.02)
    assert rate(7, steps=8, warmup=8, peak=2.0) == 2.0 and rate(8, steps=8, warmup=8, peak=2.0) == 2.0


def test_the_average_follows_its_recurrence() -> None:
    layer = nn.BatchNorm1d(2)
    average = Average(layer, 0.5)
    weight, mean = [1.0, 1.0], [0.0, 0.0]
    for update in range(1, 12):
        with torch.no_grad():
            layer.weight.copy_(torch.tensor([float(update), 2.0]))
            layer.running_mean.copy_(torch.tensor([-float(update), 1.0]))  # type: ignore[union-attr]
            layer.num_batches_tracked.fill_(update)  # type: ignore[operator]
        average.update(layer)
        decay = min(0.5, (1 + update) / (10 + update))
        weight = [decay * old + (1 - decay) * new for old, new in zip(weight, (update, 2.0), strict=True)]
        mean = [decay * old + (1 - decay) * new for old, new in zip(mean, (-update, 1.0), strict=True)]
    kept = average.model
    assert kept.weight.tolist() == pytest.approx(weight) and kept.running_mean.tolist() == pytest.approx(mean)
    assert kept.num_batches_tracked == 11 and average.updates == 11
    assert not kept.training and not any(p.requires_grad for p in kept.parameters())
    assert layer.weight.tolist() == [11.0, 2.0], "the model itself is left alone"

"""The papers' recipes: the numbers of PAPERS.md, and that the loop takes them."""

from __future__ import annotations

import pytest

from taglens.errors import UsageError
from taglens.training.loop import LoopConfig
from taglens.training.optim import rate
from taglens.training.papers import RAM, RAM_PLUS, TAG2TEXT, loop_config


def test_the_recipes_are_the_papers() -> None:
    assert [(r.stages[0].epochs, r.stages[0].batch) for r in (TAG2TEXT, RAM, RAM_PLUS)] == [
        (20, 960),
        (5, 720),
        (5, 720),
    ]
    for recipe in (TAG2TEXT, RAM, RAM_PLUS):
        first, last = recipe.stages
        assert (first.lr, first.warmup, first.decay, first.side, first.weight_decay) == (
            1e-4,
            3000,
            0.9,
            224,
            0.05,
        )
        assert (last.data, last.side, last.lr, last.decay) == (("coco",), 384, 5e-6, None)
    objective = RAM_PLUS.objective
    assert (objective.gamma_negative, objective.gamma_text, objective.gamma_positive, objective.shift) == (
        7,
        4,
        0,
        0.05,
    )
    assert RAM_PLUS.losses == {"tag": 1.0, "text": 1.0, "distil": 1.0}


def test_a_stage_becomes_a_loop() -> None:
    config = loop_config(RAM_PLUS.stages[0], pictures=7_201)
    assert (config.steps, config.decay_every) == (5 * 11, 11)
    rates = [
        rate(step, steps=config.steps, warmup=3, peak=1.0, decay=config.decay, every=config.decay_every)
        for step in range(config.steps)
    ]
    assert rates[:4] == pytest.approx([1 / 3, 2 / 3, 1.0, 1.0])
    assert rates[10:12] == pytest.approx([1.0, 0.9]) and rates[-1] == pytest.approx(0.9**4)


def test_a_decay_without_its_interval_is_refused() -> None:
    with pytest.raises(UsageError, match="needs the steps"):
        LoopConfig(steps=1, decay=0.9)

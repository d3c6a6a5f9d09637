"""Tokens computed ahead, and a teacher's features: what a step over them sees is what it would have seen."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

import tiny
from taglens.data.batches import BatchStream
from taglens.errors import DataError
from taglens.training.augment import AugmentConfig, plain
from taglens.training.cached import encode, look, teach
from taglens.training.loop import LoopConfig, train
from taglens.training.objectives import Asked, TagObjective

STILL = AugmentConfig(least_area=1.0, aspect=1.0, turn=0.0, colour=0.0, flip=0.0, erase=0.0)


def test_a_set_without_views_is_what_the_encoder_makes_of_it() -> None:
    model, pictures = tiny.recognizer(), tiny.picture_set("a", 70, side=40)
    (found,) = encode(model, pictures, side=tiny.SIDE)
    with torch.inference_mode():
        wanted = model.encoder(plain(torch.from_numpy(pictures.pixels), tiny.SIDE))
    assert found.name == "a" and found.pixels.dtype == np.float16
    assert np.allclose(found.pixels, wanted.numpy(), atol=2e-3, rtol=2e-3)
    assert np.array_equal(found.present, pictures.present)


def test_views_differ_and_are_the_same_again() -> None:
    model, pictures = tiny.recognizer(), tiny.picture_set("a", 5)
    first = encode(model, pictures, side=tiny.SIDE, views=2, config=AugmentConfig(), seed=1)
    again = encode(model, pictures, side=tiny.SIDE, views=2, config=AugmentConfig(), seed=1)
    assert [view.name for view in first] == ["a.0", "a.1"]
    assert not np.array_equal(first[0].pixels, first[1].pixels)
    assert all(np.array_equal(one.pixels, other.pixels) for one, other in zip(first, again, strict=True))


def test_views_written_down_are_read_again(tmp_path: Path) -> None:
    pictures = tiny.picture_set("a", 5)
    model = tiny.recognizer()
    given = {"side": tiny.SIDE, "views": 2, "config": AugmentConfig()}
    fresh = encode(model, pictures, **given)
    first = encode(model, pictures, **given, keep=tmp_path)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 2
    counts: list[int] = []
    with torch.no_grad():  # an encoder that is asked again would be noticed
        calls = model.encoder.register_forward_hook(lambda *_: pytest.fail("encoded again"))
        again = encode(model, pictures, **given, keep=tmp_path, progress=counts.append)
        calls.remove()
    assert counts == [5, 10]
    for one, other, third in zip(fresh, first, again, strict=True):
        assert np.array_equal(one.pixels, other.pixels)
        assert np.array_equal(one.pixels, third.pixels)
    # Other pictures, another encoder, other views: nothing of this is taken for theirs.
    encode(model, tiny.picture_set("a", 5, seed=9), **given, keep=tmp_path)
    with torch.no_grad():
        next(model.encoder.parameters()).add_(1.0)
    encode(model, pictures, **given, keep=tmp_path)
    encode(model, pictures, **given, seed=1, keep=tmp_path)
    assert len(list(tmp_path.iterdir())) == 8
    files[0].write_bytes(files[0].read_bytes()[:100])
    with pytest.raises(DataError, match="delete the file"):
        encode(tiny.recognizer(), pictures, **given, keep=tmp_path)


def test_views_without_an_augmentation_are_refused() -> None:
    with pytest.raises(ValueError, match="give its configuration"):
        encode(tiny.recognizer(), tiny.picture_set("a", 2), side=tiny.SIDE, views=1)


def test_a_step_over_cached_tokens_is_the_step_over_pictures(tmp_path: Path) -> None:
    pictures = tiny.picture_set("a", 6)
    config = LoopConfig(
        steps=1, side=tiny.SIDE, warmup=1, log_every=1, augment=STILL, only=("project", "decoder", "bank")
    )
    objective = TagObjective(tags_per_step=0)
    losses = []
    for cached in (False, True):
        model = tiny.recognizer()
        sets = encode(model, pictures, side=tiny.SIDE) if cached else [pictures]
        stream = BatchStream(sets, batch_size=4)
        train(model, stream, objective, config, out=tmp_path / str(cached), look=look if cached else None)
        assert model.decoder.head.weight.grad is not None
        losses.append(model.decoder.head.weight.grad.clone())
    assert torch.allclose(*losses, atol=2e-3)


def mean_colour(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """A teacher [B, 16]: how red, green and blue a picture is."""
    return np.pad(pixels.mean((1, 2)) / 255, ((0, 0), (0, 13))).astype(np.float32)


def test_a_teachers_features_come_with_their_pictures(tmp_path: Path) -> None:
    pictures = teach(tiny.picture_set("a", 70), mean_colour)
    batch = BatchStream([pictures], batch_size=7).batch(3)
    assert batch.taught is not None and np.allclose(batch.taught, mean_colour(batch.pixels))
    model = tiny.recognizer()
    objective = TagObjective(weights={"distil": 1.0})
    config = LoopConfig(steps=30, side=tiny.SIDE, lr=2e-2, warmup=2, log_every=29, only=("project",))
    train(model, BatchStream([pictures], batch_size=16), objective, config, out=tmp_path)
    told = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    batch, untaught = BatchStream([pictures], batch_size=70).batch(0), tiny.recognizer()
    whole = Asked.of(batch, device=torch.device("cpu"))
    tokens = untaught.tokens(plain(torch.from_numpy(batch.pixels), tiny.SIDE))
    before = objective.losses(untaught, tokens, whole, generator=torch.Generator())["distil"]
    assert told[-1]["distil"] < 0.5 * float(before.detach())


def test_a_teacher_for_some_sources_only_is_refused() -> None:
    with pytest.raises(DataError, match="some sources have a teacher"):
        BatchStream([teach(tiny.picture_set("a", 3), mean_colour), tiny.picture_set("b", 3)], batch_size=2)

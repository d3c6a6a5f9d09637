"""Where the decoder looks: the weights it really used, and boxes around them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import tiny
from taglens.errors import UsageError
from taglens.models.recognizer import Recognizer
from taglens.training.engine_attention import AttentionCrops, _weights, attention_maps, bright_box
from taglens.training.engine_regions import WHOLE, Seen
from taglens.vocabulary import Entry, Vocabulary

WORDS = Vocabulary([Entry(name, "object") for name in tiny.NAMES])


@pytest.fixture(scope="module")
def model() -> Recognizer:
    return tiny.recognizer().eval()


def test_weights_are_those_that_the_layer_mixes_with(model: Recognizer) -> None:
    attention = model.decoder.layers[-1].attention
    generator = torch.Generator().manual_seed(0)
    queries, tokens = (torch.randn(1, n, 16, generator=generator) for n in (3, 5))
    with torch.inference_mode():
        weights = _weights(attention, queries, tokens)  # type: ignore[arg-type]
        mixed = weights @ attention._split(attention.value(tokens))  # type: ignore[union-attr, operator]
        mine = attention.out(mixed.transpose(1, 2).reshape(1, 3, -1))  # type: ignore[union-attr, operator]
        torch.testing.assert_close(mine, attention(queries, tokens))  # type: ignore[operator]
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(weights.shape[:-1]))


def test_a_tag_looks_the_same_whoever_is_asked_beside_it(model: Recognizer) -> None:
    pixels = torch.rand(3, tiny.SIDE, tiny.SIDE, generator=torch.Generator().manual_seed(1))
    together = attention_maps(model, pixels, [0, 3, 5])
    alone = attention_maps(model, pixels, [3])
    np.testing.assert_allclose(together[1], alone[0], atol=1e-6)
    assert together.shape[1] == together.shape[2] and (together >= 0).all()
    assert not model.decoder.layers[-1].attention._forward_pre_hooks  # type: ignore[union-attr]


def test_regions_are_the_picture_and_a_box_a_tag(model: Recognizer) -> None:
    crops = AttentionCrops(model, WORDS, ref="tiny@0")
    picture = Seen(Path("a"), np.random.default_rng(0).integers(0, 255, (20, 30, 3)).astype(np.uint8), 30, 20)
    found = crops(picture, ["object:cat", "object:unheard", "object:boat"])
    assert [region.tag for region in found] == [None, "object:cat", "object:boat"]
    assert found[0].box == WHOLE
    assert crops(picture, ["object:unheard"]) == [found[0]]
    assert "tiny@0" in crops.name
    with pytest.raises(UsageError, match="bright is 0"):
        AttentionCrops(model, WORDS, ref="tiny@0", bright=0.0)


def test_a_box_holds_the_bright_cells_that_hang_together() -> None:
    attention = np.zeros((4, 4), np.float32)
    attention[1, 2], attention[2, 2], attention[0, 0] = 1.0, 0.6, 0.9
    assert bright_box(attention, bright=0.5) == (0.5, 0.25, 0.75, 0.75)
    assert bright_box(attention, bright=0.7) == (0.5, 0.25, 0.75, 0.5)
    assert bright_box(np.ones((4, 4), np.float32), bright=0.5) == WHOLE

"""Swin and the plain transformer beside loop-and-if versions, and what their configurations refuse."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

import tiny
from taglens.errors import ModelError
from taglens.models.configs import (
    SWIN_B,
    SWIN_L,
    VIT_B,
    RecognizerConfig,
    SwinConfig,
    ViTConfig,
)
from taglens.models.recognizer import empty_recognizer
from taglens.models.swin import MASKED, PatchMerging, Swin, WindowAttention, relative_positions, shift_mask
from taglens.models.vit import ViT


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("window", [1, 2, 3, 5])
def test_the_bias_belongs_to_the_offset(window: int) -> None:
    found = relative_positions(window)
    cells = list(itertools.product(range(window), repeat=2))
    for (i, (y, x)), (j, (v, u)) in itertools.product(enumerate(cells), repeat=2):
        assert found[i, j] == (y - v + window - 1) * (2 * window - 1) + (x - u + window - 1)


@pytest.mark.parametrize(("height", "width", "window"), [(4, 4, 2), (6, 9, 3), (8, 4, 4)])
def test_shifted_windows_join_only_neighbours(height: int, width: int, window: int) -> None:
    """Tokens may look at each other exactly when the roll kept their distance."""
    found, shift = shift_mask(height, width, window, device=torch.device("cpu")), window // 2
    number = 0
    for top, left in itertools.product(range(0, height, window), range(0, width, window)):
        cells = [(top + y, left + x) for y in range(window) for x in range(window)]
        for (i, a), (j, b) in itertools.product(enumerate(cells), repeat=2):
            wraps = [
                (a[axis] + shift >= size) != (b[axis] + shift >= size)
                for axis, size in ((0, height), (1, width))
            ]
            assert found[number, 0, i, j] == (MASKED if any(wraps) else 0.0)
        number += 1
    assert len(found) == number


@torch.no_grad()
def test_attention_stays_inside_its_window() -> None:
    attention = WindowAttention(8, 2, 2).eval()
    given = torch.randn(2, 4, 6, 8)
    changed = given.clone()
    changed[1, 2:4, 4:6] += 1
    differs = (attention(given) - attention(changed)).abs().amax(-1) > 1e-6
    expected = torch.zeros(2, 4, 6, dtype=torch.bool)
    expected[1, 2:4, 4:6] = True
    assert torch.equal(differs, expected)


@torch.no_grad()
def test_four_neighbours_are_merged_columns_outside_rows() -> None:
    merge = PatchMerging(2)
    merge.norm = torch.nn.Identity()  # type: ignore[assignment]
    merge.reduce = torch.nn.Identity()  # type: ignore[assignment]
    given = torch.randn(1, 4, 6, 2)
    found = merge(given)
    for y, x in itertools.product(range(2), range(3)):
        order = [(0, 0), (1, 0), (0, 1), (1, 1)]
        assert torch.equal(found[0, y, x], torch.cat([given[0, 2 * y + r, 2 * x + c] for r, c in order]))


@pytest.mark.parametrize("side", [16, 32, 48])
@torch.no_grad()
def test_sides_that_divide_into_windows_do(side: int) -> None:
    model = Swin(tiny.SWIN).eval()
    given = torch.rand(3, 3, side, side)
    tokens = model(given)
    assert tokens.shape == (3, 1 + (side // 8) ** 2, 16)
    alone = torch.cat([model(given[n : n + 1]) for n in range(3)])
    assert torch.allclose(tokens, alone, atol=1e-5)


@pytest.mark.parametrize(("model", "side"), [(Swin(tiny.SWIN), 40), (ViT(tiny.VIT), 20)])
def test_other_sides_are_refused(model: Swin | ViT, side: int) -> None:
    with pytest.raises(ModelError, match="must be multiples of"):
        model(torch.rand(1, 3, side, side))
    with pytest.raises(ModelError, match="no multiple of the encoder's stride"):
        RecognizerConfig(encoder=model.config, tags=3, side=side)


@torch.no_grad()
def test_positions_are_read_by_interpolation() -> None:
    model = ViT(tiny.VIT).eval()
    assert torch.equal(model.places(3), model.positions.flatten(0, 1))
    model.positions.copy_(torch.linspace(0, 1, 3)[:, None, None].expand(3, 3, 16))
    rows = model.places(6).view(6, 6, 16)
    assert (rows.diff(dim=0) > 0).all() and rows.diff(dim=1).abs().max() < 1e-6
    assert model(torch.rand(2, 3, 48, 48)).shape == (2, 37, 16)


def test_a_step_changes_every_parameter() -> None:
    for model in (Swin(tiny.SWIN), ViT(tiny.VIT)):
        model(torch.rand(2, 3, 32, 32)).square().sum().backward()
        idle = [name for name, parameter in model.named_parameters() if parameter.grad is None]
        assert not idle


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ({"heads": (1,)}, "1 heads for 3 depths"),
        ({"width": 9}, "no multiple of 2 heads"),
        ({"window": 0}, "window must be at least 1"),
        ({"depths": (1, 0, 1)}, "depth must be at least 1"),
    ],
)
def test_impossible_sizes_are_refused(sizes: dict[str, int], says: str) -> None:
    with pytest.raises(ModelError, match=says):
        SwinConfig(**sizes)


def test_an_impossible_plain_transformer_is_refused() -> None:
    with pytest.raises(ModelError, match="not a multiple"):
        ViTConfig(width=10, heads=3)
    with pytest.raises(ModelError, match="layer_norm_eps must be above 0"):
        ViTConfig(layer_norm_eps=0.0)


def test_every_norm_of_a_plain_transformer_has_the_configured_eps() -> None:
    for config, eps in ((tiny.VIT, 1e-5), (replace(tiny.VIT, layer_norm_eps=1e-3), 1e-3)):
        norms = [part for part in ViT(config).modules() if isinstance(part, torch.nn.LayerNorm)]
        assert [part.eps for part in norms] == [eps] * 3
    written = tiny.config(tiny.VIT).to_dict()
    del written["encoder"]["layer_norm_eps"]
    # Folders from before there was a choice.
    assert RecognizerConfig.from_dict(written) == tiny.config(tiny.VIT)


@pytest.mark.parametrize(("encoder", "millions"), [(SWIN_B, 87), (SWIN_L, 195), (VIT_B, 86)])
def test_published_encoders_have_their_size(encoder: SwinConfig | ViTConfig, millions: int) -> None:
    config = RecognizerConfig(encoder=encoder, tags=3, side=384)
    assert RecognizerConfig.from_dict(config.to_dict()) == config
    values = sum(each.numel() for each in empty_recognizer(config).encoder.parameters())
    assert round(values / 1e6) == millions

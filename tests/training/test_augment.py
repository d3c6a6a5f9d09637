"""Augmentation: in range, repeatable, each part doing what it is named after and nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import tiny
from taglens.training.augment import AugmentConfig, augment, plain

NOTHING = AugmentConfig(least_area=1.0, aspect=1.0, turn=0.0, colour=0.0, flip=0.0, erase=0.0)


def pictures(count: int = 3, side: int = 24) -> Tensor:
    return torch.from_numpy(tiny.pixels(count, side=side))


def apply(images: Tensor, side: int, seed: int = 0, **changes: float) -> Tensor:
    config = AugmentConfig(
        **{**{name: getattr(NOTHING, name) for name in NOTHING.__dataclass_fields__}, **changes}
    )
    return augment(images, side, config, generator=torch.Generator().manual_seed(seed))


def ramps(count: int, side: int = 64) -> Tensor:
    """[count, side, side, 3]: red tells x, green tells y, as a share of 255 at the pixel's middle; blue is grey."""
    along = (torch.arange(side) * 2 + 1) / (2 * side) * 255
    red, green = along.view(1, side).expand(side, side), along.view(side, 1).expand(side, side)
    image = torch.stack([red, green, torch.full((side, side), 128.0)], dim=2).round().to(torch.uint8)
    return image.expand(count, -1, -1, -1)


@pytest.mark.parametrize("side", [16, 24, 40])
def test_shape_range_and_repetition(side: int) -> None:
    images, config = pictures(), AugmentConfig()
    before = images.clone()
    first = augment(images, side, config, generator=torch.Generator().manual_seed(5))
    again = augment(images, side, config, generator=torch.Generator().manual_seed(5))
    other = augment(images, side, config, generator=torch.Generator().manual_seed(6))
    assert first.shape == (3, 3, side, side) and first.dtype == torch.float32
    assert first.min() >= 0 and first.max() <= 1
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(images, before), "the stored pictures are left alone"


def test_nothing_else_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """The global generator neither changes the result nor is changed."""
    torch.manual_seed(1)
    first = augment(pictures(), 24, AugmentConfig(), generator=torch.Generator().manual_seed(5))
    state = torch.get_rng_state()
    torch.manual_seed(2)
    again = augment(pictures(), 24, AugmentConfig(), generator=torch.Generator().manual_seed(5))
    torch.manual_seed(1)
    assert torch.equal(first, again) and torch.equal(state, torch.get_rng_state())


def test_images_are_changed_each_in_its_own_way() -> None:
    same = pictures(1).expand(6, -1, -1, -1)
    found = augment(same, 24, AugmentConfig(), generator=torch.Generator().manual_seed(0))
    assert all(not torch.equal(found[0], other) for other in found[1:])


# -- doing nothing -----------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [24, 48])
def test_doing_nothing_is_resizing(side: int) -> None:
    images = pictures()
    assert torch.allclose(apply(images, side), plain(images, side), atol=1e-4)


def test_plain_at_the_own_side_is_division() -> None:
    images = pictures()
    found = plain(images, 24)
    for x, y, channel in ((0, 0, 0), (5, 17, 1), (23, 2, 2)):
        assert float(found[1, channel, y, x]) == pytest.approx(int(images[1, y, x, channel]) / 255)
    assert found.shape == (3, 3, 24, 24)


def test_plain_averages_where_it_shrinks() -> None:
    """A single bright column that a sample every eighth pixel would miss."""
    images = torch.zeros(1, 32, 32, 3, dtype=torch.uint8)
    images[:, :, 8] = 255
    found = plain(images, 4)
    assert found.shape == (1, 3, 4, 4)
    assert found[..., 1].min() > 0.05 and float(found.sum()) == pytest.approx(3 * 4 / 8, rel=0.2)


# -- one part at a time ------------------------------------------------------------------------------


def test_a_flip_mirrors_left_and_right() -> None:
    images = pictures()
    assert torch.allclose(apply(images, 24, flip=1.0), plain(images, 24).flip(3), atol=1e-4)


def test_flips_come_as_often_as_asked() -> None:
    images = pictures(1).expand(200, -1, -1, -1)
    whole = plain(images, 24)
    found = apply(images, 24, flip=0.25)
    mirrored = (found - whole).abs().amax((1, 2, 3)) > 0.01
    assert torch.allclose(found[mirrored], whole.flip(3)[mirrored], atol=1e-4)
    assert 25 <= int(mirrored.sum()) <= 75


def test_a_crop_stays_inside_and_keeps_its_area() -> None:
    least, aspect, side = 0.3, 4 / 3, 32
    found = apply(ramps(100), side, least_area=least, aspect=aspect)
    red, green = found[:, 0], found[:, 1]
    # Neither turned nor mirrored nor folded over an edge: red tells x alone and only grows with it.
    assert red.std(1).max() < 0.01 and green.std(2).max() < 0.01
    assert (red[:, :, 1:] - red[:, :, :-1]).min() > 0 and (green[:, 1:] - green[:, :-1]).min() > 0
    scale = side / (side - 1)
    width = (red[:, 0, -1] - red[:, 0, 0]) * scale
    height = (green[:, -1, 0] - green[:, 0, 0]) * scale
    area, ratio = width * height, width / height
    assert area.min() > least / aspect - 0.03 and area.max() < 1.03
    assert ratio.min() > 1 / aspect - 0.05 and ratio.max() < aspect + 0.05
    assert area.min() < least + 0.1 and ratio.max() > 1.2, "the range is used"
    # Crops lie everywhere, not only in the middle.
    middle = (red[:, 0, -1] + red[:, 0, 0]) / 2
    assert middle.min() < 0.4 and middle.max() > 0.6


def test_a_turn_keeps_the_middle_and_the_angle() -> None:
    found = apply(ramps(50), 33, turn=20.0)
    assert torch.allclose(found[:, :2, 16, 16], torch.tensor(0.5), atol=0.02)
    # One step to the right moves by the cosine along x and by the sine along y.
    across, down = (found[:, 0, 16, 20] - found[:, 0, 16, 12]), (found[:, 1, 16, 20] - found[:, 1, 16, 12])
    angle = torch.rad2deg(torch.atan2(down, across))
    assert angle.abs().max() <= 21 and angle.min() < -10 and angle.max() > 10
    assert torch.allclose((across**2 + down**2).sqrt(), torch.tensor(8 / 33), atol=0.02)


def test_colour_moves_values_and_not_places() -> None:
    images = pictures(40)
    found = apply(images, 24, colour=0.3)
    whole = plain(images, 24)
    # Brightness is the last of three factors and the others keep the mean, where nothing was cut off.
    kept = ((found > 0) & (found < 1)).all(1).all(1).all(1)
    assert kept.sum() >= 5
    factor = found[kept].mean((1, 2, 3)) / whole[kept].mean((1, 2, 3))
    assert 0.69 < factor.min() < 0.95 and 1.05 < factor.max() < 1.31
    grey = F.interpolate(torch.full((1, 3, 2, 2), 100.0), (24, 24)).permute(0, 2, 3, 1).to(torch.uint8)
    tinted = apply(grey, 24, colour=0.3)
    assert tinted.std() < 1e-6, "an even grey stays an even grey"


def test_an_erased_rectangle_is_grey_and_the_rest_untouched() -> None:
    images = pictures(40, side=32)
    found, whole = apply(images, 32, erase=1.0), plain(images, 32)
    changed = ((found - whole).abs() > 1e-4).any(1)
    assert bool((found.permute(0, 2, 3, 1)[changed] == 0.5).all())
    for mask in changed:
        ys, xs = torch.nonzero(mask, as_tuple=True)
        height, width = int(ys.max() - ys.min()) + 1, int(xs.max() - xs.min()) + 1
        assert 2 <= height <= 14 and 2 <= width <= 14
        assert mask.sum() >= 0.9 * height * width, "one rectangle"
    assert torch.allclose(apply(images, 32, erase=0.0), whole, atol=1e-4)

"""Tables of positions on other grids: the numbers that scipy gave the original release, and what must hold of any."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from taglens.errors import ModelError
from taglens.models.resampling import (
    Floats,
    resized_bias,
    resized_positions,
    spaced_offsets,
    spline_weights,
)

# What `python -W ignore bias.py` printed with scipy 1.9.3 and numpy 1.25 (later releases of scipy have no interp2d),
# bias.py being these lines:
#   import numpy as np; from scipy.interpolate import interp2d
#   for old, new in ((5, 7), (23, 13), (13, 23)):
#       i = np.arange(old); z = (7.0 * i[:, None] + 3.0 * i + i[:, None] * i) % 11
#       low, high = 1.01, 1.5
#       while high - low > 1e-6:
#           q = (low + high) / 2
#           low, high = (low, q) if (1 - q ** (old // 2)) / (1 - q) > new // 2 else (q, high)
#       right = np.cumsum(q ** np.arange(old // 2)); x = [*-right[::-1], 0, *right]
#       at = np.arange(-(new // 2), new // 2 + 1.0)
#       wide = interp2d(x, x, z, kind="cubic")(at, at)
#       print(wide.round(6).tolist() if old == 5 else [wide.diagonal().round(6), wide[new // 2 - 1].round(6)])
# fmt: off
STORED_5_7 = [
    [0.0, 0.853333, 3.0, 6.0, 9.0, 6.453327, 1.0],
    [7.676181, -2.55642, -3.594277, 5.375238, 8.771429, 4.990772, 1.0],
    [7.0, 1.942863, 0.0, 4.0, 8.0, 6.057137, 1.0],
    [3.0, 10.219039, 8.0, 2.0, 7.0, 8.44761, 1.0],
    [10.0, 11.308569, 5.0, 0.0, 6.0, 8.05142, 1.0],
    [12.990467, 4.705063, 0.234289, 3.318101, 5.228571, 3.504508, 1.0],
    [6.0, -0.822848, 2.0, 9.0, 5.0, -0.53714, 1.0],
]
# (old, new) -> its diagonal and the row above its middle
STORED = {
    (23, 13): (
        [9.762642, 8.12608, 8.575804, 0.914768, 6.007881, 2.0, 0.0, -0.0, 2.044587, 6.01171, 0.851763, 8.271016,
         8.263537],
        [3.512358, 5.096894, 7.24557, 8.840268, -0.046864, 2.0, 4.0, 6.0, 7.963058, 10.13287, 1.336567, 2.585112,
         4.853272],
    ),
    (13, 23): (
        [0.000273, 1.261674, -1.89705, 0.205877, 2.84164, 2.30625, 2.985118, 6.240784, 1.89817, 2.179153, 9.0, 8.0,
         9.0, 2.179153, 1.89817, 6.240784, 2.985118, 2.30625, 2.84164, 0.205877, -1.89705, 1.261674, 0.000273],
        [2.000139, 7.531486, 9.861294, 9.960906, 8.801665, 7.354916, 6.403393, 4.713609, 0.940418, 2.383327, 9.0,
         6.0, 3.0, -0.078766, 3.554656, 8.575515, 7.381462, 4.068796, 2.195719, 1.964243, 3.262416, 5.97829,
         9.999914],
    ),
}
# fmt: on
SIDES = [(12, 7), (7, 12), (3, 4), (4, 3), (7, 24)]


def numbered(old: int) -> Tensor:
    """A jagged table [old^2, 1] that follows from its places."""
    i = torch.arange(old, dtype=torch.float32)
    return ((7 * i[:, None] + 3 * i + i[:, None] * i) % 11).reshape(-1, 1)


def offsets(window: int) -> Floats:
    return np.arange(1 - window, window, dtype=np.float64)


# -- biases of windows -------------------------------------------------------------------------------


def test_a_small_table_has_the_published_numbers() -> None:
    found = resized_bias(numbered(5), 4).view(7, 7)
    assert torch.allclose(found, torch.tensor(STORED_5_7), rtol=0, atol=2e-6)


@pytest.mark.parametrize(("old", "new"), STORED)
def test_published_windows_have_the_published_numbers(old: int, new: int) -> None:
    found = resized_bias(numbered(old), (new + 1) // 2).view(new, new)
    diagonal, row = (torch.tensor(each) for each in STORED[old, new])
    assert torch.allclose(found.diagonal(), diagonal, rtol=0, atol=2e-6)
    assert torch.allclose(found[new // 2 - 1], row, rtol=0, atol=2e-6)


@pytest.mark.parametrize("window", [1, 2, 7, 12])
def test_a_bias_of_the_same_window_is_untouched(window: int) -> None:
    table = torch.randn((2 * window - 1) ** 2, 3)
    assert resized_bias(table, window) is table


@pytest.mark.parametrize(("old", "new"), SIDES)
def test_mirrored_tables_stay_mirrored(old: int, new: int) -> None:
    table = torch.randn(2 * old - 1, 2 * old - 1, 2, generator=torch.Generator().manual_seed(old))

    def resized(square: Tensor) -> Tensor:
        return resized_bias(square.flatten(0, 1), new).view(2 * new - 1, 2 * new - 1, 2)

    wide = resized(table)
    for turn in (lambda each: each.flip(0), lambda each: each.flip(1), lambda each: each.transpose(0, 1)):
        assert torch.allclose(resized(turn(table)), turn(wide), atol=1e-5)
    assert not torch.allclose(wide.flip(0), wide, atol=1e-2)


@pytest.mark.parametrize(("old", "new"), SIDES)
@pytest.mark.parametrize("power", range(4))
def test_cubics_of_the_spaced_offsets_are_reproduced(old: int, new: int, power: int) -> None:
    places = spaced_offsets(old - 1, new - 1)
    wanted = np.clip(offsets(new), places[0], places[-1])
    scale = places[-1] ** power
    table = np.multiply.outer(places**power, 1 - places + places**3 / 50) / scale
    found = resized_bias(torch.from_numpy(table).reshape(-1, 1), new).numpy().reshape(2 * new - 1, -1)
    expected = np.multiply.outer(wanted**power, 1 - wanted + wanted**3 / 50) / scale
    assert np.abs(found - expected).max() < 1e-9


def test_heads_do_not_mix() -> None:
    table = torch.randn(23**2, 5)
    wide = resized_bias(table, 7)
    assert wide.shape == (13**2, 5) and wide.dtype == torch.float32 and wide.is_contiguous()
    for head in range(5):
        assert torch.allclose(wide[:, head : head + 1], resized_bias(table[:, head : head + 1], 7), atol=1e-6)


def test_a_table_that_learns_is_read_as_numbers() -> None:
    assert not resized_bias(torch.randn(9, 1).requires_grad_(), 3).requires_grad


@pytest.mark.parametrize(("rows", "window"), [(8, 3), (16, 3), (0, 3), (9, 0)])
def test_what_is_no_table_of_windows_is_refused(rows: int, window: int) -> None:
    with pytest.raises(ModelError, match=rf"{rows} offsets.*windows of {window}"):
        resized_bias(torch.zeros(rows, 1), window)


@pytest.mark.parametrize("new", [1, 2, 3, 5])
def test_windows_without_a_cubic_still_have_a_middle(new: int) -> None:
    for old in (1, 2):
        table = torch.randn((2 * old - 1) ** 2, 2)
        wide = resized_bias(table, new)
        assert wide.shape == ((2 * new - 1) ** 2, 2)
        assert torch.allclose(wide[len(wide) // 2], table[len(table) // 2], atol=1e-6)


# -- where trained offsets are placed ----------------------------------------------------------------


@pytest.mark.parametrize(("steps", "reach"), [(6, 11), (11, 23), (6, 7), (3, 4)])
def test_offsets_are_spaced_to_the_new_reach(steps: int, reach: int) -> None:
    places = spaced_offsets(steps, reach)
    assert len(places) == 2 * steps + 1 and np.array_equal(places, -places[::-1])
    ratios = np.diff(places[steps:])[1:] / np.diff(places[steps:])[:-1]
    assert places[steps : steps + 2].tolist() == [0, 1] and np.ptp(ratios) < 1e-9
    assert places[-1] == pytest.approx(reach, abs=1e-4)


@pytest.mark.parametrize(("steps", "reach", "ratio"), [(11, 6, 1.01), (5, 5, 1.01), (2, 23, 1.5)])
def test_ratios_end_where_the_original_stops_looking(steps: int, reach: int, ratio: float) -> None:
    assert spaced_offsets(steps, reach)[steps + 2] - 1 == pytest.approx(ratio, abs=2e-6)


# -- the spline --------------------------------------------------------------------------------------


def slow_spline(samples: Floats, values: Floats, places: Floats) -> list[float]:
    """A cubic for each gap, from equations one by one: through both ends, two derivatives alike where gaps meet,
    and a third one at the second and the last but one sample."""
    gaps, rows, right = len(samples) - 1, [], []

    def equation(parts: dict[int, list[float]], result: float) -> None:
        row = [0.0] * (4 * gaps)
        for gap, numbers in parts.items():
            row[4 * gap : 4 * gap + 4] = numbers
        rows.append(row)
        right.append(result)

    for gap in range(gaps):
        h = samples[gap + 1] - samples[gap]
        equation({gap: [1, 0, 0, 0]}, values[gap])
        equation({gap: [1, h, h**2, h**3]}, values[gap + 1])
        if gap + 1 < gaps:
            equation({gap: [0, 1, 2 * h, 3 * h**2], gap + 1: [0, -1, 0, 0]}, 0)
            equation({gap: [0, 0, 2, 6 * h], gap + 1: [0, 0, -2, 0]}, 0)
    equation({0: [0, 0, 0, 1], 1: [0, 0, 0, -1]}, 0)
    equation({gaps - 2: [0, 0, 0, 1], gaps - 1: [0, 0, 0, -1]}, 0)
    cubics = np.linalg.solve(np.array(rows), np.array(right)).reshape(gaps, 4)
    found = []
    for place in places:
        place = min(max(place, samples[0]), samples[-1])
        gap = max(0, min(gaps - 1, sum(sample <= place for sample in samples) - 1))
        found.append(sum(cubics[gap, power] * (place - samples[gap]) ** power for power in range(4)))
    return found


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(0.2, 3), min_size=4, max_size=9),
    st.lists(st.floats(-6, 30), min_size=1, max_size=6),
    st.integers(0, 2**32 - 1),
)
def test_the_spline_is_what_its_equations_say(steps: list[float], wanted: list[float], seed: int) -> None:
    samples, places = np.cumsum([-4, *steps]), np.array(wanted)
    values = np.random.default_rng(seed).standard_normal(len(samples))
    found = spline_weights(samples, places) @ values
    assert found == pytest.approx(slow_spline(samples, values, places), abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0.2, 3), max_size=8))
def test_the_spline_goes_through_its_samples_and_keeps_a_constant(steps: list[float]) -> None:
    samples = np.cumsum([0.0, *steps])
    assert np.abs(spline_weights(samples, samples) - np.eye(len(samples))).max() < 1e-9
    between = np.linspace(samples[0] - 1, samples[-1] + 1, 17)
    assert np.abs(spline_weights(samples, between).sum(1) - 1).max() < 1e-9


# -- positions of patches ----------------------------------------------------------------------------


def slow_bicubic(table: Floats, size: int) -> Floats:
    """Cubic convolution with a slope of -0.75, edges repeated, corners of pixels (not their middles) aligned."""
    old, slope = len(table), -0.75

    def weight(distance: float) -> float:
        d = abs(distance)
        if d <= 1:
            return (slope + 2) * d**3 - (slope + 3) * d**2 + 1
        return slope * (d**3 - 5 * d**2 + 8 * d - 4) if d < 2 else 0.0

    wide = np.zeros((size, size, table.shape[2]))
    for i in range(size):
        for j in range(size):
            y, x = (i + 0.5) * old / size - 0.5, (j + 0.5) * old / size - 0.5
            for a in range(int(np.floor(y)) - 1, int(np.floor(y)) + 3):
                for b in range(int(np.floor(x)) - 1, int(np.floor(x)) + 3):
                    held = table[min(max(a, 0), old - 1), min(max(b, 0), old - 1)]
                    wide[i, j] += weight(y - a) * weight(x - b) * held
    return wide


@pytest.mark.parametrize(("old", "new"), [(3, 5), (6, 4), (1, 3), (4, 1)])
def test_positions_are_read_bicubically(old: int, new: int) -> None:
    table = torch.randn(old, old, 4, generator=torch.Generator().manual_seed(new))
    found = resized_positions(table, new)
    assert found.shape == (new, new, 4)
    assert np.abs(found.numpy() - slow_bicubic(table.double().numpy(), new)).max() < 1e-5


def test_positions_of_the_same_grid_are_untouched() -> None:
    table = torch.randn(3, 3, 4)
    assert resized_positions(table, 3) is table

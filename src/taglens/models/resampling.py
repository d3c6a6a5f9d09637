"""Tables of positions read on another grid, with the numbers that the original release has there.

Knows the two kinds of published encoders: the relative position biases of Swin's windows, and the positions of a
plain vision transformer's patches. Refuses to know keys and configurations. Both leave a table alone where its size
stays.
Shapes: A heads, C width, w window side, n = 2w - 1 offsets along an axis, m places asked for, g side of a grid.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from taglens.errors import ModelError

Floats = npt.NDArray[np.float64]

# Between what ratios, and how closely, the original release looks for its geometric series.
_RATIOS, _RATIO_STEP = (1.01, 1.5), 1e-6
_DEGREE = 3


def resized_bias(table: Tensor, window: int) -> Tensor:
    """A relative position bias for windows of another side.

    Parity: the trained offsets are placed at the sums of a geometric series whose last one is the new window's
    farthest offset, so that near offsets keep their biases and far ones are stretched; a cubic spline through them
    is read at every whole offset, and beyond the last one its end counts. That is `interp2d(kind="cubic")`, which
    later releases of scipy no longer have. A smaller window reads the middle of the table: no series is denser than
    ratio 1.01. Windows of 1 or 2 have too few offsets for a cubic, which is an error there; here the polynomial
    through them is read.

    Args:
        table: [(2w - 1)^2, A].
        window: the new w.

    Returns:
        [(2 * window - 1)^2, A], in the table's kind of number; the table itself where the side stays.

    Raises:
        ModelError: a table that is not of square windows, or a window below 1.
    """
    old, new = math.isqrt(table.shape[0]), 2 * window - 1
    if old**2 != table.shape[0] or old % 2 == 0 or window < 1:
        raise ModelError(
            f"a bias table of {table.shape[0]} offsets cannot be read for windows of {window} tokens; expected "
            "(2w - 1)^2 offsets and a side of at least 1"
        )
    if old == new:
        return table
    offsets = np.arange(1 - window, window, dtype=np.float64)
    weights = spline_weights(spaced_offsets(old // 2, new // 2), offsets)
    square = table.detach().double().cpu().numpy().reshape(old, old, -1)
    wide = np.einsum("ia,jb,abh->ijh", weights, weights, square, optimize=True)
    rows = np.ascontiguousarray(wide.reshape(new**2, -1))
    return torch.from_numpy(rows).to(table.device, table.dtype)


def resized_positions(table: Tensor, grid: int) -> Tensor:
    """Positions [g, g, C] of patches on another grid [grid, grid, C], bicubically; itself where the grid stays."""
    if grid == table.shape[0]:
        return table
    spread = F.interpolate(
        table.permute(2, 0, 1)[None], size=(grid, grid), mode="bicubic", align_corners=False
    )
    return spread[0].permute(1, 2, 0)


def spaced_offsets(steps: int, reach: int) -> Floats:
    """[2 * steps + 1] offsets around 0 at 1, 1 + q, 1 + q + q^2 …, q such that the last comes to about ``reach``."""
    low, high = _RATIOS
    ratio = low
    while high - low > _RATIO_STEP:
        ratio = (low + high) / 2
        if sum(ratio**power for power in range(steps)) > reach:
            high = ratio
        else:
            low = ratio
    right = np.cumsum(ratio ** np.arange(steps, dtype=np.float64))
    return np.concatenate([-right[::-1], [0.0], right])


def spline_weights(samples: Floats, places: Floats) -> Floats:
    """[m, n]: what each sample counts in the value, at each place, of the spline through all samples.

    The spline is cubic and has no knot at the second and the last but one sample; with fewer than four samples it is
    the polynomial through them. Places beyond the samples take the value at the nearest end.

    Args:
        samples: [n] where values are given, rising.
        places: [m] where values are wanted.
    """
    degree = min(_DEGREE, len(samples) - 1)
    knots = np.pad(samples[2:-2], degree + 1, constant_values=(samples[0], samples[-1]))
    inside = np.clip(places, samples[0], samples[-1])
    at_samples, at_places = _basis(knots, degree, samples), _basis(knots, degree, inside)
    return np.linalg.solve(at_samples.T, at_places.T).T.astype(np.float64)


def _basis(knots: Floats, degree: int, places: Floats) -> Floats:
    """[m, n]: each basis spline over the knots at each place, by the recursion of Cox and de Boor."""
    last = len(knots) - degree - 2
    interval = np.clip(np.searchsorted(knots, places, side="right") - 1, degree, last)
    basis = np.equal.outer(interval, np.arange(len(knots) - 1)).astype(np.float64)
    for order in range(1, degree + 1):
        length = knots[order:] - knots[:-order]
        # Repeated knots span nothing, and what would be divided by that is 0 itself.
        scale = np.divide(1.0, length, out=np.zeros_like(length), where=length > 0)
        rising = np.subtract.outer(places, knots[: -order - 1]) * scale[:-1]
        falling = np.subtract.outer(places, knots[order + 1 :]) * -scale[1:]
        basis = rising * basis[:, :-1] + falling * basis[:, 1:]
    return basis

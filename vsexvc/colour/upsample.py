"""Enlarge colours from the network's size to the picture's along the edges of its luma; sample them for chroma.

Axes: B batch, H and W rows and columns, h and w the same at the network's size.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# Pixels that are computed at once: a core's cache holds them; on other devices they bound a large picture's memory.
_BAND, _DEVICE_BAND = 1 << 15, 1 << 20


_GUIDE_EPSILON = 4.0  # epsilon of the guided filter, in L squared: smaller steps of L count as noise
_GUIDE_NOISE = 1.0  # the same for a and b, squared


class Grid(NamedTuple):
    """Describe where a clip's samples of chroma lie among those of luma.

    Attributes:
        factor_w: luma columns for one of chroma: 1, 2 or 4.
        factor_h: luma rows for one of chroma, likewise.
        location: `_ChromaLocation`: 0 left, 1 centre, 2 top left, 3 top, 4 bottom left, 5 bottom.
    """

    factor_w: int = 1
    factor_h: int = 1
    location: int = 0

    def centre(self) -> tuple[float, float]:
        """Return column and row of chroma's first sample, in samples of luma. Raise ValueError for the location."""
        if self.location not in range(6):
            raise ValueError(f"_ChromaLocation must be 0..5, got {self.location}")
        column = 0.0 if self.location in (0, 2, 4) else (self.factor_w - 1) / 2.0
        return column, (self.factor_h - 1) * (0.5, 0.5, 0.0, 0.0, 1.0, 1.0)[self.location]


def subsample(plane: Tensor, grid: Grid) -> Tensor:
    """Sample a plane of luma's size at chroma's samples, by a triangle as wide as the distance of two of them.

    Args:
        plane: (B, C, H, W) float32; W is a multiple of the grid's factor_w, H of its factor_h.
        grid: the samples.

    Returns:
        (B, C, H / factor_h, W / factor_w) float32.

    Raises:
        ValueError: no such location.
    """
    column, row = grid.centre()
    return _decimate(_decimate(plane, 2, grid.factor_h, row), 3, grid.factor_w, column)


def _decimate(x: Tensor, axis: int, factor: int, centre: float) -> Tensor:
    """Average with weights along an axis around positions centre, centre + factor, ...; the border is repeated."""
    if factor == 1:
        return x
    length = x.shape[axis]
    weights = {tap: (1.0 - abs(tap - centre) / factor) / factor for tap in range(-factor, 2 * factor)}
    taps = [tap for tap, weight in weights.items() if weight > 0.0]
    before, after = max(0, -taps[0]), max(0, taps[-1] - factor + 1)
    first, last = x.narrow(axis, 0, 1), x.narrow(axis, length - 1, 1)
    x = torch.cat((*[first] * before, x, *[last] * after), dim=axis)
    total: Tensor | None = None
    for tap in taps:
        every = [slice(None)] * x.ndim
        every[axis] = slice(tap + before, tap + before + length - factor + 1, factor)
        part = x[tuple(every)]
        total = part * weights[tap] if total is None else total.add_(part, alpha=weights[tap])
    assert total is not None
    return total


def upsample_ab(ab: Tensor, L_small: Tensor, L_full: Tensor, grid: Grid = Grid()) -> Tensor:  # noqa: B008
    """Enlarge ab from the network's size to the picture's, with the edges of the picture's L.

    A guided filter (He, Sun) that keeps its input: around each pixel at the network's size the slope of ab over L is
    fitted by least squares, and the difference of L at full size from its bilinear enlargement is added, times that
    slope. At the network's size the result is ab itself; where L is flat it is the bilinear enlargement. The time is
    linear in the size.

    Args:
        ab: (1, 2, h, w) float32, -128..127.
        L_small: (1, 1, h, w) float32, 0..100, the L that belongs to ab.
        L_full: (1, 1, H, W) float32, 0..100, at the samples of the grid.
        grid: position of the samples of L_full and of the result in the picture.

    Returns:
        (1, 2, H, W) float32.

    Raises:
        ValueError: no such location.
    """
    (mean_L, mean_ab), (L_L, L_ab, ab_ab) = map(_box, (L_small, ab)), map(_box, (L_small**2, L_small * ab, ab**2))
    variance = (L_L - mean_L**2).clamp_min_(0.0).add_(_GUIDE_EPSILON)
    covariance = L_ab - mean_L * mean_ab
    slope = covariance / variance
    # Only as far as L explains ab there, which it does not across a texture of one colour.
    slope *= (slope * covariance / (ab_ab - mean_ab**2).clamp_min_(0.0).add_(_GUIDE_NOISE)).clamp_max_(1.0)
    slope = _box(slope)
    coefficients = torch.cat((slope, ab - slope * L_small), dim=1)[0]  # (4, h, w)
    H, W = L_full.shape[2:]
    column, row = grid.centre()
    # Columns first, while there are few rows; transposed, so that whole rows are taken.
    left, right, part = _neighbours(W, grid.factor_w, column, coefficients.shape[2], ab)
    turned = coefficients.transpose(1, 2).contiguous()
    wide = _between(turned, left, right, part).transpose(1, 2).contiguous()
    above, below, part = _neighbours(H, grid.factor_h, row, coefficients.shape[1], ab)
    result = torch.empty((1, 2, H, W), dtype=ab.dtype, device=ab.device)
    for rows in bands(H, W, ab.device):
        band = _between(wide, above[rows], below[rows], part[rows])
        torch.add(band[2:], band[:2].mul_(L_full[0, :, rows]), out=result[0, :, rows])
    return result


def _box(x: Tensor) -> Tensor:
    """Average over 3 x 3 pixels, at the border over the existing ones. x: (1, C, h, w)."""
    for axis in (2, 3):
        last = x.shape[axis] - 1
        total = x.clone()
        total.narrow(axis, 0, last).add_(x.narrow(axis, 1, last))
        total.narrow(axis, 1, last).add_(x.narrow(axis, 0, last))
        total.narrow(axis, 1, max(0, last - 1)).div_(3.0)
        if last:
            total.narrow(axis, 0, 1).div_(2.0)
            total.narrow(axis, last, 1).div_(2.0)
        x = total
    return x


def _neighbours(count: int, factor: int, centre: float, small: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return for bilinear enlargement along an axis the two neighbours (count) and the second's share (count, 1)."""
    samples = torch.arange(count, device=like.device, dtype=like.dtype) * factor + centre
    position = ((samples + 0.5) * (small / (count * factor)) - 0.5).clamp_(0.0, small - 1.0)
    first = position.to(torch.int32)
    return first, (first + 1).clamp_max_(small - 1), (position - first).view(-1, 1)


def _between(x: Tensor, first: Tensor, second: Tensor, part: Tensor) -> Tensor:
    """Blend rows of (C, rows, columns); torch.lerp takes three times as long if the weight is a column."""
    start = x.index_select(1, first)
    return x.index_select(1, second).sub_(start).mul_(part).add_(start)


def bands(height: int, width: int, device: torch.device) -> list[slice]:
    rows = max(1, (_BAND if device.type == "cpu" else _DEVICE_BAND) // width)
    return [slice(top, min(top + rows, height)) for top in range(0, height, rows)]

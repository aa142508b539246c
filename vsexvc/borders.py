"""Find black borders: the rows and columns of the picture within them, from a few frames of one scene.

The picture within them is enlarged to the network's size, as if the film had no borders (`Zoom`).

Axes: B frames, H and W the network's size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

Area = tuple[slice, slice]  # rows and columns

_BLACK = 3.0  # highest L of a black pixel: 8-bit Y of about 24
_DARK = 0.01  # share of lit pixels below which frames are dark
_NOISE = 1 / 64  # largest share of lit pixels in a line of a border
_SHARP = 1 / 4  # least share of lit pixels in a line where the picture begins sharply
_BLENDED = 2  # lines between border and picture that resizing has mixed
_LOGO = 1 / 4  # largest width of a logo, as a share of a line
_STEADY = 6.0  # largest change of a logo in L
_ONE_SIDE = 1 / 8  # largest share of the frame of a border whose opposite is narrower
_SHORTEST = 16  # least lines of the picture
_ENOUGH = 0.95  # share of the network's size from which a picture is not enlarged: borders of a few lines are common


@dataclass(frozen=True)
class Zoom:
    """Say how a frame is resized so that the picture within its borders has the network's size.

    Attributes:
        before: rows and columns of the whole frame as the network would get it.
        size: the enlarged ones.
        area: those of the picture in the enlarged frame.
        ends: first and last row, first and last column of the picture, as shares of the frame's, 0..1.
    """

    before: tuple[int, int]
    size: tuple[int, int]
    area: Area
    ends: tuple[float, ...]

    def __call__(self, frames: Tensor) -> Tensor:
        """Resize whole frames of any size, (B, C, H', W')."""
        return F.interpolate(frames, self.size, mode="bicubic", antialias=True)


def is_small(area: Area, shorter: int) -> bool:
    """Return whether a picture within borders must be enlarged, so that its shorter side has `shorter` lines."""
    rows, columns = area
    return bool(min(rows.stop - rows.start, columns.stop - columns.start) < _ENOUGH * shorter)


def zoomed(L: Tensor, before: tuple[int, int], shorter: int) -> Zoom:
    """Return the zoom for frames, so that the shorter side of their area has `shorter` lines.

    Args:
        L: (B, 1, H', W'), 0..100, frames of a scene; the larger, the more exact.
        before: rows and columns of the frames as the network would get them.
        shorter: lines.
    """
    area = picture_area(L)
    scale = shorter / min(lines.stop - lines.start for lines in area)
    rows, columns = (slice(round(lines.start * scale), round(lines.stop * scale)) for lines in area)
    height, width = L.shape[2:]
    ends = [
        end / count for lines, count in zip(area, (height, width), strict=True) for end in (lines.start, lines.stop)
    ]
    return Zoom(before, (round(height * scale), round(width * scale)), (rows, columns), tuple(ends))


def whole(L: Tensor) -> Area:
    """Return the area of a whole picture. L: (..., H, W)."""
    return slice(0, L.shape[-2]), slice(0, L.shape[-1])


def is_dark(L: Tensor) -> bool:
    """Return whether hardly any pixel is lit in all of these frames. L: (B, 1, H, W), 0..100."""
    return float((L > _BLACK).any(0).float().mean()) < _DARK


def picture_area(L: Tensor) -> Area:
    """Find the area within the black borders that all frames of a scene share. L: (B, 1, H, W), 0..100.

    A line belongs to a border if it is black in every frame, except for noise, or for a logo in one of two equal
    borders. A border ends where the picture begins sharply along the line, or at the depth of the opposite border.
    Other black lines are a dark part of the picture, and so is most of a border without an opposite one. The area is
    the whole frame if less than a quarter would remain, or if the frames are dark.
    """
    if is_dark(L):
        return whole(L)
    lit = (L > _BLACK).any(0)[0]
    steady = ((L > _BLACK).all(0) & (L.amax(0) - L.amin(0) < _STEADY))[0]
    rows = _within(lit, steady)
    columns = _within(lit[rows].T, steady[rows].T)
    sides = [lines.stop - lines.start for lines in (rows, columns)]
    if min(sides) < _SHORTEST or 4 * sides[0] * sides[1] < lit.numel():
        return whole(L)
    return rows, columns


def _within(lit: Tensor, steady: Tensor) -> slice:
    """Return the lines between two borders.

    Args:
        lit: (lines, pixels), in any frame.
        steady: (lines, pixels), the same in all frames.
    """
    count = len(lit)
    ends = [_Border(lit, steady), _Border(lit.flip(0), steady.flip(0))]
    depths = [end.depth(opposite) for end, opposite in (ends, ends[::-1])]
    before, after = (
        min(depth, max(opposite * 5 // 4 + 2, int(count * _ONE_SIDE)))
        for depth, opposite in (depths, depths[::-1])
    )  # fmt: skip
    return slice(before, max(before, count - after))


class _Border:
    """Examine the first lines of frames for a border.

    Attributes:
        black: lines without light.
        is_sharp: whether the picture begins sharply at the border.
        edge: lines before the first one that is lit along much of its length.
        has_logo: whether all light before the edge belongs to a logo.
    """

    def __init__(self, lit: Tensor, steady: Tensor) -> None:
        """Take the arguments of `_within`, counted from the border."""
        where = lit.any(0).nonzero().flatten()
        length = max(1, int(where[-1] - where[0]) + 1) if len(where) else 1
        share = lit.sum(1) / length
        self.black = _first(share > _NOISE)
        self.edge = _first(share >= _SHARP)
        self.is_sharp = self.edge <= self.black + _BLENDED
        before = slice(0, max(0, self.edge - _BLENDED))
        light, moving = lit[before], (lit & ~steady)[before]
        columns = (light & steady[before]).any(0).nonzero().flatten()
        is_compact = len(columns) > 0 and int(columns[-1] - columns[0]) < _LOGO * lit.shape[1]
        self.has_logo = is_compact and bool((moving.sum(1) <= _NOISE * length).all())

    def depth(self, opposite: _Border) -> int:
        """Return the number of the border's lines."""
        if self.is_sharp:
            return self.black
        reach = opposite.black if opposite.is_sharp else opposite.edge
        is_alike = abs(self.edge - reach) <= max(_BLENDED, reach // 8)
        if self.has_logo and is_alike and (opposite.is_sharp or opposite.has_logo):
            return self.edge
        if opposite.is_sharp or abs(self.black - opposite.black) <= _BLENDED:
            return min(self.black, opposite.black)
        return 0


def _first(found: Tensor) -> int:
    """Return the index of the first True; the length if there is none."""
    places = found.nonzero()
    return int(places[0]) if len(places) else len(found)

"""Find black borders: the rows and columns of the picture within them, from a few frames of one scene.

Axes: B frames, H and W the network's size.
"""

from __future__ import annotations

from torch import Tensor

Area = tuple[slice, slice]  # rows and columns

_BLACK = 3.0  # L up to which a pixel counts as black: 8-bit Y of about 24
_DARK = 0.01  # share of lit pixels below which there is no picture to be seen
_NOISE = 1 / 64  # share of a line's pixels that may be lit in a border
_SHARP = 1 / 4  # share of a line's pixels that are lit where a picture begins at once
_BLENDED = 2  # lines between border and picture that resizing made of both
_LOGO = 1 / 4  # share of a line that a logo may be wide
_STEADY = 6.0  # L by which a logo may change
_ONE_SIDE = 1 / 8  # share of the frame that a border may take whose opposite has less
_SHORTEST = 16  # lines that must be left


def whole(L: Tensor) -> Area:
    """Return the area of a whole picture. L: (..., H, W)."""
    return slice(0, L.shape[-2]), slice(0, L.shape[-1])


def is_dark(L: Tensor) -> bool:
    """Return whether hardly any pixel is lit in all of these frames. L: (B, 1, H, W), 0..100."""
    return float((L > _BLACK).any(0).float().mean()) < _DARK


def picture_area(L: Tensor) -> Area:
    """Find the area within black borders that all frames of a scene have. L: (B, 1, H, W), 0..100.

    A line belongs to a border if it is black in every frame. Noise, and a logo that stands in one of two equal borders,
    are overlooked. A border ends where the picture begins at once along the line, or as deep as the opposite one: else
    it is a dark part of the picture, and so is most of a border that the opposite side does not have. All of the frame
    where less than a quarter would remain, or where the frames are dark.
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
        steady: (lines, pixels), in all frames alike.
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
        is_sharp: the picture begins there at once.
        edge: lines before the first one that is lit along much of its length.
        has_logo: all light before the edge is that of a logo.
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

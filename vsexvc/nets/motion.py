"""Align the previous frame: search its correspondence features, then correct the flow by the pictures, half size first.

The paper does not align it. The module has no parameters and keeps no state.

Axes: B batch, H and W pixels of the network's size, h and w its cells, C embedding channels. A flow is (dx, dy) from a
frame to the previous one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsexvc.nets.config import CELL, NetworkConfig

_TILE = 6, 12  # rows and columns of cells that share a window in the motion search
_TILES = 1 << 22  # elements of the products of tiles held at once
_FARTHER = 0.005  # cosine that a match loses for each cell of its distance: most false ones are far
_LOCAL, _WINDOW, _DAMPING = 8, 4, 1.0  # of `refine`: radii of the local mean and of the window, in pixels (powers of
# two); damping, in L squared
_FIT = 5  # side in pixels of the square of `misfit`


class Motion(nn.Module):
    """Search the flow, correct it by the pictures if `config.refine`, and warp the previous frame by it."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.radius, self.refine, self.temperature = config.motion, config.refine, config.temperature

    def forward(self, theta: Tensor, prev_phi: Tensor, prev_lab: Tensor, L_centred: Tensor) -> Tensor:
        """Align as ColorizationNet.align does."""
        flow = search(theta, prev_phi, self.radius, self.temperature)
        if not self.refine:
            return warp(prev_lab, _enlarged(flow, CELL))
        with torch.no_grad():
            now, before = texture(L_centred), texture(prev_lab[:, :1])
            half = refine(_enlarged(flow, CELL // 2), F.avg_pool2d(now, 2), F.avg_pool2d(before, 2), smoothed=(2, 8))
            better = refine(_enlarged(half, 2), now, before, steps=1)
        flow = _enlarged(flow, CELL)  # pixels, (B, 2, H, W)
        return warp(prev_lab, flow + (better - flow).detach())


def _enlarged(flow: Tensor, factor: int) -> Tensor:
    """Return the flow of a picture that is so many times as large."""
    return F.interpolate(flow, scale_factor=factor, mode="bilinear") * factor


def search(theta: Tensor, phi: Tensor, radius: int, temperature: float) -> Tensor:
    """Find where each cell was in the previous frame: (B, 2, h, w), (dx, dy) in cells.

    The result is the best match in a window, where a far match must be better than a near one. Its fraction of a cell
    is the mean place of the match and its eight neighbours, weighted by the softmax of eq. 4.

    Args:
        theta: (B, C, h, w) of this frame.
        phi: (B, C, h, w) of the previous frame.
        radius: of the window, in cells.
        temperature: tau of the softmax.
    """
    b, c, h, w = theta.shape
    reach = radius + 1  # a match at the window's edge has neighbours beyond it
    side = 2 * reach + 1
    rows, columns = _TILE
    high, wide = rows + 2 * reach, columns + 2 * reach
    down, across = -(-h // rows), -(-w // columns)
    below, beside = down * rows - h, across * columns - w
    queries = F.pad(theta, (0, beside, 0, below)).unfold(2, rows, rows).unfold(3, columns, columns)
    keys = F.pad(phi, (reach, reach + beside, reach, reach + below)).unfold(2, high, rows).unfold(3, wide, columns)
    places = torch.arange(side, device=theta.device) - reach
    handicaps = _FARTHER * torch.hypot(*torch.meshgrid(places.float(), places.float(), indexing="ij"))
    three = torch.arange(3, device=theta.device)
    x_inside = _between(torch.arange(w, device=theta.device)[:, None] + places, w)  # (w, side)
    flows = []
    tiles_at_once = max(1, _TILES // (b * across * rows * columns * high * wide))
    for some, its_keys, top in zip(
        torch.split(queries, tiles_at_once, 2),
        torch.split(keys, tiles_at_once, 2),
        range(0, down, tiles_at_once),
        strict=True,
    ):
        tiles = some.shape[2]
        with torch.autocast(theta.device.type, enabled=False):
            M = some.permute(0, 2, 3, 4, 5, 1).reshape(-1, rows * columns, c) @ its_keys.permute(
                0, 2, 3, 1, 4, 5
            ).reshape(-1, c, high * wide)
        # Each query has a row of M. Its window's offset in the tile's window is the query's offset in the tile.
        row, tile = high * wide, rows * columns * high * wide
        windows = M.as_strided(
            (b, tiles, rows, across, columns, side, side),
            (tiles * across * tile, across * tile, columns * row + wide, tile, row + 1, wide, 1),
        ).reshape(b, tiles * rows, across * columns, side, side)[:, : h - top * rows, :w]
        y = torch.arange(top * rows, min(h, (top + tiles) * rows), device=theta.device)
        inside = _between(y[:, None] + places, h)[:, None, :, None] & x_inside[:, None, :]
        windows = windows.masked_fill(~inside, float("-inf"))
        best = (windows - handicaps)[..., 1:-1, 1:-1].flatten(3).argmax(3, keepdim=True)
        y_best, x_best = best // (side - 2), best % (side - 2)
        near = y_best * side + x_best + (three[:, None] * side + three).flatten()
        share = torch.softmax(windows.flatten(3).gather(3, near) / temperature, dim=3).view(b, -1, w, 3, 3)
        dx = (share.sum(3) * three).sum(3) + x_best[..., 0] - reach
        dy = (share.sum(4) * three).sum(3) + y_best[..., 0] - reach
        flows.append(torch.stack((dx, dy), dim=1))
    return torch.cat(flows, dim=2)


def _between(index: Tensor, count: int) -> Tensor:
    return (index >= 0) & (index < count)


def warp(picture: Tensor, flow: Tensor, part: Tensor | None = None) -> Tensor:
    """Sample a picture at x + flow, bilinear, the border repeated.

    Args:
        picture: (B, C, H', W').
        flow: (B, 2, H, W), (dx, dy) in pixels.
        part: (B, 3, H, W): the top, height and width of the part of the picture that is each pixel's own. The flow
            counts from its top, and its border is repeated. None: the whole picture.
    """
    high, wide = flow.shape[2:]
    y = torch.arange(high, device=flow.device, dtype=flow.dtype)[:, None] + flow[:, 1]
    x = torch.arange(wide, device=flow.device, dtype=flow.dtype)[None, :] + flow[:, 0]
    h, w = picture.shape[2:]
    if part is not None:
        top, height, width = part.unbind(1)
        y = torch.minimum(y.clamp_min(0.0), height - 1.0) + top
        x = torch.minimum(x.clamp_min(0.0), width - 1.0)
    grid = torch.stack((2.0 * x / max(w - 1, 1) - 1.0, 2.0 * y / max(h - 1, 1) - 1.0), dim=3)
    return F.grid_sample(picture, grid, mode="bilinear", padding_mode="border", align_corners=True)


def texture(L: Tensor) -> Tensor:
    """Return L without its local mean, which flicker and fades change. L: (B, 1, H, W)."""
    return L - _box(L, _LOCAL)


def misfit(moved_L: Tensor, L: Tensor) -> Tensor:
    """Return how far L of a moved picture is from the frame's, averaged over 5 x 5 pixels. All: (B, 1, H, W)."""
    return F.avg_pool2d((moved_L - L).abs(), _FIT, 1, _FIT // 2, count_include_pad=False)


def refine(
    flow: Tensor,
    now: Tensor,
    before: Tensor,
    part: Tensor | None = None,
    smoothed: Sequence[int] = (4,),
    steps: int = 2,
) -> Tensor:
    """Correct a flow by the pictures, with the steps of Lucas and Kanade.

    Each pixel starts from the best of the flow, the smoothed flows and no motion. Each step by least squares is kept
    where it reduces the error. The error is averaged over a window.

    Args:
        flow: (B, 2, H, W), (dx, dy) in pixels from this frame to the previous.
        now: (B, 1, H, W), `texture` of this frame.
        before: (B, 1, H', W'), `texture` of the previous frame, or of another picture.
        part: of the other picture, see `warp`.
        smoothed: radii in pixels of the smoothed flows, powers of two.
        steps: number of steps by least squares.

    Returns:
        (B, 2, H, W).
    """

    def moved(flow: Tensor) -> tuple[Tensor, Tensor]:
        picture = warp(before, flow, part)
        return picture, _box((now - picture).abs(), _WINDOW)

    picture, error = moved(flow)

    def keep_where_better(candidate: Tensor) -> None:
        nonlocal flow, picture, error
        its_picture, its_error = moved(candidate)
        is_better = its_error < error
        flow, picture = torch.where(is_better, candidate, flow), torch.where(is_better, its_picture, picture)
        error = torch.where(is_better, its_error, error)

    for radius in smoothed:
        keep_where_better(_box(flow, radius))
    keep_where_better(torch.zeros_like(flow))
    for _ in range(steps):
        wide = F.pad(picture, (1, 1, 1, 1), mode="replicate")
        dx, dy = (
            (wide[:, :, 1:-1, 2:] - wide[:, :, 1:-1, :-2]) / 2.0,
            (wide[:, :, 2:, 1:-1] - wide[:, :, :-2, 1:-1]) / 2.0,
        )
        difference = now - picture
        products = torch.cat((dx * dx, dy * dy, dx * dy, dx * difference, dy * difference), dim=1)
        xx, yy, xy, x, y = _box(products, _WINDOW).chunk(5, dim=1)
        xx, yy = xx + _DAMPING, yy + _DAMPING
        step = torch.cat((yy * x - xy * y, xx * y - xy * x), dim=1) / (xx * yy - xy * xy)
        keep_where_better(flow + step.clamp(-1.0, 1.0))
    return flow


def _box(x: Tensor, radius: int) -> Tensor:
    """Average over a square; at the border over its part inside. radius: a power of two."""
    total = F.pad(x, (radius, radius, radius, radius))
    count = x.new_ones(())
    for dim in (2, 3):
        size = x.shape[dim]
        some, length = total, 1
        while length < 2 * radius:  # sums of 2, 4, 8, ...
            some = some.narrow(dim, 0, some.shape[dim] - length) + some.narrow(dim, length, some.shape[dim] - length)
            length *= 2
        total = some.narrow(dim, 0, size) + total.narrow(dim, length, size)
        index = torch.arange(size, device=x.device)
        lines = (index + radius).clamp_max(size - 1) - (index - radius).clamp_min(0) + 1
        count = count * (lines[:, None] if dim == 2 else lines)
    return total / count

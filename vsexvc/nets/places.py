"""Take colours from the reference's own pixels where a match is sure of its place.

The paper's eq. 4 gives averages over cells of 1/4 size, whose upsampling blurs colours at edges. A match that is sharp
has one place in the reference. Its pixels have colours at full size, and their L shows whether the place is right.

Axes: B batch, H and W pixels of the frame, h = H/4 and w = W/4 its cells, H' and W' pixels of the reference.
A place is (x, y) in cells from the middle of a picture.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vsexvc.nets.config import CELL
from vsexvc.nets.motion import refine, warp

_OFF, _WINDOW = 6.0, 5  # L by which the pixels found may differ from the frame's, averaged over a square of this side
_SPREAD = 8.0  # variance of a match's places, in cells squared, up to which it has one place
_UNUSABLE_L = 1000.0  # stands for the L of a pixel that gives no colours: no frame has it


def places(height: int, width: int, device: torch.device) -> Tensor:
    """Return x, y and x^2 + y^2 of each cell of a picture of so many cells, (1, 3, height * width).

    Averaged by eq. 4 they give the place of a match and, with the squares, its variance.
    """
    y, x = (torch.arange(count, device=device, dtype=torch.float32) - (count - 1) / 2 for count in (height, width))
    y, x = torch.meshgrid(y, x, indexing="ij")
    return torch.stack((x, y, x.square() + y.square()))[None].flatten(2)


def without(lab: Tensor, usable: Tensor | None) -> Tensor:
    """Return a reference (1, 3, H', W') whose pixels are found only where they are usable, (H', W') bool."""
    if usable is None:
        return lab
    return torch.cat((lab[:, :1].masked_fill(~usable, _UNUSABLE_L), lab[:, 1:]), dim=1)


@torch.no_grad()
def pixels_at(found: Tensor, L_centred: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Find each pixel of a frame in the reference, from the places of its cells and by the pictures.

    Args:
        found: (B, 3, h, w): `places`, averaged by eq. 4.
        L_centred: (B, 1, H, W) of the frame.
        reference: (B or 1, 3, H', W'): L_centred and ab.

    Returns:
        ab (B, 2, H, W) of the pixels found, and how sure each is, (B, 1, H, W), 0..1.
    """
    b, _, h, w = found.shape
    place, squares = found[:, :2], found[:, 2:]
    variance = (squares - place.square().sum(1, keepdim=True)).clamp_min(0.0)
    reference = reference.expand(b, -1, -1, -1)
    own = places(h, w, found.device)[:, :2].view(1, 2, h, w)
    middle = [(reference.shape[axis] - L_centred.shape[axis]) / 2 for axis in (3, 2)]
    flow = (place - own) * CELL + found.new_tensor(middle).view(1, 2, 1, 1)
    half = refine(_larger(flow, CELL // 2) / 2, F.avg_pool2d(L_centred, 2), F.avg_pool2d(reference[:, :1], 2))
    pixels = warp(reference, _larger(half, 2) * 2)
    off = F.avg_pool2d((pixels[:, :1] - L_centred).abs(), _WINDOW, 1, _WINDOW // 2, count_include_pad=False)
    return pixels[:, 1:], torch.exp(-(off / _OFF).square()) * _larger(torch.exp(-variance / _SPREAD), CELL)


def _larger(x: Tensor, factor: int) -> Tensor:
    return F.interpolate(x, scale_factor=factor, mode="bilinear")

"""Take colours from the reference's own pixels where a match is sure of its place.

The paper's eq. 4 gives averages over cells of 1/4 size, whose upsampling blurs colours at edges. A match that is sharp
has one place in the reference. Its pixels have colours at full size, and their L shows whether the place is right.

Axes: B batch, H and W pixels of the frame, h = H/4 and w = W/4 its cells, H' and W' pixels of the reference.
A place is (x, y) in cells from the middle of a picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vsexvc.nets.config import CELL
from vsexvc.nets.motion import misfit, refine, texture, warp

_OFF = 6.0  # L by which the pixels found may differ from the frame's, as `misfit`
_SPREAD = 8.0  # variance of a match's places, in cells squared, up to which it has one place
_UNUSABLE_L = 1000.0  # stands for the L of a pixel that gives no colours: no frame has it


def places(height: int, width: int, device: torch.device) -> Tensor:
    """Return x, y and x^2 + y^2 of each cell of a picture of so many cells, (1, 3, height * width).

    Averaged by eq. 4 they give the place of a match and, with the squares, its variance.
    """
    y, x = (torch.arange(count, device=device, dtype=torch.float32) - (count - 1) / 2 for count in (height, width))
    y, x = torch.meshgrid(y, x, indexing="ij")
    return torch.stack((x, y, x.square() + y.square()))[None].flatten(2)


class Pixels(NamedTuple):
    """Hold the pixels of a reference: lab (B, 3, H', W'), L_centred and ab; `texture` of its L at half size."""

    lab: Tensor
    texture: Tensor


def pixels_of(lab: Tensor, usable: Tensor | None) -> Pixels:
    """Return the pixels of a reference (B, 3, H', W'). Only usable ones, (H', W') bool, are found; None: all."""
    if usable is not None:
        lab = torch.cat((lab[:, :1].masked_fill(~usable, _UNUSABLE_L), lab[:, 1:]), dim=1)
    return Pixels(lab, texture(F.avg_pool2d(lab[:, :1], 2)))


@torch.no_grad()
def pixels_at(found: Tensor, L_centred: Tensor, references: Sequence[Pixels], taken: Tensor) -> tuple[Tensor, Tensor]:
    """Find each pixel of a frame in its reference, from the places of its cells and by the pictures.

    Args:
        found: (B, 3, h, w): `places`, averaged by eq. 4.
        L_centred: (B, 1, H, W) of the frame.
        references: of R references.
        taken: (B, R, h, w), 1 where that reference is the cell's own, else 0.

    Returns:
        ab (B, 2, H, W) of the pixels found, and how sure each is, (B, 1, H, W), 0..1.
    """
    b, _, h, w = found.shape
    place, squares = found[:, :2], found[:, 2:]
    variance = (squares - place.square().sum(1, keepdim=True)).clamp_min(0.0)
    own = places(h, w, found.device)[:, :2].view(1, 2, h, w)
    (lab, its_texture), part = _joined(references, taken)
    lab, its_texture = lab.expand(b, -1, -1, -1), its_texture.expand(b, -1, -1, -1)
    size = found.new_tensor(L_centred.shape[:1:-1]).view(1, 2, 1, 1)  # (W, H)
    flow = (place - own) * CELL + (part[:, [2, 1]] - size) / 2
    if part.shape[2] == 1:  # one reference
        fine = half_fine = None
    else:
        fine, half_fine = F.interpolate(part, scale_factor=CELL), F.interpolate(part / 2, scale_factor=CELL // 2)
    half = refine(_larger(flow, CELL // 2) / 2, texture(F.avg_pool2d(L_centred, 2)), its_texture, half_fine)
    pixels = warp(lab, _larger(half, 2) * 2, fine)
    off = misfit(pixels[:, :1], L_centred)
    return pixels[:, 1:], torch.exp(-(off / _OFF).square()) * _larger(torch.exp(-variance / _SPREAD), CELL)


def _joined(references: Sequence[Pixels], taken: Tensor) -> tuple[Pixels, Tensor]:
    """Put the references that are taken one below another.

    Returns:
        their pixels; and the top, height and width of each cell's own, (B, 3, h, w), of a single one (1, 3, 1, 1).
    """
    its = [i for i in range(len(references)) if len(references) == 1 or bool(taken[:, i].any())]
    sizes = [references[i].lab.shape[2:] for i in its]
    parts = taken.new_tensor([(sum(h for h, _ in sizes[:n]), *sizes[n]) for n in range(len(sizes))])  # (R, 3)
    if len(its) == 1:
        return references[its[0]], parts.view(1, 3, 1, 1)
    widest = max(w for _, w in sizes)

    def below(each: Sequence[Tensor], width: int) -> Tensor:
        return torch.cat([F.pad(one, (0, width - one.shape[3])) for one in each], dim=2)

    lab = below([references[i].lab for i in its], widest)
    own = torch.einsum("brhw,rk->bkhw", taken[:, its], parts)
    return Pixels(lab, below([references[i].texture for i in its], widest // 2)), own


def _larger(x: Tensor, factor: int) -> Tensor:
    return F.interpolate(x, scale_factor=factor, mode="bilinear")

"""The losses of section 3.3 that this trainer uses, each a pure function of tensors; weights are the loop's business.

Axes: B batch, H and W the crop. All ab in -128..127; every loss is a mean over pixels and channels, in units of ab.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vsexvc.network import warp


def l1(ab: Tensor, target_ab: Tensor, weight: Tensor | None = None) -> Tensor:
    """Eq. 14 as a mean. ab, target_ab: (B, 2, H, W). weight: broadcast to them, 0 leaves a pixel or a sample out."""
    error = (ab - target_ab).abs()
    if weight is None:
        return error.mean()
    weight = weight.expand_as(error)
    return (error * weight).sum() / weight.sum().clamp_min(1.0)


def temporal(ab: Tensor, prev_ab: Tensor, flow_backward: Tensor, valid: Tensor) -> Tensor:
    """Eq. 13: L1 between this frame's ab and the previous one's carried along the flow, on unoccluded pixels.

    ab, prev_ab: (B, 2, H, W). flow_backward: (B, 2, H, W) pixels, from this frame to the previous.
    valid: (B, 1, H, W), 1 = usable.
    """
    return l1(ab, warp(prev_ab, flow_backward), valid)


def smoothness(ab: Tensor, target_lab: Tensor, alpha: float = 0.3) -> Tensor:
    """Eq. 11 with L1: each pixel against the weighted mean of its eight neighbours.

    The weights fall as exp(-alpha * difference of the true lab) (the edge-aware weights of WLS), and sum to one.
    ab: (B, 2, H, W); target_lab: (B, 3, H, W); the one-pixel border is left out.
    """

    def inner(x: Tensor, dy: int, dx: int) -> Tensor:
        return x[:, :, 1 + dy : x.shape[2] - 1 + dy, 1 + dx : x.shape[3] - 1 + dx]

    offsets = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]
    here = inner(target_lab, 0, 0)
    difference = torch.stack([(inner(target_lab, *o) - here).abs().mean(1, keepdim=True) for o in offsets])
    weight = F.softmax(-alpha * difference, dim=0)
    mean = sum(w * inner(ab, *o) for w, o in zip(weight, offsets, strict=True))
    return (inner(ab, 0, 0) - mean).abs().mean()

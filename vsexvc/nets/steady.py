"""Keep colours steady: take part of the previous frame's where both differ little and its picture fits.

The paper's frames flicker less by its temporal loss (eq. 13) alone. Small differences between a frame's colours and the
previous ones, moved along, are mostly noise of the match.

Axes: B batch, H and W the network's size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vsexvc.nets.motion import misfit

_SHARE = 0.7  # of the previous colours, at most: what remains of a true change after n frames is 0.7^n of it
_NOISE = 4.0  # difference in ab at which the share has fallen to 1/e of it
_OFF = 1.2  # the same for the difference in L, as `misfit`: motion blurs


def steadied(ab: Tensor, L_centred: Tensor, prev_lab: Tensor, has_previous: Tensor) -> Tensor:
    """Return ab (B, 2, H, W) with a share of the previous colours.

    Args:
        ab: (B, 2, H, W) of the frame.
        L_centred: (B, 1, H, W) of the frame.
        prev_lab: (B, 3, H, W), aligned with the frame.
        has_previous: (B, 1, 1, 1), 1 where there is a previous frame, else 0.
    """
    change = prev_lab[:, 1:] - ab
    off = misfit(prev_lab[:, :1], L_centred)
    unlike = change.square().sum(1, keepdim=True) / _NOISE**2 + (off / _OFF).square()
    return ab + _SHARE * has_previous * torch.exp(-unlike) * change

"""Mix a frame's colours from the colour net's, the warped ones and the previous frame's.

The paper leaves this to its colour net and its temporal loss (eq. 13). Three rules need no training:

1. Where details found a colour far from the net's, errors of earlier frames may have been handed on: part of the warped
   colour is taken, less of it where the previous frame fits.
2. What the reference does not show by its details has only the colour of its kind, or a guess (trust.py). The previous
   colours are better than these, as far as the previous frame fits and the reference is of the scene: by another scene
   all colours are of their kind, and what is kept for long is blurred by each motion.
3. Small differences from the previous colours are mostly noise of the match: part of the previous ones is taken, half
   as much by a reference of another scene.

Axes: B batch, H and W the network's size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vsexvc.nets.motion import misfit

# Each difference of L is a `misfit`, at which an effect has fallen to 1/e of it.
# Rule 1: share of the warped colour; difference in ab from which it is far; difference of L; how much less is taken
# where the previous frame fits.
_FOUND, _FAR, _FITS, _LESS = 0.6, 13.0, 3.0, 0.8
# Rule 2: share of the previous colours, below 1 as each motion blurs them; difference of L; part of a frame that a
# reference of its scene shows surely: one of another scene shows up to that (in rule 3 too).
_KEPT, _KEPT_OFF, _SHOWN = 0.95, 6.0, 0.04
# Rule 3: share of the previous colours: what remains of a true change after n frames is 0.7^n of it; difference in ab
# at which the share has fallen to 1/e of it; difference of L: motion blurs.
_SHARE, _NOISE, _OFF = 0.7, 4.0, 1.0


def steadied(
    ab: Tensor,
    warped_ab: Tensor,
    L_centred: Tensor,
    prev_lab: Tensor,
    has_previous: Tensor,
    unseen: Tensor,
    shown: Tensor,
) -> Tensor:
    """Return ab (B, 2, H, W) with shares of the warped and the previous colours.

    Args:
        ab: (B, 2, H, W) of the frame.
        warped_ab: (B, 2, H, W) of the frame.
        L_centred: (B, 1, H, W) of the frame.
        prev_lab: (B, 3, H, W), aligned with the frame.
        has_previous: (B, 1, 1, 1), 1 where there is a previous frame, else 0.
        unseen: (B, 1, H, W), 0..1, how much of warped_ab does not come from the reference's details.
        shown: (B, 1, 1, 1), 0..1, how much of the frame the reference surely shows.
    """
    before, off = prev_lab[:, 1:], misfit(prev_lab[:, :1], L_centred)
    fits = has_previous * torch.exp(-(off / _FITS).square())
    far = 1.0 - torch.exp(-_squared(warped_ab - ab) / _FAR**2)
    ab = torch.lerp(ab, warped_ab, _FOUND * (1.0 - unseen) * (1.0 - _LESS * fits) * far)
    of_scene = has_previous * (1.0 - torch.exp(-(shown / _SHOWN).square()))
    ab = torch.lerp(ab, before, _KEPT * of_scene * unseen * torch.exp(-(off / _KEPT_OFF).square()))
    unlike = _squared(before - ab) / _NOISE**2 + (off / _OFF).square()
    share = 0.5 * _SHARE * (has_previous + of_scene)
    return torch.lerp(ab, before, share * torch.exp(-unlike))


def _squared(ab: Tensor) -> Tensor:
    return ab.square().sum(1, keepdim=True)

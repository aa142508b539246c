"""Resize pictures with transparent parts, and fill these parts.

The colours of transparent pixels do not belong to the picture. Resizing and the feature net use neighbours, so these
colours are replaced by a smooth continuation of the opaque parts.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_NOTHING = 1e-3  # alpha below which a pixel is transparent


def continued(rgb: Tensor, alpha: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Resize a picture and fill its transparent parts.

    Args:
        rgb: (1, 3, H, W) float32, 0..1.
        alpha: (1, 1, H, W) float32, 0..1.
        size: (H', W').

    Returns:
        rgb (1, 3, H', W'), which depends on opaque pixels alone, and alpha (1, 1, H', W').

    Raises:
        ValueError: no pixel is half opaque or more.
    """
    alpha = torch.where(alpha < _NOTHING, torch.zeros_like(alpha), alpha)
    shown = F.interpolate(torch.cat((rgb * alpha, alpha), dim=1), size, mode="bilinear", antialias=True)
    share = shown[:, 3:].clamp(0.0, 1.0)
    if float(share.max()) < 0.5:
        raise ValueError("must show something, it is transparent everywhere")
    return _filled(shown[:, :3] / share.clamp_min(_NOTHING), (share >= _NOTHING).to(rgb.dtype)), share


def _filled(rgb: Tensor, known: Tensor) -> Tensor:
    """Fill unknown pixels of a picture with the mean of known ones around them. known: (1, 1, H, W), 1 or 0."""
    if bool((known == 1.0).all()):
        return rgb
    # The picture is halved until all pixels are known, then enlarged again behind the known ones.
    sums = F.avg_pool2d(torch.cat((rgb * known, known), dim=1), 2, ceil_mode=True, count_include_pad=False)
    coarse = _filled(sums[:, :3] / sums[:, 3:].clamp_min(_NOTHING), (sums[:, 3:] > 0.0).to(rgb.dtype))
    around = F.interpolate(coarse, rgb.shape[2:], mode="bilinear")
    return torch.where(known == 1.0, rgb, around)

"""Compute the figures of one method on one clip, and their means; metrics.py defines each figure.

Axes: N frames of a clip, H and W its size, 3 = (R, G, B).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from train.measure import metrics
from train.measure.baselines import Clip
from vsexvc.colour.lab import lab_to_rgb


@dataclass(frozen=True)
class Score:
    """Hold the figures of one method on one clip, frames from the second on.

    Attributes:
        psnr, ssim, colourfulness: one value per frame.
        delta_e, delta_e_90: CIEDE2000, mean and 90th percentile over the pixels, one value per frame.
        flicker: one value per pair of adjacent frames, except where all pixels are occluded.
        cdc: one value for the clip.
    """

    psnr: list[float]
    delta_e: list[float]
    delta_e_90: list[float]
    ssim: list[float]
    colourfulness: list[float]
    flicker: list[float]
    cdc: float


def to_rgb(clip: Clip, ab: Tensor) -> NDArray[np.uint8]:
    """Combine ab of the clip's last N' frames, (N', 2, H, W), with the true L: (N', H, W, 3) uint8."""
    rgb = lab_to_rgb(torch.cat((clip.lab[-len(ab) :, :1], ab), dim=1))
    return (rgb * 255.0).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def score(clip: Clip, ab: Tensor) -> Score:
    """Measure a result. ab: (N - 1, 2, H, W) float32, -128..127, of every frame from the second on."""
    result, truth = to_rgb(clip, ab), clip.rgb[1:]
    planes = ab.permute(0, 2, 3, 1).numpy()
    pairs = zip(planes[:-1], planes[1:], clip.motion[1:], strict=True)
    changes = [metrics.flicker(previous, current, *motion) for previous, current, motion in pairs]
    differences = [metrics.delta_e(r, t) for r, t in zip(result, truth, strict=True)]
    return Score(
        psnr=[metrics.psnr(r, t) for r, t in zip(result, truth, strict=True)],
        delta_e=[mean for mean, _ in differences],
        delta_e_90=[high for _, high in differences],
        ssim=[metrics.ssim(r, t) for r, t in zip(result, truth, strict=True)],
        colourfulness=[metrics.colourfulness(r) for r in result],
        flicker=[change for change in changes if change == change],  # nan: no pixel without occlusion
        cdc=metrics.cdc(result),
    )


def summarise(scores: list[Score]) -> dict[str, float]:
    """Average over frames, then over clips."""

    def mean(values: list[float]) -> float:
        return float(np.mean(values)) if values else float("nan")

    return {
        "psnr": mean([mean(s.psnr) for s in scores]),
        "last": mean([s.psnr[-1] for s in scores]),
        "delta_e": mean([mean(s.delta_e) for s in scores]),
        "delta_e_90": mean([mean(s.delta_e_90) for s in scores]),
        "ssim": mean([mean(s.ssim) for s in scores]),
        "colourfulness": mean([mean(s.colourfulness) for s in scores]),
        "flicker": mean([mean(s.flicker) for s in scores if s.flicker]),
        "cdc": mean([s.cdc for s in scores]),
    }


def psnr_by_frame(scores: list[Score]) -> list[float]:
    """Average frame by frame; entry k: frame k + 2 (counted from 1), over the clips that reach it."""
    longest = max(len(s.psnr) for s in scores)
    return [float(np.mean([s.psnr[k] for s in scores if k < len(s.psnr)])) for k in range(longest)]

"""Compute the figures of a coloured clip from arrays; this module needs no files and no network.

torchmetrics is not used: its SSIM counts the margin, which it fills by reflection (0.087 instead of 0.083 on a noisy
ramp), and takes seven times as long; its PSNR computes in single precision; its FID needs another package's Inception.
tests/test_metrics.py compares with scikit-image and scipy.

Axes: N frames, H and W rows and columns, 3 = (R, G, B), ab = (a, b) of CIE Lab.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from train.data import flow
from vsexvc.colour.lab import rgb_to_lab

Picture = NDArray[np.uint8]
PSNR_CEILING = 100.0  # dB; replaces infinity, so that means over frames stay finite. One wrong bit gives 102 dB.


def psnr(result: Picture, truth: Picture) -> float:
    """Compute the peak signal-to-noise ratio over all pixels and channels, in dB.

    Args:
        result: (H, W, 3) uint8.
        truth: (H, W, 3) uint8.

    Returns:
        10 log10(255^2 / mean squared difference), at most PSNR_CEILING (equal pictures).
    """
    error = float(np.mean(np.square(result.astype(np.float64) - truth)))
    return min(PSNR_CEILING, 10 * np.log10(255**2 / error)) if error > 0 else PSNR_CEILING


def delta_e(result: Picture, truth: Picture) -> tuple[float, float]:
    """Compute CIEDE2000 between two pictures: mean and 90th percentile over the pixels; 1 is just noticeable.

    Args:
        result: (H, W, 3) uint8.
        truth: (H, W, 3) uint8.
    """
    pictures = torch.from_numpy(np.stack((result, truth))).permute(0, 3, 1, 2)
    one, other = rgb_to_lab(pictures.float() / 255.0)
    difference = ciede2000(one, other).numpy()
    return float(difference.mean(dtype=np.float64)), float(np.percentile(difference, 90))


def ciede2000(lab: Tensor, other: Tensor) -> Tensor:
    """Compute CIEDE2000 (CIE 142; Sharma et al. 2005, equations 2 to 22) with all weights 1.

    Args:
        lab: (3, ...) float, L 0..100.
        other: of the same shape.

    Returns:
        (...): 0 for equal colours.
    """
    (L1, a1, b1), (L2, a2, b2) = lab, other
    share = 1.5 - 0.5 * _weight_of_chroma((torch.hypot(a1, b1) + torch.hypot(a2, b2)) / 2)  # 1 + G
    a1, a2 = a1 * share, a2 * share
    C1, C2 = torch.hypot(a1, b1), torch.hypot(a2, b2)
    h1, h2 = torch.atan2(b1, a1).remainder(2 * torch.pi), torch.atan2(b2, a2).remainder(2 * torch.pi)
    coloured = C1 * C2 > 0  # grey has no hue: the other colour's is used
    turn = h2 - h1
    turn = turn - 2 * torch.pi * torch.round(turn / (2 * torch.pi))  # the shorter way around the circle
    turn = torch.where(coloured, turn, 0.0)
    h = torch.where(coloured, h1 + turn / 2, torch.where(C1 > 0, h1, h2)).remainder(2 * torch.pi)
    L, C = (L1 + L2) / 2 - 50.0, (C1 + C2) / 2
    T = 1 - 0.17 * torch.cos(h - math.radians(30)) + 0.24 * torch.cos(2 * h)
    T = T + 0.32 * torch.cos(3 * h + math.radians(6)) - 0.20 * torch.cos(4 * h - math.radians(63))
    blue = torch.exp(-((h - math.radians(275)) / math.radians(25)).square())
    rotation = -torch.sin(math.radians(60) * blue) * 2 * _weight_of_chroma(C)
    lightness = (L2 - L1) / (1 + 0.015 * L.square() / torch.sqrt(20 + L.square()))
    chroma = (C2 - C1) / (1 + 0.045 * C)
    hue = 2 * torch.sqrt(C1 * C2) * torch.sin(turn / 2) / (1 + 0.015 * C * T)
    total = lightness.square() + chroma.square() + hue.square() + rotation * chroma * hue
    return torch.sqrt(total.clamp_min(0.0))


def _weight_of_chroma(C: Tensor) -> Tensor:
    """Compute sqrt(C^7 / (C^7 + 25^7)), 0..1, without powers that overflow."""
    ratio = (C / 25.0) ** 7
    return torch.sqrt(ratio / (ratio + 1.0))


def ssim(result: Picture, truth: Picture) -> float:
    """Compute structural similarity (Wang et al. 2004): Gaussian window 11 x 11, sigma 1.5, mean over all pixels.

    Args:
        result: (H, W, 3) uint8, at least 11 x 11.
        truth: (H, W, 3) uint8.

    Returns:
        -1..1; 1 for equal pictures. The margin of 5 pixels, where the window leaves the picture, is not counted.
    """
    x, y = result.astype(np.float32), truth.astype(np.float32)
    mean_x, mean_y = _window(x), _window(y)
    variance_x = _window(x * x) - mean_x**2
    variance_y = _window(y * y) - mean_y**2
    covariance = _window(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    score = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    score /= (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    return float(score[5:-5, 5:-5].mean(dtype=np.float64))


def colourfulness(picture: Picture) -> float:
    """Compute M^(3) of Hasler and Suesstrunk 2003: spread + 0.3 mean of the opponent colours R - G and (R + G)/2 - B.

    Args:
        picture: (H, W, 3) uint8.

    Returns:
        0 (grey) to about 110 (extremely colourful).
    """
    red, green, blue = np.moveaxis(picture.astype(np.float64), -1, 0)
    red_green, yellow_blue = red - green, (red + green) / 2 - blue
    spread = np.hypot(red_green.std(), yellow_blue.std())
    return float(spread + 0.3 * np.hypot(red_green.mean(), yellow_blue.mean()))


def cdc(frames: NDArray[np.uint8], steps: Sequence[int] = (1, 2, 4)) -> float:
    """Compute colour distribution consistency (Liu et al. 2021): how far the colours of the whole frame change.

    Args:
        frames: (N, H, W, 3) uint8.
        steps: distances in frames.

    Returns:
        Jensen-Shannon divergence (natural logarithm, 0..0.693) of the 256-bin histograms of each channel, averaged over
        channels, then over pairs of frames, then over the steps that fit the clip; 0 if none does.
    """
    histograms = np.stack([[np.bincount(c.ravel(), minlength=256) for c in np.moveaxis(f, -1, 0)] for f in frames])
    shares = histograms / histograms.sum(-1, keepdims=True)
    means = [_jensen_shannon(shares[step:], shares[:-step]).mean() for step in steps if step < len(frames)]
    return float(np.mean(means)) if means else 0.0


def flicker(
    previous_ab: flow.Array, current_ab: flow.Array, flow_backward: flow.Array, valid: NDArray[np.bool_]
) -> float:
    """Compute the colour change along the motion: equation 13 as the mean L1 over a and b on unoccluded pixels.

    Args:
        previous_ab: (H, W, 2) float32, -128..127.
        current_ab: (H, W, 2) float32, -128..127.
        flow_backward: (H, W, 2) float32, pixels, from the current frame into the previous, found on the true L.
        valid: (H, W) bool, True where the flow holds.

    Returns:
        Mean of |warped previous - current| over the valid pixels and the two channels; nan where no pixel is valid.
    """
    difference = np.abs(flow.warp(previous_ab, flow_backward) - current_ab)
    return float(difference[valid].mean(dtype=np.float64)) if valid.any() else float("nan")


def frechet_distance(features: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    """Compute FID (Heusel et al. 2017): the distance of two sets of a net's features as if each were Gaussian.

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^1/2). It falls as the sets grow, until they are far larger than D: compare only
    figures of equally many samples.

    Args:
        features: (N, D), N at least 2.
        other: (M, D), M at least 2.

    Raises:
        ValueError: fewer than two samples in a set.
    """
    if min(len(features), len(other)) < 2:
        raise ValueError(f"frechet_distance: both sets must hold 2 or more samples, got {len(features)}, {len(other)}")
    x, y = features.astype(np.float64), other.astype(np.float64)
    covariance_x, covariance_y = (np.atleast_2d(np.cov(z, rowvar=False)) for z in (x, y))
    values, vectors = np.linalg.eigh(covariance_x)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    # (C1 C2)^1/2 has the trace of (C1^1/2 C2 C1^1/2)^1/2, whose matrix is symmetric: no complex parts, singular or not.
    shared = np.sqrt(np.linalg.eigvalsh(root @ covariance_y @ root).clip(0)).sum()
    spread = np.trace(covariance_x) + np.trace(covariance_y) - 2 * shared
    return max(0.0, float(np.square(x.mean(0) - y.mean(0)).sum() + spread))


def _window(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Blur by the Gaussian window of ssim."""
    return np.asarray(cv2.GaussianBlur(x, (11, 11), 1.5))


def _jensen_shannon(p: NDArray[np.float64], q: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the divergence of (..., 256) shares that add up to 1: (...), in nats."""
    middle = (p + q) / 2
    return (_entropy_terms(p, middle) + _entropy_terms(q, middle)) / 2


def _entropy_terms(p: NDArray[np.float64], middle: NDArray[np.float64]) -> NDArray[np.float64]:
    ratio = np.divide(p, middle, out=np.ones_like(p), where=p > 0)
    return np.asarray((p * np.log(ratio)).sum(-1))

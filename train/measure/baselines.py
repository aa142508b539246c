"""Read true clips, and colour them by methods without training: the baselines of every measurement.

A baseline is a function of a clip that returns ab of every frame from the second on. It uses the colours of the first
frame and the L of every frame. This module does not use the network.

Axes: N frames of a clip, H = 216, W = 384, 3 = (R, G, B) or (L, a, b). Each baseline returns (N - 1, 2, H, W) float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from train.data import files, flow
from vsexvc.colour.lab import rgb_to_lab

WIDTH, HEIGHT, FRAMES = 384, 216, 40


@dataclass(frozen=True)
class Clip:
    """Hold one true clip. rgb: (N, H, W, 3) uint8, N at least 2."""

    path: Path
    rgb: NDArray[np.uint8]

    @cached_property
    def lab(self) -> Tensor:
        """Return Lab (N, 3, H, W) float32."""
        return rgb_to_lab(torch.from_numpy(self.rgb).permute(0, 3, 1, 2).float() / 255.0)

    @cached_property
    def motion(self) -> list[tuple[flow.Array, NDArray[np.bool_]]]:
        """Return flow_backward and valid of each frame from the second on, found on the true L."""
        L = self.lab[:, 0].numpy()
        return [flow.between(previous, current) for previous, current in pairwise(L)]


def clip_paths(folder: Path, limit: int | None = None, every: int = 1) -> list[Path]:
    """List the video files below a folder by name: every `every`-th one, of these the first `limit`.

    Raises:
        OSError: the folder does not exist. ValueError: it contains no clip.
    """
    paths = files.find([folder], files.VIDEO_SUFFIXES)
    if not paths:
        raise ValueError(
            f"evaluate: {folder} must hold clips ({', '.join(sorted(files.VIDEO_SUFFIXES))}), but has none"
        )
    return paths[::every][:limit]


def read_clip(path: Path, frames: int = FRAMES) -> Clip:
    """Read the first frames of a clip, stretched by area. Raise OSError if there are fewer than two."""
    rgb = files.read_clip(path, (HEIGHT, WIDTH), frames)
    if len(rgb) < 2:
        raise OSError(f"evaluate: {path} must have at least 2 frames, {len(rgb)} could be read")
    return Clip(path, rgb)


def grey(clip: Clip) -> Tensor:
    """Return no colour at all."""
    return torch.zeros_like(clip.lab[1:, 1:])


def mean_colour(clip: Clip) -> Tensor:
    """Return the reference's mean ab everywhere."""
    return clip.lab[:1, 1:].mean((2, 3), keepdim=True).expand_as(clip.lab[1:, 1:]).contiguous()


def luminance_matching(clip: Clip) -> Tensor:
    """Colour as Welsh et al. 2002, global: each pixel takes the ab of the nearest sample of the reference.

    Samples are every 8th pixel in both directions. The distance is that of L and of L's deviation over 5x5. (Their
    first step fits the luminance of one picture to another's; it would blur the match between frames of one clip.) A
    table of half-unit cells gives the nearest sample.
    """
    cells = 2.0
    L = clip.lab[:, 0].numpy()
    samples = np.s_[4::8, 4::8]
    sample_L, sample_deviation = L[0][samples].ravel(), _deviation(L[0])[samples].ravel()
    colours = clip.lab[0, 1:].permute(1, 2, 0).numpy()[samples].reshape(-1, 2)
    far_L = np.square(np.arange(100 * cells + 1)[:, None] / cells - sample_L)
    far_deviation = np.square(np.arange(50 * cells + 1)[:, None] / cells - sample_deviation)
    nearest = np.stack([(far_L + row).argmin(1) for row in far_deviation], axis=1)  # (201, 101): L, deviation
    results = []
    for frame in L[1:]:
        i = np.rint(frame * cells).clip(0, nearest.shape[0] - 1).astype(int)
        j = np.rint(_deviation(frame) * cells).clip(0, nearest.shape[1] - 1).astype(int)
        results.append(colours[nearest[i, j]])
    return torch.from_numpy(np.stack(results)).permute(0, 3, 1, 2).contiguous()


def _deviation(L: flow.Array) -> flow.Array:
    mean = cv2.blur(L, (5, 5))
    return np.sqrt(np.maximum(cv2.blur(L * L, (5, 5)) - mean * mean, 0.0))


def optical_flow(clip: Clip) -> Tensor:
    """Colour frame by frame: pull the previous result's ab along the flow of the true L."""
    ab = clip.lab[0, 1:].permute(1, 2, 0).numpy()
    results = []
    for flow_backward, _ in clip.motion:
        ab = flow.warp(ab, flow_backward)
        results.append(ab)
    return torch.from_numpy(np.stack(results)).permute(0, 3, 1, 2).contiguous()


def truth(clip: Clip) -> Tensor:
    """Return the true ab: the upper limit, with the colourfulness and flicker of true clips."""
    return clip.lab[1:, 1:].contiguous()


BASELINES: dict[str, Callable[[Clip], Tensor]] = {
    "truth": truth,
    "grey": grey,
    "mean colour": mean_colour,
    "luminance matching": luminance_matching,
    "optical flow": optical_flow,
}

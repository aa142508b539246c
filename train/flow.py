"""Optical flow between true frames: where each pixel came from, and whether that can be trusted.

Measuring and preparing training data use it; colorizing never does, so OpenCV stays out of vsexvc. Everything works on
the true luminance alone, so that a measure of colour is never judged by motion found in the colours themselves.

Axes: H and W rows and columns, C channels, 2 = (x, y) in pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


def estimate(source_L: Array, target_L: Array) -> Array:
    """Dense inverse search (Kroeger et al. 2016), OpenCV's medium preset.

    Args:
        source_L: (H, W) float32, 0..100.
        target_L: (H, W) float32, 0..100.

    Returns:
        (H, W, 2) float32: the pixel at (x, y) of the source lies at (x, y) + flow of the target.
    """
    with _one_thread():
        search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        return np.asarray(search.calc(_to_8_bit(source_L), _to_8_bit(target_L), None), np.float32)  # type: ignore[call-overload]


def warp(image: Array, flow: Array) -> Array:
    """Pull an image along a flow, bilinear, the border repeated.

    Args:
        image: (H, W) or (H, W, C) float32, any range: what is sampled.
        flow: (H, W, 2) float32, pixels, from the pixels of the result into the image.

    Returns:
        As image: result(x) = image(x + flow(x)). To carry the previous frame to the current one, give flow_backward.
    """
    positions = (_grid(flow) + flow).astype(np.float32)
    contiguous = np.ascontiguousarray(image, np.float32)
    return np.asarray(cv2.remap(contiguous, positions, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))  # type: ignore[call-overload]


def consistent(flow: Array, flow_back: Array) -> NDArray[np.bool_]:
    """Forward-backward check: a pixel that is not occluded comes home (Sundaram et al. 2010).

    Args:
        flow: (H, W, 2) float32, from the frame that is being judged to the other.
        flow_back: (H, W, 2) float32, from the other frame to this one.

    Returns:
        (H, W) bool `valid`: True where |flow + back|^2 < 0.01 (|flow|^2 + |back|^2) + 0.5, with back = flow_back at the
        place that flow leads to, and where that place lies in the picture.
    """
    height, width = flow.shape[:2]
    back = warp(flow_back, flow)
    there = _grid(flow) + flow
    inside = (there >= 0).all(-1) & (there[..., 0] <= width - 1) & (there[..., 1] <= height - 1)
    error = np.square(flow + back).sum(-1)
    size = np.square(flow).sum(-1) + np.square(back).sum(-1)
    return np.asarray(inside & (error < 0.01 * size + 0.5), np.bool_)


def between(previous_L: Array, current_L: Array) -> tuple[Array, NDArray[np.bool_]]:
    """Flow that carries the previous frame's colours to the current frame, and where it holds.

    Args:
        previous_L: (H, W) float32, 0..100.
        current_L: (H, W) float32, 0..100.

    Returns:
        flow_backward: (H, W, 2) float32, from the current frame's pixels into the previous frame, for `warp`.
        valid: (H, W) bool on the current frame's pixels, True = usable.
    """
    flow_backward = estimate(current_L, previous_L)
    flow_forward = estimate(previous_L, current_L)
    return flow_backward, consistent(flow_backward, flow_forward)


def _to_8_bit(L: Array) -> NDArray[np.uint8]:
    return np.clip(np.rint(L * 2.55), 0, 255).astype(np.uint8)


def _grid(flow: Array) -> Array:
    height, width = flow.shape[:2]
    return np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float32)


@contextmanager
def _one_thread() -> Iterator[None]:
    """DIS cuts the picture into one stripe per thread and its search stops at their edges: fix them at one."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)

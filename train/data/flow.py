"""Find optical flow between true frames: where each pixel came from, and whether that is reliable.

Measurements and training data use it; the filter does not, so that vsexvc does not need OpenCV. The flow is found on
the true luminance alone, so that motion found in colours never judges colours.

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
    """Find flow by dense inverse search (Kroeger et al. 2016), OpenCV's medium preset.

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
    contiguous = np.ascontiguousarray(image, np.float32)
    return np.asarray(cv2.remap(contiguous, _ends(flow), None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))  # type: ignore[call-overload]


def consistent(flow: Array, flow_back: Array) -> NDArray[np.bool_]:
    """Check flow forward and backward: a pixel that is not occluded returns (Sundaram et al. 2010).

    Args:
        flow: (H, W, 2) float32, from the frame that is checked to the other.
        flow_back: (H, W, 2) float32, from the other frame to this one.

    Returns:
        (H, W) bool `valid`: True where |flow + back|^2 < 0.01 (|flow|^2 + |back|^2) + 0.5, with back = flow_back at the
        place that flow leads to, and where that place lies inside the picture.
    """
    height, width = flow.shape[:2]
    back = warp(flow_back, flow)
    x, y = cv2.split(_ends(flow))
    inside = (x >= 0) & (y >= 0) & (x <= width - 1) & (y <= height - 1)
    size = _square(flow) + _square(back)
    return np.asarray(inside & (_square(flow + back) < 0.01 * size + 0.5), np.bool_)


def between(previous_L: Array, current_L: Array) -> tuple[Array, NDArray[np.bool_]]:
    """Find the flow that carries the previous frame's colours to the current frame, and where it is valid.

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


def both_ways(L: Array, stride: int) -> NDArray[np.float16]:
    """Find the flow between all frames of a clip that lie `stride` apart, small enough to keep.

    The search itself ends at half size (finest scale 1 of the medium preset), so that halving loses almost nothing.

    Args:
        L: (N, H, W) float32, 0..100, N above `stride`.
        stride: 1 or more.

    Returns:
        (N - stride, 2, (H + 1) // 2, (W + 1) // 2, 2) float16, vectors in pixels of the full size: [n, 0] leads from
        frame n + stride to frame n, [n, 1] from frame n to frame n + stride.
    """
    half = ((L.shape[2] + 1) // 2, (L.shape[1] + 1) // 2)
    pairs = [
        [cv2.resize(estimate(*way), half, interpolation=cv2.INTER_AREA) for way in ((later, earlier), (earlier, later))]
        for earlier, later in zip(L, L[stride:], strict=False)
    ]
    return np.asarray(pairs, np.float16)


def _to_8_bit(L: Array) -> NDArray[np.uint8]:
    return np.clip(np.rint(L * 2.55), 0, 255).astype(np.uint8)


def _ends(flow: Array) -> Array:
    """Return where each pixel's vector leads, (H, W, 2) float32."""
    ends = np.array(flow, np.float32)
    ends[..., 0] += np.arange(flow.shape[1], dtype=np.float32)
    ends[..., 1] += np.arange(flow.shape[0], dtype=np.float32)[:, None]
    return ends


def _square(flow: Array) -> Array:
    """Return the squared length of each vector, (H, W)."""
    x, y = cv2.split(flow)
    return np.asarray(x * x + y * y)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Use one thread: DIS cuts the picture into a stripe per thread, and its search stops at their edges."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)

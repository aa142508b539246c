"""Augmentation of section 4: geometric distortion, luminance noise, and colours changed alike over a whole sequence.

Pure functions of a picture (rows, columns, 3) uint8 RGB and a generator; nothing here reads files.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Picture = NDArray[np.uint8]


def _resize(picture: Picture, size: tuple[int, int]) -> Picture:
    shrinks = picture.shape[0] >= size[0]
    out = cv2.resize(picture, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return np.asarray(out, dtype=np.uint8)


def random_crop(have: tuple[int, int], size: tuple[int, int], rng: np.random.Generator) -> Callable[[Picture], Picture]:
    """One window for every frame it is applied to: between `size` itself and all of `have`, brought to `size`."""
    largest = min(have[0] / size[0], have[1] / size[1])
    scale = float(rng.uniform(min(1.0, largest), largest)) if rng.random() < 0.6 else largest
    rows, columns = min(have[0], round(size[0] * scale)), min(have[1], round(size[1] * scale))
    top, left = int(rng.integers(have[0] - rows + 1)), int(rng.integers(have[1] - columns + 1))

    def crop(picture: Picture) -> Picture:
        part = picture[top : top + rows, left : left + columns]
        return _resize(part, size)

    return crop


def fit(picture: Picture, size: tuple[int, int], rng: np.random.Generator) -> Picture:
    """The largest window of the target's aspect, at a random place, resized to `size`."""
    rows, columns = picture.shape[:2]
    scale = min(rows / size[0], columns / size[1])
    h, w = min(rows, round(size[0] * scale)), min(columns, round(size[1] * scale))
    top, left = int(rng.integers(rows - h + 1)), int(rng.integers(columns - w + 1))
    part = picture[top : top + h, left : left + w]
    return _resize(part, size)


def centre(picture: Picture, size: tuple[int, int]) -> Picture:
    """The middle `size` window."""
    top, left = (picture.shape[0] - size[0]) // 2, (picture.shape[1] - size[1]) // 2
    return np.ascontiguousarray(picture[top : top + size[0], left : left + size[1]])


def _projection(size: tuple[int, int], rng: np.random.Generator, strength: float) -> NDArray[np.float64]:
    """A random homography about the picture's centre: some 5 degrees, 8 % zoom, 5 % shift, slight perspective."""
    h, w = size
    angle = np.deg2rad(rng.normal(0, 5)) * strength
    zoom = np.exp(rng.normal(0, 0.08) * strength)
    c, s = np.cos(angle) * zoom, np.sin(angle) * zoom
    shift = rng.normal(0, 0.05, 2) * (w, h) * strength
    tilt = rng.normal(0, 0.00015, 2) * strength
    to_centre = np.array([[1, 0, -w / 2], [0, 1, -h / 2], [0, 0, 1]])
    turn = np.array([[c, -s, shift[0]], [s, c, shift[1]], [tilt[0], tilt[1], 1]])
    return np.linalg.inv(to_centre) @ turn @ to_centre


def distort(picture: Picture, rng: np.random.Generator, strength: float) -> Picture:
    """Homography and a smooth random displacement (Figure 3), sometimes mirrored, border reflected; same size."""
    h, w = picture.shape[:2]
    out = cv2.warpPerspective(picture, _projection((h, w), rng, strength), (w, h), borderMode=cv2.BORDER_REFLECT_101)
    grid = rng.normal(0, 0.012 * w * strength, (5, 7, 2)).astype(np.float32)
    field = cv2.resize(grid, (w, h), interpolation=cv2.INTER_CUBIC)
    x, y = np.meshgrid(np.arange(w, dtype=np.float32), np.arange(h, dtype=np.float32))
    out = cv2.remap(out, x + field[..., 0], y + field[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return np.ascontiguousarray(out[:, ::-1]) if rng.random() < 0.15 else np.asarray(out, dtype=np.uint8)


def moving(picture: Picture, size: tuple[int, int], count: int, rng: np.random.Generator) -> list[Picture]:
    """`count` views of one picture under a motion that goes on steadily; the middle `size` of each."""
    h, w = picture.shape[:2]
    step = _projection((h, w), rng, strength=float(rng.uniform(0.1, 0.7)))
    total, views = np.eye(3), []
    for _ in range(count):
        view = cv2.warpPerspective(picture, total, (w, h), borderMode=cv2.BORDER_REFLECT_101)
        views.append(centre(np.asarray(view, dtype=np.uint8), size))
        total = step @ total
    return views


def color_of_sequence(frames: list[Picture], rng: np.random.Generator) -> list[Picture]:
    """One change of saturation and hue for all frames: the reference's colours must be looked at, not known."""
    if rng.random() < 0.5:
        return frames
    angle = rng.uniform(-np.pi, np.pi) if rng.random() < 0.5 else rng.normal(0, 0.3)
    saturation = rng.uniform(0.6, 1.6)
    # A turn of the chroma plane of BT.601 luma and colour differences; luma stays.
    c, s = np.cos(angle) * saturation, np.sin(angle) * saturation
    to_yuv = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
    turn = np.linalg.inv(to_yuv) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ to_yuv
    return [cv2.transform(frame, turn) for frame in frames]  # type: ignore[misc]


def luminance(L: Tensor, rng: np.random.Generator) -> Tensor:
    """Contrast and brightness of a whole sample, a little flicker per frame, and grain. L: (S, 1, H, W), 0..100."""
    if rng.random() < 0.5:
        L = 50.0 + (L - 50.0) * float(rng.uniform(0.75, 1.15)) + float(rng.normal(0, 5.0))
    if rng.random() < 0.3:
        gain = torch.from_numpy(rng.normal(1.0, 0.03, (len(L), 1, 1, 1)).astype(np.float32))
        L = L * gain
    if rng.random() < 0.4:
        noise = torch.from_numpy(rng.standard_normal(L.shape, dtype=np.float32))
        L = L + noise * float(rng.uniform(0.3, 3.0))
    return L.clamp(0.0, 100.0)

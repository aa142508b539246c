"""Augment pictures: geometric distortion and luminance noise as in section 4, and what the paper has not.

The latter are one change of colour for a whole sequence, and the damage of old film. All functions are pure: they take
a picture, (rows, columns, 3) uint8 RGB, or L, and a random generator. They read no files.

Axes: S frames of a sample (0 the reference), F those without the reference, H and W rows and columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Picture = NDArray[np.uint8]
Array = NDArray[np.float32]
Half = NDArray[np.float16] | Array


def resized(picture: Picture, size: tuple[int, int]) -> Picture:
    """Resize a picture to `size` (rows, columns), by area if it shrinks."""
    shrinks = picture.shape[0] >= size[0]
    out = cv2.resize(picture, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return np.asarray(out, dtype=np.uint8)


@dataclass(frozen=True)
class Window:
    """Crop a part of a picture, resize it to `size` and perhaps mirror it; the same for every frame and flow."""

    top: int
    left: int
    rows: int
    columns: int
    size: tuple[int, int]
    mirrored: bool

    @classmethod
    def random(cls, have: tuple[int, int], size: tuple[int, int], mirrored: bool, rng: np.random.Generator) -> Window:
        """Draw a window in a picture of `have` rows and columns, from `size` itself (if that fits) to all of it."""
        largest = min(have[0] / size[0], have[1] / size[1])
        scale = float(rng.uniform(min(1.0, largest), largest)) if rng.random() < 0.6 else largest
        rows, columns = min(have[0], round(size[0] * scale)), min(have[1], round(size[1] * scale))
        top, left = int(rng.integers(have[0] - rows + 1)), int(rng.integers(have[1] - columns + 1))
        return cls(top, left, rows, columns, size, mirrored)

    def picture(self, picture: Picture) -> Picture:
        """Crop a picture (rows, columns, 3) uint8 of the size that the window was drawn for -> (*size, 3)."""
        part = resized(picture[self.top : self.top + self.rows, self.left : self.left + self.columns], self.size)
        return np.ascontiguousarray(part[:, ::-1]) if self.mirrored else part

    def flow(self, flow: Half, have: tuple[int, int]) -> Array:
        """Convert the flow between two pictures to the flow between their two windows.

        Args:
            flow: (h, w, 2) float16 or float32, of any resolution; vectors (x, y) in pixels of `have`.
            have: rows and columns of the pictures.

        Returns:
            (*size, 2) float32, pixels of `size`.
        """
        (h, w), (height, width) = flow.shape[:2], self.size
        # Centres of the result's pixels, in the grid of the flow.
        x_step, y_step = self.columns / width * w / have[1], self.rows / height * h / have[0]
        x, y = self.left * w / have[1] + (x_step - 1) / 2, self.top * h / have[0] + (y_step - 1) / 2
        here = np.array([[x_step, 0, x], [0, y_step, y]])
        interpolation = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        wide = np.asarray(flow, np.float32)
        out = cv2.warpAffine(wide, here, (width, height), flags=interpolation, borderMode=cv2.BORDER_REPLICATE)
        out *= np.array([width / self.columns, height / self.rows], np.float32)
        if self.mirrored:
            out = out[:, ::-1] * np.array([-1, 1], np.float32)
        return np.ascontiguousarray(out)


def fit(picture: Picture, size: tuple[int, int], rng: np.random.Generator) -> Picture:
    """Return the largest window of the target's aspect, at a random place, resized to `size`."""
    rows, columns = picture.shape[:2]
    scale = min(rows / size[0], columns / size[1])
    h, w = min(rows, round(size[0] * scale)), min(columns, round(size[1] * scale))
    top, left = int(rng.integers(rows - h + 1)), int(rng.integers(columns - w + 1))
    part = picture[top : top + h, left : left + w]
    return resized(part, size)


def centre(picture: Picture, size: tuple[int, int]) -> Picture:
    """Return the middle `size` window."""
    top, left = (picture.shape[0] - size[0]) // 2, (picture.shape[1] - size[1]) // 2
    return np.ascontiguousarray(picture[top : top + size[0], left : left + size[1]])


def _projection(size: tuple[int, int], rng: np.random.Generator, strength: float) -> NDArray[np.float64]:
    """Draw a homography about the picture's centre: some 5 degrees, 8 % zoom, 5 % shift, slight perspective."""
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
    """Bend a picture by a homography and a smooth random displacement (Figure 3), sometimes mirrored; same size."""
    h, w = picture.shape[:2]
    out = cv2.warpPerspective(picture, _projection((h, w), rng, strength), (w, h), borderMode=cv2.BORDER_REFLECT_101)
    grid = rng.normal(0, 0.012 * w * strength, (5, 7, 2)).astype(np.float32)
    field = cv2.resize(grid, (w, h), interpolation=cv2.INTER_CUBIC)
    x, y = np.meshgrid(np.arange(w, dtype=np.float32), np.arange(h, dtype=np.float32))
    out = cv2.remap(out, x + field[..., 0], y + field[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return np.ascontiguousarray(out[:, ::-1]) if rng.random() < 0.15 else np.asarray(out, dtype=np.uint8)


def covered(picture: Picture, other: Picture, rng: np.random.Generator) -> Picture:
    """Replace a third to two thirds of a picture's width or height by the same part of another of that size."""
    h, w = picture.shape[:2]
    out = picture.copy()
    share = rng.uniform(0.33, 0.67)
    if rng.random() < 0.7:
        columns = slice(0, int(w * share)) if rng.random() < 0.5 else slice(int(w * share), w)
        out[:, columns] = other[:, columns]
    else:
        rows = slice(0, int(h * share)) if rng.random() < 0.5 else slice(int(h * share), h)
        out[rows] = other[rows]
    return out


def moving(picture: Picture, size: tuple[int, int], count: int, rng: np.random.Generator) -> list[Picture]:
    """Return `count` views of one picture under a steady motion; the middle `size` of each."""
    h, w = picture.shape[:2]
    step = _projection((h, w), rng, strength=float(rng.uniform(0.1, 0.7)))
    total, views = np.eye(3), []
    for _ in range(count):
        view = cv2.warpPerspective(picture, total, (w, h), borderMode=cv2.BORDER_REFLECT_101)
        views.append(centre(np.asarray(view, dtype=np.uint8), size))
        total = step @ total
    return views


def color_of_sequence(frames: list[Picture], rng: np.random.Generator) -> list[Picture]:
    """Change saturation and hue alike in all frames, so that the network must look at the reference's colours."""
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
    """Change contrast and brightness of a sample, add flicker and grain. L: (S, 1, H, W), 0..100."""
    if rng.random() < 0.5:
        L = 50.0 + (L - 50.0) * float(rng.uniform(0.75, 1.15)) + float(rng.normal(0, 5.0))
    if rng.random() < 0.3:
        gain = torch.from_numpy(rng.normal(1.0, 0.03, (len(L), 1, 1, 1)).astype(np.float32))
        L = L * gain
    if rng.random() < 0.4:
        noise = torch.from_numpy(rng.standard_normal(L.shape, dtype=np.float32))
        L = L + noise * float(rng.uniform(0.3, 3.0))
    return L.clamp(0.0, 100.0)


def damage(L: Tensor, rng: np.random.Generator) -> Tensor:
    """Damage every frame but the reference as old film is damaged; true colours do not change.

    Each kind is drawn independently, for about half of the samples:

    - blur: lens and copying, alike in all frames
    - fading: contrast down, blacks up, and uneven exposure that drifts slowly over the picture
    - grain: of film, softer than pixels, strongest in the middle tones
    - scratches: near-vertical lines, light or dark, that last for some frames and wander
    - dust and hairs: light or dark, new in each frame
    - flicker: the lamp's and the shutter's, one gain for each frame

    `luminance`, a milder change, is applied first, and alone if no kind is drawn.

    Args:
        L: (S, 1, H, W) float32, 0..100.
        rng: draws the kinds and their parameters.

    Returns:
        As L; [0] is unchanged.
    """
    film = luminance(L[1:], rng)[:, 0].numpy().copy()
    scale = film.shape[1] / 216  # the sizes below are those for 216 rows
    wanted = rng.random(6) < 0.5
    if wanted[0]:
        sigma = scale * float(rng.uniform(0.4, 1.6))
        film = np.stack([cv2.GaussianBlur(frame, (0, 0), sigma) for frame in film])
    if wanted[1]:
        film = _faded(film, rng)
    if wanted[2]:
        film = _grainy(film, scale, rng)
    if wanted[3]:
        _scratch(film, scale, rng)
    if wanted[4]:
        for frame in film:
            _soil(frame, scale, rng)
    if wanted[5]:
        film *= rng.normal(1.0, rng.uniform(0.02, 0.1), (len(film), 1, 1)).astype(np.float32)
    return torch.cat((L[:1], torch.from_numpy(film)[:, None].clamp(0.0, 100.0)))


def _faded(film: Array, rng: np.random.Generator) -> Array:
    """Fade film: (F, H, W), as in the helpers below."""
    black, white = rng.uniform(0, 25), rng.uniform(60, 95)
    height, width = film.shape[1:]
    grid, drift = rng.normal(0, 0.12, (3, 4)), rng.normal(0, 0.015, (3, 4))
    fields = [
        cv2.resize((1 + grid + n * drift).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
        for n in range(len(film))
    ]
    return np.asarray((black + film * (white - black) / 100) * np.stack(fields), np.float32)


def _grainy(film: Array, scale: float, rng: np.random.Generator) -> Array:
    strength, softness = rng.uniform(1.0, 5.0), max(0.3, scale * rng.uniform(0.3, 0.8))
    noise = [cv2.GaussianBlur(rng.standard_normal(f.shape, dtype=np.float32), (0, 0), softness) for f in film]
    grain = np.stack(noise) / np.std(noise[0])
    middle = 0.4 + 0.6 * np.clip(film * (100 - film) / 2500, 0, 1)
    return np.asarray(film + grain * middle * strength, np.float32)


def _scratch(film: Array, scale: float, rng: np.random.Generator) -> None:
    count, height, width = film.shape
    y = np.arange(height)
    for _ in range(rng.integers(1, 5)):
        first, last = sorted(rng.integers(0, count, 2))
        x, slope = rng.uniform(0, width), rng.normal(0, 0.01)
        half = max(0.5, scale * rng.uniform(0.4, 1.2))
        depth = rng.uniform(10, 45) * rng.choice((-1, 1))
        worn = np.clip(cv2.resize(rng.uniform(0, 1.5, (9, 1)), (1, height))[:, 0], 0.2, 1)  # along it
        for n in range(first, last + 1):
            x += rng.normal(0, 1.5 * scale)
            away = np.abs(np.arange(width) - (x + slope * (y - height / 2))[:, None])
            film[n] += depth * worn[:, None] * np.clip(half + 0.5 - away, 0, 1)


def _soil(frame: Array, scale: float, rng: np.random.Generator) -> None:
    """Soil a frame: (H, W), changed in place."""
    height, width = frame.shape
    cover = {tone: np.zeros((height, width), np.uint8) for tone in (5.0, 95.0)}
    for _ in range(rng.poisson(5)):  # dust: a ragged blob
        around = np.linspace(0, 2 * np.pi, 9)[:-1]
        radius = scale * rng.uniform(0.8, 4.0) * rng.uniform(0.5, 1.3, 8)
        blob = rng.uniform((0, 0), (width, height)) + np.stack((np.cos(around), np.sin(around)), 1) * radius[:, None]
        cv2.fillPoly(cover[rng.choice((5.0, 95.0))], [_sixteenths(blob)], 255, cv2.LINE_AA, 4)
    for _ in range(rng.poisson(0.5)):  # hairs: a line whose direction turns
        turns = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, 0.35, 12))
        steps = np.stack((np.cos(turns), np.sin(turns)), 1) * scale * rng.uniform(1.5, 5.0)
        hair = rng.uniform((0, 0), (width, height)) + np.cumsum(steps, 0)
        cv2.polylines(cover[rng.choice((5.0, 95.0))], [_sixteenths(hair)], False, 255, 1, cv2.LINE_AA, 4)
    for tone, mask in cover.items():
        frame += (tone - frame) * mask * np.float32(rng.uniform(0.5, 1.0) / 255)


def _sixteenths(points: NDArray[np.float64]) -> NDArray[np.int32]:
    return np.rint(points * 16).astype(np.int32)  # OpenCV draws between pixels in fixed point, here with 4 bits

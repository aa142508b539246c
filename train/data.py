"""Training sequences from plain folders of clips and pictures. Decodes, caches, cuts and augments; no network, no loss.

A sample is a reference, the frame before the sequence, and the sequence itself.
Every sample is a pure function of (seed, index), so that a resumed run sees what an uninterrupted one would have seen.

Axes: S frames of a sample (0 reference, 1 the frame before, 2.. the sequence), H and W the crop.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from train import augment
from train import flow as optical_flow
from vsexvc.color import rgb_to_lab

Picture = NDArray[np.uint8]

VIDEO_SUFFIXES = {".mp4", ".mkv", ".avi", ".mov", ".webm", ".m4v"}
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
CACHED_SIZE = (216, 384)  # rows, columns: clips are stretched to this by area, as the evaluation does

log = logging.getLogger("train")


@dataclass(frozen=True)
class DataOptions:
    """What a sample looks like. Probabilities are of one draw each."""

    size: tuple[int, int] = (128, 224)
    length: int = 3
    images: float = 0.25
    foreign: float = 0.08
    strides: tuple[int, ...] = (1, 1, 1, 2, 2, 3, 4)


def read_clip(path: Path, size: tuple[int, int] = CACHED_SIZE, most: int = 100_000) -> Picture:
    """All frames of a video, RGB, stretched to `size` by area: (frames, rows, columns, 3) uint8.

    Raises OSError where nothing can be decoded.
    """
    capture = cv2.VideoCapture(str(path))
    frames = []
    while len(frames) < most:
        good, frame = capture.read()
        if not good:
            break
        frames.append(cv2.cvtColor(cv2.resize(frame, size[::-1], interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2RGB))
    capture.release()
    if not frames:
        raise OSError(f"read_clip: {path} has no frame that can be decoded")
    return np.stack(frames)


def read_image(path: Path) -> Picture:
    """A picture as RGB (rows, columns, 3) uint8. OSError if unreadable."""
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        raise OSError(f"read_image: {path} cannot be decoded")
    return np.ascontiguousarray(picture[:, :, ::-1])


def find(folders: list[Path], suffixes: set[str]) -> list[Path]:
    """All files below the folders with one of the suffixes, sorted."""
    missing = [str(folder) for folder in folders if not folder.is_dir()]
    if missing:
        raise OSError(f"no such folder: {', '.join(missing)}")
    return sorted(p for folder in folders for p in folder.rglob("*") if p.suffix.lower() in suffixes)


def cached_clips(paths: list[Path], cache: Path) -> list[Path]:
    """Each clip decoded once into `cache` as a .npy; unreadable files are named, skipped and counted."""
    cache.mkdir(parents=True, exist_ok=True)
    arrays, bad = [], 0
    for path in paths:
        stat = path.stat()
        key = hashlib.sha256(f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns} {CACHED_SIZE}".encode()).hexdigest()[
            :20
        ]
        target = cache / f"{path.stem}-{key}.npy"
        if not target.exists():
            try:
                frames = read_clip(path)
            except OSError as error:
                log.warning("skipped: %s", error)
                bad += 1
                continue
            partial = target.with_suffix(".part.npy")
            np.save(partial, frames)
            partial.replace(target)
        arrays.append(target)
    if bad:
        log.warning("%d of %d clips were skipped", bad, len(paths))
    return arrays


class Sequences(Dataset[dict[str, Tensor]]):
    """Samples by index; see the module's docstring. Give it to a DataLoader without shuffling."""

    def __init__(
        self, clips: list[Path], images: list[Path], options: DataOptions, seed: int, count: int, first: int = 0
    ):
        """clips: .npy files of `cached_clips`; images: picture files; the samples are first .. first + count - 1."""
        self.clips = [np.load(path, mmap_mode="r") for path in clips]
        self.clips = [clip for clip in self.clips if len(clip) >= options.length + 2]
        if not self.clips and not images:
            raise ValueError(f"Sequences: found no image and no clip of {options.length + 2} frames or more")
        self.images, self.options, self.seed, self.count, self.first = images, options, seed, count, first

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, position: int) -> dict[str, Tensor]:
        """One sample.

        Returns:
            lab: (S, 3, H, W) float32, L 0..100.
            flow_backward, valid: (S-2, 2, H, W) and (S-2, 1, H, W), from each frame of the sequence to the one before.
            true: (1,), 1 where the reference shows the same things, 0 where it is a foreign picture.
        """
        rng = np.random.default_rng((self.seed, self.first + position))
        use_image = not self.clips or (len(self.images) > 0 and rng.random() < self.options.images)
        frames = self._from_image(rng) if use_image else self._from_clip(rng)
        true = 1.0
        if rng.random() < self.options.foreign:
            other = self._any_picture(rng)
            frames[0] = augment.fit(other, self.options.size, rng)
            true = 0.0
        frames = augment.color_of_sequence(frames, rng)
        rgb = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).float() / 255.0
        lab = rgb_to_lab(rgb)
        L = lab[1:, 0].numpy()
        flow, valid = zip(*(optical_flow.between(before, now) for before, now in pairwise(L)), strict=True)
        lab[:, :1] = augment.luminance(lab[:, :1], rng)
        return {
            "lab": lab,
            "flow_backward": torch.from_numpy(np.stack(flow)).permute(0, 3, 1, 2).float(),
            "valid": torch.from_numpy(np.stack(valid))[:, None].float(),
            "true": torch.tensor([true]),
        }

    def _any_picture(self, rng: np.random.Generator) -> Picture:
        if self.images and rng.random() < 0.6:
            return self._image(rng)
        clip = self.clips[rng.integers(len(self.clips))] if self.clips else None
        return self._image(rng) if clip is None else np.asarray(clip[rng.integers(len(clip))])

    def _image(self, rng: np.random.Generator) -> Picture:
        for _ in range(20):
            path = self.images[rng.integers(len(self.images))]
            try:
                return read_image(path)
            except OSError as error:
                log.warning("skipped: %s", error)
        raise OSError("Sequences: 20 pictures in a row cannot be decoded")

    def _from_clip(self, rng: np.random.Generator) -> list[Picture]:
        o = self.options
        clip = self.clips[rng.integers(len(self.clips))]
        strides = [s for s in o.strides if s * o.length + 1 <= len(clip)]
        stride = int(rng.choice(strides)) if strides else 1
        span = stride * o.length
        start = int(rng.integers(len(clip) - span))
        numbers = [start + i * stride for i in range(o.length + 1)]
        if rng.random() < 0.5:
            numbers.reverse()
        kind = rng.random()
        if kind < 0.25:
            reference = numbers[0]
        elif kind < 0.85:
            reference = int(rng.integers(len(clip)))
        else:
            reference = int(rng.choice(numbers))
        crop = augment.random_crop(clip.shape[1:3], o.size, rng)
        frames = [crop(np.asarray(clip[n])) for n in numbers]
        if kind < 0.25:
            first = frames[0]
        elif kind < 0.85:
            first = (crop if rng.random() < 0.6 else augment.random_crop(clip.shape[1:3], o.size, rng))(
                np.asarray(clip[reference])
            )
        else:
            first = augment.distort(crop(np.asarray(clip[reference])), rng, strength=1.0)
        if rng.random() < 0.5:
            frames, first = [np.ascontiguousarray(f[:, ::-1]) for f in frames], np.ascontiguousarray(first[:, ::-1])
        return [first, *frames]

    def _from_image(self, rng: np.random.Generator) -> list[Picture]:
        picture = augment.fit(
            self._image(rng), (int(self.options.size[0] * 1.25), int(self.options.size[1] * 1.25)), rng
        )
        moved = augment.moving(picture, self.options.size, self.options.length + 1, rng)
        reference = augment.distort(augment.centre(picture, self.options.size), rng, strength=1.0)
        return [reference, *moved]

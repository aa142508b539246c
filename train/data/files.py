"""Read clips and pictures, and keep arrays made of them on disk."""

from __future__ import annotations

import hashlib
import logging
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from vsexvc.colour.lab import rgb_to_lab
from vsexvc.support.errors import first_line

Picture = NDArray[np.uint8]
VIDEO_SUFFIXES = {".mp4", ".mkv", ".avi", ".mov", ".webm", ".m4v"}
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
CACHED_SIZE = (216, 384)  # rows, columns: clips are stretched to this by area, as the evaluation does


log = logging.getLogger("train")


class UnreadableError(OSError):
    """Report that a file holds no picture; other errors of the disk have other types."""


def read_clip(path: Path, size: tuple[int, int] = CACHED_SIZE, most: int = 100_000) -> Picture:
    """Read all frames of a video, RGB, stretched to `size` by area: (frames, rows, columns, 3) uint8.

    Raises UnreadableError where nothing can be decoded.
    """
    capture = cv2.VideoCapture(str(path))
    frames: list[Any] = []
    while len(frames) < most:
        good, frame = capture.read()
        if not good:
            break
        frames.append(cv2.cvtColor(cv2.resize(frame, size[::-1], interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2RGB))
    capture.release()
    if not frames:
        raise UnreadableError(f"read_clip: {path} has no frame that can be decoded")
    return np.stack(frames)


def read_image(path: Path) -> Picture:
    """Read a picture as RGB (rows, columns, 3) uint8. Raise UnreadableError if it cannot be decoded."""
    try:
        picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    except cv2.error as error:  # such as a size beyond its limit
        raise UnreadableError(f"read_image: {path} cannot be decoded: {first_line(error)}") from None
    if picture is None:
        raise UnreadableError(f"read_image: {path} cannot be decoded")
    return np.ascontiguousarray(picture[:, :, ::-1])


def find(folders: list[Path], suffixes: set[str]) -> list[Path]:
    """List all files below the folders with one of the suffixes, sorted."""
    missing = [str(folder) for folder in folders if not folder.is_dir()]
    if missing:
        raise OSError(f"no such folder: {', '.join(missing)}")
    found = (path for folder in folders for path in folder.rglob("*") if path.suffix.lower() in suffixes)
    return sorted(path for path in found if path.is_file())  # no folder, and no link to a file that is gone


@contextmanager
def appearing(target: Path) -> Iterator[BinaryIO]:
    """Open a file for atomic writing, even if several processes write it."""
    part = target.with_name(f".{uuid.uuid4().hex}")
    try:
        with part.open("wb") as file:
            yield file
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def cached(target: Path, make: Callable[[], NDArray[Any]]) -> NDArray[Any]:
    """Return the array stored in `target`, memory mapped; make it first if the file is missing or damaged.

    The file is written atomically, and several processes may request it at once.
    """
    try:
        return np.load(target, mmap_mode="r")  # type: ignore[no-any-return]
    except FileNotFoundError:
        pass
    except (ValueError, EOFError) as error:
        log.warning("made again: %s (%s)", target, error)
    array = make()
    with appearing(target) as file:
        np.save(file, array)
    return np.load(target, mmap_mode="r")  # type: ignore[no-any-return]


class Clips(list[Picture]):
    """Hold the frames of decoded clips, memory mapped. Another process gets the paths and maps them again."""

    def __init__(self, paths: list[Path]) -> None:
        """Map the .npy files of `samples.cached_clips`."""
        super().__init__(np.load(path, mmap_mode="r") for path in paths)
        self.paths = paths

    def __reduce__(self) -> tuple[type[Clips], tuple[list[Path]]]:
        """Tell pickle how to make the same again."""
        return Clips, (self.paths,)


def identity(path: Path, *more: object) -> str:
    """Return 20 hexadecimal digits that depend on the file's path, size and time, and on the other arguments."""
    stat = path.stat()
    named = " ".join(map(str, (path.resolve(), stat.st_size, stat.st_mtime_ns, *more)))
    return hashlib.sha256(named.encode()).hexdigest()[:20]


def tone(pictures: NDArray[np.uint8]) -> tuple[float, float]:
    """Return mean L and mean chroma of (N, rows, columns, 3) uint8 RGB, from about every 54th row."""
    step = max(1, pictures.shape[1] // 54)
    lab = rgb_to_lab(torch.from_numpy(pictures[:, ::step, ::step].astype(np.float32) / 255.0).permute(0, 3, 1, 2))
    return float(lab[:, 0].mean()), float(torch.linalg.vector_norm(lab[:, 1:], dim=1).mean())

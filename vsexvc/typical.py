"""Choose the frame that stands for a scene: never a black one if others exist."""

from __future__ import annotations

from collections.abc import Generator, Sequence

import numpy as np
import vapoursynth as vs
from numpy.typing import NDArray

from vsexvc.changes import SIZE
from vsexvc.cuts import CUT, Cuts
from vsexvc.scenes import Picture
from vsexvc.schedule import LUMA_CLIP, Frames, Need, Schedule

LOOK = 24  # frames of a scene, from its start, that are examined

_AT_ONCE = 8  # frames that are examined at once


def find_typical(schedule: Schedule, cuts: Cuts, scene: int) -> Generator[list[Need], Frames, int]:
    """Find the frame that stands for a scene, among its first ones."""
    pictures: list[Picture] = []
    stop = min(scene + LOOK, schedule.num_frames)
    for start in range(scene, stop, _AT_ONCE):
        numbers = range(start, min(start + _AT_ONCE, stop))
        frames = yield [(number, LUMA_CLIP) for number in numbers]
        cut = next((number for number in numbers if number > scene and cuts[number] == CUT), numbers.stop)
        pictures += [thumbnail(frame) for frame in frames[: cut - start]]
        if cut < numbers.stop:
            break
    return scene + typical_frame(pictures)


def thumbnail(frame: vs.VideoFrame) -> Picture:
    """Return every n-th pixel of a GRAY16 frame, 8 bit, about SIZE: for typical_frame."""
    plane = np.asarray(frame[0])
    rows, columns = (max(1, length // least) for length, least in zip(plane.shape, SIZE[::-1], strict=True))
    return (plane[::rows, ::columns] >> 8).astype(np.uint8)


def lit_frames(pictures: Sequence[Picture]) -> NDArray[np.intp]:
    """Return the indices of pictures with half of the highest contrast (variance): no black frame, no end of a fade."""
    contrast = np.stack(pictures).astype(np.int32).reshape(len(pictures), -1).var(axis=1)
    return np.flatnonzero(contrast >= contrast.max() / 2.0)


def typical_frame(pictures: Sequence[Picture]) -> int:
    """Return the index of the picture that stands for a scene: well lit, and most similar to the others.

    Only lit pictures are considered. The result has the least sum of absolute differences from the others; of equal
    ones it is the first.

    Args:
        pictures: the scene's first frames, all of one size.
    """
    stack = np.stack(pictures).astype(np.int32).reshape(len(pictures), -1)
    lit = lit_frames(pictures)
    differences = [int(np.abs(stack[lit] - stack[n]).sum()) for n in lit]
    return int(lit[differences.index(min(differences))])

"""Find the picture of a segment within its black borders, and the size at which the network sees it.

The area is found in frames at the network's size. Where borders leave its shorter side too small, it is found again in
larger frames (FINE_CLIP), which are resized so that the area has the network's size, as if the film had no borders.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vsexvc.borders import Area, Zoom, is_dark, picture_area
from vsexvc.cuts import CUT, UNKNOWN, Cuts
from vsexvc.reader import Reader
from vsexvc.schedule import FINE_CLIP, LUMA_CLIP, Frames, Need, Schedule

# Frames of a segment, from its start, in which its area is found; later ones are used if earlier ones are dark.
_SAMPLES, _LATER_SAMPLES = (0, 8, 16, 24), (48, 72, 96)


@dataclass(frozen=True)
class Framing:
    """Hold the area of a segment's frames at the network's size, and the zoom if they are enlarged.

    The area is None if borders are picture.
    """

    area: Area | None = None
    zoom: Zoom | None = None

    @property
    def inside(self) -> Area | None:
        """Return the area in the frames that `read` returns."""
        return self.area if self.zoom is None else self.zoom.area

    def needed(self, numbers: Sequence[int]) -> list[Need]:
        """Return what `read` takes of frames; enlarged ones come twice, since the first clip tells the cuts."""
        clips = (LUMA_CLIP,) if self.zoom is None else (LUMA_CLIP, FINE_CLIP)
        return [(number, clip) for clip in clips for number in numbers]

    def read(self, reader: Reader, frames: Frames) -> Tensor:
        """Return L (B, 1, h, w), 0..100, for the network."""
        if self.zoom is None:
            return reader.luma(frames)
        return self.zoom(reader.luma(frames[len(frames) // 2 :])).clamp_(0.0, 100.0)


def find_framing(schedule: Schedule, cuts: Cuts, reader: Reader, start: int) -> Generator[list[Need], Frames, Framing]:
    """Find the framing of the segment that starts at a frame."""
    numbers, frames = [start], [reader.luma((yield [(start, LUMA_CLIP)]))]
    for offset in (*_SAMPLES[1:], *_LATER_SAMPLES):
        number = start + offset
        if number >= schedule.num_frames or (offset > _SAMPLES[-1] and not is_dark(torch.cat(frames))):
            break
        between = range(numbers[-1] + 1, number + 1) if schedule.sc else ()
        unknown = [k for k in between[:-1] if cuts[k] == UNKNOWN]
        L = reader.luma((yield [(k, LUMA_CLIP) for k in (*unknown, number)])[-1:])
        if any(cuts[k] == CUT for k in between):
            break
        frames.append(L)
        numbers.append(number)
    L = torch.cat(frames)
    area = picture_area(L)
    if not reader.enlarges(area):
        return Framing(area)
    fine = reader.luma((yield [(number, FINE_CLIP) for number in numbers]))
    return Framing(area, reader.zoom(fine, (L.shape[2], L.shape[3])))

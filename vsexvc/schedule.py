"""Define which references frames take, and how requests name the frames that they require."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import vapoursynth as vs

BLOCK = 4  # frames whose correspondence is computed at once
MOST_AROUND = 64  # highest value of `around`
MOST_MEMORY = 8  # highest value of `memory`
REMEMBER = 32  # frames of a segment between two that it remembers
SEARCH = 32  # frames that are examined for a cut at once
LUMA_CLIP, REF_CLIP, FINE_CLIP = 0, 1, 2  # the clips of the PyFilter

Need = tuple[int, int]  # frame number, index of the clip
Frames = Sequence[vs.VideoFrame]


@dataclass(frozen=True)
class Schedule:
    """Define which frame takes which reference, and where the recurrence restarts.

    Attributes:
        num_frames: frames of the clip.
        num_references: frames of the reference clip.
        ref_frames: for each reference the frame from which it is used, ascending (the first also before); None:
            each scene takes the reference that its typical frame is most similar to: typical.py.
        propagate: whether a segment starts from its reference as the previous frame; `ref_frames` then start segments.
        sc: whether the recurrence restarts at cuts.
        sc_threshold: see vsexvc.scenes.measure_cuts.
        around: how many `ref_frames` each frame uses, see stretch.py.
        memory: how many earlier frames of the segment give colours too, one of every REMEMBER frames.
    """

    num_frames: int
    num_references: int = 1
    ref_frames: tuple[int, ...] | None = (0,)
    propagate: bool = False
    sc: bool = True
    sc_threshold: float | None = None
    around: int = 1
    memory: int = 0

    def switch_before(self, n: int) -> int:
        """Return the last of `ref_frames` up to frame n; 0 if there is none."""
        frames = self.ref_frames or ()
        index = bisect_right(frames, n)
        return frames[index - 1] if index else 0

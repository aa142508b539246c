"""Mark the frames of a clip that begin a scene.

How a change is told from a few small pictures is changes.py's; here the pictures come from VapourSynth frames. Frames
are decided on in blocks, each from a window of pictures around it: the result for a frame is a pure function of its
number, whatever was requested before. The pictures are kept, so that in a run from start to end each is made once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
import vapoursynth as vs
from numpy.typing import NDArray

from vsexvc.changes import AHEAD, BACK, DEFAULT_THRESHOLD, SIZE, find_changes
from vsexvc.frames import listed
from vsexvc.support.errors import first_line
from vsexvc.support.threads import interrupt

MARK = "ExvcCut"  # frame property: 1 where a scene begins

_BLOCK = 16  # frames decided at once
_PICTURES, _BLOCKS = 16384, 4096  # how many are kept
REQUESTED_AHEAD = _BLOCK - 1 + AHEAD  # frames after one, at most, that its mark needs

Picture = NDArray[np.uint8]


def small_pictures(clip: vs.VideoNode) -> vs.VideoNode:
    """Return the pictures that scenes are told by, with the frame properties. clip: GRAY of full range."""
    return clip.resize.Bilinear(*SIZE, format=vs.GRAY8)


def measure_cuts(clip: vs.VideoNode, threshold: float | None = None) -> vs.VideoNode:
    """Return the clip with a frame property for `is_cut`.

    Args:
        clip: GRAY of full range, any constant size and depth.
        threshold: see Marks.
    """
    width, height = SIZE
    marked = vs.core.exvc.PyFilter(
        clips=[clip.std.BlankClip(*SIZE, format=vs.GRAY8, keep=True), small_pictures(clip)],
        step=_Marker(Marks(clip.num_frames, threshold)),
        interrupt=interrupt,
        format=vs.GRAY8,
        width=width,
        height=height,
    )
    return clip.std.CopyFrameProps(marked, props=[MARK])


def is_cut(props: Mapping[str, Any]) -> bool:
    """Return whether a scene begins with the frame of these properties. props: of a clip of measure_cuts."""
    return bool(props.get(MARK, 0))


class Marks:
    """Which frames begin a scene, told from frames of `small_pictures` that are added in any order."""

    def __init__(self, num_frames: int, threshold: float | None = None) -> None:
        """The marks of one clip.

        Args:
            num_frames: of the clip.
            threshold: of vsexvc.changes.find_changes. None: `_SceneChangePrev` is trusted on the frames that carry it,
                and the default holds for the others.
        """
        self._num_frames, self._trusts = num_frames, threshold is None
        self._threshold = DEFAULT_THRESHOLD if threshold is None else threshold
        self._pictures: OrderedDict[int, tuple[Picture, bool | None]] = OrderedDict()  # and the given mark
        self._blocks: OrderedDict[int, frozenset[int]] = OrderedDict()  # the first frames of scenes in each block

    def add(self, n: int, frame: vs.VideoFrame) -> None:
        """Keeps what there is to know of a frame."""
        given = bool(frame.props["_SceneChangePrev"]) if self._trusts and "_SceneChangePrev" in frame.props else None
        self._pictures[n] = np.array(frame[0]), given
        while len(self._pictures) > _PICTURES:
            self._pictures.popitem(last=False)

    def window(self, n: int) -> range:
        """The frames that decide on frame n."""
        first = n - n % _BLOCK
        return range(max(0, first - BACK), min(self._num_frames, first + _BLOCK + AHEAD))

    def missing(self, n: int) -> list[int]:
        """The frames that must be added before frame n can be decided on: n alone, until it is known to be unmarked."""
        if n in self._pictures and self._pictures[n][1] is not None:
            return []
        if self._trusts and n not in self._pictures:
            return [n]
        if n // _BLOCK in self._blocks:
            return []
        return [number for number in self.window(n) if number not in self._pictures]

    def begins(self, n: int) -> bool:
        """Whether a scene begins with frame n, of which nothing is missing; never with frame 0 that carries no mark."""
        given = self._pictures[n][1] if n in self._pictures else None
        if given is not None:
            return given
        block = n // _BLOCK
        if block not in self._blocks:
            window = self.window(n)
            changes = find_changes(np.stack([self._pictures[number][0] for number in window]), self._threshold)
            self._blocks[block] = frozenset(window.start + change for change in changes)
            if len(self._blocks) > _BLOCKS:
                self._blocks.popitem(last=False)
        return n in self._blocks[block]


class _Marker:
    """The step callable of exvc.PyFilter that marks frames. clips[0]: costs nothing; clips[1]: small_pictures."""

    def __init__(self, marks: Marks) -> None:
        self._marks = marks

    def __call__(self, n: int, nums: Any, clips: Any, frames: Any) -> dict[str, Any]:
        """One call of PyFilter (native/pyfilter.c)."""
        try:
            came = [
                (number, frame)
                for number, clip, frame in zip(listed(nums), listed(clips), listed(frames), strict=True)
                if clip == 1
            ]
            for number, frame in came:
                self._marks.add(number, frame)
            missing = self._marks.missing(n)
            if missing:
                # Others may have displaced some meanwhile: a request that brings its whole window lacks none.
                needs = self._marks.window(n) if len(came) > 1 else missing
                return {"need": list(needs), "need_clip": [1] * len(needs)}
            marked = vs.core.create_video_frame(vs.GRAY8, *SIZE)
            marked.props[MARK] = int(self._marks.begins(n))
            return {"frame": marked}
        except Exception as error:
            return {"error": f"Colorize: frame {n}: {first_line(error)}"}

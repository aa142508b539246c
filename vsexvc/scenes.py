"""Mark the frames of a clip that begin a scene, by the rules of changes.py.

changes.py finds a change in a few small pictures; this module makes the pictures from VapourSynth frames. Frames are
decided in blocks, each from a window of pictures around it: the result for a frame is a pure function of its
number and does not depend on earlier requests. The pictures are kept, so that a run from start to end makes each once.
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

_BLOCK = 16  # frames that are decided at once
_PAGE = 256  # frames whose pictures lie in one array: thousands of small ones would fragment the memory
_PAGES, _BLOCKS = 64, 4096  # pages and blocks that are kept
REQUESTED_AHEAD = _BLOCK - 1 + AHEAD  # most frames after one that its mark depends on

Picture = NDArray[np.uint8]


def small_pictures(clip: vs.VideoNode) -> vs.VideoNode:
    """Return the pictures in which scenes are found, with the frame properties. clip: GRAY of full range."""
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
    """Tell which frames begin a scene, from frames of `small_pictures` that are added in any order."""

    def __init__(self, num_frames: int, threshold: float | None = None) -> None:
        """Prepare the marks of one clip.

        Args:
            num_frames: frames of the clip.
            threshold: see vsexvc.changes.find_changes. None: `_SceneChangePrev` is used on frames that have it, and
                the default on the others.
        """
        self._num_frames, self._trusts = num_frames, threshold is None
        self._threshold = DEFAULT_THRESHOLD if threshold is None else threshold
        self._pages: OrderedDict[int, _Page] = OrderedDict()
        self._blocks: OrderedDict[int, frozenset[int]] = OrderedDict()  # the first frames of scenes in each block

    def add(self, n: int, frame: vs.VideoFrame) -> None:
        """Keep the picture and the mark of a frame."""
        page = self._pages.get(n // _PAGE)
        if page is None:
            page = self._pages[n // _PAGE] = _Page()
        page.pictures[n % _PAGE] = np.asarray(frame[0])
        page.added[n % _PAGE] = True
        if self._trusts and "_SceneChangePrev" in frame.props:
            page.given[n % _PAGE] = bool(frame.props["_SceneChangePrev"])
        while len(self._pages) > _PAGES:
            self._pages.popitem(last=False)

    def window(self, n: int) -> range:
        """Return the frames that decide on frame n."""
        first = n - n % _BLOCK
        return range(max(0, first - BACK), min(self._num_frames, first + _BLOCK + AHEAD))

    def missing(self, n: int) -> list[int]:
        """Return the frames to add before frame n can be decided: n alone, until it is known to be unmarked."""
        if self._given(n) is not None:
            return []
        if self._trusts and not self._has(n):
            return [n]
        if n // _BLOCK in self._blocks:
            return []
        return [number for number in self.window(n) if not self._has(number)]

    def begins(self, n: int) -> bool:
        """Return whether a scene begins with frame n, whose window is complete; False for an unmarked frame 0."""
        given = self._given(n)
        if given is not None:
            return given
        block = n // _BLOCK
        if block not in self._blocks:
            window = self.window(n)
            pictures = np.stack([self._pages[number // _PAGE].pictures[number % _PAGE] for number in window])
            changes = find_changes(pictures, self._threshold)
            self._blocks[block] = frozenset(window.start + change for change in changes)
            if len(self._blocks) > _BLOCKS:
                self._blocks.popitem(last=False)
        return n in self._blocks[block]

    def _has(self, n: int) -> bool:
        page = self._pages.get(n // _PAGE)
        return page is not None and bool(page.added[n % _PAGE])

    def _given(self, n: int) -> bool | None:
        """Return the mark that the frame has."""
        page = self._pages.get(n // _PAGE)
        return None if page is None else page.given.get(n % _PAGE)


class _Page:
    """Hold _PAGE consecutive frames.

    Attributes:
        pictures: (_PAGE, h, w), of the added frames.
        added: (_PAGE,) whether a frame was added.
        given: marks of the frames, by number in the page.
    """

    def __init__(self) -> None:
        self.pictures = np.zeros((_PAGE, *SIZE[::-1]), np.uint8)
        self.added = np.zeros(_PAGE, np.bool_)
        self.given: dict[int, bool] = {}


class _Marker:
    """Mark frames, as the step callable of exvc.PyFilter. clips[0]: a cheap one; clips[1]: small_pictures."""

    def __init__(self, marks: Marks) -> None:
        self._marks = marks

    def __call__(self, n: int, nums: Any, clips: Any, frames: Any) -> dict[str, Any]:
        """Answer one call of PyFilter (native/pyfilter.c)."""
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
                # Other requests may have displaced some meanwhile; a request with its whole window lacks none.
                needs = self._marks.window(n) if len(came) > 1 else missing
                return {"need": list(needs), "need_clip": [1] * len(needs)}
            marked = vs.core.create_video_frame(vs.GRAY8, *SIZE)
            marked.props[MARK] = int(self._marks.begins(n))
            return {"frame": marked}
        except Exception as error:
            return {"error": f"Colorize: frame {n}: {first_line(error)}"}

"""Find scene cuts: a pure function of the frame number, from measures that VapourSynth's filters compute."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import vapoursynth as vs

DEFAULT_CUT = 0.05  # misses 1 % of joins of unlike clips, and seldom takes motion for a cut
_SIZE = (64, 36)  # of the picture that cuts are found on
_PROPS = ("ExvcCut", "ExvcCutBefore", "ExvcCutAfter")  # prefixes of std.PlaneStats' properties


def measure_cuts(clip: vs.VideoNode) -> vs.VideoNode:
    """A tiny clip with what `is_cut` needs in its frame properties. clip: GRAY, any constant size and depth."""
    tiny = clip.resize.Bilinear(*_SIZE, format=vs.GRAY8)
    last = tiny.num_frames - 1

    def shifted(frames: int) -> vs.VideoNode:
        """Frame n + frames at n, the ends repeated; never longer than the clip on the way."""
        steps = min(abs(frames), last)
        if steps == 0:
            return tiny
        return tiny[:1] * steps + tiny[:-steps] if frames < 0 else tiny[steps:] + tiny[last:] * steps

    for prefix, offset in zip(_PROPS, (0, -1, 1), strict=True):
        stats = shifted(offset).std.PlaneStats(shifted(offset - 1), prop=prefix)
        clip = clip.std.CopyFrameProps(stats, props=[prefix + "Diff"])
    return clip


def is_cut(props: Mapping[str, Any], threshold: float | None) -> bool:
    """Whether a new scene begins with the frame of these properties.

    Without a threshold `_SceneChangePrev` is trusted where it is there. Else a cut is a frame whose mean difference in
    luma (0..1) to the frame before exceeds both its neighbours' by the threshold: steady motion, however fast, does
    not, nor does a dissolve or a flash of one frame.
    """
    if threshold is None and "_SceneChangePrev" in props:
        return bool(props["_SceneChangePrev"])
    here, before, after = (float(props.get(prefix + "Diff", 0.0)) for prefix in _PROPS)
    return here - max(before, after) > (DEFAULT_CUT if threshold is None else threshold)

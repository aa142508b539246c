"""scenes.py on clips of known levels."""

from __future__ import annotations

import pytest
import vapoursynth as vs

from vsexvc.scenes import is_cut, measure_cuts

core = vs.core


def test_is_cut() -> None:
    def props(here: float, before: float, after: float) -> dict[str, float]:
        return {"ExvcCutDiff": here, "ExvcCutBeforeDiff": before, "ExvcCutAfterDiff": after}

    assert is_cut(props(0.2, 0.01, 0.02), None)
    assert not is_cut(props(0.2, 0.19, 0.21), None)
    assert not is_cut(props(0.2, 0.01, 0.2), None)
    assert not is_cut(props(0.2, 0.01, 0.02), 0.5)
    assert is_cut({"_SceneChangePrev": 1}, None)
    assert not is_cut({"_SceneChangePrev": 0, **props(0.2, 0.01, 0.02)}, None)
    assert is_cut({"_SceneChangePrev": 0, **props(0.2, 0.01, 0.02)}, 0.05)


def test_measured() -> None:
    """A dissolve, a cut, a flash, a cut: levels of 8 bits."""
    levels = [*range(20, 100, 8), 200, 200, 200, 255, 200, 200, 40, 40]
    frames = [core.std.BlankClip(format=vs.GRAY8, width=80, height=50, length=1, color=level) for level in levels]
    measured = measure_cuts(core.std.Splice(frames))
    found = [n for n, f in enumerate(measured.frames(close=True)) if is_cut(f.props, None)]
    assert found == [10, 16]


@pytest.mark.parametrize("length", [1, 2, 3])
def test_short_clips(length: int) -> None:
    measured = measure_cuts(core.std.BlankClip(format=vs.GRAY16, width=80, height=50, length=length))
    assert measured.num_frames == length
    assert not any(is_cut(f.props, None) for f in measured.frames(close=True))

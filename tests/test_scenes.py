"""Test scenes.py and typical.py: marks equal those of changes.py on the whole clip in any order; typical frames."""

from __future__ import annotations

import random

import numpy as np
import pytest
import vapoursynth as vs
from test_changes import faded, level, shot

from vsexvc.changes import find_changes
from vsexvc.scenes import REQUESTED_AHEAD, is_cut, measure_cuts
from vsexvc.typical import thumbnail, typical_frame

core = vs.core
_LONG = np.concatenate([shot(0), shot(0)[::-1]] * 3)[:150]
SHOTS = np.concatenate([faded(_LONG, 8), level(0, 6), shot(1, 40), shot(2, 5), shot(3, 90)]).round()


def clip_of(frames: np.ndarray, marks: dict[int, int] | None = None) -> vs.VideoNode:
    """Make a GRAY8 clip of the pictures. marks: _SceneChangePrev of some frames."""
    blank = core.std.BlankClip(format=vs.GRAY8, width=frames.shape[2], height=frames.shape[1], length=len(frames))

    def fill(n: int, f: vs.VideoFrame) -> vs.VideoFrame:
        f = f.copy()
        np.copyto(np.asarray(f[0]), frames[n].astype(np.uint8))
        if marks and n in marks:
            f.props["_SceneChangePrev"] = marks[n]
        return f

    return blank.std.ModifyFrame(blank, fill)


def marked(clip: vs.VideoNode, threshold: float | None = None) -> list[int]:
    return [n for n, f in enumerate(measure_cuts(clip, threshold).frames(close=True)) if is_cut(f.props)]


def test_marks_are_those_of_the_whole() -> None:
    expected = find_changes(SHOTS.astype(np.uint8))
    assert len(expected) == 3 and expected[1:] == [196, 201]
    assert marked(clip_of(SHOTS)) == expected


def test_any_order_gives_the_same() -> None:
    expected = set(find_changes(SHOTS.astype(np.uint8)))
    order = list(range(len(SHOTS)))
    random.Random(5).shuffle(order)
    measured = measure_cuts(clip_of(SHOTS))
    futures = [(n, measured.get_frame_async(n)) for n in order]
    for n, future in futures:
        with future.result() as frame:
            assert is_cut(frame.props) == (n in expected)


def test_no_frame_is_asked_for_twice_or_too_early() -> None:
    """A run of one thread from start to end requests each frame once, at most REQUESTED_AHEAD frames early."""
    asked: list[int] = []
    clip = clip_of(SHOTS)

    def note(n: int, f: vs.VideoFrame) -> vs.VideoFrame:
        asked.append(n)
        return f

    noted = clip.std.ModifyFrame(clip, note)
    pictures = noted.std.SetFrameProps(_Range=vs.RANGE_FULL)
    measured = measure_cuts(pictures)
    marks = measured.std.BlankClip(keep=True).std.CopyFrameProps(measured, props=["ExvcCut"])
    noted.std.SetVideoCache(mode=1, fixedsize=1, maxsize=2 * REQUESTED_AHEAD + 16)
    for n in range(len(SHOTS)):
        marks.get_frame(n).close()
        assert max(asked) <= n + REQUESTED_AHEAD
    assert sorted(asked) == list(range(len(SHOTS)))


def test_given_marks_win_without_a_threshold() -> None:
    marks = {n: int(n == 100) for n in range(170)}
    clip = clip_of(SHOTS, marks)
    assert marked(clip) == [100, 196, 201]
    assert marked(clip, 0.35) == find_changes(SHOTS.astype(np.uint8))
    assert marked(clip, 1.0) == []


@pytest.mark.parametrize("length", [1, 2, 3])
def test_short_clips(length: int) -> None:
    measured = measure_cuts(core.std.BlankClip(format=vs.GRAY16, width=80, height=50, length=length))
    assert measured.num_frames == length
    assert not any(is_cut(f.props) for f in measured.frames(close=True))


def test_a_typical_frame_is_lit_and_like_the_others() -> None:
    scene = shot(0, 20)
    dark, flash = level(16, 5), level(235, 1)
    pictures = [*dark, *scene[:6] * 0.2, *scene[:4], *flash, *scene[4:], *(255 - scene[:2])]
    chosen = typical_frame([picture.astype(np.uint8) for picture in pictures])
    assert chosen in range(11, 15) or chosen in range(16, 32)
    assert typical_frame([np.zeros((4, 4), np.uint8)] * 3) == 0


def test_thumbnail() -> None:
    blank = core.std.BlankClip(format=vs.GRAY16, width=96, height=36, length=1, color=0x1234)
    with blank.get_frame(0) as frame:
        small = thumbnail(frame)
    assert small.shape == (18, 32) and (small == 0x12).all()

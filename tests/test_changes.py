"""Test changes.py on pictures whose changes are known, and on a film made of real shots."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scene_film
from numpy.typing import NDArray

from vsexvc.changes import AHEAD, BACK, SIZE, find_changes

WIDTH, HEIGHT = SIZE
CLIPS = Path(__file__).resolve().parents[2] / "shared/data"
BLACK, WHITE = 0.0, 255.0
Shot = NDArray[np.float64]


def shot(seed: int, length: int = 30) -> Shot:
    """Return a texture that moves slowly, (length, HEIGHT, WIDTH)."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    waves = np.random.default_rng(seed).uniform(-0.6, 0.6, (8, 3))
    frames = [
        sum(np.sin(a * x + b * y + 6 * seed + 0.03 * n + c * 9) for a, b, c in waves) * 18 + 120 for n in range(length)
    ]
    return np.clip(np.stack(frames), BLACK, WHITE)


def level(value: float, length: int) -> Shot:
    return np.full((length, HEIGHT, WIDTH), value)


def faded(frames: Shot, length: int, to: float = BLACK) -> Shot:
    """Fade out over the last frames."""
    gain = np.ones(len(frames))
    gain[-length:] = np.arange(length, 0, -1) / (length + 1)
    return to + (frames - to) * gain[:, None, None]


def dissolved(old: Shot, new: Shot, length: int) -> Shot:
    weight = (np.arange(1, length + 1) / (length + 1))[:, None, None]
    return np.concatenate([old[:-length], old[-length:] * (1 - weight) + new[:length] * weight, new[length:]])


def found(*shots: Shot) -> list[int]:
    return find_changes(np.rint(np.concatenate(shots)).astype(np.uint8))


def test_cuts_are_exact() -> None:
    assert found(shot(0), shot(1), shot(2, 7), shot(3)) == [30, 60, 67]
    assert found(shot(0)) == [] == found(shot(0, 1)) == found(level(90, 2))


@pytest.mark.parametrize("length", [2, 3, 4, 6, 8, 12, 16, 24, 32, 48])
def test_dissolves(length: int) -> None:
    (first,) = found(dissolved(shot(0, 40 + length), shot(1, 40 + length), length))
    assert 40 <= first <= 40 + length


def test_a_long_dissolve_is_one_change() -> None:
    """A dissolve is one change although the picture halfway differs from both sides as another scene does."""
    (first,) = found(dissolved(shot(0, 88), shot(8, 88), 48))
    assert 40 <= first <= 88


@pytest.mark.parametrize("to", [BLACK, WHITE])
@pytest.mark.parametrize(("out", "flat", "into"), [(4, 1, 4), (6, 0, 6), (8, 6, 8), (16, 24, 12), (0, 5, 8), (8, 5, 0)])
def test_fades(out: int, flat: int, into: int, to: float) -> None:
    old, new = shot(0, 30), shot(1, 30)
    old = faded(old, out, to) if out else old
    new = faded(new[::-1], into, to)[::-1] if into else new
    (first,) = found(old, level(to, flat), new)
    assert 30 - out <= first <= 30 + flat + into


@pytest.mark.parametrize("value", [BLACK, WHITE])
def test_a_flash_at_a_cut_does_not_hide_it(value: float) -> None:
    (first,) = found(shot(0, 29), level(value, 1), shot(1))
    assert first in (29, 30)


@pytest.mark.parametrize("length", [1, 2, 3])
@pytest.mark.parametrize("value", [BLACK, WHITE])
def test_a_flash_inside_a_scene_makes_none(value: float, length: int) -> None:
    scene = shot(0, 60)
    scene[30 : 30 + length] = value
    assert found(scene) == []


def test_flicker_makes_no_scenes() -> None:
    gain = np.random.default_rng(1).uniform(0.8, 1.2, (60, 1, 1))
    assert found(np.clip(shot(0, 60) * gain, 0, 255)) == []


def test_motion_makes_no_scenes() -> None:
    """A window may move by a twelfth of its width in each frame, until it shows nothing of the first frame."""
    wide = np.random.default_rng(2).uniform(0, 255, (HEIGHT + 2, 60 * 3 + WIDTH))
    kernel = np.ones(5) / 5
    wide = np.apply_along_axis(
        np.convolve, 1, np.apply_along_axis(np.convolve, 0, wide, kernel, "same"), kernel, "same"
    )
    assert found(np.stack([wide[:HEIGHT, 3 * n : 3 * n + WIDTH] for n in range(60)])) == []


def test_flat_scenes_differ_by_their_level() -> None:
    assert found(level(60, 10), level(160, 10), level(60, 10)) == [10, 20]
    assert found(np.concatenate([level(20 + 8 * n, 1) for n in range(12)])) == []


def test_a_long_black_parts_scenes_that_are_alike() -> None:
    assert found(shot(0), level(BLACK, 30), shot(0)) == [60]


def test_borders_are_no_picture() -> None:
    scenes = np.concatenate([shot(0), shot(1), shot(2)])
    scenes[:, :4] = scenes[:, -4:] = 16
    assert found(scenes) == [30, 60]


def test_threshold() -> None:
    frames = np.rint(np.concatenate([shot(0), shot(1)])).astype(np.uint8)
    assert find_changes(frames, 1.0) == []
    assert find_changes(frames, 0.0) == [30]


def test_frames_further_than_the_reach_do_not_matter() -> None:
    rng = np.random.default_rng(4)
    near = np.concatenate([shot(0, BACK), shot(1, AHEAD)])
    far = rng.uniform(0, 255, (40, HEIGHT, WIDTH))
    assert BACK + 40 in found(far, near, far) and BACK in found(near)


def test_film() -> None:
    """At least 95 % of 60 changes are found beside 40 other events, in shots that no threshold was chosen on."""
    shots = scene_film.real_shots(CLIPS)
    if shots is None:
        pytest.skip(f"needs {CLIPS}, of the project's shared data")
    frames, changes, _ = scene_film.make(*shots, seed=21)
    small = scene_film.shrunk(frames, SIZE)
    firsts = [
        start + change
        for block in range(0, len(small), 16)
        for start in [max(0, block - BACK)]
        for change in find_changes(small[start : block + 16 + AHEAD])
        if block <= start + change < block + 16
    ]
    score = scene_film.judge(firsts, changes)
    assert score.recall >= 0.95 and score.precision >= 0.95 and score.exact == score.cuts == 18, score

"""Test train/data/flow.py on pictures that the tests move."""

import cv2
import numpy as np
import pytest

from train.data import flow


def texture(height: int, width: int, seed: int = 0) -> flow.Array:
    """Return smooth noise, L 0..100."""
    noise = cv2.GaussianBlur(np.random.default_rng(seed).random((height, width), np.float32), (0, 0), 2.5)
    return (noise - noise.min()) / (noise.max() - noise.min()) * 100


@pytest.fixture(scope="module")
def world() -> flow.Array:
    return texture(140, 220)


def test_estimate_finds_a_shift(world):
    source, target = world[20:116, 20:180], world[17:113, 25:185]  # content moves by (-5, +3)
    found = flow.estimate(source, target)[12:-12, 12:-12]
    assert found.shape[-1] == 2
    assert np.abs(found - (-5, 3)).mean() < 0.15


def test_warp_takes_from_where_the_flow_points():
    image = np.arange(12, dtype=np.float32).reshape(3, 4)
    one_right = np.zeros((3, 4, 2), np.float32) + np.float32([1, 0])
    assert flow.warp(image, one_right).tolist() == [[1, 2, 3, 3], [5, 6, 7, 7], [9, 10, 11, 11]]
    half_down = np.zeros((3, 4, 2), np.float32) + np.float32([0, 0.5])
    assert flow.warp(image, half_down)[:2].tolist() == [[2, 3, 4, 5], [6, 7, 8, 9]]
    two_channels = np.stack([image, -image], -1)
    np.testing.assert_array_equal(flow.warp(two_channels, one_right)[..., 1], -flow.warp(image, one_right))


def test_consistent_by_hand():
    there = np.zeros((6, 8, 2), np.float32) + np.float32([2, 0])
    home = -there
    valid = flow.consistent(there, home)
    assert valid[:, :6].all()
    assert not valid[:, 6:].any()  # the flow points out of the picture
    # |2 - 1.2|^2 = 0.64 against 0.01 * (4 + 1.44) + 0.5 = 0.554; |2 - 1.4|^2 = 0.36 against 0.56
    assert not flow.consistent(there, home * 0.6).any()
    assert flow.consistent(there, home * 0.7)[:, :6].all()


def test_between_carries_the_previous_frame_and_marks_what_was_hidden():
    background, square = texture(120, 200, 1) * 0.4, 60 + texture(48, 48, 2) * 0.4
    previous, current = background.copy(), background.copy()
    previous[36:84, 60:108] = square
    current[36:84, 72:120] = square  # 12 to the right: columns 60..72 are uncovered
    flow_backward, valid = flow.between(previous, current)
    carried = flow.warp(previous, flow_backward)
    assert np.abs(carried - current)[valid].mean() < 2.0
    assert np.abs(flow_backward[44:76, 82:110] - (-12, 0)).mean() < 0.5
    assert valid[44:76, 82:110].mean() > 0.95
    assert valid[44:76, 61:71].mean() < 0.5


def test_threads_change_nothing(world):
    source, target = world[:96, :160], world[3:99, 4:164]
    before = cv2.getNumThreads()
    try:
        found = []
        for threads in (1, 4):
            cv2.setNumThreads(threads)
            found.append(flow.estimate(source, target))
            assert cv2.getNumThreads() == threads
    finally:
        cv2.setNumThreads(before)
    np.testing.assert_array_equal(*found)


def test_both_ways_keeps_each_pair_at_half_size(world):
    clip = np.stack([world[20 + 2 * n :, 10 + 3 * n :][:90, :150] for n in range(5)])  # content moves by (-3, -2)
    pairs = flow.both_ways(clip, 2)
    assert pairs.shape == (3, 2, 45, 75, 2) and pairs.dtype == np.float16
    inner = pairs[:, :, 8:-8, 8:-8].astype(np.float32)
    assert np.abs(inner[:, 0] - (6, 4)).mean() < 0.15  # the motion backward
    assert np.abs(inner[:, 1] - (-6, -4)).mean() < 0.15
    whole = flow.estimate(clip[3], clip[1])
    np.testing.assert_allclose(pairs[1, 0], whole.reshape(45, 2, 75, 2, 2).mean((1, 3)), atol=0.01)

"""Test train/measure/back.py with a session that moves halfway to the reference's mean colour at every step."""

import numpy as np
import pytest
import torch

from tests.test_protocol import ActedNetwork, ActedSession, clip_of, drawn, write_clips
from train.measure import back, metrics, scores
from train.measure.baselines import Clip, clip_paths, read_clip


@pytest.fixture
def acted(monkeypatch: pytest.MonkeyPatch) -> ActedNetwork:
    monkeypatch.setattr(back, "Session", ActedSession)
    return ActedNetwork()


def test_course():
    assert back.course(4) == [1, 2, 3, 2, 1, 0]
    assert back.course(2) == [1, 0]
    assert len(back.course(40)) == 78


def test_every_step_goes_on_from_the_one_before(acted, monkeypatch):
    clip, seen = clip_of(drawn(4)), []
    step = ActedSession.step

    def watched(self, state, correspondence):
        seen.append([torch.equal(correspondence.L[0], L) for L in clip.lab[:, :1]].index(True))
        return step(self, state, correspondence)

    monkeypatch.setattr(ActedSession, "step", watched)
    first, mean = clip.lab[0, 1:], clip.lab[0, 1:].mean((1, 2), keepdim=True)
    results = list(back.play(acted, clip, clip, rounds=2, propagate=True))
    assert seen == [1, 2, 3, 2, 1, 0] * 2
    for k, ab in enumerate(results):
        torch.testing.assert_close(ab[0], mean + (first - mean) * 0.5 ** (k + 1), atol=1e-3, rtol=0)
    seen.clear()
    other = clip_of(np.full((2, 48, 64, 3), (200, 90, 40), np.uint8))
    colour = other.lab[0, 1:, 0, 0]
    results = list(back.play(acted, clip, other, rounds=1, propagate=False))
    assert seen == [0, 1, 2, 3, 2, 1, 0]
    for k, ab in enumerate(results):  # frame 0 gets half of the colour, frame 1 three quarters
        torch.testing.assert_close(ab[0, :, 5, 7], colour * (1 - 0.5 ** (k + 2)), atol=1e-3, rtol=0)


def test_measure(acted, tmp_path):
    paths = clip_paths(write_clips(tmp_path / "clips", count=2, frames=5))
    table = back.measure(acted, paths, "clips", frames=3, rounds=2)
    document = table.as_json()
    steps = {"frame 1, forward": (1, 1), "farthest frame, round 1": (2, 2), "frame 0 returns, round 1": (0, 4)}
    steps |= {"farthest frame, round 2": (2, 6), "frame 0 returns, round 2": (0, 8)}
    assert set(document["rows"]) == set(steps)
    clips = [read_clip(path, 3) for path in paths]
    means = [clip.lab[:1, 1:].mean((2, 3), keepdim=True) for clip in clips]
    for row, (k, step) in steps.items():
        expected = []
        for clip, mean in zip(clips, means, strict=True):
            frame = Clip(clip.path, clip.rgb[k : k + 1])
            (result,) = scores.to_rgb(frame, mean + (clip.lab[:1, 1:] - mean) * 0.5**step)
            expected.append([metrics.psnr(result, frame.rgb[0]), *metrics.delta_e(result, frame.rgb[0])])
        assert list(document["rows"][row].values()) == pytest.approx(np.mean(expected, axis=0), abs=0.01)
    shares = np.array([0.5 ** (p + 1) - 0.5 ** (p + 5) for p in range(4)])  # round 1 less round 2
    own = [float((c.lab[:1, 1:] - m).norm(dim=1).mean()) * shares.mean() for c, m in zip(clips, means, strict=True)]
    assert document["changes"]["own"] == pytest.approx(np.mean(own), abs=1e-3)
    foreign = [float(mean.norm()) * shares.mean() / 2 for mean in means]
    assert document["changes"]["foreign"] == pytest.approx(np.mean(foreign), abs=1e-3)
    assert "clips, 2 clips, 2 rounds" in table.as_markdown()
    assert f"by the first true frame: {np.mean(own):.2f}." in table.as_markdown()


def test_one_round_says_nothing_of_changes(acted, tmp_path):
    paths = clip_paths(write_clips(tmp_path / "clips", count=1, frames=3))
    table = back.measure(acted, paths, "clips", frames=40)
    assert list(table.as_json()["rows"]) == ["frame 1, forward", "farthest frame, round 1", "frame 0 returns, round 1"]
    assert table.as_json()["changes"] == {} and not table.notes

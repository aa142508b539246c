"""Test train/measure/letterbox.py: where the borders are, and which pixels count."""

import numpy as np
import pytest
import torch

from tests.test_protocol import ActedNetwork, ActedSession, clip_of, drawn, write_clips
from train.measure import letterbox, metrics, scores
from train.measure.baselines import clip_paths, grey, read_clip
from vsexvc.borders import picture_area


@pytest.mark.parametrize(("rows", "columns"), [(0, 0), (8, 0), (0, 4)])
def test_the_picture_is_what_lies_within_the_borders(monkeypatch, rows, columns):
    class Session(ActedSession):
        """Return L and 2 L of the frame as its ab."""

        def reference(self, lab):
            assert lab.shape == (1, 3, 48, 64)  # no borders
            return super().reference(lab)

        def area(self, L):
            return picture_area(L)

        def correspond(self, L, reference, area):
            assert area == (slice(rows, rows + 48), slice(columns, columns + 64))  # of its full size
            assert L.shape[1:] == (1, 48 + 2 * rows, 64 + 2 * columns)
            assert (L[:, :, :rows] == 0).all() and (L[:, :, rows + 48 :] == 0).all()
            assert (L[..., :columns] == 0).all() and (L[..., columns + 64 :] == 0).all()
            return super().correspond(L, reference, area)

        def step(self, state, correspondence):
            return None, torch.cat((correspondence.L, 2 * correspondence.L), dim=1)

    monkeypatch.setattr(letterbox, "Session", Session)
    clip = clip_of(drawn(4))
    found = letterbox.colour_within(ActedNetwork(), clip, rows, columns)
    torch.testing.assert_close(found, torch.cat((clip.lab[1:, :1], 2 * clip.lab[1:, :1]), dim=1), atol=1e-4, rtol=0)


def test_measure(monkeypatch, tmp_path):
    """The figures fit a session that gives the reference's mean colour, but none to letterboxed frames."""

    class Session(ActedSession):
        def area(self, L):
            return picture_area(L)

        def step(self, state, correspondence):
            letterboxed = correspondence.L.shape[2] == 216 + 2 * 32
            return None, correspondence.warped_ab * (0.0 if letterboxed else 1.0)

    monkeypatch.setattr(letterbox, "Session", Session)
    paths = clip_paths(write_clips(tmp_path / "clips", count=2, frames=4))
    rows = letterbox.measure(ActedNetwork(), paths, "clips", frames=3).as_json()["rows"]
    expected = []
    for path in paths:
        clip = read_clip(path, 3)
        mean = clip.lab[:1, 1:].mean((2, 3), keepdim=True).expand(2, -1, 216, 384)
        for ab in (mean, grey(clip)):
            pairs = list(zip(scores.to_rgb(clip, ab), clip.rgb[1:], strict=True))
            expected.append(np.mean([(metrics.psnr(*pair), *metrics.delta_e(*pair)) for pair in pairs], axis=0))
    plain, lettered = np.array(expected[::2]), np.array(expected[1::2])
    for row, values in (("plain", plain), ("letterbox", lettered), ("pillarbox", plain)):
        found = [rows[row][key] for key in ("psnr", "delta_e", "delta_e_90")]
        assert found == pytest.approx(values.mean(0), abs=0.01)
        losses = plain[:, 0] - values[:, 0]
        assert (rows[row]["loss"], rows[row]["worst loss"]) == pytest.approx((losses.mean(), losses.max()), abs=0.01)
    assert rows["letterbox"]["loss"] > 0.1

"""Test train/measure/nothing.py with a session whose colours are known, on clips that the tests draw."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tests.test_protocol import ActedNetwork, ActedSession, write_clips
from train.measure import alone, metrics, nothing, scores
from train.measure.baselines import Clip, clip_paths, read_clip


def write_flat(path: Path, rgb: tuple[int, int, int]) -> Path:
    cv2.imwrite(str(path), np.full((90, 160, 3), rgb[::-1], np.uint8))
    return path


def test_the_plain_picture():
    plain = nothing.plain_grey()
    assert plain.shape == (1, 3, 216, 384)
    assert plain[0].flatten(1).unique(dim=1).tolist() == [[50.0], [0.0], [0.0]]


def test_least_colourful(tmp_path: Path):
    red, dull, pale, grey = (200, 20, 20), (110, 100, 100), (140, 120, 110), (90, 90, 90)
    for name, colour in (("a", red), ("b", dull), ("c", pale), ("d", grey)):
        write_flat(tmp_path / f"{name}.png", colour)
    write_flat(tmp_path / "e.png", grey)
    assert [path.stem for path in nothing.least_colourful(tmp_path, 4)] == ["d", "e", "b", "c"]
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match="empty must hold pictures"):
        nothing.least_colourful(empty)


def test_measure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The figures fit a session that gives a frame without a previous one half of the reference's colour."""
    monkeypatch.setattr(nothing, "Session", ActedSession)
    paths = clip_paths(write_clips(tmp_path / "clips", count=3, frames=3))
    photographs = [write_flat(tmp_path / "a.png", (150, 120, 100)), write_flat(tmp_path / "b.png", (100, 120, 150))]
    table = nothing.measure(ActedNetwork(), paths, "clips", photographs)
    document = table.as_json()
    grey, plain, photograph, truth = (
        document["rows"][row] for row in ("grey", nothing.PLAIN, nothing.PHOTOGRAPH, "truth")
    )
    assert plain == grey  # half of grey is grey
    assert grey["over grey"] == 0 and grey["colourfulness"] < 0.5 and "psnr" not in truth
    expected: dict[str, list[float]] = {"psnr": [], "delta_e": [], "colourfulness": []}
    for path, picture in zip(paths, (0, 1, 0), strict=True):  # photographs in turn
        frame = Clip(path, read_clip(path).rgb[1:2])
        ab = alone.stretched(photographs[picture])[0].lab[:, 1:] / 2
        result = scores.to_rgb(frame, ab)[0]
        expected["psnr"].append(metrics.psnr(result, frame.rgb[0]))
        expected["delta_e"].append(metrics.delta_e(result, frame.rgb[0])[0])
        expected["colourfulness"].append(metrics.colourfulness(result))
    for key, values in expected.items():
        assert photograph[key] == pytest.approx(np.mean(values), abs=1e-4)
    assert photograph["over grey"] == pytest.approx(photograph["psnr"] - grey["psnr"])
    assert photograph["of the truth's"] == pytest.approx(photograph["colourfulness"] / truth["colourfulness"])
    assert document["photographs"] == ["a.png", "b.png"]
    assert "Nothing to match: clips, 3 clips" in table.as_markdown()
    without = nothing.measure(ActedNetwork(), paths[:1], "clips", [])
    assert list(without.as_json()["rows"]) == ["grey", nothing.PLAIN, "truth"]


def test_nothing_came_before(monkeypatch: pytest.MonkeyPatch):
    session = ActedSession(ActedNetwork())
    session.network = ActedNetwork()
    reference = torch.full((1, 3, 16, 16), 30.0)
    found = alone.colour_alone(session, torch.zeros(1, 1, 16, 16), reference)
    assert found["model"].unique().tolist() == [15.0] and found["warped colour"].unique().tolist() == [30.0]

"""Test ends.py with a network that gives each frame the colours of its references and nothing else."""

from pathlib import Path

import numpy as np
import pytest
import torch

from train.measure import ends
from train.measure.baselines import Clip
from vsexvc.nets.config import NetworkConfig
from vsexvc.nets.network import ColorizationNet


@pytest.fixture
def network() -> ColorizationNet:
    """Make a network that matches positions by lightness and returns the warped colour."""
    torch.manual_seed(0)
    net = ColorizationNet(NetworkConfig(width=0.0625, features_input="L", head="blend", warp_upsampling="bilinear"))
    with torch.no_grad():
        net.color.conv10_ab.weight.zero_()
        net.color.conv10_ab.bias.copy_(torch.tensor([0.0, 0.0, 20.0, -20.0]))
    return net.eval()


@pytest.fixture
def clip() -> Clip:
    """Return six equal frames of one colour."""
    return Clip(Path("still"), np.broadcast_to(np.array([200, 90, 60], np.uint8), (6, 64, 96, 3)).copy())


def test_a_still_clip_keeps_its_colour_with_one_and_with_two_references(network: ColorizationNet, clip: Clip) -> None:
    for last in (None, clip.lab[-1:]):
        found = ends.between(network, clip, last)
        assert found.shape == (4, 2, 64, 96)
        assert torch.allclose(found, clip.lab[1:-1, 1:], atol=0.1)


def test_of_two_that_contradict_each_other_the_nearer_is_followed(network: ColorizationNet, clip: Clip) -> None:
    found = ends.between(network, clip, ends.turned(clip.lab[-1:]))
    assert torch.allclose(found[0], clip.lab[1, 1:], atol=1.0)
    assert torch.allclose(found[3], ends.turned(clip.lab[4:5])[0, 1:], atol=1.0)


def test_turning_three_times_is_no_change() -> None:
    lab = torch.rand(1, 3, 4, 4) * 50
    assert torch.allclose(ends.turned(ends.turned(ends.turned(lab))), lab, atol=1e-4)
    assert torch.allclose(ends.turned(lab)[:, 1:].norm(dim=1), lab[:, 1:].norm(dim=1), atol=1e-4)


def test_the_table(network: ColorizationNet, clip: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ends, "read_clip", lambda path, frames: clip)
    table = ends.measure(network, [clip.path], "some", frames=6)
    assert [row[0] for row in table.rows] == ["one reference", "two references"]
    assert len(table.header) == len(table.rows[0]) == 6
    assert all(float(figure) < 0.1 for row in table.rows for figure in row[3:5])  # CIEDE2000 of the right colour
    assert table.document["contradiction"]["chroma"] == pytest.approx(1.0, abs=0.02)
    assert table.document["contradiction"]["nearer"] == 1.0


def test_equal_frames_grey_clips_and_short_ones(
    network: ColorizationNet, clip: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The jump is a ratio of means over clips; grey clips do not count where references contradict each other."""
    moving = Clip(Path("moving"), clip.rgb.copy())
    moving.rgb[-2] = 255 - moving.rgb[-2]
    grey = Clip(Path("grey"), np.full_like(clip.rgb, 100))
    films = {film.path: film for film in (clip, moving, grey)}
    monkeypatch.setattr(ends, "read_clip", lambda path, frames: films[path])
    table = ends.measure(network, list(films), "some", frames=6)
    step = float((moving.lab[-1, 1:] - moving.lab[-2, 1:]).norm(dim=0).mean())
    alone = ends.measure(network, [moving.path], "one", frames=6)
    for row, values in table.document["rows"].items():
        assert values[-1] == pytest.approx(alone.document["rows"][row][-1], abs=0.02 / step + 0.01)
    assert table.document["contradiction"]["chroma"] == pytest.approx(1.0, abs=0.3)
    films[Path("short")] = Clip(Path("short"), clip.rgb[:2])
    with pytest.raises(ValueError, match="short must have three frames"):
        ends.measure(network, [Path("short")], "some", frames=6)

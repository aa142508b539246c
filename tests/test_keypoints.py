"""Test train/measure/keypoints.py: distances against figures worked out by hand, the matcher against the session."""

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from train.measure import keypoints
from train.measure.keypoints import Grid, NetworkMatcher
from vsexvc.nets.config import NetworkConfig
from vsexvc.nets.network import ColorizationNet
from vsexvc.session import Session


def test_grid():
    grid = Grid(width=100, height=50, h=4, w=8)  # cells of 12.5 x 12.5 pixels
    assert grid.position(0, 0) == grid.position(12.4, 12.4) == grid.position(-3, -3) == 0
    assert grid.position(12.6, 0) == 1
    assert grid.position(99.9, 49.9) == grid.position(120, 60) == 31
    assert grid.place(0) == (6.25, 6.25)
    assert grid.place(8 * 2 + 3) == (43.75, 31.25)


def test_pck():
    assert keypoints.pck([0.04, 0.1, 0.15, 0.3]) == [0.25, 0.5, 0.75]
    assert [math.isnan(share) for share in keypoints.pck([])] == [True] * 3


def test_side_is_of_the_box_around_the_points():
    assert keypoints.Marked(Path(), {"0": (10, 20), "1": (40, 30), "2": (15, 70)}).side == 50


class Acted:
    """Match every point to the cell `answer` of the reference."""

    def __init__(self, answer: int) -> None:
        self.answer, self.described, self.asked = answer, [], []

    def describe(self, lab: torch.Tensor) -> int:
        self.described.append(tuple(lab.shape))
        return len(self.described) - 1

    def match(self, frame: int, reference: int, positions: torch.Tensor) -> torch.Tensor:
        self.asked.append((frame, reference, positions.tolist()))
        return torch.full_like(positions, self.answer)


def write_pictures(folder: Path, lines: list[str], sizes: dict[str, tuple[int, int]]) -> None:
    (folder / "keypoints.csv").write_text("\n".join(["file,class,point,x,y", *lines]) + "\n")
    for name, (width, height) in sizes.items():
        cv2.imwrite(str(folder / name), np.full((height, width, 3), 90, np.uint8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    lines = ["a.png,cup,0,2,2", "a.png,cup,1,102,52", "b.png,cup,0,4,4", "b.png,cup,1,204,4", "c.png,hat,0,1,1"]
    write_pictures(tmp_path, lines, {"a.png": (216, 216), "b.png": (432, 432), "c.png": (216, 216)})
    return tmp_path


def test_errors_by_hand(folder: Path):
    acted = Acted(answer=0)
    classes = keypoints.read_keypoints(folder)
    assert list(classes) == ["cup", "hat"]
    found = keypoints.errors(acted, classes["cup"])
    assert acted.described == [(1, 3, 216, 216)] * 2  # the network's size
    # a has cells of 4 pixels, 54 in a row; b has the same cells of 8 pixels of the file.
    assert acted.asked == [(0, 1, [0, 13 * 54 + 25]), (1, 0, [0, 25])]
    # In b, side 200, the answer is (4, 4). In a, side 100, it is (2, 2); the other point is (100, 50) away.
    assert found["network"] == pytest.approx([0, 1, 0, math.hypot(100, 50) / 100])
    # The same places are (4, 4) and (204, 104) in b, (2, 2) and (102, 2) in a.
    assert found["same place"] == pytest.approx([0, 0.5, 0, 0.5])


def test_measure(folder: Path):
    table = keypoints.measure(Acted(answer=0), folder)  # a single hat makes no pair
    assert table.as_json()["pictures"] == {"cup": 2}
    assert table.as_json()["pck"]["cup"] == {"network": [0.5, 0.5, 0.5], "same place": [0.5, 0.5, 0.5]}
    assert table.as_json()["pck"]["mean"] == table.as_json()["pck"]["cup"]
    assert "| mean  | " in table.as_markdown()
    with pytest.raises(ValueError, match="two pictures of a class"):
        keypoints.measure(Acted(0), folder, every=2)


def test_a_point_that_only_one_picture_has_is_left_out(tmp_path: Path):
    lines = ["a.png,cup,0,2,2", "a.png,cup,1,102,52", "b.png,cup,1,4,4", "b.png,cup,2,104,4"]
    write_pictures(tmp_path, lines, {"a.png": (216, 216), "b.png": (216, 216)})
    acted = Acted(answer=0)
    found = keypoints.errors(acted, keypoints.read_keypoints(tmp_path)["cup"])
    assert acted.asked == [(0, 1, [13 * 54 + 25]), (1, 0, [54 + 1])]
    assert found["network"] == pytest.approx([math.hypot(2, 2) / 100, math.hypot(100, 50) / 100])


def test_pictures_come_at_the_networks_size(tmp_path: Path):
    cv2.imwrite(str(tmp_path / "a.png"), np.full((256, 388, 3), 90, np.uint8))
    lab, grid = keypoints.read_picture(tmp_path / "a.png")
    assert lab.shape == (1, 3, 216, 328)  # 327.4 becomes the next multiple of 8
    assert grid == Grid(388, 256, 54, 82)


def test_columns_are_named(tmp_path: Path):
    write_pictures(tmp_path, ["a.png,cup,0,2"], {})
    with pytest.raises(ValueError, match=r"keypoints\.csv must have columns file, class, point, x, y"):
        keypoints.read_keypoints(tmp_path)


def test_the_matcher_says_what_the_warped_colour_takes():
    """At a temperature near zero the warped colour is that of the best match; here it codes the position."""
    torch.manual_seed(3)
    config = NetworkConfig(width=0.0625, features_input="L", temperature=1e-6, warp_upsampling="nearest")
    network = ColorizationNet(config).eval()
    L, reference = torch.rand(1, 1, 32, 48) * 60 + 20, torch.rand(1, 3, 40, 56) * 60 + 20
    h, w = 10, 14
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    reference[0, 1:] = torch.stack((rows, columns)).float().repeat_interleave(4, 1).repeat_interleave(4, 2)
    session = Session(network)
    (correspondence,) = session.correspond(L, session.reference(reference))
    row, column = correspondence.warped_ab[0, :, ::4, ::4].flatten(1).round().long()
    matcher = NetworkMatcher(network)
    frame = matcher.describe(torch.cat((L, torch.zeros(1, 2, 32, 48)), dim=1))
    found = matcher.match(frame, matcher.describe(reference), torch.arange(8 * 12))
    assert found.tolist() == (row * w + column).tolist()
    assert len(set(found.tolist())) > 5  # the answers differ
    some = torch.tensor([70, 3, 3])
    assert matcher.match(frame, matcher.describe(reference), some).tolist() == found[some].tolist()

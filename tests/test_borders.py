"""Test the search for black borders around a picture, and what must not count as a border."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vsexvc import borders
from vsexvc.borders import Area, is_dark, picture_area

H, W = 64, 80
WHOLE = (0, H, 0, W)


def scene(count: int = 4, borders: tuple[int, int, int, int] = (0, 0, 0, 0), noise: float = 2.9) -> Tensor:
    """Return frames of bright noise within borders of dark noise. borders: top, bottom, left, right."""
    top, bottom, left, right = borders
    generator = torch.Generator().manual_seed(0)
    L = torch.rand(count, 1, H, W, generator=generator) * noise
    inner = L[:, :, top : H - bottom, left : W - right]
    inner.copy_(torch.rand(inner.shape, generator=generator) * 50.0 + 10.0)
    return L


def found(L: Tensor) -> tuple[int, int, int, int]:
    area: Area = picture_area(L)
    return area[0].start, area[0].stop, area[1].start, area[1].stop


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize(
    ("borders", "area"),
    [
        ((0, 0, 0, 0), WHOLE),
        ((8, 12, 0, 0), (8, 52, 0, 80)),
        ((16, 16, 0, 0), (16, 48, 0, 80)),
        ((0, 0, 20, 20), (0, 64, 20, 60)),
        ((0, 0, 9, 3), (0, 64, 9, 77)),
        ((1, 2, 3, 4), (1, 62, 3, 76)),
        ((8, 8, 10, 10), (8, 56, 10, 70)),
        ((30, 25, 20, 20), WHOLE),  # so little is lit that the picture counts as dark
        ((64, 0, 0, 0), WHOLE),
    ],
)
def test_plain_borders(borders: tuple[int, int, int, int], area: tuple[int, int, int, int], count: int) -> None:
    assert found(scene(count, borders)) == area


def test_a_few_pixels_of_noise_are_overlooked() -> None:
    L = scene(borders=(10, 10, 0, 0))
    L[1, 0, 4, 30] = L[2, 0, 60, 7] = 4.5
    assert found(L) == (10, 54, 0, 80)


def test_a_border_blended_with_the_picture_stays_sharp() -> None:
    L = scene(borders=(10, 10, 0, 0))
    L[:, :, 9, ::10] = 6.0
    assert found(L) == (9, 54, 0, 80)


class TestLogo:
    def test_in_a_border(self) -> None:
        L = scene(borders=(12, 12, 0, 0))
        L[:, :, 3:9, 60:74] = 70.0
        assert found(L) == (12, 52, 0, 80)

    def test_in_a_pillar(self) -> None:
        L = scene(borders=(0, 0, 14, 14))
        L[:, :, 4:14, 2:12] = 70.0
        assert found(L) == (0, 64, 14, 66)

    def test_one_in_each_border(self) -> None:
        L = scene(borders=(12, 12, 0, 0))
        L[:, :, 3:9, 60:74] = L[:, :, 54:60, 5:15] = 70.0
        assert found(L) == (12, 52, 0, 80)

    def test_what_changes_is_none(self) -> None:
        L = scene(borders=(12, 12, 0, 0))
        for i in range(4):
            L[i, :, 3:9, 50 + 6 * i : 62 + 6 * i] = 70.0
        assert found(L) == (3, 56, 0, 80)  # the upper border is 3, so the lower one cannot be much deeper

    def test_a_moon_is_none(self) -> None:
        """A still moon in a black sky is not a logo in a border, because no border below is as deep."""
        L = scene(borders=(30, 0, 0, 0))
        L[:, :, 8:14, 40:46] = 80.0
        assert found(L) == WHOLE


class TestDark:
    def test_a_dark_scene_is_whole(self) -> None:
        assert found(scene(borders=(64, 0, 0, 0))) == WHOLE

    def test_two_lamps_in_the_dark(self) -> None:
        L = scene(borders=(64, 0, 0, 0))
        L[:, :, 5:8, 5:8] = L[:, :, 55:58, 70:73] = 60.0
        assert found(L) == WHOLE

    def test_a_night_sky_with_lights(self) -> None:
        L = scene(borders=(24, 0, 0, 0))
        for row, column in ((6, 10), (9, 61), (15, 33), (20, 70)):
            L[:, :, row, column : column + 3] = 40.0
        assert found(L) == WHOLE

    def test_a_night_sky_within_borders(self) -> None:
        """The lower border decides how deep the upper one is."""
        L = scene(borders=(30, 10, 0, 0))
        for row, column in ((16, 10), (19, 61), (25, 33)):
            L[:, :, row, column : column + 3] = 40.0
        assert found(L) == (10, 54, 0, 80)

    def test_a_black_wall_on_one_side(self) -> None:
        left, right = found(scene(borders=(0, 0, 40, 0)))[2:]
        assert left <= W // 8 and right == W

    def test_a_wall_that_is_lit_for_once(self) -> None:
        L = scene(borders=(0, 0, 16, 16))
        L[2, :, :, :] = 30.0
        assert found(L) == WHOLE


class TestFade:
    @pytest.mark.parametrize("levels", [(0.0, 0.0, 0.1, 1.0), (1.0, 0.5, 0.02, 0.0)])
    def test_the_lit_frames_decide(self, levels: tuple[float, ...]) -> None:
        L = scene(borders=(12, 12, 0, 0)) * torch.tensor(levels).view(-1, 1, 1, 1)
        assert found(L) == (12, 52, 0, 80)

    def test_dark(self) -> None:
        L = scene(borders=(12, 12, 0, 0))
        assert is_dark(L * 0.04) and not is_dark(L) and not is_dark(torch.cat((L[:1], L * 0.0)))
        lamp = torch.zeros(2, 1, H, W)
        lamp[:, :, 10:15, 10:15] = 80.0
        assert is_dark(lamp)


def test_a_picture_is_enlarged_to_its_shorter_side() -> None:
    """32 black lines above and below 216 x 384: found in the frames as they are, they give the picture as it is."""
    L = torch.nn.functional.pad(torch.full((2, 1, 216, 384), 50.0), (0, 0, 32, 32))
    zoom = borders.zoomed(L, (216, 296), 216)
    assert (zoom.before, zoom.size) == ((216, 296), (280, 384))
    assert zoom.area == (slice(32, 248), slice(0, 384))
    assert zoom.ends == (32 / 280, 248 / 280, 0.0, 1.0)
    assert torch.allclose(zoom(L)[:, :, *zoom.area], L[:, :, 32:248], atol=1e-3)
    half = borders.zoomed(L[..., ::2, ::2], (108, 148), 216)
    assert half.size == (280, 384) and half.area == zoom.area
    assert borders.is_small((slice(24, 192), slice(0, 296)), 216)
    assert not borders.is_small((slice(3, 214), slice(0, 384)), 216)  # a few lines
    assert not borders.is_small((slice(0, 216), slice(40, 344)), 216)  # a pillarbox

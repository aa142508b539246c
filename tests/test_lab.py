"""Test colour/lab.py against scikit-image."""

from __future__ import annotations

import pytest
import torch
from test_spaces import lab_of, picture

from vsexvc.colour import lab

pytestmark = pytest.mark.numbers


class TestLab:
    def test_rgb_to_lab_is_scikit_images(self) -> None:
        rgb = picture()
        assert torch.allclose(lab.rgb_to_lab(rgb), lab_of(rgb), atol=2e-2)

    def test_every_dark_value(self) -> None:
        """Dark values are right in both branches of the transfer and of the cube root."""
        rgb = (torch.arange(64).float() / 255.0).view(1, 1, 8, 8).expand(1, 3, 8, 8)
        assert torch.allclose(lab.rgb_to_lab(rgb), lab_of(rgb), atol=2e-2)

    def test_there_and_back(self) -> None:
        rgb = picture("coffee")
        assert torch.allclose(lab.lab_to_rgb(lab.rgb_to_lab(rgb)), rgb, atol=1e-4)


def test_the_grey_picture_of_L_is_lab_without_colour() -> None:
    L = torch.linspace(0, 100, 4096).view(1, 1, 64, 64)
    grey = torch.cat((L, torch.zeros(1, 2, 64, 64)), dim=1)
    assert torch.allclose(lab.L_to_rgb(L), lab.lab_to_rgb(grey), atol=1e-5)

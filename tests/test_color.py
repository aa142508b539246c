"""color.py against scikit-image, zimg and numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import vapoursynth as vs
from skimage import color as skcolor
from skimage import data
from torch import Tensor

from vsexvc import color


def picture(name: str = "astronaut") -> Tensor:
    """(1, 3, H, W) float32, 0..1."""
    return torch.from_numpy(getattr(data, name)()).permute(2, 0, 1)[None].float() / 255.0


def lab_of(rgb: Tensor) -> Tensor:
    """scikit-image's Lab of (1, 3, H, W)."""
    return torch.from_numpy(skcolor.rgb2lab(rgb[0].permute(1, 2, 0).double().numpy())).permute(2, 0, 1)[None].float()


def psnr(a: Tensor, b: Tensor) -> float:
    """At 8 bits: chroma of 224 steps in a peak of 255."""
    steps = (a * 224.0).round() - (b * 224.0).round()
    return float(10.0 * torch.log10(255.0**2 / steps.square().mean()))


class TestLab:
    def test_rgb_to_lab_is_scikit_images(self) -> None:
        rgb = picture()
        assert torch.allclose(color.rgb_to_lab(rgb), lab_of(rgb), atol=2e-2)

    def test_every_dark_value(self) -> None:
        """Both branches of the transfer and of the cube root."""
        rgb = (torch.arange(64).float() / 255.0).view(1, 1, 8, 8).expand(1, 3, 8, 8)
        assert torch.allclose(color.rgb_to_lab(rgb), lab_of(rgb), atol=2e-2)

    def test_there_and_back(self) -> None:
        rgb = picture("coffee")
        assert torch.allclose(color.lab_to_rgb(color.rgb_to_lab(rgb)), rgb, atol=1e-4)


class TestLuma:
    def test_L_of_grey_is_scikit_images(self) -> None:
        luma = torch.linspace(0.0, 1.0, 256).view(1, 1, 16, 16)
        expected = lab_of(luma.expand(-1, 3, -1, -1))[:, :1]
        for transfer in (1, 2, 6, 13, 14, 15):
            assert torch.allclose(color.L_from_luma(luma, transfer), expected, atol=2e-3)

    @pytest.mark.parametrize(("transfer", "exponent"), [(4, 2.2), (5, 2.8), (8, 1.0)])
    def test_powers(self, transfer: int, exponent: float) -> None:
        # CIE: L = 116 (Y/Yn)^(1/3) - 16 above 0.008856
        assert float(color.L_from_luma(torch.tensor(0.5), transfer)) == pytest.approx(
            116.0 * 0.5 ** (exponent / 3.0) - 16.0, abs=1e-3
        )

    def test_ends_and_beyond(self) -> None:
        L = color.L_from_luma(torch.tensor([-0.2, 0.0, 1.0, 1.3]))
        assert L.tolist() == pytest.approx([0, 0, 100, 100], abs=1e-3)

    @pytest.mark.parametrize("transfer", [9, 10, 16, 18])
    def test_hdr_and_log_are_refused(self, transfer: int) -> None:
        with pytest.raises(ValueError, match=f"_Transfer must be one of .* got {transfer}"):
            color.L_from_luma(torch.tensor(0.5), transfer)

    def test_unknown_matrix_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"_Matrix must be one of .* got 8"):
            color.luma_weights(8)


def true_chroma(rgb: Tensor, kr: float, kb: float) -> tuple[Tensor, Tensor]:
    """Y' and (U, V) by the definition."""
    r, g, b = rgb.split(1, dim=1)
    luma = kr * r + (1.0 - kr - kb) * g + kb * b
    return luma, torch.cat(((b - luma) / (2.0 - 2.0 * kb), (r - luma) / (2.0 - 2.0 * kr)), dim=1)


class TestChroma:
    @pytest.mark.parametrize(("matrix", "kr", "kb"), [(1, 0.2126, 0.0722), (6, 0.299, 0.114), (9, 0.2627, 0.0593)])
    @pytest.mark.parametrize("name", ["astronaut", "coffee", "chelsea", "rocket"])
    def test_true_ab_gives_true_chroma(self, name: str, matrix: int, kr: float, kb: float) -> None:
        rgb = picture(name)
        luma, expected = true_chroma(rgb, kr, kb)
        found = color.chroma(luma, color.L_from_luma(luma), lab_of(rgb)[:, 1:], matrix)
        assert psnr(found, expected) >= 45.0

    def test_primaries(self) -> None:
        """BT.2020 light through ITU-R BT.2020's own matrix to XYZ and scikit-image's XYZ to Lab."""
        rgb = torch.rand(1, 3, 40, 40, generator=torch.Generator().manual_seed(0)) * 0.6 + 0.2
        to_xyz = np.array([[0.636958, 0.144617, 0.168881], [0.262700, 0.677998, 0.059302], [0.0, 0.028073, 1.060985]])
        xyz = color.srgb_to_linear(rgb)[0].permute(1, 2, 0).double().numpy() @ to_xyz.T
        ab = torch.from_numpy(skcolor.xyz2lab(xyz)).permute(2, 0, 1)[None, 1:].float()
        luma, expected = true_chroma(rgb, 0.2627, 0.0593)
        L = color.L_from_luma(luma)
        assert psnr(color.chroma(luma, L, ab, 9, 2, 9), expected) >= 45.0
        assert psnr(color.chroma(luma, L, ab, 9, 2, 1), expected) < 40.0

    def test_grey_stays_grey(self) -> None:
        luma = torch.linspace(0.0, 1.0, 256).view(1, 1, 16, 16)
        for primaries in (1, 4, 5, 6, 8, 9, 11, 12, 22):
            ab = torch.zeros(1, 2, 16, 16)
            assert color.chroma(luma, color.L_from_luma(luma), ab, 1, 2, primaries).abs().max() < 1e-4

    def test_gamut_rule(self) -> None:
        """Whatever the ab: R'G'B' with the given luma lies in 0..1, and where the colour fits it is not touched."""
        g = torch.Generator().manual_seed(1)
        luma = torch.rand(1, 1, 64, 64, generator=g) * 1.2 - 0.1
        ab = torch.rand(1, 2, 64, 64, generator=g) * 256.0 - 128.0
        u, v = color.chroma(luma, color.L_from_luma(luma), ab, 1).split(1, dim=1)
        blue, red = luma + 1.8556 * u, luma + 1.5748 * v
        green = (luma - 0.2126 * red - 0.0722 * blue) / 0.7152
        inside = (luma >= 0.0) & (luma <= 1.0)
        for channel in (red, green, blue):
            assert channel[inside].min() > -1e-4
            assert channel[inside].max() < 1.0 + 1e-4
        assert max(u[~inside].abs().max(), v[~inside].abs().max()) == 0.0

    def test_unknown_primaries_are_refused(self) -> None:
        one = torch.zeros(1, 1, 1, 1)
        with pytest.raises(ValueError, match=r"_Primaries must be one of .* got 10"):
            color.chroma(one, one, one.expand(1, 2, 1, 1), 1, 2, 10)

    def test_bands_change_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rgb = picture("rocket")[:, :, :60, :50]
        luma, _ = true_chroma(rgb, 0.2126, 0.0722)
        ab = lab_of(rgb)[:, 1:]
        L = color.L_from_luma(luma)
        small = F.interpolate(torch.cat((L, ab), 1), size=(17, 14), mode="area")
        whole = color.chroma(luma, L, color.upsample_ab(small[:, 1:], small[:, :1], L), 1)
        monkeypatch.setattr(color, "_BAND", 7 * 50)
        banded = color.chroma(luma, L, color.upsample_ab(small[:, 1:], small[:, :1], L), 1)
        assert torch.allclose(banded, whole, atol=1e-6)


def card() -> Tensor:
    """A card of coloured discs and boxes with a little noise, (1, 3, 540, 960)."""
    g = torch.Generator().manual_seed(0)
    rgb = torch.full((3, 540, 960), 0.5)
    y, x = torch.meshgrid(torch.arange(540.0), torch.arange(960.0), indexing="ij")
    for i in range(60):
        cx, cy, r = (torch.rand(3, generator=g) * torch.tensor([960.0, 540.0, 80.0])).tolist()
        dx, dy = (x - cx).abs(), (y - cy).abs()
        inside = dx**2 + dy**2 < (r + 20) ** 2 if i % 2 else (dx < r + 20) & (dy < 0.6 * r + 12)
        rgb[:, inside] = torch.rand(3, 1, generator=g)
    return (rgb + 0.01 * torch.randn(rgb.shape, generator=g)).clamp(0.0, 1.0)[None]


class TestUpsample:
    @pytest.mark.parametrize(("name", "most"), [("card", 0.7), ("coffee", 0.9), ("astronaut", 0.95)])
    def test_error_against_bilinear(self, name: str, most: float) -> None:
        lab = color.rgb_to_lab(card() if name == "card" else picture(name))
        size = lab.shape[2:]
        small = F.interpolate(lab, size=(round(size[0] / 5), round(size[1] / 5)), mode="area")
        guided = color.upsample_ab(small[:, 1:], small[:, :1], lab[:, :1])
        bilinear = F.interpolate(small[:, 1:], size=size, mode="bilinear")
        error, base = ((x - lab[:, 1:]).square().mean().sqrt() for x in (guided, bilinear))
        assert error <= most * base

    def test_same_size_is_identity(self) -> None:
        lab = color.rgb_to_lab(picture("chelsea")[:, :, :40, :60])
        assert torch.allclose(color.upsample_ab(lab[:, 1:], lab[:, :1], lab[:, :1]), lab[:, 1:], atol=1e-3)

    @pytest.mark.parametrize("size", [(97, 131), (16, 24), (5, 3), (1, 1)])
    def test_flat_L_is_bilinear(self, size: tuple[int, int]) -> None:
        ab = torch.randn(1, 2, 16, 24, generator=torch.Generator().manual_seed(0)) * 30.0
        flat = color.upsample_ab(ab, torch.full((1, 1, 16, 24), 40.0), torch.full((1, 1, *size), 40.0))
        assert torch.allclose(flat, F.interpolate(ab, size=size, mode="bilinear"), atol=1e-3)


class TestSubsample:
    @pytest.mark.parametrize("location", range(6))
    def test_position_is_zimgs(self, location: int) -> None:
        """On a ramp every symmetric filter returns the position that it samples at."""
        ramp = torch.stack((torch.arange(32.0).expand(32, 32), torch.arange(32.0)[:, None].expand(32, 32)))[None] / 64.0
        ramp -= 0.25

        def fill(n: int, f: vs.VideoFrame) -> vs.VideoFrame:
            f = f.copy()
            for plane in (1, 2):
                np.copyto(np.asarray(f[plane]), ramp[0, plane - 1].numpy())
            return f

        blank = vs.core.std.BlankClip(format=vs.YUV444PS, width=32, height=32, length=1)
        half = blank.std.ModifyFrame(blank, fill).resize.Bicubic(format=vs.YUV420PS, chromaloc=location)
        found = color.subsample(ramp, 2, 2, location)
        with half.get_frame(0) as f:
            for plane in (1, 2):
                expected = torch.from_numpy(np.array(f[plane]))
                assert torch.allclose(found[0, plane - 1, 2:-2, 2:-2], expected[2:-2, 2:-2], atol=1e-5)

    def test_left_by_hand(self) -> None:
        row = torch.tensor([4.0, 8.0, 0.0, 4.0]).view(1, 1, 1, 4)
        # (1 2 1) / 4 around columns 0 and 2, the border repeated
        assert color.subsample(row, 2, 1, 0).flatten().tolist() == [(4 + 8 + 8) / 4, (8 + 0 + 4) / 4]

    @pytest.mark.parametrize(("w", "h"), [(1, 1), (2, 1), (1, 2), (4, 1), (4, 4)])
    def test_sizes_and_constants(self, w: int, h: int) -> None:
        found = color.subsample(torch.full((1, 2, 8, 12), 0.3), w, h, 0)
        assert found.shape == (1, 2, 8 // h, 12 // w)
        assert torch.allclose(found, torch.tensor(0.3))

"""Test colour/spaces.py against scikit-image, zimg and numbers worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import vapoursynth as vs
from skimage import color as skcolor
from skimage import data
from torch import Tensor

from vsexvc.colour import lab, spaces
from vsexvc.colour.upsample import Grid, subsample, upsample_ab

pytestmark = pytest.mark.numbers


def picture(name: str = "astronaut") -> Tensor:
    """Return one of scikit-image's pictures, (1, 3, H, W) float32, 0..1."""
    return torch.from_numpy(getattr(data, name)()).permute(2, 0, 1)[None].float() / 255.0


def lab_of(rgb: Tensor) -> Tensor:
    """Return scikit-image's Lab of (1, 3, H, W)."""
    return torch.from_numpy(skcolor.rgb2lab(rgb[0].permute(1, 2, 0).double().numpy())).permute(2, 0, 1)[None].float()


def psnr(a: Tensor, b: Tensor) -> float:
    """Return the PSNR of chroma at 8 bits: 224 steps, peak 255."""
    steps = (a * 224.0).round() - (b * 224.0).round()
    return float(10.0 * torch.log10(255.0**2 / steps.square().mean()))


class TestLuma:
    def test_L_of_grey_is_scikit_images(self) -> None:
        luma = torch.linspace(0.0, 1.0, 256).view(1, 1, 16, 16)
        expected = lab_of(luma.expand(-1, 3, -1, -1))[:, :1]
        for transfer in (1, 2, 6, 13, 14, 15):
            assert torch.allclose(spaces.L_from_luma(luma, transfer), expected, atol=2e-3)

    @pytest.mark.parametrize(("transfer", "exponent"), [(4, 2.2), (5, 2.8), (8, 1.0)])
    def test_powers(self, transfer: int, exponent: float) -> None:
        # CIE: L = 116 (Y/Yn)^(1/3) - 16 above 0.008856
        assert float(spaces.L_from_luma(torch.tensor(0.5), transfer)) == pytest.approx(
            116.0 * 0.5 ** (exponent / 3.0) - 16.0, abs=1e-3
        )

    def test_ends_and_beyond(self) -> None:
        L = spaces.L_from_luma(torch.tensor([-0.2, 0.0, 1.0, 1.3]))
        assert L.tolist() == pytest.approx([0, 0, 100, 100], abs=1e-3)

    @pytest.mark.parametrize(("transfer", "luma", "light"), [(9, 0.5, 0.1), (10, 0.6, 0.1), (17, 1.0, 52.37 / 48.0)])
    def test_logarithms_and_st428(self, transfer: int, luma: float, light: float) -> None:
        """L agrees with light worked out by hand from H.273's table 3."""
        found = spaces.L_from_luma(torch.tensor(luma, dtype=torch.float64), transfer)
        assert float(found) == pytest.approx(116.0 * light ** (1.0 / 3.0) - 16.0, abs=1e-6)

    @pytest.mark.parametrize(("transfer", "what"), [(16, "PQ, HDR: tonemap to SDR first"), (18, "HLG, HDR: tonemap")])
    def test_hdr_is_refused(self, transfer: int, what: str) -> None:
        with pytest.raises(ValueError, match=rf"^_Transfer must be one of .* got {transfer} \({what}.*\)$"):
            spaces.L_from_luma(torch.tensor(0.5), transfer)

    @pytest.mark.parametrize(
        ("matrix", "what"), [(10, "constant luminance"), (13, "constant luminance"), (14, "ICtCp")]
    )
    def test_matrices_that_are_no_sums_are_refused(self, matrix: int, what: str) -> None:
        with pytest.raises(ValueError, match=rf"^_Matrix must be one of .* got {matrix} \({what}.* first\)$"):
            spaces.luma_weights(matrix)

    @pytest.mark.parametrize(("primaries", "weights"), [(1, (0.2126, 0.0722)), (9, (0.2627, 0.0593))])
    def test_derived_weights_are_the_standards_own(self, primaries: int, weights: tuple[float, float]) -> None:
        """Matrix 12 computes the weights that BT.709 and BT.2020 round to four digits."""
        assert spaces.luma_weights(12, primaries) == pytest.approx(weights, abs=6e-5)

    @pytest.mark.parametrize("transfer", [2, 4, 5, 8, 9, 10, 13, 17])
    def test_table_is_the_formula(self, transfer: int) -> None:
        luma = torch.linspace(-0.1, 1.1, 12345, dtype=torch.float64)
        found = spaces.ColorSpace(1, transfer).lightness(luma.float())
        assert (found - spaces.L_from_luma(luma, transfer)).abs().max() < (0.01 if transfer == 8 else 2e-3)


def true_chroma(rgb: Tensor, kr: float, kb: float) -> tuple[Tensor, Tensor]:
    """Return Y' and (U, V) by the definition."""
    r, g, b = rgb.split(1, dim=1)
    luma = kr * r + (1.0 - kr - kb) * g + kb * b
    return luma, torch.cat(((b - luma) / (2.0 - 2.0 * kb), (r - luma) / (2.0 - 2.0 * kr)), dim=1)


def zimg(rgb: Tensor, transfer_in: int = 13, primaries_in: int = 1, **arguments: Any) -> Tensor:
    """Convert a picture by VapourSynth's own converter, (1, 3, H, W) -> (1, 3, H, W)."""
    blank = vs.core.std.BlankClip(format=vs.RGBS, width=rgb.shape[3], height=rgb.shape[2], length=1)

    def fill(n: int, f: vs.VideoFrame) -> vs.VideoFrame:
        f = f.copy()
        for plane in range(3):
            np.copyto(np.asarray(f[plane]), rgb[0, plane].numpy())
        return f

    clip = blank.std.ModifyFrame(blank, fill).std.SetFrameProps(
        _Matrix=0, _Transfer=transfer_in, _Primaries=primaries_in
    )
    with clip.resize.Bicubic(**arguments).get_frame(0) as f:
        return torch.from_numpy(np.stack([np.array(f[plane]) for plane in range(3)]))[None]


# Bradford adaptations from D65 by B. Lindbloom, "Chromatic Adaptation".
BRADFORD_TO_C = [
    [1.0097785, 0.0070419, 0.0127971],
    [0.0123113, 0.9847094, 0.0032962],
    [0.0038284, -0.0072331, 1.0891639],
]
BRADFORD_TO_E = [
    [1.0502616, 0.0270757, -0.0232523],
    [0.0390650, 0.9729502, -0.0092579],
    [-0.0024047, 0.0026446, 0.9180873],
]


class TestChroma:
    @pytest.mark.parametrize(("matrix", "kr", "kb"), [(1, 0.2126, 0.0722), (6, 0.299, 0.114), (9, 0.2627, 0.0593)])
    @pytest.mark.parametrize("name", ["astronaut", "coffee", "chelsea", "rocket"])
    def test_true_ab_gives_true_chroma(self, name: str, matrix: int, kr: float, kb: float) -> None:
        rgb = picture(name)
        luma, expected = true_chroma(rgb, kr, kb)
        space = spaces.ColorSpace(matrix)
        assert psnr(space.chroma(luma, space.lightness(luma), lab_of(rgb)[:, 1:]), expected) >= 48.0

    @pytest.mark.parametrize(
        ("matrix", "transfer", "primaries"),
        [
            *((matrix, 13, 1) for matrix in (1, 4, 5, 6, 7, 8, 9)),
            *((1, transfer, 1) for transfer in (4, 5, 8, 9, 10, 17)),
            *((9, 13, primaries) for primaries in (5, 6, 7, 9, 12, 22)),
            (12, 13, 1),
            (12, 4, 9),
            (8, 5, 6),
        ],
    )
    def test_every_space_is_zimgs(self, matrix: int, transfer: int, primaries: int) -> None:
        """U and V from zimg's Y and scikit-image's ab equal zimg's own.

        The colours are soft enough for the gamut of all primaries.
        """
        rgb = picture("coffee")[:, :, ::4, ::4] * 0.5 + 0.25
        yuv = zimg(rgb, format=vs.YUV444PS, matrix=matrix, transfer=transfer, primaries=primaries)
        space = spaces.ColorSpace(matrix, transfer, primaries)
        luma = yuv[:, :1]
        found = space.chroma(luma, space.lightness(luma), lab_of(rgb)[:, 1:])
        assert (found - yuv[:, 1:]).abs().max() < 0.5 / 255.0

    @pytest.mark.parametrize(("primaries", "adaptation"), [(4, BRADFORD_TO_C), (8, BRADFORD_TO_C), (10, BRADFORD_TO_E)])
    def test_other_whites_are_adapted_to(self, primaries: int, adaptation: list[list[float]]) -> None:
        """U and V are those of zimg after published matrices have adapted the picture's white, which zimg does not."""
        rgb = picture("coffee")[:, :, ::4, ::4] * 0.5 + 0.25
        xyz = zimg(rgb, format=vs.RGBS, transfer=8, primaries=10)
        xyz = torch.einsum("ij,bjhw->bihw", torch.tensor(adaptation), xyz)
        yuv = zimg(xyz, 8, 10, format=vs.YUV444PS, matrix=9, transfer=13, primaries=primaries)
        space = spaces.ColorSpace(9, 13, primaries)
        luma = yuv[:, :1]
        found = space.chroma(luma, space.lightness(luma), lab_of(rgb)[:, 1:])
        assert (found - yuv[:, 1:]).abs().max() < 0.5 / 255.0

    def test_primaries(self) -> None:
        """U and V of BT.2020 agree with ITU-R BT.2020's matrix to XYZ and scikit-image's XYZ to Lab."""
        rgb = torch.rand(1, 3, 40, 40, generator=torch.Generator().manual_seed(0)) * 0.6 + 0.2
        to_xyz = np.array([[0.636958, 0.144617, 0.168881], [0.262700, 0.677998, 0.059302], [0.0, 0.028073, 1.060985]])
        xyz = lab.srgb_to_linear(rgb)[0].permute(1, 2, 0).double().numpy() @ to_xyz.T
        ab = torch.from_numpy(skcolor.xyz2lab(xyz)).permute(2, 0, 1)[None, 1:].float()
        luma, expected = true_chroma(rgb, 0.2627, 0.0593)
        space = spaces.ColorSpace(9, 2, 9)
        L = space.lightness(luma)
        assert psnr(space.chroma(luma, L, ab), expected) >= 45.0
        assert psnr(spaces.ColorSpace(9, 2, 1).chroma(luma, L, ab), expected) < 40.0

    def test_grey_stays_grey(self) -> None:
        luma = torch.linspace(0.0, 1.0, 256).view(1, 1, 16, 16)
        for primaries in (1, 4, 5, 6, 8, 9, 10, 11, 12, 22):
            space = spaces.ColorSpace(1, 2, primaries)
            assert space.chroma(luma, space.lightness(luma), torch.zeros(1, 2, 16, 16)).abs().max() < 1e-4

    @pytest.mark.parametrize("transfer", [2, 5, 8, 9, 17])
    def test_gamut_rule(self, transfer: int) -> None:
        """R'G'B' of any ab with luma in 0..1 is in 0..1; luma outside gets no colour."""
        g = torch.Generator().manual_seed(1)
        luma = torch.rand(1, 1, 64, 64, generator=g) * 1.2 - 0.1
        ab = torch.rand(1, 2, 64, 64, generator=g) * 1000.0 - 500.0
        space = spaces.ColorSpace(1, transfer)
        L = space.lightness(luma)
        u, v = space.chroma(luma, L, ab).split(1, dim=1)
        blue, red = luma + 1.8556 * u, luma + 1.5748 * v
        green = (luma - 0.2126 * red - 0.0722 * blue) / 0.7152
        inside = (luma >= 0.0) & (luma <= 1.0)
        for channel in (red, green, blue):
            assert channel[inside].min() > -1e-4
            assert channel[inside].max() < 1.0 + 1e-4
        assert max(u[~inside].abs().max(), v[~inside].abs().max()) == 0.0
        rgb = space.rgb(luma.clamp(0.0, 1.0), L, ab)
        assert torch.allclose(
            rgb[inside.expand_as(rgb)], torch.cat((red, green, blue), 1)[inside.expand_as(rgb)], atol=1e-5
        )

    def test_unknown_primaries_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"^_Primaries must be one of .* got 3$"):
            spaces.ColorSpace(1, 2, 3)

    def test_bands_change_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rgb = picture("rocket")[:, :, :60, :50]
        luma, _ = true_chroma(rgb, 0.2126, 0.0722)
        space = spaces.ColorSpace()
        L = space.lightness(luma)
        small = F.interpolate(torch.cat((L, lab_of(rgb)[:, 1:]), 1), size=(17, 14), mode="area")
        whole = space.chroma(luma, L, upsample_ab(small[:, 1:], small[:, :1], L))
        monkeypatch.setattr("vsexvc.colour.upsample._BAND", 7 * 50)
        banded = space.chroma(luma, L, upsample_ab(small[:, 1:], small[:, :1], L))
        assert torch.allclose(banded, whole, atol=1e-6)


def card() -> Tensor:
    """Draw a card of coloured discs and boxes with a little noise, (1, 3, 540, 960)."""
    g = torch.Generator().manual_seed(0)
    rgb = torch.full((3, 540, 960), 0.5)
    y, x = torch.meshgrid(torch.arange(540.0), torch.arange(960.0), indexing="ij")
    for i in range(60):
        cx, cy, r = (torch.rand(3, generator=g) * torch.tensor([960.0, 540.0, 80.0])).tolist()
        dx, dy = (x - cx).abs(), (y - cy).abs()
        inside = dx**2 + dy**2 < (r + 20) ** 2 if i % 2 else (dx < r + 20) & (dy < 0.6 * r + 12)
        rgb[:, inside] = torch.rand(3, 1, generator=g)
    return (rgb + 0.01 * torch.randn(rgb.shape, generator=g)).clamp(0.0, 1.0)[None]


def shrunk(rgb: Tensor, divisor: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return luma and L of a picture at full size, and (L, ab) at a smaller size, as from a network."""
    luma, _ = true_chroma(rgb, 0.2126, 0.0722)
    size = (round(rgb.shape[2] / divisor), round(rgb.shape[3] / divisor))
    L_small = spaces.L_from_luma(F.interpolate(luma, size=size, mode="area"))
    small = torch.cat((L_small, F.interpolate(lab_of(rgb)[:, 1:], size=size, mode="area")), dim=1)
    return luma, spaces.L_from_luma(luma), small


class TestUpsample:
    @pytest.mark.parametrize(("name", "most"), [("card", 0.7), ("coffee", 0.85), ("astronaut", 0.9)])
    def test_error_against_bilinear(self, name: str, most: float) -> None:
        """The RMSE is at most 0.7 of bilinear's on a card with coloured edges."""
        rgb = card() if name == "card" else picture(name)
        _, L, small = shrunk(rgb, 5)
        guided = upsample_ab(small[:, 1:], small[:, :1], L)
        bilinear = F.interpolate(small[:, 1:], size=L.shape[2:], mode="bilinear")
        error, base = (float((x - lab_of(rgb)[:, 1:]).square().mean().sqrt()) for x in (guided, bilinear))
        print(f"upsample_ab, {name}: RMSE {error:.2f}, bilinear {base:.2f}: {error / base:.2f} of it")
        assert error <= most * base

    @pytest.mark.parametrize("grid", [Grid(2, 2, 0), Grid(2, 1, 0), Grid(2, 2, 5)])
    @pytest.mark.parametrize("name", ["card", "coffee", "astronaut"])
    def test_at_the_samples_of_chroma(self, name: str, grid: Grid) -> None:
        """Computing at the samples of chroma is as near to the truth as making U and V at full size first."""
        rgb = card() if name == "card" else picture(name)
        luma, L, small = shrunk(rgb, 5)
        truth = subsample(true_chroma(rgb, 0.2126, 0.0722)[1], grid)
        space = spaces.ColorSpace()
        full = space.chroma(luma, L, upsample_ab(small[:, 1:], small[:, :1], L))
        luma = subsample(luma, grid)
        L = space.lightness(luma)
        there = space.chroma(luma, L, upsample_ab(small[:, 1:], small[:, :1], L, grid))
        full = subsample(full, grid)
        print(f"{name}, {grid}: {psnr(there, truth):.2f} dB, full size {psnr(full, truth):.2f} dB")
        assert psnr(there, full) > psnr(full, truth) + 5.0
        assert psnr(there, truth) > psnr(full, truth) - 1.0

    @pytest.mark.parametrize("location", range(6))
    @pytest.mark.parametrize("factors", [(1, 1), (2, 1), (2, 2), (4, 1), (4, 4)])
    def test_position(self, factors: tuple[int, int], location: int) -> None:
        """A ramp at the network's size becomes the same ramp at the samples of chroma inside the borders."""
        rows, columns = torch.meshgrid(torch.arange(32.0) + 0.5, torch.arange(48.0) + 0.5, indexing="ij")
        grid = Grid(*factors, location)
        ramp = torch.stack((rows, columns))[None]
        large = F.interpolate(ramp, scale_factor=4.0, mode="bilinear")
        expected = subsample(large, grid)
        L = torch.full((1, 1, *expected.shape[2:]), 50.0)
        found = upsample_ab(ramp, torch.full((1, 1, 32, 48), 50.0), L, grid)
        assert torch.allclose(found[..., 2:-2, 2:-2], expected[..., 2:-2, 2:-2], atol=1e-4)

    def test_same_size_is_identity(self) -> None:
        pixels = lab.rgb_to_lab(picture("chelsea")[:, :, :40, :60])
        assert torch.allclose(upsample_ab(pixels[:, 1:], pixels[:, :1], pixels[:, :1]), pixels[:, 1:], atol=1e-3)

    @pytest.mark.parametrize("size", [(97, 131), (16, 24), (5, 3), (1, 1)])
    def test_flat_L_is_bilinear(self, size: tuple[int, int]) -> None:
        ab = torch.randn(1, 2, 16, 24, generator=torch.Generator().manual_seed(0)) * 30.0
        flat = upsample_ab(ab, torch.full((1, 1, 16, 24), 40.0), torch.full((1, 1, *size), 40.0))
        assert torch.allclose(flat, F.interpolate(ab, size=size, mode="bilinear"), atol=1e-3)


class TestSubsample:
    @pytest.mark.parametrize("location", range(6))
    def test_position_is_zimgs(self, location: int) -> None:
        """Samples are at zimg's positions: on a ramp every symmetric filter returns the position of its sample."""
        ramp = torch.stack((torch.arange(32.0).expand(32, 32), torch.arange(32.0)[:, None].expand(32, 32)))[None] / 64.0
        ramp -= 0.25

        def fill(n: int, f: vs.VideoFrame) -> vs.VideoFrame:
            f = f.copy()
            for plane in (1, 2):
                np.copyto(np.asarray(f[plane]), ramp[0, plane - 1].numpy())
            return f

        blank = vs.core.std.BlankClip(format=vs.YUV444PS, width=32, height=32, length=1)
        half = blank.std.ModifyFrame(blank, fill).resize.Bicubic(format=vs.YUV420PS, chromaloc=location)
        found = subsample(ramp, Grid(2, 2, location))
        with half.get_frame(0) as f:
            for plane in (1, 2):
                expected = torch.from_numpy(np.array(f[plane]))
                assert torch.allclose(found[0, plane - 1, 2:-2, 2:-2], expected[2:-2, 2:-2], atol=1e-5)

    def test_left_by_hand(self) -> None:
        row = torch.tensor([4.0, 8.0, 0.0, 4.0]).view(1, 1, 1, 4)
        # (1 2 1) / 4 around columns 0 and 2, with the border repeated
        assert subsample(row, Grid(2, 1, 0)).flatten().tolist() == [(4 + 8 + 8) / 4, (8 + 0 + 4) / 4]

    @pytest.mark.parametrize(("w", "h"), [(1, 1), (2, 1), (1, 2), (4, 1), (4, 4)])
    def test_sizes_and_constants(self, w: int, h: int) -> None:
        found = subsample(torch.full((1, 2, 8, 12), 0.3), Grid(w, h, 0))
        assert found.shape == (1, 2, 8 // h, 12 // w)
        assert torch.allclose(found, torch.tensor(0.3))

    def test_unknown_location_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"^_ChromaLocation must be 0..5, got 6$"):
            subsample(torch.zeros(1, 1, 4, 4), Grid(2, 2, 6))

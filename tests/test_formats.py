"""Test how near U and V are to the source's in every format, with the true ab instead of the network's.

Sources come from the standards' formulas, written out here, or from ffmpeg's swscale; zimg only subsamples them.
scikit-image gives the true ab. `pytest -rP tests/test_formats.py` shows the table.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import vapoursynth as vs
from skimage import color as skcolor
from torch import Tensor

from vsexvc.graph import build
from vsexvc.schedule import Schedule

core = vs.core
CLIPS = Path(__file__).resolve().parents[2] / "shared/data/val_clips"
CLIP = CLIPS / "Grounded-SAM-2_02-cups_013_00.mp4"  # saturated colours
SIZES = {"384x216": (384, 216), "131x77": (131, 77), "16x10": (16, 10)}
KR_KB = {
    1: (0.2126, 0.0722),
    4: (0.3, 0.11),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
}
YCGCO = 8
BT2087 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])  # light: 709 to 2020
ROWS: list[tuple[str, str, str, str, float, float]] = []

pytestmark = pytest.mark.skipif(not CLIP.exists(), reason=f"needs {CLIP}, of the project's shared data")

Planes = list[np.ndarray[Any, Any]]


def ffmpeg(*arguments: str, data: bytes | None = None) -> bytes:
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="decodes the clip")
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *arguments]
    return subprocess.run(command, input=data, capture_output=True, check=True).stdout


@cache
def picture(width: int, height: int) -> np.ndarray[Any, Any]:
    """Return the middle of the clip's tenth frame, (height, width, 3), 0..1."""
    crop = f"select=eq(n\\,9),format=rgb24,crop={width}:{height}"
    raw = ffmpeg("-i", str(CLIP), "-vf", crop, "-frames:v", "1", "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
    return np.frombuffer(raw, np.uint8).reshape(height, width, 3) / 255.0


def yuv_of(rgb: np.ndarray[Any, Any], matrix: int) -> Planes:
    """Return Y' 0..1, U and V -0.5..0.5, by the definitions of BT.601, 709, 2020 and H.273."""
    r, g, b = np.moveaxis(rgb, -1, 0)
    if matrix == YCGCO:
        return [r / 4 + g / 2 + b / 4, -r / 4 + g / 2 - b / 4, r / 2 - b / 2]
    kr, kb = KR_KB[matrix]
    y = kr * r + (1 - kr - kb) * g + kb * b
    return [y, (b - y) / (2 - 2 * kb), (r - y) / (2 - 2 * kr)]


def quantised(planes: Planes, bits: int, full: bool) -> Planes:
    """Return the integer codes of BT.709 and BT.2100."""
    step, highest = 1 << (bits - 8), (1 << bits) - 1
    y, *uv = planes
    codes = [y * highest if full else (219 * y + 16) * step]
    codes += [c * (highest if full else 224 * step) + 128 * step for c in uv]
    return [np.clip(np.round(plane), 0, highest) for plane in codes]


def clip_of(format: int, planes: Planes, **props: int) -> vs.VideoNode:
    height, width = planes[0].shape
    blank = core.std.BlankClip(format=format, width=width, height=height, length=1)

    def fill(n: int, f: vs.VideoFrame) -> vs.VideoFrame:
        f = f.copy()
        for i, plane in enumerate(planes):
            np.asarray(f[i])[:] = plane
        return f

    return blank.std.ModifyFrame(blank, fill).std.SetFrameProps(**props)


def planes_of(clip: vs.VideoNode) -> Planes:
    with clip.get_frame(0) as f:
        return [np.array(f[plane], np.float64) for plane in range(f.format.num_planes)]


@dataclass
class Aligned:
    """Hold what the pump reads of a correspondence."""

    similarity: Tensor
    ab: Tensor


@dataclass
class TrueSession:
    """Return the given ab, or the reference's own if none is given."""

    ab: Tensor | None

    def reference(self, lab: Tensor) -> Tensor:
        return lab[:, 1:] if self.ab is None else self.ab

    def correspond(self, L: Tensor, references: list[Tensor], *given: Any) -> list[Aligned]:
        (reference,) = references
        return [Aligned(torch.ones_like(one[None]), reference) for one in L]

    def start(self, reference: Any, area: Any) -> None:
        return None

    def step(self, state: None, aligned: Aligned) -> tuple[None, Tensor]:
        return None, aligned.ab


def coloured(clip: vs.VideoNode, rgb: np.ndarray[Any, Any], from_reference: bool = False) -> vs.VideoNode:
    """Colour the clip by the real graph at the picture's size; the reference is the picture as RGB24."""
    ab = torch.from_numpy(skcolor.rgb2lab(rgb)[..., 1:]).permute(2, 0, 1)[None].float()
    reference = clip_of(vs.RGB24, [np.round(plane * 255.0) for plane in np.moveaxis(rgb, -1, 0)])
    session = TrueSession(None if from_reference else ab)
    return build(clip, reference, session, Schedule(1, sc=False), min(rgb.shape[:2]), torch.device("cpu"))


def psnr(found: Planes, expected: Planes, format: vs.VideoFormat) -> list[float]:
    peak = 1.0 if format.sample_type == vs.FLOAT else (1 << format.bits_per_sample) - 1.0
    errors = [np.mean((a - b) ** 2) for a, b in zip(found, expected, strict=True)]
    return [float(10.0 * np.log10(peak**2 / max(error, 1e-12))) for error in errors]


def compare(
    out: vs.VideoNode, truth: Planes, least: float, matrix: str, range_: str, source: str, luma: bool = False
) -> None:
    """Check the PSNR of each plane but luma, and record it for the table."""
    found = psnr(planes_of(out)[not luma :], truth[not luma :], out.format)
    ROWS.append((source, matrix, range_, f"{out.width}x{out.height}", min(found), max(found)))
    assert min(found) >= least, ROWS[-1]


NAMES = {1: "BT.709", 4: "FCC", 5: "BT.470BG", 6: "ST 170M", 7: "ST 240M", 8: "YCgCo", 9: "BT.2020"}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("matrix", [*KR_KB, YCGCO], ids=NAMES.get)
def test_matrices_and_ranges(matrix: int, full: bool, size: str) -> None:
    """U and V reach at least 45 dB at 8-bit 4:4:4."""
    rgb = picture(*SIZES[size])
    truth = quantised(yuv_of(rgb, matrix), 8, full)
    out = coloured(clip_of(vs.YUV444P8, truth, _Matrix=matrix, _Range=int(full)), rgb)
    assert np.array_equal(planes_of(out)[0], truth[0])
    compare(out, truth, 45.0, NAMES[matrix], "full" if full else "limited", "YUV444P8")


# Least PSNR of U and V where the picture has the network's size. The filter makes U and V at luma's samples and
# subsamples them by a triangle; zimg subsampled the source by a bicubic.
FORMATS = {
    vs.YUV410P8: 40.0,
    vs.YUV411P8: 40.0,
    vs.YUV420P8: 44.0,
    vs.YUV420P10: 44.0,
    vs.YUV420P16: 44.0,
    vs.YUV420PH: 44.0,
    vs.YUV420PS: 44.0,
    vs.YUV422P8: 44.0,
    vs.YUV422P10: 44.0,
    vs.YUV422P16: 44.0,
    vs.YUV422PS: 44.0,
    vs.YUV440P8: 44.0,
    vs.YUV444P10: 50.0,
    vs.YUV444P16: 50.0,
    vs.YUV444PH: 50.0,
    vs.YUV444PS: 50.0,
}


@pytest.mark.parametrize(("matrix", "full"), [(1, False), (6, True)], ids=["BT.709-limited", "ST 170M-full"])
@pytest.mark.parametrize("format", FORMATS, ids=lambda f: f.name)
def test_formats(format: int, matrix: int, full: bool) -> None:
    rgb = picture(*SIZES["384x216"])
    exact = clip_of(vs.YUV444PS, yuv_of(rgb, matrix), _Matrix=matrix)
    clip = exact.resize.Bicubic(format=format, range=int(full))
    out = coloured(clip, rgb)
    assert np.array_equal(planes_of(out)[0], planes_of(clip)[0])
    compare(out, planes_of(clip), FORMATS[format], NAMES[matrix], "full" if full else "limited", clip.format.name)


@pytest.mark.parametrize("size", ["384x216", "131x77", "16x10"])
@pytest.mark.parametrize("format", [vs.GRAY8, vs.GRAY16, vs.GRAYS], ids=lambda f: f.name)
def test_grey(format: int, size: str) -> None:
    """U and V are compared with those of the coloured picture in 4:4:4."""
    rgb = picture(*SIZES[size])
    bits = core.get_video_format(format).bits_per_sample
    exact = yuv_of(rgb, 1)
    truth = exact if format == vs.GRAYS else quantised(exact, bits, False)
    out = coloured(clip_of(format, truth[:1], _Matrix=1), rgb)
    compare(out, truth, 45.0, "BT.709", "limited", core.get_video_format(format).name)


@pytest.mark.parametrize("size", ["384x216", "131x77", "16x10"])
@pytest.mark.parametrize("format", [vs.RGB24, vs.RGB48, vs.RGBS], ids=lambda f: f.name)
def test_rgb(format: int, size: str) -> None:
    rgb = picture(*SIZES[size])
    scale = {vs.RGB24: 255.0, vs.RGB48: 65535.0, vs.RGBS: 1.0}[format]
    clip = clip_of(format, list(np.moveaxis(rgb * scale, -1, 0)))
    truth = planes_of(clip)
    least = 40.0 if size == "16x10" else 45.0  # a patch of saturated red: the error of blue is 1.86 times that of U
    compare(coloured(clip, rgb), truth, least, "RGB", "full", clip.format.name, luma=True)


@pytest.mark.parametrize("pix_fmt", ["yuv410p", "yuv411p", "yuv420p", "yuv422p", "yuv440p", "yuv444p"])
@pytest.mark.parametrize(("matrix", "name"), [(1, "bt709"), (6, "bt601"), (9, "bt2020")])
def test_swscale(pix_fmt: str, matrix: int, name: str) -> None:
    """Sources that VapourSynth has not processed keep U and V too."""
    width, height = SIZES["384x216"]
    rgb = picture(width, height)
    filters = f"scale=out_color_matrix={name}:out_range=tv:flags=bicubic+accurate_rnd+full_chroma_inp+full_chroma_int"
    raw = ffmpeg(
        *("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-i", "-", "-vf", filters),
        *("-f", "rawvideo", "-pix_fmt", pix_fmt, "-"),
        data=(rgb * 255.0).round().astype(np.uint8).tobytes(),
    )
    format = core.get_video_format(getattr(vs, pix_fmt.upper() + "8"))
    w, h = width >> format.subsampling_w, height >> format.subsampling_h
    values = np.frombuffer(raw, np.uint8)
    luma, u, v = np.split(values, [width * height, width * height + w * h])
    truth = [luma.reshape(height, width), u.reshape(h, w), v.reshape(h, w)]
    clip = clip_of(format.id, truth, _Matrix=matrix, _Range=0)
    least = {"yuv410p": 38.0, "yuv411p": 38.0, "yuv444p": 45.0}.get(pix_fmt, 42.0)
    compare(
        coloured(clip, rgb),
        planes_of(clip),
        least,
        NAMES[matrix],
        "limited",
        f"{pix_fmt} (swscale)",
    )


@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize(("matrix", "primaries"), [(6, 1), (1, 1), (9, 9)], ids=["BT.601", "BT.709", "BT.2020"])
def test_reference_of_rgb(matrix: int, primaries: int, full: bool) -> None:
    """The ab of an RGB reference give the clip's U and V; equal errors in both conversions would show here."""
    rgb = picture(*SIZES["384x216"])
    own = rgb
    if primaries == 9:
        light = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ BT2087.T
        own = np.where(light <= 0.0031308, light * 12.92, 1.055 * np.maximum(light, 0.0031308) ** (1 / 2.4) - 0.055)
    truth = quantised(yuv_of(own, matrix), 8, full)
    clip = clip_of(vs.YUV444P8, truth, _Matrix=matrix, _Range=int(full), _Primaries=primaries, _Transfer=13)
    range_ = "full" if full else "limited"
    compare(coloured(clip, rgb, from_reference=True), truth, 45.0, NAMES[matrix], range_, "YUV444P8, RGB24 reference")


def test_table() -> None:
    """Print the figures of the tests above that ran in this process."""
    if not ROWS:
        pytest.skip("the tests above ran in other processes")
    print("\n| source | matrix | range | size | worse plane, dB | better plane, dB |\n|---|---|---|---|--:|--:|")
    for *names, low, high in ROWS:
        print(
            "|", " | ".join(names), "|", " | ".join("equal" if db > 150.0 else f"{db:.1f}" for db in (low, high)), "|"
        )
    assert re.match(r"\d+x\d+", ROWS[0][3])

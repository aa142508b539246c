"""Test the released network: a step against scripts/plain.py, and the preset "upstream" around it.

Weights are random, with exactly the released keys and shapes, at full width, in files like the authors'.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import vapoursynth as vs
from skimage import color as skcolor
from test_plugin import moving, planes, props
from test_store import COLORNET, NONLOCAL, VGG
from torch import Tensor

import vsexvc
from scripts import plain
from vsexvc import plugin
from vsexvc.backends.options import ComputeOptions
from vsexvc.backends.prepare import prepared
from vsexvc.graph import build
from vsexvc.presets import PRESETS
from vsexvc.schedule import Schedule
from vsexvc.session import Correspondence, Reference, Session, State
from vsexvc.weights import store

CPU, UPSTREAM = torch.device("cpu"), PRESETS["upstream"]
core = vs.core
Array = np.ndarray[Any, Any]
Released = tuple[Path, dict[str, dict[str, Tensor]]]

PEAK = 255.0  # peak for the PSNR of ab: the span of a and b, -128..127
ROUNDING = 1e-4  # rounding of a correlation in float32 after thirty layers


def random_weights(table: dict[str, tuple[int, ...]], generator: torch.Generator) -> dict[str, Tensor]:
    """Draw weights of half precision by He's rule, which keeps the size of signals, so that every layer counts."""
    state = {}
    for key, shape in table.items():
        if len(shape) == 4:
            scale = (2.0 / (shape[1] * shape[2] * shape[3])) ** 0.5
            state[key] = torch.randn(shape, generator=generator) * scale
        elif shape == (1,):
            state[key] = torch.rand(shape, generator=generator) * 0.5  # a PReLU's weight
        else:
            state[key] = torch.randn(shape, generator=generator) * 0.1
        if key == "conv10_ab.weight":
            state[key] *= 0.1  # keep to the steep part of tanh
    return {key: value.half() for key, value in state.items()}


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Released:
    """Write the released files; return their folder and contents."""
    generator, folder = torch.Generator().manual_seed(0), tmp_path_factory.mktemp("released")
    tables = {"nonlocal_net_iter_76000": NONLOCAL, "colornet_iter_76000": COLORNET, "vgg19_conv": VGG}
    states = {name: random_weights(table, generator) for name, table in tables.items()}
    for name, state in states.items():
        torch.save(state, folder / f"{name}.pth")
    return folder, {name.split("_iter")[0]: state for name, state in states.items()}


def picture(height: int, width: int, generator: torch.Generator) -> Tensor:
    """Return Lab of smooth random colours and noise, (1, 3, height, width), with a top as dark as a border."""
    coarse = torch.rand(1, 3, height // 8, width // 8, generator=generator)
    rgb = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    rgb = (rgb + 0.2 * torch.rand(1, 3, height, width, generator=generator)).clamp(0.02, 0.98)
    lab = torch.from_numpy(skcolor.rgb2lab(rgb[0].permute(1, 2, 0).double().numpy())).permute(2, 0, 1)[None].float()
    lab[:, :, :8] *= 0.028  # L up to 2.8
    return lab


@pytest.mark.numbers
class TestStep:
    @pytest.mark.parametrize(
        "size", [(64, 96), (72, 96), pytest.param((216, 384), marks=pytest.mark.slow)], ids=lambda s: f"{s[1]}x{s[0]}"
    )
    def test_it_is_the_plain_implementations(self, size: tuple[int, int], released: Released) -> None:
        """A step on three random pictures agrees with plain.py; at 72 and 216 rows relu5 lacks a row on each side.

        The test checks arithmetic. The temperature is almost zero, so a position takes only its best match. If two
        matches differ by no more than rounding, either is right: there, in 1 % of the positions at most, the plain
        implementation continues with the colours found by the network.
        """
        folder, w = released
        w = {name: {key: value.double() for key, value in state.items()} for name, state in w.items()}
        generator = torch.Generator().manual_seed(1)
        lab, previous, reference = (picture(*size, generator) for _ in range(3))
        L, centre = lab[:, :1], torch.tensor([50.0, 0.0, 0.0]).view(1, 3, 1, 1)
        session = Session(store.load(str(folder)), borders=False)
        held = session.reference(reference)
        aligned = session.correspond(L, held)[0]
        state, ab = session.step(State(previous - centre, held.phi), aligned)

        rgb = skcolor.lab2rgb(reference[0].permute(1, 2, 0).double().numpy())
        inputs = (L.double() / 100).expand(-1, 3, -1, -1), torch.from_numpy(rgb).permute(2, 0, 1)[None]
        fx, fy = (
            plain.correspondence_features(plain.vgg(plain.vgg_input(x), w["vgg19_conv"]), w["nonlocal_net"])
            for x in inputs
        )
        warped, similarity = plain.match(fx, fy, reference[:, 1:].double(), w["nonlocal_net"], tau=1e-10)
        tied = plain.margins(fx, fy, w["nonlocal_net"]) < ROUNDING
        other = (warped - aligned.warped_ab).abs().amax(1, keepdim=True) > 1e-3
        assert float(tied.double().mean()) <= 0.01
        assert not (other & ~tied).any()
        seen = torch.where(tied, aligned.warped_ab.double(), warped)
        seen = torch.cat(((L - 50.0).double(), seen, similarity, (previous - centre).double()), dim=1)
        expected = plain.color_net(seen, w["colornet"])

        psnr = float(10.0 * torch.log10(PEAK**2 / (ab.double() - expected).pow(2).mean()))
        counts = [int(which.sum()) // 16 for which in (tied, other)]
        what = f"{counts[0]} near ties, {counts[1]} of them differ"
        print(f"{size[1]}x{size[0]}: ab {psnr:.1f} dB (peak {PEAK:.0f}); {what}")
        assert 10.0 < float(expected.std()) < 60.0  # distinct colours, and tanh not at its ends
        assert psnr >= 80.0
        assert (aligned.similarity - similarity).abs().max() < 1e-3
        assert state.prev_lab is not None
        assert torch.equal(state.prev_lab, torch.cat((L - 50.0, ab), dim=1))


@dataclass
class GivenSession:
    """Give every frame the same ab, and record the inputs."""

    ab: Tensor
    seen: list[Tensor] = field(default_factory=list)

    def reference(self, lab: Tensor) -> None:
        self.seen.append(lab)

    def correspond(self, L: Tensor, references: list[None], *given: Any) -> list[Any]:
        self.seen.append(L)
        return [SimpleNamespace(similarity=torch.full_like(one[None], 0.5), warped_ab=self.ab) for one in L]

    def start(self, reference: None, area: Any) -> None:
        return None

    def step(self, state: None, one: Any) -> tuple[None, Tensor]:
        return None, self.ab


def doubled(x: Array) -> Array:
    """Double the size by the definition of bilinear, (C, h, w) -> (C, 2h, 2w), with the border repeated."""
    for axis in (1, 2):
        x = np.moveaxis(x, axis, 0)
        before, after = np.concatenate((x[:1], x[:-1])), np.concatenate((x[1:], x[-1:]))
        x = np.stack((0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after), axis=1).reshape(-1, *x.shape[1:])
        x = np.moveaxis(x, 0, axis)
    return x


def halved(x: Array) -> Array:
    """Halve the size, (C, h, w) -> (C, h/2, w/2): bilinear samples in the middle of four pixels."""
    return (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4.0


def lab_of(clip: vs.VideoNode, n: int = 0) -> Array:
    """Return scikit-image's Lab (3, H, W) of an RGB clip or a tagged clip."""
    rgb = clip if clip.format.id == vs.RGBS else clip.resize.Bicubic(format=vs.RGBS)
    return np.moveaxis(skcolor.rgb2lab(np.stack(planes(rgb, n), axis=-1).astype(np.float64)), -1, 0)


def random_ab() -> Tensor:
    """Return ab at the network's size, so small that every colour is in gamut at middle greys."""
    return torch.rand(1, 2, 216, 384, generator=torch.Generator().manual_seed(3)) * 24.0 - 12.0


def middle_grey(format: int, length: int = 1, width: int = 768, height: int = 432) -> vs.VideoNode:
    """Make a moving pattern between 0.35 and 0.65."""
    clip = (
        moving(vs.RGBS, length, width, height)
        .std.Expr("x 0.375 * 0.3125 +")
        .resize.Bicubic(format=vs.GRAYS, matrix=vs.MATRIX_BT709, range=vs.RANGE_FULL)
    )
    own = core.get_video_format(format)
    grey = clip.resize.Bicubic(
        format=core.query_video_format(vs.GRAY, own.sample_type, own.bits_per_sample).id, range=vs.RANGE_LIMITED
    )
    if own.color_family == vs.RGB:
        made = core.std.ShufflePlanes(grey, [0, 0, 0], vs.RGB)
    else:
        made = grey if own.color_family == vs.GRAY else grey.resize.Bicubic(format=format, matrix=vs.MATRIX_BT709)
    return made.std.SetFrameProps(_Matrix=0 if own.color_family == vs.RGB else 1)


def graph(clip: vs.VideoNode, session: Any, ref: vs.VideoNode | None = None, **options: Any) -> vs.VideoNode:
    ref = moving(vs.RGB24, 1, 768, 432) if ref is None else ref
    return build(clip, ref, session, Schedule(clip.num_frames), 216, CPU, preset=UPSTREAM, **options)


class TestPreset:
    @pytest.mark.parametrize("format", [vs.GRAY16, vs.YUV444PS, vs.RGBS], ids=lambda f: f.name)
    @pytest.mark.parametrize(("saturation", "output"), [(1.0, "color"), (0.5, "color"), (1.0, "warped")])
    def test_ab_is_the_networks_times_gain_brought_up_bilinearly(
        self, format: int, saturation: float, output: str
    ) -> None:
        ab = random_ab()
        out = graph(middle_grey(format), GivenSession(ab), saturation=saturation, output=output)
        found, expected = lab_of(out)[1:], 1.25 * saturation * doubled(ab[0].double().numpy())
        assert expected.std() > 3.0 * saturation
        assert np.abs(found - expected).max() < 0.1

    @pytest.mark.parametrize("format", [vs.YUV420P8, vs.YUV410P8, vs.YUV422P10], ids=lambda f: f.name)
    def test_chroma_is_made_at_full_size_first(self, format: int) -> None:
        """Chroma agrees with zimg's subsampling of the preset's 4:4:4 result."""
        clip, session = middle_grey(format), GivenSession(random_ab())
        full = graph(clip, session, format=core.get_video_format(vs.YUV444PS))
        truth = planes(full.resize.Bilinear(format=format))
        own = graph(clip, session)
        assert own.format.id == format
        step = 1 << (own.format.bits_per_sample - 8)
        for plane in (1, 2):
            error = (planes(own)[plane].astype(float) - truth[plane].astype(float)) / step
            assert np.sqrt(np.mean(error**2)) < 0.6

    def test_what_the_network_sees(self) -> None:
        """The network gets frame and reference halved in Lab, the reference in the frame's size."""
        session = GivenSession(random_ab())
        clip, ref = middle_grey(vs.GRAY16, 3), moving(vs.RGBS, 1, 768, 432)
        graph(clip, session, ref).get_frame(0).close()
        reference, L = session.seen
        grey = clip.resize.Bicubic(format=vs.RGBS)
        assert reference.shape == (1, 3, 216, 384)
        assert np.abs(reference[0].numpy() - halved(lab_of(ref))).max() < 0.02
        for n in range(3):
            assert np.abs(L[n].numpy() - halved(lab_of(grey, n)[:1])).max() < 0.02

    @pytest.mark.parametrize("format", [vs.GRAY8, vs.YUV420P10], ids=lambda f: f.name)
    @pytest.mark.parametrize(
        ("width", "height", "crop"),
        [(384, 216, {}), (320, 240, {"top": 30, "bottom": 30}), (640, 216, {"left": 128, "right": 128})],
    )
    def test_luma_is_the_clips_cut_to_shape_and_resized(
        self, format: int, width: int, height: int, crop: dict[str, int]
    ) -> None:
        clip = middle_grey(format, 1, width, height)
        out = graph(clip, GivenSession(random_ab()))
        expected = clip.std.Crop(**crop).resize.Bilinear(768, 432)
        assert (out.width, out.height, out.num_frames, out.fps) == (768, 432, 1, clip.fps)
        inner = slice(4, -4), slice(4, -4)  # at the border a cropped clip lacks neighbours
        assert np.array_equal(planes(out)[0][inner], planes(expected)[0][inner])

    @pytest.mark.parametrize("propagate", [False, True])
    def test_the_state_is_without_the_gain(self, propagate: bool, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """The second frame has the colours that a separate session gives for the same inputs."""
        seen: list[Tensor] = []

        class Watched(Session):
            def reference(self, lab: Tensor) -> Reference:
                seen.append(lab)
                return super().reference(lab)

            def correspond(self, L: Tensor, *given: Any) -> list[Correspondence]:
                seen.append(L)
                return super().correspond(L, *given)

        monkeypatch.setattr(plugin, "Session", Watched)
        clip, ref = middle_grey(vs.GRAY16, 2), moving(vs.RGB24, 1)
        out = vsexvc.colorize(
            clip, ref, model=model, preset="upstream", saturation=0.05, propagate=propagate, sc=False, device="cpu",
            format=vs.YUV444PS,
        )  # fmt: skip
        found = lab_of(out, 1)[1:]
        exact = prepared(store.load(model), ComputeOptions(precision="fp32"))
        session, (lab, L) = Session(exact, borders=False), seen
        reference = session.reference(lab)
        first, second = session.correspond(L, reference)[:2]
        state, ab = session.step(session.start(reference if propagate else None), first)
        with_gain = State(torch.cat((L[:1] - 50.0, 1.25 * ab), dim=1), state.prev_phi)
        right, wrong = (session.step(before, second)[1][0].double().numpy() for before in (state, with_gain))
        assert np.abs(found - 0.05 * 1.25 * doubled(right)).max() < 0.1
        assert np.abs(found - 0.05 * 1.25 * doubled(wrong)).max() > 0.5

    def test_black_borders_are_picture(self, model: str) -> None:
        grey = middle_grey(vs.GRAY16).std.Crop(top=96, bottom=96)
        dark = grey.std.AddBorders(top=96, bottom=96, color=5000)  # L 1.5
        ref = moving(vs.RGB24, 1)
        own, preset = (
            lab_of(vsexvc.colorize(dark, ref, model=model, device="cpu", format=vs.YUV444PS, **arguments))[1:, :90]
            for arguments in ({}, {"preset": "upstream"})
        )
        assert np.abs(own).max() < 0.1
        assert np.abs(preset).max() > 0.5

    def test_a_matrix_that_is_not_stated_is_that_of_the_clips_size(self) -> None:
        large = middle_grey(vs.GRAY8, 1, 1920, 1080).std.RemoveFrameProps("_Matrix")
        found = props(graph(large.std.SetFrameProps(note="kept"), GivenSession(random_ab())))
        assert (found["_Matrix"], found["note"], found["_Transfer"]) == (vs.MATRIX_BT709, "kept", 1)

    def test_a_mask_keeps_the_clips_own_colours(self, model: str) -> None:
        clip = moving(vs.YUV444P16, 1, 384, 216)
        white = core.std.BlankClip(format=vs.GRAY8, width=384, height=216, length=1, color=255)
        out = vsexvc.colorize(clip, moving(vs.RGB24, 1), model=model, mask=white, preset="upstream", device="cpu")
        for own, kept in zip(planes(clip.resize.Bilinear(768, 432)), planes(out), strict=True):
            assert np.abs(own.astype(int) - kept.astype(int)).max() <= 1

    def test_formats_of_references_may_vary(self) -> None:
        session = GivenSession(random_ab())
        refs = core.std.Splice([moving(f, 1) for f in (vs.RGB24, vs.YUV420P10, vs.RGBS)], mismatch=True)
        out = build(
            middle_grey(vs.GRAY8, 3),
            refs,
            session,
            Schedule(3, 3, (0, 1, 2)),
            216,
            torch.device("cpu"),
            preset=PRESETS["upstream"],
        )
        for n in range(3):
            out.get_frame(n).close()
        first, *others = (seen.numpy() for seen in session.seen if seen.shape[:2] == (1, 3))
        assert len(others) == 2
        for other in others:
            assert np.abs(other - first).mean() < 1.5  # rounding of 8 bits and half-size chroma

    def test_similarity_is_of_the_presets_size(self) -> None:
        out = graph(middle_grey(vs.GRAY8, 1, 384, 216), GivenSession(random_ab()), output="similarity")
        assert (out.width, out.height, out.format.id) == (768, 432, vs.GRAY8)
        assert np.all(planes(out)[0] == 128)

    @pytest.mark.parametrize("tags", [{"_Matrix": 14}, {"_FieldBased": 1}, {"_Transfer": 16}, {"_Range": 7}])
    def test_tags_that_are_not_handled(self, tags: dict[str, int]) -> None:
        out = graph(moving(vs.YUV420P8).std.SetFrameProps(**tags), GivenSession(random_ab()))
        with pytest.raises(vs.Error, match=r"^Colorize: frame 0: clip: .*got .*" + str(next(iter(tags.values())))):
            out.get_frame(0)

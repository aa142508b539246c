"""Test merge.py, called as PyFilter calls it: saturation, masks, and what stays of the source."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
import vapoursynth as vs

from vsexvc.graph import build, merges_at_once
from vsexvc.merge import Merge
from vsexvc.schedule import Schedule

core = vs.core
WIDTH, HEIGHT = 48, 32
SOURCE, SMALL, COLOURED, MASK = 1, 2, 3, 4


def clip_of(format: int, *planes: Any, **props: Any) -> vs.VideoNode:
    """Make one frame; each plane is a number or an array."""
    size = {"width": WIDTH, "height": HEIGHT}
    if isinstance(planes[0], np.ndarray):
        size = {"width": planes[0].shape[1], "height": planes[0].shape[0]}
    blank = core.std.BlankClip(format=format, length=1, **size)

    def fill(n: int, f: vs.VideoFrame) -> vs.VideoFrame:
        f = f.copy()
        for i, plane in enumerate(planes):
            np.asarray(f[i])[:] = plane
        return f

    clip = blank.std.ModifyFrame(blank, fill)
    return clip.std.SetFrameProps(**props) if props else clip


def noise(format: int, seed: int = 0) -> vs.VideoNode:
    """Make a frame of noise, so that its own colours are recognised."""
    f = core.get_video_format(format)
    g = np.random.default_rng(seed)
    shapes = [(HEIGHT, WIDTH)] + [(HEIGHT >> f.subsampling_h, WIDTH >> f.subsampling_w)] * (f.num_planes - 1)
    planes = [g.uniform(0.2, 0.8, shape) for shape in shapes]
    if f.sample_type == vs.INTEGER:
        planes = [np.round(plane * ((1 << f.bits_per_sample) - 1)) for plane in planes]
    elif f.color_family == vs.YUV:
        planes[1:] = [plane - 0.5 for plane in planes[1:]]
    return clip_of(format, *planes, _Matrix=0 if f.color_family == vs.RGB else 1, _Kept="yes")


def merged(
    source: vs.VideoNode,
    ab: tuple[float, float] = (20.0, -15.0),
    mask: Any = None,
    grey: bool = False,
    **options: float,
) -> vs.VideoFrame:
    """Return the frame that Merge makes from one ab everywhere. mask: a number or array, 0..65535."""
    small = clip_of(vs.GRAY16, 30000, _Range=1)
    similarity = {"ExvcReference": 0, "ExvcSimilarity": 0.5, "ExvcSceneStart": 0}
    coloured = clip_of(vs.YUV444PS, 1.0, *ab).std.SetFrameProps(**similarity)
    clips = {SOURCE: source, SMALL: small, COLOURED: coloured}
    if mask is not None:
        clips[MASK] = clip_of(vs.GRAY16, np.broadcast_to(np.asarray(mask), (HEIGHT, WIDTH)).copy())
    merge = Merge(grey, torch.device("cpu"), masked=mask is not None, **options)
    asked = merge(0, 0, 0, None)
    answer = merge(0, asked["need"], asked["need_clip"], [clips[clip].get_frame(0) for clip in asked["need_clip"]])
    assert "frame" in answer, answer
    frame: vs.VideoFrame = answer["frame"]
    return frame


def planes(frame: vs.VideoFrame) -> list[np.ndarray[Any, Any]]:
    return [np.array(frame[plane]) for plane in range(frame.format.num_planes)]


FORMATS = [vs.YUV420P8, vs.YUV422P10, vs.YUV444P16, vs.YUV410P8, vs.YUV420PH, vs.YUV444PS, vs.RGB24, vs.RGB48, vs.RGBS]


class TestMask:
    @pytest.mark.parametrize("format", FORMATS, ids=lambda f: f.name)
    def test_white_keeps_the_source(self, format: int) -> None:
        source = noise(format)
        for found, expected in zip(planes(merged(source, mask=65535)), planes(source.get_frame(0)), strict=True):
            assert np.array_equal(found, expected)

    @pytest.mark.parametrize("format", FORMATS, ids=lambda f: f.name)
    def test_black_is_no_mask(self, format: int) -> None:
        source = noise(format)
        for found, expected in zip(planes(merged(source, mask=0)), planes(merged(source)), strict=True):
            assert np.array_equal(found, expected)

    @pytest.mark.parametrize("format", FORMATS, ids=lambda f: f.name)
    def test_between_is_a_blend(self, format: int) -> None:
        """A mask of 1/4 gives a quarter of the source's values and three quarters of the new ones."""
        source = noise(format)
        is_float = source.format.sample_type == vs.FLOAT
        own, new = planes(source.get_frame(0)), planes(merged(source))
        for found, a, b in zip(planes(merged(source, mask=16384)), own, new, strict=True):
            expected = 0.25 * a.astype(np.float64) + 0.75 * b
            assert np.abs(found - expected).max() <= (0.002 if is_float else 1.0)

    def test_edges_fall_between_samples_of_chroma(self) -> None:
        """The mask is white up to column 24: in 4:2:0, left, the sample at 24 has a quarter, others all or nothing."""
        mask = np.where(np.arange(WIDTH) < 24, 65535, 0)
        own, new = (
            planes(merged(clip_of(vs.YUV420PS, 0.5, 0.25, 0.25, _Matrix=1), mask=m))[1][0, 0] for m in (65535, 0)
        )
        row = planes(merged(clip_of(vs.YUV420PS, 0.5, 0.25, 0.25, _Matrix=1), mask=mask))[1][5]
        share = (row - new) / (own - new)
        assert np.allclose(share[:12], 1.0, atol=1e-5)
        assert share[12] == pytest.approx(0.25, abs=1e-5)
        assert np.allclose(share[13:], 0.0, atol=1e-5)

    @pytest.mark.parametrize(("format", "neutral"), [(vs.YUV444P8, 128), (vs.YUV444P10, 512), (vs.YUV444PS, 0.0)])
    def test_grey_has_no_colours_to_keep(self, format: int, neutral: float) -> None:
        frame = merged(noise(format), mask=65535, grey=True)
        assert all(np.all(plane == neutral) for plane in planes(frame)[1:])


class TestSaturation:
    def test_factor_of_ab(self) -> None:
        source = noise(vs.YUV444P16)
        for found, expected in zip(
            planes(merged(source, (10.0, -8.0), saturation=2.5)), planes(merged(source, (25.0, -20.0))), strict=True
        ):
            assert np.array_equal(found, expected)

    @pytest.mark.parametrize("format", [vs.YUV444P8, vs.YUV444PS, vs.YUV420P10])
    def test_none_is_grey(self, format: int) -> None:
        found = planes(merged(noise(format), saturation=0.0))[1:]
        is_float = core.get_video_format(format).sample_type == vs.FLOAT
        zero = 0.0 if is_float else 1 << (core.get_video_format(format).bits_per_sample - 1)
        assert all(np.abs(plane.astype(np.float64) - zero).max() <= 1e-4 * is_float for plane in found)

    def test_gamut_rule_comes_after(self) -> None:
        """R'G'B' of BT.709 stays in 0..1 for any saturation."""
        y, u, v = planes(merged(noise(vs.YUV444PS), (90.0, -90.0), saturation=4.0))
        red, blue = y + 1.5748 * v, y + 1.8556 * u
        green = (y - 0.2126 * red - 0.0722 * blue) / 0.7152
        for channel in (red, green, blue):
            assert channel.min() > -1e-4
            assert channel.max() < 1.0 + 1e-4


class TestKept:
    @pytest.mark.parametrize("format", FORMATS[:6], ids=lambda f: f.name)
    @pytest.mark.parametrize("mask", [None, 30000])
    def test_luma_and_properties(self, format: int, mask: int | None) -> None:
        source = noise(format).get_frame(0)
        found = merged(noise(format), mask=mask, saturation=1.3)
        assert np.array_equal(planes(found)[0], planes(source)[0])
        assert {"_Kept": "yes", "_Matrix": 1, "ExvcReference": 0}.items() <= dict(found.props).items()

    def test_rgb_keeps_its_luma(self) -> None:
        source = noise(vs.RGBS)
        before, after = (
            np.tensordot((0.2126, 0.7152, 0.0722), planes(f), 1) for f in (source.get_frame(0), merged(source))
        )
        assert np.abs(after - before).max() < 2e-5

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_what_is_no_number(self, value: float) -> None:
        """NaN and infinite luma of a float clip gives finite chroma."""
        y = np.full((HEIGHT, WIDTH), 0.5)
        y[10:12, 20:22] = value
        found = planes(merged(clip_of(vs.YUV420PS, y, 0.1, 0.1, _Matrix=1), mask=100))
        assert np.isfinite(found[1]).all() and np.isfinite(found[2]).all()


class TestWhereItWorks:
    @pytest.mark.parametrize("location", range(6))
    def test_both_ways_agree(self, location: int) -> None:
        """U and V made at the samples of chroma equal those made at full size first, on a smooth picture."""
        y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
        luma = 0.5 + 0.2 * np.sin(x / 9.0) * np.cos(y / 7.0)
        source = clip_of(vs.YUV420PS, luma, 0.0, 0.0, _Matrix=1, _ChromaLocation=location)
        at_once = merged(source)  # at the clip's own size U and V are made at full size first
        small = {SMALL: clip_of(vs.GRAY16, np.full((8, 12), 30000), _Range=1)}
        a, b = (clip_of(vs.GRAYS, np.full((8, 12), value)) for value in (20.0, -15.0))
        small[COLOURED] = core.std.ShufflePlanes([a, a, b], [0, 0, 0], vs.YUV).std.SetFrameProps(
            ExvcReference=0, ExvcSimilarity=0.5, ExvcSceneStart=0
        )
        frames = [source.get_frame(0), *(small[clip].get_frame(0) for clip in (SMALL, COLOURED))]
        there = Merge(False, torch.device("cpu"))(0, [0] * 3, [SOURCE, SMALL, COLOURED], frames)["frame"]
        for one, other in zip(planes(at_once), planes(there), strict=True):
            assert np.abs(one - other).max() < 0.3 / 255.0


class Plain:
    """Replace a session (vsexvc.pump.SessionLike); each frame's ab depends on its luma."""

    def reference(self, *lab: torch.Tensor) -> None: ...
    def start(self, *given: Any) -> None: ...

    def correspond(self, L: torch.Tensor, *given: Any) -> list[Plain]:
        self.similarity = torch.ones(1, *L.shape[1:])
        found = []
        for one in L:
            found.append(Plain())
            found[-1].ab = torch.cat((one, 50.0 - one))[None]
            found[-1].similarity = self.similarity
        return found

    ab: torch.Tensor
    similarity: torch.Tensor

    def step(self, state: None, aligned: Plain) -> tuple[None, torch.Tensor]:
        return None, aligned.ab


def graph(length: int = 40) -> vs.VideoNode:
    """Build the filter's graph with Plain over a clip whose frames all differ."""
    blank = core.std.BlankClip(format=vs.YUV420P8, width=160, height=96, length=length, color=[0, 128, 128])

    def fill(n: int, f: vs.VideoFrame) -> vs.VideoFrame:
        f = f.copy()
        np.asarray(f[0])[:] = 16 + (np.add.outer(np.arange(96), np.arange(160)) + 5 * n) % 200
        f.props["Number"] = n
        return f

    clip = blank.std.ModifyFrame(blank, fill).std.SetFrameProps(_Matrix=1)
    ref = core.std.BlankClip(format=vs.RGB24, width=64, height=64, length=1, color=[200, 90, 40])
    schedule = Schedule(length, sc=False)
    return build(clip, ref, Plain(), schedule, 64, torch.device("cpu"))


class TestParallel:
    @pytest.fixture(autouse=True)
    def _threads(self) -> Iterator[None]:
        before = core.num_threads
        yield
        core.num_threads = before

    @pytest.mark.parametrize(("threads", "together"), [(1, 1), (2, 1), (3, 1), (4, 2), (8, 4), (64, 8)])
    def test_one_frame_at_a_time_for_every_two_threads(self, threads: int, together: int) -> None:
        core.num_threads = threads
        assert merges_at_once(torch.device("cpu")) == together

    def test_a_gpu_makes_one_at_a_time_unless_asked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        core.num_threads = 8
        monkeypatch.delenv("VSEXVC_CUDA", raising=False)
        assert merges_at_once(torch.device("cuda")) == 1
        monkeypatch.setenv("VSEXVC_CUDA", "merge")
        assert merges_at_once(torch.device("cuda")) == 4

    @pytest.mark.parametrize(("threads", "together"), [(2, 1), (4, 2), (8, 4)])
    def test_frames_overlap(self, threads: int, together: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """The given number of frames is made at the same time, never more; each group meets at a barrier."""
        core.num_threads = threads
        meeting = threading.Barrier(together)
        lock, inside, most = threading.Lock(), 0, 0
        plain = Merge._planes

        def planes(self: Merge, *given: Any) -> Any:
            nonlocal inside, most
            with lock:
                inside += 1
                most = max(most, inside)
            try:
                meeting.wait(60)
                return plain(self, *given)
            finally:
                with lock:
                    inside -= 1

        monkeypatch.setattr(Merge, "_planes", planes)
        clip = graph()
        assert [frame.props["Number"] for frame in clip.frames(prefetch=threads, close=True)] == list(range(40))
        assert most == together

    def test_the_same_bytes_in_any_number_and_order(self) -> None:
        def bytes_of(frame: vs.VideoFrame) -> tuple[int, bytes]:
            with frame:
                assert frame.props["_DurationNum"] == 1 and frame.props["_DurationDen"] == 24
                return int(frame.props["Number"]), b"".join(bytes(np.array(frame[i])) for i in range(3))

        core.num_threads = 1
        expected = dict(bytes_of(frame) for frame in graph().frames())
        assert len(set(expected.values())) == 40
        for threads, length in ((4, 40), (6, 40), (16, 5)):
            core.num_threads = threads
            clip = graph(length)
            assert (clip.num_frames, clip.fps) == (length, graph(1).fps)
            order = np.random.default_rng(threads).permutation(length).tolist()
            with ThreadPoolExecutor(threads) as pool:
                found = dict(pool.map(lambda n, clip=clip: bytes_of(clip.get_frame(n)), order))
            assert found == {n: expected[n] for n in range(length)}

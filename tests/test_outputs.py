"""Test further outputs of plugin.py: other formats, masks, the similarity, the warped colours.

Test its inputs too: references of any kind, black borders, invalid tags.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import vapoursynth as vs
from test_plugin import HEIGHT, LENGTH, WIDTH, constant, moving, planes, props, same

import vsexvc
from vsexvc.graph import build
from vsexvc.schedule import BLOCK, Schedule
from vsexvc.weights.store import DEFAULT

core = vs.core


def colorize(clip: vs.VideoNode, model: str, ref: vs.VideoNode | None = None, **arguments: Any) -> vs.VideoNode:
    ref = moving(vs.RGB24, 1) if ref is None else ref
    return vsexvc.colorize(clip, ref, model=model, size=64, device="cpu", **arguments)


class TestFormat:
    SOURCES = (vs.GRAY8, vs.GRAY16, vs.GRAYS, vs.YUV420P8, vs.YUV444P10, vs.YUV422PH)
    TARGETS = (vs.YUV410P8, vs.YUV420P8, vs.YUV444P8, vs.YUV420P10, vs.YUV444P16, vs.YUV444PS, vs.YUV422PH)

    @pytest.mark.parametrize("target", TARGETS, ids=lambda f: f.name)
    @pytest.mark.parametrize("source", SOURCES, ids=lambda f: f.name)
    def test_luma_is_the_clips(self, source: int, target: int, model: str) -> None:
        """Luma is bit for bit the clip's at the same depth, and zimg's conversion at another."""
        clip = moving(source)
        out = colorize(clip, model, format=target)
        assert out.format.id == target
        grey = core.std.ShufflePlanes(clip, 0, vs.GRAY)
        expected = grey.resize.Bicubic(format=core.std.ShufflePlanes(out, 0, vs.GRAY).format.id)
        assert np.array_equal(planes(out)[0], planes(expected)[0])

    @pytest.mark.parametrize("source", [vs.GRAY8, vs.YUV420P8, vs.YUV444P16], ids=lambda f: f.name)
    @pytest.mark.parametrize("target", [vs.YUV444P16, vs.RGB48, vs.RGBS], ids=lambda f: f.name)
    def test_colours_are_those_of_the_plain_result(self, source: int, target: int, model: str) -> None:
        """Colours are those of zimg's conversion of the plain 4:4:4 result."""
        clip = moving(source).std.SetFrameProps(_Matrix=1)
        plain = colorize(clip, model, format=vs.YUV444PS)
        expected = planes(plain.resize.Bilinear(format=target))
        scale = 1.0 if target == vs.RGBS else 65535.0
        for plane, truth in zip(planes(colorize(clip, model, format=target)), expected, strict=True):
            error = (plane.astype(float) - truth.astype(float)) / scale
            assert np.sqrt(np.mean(error**2)) < 0.004

    def test_rgb_becomes_yuv_with_its_bt709_luma(self, model: str) -> None:
        clip = moving(vs.RGB24)
        out = colorize(clip, model, format=vs.YUV444P8)
        truth = clip.resize.Bicubic(format=vs.YUV444P8, matrix=vs.MATRIX_BT709)
        assert np.array_equal(planes(out)[0], planes(truth)[0])
        assert (props(out)["_Matrix"], props(out)["_Range"]) == (vs.MATRIX_BT709, vs.RANGE_LIMITED)

    def test_the_clips_own_tags_go_on(self, model: str) -> None:
        clip = moving(vs.YUV420P8).std.SetFrameProps(_Matrix=9, _Transfer=14, _Primaries=9, _ChromaLocation=2, note="x")
        found = props(colorize(clip, model, format=vs.YUV444P16))
        assert [found[k] for k in ("_Matrix", "_Transfer", "_Primaries", "note")] == [9, 14, 9, "x"]


class TestMask:
    def test_white_keeps_black_colours_and_grey_blends(self, model: str) -> None:
        ramp = core.std.StackHorizontal(
            [
                core.std.BlankClip(format=vs.GRAY8, width=WIDTH // 3, height=HEIGHT, length=1, color=v)
                for v in (0, 51, 255)
            ]
        )
        clip = moving(vs.YUV444P16)
        coloured, masked, own = (
            [p.astype(float) for p in planes(c, 3)]
            for c in (colorize(clip, model), colorize(clip, model, mask=ramp), clip)
        )
        third = WIDTH // 3
        for plane in (1, 2):
            assert np.array_equal(masked[plane][:, :third], coloured[plane][:, :third])
            blend = 0.8 * coloured[plane] + 0.2 * own[plane]
            assert np.abs(masked[plane] - blend)[:, third : 2 * third].max() <= 1.0
            assert np.abs(masked[plane] - own[plane])[:, 2 * third :].max() <= 1.0

    def test_one_that_changes(self, model: str) -> None:
        black, white = (
            core.std.BlankClip(format=vs.GRAYS, width=WIDTH, height=HEIGHT, length=2, color=c) for c in (0, 1)
        )
        clip = moving(vs.RGB24)
        out = colorize(clip, model, mask=black + white)  # the last mask holds for the other frames
        assert [same(out, clip, n) for n in range(LENGTH)] == [False, False, True, True, True, True]

    def test_grey_has_no_colours_to_keep(self, model: str) -> None:
        white = core.std.BlankClip(format=vs.GRAY8, width=WIDTH, height=HEIGHT, length=1, color=255)
        out = planes(colorize(moving(vs.GRAY8), model, mask=white))
        assert np.all(out[1] == 128) and np.all(out[2] == 128)


class TestSaturation:
    def test_none_is_grey(self, model: str) -> None:
        assert all(np.all(p == 128) for p in planes(colorize(moving(vs.GRAY8), model, saturation=0))[1:])

    def test_it_scales_ab(self) -> None:
        """Half the saturation of (30, 20) is (15, 10)."""
        clip = moving(vs.GRAY16)
        out, session = constant(clip, (30.0, 20.0))
        half = build(clip, moving(vs.RGB24, 1), session, Schedule(LENGTH), 64, torch.device("cpu"), saturation=0.5)
        plain, _ = constant(clip, (15.0, 10.0))
        assert same(half, plain) and not same(half, out)


class TestSimilarity:
    @pytest.mark.parametrize("source", [vs.GRAY8, vs.YUV420P10, vs.RGBS, vs.YUV444PH], ids=lambda f: f.name)
    def test_a_mask_of_the_clips_size_and_depth(self, source: int, model: str) -> None:
        clip = moving(source).std.SetFrameProps(note="kept")
        out = colorize(clip, model, output="similarity")
        assert (out.width, out.height, out.format.color_family) == (WIDTH, HEIGHT, vs.GRAY)
        assert (out.format.sample_type, out.format.bits_per_sample) == (
            clip.format.sample_type, clip.format.bits_per_sample,
        )  # fmt: skip
        found = props(out, 2)
        highest = 1.0 if out.format.sample_type == vs.FLOAT else (1 << out.format.bits_per_sample) - 1
        assert found["note"] == "kept" and found["_Range"] == vs.RANGE_FULL
        assert planes(out, 2)[0].mean() / highest == pytest.approx(found["ExvcSimilarity"], abs=0.01)

    def test_the_reference_itself_is_similar_everywhere(self) -> None:
        clip = moving(vs.RGB24)
        found = planes(colorize(clip, DEFAULT, clip[2], output="similarity", format=vs.GRAYS), 2)[0]
        assert found.min() > 0.6 and found.mean() > 0.8


class TestWarped:
    def test_no_frame_needs_another(self, model: str) -> None:
        """A late frame that is requested first needs one block of the scene."""
        clip = moving(vs.GRAY8, 40)
        asked = []

        def note(n: int, f: vs.VideoFrame) -> vs.VideoFrame:
            asked.append(n)
            return f

        watched = clip.std.ModifyFrame(clip, note)
        arguments = {"output": "warped", "sc": False, "ref_frames": [3]}
        last = planes(colorize(watched, model, **arguments), 30)
        assert len(set(asked)) <= 2 * BLOCK  # the block, and four frames to find borders
        in_order = colorize(clip, model, **arguments)
        for n in range(30):
            in_order.get_frame(n).close()
        assert all(np.array_equal(a, b) for a, b in zip(last, planes(in_order, 30), strict=True))

    def test_the_reference_gives_its_own_colours(self) -> None:
        clip = moving(vs.RGB24)
        warped, own = (
            np.stack(planes(c)).astype(float) for c in (colorize(clip, DEFAULT, clip[0], output="warped"), clip)
        )
        colour = np.sqrt(np.mean((own - own.mean(0)) ** 2))
        assert np.sqrt(np.mean((warped - own) ** 2)) < colour / 2


class TestReferences:
    def test_size_and_format_may_vary(self, model: str) -> None:
        pictures = [moving(vs.RGB24, 1, 40, 80), moving(vs.YUV420P10, 1, 120, 66), moving(vs.RGBS, 1)]
        mixed = core.std.Splice(pictures, mismatch=True)
        clip = moving(vs.GRAY8)
        alone: dict[str, Any] = {"ref_frames": [0, 2, 4], "around": 1}
        for arguments in (alone, alone | {"propagate": True}):
            out = colorize(clip, model, mixed, **arguments)
            for n, picture in zip((1, 3, 5), pictures, strict=True):
                assert props(out, n)["ExvcReference"] == (n - 1) // 2
                if "propagate" in arguments:
                    single = colorize(clip, model, picture, ref_frames=[n - 1], propagate=True)
                    assert same(out, single, n)

    @pytest.mark.parametrize(
        ("ref", "tags", "text"),
        [
            (vs.YUV420P8, {"_Matrix": 14}, "ref: _Matrix must be one of .*, got 14 .*ICtCp"),
            (vs.RGB24, {"_Transfer": 16}, "ref: _Transfer must be one of .*, got 16 .*PQ"),
            (vs.YUV420P8, {"_Matrix": "abc"}, "ref: _Matrix must be one integer, got 'abc'"),
            (vs.RGB24, {"_Range": 7}, r"ref: _Range must be 0\.\.1, got 7"),
        ],
    )
    def test_tags_that_are_not_handled(self, ref: int, tags: dict[str, Any], text: str, model: str) -> None:
        out = colorize(moving(vs.GRAY8), model, moving(ref, 1).std.SetFrameProps(**tags))
        with pytest.raises(vs.Error, match="^Colorize: frame 0: " + text):
            out.get_frame(0)

    def test_a_grey_one_among_others(self, model: str) -> None:
        mixed = core.std.Splice([moving(vs.RGB24, 1), moving(vs.GRAY8, 1)], mismatch=True)
        out = colorize(moving(vs.GRAY8), model, mixed, ref_frames=[0, 4], around=1)
        out.get_frame(0).close()
        with pytest.raises(
            vs.Error, match=r"ref: must be YUV or RGB: a grey picture has no colours to give, got Gray8$"
        ):
            out.get_frame(4)

    def test_samples_that_are_no_numbers(self, model: str) -> None:
        ref = moving(vs.RGBS, 1).std.Expr("x 0 * 0 /")
        with pytest.raises(vs.Error, match="ref: must hold finite numbers"):
            colorize(moving(vs.GRAY8), model, ref).get_frame(0)


@pytest.mark.parametrize("format", [vs.GRAY8, vs.YUV420P8, vs.RGB24], ids=lambda f: f.name)
@pytest.mark.parametrize(
    ("tags", "text"),
    [
        ({"_Range": 2}, r"_Range must be 0\.\.1, got 2"),
        ({"_ChromaLocation": 6}, r"_ChromaLocation must be 0\.\.5, got 6"),
        ({"_Transfer": 18}, "_Transfer must be one of .*, got 18 .*HLG"),
        ({"_Primaries": 2**40}, "_Primaries must be one of .*, got 1099511627776"),
        ({"_FieldBased": 1}, "must be progressive, got _FieldBased=1"),
        ({"_Transfer": 1.5}, r"_Transfer must be one integer, got 1\.5"),
    ],
)
def test_clips_with_tags_that_are_not_handled(format: int, tags: dict[str, Any], text: str, model: str) -> None:
    for arguments in ({}, {"output": "similarity"}, {"format": vs.YUV444P16}):
        out = colorize(moving(format).std.SetFrameProps(**tags), model, **arguments)
        with pytest.raises(vs.Error, match=r"^Colorize: frame 0: clip: .*" + text):
            out.get_frame(0)


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4, 5), (5, 2, 0, 4, 1, 3)])
def test_the_picture_within_borders_is_coloured_as_without(model: str, order: tuple[int, ...]) -> None:
    """Borders above and below make the frame less wide, but the network sees the picture at its own size."""
    clip, ref = (core.std.Expr(moving(*given), "x 3 * 4 / 60 +") for given in ((vs.YUV444P8, 6), (vs.RGB24, 1)))
    box = {"top": 20, "bottom": 20}
    framed = clip.std.AddBorders(**box, color=[16, 128, 128])
    expected = [planes(colorize(clip, model, ref), n) for n in order]
    for picture in (ref, ref.std.AddBorders(**box)):
        result = colorize(framed, model, picture)
        for n, plain in zip(order, expected, strict=True):
            out = planes(result, n)
            for plane, true in zip(out[1:], plain[1:], strict=True):
                assert np.abs(plane[20:-20].astype(int) - true).max() <= 1
                assert (plane[:20] == 128).all() and (plane[-20:] == 128).all()
        assert set(props(result, 0)) == set(props(colorize(clip, model, ref), 0))


def test_black_borders_stay_neutral(model: str) -> None:
    """Borders at the top, the bottom and the left stay neutral with noise of two codes above black."""
    inner = moving(vs.YUV444P8, 3, 84, 40)
    bordered = inner.std.AddBorders(left=12, top=12, bottom=12, color=[16, 128, 128])
    noise = core.std.BlankClip(format=vs.GRAY8, width=96, height=64, length=3, color=18)
    rows = core.std.BlankClip(format=vs.GRAY8, width=96, height=1, length=3, color=16)
    dirty = core.std.StackVertical([noise.std.Crop(bottom=1), rows])
    bordered = core.std.ShufflePlanes(
        [core.std.Expr([bordered.std.ShufflePlanes(0, vs.GRAY), dirty], "x y max"), bordered, bordered],
        [0, 1, 2],
        vs.YUV,
    )
    out = planes(colorize(bordered, model, moving(vs.RGB24, 1)), 2)
    border = np.ones((64, 96), bool)
    border[12:52, 12:] = False
    for plane in out[1:]:
        assert np.abs(plane[border].astype(int) - 128).max() <= 1
        assert np.abs(plane[~border].astype(int) - 128).max() > 5

"""Test plugin.py through real VapourSynth graphs: formats, properties, colours, arguments."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import vapoursynth as vs
from skimage import color as skcolor
from torch import Tensor

import vsexvc
from vsexvc.backends.options import ComputeOptions
from vsexvc.graph import build
from vsexvc.nets.config import NetworkConfig
from vsexvc.nets.network import ColorizationNet
from vsexvc.schedule import Schedule
from vsexvc.weights import store

core = vs.core
WIDTH, HEIGHT, LENGTH = 96, 64, 6


def moving(format: int, length: int = LENGTH, width: int = WIDTH, height: int = HEIGHT) -> vs.VideoNode:
    """Make a coloured pattern that moves, in `format`; YUV is BT.601, without tags."""
    blank = core.std.BlankClip(format=vs.RGBS, width=width, height=height, length=length)

    def fill(n: int, f: vs.VideoFrame) -> vs.VideoFrame:
        f = f.copy()
        y, x = np.mgrid[0:height, 0:width]
        for plane, (a, b) in enumerate(((9.0, 7.0), (13.0, 5.0), (6.0, 17.0))):
            np.asarray(f[plane])[:] = 0.5 + 0.4 * np.sin((x + 2 * n) / a) * np.cos(y / b)
        return f

    clip = blank.std.ModifyFrame(blank, fill)
    family = core.get_video_format(format).color_family
    clip = clip.resize.Bicubic(format=format, matrix=vs.MATRIX_RGB if family == vs.RGB else vs.MATRIX_ST170_M)
    return clip.std.RemoveFrameProps(["_Matrix", "_Range", "_Transfer", "_Primaries", "_ChromaLocation"])


def planes(clip: vs.VideoNode, n: int = 0) -> list[np.ndarray[Any, Any]]:
    with clip.get_frame(n) as f:
        return [np.array(f[plane]) for plane in range(f.format.num_planes)]


def props(clip: vs.VideoNode, n: int = 0) -> dict[str, Any]:
    with clip.get_frame(n) as f:
        return dict(f.props)


def same(a: vs.VideoNode, b: vs.VideoNode, n: int = 0) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(planes(a, n), planes(b, n), strict=True))


@dataclass
class ConstantSession:
    """Give every pixel of every frame the same ab, and record the references."""

    ab: tuple[float, float]
    references: list[Tensor]

    def reference(self, lab: Tensor) -> int:
        self.references.append(lab)
        return len(self.references)

    def correspond(self, L: Tensor, references: list[int], *given: Any) -> list[Any]:
        @dataclass
        class One:
            similarity: Tensor

        return [One(torch.full_like(one[None], 0.5)) for one in L]

    def start(self, reference: int | None, area: Any) -> None:
        return None

    def step(self, state: None, one: Any) -> tuple[None, Tensor]:
        a, b = (torch.full_like(one.similarity, value) for value in self.ab)
        return None, torch.cat((a, b), dim=1)


def constant(clip: vs.VideoNode, ab: tuple[float, float], ref: vs.VideoNode | None = None, **schedule: Any) -> Any:
    """Build the graph with ConstantSession; return (output, session)."""
    session = ConstantSession(ab, [])
    ref = moving(vs.RGB24, 1) if ref is None else ref
    plan = Schedule(clip.num_frames, ref.num_frames, **schedule)
    return build(clip, ref, session, plan, 64, torch.device("cpu")), session


FORMATS = {
    vs.GRAY8: vs.YUV444P8,
    vs.GRAY10: vs.YUV444P10,
    vs.GRAY16: vs.YUV444P16,
    vs.GRAYH: vs.YUV444PH,
    vs.GRAYS: vs.YUV444PS,
    vs.YUV410P8: vs.YUV410P8,
    vs.YUV411P8: vs.YUV411P8,
    vs.YUV420P8: vs.YUV420P8,
    vs.YUV420P10: vs.YUV420P10,
    vs.YUV422P16: vs.YUV422P16,
    vs.YUV440P8: vs.YUV440P8,
    vs.YUV444P8: vs.YUV444P8,
    vs.YUV420PH: vs.YUV420PH,
    vs.YUV444PS: vs.YUV444PS,
    vs.RGB24: vs.RGB24,
    vs.RGB30: vs.RGB30,
    vs.RGB48: vs.RGB48,
    vs.RGBH: vs.RGBH,
    vs.RGBS: vs.RGBS,
}


class TestFormats:
    @pytest.mark.parametrize("format", FORMATS, ids=lambda f: f.name)
    def test_output(self, format: int, model: str) -> None:
        clip = moving(format)
        out = core.exvc.Colorize(clip, moving(vs.RGB24, 1), model=model, size=64, device="cpu")
        assert out.format.id == FORMATS[format]
        assert (out.width, out.height, out.num_frames, out.fps) == (WIDTH, HEIGHT, LENGTH, clip.fps)
        for n in (0, 4):
            before, after = planes(clip, n), planes(out, n)
            if out.format.color_family == vs.YUV:
                assert np.array_equal(before[0], after[0])
                assert min(after[1].std(), after[2].std()) > 0
            else:
                assert not np.array_equal(before[0], after[0])

    @pytest.mark.parametrize(("width", "height"), [(2, 2), (16, 300), (301, 17), (1, 1)])
    def test_sizes(self, width: int, height: int, model: str) -> None:
        clip = moving(vs.YUV444P8, 2, width, height)
        out = vsexvc.colorize(clip, moving(vs.RGB24, 1), model=model, size=64, device="cpu")
        assert np.array_equal(planes(out, 1)[0], planes(clip, 1)[0])

    def test_own_chroma_is_ignored(self, model: str) -> None:
        clip = moving(vs.YUV420P8)
        tinted = clip.std.Expr(["", "x 30 +", "x 50 -"])
        ref = moving(vs.RGB24, 1)
        a, b = (vsexvc.colorize(c, ref, model=model, size=64, device="cpu") for c in (clip, tinted))
        assert same(a, b, 3)


class TestProperties:
    def test_kept(self, model: str) -> None:
        clip = moving(vs.YUV420P8).std.SetFrameProps(
            _Matrix=5, _Range=1, _Transfer=6, _Primaries=5, _ChromaLocation=2, _SARNum=4, _SARDen=3, Mine="kept"
        )
        out = vsexvc.colorize(clip, moving(vs.RGB24, 1), model=model, size=64, device="cpu")
        before, after = props(clip), props(out)
        assert {name: after[name] for name in before} == before
        assert {*after} - {*before} == {"ExvcReference", "ExvcSimilarity", "ExvcSceneStart"}
        assert (after["ExvcReference"], after["ExvcSceneStart"]) == (0, 0)
        assert -1.0 <= after["ExvcSimilarity"] <= 1.0

    @pytest.mark.parametrize("tags", [{}, {"_Matrix": 0}, {"_Matrix": 2, "_Primaries": 2, "_Transfer": 2}])
    @pytest.mark.parametrize("format", [vs.GRAY8, vs.GRAY16, vs.GRAYS])
    def test_untagged_grey(self, format: int, tags: dict[str, int]) -> None:
        clip = moving(format)
        out, _ = constant(clip.std.SetFrameProps(**tags) if tags else clip, (20.0, -30.0))
        expected = {"_Matrix": 6, "_Range": 0, "_Primaries": 1, "_Transfer": 1, "_ChromaLocation": 0}
        assert expected.items() <= props(out).items()
        large, _ = constant(core.std.BlankClip(format=format, width=1280, height=720, length=1), (20.0, -30.0))
        assert props(large)["_Matrix"] == vs.MATRIX_BT709

    def test_tagged_grey(self) -> None:
        tags = {"_Matrix": 9, "_Range": 1, "_Primaries": 9, "_Transfer": 14}
        out, _ = constant(moving(vs.GRAY10).std.SetFrameProps(**tags), (20.0, -30.0))
        assert tags.items() <= props(out).items()

    def test_untagged_colour_clip_says_its_matrix(self) -> None:
        out, _ = constant(moving(vs.YUV420P8), (20.0, -30.0))
        assert props(out)["_Matrix"] == vs.MATRIX_ST170_M
        assert "_Range" not in props(out)

    @pytest.mark.filterwarnings("ignore:The _ColorRange frame property:DeprecationWarning")
    def test_old_range_property(self) -> None:
        clip = moving(vs.GRAY8)
        old, _ = constant(clip.std.SetFrameProps(_ColorRange=0), (20.0, -30.0))
        new, _ = constant(clip.std.SetFrameProps(_Range=1), (20.0, -30.0))
        assert props(old)["_Range"] == vs.RANGE_FULL
        assert same(old, new)


KR_KB = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}


def decoded(clip: vs.VideoNode, matrix: int, full: bool) -> np.ndarray[Any, Any]:
    """Convert a YUV 4:4:4 clip of 8-16 bits to R'G'B' (H, W, 3) by the definition."""
    y, u, v = (plane.astype(np.float64) / (1 << (clip.format.bits_per_sample - 8)) for plane in planes(clip))
    kr, kb = KR_KB[matrix]
    y = y / 255.0 if full else (y - 16.0) / 219.0
    u, v = ((c - 128.0) / (255.0 if full else 224.0) for c in (u, v))
    red, blue = y + 2.0 * (1.0 - kr) * v, y + 2.0 * (1.0 - kb) * u
    return np.stack((red, (y - kr * red - kb * blue) / (1.0 - kr - kb), blue), axis=-1)


class TestColours:
    @pytest.mark.parametrize("matrix", KR_KB)
    @pytest.mark.parametrize("range_", [vs.RANGE_LIMITED, vs.RANGE_FULL])
    @pytest.mark.parametrize("format", [vs.GRAY8, vs.GRAY16, vs.YUV444P10])
    def test_the_ab_asked_for_arrive(self, format: int, matrix: int, range_: int) -> None:
        """The output, decoded by hand, has the session's ab by scikit-image."""
        clip = moving(format).std.SetFrameProps(_Matrix=matrix, _Range=range_)
        out, _ = constant(clip, (18.0, -12.0))
        rgb = decoded(out, matrix, range_ == vs.RANGE_FULL)
        inside = ((rgb > 0.05) & (rgb < 0.95)).all(-1)
        lab = skcolor.rgb2lab(rgb.clip(0.0, 1.0))[inside]
        assert inside.mean() > 0.5
        assert np.abs(lab[:, 1:] - (18.0, -12.0)).max() < (2.5 if clip.format.bits_per_sample == 8 else 0.7)

    @pytest.mark.parametrize("format", [vs.RGB24, vs.RGB48, vs.RGBS])
    def test_rgb(self, format: int) -> None:
        clip = moving(format)
        out, _ = constant(clip, (18.0, -12.0))
        scale = 1.0 if clip.format.sample_type == vs.FLOAT else (1 << clip.format.bits_per_sample) - 1.0
        before, after = (np.stack(planes(c), -1) / scale for c in (clip, out))
        assert np.abs((after - before) @ (0.2126, 0.7152, 0.0722)).max() < 0.004
        inside = ((after > 0.05) & (after < 0.95)).all(-1)
        assert np.abs(skcolor.rgb2lab(after)[inside][:, 1:] - (18.0, -12.0)).max() < 2.5

    def test_subsampled_is_the_same_colour(self) -> None:
        flat = core.std.BlankClip(format=vs.YUV420P8, width=WIDTH, height=HEIGHT, length=1, color=[120, 9, 200])
        wide = flat.resize.Point(format=vs.YUV444P8)
        small, large = (planes(constant(c, (18.0, -12.0))[0]) for c in (flat, wide))
        for plane in (1, 2):
            assert np.unique(small[plane]) == np.unique(large[plane])

    def test_reference_is_read_in_its_own_colours(self) -> None:
        """One picture gives the same Lab as RGB and as YUV of several matrices and ranges, tagged or guessed."""
        rgb = moving(vs.RGBS, 1)
        clip = moving(vs.GRAY8)
        variants = [
            rgb,
            rgb.resize.Bicubic(format=vs.YUV444P16, matrix=1, range=1),
            rgb.resize.Bicubic(format=vs.YUV444P16, matrix=9, range=0).std.SetFrameProps(_Transfer=14),
            rgb.resize.Bicubic(format=vs.YUV444PS, matrix=6).std.RemoveFrameProps(["_Matrix", "_Range"]),
            rgb.resize.Bicubic(format=vs.RGB48).std.SetFrameProps(_FieldBased=1),
        ]
        found = []
        for ref in variants:
            out, session = constant(clip, (0.0, 0.0), ref)
            out.get_frame(0)
            found.append(session.references[0])
        truth = skcolor.rgb2lab(np.stack(planes(rgb), -1))
        assert abs(float(found[0][0, 0].mean()) - truth[..., 0].mean()) < 0.2
        for lab in found[1:]:
            assert (lab - found[0]).abs().max() < 0.2

    def test_reference_keeps_its_aspect_unless_propagated(self) -> None:
        clip, ref = moving(vs.GRAY8), moving(vs.RGB24, 1, 40, 80)
        for propagate, shape in ((False, (128, 64)), (True, (64, 96))):
            out, session = constant(clip, (0.0, 0.0), ref, propagate=propagate)
            out.get_frame(0)
            assert session.references[0].shape == (1, 3, *shape)


class TestRefused:
    @pytest.mark.parametrize(
        ("tags", "text"),
        [
            ({"_Transfer": 16}, "_Transfer must be one of .*, got 16"),
            ({"_Matrix": 10}, "_Matrix must be one of .*, got 10 .constant luminance"),
            ({"_Primaries": 3}, "_Primaries must be one of .*, got 3"),
            ({"_FieldBased": 2}, "clip: must be progressive, got _FieldBased=2"),
        ],
    )
    def test_frames(self, tags: dict[str, int], text: str, model: str) -> None:
        clip = moving(vs.YUV444P8).std.SetFrameProps(**tags)
        out = vsexvc.colorize(clip, moving(vs.RGB24, 1), model=model, size=64, device="cpu")
        with pytest.raises(vs.Error, match=r"^Colorize: frame \d+: .*" + text):
            out.get_frame(0)

    @pytest.mark.parametrize(
        ("arguments", "text"),
        [
            ({"size": 63}, "size must be 64..1080, got 63"),
            ({"size": 1081}, "size must be 64..1080, got 1081"),
            ({"sc_threshold": 1.5}, "sc_threshold must be 0..1, got 1.5"),
            ({"sc_threshold": float("nan")}, "sc_threshold must be 0..1, got nan"),
            ({"device": "tpu"}, "device must be 'cpu' or 'cuda', got 'tpu'"),
            ({"device_index": -1}, "device_index must be 0 or above, got -1"),
            ({"ref_frames": [0, 1]}, "ref_frames must be as many as ref has frames, 1, got 2"),
            (
                {"ref": moving(vs.RGB24, 2).std.Loop()},
                "ref must be of at most 64 frames without ref_frames (a looped picture: ref[0]), got 2147483647 frames",
            ),
            ({"ref_frames": 6}, "ref_frames must be frame numbers of clip, 0..5, got 6"),
            ({"ref_frames": -1}, "ref_frames must be frame numbers of clip, 0..5, got -1"),
            ({"ref": moving(vs.RGB24, 2), "ref_frames": [3, 3]}, "ref_frames must be ascending, got [3, 3]"),
            ({"model": "no-such-model"}, "model must be one of "),
            ({"model": "/no/such.safetensors"}, "model must be an existing weights file"),
            ({"ref": moving(vs.GRAY8, 1)}, "ref must be YUV or RGB: a grey picture has no colours to give, got Gray8"),
            ({"clip": core.std.BlankClip(varsize=True)}, "clip must be of constant size"),
            ({"clip": core.std.BlankClip(varformat=True)}, "clip must be of constant format"),
            (
                {"ref": core.std.BlankClip(format=vs.GRAY32)},
                "ref must be YUV or RGB: a grey picture has no colours to ",
            ),
            ({"saturation": -0.1}, "saturation must be 0..4, got -0.1"),
            ({"saturation": float("nan")}, "saturation must be 0..4, got nan"),
            ({"output": "colour"}, "output must be one of color, similarity, warped, got 'colour'"),
            ({"preset": "released"}, "preset must be '' or 'upstream', got 'released'"),
            ({"preset": "upstream", "size": 240}, "size must be 216 with preset 'upstream', got 240"),
            (
                {"preset": "upstream", "ref": core.std.BlankClip(format=vs.RGB24, varsize=True)},
                "ref must be of constant size with preset 'upstream', got a clip of variable size",
            ),
            (
                {"preset": "upstream", "mask": moving(vs.GRAY8, width=48)},
                "mask must be of the clip's size, 96x64, got ",
            ),
            ({"backend": "onnx"}, "backend must be 'torch' or 'openvino', got 'onnx'"),
            ({"precision": "int8"}, "precision must be one of fp32, bf16, fp16, got 'int8'"),
            ({"precision": "fp16"}, "precision must be one of "),
            ({"threads": 0}, "threads must be 1..1024, got 0"),
            ({"around": 0}, "around must be 1..64, got 0"),
            ({"memory": 9}, "memory must be 0..8, got 9"),
            ({"trt": True}, "backend tensorrt needs an NVIDIA GPU, not cpu"),
            ({"trt": True, "backend": "openvino"}, "trt must be False with another backend than 'torch', got "),
            ({"mask": moving(vs.RGB24)}, "mask must be GRAY, got RGB24"),
            ({"mask": moving(vs.GRAY8, width=48)}, "mask must be of the clip's size, 96x64, got 48x64"),
            ({"mask": core.std.BlankClip(varsize=True)}, "mask must be of constant size"),
            ({"format": vs.GRAY8}, "format must be the number of a YUV or RGB format, got Gray8"),
            ({"format": 12345}, "format must be the number of a YUV or RGB format, got 12345"),
            ({"format": -1}, "format must be the number of a YUV or RGB format, got -1"),
            (
                {"format": vs.YUV420P8, "output": "similarity"},
                "format must be the number of a GRAY format, got YUV420P8",
            ),
            (
                {"clip": moving(vs.GRAY8, width=95), "format": vs.YUV420P8},
                "format must be one that a size of 95x64 can be subsampled to, got YUV420P8",
            ),
            ({"clip": core.std.BlankClip(format=vs.GRAY32)}, "clip must be 8 to 16 bit integer, half or float, "),
        ],
    )
    @pytest.mark.parametrize("function", [core.exvc.Colorize, vsexvc.colorize], ids=["native", "python"])
    def test_arguments(self, function: Callable[..., vs.VideoNode], arguments: Any, text: str, model: str) -> None:
        given = {"clip": moving(vs.GRAY8), "ref": moving(vs.RGB24, 1), "model": model, "device": "cpu", **arguments}
        with pytest.raises(vs.Error) as error:
            function(**given)
        assert str(error.value).startswith("Colorize: " + text)
        assert "\n" not in str(error.value)

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
    def test_a_device_that_is_not_there(self, model: str) -> None:
        with pytest.raises(vs.Error, match=r"^Colorize: device must be 'cpu': there is no CUDA device .* got 'cuda'$"):
            core.exvc.Colorize(moving(vs.GRAY8), moving(vs.RGB24, 1), model=model, device="cuda")

    @pytest.mark.parametrize("function", [core.exvc.Colorize, vsexvc.colorize], ids=["native", "python"])
    @pytest.mark.parametrize("arguments", [{}, {"auto_download": False}, {"auto_download": True}], ids=str)
    def test_a_download_is_asked_for_only_by_name(
        self, function: Callable[..., vs.VideoNode], arguments: dict[str, bool], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """`auto_download` is passed on to the store, and its error becomes the filter's in one line."""
        asked = []

        def shared(
            model: str | None, device: torch.device, how: ComputeOptions, *, auto_download: bool
        ) -> ColorizationNet:
            asked.append((model, str(device), auto_download))
            raise OSError("model 'known' is not there: run `the command`\nand more")

        monkeypatch.setattr(store, "shared", shared)
        with pytest.raises(vs.Error, match=r"^Colorize: model 'known' is not there: run `the command`$"):
            function(moving(vs.GRAY8), moving(vs.RGB24, 1), model="known", device="cpu", **arguments)
        assert asked == [("known", "cpu", arguments.get("auto_download", False))]

    @pytest.mark.parametrize("damage", ["cut", "text", "shape"])
    def test_damaged_weights(self, damage: str, model: str, tmp_path: Path) -> None:
        path = tmp_path / "bad.safetensors"
        if damage == "cut":
            path.write_bytes(Path(model).read_bytes()[:5000])
        elif damage == "text":
            path.write_text("not weights")
        else:
            network = ColorizationNet(NetworkConfig(width=0.0625, features_input="L"))
            network.color.conv10_ab = torch.nn.Conv2d(3, 2, 1)
            store.save(network, path, {})
        with pytest.raises(vs.Error, match=r"^Colorize: model '.*bad.safetensors'") as error:
            core.exvc.Colorize(moving(vs.GRAY8), moving(vs.RGB24, 1), model=str(path), device="cpu")
        assert "\n" not in str(error.value)


class TestWhole:
    @pytest.mark.parametrize(
        ("arguments", "how"),
        [
            ({}, ComputeOptions(threads=1)),  # torch's number of threads, set in conftest.py
            ({"preset": "upstream"}, ComputeOptions(precision="fp32", threads=1)),
            ({"preset": "upstream", "precision": "bf16"}, ComputeOptions(precision="bf16", threads=1)),
            ({"backend": "openvino", "precision": "fp32", "threads": 2}, ComputeOptions("openvino", "fp32", 2)),
            ({"trt": True}, ComputeOptions("tensorrt", threads=1)),
        ],
        ids=str,
    )
    def test_how_the_network_is_computed(
        self, arguments: dict[str, Any], how: ComputeOptions, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked = []

        def shared(
            model: str | None, device: torch.device, how: ComputeOptions, *, auto_download: bool
        ) -> ColorizationNet:
            asked.append(how)
            raise ValueError("enough")

        monkeypatch.setattr(store, "shared", shared)
        with pytest.raises(vs.Error, match=r"^Colorize: enough$"):
            core.exvc.Colorize(moving(vs.GRAY8), moving(vs.RGB24, 1), device="cpu", **arguments)
        assert asked == [how]

    def test_one_network_has_one_thread_that_computes(self, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """If torch's number of threads changes between two filters, the second gets another network."""
        made = []

        def build(clip: vs.VideoNode, ref: vs.VideoNode, session: Any, *others: Any, **options: Any) -> vs.VideoNode:
            made.append((options["threads"], session.network))
            return clip

        monkeypatch.setattr("vsexvc.plugin.build", build)
        for threads in (1, 2, 1):
            monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
            vsexvc.colorize(moving(vs.GRAY8), moving(vs.RGB24, 1), model=model, device="cpu")
        assert [threads for threads, _ in made] == [1, 2, 1]
        assert made[0][1] is made[2][1] is not made[1][1]

    def test_threads_are_the_filters_own(self, model: str) -> None:
        """`threads` does not change torch's number for later threads."""
        clip = core.exvc.Colorize(moving(vs.GRAY8), moving(vs.RGB24, 1), model=model, size=64, device="cpu", threads=3)
        clip.get_frame(0).close()
        with ThreadPoolExecutor(1) as later:
            assert later.submit(torch.get_num_threads).result() == torch.get_num_threads() == 1

    def test_openvino(self) -> None:
        """OpenVINO gives torch's frames with the shipped weights; random weights would amplify different rounding."""
        pytest.importorskip("openvino")
        arguments = {"size": 64, "device": "cpu", "precision": "fp32"}
        clip, ref = moving(vs.GRAY8), moving(vs.RGB24, 1)
        one, other = (
            planes(core.exvc.Colorize(clip, ref, backend=backend, **arguments), 2) for backend in ("torch", "openvino")
        )
        assert max(np.abs(a.astype(int) - b).max() for a, b in zip(one, other, strict=True)) <= 1

    def test_any_order_and_instances(self, model: str) -> None:
        """Two chained filters with different references give the same bytes in order and at random from all threads."""

        def chain() -> vs.VideoNode:
            clip, ref = moving(vs.YUV420P8, 24), moving(vs.RGB24, 3)
            first = core.exvc.Colorize(clip, ref, ref_frames=[0, 7, 15], model=model, size=64, device="cpu")
            return core.exvc.Colorize(first, clip[5], model=model, size=64, propagate=True, device="cpu")

        plain = chain()
        truth = [planes(plain, n) for n in range(24)]
        shuffled = chain()
        order = random.Random(0).sample(range(24), 24)
        futures = [(n, shuffled.get_frame_async(n)) for n in order]
        for n, future in futures:
            with future.result() as f:
                assert all(np.array_equal(f[p], truth[n][p]) for p in range(3))

    def test_native_and_python_are_one(self, model: str) -> None:
        clip, ref = moving(vs.GRAY8), moving(vs.RGB24, 2)
        arguments = {"ref_frames": [1, 3], "model": model, "size": 72, "propagate": True, "sc": False, "device": "cpu"}
        assert same(core.exvc.Colorize(clip, ref, **arguments), vsexvc.colorize(clip, ref, **arguments), 4)

    @pytest.mark.parametrize("backend", ["torch", "openvino"])
    def test_a_script_prints_nothing(self, backend: str, model: str, tmp_path: Path) -> None:
        if backend == "openvino":
            pytest.importorskip("openvino")
        script = tmp_path / "script.py"
        script.write_text(
            "import vapoursynth as vs\n"
            "core = vs.core\n"
            "clip = core.std.BlankClip(format=vs.YUV420P8, width=64, height=64, length=3)\n"
            "ref = core.std.BlankClip(format=vs.RGB24, width=64, height=64, length=1)\n"
            f"out = core.exvc.Colorize(clip, ref, model={model!r}, size=64, device='cpu', backend={backend!r})\n"
            "for n in range(3): out.get_frame(n)\n"
        )
        command = [sys.executable, "-W", "default", str(script)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    def test_import_is_light(self) -> None:
        text = "import sys, vsexvc; assert not {'torch', 'vapoursynth', 'numpy'} & {*sys.modules}"
        assert subprocess.run([sys.executable, "-c", text], check=False).returncode == 0


@pytest.mark.parametrize("is_installed", [True, False])
def test_vapoursynth_of_another_place(is_installed: bool, model: str, tmp_path: Path) -> None:
    """Beside a VapourSynth without our plugin the package's own is loaded, or the error names both places."""
    folder = Path(vs.__file__).parent
    shutil.copytree(folder, tmp_path / "vapoursynth", ignore=shutil.ignore_patterns("plugins", "include"))
    script = (
        "import importlib.metadata as metadata, vapoursynth as vs, vsexvc\n"
        "def missing(name): raise metadata.PackageNotFoundError(name)\n"
        f"if not {is_installed}: metadata.distribution = missing\n"
        "clip, ref = (vs.core.std.BlankClip(width=64, height=64, length=1, format=f) for f in (vs.GRAY8, vs.RGB24))\n"
        "assert not hasattr(vs.core, 'exvc')\n"
        "try:\n"
        f"    vsexvc.colorize(clip, ref, size=64, model={model!r}, device='cpu').get_frame(0)\n"
        "except vs.Error as error:\n"
        "    print(error)\n"
    )
    given = [str(tmp_path), str(Path(vsexvc.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, given))}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    if is_installed:
        assert done.stdout == ""
    else:
        other = str(tmp_path / "vapoursynth" / "plugins")
        assert done.stdout.startswith(f"Colorize: the plugin core.exvc must be in {other} or ")
        assert done.stdout.count("\n") == 1 and "but is in neither" in done.stdout


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads as Linux lists them")
def test_one_team_of_threads(model: str) -> None:
    """All filters share one team of OpenMP's threads; with more threads than cores they would sleep between loops."""
    script = (
        "import os, vapoursynth as vs\n"
        "core = vs.core\n"
        "core.num_threads = 1\n"
        "clip = core.std.BlankClip(format=vs.YUV420P8, width=384, height=216, length=5)\n"
        "ref = core.std.BlankClip(format=vs.RGB24, width=384, height=216, length=1)\n"
        f"made = [core.exvc.Colorize(clip, ref, model={model!r}, device='cpu') for _ in range(2)]\n"
        "for clip in made:\n"
        "    for frame in clip.frames(): frame.close()\n"
        "print(len(os.listdir('/proc/self/task')))\n"
    )
    found = []
    for threads in ("1", "2"):
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": "1"}
        found.append(int(subprocess.check_output([sys.executable, "-c", script], env=environment)))
    assert found[1] - found[0] <= 1


def test_a_long_replay_under_vspipe_is_told_and_done(tmp_path: Path) -> None:
    """A message about a long replay does not end the request: the pump's thread has no environment in VSScript."""
    script = tmp_path / "long.vpy"
    script.write_text(
        "import vapoursynth as vs\n"
        "core = vs.core\n"
        "clip = core.std.BlankClip(format=vs.GRAY8, width=64, height=64, length=300, keep=True)\n"
        "ref = core.std.BlankClip(format=vs.RGB24, width=64, height=64, length=1, color=[200, 90, 40])\n"
        "core.exvc.Colorize(clip, ref, size=64, sc=False, device='cpu').set_output()\n"
    )
    vspipe = Path(sys.executable).with_name("vspipe")
    path = os.pathsep.join((str(vspipe.parent), os.environ["PATH"]))
    result = subprocess.run(
        [str(vspipe), "-s", "270", "-e", "270", str(script), "-"], capture_output=True, env={**os.environ, "PATH": path}
    )
    assert result.returncode == 0, result.stderr
    assert len(result.stdout) == 3 * 64 * 64
    assert b"frame 270 needs the 270 frames of its scene before it" in result.stderr

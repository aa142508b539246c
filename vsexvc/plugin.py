"""The VapourSynth face: arguments checked, the graph built. `core.exvc.Colorize` and `vsexvc.colorize` are `colorize`.

    clip -> luma at the network's size, with measures for cuts -.
    ref  -> RGBS -----------------------------------------------+-> exvc.PyFilter(Pump) -> similarity, a, b -.
    clip (in the output's format) ---------------------------------------------------------------------------+
    mask (where there is one) -------------------------------------------------------------------------------+
                                                                       exvc.PyFilter(Merge): clip's frames, new U, V

No arithmetic on pictures (colour/spaces.py, merge.py), no order of frames (pump.py), no files (weights/store.py).
Nothing is printed, no global flag is set, no frame is asked for while the script loads.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NoReturn

import torch
import vapoursynth as vs

from vsexvc.backends.options import PRECISIONS, ComputeOptions
from vsexvc.frames import HANDLED, REPORTED, RGB_LUMA, is_handled, luma, tagged
from vsexvc.merge import Merge
from vsexvc.pump import Pump, Schedule
from vsexvc.scenes import measure_cuts
from vsexvc.session import Session, network_size
from vsexvc.support.errors import first_line
from vsexvc.support.threads import interrupt
from vsexvc.weights import store

OUTPUTS = ("color", "similarity", "warped")
PRESETS = ("", "upstream")
BACKENDS = ("torch", "openvino")

# Of the authors' own script: the size of its pictures, twice that of the network's, and its factor on a and b.
_UPSTREAM_SIZE = 768, 432
_UPSTREAM_GAIN = 1.25


def colorize(
    clip: vs.VideoNode,
    ref: vs.VideoNode,
    *,
    ref_frames: int | Sequence[int] | None = None,
    model: str | None = None,
    size: int = 216,
    saturation: float = 1.0,
    mask: vs.VideoNode | None = None,
    output: str = "color",
    format: int | None = None,
    propagate: bool = False,
    sc: bool = True,
    sc_threshold: float | None = None,
    preset: str = "",
    auto_download: bool = False,
    device: str | None = None,
    device_index: int = 0,
    backend: str = "torch",
    precision: str | None = None,
    trt: bool = False,
    threads: int | None = None,
) -> vs.VideoNode:
    """Colours `clip` like the pictures of `ref`.

    Args:
        clip: YUV, GRAY or RGB, 8-16 bit integer, half or float; progressive and not HDR. Its own colours are ignored. Y
            of YUV and GRAY is kept bit for bit; of RGB the BT.709 luma is kept. Black borders stay neutral.
        ref: YUV or RGB, one reference in each frame; sizes and formats may vary from frame to frame.
        ref_frames: for each frame of `ref` the frame of `clip` from which it holds, ascending; the first one also holds
            before. None: a single reference holds everywhere; of several, each scene takes the one that is most similar
            to its first frame.
        model: name of an installed model or path of a weights file; None: the default.
        size: shorter side of the picture inside the network, 64..1080.
        saturation: factor on a and b, 0..4; colours stay in gamut (vsexvc.chroma.ColorSpace.chroma).
        mask: GRAY of the clip's size: where it is white the clip's own colours are kept, grey between is a blend. One
            that is shorter than the clip goes on with its last frame.
        output: "color"; "similarity": how well each pixel of the clip found a match in the reference, as a mask (GRAY
            of the clip's depth, full range, 0..1), whatever mask and saturation are; "warped": the clip in the colours
            of the aligned reference alone, without the colour net.
        format: of the result, VapourSynth's number for it. None: that of the clip, for GRAY YUV 4:4:4 of its depth.
        propagate: start each scene, and each of `ref_frames`, from the reference itself: for references that are
            coloured frames of the clip.
        sc: start anew at scene cuts.
        sc_threshold: see vsexvc.scenes.is_cut, 0..1. None: trust `_SceneChangePrev` where frames carry it.
        preset: "upstream": what the authors' script does around the network, for comparison with it, but for its final
            smoother. Clip, references and mask are cut to 16:9 and brought to 768x432, which the result has too; Lab is
            halved for the network, all bilinearly; ab times 1.25 (and `saturation`) goes up bilinearly and not along
            edges; black borders are picture. That script knows no cuts: sc=False. "": none of this.
        auto_download: a known model that is not there is downloaded; False: the error says how to.
        device: "cpu" or "cuda"; None: cuda where there is one.
        device_index: which CUDA device.
        backend: what computes the network: "torch", or on a CPU "openvino" (pip install "vsexvc[openvino]").
        precision: "fp32", "bf16" or "fp16". None: bf16 on a CPU with AMX or AVX512-bf16 and on a GPU that has it, fp16
            on an older GPU, else fp32; with preset "upstream" fp32.
        trt: on a GPU, the feature, correspondence and colour nets as TensorRT engines (needs torch_tensorrt), built at
            the first frame of each size and kept in the user's cache folder.
        threads: of the CPU that the network takes. None: torch's own number, one for each core. Frames have the same
            bytes only for the same number.

    Returns:
        The coloured clip, with the frame properties of `clip`, and ExvcReference (frame of `ref`), ExvcSimilarity (mean
        over the frame, -1..1) and ExvcSceneStart (the frame with which the recurrence began).

    Raises:
        vapoursynth.Error: an argument is out of range, a model cannot be loaded, a device is not there.
    """
    _check_clip("clip", clip)
    _check_references(ref)
    size = _check_range("size", _integer("size", size), 64, 1080)
    saturation = _check_range("saturation", _number("saturation", saturation), 0, 4)
    if sc_threshold is not None:
        sc_threshold = _check_range("sc_threshold", _number("sc_threshold", sc_threshold), 0, 1)
    if mask is not None:
        _check_mask(mask, clip)
    if output not in OUTPUTS:
        _fail("output", f"one of {', '.join(OUTPUTS)}", repr(output))
    if preset not in PRESETS:
        _fail("preset", "'' or 'upstream'", repr(preset))
    upstream = preset == "upstream"
    if upstream and size != 216:
        _fail("size", "216 with preset 'upstream'", size)
    if upstream and not (ref.width and ref.height):
        _fail("ref", "of constant size with preset 'upstream'", "a clip of variable size")
    target = _check_format(_UPSTREAM_SIZE if upstream else (clip.width, clip.height), clip.format, format, output)
    starts = _check_ref_frames(ref_frames, ref.num_frames, clip.num_frames)
    place = _device(device, _integer("device_index", device_index))
    if model is not None and not isinstance(model, str | os.PathLike):
        _fail("model", "a name or a path", repr(model))
    how = _how(backend, precision or ("fp32" if upstream else None), bool(trt), threads)
    try:
        name = None if model is None else os.fspath(model)
        network = store.shared(name, place, how, auto_download=bool(auto_download))
    except (ValueError, OSError, RuntimeError) as error:
        raise vs.Error(f"Colorize: {first_line(error)}") from None
    schedule = Schedule(clip.num_frames, ref.num_frames, starts, bool(propagate), bool(sc), sc_threshold)
    return build(
        clip,
        ref,
        Session(network, borders=not upstream),
        schedule,
        size,
        place,
        saturation=saturation,
        mask=mask,
        output=output,
        format=target,
        upstream=upstream,
        threads=how.threads,
    )


def build(
    clip: vs.VideoNode,
    ref: vs.VideoNode,
    session: Any,
    schedule: Schedule,
    size: int,
    device: torch.device,
    *,
    saturation: float = 1.0,
    mask: vs.VideoNode | None = None,
    output: str = "color",
    format: vs.VideoFormat | None = None,
    upstream: bool = False,
    threads: int | None = None,
) -> vs.VideoNode:
    """The graph, for arguments that are checked. session: see vsexvc.pump.SessionLike."""
    core = vs.core
    stated, ref = tagged(clip, progressive=True), tagged(ref, progressive=False)
    srgb = {"format": vs.RGBS, "transfer": vs.TRANSFER_IEC_61966_2_1, "primaries": vs.PRIMARIES_BT709}
    if upstream:
        stated, ref = _fitted(stated), _fitted(ref, **srgb)
        mask = mask if mask is None else _fitted(mask.std.RemoveFrameProps())
        # Its own tags again, but for a matrix that was told from its size.
        clip = stated.std.CopyFrameProps(clip).std.CopyFrameProps(stated, props=["_Matrix"])
    format = _check_format((clip.width, clip.height), clip.format, None, output) if format is None else format
    height, width = network_size(clip.width, clip.height, size)
    small = luma(stated) if upstream else luma(stated, width, height)
    if not upstream:
        # The pump brings each reference to a size of its own aspect, but for propagation.
        fixed = (width, height) if schedule.propagate else ()
        ref = ref.resize.Bicubic(*fixed, **srgb)
    pump = Pump(
        session,
        schedule,
        max(16, 2 * core.num_threads),
        lambda text: vs.core.log_message(vs.MESSAGE_TYPE_INFORMATION, text),
        size=None if schedule.propagate or upstream else size,
        recurrent=output == "color",
        halve=upstream,
        threads=threads,
        device=device,
    )
    coloured = core.exvc.PyFilter(
        clips=[measure_cuts(small) if schedule.sc else small, ref],
        step=pump,
        interrupt=interrupt,
        format=vs.YUV444PS,
        width=width,
        height=height,
    )
    if output == "similarity":
        return _similarity(clip, coloured, format)
    # YUV and GRAY become RGB only when they are coloured: their own luma has to stay.
    made = format
    if format.color_family == vs.RGB and clip.format.color_family != vs.RGB:
        made = core.query_video_format(vs.YUV, format.sample_type, format.bits_per_sample, 0, 0)
    source = clip if clip.format.id == made.id else _converted(clip, stated, made, keeps_colours=mask is not None)
    # PyFilter asks for clips[0] by itself, and drops it where more is needed: one that costs nothing.
    pacer = clip.std.BlankClip(width=16, height=16, format=vs.GRAY8, keep=True)
    inputs = [pacer, source, small, coloured]
    result = core.exvc.PyFilter(
        clips=inputs if mask is None else [*inputs, _weight(mask, clip.num_frames)],
        step=Merge(
            clip.format.color_family == vs.GRAY,
            device,
            saturation * _UPSTREAM_GAIN if upstream else saturation,
            masked=mask is not None,
            guided=not upstream,
        ),
        interrupt=interrupt,
        format=made.id,
        width=clip.width,
        height=clip.height,
    )
    if made.id == format.id:
        return result
    plain = result.std.RemoveFrameProps("_Field")  # zimg refuses some, and it means nothing here
    return plain.resize.Bicubic(format=format.id).std.CopyFrameProps(clip, props=["_Field"])


def _converted(clip: vs.VideoNode, stated: vs.VideoNode, format: vs.VideoFormat, keeps_colours: bool) -> vs.VideoNode:
    """The clip in another format, from its tagged form; its U and V only where they are needed, else neutral."""
    core = vs.core
    if clip.format.color_family == vs.RGB:
        if format.color_family == vs.RGB:
            return stated.resize.Bicubic(format=format.id).std.CopyFrameProps(clip)
        made = stated.resize.Bicubic(format=format.id, matrix=RGB_LUMA, range=vs.RANGE_LIMITED)
        return made.std.CopyFrameProps(clip).std.SetFrameProps(_Matrix=RGB_LUMA, _Range=vs.RANGE_LIMITED)
    if keeps_colours and clip.format.color_family == vs.YUV:
        return stated.resize.Bicubic(format=format.id).std.CopyFrameProps(clip)
    depth = core.query_video_format(vs.GRAY, format.sample_type, format.bits_per_sample)
    luma = core.std.ShufflePlanes(stated, 0, vs.GRAY)
    luma = luma if luma.format.id == depth.id else luma.resize.Bicubic(format=depth.id)
    neutral = luma.std.BlankClip(
        width=clip.width >> format.subsampling_w,
        height=clip.height >> format.subsampling_h,
        color=0.0 if format.sample_type == vs.FLOAT else 1 << (format.bits_per_sample - 1),
        keep=True,
    )
    return core.std.ShufflePlanes([luma, neutral, neutral], [0, 0, 0], vs.YUV).std.CopyFrameProps(clip)


def _fitted(clip: vs.VideoNode, **options: int) -> vs.VideoNode:
    """The middle of a clip of constant size, cut to the shape of `_UPSTREAM_SIZE` and brought to it."""
    width, height = _UPSTREAM_SIZE
    scale = min(clip.width / width, clip.height / height)
    w, h = width * scale, height * scale
    return clip.resize.Bilinear(
        width,
        height,
        src_left=(clip.width - w) / 2,
        src_top=(clip.height - h) / 2,
        src_width=w,
        src_height=h,
        **options,
    )


def _weight(mask: vs.VideoNode, num_frames: int) -> vs.VideoNode:
    """The mask as GRAY16 of full range, as long as the clip."""
    if mask.num_frames < num_frames:
        mask += mask[-1:] * (num_frames - mask.num_frames)
    plain = mask.std.RemoveFrameProps().std.SetFrameProps(_Range=vs.RANGE_FULL)
    return plain.resize.Bicubic(format=vs.GRAY16, range=vs.RANGE_FULL)


def _similarity(clip: vs.VideoNode, coloured: vs.VideoNode, format: vs.VideoFormat) -> vs.VideoNode:
    """The map at the clip's size, with the clip's frame properties and the pump's."""
    small = vs.core.std.ShufflePlanes(coloured, 0, vs.GRAY).std.Expr("x 0 max 1 min")
    full = small.std.SetFrameProps(_Range=vs.RANGE_FULL).resize.Bilinear(
        clip.width, clip.height, format=format.id, range=vs.RANGE_FULL
    )
    reported = full.std.CopyFrameProps(clip).std.CopyFrameProps(coloured, props=list(REPORTED))
    return reported.std.SetFrameProps(_Range=vs.RANGE_FULL)


def _check_references(ref: Any) -> None:
    if not isinstance(ref, vs.VideoNode):
        _fail("ref", "a vapoursynth.VideoNode", type(ref).__name__)
    if ref.format is not None and ref.format.color_family == vs.GRAY:
        _fail("ref", "YUV or RGB: a grey picture has no colours to give", ref.format.name)
    if ref.format is not None:
        _check_samples("ref", ref.format)


def _check_mask(mask: Any, clip: vs.VideoNode) -> None:
    _check_clip("mask", mask)
    if mask.format.color_family != vs.GRAY:
        _fail("mask", "GRAY", mask.format.name)
    if (mask.width, mask.height) != (clip.width, clip.height):
        _fail("mask", f"of the clip's size, {clip.width}x{clip.height}", f"{mask.width}x{mask.height}")


def _check_format(size: tuple[int, int], own: vs.VideoFormat, format: int | None, output: str) -> vs.VideoFormat:
    """What the result is to have. size: its width and height; own: the clip's format."""
    depth = own.sample_type, own.bits_per_sample
    if format is None:
        if output == "similarity":
            return vs.core.query_video_format(vs.GRAY, *depth)
        return vs.core.query_video_format(vs.YUV, *depth, 0, 0) if own.color_family == vs.GRAY else own
    accepted = (vs.GRAY,) if output == "similarity" else (vs.YUV, vs.RGB)
    words = f"the number of a {' or '.join(vs.ColorFamily(family).name for family in accepted)} format"
    try:
        target = vs.core.get_video_format(_integer("format", format))
    except (vs.Error, OverflowError):
        _fail("format", words, format)
    if target.color_family not in accepted:
        _fail("format", words, format if target.color_family == vs.UNDEFINED else target.name)
    _check_samples("format", target)
    width, height = size
    if width % (1 << target.subsampling_w) or height % (1 << target.subsampling_h):
        _fail("format", f"one that a size of {width}x{height} can be subsampled to", target.name)
    return target


def _check_clip(name: str, clip: Any) -> None:
    if not isinstance(clip, vs.VideoNode):
        _fail(name, "a vapoursynth.VideoNode", type(clip).__name__)
    if clip.format is None or clip.format.color_family == vs.UNDEFINED:
        _fail(name, "of constant format", "a clip of variable format")
    if not clip.width or not clip.height:
        _fail(name, "of constant size", "a clip of variable size")
    if not clip.num_frames:
        _fail(name, "a clip of at least one frame", "one of none")
    _check_samples(name, clip.format)


def _check_samples(name: str, format: vs.VideoFormat) -> None:
    if not is_handled(format):
        _fail(name, HANDLED, format.name)


def _check_range[N: float](name: str, value: N, lowest: float, highest: float) -> N:
    if not lowest <= value <= highest:
        _fail(name, f"{lowest}..{highest}", value)
    return value


def _integer(name: str, value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError:
        _fail(name, "an integer", repr(value))


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        _fail(name, "a number", repr(value))


def _check_ref_frames(ref_frames: int | Sequence[int] | None, count: int, num_frames: int) -> tuple[int, ...] | None:
    if ref_frames is None:
        return (0,) if count == 1 else None
    given = ref_frames if isinstance(ref_frames, Iterable) else (ref_frames,)
    starts = tuple(_integer("ref_frames", frame) for frame in given)
    if len(starts) != count:
        _fail("ref_frames", f"as many as ref has frames, {count}", len(starts))
    for frame in starts:
        if not 0 <= frame < num_frames:
            _fail("ref_frames", f"frame numbers of clip, 0..{num_frames - 1}", frame)
    if any(a >= b for a, b in pairwise(starts)):
        _fail("ref_frames", "ascending", list(starts))
    return starts


def _device(name: str | None, index: int) -> torch.device:
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cpu", "cuda"):
        _fail("device", "'cpu' or 'cuda'", repr(name))
    if index < 0:
        _fail("device_index", "0 or above", index)
    if name == "cpu":
        return torch.device("cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        _fail("device", "'cpu': there is no CUDA device that torch can use", repr(name))
    if index >= count:
        _fail("device_index", f"0..{count - 1}: that is how many CUDA devices there are", index)
    return torch.device("cuda", index)


def _how(backend: str, precision: str | None, trt: bool, threads: int | None) -> ComputeOptions:
    if backend not in BACKENDS:
        _fail("backend", " or ".join(map(repr, BACKENDS)), repr(backend))
    if trt and backend != "torch":
        _fail("trt", "False with another backend than 'torch'", trt)
    if precision is not None and precision not in PRECISIONS:
        _fail("precision", f"one of {', '.join(PRECISIONS)}", repr(precision))
    if threads is not None:
        threads = _check_range("threads", _integer("threads", threads), 1, 1024)
    return ComputeOptions("tensorrt" if trt else backend, precision, threads)


def _fail(argument: str, accepted: str, seen: Any) -> NoReturn:
    raise vs.Error(f"Colorize: {argument} must be {accepted}, got {seen}")


def _entry(**arguments: Any) -> Mapping[str, Any]:
    """What the native Colorize calls: `colorize` with a map of arguments and a map as its answer."""
    try:
        for name, value in arguments.items():
            if isinstance(value, bytes | bytearray):
                arguments[name] = value.decode("utf-8", "replace")
        return {"clip": colorize(**arguments)}
    except vs.Error as error:
        return {"error": str(error)}
    except Exception as error:
        return {"error": f"Colorize: {type(error).__name__}: {first_line(error)}"}


def bind() -> None:
    """Called by the native Colorize: leaves `_entry` with it (native/exvc.c)."""
    vs.core.exvc.Bind(func=_entry)

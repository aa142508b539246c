"""The VapourSynth face: arguments checked, the graph built. `core.exvc.Colorize` and `vsexvc.colorize` are `colorize`.

    clip -> luma at the network's size, with measures for cuts -.
    ref  -> RGBS at the network's size -------------------------+-> exvc.PyFilter(Pump) -> similarity, a, b -.
    clip -> luma, full size ---------------------------------------------------------------------------------+
    clip ----------------------------------------------------------------------------------------------------+
                                                                       exvc.PyFilter(Merge): clip's frames, new U, V

No arithmetic on pictures (color.py, merge.py), no order of frames (pump.py), no files (weights.py). Nothing is printed,
no global flag is set, no frame is asked for while the script loads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NoReturn

import torch
import vapoursynth as vs

from vsexvc import weights
from vsexvc.color import is_srgb_transfer
from vsexvc.merge import RGB_LUMA, UNSPECIFIED, Merge, matrix_of, prop
from vsexvc.pump import Pump, Schedule, measure_cuts
from vsexvc.session import Session, network_size
from vsexvc.weights import first_line


def colorize(
    clip: vs.VideoNode,
    ref: vs.VideoNode,
    *,
    ref_frames: int | Sequence[int] | None = None,
    model: str | None = None,
    size: int = 216,
    propagate: bool = False,
    sc: bool = True,
    sc_threshold: float | None = None,
    device: str | None = None,
    device_index: int = 0,
) -> vs.VideoNode:
    """Colours `clip` like the pictures of `ref`.

    Args:
        clip: YUV, GRAY or RGB, 8-16 bit integer, half or float. Its own colours are ignored. Y of YUV and GRAY is kept
            bit for bit; of RGB the BT.709 luma is kept. GRAY comes out as YUV 4:4:4 of its depth.
        ref: YUV or RGB of any size: one reference in each frame.
        ref_frames: for each frame of `ref` the frame of `clip` from which it holds, ascending; the first one also holds
            before. None: a single reference holds everywhere; of several, each scene takes the one that is most similar
            to its first frame.
        model: name of an installed model or path of a weights file; None: the default.
        size: shorter side of the picture inside the network, 64..1080.
        propagate: start each scene, and each of `ref_frames`, from the reference itself: for references that are
            coloured frames of the clip.
        sc: start anew at scene cuts.
        sc_threshold: see vsexvc.pump.is_cut, 0..1. None: trust `_SceneChangePrev` where frames carry it.
        device: "cpu" or "cuda"; None: cuda where there is one.
        device_index: which CUDA device.

    Returns:
        The coloured clip, with the frame properties of `clip`, and ExvcReference (frame of `ref`), ExvcSimilarity (mean
        over the frame, -1..1) and ExvcSceneStart (the frame with which the recurrence began).

    Raises:
        vapoursynth.Error: an argument is out of range, a model cannot be loaded, a device is not there.
    """
    _check_clip("clip", clip)
    _check_clip("ref", ref)
    if ref.format.color_family == vs.GRAY:
        _fail("ref", "YUV or RGB: a grey picture has no colours to give", ref.format.name)
    _check_range("size", size, 64, 1080)
    if sc_threshold is not None:
        _check_range("sc_threshold", sc_threshold, 0, 1)
    starts = _check_ref_frames(ref_frames, ref.num_frames, clip.num_frames)
    place = _device(device, device_index)
    try:
        session = Session(weights.load(model, place))
    except (ValueError, OSError, RuntimeError) as error:
        raise vs.Error(f"Colorize: {first_line(error)}") from None
    schedule = Schedule(clip.num_frames, ref.num_frames, starts, bool(propagate), bool(sc), sc_threshold)
    return build(clip, ref, session, schedule, int(size), place)


def build(
    clip: vs.VideoNode, ref: vs.VideoNode, session: Any, schedule: Schedule, size: int, device: torch.device
) -> vs.VideoNode:
    """The graph, for arguments that are checked. session: see vsexvc.pump.SessionLike."""
    core = vs.core
    height, width = network_size(clip.width, clip.height, size)
    small = _luma(clip, width, height)
    ref_height, ref_width = (height, width) if schedule.propagate else network_size(ref.width, ref.height, size)
    ref = ref.std.ModifyFrame(ref, _tag_reference).std.RemoveFrameProps("_FieldBased")
    ref = ref.resize.Bicubic(
        ref_width, ref_height, format=vs.RGBS, transfer=vs.TRANSFER_IEC_61966_2_1, primaries=vs.PRIMARIES_BT709
    )
    window = max(16, 2 * core.num_threads)
    pump = Pump(session, schedule, window, lambda text: vs.core.log_message(vs.MESSAGE_TYPE_INFORMATION, text))
    coloured = core.exvc.PyFilter(
        clips=[measure_cuts(small) if schedule.sc else small, ref],
        step=pump,
        format=vs.YUV444PS,
        width=width,
        height=height,
    )
    grey = clip.format.color_family == vs.GRAY
    source = core.std.ShufflePlanes([clip] * 3, [0] * 3, vs.YUV) if grey else clip
    # PyFilter asks for clips[0] by itself, and drops it where more is needed: one that costs nothing.
    pacer = clip.std.BlankClip(width=16, height=16, format=vs.GRAY8, keep=True)
    return core.exvc.PyFilter(
        clips=[pacer, source, _luma(clip), small, coloured],
        step=Merge(grey, device),
        format=source.format.id,
        width=clip.width,
        height=clip.height,
    )


def _luma(clip: vs.VideoNode, width: int | None = None, height: int | None = None) -> vs.VideoNode:
    """GRAY16 of full range, with the clip's own frame properties. Untagged YUV and GRAY are limited, as zimg has it."""
    progressive = clip.std.RemoveFrameProps("_FieldBased")
    if clip.format.color_family == vs.RGB:
        progressive = progressive.std.SetFrameProps(_Matrix=0)
        luma = progressive.resize.Bicubic(width, height, format=vs.GRAY16, matrix=RGB_LUMA, range=vs.RANGE_FULL)
    else:
        grey = vs.core.std.ShufflePlanes(progressive, 0, vs.GRAY)
        luma = grey.resize.Bicubic(width, height, format=vs.GRAY16, range=vs.RANGE_FULL)
    return luma.std.CopyFrameProps(clip)


def _tag_reference(n: int, f: vs.VideoFrame) -> vs.VideoFrame:
    """States what zimg needs to know of a reference, as `chroma` takes it for the clip."""
    frame = f.copy()
    if frame.format.color_family == vs.RGB:
        frame.props["_Matrix"] = 0
    else:
        frame.props["_Matrix"] = matrix_of(f)
    if is_srgb_transfer(prop(f, "_Transfer")):
        frame.props["_Transfer"] = int(vs.TRANSFER_IEC_61966_2_1)
    if prop(f, "_Primaries") == UNSPECIFIED:
        frame.props["_Primaries"] = int(vs.PRIMARIES_BT709)
    return frame


def _check_clip(name: str, clip: Any) -> None:
    if not isinstance(clip, vs.VideoNode):
        _fail(name, "a vapoursynth.VideoNode", type(clip).__name__)
    if clip.format is None or clip.format.color_family == vs.UNDEFINED:
        _fail(name, "of constant format", "a clip of variable format")
    if not clip.width or not clip.height:
        _fail(name, "of constant size", "a clip of variable size")
    if not clip.num_frames:
        _fail(name, "a clip of at least one frame", "one of none")
    if clip.format.bits_per_sample > 16 and clip.format.sample_type == vs.INTEGER:
        _fail(name, "8 to 16 bit integer, half or float", clip.format.name)


def _check_range(name: str, value: float, lowest: float, highest: float) -> None:
    if not lowest <= value <= highest:
        _fail(name, f"{lowest}..{highest}", value)


def _check_ref_frames(ref_frames: int | Sequence[int] | None, count: int, num_frames: int) -> tuple[int, ...] | None:
    if ref_frames is None:
        return (0,) if count == 1 else None
    starts = (ref_frames,) if isinstance(ref_frames, int) else tuple(int(frame) for frame in ref_frames)
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

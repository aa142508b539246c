"""Check the arguments of Colorize; an error names what is accepted."""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterable, Sequence
from itertools import pairwise
from typing import Any, NoReturn

import torch
import vapoursynth as vs

from vsexvc.backends.options import BACKENDS, PRECISIONS, ComputeOptions
from vsexvc.frames import HANDLED, is_handled
from vsexvc.presets import PRESETS, Preset
from vsexvc.pump import REFERENCES
from vsexvc.schedule import MOST_AROUND, MOST_MEMORY, Schedule

_NAMED = tuple(name for name in BACKENDS if name != "tensorrt")  # `trt` selects that one


def check_references(ref: Any) -> None:
    if not isinstance(ref, vs.VideoNode):
        fail("ref", "a vapoursynth.VideoNode", type(ref).__name__)
    if ref.format is not None and ref.format.color_family == vs.GRAY:
        fail("ref", "YUV or RGB: a grey picture has no colours to give", ref.format.name)
    if ref.format is not None:
        _check_samples("ref", ref.format)


def check_mask(mask: Any, clip: vs.VideoNode) -> None:
    check_clip("mask", mask)
    if mask.format.color_family != vs.GRAY:
        fail("mask", "GRAY", mask.format.name)
    if (mask.width, mask.height) != (clip.width, clip.height):
        fail("mask", f"of the clip's size, {clip.width}x{clip.height}", f"{mask.width}x{mask.height}")


def check_format(size: tuple[int, int], own: vs.VideoFormat, format: int | None, output: str) -> vs.VideoFormat:
    """Return the format of the result. size: its width and height; own: the clip's format."""
    depth = own.sample_type, own.bits_per_sample
    if format is None:
        if output == "similarity":
            return vs.core.query_video_format(vs.GRAY, *depth)
        return vs.core.query_video_format(vs.YUV, *depth, 0, 0) if own.color_family == vs.GRAY else own
    accepted = (vs.GRAY,) if output == "similarity" else (vs.YUV, vs.RGB)
    words = f"the number of a {' or '.join(vs.ColorFamily(family).name for family in accepted)} format"
    try:
        target = vs.core.get_video_format(integer("format", format))
    except (vs.Error, OverflowError):
        fail("format", words, format)
    if target.color_family not in accepted:
        fail("format", words, format if target.color_family == vs.UNDEFINED else target.name)
    _check_samples("format", target)
    width, height = size
    if width % (1 << target.subsampling_w) or height % (1 << target.subsampling_h):
        fail("format", f"one that a size of {width}x{height} can be subsampled to", target.name)
    return target


def check_clip(name: str, clip: Any) -> None:
    if not isinstance(clip, vs.VideoNode):
        fail(name, "a vapoursynth.VideoNode", type(clip).__name__)
    if clip.format is None or clip.format.color_family == vs.UNDEFINED:
        fail(name, "of constant format", "a clip of variable format")
    if not clip.width or not clip.height:
        fail(name, "of constant size", "a clip of variable size")
    if not clip.num_frames:
        fail(name, "a clip of at least one frame", "an empty one")
    _check_samples(name, clip.format)


def _check_samples(name: str, format: vs.VideoFormat) -> None:
    if not is_handled(format):
        fail(name, HANDLED, format.name)


def check_range[N: float](name: str, value: N, lowest: float, highest: float) -> N:
    if not lowest <= value <= highest:
        fail(name, f"{lowest}..{highest}", value)
    return value


def integer(name: str, value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError:
        fail(name, "an integer", repr(value))


def number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        fail(name, "a number", repr(value))


def one_of(name: str, value: Any, accepted: Collection[str], words: str) -> str:
    if not isinstance(value, str) or value not in accepted:
        fail(name, words, repr(value))
    return value


def flag(name: str, value: Any) -> bool:
    try:
        return bool(value)
    except (TypeError, ValueError):  # value is an array
        fail(name, "True or False", repr(value))


def check_schedule(
    clip: vs.VideoNode,
    ref: vs.VideoNode,
    ref_frames: int | Sequence[int] | None,
    propagate: bool,
    sc: bool,
    sc_threshold: float | None,
    around: int,
    memory: int,
) -> Schedule:
    """Return the schedule that these arguments of Colorize define."""
    if sc_threshold is not None:
        sc_threshold = check_range("sc_threshold", number("sc_threshold", sc_threshold), 0, 1)
    return Schedule(
        clip.num_frames,
        ref.num_frames,
        _check_ref_frames(ref_frames, ref.num_frames, clip.num_frames),
        flag("propagate", propagate),
        flag("sc", sc),
        sc_threshold,
        check_range("around", integer("around", around), 1, MOST_AROUND),
        check_range("memory", integer("memory", memory), 0, MOST_MEMORY),
    )


def _check_ref_frames(ref_frames: int | Sequence[int] | None, count: int, num_frames: int) -> tuple[int, ...] | None:
    if ref_frames is None:
        if count > REFERENCES:
            accepted = f"of at most {REFERENCES} frames without ref_frames (a looped picture: ref[0])"
            fail("ref", accepted, f"{count} frames")
        return (0,) if count == 1 else None
    given: tuple[Any, ...]
    try:
        given = tuple(ref_frames) if isinstance(ref_frames, Iterable) else (ref_frames,)
    except TypeError:  # value is an array without dimensions
        given = (ref_frames,)
    starts = tuple(integer("ref_frames", frame) for frame in given)
    if len(starts) != count:
        fail("ref_frames", f"as many as ref has frames, {count}", len(starts))
    for frame in starts:
        if not 0 <= frame < num_frames:
            fail("ref_frames", f"frame numbers of clip, 0..{num_frames - 1}", frame)
    if any(a >= b for a, b in pairwise(starts)):
        fail("ref_frames", "ascending", list(starts))
    return starts


def check_device(name: str | None, index: int) -> torch.device:
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    one_of("device", name, ("cpu", "cuda"), "'cpu' or 'cuda'")
    if index < 0:
        fail("device_index", "0 or above", index)
    if name == "cpu":
        return torch.device("cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        fail("device", "'cpu': there is no CUDA device that torch can use", repr(name))
    if index >= count:
        fail("device_index", f"0..{count - 1}: that is how many CUDA devices there are", index)
    return torch.device("cuda", index)


def check_preset(name: str, size: int, ref: vs.VideoNode) -> Preset:
    one_of("preset", name, PRESETS, " or ".join(map(repr, PRESETS)))
    preset = PRESETS[name]
    if preset.size and size != 216:
        fail("size", f"216 with preset {name!r}", size)
    if preset.size and not (ref.width and ref.height):
        fail("ref", f"of constant size with preset {name!r}", "a clip of variable size")
    return preset


def check_computation(
    backend: str, precision: str | None, default: str | None, trt: bool, threads: int | None
) -> ComputeOptions:
    """Return the options of the backends. default: the precision if none is given."""
    if isinstance(precision, str | None) and not precision:
        precision = default
    one_of("backend", backend, _NAMED, " or ".join(map(repr, _NAMED)))
    if trt and backend != "torch":
        fail("trt", "False with another backend than 'torch'", trt)
    if precision is not None:
        one_of("precision", precision, PRECISIONS, f"one of {', '.join(PRECISIONS)}")
    # It is read at this point, because torch's number may change before the next filter is built.
    if threads is None:
        threads = torch.get_num_threads()
    else:
        threads = check_range("threads", integer("threads", threads), 1, 1024)
    return ComputeOptions("tensorrt" if trt else backend, precision, threads)


def fail(argument: str, accepted: str, seen: Any) -> NoReturn:
    raise vs.Error(f"Colorize: {argument} must be {accepted}, got {' '.join(str(seen).split())}")

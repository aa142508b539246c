"""Build the filter's graph from checked arguments.

clip -> luma at the network's size, with measures for cuts -.
ref  -> RGBS -----------------------------------------------+-> exvc.PyFilter(Pump) -> similarity, a, b -.
clip (in the output's format) ---------------------------------------------------------------------------+
mask (if given) -----------------------------------------------------------------------------------------+
                                                                   exvc.PyFilter(Merge): clip's frames, new U, V

The last filter exists several times, each for every second, third ... frame, because PyFilter makes one frame at a
time.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import vapoursynth as vs

from vsexvc.arguments import check_format
from vsexvc.backends.options import cuda_extras
from vsexvc.frames import RGB_LUMA, luma, tagged
from vsexvc.handover import states_handed
from vsexvc.merge import Merge
from vsexvc.output import REPORTED
from vsexvc.presets import PRESETS, Preset
from vsexvc.pump import Pump
from vsexvc.scenes import MARK, REQUESTED_AHEAD, measure_cuts
from vsexvc.schedule import BLOCK, SEARCH, Schedule
from vsexvc.session import network_size
from vsexvc.stretch import LONGEST
from vsexvc.support.threads import interrupt
from vsexvc.typical import LOOK

_BACKWARD_BYTES = 256 << 20  # bytes of the backward colours of one stretch
_LOOKED_AT = LOOK + REQUESTED_AHEAD + BLOCK + 32  # frames that are requested ahead at a scene's start
_MOST_MERGES = 8  # full-size frames that are made at a time: at 27 ms for 1080p these give 300 frames a second
_HELD_SHARE = 4  # frames read ahead take at most one in four bytes of the core's cache
_SRGB = {"format": vs.RGBS, "transfer": vs.TRANSFER_IEC_61966_2_1, "primaries": vs.PRIMARIES_BT709}


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
    preset: Preset = PRESETS[""],
    threads: int | None = None,
) -> vs.VideoNode:
    """Build the graph. For the arguments see vsexvc.colorize; session: see vsexvc.pump.SessionLike."""
    clip = _held(clip, schedule)
    stated, ref = tagged(clip, progressive=True), tagged(ref, progressive=False)
    if preset.size is not None:
        stated, ref = _fitted(stated, preset.size), _fitted(ref, preset.size, **_SRGB)
        mask = mask if mask is None else _fitted(mask.std.RemoveFrameProps(), preset.size)
        # Restore its own tags, except a matrix that was derived from its size.
        clip = stated.std.CopyFrameProps(clip).std.CopyFrameProps(stated, props=["_Matrix"])
    format = check_format((clip.width, clip.height), clip.format, None, output) if format is None else format
    height, width = network_size(clip.width, clip.height, size)
    if preset.size is not None:
        small = luma(stated)
    else:
        small = luma(stated, width, height)
        # The pump resizes each reference in its own aspect, except for propagation.
        ref = ref.resize.Bicubic(*((width, height) if schedule.propagate else ()), **_SRGB)
    fine = [] if schedule.propagate or preset.size is not None else [_larger(stated, width, height)]
    pump = Pump(
        session,
        schedule,
        max(16, 2 * vs.core.num_threads),
        lambda text: vs.core.log_message(vs.MESSAGE_TYPE_INFORMATION, text),
        size=None if schedule.propagate or preset.size is not None else size,
        recurrent=output == "color",
        halve=preset.size is not None,
        borders=preset.borders,
        states=states_handed(),
        longest=max(1, min(LONGEST, _BACKWARD_BYTES // (2 * 4 * width * height))),
        threads=threads,
        device=device,
    )
    coloured = vs.core.exvc.PyFilter(
        clips=[measure_cuts(small, schedule.sc_threshold) if schedule.sc else small, ref, *fine],
        step=pump,
        interrupt=interrupt,
        format=vs.YUV444PS,
        width=width,
        height=height,
    )
    if output == "similarity":
        return _similarity(clip, coloured, format)
    is_grey, masked = clip.format.color_family == vs.GRAY, mask is not None
    merge = partial(Merge, is_grey, device, saturation * preset.gain, masked=masked, guided=preset.guided)
    merges = [merge() for _ in range(min(merges_at_once(device), clip.num_frames))]
    return _merged(merges, clip, stated, [small, coloured], mask, format)


def _larger(stated: vs.VideoNode, width: int, height: int) -> vs.VideoNode:
    """Return luma at up to twice a size, from which the picture within black borders is enlarged."""
    return luma(stated, max(width, min(stated.width, 2 * width)), max(height, min(stated.height, 2 * height)))


def merges_at_once(device: torch.device) -> int:
    """Return how many full-size frames are made at a time: one for every two threads of VapourSynth.

    On two cores a second one would only take a core from the network. On a GPU it is one, unless `merge` of
    CUDA_EXTRAS is requested.
    """
    if device.type == "cuda" and "merge" not in cuda_extras():
        return 1
    threads: int = vs.core.num_threads
    return max(1, min(threads // 2, _MOST_MERGES))


def _held(clip: vs.VideoNode, schedule: Schedule) -> vs.VideoNode:
    """Return the same frames through a cache that holds those read ahead, in a share of the core's memory.

    In a run from start to end each frame is then requested from the clip once, for its scene and later for its colours.
    Frames that are too large for the share are requested twice.
    """
    count = _LOOKED_AT if schedule.sc else 0
    if schedule.around > 1 and len(schedule.ref_frames or ()) > 1:
        count += LONGEST + 2 * SEARCH
    if not count:
        return clip
    planes = sum(
        (clip.width >> (clip.format.subsampling_w if plane else 0))
        * (clip.height >> (clip.format.subsampling_h if plane else 0))
        for plane in range(clip.format.num_planes)
    )
    affordable = (vs.core.max_cache_size << 20) // _HELD_SHARE // (planes * clip.format.bytes_per_sample)
    held = clip.std.RemoveFrameProps(props=[MARK])
    held.std.SetVideoCache(mode=1, fixedsize=1, maxsize=max(1, min(count, affordable)))
    return held


def _merged(
    merges: list[Merge],
    clip: vs.VideoNode,
    stated: vs.VideoNode,
    colours: list[vs.VideoNode],
    mask: vs.VideoNode | None,
    format: vs.VideoFormat,
) -> vs.VideoNode:
    """Return the clip with new colours in that format.

    Args:
        merges: the steps that make its frames, in turn.
        clip: in its own format.
        stated: its tagged form.
        colours: the luma at the network's size and its colours.
        mask: see vsexvc.colorize.
        format: of the result.
    """
    core = vs.core
    # YUV and GRAY become RGB only after they are coloured, so that their own luma stays.
    made = format
    if format.color_family == vs.RGB and clip.format.color_family != vs.RGB:
        made = core.query_video_format(vs.YUV, format.sample_type, format.bits_per_sample, 0, 0)
    source = clip if clip.format.id == made.id else _converted(clip, stated, made, keeps_colours=mask is not None)
    # PyFilter always requests clips[0], and drops it if it requires more: this clip must be cheap.
    pacer = clip.std.BlankClip(width=16, height=16, format=vs.GRAY8, keep=True)
    inputs = [pacer, source, *colours]
    inputs += [] if mask is None else [_weight(mask, clip.num_frames)]
    size = {"width": clip.width, "height": clip.height}
    made_by = [
        core.exvc.PyFilter(clips=inputs, step=merge, interrupt=interrupt, format=made.id, **size) for merge in merges
    ]
    result = _in_turn(made_by)
    if made.id == format.id:
        return result
    plain = result.std.RemoveFrameProps("_Field")  # zimg refuses some values, and they have no effect here
    return plain.resize.Bicubic(format=format.id).std.CopyFrameProps(clip, props=["_Field"])


def _in_turn(clips: list[vs.VideoNode]) -> vs.VideoNode:
    """Return a clip whose frame n is frame n of clip n modulo their number. Each frame is kept by the result alone."""
    if len(clips) == 1:
        return clips[0]
    every = [
        clip.std.SelectEvery(cycle=len(clips), offsets=[first], modify_duration=False)
        for first, clip in enumerate(clips)
    ]
    for clip in (*clips, *every):
        clip.std.SetVideoCache(mode=0)
    return vs.core.std.Interleave(every, modify_duration=False)


def uncoloured(clip: vs.VideoNode, format: vs.VideoFormat, is_grey: bool) -> vs.VideoNode:
    """Return the clip in a YUV format as `build` writes it, with its own colours, or none.

    Args:
        clip: of constant size and format.
        format: YUV.
        is_grey: U and V are neutral.
    """
    stated = tagged(clip, progressive=True)
    if is_grey and clip.format.color_family == vs.RGB:
        clip = _converted(clip, stated, format, keeps_colours=True)
        stated = tagged(clip, progressive=True)
    if clip.format.id == format.id and not is_grey:
        return clip
    return _converted(clip, stated, format, keeps_colours=not is_grey)


def _converted(clip: vs.VideoNode, stated: vs.VideoNode, format: vs.VideoFormat, keeps_colours: bool) -> vs.VideoNode:
    """Convert a clip to another format, from its tagged form; U and V only if they are needed, else neutral."""
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


def _fitted(clip: vs.VideoNode, size: tuple[int, int], **options: int) -> vs.VideoNode:
    """Cut the middle of a clip of constant size to the shape of `size` (width, height), and resize it to that."""
    width, height = size
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
    """Return the mask as GRAY16 of full range, as long as the clip."""
    if mask.num_frames < num_frames:
        mask += mask[-1:] * (num_frames - mask.num_frames)
    plain = mask.std.RemoveFrameProps().std.SetFrameProps(_Range=vs.RANGE_FULL)
    return plain.resize.Bicubic(format=vs.GRAY16, range=vs.RANGE_FULL)


def _similarity(clip: vs.VideoNode, coloured: vs.VideoNode, format: vs.VideoFormat) -> vs.VideoNode:
    """Return the similarity map at the clip's size, with the clip's frame properties and the pump's."""
    small = vs.core.std.ShufflePlanes(coloured, 0, vs.GRAY).std.Expr("x 0 max 1 min")
    full = small.std.SetFrameProps(_Range=vs.RANGE_FULL).resize.Bilinear(
        clip.width, clip.height, format=format.id, range=vs.RANGE_FULL
    )
    reported = full.std.CopyFrameProps(clip).std.CopyFrameProps(coloured, props=list(REPORTED))
    return reported.std.SetFrameProps(_Range=vs.RANGE_FULL)

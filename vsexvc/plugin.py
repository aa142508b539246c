"""Define the filter as VapourSynth calls it: `core.exvc.Colorize` and `vsexvc.colorize` are `colorize`.

arguments.py checks the arguments, graph.py builds the graph. They print nothing, set no global flag, and request no
frame while the script loads.
"""

from __future__ import annotations

import vsexvc.support.openmp as openmp  # first: it loads torch

# isort: split
import dataclasses
import importlib.metadata
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import vapoursynth as vs

from vsexvc.arguments import (
    check_clip,
    check_computation,
    check_device,
    check_format,
    check_mask,
    check_preset,
    check_range,
    check_references,
    check_schedule,
    fail,
    flag,
    integer,
    number,
    one_of,
)
from vsexvc.backends.options import ComputeOptions
from vsexvc.graph import build
from vsexvc.nets.network import ColorizationNet
from vsexvc.session import Session
from vsexvc.support.errors import first_line
from vsexvc.weights import store

OUTPUTS = ("color", "similarity", "warped")


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
    around: int = 4,
    memory: int = 0,
) -> vs.VideoNode:
    """Colour `clip` like the pictures of `ref`.

    Args:
        clip: YUV, GRAY or RGB, 8-16 bit integer, half or float; progressive and not HDR. Its own colours are ignored. Y
            of YUV and GRAY is kept bit for bit; of RGB the BT.709 luma is kept. Black borders stay neutral.
        ref: YUV or RGB, one reference in each frame; sizes and formats may vary from frame to frame.
        ref_frames: for each frame of `ref` the frame of `clip` from which it is used, ascending; the first one is also
            used before. None: a single reference is used everywhere; of several, at most 64, each scene takes the most
            similar one to its typical frame, which is among its first 24.
        model: name of an installed model or path of a weights file; None: the default.
        size: shorter side of the picture inside the network, 64..1080.
        saturation: factor on a and b, 0..4; colours stay in gamut (vsexvc.colour.spaces.ColorSpace.chroma).
        mask: GRAY of the clip's size: where it is white, the clip's own colours are kept; where it is grey, both are
            blended. A mask that is shorter than the clip continues with its last frame.
        output: "color"; "similarity": the similarity of each pixel's match in the reference, as a mask (GRAY
            of the clip's depth, full range, 0..1), independent of mask and saturation; "warped": the clip in the
            colours of the aligned reference alone, without the colour net.
        format: VapourSynth's number of the result's format. None: that of the clip; for GRAY YUV 4:4:4 of its depth.
        propagate: start each scene, and each of `ref_frames`, from the reference itself: for references that are
            coloured frames of the clip. Between two of them colours come from both sides, if they are in one scene and
            at most 128 frames apart (fewer where `size` is above 380): these frames are read ahead.
        sc: restart at scene cuts.
        sc_threshold: least difference between the pictures on both sides of a change that begins a scene, 0 (any) to 1
            (none); 0.05 more for gradual changes. None: use `_SceneChangePrev` where frames have it, elsewhere 0.3.
        preset: "upstream": pre- and post-processing as in the authors' script, for comparison with it, without its
            final smoother. Clip, references and mask are cut to 16:9 and resized to 768x432, which is also the size of
            the result; Lab is halved for the network. ab times 1.25 (and `saturation`) is enlarged bilinearly, not
            along edges. Black borders are treated as picture. The script does not detect cuts: pass sc=False. "": none.
        auto_download: download a known model that is not installed; False: the error names the command.
        device: "cpu" or "cuda"; None: cuda if there is a GPU.
        device_index: which CUDA device.
        backend: library that computes the network: "torch", or on a CPU "openvino" (pip install "vsexvc[openvino]").
        precision: "fp32", "bf16" or "fp16". None: bf16 on a CPU with AMX or AVX512-bf16 and on a GPU that has it, fp16
            on an older GPU, else fp32; with preset "upstream" fp32.
        trt: on a GPU, the feature, correspondence and colour nets as TensorRT engines (needs torch_tensorrt), built at
            the first frame of each size and kept in the user's cache folder.
        threads: of the network on a CPU. None: torch's own number, one for each core. The bytes of frames depend on
            this number.
        around: how many `ref_frames` each frame uses, 1..64: the current one, the next one, the one before and so on,
            of the same scene and within those 128 frames. Each part of the picture takes its colours from the most
            similar one, or, of equal ones, from the nearest in time; they never mix. 1: the current one. With preset
            "upstream" always 1.
        memory: how many earlier frames of a scene give colours too, 0..8: of every 32 frames the last one, where it had
            a sure match. With preset "upstream" always 0.

    Returns:
        The coloured clip, with the frame properties of `clip`, and ExvcReference (frame of `ref`), ExvcSimilarity (mean
        over the frame, -1..1) and ExvcSceneStart (the frame with which the recurrence began).

    Raises:
        vapoursynth.Error: an argument is out of range, a model cannot be loaded, or a device does not exist.
    """
    _load_plugin()
    check_clip("clip", clip)
    check_references(ref)
    if mask is not None:
        check_mask(mask, clip)
    one_of("output", output, OUTPUTS, f"one of {', '.join(OUTPUTS)}")
    size = check_range("size", integer("size", size), 64, 1080)
    saturation = check_range("saturation", number("saturation", saturation), 0, 4)
    shape = check_preset(preset, size, ref)
    target = check_format(shape.size or (clip.width, clip.height), clip.format, format, output)
    schedule = check_schedule(clip, ref, ref_frames, propagate, sc, sc_threshold, around, memory)
    if shape.alone:
        schedule = dataclasses.replace(schedule, around=1, memory=0)
    place = check_device(device, integer("device_index", device_index))
    computed = check_computation(backend, precision, shape.precision, flag("trt", trt), threads)
    network = _shared(model, place, computed, flag("auto_download", auto_download))
    return build(
        clip,
        ref,
        Session(network, borders=shape.borders),
        schedule,
        size,
        place,
        saturation=saturation,
        mask=mask,
        output=output,
        format=target,
        preset=shape,
        threads=computed.threads,
    )


def _shared(model: Any, device: torch.device, computed: ComputeOptions, auto_download: bool) -> ColorizationNet:
    """Return the network, which filters of a process share. Raise vapoursynth.Error if it cannot be loaded."""
    if model is not None and not isinstance(model, str | os.PathLike):
        fail("model", "a name or a path", repr(model))
    try:
        name = None if model is None else os.fspath(model)
        network = store.shared(name, device, computed, auto_download=auto_download)
    except (ValueError, OSError, RuntimeError) as error:
        raise vs.Error(f"Colorize: {first_line(error)}") from None
    if openmp.MAY_SPIN and device.type == "cpu" and computed.backend == "torch" and computed.threads != 1:
        _tell_once(
            "Colorize: torch was loaded before vsexvc, with threads that spin where they wait: on a busy machine set "
            "OMP_WAIT_POLICY=PASSIVE, load vsexvc first, or take threads=1"
        )
    return network


@lru_cache
def _tell_once(text: str) -> None:
    vs.core.log_message(vs.MESSAGE_TYPE_INFORMATION, text)


def _load_plugin() -> None:
    """Load the native plugin if VapourSynth has not: it looks in its own site-packages only.

    Raises:
        vapoursynth.Error: the site-packages of this package does not contain it either.
    """
    if hasattr(vs.core, "exvc"):
        return
    places = [Path(__file__).parents[1]]
    with suppress(importlib.metadata.PackageNotFoundError):
        places.append(Path(str(importlib.metadata.distribution("vsexvc").locate_file(""))))
    folders = [place / "vapoursynth" / "plugins" / "exvc" for place in places]
    libraries = [file for folder in folders for name in ("so", "dylib", "dll") for file in folder.glob(f"exvc.{name}")]
    if not libraries:
        where = Path(vs.__file__).parent
        raise vs.Error(
            f"Colorize: the plugin core.exvc must be in {where / 'plugins'} or {folders[0]}, but is in neither: "
            "install vsexvc into the same site-packages as vapoursynth"
        )
    vs.core.std.LoadPlugin(str(libraries[0]))


def _entry(**arguments: Any) -> Mapping[str, Any]:
    """Call `colorize` for the native Colorize, with a map of arguments and a map as its answer."""
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
    """Pass `_entry` to the native Colorize, which calls this function (native/exvc.c)."""
    vs.core.exvc.Bind(func=_entry)

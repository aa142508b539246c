"""Prepare a network to compute faster: precision, memory layout, folded upsampling, OpenVINO, TensorRT, CUDA graphs.

`prepared` returns a copy with the same methods and faster parts; nets/ still defines what is computed. A part that must
be compiled or captured for a size is wrapped in `ByShape`. This module does not depend on frames, weights files or
VapourSynth. OpenVINO and TensorRT are imported where they are used.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from vsexvc.backends.cuda import FusedCorrelation, cuda_graph, tensorrt_engine, without_tf32
from vsexvc.backends.openvino import openvino_model
from vsexvc.backends.options import BACKENDS, PRECISIONS, ComputeOptions, precisions, unavailable
from vsexvc.backends.shapes import ByShape, Part
from vsexvc.backends.torch import fold, replace_parts
from vsexvc.nets.correlation import Correlation
from vsexvc.nets.network import ColorizationNet


def prepared(network: ColorizationNet, how: ComputeOptions, cache: Path | None = None) -> ColorizationNet:
    """Return a copy of a network, on its device, that computes the same faster.

    Args:
        network: in float32; it stays as it is.
        how: see ComputeOptions.
        cache: folder that keeps TensorRT's engines; None: they are built again.

    Raises:
        ValueError: an unknown backend or precision, or one that the device or the installation does not have.
    """
    device = next(network.parameters()).device
    backend, precision = how.backend, how.precision
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    if reason := unavailable(backend, device):
        raise ValueError(f"backend {backend} {reason}")
    known = precisions(device)
    if precision is not None and precision not in known:
        raise ValueError(f"precision must be one of {', '.join(known)} on this {device.type}, got {precision!r}")
    dtype = PRECISIONS[precision or known[0]]
    fast = copy.deepcopy(network).eval().requires_grad_(False)
    for part in fast.modules():
        if isinstance(part, Correlation):
            part.dtype = dtype
    fold(fast)
    if backend == "openvino":
        hints = {
            "INFERENCE_PRECISION_HINT": "bf16" if dtype == torch.bfloat16 else "f32",
            "INFERENCE_NUM_THREADS": how.threads or torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
        }
        _wrap(fast, partial(openvino_model, hints=hints))
        return fast
    semantic = (fast.meaning, fast.trust) if network.config.semantic else ()
    for part in (fast.features, fast.correspondence, fast.color, *semantic):
        part.to(dtype).to(memory_format=torch.channels_last)
    if device.type == "cuda":
        # Unit vectors need the precision of fp16 and not the range of bf16.
        fast.correlation.dtype = torch.float32 if dtype == torch.float32 else torch.float16
        # triton compiles the kernel; on Linux torch installs it.
        if "fused" in how.cuda and importlib.util.find_spec("triton") is not None:
            replace_parts(fast, correlation=FusedCorrelation(fast.correlation))
        if backend == "tensorrt":
            _wrap(fast, partial(tensorrt_engine, cache=cache))
        elif dtype == torch.float32:
            for child in fast.children():
                without_tf32(child)
        if "graphs" in how.cuda:
            captured = ("motion",) if backend == "tensorrt" else ("color", "motion")
            replace_parts(fast, **{name: ByShape(fast.get_submodule(name), cuda_graph) for name in captured})
    return fast


def _wrap(network: ColorizationNet, build: Callable[[nn.Module, tuple[Tensor, ...]], Part]) -> None:
    """Wrap the heavy parts: the colour net, the feature and correspondence net as one, and the semantic net."""
    encoder = nn.Sequential(network.features, network.correspondence)
    replace_parts(
        network, features=nn.Identity(), correspondence=ByShape(encoder, build), color=ByShape(network.color, build)
    )
    if network.config.semantic:
        replace_parts(network, meaning=ByShape(network.meaning, build))

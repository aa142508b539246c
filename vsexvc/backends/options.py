"""List the backends and precisions of a network, and which of them a machine has; prepare.py calls the backends."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass, field
from typing import Any

import torch

BACKENDS = ("torch", "openvino", "tensorrt")
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
CUDA_EXTRAS = ("graphs", "fused", "merge")  # written for GPUs
_PROVEN = ("graphs",)  # of these: right and faster on a GPU (docs/speed.md)
CUDA_VARIABLE = "VSEXVC_CUDA"  # environment variable that chooses others, as in "graphs,merge" or "none"


def precisions(device: str | torch.device) -> tuple[str, ...]:
    """Return the precisions that a device computes in hardware, the default first.

    A CPU: bf16 with AMX or AVX512-bf16. CUDA: bf16, whose range VGG's activations never leave, from compute capability
    8.0 on; fp16 from 7.0 on.
    """
    device = torch.device(device)
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        if capability >= (8, 0):
            return "bf16", "fp32", "fp16"
        return ("fp16", "fp32") if capability >= (7, 0) else ("fp32",)
    has: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return ("bf16", "fp32") if has.get("amx_bf16") or has.get("avx512_bf16") else ("fp32",)


def unavailable(backend: str, device: str | torch.device) -> str:
    """Return why a backend cannot be used on a device, as half a sentence; "" if it can."""
    kind = torch.device(device).type
    if backend == "openvino":
        if kind != "cpu":
            return f"computes on the CPU, not on {kind}"
        if importlib.util.find_spec("openvino") is None:
            return 'is not installed: pip install "vsexvc[openvino]"'
    if backend == "tensorrt":
        if kind != "cuda":
            return f"needs an NVIDIA GPU, not {kind}"
        if importlib.util.find_spec("torch_tensorrt") is None:
            return f"is not installed: pip install torch-tensorrt, the release made for torch {torch.__version__}"
    return ""


def cuda_extras() -> frozenset[str]:
    """Return those of CUDA_EXTRAS that CUDA_VARIABLE names; where it is not set, those that a GPU has proven."""
    named = os.environ.get(CUDA_VARIABLE)
    return frozenset(_PROVEN) if named is None else frozenset(CUDA_EXTRAS) & frozenset(named.split(","))


@dataclass(frozen=True)
class ComputeOptions:
    """Choose how a network is computed.

    Attributes:
        backend: one of BACKENDS.
        precision: one of PRECISIONS; None: the first of `precisions`.
        threads: CPU threads; None: torch's number at that moment. Backend torch uses the number of the calling thread,
            which must be the same: one TorchThread (support/threads.py) computes one network.
        cuda: of CUDA_EXTRAS; by default those of `cuda_extras`.
    """

    backend: str = "torch"
    precision: str | None = None
    threads: int | None = None
    cuda: frozenset[str] = field(default_factory=cuda_extras)

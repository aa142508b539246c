"""Compute parts of a network on NVIDIA GPUs: fused correlation, CUDA graphs, TensorRT engines, and true float32.

Graphs are used by default. Fused correlation is right on one GPU, but was not timed; no GPU has run TensorRT. Both are
used only on request (options.py).
"""

from __future__ import annotations

import hashlib
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsexvc.backends.shapes import Part
from vsexvc.nets.correlation import Correlation
from vsexvc.support.system import replace

_WARM_UP = 3  # calls of a part before it is captured
_FUSED_VALUES = 16  # columns that the fused correlation needs at least


class FusedCorrelation(Correlation):
    """Compute the correlation as attention in one GPU kernel: the matrix stays on the chip."""

    def __init__(self, plain: Correlation) -> None:
        """Wrap the plain correlation, which defines the result."""
        super().__init__(plain.temperature, plain.largest, plain.dtype)
        from torch.nn.attention.flex_attention import AuxRequest, flex_attention

        # torch compiles it once for the first shape and once for all others: references differ in size.
        self._attend: Part = torch.compile(partial(flex_attention, return_aux=AuxRequest(max_scores=True)))

    def forward(self, theta: Tensor, phi: Tensor, colours: Tensor, sparing: bool = False) -> tuple[Tensor, Tensor]:
        """Compute as Correlation does."""
        if torch.is_grad_enabled():
            return super().forward(theta, phi, colours, sparing)
        count = colours.shape[1]
        values = F.pad(colours, (0, 0, 0, max(0, _FUSED_VALUES - count)))
        # Each frame is a head, so that all share the keys of one reference: (1, B, positions, channels).
        query, key, value = (
            x.transpose(1, 2).to(self.dtype).contiguous().expand(len(theta), -1, -1)[None] for x in (theta, phi, values)
        )
        warped, found = self._attend(query, key, value, scale=1.0 / self.temperature)
        return warped[0, :, :, :count].transpose(1, 2).float(), found.max_scores[0][:, None] * self.temperature


def without_tf32(part: nn.Module) -> None:
    """Make a part compute true float32: by default cuDNN's convolutions keep 10 of its 23 bits (TF32).

    The flag applies to the whole process. It is set for each call of the part and restored afterwards.
    """
    before: list[bool] = []

    def enter(part: nn.Module, inputs: Any) -> None:
        before.append(torch.backends.cudnn.allow_tf32)
        torch.backends.cudnn.allow_tf32 = False

    def leave(part: nn.Module, inputs: Any, outputs: Any) -> None:
        torch.backends.cudnn.allow_tf32 = before.pop()

    part.register_forward_pre_hook(enter)
    part.register_forward_hook(leave, always_call=True)


@lru_cache
def _graph_pool(device: torch.device) -> Any:
    """Return the memory that all graphs of a device share: they are replayed in turn, and results are copied."""
    with torch.cuda.device(device):
        return torch.cuda.graph_pool_handle()


def cuda_graph(part: nn.Module, inputs: tuple[Tensor, ...]) -> Part:
    """Capture all kernels of a part as one graph. Each call copies the inputs to where the graph reads.

    Other threads may use the device meanwhile: only this thread's work on a separate stream is captured.
    """
    device = inputs[0].device
    held = tuple(x.clone() for x in inputs)
    with torch.cuda.device(device):
        side: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):  # in first calls libraries choose kernels and allocate, which captures forbid
            for _ in range(_WARM_UP):
                part(*held)
        torch.cuda.current_stream(device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=_graph_pool(device), stream=side, capture_error_mode="thread_local"):
            result = part(*held)

    def run(*inputs: Tensor) -> Tensor:
        with torch.cuda.device(device):
            for target, x in zip(held, inputs, strict=True):
                target.copy_(x, non_blocking=True)
            graph.replay()
            copied: Tensor = result.clone()
        return copied

    return run


def tensorrt_engine(part: nn.Module, inputs: tuple[Tensor, ...], *, cache: Path | None) -> Part:
    """Return an engine for one shape, from the cache folder if it was built before for this GPU and these versions."""
    import torch_tensorrt

    example = tuple(x.detach().clone() for x in inputs)
    path = None if cache is None else cache / f"{_name_of_engine(part, example, torch_tensorrt.__version__)}.ep"
    if path is not None and path.exists():
        loaded: Part = torch.export.load(path).module()
        return loaded
    with torch.inference_mode(False), torch.no_grad():
        program = torch.export.export(part, example)
        # Explicit: each layer has the precision that the part itself has.
        engine: Any = torch_tensorrt.dynamo.compile(program, inputs=example, use_explicit_typing=True, min_block_size=1)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial_path = path.with_suffix(".part")
            torch_tensorrt.save(engine, str(partial_path), inputs=list(example))
            replace(partial_path, path)
    built: Part = engine
    return built


def _name_of_engine(part: nn.Module, inputs: tuple[Tensor, ...], version: str) -> str:
    """Return a name made of everything that an engine depends on."""
    digest = hashlib.sha256(f"{type(part).__name__} {torch.__version__} {version}".encode())
    digest.update(
        f"{torch.cuda.get_device_name(inputs[0].device)} {[(x.dtype, tuple(x.shape)) for x in inputs]}".encode()
    )
    for name, tensor in part.state_dict().items():
        digest.update(f"{name} {tensor.dtype}".encode() + tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:32]

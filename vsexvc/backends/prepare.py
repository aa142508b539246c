"""How a network is computed: precision, memory layout, folded upsampling, OpenVINO, TensorRT, CUDA graphs.

What is computed stays nets/network.py's: `prepared` gives a copy with the same methods, of which parts are changed for
quicker ones. A part that needs to be made ready for the sizes that come (compiled, captured) is wrapped in `ByShape`.

Nothing here knows frames, files of weights or VapourSynth. OpenVINO and TensorRT are imported where they are asked for.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import logging
import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsexvc.nets.network import ColorizationNet, Correlation
from vsexvc.support.threads import apart

BACKENDS = ("torch", "openvino", "tensorrt")
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

Part = Callable[..., Any]
_SHAPES = 4  # shapes for which a part is kept ready
_WARM_UP = 3  # calls of a part before it is captured
_SENDER = "openvino_telemetry"  # sends statistics from a process of its own as soon as openvino is imported
_FUSED_VALUES = 16  # columns that the fused correlation wants at least


def precisions(device: str | torch.device) -> tuple[str, ...]:
    """Those that a device computes in hardware, the one that is taken unless told otherwise first.

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
    """Why a backend cannot be used on a device, as half a sentence; "" where it can."""
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


@dataclass(frozen=True)
class How:
    """What a network is prepared for.

    Attributes:
        backend: one of BACKENDS.
        precision: one of PRECISIONS; None: the first of `precisions`.
        threads: of OpenVINO; None: torch's number. Torch's own is for the thread that calls to set.
    """

    backend: str = "torch"
    precision: str | None = None
    threads: int | None = None


def prepared(network: ColorizationNet, how: How, cache: Path | None = None) -> ColorizationNet:
    """A copy of a network, on its device, that computes the same more quickly.

    Args:
        network: in float32; it stays as it is.
        how: see How.
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
    fast.correlation.dtype = dtype
    _fold(fast)
    if backend == "openvino":
        hints = {
            "INFERENCE_PRECISION_HINT": "bf16" if dtype == torch.bfloat16 else "f32",
            "INFERENCE_NUM_THREADS": how.threads or torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
        }
        _wrap(fast, partial(_openvino, hints=hints))
        return fast
    for part in (fast.features, fast.correspondence, fast.color):
        part.to(dtype).to(memory_format=torch.channels_last)
    if device.type == "cuda":
        # Unit vectors want fp16's digits and not bf16's range.
        fast.correlation.dtype = torch.float32 if dtype == torch.float32 else torch.float16
        if importlib.util.find_spec("triton") is not None:  # what makes the kernel; torch brings it on Linux
            _replace(fast, correlation=FusedCorrelation(network.config.temperature, fast.correlation.dtype))
        if backend == "tensorrt":
            _wrap(fast, partial(_tensorrt, dtype=dtype, cache=cache))
        else:
            _replace(fast, color=ByShape(fast.color, _cuda_graph))
        _replace(fast, motion=ByShape(fast.motion, _cuda_graph))
    return fast


class ByShape(nn.Module):
    """A part that is made ready for each shape of its inputs when that comes, by `build`; the last few are kept."""

    def __init__(self, part: nn.Module, build: Callable[[nn.Module, tuple[Tensor, ...]], Part]) -> None:
        super().__init__()
        self.part, self._build = part, build
        self._ready: OrderedDict[tuple[torch.Size, ...], Part] = OrderedDict()

    def forward(self, *inputs: Tensor) -> Any:
        """As the part itself. Inputs: tensors only."""
        shapes = tuple(x.shape for x in inputs)
        if shapes not in self._ready:
            while len(self._ready) >= _SHAPES:
                self._ready.popitem(last=False)
            self._ready[shapes] = self._build(self.part, inputs)
        self._ready.move_to_end(shapes)
        return self._ready[shapes](*inputs)


class FusedCorrelation(Correlation):
    """The correlation as attention in one kernel, for GPUs: the matrix stays on the chip, its maximum comes along."""

    def __init__(self, temperature: float, dtype: torch.dtype = torch.float16) -> None:
        super().__init__(temperature, dtype)
        from torch.nn.attention.flex_attention import AuxRequest, flex_attention

        self._attend: Part = torch.compile(
            partial(flex_attention, return_aux=AuxRequest(max_scores=True)), dynamic=False
        )

    def forward(self, theta: Tensor, phi: Tensor, colours: Tensor, sparing: bool = False) -> tuple[Tensor, Tensor]:
        """See Correlation."""
        if torch.is_grad_enabled():
            return super().forward(theta, phi, colours, sparing)
        count = colours.shape[1]
        values = F.pad(colours, (0, 0, 0, max(0, _FUSED_VALUES - count)))
        # One head for each frame, so that all may share the keys of one reference: (1, B, positions, channels).
        query, key, value = (
            x.transpose(1, 2).to(self.dtype).contiguous().expand(len(theta), -1, -1)[None] for x in (theta, phi, values)
        )
        warped, found = self._attend(query, key, value, scale=1.0 / self.temperature)
        return warped[0, :, :, :count].transpose(1, 2).float(), found.max_scores[0][:, None] * self.temperature


def _wrap(network: ColorizationNet, build: Callable[[nn.Module, tuple[Tensor, ...]], Part]) -> None:
    """Its two heavy parts: the colour net, and the feature and correspondence net as one."""
    encoder = nn.Sequential(network.features, network.correspondence)
    _replace(
        network, features=nn.Identity(), correspondence=ByShape(encoder, build), color=ByShape(network.color, build)
    )


def _replace(network: nn.Module, **parts: nn.Module) -> None:
    for name, part in parts.items():
        setattr(network, name, part)


def _fold(network: ColorizationNet) -> None:
    """Nearest x2 and a 3x3 convolution become one transposed 4x4 convolution of stride 2: 4 products for 9, exact."""
    for name, part in network.color.named_children():
        if isinstance(part, nn.Sequential) and isinstance(part[0], nn.Upsample):
            _replace(network.color, **{name: _folded(part[1])})


def _folded(convolution: nn.Module) -> nn.ConvTranspose2d:
    assert isinstance(convolution, nn.Conv2d) and convolution.bias is not None
    w = convolution.weight.detach()
    # On each axis an input is seen by outputs at -1, 0, 1 and 2 from twice its place, through one or two of the taps.
    for axis in (2, 3):
        before, here, after = w.unbind(axis)
        w = torch.stack((after, here + after, before + here, before), dim=axis)
    folded = nn.ConvTranspose2d(convolution.in_channels, convolution.out_channels, 4, stride=2, padding=1)
    folded.weight, folded.bias = nn.Parameter(w.transpose(0, 1).contiguous(), False), convolution.bias
    return folded


def download(x: Tensor) -> tuple[Tensor, Callable[[], None]]:
    """A float32 copy in the host's memory, and what to call before it is read.

    From a GPU it comes on a stream beside the one that computes, which may be given its next work meanwhile.
    """
    if not x.is_cuda:
        return x.to("cpu", torch.float32, copy=True), lambda: None
    host = torch.empty(x.shape, pin_memory=True)
    side: torch.cuda.Stream = torch.cuda.Stream(x.device)  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream(x.device))
    with torch.cuda.stream(side):
        host.copy_(x, non_blocking=True)
        x.record_stream(side)
        done = side.record_event()
    return host, done.synchronize


def upload(x: Tensor, device: torch.device) -> Tensor:
    """To the device, without waiting for what it computes. x: on the CPU, and not changed afterwards."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what OpenVINO has to say of its conversions through warnings and logging, and to its makers."""
    handler, root = logging.NullHandler(), logging.getLogger()
    root.addHandler(handler)  # or the first message would set logging up for the whole process
    sender = sys.modules.get(_SENDER)
    sys.modules[_SENDER] = None  # type: ignore[assignment]  # as where it is not installed
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.removeHandler(handler)
        del sys.modules[_SENDER]
        if sender is not None:
            sys.modules[_SENDER] = sender


def _openvino(part: nn.Module, inputs: tuple[Tensor, ...], *, hints: dict[str, Any]) -> Part:
    example = tuple(x.detach().clone() for x in inputs)
    with _quiet(), torch.inference_mode(False), torch.no_grad():
        import openvino
        from openvino.frontend import FrontEndManager
        from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder

        # Exported: what openvino.convert_model traces is never freed.
        decoder = TorchFXPythonDecoder.from_exported_program(torch.export.export(part, example))
        front_end = FrontEndManager().load_by_framework("pytorch")
        model = front_end.convert(front_end.load(decoder))
    # It leaves its thread a stack for signals, which may go before the thread does.
    compiled = apart(openvino.Core().compile_model, model, "CPU", hints)
    request = compiled.create_infer_request()

    def run(*inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        found = request.infer([x.contiguous().numpy() for x in inputs], share_inputs=True, share_outputs=True)
        results = tuple(torch.from_numpy(found[i].copy()) for i in range(len(compiled.outputs)))
        return results if len(results) > 1 else results[0]

    return run


def _cuda_graph(part: nn.Module, inputs: tuple[Tensor, ...]) -> Part:
    """All kernels of a part launched as one. Inputs are copied to where the graph reads."""
    held = tuple(x.clone() for x in inputs)
    side: torch.cuda.Stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # libraries choose and allocate in the first calls, which a capture forbids
        for _ in range(_WARM_UP):
            part(*held)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = part(*held)

    def run(*inputs: Tensor) -> Tensor:
        for target, x in zip(held, inputs, strict=True):
            target.copy_(x)
        graph.replay()
        copied: Tensor = result.clone()
        return copied

    return run


def _tensorrt(part: nn.Module, inputs: tuple[Tensor, ...], *, dtype: torch.dtype, cache: Path | None) -> Part:
    """An engine for one shape, from the cache folder if it has been built before for this GPU and these versions."""
    import torch_tensorrt

    example = tuple(x.detach().clone() for x in inputs)
    path = None if cache is None else cache / f"{_name_of_engine(part, example, torch_tensorrt.__version__)}.ep"
    if path is not None and path.exists():
        loaded: Part = torch.export.load(path).module()
        return loaded
    with torch.inference_mode(False), torch.no_grad():
        program = torch.export.export(part, example)
        engine: Any = torch_tensorrt.dynamo.compile(
            program, inputs=example, enabled_precisions={torch.float32, dtype}, min_block_size=1
        )
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial_path = path.with_suffix(".part")
            torch_tensorrt.save(engine, str(partial_path), inputs=list(example))
            partial_path.replace(path)
    built: Part = engine
    return built


def _name_of_engine(part: nn.Module, inputs: tuple[Tensor, ...], version: str) -> str:
    """Of all that an engine depends on."""
    digest = hashlib.sha256(f"{type(part).__name__} {torch.__version__} {version}".encode())
    digest.update(f"{torch.cuda.get_device_name()} {[(x.dtype, tuple(x.shape)) for x in inputs]}".encode())
    for name, tensor in part.state_dict().items():
        digest.update(f"{name} {tensor.dtype}".encode() + tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:32]

"""Test prepared networks against the plain one; parts for GPUs and TensorRT are tested as far as a CPU allows."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsexvc.backends import cuda, prepare
from vsexvc.backends.cuda import FusedCorrelation, tensorrt_engine
from vsexvc.backends.options import ComputeOptions, precisions, unavailable
from vsexvc.backends.prepare import prepared
from vsexvc.backends.shapes import ByShape
from vsexvc.backends.torch import folded
from vsexvc.backends.transfer import download, upload
from vsexvc.nets.config import NetworkConfig
from vsexvc.nets.correlation import Correlation
from vsexvc.nets.network import ColorizationNet
from vsexvc.session import Session
from vsexvc.weights import store

CPU = torch.device("cpu")
PRECISIONS_OF = precisions  # the original, which the fixture below replaces


@pytest.fixture(autouse=True)
def every_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow bf16 on every machine; without hardware support it is slow but gives the same numbers."""
    monkeypatch.setattr(prepare, "precisions", lambda device: ("bf16", "fp32"))


def network(**config: Any) -> ColorizationNet:
    torch.manual_seed(0)
    net = ColorizationNet(NetworkConfig(width=0.125, **config)).eval()
    if net.config.semantic_color:
        torch.nn.init.normal_(net.color.see.weight, std=0.1)  # weights of zero would ignore the meaning
    return net


def film(h: int, w: int) -> tuple[Tensor, Tensor]:
    """Return four frames of moving smooth waves, L (4, 1, h, w), and a coloured reference of another size."""
    y, x = torch.meshgrid(torch.arange(h) / 17.0, torch.arange(w) / 23.0, indexing="ij")
    L = torch.stack([50 + 25 * torch.sin(x + 0.2 * t) + 20 * torch.cos(y + x / 3 - 0.1 * t) for t in range(4)])[:, None]
    ab = torch.stack((40 * torch.sin(x / 2), 40 * torch.cos(y / 2)))[None]
    return L, F.interpolate(torch.cat((L[:1], ab), dim=1), (h, w + 24), mode="bilinear")


def colours(net: ColorizationNet, h: int = 72, w: int = 104) -> Tensor:
    """Return the ab of two frames, the second after the first."""
    session, (L, lab) = Session(net), film(h, w)
    reference = session.reference(lab)
    state, found = session.start(None), []
    for one in session.correspond(L, reference)[:2]:
        state, ab = session.step(state, one)
        found.append(ab)
    return torch.cat(found)


def psnr(a: Tensor, b: Tensor) -> float:
    """Return the PSNR of ab, with a peak of 255."""
    return float(10 * torch.log10(255.0**2 / (a - b).pow(2).mean()))


CONFIGS: dict[str, dict[str, Any]] = {
    "released": {},
    "ours": {"features_input": "L", "head": "blend", "motion": 3, "refine": True, "warp_upsampling": "bilinear"},
    "semantic": {
        "features_input": "L",
        "head": "blend",
        "warp_upsampling": "reference",
        "semantic": "lite0",
        "semantic_color": True,
    },
}


@pytest.mark.parametrize(
    ("device", "hardware", "expected"),
    [
        ("cpu", {"amx_bf16": True}, ("bf16", "fp32")),
        ("cpu", {"amx_bf16": False, "avx512_bf16": True}, ("bf16", "fp32")),
        ("cpu", {"avx512_f": True}, ("fp32",)),
        ("cuda", (9, 0), ("bf16", "fp32", "fp16")),
        ("cuda", (7, 5), ("fp16", "fp32")),
        ("cuda", (6, 1), ("fp32",)),
    ],
)
def test_precisions_are_those_of_the_hardware(
    device: str, hardware: Any, expected: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: hardware, raising=False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: hardware)
    assert PRECISIONS_OF(device) == expected


@pytest.mark.numbers
class TestPrepared:
    @pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
    def test_single_precision_is_the_same(self, config: dict[str, Any]) -> None:
        """Prepared fp32 differs only by the order of sums, which random weights, matching and two steps amplify."""
        net = network(**config)
        assert psnr(colours(prepared(net, ComputeOptions(precision="fp32"))), colours(net)) > 55

    def test_the_network_itself_stays_as_it_is(self) -> None:
        net = network()
        before = copy.deepcopy(net.state_dict())
        prepared(net, ComputeOptions(precision="bf16"))
        assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
        assert net.color.conv8_1[1].weight.dtype == torch.float32 and net.correlation.dtype == torch.float32

    def test_shipped_weights_in_bf16(self) -> None:
        """In one step colours in bf16 agree with those in fp32 to 45 dB."""
        net = store.load()
        fast = prepared(net, ComputeOptions(precision="bf16"))
        L, lab = film(96, 160)
        plain, quick = Session(net), Session(fast)
        one = plain.correspond(L, plain.reference(lab))
        other = quick.correspond(L, quick.reference(lab))
        state, _ = plain.step(plain.start(None), one[0])
        assert psnr(plain.step(state, one[1])[1], quick.step(state, other[1])[1]) > 45

    def test_a_frame_does_not_depend_on_its_batch(self) -> None:
        session, (L, lab) = Session(prepared(network(), ComputeOptions(precision="bf16"))), film(64, 64)
        reference = session.reference(lab)
        whole, turned = session.correspond(L, reference), session.correspond(L.flip(0), reference)
        for a, b in zip(whole, reversed(turned), strict=True):
            assert all(torch.equal(x, y) for x, y in zip(a.match, b.match, strict=True))

    @pytest.mark.parametrize(
        ("how", "text"),
        [
            (ComputeOptions("onnx"), "backend must be one of torch, openvino, tensorrt, got 'onnx'"),
            (ComputeOptions("tensorrt"), "backend tensorrt needs an NVIDIA GPU, not cpu"),
            (ComputeOptions(precision="fp16"), "precision must be one of bf16, fp32 on this cpu, got 'fp16'"),
        ],
    )
    def test_what_is_not_there_is_refused(self, how: ComputeOptions, text: str) -> None:
        with pytest.raises(ValueError, match=f"^{text}$"):
            prepared(network(), how)

    def test_a_backend_that_is_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(prepare.importlib.util, "find_spec", lambda name: None)
        with pytest.raises(ValueError, match=r'^backend openvino is not installed: pip install "vsexvc\[openvino\]"$'):
            prepared(network(), ComputeOptions("openvino"))
        assert "the release made for torch" in unavailable("tensorrt", "cuda")


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize(("precision", "least"), [("fp32", 55.0), ("bf16", 20.0)])
def test_openvino(config: dict[str, Any], precision: str, least: float) -> None:
    """OpenVINO in fp32 agrees with torch; random weights amplify bf16's rounding (shipped ones: scripts/bench.py)."""
    pytest.importorskip("openvino")
    net = network(**config)
    fast = prepared(net, ComputeOptions("openvino", precision, threads=1))
    assert psnr(colours(fast), colours(net)) > least
    assert torch.equal(colours(fast), colours(fast))
    assert psnr(colours(fast, 80, 64), colours(net, 80, 64)) > least  # another size of the same network


def test_openvino_leaves_signals_alone() -> None:
    """Ctrl-C is safe after the first of several models is freed, which used to free the signal handler's stack."""
    pytest.importorskip("openvino")
    text = (
        "import gc, os, signal, torch\n"
        "from test_prepare import ComputeOptions, colours, network, prepared\n"
        "nets = [prepared(network(), ComputeOptions('openvino', 'fp32', 1)) for _ in range(3)]\n"
        "for net in nets: colours(net, 32, 32)\n"
        "del net\n"
        "while nets: del nets[0]; gc.collect()\n"
        "try: os.kill(os.getpid(), signal.SIGINT); signal.pause()\n"
        "except KeyboardInterrupt: print('caught')\n"
    )
    listening = f"import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n{text}"
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(here), str(here.parent)))}
    done = subprocess.run([sys.executable, "-c", listening], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout) == (0, "caught\n"), done.stderr


def test_openvino_builds_for_two_threads_at_once() -> None:
    """Two threads may import openvino and build at once in a new process, as filters with different `threads` do."""
    pytest.importorskip("openvino")
    text = (
        "import os, sys, threading, torch\n"
        "from test_prepare import ComputeOptions, colours, network, prepared, psnr\n"
        "plain, found = network(), {}\n"
        "def build(threads):\n"
        "    found[threads] = colours(prepared(plain, ComputeOptions('openvino', 'fp32', threads)), 32, 32)\n"
        "builders = [threading.Thread(target=build, args=(threads,)) for threads in (1, 2)]\n"
        "for builder in builders: builder.start()\n"
        "for builder in builders: builder.join()\n"
        "print(sorted(found), all(psnr(ab, colours(plain, 32, 32)) > 55 for ab in found.values()))\n"
        "print('CI' in os.environ, None in sys.modules.values())\n"
        "sender = sys.modules.get('openvino_telemetry')\n"
        "print(sender is None or not sender.Telemetry().consent)\n"
    )
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(here), str(here.parent)))}
    environment.pop("CI", None)
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout) == (0, "[1, 2] True\nFalse False\nTrue\n"), done.stderr


def test_folded_upsampling_is_exact() -> None:
    torch.manual_seed(0)
    convolution = nn.Conv2d(5, 3, 3, padding=1).double()
    x = torch.randn(2, 5, 7, 10).double()
    twice = convolution(x.repeat_interleave(2, 2).repeat_interleave(2, 3))
    assert torch.allclose(folded(convolution)(x), twice, atol=1e-12)


class TestFusedCorrelation:
    @pytest.mark.parametrize("temperature", [0.01, 1e-10])
    def test_as_the_other(self, temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
        """The fused correlation agrees with the plain one; attention is replaced, as it has no maxima on a CPU."""

        def attend(query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, Any]:
            scores = query @ key.transpose(-2, -1) * scale
            return torch.softmax(scores, -1) @ value, SimpleNamespace(max_scores=scores.amax(-1))

        torch.manual_seed(0)
        theta, phi = F.normalize(torch.randn(3, 32, 40), dim=1), F.normalize(torch.randn(1, 32, 56), dim=1)
        ab = torch.randn(1, 2, 56) * 30
        with torch.inference_mode():
            fused = FusedCorrelation(Correlation(temperature))
            monkeypatch.setattr(fused, "_attend", attend)
            warped, similarity = fused(theta, phi, ab)
            expected, best = Correlation(temperature)(theta, phi, ab)
        assert (warped - expected).abs().max() < 1e-2 and (similarity - best).abs().max() < 1e-5

    def test_gradients_go_the_other_way(self) -> None:
        theta = F.normalize(torch.randn(1, 8, 4), dim=1).requires_grad_()
        warped, _ = FusedCorrelation(Correlation(0.1))(theta, theta.detach(), torch.randn(1, 2, 4))
        assert warped.requires_grad


@pytest.mark.numbers
class TestCorrelation:
    @pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-4), (torch.bfloat16, 2.0)])
    def test_against_the_whole_matrix(self, dtype: torch.dtype, close: float) -> None:
        generator = torch.Generator().manual_seed(0)
        theta = F.normalize(torch.randn(2, 32, 60, generator=generator), dim=1).double()
        phi = F.normalize(torch.randn(1, 32, 90, generator=generator), dim=1).double()
        ab = torch.randn(1, 2, 90, generator=generator).double() * 30
        M = torch.einsum("bcn,cm->bnm", theta, phi[0])
        expected = torch.einsum("bnm,km->bkn", (M / 0.05).exp() / (M / 0.05).exp().sum(2, keepdim=True), ab[0])
        with torch.inference_mode():
            for sparing in (False, True):
                correlation = Correlation(0.05, dtype=dtype)
                found, best = correlation(theta.float(), phi.float(), ab.float(), sparing)
                assert (found - expected).abs().max() < close
                assert (best[:, 0] - M.amax(2)).abs().max() < close / 100
                index, similarity = correlation.best(theta.float(), phi.float(), sparing)
                assert torch.equal(similarity, best[:, 0])
                assert (M.gather(2, index[..., None])[..., 0] - M.amax(2)).abs().max() < close / 100

    def test_half_precision_is_kept_for_what_is_alike(self) -> None:
        """In bf16 cosines near 1 stay distinct although they differ by less than its step of 1/256."""
        generator = torch.Generator().manual_seed(0)
        theta, noise = F.normalize(torch.randn(2, 1, 256, 1, generator=generator), dim=2)
        noise = F.normalize(noise - (noise * theta).sum() * theta, dim=1)
        cosine = torch.tensor([0.992, 0.996, 0.994, 0.998, 0.990])
        phi = theta * cosine + noise * (1 - cosine**2).sqrt()
        with torch.inference_mode():
            correlation = Correlation(1e-4, dtype=torch.bfloat16)
            warped, similarity = correlation(theta, phi, torch.arange(5.0).view(1, 1, 5))
            index, best = correlation.best(theta, phi)
        assert warped.item() == pytest.approx(3.0, abs=1e-3) and similarity.item() == pytest.approx(0.998, abs=1e-3)
        assert index.item() == 3 and best.item() == similarity.item()


class TestByShape:
    def test_made_ready_once_for_each_shape_and_forgotten_in_turn(self) -> None:
        made: list[tuple[int, ...]] = []

        def build(part: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
            made.append(tuple(inputs[0].shape))
            return part

        by_shape = ByShape(nn.Identity(), build)
        for size in (1, 2, 1, 3, 4, 1, 5, 1, 2):  # 5 is one too many, so 2, unused for longest, is dropped
            assert by_shape(torch.zeros(size)).shape == (size,)
        assert made == [(1,), (2,), (3,), (4,), (5,), (2,)]


def test_tensorrt_builds_keeps_and_finds_its_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An engine is built once and kept, and another part gets another engine; a stand-in replaces the package."""
    asked: list[dict[str, Any]] = []
    fake = ModuleType("torch_tensorrt")

    def compile(program: Any, **options: Any) -> Any:
        asked.append(options)
        return program.module()

    def save(module: Any, path: str, inputs: list[Tensor]) -> None:
        torch.export.save(torch.export.export(module, tuple(inputs)), path)

    fake.__dict__.update(__version__="0", dynamo=SimpleNamespace(compile=compile), save=save)
    monkeypatch.setitem(sys.modules, "torch_tensorrt", fake)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    torch.manual_seed(0)
    x, part = torch.randn(1, 3, 8, 8), nn.Conv2d(3, 4, 3).requires_grad_(False)
    cache = tmp_path / "engines"
    for _ in range(2):
        run = tensorrt_engine(part, (x,), cache=cache)
        assert torch.allclose(run(x), part(x), atol=1e-6)
    assert len(asked) == 1 and asked[0]["use_explicit_typing"] and "enabled_precisions" not in asked[0]
    part.weight.mul_(2)
    assert torch.allclose(tensorrt_engine(part, (x,), cache=cache)(x), part(x), atol=1e-6)
    assert len(asked) == 2 and len(list(cache.iterdir())) == 2


def test_a_graph_is_captured_on_the_device_of_its_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call has its device and stream, and a device's graphs share a pool; a stand-in replaces torch's CUDA."""
    here: list[Any] = []  # active devices and streams, the innermost last
    seen: list[tuple[Any, ...]] = []

    @contextmanager
    def holds(what: Any, **options: Any) -> Iterator[None]:
        here.append(what)
        yield
        here.pop()

    @contextmanager
    def graph(graph: Any, pool: Any, stream: Any, capture_error_mode: str) -> Iterator[None]:
        seen.append(("capture", here[-1], pool, stream, capture_error_mode))
        yield

    class Graph:
        def replay(self) -> None:
            seen.append(("replay", here[-1]))

    def stream_of(device: torch.device) -> Any:
        return SimpleNamespace(wait_stream=lambda other: None, device=device)

    part = nn.Conv2d(3, 4, 3).requires_grad_(False).to("meta")
    calls: list[Any] = []
    part.register_forward_hook(lambda *_: calls.append(list(here)))
    fakes = {
        "device": holds, "stream": holds, "graph": graph, "CUDAGraph": Graph, "Stream": stream_of,
        "current_stream": stream_of, "graph_pool_handle": lambda: ("pool", here[-1]),
    }  # fmt: skip
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    cuda._graph_pool.cache_clear()
    x = torch.empty(1, 3, 8, 8, device="meta")
    for _ in range(2):
        cuda.cuda_graph(part, (x,))(x)
    cuda._graph_pool.cache_clear()
    device, pool = x.device, ("pool", x.device)
    for capture, replay in (seen[:2], seen[2:]):
        assert capture[:3] == ("capture", device, pool) and capture[3].device == device
        assert capture[4] == "thread_local" and replay == ("replay", device)
    assert len(calls) == 8 and all(devices[0] == device for devices in calls) and not here
    assert all(len(devices) == 2 for devices in (*calls[:3], *calls[4:7]))  # warm-up runs on the side stream


def test_single_precision_without_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    """TF32 is off while the part computes, and restored afterwards even after an error."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    seen: list[bool] = []

    class Part(nn.Module):
        def forward(self, fails: bool) -> None:
            seen.append(torch.backends.cudnn.allow_tf32)
            if fails:
                raise ValueError

    part = Part()
    cuda.without_tf32(part)
    part(False)
    with pytest.raises(ValueError):  # noqa: PT011
        part(True)
    assert seen == [False, False] and torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize(
    ("said", "taken"),
    [(None, {"graphs"}), ("", set()), ("none", set()), ("graphs", {"graphs"}), ("fused,merge,x", {"fused", "merge"})],
)
def test_what_no_gpu_has_proven_is_off_unless_asked_for(
    said: str | None, taken: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VSEXVC_CUDA", raising=False)
    if said is not None:
        monkeypatch.setenv("VSEXVC_CUDA", said)
    assert ComputeOptions().cuda == taken


def test_transfers_on_a_cpu_are_copies() -> None:
    x = torch.zeros(2, 3, dtype=torch.float16)
    host, arrived = download(x)
    arrived()
    x += 1
    assert host.dtype == torch.float32 and not host.any()
    assert torch.equal(upload(x, CPU), x)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
class TestGpu:
    @pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
    @pytest.mark.parametrize("extras", [(), ("graphs",), ("fused",), ("graphs", "fused")], ids=" ".join)
    @pytest.mark.parametrize("index", range(torch.cuda.device_count()))
    def test_single_precision(self, config: dict[str, Any], extras: tuple[str, ...], index: int) -> None:
        """Graphs and fused correlation, alone and together, agree with the CPU on each device in repeated calls."""
        net = network(**config)
        options = ComputeOptions(precision="fp32", cuda=frozenset(extras))
        fast = prepared(copy.deepcopy(net).to(f"cuda:{index}"), options)
        expected = colours(net)
        for _ in range(3):
            assert psnr(colours(fast).cpu(), expected) > 60

    def test_half_precision_of_shipped_weights(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(prepare, "precisions", lambda device: ("fp16", "fp32", "bf16"))
        net = store.load()
        for precision in ("fp16", "bf16"):
            fast = prepared(copy.deepcopy(net).cuda(), ComputeOptions(precision=precision))
            assert psnr(colours(fast, 96, 160).cpu(), colours(net, 96, 160)) > 40

    def test_downloads_are_whole(self) -> None:
        x = torch.arange(1 << 20, device="cuda", dtype=torch.float32)
        host, arrived = download(x * 2)
        arrived()
        assert torch.equal(host, torch.arange(1 << 20, dtype=torch.float32) * 2)

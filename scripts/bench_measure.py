"""Provide timing in turns and by stage, ways to compute, and generated pictures for scripts/bench.py."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from scripts import plain
from vsexvc.backends.options import BACKENDS, PRECISIONS, precisions, unavailable
from vsexvc.colour.lab import rgb_to_lab
from vsexvc.nets.config import NetworkConfig
from vsexvc.nets.network import ColorizationNet
from vsexvc.weights import store

WARM_UP = 2
STAGES = {
    "embed": "features, correspondence net",
    "understand": "meaning",
    "match": "correlation",
    "align": "motion",
    "colorize": "colour",
}
PLAIN, FULL = "plain loop", "full"
Row = dict[str, Any]


# --- time ------------------------------------------------------------------------------------------------------------


def measure(
    works: dict[str, tuple[Callable[[], Any], int]], rounds: int, device: torch.device, warm_up: int = WARM_UP
) -> dict[str, list[float]]:
    """Return milliseconds for a frame in each round. works: by name a function, and the frames that a call makes."""
    times: dict[str, list[float]] = {name: [] for name in works}
    with torch.inference_mode():
        for number in range(warm_up + rounds):
            for name, (work, frames) in works.items():
                finish(device)
                start = time.perf_counter()
                work()
                finish(device)
                if number >= warm_up:
                    times[name].append((time.perf_counter() - start) * 1e3 / frames)
    return times


def finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def spread(times: list[float]) -> Row:
    return {"ms": statistics.median(times), "lowest": min(times), "highest": max(times)}


class Clock:
    """Wrap an object's methods of STAGES, and add up the time in each of them."""

    def __init__(self, of: Any, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._spans: list[tuple[str, Any, Any]] = []
        for name in STAGES:
            if hasattr(of, name):
                setattr(of, name, partial(self._timed, name, getattr(of, name)))

    def _timed(self, name: str, method: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        start = self._mark()
        result = method(*arguments, **options)
        self._spans.append((name, start, self._mark()))
        return result

    def _mark(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def stages(self, rounds: int, frames: int) -> Row:
        """Return milliseconds for a frame in the last rounds, by stage. frames: of a round."""
        found: Row = {}
        for name, column in STAGES.items():
            of_stage = [span[1:] for span in self._spans if span[0] == name]
            of_round = len(of_stage) // (WARM_UP + rounds)
            times = [a.elapsed_time(b) if self._cuda else (b - a) * 1e3 for a, b in of_stage[WARM_UP * of_round :]]
            sums = [sum(times[i * of_round : (i + 1) * of_round]) for i in range(rounds)]
            found[column] = statistics.median(sums) / frames if of_round else 0.0
        return found


# --- what is compared ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Candidate:
    """Describe one way to compute. `why`: the reason that it cannot run here."""

    backend: str
    precision: str
    unit: str = ""
    why: str = ""

    @property
    def name(self) -> str:
        return f"{self.backend} {self.precision}{self.unit}"


def candidates(device: torch.device) -> Iterator[Candidate]:
    has = torch.cpu.get_capabilities()
    for name in BACKENDS:
        if why := unavailable(name, device):
            yield Candidate(name, "-", why=why)
            continue
        for precision in PRECISIONS:
            here = precision in precisions(device)
            if device.type != "cpu" or precision != "bf16":
                yield Candidate(name, precision, why="" if here else f"no {precision} in this {device.type}'s hardware")
            else:
                amx, avx512 = has.get("amx_bf16"), has.get("avx512_bf16")
                yield Candidate(name, precision, " (AMX)", "" if amx else "this CPU has no AMX")
                why = "AMX is taken where it is" if amx else "" if avx512 else "this CPU has no AVX512-bf16"
                yield Candidate(name, precision, " (AVX512)", why)


def load(net: str, model: str | None) -> ColorizationNet:
    """Load the model. FULL: the released layout at full width, with random weights."""
    if net != FULL:
        return store.load(model)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ColorizationNet(NetworkConfig()).eval().requires_grad_(False)


def plain_loop(network: ColorizationNet, rgb: Tensor, lab: Tensor) -> plain.Loop:
    """Return the plain implementation with a network's weights, and copies for layers that only the authors compute."""
    parts: dict[str, plain.Weights] = {}
    for name in ("features", "correspondence", "color"):
        state = network.state_dict()
        parts[name] = {k.removeprefix(name + "."): v.to(lab.device) for k, v in state.items() if k.startswith(name)}
    for name in ("conv5_3", "conv5_4"):
        for kind in ("weight", "bias"):
            parts["features"][f"{name}.{kind}"] = parts["features"][f"conv5_2.{kind}"]
    features, matching, colour = parts.values()
    return plain.Loop(features, matching, colour, rgb, lab, network.config.temperature)


def pictures(count: int, height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Smooth random colours that move a pixel a frame: RGB (count, 3, H, W), 0..1, and its Lab."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, height // 8 + 2, width // 8 + 2, generator=generator)
    whole = F.interpolate(coarse, (height + count, width + count), mode="bicubic").clamp(0.05, 0.95)
    rgb = torch.cat([whole[:, :, i : i + height, i : i + width] for i in range(count)])
    return rgb.to(device), rgb_to_lab(rgb).to(device)

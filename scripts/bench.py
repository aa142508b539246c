"""What each step around the network costs for a YUV420P8 frame on one thread; and all of them through the real graph.

    python scripts/bench.py [--size 1920x1080] [--rounds 15] [--json FILE]

Steps take turns within a round, so that a machine that slows down slows all of them; the first two rounds do not count.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import vapoursynth as vs
from torch import Tensor

from vsexvc.chroma import ColorSpace, Grid, subsample, upsample_ab
from vsexvc.plugin import build
from vsexvc.pump import BLOCK, Schedule
from vsexvc.scenes import measure_cuts
from vsexvc.session import network_size

NETWORK = 216  # shorter side of the picture inside the network
WARM_UP = 2
WHOLE = "before and after the network, real graph"
core = vs.core


@dataclass
class FreeSession:
    """A session that costs nothing: one similarity and one ab for all frames."""

    similarity: Tensor
    ab: Tensor

    def reference(self, lab: Tensor) -> None:
        return None

    def correspond(self, L: Tensor, reference: None) -> list[FreeSession]:
        return [self] * len(L)

    def start(self, reference: None) -> None:
        return None

    def step(self, state: None, aligned: FreeSession) -> tuple[None, Tensor]:
        return None, self.ab


def picture(width: int, height: int) -> vs.VideoNode:
    """Coloured waves, a grid of edges and noise, YUV420P8; more frames than any run asks for, all of them the first."""
    y, x = np.mgrid[0:height, 0:width] * (1080.0 / height)
    edges = 0.15 * ((x // 60 + y // 45) % 2)
    noise = np.random.default_rng(0).normal(0.0, 0.01, (height, width))
    blank = core.std.BlankClip(format=vs.RGBS, width=width, height=height, length=1)

    def fill(n: int, f: vs.VideoFrame) -> vs.VideoFrame:
        f = f.copy()
        for plane, (a, b) in enumerate(((190.0, 70.0), (130.0, 250.0), (60.0, 170.0))):
            np.asarray(f[plane])[:] = (0.4 + 0.3 * np.sin(x / a) * np.cos(y / b) + edges + noise).clip(0.0, 1.0)
        return f

    made = blank.std.ModifyFrame(blank, fill).resize.Bicubic(format=vs.YUV420P8, matrix=vs.MATRIX_BT709)
    with made.get_frame(0) as frame:
        held = [np.array(frame[plane]) for plane in range(3)]
    kept = core.std.BlankClip(made, length=1, keep=True)

    def copy(n: int, f: vs.VideoFrame) -> vs.VideoFrame:
        f = f.copy()
        for plane in range(3):
            np.copyto(np.asarray(f[plane]), held[plane])
        return f

    first = kept.std.ModifyFrame(kept, copy).std.SetFrameProps(_Matrix=1, _Range=0)
    first.get_frame(0).close()
    return first.std.Loop(1_000_000)


def frames_of(clip: vs.VideoNode, count: int = 1) -> Callable[[], None]:
    """Asks for the next frames at each call, so that no cache answers."""
    numbers = iter(range(clip.num_frames))

    def ask() -> None:
        for _ in range(count):
            clip.get_frame(next(numbers)).close()

    return ask


def steps_of(width: int, height: int) -> dict[str, tuple[Callable[[], Any], int]]:
    """By name what to time, and how many frames it does at a call."""
    clip = picture(width, height)
    h, w = network_size(width, height, NETWORK)
    g = torch.Generator().manual_seed(0)
    ab = torch.nn.functional.interpolate(torch.randn(1, 2, 9, 16, generator=g) * 25.0, size=(h, w), mode="bicubic")
    grid, space = Grid(2, 2, 0), ColorSpace()
    with clip.get_frame(0) as frame:
        codes = np.array(frame[0])

    def read() -> Tensor:
        luma = torch.from_numpy(np.array(codes)).to(torch.float32)
        return subsample(luma.sub_(16.0).div_(219.0).clamp_(0.0, 1.0)[None, None], grid)

    luma = read()
    L = space.lightness(luma)
    L_small = torch.nn.functional.interpolate(L, size=(h, w), mode="area")
    fine = upsample_ab(ab, L_small, L, grid)
    uv = space.chroma(luma, L, fine)
    target = [np.empty(uv.shape[2:], np.uint8) for _ in range(2)]

    def write() -> None:
        values = uv[0].mul(224.0).add_(128.0).round_().clamp_(0, 255).to(torch.uint8).numpy()
        for plane, into in zip(values, target, strict=True):
            np.copyto(into, plane)

    def small() -> vs.VideoNode:
        """A node of its own for each step: one would find in the cache what the other has asked for."""
        grey = core.std.ShufflePlanes(clip, 0, vs.GRAY)
        return grey.resize.Bicubic(w, h, format=vs.GRAY16, range=vs.RANGE_FULL)

    session = FreeSession(torch.ones(1, 1, h, w), ab)
    ref = core.std.BlankClip(format=vs.RGB24, width=64, height=64, length=1, color=[200, 90, 40])
    whole = build(clip, ref, session, Schedule(clip.num_frames), NETWORK, torch.device("cpu"))
    return {
        "luma at the network's size (zimg)": (frames_of(small()), 1),
        "the same, with measures for cuts": (frames_of(measure_cuts(small())), 1),
        "luma, read and brought to chroma's samples": (read, 1),
        "L, by table": (lambda: space.lightness(luma), 1),
        "upsample_ab": (lambda: upsample_ab(ab, L_small, L, grid), 1),
        "chroma": (lambda: space.chroma(luma, L, fine), 1),
        "write": (write, 1),
        WHOLE: (frames_of(whole, BLOCK), BLOCK),
    }


@torch.inference_mode()
def measure(steps: dict[str, tuple[Callable[[], Any], int]], rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds for one frame: median, lowest and highest of the rounds."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(WARM_UP + rounds):
        for name, (step, frames) in steps.items():
            start = time.perf_counter()
            step()
            if number >= WARM_UP:
                times[name].append((time.perf_counter() - start) * 1e3 / frames)
    return {
        name: {"median_ms": statistics.median(found), "min_ms": min(found), "max_ms": max(found)}
        for name, found in times.items()
    }


def surroundings() -> dict[str, Any]:
    """What the figures depend on."""
    root = Path(__file__).resolve().parents[1]
    git = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=root, capture_output=True, text=True)
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        cpu = next((line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line), cpu)
    return {
        "commit": git.stdout.strip() or None,
        "device": cpu,
        "threads": 1,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "vapoursynth": str(vs.__version__),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="1920x1080", help="of the frame; both sides even")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    try:
        width, height = (int(side) for side in arguments.size.split("x"))
    except ValueError:
        parser.error(f"--size must be WIDTHxHEIGHT, got {arguments.size}")
    if arguments.rounds < 1:
        parser.error(f"--rounds must be 1 or more, got {arguments.rounds}")
    torch.set_num_threads(1)
    core.num_threads = 1
    found = measure(steps_of(width, height), arguments.rounds)
    around = surroundings()
    print(f"{width}x{height} YUV420P8, one thread, {around['device']}, {around['commit']}, torch {torch.__version__}\n")
    print("| step | ms, median | lowest | highest |\n|---|--:|--:|--:|")
    for name, step in found.items():
        print(f"| {name} | {step['median_ms']:.2f} | {step['min_ms']:.2f} | {step['max_ms']:.2f} |")
    if arguments.json:
        result = {**around, "size": [width, height], "rounds": arguments.rounds, "steps": found}
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

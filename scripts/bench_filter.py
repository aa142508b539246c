"""Measure, for scripts/bench.py, the steps around the network, and vspipe with the filter.

This module also measures peak memory of processes, and plots time and memory.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import vapoursynth as vs
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from vsexvc.colour.spaces import ColorSpace
from vsexvc.colour.upsample import Grid, subsample, upsample_ab
from vsexvc.graph import build
from vsexvc.scenes import measure_cuts
from vsexvc.schedule import BLOCK, Schedule
from vsexvc.session import network_size

ROOT = Path(__file__).resolve().parents[1]
NETWORK = 216  # shorter side of the picture inside the network
SCENE = 24  # frames from one cut of the made clip to the next
WHOLE = "before and after the network, real graph"
core = vs.core

# --- the steps around the network ------------------------------------------------------------------------------------


@dataclass
class FreeSession:
    """Replace a session at no cost: one similarity and one ab for all frames."""

    similarity: Tensor
    ab: Tensor

    def reference(self, lab: Tensor) -> None:
        return None

    def correspond(self, L: Tensor, references: list[None], *given: Any) -> list[FreeSession]:
        return [self] * len(L)

    def start(self, reference: None, area: Any = None) -> None:
        return None

    def step(self, state: None, aligned: FreeSession) -> tuple[None, Tensor]:
        return None, self.ab


def picture(width: int, height: int) -> vs.VideoNode:
    """Draw coloured waves, a grid of edges and noise, YUV420P8; more frames than any run requests, all equal."""
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
    """Return a function that requests the next frames at each call, so that no cache answers."""
    numbers = iter(range(clip.num_frames))

    def ask() -> None:
        for _ in range(count):
            clip.get_frame(next(numbers)).close()

    return ask


def steps_of(width: int, height: int) -> dict[str, tuple[Callable[[], Any], int]]:
    """Return by name what to time, and how many frames one call makes."""
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
        """Return a new node for each step: otherwise one finds in the cache what the other has requested."""
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


# --- processes watched from outside ----------------------------------------------------------------------------------


def watched(command: Sequence[str]) -> tuple[str, float | None]:
    """Run a process; return its output and its peak resident memory in MiB, None if the system has no /proc.

    The system's high-water mark of the process is read, because getrusage of a child includes its parent's memory.

    Raises:
        RuntimeError: it failed; its last line.
    """
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))  # vspipe needs it
    peak = None
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT, env={**os.environ, "PATH": path}
        )
        try:
            while process.poll() is None:
                peak = max(filter(None, (peak, _high_water(process.pid))), default=None)
                time.sleep(0.02)
        finally:
            process.kill()
            process.wait()
        output.seek(0)
        text = output.read()
    if process.returncode:
        raise RuntimeError((text.strip().splitlines() or [f"exit code {process.returncode}"])[-1])
    return text, peak


def _high_water(pid: int) -> float | None:
    """Return the largest peak of a process and its children: vspipe on PATH is a script that starts the real one."""
    process = Path(f"/proc/{pid}")
    try:
        status, children = (process / "status").read_text(), (process / f"task/{pid}/children").read_text().split()
    except OSError:
        return None
    found = re.search(r"VmHWM:\s*(\d+) kB", status)
    of_all = [int(found[1]) / 1024 if found else 0.0, *(_high_water(int(child)) or 0.0 for child in children)]
    return max(of_all)


# --- the filter through vspipe ---------------------------------------------------------------------------------------

SCRIPT = """
import vapoursynth as vs
core = vs.core
core.max_cache_size = 256


def stripes(left, right, **of):
    halves = [core.std.BlankClip(color=color, **of) for color in (left, right)]
    return core.std.StackHorizontal(halves)


made = {{"width": {width} // 2, "height": {height}, "format": vs.YUV420P8, "length": {scene}}}
scene = stripes([90, 128, 128], [180, 128, 128], **made)
scene = scene.std.SetFrameProps(_Matrix=1, _SceneChangePrev=0)
clip = (scene[:1].std.SetFrameProps(_SceneChangePrev=1) + scene[1:]).std.Loop()[:{frames}]
picture = stripes([200, 90, 40], [40, 90, 200], width=192, height=216, format=vs.RGB24, length=1)
core.exvc.Colorize(clip, picture * {references}, {arguments}).set_output()
"""


def filter_run(
    width: int, height: int, frames: int, references: int = 1, arguments: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Run vspipe on a clip of flat stripes with a cut every SCENE frames: the cost does not depend on the picture.

    The number of references counts at each cut, where the most similar one is chosen.
    """
    given = ", ".join(f"{name}={value!r}" for name, value in (arguments or {}).items())
    row: dict[str, Any] = {"size": f"{width}x{height}", "frames": frames, "references": references, "arguments": given}
    text = SCRIPT.format(width=width, height=height, scene=SCENE, frames=frames, references=references, arguments=given)
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "bench.vpy"
        script.write_text(text)
        started = time.perf_counter()
        try:
            said, peak = watched([str(Path(sys.executable).with_name("vspipe")), str(script), "--"])
        except (RuntimeError, OSError) as error:
            return row | {"note": str(error)}
        whole = time.perf_counter() - started
    found = re.search(r"Output \d+ frames in ([\d.]+) seconds", said)
    if found is None:
        return row | {"note": said.strip()[-200:]}
    seconds = float(found[1])
    return row | {"fps": frames / seconds, "seconds": seconds, "start, seconds": whole - seconds, "peak MiB": peak}


def filter_rows(
    sizes: Sequence[tuple[int, int]],
    frames: int,
    arguments: dict[str, Any],
    others: Sequence[dict[str, Any]] = (),
    grid: bool = False,
) -> list[dict[str, Any]]:
    """Measure sizes by references, others at the middle size; `grid`: also up to 8 times the frames at the first."""
    runs = [(*size, frames, references, arguments) for size in sizes for references in (1, 2, 4)]
    runs += [(*sizes[len(sizes) // 2], frames, 1, arguments | other) for other in others]
    runs += [(*sizes[0], frames * times, 1, arguments) for times in ((2, 4, 8) if grid else ())]
    return [filter_run(*run) for run in runs]


# --- the plot --------------------------------------------------------------------------------------------------------


def plot(rows: list[dict[str, Any]], title: str) -> str:
    """Plot seconds and peak memory against frames and pixels as SVG, each with its line of least squares."""
    done = [row for row in rows if "seconds" in row and row["references"] == 1]
    done = [row for row in done if row["arguments"] == done[0]["arguments"]]
    series = {}
    for name, fixed in (("frames", "size"), ("megapixels", "frames")):
        of_series = [row for row in done if row[fixed] == done[0][fixed]]
        series[f"{name} ({done[0][fixed]}{' frames' if fixed == 'frames' else ''})"] = [
            (row["frames"] if name == "frames" else np.prod([int(n) for n in row["size"].split("x")]) / 1e6, row)
            for row in of_series
        ]
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "bench"}):  # text stays text
        figure = Figure(figsize=(11.0, 7.0), layout="constrained")
        figure.suptitle(title.replace("$", r"\$"))
        for column, (x_name, points) in zip(figure.subplots(2, 2).T, series.items(), strict=True):
            for axes, y_name in zip(column, ("seconds", "peak MiB"), strict=True):
                values = [(float(x), float(row[y_name])) for x, row in points if row[y_name] is not None]
                _panel(axes, values, x_name, y_name)
        text = io.StringIO()
        figure.savefig(text, format="svg")
    return text.getvalue()


def _panel(axes: Axes, points: list[tuple[float, float]], x_name: str, y_name: str) -> None:
    """Draw the points, and their line of least squares with its formula as the title."""
    label = y_name
    if len({x for x, _ in points}) > 1:
        slope, start = np.polyfit([x for x, _ in points], [y for _, y in points], 1)
        ends = np.array([0.0, max(x for x, _ in points)])
        axes.plot(ends, np.maximum(start + slope * ends, 0.0), color="#2277cc")
        label += f" = {start:.3g} {'-' if slope < 0 else '+'} {abs(slope):.3g} per {x_name.split(' ')[0].rstrip('s')}"
    for n, (x, y) in enumerate(points):
        axes.plot(x, y, "o", color="#cc3333", gid=f"point {y_name} {x_name} {n}")
    axes.set(title=label, xlabel=x_name, xlim=(0, None), ylim=(0, None))
    axes.grid(color="0.9")

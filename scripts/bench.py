"""Measure speed, size and precision: tables on stdout, JSON with --json.

    python scripts/bench.py [--what network correlation ...] [--device cuda] [--long] [--json FILE]

    gmac         operations of a frame, counted in every convolution and matrix product that torch runs
    network      time of a frame inside the network: each backend and precision, and a plain loop like the authors'
    correlation  time of eq. 3-5 alone: logits so low that exp gives subnormal numbers, against usual ones
    precision    error in ab of each backend and precision against fp32: one step, a recurrence (--clips: true frames)
    around       time of each step before and after the network for a YUV420P8 frame, on one thread
    filter       core.exvc.Colorize through vspipe: frames per second and peak memory
    busy         the same beside other processes that compute: ratio of the times, also to the fair share of the cores

Candidates take turns within a round (A B A B), so that a machine that slows down affects all of them. The table gives
the reason for each that this machine cannot run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[0:0] = [] if __package__ else [str(ROOT)]  # `python scripts/bench.py` as well

from scripts.bench_measure import Row, candidates, measure, spread
from scripts.bench_network import correlation_rows, gmac_rows, network_rows
from scripts.bench_precision import precision_rows
from vsexvc.support.errors import first_line

ALL = ("gmac", "network", "correlation", "precision", "around", "filter", "busy")


# --- around, filter and busy ------------------------------------------------------------------------------------------


def around_rows(options: argparse.Namespace) -> list[Row]:
    from scripts import bench_filter

    threads, core = torch.get_num_threads(), bench_filter.core
    torch.set_num_threads(1)
    core.num_threads = 1
    rows = []
    for width, height in options.sizes:
        steps = bench_filter.steps_of(width, height)
        times = measure(steps, options.rounds, torch.device("cpu"))
        rows += [{"size": f"{width}x{height}", "step": name} | spread(found) for name, found in times.items()]
    torch.set_num_threads(threads)
    return rows


def filter_arguments(options: argparse.Namespace) -> Row:
    """Return the arguments of Colorize."""
    arguments: Row = {"device": str(options.device), "size": max(64, min(options.inside))}
    return arguments | ({"model": options.model} if options.model else {})


def busy_rows(options: argparse.Namespace) -> list[Row]:
    from scripts import bench_busy

    width, height = options.sizes[0]
    return bench_busy.busy_rows(width, height, options.frames, filter_arguments(options))


def filter_rows(options: argparse.Namespace) -> list[Row]:
    from scripts import bench_filter

    usable = [c for c in candidates(options.device) if not c.why]
    others = [{"backend": c.backend, "precision": c.precision} for c in usable] if options.long else []
    return bench_filter.filter_rows(
        options.sizes, options.frames, filter_arguments(options), others, options.long or options.plot is not None
    )


# --- tables and command line -----------------------------------------------------------------------------------------


def table(rows: list[Row]) -> str:
    """Format Markdown; columns in the order in which rows have them, without empty ones."""
    columns = list(dict.fromkeys(key for row in rows for key, value in row.items() if value is not None))
    columns.sort(key="note".__eq__)

    def cell(value: Any) -> str:
        if isinstance(value, float):
            return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) < 1 else f"{value:.2f}"
        return "" if value is None else str(value)

    lines = [columns, ["---"] * len(columns), *([cell(row.get(column)) for column in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def surroundings(device: torch.device) -> Row:
    """Return what the figures depend on."""
    import vapoursynth as vs

    from train import commit

    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        cpu = next((line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line), cpu)
    versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
    try:
        import openvino

        versions["openvino"] = openvino.__version__
    except ImportError:
        pass
    return {
        "commit": commit(),
        "device": cpu if device.type == "cpu" else torch.cuda.get_device_name(device),
        "threads": torch.get_num_threads(),
        "versions": versions | {"vapoursynth": str(vs.__version__)},
    }


def size(text: str) -> tuple[int, int]:
    try:
        width, height = (int(side) for side in text.split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be WIDTHxHEIGHT, got {text}") from None
    return width, height


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", nargs="+", choices=ALL, default=list(ALL), help="default: all")
    parser.add_argument("--device", default="cpu", type=torch.device, help="default: cpu")
    parser.add_argument("--model", help="name or path of the weights beside the full width (default: the shipped ones)")
    parser.add_argument("--only", metavar="TEXT", help="network: only rows whose net, backend and precision hold it")
    parser.add_argument("--inside", default=(384, 216), type=size, metavar="WxH", help="of network (default: 384x216)")
    sizes = [(848, 480), (1920, 1080), (3840, 2160)]
    parser.add_argument(
        "--sizes", nargs="+", default=sizes, type=size, metavar="WxH", help="of around, filter and busy"
    )
    parser.add_argument("--frames", type=int, default=48, help="of filter and busy (default: 48)")
    parser.add_argument("--rounds", type=int, default=7, help="default: 7")
    parser.add_argument("--clips", type=Path, metavar="FOLDER", help="true clips for precision; two, with --long all")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="filter: time and memory, frames and pixels")
    parser.add_argument("--long", action="store_true", help="all clips; filter: every backend, more frames")
    parser.add_argument("--json", type=Path, metavar="FILE", help="-: on stdout, without tables")
    options = parser.parse_args(arguments)
    if options.rounds < 1 or options.frames < 1:
        parser.error(f"--rounds and --frames must be 1 or more, got {options.rounds} and {options.frames}")
    if options.plot and "filter" not in options.what:
        parser.error("--plot needs filter among --what")
    if options.device.type == "cuda" and not torch.cuda.is_available():
        parser.error(f"--device must be cpu: torch sees no CUDA device, got {options.device}")
    return options


SECTIONS: dict[str, Callable[[argparse.Namespace], list[Row]]] = {
    "gmac": gmac_rows,
    "network": network_rows,
    "correlation": correlation_rows,
    "precision": precision_rows,
    "around": around_rows,
    "filter": filter_rows,
    "busy": busy_rows,
}


def main(arguments: list[str] | None = None) -> None:
    options = parsed(arguments)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    only_json = str(options.json) == "-"
    result = surroundings(options.device) | {"inside": list(options.inside), "rounds": options.rounds}
    if not only_json:
        print(f"{result['device']}, {result['threads']} threads, {result['commit']}, torch {torch.__version__}")
    for what in options.what:
        try:
            result[what] = SECTIONS[what](options)
        except (ValueError, OSError) as error:
            sys.exit(f"bench: {first_line(error)}")
        if not only_json:
            print(f"\n### {what}\n\n{table(result[what])}", flush=True)
    if options.plot:
        from scripts.bench_filter import plot

        options.plot.write_text(plot(result["filter"], f"core.exvc.Colorize, {result['device']}"))
    if options.json:
        text = json.dumps(result, indent=1) + "\n"
        sys.stdout.write(text) if only_json else options.json.write_text(text)


if __name__ == "__main__":
    main()

"""Measure, for scripts/bench.py, the filter's time on a busy machine, while other processes compute.

A thread's fair share of C cores, taken by T threads of the filter and N others, is C / (T + N) of a core. Threads that
spin while they wait for one that has no core waste their share: a frame then costs many times more.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from scripts import bench_filter
from vsexvc.support.environment import environment, passive

WAITS = "OMP_WAIT_POLICY"


@contextmanager
def computing(count: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Run this number of processes, which compute all the time."""
    with ExitStack() as running:
        processes = []
        for _ in range(count):
            processes.append(running.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"])))
            running.callback(processes[-1].kill)
        yield processes


def fair(threads: int, others: int, cores: int) -> float:
    """Return the factor by which other threads slow these down, if all get the same share of the cores."""
    return min(threads, cores) / min(threads, cores * threads / (threads + others))


def busy_rows(width: int, height: int, frames: int, arguments: dict[str, Any]) -> list[dict[str, Any]]:
    """Measure alone, and while one more process than cores computes: as torch is loaded, and with spinning threads."""
    cores = len(os.sched_getaffinity(0))
    others, threads = cores + 1, arguments.get("threads") or torch.get_num_threads()
    rows = []
    for policy in ("" if passive() else os.environ.get(WAITS, "set by the user"), "ACTIVE"):
        row: dict[str, Any] = {"size": f"{width}x{height}", "threads wait": policy or "as the filter loads torch"}
        with environment(**({WAITS: policy} if policy == "ACTIVE" else {})):
            alone = bench_filter.filter_run(width, height, frames, 1, arguments)
            with computing(others):
                beside = bench_filter.filter_run(width, height, frames, 1, arguments)
        if note := alone.get("note") or beside.get("note"):
            rows.append(row | {"note": note})
            continue
        cost = beside["seconds"] / alone["seconds"]
        row |= {"fps alone": alone["fps"], f"fps beside {others}": beside["fps"]}
        rows.append(row | {"times as long": cost, "times the fair share": cost / fair(threads, others, cores)})
    return rows

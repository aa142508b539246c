"""Support training runs: a budget, a way to stop, atomic files, a loader.

This module does not depend on networks or losses.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from vsexvc.support import system
from vsexvc.support.files import settle
from vsexvc.support.progress import Progress

STOPPING = (signal.SIGINT, signal.SIGTERM)


def set_up(threads: int) -> None:
    """Prepare this process to train: torch's threads (0: its own choice), no subnormal numbers, a heap that is kept."""
    if threads:
        torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    system.keep_heap()


@dataclass(frozen=True)
class Budget:
    """Limit a run: minutes of training, or steps; exactly one of them.

    Raise ValueError if neither or both are given, or if it is not above 0.
    """

    minutes: float | None
    steps: int | None

    def __post_init__(self) -> None:
        if (self.minutes is None) == (self.steps is None):
            raise ValueError("fit: exactly one of minutes and steps must be given")
        if (self.minutes or self.steps or 0) <= 0:
            raise ValueError(f"fit: the budget must be above 0, got {self.minutes or self.steps}")

    def used(self, step: int, seconds: float) -> float:
        """Return the used share: 0 at the start, 1 or more at the end."""
        return step / self.steps if self.steps is not None else seconds / (60.0 * (self.minutes or 1.0))


def cosine(used: float) -> float:
    """Return the factor on the learning rate: 1 at the start, 0.01 at the end of the budget."""
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, used)))


class Stop:
    """Remember whether a signal asked the run to end; see `listening`."""

    asked = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.asked = True


@contextmanager
def listening() -> Iterator[Stop]:
    """Make SIGINT and SIGTERM end the run after the current step, not in the middle of it."""
    stop = Stop()
    previous = {number: signal.signal(number, stop) for number in STOPPING}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def save(state: dict[str, Any], path: Path) -> None:
    """Write a checkpoint atomically, so that a crash leaves the old one or the new one."""
    partial = path.with_suffix(".part")
    torch.save(state, partial)
    settle(partial, path)


class Meter:
    """Show the used share of a budget, and figures beside it; a context manager."""

    def __init__(self, stage: str, *, shown: bool = True) -> None:
        self._stage, self._progress = stage, Progress("%", head="train") if shown else None

    def at(self, used: float, step: int, figures: dict[str, float]) -> None:
        """Show `used`, 0..1, of the budget."""
        if self._progress is not None:
            note = ", ".join([f"step {step}", *(f"{name} {value:.2f}" for name, value in figures.items())])
            self._progress.at(self._stage, min(100.0, 100 * used), 100.0, f"({note})")

    def __enter__(self) -> Meter:
        return self

    def __exit__(self, *error: object) -> None:
        if self._progress is not None:
            self._progress.close()


class _From(Sampler[int]):
    """Yield every `stride`-th number from `first` on, without end."""

    def __init__(self, first: int, stride: int) -> None:
        self.first, self.stride = first, stride

    def __iter__(self) -> Iterator[int]:
        number = self.first
        while True:
            yield number
            number += self.stride


def batches(
    dataset: Dataset[dict[str, Tensor]], batch: int, step: int, workers: int, rank: int = 0, ranks: int = 1
) -> Iterator[dict[str, Tensor]]:
    """Yield batches from `step` on, without end: sample i of the run is dataset[i] for any number of workers.

    Process `rank` of `ranks` gets samples rank, rank + ranks, ... of each step's batch * ranks.
    """
    loader = DataLoader(
        dataset,
        batch,
        sampler=_From(step * batch * ranks + rank, ranks),
        num_workers=workers,
        worker_init_fn=_quiet,
        prefetch_factor=4 if workers else None,
        pin_memory=torch.cuda.is_available(),
    )
    return iter(loader)


def _quiet(worker: int) -> None:
    """Give a worker one thread, and ignore signals: the run ends its workers after its last checkpoint."""
    torch.set_num_threads(1)
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)

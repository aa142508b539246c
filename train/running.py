"""What every training run needs around its steps: a budget, a way to be stopped, files that are whole, a loader.

Nothing here knows networks or losses.
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
from tqdm import tqdm

from vsexvc.support.files import settle

STOPPING = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class Budget:
    """How long a run is: minutes of training, or steps; exactly one of them.

    Raises ValueError.
    """

    minutes: float | None
    steps: int | None

    def __post_init__(self) -> None:
        if (self.minutes is None) == (self.steps is None):
            raise ValueError("fit: exactly one of minutes and steps must be given")
        if (self.minutes or self.steps or 0) <= 0:
            raise ValueError(f"fit: the budget must be above 0, got {self.minutes or self.steps}")

    def used(self, step: int, seconds: float) -> float:
        """0 at the start, 1 or more at the end."""
        return step / self.steps if self.steps is not None else seconds / (60.0 * (self.minutes or 1.0))


def cosine(used: float) -> float:
    """Factor on the learning rate: 1 at the start, 0.01 at the end of the budget."""
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, used)))


class Stop:
    """Whether somebody asked the run to end; see `listening`."""

    asked = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.asked = True


@contextmanager
def listening() -> Iterator[Stop]:
    """SIGINT and SIGTERM end the run after the step in work, not in the middle of it."""
    stop = Stop()
    previous = {number: signal.signal(number, stop) for number in STOPPING}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def save(state: dict[str, Any], path: Path) -> None:
    """A checkpoint that is there whole or not at all, whenever the process or the machine dies."""
    partial = path.with_suffix(".part")
    torch.save(state, partial)
    settle(partial, path)


def bar(used: float, shown: bool = True) -> Any:
    """Progress in per cent of the budget, with the time that is left."""
    style = "{l_bar}{bar}| {elapsed}<{remaining} {postfix}"
    return tqdm(total=100.0, unit="%", bar_format=style, initial=100 * used, disable=not shown)


class _From(Sampler[int]):
    """Every `stride`-th number from `first` on, without end."""

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
    """Batches from `step` on, without end: sample i of the run is dataset[i] whatever the number of workers.

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
    """One thread each; the run itself ends its workers, after its last checkpoint."""
    torch.set_num_threads(1)
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)

"""Compile or capture parts of a network once for each shape of their inputs."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Part = Callable[..., Any]
_SHAPES = 4  # shapes for which a part is kept ready
_building = threading.RLock()  # torch.export supports one thread at a time


class ByShape(nn.Module):
    """Build a part for each shape of its inputs at the first call with that shape, and keep the last few."""

    def __init__(self, part: nn.Module, build: Callable[[nn.Module, tuple[Tensor, ...]], Part]) -> None:
        super().__init__()
        self.part, self._build = part, build
        self._ready: OrderedDict[tuple[torch.Size, ...], Part] = OrderedDict()

    def forward(self, *inputs: Tensor) -> Any:
        """Compute as the part itself does. Inputs are tensors only."""
        shapes = tuple(x.shape for x in inputs)
        if shapes not in self._ready:
            while len(self._ready) >= _SHAPES:
                self._ready.popitem(last=False)
            with _building:
                self._ready[shapes] = self._build(self.part, inputs)
        self._ready.move_to_end(shapes)
        return self._ready[shapes](*inputs)

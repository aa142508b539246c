"""Copy tensors between host and device without waiting for other work of the device."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def download(x: Tensor) -> tuple[Tensor, Callable[[], None]]:
    """Return a float32 copy in the host's memory, and a function to call before reading it.

    From a GPU the copy runs on a second stream, so that the first one can go on computing.
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
    """Copy `x` to the device without waiting for its other work. The caller must not change `x` afterwards."""
    if device.type != "cuda" or x.is_cuda:
        return x.to(device)
    return x.pin_memory().to(device, non_blocking=True)

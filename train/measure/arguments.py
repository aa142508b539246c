"""Check and read common arguments of the measurements: device, weights, limits of numbers."""

from __future__ import annotations

import torch

from vsexvc.nets.network import ColorizationNet
from vsexvc.weights import store


def load_network(model: str | None, device: str) -> ColorizationNet:
    """Read weights as store.load does, in evaluation mode; raise ValueError for a device that torch does not see."""
    try:
        return store.load(model, torch.device(device)).eval()
    except (RuntimeError, AssertionError) as error:  # torch's errors for unknown and missing devices
        raise ValueError(f"evaluate: --device must be cpu or a device that torch sees, got {device!r}") from error


def default_device() -> str:
    """Return the device that measurements use if none is named."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def check_at_least(low: int, **options: int | None) -> None:
    """Check options. Raise ValueError for one that is given and below `low`."""
    for name, value in options.items():
        if value is not None and value < low:
            raise ValueError(f"--{name} must be {low} or more, got {value}")

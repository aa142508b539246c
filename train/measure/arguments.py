"""Share what the measuring commands have in common: the device, the weights, limits of numbers."""

from __future__ import annotations

import torch

from vsexvc.nets.network import ColorizationNet
from vsexvc.weights import store


def load_network(model: str | None, device: str) -> ColorizationNet:
    """Read weights as store.load does, in evaluation mode; raise ValueError for a device that is not there."""
    try:
        return store.load(model, torch.device(device)).eval()
    except (RuntimeError, AssertionError) as error:  # torch's for a device that it does not know or does not have
        raise ValueError(f"evaluate: --device must be cpu or a device that torch sees, got {device!r}") from error


def default_device() -> str:
    """Return the device of a measurement for which none is named."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def check_at_least(low: int, **options: int | None) -> None:
    """Raise ValueError for an option that is given and lower."""
    for name, value in options.items():
        if value is not None and value < low:
            raise ValueError(f"--{name} must be {low} or more, got {value}")

"""Variables of the environment that hold for a moment, for libraries that read them once while they are loaded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

_WAITS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")  # by which users say how OpenMP's threads wait


def passive() -> dict[str, str]:
    """What makes OpenMP's threads sleep while they wait; empty where the user has said how they do."""
    return {} if any(name in os.environ for name in _WAITS) else {"OMP_WAIT_POLICY": "PASSIVE"}


@contextmanager
def environment(**values: str) -> Iterator[None]:
    """Sets variables of this process, and puts back what was there before."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

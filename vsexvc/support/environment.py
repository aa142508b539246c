"""Set environment variables temporarily, for libraries that read them once while they are loaded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

# Variables with which users choose how OpenMP's threads wait.
_WAITS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def passive() -> dict[str, str]:
    """Return the variables that make OpenMP's waiting threads sleep; none if the user has set one of _WAITS."""
    return {} if any(name in os.environ for name in _WAITS) else {"OMP_WAIT_POLICY": "PASSIVE"}


@contextmanager
def environment(**values: str) -> Iterator[None]:
    """Set variables of this process, and restore the previous values afterwards."""
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

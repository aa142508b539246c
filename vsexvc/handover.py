"""Pass recurrent states from one run to the next, so that the beginning of a long scene is not computed again.

A filter that is built within `handed` reads kept states and offers those that it reaches. They do not change a byte of
any frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol


class States(Protocol):
    """Keep states by the frame that follows them, and the scenes.

    Attributes:
        firsts: first frames of all scenes, ascending from 0.
    """

    firsts: tuple[int, ...]

    def __iter__(self) -> Iterator[int]: ...
    def __getitem__(self, n: int, /) -> Any: ...
    def offer(self, n: int, state: Any, /) -> None: ...


_HANDED: ContextVar[States | None] = ContextVar("states", default=None)


@contextmanager
def handed(states: States | None) -> Iterator[None]:
    """Pass these states to the filters that are built within it; None: there are none."""
    token = _HANDED.set(states)
    try:
        yield
    finally:
        _HANDED.reset(token)


def states_handed() -> States | None:
    return _HANDED.get()

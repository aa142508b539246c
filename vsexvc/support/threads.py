"""Run torch in threads of its own, and end requests at Ctrl-C."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn
from weakref import WeakValueDictionary

import torch

from vsexvc.support.system import heap_trimmer

_TRIM = 64  # calls after which free memory goes back to the system (10 ms)


def apart[*P, R](function: Callable[[*P], R], *arguments: *P) -> R:
    """Call a function in a thread that then ends, so that libraries free what they keep for each calling thread."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(function, *arguments).result()


class TorchThread:
    """Compute all tensors of a filter in one thread, whichever thread of VapourSynth calls.

    Torch keeps a team of threads for every thread that calls it. If a process has more of these threads than cores,
    OpenMP lets all of them sleep between two loops, and a frame takes 1.5 times as long. Therefore only this thread
    computes with several, and the networks of all filters share one such thread for each device. The thread ends with
    its last filter.

    No frame is made here: frames and tensors that one thread allocates in turn from glibc's heap split each other's
    free blocks, and memory grows without end (measured: 1 MB a frame at 432x240). VapourSynth's own frames still cost
    50 to 150 KB each in this way, in scripts without this filter too. That memory is returned to the system regularly.
    """

    def __init__(self, threads: int | None = None, device: torch.device | None = None) -> None:
        """Start the worker of one filter.

        Args:
            threads: of torch that it computes with; None: torch's own number.
            device: all workers of one device and number of threads share one thread; None: a thread of its own.
        """
        threads = threads or torch.get_num_threads()
        pool = None if device is None else _pools.get((str(device), threads))
        self._pool = pool or ThreadPoolExecutor(1, "vsexvc", _set_threads, (threads,))
        if device is not None:
            _pools[str(device), threads] = self._pool
        self._calls = 0
        self._trim = heap_trimmer()

    def __call__[*P, R](self, function: Callable[[*P], R], *arguments: *P) -> R:
        """Run a function in the thread; return its result or raise its exception."""
        self._calls += 1
        if self._calls % _TRIM == 0:
            self._pool.submit(self._trim, 0)
        return self._pool.submit(function, *arguments).result()


_pools: WeakValueDictionary[tuple[str, int], ThreadPoolExecutor] = WeakValueDictionary()


def _set_threads(threads: int) -> None:
    """Set torch's number of threads for the calling thread alone.

    Torch also keeps the last number set for threads that begin later, which may be another filter's: it is put back.
    """
    before = torch.get_num_threads()
    if threads != before:
        torch.set_num_threads(threads)
        apart(torch.set_num_threads, before)


class Interrupted(KeyboardInterrupt):
    """End a request that Ctrl-C interrupts."""

    def __bool__(self) -> bool:
        """Return True. VapourSynth asks in the thread that waits in get_frame, just before it raises this.

        The call runs Python code, so that thread handles the pending SIGINT here, once. Otherwise the handler would run
        while VapourSynth ends the request, and VapourSynth would wait for that request forever at exit.
        """
        return True


def interrupt() -> NoReturn:
    """End a request: exvc.PyFilter calls this instead of a step after Ctrl-C (native/pyfilter.c)."""
    raise Interrupted("Colorize: interrupted")

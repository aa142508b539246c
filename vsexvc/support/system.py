"""Hide differences between systems: file locks, open files, process groups, the heap."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

_WINDOWS = sys.platform == "win32"
_PAUSE = 0.05  # seconds between two tries
# mallopt's options M_MMAP_MAX, M_TRIM_THRESHOLD and M_TOP_PAD: no block is mapped alone, none is returned, and the heap
# grows by 64 MB.
_KEEP = ((-4, 0), (-1, 2**31 - 1), (-2, 2**26))

if sys.platform == "win32":
    import msvcrt

    def _locks(file: IO[Any]) -> bool:
        file.seek(0)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _locks(file: IO[Any]) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def lock(file: IO[Any], wait: bool = True) -> bool:
    """Lock an open file until it is closed.

    Args:
        file: open for writing.
        wait: whether to wait for the process that holds it.

    Returns:
        Whether this process has the lock: False only without `wait`.
    """
    while not _locks(file):
        if not wait:
            return False
        time.sleep(_PAUSE)
    return True


def remove_locked(file: IO[Any], path: Path) -> None:
    """Remove the file at `path`, which is open and locked as `file`, and close it."""
    if not _WINDOWS:  # the name is removed before the lock: no other process can lock this file afterwards
        path.unlink()
    file.close()
    if _WINDOWS:  # it cannot remove an open file; a process that has opened it meanwhile keeps it
        with suppress(PermissionError):
            path.unlink()


def replace(source: Path, target: Path) -> None:
    """Rename a file, replacing a file of the new name.

    On Windows neither file may be open in any process, and virus scanners open new files for a moment. Therefore this
    function tries for two seconds.

    Raises:
        PermissionError: one of them is still open.
    """
    for _ in range(40 if _WINDOWS else 0):
        try:
            source.replace(target)
        except PermissionError:
            time.sleep(_PAUSE)
        else:
            return
    source.replace(target)


def own_group() -> dict[str, Any]:
    """Return the arguments of subprocess.Popen for a process that Ctrl-C does not reach."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"process_group": 0}


def heap_trimmer() -> Callable[[int], object]:
    """Return glibc's malloc_trim, which returns free memory to the system; elsewhere a function that does nothing."""
    return _of_glibc("malloc_trim")


def keep_heap() -> None:
    """Make glibc keep freed memory for the next tensor of this process; do nothing elsewhere.

    By default it returns large blocks to the system, whose pages must then be mapped and cleared again: a third of the
    processor time of a training step.
    """
    set_option = _of_glibc("mallopt")
    for option, value in _KEEP:
        set_option(option, value)


def _of_glibc(name: str) -> Callable[..., object]:
    """Return a function of glibc; elsewhere, as with musl, one that does nothing."""

    def nothing(*arguments: int) -> None:
        pass

    return getattr(ctypes.CDLL(None), name, nothing) if sys.platform.startswith("linux") else nothing

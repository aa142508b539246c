"""Test support/system.py, and that the package needs only what Windows and macOS have.

It uses no fcntl, CDLL(None) or process groups, and renames no open file.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from film import make_film, make_png

from vsexvc.film.job import Colours
from vsexvc.film.render import Order, render
from vsexvc.support import system

ROOT = Path(__file__).resolve().parents[1]

# Imitate Windows: replace msvcrt, and hide what only other systems have. Libraries that check the system's name are
# imported first.
WINDOWS = """
import ctypes, os, subprocess, sys, types
import av, numpy, platformdirs, PIL.Image, safetensors.torch, torch, torchvision, vapoursynth
vapoursynth.core.std

def locking(fd, mode, size):
    locked.append((mode, size))
msvcrt = types.ModuleType("msvcrt")
msvcrt.locking, msvcrt.LK_NBLCK = locking, 2
locked = []
sys.modules["msvcrt"] = msvcrt
for name in ("fcntl", "grp", "posix", "pwd", "resource", "termios"):
    sys.modules[name] = None
for name in ("fork", "forkpty", "killpg", "getpgid", "setpgid", "setsid", "getuid", "geteuid", "statvfs", "mkfifo"):
    delattr(os, name)
real = ctypes.CDLL.__init__
def init(self, name, *args, **options):
    if name is None:
        raise TypeError("bad argument type for built-in operation")
    real(self, name, *args, **options)
ctypes.CDLL.__init__ = init
subprocess.CREATE_NEW_PROCESS_GROUP = 512
sys.platform = "win32"
"""


def test_every_module_is_imported_where_the_names_of_other_systems_are_hidden() -> None:
    modules = sorted(
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in (ROOT / "vsexvc").rglob("*.py")
        if path.stem != "vsview"  # vsview may not be installed
    )
    assert len(modules) > 30
    code = f"""
import importlib
for name in {modules}:
    importlib.import_module(name)
from vsexvc.support import system
from vsexvc.support.threads import TorchThread
assert TorchThread(1)(lambda: 3) == 3
assert system.own_group() == {{"creationflags": 512}}
assert system.heap_trimmer()(0) is None
system.keep_heap()
import tempfile
with tempfile.TemporaryFile() as file:
    assert system.lock(file)
assert locked == [(2, 1)]
"""
    done = subprocess.run([sys.executable, "-c", WINDOWS + code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_lock_is_held_by_one(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    code = "from vsexvc.support.system import lock; import sys; print(lock(open(sys.argv[1], 'a'), wait=False))"

    def elsewhere() -> str:
        return subprocess.run(
            [sys.executable, "-c", code, path], capture_output=True, text=True, check=True
        ).stdout.strip()

    with path.open("a") as file:
        assert system.lock(file, wait=False)
        assert elsewhere() == "False"
    assert elsewhere() == "True"


def test_a_locked_file_is_removed_and_closed(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    file = path.open("a")
    assert system.lock(file)
    system.remove_locked(file, path)
    assert file.closed
    assert not path.exists()


def test_a_name_is_tried_again_where_a_file_is_open_for_a_moment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_text("new")
    real, calls = Path.replace, [0]

    def busy(self: Path, target: Path) -> Path:
        calls[0] += 1
        if calls[0] < 3:
            raise PermissionError(13, "The process cannot access the file")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", busy)
    monkeypatch.setattr(system, "_WINDOWS", True)
    monkeypatch.setattr(system, "_PAUSE", 0)
    system.replace(source, target)
    monkeypatch.undo()
    assert target.read_text() == "new"
    assert calls[0] == 3


def opened(path: str | Path) -> bool:
    """Return whether this process has a file open or mapped."""
    wanted = Path(path).resolve()
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # closed in the meantime
            if entry.readlink() == wanted:
                return True
    return f" {wanted}\n" in Path("/proc/self/maps").read_text()


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Raise Windows' error if a file that this process has open is removed, renamed or replaced; list the calls."""
    seen: list[str] = []

    def guarded(name: str) -> None:
        real: Callable[..., Any] = getattr(os, name)

        def call(*paths: Any, **options: Any) -> Any:
            if "dir_fd" not in options:
                for path in paths:
                    seen.append(f"{name} {path}")
                    if opened(path):
                        raise PermissionError(13, "The process cannot access the file", str(path))
            return real(*paths, **options)

        monkeypatch.setattr(os, name, call)

    for name in ("unlink", "remove", "rename", "replace"):
        guarded(name)
    monkeypatch.setattr(system, "_WINDOWS", True)
    return seen


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc to see what is open")
def test_a_film_is_rendered_where_no_open_file_has_its_name_taken(
    strict: list[str], model: str, tmp_path: Path
) -> None:
    film, out = tmp_path / "film.mkv", tmp_path / "out.mkv"
    make_film(film, (5, 4))
    order = Order(
        film,
        out,
        references=(make_png(tmp_path / "a.png", 0),),
        model=model,
        colours=Colours(size=64, device="cpu"),
        threads=1,
    )
    render(order, lambda event, **facts: None)
    assert out.stat().st_size > 1000
    assert not list(tmp_path.glob("out.mkv.parts*"))
    assert [line for line in strict if line.startswith("replace")]
    with out.open(), pytest.raises(PermissionError):  # the fixture works
        out.unlink()


@pytest.mark.skipif(sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc")
@pytest.mark.parametrize("kept", [False, True])
def test_a_kept_heap_maps_no_page_twice(kept: bool) -> None:
    """Ask the system how many pages it maps for ten tensors of 40 MB, one after the other."""
    code = f"""
import resource, torch
from vsexvc.support.system import keep_heap
if {kept}:
    keep_heap()
for _ in range(10):
    torch.ones(10 * 2**20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(10 * 2**20)
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize())
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    tensors = int(found.stdout) / (40 * 2**20)
    assert tensors < 1 if kept else tensors > 9

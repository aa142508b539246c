"""Examine this environment step by step, for `python -m vsexvc check`.

VapourSynth skips a plugin that does not load, without a message. Therefore each part is loaded separately here, and for
each failure the remedy is printed. A step imports what it checks; it is skipped if a step that it requires has failed.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vsexvc import __version__
from vsexvc.support.errors import first_line

_REINSTALL = "pip install --force-reinstall --no-deps"
_FRAMES = 10
_LIBRARIES = (".so", ".dll", ".dylib")


class _Fault(Exception):
    """Report what is wrong. advice: the remedy."""

    def __init__(self, what: str, advice: str) -> None:
        super().__init__(what)
        self.advice = advice


@dataclass(frozen=True)
class Step:
    """Hold the result of one step. ok: None if it was skipped. help: the remedy, empty if there is no fault."""

    name: str
    ok: bool | None
    said: str
    help: str = ""


def run() -> list[Step]:
    """Run all steps, in order."""
    done: dict[str, Step] = {}
    for name, (needs, function) in _STEPS.items():
        missing = [need for need in needs if not done[need].ok]
        if missing:
            done[name] = Step(name, None, f"skipped: requires {', '.join(missing)}")
            continue
        try:
            done[name] = Step(name, True, function())
        except _Fault as fault:
            done[name] = Step(name, False, str(fault), fault.advice)
        except Exception as error:
            said = f"{type(error).__name__}: {first_line(error)}"
            done[name] = Step(name, False, said, "please report this with the output of python -m vsexvc check --json")
    return list(done.values())


def as_dict(steps: list[Step]) -> dict[str, Any]:
    """Return the result for --json."""
    return {"ok": all(step.ok for step in steps), "steps": [asdict(step) for step in steps]}


def lines(steps: list[Step]) -> list[str]:
    """Return the result as text: one line for each step, and one for each remedy."""
    out = []
    for step in steps:
        mark = {True: "ok", False: "FAILED", None: "-"}[step.ok]
        out.append(f"{step.name:12} {mark:7} {step.said}")
        if step.help:
            out.append(f"{'':12} help:   {step.help}")
    return out


# --- the steps: each returns its finding --------------------------------------------------------------------------


def _python() -> str:
    return f"{platform.python_version()}, {platform.system()} {platform.machine()}, {sys.executable}"


def _package() -> Path:
    """Return VapourSynth's folder."""
    spec = importlib.util.find_spec("vapoursynth")
    if spec is None or not spec.submodule_search_locations:
        raise _Fault("the package vapoursynth is not installed", "pip install 'vapoursynth>=77'")
    return Path(next(iter(spec.submodule_search_locations)))


def _foreign_library(folder: Path) -> str:
    """Return a libvapoursynth that this process has loaded from outside VapourSynth's own package; Linux only."""
    maps = Path("/proc/self/maps")
    mapped = [line.split(maxsplit=5) for line in maps.read_text().splitlines()] if maps.exists() else []
    found = [path for words in mapped if (path := Path(words[-1])).name.startswith("libvapoursynth.so")]
    return next((str(path) for path in found if path.parent != folder.resolve()), "")


def _crashes(code: str, *arguments: str) -> bool:
    """Return whether a separate Python crashes when it runs this code."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, check=False)
    return done.returncode < 0 or done.returncode > 0x80000000  # a signal; on Windows an exception's number


def _vapoursynth() -> str:
    folder = _package()
    if _crashes("import vapoursynth; vapoursynth.core.std"):  # as a truncated library does
        files = [path for path in sorted((folder / "plugins").rglob("*")) if path.suffix in _LIBRARIES]
        bad = [str(path) for path in files if _crashes("import ctypes, sys; ctypes.CDLL(sys.argv[1])", str(path))]
        raise _Fault(
            f"the process crashes while VapourSynth loads its plugins; damaged: {bad or 'none alone'}",
            f"{_REINSTALL} the package that contains the damaged file (for exvc: vsexvc)",
        )
    try:
        import vapoursynth as vs

        version = str(vs.core.core_version)
    except ImportError as error:
        elsewhere = _foreign_library(folder)
        raise _Fault(
            f"the package in {folder} cannot be imported: {first_line(error)}"
            + (f" ({elsewhere} is in use)" if elsewhere else ""),
            f"{_REINSTALL} vapoursynth; remove other libraries libvapoursynth from LD_LIBRARY_PATH and LD_PRELOAD",
        ) from None
    if elsewhere := _foreign_library(folder):
        raise _Fault(
            f"another libvapoursynth is in use: {elsewhere}, not that of {folder}",
            "remove it from LD_LIBRARY_PATH and LD_PRELOAD: VapourSynth looks for plugins beside the library in use",
        )
    return f"{version}, {folder}"


def _plugin() -> str:
    import vapoursynth as vs

    folder = _package() / "plugins" / "exvc"
    found = [path for path in folder.glob("exvc.*") if path.suffix in _LIBRARIES]
    if not found:
        raise _Fault(f"there is no plugin in {folder}", f"{_REINSTALL} vsexvc")
    if not hasattr(vs.core, "exvc"):
        try:
            vs.core.std.LoadPlugin(str(found[0]))
        except vs.Error as error:
            raise _Fault(
                f"{found[0]} does not load: {first_line(error)}", f"{_REINSTALL} vsexvc: the file is damaged or foreign"
            ) from None
        raise _Fault(f"{found[0]} loads, but VapourSynth did not look there", f"{_REINSTALL} vapoursynth vsexvc")
    names = {function.name for function in vs.core.exvc.functions()}
    if not {"Colorize", "Bind", "PyFilter"} <= names:
        raise _Fault(f"{vs.core.exvc.plugin_path} is of another version", f"remove it, then {_REINSTALL} vsexvc")
    return str(vs.core.exvc.plugin_path)


def _torch() -> str:
    try:
        import torch
    except ImportError as error:
        wanted = [need for need in importlib.metadata.requires("vsexvc") or [] if need.startswith("torch")]
        names = " ".join(f'"{need}"' for need in wanted)
        raise _Fault(f"torch cannot be imported: {first_line(error)}", f"pip install {names}") from None
    return f"{torch.__version__}, {torch.get_num_threads()} threads, CUDA {torch.version.cuda or 'not built in'}"


def _vsexvc() -> str:
    try:
        import vsexvc.plugin
    except ImportError as error:
        raise _Fault(f"vsexvc {__version__} cannot be imported: {first_line(error)}", "pip install vsexvc") from None
    return f"{__version__}, {Path(vsexvc.plugin.__file__).parent}"


def _weights() -> str:
    from vsexvc.weights import store

    try:
        path = store.find(None)
        parameters = sum(parameter.numel() for parameter in store.load_file(path).parameters())
    except (ValueError, OSError) as error:
        raise _Fault(first_line(error), f"{_REINSTALL} vsexvc") from None
    return f"{store.DEFAULT}, {parameters} parameters, {path}"


def _device() -> str:
    import torch

    from vsexvc.backends.options import BACKENDS, precisions, unavailable

    device = "cuda" if torch.cuda.is_available() else "cpu"
    name = f" ({torch.cuda.get_device_name()})" if device == "cuda" else ""
    backends = ", ".join(backend for backend in BACKENDS if not unavailable(backend, device))
    return f"{device}{name}, precision {precisions(device)[0]}, backends {backends}"


def _speed() -> str:
    import vapoursynth as vs

    core = vs.core
    clip = core.std.BlankClip(format=vs.YUV420P8, width=640, height=360, length=_FRAMES, color=[90, 128, 128])
    ref = core.std.BlankClip(format=vs.RGB24, width=640, height=360, length=1, color=[200, 120, 60])
    out = core.exvc.Colorize(clip, ref)
    began = time.perf_counter()
    for frame in out.frames(close=True):
        if "ExvcReference" not in frame.props:
            raise _Fault("a frame lacks its properties", "another plugin may have the namespace exvc")
    seconds = time.perf_counter() - began
    return f"{_FRAMES} frames of 640x360 in {seconds:.2f} s, {_FRAMES / seconds:.1f} a second, with the first"


def _vspipe() -> str:
    found = shutil.which("vspipe")
    if found is None:
        near = shutil.which("vspipe", path=str(Path(sys.executable).parent))
        advice = f"put {Path(near).parent} on PATH" if near else f"{_REINSTALL} vapoursynth"
        raise _Fault("vspipe is not on PATH: scripts run in editors that find this Python, not in a terminal", advice)
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "check.vpy"
        script.write_text(
            "import vapoursynth as vs\nvs.core.exvc.Colorize\nvs.core.std.BlankClip(length=1).set_output()\n"
        )
        command = [found, "--info", str(script)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, env=os.environ)
    if done.returncode:
        said = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()] or ["nothing"]
        raise _Fault(
            f"{found} does not find the plugin; it says: {said[-1]}",
            "it belongs to another environment: activate this one, or run vapoursynth config in it",
        )
    return found


_STEPS: dict[str, tuple[tuple[str, ...], Callable[[], str]]] = {
    "python": ((), _python),
    "vapoursynth": (("python",), _vapoursynth),
    "plugin": (("vapoursynth",), _plugin),
    "torch": (("python",), _torch),
    "vsexvc": (("vapoursynth", "torch"), _vsexvc),
    "weights": (("vsexvc",), _weights),
    "device": (("torch",), _device),
    "speed": (("plugin", "weights"), _speed),
    "vspipe": (("plugin",), _vspipe),
}

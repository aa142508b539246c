"""Test native/exvc.c: PyFilter with plain Python callables, Colorize's binding, hosts without Python."""

from __future__ import annotations

import gc
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import vapoursynth as vs

core = vs.core
LENGTH = 10


def counting(first: int = 0, format: int = vs.GRAY8, length: int = LENGTH) -> vs.VideoNode:
    """Make a clip whose frame n holds the value first + n."""
    frames = [core.std.BlankClip(format=format, width=32, height=16, length=1, color=first + n) for n in range(length)]
    return core.std.Splice(frames)


def uncached(format: int, side: int, length: int) -> vs.VideoNode:
    """Make a clip that allocates a new frame for every request."""
    clip = core.std.BlankClip(format=format, width=side, height=side, length=length)
    clip.std.SetVideoCache(mode=0)
    return clip


def value(clip: vs.VideoNode, n: int) -> int:
    with clip.get_frame(n) as frame:
        return int(np.asarray(frame[0])[0, 0])


def identity(n: int, nums: int, clips: int, frames: vs.VideoFrame) -> dict[str, Any]:
    return {"frame": frames}


class TestPyFilter:
    def test_identity(self) -> None:
        out = core.exvc.PyFilter(clips=[counting()], step=identity)
        assert (out.format.id, out.width, out.height, out.num_frames) == (vs.GRAY8, 32, 16, LENGTH)
        assert [value(out, n) for n in range(LENGTH)] == list(range(LENGTH))

    def test_first_call_brings_the_first_clip_at_n_as_scalars(self) -> None:
        seen: list[tuple[Any, ...]] = []

        def step(n: int, nums: Any, clips: Any, frames: Any) -> dict[str, Any]:
            seen.append((n, nums, clips, type(frames)))
            return {"frame": frames}

        core.exvc.PyFilter(clips=[counting(), counting(100)], step=step).get_frame(4).close()
        assert seen == [(4, 4, 0, vs.VideoFrame)]

    def test_needs_over_several_clips_come_in_the_order_asked(self) -> None:
        def step(n: int, nums: Any, clips: Any, frames: Any) -> dict[str, Any]:
            if isinstance(nums, int):
                return {"need": [7, 2, 7, n], "need_clip": [1, 0, 0, 1]}
            assert (nums, clips) == ([7, 2, 7, n], [1, 0, 0, 1])
            values = [int(np.asarray(frame[0])[0, 0]) for frame in frames]
            answer = core.std.BlankClip(format=vs.GRAY16, width=64, height=8, length=1, color=sum(values))
            return {"frame": answer.get_frame(0)}

        out = core.exvc.PyFilter(clips=[counting(), counting(100)], step=step, format=vs.GRAY16, width=64, height=8)
        assert (out.format.id, out.width, out.height) == (vs.GRAY16, 64, 8)
        for n in (3, 9, 0):
            assert value(out, n) == 107 + 2 + 7 + 100 + n

    def test_many_rounds_in_one_request(self) -> None:
        def step(n: int, nums: int, clips: int, frames: vs.VideoFrame) -> dict[str, Any]:
            return {"need": nums - 1, "need_clip": 0} if nums else {"frame": frames}

        assert value(core.exvc.PyFilter(clips=[counting(50)], step=step), 9) == 50

    def test_requests_from_many_threads(self) -> None:
        inside = 0

        def step(n: int, nums: int, clips: int, frames: vs.VideoFrame) -> dict[str, Any]:
            nonlocal inside
            inside += 1
            try:
                assert inside == 1, "steps overlap"
                return {"frame": frames} if clips == 1 else {"need": [n], "need_clip": [1]}
            finally:
                inside -= 1

        out = core.exvc.PyFilter(clips=[counting(length=100), counting(100, length=100)], step=step)
        order = random.Random(0).sample(range(100), 100)
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(lambda n: value(out, n), order)) == [100 + n for n in order]

    @pytest.mark.parametrize(
        ("answer", "text"),
        [
            ({"error": "the text"}, "the text"),
            ({}, "PyFilter: step answered frame 3 with no frame, need or error"),
            (None, "PyFilter: step answered frame 3 with no frame, need or error"),
            ({"need": [], "need_clip": []}, "PyFilter: step answered frame 3 with no frame, need or error"),
            ({"need": [1, 2], "need_clip": [0]}, "PyFilter: step answered frame 3 with 2 in need and 1 in need_clip"),
            ({"need": [1]}, "PyFilter: step answered frame 3 with 1 in need and 0 in need_clip"),
            ({"need": ["a"], "need_clip": [0]}, "PyFilter: need and need_clip of frame 3 must hold integers"),
            ({"need": [10], "need_clip": [0]}, "asked for frame 10 of clip 0 at frame 3, must be 0..9"),
            ({"need": [-1], "need_clip": [0]}, "asked for frame -1 of clip 0 at frame 3, must be 0..9"),
            ({"need": [2**40], "need_clip": [0]}, "asked for frame 1099511627776 of clip 0"),
            ({"need": [0], "need_clip": [1]}, "PyFilter: step asked for clip 1 at frame 3, must be 0..0"),
            ({"need": [0], "need_clip": [-1]}, "PyFilter: step asked for clip -1 at frame 3, must be 0..0"),
        ],
    )
    def test_bad_answers_are_errors(self, answer: Any, text: str) -> None:
        out = core.exvc.PyFilter(clips=[counting()], step=lambda **_: answer)
        with pytest.raises(vs.Error) as caught:
            out.get_frame(3)
        assert text in str(caught.value)

    @pytest.mark.parametrize(
        ("given", "seen"),
        [
            ({"width": 64}, "Gray8 64x16"),
            ({"height": 8}, "Gray8 32x8"),
            ({"format": vs.GRAY16}, "Gray16 32x16"),
            ({"format": vs.GRAYS}, "GrayS 32x16"),
            ({"format": vs.YUV444P8}, "YUV444P8 32x16"),
        ],
    )
    def test_a_frame_other_than_declared_is_an_error(self, given: dict[str, int], seen: str) -> None:
        wrong = core.std.BlankClip(**{"format": vs.GRAY8, "width": 32, "height": 16, "length": 1, **given})
        out = core.exvc.PyFilter(clips=[counting()], step=lambda **_: {"frame": wrong.get_frame(0)})
        with pytest.raises(vs.Error, match=f"answered frame 5 with {seen}, must be Gray8 32x16"):
            out.get_frame(5)

    @pytest.mark.parametrize("raised", [ValueError, KeyboardInterrupt])
    def test_what_step_raises_comes_out(self, raised: type[BaseException]) -> None:
        def step(**_: Any) -> dict[str, Any]:
            raise raised("from inside")

        out = core.exvc.PyFilter(clips=[counting()], step=step)
        expected = KeyboardInterrupt if raised is KeyboardInterrupt else vs.Error
        with pytest.raises(expected, match="from inside"):
            out.get_frame(0)

    def test_an_upstream_error_comes_through(self) -> None:
        def fail(n: int, f: vs.VideoFrame) -> vs.VideoFrame:
            raise RuntimeError("upstream")

        clip = counting()
        broken = clip.std.ModifyFrame(clip, fail)
        out = core.exvc.PyFilter(clips=[clip, broken], step=lambda n, **_: {"need": [n], "need_clip": [1]})
        with pytest.raises(vs.Error, match="upstream"):
            out.get_frame(0)

    @pytest.mark.parametrize(
        ("given", "text"),
        [
            ({"format": (vs.GRAY << 28) | (99 << 16)}, "format is not the id"),
            ({"format": -1}, "format is not the id"),
            ({"format": 0}, "must be given"),
            ({"width": 0}, "sizes from 1"),
            ({"height": -5}, "sizes from 1"),
            ({"format": vs.YUV420P8, "width": 31}, "multiples of the format's subsampling"),
        ],
    )
    def test_bad_declarations_are_errors(self, given: dict[str, int], text: str) -> None:
        with pytest.raises(vs.Error, match=text):
            core.exvc.PyFilter(clips=[counting()], step=identity, **given)

    def test_a_clip_that_varies_needs_a_declaration(self) -> None:
        varying = core.std.Splice([counting(), core.std.BlankClip(width=8, height=8, length=1)], mismatch=True)
        with pytest.raises(vs.Error, match="must be given where"):
            core.exvc.PyFilter(clips=[varying], step=identity)
        out = core.exvc.PyFilter(clips=[varying], step=identity, format=vs.GRAY8, width=32, height=16)
        assert value(out, 2) == 2
        with pytest.raises(vs.Error, match="with RGB24 8x8, must be Gray8 32x16"):
            out.get_frame(LENGTH)

    def test_frames_of_former_rounds_are_let_go(self) -> None:
        size = 1 << 20
        clip = uncached(vs.GRAY8, 1024, length=40)
        before, used = core.used_cache_size, []

        def step(n: int, nums: int, clips: int, frames: vs.VideoFrame) -> dict[str, Any]:
            used.append(core.used_cache_size - before)
            return {"need": [nums - 1], "need_clip": [0]} if nums else {"frame": frames}

        core.exvc.PyFilter(clips=[clip], step=step).get_frame(39).close()
        assert len(used) == 40
        assert max(used) <= 4 * size

    def test_errors_leave_no_frame_behind(self) -> None:
        clip, wrong = uncached(vs.GRAY8, 512, length=50), uncached(vs.GRAY16, 512, length=50)
        before = core.used_cache_size

        def step(n: int, nums: Any, clips: Any, frames: Any) -> dict[str, Any]:
            if isinstance(nums, int):
                return {"need": [n, 3, n], "need_clip": [0, 0, 1]}
            if n % 3 == 0:
                raise ValueError("raised")
            return {"frame": [wrong.get_frame(n), frames[0]]} if n % 3 == 1 else {"error": "text", "frame": frames}

        out = core.exvc.PyFilter(clips=[clip, clip], step=step)
        for n in range(50):
            with pytest.raises(vs.Error, match=r"raised|Gray16|text"):
                out.get_frame(n)
        assert core.used_cache_size - before <= 4 * 512 * 512

    def test_the_filter_frees_its_step_and_clips(self) -> None:
        class Watched:
            alive = 0

            def __init__(self, call: Callable[..., Any]) -> None:
                self.call = call
                Watched.alive += 1

            def __del__(self) -> None:
                Watched.alive -= 1

            def __call__(self, **arguments: Any) -> Any:
                return self.call(**arguments)

        clip = counting()
        watched = clip.std.ModifyFrame(clip, Watched(lambda n, f: f))
        out = core.exvc.PyFilter(clips=[watched], step=Watched(identity))
        out.get_frame(0).close()
        assert Watched.alive == 2
        with pytest.raises(vs.Error):
            core.exvc.PyFilter(clips=[watched], step=Watched(identity), width=0)
        assert Watched.alive == 2
        del out, watched
        gc.collect()
        assert Watched.alive == 0


def run_python(code: str, path: Path) -> subprocess.CompletedProcess[str]:
    """Run code in a new interpreter in `path`, which is first on its module path."""
    environment = {**os.environ, "PYTHONPATH": str(path)}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=path)


WAIT = """
import concurrent.futures, signal, sys, time
import vapoursynth as vs

class Interrupted(KeyboardInterrupt):
    def __bool__(self):
        return True

def interrupt():
    raise Interrupted("from inside")

rounds = 0

def step(n, nums, clips, frames):
    global rounds
    if n == 0:
        return {"frame": frames}
    time.sleep(0.01)
    rounds += 1
    if rounds == 40:
        print("waits", flush=True)
    return {"need": [nums], "need_clip": [0]}

clip = vs.core.std.BlankClip(length=40)
out = vs.core.exvc.PyFilter(clips=[clip], step=step, interrupt=interrupt)
plain = vs.core.exvc.PyFilter(clips=[clip], step=step)

def caught(ask):
    global rounds
    rounds = 0
    try:
        ask()
    except BaseException as error:
        for _ in range(1000):  # where a second one would be raised
            time.sleep(0)
        print(type(error).__name__, error, flush=True)

def futures():
    asked = [out.get_frame_async(n) for n in range(40)]
    try:
        return [future.result() for future in asked]
    finally:
        concurrent.futures.wait(asked)

def finished():
    with out.get_frame(0):
        print("goes on", flush=True)
"""


def interrupted(code: str, path: Path) -> tuple[int, str, str]:
    """Run a script and send SIGINT whenever it prints "waits"; return exit status, output and errors."""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=path) as process:
        watchdog = threading.Timer(60, process.kill)
        watchdog.start()
        assert process.stdout is not None
        assert process.stderr is not None
        said = []
        for line in process.stdout:
            if line == "waits\n":
                process.send_signal(signal.SIGINT)
            else:
                said.append(line)
        errors = process.stderr.read()
        watchdog.cancel()
    return process.returncode, "".join(said), errors


class TestCtrlC:
    """Ctrl-C ends requests that would never end; after a failure SIGKILL ends the script within a minute."""

    @pytest.mark.parametrize(
        ("ask", "threads"),
        [
            ("out.get_frame(1)", 1),
            ("out.get_frame(1)", 4),
            ("list(out[1:].frames(close=True))", 1),
            ("list(out[1:].frames(close=True))", 4),
            ("out[1:].output(open('/dev/null', 'wb'))", 4),
            # With one thread the filter does not get the other requests before the first has ended.
            ("futures()", 4),
            ("out.std.AverageFrames([1] * 9).get_frame(10)", 4),
        ],
    )
    def test_one_interrupt_and_the_clip_goes_on(self, ask: str, threads: int, tmp_path: Path) -> None:
        code = f"{WAIT}\nvs.core.num_threads = {threads}\nfor _ in range(2):\n    caught(lambda: {ask})\n    finished()"
        assert interrupted(code, tmp_path) == (0, "KeyboardInterrupt \ngoes on\n" * 2, "")

    @pytest.mark.parametrize(
        "ask",
        [
            "out.get_frame(1)",
            "list(out[1:].frames())",
            "[out.get_frame_async(n) for n in range(40)]; time.sleep(1000)",
        ],
    )
    def test_uncaught_it_ends_the_script(self, ask: str, tmp_path: Path) -> None:
        """The exit status is that of a process ended by the signal, and the last line is Python's usual one."""
        code, said, errors = interrupted(f"{WAIT}\n{ask}", tmp_path)
        assert (code, said, errors.splitlines()[-1]) == (-signal.SIGINT, "", "KeyboardInterrupt")

    @pytest.mark.parametrize(
        ("handler", "text"),
        [
            ("signal.default_int_handler", "KeyboardInterrupt "),
            ("lambda *_: sys.exit(7)", "SystemExit 7"),
            ("lambda *_: print('seen')", "seen\nInterrupted from inside"),
        ],
    )
    def test_the_scripts_own_handler_is_called(self, handler: str, text: str, tmp_path: Path) -> None:
        """The request also ends if the handler does not raise."""
        code = f"{WAIT}\nfinished()\nsignal.signal(signal.SIGINT, {handler})\ncaught(lambda: out.get_frame(1))"
        assert interrupted(code, tmp_path) == (0, f"goes on\n{text}\n", "")

    def test_the_default_action_is_left_alone(self, tmp_path: Path) -> None:
        code = f"{WAIT}\nsignal.signal(signal.SIGINT, signal.SIG_DFL)\ncaught(lambda: out.get_frame(1))"
        assert interrupted(code, tmp_path) == (-signal.SIGINT, "", "")

    def test_a_filter_without_interrupt_ends_in_an_error(self, tmp_path: Path) -> None:
        code = f"{WAIT}\ncaught(lambda: print(repr(plain.get_frame_async(1).exception())))"
        future = f"{WAIT}\nf = plain.get_frame_async(1)\ncaught(f.result)\nprint(repr(f.exception()))"
        assert interrupted(code, tmp_path)[:2] == (0, "KeyboardInterrupt \n")
        assert interrupted(future, tmp_path)[:2] == (0, "KeyboardInterrupt \n'PyFilter: interrupted'\n")

    def test_the_library_stays_for_its_handler(self, tmp_path: Path) -> None:
        """The plugin's library stays loaded after its core is freed, because its signal handler may still be called."""
        code = """
        import gc, os, signal, time
        import vapoursynth as vs

        class Policy(vs.EnvironmentPolicy):
            environment = None
            def on_policy_registered(self, api):
                self.api = api
            def get_current_environment(self):
                return self.environment
            def set_environment(self, environment):
                previous, self.environment = self.environment, environment
                return previous

        policy = Policy()
        vs.register_policy(policy)
        environment = policy.api.create_environment()
        with policy.api.wrap_environment(environment).use():
            clip = vs.core.std.BlankClip(length=1)
            vs.core.exvc.PyFilter(clips=[clip], step=lambda frames, **_: {"frame": frames}).get_frame(0).close()
            path = vs.core.exvc.plugin_path
        del clip
        policy.api.destroy_environment(environment)
        gc.collect()
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(10)
        except KeyboardInterrupt:
            print("mapped", path in open("/proc/self/maps").read())
        """
        done = run_python(textwrap.dedent(code), tmp_path)
        assert (done.returncode, done.stdout) == (0, "mapped True\n"), done.stderr


PLUGIN = """
import vapoursynth as vs

def entry(clip, ref, **options):
    action = options.get("model")
    if action == "error":
        return {"error": "Colorize: an error text"}
    if action == "raise":
        raise KeyboardInterrupt("pressed")
    if action == "nothing":
        return {}
    seen = clip.std.SetFrameProps(seen=" ".join(f"{k}={v!r}" for k, v in sorted(options.items())))
    return {"clip": seen}

def bind():
    vs.core.exvc.Bind(func=entry)
"""

CALL = """
import vapoursynth as vs
clip = vs.core.std.BlankClip(length=3)
def call(*args, **options):
    try:
        return vs.core.exvc.Colorize(*args, **options)
    except BaseException as error:
        print(type(error).__name__, error)
"""


def package(folder: Path, plugin: str) -> Path:
    """Write a package vsexvc in `folder` whose plugin module is `plugin`."""
    (folder / "vsexvc").mkdir()
    (folder / "vsexvc" / "__init__.py").write_text("")
    (folder / "vsexvc" / "plugin.py").write_text(plugin)
    return folder


class TestColorize:
    def test_arguments_reach_the_entry_and_its_clip_comes_back(self, tmp_path: Path) -> None:
        done = run_python(
            CALL + "print(call(clip, clip, size=7, ref_frames=[1, 2], sc_threshold=0.5).get_frame(0).props.seen)",
            package(tmp_path, PLUGIN),
        )
        assert done.stdout == "ref_frames=[1, 2] sc_threshold=0.5 size=7\n", done.stderr

    def test_errors_of_the_entry(self, tmp_path: Path) -> None:
        code = "call(clip, clip, model='error'); call(clip, clip, model='raise'); call(clip, clip, model='nothing')"
        done = run_python(CALL + code, package(tmp_path, PLUGIN))
        assert done.stdout.splitlines() == [
            "Error Colorize: an error text",
            "KeyboardInterrupt pressed",
            "Error Colorize: vsexvc.plugin answered with neither a clip nor an error",
        ], done.stderr

    def test_calls_keep_no_reference_to_the_entry(self, tmp_path: Path) -> None:
        code = """
        import contextlib, gc, sys
        import vsexvc.plugin
        call(clip, clip, model="nothing")
        before = sys.getrefcount(vsexvc.plugin.entry)
        for model in ["error", "nothing", "x"] * 10:
            with contextlib.suppress(vs.Error):
                vs.core.exvc.Colorize(clip, clip, model=model)
        gc.collect()
        print("kept", sys.getrefcount(vsexvc.plugin.entry) - before)
        """
        done = run_python(CALL + textwrap.dedent(code), package(tmp_path, PLUGIN))
        assert done.stdout.splitlines()[-1] == "kept 0", done.stderr

    @pytest.mark.parametrize(
        ("plugin", "text"),
        [
            ("raise ImportError('no torch here')", "could not be imported: ImportError('no torch here')"),
            ("", "bind() failed: AttributeError("),
            ("def bind(): 1 / 0", "bind() failed: ZeroDivisionError("),
            ("def bind(): pass", "bind() bound no entry point"),
        ],
    )
    def test_a_package_that_does_not_bind(self, plugin: str, text: str, tmp_path: Path) -> None:
        done = run_python(CALL + "call(clip, clip)", package(tmp_path, plugin))
        assert done.stdout.startswith("Error Colorize: ")
        assert text in done.stdout
        assert done.stdout.count("\n") == 1

    def test_an_environment_without_the_package(self, tmp_path: Path) -> None:
        done = run_python(f"import sys; sys.modules['vsexvc'] = None\n{CALL}\ncall(clip, clip)", tmp_path)
        assert done.stdout.startswith("Error Colorize: the Python package vsexvc could not be imported: ModuleNotFound")

    def test_a_missing_ref_is_the_cores_own_message(self) -> None:
        with pytest.raises(vs.Error, match="ref is required"):
            core.exvc.Colorize(counting())

    def test_bind_alone_is_an_error(self) -> None:
        with pytest.raises(vs.Error, match="Bind: internal"):
            core.exvc.Bind(func=identity)


HOST = r"""
#include <dlfcn.h>
#include <stdio.h>
#include <VapourSynth4.h>

int main(int argc, char **argv) {
    (void)argc;
    void *library = dlopen(argv[1], RTLD_NOW);
    if (!library) { puts(dlerror()); return 1; }
    VSGetVapourSynthAPI get = (VSGetVapourSynthAPI)dlsym(library, "getVapourSynthAPI");
    const VSAPI *vs = get(VAPOURSYNTH_API_VERSION);
    VSCore *core = vs->createCore(ccfDisableAutoLoading);
    VSPlugin *std = vs->getPluginByID("com.vapoursynth.std", core);
    VSMap *in = vs->createMap();
    vs->mapSetData(in, "path", argv[2], -1, dtUtf8, maReplace);
    VSMap *out = vs->invoke(std, "LoadPlugin", in);
    if (vs->mapGetError(out)) { puts(vs->mapGetError(out)); return 1; }
    vs->freeMap(out);
    vs->clearMap(in);
    out = vs->invoke(std, "BlankClip", in);
    VSNode *clip = vs->mapGetNode(out, "clip", 0, NULL);
    vs->freeMap(out);
    vs->mapSetNode(in, "clip", clip, maReplace);
    vs->mapSetNode(in, "ref", clip, maReplace);
    vs->freeNode(clip);
    out = vs->invoke(vs->getPluginByNamespace("exvc", core), "Colorize", in);
    puts(vs->mapGetError(out) ? vs->mapGetError(out) : "no error");
    vs->freeMap(out);
    vs->freeMap(in);
    vs->freeCore(core);
    return 0;
}
"""


def test_a_host_without_python_gets_an_error(compile_host: Callable[[Path, Path], None], tmp_path: Path) -> None:
    library = next(Path(vs.__file__).parent.glob("libvapoursynth.so*"))
    source, host = tmp_path / "host.c", tmp_path / "host"
    source.write_text(HOST)
    compile_host(source, host)
    done = subprocess.run(
        [host, library, core.exvc.plugin_path], capture_output=True, text=True, check=False, env={"PATH": ""}
    )
    assert done.stdout.startswith("Colorize: needs Python 3.12 or later"), done
    assert (done.returncode, done.stderr) == (0, "")

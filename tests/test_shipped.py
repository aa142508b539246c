"""Test shipped weights in the filter on real clips: order of requests, memory, silence. Needs ../shared/data."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import vapoursynth as vs
from scipy.stats import theilslopes

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
CLIPS = sorted((DATA / "train_clips").glob("rave-video*.mp4"))
needs_data = pytest.mark.skipif(len(CLIPS) < 12, reason=f"needs the real clips of {DATA}")
SMALL = 64  # network's size: the order of requests does not depend on it, and this is ten times as fast


def script(folder: Path, frames: int, size: int) -> Path:
    """Write a .vpy that colours `frames` frames of several real clips, with cuts, after the first frame."""
    path = folder / "real.vpy"
    path.write_text(
        "import vapoursynth as vs\n"
        "core = vs.core\n"
        f"clips = {[str(p) for p in CLIPS[:12]]!r}\n"
        f"parts = [core.bs.VideoSource(p, showprogress=False, cachepath={str(folder / 'index')!r}) for p in clips]\n"
        "parts = [p.resize.Bilinear(384, 216, format=vs.YUV420P8) for p in parts]\n"
        f"clip = core.std.Splice([p[:{max(20, frames // 8)}] for p in parts])[:{frames}].std.AssumeFPS(fpsnum=24)\n"
        "grey = core.std.ShufflePlanes(clip, 0, vs.GRAY)\n"
        f"coloured = core.exvc.Colorize(grey, clip[0], size={size})\n"
        "coloured.set_output()\n"
    )
    return path


def load(path: Path):  # type: ignore[no-untyped-def]
    variables: dict[str, object] = {}
    exec(compile(path.read_text(), str(path), "exec"), variables)
    return variables["coloured"]


def digests(clip, order: list[int], threads: int) -> dict[int, tuple[str, int]]:  # type: ignore[no-untyped-def]
    """Return a hash of the planes and the scene's start by frame number."""

    def one(n: int) -> tuple[int, tuple[str, int]]:
        with clip.get_frame(n) as frame:
            digest = hashlib.sha256(b"".join(bytes(frame[plane]) for plane in range(3))).hexdigest()
            return n, (digest, frame.props["ExvcSceneStart"])

    with ThreadPoolExecutor(threads) as pool:
        return dict(pool.map(one, order))


@needs_data
@pytest.mark.parametrize(
    ("frames", "size"), [(60, SMALL), pytest.param(300, 216, marks=pytest.mark.slow)], ids=["small", "full size"]
)
def test_any_order_gives_the_same_bytes(tmp_path: Path, frames: int, size: int) -> None:
    path = script(tmp_path, frames, size)
    forward = digests(load(path), list(range(frames)), 1)
    assert len({start for _, start in forward.values()}) >= 3
    assert digests(load(path), list(range(frames - 1, -1, -1)), 1) == forward
    assert digests(load(path), random.Random(7).sample(range(frames), frames), 8) == forward
    vspipe = Path(sys.executable).with_name("vspipe")
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}  # the last bits depend on it
    command = [str(vspipe), "-r", "16", str(path), "-"]
    stream = subprocess.run(command, capture_output=True, check=True, env=environment).stdout
    step = 384 * 216 * 3
    assert len(stream) == frames * step
    for n, (digest, _) in forward.items():
        assert hashlib.sha256(stream[n * step : (n + 1) * step]).hexdigest() == digest, n


MEASURE = """
import json, resource, sys
import vapoursynth as vs
core = vs.core
core.max_cache_size = 256
width, height, frames, size = map(int, sys.argv[1:])
luma = core.std.BlankClip(format=vs.GRAY8, width=width, height=height, length=frames, color=90)
line = core.std.BlankClip(luma, width=8, color=200)
clip = core.std.FrameEval(luma, lambda n: core.std.StackHorizontal([luma, line, luma])
                          .std.CropAbs(width, height, left=8 * (n % (width // 8)))
                          .std.SetFrameProps(_SceneChangePrev=0))
clip = clip.std.SetFrameProps(_SceneChangePrev=0)
ref = core.std.BlankClip(format=vs.RGB24, width=width, height=height, length=1, color=[200, 90, 40])
out = core.exvc.Colorize(clip, ref, size=size, device="cpu")

def resident():
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * resource.getpagesize() / 2**20

held = [resident() for frame in out.frames(close=True)]
print(json.dumps({"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "held": held}))
"""


def measure(*numbers: int) -> tuple[float, list[float]]:
    """Return the memory in MiB of a process that colours a moving line: the peak, and after each frame."""
    command = [sys.executable, "-c", MEASURE, *map(str, numbers)]
    # Frames and tensors are mapped, and freed ones return to the system: holes in malloc's heap would look like growth.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    report = json.loads(subprocess.run(command, capture_output=True, check=True, text=True, env=environment).stdout)
    return report["peak"], report["held"]


@pytest.mark.slow
def test_1080p_stays_below_two_gigabytes() -> None:
    assert measure(1920, 1080, 60, 216)[0] < 2048


def test_memory_does_not_grow() -> None:
    """Once the caches are full, memory grows by less than a third of a frame's bytes for each frame.

    The least of each 20 frames counts, because a block needs memory only while it is computed.
    """
    _, held = measure(384, 216, 700, SMALL)
    least = np.min(np.reshape(held[300:], (-1, 20)), axis=1)
    slope = theilslopes(least).slope / 20
    print(f"{1024 * slope:.1f} KiB a frame")
    assert slope < 384 * 216 / 3 / 2**20


def test_import_is_silent_and_leaves_no_trace() -> None:
    code = (
        "import os, sys, warnings\n"
        "before, filters = dict(os.environ), list(warnings.filters)\n"
        "import vsexvc\n"
        "assert 'torch' not in sys.modules\n"
        "import torch\n"
        "def flags():\n"
        "    cudnn = torch.backends.cudnn.benchmark\n"
        "    return torch.get_num_threads(), torch.is_grad_enabled(), torch.get_default_dtype(), cudnn\n"
        "state = flags()\n"
        "environment = dict(os.environ)\n"
        "from vsexvc import colorize\n"
        "assert flags() == state\n"
        "assert dict(os.environ) == environment\n"
        "assert list(warnings.filters)[-len(filters):] == filters\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (result.stdout, result.stderr) == ("", "")


VALIDATION = sorted((DATA / "val_clips").glob("*.mp4"))


@pytest.mark.numbers
@pytest.mark.skipif(len(VALIDATION) < 20, reason=f"needs the validation clips of {DATA}")
@pytest.mark.parametrize("propagate", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_on_its_own_frame_the_reference_comes_back(propagate: bool, tmp_path: Path) -> None:
    """The grey first frame of each clip gets its own colours back: mean PSNR in 8-bit RGB is 32 dB or more."""
    psnr = []
    for path in VALIDATION if propagate else VALIDATION[::2]:
        clip = vs.core.bs.VideoSource(str(path), showprogress=False, cachepath=str(tmp_path / "index"))[0]
        clip = clip.resize.Bicubic(384, 216, format=vs.RGB24, matrix_in=vs.MATRIX_ST170_M)
        grey = clip.resize.Bicubic(format=vs.GRAY16, matrix=vs.MATRIX_BT709, range=vs.RANGE_FULL)
        grey = grey.std.SetFrameProps(_Matrix=vs.MATRIX_BT709)
        out = vs.core.exvc.Colorize(grey, clip, propagate=propagate, device="cpu")
        out = out.resize.Bicubic(format=vs.RGB24)
        with clip.get_frame(0) as truth, out.get_frame(0) as found:
            error = np.concatenate([np.asarray(found[i]).astype(float) - np.asarray(truth[i]) for i in range(3)])
        psnr.append(10 * np.log10(255**2 / np.mean(error**2)))
    print(f"propagate={propagate}: mean {np.mean(psnr):.2f} dB, lowest {min(psnr):.2f}")
    assert np.mean(psnr) >= 32.0

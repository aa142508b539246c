"""Test that no byte is wrong with three chained instances, many threads, random requests, a small cache and errors.

Each instance colours the output of the one before: the low byte of its luma is the low byte of that instance's U. A
wrong byte thus changes the rest of its scene in all later instances. A plain loop over the frames in order gives the
truth. Each case runs in its own process, with a watchdog that prints the stacks of all threads.

    python tests/test_stress.py '{"requests": 10000}'      runs one case; prints its report as JSON
"""

from __future__ import annotations

import dataclasses
import faulthandler
import gc
import hashlib
import json
import os
import random
import subprocess
import sys
import threading
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import vapoursynth as vs
from scipy.stats import theilslopes
from skimage import color as skcolor
from torch import Tensor

from vsexvc import graph, plugin
from vsexvc.graph import build
from vsexvc.output import REPORTED
from vsexvc.schedule import Schedule
from vsexvc.typical import LOOK, thumbnail, typical_frame

core = vs.core
WIDTH, HEIGHT = 72, 48  # so large that VapourSynth's frames need several times the small cache
SMALL_WIDTH, SMALL_HEIGHT = 24, 16  # inside the net
Codes = np.ndarray[Any, np.dtype[np.uint16]]  # luma of frames, GRAY16 of full range


@dataclass(frozen=True)
class Case:
    """Describe one run.

    Attributes:
        requests: frames that are requested and compared.
        length: frames of the clip.
        threads: VapourSynth's threads.
        cache: VapourSynth's cache in MB; None: its own choice.
        callers: Python threads; each requests `IN_FLIGHT` frames at a time.
        errors: share of the requests to sources that fail.
    """

    requests: int = 4_000
    length: int = 300
    threads: int = 12
    cache: int | None = 20
    callers: int = 4
    errors: float = 0.005
    seed: int = 0


IN_FLIGHT = 6
INJECTED = "source: injected error"

# --- the net: its output depends, to the last bit, on every frame since the start of the state ------------------------

PICTURES = {  # R'G'B' of the references, which are flat pictures
    0: (0.80, 0.25, 0.20),
    1: (0.15, 0.45, 0.20),
    2: (0.25, 0.35, 0.90),
    3: (0.90, 0.80, 0.20),
    4: (0.45, 0.10, 0.50),
}
PICTURES_LAB = {index: skcolor.rgb2lab(np.array(rgb)) for index, rgb in PICTURES.items()}


@dataclass(frozen=True)
class Aligned:
    codes: Tensor  # (1, 1, h, w), 0..1 in steps of 1/65535
    similarity: Tensor
    picture: int


class ChaoticNet(torch.nn.Module):
    """Compute the sine of a convolution over previous frame, frame and reference, so that differences persist."""

    def __init__(self) -> None:
        super().__init__()
        weight = torch.randn((2, 5, 3, 3), generator=torch.Generator().manual_seed(7))
        self.weight = torch.nn.Parameter(weight, requires_grad=False)

    def align(self, codes: Tensor, picture: int) -> Aligned:
        return Aligned(codes, 1.0 - (codes - float(PICTURES_LAB[picture][0]) / 100.0).abs(), picture)

    def forward(self, previous: Tensor, aligned: Aligned) -> Tensor:
        a, b = (torch.full_like(aligned.codes, float(value) / 100.0) for value in PICTURES_LAB[aligned.picture][1:])
        x = torch.cat((previous, aligned.codes, a, b), dim=1)
        x = torch.nn.functional.pad(x, (1, 1, 1, 1), mode="circular")
        return torch.sin(torch.nn.functional.conv2d(x, self.weight))

    def start(self, picture: int | None) -> Tensor:
        a, b = (0.0, 0.0) if picture is None else PICTURES_LAB[picture][1:]
        return torch.tensor((float(a), float(b))).div(100.0).view(1, 2, 1, 1).repeat(1, 1, SMALL_HEIGHT, SMALL_WIDTH)


class NetSession:
    """Give the net the interface of a session (vsexvc.pump.SessionLike)."""

    def __init__(self, net: ChaoticNet) -> None:
        self.net = net

    def reference(self, lab: Tensor) -> int:
        mean = lab.mean((0, 2, 3)).numpy()
        return min(PICTURES, key=lambda picture: float(np.abs(mean - PICTURES_LAB[picture]).max()))

    def correspond(self, L: Tensor, pictures: list[int], *given: Any) -> list[Aligned]:
        (picture,) = pictures
        y = ((L.double() + 16.0) / 116.0) ** 3
        y = torch.where(L.double() > 8.0, y, L.double() / (24389.0 / 27.0))
        luma = torch.where(y > 0.0031308, 1.055 * y ** (1 / 2.4) - 0.055, 12.92 * y)
        codes = (luma * 65535.0).round().float() / 65535.0  # the exact codes behind the pump's rounded L
        return [self.net.align(one[None], picture) for one in codes]

    def start(self, picture: int | None, area: Any) -> Tensor:
        return self.net.start(picture)

    def step(self, state: Tensor, aligned: Aligned) -> tuple[Tensor, Tensor]:
        state = self.net(state, aligned)
        return state, state * 50.0


# --- the clip and the instances' schedules ----------------------------------------------------------------------------


def scene_starts(length: int, rng: random.Random) -> list[int]:
    """Return starts of scenes of 1 to 90 frames; those below 4, measured as flashes, only where tags mark cuts."""
    starts = [0, 90]
    while starts[-1] < length:
        least = 1 if starts[-1] < length // 2 - 50 else 4
        starts.append(starts[-1] + max(least, rng.choice((1, 2, 3, 4, 5, 9, 16, 17, 30, 47))))
    return [start for start in starts if start <= length - 4]


def source_codes(length: int, starts: list[int], rng: random.Random) -> Codes:
    """Make frames that all differ, (length, HEIGHT, WIDTH): a level for each scene, a moving texture, a number."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    frames = np.empty((length, HEIGHT, WIDTH), np.uint16)
    levels = [rng.uniform(0.2, 0.4) + 0.35 * (i % 2) for i in range(len(starts))]
    for n in range(length):
        scene = bisect_right(starts, n) - 1
        # The texture moves slowly: a wave that turns into its opposite would be a gradual change.
        texture = 0.03 * np.sin((x + 0.05 * n) / 9.0 + scene) * np.cos(y / 12.0)
        frames[n] = np.round((levels[scene] + texture) * 65535.0 - (n * 7919) % 97)
    return frames


def schedules(length: int, rng: random.Random) -> list[tuple[Schedule, tuple[int, ...]]]:
    """Return each instance's schedule and pictures: references changed within scenes, propagated ones, chosen ones."""

    def switches(count: int) -> tuple[int, ...]:
        return tuple(sorted(rng.sample(range(length), count)))

    return [
        (Schedule(length, 3, switches(3)), (0, 1, 2)),
        (Schedule(length, 4, switches(4), propagate=True), (3, 1, 4, 0)),
        (Schedule(length, 3, None), (4, 2, 3)),
    ]


def clip_of(frames: Codes, starts: list[int]) -> vs.VideoNode:
    """Make a GRAY16 clip of full range. Its first half has _SceneChangePrev; cuts of the second half are measured."""
    length = len(frames)
    blank = core.std.BlankClip(format=vs.GRAY16, width=WIDTH, height=HEIGHT, length=length, keep=True)
    blank = blank.std.SetFrameProps(_Range=vs.RANGE_FULL, _Matrix=vs.MATRIX_BT709)

    def fill(n: int, f: vs.VideoFrame) -> vs.VideoFrame:
        f = f.copy()
        np.copyto(np.asarray(f[0]), frames[n])
        if n < length // 2:
            f.props["_SceneChangePrev"] = int(n in starts)
        return f

    return blank.std.ModifyFrame(blank, fill)


def ref_of(pictures: Iterable[int]) -> vs.VideoNode:
    return core.std.Splice(
        [
            core.std.BlankClip(format=vs.RGBS, width=WIDTH, height=HEIGHT, length=1, color=PICTURES[picture])
            for picture in pictures
        ]
    )


def folded(codes: Codes, u: Codes) -> Codes:
    """Return the luma of the next instance: the high byte of this one's, the low byte of its U."""
    return (codes & 0xFF00) | (u & 0x00FF)


def fold(coloured: vs.VideoNode) -> vs.VideoNode:
    """Apply `folded` to a clip; return GRAY16."""
    y, u = (core.std.ShufflePlanes(coloured, plane, vs.GRAY) for plane in (0, 1))
    high = y.std.Lut(lut=[code & 0xFF00 for code in range(65536)])
    low = u.std.Lut(lut=[code & 0x00FF for code in range(65536)])
    return core.std.Expr([high, low], "x y +").std.CopyFrameProps(coloured)


# --- the truth --------------------------------------------------------------------------------------------------------

Colours = tuple[Tensor, float, int, int]  # ab (1, 2, h, w), mean similarity, reference, first frame of the segment


def plain_loop(
    net: ChaoticNet, clip: vs.VideoNode, starts: list[int], schedule: Schedule, pictures: tuple[int, ...]
) -> Iterator[Colours]:
    """Compute the net's output for every frame in order."""
    cuts, state, segment, index = set(starts), torch.empty(0), 0, 0
    frames = list(clip.resize.Bicubic(SMALL_WIDTH, SMALL_HEIGHT).frames(prefetch=1, close=False))
    lightness = [torch.from_numpy(np.asarray(f[0]).astype(np.float32)).div(65535.0)[None, None] for f in frames]
    for n, L in enumerate(lightness):
        if schedule.ref_frames is not None:
            index = max(0, bisect_right(schedule.ref_frames, n) - 1)
        elif n in cuts:
            stop = min([cut for cut in cuts if cut > n], default=len(frames))
            typical = n + typical_frame([thumbnail(frame) for frame in frames[n : min(stop, n + LOOK)]])
            means = [float(net.align(lightness[typical], picture).similarity.mean()) for picture in pictures]
            index = means.index(max(means))
        if n in cuts or (schedule.propagate and schedule.ref_frames and n in schedule.ref_frames):
            segment, state = n, net.start(pictures[index] if schedule.propagate else None)
        aligned = net.align(L, pictures[index])
        state = net(state, aligned)
        yield state * 50.0, float(aligned.similarity.mean()), index, segment


def looked_up(colours: list[Colours]) -> Callable[..., Any]:
    """Replace a pump by a step callable that knows all answers."""

    def step(n: int, nums: Any, clips: Any, frames: Any) -> dict[str, Any]:
        ab, similarity, index, segment = colours[n]
        frame = core.create_video_frame(vs.YUV444PS, SMALL_WIDTH, SMALL_HEIGHT)
        for plane in (0, 1):
            np.copyto(np.asarray(frame[plane + 1]), ab[0, plane].numpy())
        for name, value in zip(REPORTED[:3], (index, similarity, segment), strict=True):  # with one reference
            frame.props[name] = value
        return {"frame": frame}

    return step


def digest(frame: vs.VideoFrame) -> bytes:
    """Hash a frame's bytes with its reference and segment."""
    digest = hashlib.blake2b(digest_size=16)
    for plane in range(frame.format.num_planes):
        digest.update(np.ascontiguousarray(np.asarray(frame[plane])).tobytes())
    digest.update(f"{frame.props['ExvcReference']} {frame.props['ExvcSceneStart']}".encode())
    return digest.digest()


def truth(net: ChaoticNet, frames: Codes, starts: list[int], plan: Any) -> list[list[bytes]]:
    """Hash every frame of every instance by the plain loop; frames are merged in order, one at a time."""
    result = []
    for schedule, pictures in plan:
        colours = list(plain_loop(net, clip_of(frames, starts), starts, schedule, pictures))
        with mock.patch.object(graph, "Pump", lambda *_, colours=colours, **__: looked_up(colours)):
            node = instance(clip_of(frames, starts), ref_of(pictures), net, schedule)
        digests, u = [], np.empty_like(frames)
        for n in range(len(frames)):
            with node.get_frame(n) as frame:
                digests.append(digest(frame))
                u[n] = np.asarray(frame[1])
        result.append(digests)
        frames = folded(frames, u)
    return result


def instance(clip: vs.VideoNode, ref: vs.VideoNode, net: ChaoticNet, schedule: Schedule) -> vs.VideoNode:
    return build(clip, ref, NetSession(net), schedule, SMALL_HEIGHT, torch.device("cpu"))


# --- the run ----------------------------------------------------------------------------------------------------------


@dataclass
class Faults:
    """Raise errors for a share of the requests, and count them."""

    share: float
    rng: random.Random
    count: int = 0

    def on(self, clip: vs.VideoNode) -> vs.VideoNode:
        def pass_on(n: int, f: vs.VideoFrame) -> vs.VideoFrame:
            if self.rng.random() < self.share:
                self.count += 1
                raise vs.Error(INJECTED)
            return f

        return clip.std.ModifyFrame(clip, pass_on)


def chain(net: ChaoticNet, frames: Codes, starts: list[int], plan: Any, faults: Faults) -> list[vs.VideoNode]:
    """Return the instances' outputs."""
    clip, nodes = clip_of(frames, starts), []
    for schedule, pictures in plan:
        nodes.append(instance(faults.on(clip), faults.on(ref_of(pictures)), net, schedule))
        clip = fold(nodes[-1])
    return nodes


def strolls(rng: random.Random, length: int) -> Iterator[tuple[int, int]]:
    """Yield requests (instance, frame) without end: a jump, then some frames forward, backward or in disorder."""
    while True:
        instances, start = rng.choice(((2,), (0, 1), (0, 1, 2), (2, 1, 0), (1, 0, 2))), rng.randrange(length)
        numbers = list(range(start, min(length, start + rng.choice((1, 8, 24, 48, 96)))))
        way = rng.choice(("forward", "forward", "backward", "disorder"))
        if way == "backward":
            numbers.reverse()
        elif way == "disorder":
            rng.shuffle(numbers)
        yield from ((which, n) for n in numbers for which in instances)


class Callers:
    """Request frames from several threads and compare them."""

    def __init__(self, case: Case, nodes: list[vs.VideoNode], expected: list[list[bytes]]) -> None:
        self.case, self.nodes, self.expected = case, nodes, expected
        self.compared = self.failed = 0
        self.seen: set[tuple[int, int]] = set()
        self.wrong: list[str] = []
        self.memory: list[int] = []
        self.most_threads = self.largest_cache = 0
        self._lock = threading.Lock()

    def run(self) -> None:
        threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(self.case.callers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _ask(self, number: int) -> None:
        rng = random.Random(self.case.seed * 1000 + number)
        flying: deque[tuple[int, int, Future[vs.VideoFrame]]] = deque()
        requests = strolls(rng, self.case.length)
        try:
            for _ in range(self.case.requests // self.case.callers):
                which, n = next(requests)
                flying.append((which, n, self.nodes[which].get_frame_async(n)))
                if len(flying) == IN_FLIGHT:
                    self._compare(*flying.popleft())
            while flying:
                self._compare(*flying.popleft())
        except Exception as error:
            self.wrong.append(f"{type(error).__name__}: {error}")

    def _compare(self, which: int, n: int, future: Future[vs.VideoFrame]) -> None:
        while True:
            try:
                with future.result() as frame:
                    right = digest(frame) == self.expected[which][n]
                break
            except vs.Error as error:
                if INJECTED not in str(error):
                    raise
                self.failed += 1
                future = self.nodes[which].get_frame_async(n)
        with self._lock:
            self.compared += 1
            self.seen.add((which, n))
            if not right:
                self.wrong.append(f"frame {n} of instance {which}")
            if self.compared % (self.case.requests // 40) == 0:
                self.memory.append(resident())
                self.most_threads = max(self.most_threads, os_threads())
                self.largest_cache = max(self.largest_cache, core.used_cache_size)


def resident() -> int:
    """Return the resident bytes of the process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def os_threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def workers() -> int:
    """Return the number of the filter's own threads."""
    return sum(thread.name.startswith("vsexvc") for thread in threading.enumerate())


def run(case: Case) -> dict[str, Any]:
    """Run one case in this process; return its figures."""
    torch.set_num_threads(1)
    core.num_threads = case.threads
    if case.cache is not None:
        core.max_cache_size = case.cache
    rng = random.Random(case.seed)
    net = ChaoticNet()
    starts = scene_starts(case.length, rng)
    frames, plan = source_codes(case.length, starts, rng), schedules(case.length, rng)
    expected = truth(net, frames, starts, plan)
    gc.collect()
    faults = Faults(case.errors, rng)
    callers = Callers(case, chain(net, frames, starts, plan, faults), expected)
    callers.run()
    callers.nodes.clear()
    gc.collect()
    settled = time.monotonic() + 10.0
    while workers() and time.monotonic() < settled:
        time.sleep(0.05)  # threads end a moment after their filters
    return {
        "compared": callers.compared,
        "wrong": callers.wrong[:5],
        "different_frames": len(callers.seen),
        "scenes": len(starts),
        "injected": faults.count,
        "failed": callers.failed,
        "memory": callers.memory,
        "most_threads": callers.most_threads,
        "workers_left": workers(),
        "largest_cache": callers.largest_cache,
    }


def in_a_process(case: Case, limit: float) -> dict[str, Any]:
    """Call `run` in its own process, which after `limit` seconds prints the stacks of all threads and ends."""
    command = [sys.executable, __file__, json.dumps({**dataclasses.asdict(case), "limit": limit})]
    # Torch's libraries keep a team for each calling thread; teams of one thread make threads countable.
    environment = {**os.environ, "PYTHONPATH": str(Path(plugin.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=limit + 60, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-20_000:]
    report: dict[str, Any] = json.loads(done.stdout)
    print(json.dumps(report))
    return report


def check(case: Case, report: dict[str, Any]) -> None:
    assert report["wrong"] == []
    assert report["compared"] == case.requests
    assert report["injected"] >= case.requests * case.errors / 4
    assert report["failed"] >= report["injected"] / 4  # else errors did not reach the callers
    # After a third of enough requests the caches are full; a leaked frame has 13.5 KiB or more.
    memory = report["memory"][len(report["memory"]) // 3 :]
    bound = 10 * 2**10 * case.requests if case.requests >= 4_000 else 60 * 2**20
    assert theilslopes(memory).slope * 40 < bound
    # Threads of VapourSynth, the callers, the main one, the watchdog; each instance has the pump's and one for each
    # frame that is merged at the same time.
    merges = max(1, min(case.threads // 2, 8))
    assert report["most_threads"] <= case.threads + case.callers + 2 + 3 * (1 + merges)
    assert report["workers_left"] == 0


class TestStress:
    def test_no_wrong_byte(self) -> None:
        case = Case()
        report = in_a_process(case, 540.0)
        check(case, report)
        assert report["largest_cache"] > 15e6  # else the cache's limit had no effect
        assert report["different_frames"] > 0.8 * 3 * case.length

    @pytest.mark.slow
    def test_no_wrong_byte_in_100_000(self) -> None:
        case = Case(requests=100_000, length=3000, seed=1)
        check(case, in_a_process(case, 3600.0))

    @pytest.mark.parametrize(
        "case",
        [
            Case(requests=400, length=180, threads=1, cache=None, callers=2, errors=0.05, seed=2),
            Case(requests=400, length=180, threads=1, callers=1, errors=0.05, seed=3),
            Case(requests=600, length=180, cache=None, errors=0.0, seed=4),
        ],
        ids=["one-thread", "one-thread-small-cache", "default-cache"],
    )
    def test_other_machines(self, case: Case) -> None:
        check(case, in_a_process(case, 240.0))

    def test_the_net_forgets_nothing(self) -> None:
        """The test above depends on this: the smallest change of the first frame changes the last one's bytes."""
        net, rng = ChaoticNet(), np.random.default_rng(0)
        frames = torch.from_numpy(rng.random((120, 1, 1, SMALL_HEIGHT, SMALL_WIDTH), dtype=np.float32))
        last = []
        for change in (0.0, 1.0 / 65535.0):
            state = net.start(None)
            for n, codes in enumerate(frames):
                codes = codes.clone()
                codes[0, 0, 3, 5] += change * (n == 0)
                state = net(state, net.align(codes, 0))
            last.append((state * 32767.0).round())
        assert (last[0] != last[1]).float().mean() > 0.5


# --- starts of scenes -------------------------------------------------------------------------------------------------


def scenery(seed: int, length: int, speed: int) -> vs.VideoNode:
    """Make a clip of a picture, another for each seed, that moves by `speed` pixels a frame."""
    rng = np.random.default_rng(seed)
    size = HEIGHT, WIDTH + speed * length
    picture = torch.zeros(1, 1, *size, dtype=torch.float64)
    for cell in (24, 12, 6, 3):  # as in photographs, larger structures have a higher contrast
        noise = torch.from_numpy(rng.random((1, 1, size[0] // cell + 1, size[1] // cell + 1)))
        picture += cell / 45.0 * F.interpolate(noise, size, mode="bicubic")
    codes = (picture[0, 0].numpy().clip(0.0, 1.0) * 65535.0).round().astype(np.uint16)
    blank = core.std.BlankClip(format=vs.GRAY16, width=WIDTH, height=HEIGHT, length=length, keep=True)

    def fill(n: int, f: vs.VideoFrame) -> vs.VideoFrame:
        f = f.copy()
        np.asarray(f[0])[:] = codes[:, speed * n : speed * n + WIDTH]
        return f

    return blank.std.SetFrameProps(_Range=vs.RANGE_FULL).std.ModifyFrame(blank, fill)


def mixed(before: vs.VideoNode, after: vs.VideoNode, eased: bool) -> vs.VideoNode:
    """Make a dissolve as long as the clips, linear or slow at its ends."""

    def mix(n: int, f: list[vs.VideoFrame]) -> vs.VideoFrame:
        share = (n + 1) / (before.num_frames + 1)
        share = share * share * (3.0 - 2.0 * share) if eased else share
        frame = f[0].copy()
        a, b = (np.asarray(one[0]).astype(np.float64) for one in f)
        np.asarray(frame[0])[:] = (a + share * (b - a)).round()
        return frame

    return before.std.ModifyFrame([before, after], mix)


def reported_starts(clip: vs.VideoNode, numbers: Iterable[int], fresh: bool = False) -> list[int]:
    """Return ExvcSceneStart of these frames; fresh: each from a new graph."""

    def build() -> vs.VideoNode:
        return instance(clip, ref_of([0]), ChaoticNet(), Schedule(clip.num_frames))

    node, result = build(), []
    for n in numbers:
        with (build() if fresh else node).get_frame(n) as frame:
            result.append(frame.props["ExvcSceneStart"])
    return result


class TestScenes:
    @pytest.mark.parametrize("length", [12, 24, 48])
    @pytest.mark.parametrize("speed", [0, 1])
    @pytest.mark.parametrize("eased", [False, True])
    def test_dissolves_and_fades(self, length: int, speed: int, eased: bool) -> None:
        """A dissolve starts at most one scene, a fade into another picture one near its middle, a cut exactly one."""
        one, other = (scenery(length + i, 12 + length, speed) for i in (0, 1))
        dissolve = one[:12] + mixed(one[12:], other[:length], eased) + other[length:]
        dark = scenery(length + 2, 9, speed).std.Expr("x 4 /")
        starts = set(reported_starts(dark + dissolve + dark, range(dissolve.num_frames + 18)))
        assert starts >= {0, 9, 9 + dissolve.num_frames}
        assert len(starts) <= 4
        one, other = (scenery(length + i, 12 + length, 0) for i in (0, 1))  # test_changes.py tests how many are found
        for level in (0, 65535):
            flat = one.std.BlankClip(length=length, color=level, keep=True)
            out, back = mixed(one[12:], flat, eased), mixed(flat, other[:length], eased)
            fade = one[:12] + out + flat[:5] + back + other[length:]
            starts = set(reported_starts(fade, range(fade.num_frames))) - {0}
            assert starts
            assert min(starts) >= 12 + length // 2
            assert max(starts) <= 12 + length + 5 + length // 2

    def test_a_start_is_a_function_of_the_frame_alone(self) -> None:
        """Measured starts are the same in order, in disorder, and with a new graph for each frame."""
        parts = [scenery(seed, length, 2) for seed, length in enumerate((9, 5, 14, 6))]
        flash = parts[0].std.BlankClip(length=1, color=65535, keep=True)
        two = scenery(7, 20, 1), scenery(8, 20, 1)
        clip = parts[0] + parts[1].std.Expr("x 4 /") + parts[2] + flash + parts[3] + mixed(*two, eased=False) + two[1]
        in_order = reported_starts(clip, range(clip.num_frames))
        assert {0, 9, 14} <= set(in_order)
        order = random.Random(0).sample(range(clip.num_frames), 40)
        assert reported_starts(clip, order, fresh=True) == [in_order[n] for n in order]
        assert reported_starts(clip, order) == [in_order[n] for n in order]


if __name__ == "__main__":
    given = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}
    faulthandler.dump_traceback_later(given.pop("limit", 3600), exit=True)
    print(json.dumps(run(Case(**given))))

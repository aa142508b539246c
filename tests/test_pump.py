"""Test pump.py with a session of a few numbers: any wrong order, replay or batch changes its state."""

from __future__ import annotations

import gc
import random
import threading
import tracemalloc
import weakref
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import vapoursynth as vs
from torch import Tensor

from vsexvc import pump as pump_module
from vsexvc.colour.spaces import L_from_luma
from vsexvc.pump import Pump
from vsexvc.scenes import measure_cuts
from vsexvc.schedule import BLOCK, Schedule
from vsexvc.typical import LOOK

core = vs.core
WIDTH, HEIGHT = 6, 4


def luma_of(n: int) -> int:
    return (n * 7919 + 1234) % 65536


def L_of(n: int) -> float:
    return float(L_from_luma(torch.tensor([luma_of(n) / 65535.0], dtype=torch.float32)))


@dataclass(frozen=True)
class FakeCorrespondence:
    L: Tensor
    similarity: Tensor
    reference: float


class FakeSession:
    """Use numbers as references and states; a state depends on everything since the start, in order."""

    def __init__(self) -> None:
        self.steps = self.blocks = self.references = self.running = 0
        self.thread_errors = 0

    def reference(self, lab: Tensor) -> float:
        self.references += 1
        return round(float(lab[0, 0, 0, 0]), 1)

    def correspond(self, L: Tensor, references: list[float], area: Any, *given: Any) -> list[FakeCorrespondence]:
        (reference,) = references
        assert L.shape[1:] == (1, HEIGHT, WIDTH)
        self.running += 1
        self.thread_errors += self.running != 1
        self.blocks += len(L) > 1
        assert len(L) in (1, BLOCK // 2, BLOCK)  # 1 for the choice of a reference
        self.running -= 1
        # the closest grey is the most similar
        return [FakeCorrespondence(one[None], 1.0 - (one[None] - reference).abs() / 100.0, reference) for one in L]

    def start(self, reference: float | None, area: Any = None) -> float:
        return 0.0 if reference is None else reference

    def step(self, state: float, one: FakeCorrespondence) -> tuple[float, Tensor]:
        self.steps += 1
        state = chain(state, float(one.L[0, 0, 0, 0]), one.reference)
        return state, torch.tensor([state, float(one.L[0, 0, 0, 0])]).view(1, 2, 1, 1).expand(-1, -1, HEIGHT, WIDTH)


def chain(state: float, L: float, reference: float) -> float:
    return (state * 1.7 + round(L, 2) * 3.1 + reference * 0.37 + 1.0) % 97.0


def luma_clip(length: int, cuts: Iterable[int] = (), failing: set[int] | None = None) -> vs.VideoNode:
    """Make GRAY16 frames of luma_of(n), with cuts as _SceneChangePrev; frames in `failing` raise."""
    cuts = frozenset(cuts)
    blank = core.std.BlankClip(format=vs.GRAY16, width=WIDTH, height=HEIGHT, length=length, keep=True)

    def fill(n: int, f: vs.VideoFrame) -> vs.VideoFrame:
        if failing and n in failing:
            raise vs.Error(f"source: frame {n} is broken")
        f = f.copy()
        np.asarray(f[0])[:] = luma_of(n)
        f.props["_SceneChangePrev"] = f.props["ExvcCut"] = int(n in cuts)
        return f

    return blank.std.ModifyFrame(blank, fill)


def ref_clip(values: Sequence[float]) -> vs.VideoNode:
    """Make RGBS grey pictures of these L."""
    clips = []
    for L in values:
        y = ((L + 16.0) / 116.0) ** 3
        grey = 1.055 * y ** (1 / 2.4) - 0.055
        clips.append(core.std.BlankClip(format=vs.RGBS, width=5, height=3, length=1, color=[grey] * 3))
    return core.std.Splice(clips) if len(clips) > 1 else clips[0]


REFERENCES = (20.0, 50.0, 80.0)


def build(schedule: Schedule, clip: vs.VideoNode, **options: Any) -> tuple[vs.VideoNode, FakeSession, Pump]:
    session = FakeSession()
    pump = Pump(session, schedule, **options)
    clips = [measure_cuts(clip) if schedule.sc else clip, ref_clip(REFERENCES[: schedule.num_references])]
    return filtered(clips, pump), session, pump


def filtered(clips: list[vs.VideoNode], step: Callable[..., Any]) -> vs.VideoNode:
    return core.exvc.PyFilter(clips=clips, step=step, format=vs.YUV444PS, width=WIDTH, height=HEIGHT)


def typical_of(first: int, stop: int) -> int:
    """Return the frame among a scene's first LOOK whose level is nearest to all others."""
    levels = [luma_of(n) >> 8 for n in range(first, min(stop, first + LOOK))]
    return first + min(range(len(levels)), key=lambda i: sum(abs(levels[i] - other) for other in levels))


def expected(schedule: Schedule, cuts: Iterable[int] = ()) -> list[tuple[float, int, int]]:
    """Compute (state, reference, segment) of every frame in a plain loop."""
    cuts, result, state, start, chosen = set(cuts) | {0}, [], 0.0, 0, 0
    for n in range(schedule.num_frames):
        cut = n == 0 or (schedule.sc and n in cuts)
        if schedule.ref_frames is not None:
            index = max(0, bisect_right(schedule.ref_frames, n) - 1)
        elif cut:
            typical = typical_of(n, min([cut for cut in cuts if cut > n], default=schedule.num_frames))
            chosen = index = min(range(schedule.num_references), key=lambda i: abs(REFERENCES[i] - L_of(typical)))
        else:
            index = chosen
        if cut or (schedule.propagate and schedule.ref_frames and n in schedule.ref_frames):
            start, state = n, REFERENCES[index] if schedule.propagate else 0.0
        state = chain(state, L_of(n), REFERENCES[index])
        result.append((state, index, start))
    return result


def read(frame: vs.VideoFrame) -> tuple[float, int, int]:
    with frame as f:
        return float(np.asarray(f[1])[0, 0]), int(f.props["ExvcReference"]), int(f.props["ExvcSceneStart"])


def check(n: int, frame: vs.VideoFrame, truth: list[tuple[float, int, int]]) -> None:
    state, index, start = read(frame)
    assert (np.float32(state), index, start) == (np.float32(truth[n][0]), *truth[n][1:]), n


def ask(node: vs.VideoNode, numbers: Iterable[int], threads: int, truth: list[tuple[float, int, int]]) -> None:
    """Request frames in the given order, `threads` at a time, and check each."""
    slots, wrong, left = threading.Semaphore(threads), [], list(numbers)
    count = len(left)
    for n in left:
        slots.acquire()

        def done(frame: vs.VideoFrame | None, error: Exception | None, n: int = n) -> None:
            try:
                assert frame is not None, error
                check(n, frame, truth)
            except AssertionError as failure:
                wrong.append(failure)
            finally:
                slots.release()

        node.get_frame_async(n, done)
    for _ in range(threads):
        assert slots.acquire(timeout=60), f"a request of {count} hangs"
    assert not wrong, wrong[:3]


CUTS = (13, 14, 40, 75)
SCHEDULES = {
    "plain": Schedule(120),
    "no cuts": Schedule(120, sc=False),
    "mapped": Schedule(120, 3, (0, 30, 41)),
    "mapped late": Schedule(120, 2, (20, 90)),
    "chosen": Schedule(120, 3, None),
    "propagate": Schedule(120, propagate=True),
    "propagate mapped": Schedule(120, 3, (5, 30, 41), propagate=True),
    "propagate chosen": Schedule(120, 3, None, propagate=True),
}


@pytest.fixture(params=SCHEDULES, ids=lambda name: name.replace(" ", "-"))
def schedule(request: pytest.FixtureRequest) -> Schedule:
    return SCHEDULES[request.param]


class TestOrder:
    def test_in_order(self, schedule: Schedule) -> None:
        node, session, _ = build(schedule, luma_clip(120, CUTS))
        ask(node, range(120), 1, expected(schedule, CUTS))
        assert session.steps == 120
        assert session.references <= 3

    def test_in_order_from_8_threads_does_nothing_twice(self, schedule: Schedule) -> None:
        node, session, _ = build(schedule, luma_clip(120, CUTS))
        ask(node, range(120), 8, expected(schedule, CUTS))
        assert session.steps == 120
        assert session.blocks <= 120 / BLOCK + 3 * (len(CUTS) + 3)
        assert session.thread_errors == 0

    def test_reverse(self, schedule: Schedule) -> None:
        node, session, _ = build(schedule, luma_clip(120, CUTS))
        ask(node, range(119, -1, -1), 8, expected(schedule, CUTS))
        assert session.steps < 120 * 5  # without checkpoints it would be 60 * 120

    @pytest.mark.parametrize("threads", [1, 8])
    def test_random(self, schedule: Schedule, threads: int) -> None:
        node, _, _ = build(schedule, luma_clip(120, CUTS))
        ask(node, random.Random(threads).choices(range(120), k=600), threads, expected(schedule, CUTS))

    def test_one_frame_clip(self) -> None:
        node, session, _ = build(Schedule(1), luma_clip(1))
        check(0, node.get_frame(0), expected(Schedule(1)))
        assert (session.steps, session.blocks) == (1, 1)

    def test_many_requests_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """More requests at once than are remembered are right with the smallest window and caches."""
        for name in ("_REQUESTS", "_RECENT_STATES", "_CHECKPOINTS", "REFERENCES"):
            monkeypatch.setattr(pump_module, name, 1)
        schedule = SCHEDULES["chosen"]
        node, _, pump = build(schedule, luma_clip(120, CUTS), window=BLOCK)
        ask(node, random.Random(0).choices(range(120), k=300), 60, expected(schedule, CUTS))
        ask(node, range(120), 100, expected(schedule, CUTS))
        assert len(pump._outputs) <= BLOCK + 1

    def test_chained(self) -> None:
        """A pump is right if another pump gives its luma."""
        schedule = Schedule(40, sc=False)
        node, _, _ = build(schedule, luma_clip(40))
        level = node.std.ShufflePlanes(1, vs.GRAY).std.Expr("x 97 /").resize.Point(format=vs.GRAY16, range=1)
        second, _, _ = build(schedule, level)
        order = random.Random(3).choices(range(40), k=200)
        plain = {n: read(second.get_frame(n))[0] for n in range(40)}
        third, _, _ = build(schedule, level)
        ask(third, order, 8, [(plain[n], 0, 0) for n in range(40)])

    def test_small_cache(self) -> None:
        before = core.max_cache_size
        core.max_cache_size = 1
        try:
            schedule = SCHEDULES["mapped"]
            node, _, _ = build(schedule, luma_clip(120, CUTS))
            ask(node, random.Random(5).choices(range(120), k=300), 8, expected(schedule, CUTS))
        finally:
            core.max_cache_size = before


class TestFailures:
    def test_upstream_error_spoils_nothing(self) -> None:
        failing = {17, 18, 52}
        schedule = SCHEDULES["plain"]
        node, _, pump = build(schedule, luma_clip(120, CUTS, failing))
        truth = expected(schedule, CUTS)
        failures = 0
        for n in random.Random(1).choices(range(120), k=200):
            try:
                check(n, node.get_frame(n), truth)
            except vs.Error as error:
                failures += "is broken" in str(error)
        assert failures
        failing.clear()
        node.clear_cache()
        ask(node, range(120), 8, truth)
        assert len(pump._requests) <= pump_module._REQUESTS

    def test_session_error_is_one_line(self) -> None:
        node, session, _ = build(Schedule(10), luma_clip(10))

        def broken(state: float, one: FakeCorrespondence) -> tuple[float, Tensor]:
            raise RuntimeError("no memory\nand a long story")

        session.step = broken  # type: ignore[method-assign]
        with pytest.raises(vs.Error, match=r"^Colorize: frame 3: no memory$"):
            node.get_frame(3)

    def test_transfer_that_is_not_handled(self) -> None:
        node, _, _ = build(Schedule(10), luma_clip(10).std.SetFrameProps(_Transfer=16))
        with pytest.raises(
            vs.Error,
            match=r"^Colorize: frame 0: _Transfer must be one of .*, got 16 \(PQ, HDR: tonemap to SDR first\)$",
        ):
            node.get_frame(0)


class TestBounds:
    def test_a_long_replay_goes_block_by_block_and_says_so(self) -> None:
        said: list[str] = []
        most = 0
        schedule = Schedule(1000)
        session = FakeSession()
        pump = Pump(session, schedule, log=lambda text: said.append(text) if "needs" in text else None)

        def step(**arguments: Any) -> dict[str, Any]:
            nonlocal most
            before = session.steps
            answer = pump(**arguments)
            most = max(most, session.steps - before)
            return answer

        node = filtered([luma_clip(1000), ref_clip(REFERENCES[:1])], step)
        check(900, node.get_frame(900), expected(schedule))
        assert most == BLOCK
        assert said[0] == "Colorize: frame 900 needs the 900 frames of its scene before it"
        assert len(said) == 3
        steps = session.steps
        check(890, node.get_frame(890), expected(schedule))
        assert session.steps - steps <= pump_module._CHECKPOINT
        assert len(said) == 3

    def test_what_is_kept(self) -> None:
        node, _, pump = build(Schedule(1000), luma_clip(1000), window=16)
        ask(node, range(0, 1000, 3), 8, expected(Schedule(1000)))
        assert len(pump._outputs) <= 16 + BLOCK
        assert len(pump._recent) == pump_module._RECENT_STATES
        assert len(pump._checkpoints) == pump_module._CHECKPOINTS
        assert not pump._requests

    def test_a_clip_without_an_end(self) -> None:
        """No array is as long as the clip: one would take 2 GiB."""
        endless = core.std.Loop(luma_clip(4), 0)
        assert endless.num_frames == 2**31 - 1
        for sc in (True, False):
            tracemalloc.start()
            node, _, _ = build(Schedule(endless.num_frames, sc=sc), endless)
            for n in (0, 9):
                read(node.get_frame(n))
            _, most = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert most < 4e6

    def test_a_long_search_for_a_cut_says_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pump_module, "_LONG_SEARCH", 250)
        said: list[str] = []
        node, _, _ = build(Schedule(1000), luma_clip(1000, {300}), log=said.append)
        read(node.get_frame(900))
        assert said[0] == "Colorize: frame 900: no cut in the 257 frames up to it, still searching"
        assert sum("searching" in text for text in said) == 2

    def test_a_choice_among_many_references_says_so(self) -> None:
        said: list[str] = []
        pump = Pump(FakeSession(), Schedule(40, 9, None), log=said.append)
        node = filtered([luma_clip(40, {20}), core.std.Loop(ref_clip(REFERENCES), 3)], pump)
        for n in (0, 30):
            read(node.get_frame(n))
        assert [text for text in said if "no colours" not in text] == [
            "Colorize: a frame of each scene is compared with all 9 references"
        ]

    @pytest.mark.parametrize("size", [216, 1080])
    def test_what_is_kept_is_bounded_in_bytes(self, size: int) -> None:
        """Caches of full-width states and references (256 channels) are bounded; their memory is never touched."""
        schedule, h, w = Schedule(400, 3, None), size, size * 16 // 9

        class Large(FakeSession):
            def reference(self, lab: Tensor) -> Any:
                return super().reference(lab), torch.empty(1, 256, h // 4, w // 4), torch.empty(1, 3, h, w)

            def correspond(self, L: Tensor, references: Any, *given: Any) -> list[FakeCorrespondence]:
                return super().correspond(L, [number for number, *_ in references], *given)

            def start(self, reference: Any, area: Any = None) -> Any:
                return (0.0,)

            def step(self, state: Any, one: FakeCorrespondence) -> tuple[Any, Tensor]:
                number, ab = super().step(state[0], one)
                return (number, torch.empty(1, 256, h // 4, w // 4), torch.empty(1, 3, h, w)), ab

        pump = Pump(Large(), schedule)
        node = filtered([luma_clip(400, CUTS), ref_clip(REFERENCES)], pump)
        ask(node, random.Random(2).sample(range(400), 40), 8, expected(schedule, CUTS))
        for store in (pump._recent, pump._checkpoints, pump._requests):
            assert store.size() <= pump_module._STATE_BYTES
        assert pump._references.size() <= pump_module._REFERENCE_BYTES
        if size == 216:
            assert len(pump._recent) == pump_module._RECENT_STATES
            assert len(pump._checkpoints) == pump_module._CHECKPOINTS
        else:  # a state has 158 MB
            assert len(pump._recent) == len(pump._checkpoints) == 1

    def test_everything_is_freed(self) -> None:
        node, session, pump = build(Schedule(40), luma_clip(40))
        ask(node, range(40), 8, expected(Schedule(40)))
        dead = [weakref.ref(session), weakref.ref(pump)]
        del node, session, pump
        gc.collect()
        assert [ref() for ref in dead] == [None, None]


class TestAreas:
    """Test the area within black borders: each segment has one, from its first frames up to the next cut."""

    SIZE = (32, 48)

    def node(self, borders: dict[int, int], cuts: Iterable[int], dark: Iterable[int] = (), **plan: Any) -> Any:
        """Make frames of 48 x 32; from each frame in `borders` on, they have so many black rows above and below."""
        h, w = self.SIZE
        cuts, dark, starts = set(cuts), set(dark), sorted(borders)
        seen: dict[tuple[int, int], int] = {}

        class Watching(FakeSession):
            def correspond(
                self, L: Tensor, references: list[float], area: Any, *given: Any
            ) -> list[FakeCorrespondence]:
                (reference,) = references
                inside = area[0].start, area[0].stop
                seen[inside] = seen.get(inside, 0) + 1
                shown = torch.full_like(L, float(area[0].start))
                return [FakeCorrespondence(one[None], one[None], reference) for one in shown]

            def step(self, state: float, one: FakeCorrespondence) -> tuple[float, Tensor]:
                return state, one.L.expand(1, 2, h, w)

        blank = core.std.BlankClip(format=vs.GRAY16, width=w, height=h, length=100, keep=True)

        def fill(n: int, f: vs.VideoFrame) -> vs.VideoFrame:
            f, rows = f.copy(), borders[starts[bisect_right(starts, n) - 1]]
            picture = np.asarray(f[0])
            picture[:] = 0
            picture[rows : h - rows] = 0 if n in dark else 30000
            f.props["_SceneChangePrev"] = f.props["ExvcCut"] = int(n in cuts)
            return f

        clips = [blank.std.ModifyFrame(blank, fill), ref_clip(REFERENCES[:1])]
        pump = Pump(Watching(), Schedule(100, **plan))
        return core.exvc.PyFilter(clips=clips, step=pump, format=vs.YUV444PS, width=w, height=h), pump

    @pytest.mark.parametrize("seed", [0, 1])
    def test_any_order(self, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pump_module, "_FRAMINGS", 1)
        node, pump = self.node({0: 4, 30: 0, 42: 6}, (30, 42, 45), dark=[*range(50, 60)])
        for n in random.Random(seed).sample(range(100), 60):
            assert read(node.get_frame(n))[0] == (4 if n < 30 else 0 if n < 42 else 6), n
        assert len(pump._framings) == 1

    def test_of_a_scene_that_begins_in_the_dark(self) -> None:
        node, _ = self.node({0: 5}, (), dark=range(60))
        assert [read(node.get_frame(n))[0] for n in (99, 0, 50)] == [5, 5, 5]

    def test_no_frame_beyond_a_cut_is_looked_at(self) -> None:
        node, _ = self.node({0: 6, 12: 2}, (12,))
        assert [read(node.get_frame(n))[0] for n in (11, 12)] == [6, 2]
        whole, _ = self.node({0: 6, 12: 2}, (12,), sc=False)
        assert [read(whole.get_frame(n))[0] for n in (11, 12)] == [2, 2]


def test_three_hundred_references_in_three_thousand_frames() -> None:
    """Each scene gets its own reference, each reference is read once, and a bounded number is kept."""
    places = tuple(range(0, 3000, 10))
    values = [10.0 + 0.25 * k for k in range(len(places))]
    session = FakeSession()
    pump = Pump(session, Schedule(3000, len(values), places, propagate=True, around=4))
    node = filtered([luma_clip(3000, places), ref_clip(values)], pump)
    for n, frame in enumerate(node.frames(close=True)):
        assert (frame.props["ExvcReference"], frame.props["ExvcSceneStart"]) == (n // 10, n - n % 10)
    assert session.references == len(values)
    assert len(pump._references) <= pump_module.REFERENCES

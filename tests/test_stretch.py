"""Test stretch.py: which references take part, and colours from both ends against a plain loop over the session."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
import vapoursynth as vs
from torch import Tensor

from vsexvc.cuts import CUT, PLAIN, Cuts
from vsexvc.nets.config import NetworkConfig
from vsexvc.nets.network import ColorizationNet
from vsexvc.pump import Pump
from vsexvc.reader import Reader
from vsexvc.schedule import BLOCK, Schedule
from vsexvc.session import Session
from vsexvc.stretch import LONGEST, Stretch, find_stretch, joined

core = vs.core


def find(schedule: Schedule, position: int, cuts: Iterable[int] = (), segment: int = 0, longest: int = 50) -> Stretch:
    """Run find_stretch on these cuts; check that it examines no frame further away than 2 * `longest`."""
    seen = Cuts()
    steps = find_stretch(schedule, seen, max(segment, schedule.switch_before(position)), longest)
    try:
        needs = next(steps)
        while True:
            for number, clip in needs:
                assert clip == 0 and abs(number - position) <= 2 * longest
                seen[number] = CUT if number in cuts else PLAIN
            needs = steps.send([])
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]


class TestFind:
    schedule = Schedule(300, 5, (0, 40, 80, 120, 200), around=4)

    @pytest.mark.parametrize(
        ("position", "cuts", "segment", "start", "indices", "end"),
        [
            (0, (), 0, 0, (0, 1), 1),  # 80 is more than 50 frames away
            (45, (), 0, 40, (0, 1, 2), 2),
            (45, (60,), 0, 40, (0, 1), None),  # the next reference is in another scene
            (45, (30,), 30, 40, (1, 2), 2),  # the reference before is
            (70, (60,), 60, 60, (1, 2), 2),  # the reference in use is from another scene and stays in use
            (130, (), 0, 120, (2, 3), None),  # the next reference is too far away
            (250, (), 0, 200, (4,), None),
        ],
    )
    def test_those_of_the_scene_near_by(
        self, position: int, cuts: tuple[int, ...], segment: int, start: int, indices: tuple[int, ...], end: int | None
    ) -> None:
        found = find(self.schedule, position, cuts, segment)
        assert (found.start, found.indices, found.end) == (start, indices, end)
        assert found.places == tuple((self.schedule.ref_frames or ())[index] for index in indices)

    def test_at_most_around(self) -> None:
        schedule = Schedule(300, 7, (0, 5, 10, 15, 20, 25, 30), around=4)
        assert find(schedule, 16).indices == (2, 3, 4, 5)
        assert find(Schedule(300, 7, schedule.ref_frames, around=2), 16).indices == (3, 4)
        assert find(Schedule(300, 7, schedule.ref_frames, around=1), 16).indices == (3,)

    def test_before_the_first_reference_it_is_the_end(self) -> None:
        found = find(Schedule(300, 2, (20, 40), around=4), 3)
        assert (found.start, found.indices, found.end, found.stop) == (0, (0, 1), 0, 20)
        assert found.nearness(3) == 1.0
        assert find(Schedule(300, 2, (20, 40), around=1), 3).end is None

    def test_without_cuts_nothing_is_examined(self) -> None:
        schedule = Schedule(300, 2, (0, 40), sc=False, around=4)
        with pytest.raises(StopIteration):
            next(find_stretch(schedule, Cuts(), 0, LONGEST))

    def test_the_nearest_has_no_handicap_and_the_farther_more(self) -> None:
        handicaps = find(self.schedule, 45).handicaps(range(60, 63))
        assert handicaps.shape == (3, 3)
        assert handicaps[0, 1] == handicaps[0, 2] == 0.0 < handicaps[0, 0]  # 60 is in the middle of 40 and 80
        assert handicaps[1, 2] == 0.0 < handicaps[1, 1]


class TestJoined:
    def test_where_they_agree_it_is_their_blend(self) -> None:
        forward, backward = torch.full((1, 2, 8, 8), 10.0), torch.full((1, 2, 8, 8), 11.0)
        for nearness in (0.0, 0.25, 0.6, 1.0):
            assert torch.allclose(joined(forward, backward, nearness), forward + nearness, atol=0.01)

    @pytest.mark.parametrize("nearness", [0.1, 0.45, 0.49, 0.6])
    def test_where_they_contradict_each_other_it_is_the_nearer_one(self, nearness: float) -> None:
        forward, backward = torch.full((1, 2, 8, 8), 40.0), torch.full((1, 2, 8, 8), -40.0)
        found = joined(forward, backward, nearness)
        assert (found - (forward if nearness < 0.5 else backward)).abs().max() < 4.0  # a tenth of their chroma

    def test_there_is_always_a_nearer_end(self) -> None:
        stretch = Stretch(10, (0, 1), (10, 20), 0, 1)
        shares = [stretch.nearness(number) for number in range(10, 20)]
        assert shares == sorted(shares) and shares[0] == 0.0 and max(shares) < 1.0 and 0.5 not in shares


# --- in the filter ---------------------------------------------------------------------------------------------------

WIDTH, HEIGHT = 48, 32
PLACES = (3, 14, 22)  # frames before 3 get colours only backward
LENGTH = 30


@pytest.fixture(scope="module")
def network() -> ColorizationNet:
    torch.manual_seed(3)
    config = NetworkConfig(width=0.0625, features_input="L", head="blend", motion=2, warp_upsampling="bilinear")
    return ColorizationNet(config).eval()


def pictures() -> Tensor:
    """Return a moving pattern, (LENGTH, 3, HEIGHT, WIDTH) RGB."""
    generator = torch.Generator().manual_seed(1)
    pattern = torch.nn.functional.interpolate(torch.rand(1, 3, 9, 20, generator=generator), (HEIGHT, 2 * WIDTH))
    return torch.stack([pattern[0, :, :, n : n + WIDTH] for n in range(LENGTH)])


def clips() -> list[vs.VideoNode]:
    frames = pictures()
    luma = (frames.mean(1) * 65535.0).round().numpy().astype(np.uint16)

    def grey(n: int, f: vs.VideoFrame) -> vs.VideoFrame:
        made = f.copy()
        np.copyto(np.asarray(made[0]), luma[n])
        return made

    def colour(n: int, f: vs.VideoFrame) -> vs.VideoFrame:
        made = f.copy()
        for plane in range(3):
            np.copyto(np.asarray(made[plane]), frames[PLACES[n], plane].numpy())
        return made

    blank = core.std.BlankClip(width=WIDTH, height=HEIGHT, format=vs.GRAY16, length=LENGTH).std.SetFrameProps(
        _Range=vs.RANGE_FULL, ExvcCut=0.0
    )
    three = core.std.BlankClip(width=WIDTH, height=HEIGHT, format=vs.RGBS, length=len(PLACES))
    return [blank.std.ModifyFrame(blank, grey), three.std.ModifyFrame(three, colour)]


def filtered(network: ColorizationNet, **options: Any) -> vs.VideoNode:
    schedule = Schedule(LENGTH, len(PLACES), PLACES, sc=False, around=3, **options)
    pump = Pump(Session(network, borders=False), schedule, borders=False)
    return core.exvc.PyFilter(clips=clips(), step=pump, format=vs.YUV444PS, width=WIDTH, height=HEIGHT)


def bytes_of(frame: vs.VideoFrame) -> bytes:
    with frame as f:
        shares = str(dict(f.props.items()))
        return b"".join(np.asarray(f[plane]).tobytes() for plane in range(3)) + shares.encode()


@pytest.mark.parametrize(("propagate", "memory"), [(True, 0), (False, 0), (True, 2), (False, 2)])
def test_any_order_and_many_threads_give_the_same_bytes(
    network: ColorizationNet, propagate: bool, memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vsexvc.pump.REMEMBER", 5)
    monkeypatch.setattr("vsexvc.session._SURE", -1.0)  # a random network finds nothing similar
    monkeypatch.setattr("vsexvc.session.REMEMBERED", -0.01)
    without = [bytes_of(frame) for frame in filtered(network, propagate=propagate).frames()] if memory else []
    node = filtered(network, propagate=propagate, memory=memory)
    expected = [bytes_of(node.get_frame(n)) for n in range(LENGTH)]
    assert expected != without
    order = [*range(LENGTH - 1, -1, -1), *random.Random(5).sample(range(LENGTH), LENGTH)]
    backward = filtered(network, propagate=propagate, memory=memory)
    assert all(bytes_of(backward.get_frame(n)) == expected[n] for n in order)
    each = [filtered(network, propagate=propagate, memory=memory) for _ in range(3)]
    found: dict[tuple[int, int], bytes] = {}
    done = threading.Semaphore(0)

    def keep(number: tuple[int, int], frame: vs.VideoFrame | None) -> None:
        found[number] = b"" if frame is None else bytes_of(frame)
        done.release()

    numbers = [(i, n) for i in range(3) for n in range(LENGTH)]
    random.Random(6).shuffle(numbers)
    for i, n in numbers:
        each[i].get_frame_async(n, lambda frame, error, number=(i, n): keep(number, frame))
    for _ in numbers:
        assert done.acquire(timeout=120), "a request hangs"
    assert all(found[i, n] == expected[n] for i, n in numbers)


@torch.inference_mode()
def test_it_is_what_a_plain_loop_over_the_session_gives(network: ColorizationNet) -> None:
    """The filter equals a loop forward from each reference and backward from the next, with all three as keys."""
    node, session = filtered(network, propagate=True), Session(network, borders=False)
    luma, reader = clips()[0], Reader(None, halve=False)
    L = torch.cat([reader.luma([luma.get_frame(n)]) for n in range(LENGTH)])
    references = [session.reference(*reader.picture([frame])) for frame in clips()[1].frames()]
    starts = (0, *PLACES)
    for k, start in enumerate(starts):
        stop = (*PLACES, LENGTH)[k]
        held, end = max(0, k - 1), k if k < len(PLACES) else None
        stretch = Stretch(start, (0, 1, 2), PLACES, held, end)
        aligned: dict[int, Any] = {}
        for first in range(start, stop, BLOCK):
            block = range(first, min(first + BLOCK, stop))
            last = [len(block) - 1] * (-len(block) % (BLOCK // 2))  # repeated up to a half or a whole block
            its = [*range(len(block)), *last]
            some = L[block.start : block.stop][its]
            each = session.correspond(some, references, session.area(some), stretch.handicaps(block)[its])
            aligned |= dict(zip(block, each, strict=False))
        forward, backward = {}, {}
        state = session.start(references[held])
        for n in range(start, stop):
            state, forward[n] = session.step(state, aligned[n])
        if end is not None:
            state = session.start(references[end])
            for n in range(stop - 1, start - 1, -1):
                state, backward[n] = session.step(state, aligned[n])
        for n in range(start, stop):
            ab = forward[n]
            if end is not None:
                nearness = 1.0 if k == 0 else max(0.0, (n - start - 0.25) / (stop - start))
                ab = joined(ab, backward[n], nearness)
            with node.get_frame(n) as frame:
                assert np.array_equal(np.asarray(frame[1]), ab[0, 0].numpy()), n
                shares = aligned[n].match.taken.mean((0, 2, 3))
                assert frame.props["ExvcShares"] == pytest.approx(shares.tolist())
                assert frame.props["ExvcReference"] == int(shares.argmax())
                assert list(frame.props["ExvcReferences"]) == [0, 1, 2]


def test_the_end_comes_without_a_jump(network: ColorizationNet) -> None:
    """The last frame before a reference is nearer to it than with colours that only go forward."""

    def off(around: int) -> float:
        schedule = Schedule(LENGTH, len(PLACES), PLACES, propagate=True, sc=False, around=around)
        pump = Pump(Session(network, borders=False), schedule, borders=False)
        node = core.exvc.PyFilter(clips=clips(), step=pump, format=vs.YUV444PS, width=WIDTH, height=HEIGHT)
        with node.get_frame(PLACES[1] - 1) as before, node.get_frame(PLACES[1]) as at:
            return float(np.abs(np.asarray(before[1]) - np.asarray(at[1])).mean())

    assert off(2) < off(1)


def test_frames_that_are_read_ahead_are_made_once(model: str) -> None:
    made: dict[int, int] = {}

    def count(n: int, f: vs.VideoFrame) -> vs.VideoFrame:
        made[n] = made.get(n, 0) + 1
        return f

    clip = core.std.BlankClip(format=vs.YUV420P8, width=64, height=48, length=70, color=[120, 128, 128])
    ref = core.std.BlankClip(format=vs.RGB24, width=64, height=48, length=3, color=[200, 100, 50])
    out = core.exvc.Colorize(
        clip.std.ModifyFrame(clip, count), ref, ref_frames=[0, 50, 69], propagate=True, model=model, size=64
    )
    for frame in out.frames(close=True):
        assert list(frame.props["ExvcReferences"])[:1] == [0] or frame.props["ExvcSceneStart"] == 69
    assert len(made) == 70
    assert sum(made.values()) <= 72

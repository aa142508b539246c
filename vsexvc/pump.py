"""Order the work: requests for frames in any order become the session's steps in the right order, with the same bytes.

This module depends on VapourSynth frames and the session, not on formats, arguments or full-size pictures.

    scene      from one cut to the next. Cuts are a pure function of the frame number.
    segment    from one start of the recurrent state to the next: a scene; with propagate, `ref_frames` cut it too.
    block      `BLOCK` frames, the unit of all work: counted from the segment's start, and from each of `ref_frames`.
               Correspondence always runs on a whole block (its last frame repeated where the scene ends inside it), so
               that the size of a batch never changes a byte.

1. A request is a generator (`Pump._serve`): it yields the frames that it needs and holds the recurrent state. So a
   replay goes block by block, and other requests get their turn between two blocks. A frame that cannot be read or used
   fails the frames that depend on it: its block and all later ones of its segment; the whole segment, if it is one of
   the first frames, in which the black borders are found; and the frames around it, whose scene depends on it.
2. A block computes all of its frames. Outputs wait in a window until they are requested, and are returned once.
   Before it computes, a request checks whether another one has already done this block.
3. The states before the last few blocks and before every 16th frame are kept, both least-recently-used, and so are
   references. All stores are bounded in number and in bytes; of each scene only some numbers stay.

Only a thread that other pumps share outlives its pump. No VideoFrame is kept after the call that brought it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from vsexvc.borders import Area, picture_area
from vsexvc.cuts import CUT, PLAIN, UNKNOWN, Cuts
from vsexvc.frames import ERROR, listed
from vsexvc.framing import Framing, find_framing
from vsexvc.handover import States
from vsexvc.output import Output, fetched
from vsexvc.reader import Reader
from vsexvc.scenes import is_cut
from vsexvc.schedule import BLOCK, LUMA_CLIP, REF_CLIP, REMEMBER, SEARCH, Frames, Need, Schedule
from vsexvc.stretch import LONGEST, Backward, Stretch, find_stretch, joined
from vsexvc.support.errors import first_line
from vsexvc.support.kept import Kept, bytes_of
from vsexvc.support.threads import TorchThread
from vsexvc.typical import find_typical

REFERENCES = 64  # references that a scene chooses from, and that are kept for it, at most
_NEAR_REFERENCES = 16  # references that are kept with `ref_frames`: those of a few scenes
_CHECKPOINT = 16  # frames between the states that are kept longer
_RECENT_STATES, _CHECKPOINTS, _REQUESTS = 8, 16, 64  # most that are kept
# Most bytes of tensors in each store: several times the need at the default size.
_REFERENCE_BYTES, _STATE_BYTES, _OUTPUT_BYTES = 1 << 30, 256 << 20, 256 << 20
_MANY_REFERENCES = 8  # more of them make a scene's choice so slow that the user is notified
_FRAMINGS = 64  # framings and stretches that are kept
_LEAST_COLOUR = 3.0  # ab up to which a reference has no colours
_LONG_REPLAY, _LONG_SEARCH = 256, 8192  # frames of a replay, and of a search for a cut, from which the user is notified


class SessionLike(Protocol):
    """Declare the session that the pump requires (vsexvc.session.Session). Its results are opaque."""

    def reference(self, lab: Tensor, alpha: Tensor | None = None, /) -> Any: ...
    def correspond(
        self, L: Tensor, references: Sequence[Any], area: Area | None, handicaps: Any = None, state: Any = None, /
    ) -> Sequence[Any]: ...
    def start(self, reference: Any, area: Area | None, /) -> Any: ...
    def step(self, state: Any, correspondence: Any, /) -> tuple[Any, Tensor]: ...
    def remember(self, state: Any, correspondence: Any, most: int, /) -> Any: ...


@dataclass
class _Replay:
    """Hold the progress of a request for frame n in its segment: `state` is before `position`, None at the start."""

    n: int
    start: int = 0
    position: int = 0
    state: Any = None


@dataclass(frozen=True)
class _Work:
    """Hold the input of a block; `references`: those of `stretch.indices`."""

    stretch: Stretch
    references: list[Any]
    framing: Framing

    def reference(self, index: int) -> Any:
        return self.references[self.stretch.indices.index(index)]


@dataclass
class _Request:
    """Hold a request: its steps (see `Pump._serve`), its position, and the frames that it waits for."""

    steps: Generator[list[Need], Frames, Output]
    replay: _Replay
    asked: list[Need] = field(default_factory=list)


class Pump:
    """Compute the network's frames, as the step callable of exvc.PyFilter.

    clips[0]: GRAY16 at the network's size (`halve`: twice that), full range, with the properties of
    vsexvc.scenes.measure_cuts; clips[1]: the references, RGBS with sRGB transfer; clips[2], where `size` is given:
    clips[0] at up to twice its size, for scenes with borders. It returns YUV444PS frames (similarity, a, b) of the
    network's size with the properties ExvcReference, ExvcSimilarity and ExvcSceneStart.
    """

    def __init__(
        self,
        session: SessionLike,
        schedule: Schedule,
        window: int = 16,
        log: Callable[[str], None] = lambda text: None,
        *,
        size: int | None = None,
        recurrent: bool = True,
        halve: bool = False,
        borders: bool = True,
        longest: int = LONGEST,
        states: States | None = None,
        threads: int | None = None,
        device: torch.device | None = None,
    ) -> None:
        """Prepare the pump of one filter.

        Args:
            session: computes the frames.
            schedule: which frame takes which reference.
            window: outputs that are kept besides requested ones.
            log: called with notices, such as of long replays.
            size: shorter side that references are resized to; None: they already have the required size.
            recurrent: False: the colours are those of the aligned reference; no frame depends on another.
            halve: whether frames and references have twice the network's size and are halved in Lab, bilinearly.
            borders: whether black borders are cut off; False: they are picture.
            longest: see stretch.py.
            states: see handover.py.
            threads, device: see TorchThread.
        """
        self._session, self._schedule, self._window, self._log = session, schedule, window, log
        self._reader = Reader(size, halve, borders)
        self._recurrent = recurrent
        self._borders, self._longest = borders, longest
        self._worker = TorchThread(threads, device)  # so two threads never run the code below at once
        self._handed = () if states is None else (states,)
        self._cuts = Cuts()
        for number in range(schedule.num_frames if states is not None and schedule.sc else 0):
            self._cuts[number] = PLAIN
        for number in states.firsts if states is not None else ():
            self._cuts[number] = CUT
        self._requests: Kept[_Request] = Kept(_REQUESTS, _STATE_BYTES)
        self._outputs: OrderedDict[int, Output] = OrderedDict()
        self._recent: Kept[Any] = Kept(_RECENT_STATES, _STATE_BYTES)  # state before frame n
        self._checkpoints: Kept[Any] = Kept(_CHECKPOINTS, _STATE_BYTES)
        near = max(_NEAR_REFERENCES, 2 * schedule.around)
        self._references: Kept[Any] = Kept(REFERENCES if schedule.ref_frames is None else near, _REFERENCE_BYTES)
        self._framings: Kept[Framing] = Kept(_FRAMINGS, 0)  # by the segment's start
        self._stretches: Kept[Stretch] = Kept(_FRAMINGS, 0)  # by their first frame
        self._backward = Backward(session.step)
        self._notices: list[str] = []  # for log: under VSScript the worker's thread has no VapourSynth environment
        self._scores: dict[int, list[float]] = {}  # by scene: the mean similarity of each reference so far
        self._typical: dict[int, int] = {}  # by scene: the frame that stands for it

    def __call__(self, n: int, nums: Any, clips: Any, frames: Any) -> dict[str, Any]:
        """Answer one call of PyFilter (native/pyfilter.c). Errors are answers, except interrupts."""
        came = list(zip(listed(nums), listed(clips), strict=True))
        try:
            answer = self._worker(self._resume, n, came, listed(frames))
            while self._notices:
                self._log(self._notices.pop())
            return {"frame": answer.frame()} if isinstance(answer, Output) else answer
        except Exception as error:
            return {"error": f"Colorize: frame {n}: {first_line(error)}"}

    def _resume(self, n: int, came: list[Need], frames: Frames) -> Output | dict[str, Any]:
        for (number, clip), frame in zip(came, frames, strict=True):
            if clip == LUMA_CLIP and ERROR in frame.props:
                where = "clip" if number == n else f"frame {number} of clip"
                raise ValueError(f"{where}: {frame.props[ERROR]}")
            if clip == LUMA_CLIP and self._schedule.sc and self._cuts[number] == UNKNOWN:
                self._cuts[number] = CUT if is_cut(frame.props) else PLAIN
        here = dict(zip(came, frames, strict=True))
        request = self._requests.pop(n)
        try:
            if request is None or not here.keys() >= set(request.asked):  # new, or forgotten, or failed upstream
                replay = _Replay(n)
                request = _Request(self._serve(replay), replay)
                request.asked = next(request.steps)
            if here.keys() >= set(request.asked):  # one piece of work, then Ctrl-C and other requests get their turn
                request.asked = request.steps.send([here[need] for need in request.asked])
        except StopIteration as done:
            output: Output = done.value
            return output
        self._requests[n] = request
        return {"need": [number for number, _ in request.asked], "need_clip": [clip for _, clip in request.asked]}

    def _serve(self, replay: _Replay) -> Generator[list[Need], Frames, Output]:
        n, told = replay.n, 0
        replay.start = replay.position = yield from self._find_start(n)
        while (output := self._outputs.pop(n, None)) is None:
            self._jump(replay)
            if n - replay.position >= _LONG_REPLAY and replay.position >= told:
                told = replay.position + _LONG_REPLAY
                self._notices.append(
                    f"Colorize: frame {n} needs the {n - replay.position} frames of its scene before it"
                )
            framing = yield from self._find_framing(replay.start)
            work = yield from self._find_work(replay, framing)
            block = range(replay.position, min(replay.position + BLOCK, self._schedule.num_frames))
            block = range(block.start, min([block.stop, *self._starts(block)[:1]]))
            backward = yield from self._find_backward(work, block)
            self._advance(replay, block, work, backward, (yield framing.needed(block)))
        return output

    def _find_start(self, n: int) -> Generator[list[Need], Frames, int]:
        """Find the first frame of n's segment."""
        first = self._schedule.switch_before(n) if self._schedule.propagate else 0
        if not self._schedule.sc:
            return first
        told = n
        while (last := self._cuts.before(n)) > first and self._cuts[last] != CUT:
            if told - last >= _LONG_SEARCH:
                told = last
                self._notices.append(f"Colorize: frame {n}: no cut in the {n - last} frames up to it, still searching")
            look = range(max(first + 1, last - SEARCH + 1), last + 1)
            yield [(number, LUMA_CLIP) for number in look if self._cuts[number] == UNKNOWN]
        return max(first, last)

    def _jump(self, replay: _Replay) -> None:
        """Move the replay to the furthest known state between its position and n."""
        if not self._recurrent:
            first = max(replay.start, self._schedule.switch_before(replay.n))
            replay.position = replay.n - (replay.n - first) % BLOCK
            return
        for store in (self._recent, self._checkpoints, *self._handed):
            found = max((number for number in store if replay.position < number <= replay.n), default=None)
            if found is not None:
                replay.position, replay.state = found, store[found]

    def _find_framing(self, start: int) -> Generator[list[Need], Frames, Framing]:
        """Find the picture within black borders of the segment that starts there."""
        if not self._borders:
            return Framing()
        if start not in self._framings:
            self._framings[start] = yield from find_framing(self._schedule, self._cuts, self._reader, start)
        return self._framings[start]

    def _find_work(self, replay: _Replay, framing: Framing) -> Generator[list[Need], Frames, _Work]:
        """Find the references of the block at the replay's position."""
        schedule = self._schedule
        if schedule.ref_frames is None:
            index = yield from self._choose(replay.start)
            stretch = Stretch(replay.start, (index,), (replay.start,), index, None)
        else:
            start = max(replay.start, schedule.switch_before(replay.position))
            if start not in self._stretches:
                self._stretches[start] = yield from find_stretch(schedule, self._cuts, start, self._longest)
            stretch = self._stretches[start]
        references = []
        for index in stretch.indices:
            references.append((yield from self._load(index)))
        return _Work(stretch, references, framing)

    def _find_backward(self, work: _Work, block: range) -> Generator[list[Need], Frames, dict[int, Tensor]]:
        """Return ab of the block's frames that come from the end of its stretch; none if there is no such end."""
        stretch = work.stretch
        if stretch.end is None or not (self._schedule.propagate and self._recurrent):
            return {}
        last = work.reference(stretch.end)

        def start() -> Any:
            return self._session.start(last, work.framing.inside)

        def aligned(some: range, frames: Frames) -> Sequence[Any]:
            return self._aligned(work, some, self._reader.luma(frames))

        return (yield from self._backward.colours(stretch, block, start, aligned))

    def _choose(self, scene: int) -> Generator[list[Need], Frames, int]:
        """Choose the reference that the scene's typical frame is most similar to; the first of equals."""
        if scene not in self._typical:
            self._typical[scene] = yield from find_typical(self._schedule, self._cuts, scene)
        scores = self._scores.setdefault(scene, [])
        if not scores and len(self._scores) == 1 and self._schedule.num_references > _MANY_REFERENCES:
            count = self._schedule.num_references
            self._notices.append(f"Colorize: a frame of each scene is compared with all {count} references")
        while (index := len(scores)) < self._schedule.num_references:
            reference = yield from self._load(index)
            framing = yield from self._find_framing(scene)
            L = framing.read(self._reader, (yield framing.needed([self._typical[scene]])))
            area = framing.inside
            if len(scores) == index:  # no other request has computed it meanwhile
                found = self._session.correspond(L, [reference], area)[0].similarity
                scores.append(float(found[:, :, *(area or picture_area(L))].mean()))
        return max(range(len(scores)), key=scores.__getitem__)

    def _load(self, index: int) -> Generator[list[Need], Frames, Any]:
        while index not in self._references:
            picture = self._reader.picture((yield [(index, REF_CLIP)]))
            if index not in self._references:
                if float(picture[0][:, 1:].abs().max()) < _LEAST_COLOUR:
                    self._notices.append(f"Colorize: frame {index} of ref has no colours: frames with it stay grey")
                self._references[index] = self._session.reference(*picture)
        return self._references[index]

    def _starts(self, block: range) -> list[int]:
        """Return the frames within a block from which another reference applies."""
        return [number for number in self._schedule.ref_frames or () if number in block[1:]]

    def _aligned(self, work: _Work, block: range, L: Tensor, state: Any = None) -> Sequence[Any]:
        """Compute the correspondences of a block. L: (up to BLOCK, 1, h, w).

        The last frame is repeated up to a half or a whole BLOCK: a backend has to prepare the network for two shapes.
        """
        its = torch.arange(BLOCK if len(L) > BLOCK // 2 else BLOCK // 2).clamp_max(len(L) - 1)
        area, handicaps = work.framing.inside, work.stretch.handicaps(block)[its]
        return self._session.correspond(L[its], work.references, area, handicaps, state)

    def _advance(self, replay: _Replay, block: range, work: _Work, backward: dict[int, Tensor], frames: Frames) -> None:
        """Compute a block up to the next cut, unless another request has done so meanwhile."""
        self._jump(replay)
        if replay.n in self._outputs or replay.position != block.start:
            return
        state, stretch = replay.state, work.stretch
        if state is None:
            held = work.reference(stretch.holding) if self._schedule.propagate else None
            state = self._session.start(held, work.framing.inside)
        end = next((number for number in block[1:] if self._cuts[number] == CUT), block.stop)
        L = work.framing.read(self._reader, frames)[: end - block.start]
        aligned = self._aligned(work, range(block.start, end), L, state if self._schedule.memory else None)
        for number in range(block.start, end):
            one = aligned[number - block.start]
            if self._recurrent:
                state, ab = self._session.step(state, one)
            else:
                ab = one.warped_ab
            if number in backward:
                ab = joined(ab, backward[number], stretch.nearness(number))
            zoom = work.framing.zoom
            planes, arrived, fine = fetched(torch.cat((one.similarity, ab), dim=1), L[[number - block.start]], zoom)
            inside = work.framing.area or picture_area(L[[number - block.start]])
            shares = one.match.taken.mean((0, 2, 3)).tolist() if len(stretch.indices) > 1 else [1.0]
            by_index = dict(zip(stretch.indices, shares, strict=False))  # then come remembered frames
            self._outputs[number] = Output(planes, arrived, inside, by_index, replay.start, fine, zoom)
            self._outputs.move_to_end(number)
        if self._schedule.memory and self._recurrent and _passes(REMEMBER, block.start, end, replay.start):
            state = self._session.remember(state, aligned[end - 1 - block.start], self._schedule.memory)
        replay.position, replay.state = end, state
        self._recent[end] = state
        for states in self._handed:
            states.offer(end, state)
        if _passes(_CHECKPOINT, block.start, end, replay.start):
            self._checkpoints[end] = state
        unasked = [number for number in self._outputs if number not in self._requests]
        window = max(BLOCK, min(self._window, _OUTPUT_BYTES // bytes_of([self._outputs[end - 1]])))
        for number in unasked[: max(0, len(unasked) - window)]:
            del self._outputs[number]


def _passes(every: int, before: int, after: int, start: int) -> bool:
    """Return whether a multiple of `every` frames, counted from `start`, lies after `before` and not after `after`."""
    return (after - start) // every > (before - start) // every

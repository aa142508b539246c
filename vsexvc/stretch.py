"""Find the references around a frame, and join the colours that come from both ends of a stretch.

    stretch    frames from one of `ref_frames` to the next. Its references are that of its start, that of its end, and
               the nearest others: of the same scene, at most `Schedule.around`, at most `LONGEST` frames from its
               start. They are a pure function of the frames up to `LONGEST` after and before the start.
    backward   with propagate, colours also go from the reference at the end back to the start, frame by frame. They are
               computed for the whole stretch when its first frame is requested, and kept.

Each position takes its colour from one reference (nets/choice.py); of equal ones, from the nearest in time. Each pixel
blends the two directions where they agree, and takes the nearer one where they disagree.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vsexvc.cuts import CUT, UNKNOWN, Cuts
from vsexvc.schedule import BLOCK, LUMA_CLIP, SEARCH, Frames, Need, Schedule
from vsexvc.support.kept import Kept

LONGEST = 128  # frames from a stretch's start to its references, at most
_HANDICAP = 0.03  # cosine by which a far reference must exceed the nearest one
_DISAGREEMENT = 8.0  # difference in ab of the two directions about which the nearer one decides
_AROUND = 9  # side in pixels of the square in which they are compared
_CHAINS = 2  # stretches whose backward colours are kept


@dataclass(frozen=True)
class Stretch:
    """Describe a stretch and its references.

    Attributes:
        start: its first frame.
        indices: indices of its references, ascending.
        places: frames of these references.
        holding: the one of `indices` that applies by `ref_frames`.
        end: the one of `indices` whose frame ends the stretch; None: there is none near enough in the scene.
    """

    start: int
    indices: tuple[int, ...]
    places: tuple[int, ...]
    holding: int
    end: int | None

    @property
    def stop(self) -> int:
        """Return the frame that ends it."""
        assert self.end is not None
        return self.places[self.indices.index(self.end)]

    def handicaps(self, block: range) -> Tensor:
        """Return (B, R): the lead required of each reference at each frame of a block."""
        away = torch.tensor([[abs(number - place) for place in self.places] for number in block], dtype=torch.float32)
        nearest = away.amin(1, keepdim=True)
        return _HANDICAP * (away - nearest) / away.clamp_min(1.0)

    def nearness(self, number: int) -> float:
        """Return how near a frame is to the end: 0..1; never one half, so that one end is always nearer."""
        if self.start not in self.places:  # before the first reference, which also is the end
            return 1.0
        return max(0.0, (number - self.start - 0.25) / (self.stop - self.start))


def find_stretch(schedule: Schedule, cuts: Cuts, start: int, longest: int) -> Generator[list[Need], Frames, Stretch]:
    """Find the references of a stretch.

    Args:
        schedule: with `ref_frames`.
        cuts: filled while frames are examined.
        start: the stretch's first frame: one of `ref_frames`, or the first frame of a segment.
        longest: frames from the stretch's start to a reference, at most.
    """
    frames = schedule.ref_frames or (0,)
    holding = max(0, bisect_right(frames, start) - 1)
    chosen, later, earlier = [holding], holding + 1, holding - 1
    end = None
    is_before = schedule.around > 1 and frames[holding] > start
    if is_before and (yield from _is_near(schedule, cuts, start, frames[holding], longest)):
        end = holding
    if frames[holding] < start:  # it belongs to an earlier scene, as do those before it
        earlier = -1
    while len(chosen) < schedule.around and (later < len(frames) or earlier >= 0):
        if later < len(frames):
            if (yield from _is_near(schedule, cuts, start, frames[later], longest)):
                chosen.append(later)
                end = later if end is None else end
                later += 1
            else:
                later = len(frames)
        if earlier >= 0 and len(chosen) < schedule.around:
            if (yield from _is_near(schedule, cuts, frames[earlier], start, longest)):
                chosen.append(earlier)
                earlier -= 1
            else:
                earlier = -1
    chosen.sort()
    return Stretch(start, tuple(chosen), tuple(frames[index] for index in chosen), holding, end)


def _is_near(
    schedule: Schedule, cuts: Cuts, first: int, last: int, longest: int
) -> Generator[list[Need], Frames, bool]:
    """Return whether two frames are at most `longest` apart, and no cut is between them."""
    if last - first > longest:
        return False
    for number in range(first + 1, last + 1, SEARCH) if schedule.sc else ():
        look = range(number, min(number + SEARCH, last + 1))
        if unknown := [(k, LUMA_CLIP) for k in look if cuts[k] == UNKNOWN]:
            yield unknown
        if any(cuts[k] == CUT for k in look):
            return False
    return True


@dataclass
class _Chain:
    """Hold backward colours of a stretch: ab of each frame from `position` to the end, and the state before it."""

    position: int
    state: Any
    ab: dict[int, Tensor] = field(default_factory=dict)


class Backward:
    """Compute colours from the end of a stretch to its start."""

    def __init__(self, step: Callable[[Any, Any], tuple[Any, Tensor]]) -> None:
        """Prepare. `step`: the session's."""
        self._step = step
        self._chains: Kept[_Chain] = Kept(_CHAINS, 1 << 62)  # `longest` bounds their bytes

    def colours(
        self,
        stretch: Stretch,
        block: range,
        start: Callable[[], Any],
        aligned: Callable[[range, Frames], Sequence[Any]],
    ) -> Generator[list[Need], Frames, dict[int, Tensor]]:
        """Return ab (1, 2, h, w) of at least the frames of a block, by number.

        Args:
            stretch: a stretch with an end.
            block: a block of the stretch.
            start: returns the state that the reference at the end gives.
            aligned: returns the correspondences of a block and its frames.
        """
        if stretch.start not in self._chains:
            self._chains[stretch.start] = _Chain(stretch.stop, start())
        chain = self._chains[stretch.start]
        while chain.position > block.start:
            last = chain.position
            work = range(last - 1 - (last - 1 - stretch.start) % BLOCK, last)
            frames = yield [(number, LUMA_CLIP) for number in work]
            if chain.position != last:  # another request has computed it meanwhile
                continue
            state, each = chain.state, aligned(work, frames)
            for number in reversed(work):
                state, chain.ab[number] = self._step(state, each[number - work.start])
            chain.state, chain.position = state, work.start
        return chain.ab


def joined(forward: Tensor, backward: Tensor, nearness: float) -> Tensor:
    """Join ab of a frame from both directions, (1, 2, h, w) each; nearness: to the origin of the backward one, 0..1."""
    apart = torch.linalg.vector_norm(forward - backward, dim=1, keepdim=True)
    apart = F.avg_pool2d(apart, _AROUND, 1, _AROUND // 2, count_include_pad=False)
    logit = torch.logit(torch.tensor(nearness, dtype=torch.float32)).to(apart.device)
    share = torch.sigmoid(logit * (1.0 + (apart / _DISAGREEMENT) ** 4))
    return torch.lerp(forward, backward, share)

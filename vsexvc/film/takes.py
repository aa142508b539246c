"""Split long scenes into parts, and keep the recurrent state at each part's end, so that none is computed twice.

A part that begins inside a scene takes the state that the part before has left. Where that is missing or damaged, the
scene is computed again up to there: the bytes are the same.
"""

from __future__ import annotations

import os
import socket
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from vsexvc.film.folder import Folder
from vsexvc.film.job import Job
from vsexvc.schedule import BLOCK
from vsexvc.session import State
from vsexvc.support.files import settle

LONGEST = 480  # frames of a part
STEP = 240  # of those that a longer one is split into


def split(parts: Sequence[tuple[int, int]], job: Job) -> list[tuple[int, int]]:
    """Split parts of more than LONGEST frames into several.

    These end where a block does, or, with propagation, where another reference begins the recurrence anew.

    Args:
        parts: of whole scenes.
        job: with its scenes and references.
    """
    made = []
    for first, stop in parts:
        at = first
        while stop - at > LONGEST:
            wanted = at + STEP
            scene = job.firsts[bisect_right(job.firsts, wanted) - 1]
            held = max((frame for frame in job.ref_frames or () if frame <= wanted), default=0)
            end = wanted - (wanted - max(scene, held)) % BLOCK  # blocks are counted from either
            if job.colours.propagate and held > at:
                end = held
            made.append((at, end))
            at = end
        made.append((at, stop))
    return made


def follows(job: Job, number: int) -> bool:
    """Return whether a part begins inside a scene, with the state that the part before leaves."""
    first, _ = job.parts[number]
    return first not in job.firsts and not (job.colours.propagate and first in (job.ref_frames or ()))


class Kept:
    """Keep the states at the ends of a job's parts, as files of its folder (vsexvc.handover.States)."""

    def __init__(self, job: Job) -> None:
        self._job, self._folder, self.firsts = job, Folder(job.folder), job.firsts
        # Of the frame before which a state is kept: the part that leaves it.
        self._numbers = {job.parts[number][0]: number - 1 for number in range(len(job.parts)) if follows(job, number)}
        self._here: dict[int, State] = {}

    def begin(self, number: int) -> None:
        """Find the state that a part begins with, or the last one before it in its scene."""
        self._here = {}
        while follows(self._job, number) and not self._here:
            first, _ = self._job.parts[number]
            number -= 1
            if (state := self._read(number)) is not None:
                self._here[first] = state

    def _read(self, number: int) -> State | None:
        """Return the state that a part has left; None if no usable one exists."""
        try:
            stored = torch.load(self._folder.state(number), map_location="cpu", weights_only=True)
            if stored["key"] != self._job.keys[number]:
                return None
            device = torch.device(self._job.colours.device or "cpu")
            return State(*(None if x is None else x.to(device) for x in (stored["prev_lab"], stored["prev_phi"])))
        except Exception:  # torch raises errors of any type
            return None

    def __iter__(self) -> Iterator[int]:
        return iter(self._here)

    def __getitem__(self, n: int) -> State:
        return self._here[n]

    def offer(self, n: int, state: State) -> None:
        """Keep the state before a frame if a part begins with it."""
        number = self._numbers.get(n)
        if number is None:
            return
        content: dict[str, Any] = {
            "key": self._job.keys[number],
            "prev_lab": None if state.prev_lab is None else state.prev_lab.cpu(),
            "prev_phi": None if state.prev_phi is None else state.prev_phi.cpu(),
        }
        path = self._folder.state(number)
        partial = path.with_name(f"{path.name}.{socket.gethostname()}-{os.getpid()}.part")
        torch.save(content, partial)
        settle(partial, path)

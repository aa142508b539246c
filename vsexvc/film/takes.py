"""Divide a film into parts, and keep the recurrent state at a part's end inside a scene: no frame is computed twice.

A part that begins inside a scene continues from the state at the end of the part before it. If that state is missing or
damaged, the scene is computed again up to there: the bytes are the same.
"""

from __future__ import annotations

import os
import socket
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch

from vsexvc.film.folder import Folder
from vsexvc.film.job import Job
from vsexvc.nets.network import Keys
from vsexvc.schedule import BLOCK
from vsexvc.session import State
from vsexvc.support.files import settle

LEAST = 48  # least frames of a part made of whole scenes, if the film has as many
LONGEST = 480  # most frames of a part
STEP = 240  # frames of the parts that a longer one is split into


def parts_of(firsts: Sequence[int], num_frames: int) -> list[tuple[int, int]]:
    """Group whole scenes into parts of at least LEAST frames; the last part takes what remains."""
    starts = [0]
    for first in firsts[1:]:
        if first - starts[-1] >= LEAST:
            starts.append(first)
    if len(starts) > 1 and num_frames - starts[-1] < LEAST:
        starts.pop()
    return list(pairwise([*starts, num_frames]))


def split(parts: Sequence[tuple[int, int]], job: Job) -> list[tuple[int, int]]:
    """Split parts of more than LONGEST frames into several.

    The new parts end where a block ends or, with propagation, where the next reference restarts the recurrence.

    Args:
        parts: parts of whole scenes.
        job: the job with its scenes and references.
    """
    made = []
    for first, stop in parts:
        at = first
        while stop - at > LONGEST:
            wanted = at + STEP
            scene = job.firsts[bisect_right(job.firsts, wanted) - 1]
            held = max((frame for frame in job.ref_frames or () if frame <= wanted), default=0)
            end = (
                wanted - (wanted - max(scene, held)) % BLOCK
            )  # blocks are counted from a scene's or a reference's first frame
            if job.colours.propagate and held > at:
                end = held
            made.append((at, end))
            at = end
        made.append((at, stop))
    return made


def follows(job: Job, number: int) -> bool:
    """Return whether a part begins inside a scene and continues from the previous part's state."""
    first, _ = job.parts[number]
    return first not in job.firsts and not (job.colours.propagate and first in (job.ref_frames or ()))


class KeptStates:
    """Keep the states at the ends of a job's parts, as files of its folder (vsexvc.handover.States)."""

    def __init__(self, job: Job) -> None:
        self._job, self._folder, self.firsts = job, Folder(job.folder), job.firsts
        # By the frame before which a state is kept: the part that ends there.
        self._numbers = {job.parts[number][0]: number - 1 for number in range(len(job.parts)) if follows(job, number)}
        self._here: dict[int, State] = {}

    def begin(self, number: int) -> None:
        """Find the state that a part begins with, or else the last earlier one in its scene."""
        self._here = {}
        while follows(self._job, number) and not self._here:
            first, _ = self._job.parts[number]
            number -= 1
            if (state := self._read(number)) is not None:
                self._here[first] = state

    def _read(self, number: int) -> State | None:
        """Return the state at the end of a part; None if there is no usable one."""
        try:
            stored = torch.load(self._folder.state(number), map_location="cpu", weights_only=True)
            if stored["key"] != self._job.keys[number]:
                return None
            device = torch.device(self._job.colours.device or "cpu")
            held: list[list[Any]] = [[x if x is None else x.to(device) for x in some] for some in stored["state"]]
            (prev_lab, prev_phi), *memory = held
            return State(prev_lab, prev_phi, tuple(Keys(*one) for one in memory))
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
        held = ((state.prev_lab, state.prev_phi), *state.memory)
        content: dict[str, Any] = {
            "key": self._job.keys[number],
            "state": [[x if x is None else x.cpu() for x in some] for some in held],
        }
        path = self._folder.state(number)
        partial = path.with_name(f"{path.name}.{socket.gethostname()}-{os.getpid()}.part")
        torch.save(content, partial)
        settle(partial, path)

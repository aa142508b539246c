"""Make the parts of a film in this process.

A part is frames [first, stop) of one graph over the whole film. The bytes of a frame do not depend on the order of
requests, nor those of a part on the process that makes it. render.py chooses the parts and joins them; cluster.py
distributes them.
"""

from __future__ import annotations

import dataclasses
import os
import socket
import sys
import traceback
from collections.abc import Callable, Generator, Sequence
from contextlib import chdir, redirect_stdout
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
import vapoursynth as vs

from vsexvc.film import source
from vsexvc.film.encode import Part, encode, seen
from vsexvc.film.folder import Folder
from vsexvc.film.job import Job, fingerprint, versions
from vsexvc.film.references import open_references
from vsexvc.film.takes import KeptStates
from vsexvc.film.trust import Tally
from vsexvc.graph import uncoloured
from vsexvc.handover import States, handed
from vsexvc.plugin import colorize
from vsexvc.pump import REFERENCES
from vsexvc.support.errors import first_line
from vsexvc.support.files import sha256_of


class Coloured(NamedTuple):
    """Hold a whole film in colour, or a script's output, and a name for each frame of the references."""

    clip: vs.VideoNode
    names: list[str]


def coloured(job: Job, device: str | None = None, states: States | None = None) -> Coloured:
    """Open a film and its references and colour it, or run a script.

    Args:
        job: the job; its parts, encoding and arguments have no effect.
        device: replaces the job's device.
        states: see vsexvc.handover.

    Raises:
        ValueError, OSError: a file cannot be opened, or an argument is wrong.
    """
    if job.model is None:
        torch.set_num_threads(job.threads)
        return Coloured(script_output(job.source, job.source.read_bytes()), [])
    index = Folder(job.folder).index
    film = source.open_video(job.source, index, job.interlaced, job.fps)
    clip = source.with_scenes(film, job.firsts)
    colours = job.colours
    if device is not None:  # this device may not have the job's precision
        colours = dataclasses.replace(colours, device=device, precision=None)
    try:
        result, names = None, list[str]()
        if job.references:
            references, names = open_references(job.references, index, job.stills, film if colours.propagate else None)
            if job.ref_frames is None and (count := references.num_frames) > REFERENCES:
                raise ValueError(
                    f"--ref must be at most {REFERENCES} frames in all, got {count}: say in a plan which scene takes "
                    "which (python -m vsexvc scenes)"
                )
            arguments = {"ref_frames": job.ref_frames, "model": str(job.model), **dataclasses.asdict(colours)}
            with handed(states):
                counts = {colours.around, *(one.most for one in job.around)}
                results = {n: colorize(clip, references, **{**arguments, "around": n}) for n in sorted(counts)}
            scenes = [(first, stop, results[most]) for first, stop, most in job.around]
            result = _replaced(results[colours.around], scenes)
        return Coloured(_with_left(result, film, job), names)
    except vs.Error as error:
        raise ValueError(first_line(error)) from None


def _with_left(result: vs.VideoNode | None, film: vs.VideoNode, job: Job) -> vs.VideoNode:
    """Return the coloured film with frames of `film` in stretches without colours. result: None: all are such."""
    own = film.format if job.colours.format is None else vs.core.get_video_format(job.colours.format)
    if result is None:
        result = uncoloured(film, own, is_grey=False)
    left = {is_grey: uncoloured(film, result.format, is_grey) for is_grey in {one.is_grey for one in job.left}}
    return _replaced(result, [(first, stop, left[is_grey]) for first, stop, is_grey in job.left])


def _replaced(clip: vs.VideoNode, stretches: Sequence[tuple[int, int, vs.VideoNode]]) -> vs.VideoNode:
    """Return a clip with other clips' frames in stretches [first, stop), ascending."""
    pieces, done = [], 0
    for first, stop, other in stretches:
        pieces += [clip[done:first]] if done < first else []
        pieces.append(other[first:stop])
        done = stop
    if done < clip.num_frames:
        pieces.append(clip[done:])
    return vs.core.std.Splice(pieces) if stretches else clip


def script_output(path: Path, text: bytes) -> vs.VideoNode:
    """Return the clip of a script's output 0, see script_outputs."""
    return script_outputs(path, text).clip


@lru_cache(maxsize=1)
def script_outputs(path: Path, text: bytes) -> vs.VideoOutputTuple:
    """Return output 0 of a script, run in its folder as vspipe does. What the script prints goes to stderr.

    A process runs it once: a second std.LoadPlugin of the same file is an error.
    """
    vs.clear_outputs()
    try:
        with chdir(path.parent), redirect_stdout(sys.stderr):
            exec(compile(text, str(path), "exec"), {"__name__": "__vapoursynth__", "__file__": str(path)})
    except (Exception, SystemExit) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        where = f", line {lines[-1]}" if lines else ""
        raise ValueError(f"script {str(path)!r}{where}: {type(error).__name__}: {first_line(error)}") from None
    output = vs.get_outputs().get(0)
    vs.clear_outputs()
    if not isinstance(output, vs.VideoOutputTuple):
        raise ValueError(f"script {str(path)!r} must have a clip as its output 0, but has none")
    return output


class PartMaker:
    """Make parts of a job in this process."""

    def __init__(self, job: Job) -> None:
        """Prepare. Raise ValueError if versions or weights differ from those that the job was started with."""
        torch.set_num_threads(job.threads)
        needed = {**dict(job.versions), "weights": job.weights}
        here = {**versions(), "weights": "" if job.model is None else fingerprint(job.model)}
        for name in needed:
            if here[name] != needed[name]:
                raise ValueError(
                    f"{socket.gethostname()}: {name} must be {needed[name]} as when the render began, got {here[name]}"
                )
        self._job, self._folder, self._states = job, Folder(job.folder), KeptStates(job)
        self._clip = coloured(job, states=self._states).clip

    def make(self, number: int, progress: Callable[[int], None] = lambda done: None) -> None:
        """Write a part.

        Args:
            number: number of the part.
            progress: called with the number of finished frames of the part.

        Raises:
            ValueError, OSError: the part cannot be made; the message names its frames. No file is left.
        """
        first, stop = self._job.parts[number]
        partial = self._folder.path / f"{number:06}.{socket.gethostname()}-{os.getpid()}.part"
        durations: list[tuple[int, int]] = []
        tally = Tally(self._job.firsts, self._job.ref_frames)
        self._states.begin(number)
        try:
            encode(
                self._frames(first, stop, durations, tally, progress), self._job.arguments, self._job.encoding, partial
            )
            order = seen(partial)
            if len(order) != stop - first:
                raise ValueError(f"ffmpeg wrote {len(order)} of {stop - first} frames")
            sums = () if self._job.model is None else tally.sums()
            part = Part(order, sha256_of(partial), tuple(durations), self._job.keys[number], sums)
            self._folder.keep(number, partial, part)
        except (ValueError, vs.Error) as error:
            raise ValueError(f"frames {first} to {stop - 1}: {first_line(error)}") from None
        finally:
            partial.unlink(missing_ok=True)

    def _frames(
        self, first: int, stop: int, durations: list[tuple[int, int]], tally: Tally, progress: Callable[[int], None]
    ) -> Generator[vs.VideoFrame]:
        """Yield the frames of a part.

        Args:
            first, stop: of the part.
            durations: filled with durations of a script's frames; those of a film are in its file.
            tally: counts how well references suit a film's frames.
            progress: see `make`.
        """
        for done, frame in enumerate(self._clip[first:stop].frames(close=True), 1):
            if self._job.model is None:
                durations.append((int(frame.props.get("_DurationNum", 0)), int(frame.props.get("_DurationDen", 0))))
            else:
                tally.add(first + done - 1, frame.props)
            yield frame
            progress(done)

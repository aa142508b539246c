"""Describe a render: the colours of a film, and everything that a worker requires."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from vsexvc import __version__
from vsexvc.film.encode import Encoding, ffmpeg_version
from vsexvc.film.plan import Around, Left
from vsexvc.stretch import LONGEST
from vsexvc.support.files import sha256_of


@dataclass(frozen=True)
class Colours:
    """Hold the arguments of Colorize that apply to a whole film."""

    size: int = 216
    saturation: float = 1.0
    propagate: bool = False
    around: int = 4
    memory: int = 0
    device: str | None = None
    backend: str = "torch"
    precision: str | None = None
    format: int | None = None


@dataclass(frozen=True)
class Job:
    """Hold everything that a worker requires, wherever it runs. Paths are the same on all machines.

    Attributes:
        source: a film, or a script.
        interlaced, fps: see source.open_video.
        folder: the working folder.
        encoding, arguments: see encode.encode.
        references: of a film; none where the whole film gets no colours.
        stills: whether only the first frame of each reference is used.
        ref_frames: as for Colorize.
        left: stretches of a film that get no colours, ascending.
        around: scenes whose `around` differs from that of `colours`, ascending.
        model: the weights for a film; None: the source is a script.
        weights: fingerprint of the model.
        firsts: first frames of the scenes.
        parts: [first, stop) of each part.
        keys: keys of the parts, see part_keys.
        threads: torch's threads in each worker; the bytes depend on it.
        versions: versions of the programs, by name.
    """

    source: Path
    folder: Path
    encoding: Encoding
    colours: Colours
    interlaced: str | None = None
    fps: Fraction | None = None
    references: tuple[Path, ...] = ()
    stills: bool = False
    ref_frames: tuple[int, ...] | None = None
    left: tuple[Left, ...] = ()
    around: tuple[Around, ...] = ()
    model: Path | None = None
    weights: str = ""
    firsts: tuple[int, ...] = (0,)
    arguments: tuple[str, ...] = ()
    parts: tuple[tuple[int, int], ...] = ()
    keys: tuple[str, ...] = ()
    threads: int = 1
    versions: tuple[tuple[str, str], ...] = ()


def part_keys(job: Job, common: dict[str, Any], prints: Sequence[Any]) -> tuple[str, ...]:
    """Return for each part a hash of all that its bytes depend on. A part with the same key is not made again.

    The colours of a frame depend on the frames from the beginning of the recurrence on, and on the references around
    these. The hash covers scenes and references from there, less LONGEST frames, to LONGEST frames after the part.

    Args:
        job: with its scenes, references and parts.
        common: what all parts depend on; JSON can hold it.
        prints: fingerprints of the references.
    """
    keys = []
    for first, stop in job.parts:
        scene = job.firsts[bisect_right(job.firsts, first) - 1]
        switches = job.ref_frames if job.colours.propagate and job.ref_frames else ()
        start = max([scene, *(frame for frame in switches if frame <= first)])  # of the recurrence
        begin = max(scene, start - LONGEST - 1)
        end = min(next((frame for frame in job.firsts if frame >= stop), job.parts[-1][1]), stop + LONGEST)
        held: list[Any] = list(prints)
        if job.ref_frames is not None:
            earliest = bisect_right(job.ref_frames, begin)
            earliest = max(0, earliest - 1) if begin == scene else earliest  # the previous scene's may still apply
            used = list(zip(job.ref_frames, prints, strict=False))[earliest:]
            held = [(frame, one) for n, (frame, one) in enumerate(used) if n == 0 or frame < end]
            if len(held) == 1:  # only beside others does its distance matter
                held = [(max(held[0][0], begin), held[0][1])]
        own = {
            "frames": (first, stop),
            "start": start,
            "scenes": [*(frame for frame in job.firsts if begin <= frame < end), end],
            "references": held,
            "left": [(max(a, first), min(b, stop), is_grey) for a, b, is_grey in job.left if a < stop and b > first],
            "around": [(max(a, start), most) for a, b, most in job.around if a < stop and b > start],
        }
        keys.append(hashlib.sha256(json.dumps([common, own], sort_keys=True).encode()).hexdigest())
    return tuple(keys)


def versions() -> dict[str, str]:
    """Return the versions of the programs that determine the bytes."""
    installed = {name: importlib.metadata.version(name) for name in ("torch", "vapoursynth")}
    return {"vsexvc": __version__, **installed, "ffmpeg": ffmpeg_version()}


def fingerprint(path: Path) -> str:
    """Return the sha256 of a file, or of all files in a folder."""
    if not path.is_dir():
        return sha256_of(path)
    return " ".join(sha256_of(file) for file in sorted(path.rglob("*")) if file.is_file())

"""Describe a render: the colours of a film, and everything that a worker needs to know."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from dataclasses import dataclass
from pathlib import Path

from vsexvc import __version__
from vsexvc.film.encode import Encoding, ffmpeg_version
from vsexvc.film.plan import Left
from vsexvc.support.files import sha256_of


@dataclass(frozen=True)
class Colours:
    """Those arguments of Colorize that a whole film has one of."""

    size: int = 216
    saturation: float = 1.0
    propagate: bool = False
    device: str | None = None
    backend: str = "torch"
    precision: str | None = None
    format: int | None = None


@dataclass(frozen=True)
class Job:
    """All that a worker needs to know, wherever it is. Paths are the same on all machines.

    Attributes:
        source: a film, or a script.
        interlaced: of source.open_video.
        folder: the working folder.
        encoding, arguments: of encode.encode.
        references: of a film, none where all of it is left; stills: of each only the first frame.
        ref_frames: of Colorize.
        left: stretches of a film that get no colours, ascending.
        model: of a film; None: the source is a script.
        weights: fingerprint of the model.
        firsts: of the scenes.
        parts: first frame of each, and the one behind its last.
        threads: of torch in each worker; the bytes depend on it.
        versions: of the programs, by their names.
    """

    source: Path
    folder: Path
    encoding: Encoding
    colours: Colours
    interlaced: str | None = None
    references: tuple[Path, ...] = ()
    stills: bool = False
    ref_frames: tuple[int, ...] | None = None
    left: tuple[Left, ...] = ()
    model: Path | None = None
    weights: str = ""
    firsts: tuple[int, ...] = (0,)
    arguments: tuple[str, ...] = ()
    parts: tuple[tuple[int, int], ...] = ()
    threads: int = 1
    versions: tuple[tuple[str, str], ...] = ()


def versions() -> dict[str, str]:
    """Of the programs that make the bytes."""
    installed = {name: importlib.metadata.version(name) for name in ("torch", "vapoursynth")}
    return {"vsexvc": __version__, **installed, "ffmpeg": ffmpeg_version()}


def fingerprint(path: Path) -> str:
    """sha256 of a file, or those of all in a folder."""
    if not path.is_dir():
        return sha256_of(path)
    return " ".join(sha256_of(file) for file in sorted(path.rglob("*")) if file.is_file())

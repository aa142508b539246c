"""Open references, pictures and clips, as one VapourSynth clip; numbered where their names contain a frame number.

    ref_000412.png    is used from frame 412 of the film

pictures.py reads pictures; bestsource reads clips and what Pillow cannot read. plan.py and plugin.py decide which scene
takes which reference.
"""

from __future__ import annotations

import vsexvc.support.openmp  # noqa: F401  (first: it loads torch)

# isort: split
import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import pairwise
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import vapoursynth as vs

from vsexvc.film import pictures
from vsexvc.film.source import default_cache, open_any, picture

_LOOK = (320, 240)  # the largest size in which a frame is searched for colours
_NUMBERED = re.compile(r"ref_(\d{6,})", re.IGNORECASE)  # a name with the picture's frame
_NEARLY = re.compile(r"ref_\d+.*", re.IGNORECASE)  # a name that was probably meant to be numbered
_SAME_SHAPE = 0.02  # share by which the shape of a coloured frame may differ from the film's, because of rounding


def references(
    paths: str | PathLike[str] | Iterable[str | PathLike[str]], clip: vs.VideoNode | None = None
) -> tuple[vs.VideoNode, list[int] | None]:
    """Read references for a script: `ref, frames = references("folder")`, for `Colorize(clip, ref, frames)`.

    Args:
        paths: a picture, a clip, a folder of pictures, or several of them. Pictures are returned upright and in
            sRGB; their transparent parts give no colours (frame property `_Alpha`).
        clip: the film; it must have the frames that the names number.

    Returns:
        The reference clip, each frame in its own size; and the frames of the film from which the references apply, if
        the names contain them (ref_000412.png), else None.

    Raises:
        OSError, ValueError: see open_references and numbers_of.
    """
    several = [paths] if isinstance(paths, str | PathLike) else list(paths)
    files = listed([Path(path) for path in several])
    numbers = numbers_of(files, None if clip is None else clip.num_frames)
    return open_references(files, default_cache()).clip, None if numbers is None else list(numbers)


def listed(paths: Sequence[Path]) -> list[Path]:
    """List the files, those of a folder in its place: by number if their names contain one, else by name.

    Hidden files are skipped, among them those that macOS adds.

    Raises:
        ValueError: a folder without pictures; no path.
    """
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            found.append(path)
            continue
        inside = sorted(file for file in path.iterdir() if pictures.is_picture(file))
        if not inside:
            raise ValueError(
                f"reference {str(path)!r} must be a picture, a clip or a folder of pictures, this folder holds none"
            )
        found += inside
    if not found:
        raise ValueError("references must be one or more pictures or clips, got none")
    return sorted(found, key=lambda path: _number(path) or 0) if all(map(_is_numbered, found)) else found


def numbers_of(files: Sequence[Path], num_frames: int | None = None) -> tuple[int, ...] | None:
    """Return the frame numbers in names such as ref_000412.png, ascending; None if no name contains one.

    Args:
        files: files in the order of `listed`.
        num_frames: number of the film's frames.

    Raises:
        ValueError: one name carries a number and another does not, or it has too few digits; two carry the same; a
            number beyond the film.
    """
    numbers = [_number(file) for file in files]
    if all(number is None for number in numbers):
        nearly = [file for file in files if _NEARLY.fullmatch(file.stem) and file.suffix.lower() in pictures.SUFFIXES]
        if nearly:
            raise ValueError(
                f"reference {str(nearly[0])!r} must be named by its frame in six digits (ref_000412.png), "
                "or differently"
            )
        return None
    known: list[int] = []
    for file, number in zip(files, numbers, strict=True):
        if number is None:
            raise ValueError(
                f"reference {str(file)!r} must be named by its frame, as others are (ref_000412.png), or none of them"
            )
        if num_frames is not None and number >= num_frames:
            raise ValueError(f"reference {str(file)!r} must be named by a frame of the film, 0..{num_frames - 1}")
        known.append(number)
    for (file, number), (other, same) in pairwise(zip(files, known, strict=True)):
        if number == same:
            raise ValueError(f"reference {str(other)!r} must have a number of its own, {file.name} has the same")
    return tuple(known)


def skipped(paths: Sequence[Path]) -> list[str]:
    """Return a notice for each folder with files that are not taken for references."""
    return [text for path in paths if path.is_dir() for text in pictures.passed_over(path)]


def numbered(folder: Path) -> list[Path]:
    """Return the pictures of a folder that are named by their frames, as ref_000412.png."""
    return sorted(file for file in folder.iterdir() if pictures.is_picture(file) and _is_numbered(file))


def at_scenes(numbers: Sequence[int], firsts: Sequence[int]) -> tuple[int, ...]:
    """Return the frames from which numbered references apply; a scene's first one applies from its first frame.

    Args:
        numbers: see numbers_of.
        firsts: first frames of the scenes; the first is 0.
    """
    held: list[int] = []
    for number in numbers:
        first = firsts[bisect_right(firsts, number) - 1]
        held.append(first if not held or held[-1] < first else number)
    return tuple(held)


class Opened(NamedTuple):
    """Hold open references: one clip of their frames, each in its own size and format, and a name for each frame."""

    clip: vs.VideoNode
    names: list[str]


def open_references(
    files: Sequence[Path], cache: Path, stills: bool = False, film: vs.VideoNode | None = None
) -> Opened:
    """Open pictures, and clips with all of their frames, in the given order.

    Args:
        files: pictures and clips, see `listed`.
        cache: see source.open_video.
        stills: whether only the first frame of each clip is used.
        film: the references are coloured frames of this film and must have its shape. None: any shape.

    Raises:
        OSError, ValueError: see source.open_video and pictures.read; a grey clip; another shape than the film's.
    """
    clips = [_opened(path, cache, stills) for path in files]
    if film is not None:
        _check_shapes(files, clips, film)
    names: list[str] = []
    for file, clip in zip(files, clips, strict=True):
        count = clip.num_frames
        names += [file.name] if count == 1 else [f"{file.name}, frame {n}" for n in range(count)]
    return Opened(vs.core.std.Splice(clips, mismatch=True), names)


def _check_shapes(files: Sequence[Path], clips: Sequence[vs.VideoNode], film: vs.VideoNode) -> None:
    """Raise ValueError for a picture whose shape is neither that of the stored frames nor that of the shown ones."""
    with film.get_frame(0) as frame:
        across, down = (frame.props.get(name) for name in ("_SARNum", "_SARDen"))
    stored = film.width / film.height
    shape = across / down if isinstance(across, int) and isinstance(down, int) and across > 0 and down > 0 else 1.0
    for file, clip in zip(files, clips, strict=True):
        own = clip.width / clip.height if clip.height else stored
        if all(abs(own / wanted - 1) > _SAME_SHAPE for wanted in (stored, stored * shape)):
            raise ValueError(
                f"reference {str(file)!r} must have the shape of the film, {film.width}x{film.height}, with propagate, "
                f"got {clip.width}x{clip.height}"
            )


def _opened(path: Path, cache: Path, stills: bool) -> vs.VideoNode:
    if not path.is_file():
        raise FileNotFoundError(f"reference {str(path)!r} must be a file, there is none")
    still = pictures.read(path)
    if still is not None:
        return _shown(path, still)
    clip = _read(path, cache)
    if clip.format is not None and clip.format.color_family == vs.GRAY:
        raise ValueError(f"reference {str(path)!r} must have colours, this one is grey ({clip.format.name})")
    if not stills and clip.num_frames > 1:
        return clip
    if pictures.is_grey(np.asarray(picture(clip, 0, _LOOK))):
        raise ValueError(f"reference {str(path)!r} must have colours, its first frame is grey")
    # Bestsource keeps a file handle and the picture open, and a film may have a thousand references.
    blank = clip[:1].std.BlankClip(length=1)
    return blank.std.FrameEval(lambda n: _read(path, cache)[:1])


def _read(path: Path, cache: Path) -> vs.VideoNode:
    """Open a clip, or a picture that Pillow does not read. Samples of float are light, as Radiance and EXR define."""
    clip = open_any("reference", path, cache)
    is_light = clip.format is not None and (clip.format.color_family, clip.format.sample_type) == (vs.RGB, vs.FLOAT)
    return clip.std.SetFrameProps(_Transfer=vs.TRANSFER_LINEAR) if is_light else clip


def _shown(path: Path, still: pictures.Still) -> vs.VideoNode:
    """Return a picture as a clip of one frame, which is read on request. still: its present content."""
    height, width, _ = still.rgb.shape
    blank = vs.core.std.BlankClip(format=vs.RGB24, width=width, height=height, length=1)

    def draw(n: int, f: vs.VideoFrame) -> vs.VideoFrame:
        now = pictures.read(path)
        if now is None or now.rgb.shape != (height, width, 3):
            raise ValueError(f"reference {str(path)!r} changed while it was used")
        frame = f.copy()
        for plane in range(3):
            np.copyto(np.asarray(frame[plane]), now.rgb[..., plane])
        frame.props["_Primaries"], frame.props["_Transfer"] = now.primaries, now.transfer
        if now.alpha is not None:
            alpha = vs.core.create_video_frame(vs.GRAY8, width, height)
            np.copyto(np.asarray(alpha[0]), now.alpha)
            alpha.props["_Range"] = vs.RANGE_FULL
            props: Any = frame.props
            props["_Alpha"] = alpha
        return frame

    return blank.std.ModifyFrame(blank, draw)


def _number(file: Path) -> int | None:
    match = _NUMBERED.fullmatch(file.stem)
    return int(match[1]) if match and file.suffix.lower() in pictures.SUFFIXES else None


def _is_numbered(file: Path) -> bool:
    return _number(file) is not None

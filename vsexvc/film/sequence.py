"""Read a film that is stored as numbered pictures in a folder.

Its name is the folder's, or a pattern for the pictures' names, such as `scan/reel_%06d.png`. Any number may be the
first; a gap after it is an error. ffmpeg decodes the pictures in their own depth; Pillow decodes those that ffmpeg
cannot.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import vapoursynth as vs
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from vsexvc.film import pictures
from vsexvc.support.errors import first_line

FPS = Fraction(24)  # if no rate is given
_PATTERN = re.compile(r"%(?:0(\d+))?d")
_NUMBER = re.compile(r"(.*?)(\d+)(\D*)", re.DOTALL)  # the last number in a name
_COMPRESSION, _JPEG = 259, (6, 7)  # a tag of TIFF, and its values
_UPRIGHT: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    1: lambda plane: plane,
    2: lambda plane: plane[:, ::-1],
    3: lambda plane: plane[::-1, ::-1],
    4: lambda plane: plane[::-1],
    5: lambda plane: plane.T,
    6: lambda plane: plane.T[:, ::-1],
    7: lambda plane: plane.T[::-1, ::-1],
    8: lambda plane: plane.T[::-1],
}
_FORMATS = {  # ffmpeg's names of the formats that pictures are converted to, by (is grey, bits)
    (True, 8): ("gray", vs.GRAY8),
    (True, 16): ("gray16le", vs.GRAY16),
    (False, 8): ("gbrp", vs.RGB24),
    (False, 16): ("gbrp16le", vs.RGB48),
}


@dataclass(frozen=True)
class Head:
    """Describe a picture: its size when upright, EXIF's number for its orientation, its kind.

    by_pillow: whether Pillow decodes it: ffmpeg takes JPEG inside TIFF for black, and grey palettes for colours.
    """

    width: int
    height: int
    orientation: int
    is_grey: bool
    bits: int
    has_alpha: bool
    by_pillow: bool = False


def is_sequence(path: Path) -> bool:
    """Return whether a film's name stands for numbered pictures: a folder, or a pattern."""
    return path.is_dir() or (_PATTERN.search(path.name) is not None and not path.exists())


def listing(path: Path) -> tuple[Path, ...]:
    """List the pictures of a folder or a pattern, by their numbers.

    Raises:
        ValueError: there are none, or their numbers have gaps.
        OSError: the folder cannot be read.
    """
    what = f"film {str(path)!r}"
    folder = path if path.is_dir() else path.parent
    if not folder.is_dir():
        raise FileNotFoundError(f"{what} must be pictures in a folder, there is no folder {str(folder)!r}")
    if path.is_dir():
        chosen = [file for file in folder.iterdir() if pictures.is_picture(file)]
    else:
        name = _name(path.name)
        chosen = [file for file in folder.iterdir() if name.fullmatch(file.name) and file.is_file()]
    if not chosen:
        raise ValueError(f"{what} must be pictures numbered in their names, there are none")
    return tuple(_in_order(what, sorted(chosen), path))


def _name(pattern: str) -> re.Pattern[str]:
    """Return the names that match a pattern."""
    match = _PATTERN.search(pattern)
    assert match is not None
    width = int(match[1] or 1)
    number = rf"(?:\d{{{width}}}|[1-9]\d{{{width},}})"
    return re.compile(re.escape(pattern[: match.start()]) + number + re.escape(pattern[match.end() :]))


def _in_order(what: str, files: Sequence[Path], path: Path) -> list[Path]:
    """Return the files by their numbers. Raise ValueError if the numbers have gaps."""
    pattern = None if path.is_dir() else _PATTERN.search(path.name)
    numbered: list[tuple[int, str, Path]] = []  # number, name without it, file
    for file in files:
        if pattern is not None:
            behind = len(path.name) - pattern.end()
            numbered.append((int(file.name[pattern.start() : len(file.name) - behind]), "", file))
        elif match := _NUMBER.fullmatch(file.stem):
            numbered.append((int(match[2]), f"{match[1]}%d{match[3]}", file))
        else:
            raise ValueError(f"{what} must be numbered pictures, {file.name!r} has no number")
    numbered.sort(key=lambda one: one[0])
    for (number, name, file), (following, other, after) in pairwise(numbered):
        if following == number or name != other:
            raise ValueError(
                f"{what} must be one run of numbered pictures, got {file.name!r} and {after.name!r}: name a "
                "pattern for one of the runs, as reel_%06d.png"
            )
        if following != number + 1:
            raise ValueError(f"{what} must have no gaps, {file.name!r} is followed by {after.name!r}")
    return [file for _, _, file in numbered]


def open_sequence(path: Path, fps: Fraction | None = None) -> vs.VideoNode:
    """Open the film: GRAY or RGB of 8 or 16 bits, as its pictures require, of full range.

    Args:
        path: see is_sequence.
        fps: frames a second; None: FPS.

    Raises:
        ValueError, OSError: see listing; a picture cannot be read, or differs in size from the first. A picture whose
            decoding fails raises the error of its frame.
    """
    what, files = f"film {str(path)!r}", listing(path)
    heads = _heads(what, files)
    first = heads[0]
    for file, one in zip(files, heads, strict=True):
        if (one.width, one.height) != (first.width, first.height):
            raise ValueError(
                f"{what} must be of one size, {files[0].name!r} has {first.width}x{first.height}, "
                f"{file.name!r} {one.width}x{one.height}"
            )
    kind = all(one.is_grey for one in heads), max(one.bits for one in heads)
    rate = FPS if fps is None else fps
    blank = vs.core.std.BlankClip(
        width=first.width,
        height=first.height,
        format=_FORMATS[kind][1],
        length=len(files),
        fpsnum=rate.numerator,
        fpsden=rate.denominator,
        keep=True,
    )

    def draw(n: int, f: vs.VideoFrame) -> vs.VideoFrame:
        frame = f.copy()
        planes = _planes(what, files[n], heads[n], kind)
        height, width = planes[0].shape
        if (height, width) != (frame.height, frame.width):
            raise ValueError(f"{what}: {files[n].name!r} must be {frame.width}x{frame.height}, it is {width}x{height}")
        for number, plane in enumerate(planes):
            np.copyto(np.asarray(frame[number]), plane)
        frame.props["_Range"] = vs.RANGE_FULL
        if not kind[0]:
            frame.props["_Matrix"] = vs.MATRIX_RGB
        return frame

    return blank.std.ModifyFrame(blank, draw)


def notices(path: Path, fps: Fraction | None) -> list[str]:
    """Return notices for the user: how the pictures are read, and which files are skipped."""
    files = listing(path)
    rate = f"{float(FPS if fps is None else fps):g} frames a second{' (--fps names another rate)' * (fps is None)}"
    said = [f"{path.name}: {len(files)} pictures, {files[0].name} to {files[-1].name}, at {rate}"]
    said += pictures.passed_over(path) if path.is_dir() else []
    if any(one.has_alpha for one in _heads(path.name, files)):
        said.append(f"left out: the alpha of {path.name}")
    return said


# --- one picture ------------------------------------------------------------------------------------------------


def _heads(what: str, files: Sequence[Path]) -> list[Head]:
    """Describe the pictures. Those that Pillow cannot read are assumed to be like the first.

    The first of each suffix is decoded: Pillow does not tell the depth of every kind.
    """
    found: list[Head] = []
    bits: dict[str, int] = {}
    for file in files:
        one, suffix = _head(what, file), file.suffix.lower()
        if one is None and not found:
            frame = _decoded(what, file)
            one = Head(frame.width, frame.height, 1, _is_grey(frame), _bits(frame), _has_alpha(frame))
        elif one is not None and suffix not in bits:
            with suppress(ValueError):  # a damaged picture raises the error of its frame
                bits[suffix] = _bits(_decoded(what, file, one.by_pillow))
        one = one or found[0]
        found.append(replace(one, bits=max(one.bits, bits.get(suffix, 8))))
    return found


def _head(what: str, file: Path) -> Head | None:
    """Describe a picture; None for a kind that Pillow cannot read. what: the film's name in errors."""
    try:
        with pictures.opened(file) as image:
            one, count = _described(image), pictures.count_of(image)
    except UnidentifiedImageError as error:
        if file.suffix.lower() in Image.registered_extensions():
            raise ValueError(f"{what}: {file.name!r} cannot be read: {first_line(error)}") from None
        return None
    except Exception as error:  # decoders raise errors of any type
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ValueError(f"{what}: {file.name!r} cannot be read: {first_line(error)}") from None
    if count > 1:
        raise ValueError(f"{what}: {file.name!r} must hold one picture, it holds {count}")
    return one


def _described(image: Image.Image) -> Head:
    orientation = pictures.orientation_of(image)
    width, height = image.size if orientation < 5 else image.size[::-1]
    tiles: Any = getattr(image, "tile", ())
    mode, stored = image.mode, str(tiles[0].args) if tiles else ""
    is_deep = mode.startswith(("I", "F")) or "16" in stored.split(",")[0] or pictures.is_deep(image)
    has_alpha = "A" in mode or mode == "RGBa" or "transparency" in image.info
    is_grey = mode in pictures.GREY_MODES
    by_pillow = pictures.tags_of(image).get(_COMPRESSION) in _JPEG or (is_grey and image.format == "BMP")
    return Head(width, height, orientation, is_grey, 16 if is_deep else 8, has_alpha, by_pillow)


def _planes(what: str, file: Path, head: Head, kind: tuple[bool, int]) -> list[NDArray[Any]]:
    """Return the picture's planes, (H, W) each, converted to that kind: grey or R, G, B."""
    frame = _decoded(what, file, head.by_pillow)
    if _bits(frame) > kind[1] or (kind[0] and not _is_grey(frame)):
        raise ValueError(
            f"{what}: {file.name!r} is {frame.format.name}, of more bits or colours than the film's others"
        )
    is_light = "f" in frame.format.name.removeprefix("gbr")  # samples of float, as in EXR
    names = {True: "grayf32le", False: "gbrpf32le"} if is_light else {kind[0]: _FORMATS[kind][0]}
    planes = frame.reformat(format=names[kind[0]]).planes
    turn = _UPRIGHT.get(head.orientation, _UPRIGHT[1])
    made = []
    for plane in planes[:1] if kind[0] else (planes[2], planes[0], planes[1]):  # gbrp: green, blue, red
        samples = np.frombuffer(plane, "<f4" if is_light else np.uint8 if kind[1] == 8 else "<u2")
        samples = samples.reshape(plane.height, -1)[:, : plane.width]
        made.append(turn(_as_srgb(samples) if is_light else samples))
    return made


def _as_srgb(light: NDArray[Any]) -> NDArray[Any]:
    """Convert 16 bit samples to sRGB's curve. light: values above 1 become white."""
    linear = light.astype(np.float64).clip(0.0, 1.0)
    curved = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(65535 * curved).astype(np.uint16)


def _decoded(what: str, file: Path, by_pillow: bool = False) -> Any:
    """Decode the picture with ffmpeg, or with Pillow if ffmpeg cannot. by_pillow: see Head."""
    try:
        if by_pillow:
            return _pillow_frame(file)
        # Read from memory: ffmpeg may take the name for a pattern.
        with av.open(io.BytesIO(file.read_bytes()), "r") as container:
            stream = container.streams.video[0]
            return next(container.decode(stream))
    except Exception as error:  # decoders raise errors of any type
        try:
            return _pillow_frame(file)
        except Exception as other:
            why = other if isinstance(other, _TooDeepError) else error
            raise ValueError(f"{what}: {file.name!r} cannot be read: {first_line(why)}") from None


class _TooDeepError(ValueError):
    """Report a picture that Pillow would cut to 8 bits."""


def _pillow_frame(file: Path) -> Any:
    with pictures.opened(file) as image:
        image.load()
        if image.mode.startswith("I;16"):
            return av.VideoFrame.from_ndarray(np.asarray(image).astype("<u2"), format="gray16le")
        if image.mode in ("I", "F") or pictures.is_deep(image):
            raise _TooDeepError("its samples are too deep for Pillow: save it with 16 bits and common compression")
        mode = "L" if image.mode in pictures.GREY_MODES else "RGB"
        return av.VideoFrame.from_ndarray(np.asarray(image.convert(mode)), format={"L": "gray", "RGB": "rgb24"}[mode])


def _is_grey(frame: Any) -> bool:
    name: str = frame.format.name
    return name.startswith(("gray", "mono", "ya"))


def _bits(frame: Any) -> int:
    """Return 8 or 16."""
    return 8 if max(component.bits for component in frame.format.components) <= 8 else 16


def _has_alpha(frame: Any) -> bool:
    return any(component.is_alpha for component in frame.format.components)

"""Read and write the plan of a film, a TOML file that names each scene's reference, and draw its contact sheet.

    source = "film.mkv"
    frames = 3012
    [[scene]]
    first = 0
    reference = "a.png"

Instead of a picture a scene may have several, each with the frame from which it is used (`{0 = "a.png", 40 =
"b.png"}`), a list of pictures that are named by their frames (`["ref_000000.png", "ref_000040.png"]`), or a folder of
such pictures; the scene takes those of its own frames. `around` limits the references that a frame uses. `reference =
false` leaves the scene as it is, and `grey = true` makes it grey.

A scene without a reference continues with that of the scene before. The scenes of a plan are the cuts of the result:
deleting one joins two scenes, adding one splits a scene. source.py finds scenes; render.py uses the plan.
"""

from __future__ import annotations

import json
import math
import os
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import vapoursynth as vs
from PIL import Image, ImageDraw, ImageFont

from vsexvc.film.propose import CARD, COLOURED, propose
from vsexvc.film.references import listed, numbers_of
from vsexvc.film.source import Scene, Stages, find_scenes, open_video, picture, shown_frames, silent, small_luma
from vsexvc.schedule import MOST_AROUND

_COLUMNS, _ROWS = 6, 12  # pictures on a sheet; further scenes go onto further sheets
_THUMB, _GAP, _LINE = (280, 210), 10, 22  # pixels

_PROPOSED = {
    "": 'reference = ""',
    CARD: "grey = true  # a title card",
    COLOURED: "reference = false  # in colour already",
}
_HEAD = """\
# {count} of {name}. Name for each a picture that gives its colours; paths are relative to this file's folder.
# A scene without a name continues with the picture of the scene before. `reference = false` leaves a scene as it is,
# and is proposed for scenes that are in colour already. `grey = true` makes a scene grey, and is proposed for title
# cards. You can delete scenes and add others, in the order of `first`.
"""


class Left(NamedTuple):
    """Name frames [first, stop) that get no colours: they stay as they are, or are made grey."""

    first: int
    stop: int
    is_grey: bool


class Around(NamedTuple):
    """Hold `around` of Colorize for the frames [first, stop) of a scene."""

    first: int
    stop: int
    most: int


@dataclass(frozen=True)
class Plan:
    """Hold the content of a plan file.

    Attributes:
        source: the film that the plan was made for.
        frames: number of that film's frames.
        firsts: first frames of the scenes, ascending from 0.
        references: absolute paths, one for each change of the reference; of a clip the first frame is used.
        ref_frames: for each of them the frame from which it is used.
        left: stretches that get no colours.
        around: scenes that have their own `around`.
        folders: folders that scenes name instead of pictures, each once.
    """

    source: Path
    frames: int
    firsts: tuple[int, ...]
    references: tuple[Path, ...]
    ref_frames: tuple[int, ...]
    left: tuple[Left, ...] = ()
    around: tuple[Around, ...] = ()
    folders: tuple[Path, ...] = ()


def make(
    film: Path,
    cache: Path,
    out: Path | None = None,
    sheet: Path | None = None,
    sc_threshold: float | None = None,
    stages: Stages = silent,
    interlaced: str | None = None,
    fps: Fraction | None = None,
) -> tuple[vs.VideoNode, list[Scene]]:
    """Find the scenes of a film, and write the plan's template and the contact sheet.

    Args:
        film: the film's file.
        cache: see source.open_video.
        out: the plan's template, with all scenes, without pictures, with the proposals of vsexvc.film.propose.
        sheet: contact sheet of their typical frames, a PNG (write_sheet).
        sc_threshold: as for Colorize.
        stages: see source.Stages.
        interlaced, fps: see source.open_video.

    Returns:
        The film's clip, and its scenes.

    Raises:
        FileExistsError: the plan exists already, and may contain a user's work.
        OSError, ValueError: the film cannot be read, or a file cannot be written.
    """
    if out is not None and out.exists():
        raise FileExistsError(f"plan {str(out)!r} must be a new file, it exists already")
    if out is not None:
        check_writable("plan", out)
    if sheet is not None:
        check_writable("sheet", sheet, ".png")
    clip = open_video(film, cache, interlaced, fps)
    scenes = find_scenes(clip, sc_threshold, stages=stages)
    if out is not None:
        _write(out, film.absolute(), scenes, [propose(clip, scene) for scene in scenes])
    if sheet is not None:
        write_sheet(sheet, clip, scenes, stages)
    return clip, scenes


def _write(path: Path, film: Path, scenes: Sequence[Scene], kinds: Sequence[str]) -> None:
    """Write the template. film: its absolute path; kinds: of vsexvc.film.propose.propose."""
    folder = path.absolute().parent
    name = str(film.relative_to(folder) if film.is_relative_to(folder) else film)
    lines = [_HEAD.format(count=counted(len(scenes), "scene"), name=_quoted(film.name))]
    lines += [f"source = {_quoted(name)}", f"frames = {scenes[-1].stop}"]
    for number, (scene, kind) in enumerate(zip(scenes, kinds, strict=True), 1):
        about = f"scene {number} at {timecode(scene.seconds)}, {counted(scene.stop - scene.first, 'frame')}"
        lines += ["", "[[scene]]", f"first = {scene.first}  # {about}", _PROPOSED[kind]]
    with path.open("x", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")


def check_film(plan: Plan, path: Path, num_frames: int) -> None:
    """Raise ValueError if a plan is of another film. path: of the plan; num_frames: of the film."""
    if plan.frames != num_frames:
        raise ValueError(
            f"plan {str(path)!r} must be of this film, of {num_frames} frames, got one of {plan.source.name} "
            f"with {plan.frames}"
        )


def read(path: Path, *, is_draft: bool = False) -> Plan:
    """Read a plan and check it.

    Args:
        path: of the plan.
        is_draft: references may be missing, in the plan and on disk.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is not a plan; the message names the first fault and its scene.
    """
    if not path.is_file():
        raise FileNotFoundError(f"plan {str(path)!r} must be a file, there is none")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        return _checked(content, path.absolute().parent, is_draft)
    except UnicodeDecodeError:
        raise ValueError(f"plan {str(path)!r} must be saved as UTF-8, it is in another encoding") from None
    except ValueError as error:
        raise ValueError(f"plan {str(path)!r}: {error}") from None


def write_sheet(path: Path, clip: vs.VideoNode, scenes: Sequence[Scene], stages: Stages = silent) -> list[Path]:
    """Write the scenes as a contact sheet, each by its typical frame, replacing an older one.

    Args:
        path: a PNG. If the scenes need several, `-1`, `-2` and so on are added to its name.
        clip: the film.
        scenes: see source.find_scenes.
        stages: see source.Stages.

    Returns:
        The files.

    Raises:
        OSError, ValueError: a file cannot be written, or a frame cannot be read.
    """
    progress = stages("drawing the sheet")
    height, small = picture(clip, 0, _THUMB).height, small_luma(clip)
    per_sheet = _COLUMNS * _ROWS
    written = []
    for start in range(0, len(scenes), per_sheet):
        shown = scenes[start : start + per_sheet]
        sheet = _Sheet(min(len(scenes), _COLUMNS), math.ceil(len(shown) / _COLUMNS), height)
        for index, scene in enumerate(shown):
            thumb = picture(clip, shown_frames(small, scene).typical, _THUMB)
            about = f"{start + index + 1}: frame {scene.first}, {timecode(scene.seconds)}, "
            sheet.put(index, thumb, about + counted(scene.stop - scene.first, "frame"))
            progress(start + index + 1, len(scenes))
        number = start // per_sheet + 1
        target = path if len(scenes) <= per_sheet else path.with_stem(f"{path.stem}-{number}")
        sheet.image.save(target, format="PNG")
        written.append(target)
    return written


def check_writable(what: str, path: Path, *suffixes: str) -> None:
    """Raise ValueError or OSError for a file that cannot be written, before the work that makes it.

    Args:
        what: the file's name in errors.
        path: the file.
        suffixes: the accepted ones; empty: all are accepted.
    """
    if suffixes and path.suffix.lower() not in suffixes:
        raise ValueError(f"{what} must be a {suffixes[0]}, got {str(path)!r}")
    folder = path.absolute().parent
    if not folder.is_dir():
        raise FileNotFoundError(f"{what} {str(path)!r} must be in an existing folder, there is no {str(folder)!r}")
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"{what} {str(path)!r} must be in a folder that can be written")


def check_folder(what: str, path: Path) -> None:
    """Raise OSError for a folder, existing or not, in which files cannot be written. what: its name in errors."""
    there = next(one for one in (path.absolute(), *path.absolute().parents) if one.exists())
    if not there.is_dir():
        raise NotADirectoryError(f"{what} {str(path)!r} must be a folder, {str(there)!r} is a file")
    if not os.access(there, os.W_OK):
        raise PermissionError(f"{what} {str(path)!r} must be a folder that can be written")


def timecode(seconds: float) -> str:
    """Format seconds as h:mm:ss.t."""
    tenths = round(seconds * 10)
    return f"{tenths // 36000}:{tenths // 600 % 60:02}:{tenths // 10 % 60:02}.{tenths % 10}"


def counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _quoted(text: str) -> str:
    """Quote text as a basic string of TOML: JSON's, but for one character."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _checked(content: dict[str, Any], folder: Path, is_draft: bool) -> Plan:
    """Check a plan's content and return it. folder: where relative paths begin."""
    _only(content, "", source=str, frames=int, scene=list)
    frames, scenes = content["frames"], content["scene"]
    for number, scene in enumerate(scenes, 1):
        where = f"scene {number}"
        if not isinstance(scene, dict):
            raise ValueError(f"{where} must be a table, [[scene]], got {scene!r}")
        whole = {"reference": "", "grey": False, "around": 1, **scene}
        _only(whole, f"{where}: ", first=int, reference=(str, bool, dict, list), grey=bool, around=int)
        if not 1 <= whole["around"] <= MOST_AROUND:
            raise ValueError(f"{where}: around must be 1..{MOST_AROUND}, got {whole['around']}")
    if not scenes:
        raise ValueError("scene must be one [[scene]] or more, got none")
    firsts = tuple(scene["first"] for scene in scenes)
    left: list[Left] = []
    around: list[Around] = []
    held: list[tuple[int, Path]] = []
    folders: dict[Path, None] = {}
    for number, (scene, stop) in enumerate(zip(scenes, [*firsts[1:], frames], strict=True), 1):
        first = scene["first"]
        where = f"scene {number}, which begins with frame {first}: "
        if number == 1 and first != 0:
            raise ValueError(f"{where}first must be 0 for the first scene, got {first}")
        if number > 1 and first <= firsts[number - 2]:
            raise ValueError(f"{where}first must be above that of the scene before, {firsts[number - 2]}, got {first}")
        if first >= frames:
            raise ValueError(f"{where}first must be below the number of frames, {frames}, got {first}")
        pictures = _pictures(scene, where, first, stop, folder)
        if pictures is None:
            left.append(Left(first, stop, scene.get("grey", False)))
            continue
        folders |= dict.fromkeys(_folders(scene, folder))
        if "around" in scene:
            around.append(Around(first, stop, scene["around"]))
        if not pictures and not held and not is_draft:
            raise ValueError(f"{where}reference must be a picture in the first scene that gets colours, got none")
        for frame, reference in pictures:
            if not is_draft and not reference.is_file():
                raise ValueError(f"{where}reference must be a file, there is no {str(reference)!r}")
            if not held or reference != held[-1][1]:
                held.append((frame, reference))
    references, ref_frames = tuple(path for _, path in held), tuple(frame for frame, _ in held)
    return Plan(
        folder / content["source"], frames, firsts, references, ref_frames, tuple(left), tuple(around), tuple(folders)
    )


def _pictures(scene: dict[str, Any], where: str, first: int, stop: int, folder: Path) -> list[tuple[int, Path]] | None:
    """Return the references of a scene [first, stop), each with its first frame; None: it gets no colours."""
    reference, is_grey = scene.get("reference", ""), scene.get("grey", False)
    if reference is True:
        raise ValueError(f"{where}reference must be a picture, or false to leave the scene as it is, got true")
    if is_grey and reference:
        raise ValueError(f"{where}reference must be left out where grey = true, got {reference!r}")
    if is_grey or reference is False:
        if "around" in scene:
            raise ValueError(f"{where}around must be left out where the scene gets no colours, got {scene['around']}")
        return None
    if isinstance(reference, str) and not reference:
        return []
    if isinstance(reference, str) and not (folder / reference).is_dir():
        return [(first, folder / reference)]
    if isinstance(reference, dict):
        found = sorted(_timed(reference, where, first, stop, folder))
    else:
        found = _numbered(reference, where, first, stop, folder)
    return [(first, path) if n == 0 else (frame, path) for n, (frame, path) in enumerate(found)]


def _folders(scene: dict[str, Any], folder: Path) -> list[Path]:
    """Return the folders that a scene names as its reference."""
    named = scene.get("reference", "")
    names = named if isinstance(named, list) else [named]
    return [folder / name for name in names if isinstance(name, str) and name and (folder / name).is_dir()]


def _timed(table: dict[str, Any], where: str, first: int, stop: int, folder: Path) -> Iterator[tuple[int, Path]]:
    """Yield the pictures of a table of frames and names."""
    for key, name in table.items():
        if not (key.isdecimal() and first <= int(key) < stop and isinstance(name, str) and name):
            raise ValueError(
                f"{where}reference must be pictures with frames of the scene, {first}..{stop - 1}, got {key} = {name!r}"
            )
        yield int(key), folder / name


def _numbered(named: str | list[Any], where: str, first: int, stop: int, folder: Path) -> list[tuple[int, Path]]:
    """Return the pictures of a list, or a folder's pictures of the scene, by the frames in their names."""
    names = [named] if isinstance(named, str) else named
    if wrong := [name for name in names if not (isinstance(name, str) and name)]:
        raise ValueError(f"{where}reference must be a list of pictures, got {wrong[0]!r} in it")
    try:
        files = listed([folder / name for name in names])
        numbers = numbers_of(files)
    except ValueError as error:
        raise ValueError(f"{where}{error}") from None
    if numbers is None:
        raise ValueError(
            f"{where}reference must be pictures named by their frames (ref_000412.png), or a table of frames and "
            f"pictures, got {files[0].name!r}"
        )
    found = list(zip(numbers, files, strict=True))
    own = [(number, file) for number, file in found if first <= number < stop]
    if not own or (isinstance(named, list) and len(own) < len(found)):
        other = next(file for number, file in found if not first <= number < stop)
        raise ValueError(
            f"{where}reference must be pictures with frames of the scene, {first}..{stop - 1}, got {other.name!r}"
        )
    return own


_WORDS = {str: "a text in quotes", int: "a whole number", list: "one [[scene]] or more", bool: "true or false"}
_REFERENCE = "a text in quotes, a list of them, false, or a table of frames and texts"


def _only(table: dict[str, Any], where: str, **kinds: type | tuple[type, ...]) -> None:
    """Raise ValueError if a table has other keys, or values of other kinds."""
    for key in table:
        if key not in kinds:
            raise ValueError(f"{where}{key} must be one of {', '.join(kinds)}")
    for key, kind in kinds.items():
        if type(table.get(key)) not in (kind if isinstance(kind, tuple) else (kind,)):
            words = _REFERENCE if isinstance(kind, tuple) else _WORDS[kind]
            raise ValueError(f"{where}{key} must be {words}, got {table.get(key, 'none')!r}")


class _Sheet:
    """Draw pictures in rows, each with a line of text below."""

    def __init__(self, columns: int, rows: int, height: int) -> None:
        """Start an empty sheet. height: of a picture."""
        self._columns, self._height = columns, height
        self._step = _THUMB[0] + _GAP, height + _LINE + _GAP
        self.image = Image.new("RGB", (columns * self._step[0] + _GAP, rows * self._step[1] + _GAP), "#202020")
        self._draw = ImageDraw.Draw(self.image)
        self._font = ImageFont.load_default(13)

    def put(self, index: int, image: Image.Image, text: str) -> None:
        x = _GAP + index % self._columns * self._step[0]
        y = _GAP + index // self._columns * self._step[1]
        self.image.paste(image, (x + (_THUMB[0] - image.width) // 2, y))
        self._draw.text((x, y + self._height + 3), text, fill="white", font=self._font)

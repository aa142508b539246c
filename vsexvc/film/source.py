"""Open a film as a VapourSynth clip, find its scenes, and make pictures of its frames.

Bestsource reads films; its index goes to the given folder, never beside the source. sequence.py reads numbered
pictures.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import vapoursynth as vs
from PIL import Image

from vsexvc.film.sequence import is_sequence, open_sequence
from vsexvc.frames import ERROR, luma, tagged
from vsexvc.scenes import Marks, small_pictures
from vsexvc.session import network_size
from vsexvc.support.errors import first_line
from vsexvc.typical import LOOK, lit_frames, thumbnail, typical_frame
from vsexvc.weights.catalog import CACHE_VARIABLE, cache_folder

INTERLACED = ("ignore", "bwdif")

Progress = Callable[[int, int], None]  # called with the amount done, and the whole
Stages = Callable[[str], Progress]  # name of a stage -> its progress


def silent(what: str) -> Progress:
    """Return a progress callback that ignores its calls."""
    return lambda done, of: None


@dataclass(frozen=True)
class Scene:
    """Span the frames from one cut to the next: first frame, the next scene's first frame, start in seconds."""

    first: int
    stop: int
    seconds: float


def default_cache() -> Path:
    """Return the folder for indexes of films without a working folder. It is made when a film needs it."""
    return cache_folder() / "index"


def open_video(path: Path, cache: Path, interlaced: str | None = None, fps: Fraction | None = None) -> vs.VideoNode:
    """Open a film of constant size and format.

    Args:
        path: of the film, or of numbered pictures (sequence.py).
        cache: folder for bestsource's index; made if it is missing.
        interlaced: how frames flagged as interlaced are treated, one of INTERLACED. "ignore": they are progressive;
            the flag is removed. "bwdif": the plugin bwdif deinterlaces them. None: they stay flagged, and Colorize
            refuses them.
        fps: rate of numbered pictures; None: sequence.FPS.

    Raises:
        OSError: the file does not exist, or the cache cannot be made.
        ValueError: bestsource is missing or cannot read the file; the file is no film; the film's size or format
            changes; fps is given for a film with a rate; see sequence.open_sequence.
    """
    if is_sequence(path):
        return open_sequence(path, fps)
    if fps is not None:
        raise ValueError(f"--fps is for numbered pictures, {str(path)!r} has a rate of its own")
    if path.suffix.lower() in (".vpy", ".py"):
        raise ValueError(f"film {str(path)!r} must be a film, this is a script: render takes it if it is named *.vpy")
    clip = open_any("film", path, cache)
    if not clip.width or not clip.height or clip.format is None or clip.format.color_family == vs.UNDEFINED:
        raise ValueError(f"film {str(path)!r} must be of constant size and format, this one changes")
    if interlaced is not None:
        clip = _progressive(clip, interlaced)
    shape = _stated_shape(path)
    return clip if shape is None else clip.std.SetFrameProps(_SARNum=shape.numerator, _SARDen=shape.denominator)


def find_scenes(
    clip: vs.VideoNode, sc_threshold: float | None = None, size: int = 216, stages: Stages = silent
) -> list[Scene]:
    """Find the scenes as Colorize finds them with the same arguments; the first begins with frame 0.

    This reads the whole film.

    Raises:
        ValueError: a frame cannot be read, or Colorize refuses its kind (interlaced, PQ); a threshold is out of range.
    """
    if sc_threshold is not None and not 0 <= sc_threshold <= 1:
        raise ValueError(f"sc_threshold must be 0..1, got {sc_threshold}")
    pictures = small_pictures(small_luma(clip, size))
    marks, progress = Marks(clip.num_frames, sc_threshold), stages("finding scenes")
    firsts, times, now = [0], [0.0], Fraction(0)
    pending: deque[tuple[int, Fraction]] = deque()  # frames that are not decided yet, and their times
    done = 0
    try:
        for frame in pictures.frames(close=True):
            if ERROR in frame.props:
                raise ValueError(f"frame {done} of the film: {frame.props[ERROR]}")
            marks.add(done, frame)
            pending.append((done, now))
            now += _duration(frame, clip)
            done += 1
            while pending and not marks.missing(pending[0][0]):
                number, begins = pending.popleft()
                if number and marks.begins(number):
                    firsts.append(number)
                    times.append(float(begins))
            progress(done, clip.num_frames)
    except vs.Error as error:
        raise ValueError(f"frame {done} of the film cannot be read: {first_line(error)}") from None
    stops = [*firsts[1:], clip.num_frames]
    return [Scene(*scene) for scene in zip(firsts, stops, times, strict=True)]


def small_luma(clip: vs.VideoNode, size: int = 216) -> vs.VideoNode:
    """Return the luma that Colorize sees: GRAY16 at the network's size. size: of Colorize."""
    height, width = network_size(clip.width, clip.height, size)
    return luma(tagged(clip, progressive=True), width, height)


class Shown(NamedTuple):
    """Name frames that show a scene.

    Attributes:
        first: the scene's first frame, or the typical one where that is black, white or at the end of a fade.
        typical: the frame that stands for the scene, as Colorize chooses it; never a black one if others exist.
    """

    first: int
    typical: int


def shown_frames(small: vs.VideoNode, scene: Scene) -> Shown:
    """Choose frames that show a scene, from its first LOOK frames.

    Args:
        small: see small_luma.
        scene: see find_scenes.

    Raises:
        ValueError: a frame cannot be read.
    """
    pictures = []
    for number in range(scene.first, min(scene.stop, scene.first + LOOK)):
        try:
            with small.get_frame(number) as frame:
                pictures.append(thumbnail(frame))
        except vs.Error as error:
            raise ValueError(f"frame {number} of the film cannot be read: {first_line(error)}") from None
    typical = scene.first + typical_frame(pictures)
    return Shown(scene.first if lit_frames(pictures)[0] == 0 else typical, typical)


def _duration(frame: vs.VideoFrame, clip: vs.VideoNode) -> Fraction:
    """Return the seconds that a frame is shown; they may differ from frame to frame."""
    above, below = (frame.props.get(name) for name in ("_DurationNum", "_DurationDen"))
    if isinstance(above, int) and isinstance(below, int) and below > 0:
        return Fraction(above, below)
    return 1 / clip.fps if clip.fps else Fraction(0)


def with_scenes(clip: vs.VideoNode, firsts: Sequence[int]) -> vs.VideoNode:
    """Set `_SceneChangePrev` on each frame: Colorize without `sc_threshold` uses these scenes as they are.

    Args:
        clip: its frames' own marks of scenes are overwritten.
        firsts: first frames of the scenes.
    """
    starts = frozenset(firsts)

    def mark(n: int, f: vs.VideoFrame) -> vs.VideoFrame:
        frame = f.copy()
        frame.props["_SceneChangePrev"] = int(n in starts)
        return frame

    return clip.std.ModifyFrame(clip, mark)


def picture(clip: vs.VideoNode, number: int, box: tuple[int, int]) -> Image.Image:
    """Return a frame as an RGB picture in its display aspect, as large as the box (width, height) allows.

    It is never enlarged. Raise ValueError for a frame that cannot be read or shown.
    """
    one = clip[number]
    try:
        with one.get_frame(0) as frame:
            sar = _positive(frame, "_SARNum") / _positive(frame, "_SARDen")
            width, height = frame.width * max(sar, 1.0), frame.height / min(sar, 1.0)
        scale = min(1.0, box[0] / width, box[1] / height)
        shown = tagged(one, progressive=True).resize.Spline36(
            max(1, round(width * scale)),
            max(1, round(height * scale)),
            format=vs.RGB24,
            transfer=vs.TRANSFER_IEC_61966_2_1,
            primaries=vs.PRIMARIES_BT709,
        )
        with shown.get_frame(0) as frame:
            return Image.fromarray(np.dstack([np.asarray(plane) for plane in frame]))
    except vs.Error as error:
        raise ValueError(f"frame {number} cannot be read: {first_line(error)}") from None


def _progressive(clip: vs.VideoNode, interlaced: str) -> vs.VideoNode:
    """Return the clip with no frame flagged as interlaced. For `interlaced` see open_video."""
    whole = clip
    if interlaced == "bwdif":
        if not hasattr(vs.core, "bwdif"):
            raise ValueError(
                "--interlaced bwdif requires the VapourSynth plugin bwdif: pip install vsexvc[deinterlace]"
            )
        made = clip.bwdif.Bwdif(field=1)  # each frame's flag states the order of its fields
        whole = clip.std.FrameEval(
            lambda n, f: made if f.props.get("_FieldBased", 0) else clip, prop_src=clip, clip_src=[made, clip]
        )
    elif interlaced != "ignore":
        raise ValueError(f"interlaced must be one of {', '.join(INTERLACED)}, got {interlaced!r}")
    return whole.std.SetFieldBased(0)


def _stated_shape(path: Path) -> Fraction | None:
    """Return the shape of pixels (width to height) as players read it: the container's value before the codec's.

    Bestsource rotates a film as its file requires; the shape is turned with it. None: no shape is stated.
    """
    try:
        with av.open(str(path)) as file:
            stream = next(s for s in file.streams.video if not s.disposition & av.stream.Disposition.attached_pic)
            ratio = stream.sample_aspect_ratio
            is_turned = next((frame.rotation for frame in file.decode(stream)), 0) % 180 == 90
    except (av.FFmpegError, StopIteration):
        return None
    if not ratio:
        return None
    return Fraction(ratio.denominator, ratio.numerator) if is_turned else Fraction(ratio.numerator, ratio.denominator)


def losses(path: Path, clip: vs.VideoNode) -> list[str]:
    """List the parts of a film's picture that its clip lacks: rows or columns that cannot be subsampled, alpha."""
    try:
        with av.open(str(path)) as file:
            stream = next(s for s in file.streams.video if not s.disposition & av.stream.Disposition.attached_pic)
            context: Any = stream.codec_context
            is_marked = stream.metadata.get("alpha_mode") == "1"
            size, pixels = (context.width, context.height), context.format
    except (av.FFmpegError, StopIteration):
        return []
    said = []
    is_turned = abs(clip.width - size[0]) > 3 or abs(clip.height - size[1]) > 3
    width, height = size[::-1] if is_turned else size
    columns, rows = width - clip.width, height - clip.height
    if 0 < max(columns, rows) <= 3 and min(columns, rows) >= 0:
        parts = [f"{n} {what}{'s' * (n > 1)}" for n, what in ((columns, "column"), (rows, "row")) if n]
        said.append(
            f"left out: the last {' and '.join(parts)} of {path.name}: VapourSynth has no {pixels.name} of "
            f"{width}x{height}; ffmpeg -i FILM -map 0 -c copy -c:v ffv1 -pix_fmt yuv444p NEW.mkv keeps them"
        )
    if is_marked or (pixels is not None and any(component.is_alpha for component in pixels.components)):
        said.append(f"left out: the alpha of {path.name}")
    return said


def _positive(frame: vs.VideoFrame, name: str) -> int:
    value = frame.props.get(name, 1)
    return value if isinstance(value, int) and value > 0 else 1


def open_any(what: str, path: Path, cache: Path) -> vs.VideoNode:
    """Open a film or a picture of any sizes and formats. what: its name in errors; else see open_video."""
    if not hasattr(vs.core, "bs"):
        raise ValueError(
            "reading films requires the VapourSynth plugin bestsource, which is missing: pip install vsexvc[video]"
        )
    if not path.is_file():
        raise FileNotFoundError(f"{what} {str(path)!r} must be a file, there is none")
    _make(cache)
    try:
        clip = vs.core.bs.VideoSource(str(path.absolute()), showprogress=False, cachepath=str(cache.absolute()))
        tracks = vs.core.bs.TrackInfo(str(path.absolute()))
    except UnicodeEncodeError:
        raise ValueError(f"{what} {str(path)!r} must have a path in Unicode") from None
    except vs.Error as error:
        if "Invalid track index" in str(error):
            raise ValueError(f"{what} {str(path)!r} must be a film or a picture, there is no picture in it") from None
        raise ValueError(f"{what} {str(path)!r} cannot be read: {first_line(error)}") from None
    kinds, flags = (np.atleast_1d(tracks[name]) for name in ("tracktypestr", "dispositionstr"))
    if "ansi" in tracks["codecstr"]:  # it draws any text as a picture
        raise ValueError(f"{what} {str(path)!r} must be a film or a picture, this is text")
    if all("attached_pic" in flag for flag in flags[kinds == "video"]):
        raise ValueError(f"{what} {str(path)!r} must be a film or a picture, this is sound with a cover")
    assert isinstance(clip, vs.VideoNode)
    return clip


def _make(cache: Path) -> None:
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        more = f", ${CACHE_VARIABLE} names another" if cache == default_cache() else ""
        raise OSError(f"the cache folder {str(cache)!r} cannot be made ({error.strerror}){more}") from None

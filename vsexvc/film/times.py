"""Find the times of a film's frames: from its file, or from a script's rate and durations."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import vapoursynth as vs

from vsexvc.film.sequence import FPS, is_sequence, listing

_DURATION = re.compile(r"(\d+):(\d+):(\d+(?:\.\d+)?)")  # as Matroska's tag states it
_JUMP = 1.0  # more seconds than this between two frames are a gap


@dataclass(frozen=True)
class Times:
    """Hold the times at which a film's frames are shown.

    Attributes:
        stamps: times in units of base, rising.
        rate: frames a second if it is constant, else None.
        last: duration of the last frame in seconds; None: as the rate states, or as long as the first frame.
    """

    stamps: Sequence[int]
    base: Fraction
    rate: Fraction | None
    last: Fraction | None = None


def film_times(path: Path, cache: Path, fps: Fraction | None = None) -> Times:
    """Read the times of a film's frames from its file; a recording's are counted from its start.

    Args:
        path: of the film.
        cache, fps: as those of source.open_video, which has read the film before.

    Raises:
        ValueError: the file does not state the times of its frames.
    """
    if is_sequence(path):
        told = FPS if fps is None else fps
        return Times(range(len(listing(path))), 1 / told, told)
    said = cache / "timecodes.txt"

    def opened(**options: str) -> vs.VideoNode:
        clip: vs.VideoNode = vs.core.bs.VideoSource(
            str(path.absolute()), showprogress=False, cachepath=str(cache.absolute()), **options
        )
        return clip

    clip = opened()
    rate = Fraction(clip.fps) if clip.fps else None
    with av.open(str(path)) as file:
        picture, start = picture_of(file), start_of(file)
        base = fraction(picture.time_base)
        late = Fraction(0) if picture.start_time is None else picture.start_time * base - start
    try:
        opened(timecodes=str(said))
        # Milliseconds with two digits behind the point: enough to distinguish ticks of 1/90000 s.
        stamps = [round(Fraction(line) / (1000 * base)) for line in said.read_text().splitlines() if line[:1] != "#"]
    except vs.Error:  # there are frames without a time, as in AVI and program streams
        stamps = []
    rises = [later - stamp for stamp, later in pairwise(stamps)]
    if rises and (back := min(rises) * base) < -_JUMP:
        frame = rises.index(min(rises)) + 1
        raise ValueError(
            f"film {str(path)!r} must have one clock, but at frame {frame} it goes back by {float(-back):.1f} s: "
            "ffmpeg -i FILM -map 0 -c copy NEW.mkv gives it one"
        )
    if not stamps or min(rises, default=1) <= 0:
        if rate is None:
            raise ValueError(f"film {str(path)!r} must state when its frames are shown, but its times do not rise")
        return later(Times(range(clip.num_frames), 1 / rate, rate), late)
    begin = round(start / base)
    stamps = [stamp - begin for stamp in stamps]
    if rate and _is_constant(stamps, base, rate, base):
        return Times(stamps, base, rate)
    return Times(stamps, base, None, _last_duration(path, stamps[-1] + begin))


def _last_duration(path: Path, stamp: int) -> Fraction | None:
    """Return the last frame's duration in seconds as the file states it, or None. stamp: its time in the time base."""
    with av.open(str(path)) as file:
        picture = picture_of(file)
        try:
            file.seek(stamp, stream=picture)
            durations = {packet.pts: packet.duration for packet in file.demux(picture) if packet.size}
        except av.FFmpegError:
            return None
        duration = durations.get(stamp)
        return duration * fraction(picture.time_base) if duration else None


def check_whole(path: Path, times: Times) -> str | None:
    """Check that a film's picture lasts as long as its file states. times: of the frames.

    Returns:
        A notice of the longest gap, if that is more than a second; else None.

    Raises:
        ValueError: the file states a longer duration: it is damaged or incomplete.
    """
    with av.open(str(path)) as file:
        stream = picture_of(file)
        told = next((value for key, value in stream.metadata.items() if key.split("-")[0].upper() == "DURATION"), "")
        if of_matroska := _DURATION.fullmatch(told):  # other tags of this name may hold anything
            hours, minutes, seconds = map(float, of_matroska.groups())
            announced = 3600 * hours + 60 * minutes + seconds
        else:
            announced = float((stream.duration or 0) * fraction(stream.time_base))
    shown = [float(stamp * times.base) for stamp in times.stamps]
    last = float(times.last or 0) or (shown[-1] - shown[0]) / len(shown)
    if announced > max(shown[-1], shown[-1] - shown[0]) + 1 + last:
        raise ValueError(
            f"film {str(path)!r} must be whole, but its picture ends after {shown[-1]:.1f} of {announced:.1f} s"
        )
    gap = max(pairwise(shown), key=lambda step: step[1] - step[0], default=(0.0, 0.0))
    return f"there are no frames from {gap[0]:.1f} to {gap[1]:.1f} s" if gap[1] - gap[0] > _JUMP else None


def script_times(rate: Fraction | None, durations: Sequence[tuple[int, int]], num_frames: int) -> Times:
    """Return the times of a script's frames: at its constant rate, unless durations differ from it.

    Raises:
        ValueError: the script states neither.
    """
    if len(durations) == num_frames and all(above > 0 and below > 0 for above, below in durations):
        base = Fraction(1, 1_000_000)
        sums, total = [0], Fraction(0)
        for numerator, denominator in durations[:-1]:
            total += Fraction(numerator, denominator)
            sums.append(max(sums[-1] + 1, round(total / base)))
        # Matroska rounds durations to milliseconds.
        if rate is None or not _is_constant(sums, base, rate, Fraction(3, 2000)):
            return Times(sums, base, None, Fraction(*durations[-1]))
    if rate is None:
        raise ValueError("output 0 of variable frame rate must have _DurationNum and _DurationDen on all of its frames")
    return Times(range(num_frames), 1 / rate, rate)


def _is_constant(stamps: Sequence[int], base: Fraction, rate: Fraction, tolerance: Fraction) -> bool:
    """Return whether no stamp is off by more than the tolerance, in seconds."""
    step, most = 1 / (rate * base), tolerance / base
    return all(abs(stamp - stamps[0] - n * step) <= most for n, stamp in enumerate(stamps))


def later(times: Times, seconds: Fraction) -> Times:
    """Return the times, all of them later by so many seconds."""
    if not seconds:
        return times
    base = Fraction(
        math.gcd(times.base.numerator * seconds.denominator, seconds.numerator * times.base.denominator),
        times.base.denominator * seconds.denominator,
    )
    steps, shift = round(times.base / base), round(seconds / base)
    return Times([stamp * steps + shift for stamp in times.stamps], base, times.rate, times.last)


# --- facts of a file --------------------------------------------------------------------------------------------


def picture_of(file: Any) -> Any:
    """Return the first video stream that is not a cover; None if there is none."""
    return next((stream for stream in file.streams.video if not is_cover(stream)), None)


def is_cover(stream: Any) -> bool:
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def start_of(file: Any) -> Fraction:
    """Return the start of a recording's clock, in seconds. 0 for other files, whose times are used as they are."""
    recorded: Any = av.format.Flags.ts_discont
    is_recording = bool(file.format.flags & recorded.value)
    return Fraction(file.start_time or 0, av.time_base) if is_recording else Fraction(0)


def fraction(ratio: Any) -> Fraction:
    """Convert PyAV's fraction, which is not a numbers.Rational."""
    return Fraction(ratio.numerator, ratio.denominator)

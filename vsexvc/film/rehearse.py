"""Pass one frame through encoder and container before the long work, to report at once what they refuse or lose.

The result is decoded again: a container may accept a codec that it cannot describe.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import vapoursynth as vs

from vsexvc.film.captions import has_captions
from vsexvc.film.container import Refused, codec_name, shape_of
from vsexvc.film.encode import Part, encode, seen
from vsexvc.film.job import Job
from vsexvc.film.join import Other, described, written
from vsexvc.film.times import Times

_CONTAINERS = (".mkv", ".mov", ".avi", ".nut")  # proposed in this order where another container cannot hold a stream
_PACKETS = 100  # packets of the other streams that are written; sparse subtitles may need more
_UNSPECIFIED = 2  # matrix, transfer and primaries that are not stated
_LIKE_BT709 = (1, 5, 6, 7, 13, 14, 15)  # transfers and primaries that players show as BT.709


def rehearse(job: Job, clip: vs.VideoNode, other: Other | None, joined: Path) -> list[str]:
    """Encode one black frame and join it with the beginning of the other streams.

    Args:
        job: the job; its encoding and arguments are used.
        clip: the coloured clip.
        other: see join.join.
        joined: a file that is written and removed; its suffix selects the container.

    Returns:
        Notices: what is left out or changed.

    Raises:
        ValueError, OSError: the errors of encoder or container that the render would end with.
    """
    part = job.folder / "rehearsal.mkv"
    try:
        encode(clip.std.BlankClip(length=1).frames(), job.arguments, job.encoding, part)
        try:
            notices = tried(part, other, joined) + _changed(part, job)
        except Refused as refused:
            raise ValueError(f"{refused}: {_way_out(part, other, joined, refused)}") from None
    finally:
        part.unlink(missing_ok=True)
        joined.unlink(missing_ok=True)
    if other is not None and other.path != job.source and not other.file.streams.audio:
        notices.append(f"--sound: there is no sound in {other.path.name}")
    if job.model is not None and job.source.is_file() and has_captions(job.source):
        notices.append(
            f"left out: captions inside the picture of {job.source.name}; ffmpeg -f lavfi -i "
            f'"movie={job.source.name}[out0+subcc]" -map s captions.srt writes them to a file'
        )
    return notices


def tried(part: Path, other: Other | None, joined: Path) -> list[str]:
    """Join a part of a single frame with the beginning of the other file, to find what `join` would not keep.

    Args:
        part: a frame of the film's format and encoding.
        other, joined: as for join.join, whose errors it raises. Streams that the container takes but cannot name are
            noted in `other`.

    Returns:
        Notices, among them one on properties of the picture that the container cannot state.
    """
    times, still = Times(range(1), Fraction(1, 25), None), Part(seen(part), "")
    while True:
        target, copied, notices = written([(part, still)], times, other, joined, lambda done: None, _PACKETS)
        if other is None or not (unnamed := _unnamed(joined, other, copied)):
            break
        for number in unnamed & other.unnamed:  # not even as PCM
            raise target.refused(described(other, other.file.streams[number]), is_sound=True)
        other.unnamed |= unnamed
    encoded, read = readable(part), readable(joined)
    if encoded is not None and read != encoded:
        codec, _, pixels, *_ = encoded
        raise Refused(f"{joined.suffix[1:]} does not hold the picture ({codec}, {pixels}) so that it can be read")
    if other is not None and other.file.chapters():
        with av.open(str(joined)) as result:
            if not result.chapters():
                notices.append(f"left out: {target.name} does not hold the chapters of {other.path.name}")
    return notices + _unstated(part, joined, target.name)


def _unnamed(joined: Path, other: Other, copied: Collection[int]) -> set[int]:
    """Return those of the other file's streams that the joined file holds as data. copied: in the order of both."""
    with av.open(str(joined)) as file:
        types = [stream.type for stream in file.streams][1:]  # behind the picture
    return {number for number, type in zip(copied, types, strict=False) if type != other.file.streams[number].type}


def _unstated(part: Path, joined: Path, container: str) -> list[str]:
    """Return notices of what a part states of its picture and the joined file does not."""
    with av.open(str(part)) as own, av.open(str(joined)) as file:
        stated, kept = own.streams.video[0], file.streams.video[0]
        codec, shape, colours = codec_name(stated), shape_of(stated), _colours(stated)
        lost = [name for name, value in _colours(kept).items() if value != colours[name]]
        is_shown = shape == shape_of(kept)
    what = [] if is_shown else [f"that pixels are {shape.numerator}:{shape.denominator}"]
    what += [f"{', '.join(lost)} of the colours"] if lost else []
    return [
        f"left out: {one}, which {container} does not hold with {codec}: name another container or --codec"
        for one in what
    ]


def _colours(stream: Any) -> dict[str, int]:
    """Return how players show a picture's colours: as stated, else by its size."""
    own = stream.codec_context
    guess = 1 if own.width > 1024 or own.height > 576 else 6
    matrix, transfer, primaries = (int(value) for value in (own.colorspace, own.color_trc, own.color_primaries))
    matrix = guess if matrix == _UNSPECIFIED else 6 if matrix == 5 else matrix
    return {
        "range": int(own.color_range == 2),
        "matrix": matrix,
        "transfer": 1 if transfer in (_UNSPECIFIED, *_LIKE_BT709) else transfer,
        "primaries": 1 if primaries in (_UNSPECIFIED, *_LIKE_BT709) else primaries,
    }


def _changed(part: Path, job: Job) -> list[str]:
    """Return a notice if the encoder takes limited range only: ffmpeg converts the samples."""
    with av.open(str(part)) as file:
        is_kept = (
            job.arguments[job.arguments.index("-color_range") + 1] == "tv" or _colours(file.streams.video[0])["range"]
        )
    return [] if is_kept else [f"changed: full range becomes limited, as {job.encoding.codec} takes it"]


def readable(path: Path) -> tuple[Any, ...] | None:
    """Return codec, profile, format and samples of the first frame; None if it cannot be decoded."""
    with suppress(av.FFmpegError, StopIteration), av.open(str(path)) as file:
        stream = file.streams.video[0]
        frame = next(file.decode(stream))
        return stream.codec_context.name, stream.profile, frame.format.name, *map(bytes, frame.planes)
    return None


def _way_out(part: Path, other: Other | None, joined: Path, refused: Refused) -> str:
    """Return advice for a container that is refused."""
    for suffix in _CONTAINERS:
        if suffix == joined.suffix:
            continue
        trial = joined.with_suffix(suffix)
        try:
            tried(part, other, trial)
            return f"name a file *{suffix}"
        except (ValueError, OSError):
            continue
        finally:
            trial.unlink(missing_ok=True)
    if refused.is_sound and other is not None:
        return f"name other sound with --sound, as made by ffmpeg -i {other.path.name} -vn -c:a flac SOUND.mka"
    return "name another --codec"

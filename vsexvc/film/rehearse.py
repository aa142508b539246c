"""Pass one frame through encoder and container before the long work, to report at once what they refuse or lose.

The result is decoded again: a container may accept a codec that it cannot describe.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import av
import vapoursynth as vs

from vsexvc.film.captions import has_captions
from vsexvc.film.container import Refused
from vsexvc.film.encode import Part, encode, seen
from vsexvc.film.job import Job
from vsexvc.film.join import Other
from vsexvc.film.join import rehearse as rehearse_joining

_CONTAINERS = (".mkv", ".mov", ".avi", ".nut")  # proposed in this order where another container cannot hold a stream


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
            notices = _tried(part, other, joined)
        except Refused as refused:
            raise ValueError(f"{refused}: {_way_out(part, other, joined, refused)}") from None
    finally:
        part.unlink(missing_ok=True)
        joined.unlink(missing_ok=True)
    if job.model is not None and job.source.is_file() and has_captions(job.source):
        notices.append(
            f"left out: captions inside the picture of {job.source.name}; ffmpeg -f lavfi -i "
            f'"movie={job.source.name}[out0+subcc]" -map s captions.srt writes them to a file'
        )
    return notices


def _tried(part: Path, other: Other | None, joined: Path) -> list[str]:
    notices = rehearse_joining((part, Part(seen(part), "")), other, joined)
    encoded, written = readable(part), readable(joined)
    if encoded is not None and written != encoded:
        codec, _, pixels, *_ = encoded
        raise Refused(f"{joined.suffix[1:]} does not hold the picture ({codec}, {pixels}) so that it can be read")
    return notices


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
            _tried(part, other, trial)
            return f"name a file *{suffix}"
        except (ValueError, OSError):
            continue
        finally:
            trial.unlink(missing_ok=True)
    if refused.is_sound and other is not None:
        return f"name other sound with --sound, as made by ffmpeg -i {other.path.name} -vn -c:a flac SOUND.mka"
    return "name another --codec"

"""A film out of its parts: packets of pictures get their frames' times, the source's other streams go along.

    parts, in order -> packets of the picture, each with its frame's own time --.
    source ----------> packets of sound, subtitles; covers, fonts, chapters -----+--> OUT

Nothing is encoded but subtitles that are text, where the container knows other words for them; nothing is random. What
may not enter: pixels, and where parts come from (parts.py).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import av

from vsexvc.film.encode import Part
from vsexvc.film.times import Times, fraction, is_cover, picture_of, start_of
from vsexvc.support.errors import first_line

_TEXT_SUBTITLES = ("srt", "subrip", "ass", "ssa", "mov_text", "webvtt", "text")
_SUBTITLES_OF = {"mp4": "mov_text", "mov": "mov_text", "ipod": "mov_text", "matroska": "srt", "webm": "webvtt"}
_COVERS = {"mjpeg": "image/jpeg"}  # kinds of covers that are not called as their codec
# Said by the file that these are copied from, no longer true of the one they are copied to.
_STALE = ("encoder", "duration", "major_brand", "minor_version", "compatible_brands", "creation_time")
_REHEARSED = 100  # packets of sound and the like: enough for all streams but sparse subtitles
_STALE_OF_VIDEO = ("bps", "number_of_frames", "number_of_bytes", "_statistics", "handler_name", "vendor_id")


class Other:
    """The streams of a file that go along with the film: all but its picture."""

    def __init__(self, path: Path) -> None:
        """Raises ValueError for a file that cannot be read."""
        self.path = path
        try:
            self.file = av.open(str(path))
        except (av.FFmpegError, OSError) as error:
            raise ValueError(f"{str(path)!r} cannot be read: {first_line(error)}") from None
        self.picture = picture_of(self.file)
        self.streams = [stream for stream in self.file.streams if stream is not self.picture]
        self.start = start_of(self.file)
        first = None if self.picture is None else self.picture.start_time
        #: when its picture begins, in seconds: so much later than nought begins that of a script with its sound
        self.late = (
            Fraction(0) if first is None else max(Fraction(0), first * fraction(self.picture.time_base) - self.start)
        )


def join(
    parts: Sequence[tuple[Path, Part]],
    times: Times,
    other: Other | None,
    out: Path,
    progress: Callable[[int], None],
) -> list[str]:
    """Write the parts' frames at their times, and the other file's streams, chapters and titles, to a file.

    Args:
        parts: their files, in order.
        times: of all frames.
        other: None: there is none.
        out: its suffix says which container.
        progress: told how many frames are written.

    Returns:
        What of the other file was left out, for the user.

    Raises:
        ValueError: the container cannot be written, or does not hold the picture or a sound track.
        OSError: the disk.
    """
    with _target(parts[0][0], times, other, out) as target:
        target.write(parts, times, progress)
    return target.left_out


def rehearse(part: tuple[Path, Part], other: Other | None, out: Path) -> list[str]:
    """Write one part of a single frame and the beginning of the other file, to find what `join` would not keep.

    Args:
        part: a frame of the film's format and encoding.
        other, out: as for `join`, whose errors it raises.

    Returns:
        What would be left out, for the user; what the container does not say of the picture too.
    """
    times = Times(range(1), Fraction(1, 25), None)
    with _target(part[0], times, other, out) as target:
        target.write([part], times, packets=_REHEARSED)
    if (shape := _shape(part[0])) != _shape(out):
        target.left_out.append(
            f"that pixels are {shape.numerator}:{shape.denominator}, which {target.container} does not hold with "
            f"{target.codec}: name another container or --codec"
        )
    return target.left_out


class _Target:
    """The file that is written: its picture, and the streams that are copied to it."""

    def __init__(self, file: Any, encoded: Any, times: Times, other: Other | None) -> None:
        """file: opened to write. encoded: the first part's picture."""
        self._file, self._other = file, other
        self.container, self.codec = file.format.name, _codec_name(encoded)
        self._picture = picture = _added(file, encoded, "the picture")
        picture.time_base = times.base
        if picture.codec_context.name == "hevc" and self.container in ("mp4", "mov", "ipod"):
            picture.codec_context.codec_tag = "hvc1"  # Apple's players refuse the other one
        # Not all codecs have a word for it.
        picture.codec_context.sample_aspect_ratio = encoded.sample_aspect_ratio
        if times.rate is not None:
            picture.codec_context.framerate = times.rate
        self._copied: dict[int, Any] = {}
        self.left_out: list[str] = []
        if other is not None:
            self._copied, self.left_out = _copies(file, picture, other)
        file.start_encoding()

    def write(
        self,
        parts: Sequence[tuple[Path, Part]],
        times: Times,
        progress: Callable[[int], None] = lambda done: None,
        packets: int | None = None,
    ) -> None:
        """Write all packets in order of time. packets: at most so many of the other file; None: all."""
        streams = [_picture_packets(parts, times, self._picture)]
        if self._other is not None and self._copied:
            streams.append(islice(_other_packets(self._other, self._copied), packets))
        done = 0
        for packet in heapq.merge(*streams, key=_when):
            done += packet.stream is self._picture
            self._file.mux_one(packet)
            progress(done)


@contextmanager
def _target(first: Path, times: Times, other: Other | None, out: Path) -> Iterator[_Target]:
    """The file `out`, opened to write. first: the first part. Raises as `join`, for what fails inside too."""
    options = {"fflags": "+bitexact"}
    if out.suffix in (".mp4", ".mov", ".m4v"):
        options["movflags"] = "+faststart"
    try:
        with ExitStack() as stack:
            try:
                file = stack.enter_context(av.open(str(out), "w", options=options))
            except ValueError:
                raise ValueError(
                    f"--out must end in the name of a container, as .mkv and .mp4, got {out.suffix}"
                ) from None
            encoded = stack.enter_context(av.open(str(first))).streams.video[0]
            yield _Target(file, encoded, times, other)
    except av.FFmpegError as error:
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(out)) from None
        raise ValueError(f"{str(out)!r} cannot be written: {first_line(error)}") from None


def _shape(path: Path) -> Fraction:
    """Of a picture's pixels, width to height, as the container says."""
    with av.open(str(path)) as file:
        ratio = file.streams.video[0].sample_aspect_ratio
        return fraction(ratio) if ratio else Fraction(1)


def _copies(target: Any, picture: Any, other: Other) -> tuple[dict[int, Any], list[str]]:
    """Streams, chapters and titles as the other file has them: the new streams by old numbers, and what is left out."""
    copied: dict[int, Any] = {}
    left_out = []
    for stream in other.streams:
        what = f"stream {stream.index} of {other.path.name} ({stream.type}, {_codec_name(stream)})"
        if stream.type == "data":
            is_chapters = stream.discard == av.stream.Discard.all
            if not is_chapters and "timecode" not in stream.metadata:  # which the picture's tags have too
                left_out.append(f"{what}, which is for machines")
            continue
        try:
            if stream.type == "attachment" or (is_cover(stream) and "matroska" in target.format.name):
                _attach(target, stream, other.path, what)
            else:
                copied[stream.index] = _added(target, stream, what)
        except ValueError as error:
            if stream.type == "audio":
                raise
            if _codec_name(stream) in _TEXT_SUBTITLES and target.format.name in _SUBTITLES_OF:
                copied[stream.index] = _rewritten(target, stream)
            else:
                left_out.append(str(error))
    target.metadata.update(_kept(other.file.metadata, _STALE))
    if other.picture is not None:
        picture.metadata.update(_kept(other.picture.metadata, (*_STALE, *_STALE_OF_VIDEO)))
        picture.disposition = other.picture.disposition
    target.set_chapters([_shifted(chapter, other.start) for chapter in other.file.chapters()])
    return copied, left_out


def _added(target: Any, stream: Any, what: str) -> Any:
    """A stream like this one. Raises ValueError where the container does not hold such."""
    try:
        added = target.add_stream_from_template(stream, opaque=True)
    except (ValueError, av.FFmpegError):
        raise _refused(target, what) from None
    added.metadata.update(_kept(stream.metadata, _STALE if stream.type == "video" else ("duration",)))
    added.disposition = stream.disposition
    return added


def _refused(target: Any, what: str) -> ValueError:
    return ValueError(f"{target.format.name} does not hold {what}: name a file *.mkv")


def _attach(target: Any, stream: Any, path: Path, what: str) -> None:
    """A font or a cover, as a file inside the container. Raises ValueError where the container does not hold such."""
    if "matroska" not in target.format.name:
        raise _refused(target, what)
    if stream.type == "attachment":
        name, kind, data = f"attachment{stream.index}", stream.mimetype or "", stream.data
    else:
        kind = _COVERS.get(_codec_name(stream), f"image/{_codec_name(stream)}")
        name = f"cover.{kind.removeprefix('image/').replace('jpeg', 'jpg')}"
        with av.open(str(path)) as file:
            data = next(bytes(packet) for packet in file.demux(file.streams[stream.index]) if packet.size)
    target.add_attachment(stream.metadata.get("filename", name), stream.metadata.get("mimetype", kind), data)


def _rewritten(target: Any, stream: Any) -> Any:
    """A stream for the same subtitles in words that the container knows."""
    stream.codec_context.open(strict=False)
    added = target.add_stream(_SUBTITLES_OF[target.format.name])
    added.codec_context.subtitle_header = stream.codec_context.subtitle_header
    added.time_base = stream.time_base
    added.metadata.update(_kept(stream.metadata, _STALE))
    added.disposition = stream.disposition
    return added


def _codec_name(stream: Any) -> str:
    return stream.codec_context.name if stream.codec_context is not None else "no codec"


def _kept(said: dict[str, str], stale: Sequence[str]) -> dict[str, str]:
    return {key: value for key, value in said.items() if not key.lower().startswith(tuple(stale))}


def _shifted(chapter: Any, start: Fraction) -> Any:
    shift = round(start / fraction(chapter["time_base"]))
    return {**chapter, "start": max(0, chapter["start"] - shift), "end": chapter["end"] - shift}


def _picture_packets(parts: Sequence[tuple[Path, Part]], times: Times, stream: Any) -> Iterator[av.Packet[Any]]:
    """The parts' packets, each with its frame's time; in the order in which they are stored, which is dts' too.

    A decoder holds back as many frames as one is ever stored later than it is shown: dts is that much earlier.
    """
    stamps, first, head = times.stamps, 0, None
    held = max(place - rank for _, part in parts for place, rank in enumerate(part.order))
    if times.rate is not None:
        step = max(1, round(1 / (times.rate * times.base)))
    else:
        step = stamps[1] - stamps[0] if len(stamps) > 1 else 1
    for path, part in parts:
        with av.open(str(path)) as file:
            described = file.streams.video[0].codec_context.extradata
            if head is not None and described != head:
                raise ValueError(f"part {str(path)!r} was encoded otherwise than those before it: remove it, run again")
            head = described
            packets = (packet for packet in file.demux(video=0) if packet.size)
            for place, (packet, rank) in enumerate(zip(packets, part.order, strict=True)):
                frame, back = first + rank, first + place - held
                packet.stream, packet.time_base = stream, times.base
                packet.pts = stamps[frame]
                packet.dts = stamps[back] if back >= 0 else stamps[0] + back * step
                packet.duration = stamps[frame + 1] - stamps[frame] if frame + 1 < len(stamps) else step
                yield packet
        first += len(part.order)


def _other_packets(other: Other, copied: dict[int, Any]) -> Iterator[av.Packet[Any]]:
    """The other file's packets, read anew. copied: the new streams by old numbers."""
    with av.open(str(other.path)) as file:
        for packet in file.demux([file.streams[index] for index in copied]):
            if not packet.size and packet.pts is None:
                continue  # the end of a stream
            stream, base = copied[packet.stream_index], packet.time_base
            shift = round(other.start / fraction(base))
            pts, dts, duration = packet.pts, packet.dts, packet.duration
            if pts is None and dts is None:
                pts = shift  # a cover
            if _codec_name(stream) != _codec_name(packet.stream) and stream.type == "subtitle":
                decoder: Any = packet.stream.codec_context
                if (said := decoder.decode2(packet)) is None:
                    continue  # a pause
                packet = stream.codec_context.encode_subtitle(said)
            packet.stream, packet.time_base, packet.duration = stream, base, duration
            packet.pts = None if pts is None else pts - shift
            packet.dts = packet.pts if dts is None else dts - shift
            yield packet


def _when(packet: av.Packet[Any]) -> float:
    stamp = packet.pts if packet.dts is None else packet.dts
    return 0.0 if stamp is None else float(stamp * packet.time_base)

"""Join the parts of a film: give packets of pictures their frames' times, and copy the source's other streams.

    parts, in order -> packets of the picture, each with its frame's own time --.
    source ----------> packets of sound, subtitles; covers, fonts, chapters -----+--> OUT

Two kinds of streams are encoded again where the container requires it: text subtitles, and lossless sound (sound.py).
The output contains nothing random. Pixels are not changed here.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from fractions import Fraction
from itertools import islice, product
from pathlib import Path
from typing import Any

import av

from vsexvc.film.container import Refused, Target, codec_name, shape_of, tag_of
from vsexvc.film.encode import Part
from vsexvc.film.sound import Converter
from vsexvc.film.times import Times, fraction, is_cover, picture_of, start_of
from vsexvc.support.errors import first_line

_TEXT_SUBTITLES = ("srt", "subrip", "ass", "ssa", "mov_text", "webvtt", "text")
_SUBTITLES_OF = {"mp4": "mov_text", "mov": "mov_text", "ipod": "mov_text", "matroska": "srt", "webm": "webvtt"}
_COVERS = {"mjpeg": "image/jpeg"}  # codecs of covers, where their MIME type has another name
# Tags that are true of the source file only.
_STALE = ("encoder", "duration", "major_brand", "minor_version", "compatible_brands", "creation_time")
_JUMP = 1  # a clock that goes back by more seconds has started again
_STALE_OF_VIDEO = ("bps", "number_of_frames", "number_of_bytes", "_statistics", "handler_name", "vendor_id", "rotate")


class Other:
    """Open the file whose streams, all but the picture, go into the film."""

    def __init__(self, path: Path) -> None:
        """Open a file. Raise ValueError if it cannot be read."""
        self.path = path
        try:
            self.file = av.open(str(path))
        except (av.FFmpegError, OSError) as error:
            raise ValueError(f"{str(path)!r} cannot be read: {first_line(error)}") from None
        self.picture = picture_of(self.file)
        self.streams = [stream for stream in self.file.streams if stream is not self.picture]
        self.start = start_of(self.file)
        #: notices about the clocks, collected while the file is read
        self.jumps: list[str] = []
        #: numbers of streams that the container takes but cannot name (rehearse.py)
        self.unnamed: set[int] = set()
        first = None if self.picture is None else self.picture.start_time
        #: start of its picture in seconds; a script's picture starts as late, so that sound stays in step
        self.late = (
            Fraction(0) if first is None else max(Fraction(0), first * fraction(self.picture.time_base) - self.start)
        )


def join(
    parts: Sequence[tuple[Path, Part]],
    times: Times,
    other: Other | None,
    out: Path,
    progress: Callable[[int], None] = lambda done: None,
) -> list[str]:
    """Write the parts' frames at their times, and the other file's streams, chapters and titles, to a file.

    Args:
        parts: files of the parts, in order.
        times: times of all frames.
        other: the file with the other streams; None: there are none.
        out: the film; its suffix selects the container.
        progress: called with the number of frames written.

    Returns:
        Notices: what was left out of the other file or changed.

    Raises:
        ValueError: the container cannot be written; Refused: it cannot hold the picture or a sound track.
        OSError: the file cannot be written.
    """
    return written(parts, times, other, out, progress, None)[2]


def written(
    parts: Sequence[tuple[Path, Part]],
    times: Times,
    other: Other | None,
    out: Path,
    progress: Callable[[int], None],
    packets: int | None,
) -> tuple[Target, dict[int, Any], list[str]]:
    """Write the file and close it, as `join`, which see.

    Args:
        packets: how many of the other file are written; None: all.

    Returns:
        The file, the streams of the other file in it by their old numbers, and notices.
    """
    done = 0
    try:
        with ExitStack() as stack:
            target, picture, copied, notices = _begun(stack, parts[0][0], times, other, out)
            streams = [_picture_packets(parts, times, picture)]
            if other is not None and copied:
                streams.append(islice(_other_packets(other, copied), packets))
            for packet in heapq.merge(*streams, key=_when):
                done += packet.stream is picture
                try:
                    target.file.mux_one(packet)
                except av.FFmpegError as error:
                    if isinstance(error, OSError):
                        raise
                    kind, codec = packet.stream.type, codec_name(packet.stream)
                    what = f"the picture ({codec})" if packet.stream is picture else f"the {kind} ({codec})"
                    raise target.refused(what, kind == "audio") from None
                progress(done)
    except av.FFmpegError as error:
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(out)) from None
        raise Refused(f"{str(out)!r} cannot be written: {first_line(error)}") from None
    with av.open(str(parts[0][0])) as part:
        shape = shape_of(part.streams.video[0])
    target.complete(shape, other.path if other is not None and target.is_passed and other.file.chapters() else None)
    return target, copied, notices


def _begun(
    stack: ExitStack, part: Path, times: Times, other: Other | None, out: Path
) -> tuple[Target, Any, dict[int, Any], list[str]]:
    """Write the file's header; return the file, the picture's stream, the others by old numbers, and notices.

    It tries, in turn: streams as they are; streams passed on unchecked (container.py); sound as PCM; both. The codec's
    tag, which names a profile of ProRes or the format of Ut Video, is left out where the container sets its own.
    """
    encoded = stack.enter_context(av.open(str(part))).streams.video[0]
    failure: Exception | None = None  # the last one: in the most ways
    for converts, is_passed, tag in product((False, True), (False, True), dict.fromkeys((tag_of(encoded), None))):
        target = Target(out, is_passed)
        try:
            picture = _picture_stream(target, encoded, times, tag)
            copied, notices = ({}, []) if other is None else _copies(target, picture, other, converts)
            target.file.start_encoding()
        except (Refused, av.FFmpegError) as error:
            target.file.close()
            if isinstance(error, OSError):
                raise
            what = f"the picture ({codec_name(encoded)})"
            failure = error if isinstance(error, Refused) else target.refused(what)
        else:
            stack.enter_context(target.file)
            return target, picture, copied, notices
    assert failure is not None
    raise failure


def _picture_stream(target: Target, encoded: Any, times: Times, tag: str | None) -> Any:
    """Add the stream of pictures, like that of a part."""
    picture = target.added(encoded, f"the picture ({codec_name(encoded)})", is_picture=True)
    picture.metadata.update(_kept(encoded.metadata, _STALE))
    picture.disposition = encoded.disposition
    picture.time_base = times.base
    context = picture.codec_context
    if codec_name(picture) == "hevc" and target.name in ("mp4", "mov", "ipod"):
        context.codec_tag = "hvc1"  # Apple's players refuse hev1
    elif tag is not None:
        context.codec_tag = tag
    context.sample_aspect_ratio = encoded.sample_aspect_ratio  # not all codecs can state it
    if times.rate is not None:
        context.framerate = times.rate
    return picture


def _copies(target: Target, picture: Any, other: Other, converts: bool) -> tuple[dict[int, Any], list[str]]:
    """Add the other file's streams, chapters and titles; return the new streams by old numbers, and notices.

    converts: whether lossless sound that the container cannot hold becomes PCM.
    """
    copied: dict[int, Any] = {}
    notices = []
    for stream in other.streams:
        what = described(other, stream)
        if stream.type == "data":
            is_chapters = stream.discard == av.stream.Discard.all
            if not is_chapters and "timecode" not in stream.metadata:  # the picture's tags state it too
                notices.append(f"left out: {what}")
            continue
        context: Any = stream.codec_context
        if stream.type == "audio" and not (context and context.sample_rate):
            notices.append(f"left out: {what}, in which no sound was found")
            continue
        try:
            if stream.index in other.unnamed:
                raise target.refused(what, stream.type == "audio")
            if stream.type == "attachment" or (is_cover(stream) and "matroska" in target.name):
                _attach(target, stream, other.path, what)
            else:
                copied[stream.index] = added = target.added(stream, what)
                _describe(added, stream)
        except Refused as error:
            if stream.type == "audio":
                if not converts:
                    raise
                copied[stream.index] = converter = _as_pcm(target, stream, what)
                notices.append(f"{what} becomes {converter.name}, the same samples: {target.name} does not hold it")
            elif codec_name(stream) in _TEXT_SUBTITLES and target.name in _SUBTITLES_OF:
                copied[stream.index] = _rewritten(target, stream)
            else:
                notices.append(f"left out: {error}")
    target.file.metadata.update(_kept(other.file.metadata, _STALE))
    if other.picture is not None:
        picture.metadata.update(_kept(other.picture.metadata, (*_STALE, *_STALE_OF_VIDEO)))
        picture.disposition = other.picture.disposition
    if not target.is_passed:
        target.file.set_chapters([_shifted(chapter, other.start) for chapter in other.file.chapters()])
    return copied, notices


def described(other: Other, stream: Any) -> str:
    """Return the name of a stream of the other file, for notices and errors."""
    return f"stream {stream.index} of {other.path.name} ({stream.type}, {codec_name(stream)})"


def _describe(added: Any, stream: Any) -> None:
    added.metadata.update(_kept(stream.metadata, _STALE if stream.type == "video" else ("duration",)))
    added.disposition = stream.disposition


def _as_pcm(target: Target, stream: Any, what: str) -> Converter:
    """Convert sound to PCM; raise Refused if that is not lossless."""
    try:
        converter = Converter(target, stream)
    except (ValueError, KeyError, av.FFmpegError):
        raise target.refused(what, is_sound=True) from None
    _describe(converter.added, stream)
    return converter


def _attach(target: Target, stream: Any, path: Path, what: str) -> None:
    """Attach a font or a cover. Raise ValueError if the container cannot hold attachments."""
    if "matroska" not in target.name:
        raise target.refused(what)
    if stream.type == "attachment":
        name, kind, data = f"attachment{stream.index}", stream.mimetype or "", stream.data
    else:
        kind = _COVERS.get(codec_name(stream), f"image/{codec_name(stream)}")
        name = f"cover.{kind.removeprefix('image/').replace('jpeg', 'jpg')}"
        with av.open(str(path)) as file:
            data = next(bytes(packet) for packet in file.demux(file.streams[stream.index]) if packet.size)
    target.file.add_attachment(stream.metadata.get("filename", name), stream.metadata.get("mimetype", kind), data)


def _rewritten(target: Target, stream: Any) -> Any:
    """Add a stream for the same subtitles in a codec that the container can hold."""
    stream.codec_context.open(strict=False)
    added = target.file.add_stream(_SUBTITLES_OF[target.name])
    added.codec_context.subtitle_header = stream.codec_context.subtitle_header
    added.time_base = stream.time_base
    added.metadata.update(_kept(stream.metadata, _STALE))
    added.disposition = stream.disposition
    return added


def _kept(said: dict[str, str], stale: Sequence[str]) -> dict[str, str]:
    return {key: value for key, value in said.items() if not key.lower().startswith(tuple(stale))}


def _shifted(chapter: Any, start: Fraction) -> Any:
    shift = round(start / fraction(chapter["time_base"]))
    return {**chapter, "start": max(0, chapter["start"] - shift), "end": chapter["end"] - shift}


def _picture_packets(parts: Sequence[tuple[Path, Part]], times: Times, stream: Any) -> Iterator[av.Packet[Any]]:
    """Yield the parts' packets, each with its frame's time, in stored order, which is also that of dts.

    A decoder delays frames by the largest difference between stored and shown order; dts is earlier by as much.
    """
    stamps, first, head = times.stamps, 0, None
    held = max(place - rank for _, part in parts for place, rank in enumerate(part.order))
    if times.rate is not None:
        step = max(1, round(1 / (times.rate * times.base)))
    else:
        step = stamps[1] - stamps[0] if len(stamps) > 1 else 1
    last = step if times.last is None else max(1, round(times.last / times.base))
    for path, part in parts:
        with av.open(str(path)) as file:
            described = file.streams.video[0].codec_context.extradata
            if head is not None and described != head:
                raise ValueError(
                    f"part {str(path)!r} was encoded differently from the ones before: remove it and run again"
                )
            head = described
            packets = (packet for packet in file.demux(video=0) if packet.size)
            for place, (packet, rank) in enumerate(zip(packets, part.order, strict=True)):
                frame, back = first + rank, first + place - held
                packet.stream, packet.time_base = stream, times.base
                packet.pts = stamps[frame]
                packet.dts = stamps[back] if back >= 0 else stamps[0] + back * step
                packet.duration = stamps[frame + 1] - stamps[frame] if frame + 1 < len(stamps) else last
                yield packet
        first += len(part.order)


def _other_packets(other: Other, copied: dict[int, Any]) -> Iterator[av.Packet[Any]]:
    """Yield the other file's packets. copied: the new streams by old numbers."""
    clocks: dict[int, Clock] = {}
    with av.open(str(other.path)) as file:
        for packet in file.demux([file.streams[index] for index in copied]):
            if not packet.size and packet.pts is None:
                continue  # the end of a stream
            stream, base = copied[packet.stream_index], packet.time_base
            if isinstance(stream, Converter):
                for made in stream.packets(packet, other.start):
                    made.stream = stream.added
                    yield made
                continue
            shift = round(other.start / fraction(base))
            pts, dts, duration = packet.pts, packet.dts, packet.duration
            if pts is None and dts is None:
                pts = shift  # a cover
            if codec_name(stream) != codec_name(packet.stream) and stream.type == "subtitle":
                decoder: Any = packet.stream.codec_context
                if (said := decoder.decode2(packet)) is None:
                    continue  # a pause
                packet = stream.codec_context.encode_subtitle(said)
            packet.stream, packet.time_base, packet.duration = stream, base, duration
            packet.pts = None if pts is None else pts - shift
            packet.dts = packet.pts if dts is None else dts - shift
            if stream.type == "audio":
                clock = clocks.setdefault(stream.index, Clock(other, f"stream {stream.index} ({stream.type})"))
                clock.set_right(packet)
            yield packet


class Clock:
    """Make the times of one stream's packets rise, as muxers require."""

    def __init__(self, other: Other, what: str) -> None:
        self._other, self._what = other, what
        self._last: int | None = None
        self._end = self._offset = 0

    def set_right(self, packet: av.Packet[Any]) -> None:
        """Change dts, and pts with it, where dts goes backward, by a little or by a jump of the clock."""
        base = fraction(packet.time_base)
        if packet.dts is None:
            return
        if self._last is not None and (self._last - packet.dts - self._offset) * base > _JUMP:
            back = float((self._last - packet.dts - self._offset) * base)
            self._offset = self._end - packet.dts
            self._other.jumps.append(
                f"{self._what} of {self._other.path.name}: its clock goes back by {back:.1f} s at "
                f"{float(self._last * base):.1f} s, later packets follow on without a gap"
            )
        dts = packet.dts + self._offset
        if self._last is not None and dts < self._last:
            dts = self._last + 1
        if packet.pts is not None:
            packet.pts = max(packet.pts + self._offset, dts)
        packet.dts = self._last = dts
        self._end = dts + (packet.duration or 0)


def _when(packet: av.Packet[Any]) -> float:
    stamp = packet.pts if packet.dts is None else packet.dts
    return 0.0 if stamp is None else float(stamp * packet.time_base)

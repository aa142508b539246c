"""Encode frames to a part: a file with one video stream, written by an ffmpeg process.

    VapourSynth frames -> raw pixels -> ffmpeg -> Matroska

The output is bit-exact: no dates, no random numbers, a fixed number of the encoder's threads. A part records the order
in which its frames are stored; join.py sets their times, and parts.py decides which frames make a part.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import vapoursynth as vs

from vsexvc.film.trust import Sum
from vsexvc.frames import read_tags
from vsexvc.support.errors import first_line
from vsexvc.support.system import own_group

CODEC, CRF, PRESET = "libx264", 16.0, "medium"
_RATED = ("libx264", "libx265")  # encoders that have the default crf and preset
# Lossless encoders that do not announce full range: ffmpeg makes it limited unless the output's is stated too.
_LOSSLESS = ("ffv1", "ffvhuff", "huffyuv", "magicyuv", "utvideo")
_STATING_RANGE = (".mkv",)  # containers that state the range of those
_THREADS = 4  # the encoder's threads: x264's bytes depend on their number
_SUBSAMPLINGS = {"420": (1, 1), "422": (1, 0), "444": (0, 0), "440": (0, 1), "411": (2, 0), "410": (2, 2)}
FORMATS = {
    f"yuv{name}p{'' if bits == 8 else f'{bits}le'}": (bits, *subsampling)
    for name, subsampling in _SUBSAMPLINGS.items()
    for bits in ((8,) if name in ("411", "410") else (8, 10, 12) if name == "440" else (8, 9, 10, 12, 14, 16))
}  # ffmpeg's names of formats that VapourSynth has too: bits, subsampling_w, subsampling_h
_FILTERS = ("-vf", "-filter", "-filter:v", "-filter:v:0")
_GRAPHS = ("-filter_complex", "-lavfi")
_INPUT_LABEL = re.compile(r"\[0(:v(:0)?)?\]")
_GREY = {"gray" if bits == 8 else f"gray{bits}le": bits for bits in (8, 10, 12, 14, 16)}


@dataclass(frozen=True)
class Encoding:
    """Hold the encoder's settings. None: the default; crf and preset have one only for x264 and x265.

    Attributes:
        pix_fmt: a key of FORMATS.
        extra: further arguments of ffmpeg, which come before the output file.
        keeps_range: whether ffmpeg must be told to leave full range as it is.
    """

    codec: str = CODEC
    crf: float | None = None
    preset: str | None = None
    pix_fmt: str | None = None
    extra: tuple[str, ...] = ()
    keeps_range: bool = False

    def resolved(self) -> Encoding:
        """Return the settings with the defaults filled in."""
        if self.codec not in _RATED:
            return self
        return replace(self, crf=CRF if self.crf is None else self.crf, preset=self.preset or PRESET)

    def fitted(self, container: str) -> Encoding:
        """Return the settings for a container: raw 4:2:2 samples in the order that MOV can name, and the range.

        container: the file's suffix.
        """
        keeps_range = self.codec in _LOSSLESS and container in _STATING_RANGE
        is_raw = (self.codec, self.pix_fmt, container) == ("rawvideo", "yuv422p", ".mov")
        extra = ("-pix_fmt", "uyvy422", *self.extra) if is_raw else self.extra
        return replace(self, extra=extra, keeps_range=keeps_range)

    def arguments(self) -> list[str]:
        options = ["-c:v", self.codec, "-threads", str(_THREADS)]
        crf = None if self.crf is None else f"{self.crf:g}"
        for name, value in (("-crf", crf), ("-preset", self.preset), ("-pix_fmt", self.pix_fmt)):
            options += [] if value is None else [name, value]
        return [*options, *self.extra]


@dataclass(frozen=True)
class Part:
    """Describe an encoded part.

    Attributes:
        order: for each packet, in stored order, the index of its frame in the part.
        sha256: of the file.
        durations: of the frames, in seconds, as (numerator, denominator); empty where frames state none.
        key: the part's key, see job.part_keys.
        sums: for each of its scenes, how well the references suit it.
    """

    order: tuple[int, ...]
    sha256: str
    durations: tuple[tuple[int, int], ...] = ()
    key: str = ""
    sums: tuple[Sum, ...] = ()


# --- the encoder ------------------------------------------------------------------------------------------------


def find_ffmpeg() -> str:
    """Return the system's ffmpeg, else that of the imageio-ffmpeg wheel. Raise ValueError if there is none."""
    found = shutil.which("ffmpeg")
    if found is not None:
        return found
    try:
        import imageio_ffmpeg

        path: str = imageio_ffmpeg.get_ffmpeg_exe()
        return path
    except (ImportError, RuntimeError):
        raise ValueError("found no ffmpeg, neither on PATH nor as a wheel: pip install vsexvc[video]") from None


def ffmpeg_version() -> str:
    """Return the first line of what `ffmpeg -version` prints."""
    answer = subprocess.run([find_ffmpeg(), "-version"], capture_output=True, text=True, check=False, timeout=60)
    return answer.stdout.split("\n")[0]


def suited_format(clip: vs.VideoNode, asked: str | None) -> vs.VideoFormat:
    """Choose the format of the coloured film: the requested one of FORMATS, else the one closest to the source.

    8 bit stays 8 bit, more becomes 10; subsampling stays, grey and RGB become 4:2:0 where the size is even.

    Raises:
        ValueError: an argument is wrong.
    """
    if asked is not None and asked not in FORMATS:
        raise ValueError(f"--pix-fmt must be one of {', '.join(sorted(FORMATS))}, got {asked!r}")
    own = clip.format
    even = clip.width % 2 == 0 and clip.height % 2 == 0
    if asked is not None:
        bits, w, h = FORMATS[asked]
    else:
        bits = 8 if own.bits_per_sample == 8 else 10
        w, h = (own.subsampling_w, own.subsampling_h) if own.color_family == vs.YUV else (int(even), int(even))
        if (w, h) not in ((1, 1), (1, 0), (0, 0)) and bits > 8:
            w, h = 0, 0  # these have no format with more bits
    if clip.width % (1 << w) or clip.height % (1 << h):
        raise ValueError(f"--pix-fmt must be one that {clip.width}x{clip.height} can be subsampled to, got {asked!r}")
    return vs.core.query_video_format(vs.YUV, vs.INTEGER, bits, w, h)


def input_arguments(clip: vs.VideoNode, first: vs.VideoFrame, keeps_range: bool = False) -> tuple[str, ...]:
    """Return ffmpeg's arguments: how to read a clip's raw frames, and which tags to write.

    Args:
        clip: what will be encoded.
        first: a frame whose tags apply to all frames: of the clip, or of Colorize's input (from RGB, Colorize makes YUV
            of limited range).
        keeps_range: see Encoding.

    Raises:
        ValueError: ffmpeg has no name for the format, or tags are not supported.
    """
    own = clip.format
    names = {values: name for name, values in FORMATS.items()}
    grey = {bits: name for name, bits in _GREY.items()}
    name = None
    if own is not None and own.sample_type == vs.INTEGER and own.color_family == vs.YUV:
        name = names.get((own.bits_per_sample, own.subsampling_w, own.subsampling_h))
    elif own is not None and own.sample_type == vs.INTEGER and own.color_family == vs.GRAY:
        name = grey.get(own.bits_per_sample)
    if name is None or not clip.width or not clip.height:
        is_variable = own is None or own.color_family == vs.UNDEFINED
        seen = "a clip of variable format" if is_variable else own.name if clip.width else "a clip of variable size"
        raise ValueError(f"output 0 must be YUV or GRAY of integers, of constant size and format, got {seen}")
    stated = read_tags(first)
    rate = Fraction(clip.fps) if clip.fps else Fraction(25)
    options = {
        "f": "rawvideo",
        "pixel_format": name,
        "video_size": f"{clip.width}x{clip.height}",
        "framerate": f"{rate.numerator}/{rate.denominator}",
        "color_range": "pc" if stated.full_range and first.format.color_family != vs.RGB else "tv",
        "colorspace": str(stated.matrix),
        "color_trc": str(stated.transfer),
        "color_primaries": str(stated.primaries),
        "chroma_sample_location": str(stated.chroma_location + 1),
    }
    shape = [first.props.get(prop, 0) for prop in ("_SARNum", "_SARDen")]
    filters = ["-vf", f"setsar={shape[0]}/{shape[1]}"] if all(isinstance(n, int) and n > 0 for n in shape) else []
    told = [word for key, value in options.items() for word in (f"-{key}", value)]
    kept = ["-color_range", "pc"] if keeps_range and options["color_range"] == "pc" else []
    return (*told, "-i", "-", *kept, *filters)


def merged(arguments: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """Merge two argument lists into one filter graph, because ffmpeg uses only the last `-vf`.

    Args:
        arguments: from `input_arguments`.
        wanted: from `Encoding.arguments`; their filters come after those of `arguments`.
    """
    words = list(wanted)
    values = [place + 1 for place, word in enumerate(words[:-1]) if word in (*_FILTERS, *_GRAPHS)]
    if "-vf" not in arguments or not values:
        return [*arguments, *wanted]
    at = arguments.index("-vf")
    own = arguments[at + 1]
    for place in values:
        heads: list[str] = []

        def shaped(_: re.Match[str], heads: list[str] = heads) -> str:
            heads.append(f"[0:v]{own}[shaped{len(heads)}];")
            return f"[shaped{len(heads) - 1}]"

        is_graph = words[place - 1] in _GRAPHS and _INPUT_LABEL.search(words[place])
        graph = _INPUT_LABEL.sub(shaped, words[place]) if is_graph else f"{own},{words[place]}"
        words[place] = "".join(heads) + graph
    return [*arguments[:at], *words]


def encode(frames: Generator[vs.VideoFrame], arguments: Sequence[str], encoding: Encoding, target: Path) -> None:
    """Write frames to a file. arguments: from `input_arguments`.

    Raises:
        ValueError: ffmpeg's message, or its exit status. Errors of the frames themselves pass through. In both cases no
            file is left.
    """
    # Without -xerror older versions of ffmpeg return 0 when the disk is full.
    command = [find_ffmpeg(), "-hide_banner", "-loglevel", "error", "-xerror", "-y"]
    command += merged(arguments, encoding.arguments())
    command += ["-fflags", "+bitexact", "-flags:v", "+bitexact", "-f", _container(arguments, encoding), str(target)]
    started: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryFile() as said, closing(frames), ThreadPoolExecutor(1) as thread:
        thread.submit(int).result()  # from now on the thread runs, so that `shutdown` waits for what it has been given

        def start() -> None:
            pipe, none = subprocess.PIPE, subprocess.DEVNULL
            started.append(subprocess.Popen(command, stdin=pipe, stdout=none, stderr=said, **own_group()))

        # ffmpeg gets a separate process group: only this process handles Ctrl-C. It raises in the main thread, at any
        # point, so the process is started in the other one, and listed there: nobody loses it.
        try:
            thread.submit(start).result()
            (process,) = started
            assert process.stdin is not None
            with suppress(BrokenPipeError), process.stdin:  # ffmpeg's message gives the reason
                for frame in frames:
                    for chunk in frame.readchunks():
                        process.stdin.write(chunk)
            code = process.wait()
        except BaseException:
            thread.shutdown()
            for process in started:
                process.kill()
                process.wait()
            target.unlink(missing_ok=True)
            raise
        if code:
            target.unlink(missing_ok=True)
            said.seek(0)
            raise ValueError(f"ffmpeg: {_reason(said.read().decode(errors='replace'), code)}")


def _container(arguments: Sequence[str], encoding: Encoding) -> str:
    """Return the container of a part: Matroska, or NUT for raw samples that Matroska cannot name."""
    shown = encoding.pix_fmt or dict(pairwise(arguments)).get("-pixel_format", "")
    return "matroska" if encoding.codec != "rawvideo" or shown in ("yuv420p", "yuv422p") else "nut"


def _reason(said: str, code: int) -> str:
    """Return ffmpeg's first message, which is closest to the cause."""
    lines = [re.sub(r"^(\[[^]]*\] )+", "", line).strip() for line in said.split("\n")]
    ended = f"ended by signal {-code}" if code < 0 else f"ended with code {code}"
    return next((line for line in lines if line), ended)


def seen(path: Path) -> tuple[int, ...]:
    """Return the order of a file's frames as Part stores it. Raise ValueError if it has none."""
    try:
        with av.open(str(path)) as file:
            stamps = [packet.pts or 0 for packet in file.demux(video=0) if packet.size]
    except (av.FFmpegError, IndexError) as error:
        raise ValueError(f"{str(path)!r} cannot be read: {first_line(error)}") from None
    ranks = {stamp: rank for rank, stamp in enumerate(sorted(stamps))}
    return tuple(ranks[stamp] for stamp in stamps)

"""Open a container file to which streams are added; its suffix names the container.

PyAV accepts the codecs that a muxer lists. Muxers write more than they list: FFV1 in MOV; Ut Video, and sound by tags
of Windows' ACM, in Matroska. ffmpeg's muxer "tee" passes such streams on unchecked. join.py decides what is written;
encode.py knows what a container needs of the picture, and rehearse.py which containers are proposed instead.
"""

from __future__ import annotations

import io
import subprocess
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from vsexvc.film.encode import find_ffmpeg
from vsexvc.film.times import fraction
from vsexvc.support.errors import first_line

_NO_TAG = "\0\0\0\0"


class Refused(ValueError):
    """Report that a container cannot hold a stream. is_sound: whether the stream is sound."""

    def __init__(self, text: str, is_sound: bool = False) -> None:
        super().__init__(text)
        self.is_sound = is_sound


class Target:
    """Write a file. `name` is the name of its container."""

    def __init__(self, out: Path, is_passed: bool = False) -> None:
        """Open the file for writing.

        Args:
            out: the file; its suffix selects the container.
            is_passed: whether streams go through "tee".

        Raises:
            ValueError: no container has such a suffix.
        """
        self.out, self.is_passed = out, is_passed
        options = {"fflags": "+bitexact"}
        if out.suffix in (".mp4", ".mov", ".m4v"):
            options["movflags"] = "+faststart"
        try:
            self.file: Any = av.open(str(out), "w", options=options)
        except ValueError:
            raise ValueError(f"--out must end in the name of a container, as .mkv and .mp4, got {out.suffix}") from None
        self.name: str = self.file.format.name
        self._listed, self._passed = self.file.supported_codecs, set[str]()
        if is_passed:
            if self.name == "matroska":
                with av.open(io.BytesIO(), "w", format="wav") as acm:
                    self._passed = acm.supported_codecs
            self.file.close()
            told = ":".join(f"{key}={value}" for key, value in options.items())
            path = str(out).replace("\\", "\\\\").replace("|", "\\|").replace("'", "\\'")
            self.file = av.open(f"[f={self.name}:{told}]{path}", "w", format="tee", options={"fflags": "+bitexact"})

    def added(self, stream: Any, what: str, is_picture: bool = False) -> Any:
        """Add a stream with the parameters of another.

        Args:
            stream: of another file.
            what: the stream's name in errors.
            is_picture: "tee" may take the stream although the muxer does not list its codec. The caller must check
                that the result can be read.

        Raises:
            Refused: the container cannot hold the stream.
        """
        try:
            if not is_picture and stream.type in ("audio", "video", "subtitle"):
                self._check(stream)
            return self.file.add_stream_from_template(stream, opaque=True)
        except (ValueError, av.FFmpegError):
            raise self.refused(what, stream.type == "audio") from None

    def _check(self, stream: Any) -> None:
        """Raise an error if a header with this stream alone fails: that of the whole file does not name the stream."""
        name = codec_name(stream)
        if self.is_passed and name not in self._listed:
            if name not in self._passed:
                raise ValueError(name)
            return
        with suppress(OSError), av.open(io.BytesIO(), "w", format=self.name) as alone:
            alone.add_stream_from_template(stream, opaque=True)
            alone.start_encoding()

    def refused(self, what: str, is_sound: bool = False) -> Refused:
        return Refused(f"{self.name} does not hold {what}", is_sound)

    def complete(self, shape: Fraction, chapters: Path | None = None) -> None:
        """Add to the closed file what PyAV and "tee" leave out, by a copy that ffmpeg makes, if it lacks something.

        Args:
            shape: of the picture's pixels, width to height.
            chapters: a file whose chapters are added; None: they are there.

        Raises:
            ValueError: ffmpeg fails.
        """
        with av.open(str(self.out)) as file:
            if not file.streams.video:
                return
            picture = file.streams.video[0]
            size = picture.width, picture.height
            is_shown = shape_of(picture) == shape
        if is_shown and chapters is None:
            return
        aspect = Fraction(*size) * shape
        whole = self.out.with_stem(self.out.stem + "-whole")
        command = [find_ffmpeg(), "-loglevel", "error", "-nostdin", "-copyts", "-i", str(self.out)]
        command += ["-map_chapters", "0"] if chapters is None else ["-i", str(chapters), "-map_chapters", "1"]
        command += ["-map", "0", "-c", "copy", "-aspect:v:0", f"{aspect.numerator}:{aspect.denominator}"]
        command += ["-movflags", "+faststart"] if self.out.suffix in (".mp4", ".mov", ".m4v") else []
        try:
            ran = subprocess.run(
                [*command, "-fflags", "+bitexact", "-y", str(whole)], capture_output=True, text=True, check=False
            )
            if ran.returncode:
                raise ValueError(f"ffmpeg: {first_line(ValueError(ran.stderr))}")
            whole.replace(self.out)
        finally:
            whole.unlink(missing_ok=True)


def shape_of(picture: Any) -> Fraction:
    """Return the shape of a stream's pixels, width to height, as its file states it."""
    ratio = picture.sample_aspect_ratio
    return fraction(ratio) if ratio else Fraction(1)


def codec_name(stream: Any) -> str:
    return stream.codec_context.name if stream.codec_context is not None else "no codec"


def tag_of(stream: Any) -> str | None:
    """Return the codec's tag, four characters, which may name the kind of the codec; None if there is none."""
    try:
        tag: str = stream.codec_context.codec_tag
    except UnicodeDecodeError:
        return None
    return None if tag == _NO_TAG else tag

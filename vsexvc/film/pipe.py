"""Write the command line that sends a script's output through vspipe to ffmpeg and keeps the tags of its frames.

Y4M, which vspipe writes, cannot carry matrix, primaries and transfer; ffmpeg gets them as options.
"""

from __future__ import annotations

import os
import shlex
import shutil
from itertools import pairwise
from pathlib import Path

import vapoursynth as vs

from vsexvc.film.encode import Encoding, find_ffmpeg, input_arguments, merged
from vsexvc.film.parts import script_output
from vsexvc.support.errors import first_line

_IN_Y4M = ("-f", "-pixel_format", "-video_size", "-framerate")  # options whose values the stream itself states


def line(script: Path, out: Path, encoding: Encoding) -> str:
    """Return the command line, for a shell.

    Args:
        script: its output 0 is encoded. This function runs the script and requests its first frame.
        out: the file that ffmpeg will write.
        encoding: the encoder's settings.

    Raises:
        OSError, ValueError: the script cannot be run, or its output cannot be written as Y4M.
    """
    if script.suffix.lower() != ".vpy":
        raise ValueError(f"SCRIPT must be a script for VapourSynth, *.vpy, got {str(script)!r}")
    encoding = encoding.resolved().fitted(out.suffix.lower())
    clip = script_output(script.absolute(), script.read_bytes())
    try:
        with clip.get_frame(0) as frame:
            told = input_arguments(clip, frame, encoding.keeps_range)
    except vs.Error as error:
        raise ValueError(f"frame 0 cannot be read: {first_line(error)}") from None
    given, behind = told[: told.index("-i")], told[told.index("-i") + 2 :]
    stated = [word for pair in list(pairwise(given))[::2] if pair[0] not in _IN_Y4M for word in pair]
    ffmpeg = "ffmpeg" if shutil.which("ffmpeg") else find_ffmpeg()
    words = [ffmpeg, "-f", "yuv4mpegpipe", *stated, "-i", "-", *merged(behind, encoding.arguments())]
    return f"{shlex.join(['vspipe', '-c', 'y4m', _named(script), '-'])} | {shlex.join([*words, _named(out)])}"


def _named(file: Path) -> str:
    """Return a file's name such that a program takes it neither for an option nor, up to a colon, for a protocol."""
    name = str(file)
    return os.path.join(".", name) if name.startswith("-") or (":" in name and not file.is_absolute()) else name  # noqa: PTH118

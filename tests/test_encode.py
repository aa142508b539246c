"""Test encode.py: ffmpeg's arguments, and what a part states about its picture."""

from __future__ import annotations

import subprocess
from concurrent.futures import Future, ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import vapoursynth as vs

from vsexvc.film import encode as module
from vsexvc.film.encode import Encoding, encode, input_arguments

CLIP = vs.core.std.BlankClip(format=vs.YUV420P8, width=64, height=48, length=3).std.SetFrameProps(
    _SARNum=16, _SARDen=11
)


@pytest.mark.parametrize(
    ("extra", "shape"),
    [
        ("", Fraction(16, 11)),
        ("-vf hqdn3d", Fraction(16, 11)),
        ("-filter:v hqdn3d", Fraction(16, 11)),
        ("-vf scale=128:48", Fraction(8, 11)),  # a scaled picture keeps the shape of the screen
        ("-vf setsar=2/1", Fraction(2)),
        ("-filter_complex hqdn3d", Fraction(16, 11)),
        ("-filter_complex [0:v]split[a][b];[a][b]hstack", Fraction(16, 11)),
        ("-lavfi [0:v]hqdn3d[a];[0]null[b];[a][b]vstack", Fraction(16, 11)),
        ("-aspect 16:9", Fraction(4, 3)),
    ],
)
def test_filters_leave_the_shape_of_pixels(tmp_path: Path, extra: str, shape: Fraction) -> None:
    arguments = input_arguments(CLIP, CLIP.get_frame(0))
    encoding = Encoding(preset="ultrafast", extra=tuple(extra.split())).resolved()
    encode(CLIP.frames(close=True), arguments, encoding, tmp_path / "part.mkv")
    with av.open(str(tmp_path / "part.mkv")) as file:
        ratio = file.streams.video[0].sample_aspect_ratio
        assert Fraction(ratio.numerator, ratio.denominator) == shape


@pytest.mark.parametrize(
    ("codec", "pixels", "container", "kept"),
    [
        ("ffv1", vs.YUV420P8, ".mkv", True),
        ("ffv1", vs.YUV444P10, ".mkv", True),
        ("utvideo", vs.YUV420P8, ".mkv", True),
        ("ffvhuff", vs.YUV420P8, ".mkv", True),
        ("huffyuv", vs.YUV422P8, ".mkv", True),
        ("magicyuv", vs.YUV420P8, ".mkv", True),
        ("ffv1", vs.YUV420P8, ".avi", False),  # AVI cannot state the range
        ("ffv1", vs.GRAY8, ".mkv", True),
    ],
)
def test_lossless_codecs_keep_full_range(tmp_path: Path, codec: str, pixels: int, container: str, kept: bool) -> None:
    """The samples are bit for bit those of the clip, and the file states full range, if the container can."""

    def ramp(n: int, f: vs.VideoFrame) -> vs.VideoFrame:
        frame = f.copy()
        highest = (1 << f.format.bits_per_sample) - 1
        np.asarray(frame[0])[:] = np.linspace(0, highest, 64).astype(int)
        return frame

    blank = CLIP.std.BlankClip(format=pixels, length=1).std.SetFrameProps(_Range=1)
    source, part = blank.std.ModifyFrame(blank, ramp), tmp_path / "part.mkv"
    encoding = Encoding(codec).resolved().fitted(container)
    encode(
        source.frames(close=True), input_arguments(source, source.get_frame(0), encoding.keeps_range), encoding, part
    )
    with av.open(str(part)) as file:
        assert file.streams.video[0].codec_context.color_range == (2 if kept else 1)
        plane = next(file.decode(video=0)).planes[0]
    own = np.asarray(source.get_frame(0)[0])
    row = np.frombuffer(plane, own.dtype)[:64]
    assert np.array_equal(row, own[0]) == kept


def test_ctrl_c_while_ffmpeg_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python raises it between any two steps: here once the start has been handed over, before it is known there."""
    started: list[subprocess.Popen[bytes]] = []

    class Interrupted(ThreadPoolExecutor):
        def submit(self, function: Any, /, *arguments: Any, **named: Any) -> Future[Any]:
            future = super().submit(function, *arguments, **named)
            if function is not int:
                raise KeyboardInterrupt
            return future

    def noted(*arguments: Any, **named: Any) -> subprocess.Popen[bytes]:
        started.append(Popen(*arguments, **named))
        return started[-1]

    Popen = subprocess.Popen
    monkeypatch.setattr(module, "ThreadPoolExecutor", Interrupted)
    monkeypatch.setattr(subprocess, "Popen", noted)
    target = tmp_path / "part.mkv"
    with pytest.raises(KeyboardInterrupt):
        encode(CLIP.frames(close=True), input_arguments(CLIP, CLIP.get_frame(0)), Encoding().resolved(), target)
    (process,) = started
    assert process.poll() is not None and not target.exists()

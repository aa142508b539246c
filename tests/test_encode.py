"""encode.py: what ffmpeg is told, and what a part says of itself."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import pytest
import vapoursynth as vs

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

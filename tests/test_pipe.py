"""Test film/pipe.py: a shell runs the printed line, and the file has the script's tags."""

from __future__ import annotations

import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import pytest

from vsexvc.__main__ import main

PROPS = {
    # matrix, transfer, primaries, range (of ffmpeg: 1 limited, 2 full), shape of pixels, chroma location
    "YUV420P8": (1, 1, 1, 2, (16, 15), 2),
    "YUV422P10": (9, 14, 9, 1, (1, 1), 0),
    "GRAY8": (6, 6, 6, 2, (64, 45), 0),
}


@pytest.mark.parametrize("format", list(PROPS))
def test_tags_survive_the_pipe(
    tmp_path: Path, format: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    matrix, transfer, primaries, color_range, shape, location = PROPS[format]
    script = tmp_path / "a film.vpy"
    script.write_text(
        "import vapoursynth as vs\n"
        f"clip = vs.core.std.BlankClip(format=vs.{format}, width=96, height=64, length=3, fpsnum=24000, fpsden=1001)\n"
        f"clip.std.SetFrameProps(_Matrix={matrix}, _Transfer={transfer}, _Primaries={primaries}, "
        f"_Range={color_range - 1}, _SARNum={shape[0]}, _SARDen={shape[1]}, _ChromaLocation={location}).set_output()\n"
    )
    monkeypatch.chdir(tmp_path)
    assert main(["pipe", script.name, "-o", "made of it.mkv", "--ffmpeg-args=-vf scale=48:64", "--crf", "20"]) == 0
    line = capsys.readouterr().out.strip()
    assert "\n" not in line and "-crf 20" in line
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    subprocess.run(["bash", "-o", "pipefail", "-c", line], check=True, env={**os.environ, "PATH": path})
    with av.open("made of it.mkv") as file:
        stream = file.streams.video[0]
        frame = next(file.decode(stream))
        seen = (frame.colorspace, frame.color_trc, frame.color_primaries, frame.color_range)
        # ffmpeg's filters drop the matrix of a grey picture.
        assert seen == (2 if format == "GRAY8" else matrix, transfer, primaries, color_range)
        assert stream.average_rate == Fraction(24000, 1001) and (frame.width, frame.height) == (48, 64)
        # The picture was scaled to half its width.
        assert stream.sample_aspect_ratio == 2 * Fraction(*shape)


def test_what_is_no_script_for_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "rgb.vpy"
    script.write_text("import vapoursynth as vs\nvs.core.std.BlankClip(format=vs.RGB24, length=1).set_output()\n")
    for name, words in ((script, "output 0 must be YUV or GRAY of integers"), (tmp_path / "a.mkv", "SCRIPT must be")):
        assert main(["pipe", str(name)]) == 1
        out, err = capsys.readouterr()
        assert out == "" and words in err and err.count("\n") == 1


def test_names_that_look_like_something_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """ffmpeg takes `Film: part 1.mkv` for a protocol and `-1.mkv` for an option."""
    monkeypatch.chdir(tmp_path)
    made = (
        "import vapoursynth as vs\nvs.core.std.BlankClip(format=vs.GRAY8, width=96, height=64, length=3).set_output()\n"
    )
    Path("-a.vpy").write_text(made)
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    for out in ("Film: part 1.mkv", "-1.mkv"):
        assert main(["pipe", f"-o={out}", "--", "-a.vpy"]) == 0
        line = capsys.readouterr().out.strip()
        subprocess.run(["bash", "-o", "pipefail", "-c", line], check=True, env={**os.environ, "PATH": path})
        assert (tmp_path / out).stat().st_size > 300

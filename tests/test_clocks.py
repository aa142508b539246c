"""Test unusual times of films and sound: a last frame of another duration, clocks that go back."""

from __future__ import annotations

import subprocess
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import pytest
from film import make_film, make_png

from vsexvc.__main__ import main
from vsexvc.film.encode import find_ffmpeg
from vsexvc.film.join import Clock, Other
from vsexvc.film.source import open_video
from vsexvc.film.times import Times, check_whole, film_times


def arguments(model: str, folder: Path) -> list[str]:
    colours = ["--ref", str(make_png(folder / "0.png", 0)), "--model", model, "--size", "64", "--threads", "1"]
    return [*colours, "--preset", "ultrafast"]


def test_the_last_frame_of_a_variable_rate(model: str, tmp_path: Path) -> None:
    made, film, out = (tmp_path / name for name in ("made.mp4", "film.mp4", "out.mp4"))
    codec = ("-c:v", "libx264", "-qp", "0", "-bf", "0", "-pix_fmt", "yuv420p")
    make_film(made, (8,), sound=0, codec=codec, filters="setpts=N*(N+3)/48/TB", options=("-fps_mode", "passthrough"))
    with av.open(str(made)) as source, av.open(str(film), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        packets = [packet for packet in source.demux(video=0) if packet.size]
        for number, packet in enumerate(packets):
            packet.stream = stream
            if number == len(packets) - 1:
                packet.duration = round(Fraction(3, 2) / packet.time_base)
            target.mux(packet)
    open_video(film, tmp_path / "index")
    times = film_times(film, tmp_path / "index")
    assert times.rate is None and times.last == pytest.approx(1.5)
    assert main(["render", str(film), "-o", str(out), *arguments(model, tmp_path)]) == 0
    with av.open(str(out)) as file:
        *_, last = (packet for packet in file.demux(video=0) if packet.size)
        assert float(last.duration * last.time_base) == pytest.approx(1.5, abs=1e-3)


@pytest.mark.parametrize(("container", "late"), [("vob", 0.34), ("vob", 0), ("mpg", 0.34), ("ts", 0.34), ("avi", 0)])
def test_a_picture_that_starts_after_the_sound(tmp_path: Path, container: str, late: float) -> None:
    """The picture keeps its delay, also in a program stream, where not every frame states its time."""
    inputs = [(tmp_path / name, words) for name, words in (("v.m2v", "testsrc2=d=0.5"), ("a.mp2", "sine=d=1"))]
    for path, words in inputs:
        made = ["-f", "lavfi", "-i", words, "-r", "25", "-s", "96x64", "-bf", "2"] if path.suffix == ".m2v" else []
        made = made or ["-f", "lavfi", "-i", words]
        subprocess.run([find_ffmpeg(), "-loglevel", "error", *made, str(path)], check=True)
    film = tmp_path / f"film.{container}"
    delayed = [
        "-itsoffset",
        str(late),
        "-fflags",
        "+genpts",
        "-r",
        "25",
        "-i",
        str(inputs[0][0]),
        "-i",
        str(inputs[1][0]),
    ]
    copied = ["-map", "0", "-map", "1", "-c", "copy", str(film)]
    subprocess.run([find_ffmpeg(), "-loglevel", "error", *delayed, *copied], check=True)
    with av.open(str(film)) as file:
        starts = [stream.start_time * stream.time_base for stream in (file.streams.video[0], file.streams.audio[0])]
        between = float(starts[0] - starts[1])
    open_video(film, tmp_path / "index")
    times = film_times(film, tmp_path / "index")
    assert times.rate == 25 and float(times.stamps[0] * times.base) == pytest.approx(max(0, between), abs=1e-4)
    assert between == pytest.approx(late, abs=0.05)


@pytest.mark.parametrize("container", ["mkv", "mp4"])
def test_sound_whose_clock_begins_anew(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], container: str
) -> None:
    """The second of two recordings in one file follows the first, and a notice says so."""
    make_film(tmp_path / "film.mkv", (10,), sound=0)
    tone = ["-f", "lavfi", "-i", "sine=d=2", "-c:a", "mp2", str(tmp_path / "a.ts")]
    subprocess.run([find_ffmpeg(), "-loglevel", "error", *tone], check=True)
    (tmp_path / "aa.ts").write_bytes(2 * (tmp_path / "a.ts").read_bytes())
    out = tmp_path / f"out.{container}"
    given = ["-o", str(out), "--sound", str(tmp_path / "aa.ts"), *arguments(model, tmp_path)]
    assert main(["render", str(tmp_path / "film.mkv"), *given]) == 0
    assert "(audio) of aa.ts: its clock goes back by" in capsys.readouterr().err
    with av.open(str(out)) as file:
        times = [float(p.pts * p.time_base) for p in file.demux(audio=0) if p.size]
    steps = [b - a for a, b in pairwise(times)]
    assert times[-1] == pytest.approx(4, abs=0.1) and max(steps) < 0.03 and min(steps) > 0.02


def test_a_clock_that_goes_back_a_little(tmp_path: Path) -> None:
    make_film(tmp_path / "film.mkv", (3,))
    other = Other(tmp_path / "film.mkv")
    clock, seen = Clock(other, "stream 1 (audio)"), []
    for dts in (0, 24, 20, 48, 48, 72):
        packet = av.Packet(4)
        packet.dts, packet.pts, packet.duration, packet.time_base = dts, dts, 24, Fraction(1, 1000)
        clock.set_right(packet)
        seen.append((packet.dts, packet.pts))
    assert seen == [(n, n) for n in (0, 24, 25, 48, 48, 72)] and other.jumps == []


def test_sound_that_starts_later_than_a_script(tmp_path: Path) -> None:
    """The sound keeps its delay, although no picture in its file shows where zero is."""
    script, sound, out = (tmp_path / name for name in ("film.vpy", "sound.mka", "out.mkv"))
    script.write_text(
        "import vapoursynth as vs\n"
        "vs.core.std.BlankClip(format=vs.YUV420P8, width=64, height=48, length=48, fpsnum=24, fpsden=1).set_output()\n"
    )
    tone = ["-f", "lavfi", "-i", "sine=d=1", "-c:a", "flac", "-output_ts_offset", "0.75", str(sound)]
    subprocess.run([find_ffmpeg(), "-loglevel", "error", *tone], check=True)
    assert main(["render", str(script), "-o", str(out), "--sound", str(sound), "--threads", "1"]) == 0
    firsts = []
    for kind in ("video", "audio"):
        with av.open(str(out)) as file:
            packet = next(p for p in file.demux(**{kind: 0}) if p.size)
            firsts.append(float(packet.pts * packet.time_base))
    assert firsts == pytest.approx([0, 0.75], abs=0.002)


def test_a_duration_in_other_words(tmp_path: Path) -> None:
    """Matroska's tag DURATION holds h:m:s; that of another container may hold anything."""
    make_film(tmp_path / "film.mkv", (10,), sound=0)
    command = [find_ffmpeg(), "-loglevel", "error", "-i", str(tmp_path / "film.mkv"), "-c", "copy"]
    subprocess.run([*command, "-metadata:s:v", "DURATION=5400", str(tmp_path / "film.nut")], check=True)
    with av.open(str(tmp_path / "film.nut")) as file:
        assert file.streams.video[0].metadata["DURATION"] == "5400"
    assert check_whole(tmp_path / "film.nut", Times(range(10), Fraction(1, 24), Fraction(24))) is None

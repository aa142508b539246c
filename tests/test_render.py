"""Test whole films: what is kept of the source, runs that continue after any stop, and equal bytes."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import pytest
import vapoursynth as vs
from film import HEIGHT, RATE, WIDTH, decoded, make_film, make_png, sound_of
from hypothesis import given
from hypothesis import strategies as st

from vsexvc.__main__ import main
from vsexvc.film import render
from vsexvc.film.encode import find_ffmpeg
from vsexvc.film.takes import LEAST, parts_of
from vsexvc.film.times import later, script_times

ROOT = Path(__file__).resolve().parents[1]
LENGTHS = (60, 50, 70, 20, 30)
FRAMES = sum(LENGTHS)
PARTS = [(0, 60), (60, 110), (110, 180), (180, 230)]  # the last two scenes are one part
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write film.mkv with streams of all kinds, and references of its first three scenes."""
    root = tmp_path_factory.mktemp("film")
    (root / "note.txt").write_text("A font would lie here.")
    make_film(root / "film.mkv", LENGTHS, sound=2, subtitles="srt", chapters=True, attachment=root / "note.txt")
    for seed in range(3):
        make_png(root / f"{seed}.png", seed)
    return root


@pytest.fixture
def arguments(folder: Path, model: str) -> list[str]:
    """Return the arguments of a quick rendering without -o."""
    references = [str(folder / f"{seed}.png") for seed in range(3)]
    colours = ["--ref", *references, "--model", model, "--size", "64", "--device", "cpu"]
    return ["render", str(folder / "film.mkv"), *colours, "--threads", "1", "--preset", "ultrafast"]


@pytest.fixture(scope="module")
def whole(folder: Path, model: str) -> bytes:
    """Return the bytes of an uninterrupted run; keep its working folder, whole.parts."""
    references = [str(folder / f"{seed}.png") for seed in range(3)]
    colours = ["--ref", *references, "--model", model, "--size", "64", "--device", "cpu"]
    quick = ["--threads", "1", "--preset", "ultrafast", "--work", str(folder / "whole.parts"), "--keep"]
    assert main(["render", str(folder / "film.mkv"), "-o", str(folder / "whole.mkv"), *colours, *quick]) == 0
    return (folder / "whole.mkv").read_bytes()


@pytest.fixture
def work(folder: Path, whole: bytes, tmp_path: Path) -> Path:
    """Copy the working folder with all parts."""
    return Path(shutil.copytree(folder / "whole.parts", tmp_path / "work"))


def start(arguments: list[str], **options: Any) -> subprocess.Popen[str]:
    """Start a command that obeys Ctrl-C, even if the tests run in the background and ignore it."""

    def listen() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    command = [sys.executable, "-m", "vsexvc", *arguments, "--json"]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        cwd=ROOT,
        preexec_fn=listen,
        **options,
    )


def events(process: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    assert process.stdout is not None
    for line in process.stdout:
        yield json.loads(line)


def until(process: subprocess.Popen[str], **facts: Any) -> dict[str, Any]:
    """Wait for the event that has these facts."""
    seen = []
    for event in events(process):
        seen.append(event)
        if facts.items() <= event.items():
            return event
    assert process.stderr is not None
    pytest.fail(f"no {facts} in {seen}: {process.stderr.read()}")


def fails(capsys: pytest.CaptureFixture[str], arguments: list[str], *words: str) -> None:
    """Check that a command fails, and that its last line holds the words."""
    capsys.readouterr()
    assert main(arguments) == 1
    out, err = capsys.readouterr()
    *notices, line = err.splitlines()
    assert out == "" and all(notice.startswith("vsexvc: ") for notice in notices)
    assert line.startswith("python -m vsexvc: ") and all(word in line for word in words), line


def stamps(path: Path, stream: int = 0) -> list[Fraction]:
    """Return the times of a stream's packets in seconds."""
    with av.open(str(path)) as file:
        base = file.streams[stream].time_base
        ticks = sorted(p.pts for p in file.demux(file.streams[stream]) if p.pts is not None and p.size)
    return [Fraction(tick * base.numerator, base.denominator) for tick in ticks]


# --- the written file -------------------------------------------------------------------------------------------


def test_the_same_frames_as_through_the_pipe(folder: Path, model: str, tmp_path: Path) -> None:
    script = tmp_path / "film.vpy"
    script.write_text(
        "import vapoursynth as vs\ncore = vs.core\n"
        "def read(name):\n"
        f"    return core.bs.VideoSource(r'{folder}/' + name, cachepath=r'{tmp_path}', showprogress=False)\n"
        "refs = core.std.Splice([read(f'{seed}.png') for seed in range(3)])\n"
        f"core.exvc.Colorize(read('film.mkv'), refs, model=r'{model}', size=64, format=vs.YUV420P8).set_output()\n"
    )
    pipe = f"vspipe -c y4m {script} - | {find_ffmpeg()} -loglevel error -i - -c:v ffv1 {tmp_path}/pipe.mkv"
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    subprocess.run(["bash", "-o", "pipefail", "-c", pipe], check=True, env={**ENVIRONMENT, "PATH": path})
    expected = decoded(tmp_path / "pipe.mkv")
    references = [str(folder / f"{seed}.png") for seed in range(3)]
    lossless = ["--codec", "ffv1", "--threads", "1"]
    colours = ["--ref", *references, "--model", model, "--size", "64"]
    assert main(["render", str(folder / "film.mkv"), "-o", str(tmp_path / "a.mkv"), *lossless, *colours]) == 0
    assert decoded(tmp_path / "a.mkv") == expected and len(set(expected)) == FRAMES
    sound = ["--sound", str(folder / "film.mkv")]
    assert main(["render", str(script), "-o", str(tmp_path / "b.mkv"), *lossless, *sound]) == 0
    assert decoded(tmp_path / "b.mkv") == expected
    assert sound_of(tmp_path / "b.mkv") == sound_of(folder / "film.mkv")
    assert [round(float(time), 3) for time in stamps(tmp_path / "b.mkv")] == [
        round(float(time), 3) for time in stamps(folder / "film.mkv")
    ]


def test_everything_is_kept(folder: Path, whole: bytes) -> None:
    with av.open(str(folder / "film.mkv")) as film, av.open(str(folder / "whole.mkv")) as made:
        kinds = [(stream.type, stream.codec_context and stream.codec_context.name) for stream in made.streams]
        assert kinds == [
            ("video", "h264"),
            *[(s.type, s.codec_context and s.codec_context.name) for s in film.streams][1:],
        ]
        assert [stream.language for stream in made.streams] == [stream.language for stream in film.streams]
        assert made.metadata["title"] == film.metadata["title"] == "A film"
        chapters = [(c["start"] * c["time_base"], c["end"] * c["time_base"], c["metadata"]) for c in made.chapters()]
        assert chapters == [
            (c["start"] * c["time_base"], c["end"] * c["time_base"], c["metadata"]) for c in film.chapters()
        ]
        assert len(chapters) == 2
        assert made.streams[-1].data == b"A font would lie here."
        assert made.streams.video[0].average_rate == RATE
    for stream in range(4):
        assert stamps(folder / "whole.mkv", stream) == stamps(folder / "film.mkv", stream)
    assert sound_of(folder / "whole.mkv") == sound_of(folder / "film.mkv")
    assert len(decoded(folder / "whole.mkv")) == FRAMES


@pytest.mark.parametrize(("container", "pixels"), [("mkv", "yuv420p10le"), ("mp4", "yuv422p10le")])
def test_times_shape_and_tags(model: str, tmp_path: Path, container: str, pixels: str) -> None:
    """A film keeps 10 bits, a variable rate, sound that starts before the picture, the shape of pixels, and tags."""
    film, out = tmp_path / f"film.{container}", tmp_path / f"out.{container}"
    tags = "setparams=colorspace=bt2020nc:color_primaries=bt2020:color_trc=bt2020-10:range=pc"
    make_film(
        film,
        (30, 40),
        codec=("-c:v", "libx264", "-qp", "0", "-pix_fmt", pixels, "-c:a", "aac"),
        filters=f"scale=out_range=pc,setsar=16/15,{tags},setpts='PTS+(0.3+floor(N/7)*0.02)/TB'",
        options=("-fps_mode", "passthrough", "-chroma_sample_location", "topleft"),
    )
    reference = make_png(tmp_path / "0.png", 0)
    colours = ["--ref", str(reference), "--model", model, "--size", "64", "--threads", "1", "--preset", "ultrafast"]
    assert main(["render", str(film), "-o", str(out), *colours]) == 0
    assert sound_of(out) == sound_of(film)
    close = 1e-3 if container == "mkv" else 1e-4
    late = [[float(time - stamps(path, 1)[0]) for time in stamps(path)] for path in (film, out)]
    assert late[0][0] > 0.25 and late[1] == pytest.approx(late[0], abs=close)
    assert len({round(b - a, 3) for a, b in pairwise(late[0])}) > 1
    with av.open(str(out)) as file:
        picture = file.streams.video[0]
        context = picture.codec_context
        assert context.format.name == pixels and picture.sample_aspect_ratio == Fraction(16, 15)
        assert (context.colorspace, context.color_primaries, context.color_trc, context.color_range) == (9, 9, 14, 2)
        frame = next(file.decode(video=0))
        assert (frame.colorspace, frame.color_primaries, frame.color_trc, frame.color_range) == (9, 9, 14, 2)
    if pixels == "yuv420p10le":  # H.264 states no chroma location of other formats
        clip = vs.core.bs.VideoSource(str(out), cachepath=str(tmp_path), showprogress=False)
        assert clip.get_frame(0).props["_ChromaLocation"] == vs.CHROMA_TOP_LEFT


def test_a_recording_begins_at_nought(model: str, tmp_path: Path) -> None:
    """A recording without sound starts at zero, although its clock starts anywhere."""
    film, out = tmp_path / "film.ts", tmp_path / "out.mkv"
    make_film(film, (30,), sound=0, codec=("-c:v", "mpeg2video", "-qscale:v", "1", "-pix_fmt", "yuv420p"))
    colours = ["--ref", str(make_png(tmp_path / "0.png", 0)), "--model", model, "--size", "64", "--threads", "1"]
    assert main(["render", str(film), "-o", str(out), *colours]) == 0
    assert stamps(film)[0] > 1 and stamps(out)[0] < 0.1
    assert [float(b - a) for a, b in pairwise(stamps(out))] == pytest.approx([1 / RATE] * 29, abs=2e-3)


def test_frames_without_times(model: str, tmp_path: Path) -> None:
    """The rate gives the times of frames in AVI, which stores none."""
    film, out = tmp_path / "film.avi", tmp_path / "out.mkv"
    make_film(film, (30,), codec=("-c:v", "mpeg4", "-bf", "2", "-pix_fmt", "yuv420p", "-c:a", "mp3"))
    colours = ["--ref", str(make_png(tmp_path / "0.png", 0)), "--model", model, "--size", "64", "--threads", "1"]
    assert main(["render", str(film), "-o", str(out), *colours]) == 0
    assert [float(time) for time in stamps(out)] == pytest.approx([n / RATE for n in range(30)], abs=1e-3)
    assert sound_of(out) == sound_of(film)


def test_sound_of_another_clock(model: str, tmp_path: Path) -> None:
    """Film and sound from two files both start at zero, also if one is a recording."""
    h264 = ("-c:v", "libx264", "-qp", "0", "-pix_fmt", "yuv420p", "-c:a", "aac")
    make_film(tmp_path / "a.ts", (30,), codec=h264, options=("-output_ts_offset", "3000"))
    make_film(tmp_path / "b.mkv", (30,), codec=h264)
    colours = ["--ref", str(make_png(tmp_path / "0.png", 0)), "--model", model, "--size", "64", "--threads", "1"]
    for film, sound in (("a.ts", "b.mkv"), ("b.mkv", "a.ts")):
        out = tmp_path / f"{film}.mkv"
        assert main(["render", f"{tmp_path}/{film}", "-o", str(out), *colours, "--sound", f"{tmp_path}/{sound}"]) == 0
        assert abs(float(stamps(out)[0] - stamps(out, 1)[0])) < 0.1  # a frame of sound, and the encoder's delay


def test_names_like_protocols(
    folder: Path, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(folder / "film.mkv", "Film: 100% 'one'.mkv")
    command, _, *rest = arguments
    names = ["Film: 100% 'one'.mkv", "-o", "out: %d.mkv", "--sound", "Film: 100% 'one'.mkv"]
    assert main([command, *names, *rest]) == 0
    assert len(decoded(tmp_path / "out: %d.mkv")) == FRAMES and sound_of(tmp_path / "out: %d.mkv")


@pytest.mark.parametrize(("film", "out"), [("mp4", "mp4"), ("mp4", "mkv"), ("mkv", "mkv"), ("mkv", "mp4")])
def test_covers(model: str, tmp_path: Path, film: str, out: str) -> None:
    """Covers are kept between containers that store them as attachments and as streams."""
    cover, plain, source = make_png(tmp_path / "0.png", 0), tmp_path / "plain.mkv", tmp_path / f"film.{film}"
    make_film(plain, (5,), codec=("-c:v", "mpeg4", "-pix_fmt", "yuv420p", "-c:a", "aac"))
    given = ["-i", str(cover), "-map", "0", "-map", "1", "-disposition:v:1", "attached_pic"]
    if film == "mkv":
        given = ["-attach", str(cover), "-metadata:s:t", "mimetype=image/png", "-metadata:s:t", "filename=front.png"]
    run = [find_ffmpeg(), "-loglevel", "error", "-i", str(plain), *given, "-c", "copy", str(source)]
    subprocess.run(run, check=True)
    colours = ["--ref", str(cover), "--model", model, "--size", "64", "--threads", "1"]
    assert main(["render", str(source), "-o", f"{tmp_path}/out.{out}", *colours]) == 0
    with av.open(f"{tmp_path}/out.{out}") as file:
        (kept,) = (s for s in file.streams.video if s.disposition & av.stream.Disposition.attached_pic)
        assert kept.metadata.get("filename") == (
            {"mp4": "cover.png", "mkv": "front.png"}[film] if out == "mkv" else None
        )
        assert [bytes(packet) for packet in file.demux(kept) if packet.size] == [cover.read_bytes()]


def test_what_goes_nowhere_is_said(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Notices name lost data streams, and a shape of pixels that container and codec cannot state."""
    plain, film = tmp_path / "plain.ts", tmp_path / "film.ts"
    own = ("-c:v", "libx264", "-qp", "0", "-pix_fmt", "yuv420p", "-c:a", "libopus")
    make_film(plain, (5,), codec=own, filters="setsar=16/11")
    (tmp_path / "data").write_bytes(bytes(100))
    data = ["-f", "data", "-i", f"{tmp_path}/data", "-map", "0", "-map", "1", "-c", "copy"]
    subprocess.run([find_ffmpeg(), "-loglevel", "error", "-i", str(plain), *data, str(film)], check=True)
    colours = ["--ref", str(make_png(tmp_path / "0.png", 0)), "--model", model, "--size", "64", "--threads", "1"]
    silent = tmp_path / "silent.mkv"
    make_film(silent, (5,), sound=0, codec=own[:6], filters="setsar=16/11")
    for out, source, codec, is_kept in (
        ("a.mkv", film, "libvpx-vp9", True),
        ("b.mp4", film, "libvpx-vp9", True),
        ("c.flv", silent, "flv", False),
    ):
        assert main(["render", str(source), "-o", f"{tmp_path}/{out}", *colours, "--codec", codec]) == 0
        said = capsys.readouterr().err
        assert ("left out: stream 2 of film.ts (data, no codec)" in said) == (source == film)
        assert ("left out: that pixels are 16:11, which flv does not hold with flv" in said) != is_kept
        shown = vs.core.bs.VideoSource(f"{tmp_path}/{out}", cachepath=str(tmp_path), showprogress=False).get_frame(0)
        assert (shown.props.get("_SARNum"), shown.props.get("_SARDen")) == ((16, 11) if is_kept else (None, None))


def test_one_frame(model: str, tmp_path: Path) -> None:
    """A film of one frame lasts one frame of its rate."""
    make_film(tmp_path / "film.mp4", (1,), sound=0, codec=("-c:v", "libx264", "-qp", "0", "-pix_fmt", "yuv420p"))
    colours = ["--ref", str(make_png(tmp_path / "0.png", 0)), "--model", model, "--size", "64", "--threads", "1"]
    assert main(["render", f"{tmp_path}/film.mp4", "-o", f"{tmp_path}/out.mp4", *colours]) == 0
    with av.open(f"{tmp_path}/out.mp4") as file:
        assert file.streams.video[0].average_rate == RATE and file.duration == pytest.approx(1e6 / RATE, abs=1)


def test_a_plan(
    folder: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan's scenes are the cuts, and each scene is as in a film of its own."""
    monkeypatch.setenv("VSEXVC_CACHE", str(tmp_path / "cache"))
    plan, out, film = tmp_path / "plan.toml", tmp_path / "out.mkv", str(folder / "film.mkv")
    assert main(["scenes", film, "-o", str(plan), "--sheet", str(tmp_path / "sheet.png")]) == 0
    listed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [(int(line[1]), int(line[2])) for line in listed] == list(zip((0, 60, 110, 180, 200), LENGTHS, strict=True))
    assert (tmp_path / "sheet.png").stat().st_size > 1000
    head, *scenes = plan.read_text().split("[[scene]]")
    chosen = [f'reference = "{folder}/{seed}.png"' if seed is not None else "" for seed in (2, None, 1, 0)]
    made = [scene.replace('reference = ""', text) for scene, text in zip(scenes[:4], chosen, strict=True)]
    plan.write_text("[[scene]]".join([head, *made]))
    colours = ["--plan", str(plan), "--model", model, "--size", "64", "--device", "cpu", "--threads", "1"]
    assert main(["render", film, "-o", str(out), *colours, "--codec", "ffv1"]) == 0

    def read(path: str | Path) -> vs.VideoNode:
        return vs.core.bs.VideoSource(str(path), cachepath=str(tmp_path), showprogress=False)

    coloured = read(out)
    for first, stop, seed in ((0, 60, 2), (60, 110, 2), (110, 180, 1), (180, 230, 0)):
        alone = vs.core.exvc.Colorize(
            read(film)[first:stop], read(folder / f"{seed}.png"), model=model, size=64, sc=False, format=vs.YUV420P8
        )
        for n in (0, 1, stop - first - 1):
            with alone.get_frame(n) as expected, coloured.get_frame(first + n) as frame:
                assert all(bytes(frame[plane]) == bytes(expected[plane]) for plane in range(3)), first + n


# --- continued runs ---------------------------------------------------------------------------------------------


def test_killed_again_and_again(arguments: list[str], whole: bytes, tmp_path: Path) -> None:
    out = tmp_path / "out.mkv"
    stops = [
        {"stage": "finding scenes"},
        {"event": "part", "part": 0},
        {"event": "part", "part": 2},
        {"stage": "joining"},
    ]
    for number, stop in enumerate(stops):
        process = start([*arguments, "-o", str(out)])
        if number == 2:
            assert until(process, event="start")["done"] == 60
        until(process, **stop)
        process.kill()
        process.communicate()
        assert not out.exists()
    process = start([*arguments, "-o", str(out)])
    assert until(process, event="start")["done"] == FRAMES
    assert process.communicate()[1] == "" and process.returncode == 0
    assert out.read_bytes() == whole
    assert [path.name for path in tmp_path.iterdir()] == ["out.mkv"]


def test_ctrl_c(arguments: list[str], whole: bytes, tmp_path: Path) -> None:
    out = tmp_path / "out.mkv"
    process = start([*arguments, "-o", str(out)])
    until(process, event="part", part=1)
    process.send_signal(signal.SIGINT)
    said = process.communicate()
    assert process.returncode == 130
    assert said[1].splitlines()[-1].endswith("stopped: what is finished is kept, the same command resumes")
    assert not [path for path in (tmp_path / "out.mkv.parts").iterdir() if path.suffix == ".part"]
    assert main([*arguments, "-o", str(out)]) == 0
    assert out.read_bytes() == whole


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone", "no record", "half a record"])
def test_a_damaged_part_is_made_again(
    arguments: list[str], whole: bytes, work: Path, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    part, record = work / "000001.mkv", work / "000001.json"
    content = part.read_bytes()
    if damage == "flipped":
        part.write_bytes(content[:-50] + bytes([content[-50] ^ 1]) + content[-49:])
    elif damage == "cut":
        part.write_bytes(content[: len(content) // 2])
    elif damage == "gone":
        part.unlink()
    elif damage == "no record":
        record.unlink()
    else:
        record.write_text(record.read_text()[:100])
    capsys.readouterr()
    assert main([*arguments, "-o", str(tmp_path / "out.mkv"), "--work", str(work), "--json"]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["part"] for event in told if event["event"] == "part"] == [1]
    assert (tmp_path / "out.mkv").read_bytes() == whole and not work.exists()


def test_another_argument_starts_over(
    arguments: list[str], work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["-o", str(tmp_path / "out.mkv"), "--work", str(work), "--json"]
    capsys.readouterr()
    assert main([*arguments, *common, "--crf", "30", "--saturation", "1.5"]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    (note,) = (event["text"] for event in told if event["event"] == "note" and "over" in event["text"])
    assert note == "starting over: the earlier run had another crf (16.0, now 30.0), saturation (1.0, now 1.5)"
    assert next(event for event in told if event["event"] == "start")["done"] == 0


def test_what_is_no_part_of_the_picture_starts_nothing_over(
    arguments: list[str], work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run continues under another name and container; without --threads it keeps its number of threads."""
    given = [word for word in arguments if word not in ("--threads", "1")]
    capsys.readouterr()
    assert main([*given, "-o", str(tmp_path / "other.mp4"), "--work", str(work)]) == 0
    said = capsys.readouterr().err
    assert "starting over" not in said and f"{FRAMES} frames of them are there" in said
    assert "left out: mp4 does not hold stream 4 of film.mkv (attachment, no codec)" in said
    assert len(decoded(tmp_path / "other.mp4")) == FRAMES
    with av.open(str(tmp_path / "other.mp4")) as file:
        assert [stream.codec_context.name for stream in file.streams.subtitles] == ["mov_text"]
    one, two = stamps(Path(arguments[1]), 3)  # with some versions of ffmpeg the film starts a little after its text
    assert stamps(tmp_path / "other.mp4", 3) == [0, one, one + Fraction(1, 2), two]  # a pause, One, a pause, Two


# --- clear errors -----------------------------------------------------------------------------------------------


def test_two_at_once(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    process = start([*arguments, "-o", str(tmp_path / "out.mkv")])
    until(process, event="start")
    try:
        fails(capsys, [*arguments, "-o", str(tmp_path / "out.mkv")], "another process renders in", "out.mkv.parts")
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--codec", "nonsense"], ["Unknown encoder 'nonsense'"]),
        (["--ffmpeg-args", "-nonsense 1"], ["Unrecognized option 'nonsense'"]),
        (["--pix-fmt", "rgb24"], ["--pix-fmt must be one of", "yuv420p10le", "'rgb24'"]),
        (["--size", "1"], ["size must be 64..1080, got 1"]),
        (["--model", "nonsense"], ["model must be one of"]),
        (["--ref", "nowhere.png"], ["'nowhere.png'"]),
        (["--plan", "nowhere.toml"], ["--ref or --plan, got both"]),
        (["--sound", "nowhere.mkv"], ["--sound must be a file", "nowhere.mkv"]),
        (["--work", "."], ["--work must be an empty folder", "pyproject.toml"]),
    ],
    ids=lambda value: value[0] if value[0].startswith("--") else "",
)
def test_wrong_arguments(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], extra: list[str], words: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").touch()
    fails(capsys, [*arguments, "-o", str(tmp_path / "out.mkv"), *extra], *words)
    assert not (tmp_path / "out.mkv").exists()


def test_wrong_names(folder: Path, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command, film, *rest = arguments
    out = str(tmp_path / "out.mkv")
    fails(capsys, [command, "nowhere.mkv", *rest, "-o", out], "IN must be a film or a script", "'nowhere.mkv'")
    fails(capsys, [command, str(folder / "note.txt"), *rest, "-o", out], "note.txt")
    fails(capsys, [command, film, "-o", out], "--ref or --plan, got neither")
    many = [command, film, "--ref", *[str(folder / "0.png")] * 65, "-o", out]
    fails(capsys, many, "--ref must be at most 64 frames in all, got 65: say in a plan")
    fails(capsys, [command, film, *rest, "-o", str(tmp_path / "out")], "--out must end in the name of a container")
    fails(capsys, [command, film, *rest, "-o", str(tmp_path / "out.nonsense")], "container", "got .nonsense")
    fails(capsys, [command, film, *rest, "-o", str(tmp_path / "no" / "out.mkv")], "--out must be in an existing folder")
    fails(capsys, [command, film, *rest, "-o", film], "--out must be a new file", "film.mkv")
    fails(capsys, [command, film, *rest, "-o", str(tmp_path / "out.webm")], "webm does not hold")


def wrapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: int, then: str) -> None:
    """Put an ffmpeg on PATH that works for `calls` encodings and then runs `then`. "$@": its arguments."""
    ffmpeg, here = find_ffmpeg(), tmp_path / "bin"
    here.mkdir()
    (here / "ffmpeg").write_text(
        f'#!/bin/bash\nif [ "$1" = -version ]; then exec {ffmpeg} "$@"; fi\n'
        f'echo >>{here}/calls; if [ $(wc -l <{here}/calls) -le {calls} ]; then exec {ffmpeg} "$@"; fi\n{then}\n'
    )
    (here / "ffmpeg").chmod(0o755)
    monkeypatch.setenv("PATH", f"{here}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.parametrize(
    ("then", "words"),
    [
        (
            "head -c 9999 >/dev/null; echo '[out#0 @ 0x1] the disk is on fire' >&2; exit 3",
            "ffmpeg: the disk is on fire",
        ),
        ("head -c 9999 >/dev/null; kill -9 $$", "ffmpeg: ended by signal 9"),
        ("cat >/dev/null; exit 3", "ffmpeg: ended with code 3"),
        ("yes | head -c 999999 >&2; cat >/dev/null; exit 1", "ffmpeg: y"),
        ('head -c 55296 | FFMPEG "$@"', "ffmpeg wrote 6 of 70 frames"),  # a grey frame of 96x64 has 9216 bytes in 4:2:0
    ],
    ids=["says why", "killed", "silent", "talkative", "too few"],
)
def test_ffmpeg_dies(
    arguments: list[str], whole: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str], then: str, words: str
) -> None:
    out = tmp_path / "out.mkv"
    with pytest.MonkeyPatch.context() as patch:
        wrapped(tmp_path, patch, 3, then.replace("FFMPEG", find_ffmpeg()))  # the rehearsal and two parts
        fails(capsys, [*arguments, "-o", str(out)], "frames 110 to 179", words)
    parts = tmp_path / "out.mkv.parts"
    assert sorted(path.name for path in parts.glob("0*")) == ["000000.json", "000000.mkv", "000001.json", "000001.mkv"]
    assert not out.exists()


@pytest.mark.parametrize(("full", "size"), [("for the parts", 400), ("for the film", 200)])
def test_the_disk_is_full(arguments: list[str], work: Path, tmp_path: Path, full: str, size: int) -> None:
    """A full disk, here a small file system in a namespace, gives a one-line error and leaves no unfinished film."""
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs a user namespace to mount in")
    small = tmp_path / "small"
    small.mkdir()
    place = ["-o", f"{small}/out.mkv", "--work", str(work)]
    if full == "for the parts":
        place = ["-o", f"{tmp_path}/out.mkv", "--work", f"{small}/work", "--codec", "ffv1", "--preset", ""]
    script = f'mount -t tmpfs -o size={size}k none {small} && "$@"; code=$?; ls -R {small}; exit $code'
    result = subprocess.run(
        ["unshare", "-rm", "bash", "-c", script, "-", sys.executable, "-m", "vsexvc", *arguments, *place],
        capture_output=True, text=True, env=ENVIRONMENT, cwd=ROOT, check=False,
    )  # fmt: skip
    assert result.returncode == 1
    assert "No space left on device" in result.stderr.splitlines()[-1]
    assert ("000000.mkv" in result.stdout) == (full == "for the parts") and ".joining" not in result.stdout
    assert (work / "000003.mkv").exists() and not list(tmp_path.glob("out*"))


def test_what_would_fail_at_the_end_fails_at_once(
    folder: Path, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = ["--work", str(tmp_path / "work")]
    fails(capsys, [*arguments, *work, "-o", f"{tmp_path}/{'a' * 245}.mkv"], "File name too long")
    make_film(tmp_path / "film.mkv", (60,), codec=("-c:v", "ffv1", "-pix_fmt", "gray", "-c:a", "aac"))
    command, _, *rest = arguments
    fails(
        capsys,
        [command, f"{tmp_path}/film.mkv", *rest, *work, "-o", f"{tmp_path}/out.avi"],
        "avi does not hold the audio (aac)",
    )
    assert not list((tmp_path / "work").glob("0*")) and not list(tmp_path.glob("*.avi"))


def test_nothing_begun_nothing_left(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong plan or a wrong manifest is refused; a plan without its picture leaves no working folder."""
    plan = tmp_path / "plan.toml"
    plan.write_text('source = "other.mkv"\nframes = 7\n[[scene]]\nfirst = 0\nreference = "0.png"\n')
    out, film = tmp_path / "out.mkv", arguments[1]
    fails(capsys, ["render", film, "-o", str(out), "--plan", str(plan)], "reference must be a file")
    assert not (tmp_path / "out.mkv.parts").exists()
    make_png(tmp_path / "0.png", 0)
    fails(capsys, ["render", film, "-o", str(out), "--plan", str(plan)], "got one of other.mkv with 7")
    work = tmp_path / "work"
    work.mkdir()
    (work / "manifest.json").write_text('{"asked": 5}')
    fails(capsys, [*arguments, "-o", str(out), "--work", str(work)], "manifest.json' must be a manifest", "remove it")


def test_the_reader_of_stdout_has_gone(folder: Path, tmp_path: Path) -> None:
    """A command ends silently when the reader of its stdout has gone, as with `| head`."""
    command = [sys.executable, "-m", "vsexvc", "scenes", str(folder / "film.mkv"), "--json"]
    reading, writing = os.pipe()
    os.close(reading)
    environment = {**ENVIRONMENT, "VSEXVC_CACHE": str(tmp_path)}
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, env=environment, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


def test_hevc_is_tagged_for_all_players(arguments: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    assert main([*arguments, "-o", str(out), "--codec", "libx265", "--ffmpeg-args=-x265-params log-level=none"]) == 0
    with av.open(str(out)) as file:
        assert file.streams.video[0].codec_context.codec_tag == "hvc1"


def test_two_clocks(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two recordings in one file are refused; the command that the error names mends the film."""
    codec = ("-c:v", "libx264", "-qp", "0", "-pix_fmt", "yuv420p", "-c:a", "aac")
    make_film(tmp_path / "one.ts", (50,), codec=codec)
    film, mended = tmp_path / "film.ts", tmp_path / "mended.mkv"
    film.write_bytes(2 * (tmp_path / "one.ts").read_bytes())
    colours = ["--ref", str(make_png(tmp_path / "0.png", 0)), "--model", model, "--size", "64", "--threads", "1"]
    out = ["-o", f"{tmp_path}/out.mkv"]
    fails(capsys, ["render", str(film), *out, *colours], "one clock", "at frame 50", "by 2.0 s", "-c copy NEW.mkv")
    mend = [find_ffmpeg(), "-loglevel", "error", "-i", str(film), "-map", "0", "-c", "copy", str(mended)]
    subprocess.run(mend, check=True)
    assert main(["render", str(mended), *out, *colours]) == 0
    assert stamps(tmp_path / "out.mkv") == stamps(mended) and sound_of(tmp_path / "out.mkv") == sound_of(mended)


def test_a_film_that_is_not_whole(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    film = tmp_path / "film.mkv"
    make_film(film, (60, 60, 60), codec=("-c:v", "libx264", "-qp", "0", "-pix_fmt", "yuv420p", "-g", "12"))
    content = film.read_bytes()
    colours = ["--ref", str(make_png(tmp_path / "0.png", 0)), "--model", model, "--size", "64", "--threads", "1"]
    film.write_bytes(content[: len(content) * 6 // 10])
    fails(capsys, ["render", str(film), "-o", str(tmp_path / "a.mkv"), *colours], "must be whole, but", "of 7.5 s")
    third = len(content) // 3
    film.write_bytes(content[:third] + bytes(third) + content[2 * third :])
    assert main(["render", str(film), "-o", str(tmp_path / "b.mkv"), *colours]) == 0
    assert "film.mkv: there are no frames from" in capsys.readouterr().err
    assert max(b - a for a, b in pairwise(stamps(tmp_path / "b.mkv"))) > 1  # later frames keep their times


def test_a_frame_that_cannot_be_read(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(render, "SCRIPT_PART", 50)
    script = tmp_path / "film.vpy"
    text = (
        "import vapoursynth as vs\n"
        f"clip = vs.core.std.BlankClip(width={WIDTH}, height={HEIGHT}, format=vs.YUV420P8, length=130)\n"
        "def look(n, f):\n"
        "    if n == 77: raise ValueError('the reel is torn')\n"
        "    return f\n"
        "clip.std.ModifyFrame(clip, look).set_output()\n"
    )
    script.write_text(text)
    out = tmp_path / "out.mkv"
    fails(capsys, ["render", str(script), "-o", str(out)], "frames 50 to 99", "the reel is torn")
    assert (tmp_path / "out.mkv.parts" / "000000.mkv").exists() and not out.exists()
    script.write_text(text.replace("77", "777"))
    assert main(["render", str(script), "-o", str(out)]) == 0  # a changed script starts over
    assert len(decoded(out)) == 130


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import vapoursynth as vs\nraise RuntimeError('no')\n", ["line 2: RuntimeError: no"]),
        ("def f(:\n", ["SyntaxError"]),
        ("x = 1\n", ["must have a clip as its output 0"]),
        ("import vapoursynth as vs\nvs.core.std.BlankClip(format=vs.RGB24).set_output()\n", ["YUV or GRAY", "RGB24"]),
        (
            "import vapoursynth as vs\nclips = [vs.core.std.BlankClip(format=f) for f in (vs.YUV420P8, vs.YUV444P8)]\n"
            "vs.core.std.Splice(clips, mismatch=True).set_output()\n",
            ["YUV or GRAY", "got a clip of variable format"],
        ),
    ],
    ids=["raises", "syntax", "no output", "rgb", "several formats"],
)
def test_scripts_that_do_not_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, words: list[str]
) -> None:
    script = tmp_path / "film.vpy"
    script.write_text(text)
    fails(capsys, ["render", str(script), "-o", str(tmp_path / "out.mkv")], *words)


def test_a_script_is_run_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A script runs once, with its suffix in any case; the error for a *.py names the right suffix."""
    script, runs = tmp_path / "FILM.VPY", tmp_path / "runs"
    script.write_text(
        "import vapoursynth as vs\n"
        f"open(r'{runs}', 'a').write('x')\n"
        "vs.core.std.BlankClip(width=64, height=64, format=vs.YUV420P8, length=4).set_output()\n"
    )
    assert main(["render", str(script), "-o", str(tmp_path / "out.mkv"), "--threads", "1"]) == 0
    assert runs.read_text() == "x" and len(decoded(tmp_path / "out.mkv")) == 4
    other = script.rename(tmp_path / "film.py")
    fails(capsys, ["render", str(other), "-o", str(tmp_path / "b.mkv")], "film.py", "is named *.vpy")


def test_a_script_makes_its_own_colours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "film.vpy"
    script.touch()
    for extra in (["--ref", "a.png"], ["--plan", "a.toml"], ["--size", "64"], ["--no-sc"], ["--sc-threshold", "0.5"]):
        fails(capsys, ["render", str(script), "-o", str(tmp_path / "out.mkv"), *extra], "a script colours by itself")


def test_what_a_render_cannot_keep_is_said(
    folder: Path, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Notices name a script's alpha, frames flagged as interlaced, missing sound, and samples above 10 bits."""
    script, out = tmp_path / "film.vpy", str(tmp_path / "out.mkv")
    script.write_text(
        "import vapoursynth as vs\nclip = vs.core.std.BlankClip(width=64, height=64, format=vs.YUV420P8, length=2)\n"
        "clip.std.SetFieldBased(2).set_output(0, clip.std.ShufflePlanes(0, vs.GRAY))\n"
    )
    make_film(tmp_path / "silent.mkv", (4,), sound=0, codec=("-c:v", "ffv1", "-pix_fmt", "gray16le"))
    assert main(["render", str(script), "-o", out, "--sound", str(tmp_path / "silent.mkv")]) == 0
    said = capsys.readouterr().err
    assert "film.vpy outputs frames flagged as interlaced: the film is written as progressive" in said
    assert "left out: the alpha of output 0 of film.vpy" in said and "there is no sound in silent.mkv" in said
    render, _, *rest = arguments
    for extra, expected in (([], True), (["--pix-fmt", "yuv420p16le", "--codec", "ffv1"], False)):
        given = [render, str(tmp_path / "silent.mkv"), *rest, "-o", str(tmp_path / f"{expected}.mkv"), *extra]
        assert main(given) == 0
        assert ("changed: 16 bits a sample become 10" in capsys.readouterr().err) == expected


# --- many workers -----------------------------------------------------------------------------------------------


def test_two_workers_of_which_one_is_killed(arguments: list[str], whole: bytes, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    out = tmp_path / "out.mkv"
    process = start([*arguments, "-o", str(out), "--workers", "2"])
    first = until(process, event="part")
    os.kill(int(first["worker"].split(":")[1]), signal.SIGKILL)
    later = [event["part"] for event in events(process) if event["event"] == "part"]
    said = process.communicate()[1]
    assert process.returncode == 0 and all("raylet" in line for line in said.splitlines())
    assert sorted([first["part"], *later]) == [0, 1, 2, 3]
    assert out.read_bytes() == whole


def test_ray_is_looked_for_first(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing Ray is reported before the film is read, and no file is written."""
    command = [*arguments, "-o", str(tmp_path / "out.mkv")]
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "ray", None)
        fails(capsys, [*command, "--workers", "2"], "pip install vsexvc[ray]")
    pytest.importorskip("ray")
    wrong = f"--ray must be the address of a cluster, got '127.0.0.1:{port}': "
    fails(capsys, [*command, "--ray", f"127.0.0.1:{port}"], wrong, "refused")
    assert not list(tmp_path.iterdir())


# --- arithmetic -------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 200), min_size=1, max_size=30))
def test_parts_are_whole_scenes(lengths: list[int]) -> None:
    firsts = [sum(lengths[:n]) for n in range(len(lengths))]
    parts = parts_of(firsts, sum(lengths))
    assert parts[0][0] == 0 and parts[-1][1] == sum(lengths)
    assert all(stop == first for (_, stop), (first, _) in pairwise(parts))
    assert {first for first, _ in parts} <= set(firsts)
    assert all(stop - first >= LEAST for first, stop in parts) or parts == [(0, sum(lengths))]


def test_parts_of_the_film(folder: Path, whole: bytes) -> None:
    manifest = json.loads((folder / "whole.parts" / "manifest.json").read_text())
    assert manifest["firsts"] == [0, 60, 110, 180, 200]
    assert parts_of(manifest["firsts"], FRAMES) == PARTS


@pytest.mark.parametrize(
    ("rate", "durations", "expected"),
    [
        (Fraction(24), [], [0, Fraction(1, 24), Fraction(2, 24)]),
        (Fraction(24), [(42, 1000), (41, 1000), (42, 1000)], [0, Fraction(1, 24), Fraction(2, 24)]),  # rounded
        (Fraction(24), [(42, 1000), (80, 1000), (42, 1000)], [0, Fraction(42, 1000), Fraction(122, 1000)]),
        (None, [(1, 24), (1, 12), (1, 24)], [0, Fraction(1, 24), Fraction(1, 8)]),
    ],
    ids=["constant", "rounded", "variable", "no rate"],
)
def test_times_of_a_script(rate: Fraction | None, durations: list[tuple[int, int]], expected: list[Fraction]) -> None:
    times = script_times(rate, durations, 3)
    assert [float(stamp * times.base) for stamp in times.stamps] == pytest.approx(
        [float(x) for x in expected], abs=1e-6
    )


def test_a_script_that_does_not_say_when() -> None:
    with pytest.raises(ValueError, match="_DurationNum and _DurationDen"):
        script_times(None, [(0, 0)] * 3, 3)


# --- the trial --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_long_film(tmp_path: Path, model: str) -> None:
    """3,000 frames of 640x360 in 45 scenes are the same in six ways of rendering; prints the times (`-s` shows them).

    $VSEXVC_TRIAL="exvc-small 216" chooses another model and size.
    """
    pytest.importorskip("ray")
    folder, rng = tmp_path, random.Random(0)
    model, size = os.environ.get("VSEXVC_TRIAL", f"{model} 64").split()
    lengths = [rng.randint(50, 84) for _ in range(44)]
    lengths.append(max(50, 3000 - sum(lengths)))
    make_film(folder / "film.mkv", lengths, size=(640, 360), codec=("-c:v", "libx264", "-pix_fmt", "yuv420p"))
    references = [str(make_png(folder / f"{seed}.png", seed, 640, 360)) for seed in range(3)]
    colours = ["--ref", *references, "--model", model, "--size", size, "--threads", "1", "--device", "cpu"]
    command = ["render", str(folder / "film.mkv"), *colours, "--crf", "0", "--preset", "veryfast"]
    took: dict[str, float] = {}
    firsts: dict[str, float] = {}

    def timed(name: str, *extra: str, kill: Callable[[dict[str, Any]], None] = lambda event: None) -> None:
        began, at = time.monotonic(), 0.0
        process = start([*command, "-o", str(folder / f"{name}.mkv"), *extra])
        for event in events(process):
            if event["event"] == "start":
                at = time.monotonic()
            if event["event"] == "part":
                firsts.setdefault(name, time.monotonic() - at)
                kill(event)
        said = process.communicate()[1]
        assert process.returncode == 0, said
        took[name] = time.monotonic() - began

    script = folder / "film.vpy"
    script.write_text(
        "import vapoursynth as vs\ncore = vs.core\n"
        f"def read(path): return core.bs.VideoSource(path, cachepath=r'{folder}', showprogress=False)\n"
        f"refs = core.std.Splice([read(path) for path in {references}])\n"
        f"film = read(r'{folder}/film.mkv')\n"
        f"core.exvc.Colorize(film, refs, model=r'{model}', size={size}, device='cpu').set_output()\n"
    )
    encoder = f"-i {folder}/film.mkv -map 0:v -map 1:a -c:a copy -c:v libx264 -crf 0 -preset veryfast -threads 4"
    pipe = f"vspipe -c y4m {script} - | {find_ffmpeg()} -loglevel error -i - {encoder} {folder}/pipe.mkv"
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    began = time.monotonic()
    subprocess.run(["bash", "-o", "pipefail", "-c", pipe], check=True, env={**ENVIRONMENT, "PATH": path})
    took["pipe"] = time.monotonic() - began
    timed("one")
    kills = 0
    while kills < 5:
        process = start([*command, "-o", str(folder / "killed.mkv")])
        time.sleep(rng.uniform(0.05, 0.3) * took["one"])
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        kills += 1
    timed("killed")
    timed("ray one", "--workers", "1")
    timed("ray two", "--workers", "2")
    made: list[str] = []

    def kill_one(event: dict[str, Any]) -> None:
        made.append(event["worker"])
        if len(made) == 10:
            os.kill(int(made[-1].split(":")[1]), signal.SIGKILL)

    timed("ray lost", "--workers", "2", kill=kill_one)
    frames = decoded(folder / "pipe.mkv")
    assert len(frames) == sum(lengths) >= 3000
    bytes_of_one = (folder / "one.mkv").read_bytes()
    for name in ("one", "killed", "ray one", "ray two", "ray lost"):
        assert (folder / f"{name}.mkv").read_bytes() == bytes_of_one
    assert decoded(folder / "one.mkv") == frames
    assert sound_of(folder / "one.mkv") == sound_of(folder / "pipe.mkv") == sound_of(folder / "film.mkv")
    parts = len(made)
    ray = (took["ray one"] - firsts["ray one"]) - (took["one"] - firsts["one"])
    print(f"\n{sum(lengths)} frames, {len(lengths)} scenes, {parts} parts, network size {size}")
    print("\n".join(f"{name:10} {seconds:7.1f} s  {sum(lengths) / seconds:6.1f} fps" for name, seconds in took.items()))
    print(f"Ray: {firsts['ray one'] - firsts['one']:.1f} s until the first part, {1000 * ray / parts:.0f} ms a part")


def test_times_that_are_later() -> None:
    """Times can be moved by a fraction of their unit; a shift of zero returns them unchanged."""
    times = script_times(Fraction(24000, 1001), [], 4)
    moved = later(times, Fraction(3, 90000))
    expected = [Fraction(1001 * n, 24000) + Fraction(1, 30000) for n in range(4)]
    assert [stamp * moved.base for stamp in moved.stamps] == expected
    assert moved.rate == times.rate and later(times, Fraction(0)) is times

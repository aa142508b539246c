"""Test join.py: for each codec and container frames and tag are those of ffmpeg alone; and sound."""

from __future__ import annotations

import re
import subprocess
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import vapoursynth as vs
from film import decoded

from vsexvc.film.captions import has_captions
from vsexvc.film.container import Refused
from vsexvc.film.encode import Encoding, Part, encode, find_ffmpeg, input_arguments, seen
from vsexvc.film.join import Other, join
from vsexvc.film.rehearse import readable, tried
from vsexvc.film.times import Times

TIMES = Times(range(3), Fraction(1, 25), Fraction(25))
FORMATS = {
    "yuv420p": vs.YUV420P8,
    "yuv422p": vs.YUV422P8,
    "yuv444p": vs.YUV444P8,
    "yuv422p10le": vs.YUV422P10,
    "yuv444p10le": vs.YUV444P10,
}
HELD = {"mkv", "mov", "avi", "nut"}


def clip(pixels: str) -> vs.VideoNode:
    def draw(n: int, f: vs.VideoFrame) -> vs.VideoFrame:
        frame = f.copy()
        y, x = np.mgrid[:128, :256]
        for plane in range(3):
            np.copyto(
                np.asarray(frame[plane]), ((x * (plane + 1) + y * (3 - plane) + 9 * n) % 200 + 20).astype(np.uint8)
            )
        return frame

    blank = vs.core.std.BlankClip(format=vs.RGB24, width=256, height=128, length=3)
    return blank.std.ModifyFrame(blank, draw).resize.Bicubic(format=FORMATS[pixels], matrix=vs.MATRIX_BT709)


def ffmpeg(*words: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [find_ffmpeg(), "-loglevel", "error", "-y", *words]
    return subprocess.run(command, input=given, capture_output=True, check=False)


def tag(path: Path) -> str:
    """Return codec, profile and tag as ffmpeg lists them, without the colours."""
    said = subprocess.run([find_ffmpeg(), "-hide_banner", "-i", str(path)], capture_output=True, text=True).stderr
    found = re.search(r"Video: ([^,]*)", said)
    assert found is not None, said
    return found[1]


@pytest.mark.parametrize(
    ("codec", "pixels", "extra", "held"),
    [
        ("libx264", "yuv420p", "-bf 2", {"mkv", "mov", "mp4", "nut"}),
        ("libx264", "yuv444p", "-qp 0", {"mkv", "mov", "mp4", "nut"}),
        ("ffv1", "yuv420p", "", HELD | {"mp4"}),
        ("ffv1", "yuv444p10le", "-level 3", HELD | {"mp4"}),
        ("utvideo", "yuv420p", "", HELD),
        ("utvideo", "yuv444p", "", HELD),
        ("huffyuv", "yuv422p", "", HELD),
        ("ffvhuff", "yuv420p", "", HELD),
        ("magicyuv", "yuv422p", "", HELD),
        ("prores_ks", "yuv422p10le", "-profile:v 0", HELD),
        ("prores_ks", "yuv422p10le", "-profile:v 3", HELD),
        ("prores_ks", "yuv444p10le", "-profile:v 4", HELD),
        ("dnxhd", "yuv422p", "-profile:v dnxhr_hq", HELD),
        ("mjpeg", "yuv420p", "-color_range pc -strict -1", HELD | {"mp4"}),
        ("png", "yuv444p", "", HELD | {"mp4"}),
        ("v210", "yuv422p10le", "", HELD),
        ("rawvideo", "yuv420p", "", {"mkv", "avi", "nut"}),
        ("rawvideo", "yuv422p", "", {"mkv", "avi", "nut"}),
        ("rawvideo", "yuv444p10le", "", {"nut"}),
    ],
    ids=lambda value: "" if isinstance(value, set) else value,
)
def test_a_codec_in_all_containers(tmp_path: Path, codec: str, pixels: str, extra: str, held: set[str]) -> None:
    """Tag, profile and frames are those that ffmpeg writes alone; what could not be read again is refused."""
    source, part = clip(pixels), tmp_path / "part.mkv"
    encoding = Encoding(codec, extra=tuple(extra.split())).resolved()
    arguments = input_arguments(source, source.get_frame(0))
    encode(source.frames(close=True), arguments, encoding, part)
    raw = b"".join(bytes(chunk) for frame in source.frames(close=True) for chunk in frame.readchunks())
    frames, written = decoded(part), set()
    assert len(frames) == len(set(frames)) == 3
    for container in ("mkv", "mov", "mp4", "avi", "nut"):
        out, theirs = tmp_path / f"out.{container}", tmp_path / f"ffmpeg.{container}"
        try:
            join([(part, Part(seen(part), ""))], TIMES, None, out)
        except Refused:
            continue
        if readable(part) != readable(out):
            continue
        written.add(container)
        assert ffmpeg(*arguments, *encoding.arguments(), str(theirs), given=raw).returncode == 0
        assert decoded(out) == frames, container
        # Older versions of ffmpeg write a tag where Matroska has a name for the codec.
        assert tag(out) == tag(theirs) or (container == "mkv" and "(" not in tag(out)), container
    assert written == held


def test_raw_samples_in_the_order_of_mov(tmp_path: Path) -> None:
    source, part, out = clip("yuv422p"), tmp_path / "part.mkv", tmp_path / "out.mov"
    encoding = Encoding("rawvideo", pix_fmt="yuv422p").fitted(".mov")
    encode(source.frames(close=True), input_arguments(source, source.get_frame(0)), encoding, part)
    join([(part, Part(seen(part), ""))], TIMES, None, out)
    with av.open(str(out)) as file:
        for frame, own in zip(file.decode(video=0), source.frames(close=True), strict=True):
            shown = frame.reformat(format="yuv422p")
            assert all(
                bytes(plane) == b"".join(own.readchunks())[start:stop]
                for plane, start, stop in zip(shown.planes, (0, 32768, 49152), (32768, 49152, 65536), strict=True)
            )


@pytest.fixture(scope="module")
def part(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path, source = tmp_path_factory.mktemp("part") / "part.mkv", clip("yuv420p")
    encode(source.frames(close=True), input_arguments(source, source.get_frame(0)), Encoding("ffv1"), path)
    return path


@pytest.mark.parametrize(
    ("file", "codec", "becomes"),
    [
        ("a.avi", "adpcm_ms", "adpcm_ms"),
        ("a.wav", "adpcm_ima_wav", "adpcm_ima_wav"),
        ("a.avi", "pcm_mulaw -ar 8000", "pcm_mulaw"),
        ("a.wav", "pcm_alaw", "pcm_alaw"),
        ("a.wmv", "wmav2", "wmav2"),
        ("a.mov", "pcm_s16be", "pcm_s16be"),
        ("a.mov", "pcm_s8", "pcm_u8"),
        ("a.mov", "pcm_f32be", "pcm_f32le"),
        ("a.vob", "pcm_dvd -ac 2", "pcm_s16le"),
        ("a.vob", "pcm_dvd -ac 2 -sample_fmt s32", "pcm_s24le"),
        ("a.m2ts", "pcm_bluray -ac 2", "pcm_s16le"),
        ("a.m2ts", "pcm_bluray -ac 2 -sample_fmt s32", "pcm_s24le"),
    ],
)
def test_sound_in_matroska(part: Path, tmp_path: Path, file: str, codec: str, becomes: str) -> None:
    """Sound that Matroska holds is copied; other sound becomes PCM of the same samples, and a notice says so."""
    source, out = tmp_path / file, tmp_path / "out.mkv"
    picture = ["-f", "lavfi", "-i", "color=s=64x64:r=25:d=0.4", "-map", "0", "-map", "1", "-c:v", "mpeg2video"]
    tone = ["-f", "lavfi", "-i", "sine=440:r=48000:d=0.4"]
    made = ffmpeg(*(picture if file.endswith(("vob", "ts")) else []), *tone, "-c:a", *codec.split(), str(source))
    if made.returncode:  # some muxers need the picture first on the command line
        made = ffmpeg(*picture[:4], *tone, *picture[4:], "-c:a", *codec.split(), str(source))
    assert made.returncode == 0, made.stderr
    notices = join([(part, Part(seen(part), ""))], TIMES, Other(source), out)
    named = codec.split()[0]
    said = f"of {file} (audio, {named}) becomes {becomes}, the same samples: matroska does not hold it"
    assert [text.partition(" ")[2].partition(" ")[2] for text in notices if "becomes" in text] == (
        [] if becomes == named else [said]
    )
    with av.open(str(out)) as joined:
        assert joined.streams.audio[0].codec_context.name == becomes

    def samples(path: Path) -> bytes:
        return ffmpeg("-i", str(path), "-map", "0:a", "-f", "f64le", "-").stdout

    assert samples(out) == samples(source) != b""


def test_sound_that_can_only_be_lost(part: Path, tmp_path: Path) -> None:
    source = tmp_path / "a.flv"
    made = ffmpeg("-f", "lavfi", "-i", "sine=d=0.3", "-c:a", "nellymoser", "-ar", "22050", "-ac", "1", str(source))
    assert made.returncode == 0, made.stderr
    with pytest.raises(Refused, match=r"matroska does not hold stream 0 of a\.flv \(audio, nellymoser\)"):
        join([(part, Part(seen(part), ""))], TIMES, Other(source), tmp_path / "out.mkv")


def one_frame(path: Path, codec: str = "ffv1", **tags: int) -> Path:
    """Write a part of one frame."""
    source = clip("yuv420p")[:1].std.SetFrameProps(**tags)
    arguments = input_arguments(source, source.get_frame(0))
    encode(source.frames(close=True), arguments, Encoding(codec).resolved(), path)
    return path


def tone(path: Path, *words: str) -> Path:
    made = ffmpeg("-f", "lavfi", "-i", "sine=440:r=48000:d=0.4", *words, str(path))
    assert made.returncode == 0, made.stderr
    return path


@pytest.mark.parametrize(
    ("codec", "container", "becomes"),
    [("flac", "mov", "pcm_s16le"), ("truehd -strict -2", "mp4", "pcm_s32le"), ("libopus", "mov", "")],
)
def test_sound_that_only_the_header_refuses(
    part: Path, tmp_path: Path, codec: str, container: str, becomes: str
) -> None:
    """Sound becomes PCM or is refused where the muxer lists the codec but does not write it."""
    source, out = tone(tmp_path / "a.mka", "-c:a", *codec.split()), tmp_path / f"out.{container}"
    what = f"stream 0 of a.mka (audio, {codec.split()[0].removeprefix('lib')})"
    if not becomes:
        with pytest.raises(Refused, match=re.escape(f"{container} does not hold {what}")):
            join([(part, Part(seen(part), ""))], TIMES, Other(source), out)
        return
    notices = join([(part, Part(seen(part), ""))], TIMES, Other(source), out)
    assert notices == [f"{what} becomes {becomes}, the same samples: {container} does not hold it"]
    samples = [ffmpeg("-i", str(path), "-map", "0:a", "-f", "f64le", "-").stdout for path in (source, out)]
    assert samples[0] == samples[1] != b""


def streams(path: Path) -> list[str]:
    with av.open(str(path)) as file:
        return [f"{stream.type} {stream.codec_context.name}" for stream in file.streams if stream.codec_context]


def test_what_a_container_takes_and_does_not_name(tmp_path: Path) -> None:
    """Codecs that MPEG-TS takes only as private data are refused or left out, like chapters, which it cannot hold."""
    sound, text, chapters = tone(tmp_path / "a.flac"), tmp_path / "a.srt", tmp_path / "chapters"
    text.write_text("1\n00:00:00,000 --> 00:00:00,200\nOne\n")
    chapters.write_text(";FFMETADATA1\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=20\nEND=100\ntitle=One\n")
    whole = tmp_path / "whole.mka"
    inputs = [word for path in (tone(tmp_path / "a.ac3"), text, chapters) for word in ("-i", str(path))]
    assert ffmpeg(*inputs, "-map", "0", "-map", "1", "-c", "copy", str(whole)).returncode == 0
    out, still = tmp_path / "out.ts", one_frame(tmp_path / "still.mkv", "libx264")
    with pytest.raises(Refused, match=r"mpegts does not hold stream 0 of a\.flac \(audio, flac\)"):
        tried(still, Other(sound), out)
    other = Other(whole)
    assert tried(still, other, out) == [
        "left out: mpegts does not hold stream 1 of whole.mka (subtitle, srt)",
        "left out: mpegts does not hold the chapters of whole.mka",
    ]
    join([(still, Part(seen(still), ""))], Times(range(1), Fraction(1, 25), Fraction(25)), other, out)
    assert "audio ac3" in streams(out) and not any("subtitle" in one for one in streams(out))


def test_a_codec_that_fails_in_its_packets(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"avi does not hold the picture \(h264\)"):
        tried(one_frame(tmp_path / "still.mkv", "libx264"), None, tmp_path / "out.avi")


def test_a_track_without_sound(part: Path, tmp_path: Path) -> None:
    """An announced track without sound is left out; ffmpeg lists an AC-3 core beside TrueHD in M2TS."""
    source, out = tone(tmp_path / "a.m2ts", "-c:a", "truehd", "-strict", "-2"), tmp_path / "out.mkv"
    notices = join([(part, Part(seen(part), ""))], TIMES, Other(source), out)
    assert notices == ["left out: stream 1 of a.m2ts (audio, ac3), in which no sound was found"]
    assert streams(out) == ["video ffv1", "audio truehd"]


@pytest.mark.parametrize(
    ("container", "codec", "lost"),
    [
        ("mkv", "ffv1", ""),
        ("nut", "ffv1", "matrix"),
        ("avi", "utvideo", ""),
        ("mov", "ffv1", "matrix"),
        ("mov", "prores_ks", ""),
        ("nut", "libx264", ""),
    ],
)
def test_colours_that_a_container_does_not_state(tmp_path: Path, container: str, codec: str, lost: str) -> None:
    """A notice names lost colours where a player would guess others, and is absent where players guess right."""
    out = tmp_path / f"out.{container}"
    for full, matrix in ((1, vs.MATRIX_BT709), (0, vs.MATRIX_ST170_M)):
        still = one_frame(tmp_path / "still.mkv", codec, _Range=full, _Matrix=matrix)
        said = f"left out: {lost} of the colours, which {container} does not hold with {codec}"
        notices = tried(still, None, out)
        assert notices == ([f"{said}: name another container or --codec"] if full and lost else [])


@pytest.mark.parametrize("container", ["mkv", "mov", "mp4", "avi", "nut"])
def test_a_codec_that_does_not_state_the_shape_of_pixels(tmp_path: Path, container: str) -> None:
    """The container states the shape of pixels for FFV1; nothing else changes."""
    still = one_frame(tmp_path / "still.mkv", _SARNum=16, _SARDen=11, _Matrix=vs.MATRIX_ST170_M)
    out, other = tmp_path / f"out.{container}", None
    if container == "mkv":
        words = [
            "-metadata:s:a:0",
            "language=fra",
            "-attach",
            str(tone(tmp_path / "a.wav")),
            "-metadata:s:t",
            "mimetype=a/b",
        ]
        other = Other(tone(tmp_path / "a.mka", *words))
    assert tried(still, other, out) == []
    with av.open(str(out)) as file:
        ratio = file.streams.video[0].sample_aspect_ratio
        assert abs(ratio.numerator / ratio.denominator - 16 / 11) < 0.005
        if other is not None:
            assert file.streams.audio[0].language == "fra" and len(file.streams.attachments) == 1
    assert decoded(out) == decoded(still) and not list(tmp_path.glob("*-whole*"))


def test_chapters_beside_passed_sound(part: Path, tmp_path: Path) -> None:
    """Chapters are kept although the muxer that copies sound drops them."""
    text, plain, source, out = (tmp_path / name for name in ("text", "plain.mkv", "film.mkv", "out.mkv"))
    text.write_text(";FFMETADATA1\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=20\nEND=100\ntitle=One\n")
    ffmpeg("-f", "lavfi", "-i", "sine=d=0.4", "-c:a", "adpcm_ms", str(plain))
    made = ffmpeg("-i", str(plain), "-i", str(text), "-map", "0", "-map_chapters", "1", "-c", "copy", str(source))
    assert made.returncode == 0, made.stderr
    join([(part, Part(seen(part), ""))], TIMES, Other(source), out)
    with av.open(str(out)) as joined, av.open(str(source)) as film:
        assert [c["metadata"] for c in joined.chapters()] == [{"title": "One"}]
        assert [(c["start"] * c["time_base"], c["end"] * c["time_base"]) for c in joined.chapters()] == [
            (c["start"] * c["time_base"], c["end"] * c["time_base"]) for c in film.chapters()
        ]
    assert decoded(out) == decoded(part) and not list(tmp_path.glob("*-whole*"))


@pytest.mark.parametrize("container", ["ts", "mkv", "mp4"])
def test_captions_inside_the_picture(tmp_path: Path, container: str) -> None:
    """Captions are found as EIA-608 pairs in the SEI of H.264, and not in a film without them."""
    plain, marked, film = tmp_path / "plain.h264", tmp_path / "marked.h264", tmp_path / f"film.{container}"
    source = ["-f", "lavfi", "-i", "testsrc2=s=64x64:r=25:d=0.4"]
    assert ffmpeg(*source, "-c:v", "libx264", "-bf", "0", "-pix_fmt", "yuv420p", str(plain)).returncode == 0
    out = b""
    for unit in re.split(b"\0\0\0?\1", plain.read_bytes())[1:]:
        if unit[0] & 31 in (1, 5):
            body = b"\xb5\0\x31GA94\3\xc1\xff\xfc\x14\x20\xff"
            out += b"\0\0\0\1\6\4" + bytes([len(body)]) + body + b"\x80"
        out += b"\0\0\0\1" + unit
    marked.write_bytes(out)
    for stream, expected in ((plain, False), (marked, True)):
        assert ffmpeg("-r", "25", "-i", str(stream), "-c", "copy", str(film)).returncode == 0
        assert has_captions(film) == expected

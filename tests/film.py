"""Make films for tests with ffmpeg: scenes of synthetic pictures with sound, subtitles, chapters and tags."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vsexvc.film.encode import find_ffmpeg

WIDTH, HEIGHT, RATE = 96, 64, 24


def picture(seed: int, width: int = WIDTH, height: int = HEIGHT) -> NDArray[np.uint8]:
    """Return RGB, (height, width, 3): a few soft blots; each seed gives another brightness of the background."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    image = np.full((height, width, 3), 40 + 150 * (seed * 0.618 % 1), dtype=np.float64)
    for _ in range(6):
        cx, cy, radius = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(0.1, 0.4) * height
        blot = np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * radius**2))
        image += blot[..., None] * rng.uniform(-110, 110, 3)
    return np.clip(image, 16, 235).astype(np.uint8)


def scene(seed: int, length: int, width: int = WIDTH, height: int = HEIGHT) -> bytes:
    """Return grey frames of 8 bits: a window that moves over a larger picture."""
    wide = picture(seed, width + length, height + length // 2) @ np.array([0.2126, 0.7152, 0.0722])
    luma = np.rint(16 + 219 / 255 * wide).astype(np.uint8)
    return b"".join(luma[n // 2 : n // 2 + height, n : n + width].tobytes() for n in range(length))


def make_png(path: Path, seed: int, width: int = WIDTH, height: int = HEIGHT) -> Path:
    """Write a reference for the scene of that seed."""
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-i", "-"]
    _ffmpeg([*raw, "-frames:v", "1", str(path)], [picture(seed, width, height).tobytes()])
    return path


def make_film(
    path: Path,
    lengths: Sequence[int] = (20, 30, 10, 25),
    *,
    seeds: Sequence[int] | None = None,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    sound: int = 1,
    subtitles: str | None = None,
    chapters: bool = False,
    attachment: Path | None = None,
    codec: Sequence[str] = ("-c:v", "ffv1", "-pix_fmt", "gray"),
    filters: str = "null",
    options: Sequence[str] = (),
) -> list[int]:
    """Write a film of scenes, each of another picture; return their first frames.

    Args:
        seeds: seeds of the scenes' pictures; None: 0, 1, ...
        sound: number of audio tracks, each of another pitch.
        subtitles: codec of the subtitles; None: no subtitles.
        filters: filters of the picture, e.g. "setpts=..." for a variable frame rate.
        options: further options of ffmpeg for the output.
    """
    seconds = sum(lengths) / RATE
    raw = ["-f", "rawvideo", "-pix_fmt", "gray", "-s", f"{size[0]}x{size[1]}", "-r", str(RATE), "-color_range", "tv"]
    inputs, maps = [*raw, "-i", "-"], ["-map", "0:v"]
    for track in range(sound):
        inputs += ["-f", "lavfi", "-i", f"sine=f={440 * (track + 1)}:d={seconds}"]
        maps += ["-map", f"{track + 1}:a", f"-metadata:s:a:{track}", f"language={('eng', 'fra', 'deu')[track]}"]
    if subtitles is not None:
        text = path.with_suffix(".srt")
        text.write_text("1\n00:00:00,500 --> 00:00:01,000\nOne\n\n2\n00:00:01,500 --> 00:00:02,250\nTwo\n")
        inputs += ["-i", str(text)]
        maps += ["-map", f"{sound + 1}:s", "-c:s", subtitles, "-metadata:s:s:0", "language=nld"]
    if chapters:
        text = path.with_suffix(".chapters")
        text.write_text(
            ";FFMETADATA1\ntitle=A film\n"
            "[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=1000\ntitle=First\n"
            "[CHAPTER]\nTIMEBASE=1/1000\nSTART=1000\nEND=2000\ntitle=Second\n"
        )
        inputs += ["-i", str(text)]
        number = sound + 1 + (subtitles is not None)
        maps += ["-map_metadata", str(number), "-map_chapters", str(number)]
    if attachment is not None:
        maps += ["-attach", str(attachment), "-metadata:s:t:0", "mimetype=text/plain"]
    frames = (scene(seed, length, *size) for seed, length in zip(seeds or range(len(lengths)), lengths, strict=True))
    _ffmpeg([*inputs, *maps, "-vf", filters, *codec, *options, str(path)], frames)
    return [0, *np.cumsum(lengths)[:-1].tolist()]


def decoded(path: Path, pixels: str | None = None) -> list[str]:
    """Return a hash of each frame of the picture."""
    shape = [] if pixels is None else ["-pix_fmt", pixels]
    return [
        line.split(",")[-1].strip() for line in _hashes(path, ["-map", "0:v:0", *shape, "-fps_mode", "passthrough"])
    ]


def sound_of(path: Path) -> list[tuple[str, str]]:
    """Return track number and hash of each stored audio packet. (Muxers do not agree on durations.)"""
    lines = [line.split(",") for line in _hashes(path, ["-map", "0:a", "-c", "copy"])]
    return [(line[0], line[5].strip()) for line in lines]


def _hashes(path: Path, options: Sequence[str]) -> list[str]:
    out = _ffmpeg(["-i", str(path), *options, "-f", "framemd5", "-"])
    return [line for line in out.decode().splitlines() if not line.startswith("#")]


def _ffmpeg(arguments: Sequence[str], given: Iterable[bytes] = ()) -> bytes:
    """Run ffmpeg with `given` as stdin; return its stdout."""
    command = [find_ffmpeg(), "-loglevel", "error", "-y", *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        for piece in given:
            process.stdin.write(piece)
        process.stdin.close()
        out = process.stdout.read()
    assert process.returncode == 0
    return out

"""Test film/source.py on films made by ffmpeg: scenes against Colorize's, unreadable files, displayed frames."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import film
import numpy as np
import pytest
import vapoursynth as vs

from vsexvc import pump, references, typical
from vsexvc.film import source
from vsexvc.film.encode import find_ffmpeg
from vsexvc.film.references import open_references
from vsexvc.plugin import colorize

core = vs.core
LENGTHS = (20, 9, 31)
FIRSTS = [0, 20, 29]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write film.mkv with scenes of LENGTHS, and a picture."""
    root = tmp_path_factory.mktemp("source")
    film.make_film(root / "film.mkv", LENGTHS, sound=0)
    film.make_png(root / "b.png", 0)
    return root


def test_scenes_are_those_of_the_filter(folder: Path, model: str, tmp_path: Path) -> None:
    clip = source.open_video(folder / "film.mkv", tmp_path)
    told: list[tuple[str, int, int]] = []
    scenes = source.find_scenes(clip, size=64, stages=lambda what: lambda done, of: told.append((what, done, of)))
    assert [scene.first for scene in scenes] == FIRSTS
    assert [scene.stop for scene in scenes] == [20, 29, 60]
    assert [scene.seconds for scene in scenes] == pytest.approx([first / film.RATE for first in FIRSTS], abs=1e-3)
    assert told == [("finding scenes", done, 60) for done in range(1, 61)]
    coloured = colorize(clip, open_references([folder / "b.png"], tmp_path).clip, model=model, size=64, device="cpu")
    starts = [frame.props["ExvcSceneStart"] for frame in coloured.frames(close=True)]
    assert sorted(set(starts)) == FIRSTS and starts == [max(f for f in FIRSTS if f <= n) for n in range(60)]


@pytest.mark.parametrize("threshold", [0.0, 0.0005])
def test_threshold_and_properties(folder: Path, model: str, tmp_path: Path, threshold: float) -> None:
    """Scenes of nearly equal noise are the filter's own, by a tiny threshold and by frame properties.

    With a threshold near zero the noise at the network's size decides where cuts are.
    """
    rng = np.random.default_rng(3)
    pictures = [rng.normal(110, sigma, (250, 310)).clip(0, 255) for sigma in rng.uniform(60, 62, 16)]

    def draw(n: int, f: vs.VideoFrame) -> vs.VideoFrame:
        frame = f.copy()
        np.copyto(np.asarray(frame[0]), pictures[n].astype(np.uint8))
        return frame

    blank = core.std.BlankClip(format=vs.GRAY8, width=310, height=250, length=16)
    clip = source.with_scenes(blank.std.ModifyFrame(blank, draw), [5, 7])
    ref = open_references([folder / "b.png"], tmp_path).clip
    for given in (threshold, None):
        coloured = colorize(clip, ref, model=model, size=64, device="cpu", sc_threshold=given)
        starts = {int(frame.props["ExvcSceneStart"]) for frame in coloured.frames(close=True)}
        assert [scene.first for scene in source.find_scenes(clip, given, 64)] == sorted(starts)
    assert sorted(starts) == [0, 5, 7]


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_threshold_out_of_range(threshold: float) -> None:
    clip = core.std.BlankClip(format=vs.GRAY8, width=64, height=64, length=2)
    with pytest.raises(ValueError, match=rf"sc_threshold must be 0\.\.1, got {threshold}"):
        source.find_scenes(clip, threshold)


def test_variable_rate(tmp_path: Path) -> None:
    """The second scene begins at its first frame's time, which differs from its number times the mean duration."""
    film.make_film(
        tmp_path / "vfr.mkv", (10, 10), sound=0, filters="setpts=N*(N+3)/48/TB", options=["-fps_mode", "passthrough"]
    )
    _, second = source.find_scenes(source.open_video(tmp_path / "vfr.mkv", tmp_path / "index"))
    assert second.first == 10 and second.seconds == pytest.approx(130 / 48, abs=2e-3)


def test_marks_overwrite_what_was_there() -> None:
    clip = core.std.BlankClip(format=vs.GRAY8, width=16, height=16, length=6).std.SetFrameProps(_SceneChangePrev=1)
    marks = [frame.props["_SceneChangePrev"] for frame in source.with_scenes(clip, [0, 2, 5]).frames(close=True)]
    assert marks == [1, 0, 1, 0, 0, 1]


def test_nothing_is_written_beside_the_film(folder: Path, tmp_path: Path) -> None:
    before = sorted(folder.iterdir())
    source.open_video(folder / "film.mkv", tmp_path / "new" / "index").get_frame(59)
    assert sorted(folder.iterdir()) == before and (tmp_path / "new" / "index").is_dir()


def test_default_cache(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Only a film needs the folder, not numbered pictures or references."""
    monkeypatch.setenv("VSEXVC_CACHE", str(tmp_path))
    assert source.default_cache() == tmp_path / "index"
    (tmp_path / "file").touch()
    monkeypatch.setenv("VSEXVC_CACHE", str(tmp_path / "file"))
    with pytest.raises(OSError, match=r"cache folder '.*file/index' cannot be made \(.*\), \$VSEXVC_CACHE names"):
        source.open_video(folder / "film.mkv", source.default_cache())
    picture = film.make_png(tmp_path / "0.png", 0)
    assert references(picture)[0].num_frames == 1


def test_what_cannot_be_used(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "broken.mkv"
    broken.write_bytes((folder / "film.mkv").read_bytes()[:300])
    with pytest.raises(FileNotFoundError, match=r"film '.*none\.mkv' must be a file, there is none"):
        source.open_video(tmp_path / "none.mkv", tmp_path)
    with pytest.raises(ValueError, match=r"film '.*broken\.mkv' cannot be read: "):
        source.open_video(broken, tmp_path)
    monkeypatch.setattr(source.vs, "core", object())
    with pytest.raises(ValueError, match=r"pip install vsexvc\[video\]"):
        source.open_video(folder / "film.mkv", tmp_path)


def test_what_bestsource_takes_for_a_film(folder: Path, tmp_path: Path) -> None:
    """Text, which BestSource draws, and music with a cover are refused."""
    (tmp_path / "notes.txt").write_text("none of them\n" * 99)
    tone = ["-f", "lavfi", "-i", "sine=d=1", "-i", str(folder / "b.png"), "-disposition:v", "attached_pic"]
    command = [find_ffmpeg(), "-loglevel", "error", *tone, "-map", "0", "-map", "1", str(tmp_path / "tone.mp3")]
    subprocess.run(command, check=True)
    with pytest.raises(ValueError, match=r"film '.*notes\.txt' must be a film or a picture, this is text"):
        source.open_video(tmp_path / "notes.txt", tmp_path / "index")
    with pytest.raises(ValueError, match=r"film '.*tone\.mp3' must be a film or a picture, this is sound with a cover"):
        source.open_video(tmp_path / "tone.mp3", tmp_path / "index")
    subprocess.run([*command[:3], *tone[:4], str(tmp_path / "tone.flac")], check=True)
    with pytest.raises(ValueError, match=r"film '.*tone\.flac' must be a film or a picture, there is no picture in it"):
        source.open_video(tmp_path / "tone.flac", tmp_path / "index")


def test_a_name_that_is_no_unicode(folder: Path, tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"film\xff.mkv")
    odd.write_bytes((folder / "film.mkv").read_bytes())
    with pytest.raises(ValueError, match=r"film '.*film\\udcff\.mkv' must have a path in Unicode"):
        source.open_video(odd, tmp_path / "index")


@pytest.mark.parametrize("container", ["mkv", "mp4", "mov"])
@pytest.mark.parametrize("codec", ["libx264", "mpeg2video", "mpeg4"])
def test_the_aspect_that_a_container_states(tmp_path: Path, container: str, codec: str) -> None:
    """The container's 16:9 counts, as in players, although the codec states square pixels; rotation turns it."""
    made, film_path, rotated = (tmp_path / f"{name}.{container}" for name in ("made", "film", "rotated"))
    film.make_film(made, (3,), sound=0, codec=["-c:v", codec, "-pix_fmt", "yuv420p"], filters="setsar=1")
    run = [find_ffmpeg(), "-loglevel", "error"]
    subprocess.run([*run, "-i", str(made), "-c", "copy", "-aspect", "16:9", str(film_path)], check=True)
    clip = source.open_video(film_path, tmp_path / "index")
    props = clip.get_frame(2).props
    assert props["_SARNum"] / props["_SARDen"] == pytest.approx(16 / 9 / (film.WIDTH / film.HEIGHT), rel=0.02)
    assert source.picture(clip, 0, (4000, 4000)).size == pytest.approx((film.HEIGHT * 16 / 9, film.HEIGHT), abs=2)
    if (
        container != "mkv"
        and "-display_rotation" in subprocess.run([*run, "-h", "full"], capture_output=True, text=True).stdout
    ):
        rotate = [*run, "-display_rotation", "90", "-i", str(film_path), "-c", "copy", str(rotated)]
        subprocess.run(rotate, check=True)
        shown = source.picture(source.open_video(rotated, tmp_path / "index"), 0, (4000, 4000))
        assert shown.width / shown.height == pytest.approx(9 / 16, rel=0.02)


def test_a_film_that_changes_its_size(tmp_path: Path) -> None:
    for name, size in (("a.ts", (96, 64)), ("b.ts", (64, 96))):
        film.make_film(tmp_path / name, (8,), size=size, sound=0, codec=["-c:v", "mpeg2video", "-pix_fmt", "yuv420p"])
    (tmp_path / "ab.ts").write_bytes((tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes())
    with pytest.raises(ValueError, match=r"film '.*ab\.ts' must be of constant size and format"):
        source.open_video(tmp_path / "ab.ts", tmp_path / "index")


def test_a_film_that_changes_its_format(tmp_path: Path) -> None:
    for name, pixels in (("a.ts", "yuv420p"), ("b.ts", "yuv422p")):
        film.make_film(tmp_path / name, (8,), sound=0, codec=["-c:v", "mpeg2video", "-pix_fmt", pixels])
    (tmp_path / "ab.ts").write_bytes((tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes())
    with pytest.raises(ValueError, match=r"film '.*ab\.ts' must be of constant size and format"):
        source.open_video(tmp_path / "ab.ts", tmp_path / "index")


def test_an_index_that_is_damaged_or_of_another_film(tmp_path: Path) -> None:
    """A damaged index and that of another film are replaced."""
    path, index = tmp_path / "film.mkv", tmp_path / "index"
    film.make_film(path, (1200,), size=(32, 16), sound=0)
    source.open_video(path, index)
    (file,) = (file for file in index.rglob("*") if file.is_file())
    whole = file.read_bytes()
    for length in (0, 10, len(whole) // 2, len(whole) - 3):
        file.write_bytes(whole[:length])
        assert source.open_video(path, index).num_frames == 1200
    film.make_film(path, (1100,), size=(32, 16), sound=0)
    assert source.open_video(path, index).num_frames == 1100


@pytest.mark.parametrize(
    ("codec", "pixels", "name", "words"),
    [
        ("ffv1", "yuv420p", "a.mkv", ["the last 1 column and 1 row of a.mkv: VapourSynth has no yuv420p of 97x65"]),
        ("ffv1", "yuv422p", "a.mkv", ["the last 1 column of a.mkv"]),
        ("ffv1", "yuva420p", "a.mkv", ["the last 1 column and 1 row", "the alpha of a.mkv"]),
        ("libvpx-vp9", "yuva420p", "a.webm", ["the last 1 column and 1 row", "the alpha of a.webm"]),
        ("qtrle", "argb", "a.mov", ["the alpha of a.mov"]),
        ("ffv1", "gray", "a.mkv", []),
    ],
)
def test_what_a_clip_does_not_have(tmp_path: Path, codec: str, pixels: str, name: str, words: list[str]) -> None:
    film.make_film(tmp_path / name, (2,), size=(97, 65), sound=0, codec=["-c:v", codec, "-pix_fmt", pixels])
    said = source.losses(tmp_path / name, source.open_video(tmp_path / name, tmp_path / "index"))
    assert len(said) == len(words)
    assert all(line.startswith("left out: ") and word in line for line, word in zip(said, words, strict=True))


def test_frames_that_cannot_be_coloured() -> None:
    clip = core.std.BlankClip(format=vs.GRAY8, width=64, height=64, length=9)
    field = clip[:6] + clip[6:].std.SetFrameProps(_FieldBased=2)
    with pytest.raises(ValueError, match="frame 6 of the film: must be progressive, got _FieldBased=2"):
        source.find_scenes(field)

    def fail(n: int, f: vs.VideoFrame) -> vs.VideoFrame:
        if n == 4:
            raise RuntimeError("bad sector")
        return f

    broken = clip.std.ModifyFrame(clip, fail)
    with pytest.raises(ValueError, match=r"frame 4 of the film cannot be read: .*"):
        source.find_scenes(broken)
    with pytest.raises(ValueError, match="frame 4 cannot be read"):
        source.picture(broken, 4, (64, 64))


def test_frames_that_are_flagged_as_interlaced(tmp_path: Path) -> None:
    """Flagged frames are taken as progressive by "ignore", and deinterlaced by "bwdif"."""
    path = tmp_path / "film.mpg"
    codec = ["-c:v", "mpeg2video", "-qscale:v", "1", "-pix_fmt", "yuv420p", "-flags", "+ildct+ilme"]
    film.make_film(path, (6,), sound=0, codec=codec, filters="setfield=tff")
    flagged = source.open_video(path, tmp_path / "index")
    assert flagged.get_frame(3).props["_FieldBased"] == vs.FIELD_TOP
    with pytest.raises(ValueError, match=r"frame 0 of the film: must be progressive.* --interlaced ignore; .*bwdif"):
        source.find_scenes(flagged)
    kept = source.open_video(path, tmp_path / "index", "ignore")
    assert len(source.find_scenes(kept)) == 1
    assert bytes(kept.get_frame(3)[0]) == bytes(flagged.get_frame(3)[0])
    with pytest.raises(ValueError, match="interlaced must be one of ignore, bwdif, got 'x'"):
        source.open_video(path, tmp_path / "index", "x")
    if not hasattr(core, "bwdif"):
        pytest.skip("needs vapoursynth-bwdif")
    made = source.open_video(path, tmp_path / "index", "bwdif")
    assert made.num_frames == flagged.num_frames and len(source.find_scenes(made)) == 1
    top, whole = np.asarray(flagged.get_frame(3)[0]), np.asarray(made.get_frame(3)[0])
    assert np.array_equal(top[::2], whole[::2]) and not np.array_equal(top, whole)


def test_a_script_is_no_film(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"film '.*f\.VPY' must be a film, this is a script: render takes it"):
        source.open_video(tmp_path / "f.VPY", tmp_path)


def test_picture() -> None:
    """A picture has the aspect of the screen and the clip's colours, and is no larger than the box or the clip."""
    red = core.std.BlankClip(format=vs.RGB24, width=720, height=576, length=2, color=[200, 30, 40])
    yuv = red.resize.Point(format=vs.YUV420P8, matrix=vs.MATRIX_ST170_M)
    wide = yuv.std.SetFrameProps(_SARNum=64, _SARDen=45)
    assert source.picture(yuv, 1, (4000, 4000)).size == (720, 576)
    assert source.picture(wide, 1, (4000, 4000)).size == (1024, 576)
    assert source.picture(wide, 1, (512, 512)).size == (512, 288)
    tall = yuv.std.SetFrameProps(_SARNum=1, _SARDen=2)
    assert source.picture(tall, 0, (4000, 4000)).size == (720, 1152)
    assert np.abs(np.asarray(source.picture(wide, 0, (90, 90))).astype(int) - (200, 30, 40)).max() <= 2


def test_typical_frames_are_those_of_the_filter(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The typical frame is the one by which the filter chooses a reference, also where a scene fades in from black."""
    film.make_film(tmp_path / "film.mkv", (26, 9), sound=0, filters="fade=in:0:14")
    film.make_png(tmp_path / "a.png", 0)
    film.make_png(tmp_path / "b.png", 1)
    clip = source.open_video(tmp_path / "film.mkv", tmp_path)
    scenes = source.find_scenes(clip, size=64)
    assert [scene.first for scene in scenes] == [0, 26]
    chosen = {}

    def find_typical(schedule: Any, cuts: Any, scene: int) -> Any:
        chosen[scene] = yield from typical.find_typical(schedule, cuts, scene)
        return chosen[scene]

    monkeypatch.setattr(pump, "find_typical", find_typical)
    references = open_references([tmp_path / "a.png", tmp_path / "b.png"], tmp_path).clip
    coloured = colorize(clip, references, model=model, size=64, device="cpu")
    for n in (0, 26):
        coloured.get_frame(n).close()
    small = source.small_luma(clip, 64)
    assert {scene.first: source.shown_frames(small, scene).typical for scene in scenes} == chosen
    assert 7 < chosen[0] < 24
    # A scene is shown by its first frame if that is lit.
    assert [source.shown_frames(small, scene).first for scene in scenes] == [chosen[0], 26]

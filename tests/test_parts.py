"""Test parts.py: scenes that a plan leaves uncoloured are the film's own frames, or grey; others do not change."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path

import film
import numpy as np
import pytest
import vapoursynth as vs

from vsexvc.film.encode import Encoding, find_ffmpeg
from vsexvc.film.job import Colours, Job, part_keys
from vsexvc.film.parts import coloured
from vsexvc.film.plan import Around, Left
from vsexvc.graph import uncoloured

core = vs.core


def planes(frame: vs.VideoFrame) -> list[bytes]:
    return [bytes(frame[plane]) for plane in range(frame.format.num_planes)]


@pytest.fixture
def job(tmp_path: Path, model: str) -> Job:
    """Make a film in colour, 24 frames in four scenes; the third is left as it is, the last becomes grey."""
    source = ["-f", "lavfi", "-i", "testsrc2=size=96x64:rate=24", "-frames:v", "24"]
    command = [find_ffmpeg(), "-loglevel", "error", *source, "-c:v", "ffv1", "-pix_fmt", "yuv420p"]
    subprocess.run([*command, str(tmp_path / "film.mkv")], check=True)
    return Job(
        tmp_path / "film.mkv",
        tmp_path,
        Encoding(),
        Colours(size=64, device="cpu", precision="fp32", format=int(vs.YUV420P8)),
        references=(film.make_png(tmp_path / "a.png", 0),),
        stills=True,
        ref_frames=(0,),
        model=Path(model),
        firsts=(0, 6, 12, 18),
        left=(Left(12, 18, False), Left(18, 24, True)),
    )


def test_scenes_that_are_left(job: Job) -> None:
    own = core.bs.VideoSource(str(job.source), cachepath=str(job.folder), showprogress=False)
    result = coloured(job).clip
    all_coloured = coloured(Job(**{**vars(job), "left": ()})).clip
    assert result.num_frames == 24 and result.format.id == vs.YUV420P8
    for n in (0, 11, 12, 17, 18, 23):
        frame, source = planes(result.get_frame(n)), planes(own.get_frame(n))
        assert frame[0] == source[0]
        if n < 12:
            assert frame == planes(all_coloured.get_frame(n)) != source
        elif n < 18:
            assert frame == source
        else:
            assert set(frame[1] + frame[2]) == {128} and set(source[1]) != {128}


def test_several_references_around_a_frame(job: Job, tmp_path: Path) -> None:
    """As many references of a scene take part at a frame as `around` allows."""
    two = {**vars(job), "firsts": (0,), "left": (), "ref_frames": (0, 12)}
    two["references"] = (*job.references, film.make_png(tmp_path / "b.png", 1))
    several = []
    for around in (1, 2):
        colours = dataclasses.replace(job.colours, around=around)
        props = coloured(Job(**{**two, "colours": colours})).clip.get_frame(13).props
        several.append(props.get("ExvcReferences"))
    assert several == [None, [0, 1]]


def test_numbered_references_stay_in_the_order_of_the_plan(job: Job, tmp_path: Path) -> None:
    """A reference belongs to the scene that the plan states, whatever number is in its name."""
    results = []
    for names in (("b", "a"), ("ref_000012", "ref_000000")):
        files = tuple(film.make_png(tmp_path / f"{name}.png", seed) for name, seed in zip(names, (1, 0), strict=True))
        two = dataclasses.replace(job, firsts=(0, 12), references=files, ref_frames=(0, 12), left=())
        results.append(coloured(two).clip)
    for n in (3, 15):
        assert planes(results[0].get_frame(n)) == planes(results[1].get_frame(n))


def test_a_film_of_which_all_is_left(job: Job) -> None:
    """A film whose scenes are all left as they are needs no reference."""
    own = core.bs.VideoSource(str(job.source), cachepath=str(job.folder), showprogress=False)
    bare = {**vars(job), "references": (), "ref_frames": (), "left": (Left(0, 24, False),)}
    assert planes(coloured(Job(**bare)).clip.get_frame(7)) == planes(own.get_frame(7))


@pytest.mark.parametrize("format", [vs.GRAY8, vs.YUV420P8, vs.YUV444P16, vs.RGB24])
def test_other_formats(format: int) -> None:
    """An uncoloured scene gets the format of the coloured ones; luma of RGB is that of BT.709."""
    is_rgb = format == vs.RGB24
    options = {} if is_rgb else {"matrix": vs.MATRIX_BT709}
    clip = core.std.BlankClip(format=vs.RGB24, width=64, height=48, length=1, color=[200, 80, 40])
    clip = clip.resize.Bicubic(format=format, **options)
    target = core.get_video_format(vs.YUV444P10)
    y, u, v = (float(np.mean(plane)) for plane in uncoloured(clip, target, is_grey=False).get_frame(0))
    luma = 0.2126 * 200 + 0.7152 * 80 + 0.0722 * 40
    blue, red = (40 - luma) / 1.8556, (200 - luma) / 1.5748
    expected = (0, 0) if format == vs.GRAY8 else (blue, red)
    assert y == pytest.approx(64 + luma * 876 / 255, abs=3)
    assert (u, v) == pytest.approx(tuple(512 + value * 896 / 255 for value in expected), abs=4)
    grey = [np.asarray(plane) for plane in uncoloured(clip, target, is_grey=True).get_frame(0)]
    assert float(grey[0].mean()) == pytest.approx(y, abs=0.5) and (grey[1] == 512).all() and (grey[2] == 512).all()


def test_scenes_with_an_around_of_their_own(job: Job, tmp_path: Path) -> None:
    """A scene's own `around` gives it the result of that number; the parts of other scenes stay valid."""
    paths = tuple(film.make_png(tmp_path / f"{seed}.png", seed) for seed in range(3))
    several = dataclasses.replace(job, references=paths, ref_frames=(0, 3, 9), left=(Left(18, 24, True),))
    own = dataclasses.replace(several, around=(Around(6, 12, 1),))
    wholes = [
        coloured(dataclasses.replace(several, colours=dataclasses.replace(job.colours, around=n))).clip for n in (1, 4)
    ]
    result = coloured(own).clip
    assert result.num_frames == 24
    for n in (2, 6, 8, 11, 12, 20):
        one, four = (planes(clip.get_frame(n)) for clip in wholes)
        assert planes(result.get_frame(n)) == (one if 6 <= n < 12 else four)
        assert n != 8 or one != four
    parts = ((0, 6), (6, 12), (12, 24))
    keys = [part_keys(dataclasses.replace(some, parts=parts), {}, "abc") for some in (several, own)]
    assert [a == b for a, b in zip(*keys, strict=True)] == [True, False, True]

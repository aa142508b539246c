"""Test film/keyframes.py: which frames are chosen and which stretches they stand for; the page in a real Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import film
import numpy as np
import pytest
import vapoursynth as vs
from chromium import Browser, chromium
from PIL import Image
from test_compare import CONTRAST, content_of
from torch import Tensor

from vsexvc.__main__ import main
from vsexvc.film import keyframes, source
from vsexvc.film.keyframes import Keyframe, Stretch, choose
from vsexvc.film.references import listed, numbers_of
from vsexvc.film.source import Scene

core = vs.core


class Flat:
    """Compare frames by mean lightness alone: similarity 1 for the same, 0 for a difference of 50."""

    def __init__(self) -> None:
        self.compared = 0

    def reference(self, lab: Tensor) -> Any:
        phi = lab[:, :1, ::8, ::8] - 50.0
        return SimpleNamespace(L=lab[:, :1], phi=phi, keys=SimpleNamespace(phi=phi.flatten(2)))

    def correspond(self, L: Tensor, reference: Any) -> list[Any]:
        self.compared += 1
        similarity = (1.0 - (L.mean() - reference.L.mean()).abs() / 50.0).expand(1, 1, 16, 16)
        return [SimpleNamespace(similarity=similarity, area=(slice(0, 16), slice(0, 16)))]


def clip_of(*levels: int) -> vs.VideoNode:
    """Make a frame for each luma, 0..255, with a stripe as its content; 0 gives a black frame."""
    frames = []
    for level in levels:
        frame = core.std.BlankClip(width=64, height=64, format=vs.GRAY8, length=1, color=level, fpsnum=24)
        stripe = core.std.BlankClip(frame, width=64, height=16, color=255 * (level < 128))
        frames.append(core.std.StackVertical([frame.std.Crop(bottom=16), stripe]) if level else frame)
    return core.std.Splice(frames).std.SetFrameProps(_Range=vs.RANGE_FULL)


def told(keys: list[Keyframe]) -> list[tuple[int, list[tuple[int, int, int]]]]:
    return [(key.frame, [(one.scene, one.first, one.stop) for one in key.stretches]) for key in keys]


def chosen(clip: vs.VideoNode, *bounds: int, like: float = 0.9) -> list[Keyframe]:
    scenes = [Scene(first, stop, first / 24) for first, stop in pairwise(bounds)]
    return choose(clip, scenes, Flat(), 64, like)  # type: ignore[arg-type]


def test_scenes_that_are_alike_have_one() -> None:
    clip = clip_of(*[80] * 10, *[200] * 10, *[82] * 10, *[0] * 10)
    keys = chosen(clip, 0, 10, 20, 30, 40)
    assert told(keys) == [(0, [(1, 0, 10), (3, 20, 30)]), (10, [(2, 10, 20)])]
    assert keys[0].stretches[0].similarity == 1.0
    assert 0.95 < keys[0].stretches[1].similarity < 1.0
    assert [one.seconds for one in keys[0].stretches] == pytest.approx([0, 20 / 24])
    assert keys[1].name == "ref_000010.png"


def test_what_is_new_within_a_scene() -> None:
    """A scene is examined every STEP frames; a remainder of less than half of STEP is not."""
    step = keyframes.STEP
    clip = clip_of(*[80] * step, *[200] * step, *[80] * step, *[140] * (step // 3))
    assert told(chosen(clip, 0, clip.num_frames)) == [
        (0, [(1, 0, step), (1, 2 * step, clip.num_frames)]),
        (step, [(1, step, 2 * step)]),
    ]


def test_a_scene_that_fades_in() -> None:
    """A black frame and a flash at a cut are not chosen; the first frame of a scene is chosen if it is lit."""
    dark = [clip_of(150).std.Expr(f"x {level} *") for level in (0.0, 0.05, 0.1, 0.4)]
    flash = core.std.BlankClip(dark[0], color=255)
    clip = core.std.Splice([*dark, clip_of(*[150] * 6), clip_of(*[20] * 5), flash, clip_of(*[240] * 4)])
    clip = clip.std.SetFrameProps(_Range=vs.RANGE_FULL)
    assert told(chosen(clip, 0, 10, 15, 20)) == [(4, [(1, 0, 10)]), (10, [(2, 10, 15)]), (16, [(3, 15, 20)])]


def test_how_alike() -> None:
    clip = clip_of(80, 110)
    assert len(chosen(clip, 0, 1, 2, like=0.5)) == 1
    assert len(chosen(clip, 0, 1, 2, like=0.99)) == 2


def test_only_the_nearest_are_compared() -> None:
    """Each frame is compared with a limited number of key frames, so that the time is not quadratic."""
    clip = clip_of(*range(40, 240, 8))
    session = Flat()
    scenes = [Scene(n, n + 1, n / 24) for n in range(clip.num_frames)]
    keys = choose(clip, scenes, session, 64, 0.999)  # type: ignore[arg-type]
    assert len(keys) == clip.num_frames
    assert session.compared <= keyframes._NEAREST * clip.num_frames


def test_the_command(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The pictures are the film's frames, named for `render --ref`; existing pictures are not overwritten."""
    firsts = film.make_film(tmp_path / "film.mkv", (12, 9, 12), seeds=(0, 1, 0), sound=0)
    out = tmp_path / "refs"
    command = ["keyframes", str(tmp_path / "film.mkv"), "-o", str(out), "--model", model, "--size", "64"]
    assert main([*command, "--device", "cpu", "--like", "0"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "ref_000000.png  0:00:00.0  33 frames of 3 scenes",
        str(out / keyframes.PAGE),
    ]
    assert main([*command[:2], "-o", str(tmp_path / "film.mkv")]) == 1
    assert f"folder '{tmp_path / 'film.mkv'}' must be a folder" in capsys.readouterr().err
    (out / "ref_000000.png").unlink()
    assert main([*command, "--device", "cpu", "--like", "1"]) == 0
    numbers = numbers_of(listed([out]), 33)
    assert numbers is not None and set(firsts[:2]) <= set(numbers)
    clip = source.open_video(tmp_path / "film.mkv", source.default_cache())
    for number, path in zip(numbers, listed([out]), strict=True):
        with Image.open(path) as image, clip.resize.Bicubic(format=vs.RGB24).get_frame(number) as frame:
            assert np.array_equal(np.asarray(image), np.dstack([np.asarray(plane) for plane in frame]))
    content = content_of(out / keyframes.PAGE)
    assert [key["frame"] for key in content["keys"]] == list(numbers)
    assert sum(stretch["frames"] for key in content["keys"] for stretch in key["stretches"]) == 33
    capsys.readouterr()
    assert main([*command, "--device", "cpu"]) == 1
    assert "must hold no references yet, ref_000000.png exists already" in capsys.readouterr().err
    for wrong, message in (
        (["--like", "1.5"], "like must be 0..1, got 1.5"),
        (["--size", "5"], "size must be 64..1080"),
    ):
        assert main([*command[:3], str(tmp_path / "new"), *command[4:6], "--device", "cpu", *wrong]) == 1
        assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_the_shape_of_pixels(tmp_path: Path) -> None:
    """The picture is the stored frame, and its file states the shape of pixels."""
    clip = clip_of(80).std.SetFrameProps(_SARNum=16, _SARDen=11)
    keyframes._write_picture(clip, Keyframe(0, []), tmp_path)
    with Image.open(tmp_path / "ref_000000.png") as image:
        assert image.size == (64, 64)
        across, down = image.info["dpi"]
        assert down / across == pytest.approx(16 / 11, rel=1e-3)


KEYS = [
    Keyframe(0, [Stretch(1, 0, 10, 0, 0.0), Stretch(3, 20, 30, 20, 20 / 24, 0.83)]),
    Keyframe(10, [Stretch(2, 10, 20, 10, 10 / 24), Stretch(4, 30, 90, 30, 30 / 24, 0.91)]),
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("chromium") / "profile") as opened:
        yield opened


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / keyframes.PAGE
    clip = clip_of(*[80] * 10, *[200] * 10, *[82] * 10, *[190] * 60)
    path.write_text(keyframes.page("</script><b>&.mkv", "size 64", clip, KEYS, 4), encoding="utf-8")
    return path


def names(browser: Browser) -> list[str]:
    return list(browser.run("[...document.querySelectorAll('h2')].map(e => e.textContent)"))


def test_what_is_said(browser: Browser, shown: Path) -> None:
    """Text and named pictures show which stretches a key frame stands for; no error and no request occurs."""
    browser.open(shown, 1200, 1000)
    assert browser.run("document.title") == "</script><b>&.mkv: 2 key frames for 4 scenes"
    assert names(browser) == ["ref_000000.png", "ref_000010.png"]
    said = browser.run("[...document.querySelectorAll('section p')].map(e => e.textContent)")
    assert said == ["0:00:00.0, stands for 20 frames of 2 scenes", "0:00:00.4, stands for 70 frames of 2 scenes"]
    items = browser.run("[...document.querySelectorAll('li')].map(e => e.innerText.replaceAll('\\n', '; '))")
    assert items == [
        "scene 1; 0:00:00.0, 10 frames; its own stretch",
        "scene 3; 0:00:00.8, 10 frames; frame 20, similarity 0.830",
        "scene 2; 0:00:00.4, 10 frames; its own stretch",
        "scene 4; 0:00:01.2, 60 frames; frame 30, similarity 0.910",
    ]
    pictures = browser.run("[...document.querySelectorAll('img')].map(e => [e.alt, e.complete && e.naturalWidth])")
    assert pictures == [["Frame 0", 64], ["Frame 20", 64], ["Frame 10", 64], ["Frame 30", 64]]
    assert [event for event in browser.events if event["method"] in ("Log.entryAdded", "Runtime.exceptionThrown")] == []
    asked = [e["params"]["request"]["url"] for e in browser.events if e["method"] == "Network.requestWillBeSent"]
    assert {url.partition(":")[0] for url in asked} <= {"file", "data"}


def test_the_order_by_keyboard(browser: Browser, shown: Path) -> None:
    browser.open(shown, 1200, 1000)
    browser.press("Tab")
    assert browser.run("document.activeElement.tagName") == "SELECT"
    browser.press("ArrowDown")
    assert names(browser) == ["ref_000010.png", "ref_000000.png"]
    browser.press("ArrowDown")
    assert names(browser) == ["ref_000000.png", "ref_000010.png"]


@pytest.mark.parametrize("width", [320, 1600])
@pytest.mark.parametrize("dark", [False, True])
def test_every_screen(browser: Browser, shown: Path, width: int, dark: bool) -> None:
    """The page fits the width, and text has the contrast of WCAG AA (4.5 to 1)."""
    browser.open(shown, width, 900, dark)
    assert browser.run("document.documentElement.scrollWidth") <= width
    ratios = browser.run(CONTRAST)
    assert len(ratios) > 10 and min(ratios) >= 4.5
    ground = browser.seen({"x": 0, "y": 0, "width": 4, "height": 4}).mean()
    assert ground < 60 if dark else ground > 200

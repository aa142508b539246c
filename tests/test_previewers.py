"""Test the programs vsview and vspreview on a virtual display: what they show of a script, what reloads leak.

Test film/vsview.py, vsview's plugin for our frame properties and plans.

The programs need different versions of libraries: install vsexvc[vsview] and vspreview into two environments, and run
the tests in each.
"""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import vapoursynth as vs

ROOT = Path(__file__).resolve().parents[1]
RELOADS = 10
GROWTH = 3072  # KiB that a reload may leak; test_editors.py measures our share

SCRIPT = """
import vapoursynth as vs
core = vs.core
grey = [core.std.BlankClip(format=vs.YUV420P8, width=160, height=96, length=1, color=[30 + 15 * n, 128, 128])
        for n in range(12)]
clip = core.std.AddBorders(core.std.Splice(grey), 16, 16, 8, 8, color=[90, 128, 128])
clip = clip.std.SetFrameProps(_Matrix=1, _Transfer=1, _Primaries=1, _Range=0, _ChromaLocation=0)
ref = core.std.BlankClip(format=vs.RGB24, width=64, height=64, length=1, color=[200, 90, 40])
core.exvc.Colorize(clip, ref, model={model!r}, size=64, device="cpu").set_output()
"""

PLAN = """
source = "film.mkv"
frames = 12
[[scene]]
first = 0
reference = "{first}"
[[scene]]
first = 5
reference = {{5 = "b.png", 8 = "c.png"}}
[[scene]]
first = 7
[[scene]]
first = 9
grey = true
[[scene]]
first = 11
reference = false
"""
SCENES = [(0, 4, "a.png"), (5, 8, "b.png, c.png"), (9, 10, "grey"), (11, 11, "left as it is")]


@pytest.fixture(scope="module")
def display() -> Iterator[str]:
    """Start Xvfb with a screen of 1600x900; return its display."""
    if not shutil.which("Xvfb"):
        pytest.skip("there is no Xvfb: apt install xvfb")
    reading, writing = os.pipe()
    command = ["Xvfb", "-displayfd", str(writing), "-screen", "0", "1600x900x24", "-nolisten", "tcp"]
    with subprocess.Popen(command, pass_fds=[writing], stderr=subprocess.DEVNULL) as server:
        os.close(writing)
        with os.fdopen(reading) as pipe:
            number = pipe.readline().strip()
        assert number, "Xvfb did not start"
        yield f":{number}"
        server.terminate()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, model: str) -> Path:
    """Write script.vpy and plan.toml."""
    path = tmp_path_factory.mktemp("previewers")
    (path / "script.vpy").write_text(SCRIPT.format(model=model))
    (path / "plan.toml").write_text(PLAN.format(first="a.png").replace("[[scene]]\nfirst = 7\n", ""))
    return path


@pytest.mark.parametrize("program", ["vsview", "vspreview"])
def test_opened_sought_reloaded_and_closed(program: str, display: str, folder: Path) -> None:
    """A previewer shows the script's own pixels, also after each reload, and its memory hardly grows."""
    if not find_spec(program):
        pytest.skip(f"{program} is not installed here")
    command = [sys.executable, ROOT / "tests" / "previewer.py", program, "script.vpy", str(RELOADS), ".", "plan.toml"]
    # OpenGL is off: Mesa's LLVM conflicts with that of plugins in one process.
    plain = {"QT_XCB_GL_INTEGRATION": "none", "QT_WIDGETS_RHI": "0", "QT_QPA_PLATFORM": "xcb"}
    environment = {**os.environ, **plain, "DISPLAY": display, "HOME": str(folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    seen: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(program, "KiB:", seen["rss"], "threads:", seen["threads"])

    assert abs(np.array(seen["pixels"]) - by_the_script(folder)).mean() < 3
    resident = np.array(seen["rss"][2:])
    assert len(resident) == RELOADS
    assert resident[-3:].min() - resident[2:5].min() < GROWTH * (RELOADS - 5)
    assert seen["threads"][-1] <= seen["threads"][2]
    if program == "vsview":
        assert [tuple(scene) for scene in seen["scenes"]] == SCENES


def by_the_script(folder: Path) -> Any:
    """Return the pixels that previewer.py should record of frames 0, 7, 2, and of 2 after each reload."""
    runpy.run_path(str(folder / "script.vpy"))
    clip = vs.get_output(0).clip.resize.Bicubic(format=vs.RGB24)
    vs.clear_outputs()
    y, x = ((2 * np.arange(4) + 1) * size // 8 for size in (clip.height, clip.width))
    pixels = {n: np.stack([np.asarray(plane) for plane in clip.get_frame(n)], axis=-1).astype(int) for n in (0, 7, 2)}
    assert (np.ptp(pixels[7], axis=-1) > 10).mean() > 0.5
    return np.array([pixels[n][np.ix_(y, x)].reshape(16, 3) for n in (0, 7, 2, *[2] * RELOADS)])


class TestPlugin:
    """Test the plugin with vsview's own classes, without a window."""

    @pytest.fixture(scope="class")
    def plugin(self) -> Any:
        pytest.importorskip("vsview", reason="vsview is not installed here")
        from vsexvc.film import vsview

        return vsview

    def test_every_property_is_in_words(self, plugin: Any) -> None:
        from vsexvc.output import REPORTED

        formats = {one.prop_key: one for one in plugin.vsview_frameprops_register_formatter_properties()}
        assert set(formats) == set(REPORTED)
        values = {"ExvcReference": 3, "ExvcSimilarity": 0.51234, "ExvcSceneStart": 120}
        words = {name: formats[name].format_value(value) for name, value in values.items()}
        assert words == {
            "ExvcReference": "frame 3 of ref",
            "ExvcSimilarity": "0.512 of -1..1",
            "ExvcSceneStart": "frame 120",
        }
        assert all(plugin.vsview_frameprops_register_category_matchers().matches(name) for name in REPORTED)

    @pytest.mark.parametrize("first", ["a.png", ""])
    def test_a_plan_is_a_row_of_scenes(self, plugin: Any, tmp_path: Path, first: str) -> None:
        """Pictures may be missing or not chosen yet; a scene without one continues with the one before."""
        path = tmp_path / "plan.toml"
        path.write_text(PLAN.format(first=first).replace("8 =", "6 ="))
        parser = plugin.vsview_scening_register_parser()
        parser.get_color = lambda: "#204060"  # vsview's window sets it
        with path.open("rb") as file:
            row = parser.parse(file, "plan", Fraction(24))
        found = [(one.start, one.end, one.label) for one in row.ranges]
        assert found == [
            (0, 4, first or "no reference"),
            (5, 6, "b.png, c.png"),
            (7, 8, "c.png"),
            (9, 10, "grey"),
            (11, 11, "left as it is"),
        ]
        assert row.name == "plan"

    def test_no_plan(self, plugin: Any, tmp_path: Path) -> None:
        path = tmp_path / "other.toml"
        path.write_text("a = 1\n")
        with path.open("rb") as file, pytest.raises(ValueError, match="a must be one of source, frames, scene"):
            plugin.vsview_scening_register_parser().parse(file, "other", Fraction(24))

    def test_vsview_finds_it(self, plugin: Any) -> None:
        from importlib.metadata import entry_points

        for group in ("vsview.frameprops", "vsview.scening"):
            assert [one.load() for one in entry_points(group=group, name="vsexvc")] == [plugin]

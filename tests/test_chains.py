"""Test the scripts of docs/chains.md with their plugins and a tiny network, on films whose true frames are known."""

from __future__ import annotations

import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import vapoursynth as vs
from film import make_film, make_png

SCRIPTS = dict(
    re.findall(
        r"^## (.+?)\n.*?^```python\n(.*?)^```",
        (Path(__file__).resolve().parents[1] / "docs" / "chains.md").read_text(),
        re.MULTILINE | re.DOTALL,
    )
)
WIDTH, HEIGHT, COUNT = 96, 64, 12
SMALL: dict[str, Any] = {"size": 64}
SMALL_ONE = "import functools\nsmall = functools.partial(core.exvc.Colorize, **SMALL)\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str) -> Iterator[Path]:
    """Make the folder in which scripts run, with reference.png."""
    monkeypatch.chdir(tmp_path)
    make_png(tmp_path / "reference.png", 0, WIDTH, HEIGHT)
    monkeypatch.setitem(SMALL, "model", model)
    yield tmp_path
    vs.clear_outputs()


def run(heading: str, *plugins: str, **changed: int) -> vs.VideoNode:
    """Return the output of a script. `changed`: new values of numbers that the script sets."""
    for plugin in plugins:
        if not hasattr(vs.core, plugin):
            pytest.skip(f"there is no core.{plugin}: pip install vsexvc[chains]")
    script = SCRIPTS[heading]
    for name, value in changed.items():
        script, count = re.subn(rf"^{name} = .*$", f"{name} = {value}", script, flags=re.MULTILINE)
        assert count == 1
    script = script.replace("core.exvc.Colorize(", "small(").replace("core = vs.core\n", f"core = vs.core\n{SMALL_ONE}")
    Path("script.vpy").write_text(script)
    runpy.run_path("script.vpy", {"SMALL": SMALL})
    return vs.get_output(0).clip


def plane(clip: vs.VideoNode, n: int, number: int = 0) -> Any:
    with clip.get_frame(n) as frame:
        return np.array(frame[number]).astype(int)


def film(filters: str, lengths: tuple[int, ...] = (COUNT,), first: str = "null") -> tuple[vs.VideoNode, Any]:
    """Make film.mkv; return the film, and its luma (N, H, W) with the first filter alone."""
    for name, applied in (("clean.mkv", first), ("film.mkv", f"{first},{filters}")):
        codec = ("-c:v", "ffv1", "-pix_fmt", "yuv420p")
        make_film(Path(name), lengths, size=(WIDTH, HEIGHT), sound=0, codec=codec, filters=applied)
    clean = vs.core.bs.VideoSource("clean.mkv")
    return vs.core.bs.VideoSource("film.mkv"), np.stack([plane(clean, n) for n in range(clean.num_frames)])


def is_coloured(clip: vs.VideoNode, n: int) -> bool:
    return abs(plane(clip, n, 1) - 128).max() > 3 or abs(plane(clip, n, 2) - 128).max() > 3


def test_every_script_is_run() -> None:
    tested = {constant for one in TESTS for constant in one.__code__.co_consts if constant in SCRIPTS}
    assert tested == set(SCRIPTS)


@pytest.mark.parametrize("keep_grain", [False, True])
def test_denoise_colour_upscale(keep_grain: bool) -> None:
    noisy, clean = film("noise=alls=8:allf=t")
    own = plane(noisy, 5)

    def error(clip: vs.VideoNode, truth: Any, **moved: float) -> float:
        """Return the mean difference of a frame inside its borders; check that no pixel differs much."""
        difference = abs(plane(clip.resize.Bilinear(WIDTH, HEIGHT, **moved), 5) - truth)[4:-4, 4:-4]
        assert difference.max() < 40
        return float(difference.mean())

    out = run("Denoise, colour, upscale", "mv", "znedi3", keep_grain=keep_grain)
    assert (out.width, out.height, out.num_frames) == (2 * WIDTH, 2 * HEIGHT, COUNT)
    assert is_coloured(out, 5)
    print(f"from the clean luma: {error(out, clean[5]):.2f}, the film {error(noisy, clean[5]):.2f}")
    assert error(out, clean[5]) < (1 if keep_grain else 0.6) * error(noisy, clean[5])
    for x, y in ((0.5, 0), (-0.5, 0), (0, 0.5), (0, -0.5)):  # the grain has not moved: shifts increase the error
        assert not keep_grain or error(out, own, src_left=x, src_top=y) > error(out, own)


def test_inverse_telecine() -> None:
    """The script restores the original frames byte for byte."""
    telecined, clean = film("telecine=first_field=top:pattern=23,setfield=tff", (1,) * 24)
    assert telecined.num_frames == 30
    out = run("Inverse telecine, colour", "vivtc")
    assert (out.num_frames, out.fps) == (24, telecined.fps * 4 / 5)
    np.testing.assert_array_equal(np.stack([plane(out, n) for n in range(20)]), clean[:20])
    assert is_coloured(out, 5)


def test_pillarbox() -> None:
    """The sides keep their bytes, and the picture keeps its luma."""
    side = 16
    boxed, _ = film(f"pad=iw+{2 * side}:ih:{side}:0:olive")
    out = run("A 4:3 picture in a 16:9 frame", side=side)
    np.testing.assert_array_equal(plane(out, 5), plane(boxed, 5))
    for number, width in enumerate((side, side // 2, side // 2)):
        for part in (np.s_[:, :width], np.s_[:, -width:]):
            np.testing.assert_array_equal(plane(out, 5, number)[part], plane(boxed, 5, number)[part])
    assert is_coloured(out.std.Crop(left=side, right=side), 5)


def test_vulkan() -> None:
    noisy, clean = film("noise=alls=8:allf=t")
    try:
        out = run("Filters on a GPU by Vulkan", "knlmvk")
    except vs.Error as error:
        if "Vulkan" not in str(error):
            raise
        pytest.skip(f"there is no device with Vulkan 1.4: {error}")
    denoised = vs.core.knlmvk.KNLMeans(noisy, d=1, a=2, h=2.0, channels="Y").std.GPUDownload()
    np.testing.assert_array_equal(plane(out, 5), plane(denoised, 5))
    assert abs(plane(out, 5) - clean[5]).mean() < 0.8 * abs(plane(noisy, 5) - clean[5]).mean()
    assert is_coloured(out, 5)


def test_image_sequence() -> None:
    film("null", (COUNT, COUNT))
    Path("references").mkdir()
    for seed, first in enumerate((0, COUNT)):
        make_png(Path("references") / f"{first:06}.png", seed, WIDTH, HEIGHT)
    out = run("References from an image sequence", "imgseqs")
    assert [out.get_frame(n).props["ExvcReference"] for n in (0, COUNT - 1, COUNT)] == [0, 0, 1]
    assert is_coloured(out, 2) and is_coloured(out, COUNT)


TESTS = [test_denoise_colour_upscale, test_inverse_telecine, test_pillarbox, test_vulkan, test_image_sequence]

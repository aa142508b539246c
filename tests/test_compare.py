"""Test film/compare.py: the page has the filter's figures; in a real Chromium slider and keys change what is shown.

The pictures have flat colours, so that each pixel shows its picture.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import film
import numpy as np
import pytest
import vapoursynth as vs
from chromium import Browser, chromium
from numpy.typing import NDArray
from PIL import Image

from vsexvc.film import compare, source, trust
from vsexvc.film.plan import timecode
from vsexvc.film.references import open_references
from vsexvc.film.trust import Suited
from vsexvc.plugin import colorize

NAMES = ["a.png", "</script><b>&amp; a long name that goes on and on.png", "ü.png"]
COLOURS = (200, 60, 60), (60, 170, 60), (70, 70, 220)
GREYS = 90, 160


def content_of(path: Path) -> dict[str, Any]:
    (found,) = re.findall(r'<script type="application/json" id="content">(.*?)</script>', path.read_text(), re.DOTALL)
    return dict(json.loads(found))


def flat(colour: tuple[int, int, int] | int) -> Image.Image:
    return Image.new("RGB" if isinstance(colour, tuple) else "L", (320, 180), colour)


def rows(count: int) -> list[compare.Row]:
    similar = np.tile(np.linspace(0, 1, 160), (90, 1))
    return [
        compare.Row(
            100 * n,
            4.0 * n,
            flat(grey),
            [compare.Cell(flat(COLOURS[i]), similar, 0.5 + 0.1 * (i == n)) for i in range(count)],
        )
        for n, grey in enumerate(GREYS)
    ]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("chromium") / "profile") as opened:
        yield opened


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "three.html"
    path.write_text(compare.page("film.mkv", "size 216", NAMES, [flat(c) for c in COLOURS], rows(3)), encoding="utf-8")
    return path


def test_the_first_frames_of_a_scene_are_read_once(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's frame and the typical frame are chosen in one reading of a scene."""
    film.make_film(tmp_path / "film.mkv", (6, 7), sound=0)
    chosen: list[int] = []

    def shown_frames(small: vs.VideoNode, scene: source.Scene) -> source.Shown:
        chosen.append(scene.first)
        return source.shown_frames(small, scene)

    for module in (compare, trust):
        monkeypatch.setattr(module, "shown_frames", shown_frames)
    options = {"model": model, "size": 64, "device": "cpu"}
    reference = film.make_png(tmp_path / "0.png", 0)
    found = compare.write(tmp_path / "film.mkv", [reference], tmp_path / "page.html", tmp_path, **options)
    assert chosen == [0, 6] and [scene.first for scene in sorted(found, key=lambda scene: scene.first)] == [0, 6]


def test_the_figures_are_the_filters(model: str, tmp_path: Path) -> None:
    film.make_film(tmp_path / "film.mkv", (6, 7), sound=0)
    paths = [film.make_png(tmp_path / f"{n}.png", n) for n in (0, 1)]
    out, index = tmp_path / "page.html", tmp_path / "index"
    told = []
    options = {"model": model, "size": 64, "device": "cpu"}
    compare.write(
        tmp_path / "film.mkv",
        paths,
        out,
        index,
        stages=lambda what: lambda done, of: told.append((what, done, of)),
        **options,
    )
    assert told[-4:] == [("colouring", n, 4) for n in (1, 2, 3, 4)]
    content = content_of(out)
    assert [(row["frame"], row["time"]) for row in content["rows"]] == [(0, "0:00:00.0"), (6, "0:00:00.2")]
    assert [reference["name"] for reference in content["references"]] == ["0.png", "1.png"]
    clip = source.open_video(tmp_path / "film.mkv", index)
    for i, path in enumerate(paths):
        coloured = colorize(clip, open_references([path], index).clip, **options)
        for row in content["rows"]:
            similarity = coloured.get_frame(row["frame"]).props["ExvcSimilarity"]
            assert row["cells"][i]["similarity"] == pytest.approx(similarity, abs=1e-6)
    inside = tmp_path / "inside.html"
    compare.write(tmp_path / "film.mkv", paths[:1], inside, index, frames=[8, 3, 8], **options)
    assert [row["frame"] for row in content_of(inside)["rows"]] == [3, 8]
    with pytest.raises(ValueError, match=r"frames must be 0\.\.12, got 13"):
        compare.write(tmp_path / "film.mkv", paths, out, index, frames=[13], **options)
    with pytest.raises(ValueError, match=r"Colorize: size must be 64\.\.1080, got 5"):
        compare.write(tmp_path / "film.mkv", paths, out, index, model=model, size=5)
    with pytest.raises(FileNotFoundError, match=r"page '.*page\.html' must be in an existing folder"):
        compare.write(tmp_path / "film.mkv", paths, tmp_path / "nowhere" / "page.html", index, **options)
    with pytest.raises(ValueError, match=r"page must be a \.html, got '.*film\.mkv'"):
        compare.write(tmp_path / "film.mkv", paths, tmp_path / "film.mkv", index, **options)
    assert sorted(path.name for path in tmp_path.glob("*.html*")) == ["inside.html", "page.html"]


def test_no_black_frame_is_shown(model: str, tmp_path: Path) -> None:
    film.make_film(tmp_path / "film.mkv", (20, 7), sound=0, filters="fade=in:0:12")
    film.make_png(tmp_path / "a.png", 0)
    out, index = tmp_path / "page.html", tmp_path / "index"
    compare.write(tmp_path / "film.mkv", [tmp_path / "a.png"], out, index, model=model, size=64, device="cpu")
    (first, second) = content_of(out)["rows"]
    assert 6 < first["frame"] < 20 and second["frame"] == 20
    assert first["time"] == timecode(first["frame"] / film.RATE)


def test_which_frames() -> None:
    assert compare._spread([0, 5], 8) == [0, 5]
    assert compare._spread(list(range(0, 1000, 10)), 3) == [0, 500, 990]


def test_nothing_is_fetched(three: Path) -> None:
    text = three.read_text()
    assert not re.findall(r"https?://|@import|<link|url\(", text)
    assert content_of(three)["references"][1]["name"] == NAMES[1]


def wipes(browser: Browser) -> list[dict[str, float]]:
    """Return the areas of the pictures."""
    return list(
        browser.run(
            "[...document.querySelectorAll('.wipe')].map(e => { const r = e.getBoundingClientRect();"
            "return {x: r.x, y: r.y + scrollY, width: r.width, height: r.height}; })"
        )
    )


def at(picture: NDArray[np.uint8], share: float) -> tuple[int, ...]:
    """Return the colour at a share of the width, below the labels."""
    return tuple(int(c) for c in picture[picture.shape[0] * 3 // 4, int(share * picture.shape[1])])


def is_like(seen: tuple[int, ...], colour: tuple[int, int, int] | int) -> bool:
    wanted = (colour,) * 3 if isinstance(colour, int) else colour
    return max(abs(a - b) for a, b in zip(seen, wanted, strict=True)) <= 6


def shows(browser: Browser, share: float, left: Any, right: Any) -> None:
    """Check that every picture shows `left` up to that share, then `right`; both map row and column to a colour."""
    areas = wipes(browser)
    assert len(areas) == 6
    for number, area in enumerate(areas):
        row, column = divmod(number, 3)
        picture = browser.seen(area)
        for x in (0.03, share - 0.03, share + 0.03, 0.97):
            if 0 < x < 1:
                wanted = left(row, column) if x < share else right(row, column)
                assert is_like(at(picture, x), wanted), (row, column, x)


def test_the_line_by_keyboard(browser: Browser, three: Path) -> None:
    """Tab, arrows, Home, End and Space work all controls without a mouse."""
    browser.open(three, 1200, 1000)
    grey, colour = (lambda row, column: GREYS[row]), (lambda row, column: COLOURS[column])
    shows(browser, 0.5, grey, colour)
    browser.press("Tab")
    assert browser.run("document.activeElement.id") == "left"
    browser.press("Tab")
    assert browser.run("document.activeElement.id") == "line"
    for _ in range(20):
        browser.press("ArrowRight")
    assert browser.run("document.querySelector('output').textContent") == "70 %"
    shows(browser, 0.7, grey, colour)
    browser.press("End")
    shows(browser, 1.0, grey, colour)
    browser.press("Home")
    shows(browser, 0.0, grey, colour)
    browser.press("Tab")
    count = "[...document.querySelectorAll('figcaption img')].filter(e => e.offsetWidth).length"
    assert (browser.run("document.activeElement.id"), browser.run(count)) == ("maps", 6)
    browser.press(" ")
    assert browser.run(count) == 0


def test_another_reference_on_the_left(browser: Browser, three: Path) -> None:
    browser.open(three, 1200, 1000)
    browser.press("Tab")
    for _ in range(3):  # grey, map, A, B
        browser.press("ArrowDown")
    assert browser.run("document.getElementById('left').selectedOptions[0].textContent") == "B: " + NAMES[1]
    shows(browser, 0.5, lambda row, column: COLOURS[1], lambda row, column: COLOURS[column])


def test_the_line_by_mouse(browser: Browser, three: Path) -> None:
    browser.open(three, 1200, 1000)
    area = wipes(browser)[0]
    y = area["y"] + area["height"] / 2
    browser.mouse("mousePressed", area["x"] + 0.3 * area["width"], y)
    browser.mouse("mouseMoved", area["x"] + 0.8 * area["width"], y)
    browser.mouse("mouseReleased", area["x"] + 0.8 * area["width"], y)
    shows(browser, 0.8, lambda row, column: GREYS[row], lambda row, column: COLOURS[column])


def test_the_line_by_finger(browser: Browser, three: Path) -> None:
    """A finger that scrolls the page does not move the line."""
    browser.open(three, 390, 844)
    browser.ask("Emulation.setTouchEmulationEnabled", enabled=True, maxTouchPoints=1)
    try:
        wipe = "document.querySelectorAll('.wipe')[1]"
        browser.run(f"{wipe}.scrollIntoView({{block: 'center'}})")
        x, y, width, height = browser.run(f"(r => [r.x, r.y, r.width, r.height])({wipe}.getBoundingClientRect())")
        line, begin, middle = "Number(document.getElementById('line').value)", x + 0.2 * width, y + height / 2
        browser.touch(*((begin + 0.05 * up, middle - up) for up in range(0, 60, 5)))
        assert browser.run(line) == 50
        browser.run(f"{wipe}.scrollIntoView({{block: 'center'}})")
        browser.touch(*((begin + 0.1 * step * width, middle) for step in range(6)))
        assert browser.run(line) == pytest.approx(70, abs=1)
    finally:
        browser.ask("Emulation.setTouchEmulationEnabled", enabled=False)


def test_what_is_said(browser: Browser, three: Path) -> None:
    """The page shows exact names and the best of each row; each control has a name; no error and no request occurs."""
    browser.open(three, 1200, 1000)
    assert browser.run("document.title") == "film.mkv with 3 references"
    captions = browser.run("[...document.querySelectorAll('figcaption')].map(e => e.innerText)")
    assert [("most similar" in text, "0.600" in text) for text in captions] == [
        (column == row, column == row) for row in (0, 1) for column in (0, 1, 2)
    ]
    assert NAMES[1] in captions[1] and "ü.png" in captions[2]
    assert browser.run("document.querySelector('h2').textContent") == "Frame 0, 0:00:00.0"
    nodes = browser.ask("Accessibility.getFullAXTree")["nodes"]
    named = {role: [] for role in ("slider", "combobox", "checkbox", "image")}
    for node in nodes:
        if not node["ignored"] and node["role"]["value"] in named:
            named[node["role"]["value"]].append(node["name"]["value"])
    assert all(all(names) for names in named.values())
    # 6 pictures, 6 maps and the maps' scale have names; the text beside the 3 references names these.
    assert {role: len(names) for role, names in named.items()} == {
        "slider": 1,
        "combobox": 1,
        "checkbox": 1,
        "image": 13,
    }
    assert [event for event in browser.events if event["method"] in ("Log.entryAdded", "Runtime.exceptionThrown")] == []
    asked = [e["params"]["request"]["url"] for e in browser.events if e["method"] == "Network.requestWillBeSent"]
    assert {url.partition(":")[0] for url in asked} <= {"file", "data"}


CONTRAST = """
(() => {
  const parts = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (text) => parts(text).slice(0, 3).map((c) => c / 255)
    .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (e) => { while (e && (parts(getComputedStyle(e).backgroundColor)[3] ?? 1) === 0) e = e.parentElement;
    return getComputedStyle(e ?? document.body).backgroundColor; };
  return [...document.querySelectorAll("h1, h2, p, label, output, li, figcaption div, strong, span")].map((e) => {
    const pair = [light(getComputedStyle(e).color), light(behind(e))].sort((a, b) => b - a);
    return (pair[0] + 0.05) / (pair[1] + 0.05);
  });
})()
"""


@pytest.mark.parametrize("width", [320, 700, 1600])
@pytest.mark.parametrize("dark", [False, True])
def test_every_screen(browser: Browser, tmp_path: Path, three: Path, width: int, dark: bool) -> None:
    """The page fits the width, and text has the contrast of WCAG AA (4.5 to 1)."""
    browser.open(three, width, 900, dark)
    assert browser.run("document.documentElement.scrollWidth") <= width
    ratios = browser.run(CONTRAST)
    assert len(ratios) > 20 and min(ratios) >= 4.5
    ground = browser.seen({"x": 0, "y": 0, "width": 4, "height": 4}).mean()
    assert ground < 60 if dark else ground > 200
    columns = len({area["x"] for area in wipes(browser)})
    assert columns == {320: 1, 700: 2, 1600: 3}[width]


def test_one_reference(browser: Browser, tmp_path: Path) -> None:
    """A single reference is not marked as the best."""
    path = tmp_path / "one.html"
    path.write_text(compare.page("film.mkv", "", NAMES[:1], [flat(COLOURS[0])], rows(1)), encoding="utf-8")
    browser.open(path, 1200, 1000)
    assert browser.run("document.title") == "film.mkv with one reference"
    assert browser.run("document.querySelectorAll('.best').length") == 0
    assert browser.run("['summary', 'scenes'].map(id => document.getElementById(id).offsetHeight)") == [0, 0]


@pytest.mark.parametrize(("width", "dark"), [(320, False), (1200, True)])
def test_scenes_that_suit_least(browser: Browser, tmp_path: Path, width: int, dark: bool) -> None:
    """The table lists scenes whose reference is missing or weak, worst first; it fits the screen and is legible."""
    scenes = [
        Suited(7, 600, 0.2, {NAMES[1]: 1.0}),
        Suited(2, 40, 0.4, {"a.png": 1.0}),
        Suited(1, 0, 0.8, {"a.png": 1.0}),
    ]
    path = tmp_path / "scenes.html"
    path.write_text(compare.page("film.mkv", "", NAMES, [flat(c) for c in COLOURS], rows(3), scenes), encoding="utf-8")
    browser.open(path, width, 1000, dark)
    table = "[...document.querySelectorAll('#scenes tbody tr')].map(e => [...e.children].map(c => c.textContent))"
    assert browser.run(table) == [["7", "600", "0.200", "missing", NAMES[1]], ["2", "40", "0.400", "weak", "a.png"]]
    assert browser.run("document.getElementById('summary').innerText").startswith("of 3 scenes 1 lack a reference")
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert min(browser.run(CONTRAST.replace("figcaption div", "th, td"))) >= 4.5

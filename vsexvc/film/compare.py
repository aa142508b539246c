"""Write an HTML page that shows frames of a film with each of several references.

The pictures are results of Colorize, with the recurrence of their scene. compare.html is the page's template; source.py
reads the films.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import vapoursynth as vs
from numpy.typing import NDArray
from PIL import Image

from vsexvc.film.page import embedded, filled, save
from vsexvc.film.plan import check_writable, timecode
from vsexvc.film.references import listed, open_references
from vsexvc.film.source import (
    Stages,
    find_scenes,
    open_video,
    picture,
    shown_frames,
    silent,
    small_luma,
    with_scenes,
)
from vsexvc.film.trust import Suited, measure, suited, summary, weakest
from vsexvc.plugin import colorize
from vsexvc.support.errors import first_line
from vsexvc.weights.store import DEFAULT

FRAMES = 8  # frames that are shown if none are named
_BOX, _MAP_BOX, _THUMB_BOX = (960, 720), (480, 360), (320, 240)  # largest sizes of pictures
_STEP = 20  # the scale of similarities begins and ends at multiples of 1/20
# RGB from least to most similar: each is lighter than the one before, so that they differ without colours too.
_RAMP = ((40, 16, 72), (110, 36, 108), (196, 64, 84), (240, 132, 56), (252, 232, 150))


@dataclass(frozen=True)
class Cell:
    """Hold a frame with one reference: its colours, its similarity map (0..1) and the mean similarity (-1..1)."""

    coloured: Image.Image
    similarity_map: NDArray[np.floating]
    similarity: float


@dataclass(frozen=True)
class Row:
    """Hold a frame of the film: its luma, and its result with each reference."""

    frame: int
    seconds: float | None
    grey: Image.Image
    cells: Sequence[Cell]


def write(
    film: Path,
    references: Sequence[Path],
    out: Path,
    cache: Path,
    frames: Sequence[int] | None = None,
    stages: Stages = silent,
    interlaced: str | None = None,
    fps: Fraction | None = None,
    **options: Any,
) -> list[Suited]:
    """Colour frames of a film by each reference and write the page.

    Args:
        film: the film's file.
        references: pictures, folders of pictures, and clips (the first frame of each).
        out: the page; an existing one is replaced.
        cache: see source.open_video.
        frames: numbers of the shown frames; the scene before each is computed too. None: the first frames of scenes
            spread over the film, or, if these are black, the typical ones.
        stages: see source.Stages.
        interlaced, fps: see source.open_video.
        options: arguments of Colorize.

    Returns:
        How well the best reference suits each scene, worst first; empty if `frames` are named.

    Raises:
        OSError, ValueError: a file cannot be read or written, or an argument is out of range.
    """
    check_writable("page", out, ".html", ".htm")
    clip = open_video(film, cache, interlaced, fps)
    paths = listed(references)
    if frames is not None and (wrong := [n for n in frames if not 0 <= n < clip.num_frames]):
        raise ValueError(f"frames must be 0..{clip.num_frames - 1}, got {wrong[0]}")
    try:
        stills = [open_references([path], cache, stills=True).clip for path in paths]
        for still in stills:
            _Column(clip, still, options)  # raises errors before the film is read
        shown: dict[int, float] = {}
        found: list[Suited] = []
        if frames is None:
            shown, found, clip = _of_scenes(clip, stills, [path.name for path in paths], stages, options)
            frames = list(shown)
        numbers = sorted(set(frames))
        columns = (_Column(clip, still, options) for still in stills)  # one at a time: two would take twice the memory
        greys, cells = _coloured(columns, numbers, len(stills), stages("colouring"))
        rows = [Row(number, shown.get(number), greys[number], cells[number]) for number in numbers]
        thumbs = [picture(still, 0, _THUMB_BOX) for still in stills]
    except vs.Error as error:
        raise ValueError(first_line(error)) from None
    given = {"model": DEFAULT, "size": 216, **{name: value for name, value in options.items() if value is not None}}
    facts = ", ".join(f"{name} {value}" for name, value in given.items())
    save(out, page(film.name, facts, [path.name for path in paths], thumbs, rows, found))
    return found


def _coloured(
    columns: Iterable[_Column], numbers: Sequence[int], count: int, progress: Callable[[int, int], None]
) -> tuple[dict[int, Image.Image], dict[int, list[Cell]]]:
    """Return each frame in grey, and as each column colours it. numbers: ascending; count: of columns."""
    greys: dict[int, Image.Image] = {}
    cells: dict[int, list[Cell]] = {number: [] for number in numbers}
    for done, column in enumerate(columns):
        for n, number in enumerate(numbers, 1):
            cell, greys[number] = column.at(number)
            cells[number].append(cell)
            progress(done * len(numbers) + n, count * len(numbers))
    return greys, cells


def _of_scenes(
    clip: vs.VideoNode, stills: list[vs.VideoNode], names: Sequence[str], stages: Stages, options: dict[str, Any]
) -> tuple[dict[int, float], list[Suited], vs.VideoNode]:
    """Return the frames to show with their seconds, how well the references suit the scenes, and the clip with scenes.

    Args:
        clip: the film.
        stills: the references.
        names: names of their files.
        stages: see source.Stages.
        options: arguments of Colorize; `sc_threshold` is removed.
    """
    size = options.get("size", 216)
    scenes = find_scenes(clip, options.pop("sc_threshold", None), size, stages)
    small, shown, typical = small_luma(clip, size), dict[int, float](), dict[int, int]()
    for scene in _spread(scenes, FRAMES):
        number, typical[scene.first] = shown_frames(small, scene)
        shown[number] = scene.seconds + (float((number - scene.first) / clip.fps) if clip.fps else 0.0)
    firsts = [scene.first for scene in scenes]
    sums = measure(clip, scenes, vs.core.std.Splice(stills, mismatch=True), None, stages, typical, **options)
    return shown, suited(sums, firsts, None, names), with_scenes(clip, firsts)


def page(
    title: str,
    facts: str,
    names: Sequence[str],
    thumbs: Sequence[Image.Image],
    rows: Sequence[Row],
    scenes: Sequence[Suited] = (),
) -> str:
    """Return the page's HTML.

    Args:
        title: name of the film.
        facts: how it was coloured.
        names: names of the references, each with its picture in `thumbs` and a cell in each row.
        scenes: the scenes, worst first; the page names the first ones.
    """
    maps = np.concatenate([cell.similarity_map.ravel() for row in rows for cell in row.cells])
    low, high = (float(share) for share in np.percentile(maps, (1, 99)))
    low, high = np.floor(low * _STEP) / _STEP, np.ceil(high * _STEP) / _STEP
    high = max(high, low + 1 / _STEP)
    content = {
        "title": title,
        "facts": facts,
        "summary": summary(scenes) if scenes else "",
        "scenes": [
            {
                "scene": scene.scene,
                "frame": scene.first,
                "similarity": scene.similarity,
                "verdict": scene.verdict,
                "references": list(scene.shares),
            }
            for scene in weakest(scenes)
        ],
        "scale": {"low": low, "high": high, "ramp": [f"rgb{colour}" for colour in _RAMP]},
        "references": [{"name": name, "picture": embedded(thumb)} for name, thumb in zip(names, thumbs, strict=True)],
        "rows": [
            {
                "frame": row.frame,
                "time": None if row.seconds is None else timecode(row.seconds),
                "grey": embedded(row.grey),
                "cells": [
                    {
                        "coloured": embedded(cell.coloured),
                        "map": embedded(_painted((cell.similarity_map - low) / (high - low))),
                        "similarity": cell.similarity,
                    }
                    for cell in row.cells
                ],
            }
            for row in rows
        ],
    }
    return filled("compare.html", content)


class _Column:
    """Colour a film by one reference."""

    def __init__(self, clip: vs.VideoNode, reference: vs.VideoNode, options: dict[str, Any]) -> None:
        format = vs.YUV444P16 if clip.format.color_family == vs.RGB else None
        self._coloured = colorize(clip, reference, format=format, **options)
        self._grey = vs.core.std.ShufflePlanes(self._coloured, 0, vs.GRAY)
        self._similarity = colorize(clip, reference, output="similarity", **options)

    def at(self, number: int) -> tuple[Cell, Image.Image]:
        """Return a coloured frame, and its luma."""
        coloured = picture(self._coloured, number, _BOX)
        share = np.asarray(picture(self._similarity, number, _MAP_BOX))[..., 0] / 255
        with self._similarity.get_frame(number) as frame:
            mean = frame.props["ExvcSimilarity"]
        assert isinstance(mean, float)
        return Cell(coloured, share, mean), picture(self._grey, number, _BOX)


def _spread[Item](items: Sequence[Item], count: int) -> list[Item]:
    """Return at most `count` items, spread from the first to the last."""
    if len(items) <= count:
        return list(items)
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]


def _painted(share: NDArray[np.floating]) -> Image.Image:
    """Paint values 0..1 in the colours of the ramp."""
    steps = np.linspace(0, 1, len(_RAMP))
    return Image.fromarray(
        np.stack([np.interp(share, steps, c) for c in zip(*_RAMP, strict=True)], -1).astype(np.uint8)
    )

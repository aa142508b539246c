"""Paper for an evaluation: tables, curves and contact sheets. Draws what it is given and measures nothing.

Pictures are (H, W, 3) uint8, RGB; PNG files are written by OpenCV.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import batched
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
_FONT = cv2.FONT_HERSHEY_SIMPLEX
# Okabe and Ito's colours, which colour-blind readers can tell apart.
_COLOURS = (
    (0, 0, 0), (230, 159, 0), (86, 180, 233), (0, 158, 115),
    (204, 121, 167), (240, 228, 66), (0, 114, 178), (213, 94, 0),
)  # fmt: skip
_THUMBNAIL = (256, 144)  # columns, rows
_ROWS_OF_A_PAGE = 12


@dataclass(frozen=True)
class Table:
    """One measure's figures, for people and for evaluation.json.

    Attributes:
        title: what was measured, and on what.
        header, rows: as `table` takes them.
        document: the same figures and their parts, to be written as JSON.
        notes: sentences that go below.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    document: Mapping[str, object]
    notes: Sequence[str] = field(default=())

    def as_markdown(self) -> str:
        return "\n\n".join([f"### {self.title}", table(self.header, self.rows), *self.notes])

    def as_json(self) -> Mapping[str, object]:
        return self.document


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns also line up on a terminal; the first column leans left, the others right."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = [c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))]
        return f"| {' | '.join(padded)} |"

    rule = "|".join("-" * (w + 2) if i == 0 else "-" * (w + 1) + ":" for i, w in enumerate(widths))
    return "\n".join([line(header), f"|{rule}|", *map(line, rows)])


def write_png(path: Path, picture: Picture) -> None:
    """Raises OSError if the file cannot be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), np.ascontiguousarray(picture[..., ::-1])):
        raise OSError(f"evaluate: cannot write {path}")


def write_json(path: Path, document: Mapping[str, object]) -> None:
    """null in the place of nan, which JSON has not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_without_nan(document), indent=1) + "\n")


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and value != value else value


def sheet(rows: Mapping[str, Sequence[Picture]], columns: Sequence[str]) -> Picture:
    """Contact sheet: one labelled row of pictures per name, one column per frame; all pictures of one size."""
    lines = []
    for name, pictures in rows.items():
        labelled = [
            _label(picture, f"{name}, {column}" if i == 0 else column)
            for i, (picture, column) in enumerate(zip(pictures, columns, strict=True))
        ]
        lines.append(np.concatenate(labelled, axis=1))
    return np.concatenate(lines, axis=0)


def thumbnail(picture: Picture, size: tuple[int, int] = _THUMBNAIL) -> Picture:
    """Shrinks or grows a picture to fit into a cell of `size` columns and rows, its aspect kept, on grey."""
    width, height = size
    scale = min(width / picture.shape[1], height / picture.shape[0])
    inner = max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))
    small = cv2.resize(picture, inner, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
    cell = np.full((height, width, 3), 128, np.uint8)
    cell[top : top + inner[1], left : left + inner[0]] = small
    return cell


def write_overview(path: Path, rows: Mapping[str, Sequence[Picture]], columns: Sequence[str]) -> None:
    """A contact sheet of thumbnails, 12 rows to a page; several pages get _1, _2, ... after the name of `path`."""
    pages = [dict(page) for page in batched(rows.items(), _ROWS_OF_A_PAGE)]
    for number, page in enumerate(pages, 1):
        suffix = f"_{number}" if len(pages) > 1 else ""
        write_png(path.with_name(f"{path.stem}{suffix}.png"), sheet(page, columns))


def curves(series: Mapping[str, Sequence[float]], title: str, first_x: int) -> Picture:
    """Line plot, 960 x 540.

    Args:
        series: name -> values at first_x, first_x + 1, ...; lengths may differ.
        title: drawn above, with the meaning of both axes.
        first_x: what the first value stands at.
    """
    width, height, left, right, top, bottom = 960, 540, 60, 285, 40, 40
    canvas = np.full((height, width, 3), 255, np.uint8)
    values = [v for line in series.values() for v in line]
    low, high = np.floor(min(values)), np.ceil(max(values))
    high = max(high, low + 1)
    last_x = max(first_x + max(len(line) for line in series.values()) - 1, first_x + 1)

    def at(x: float, y: float) -> tuple[int, int]:
        px = left + (x - first_x) / (last_x - first_x) * (width - left - right)
        py = top + (high - y) / (high - low) * (height - top - bottom)
        return round(px), round(py)

    for y in np.arange(low, high + 1, np.ceil((high - low) / 10)):
        cv2.line(canvas, at(first_x, y), at(last_x, y), (220, 220, 220), 1)
        _text(canvas, f"{y:.0f}", (left - 30, at(first_x, y)[1] + 5))
    for x in range(first_x, last_x + 1, math.ceil((last_x - first_x + 1) / 10)):
        cv2.line(canvas, at(x, low), at(x, high), (235, 235, 235), 1)
        _text(canvas, str(x), (at(x, low)[0] - 8, height - bottom + 22))
    for i, (name, line) in enumerate(series.items()):
        colour = _COLOURS[i % len(_COLOURS)]
        points = np.array([at(first_x + k, y) for k, y in enumerate(line)], np.int32)
        cv2.polylines(canvas, [points], False, colour, 2, cv2.LINE_AA)
        cv2.line(canvas, (width - right + 15, top + 24 * i), (width - right + 40, top + 24 * i), colour, 3)
        _text(canvas, name, (width - right + 48, top + 24 * i + 5))
    _text(canvas, title, (left, 24))
    return canvas


def _label(picture: Picture, text: str) -> Picture:
    """In the corner; of what does not fit the end, where names differ and the column stands."""
    labelled, cut = picture.copy(), 0
    whole = text
    while cut < len(whole) and cv2.getTextSize(text, _FONT, 0.45, 1)[0][0] + 10 > picture.shape[1]:
        cut += 1
        text = f"..{whole[cut:]}"
    (width, height), below = cv2.getTextSize(text, _FONT, 0.45, 1)
    labelled[: height + below + 6, : width + 10] //= 4
    cv2.putText(labelled, text, (5, height + 3), _FONT, 0.45, (255, 255, 255), 1, cv2.LINE_AA)
    return labelled


def _text(canvas: Picture, text: str, place: tuple[int, int]) -> None:
    cv2.putText(canvas, text, place, _FONT, 0.45, (40, 40, 40), 1, cv2.LINE_AA)

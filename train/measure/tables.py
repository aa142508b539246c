"""Draw the tables, curves and contact sheets of an evaluation.

Pictures are (H, W, 3) uint8, RGB; PNG files are written by OpenCV.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import batched, cycle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
_FONT = cv2.FONT_HERSHEY_SIMPLEX
# Okabe and Ito's colours, which colour-blind readers can distinguish.
_COLOURS = (
    (0, 0, 0), (230, 159, 0), (86, 180, 233), (0, 158, 115),
    (204, 121, 167), (240, 228, 66), (0, 114, 178), (213, 94, 0),
)  # fmt: skip
_THUMBNAIL = (256, 144)  # columns, rows
_ROWS_OF_A_PAGE = 12


@dataclass(frozen=True)
class Table:
    """Hold one measure's figures, for the report and for evaluation.json.

    Attributes:
        title: the measure and its data.
        header, rows: arguments of `table`.
        document: the same figures with details, for JSON.
        notes: sentences below the table.
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
    """Format a Markdown table whose columns also line up on a terminal; the first is left-aligned, the others right."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = [c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))]
        return f"| {' | '.join(padded)} |"

    rule = "|".join("-" * (w + 2) if i == 0 else "-" * (w + 1) + ":" for i, w in enumerate(widths))
    return "\n".join([line(header), f"|{rule}|", *map(line, rows)])


def write_png(path: Path, picture: Picture) -> None:
    """Write a PNG file. Raise OSError if it cannot be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), np.ascontiguousarray(picture[..., ::-1])):
        raise OSError(f"evaluate: cannot write {path}")


def write_json(path: Path, document: Mapping[str, object]) -> None:
    """Write JSON, with null for nan, which JSON cannot hold."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_without_nan(document), indent=1) + "\n")


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and value != value else value


def sheet(rows: Mapping[str, Sequence[Picture]], columns: Sequence[str]) -> Picture:
    """Draw a contact sheet: one labelled row of pictures per name, one column per frame; all pictures of one size."""
    lines = []
    for name, pictures in rows.items():
        labelled = [
            _label(picture, f"{name}, {column}" if i == 0 else column)
            for i, (picture, column) in enumerate(zip(pictures, columns, strict=True))
        ]
        lines.append(np.concatenate(labelled, axis=1))
    return np.concatenate(lines, axis=0)


def thumbnail(picture: Picture, size: tuple[int, int] = _THUMBNAIL) -> Picture:
    """Resize a picture to fit into a cell of `size` columns and rows, its aspect kept, on grey."""
    width, height = size
    scale = min(width / picture.shape[1], height / picture.shape[0])
    inner = max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))
    small = cv2.resize(picture, inner, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
    cell = np.full((height, width, 3), 128, np.uint8)
    cell[top : top + inner[1], left : left + inner[0]] = small
    return cell


def write_overview(path: Path, rows: Mapping[str, Sequence[Picture]], columns: Sequence[str]) -> None:
    """Write a contact sheet of thumbnails, 12 rows a page; several pages get _1, _2, ... after the name of `path`."""
    pages = [dict(page) for page in batched(rows.items(), _ROWS_OF_A_PAGE)]
    for number, page in enumerate(pages, 1):
        suffix = f"_{number}" if len(pages) > 1 else ""
        write_png(path.with_name(f"{path.stem}{suffix}.png"), sheet(page, columns))


def curves(series: Mapping[str, Sequence[float]], title: str, first_x: int) -> Picture:
    """Draw a line plot, 960 x 540.

    Args:
        series: name -> values at first_x, first_x + 1, ...; lengths may differ.
        title: text above the plot, which names both axes.
        first_x: x of the first value.
    """
    figure = Figure(figsize=(9.6, 5.4), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    for (name, line), colour in zip(series.items(), cycle(_COLOURS), strict=False):
        axes.plot(range(first_x, first_x + len(line)), line, label=name, color=tuple(np.divide(colour, 255)))
    axes.set_title(title, fontsize="medium")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color="0.9")
    figure.legend(loc="outside right upper")
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3]


def _label(picture: Picture, text: str) -> Picture:
    """Write text in the corner; if it does not fit, only its end, where names differ."""
    labelled, cut = picture.copy(), 0
    whole = text
    while cut < len(whole) and cv2.getTextSize(text, _FONT, 0.45, 1)[0][0] + 10 > picture.shape[1]:
        cut += 1
        text = f"..{whole[cut:]}"
    (width, height), below = cv2.getTextSize(text, _FONT, 0.45, 1)
    labelled[: height + below + 6, : width + 10] //= 4
    cv2.putText(labelled, text, (5, height + 3), _FONT, 0.45, (255, 255, 255), 1, cv2.LINE_AA)
    return labelled

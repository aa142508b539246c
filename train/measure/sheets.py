"""Draw contact sheets of a folder: two for each clip (own and foreign reference), an overview, and the curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from train.measure import tables
from train.measure.baselines import Clip, grey, truth
from train.measure.scores import to_rgb

Pictures = Mapping[str, Sequence[tables.Picture]]


def shown_frames(clip: Clip) -> list[int]:
    """Return the frames of a contact sheet, counted from 0, spread from the second to the last."""
    return sorted({round(k) for k in np.linspace(1, len(clip.rgb) - 1, 4)})


class Sheets:
    """Write the sheets of a folder, clip by clip.

    Attributes:
        out: folder to write into; None: nothing is written.
        folder: name of the folder of clips.
    """

    def __init__(self, out: Path | None, folder: str) -> None:
        self.out, self.folder = out, folder
        self._overview: dict[str, dict[str, tables.Picture]] = {}

    def add(self, clip: Clip, shown: list[int], results: Mapping[str, Tensor], flow: Sequence[tables.Picture]) -> None:
        """Write a clip's sheet.

        Args:
            clip: the true clip.
            shown: frames of the sheet.
            results: by method, ab (N - 1, 2, H, W).
            flow: the shown frames by optical flow.
        """
        of_all = {"truth": truth(clip), "grey": grey(clip), **results}
        sheet = {name: [to_rgb(clip, ab)[k - 1] for k in shown] for name, ab in of_all.items()}
        sheet["optical flow"] = list(flow)
        self._write(clip.path.stem, sheet, shown)
        row = {name: sheet[name][-1] for name in ("truth", "warped colour", "model", "optical flow")}
        self._overview[clip.path.name] = {name: tables.thumbnail(picture) for name, picture in row.items()}

    def add_foreign(self, clip: Clip, shown: list[int], other: Clip, output: Tensor, warped: Tensor) -> None:
        """Write the sheet of a clip coloured by another clip's first frame. Call `add` first.

        Args:
            clip: the true clip.
            shown: frames of the sheet.
            other: clip whose first frame is the reference.
            output: ab (N, 2, H, W) of the model.
            warped: ab (N, 2, H, W) of the correspondence alone.
        """
        sheet = {"reference": [other.rgb[0]] * len(shown), "truth": [clip.rgb[k] for k in shown]}
        for name, ab in (("warped colour", warped), ("model", output)):
            sheet[name] = [to_rgb(clip, ab)[k] for k in shown]
        self._write(f"{clip.path.stem}_foreign", sheet, shown)
        row = {"foreign reference": other.rgb[0], "model, foreign": sheet["model"][-1]}
        self._overview[clip.path.name] |= {name: tables.thumbnail(picture) for name, picture in row.items()}

    def finish(self, lines: Mapping[str, Sequence[float]], title: str) -> None:
        """Write the curves, of values from frame 2 on, and the overview."""
        if self.out is None:
            return
        tables.write_png(self.out / f"psnr_{self.folder}.png", tables.curves(lines, title, first_x=2))
        if self._overview:
            pictures = {name: list(row.values()) for name, row in self._overview.items()}
            columns = list(next(iter(self._overview.values())))
            tables.write_overview(self.out / f"overview_{self.folder}.png", pictures, columns)

    def _write(self, name: str, rows: Pictures, shown: list[int]) -> None:
        if self.out is not None:
            columns = [f"frame {k + 1}" for k in shown]
            tables.write_png(self.out / "sheets" / self.folder / f"{name}.png", tables.sheet(rows, columns))

"""Show Colorize's frame properties in words, and plans as scenes, in the previewer vsview.

vsview finds this module by the entry points of pyproject.toml and calls the hooks. No other module imports it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

from vsview.app.tools.frameprops.api import CategoryMatcher, FormatterProperty
from vsview.app.tools.frameprops.api import hookimpl as for_properties
from vsview.app.tools.scening.api import Parser, RangeFrame, SceneRow
from vsview.app.tools.scening.api import hookimpl as for_scenes

WORDS: dict[str, Callable[[Any], str]] = {
    "ExvcReference": lambda number: f"frame {number} of ref",
    "ExvcSimilarity": lambda mean: f"{mean:.3f} of -1..1",
    "ExvcSceneStart": lambda number: f"frame {number}",
}


class PlanParser(Parser):
    """Read a plan (see plan.py) as one row of vsview's scenes; the label of each names its references."""

    filter = Parser.FileFilter("vsexvc plan", "toml")

    def parse(self, io: BinaryIO, name: str, fps: Fraction) -> SceneRow:
        """Read a plan, finished or not.

        Args:
            io: the open file.
            name: name of the row.
            fps: not used, since plans count frames.

        Returns:
            The row; a range ends with the last frame of its scene.

        Raises:
            ValueError: the file is not a plan.
        """
        from vsexvc.film import plan  # imported late: it takes seconds, and vsview loads its plugins when it starts

        read = plan.read(Path(io.name), is_draft=True)
        ranges = []
        for first, stop in zip(read.firsts, [*read.firsts[1:], read.frames], strict=True):
            left = next((left for left in read.left if left.first == first), None)
            shown = slice(max(0, bisect_right(read.ref_frames, first) - 1), bisect_left(read.ref_frames, stop))
            label = ", ".join(path.name for path in read.references[shown]) or "no reference"
            if left:
                label = "grey" if left.is_grey else "left as it is"
            ranges.append(RangeFrame(start=first, end=stop - 1, label=label))
        return SceneRow(color=self.get_color(), name=name, ranges=ranges)


@for_properties
def vsview_frameprops_register_category_matchers() -> CategoryMatcher:
    return CategoryMatcher(name="Colorize", order=15, prefixes={"Exvc"})


@for_properties
def vsview_frameprops_register_formatter_properties() -> list[FormatterProperty]:
    return [FormatterProperty(prop_key=key, value_formatter=words) for key, words in WORDS.items()]


@for_scenes
def vsview_scening_register_parser() -> Parser:
    return PlanParser()

"""Colour faces by another person's photograph; measure whether skin, and only skin, gets the reference's skin colour.

Every photograph is stretched to 384x216. Pairs are (i, i + 7) and (i, i + 13) modulo their number, by name; the second
is the reference. The median ab in the box of the result is compared with the median ab in the box of the reference.

The median alone would accept a face of scattered colours, and a picture with the colour of skin everywhere. Three more
figures detect these: the spread within the box, the hue, and the share of the rest that is taken for skin. Rows without
a network give the scale: "own colours" is the truth, "skin all over" the reference's median everywhere.

Axes: H = 216, W = 384; ab = (a, b) of CIE Lab, -128..127.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from train.measure.alone import colour_alone, stretched
from train.measure.baselines import HEIGHT, WIDTH, Clip
from train.measure.tables import Table
from vsexvc.nets.network import ColorizationNet
from vsexvc.session import Session
from vsexvc.support.progress import followed

BOXES = "boxes.csv"
SHIFTS = (7, 13)
NEAR = 10.0  # distance in ab up to which a colour counts as the skin's
_FAR = 20.0  # distance in ab from which a true colour belongs to something else
_SKINLESS = 0.2  # most of a reference's rest that may have its skin's colour, for `rest_as_skin`
_GREY = 1 / 3  # share of the reference's chroma below which a face was left grey

Plane = NDArray[np.floating]


@dataclass(frozen=True)
class Face:
    """Hold a photograph and its box of skin: rows and columns of the stretched picture."""

    clip: Clip
    box: tuple[slice, slice]

    @cached_property
    def ab(self) -> Plane:
        """Return the true colours, (H, W, 2)."""
        return self.clip.lab[0, 1:].permute(1, 2, 0).numpy()

    @cached_property
    def skin(self) -> Plane:
        """Return the median ab of the box, (2,)."""
        return _median(self.ab[self.box])

    @cached_property
    def rest(self) -> NDArray[np.bool_]:
        """Return (H, W), True outside the box."""
        outside = np.ones(self.ab.shape[:2], bool)
        outside[self.box] = False
        return outside


@dataclass(frozen=True)
class Skin:
    """Compare one result with its reference.

    Attributes:
        distance: distance of the two medians, in ab.
        spread: 90th percentile of the distance of the box's pixels from the reference's median, in ab.
        hue: angle between the two medians, 0..180 degrees; None: the result was left grey.
        grey: whether the chroma of the result's median is below a third of the reference's.
        rest_as_skin: share of the pixels outside the box, with a true colour far from the skin's, that got a colour
            near the reference's median; None: too much of the reference outside its box has that colour.
    """

    distance: float
    spread: float
    hue: float | None
    grey: bool
    rest_as_skin: float | None


def read_faces(folder: Path) -> list[Face]:
    """Read the photographs that boxes.csv names (file, x0, y0, x1, y1 in pixels of the file), by name.

    Raises:
        OSError: boxes.csv is missing, or a photograph cannot be read.
        ValueError: columns are missing, or a box is not inside its photograph.
    """
    with (folder / BOXES).open(newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: row.get("file") or "")
    return [_face(folder, row) for row in rows]


def _face(folder: Path, row: dict[str, str]) -> Face:
    try:
        path = folder / row["file"]
        x0, y0, x1, y1 = (float(row[side]) for side in ("x0", "y0", "x1", "y1"))
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"faces: {folder / BOXES} must have columns file, x0, y0, x1, y1, got {row}") from None
    clip, (height, width) = stretched(path)
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise ValueError(f"faces: the box must lie in {path}, {width}x{height}, got {x0:g}, {y0:g}, {x1:g}, {y1:g}")
    return Face(clip, (_lines(y0, y1, HEIGHT / height), _lines(x0, x1, WIDTH / width)))


def _lines(first: float, last: float, scale: float) -> slice:
    start = round(first * scale)
    return slice(start, max(start + 1, round(last * scale)))


def pairs(count: int) -> list[tuple[int, int]]:
    """List (frame, reference) of every pair among `count` photographs; none is its own reference."""
    found = [(i, (i + shift) % count) for shift in SHIFTS for i in range(count)]
    return [(frame, reference) for frame, reference in found if frame != reference]


def compare(result: Plane, face: Face, reference: Face) -> Skin:
    """Measure a result, ab (H, W, 2), of `face` coloured by `reference`."""
    skin = reference.skin
    median = _median(result[face.box])
    grey = bool(np.hypot(*median) < _GREY * np.hypot(*skin))
    angle = np.degrees(np.arctan2(median[1], median[0]) - np.arctan2(skin[1], skin[0]))
    rest = None
    if (_distance(reference.ab, skin)[reference.rest] < NEAR).mean() < _SKINLESS:
        other = face.rest & (_distance(face.ab, face.skin) > _FAR)
        rest = float((_distance(result, skin)[other] < NEAR).mean()) if other.any() else None
    return Skin(
        distance=float(np.hypot(*(median - skin))),
        spread=float(np.percentile(_distance(result[face.box], skin), 90)),
        hue=None if grey else float(abs((angle + 180) % 360 - 180)),
        grey=grey,
        rest_as_skin=rest,
    )


def _median(ab: Plane) -> Plane:
    return np.asarray(np.median(ab.reshape(-1, 2), axis=0))


def _distance(ab: Plane, colour: Plane) -> Plane:
    return np.asarray(np.linalg.norm(ab - colour, axis=-1))


def summarise(found: Sequence[Skin]) -> dict[str, float]:
    """Average over the pairs that have a value; `grey` is a count and `worst hue` a maximum."""

    def mean(values: Sequence[float | None]) -> float:
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if known else float("nan")

    hues = [skin.hue for skin in found if skin.hue is not None]
    return {
        "distance": mean([skin.distance for skin in found]),
        "within 10": mean([float(skin.distance < NEAR) for skin in found]),
        "grey": float(sum(skin.grey for skin in found)),
        "spread": mean([skin.spread for skin in found]),
        "hue": mean(hues),
        "worst hue": max(hues, default=float("nan")),
        "rest as skin": mean([skin.rest_as_skin for skin in found]),
    }


def measure(network: ColorizationNet | None, folder: Path, *, every: int = 1, limit: int | None = None) -> Table:
    """Colour every pair of the folder's photographs.

    Args:
        network: in evaluation mode; None: rows without a network only.
        folder: holds the photographs and boxes.csv.
        every: step through the pairs.
        limit: only so many pairs, the first.

    Raises:
        OSError, ValueError: see read_faces; there are fewer than two photographs.
    """
    faces = read_faces(folder)
    chosen = pairs(len(faces))[::every][:limit]
    if not chosen:
        raise ValueError(f"faces: {folder} must have two photographs or more, got {len(faces)}")
    found: dict[str, list[Skin]] = {}
    for i, k in followed(chosen, "faces", " pairs", head="train"):
        for name, ab in _results(network, faces[i], faces[k]).items():
            found.setdefault(name, []).append(compare(ab, faces[i], faces[k]))
    return _table(folder, [(faces[i].clip.path.name, faces[k].clip.path.name) for i, k in chosen], found)


def _results(network: ColorizationNet | None, face: Face, reference: Face) -> dict[str, Plane]:
    grey = np.zeros_like(face.ab)
    results = {"own colours": face.ab, "grey": grey, "skin all over": grey + reference.skin}
    if network is not None:
        session = Session(network)
        coloured = colour_alone(session, face.clip.lab[:, :1], session.reference(reference.clip.lab))
        results |= {name: _plane(ab) for name, ab in coloured.items()}
    return results


def _plane(ab: Tensor) -> Plane:
    return ab[0].permute(1, 2, 0).numpy()


def _table(folder: Path, names: list[tuple[str, str]], found: dict[str, list[Skin]]) -> Table:
    summaries = {name: summarise(skins) for name, skins in found.items()}
    formats = {
        "distance": ".1f", "within 10": ".0%", "grey": ".0f", "spread": ".1f",
        "hue": ".0f", "worst hue": ".0f", "rest as skin": ".1%",
    }  # fmt: skip
    rows = [[name, *(format(row[key], digits) for key, digits in formats.items())] for name, row in summaries.items()]
    document = {"folder": folder.name, "rows": summaries, "pairs": names}
    per_pair = {name: [asdict(skin) for skin in skins] for name, skins in found.items()}
    return Table(
        title=f"Faces: {folder.name}, {len(names)} pairs",
        header=("result", *formats),
        rows=rows,
        document=document | {"per_pair": per_pair},
    )

"""Propose which scenes of a film should get no colours: title cards, and scenes that have real colours already.

A tint, such as sepia, is no real colour: its hue and strength depend on the lightness alone.
"""

from __future__ import annotations

import numpy as np
import torch
import vapoursynth as vs
from numpy.typing import NDArray
from PIL import Image

from vsexvc.colour.lab import rgb_to_lab
from vsexvc.film.source import Scene, picture

CARD, COLOURED = "card", "coloured"

_BOX = (640, 480)  # the largest size in which frames are examined
_COLOUR = 4.5  # root mean square of ab that lightness does not explain; tinted frames have less than 3.9
_GROUND, _LETTERS = 25.0, 45.0  # highest lightness of a card's ground; least difference of its letters from it
_FLAT, _SPREAD = 0.7, 8.0  # least share of ground; largest difference of its lightness from the median
_LEAST_LETTERS, _MOST_BETWEEN = 0.003, 2.0  # least share of letters; most edges, as a multiple of the letters
_STROKES = 3.0  # strokes of letters that a row crosses, on average


def propose(clip: vs.VideoNode, scene: Scene) -> str:
    """Return the kind of most of three frames of a scene: CARD, COLOURED, or "" for frames to be coloured.

    Raises:
        ValueError: a frame cannot be read.
    """
    length = scene.stop - scene.first
    kinds = [kind_of(picture(clip, scene.first + length * part // 4, _BOX)) for part in (1, 2, 3)]
    return next((kind for kind in (CARD, COLOURED) if kinds.count(kind) >= 2), "")


def kind_of(image: Image.Image) -> str:
    """Return the kind of one RGB picture: CARD, COLOURED or ""."""
    rgb = torch.from_numpy(np.asarray(image, np.float32) / 255.0).permute(2, 0, 1)[None]
    lab = rgb_to_lab(rgb)[0].double().numpy()
    if _unexplained(lab[:, ::4, ::4].reshape(3, -1)) > _COLOUR:
        return COLOURED
    return CARD if _is_card(lab[0]) else ""


def _unexplained(lab: NDArray[np.float64]) -> float:
    """Return the root mean square of a and b minus their best cubic in L. lab: (3, n)."""
    basis = np.vander(lab[0] / 100.0, 4)
    rest: NDArray[np.float64] = lab[1:].T - basis @ np.linalg.lstsq(basis, lab[1:].T)[0]
    return float(np.sqrt((rest**2).sum(1).mean()))


def _is_card(lightness: NDArray[np.float64]) -> bool:
    """Return whether a picture is white letters on a flat black ground. lightness: (h, w) 0..100."""
    ground = float(np.median(lightness))
    is_ground = np.abs(lightness - ground) < _SPREAD
    is_letter = lightness > ground + _LETTERS
    letters = float(is_letter.mean())
    between = 1.0 - letters - float(is_ground.mean())
    if ground > _GROUND or is_ground.mean() < _FLAT or letters < _LEAST_LETTERS or between > _MOST_BETWEEN * letters:
        return False
    strokes = (np.diff(is_letter.astype(np.int8), axis=1, prepend=0) > 0).sum(1)
    return float(strokes[strokes > 0].mean()) >= _STROKES

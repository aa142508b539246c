"""Define where scenes begin in a run of small grey pictures: cuts, dissolves and fades. NumPy only.

This module holds the rules; scenes.py applies them to clips. Everything is computed from the products of the pictures
without their means. The cosine of two pictures, their similarity, depends on their content; exposure, flicker and the
level of a fade do not change it. A frame `before` is the last of a scene, and a frame `after`, `gap` frames later, the
first of the next, if

1. no frame of the few up to `before` is similar to any of the few from `after`. Flashes and black frames inside a scene
   fail here: the scene continues after them.
2. the frames on both sides are similar to each other. Fast motion fails here: its frames differ everywhere.
3. each frame between is a weighted sum of both pictures; the weight passes from the first to the second and does not
   turn back; and where it passes, the picture loses contrast. A dissolve of unlike pictures loses half of its energy, a
   fade all of it. Pans and zooms lose none.

A pale flash or a few black frames inside a scene are replaced by the frame before them. A flat frame has no content, so
it is a side only if both sides are flat and differ in level. Where such pairs overlap, the narrowest gap stays, except
that a wider one replaces several successive ones inside it, which are the parts of a long dissolve.
The new scene begins where its picture has the larger weight. The result depends only on the pictures. Their products
are exact in float32: the order of summation does not change a bit.

Axis letters: t frames, h rows, w columns, n pairs of `before` and `after`, m frames between them.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

DEFAULT_THRESHOLD = 0.3  # least difference of both sides
SIZE = (32, 18)  # width and height of the pictures: more would no longer be exact in float32
BACK, AHEAD = 64, 28  # frames before and after a frame that decide on it

_Floats = NDArray[np.float64]
_Ints = NDArray[np.intp]

_GAPS = (1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 41, 49)  # frames from `before` to `after`; 1 is a cut
_RUN = 4  # frames that are compared on either side: a flash is shorter
_LONG = 8  # frames over which motion is measured, at most
_NOISE = 12.0  # highest energy (variance) of a flat frame: that of grain
_LEVEL = 20.0  # difference of the means from which flat frames are unlike
_SAME = 0.5  # least similarity of the frames around a flash inside a scene
_BORDER = 24  # highest level of a pixel in a black border
_LONG_BLACK = 24  # flat frames after which a scene begins in any case
# Fitted on three generated films (tests/scene_film.py): of a pair against its sides, of the frames between.
_STEADY, _STEADY_LONG = 2.5, 1.5  # least ratios of the differences across and within
_GRADUAL = 0.05  # further difference for gradual changes: motion resembles these more than cuts
_MOST_REST, _LEAST_LOSS, _MOST_TURNS = 0.3, 0.3, 0.01  # the first two of pictures with nothing in common


class _Compared(NamedTuple):
    """Hold the comparisons of all pictures of a window.

    Attributes:
        products: (t, t) mean products of the pictures without their means.
        energy: (t,) its diagonal.
        similarity: (t, t) -1..1.
        across: (t, t) the highest similarity, 0..1, of the _RUN frames up to one and those from another.
        steps: (t, _RUN - 1) similarities of neighbours in the _RUN frames from each frame.
    """

    products: _Floats
    energy: _Floats
    similarity: _Floats
    across: _Floats
    steps: _Floats


class _Vote(NamedTuple):
    """Hold a pair of sides; the better ones are less. first: the frame that the scene begins with."""

    gap: int
    similarity: float
    first: int
    before: int
    after: int


def find_changes(pictures: NDArray[np.uint8], threshold: float = DEFAULT_THRESHOLD) -> list[int]:
    """Return the frames that begin a new scene, ascending; never frame 0.

    Results within BACK frames of the start, or AHEAD frames of the end, are uncertain unless these are the film's own.

    Args:
        pictures: (t, h, w) consecutive frames, 8-bit luma of full range, h * w at most 576.
        threshold: least difference of both sides, 0 (any) to 1 (none).
    """
    compared = _compare(pictures)
    votes = [vote for gap in _GAPS if gap < len(pictures) for vote in _votes(compared, gap, threshold)]
    kept: list[_Vote] = []
    votes = sorted(votes + _after_black(compared.energy))
    for vote in votes:
        if all(vote.first >= other.first + _RUN or other.first >= vote.first + _RUN for other in kept) and all(
            vote.after <= other.before or vote.before >= other.after for other in kept
        ):
            kept.append(vote)
    return sorted(vote.first for vote in _whole(kept, votes))


def _whole(kept: list[_Vote], votes: list[_Vote]) -> list[_Vote]:
    """Return the kept pairs; a wider one replaces several without a scene between them. votes: ascending."""
    for wide in votes:
        parts = [vote for vote in kept if 1 < vote.gap < wide.gap and wide.before < vote.first <= wide.after]
        steady = (later.before - vote.after for vote, later in pairwise(sorted(parts, key=lambda vote: vote.first)))
        if len(parts) > 1 and max(steady) < _RUN:
            kept = [*(vote for vote in kept if vote not in parts), wide]
    return kept


def _compare(pictures: NDArray[np.uint8]) -> _Compared:
    count = len(pictures)
    seen = pictures.reshape(count, -1)
    seen = seen[:, seen.max(0) > _BORDER]
    if not seen.shape[1]:
        seen = pictures.reshape(count, -1)
    values = seen.astype(np.float32) - 128.0
    raw = np.einsum("im,jm->ij", values, values).astype(np.float64)
    sums = values.sum(1, dtype=np.float64)
    mean = sums / values.shape[1]
    products = (raw - np.multiply.outer(sums, mean)) / values.shape[1]
    energy = np.diagonal(products).copy()
    alike = _NOISE * np.exp(-(((mean[:, None] - mean) / _LEVEL) ** 2))  # similarity of flat frames
    scale = np.sqrt(energy + _NOISE)
    similarity = (products + alike) / (scale[:, None] * scale)
    frames = _without_flashes(energy, similarity)
    products, energy, similarity = products[np.ix_(frames, frames)], energy[frames], similarity[np.ix_(frames, frames)]
    frames = np.arange(count)
    across = similarity
    for _ in range(_RUN - 1):  # the edges repeated
        across = np.maximum(similarity, across[(frames - 1).clip(0)])
    row = across
    for _ in range(_RUN - 1):
        across = np.maximum(row, across[:, (frames + 1).clip(None, count - 1)])
    one = (frames[:, None] + np.arange(_RUN - 1)).clip(None, count - 1)
    steps = similarity[one, (one + 1).clip(None, count - 1)]
    return _Compared(products, energy, similarity, across.clip(0.0), steps)


def _without_flashes(energy: _Floats, similarity: _Floats) -> _Ints:
    """Return the frame to compare in place of each frame: for a flash, or black frames inside a scene, the one before.

    They have less than half of the contrast of the frames on either side, which are similar.
    """
    count = len(energy)
    frames = np.arange(count)
    for length in range(1, min(_RUN, count - 1)):
        before = np.arange(count - length - 1)
        after = before + length + 1
        inside = before[:, None] + np.arange(1, length + 1)
        is_pale = energy[inside].max(1) < np.minimum(energy[before], energy[after]) / 2.0
        flashes = inside[is_pale & (similarity[before, after] > _SAME)]
        frames[flashes] = (flashes[:, :1] - 1).repeat(length, axis=1)
    return frames[frames]


def _votes(compared: _Compared, gap: int, threshold: float) -> list[_Vote]:
    """Return the pairs with this gap that are both sides of a change."""
    _, energy, similarity, all_across, steps = compared
    last = len(energy) - 1
    unlike = 1.0 - np.diagonal(all_across, gap)
    flat = energy < _NOISE
    sides = flat[:-gap] == flat[gap:] if gap == 1 else ~(flat[:-gap] | flat[gap:])
    least = threshold if gap == 1 else min(1.0, threshold + _GRADUAL)
    before = np.flatnonzero(sides & (unlike > least))
    after, unlike = before + gap, unlike[before]
    near = np.concatenate([steps[(before - _RUN + 1).clip(0)], steps[after]], axis=1)
    typical = np.where(flat[before], near.min(1), np.median(near, axis=1))
    steady = unlike**2 > _STEADY * (1.01 - typical)
    back, ahead = (before - min(gap, _LONG)).clip(0), (after + min(gap, _LONG)).clip(None, last)
    within = (similarity[back, before] + similarity[after, ahead]) / 2.0
    if gap > 1:
        steady &= unlike > _STEADY_LONG * (1.01 - within)
    before, across = before[steady], 1.0 - unlike[steady]
    if not len(before):
        return []
    passes, place = (np.ones(len(before), bool), before * 0) if gap == 1 else _passes(compared, before, gap)
    return [
        _Vote(gap, float(across[n]), int(before[n] + 1 + place[n]), int(before[n]), int(before[n]) + gap)
        for n in np.flatnonzero(passes)
    ]


def _passes(compared: _Compared, before: _Ints, gap: int) -> tuple[NDArray[np.bool_], _Ints]:
    """Return whether the frames between pass from one picture to the other, and the first that is more of the second.

    Args:
        before: (n,) first sides.
        gap: 2 or more.
    """
    products, energy = compared.products, compared.energy
    after, last = before + gap, len(energy) - 1
    between = before[:, None] + np.arange(1, gap)
    old, new, both = (value[:, None] for value in (energy[before], energy[after], products[before, after]))
    with_old, with_new = products[between, before[:, None]], products[between, after[:, None]]
    inside = energy[between]
    scale = old * new - both * both  # above 0: lit pictures that are unlike
    weight_old = (with_old * new - with_new * both) / scale
    weight_new = (with_new * old - with_old * both) / scale
    rest = (inside - weight_old * with_old - weight_new * with_new).clip(0.0).sum(1) / (inside + _NOISE).sum(1)
    lead = weight_old - weight_new  # 1 to -1
    path = np.concatenate([np.ones_like(old), lead, -np.ones_like(old)], axis=1)
    turns = np.abs(np.diff(path, axis=1)).sum(1) / 2.0 - 1.0
    place = np.where((lead < 0.0).any(1), (lead < 0.0).argmax(1), gap - 1)
    # Contrast relative to that without a change: the mean of a third of the frames, around the place.
    mean_old = energy[(before[:, None] - np.arange(_RUN)).clip(0)].mean(1, keepdims=True)
    mean_new = energy[(after[:, None] + np.arange(_RUN)).clip(None, last)].mean(1, keepdims=True)
    share = ((1.0 - lead) / 2.0).clip(0.0, 1.0)
    contrast = inside / ((1.0 - share) * mean_old + share * mean_new + _NOISE)
    third = max(1, (gap - 1) // 3)
    start = (place - (third + 1) // 2).clip(0, gap - 1 - third)
    contrast = np.take_along_axis(contrast, start[:, None] + np.arange(third), axis=1).mean(1)
    unlike = 1.0 - (both / np.sqrt(old * new))[:, 0].clip(0.0)
    is_mixed = (rest < _MOST_REST * unlike) & (contrast < 1.0 - _LEAST_LOSS * unlike)
    return is_mixed & (scale[:, 0] > 0.05 * old[:, 0] * new[:, 0]) & (turns < _MOST_TURNS * (gap + 2)), place


def _after_black(energy: _Floats) -> list[_Vote]:
    """Return the first lit frame after many flat ones."""
    found, run = [], 0
    for n, flat in enumerate(energy < _NOISE):
        if not flat and run >= _LONG_BLACK:
            found.append(_Vote(_GAPS[-1] + 1, 0.0, n, n - 1, n))
        run = run + 1 if flat else 0
    return found

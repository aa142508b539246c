"""Choose which of several references a position takes its colour from: one of them, never a mixture.

The paper has one reference. A mixture of references that contradict each other would be grey.
stretch.py and session.py give the handicaps: of distance in time, and of remembered frames.

Axes: B batch, R references, h and w cells of the correspondence (1/4 of the network's size).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_MEANING = 1 / 3  # weight of the cosine by meaning; that of the details has 1. It is the ratio of their temperatures.
_AROUND = 5  # side in cells of the square over which a score is averaged
_ALIKE = 0.03  # cosine by which a reference's score may be lower for it to contradict the chosen one
CONTRADICTION = 30.0  # difference in ab of two references from which they contradict each other


class Found(NamedTuple):
    """Hold the match of a frame in one reference.

    Attributes:
        detail: (B, 4, h, w), L_centred, a, b and similarity; (B, 3, h, w), without L, where there is no meaning.
        meaning: (B, 4, h, w), the same by meaning alone; None without semantic features.
        place: (B, 3, h, w), see nets/places.py; None where colours are not taken from the reference's pixels.
    """

    detail: Tensor
    meaning: Tensor | None = None
    place: Tensor | None = None


class Choice(NamedTuple):
    """Hold what was chosen.

    Attributes:
        found: the chosen match.
        taken: (B, R, h, w), 1 where a position takes its colour from that reference, else 0.
        contested: (B, 1, h, w), 1 where a reference that matches as well has another colour, else 0.
    """

    found: Found
    taken: Tensor
    contested: Tensor


def choose(found: Sequence[Found], handicaps: Tensor | None) -> Choice:
    """Take at each position the result of the best reference.

    Args:
        found: the match in each reference.
        handicaps: (B, R), cosines that are subtracted from a reference's score; None: zeros.
    """
    if len(found) == 1:
        every = torch.ones_like(found[0].detail[:, :1])
        return Choice(found[0], every, torch.zeros_like(every))
    each = []
    for one in found:
        score = one.detail[:, -1:]
        if one.meaning is not None:
            score = score + _MEANING * one.meaning[:, -1:]
        each.append(_around(score))
    scores = torch.cat(each, dim=1)
    best = (scores if handicaps is None else scores - handicaps[:, :, None, None]).argmax(1, keepdim=True)
    taken = torch.zeros_like(scores).scatter_(1, best, 1.0)

    def taken_of(each: Sequence[Tensor]) -> Tensor:
        return (torch.stack(tuple(each), dim=1) * taken.unsqueeze(2)).sum(1)

    meanings = [one.meaning for one in found if one.meaning is not None]
    places = [one.place for one in found if one.place is not None]
    detail = taken_of([one.detail for one in found])
    apart = [torch.linalg.vector_norm(one.detail[:, -3:-1] - detail[:, -3:-1], dim=1, keepdim=True) for one in found]
    matches_as_well = scores > scores.gather(1, best) - _ALIKE
    contradicts = (matches_as_well & (torch.cat(apart, dim=1) > CONTRADICTION)).any(1, keepdim=True)
    contested = (_around(contradicts.float()) > 0.5).float()  # of an area: the matches of single cells are not sure
    chosen = Found(detail, *(taken_of(some) if some else None for some in (meanings, places)))
    return Choice(chosen, taken, contested)


def _around(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, _AROUND, 1, _AROUND // 2, count_include_pad=False)

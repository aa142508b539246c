"""Choose which of several references a position takes its colour from: one of them, never a mixture.

The paper has one reference. A mixture of references that contradict each other would be grey. The choice is made at
half the size of the correspondence. Then network.py matches each position in its own reference alone, so several
references cost little more than one. stretch.py and session.py give the handicaps: of distance in time, and of
remembered frames.

Axes: B batch, R references, h and w positions of the choice (1/8 of the network's size).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_MEANING = 1 / 3  # weight of the cosine by meaning; that of the details has 1. It is the ratio of their temperatures.
_AROUND = 3  # side in positions of the square over which a score is averaged
_ALIKE = 0.03  # cosine by which a reference's score may be lower for it to contradict the chosen one
CONTRADICTION = 30.0  # difference in ab of two references from which they contradict each other


class Found(NamedTuple):
    """Hold the best match of each position in one reference.

    Attributes:
        ab: (B, 2, h, w).
        similarity: (B, 1, h, w), by details.
        by_meaning: (B, 1, h, w), the best match's by meaning alone; None without semantic features.
    """

    ab: Tensor
    similarity: Tensor
    by_meaning: Tensor | None = None


class Choice(NamedTuple):
    """Hold what was chosen.

    Attributes:
        taken: (B, R, h, w), 1 where a position takes its colour from that reference, else 0.
        contested: (B, 1, h, w), 1 where a reference that matches as well has another colour, else 0.
    """

    taken: Tensor
    contested: Tensor


def choose(found: Sequence[Found], handicaps: Tensor | None) -> Choice:
    """Choose at each position the best reference.

    Args:
        found: the best match in each reference.
        handicaps: (B, R), cosines that are subtracted from a reference's score; None: zeros.
    """
    each = []
    for one in found:
        score = one.similarity
        if one.by_meaning is not None:
            score = score + _MEANING * one.by_meaning
        each.append(_around(score))
    scores = torch.cat(each, dim=1)
    best = (scores if handicaps is None else scores - handicaps[:, :, None, None]).argmax(1, keepdim=True)
    taken = torch.zeros_like(scores).scatter_(1, best, 1.0)
    colours = torch.stack([one.ab for one in found], dim=1)  # (B, R, 2, h, w)
    chosen = (colours * taken.unsqueeze(2)).sum(1, keepdim=True)
    apart = torch.linalg.vector_norm(colours - chosen, dim=2)
    matches_as_well = scores > scores.gather(1, best) - _ALIKE
    contradicts = (matches_as_well & (apart > CONTRADICTION)).any(1, keepdim=True)
    # Of an area: the matches of single positions are not sure.
    return Choice(taken, (_around(contradicts.float()) > 0.5).float())


def _around(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, _AROUND, 1, _AROUND // 2, count_include_pad=False)

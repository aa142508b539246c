"""Choose which of several references a position takes its colour from: one of them, never a mixture.

The paper has one reference. A mixture of references that contradict each other would be grey.

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


class Found(NamedTuple):
    """Hold the match of a frame in one reference.

    Attributes:
        detail: (B, 4, h, w), L_centred, a, b and similarity; (B, 3, h, w), without L, where there is no meaning.
        meaning: (B, 4, h, w), the same by meaning alone; None without semantic features.
    """

    detail: Tensor
    meaning: Tensor | None = None


def choose(found: Sequence[Found], handicaps: Tensor | None) -> tuple[Found, Tensor]:
    """Take at each position the result of the best reference.

    Args:
        found: the match in each reference.
        handicaps: (B, R), cosines that are subtracted from a reference's score; None: zeros.

    Returns:
        The chosen match, and its reference: (B, R, h, w), 1 or 0.
    """
    if len(found) == 1:
        return found[0], torch.ones_like(found[0].detail[:, :1])
    scores = []
    for r, one in enumerate(found):
        score = one.detail[:, -1:]
        if one.meaning is not None:
            score = score + _MEANING * one.meaning[:, -1:]
        score = F.avg_pool2d(score, _AROUND, 1, _AROUND // 2, count_include_pad=False)
        scores.append(score if handicaps is None else score - handicaps[:, r].view(-1, 1, 1, 1))
    best = torch.cat(scores, dim=1).argmax(1, keepdim=True)
    taken = torch.zeros_like(scores[0]).repeat(1, len(found), 1, 1).scatter_(1, best, 1.0)

    def taken_of(each: Sequence[Tensor]) -> Tensor:
        return (torch.stack(tuple(each), dim=1) * taken.unsqueeze(2)).sum(1)

    meanings = [one.meaning for one in found if one.meaning is not None]
    return Found(taken_of([one.detail for one in found]), taken_of(meanings) if meanings else None), taken

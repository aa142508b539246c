"""Compute, from semantic features, vectors to match by and a guess of the colours.

The paper has no such net: its feature net is an ImageNet network. semantic.py computes the features.

Axes: B batch, H and W the network's size, C channels of a vector, K channels inside the guess.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsexvc.nets.correspondence import unit_vectors
from vsexvc.nets.semantic import Levels, SemanticNet, channels

MEANING_CELL = 8  # pixels of the network's size that one vector stands for
_VECTOR = 64  # channels of a vector; its products differ little from those of all 328 (Lite2)
_GUESS = 64
_AB = 32.0  # ab per unit of the guess's last layer
SEEN = _VECTOR + 2  # channels of what the colour net sees of a Meaning


class Meaning(NamedTuple):
    """Hold vectors (B, C, H/8, W/8), unit vectors, and guess (B, 2, H/8, W/8), ab."""

    vectors: Tensor
    guess: Tensor

    def seen(self) -> Tensor:
        """Return what the colour net sees: (B, SEEN, H/8, W/8), of about the same size in all channels."""
        return torch.cat((self.vectors * _VECTOR**0.5, self.guess / _AB), dim=1)


class MeaningNet(nn.Module):
    """Compute Meaning of a grey picture. The trunk is not trained; the projection starts as principal components."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.trunk = SemanticNet(kind)
        _, _, s2, _, s4, s5 = channels(kind)
        self.project = nn.Conv2d(s4 + s5, _VECTOR, 1, bias=False)
        self.guess2, self.guess4, self.guess5 = (nn.Conv2d(count, _GUESS, 1) for count in (s2, s4, s5))
        self.guess_1, self.guess_2 = nn.Conv2d(_GUESS, _GUESS, 3, padding=1), nn.Conv2d(_GUESS, _GUESS, 3, padding=1)
        self.guess_ab = nn.Conv2d(_GUESS, 2, 1)

    def forward(self, rgb: Tensor) -> tuple[Tensor, Tensor]:
        """Return the fields of a Meaning. rgb: (B, 3, H, W), sRGB of the grey picture, 0..1."""
        levels = self.trunk(rgb)
        return self.vectors(levels), self.guess(levels)

    def vectors(self, levels: Levels) -> Tensor:
        """Return unit vectors (B, C, H/8, W/8): both levels less their means, as unit vectors, joined."""
        return unit_vectors(self.project(joined_levels(levels).to(self.project.weight.dtype)).float())

    def guess(self, levels: Levels) -> Tensor:
        """Return ab (B, 2, H/8, W/8)."""
        deep = self.guess2(levels.s2)
        for part, x in ((self.guess4, levels.s4), (self.guess5, levels.s5)):
            deep = deep + _joined([part(x)], levels.s2)
        deep = F.relu(deep)
        deep = F.relu(self.guess_1(deep)) + deep
        deep = F.relu(self.guess_2(deep)) + deep
        ab: Tensor = self.guess_ab(deep).float() * _AB
        return ab


def joined_levels(levels: Levels) -> Tensor:
    """Join both deep levels to one unit vector for each position, (B, C, H/8, W/8)."""
    parts = [unit_vectors(x.float() - x.float().mean((2, 3), keepdim=True)) for x in (levels.s4, levels.s5)]
    return unit_vectors(_joined(parts, levels.s2))


def _joined(parts: list[Tensor], like: Tensor) -> Tensor:
    """Resize levels of 1/16 and 1/32 to the grid of 1/8, whose size may be odd, and join them."""
    h, w = like.shape[2:]
    out = []
    for x in parts:
        factor = 2 if x.shape[2] == -(-h // 2) and x.shape[3] == -(-w // 2) else 4
        out.append(F.interpolate(x, scale_factor=factor, mode="bilinear")[:, :, :h, :w])
    return torch.cat(out, dim=1)

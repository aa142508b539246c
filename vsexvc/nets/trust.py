"""Weigh three colours at each position: matched by details, matched by meaning, and guessed.

The paper has one correspondence, whose colour is used even where its similarity is low.

Axes: B batch, h and w cells of the correspondence (1/4 of the network's size).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EVIDENCE = 3  # further channels of the colour net's input: see Trust.forward
_INPUTS, _WIDTH = 16, 32
# `same` in use: what learns by references of other scenes too leaves the details too early, so it counts as 0.3 at
# least. Below about 0.03 no reference is of the scene, and it counts as what it is.
_LEAST, _NONE = 0.3, 0.03
_L, _AB = 25.0, 40.0  # scales that bring L and ab to about 1


class Trust(nn.Module):
    """Weigh three colours by convolutions over the evidence for each, and a softmax.

    Attributes:
        learns: whether it is being trained; then `same` is used as it is.
    """

    def __init__(self) -> None:
        super().__init__()
        self.learns = False
        self.conv1 = nn.Conv2d(_INPUTS, _WIDTH, 3, padding=1)
        self.conv2 = nn.Conv2d(_WIDTH, _WIDTH, 3, padding=2, dilation=2)
        self.conv3 = nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1)
        self.logits = nn.Conv2d(_WIDTH, 3, 1)

    def forward(
        self, L_centred: Tensor, detail: Tensor, meaning: Tensor, guess: Tensor, same: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Mix the three.

        Args:
            L_centred: (B, 1, h, w) of the frame.
            detail: (B, 4, h, w): L_centred, a, b and similarity of what was found by details and meaning together.
            meaning: (B, 4, h, w): the same by meaning alone.
            guess: (B, 2, h, w): ab.
            same: (B, 1, 1, 1): how much of the frame the reference surely shows, 0..1. A reference of the same scene
                deserves more trust in details. From about 0.03 on it counts as 0.3 at least, unless the net `learns`.

        Returns:
            ab (B, 2, h, w), similarity (B, 1, h, w) and evidence (B, EVIDENCE, h, w): the shares of meaning and guess,
            and how far the matched L is from the frame's.
        """
        if not self.learns:
            same = same.clamp_min(_LEAST * (1.0 - torch.exp(-(same / _NONE).square())))
        off_detail, off_meaning = (L_centred - x[:, :1] for x in (detail, meaning))
        apart = torch.linalg.vector_norm(detail[:, 1:3] - meaning[:, 1:3], dim=1, keepdim=True)
        x = torch.cat(
            (
                L_centred / _L, off_detail / _L, off_meaning / _L, off_detail.abs() / _L, off_meaning.abs() / _L,
                detail[:, 1:3] / _AB, meaning[:, 1:3] / _AB, guess / _AB, apart / _AB,
                (detail[:, 3:] - 0.8) * 5.0, (meaning[:, 3:] - 0.6) * 3.0, torch.ones_like(L_centred),
                same.expand_as(L_centred),
            ),
            dim=1,
        ).to(self.logits.weight.dtype)  # fmt: skip
        x = F.relu(self.conv1(x))
        x = F.relu(self.conv2(x)) + x
        x = F.relu(self.conv3(x)) + x
        shares = torch.softmax(self.logits(x).float(), dim=1)
        by_detail, by_meaning, by_guess = shares.chunk(3, dim=1)
        ab = by_detail * detail[:, 1:3] + by_meaning * meaning[:, 1:3] + by_guess * guess
        similarity = by_detail * detail[:, 3:] + by_meaning * meaning[:, 3:]
        off = (by_detail * off_detail.abs() + by_meaning * off_meaning.abs()) / _L
        return ab, similarity, torch.cat((by_meaning, by_guess, off), dim=1)

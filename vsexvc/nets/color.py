"""Predict ab of a frame from its L, the aligned colours, their similarity and the previous frame (Table 3).

Axes: B batch, H and W the network's size. L_centred is L-50 (-50..50); ab -128..127; lab stands for (L_centred, a, b).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsexvc.nets.config import NetworkConfig
from vsexvc.nets.meaning import SEEN
from vsexvc.nets.trust import EVIDENCE

_RESIDUAL = 16.0  # ab per unit of the last layer: how fast the residual of head "blend" learns


class ColorNet(nn.Module):
    """Predict ab by Table 3: encoder and decoder with skips over (L_centred, warped ab, similarity, previous lab)."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        c = config.channels
        self.head = config.head

        def conv(inputs: int, outputs: int, dilation: int = 1) -> nn.Conv2d:
            return nn.Conv2d(inputs, outputs, 3, padding=dilation, dilation=dilation)

        def down(channels: int) -> nn.Conv2d:
            return nn.Conv2d(channels, channels, 1, stride=2, bias=False, groups=channels)

        def up(inputs: int, outputs: int) -> nn.Sequential:
            return nn.Sequential(nn.Upsample(scale_factor=2), conv(inputs, outputs))

        inputs = 7 + (EVIDENCE if config.semantic else 0) + (1 if config.warp_upsampling == "reference" else 0)
        self.conv1_1 = nn.Sequential(conv(inputs, c(32)), nn.ReLU(), conv(c(32), c(64)))
        self.conv1_2, self.conv1_2norm_ss = conv(c(64), c(64)), down(c(64))
        self.conv2_1, self.conv2_2, self.conv2_2norm_ss = conv(c(64), c(128)), conv(c(128), c(128)), down(c(128))
        self.conv3_1, self.conv3_2, self.conv3_3 = conv(c(128), c(256)), conv(c(256), c(256)), conv(c(256), c(256))
        self.conv3_3norm_ss = down(c(256))
        if config.semantic_color:
            self.see = nn.Conv2d(SEEN, c(256), 1, bias=False)
            nn.init.zeros_(self.see.weight)  # so that weights without it can be trained on
        self.conv4_1, self.conv4_2, self.conv4_3 = conv(c(256), c(512)), conv(c(512), c(512)), conv(c(512), c(512))
        for block, dilation in ((5, 2), (6, 2), (7, 1)):
            for layer in (1, 2, 3):
                self.add_module(f"conv{block}_{layer}", conv(c(512), c(512), dilation))
        self.conv8_1, self.conv3_3_short = up(c(512), c(256)), conv(c(256), c(256))
        self.conv8_2, self.conv8_3 = conv(c(256), c(256)), conv(c(256), c(256))
        self.conv9_1, self.conv2_2_short, self.conv9_2 = up(c(256), c(128)), conv(c(128), c(128)), conv(c(128), c(128))
        self.conv10_1, self.conv1_2_short, self.conv10_2 = up(c(128), c(128)), conv(c(64), c(128)), conv(c(128), c(128))
        self.conv10_ab = nn.Conv2d(c(128), 2 if self.head == "tanh" else 4, 1)
        if self.head == "blend":  # start without a residual, and nearer to the warped colour
            with torch.no_grad():
                self.conv10_ab.weight[:2].zero_()
                self.conv10_ab.weight[2:].mul_(0.1)
                self.conv10_ab.bias.copy_(torch.tensor((0.0, 0.0, 1.0, 0.0)))  # type: ignore[union-attr]

    def _block(self, x: Tensor, *names: str) -> Tensor:
        for name in names:
            x = F.relu(self.get_submodule(name)(x))
        return F.instance_norm(x)

    def forward(
        self,
        L_centred: Tensor,
        warped_ab: Tensor,
        similarity: Tensor,
        prev_lab: Tensor,
        has_previous: Tensor,
        evidence: Tensor | None = None,
        meaning: Tensor | None = None,
    ) -> Tensor:
        """Compute ab (B, 2, H, W) of a frame.

        Args:
            L_centred: (B, 1, H, W).
            warped_ab: (B, 2, H, W).
            similarity: (B, 1, H, W).
            prev_lab: (B, 3, H, W); zeros where there is no previous frame, as the network was trained.
            has_previous: (B, 1, 1, 1), 1 or 0. Head "blend" gives a previous frame that does not exist no weight.
            evidence: (B, C, H, W) of a Match, where the network has some.
            meaning: (B, SEEN, H/8, W/8), with `semantic_color`.
        """
        given = [L_centred, warped_ab, similarity, prev_lab]
        x = torch.cat(given if evidence is None else [*given, evidence], dim=1).to(self.conv10_ab.weight.dtype)
        x1 = self._block(x, "conv1_1", "conv1_2")
        x2 = self._block(self.conv1_2norm_ss(x1), "conv2_1", "conv2_2")
        x3 = self._block(self.conv2_2norm_ss(x2), "conv3_1", "conv3_2", "conv3_3")
        x = self.conv3_3norm_ss(x3)
        if meaning is not None:
            x = x + self.see(meaning.to(x.dtype))
        x = self._block(x, "conv4_1", "conv4_2", "conv4_3")
        for block in (5, 6, 7):
            x = self._block(x, *(f"conv{block}_{layer}" for layer in (1, 2, 3)))
        x = self._block(F.relu(self.conv8_1(x) + self.conv3_3_short(x3)), "conv8_2", "conv8_3")
        x = self._block(F.relu(self.conv9_1(x) + self.conv2_2_short(x2)), "conv9_2")
        x = F.relu(self.conv10_1(x) + self.conv1_2_short(x1))
        x = self.conv10_ab(F.leaky_relu(self.conv10_2(x), 0.2)).float()
        if self.head == "tanh":
            return torch.tanh(x[:, :2]) * 128.0
        share = torch.sigmoid(x[:, 2:3] - x[:, 3:] + (1.0 - has_previous) * 1e4)
        ab: Tensor = torch.lerp(prev_lab[:, 1:], warped_ab, share) + x[:, :2] * _RESIDUAL
        return ab

"""Compute theta and phi of each position: the correspondence net (Appendix A, Table 2).

Axes: B batch, h and w 1/4 of the network's size, C embedding channels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsexvc.nets.config import NetworkConfig
from vsexvc.nets.features import Features

_EPSILON = 2.2e-16  # added to the norms over channels, as released; half precision uses its smallest normal number


class Embedding(NamedTuple):
    """Hold the vectors that the correspondence compares, (B, C, h, w) each: theta of queries, phi of keys."""

    theta: Tensor
    phi: Tensor


class ResidualBlock(nn.Module):
    """Apply Table 2's Resblock: pad, conv, instance norm, PReLU twice, the second PReLU after adding the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3)
        self.conv2 = nn.Conv2d(channels, channels, 3)
        self.prelu = nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.prelu(F.instance_norm(self.conv1(F.pad(x, (1, 1, 1, 1), mode="reflect"))))
        y = F.instance_norm(self.conv2(F.pad(y, (1, 1, 1, 1), mode="reflect")))
        out: Tensor = self.prelu(y + x)
        return out


def _level(
    inputs: int, middle: int, outputs: int, *, stride: int = 1, up_middle: bool = False, up: bool = False
) -> nn.Module:
    def convolution(source: int, target: int, step: int) -> list[nn.Module]:
        return [nn.ReflectionPad2d(1), nn.Conv2d(source, target, 3, stride=step), nn.InstanceNorm2d(target), nn.PReLU()]

    layers = convolution(inputs, middle, 1)
    layers += [nn.Upsample(scale_factor=2)] if up_middle else []
    layers += convolution(middle, outputs, stride)
    layers += [nn.Upsample(scale_factor=2)] if up else []
    return nn.Sequential(*layers)


class CorrespondenceNet(nn.Module):
    """Compute Table 2: four feature levels resized to 1/4, three residual blocks, theta and phi."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        c = config.channels
        self.layer2_1 = _level(c(128), c(128), c(64), stride=2)
        self.layer3_1 = _level(c(256), c(128), c(64))
        self.layer4_1 = _level(c(512), c(256), c(64), up=True)
        self.layer5_1 = _level(c(512), c(256), c(64), up_middle=True, up=True)
        self.layer = nn.Sequential(*(ResidualBlock(4 * c(64)) for _ in range(3)))
        self.theta = nn.Conv2d(4 * c(64), 4 * c(64), 1)
        self.phi = nn.Conv2d(4 * c(64), 4 * c(64), 1)

    def forward(self, features: Features) -> Embedding:
        features = Features(*(unit_vectors(level) for level in features))
        x2, x3, x4 = self.layer2_1(features.relu2_2), self.layer3_1(features.relu3_2), self.layer4_1(features.relu4_2)
        x5 = self.layer5_1(features.relu5_2)
        rows, columns = x2.shape[2] - x5.shape[2], x2.shape[3] - x5.shape[3]
        if rows or columns:  # 16 does not divide the size: relu5_2 lacks a row or column on each side
            x5 = F.pad(x5, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2), mode="replicate")
        x = self.layer(torch.cat((x2, x3, x4, x5), dim=1))
        theta, phi = self.theta(x).float(), self.phi(x).float()
        return Embedding(*(unit_vectors(x - x.mean((2, 3), keepdim=True)) for x in (theta, phi)))


def unit_vectors(x: Tensor) -> Tensor:
    """Divide x (B, C, h, w) by its length over the channels."""
    norm: Tensor = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return x / (norm + max(_EPSILON, torch.finfo(x.dtype).tiny))

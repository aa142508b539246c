"""Compute features: VGG19's layout to relu5_2, and the form of its input (Appendix A).

Axes: B batch, H and W the network's size. L_centred is L-50 (-50..50); lab stands for (L_centred, a, b).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsexvc.colour.lab import L_to_rgb, lab_to_rgb
from vsexvc.nets.config import NetworkConfig

_UPSTREAM_MEAN = (0.40760392, 0.45795686, 0.48501961)  # B, G, R: of the released vgg19_conv
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # R, G, B: of torchvision's VGG19


class Features(NamedTuple):
    """Hold four levels of the feature net, at 1/2, 1/4, 1/8 and 1/16 of the network's size."""

    relu2_2: Tensor
    relu3_2: Tensor
    relu4_2: Tensor
    relu5_2: Tensor


class FeatureNet(nn.Module):
    """Compute VGG19's convolutions up to relu5_2, named as in `vgg19_conv.pth`; batch norm only while it is trained."""

    _CHANNELS = (64, 128, 256, 512, 512)
    _LAYERS = (2, 2, 4, 4, 2)

    def __init__(self, config: NetworkConfig, batch_norm: bool = False) -> None:
        super().__init__()
        self.input = config.features_input
        inputs = 1 if self.input == "L" else 3
        self._blocks: list[list[str]] = []
        for block, (count, layers) in enumerate(zip(self._CHANNELS, self._LAYERS, strict=True), 1):
            self._blocks.append([f"{block}_{layer}" for layer in range(1, layers + 1)])
            for name in self._blocks[-1]:
                outputs = config.channels(count)
                self.add_module("conv" + name, nn.Conv2d(inputs, outputs, 3, padding=1))
                if batch_norm:
                    self.add_module("norm" + name, nn.BatchNorm2d(outputs))
                inputs = outputs

    def forward(self, x: Tensor) -> Features:
        """Compute the levels. x: (B, 1 or 3, H, W) as `feature_input` makes it."""
        levels: list[Tensor] = []
        x = x.to(next(self.parameters()).dtype)
        for block in self._blocks:
            if block is not self._blocks[0]:
                x = F.max_pool2d(x, 2)
            for name in block:
                x = self.get_submodule("conv" + name)(x)
                if "norm" + name in self._modules:
                    x = self.get_submodule("norm" + name)(x)
                x = F.relu(x, inplace=not torch.is_grad_enabled())
                if name.endswith("_2") and block is not self._blocks[0]:
                    levels.append(x)
        return Features(*levels)


def feature_input(lab: Tensor, kind: str, is_reference: bool) -> Tensor:
    """Return the input that a feature net with this NetworkConfig.features_input was trained on, (B, 1 or 3, H, W).

    lab: (B, 3, H, W); the frame's own ab is never used.
    """
    L_centred = lab[:, :1]
    if kind == "L":
        return L_centred / 50.0
    if kind == "upstream" and not is_reference:
        return scaled(((L_centred + 50.0) / 100.0).expand(-1, 3, -1, -1), kind)
    ab = lab[:, 1:] if is_reference and kind == "upstream" else torch.zeros_like(lab[:, 1:])
    return scaled(lab_to_rgb(torch.cat((L_centred + 50.0, ab), dim=1)), kind)


def scaled(rgb: Tensor, kind: str) -> Tensor:
    """Scale sRGB as nets with three input channels expect it. rgb: (B, 3, H, W), 0..1."""
    if kind == "upstream":
        return (rgb.flip(1) - rgb.new_tensor(_UPSTREAM_MEAN).view(1, 3, 1, 1)) * 255.0
    return (rgb - rgb.new_tensor(_IMAGENET_MEAN).view(1, 3, 1, 1)) / rgb.new_tensor(_IMAGENET_STD).view(1, 3, 1, 1)


def grey_rgb(L_centred: Tensor) -> Tensor:
    """Return sRGB of the grey picture, (B, 3, H, W), 0..1. L_centred: (B, 1, H, W)."""
    return L_to_rgb(L_centred + 50.0)

"""Rewrite a network's layers for torch, with the same results."""

from __future__ import annotations

import torch
from torch import nn

from vsexvc.nets.network import ColorizationNet


def replace_parts(network: nn.Module, **parts: nn.Module) -> None:
    for name, part in parts.items():
        setattr(network, name, part)


def fold(network: ColorizationNet) -> None:
    """Merge each nearest x2 and 3x3 convolution into one transposed 4x4 convolution of stride 2: 4 products for 9."""
    for name, part in network.color.named_children():
        if isinstance(part, nn.Sequential) and isinstance(part[0], nn.Upsample):
            replace_parts(network.color, **{name: folded(part[1])})


def folded(convolution: nn.Module) -> nn.ConvTranspose2d:
    assert isinstance(convolution, nn.Conv2d) and convolution.bias is not None
    w = convolution.weight.detach()
    # On each axis input i contributes to outputs 2i - 1 to 2i + 2, to each through one or two taps.
    for axis in (2, 3):
        before, here, after = w.unbind(axis)
        w = torch.stack((after, here + after, before + here, before), dim=axis)
    folded = nn.ConvTranspose2d(convolution.in_channels, convolution.out_channels, 4, stride=2, padding=1)
    folded.weight, folded.bias = nn.Parameter(w.transpose(0, 1).contiguous(), False), convolution.bias
    return folded

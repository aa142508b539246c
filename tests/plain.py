"""A second, slow implementation of one step, line by line from the released layout's tables; no code of vsexvc.

Everything is float64 and written for one picture at a time; weights come as state dicts with the released keys.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = dict[str, Tensor]


def conv(x: Tensor, w: Weights, name: str, **options: int) -> Tensor:
    return F.conv2d(
        x, w[name + ".weight"].double(), w[name + ".bias"].double() if name + ".bias" in w else None, **options
    )


def instance_norm(x: Tensor) -> Tensor:
    mean = x.mean(dim=(2, 3), keepdim=True)
    variance = ((x - mean) ** 2).mean(dim=(2, 3), keepdim=True)
    return (x - mean) / (variance + 1e-5).sqrt()


def prelu(x: Tensor, w: Weights, name: str) -> Tensor:
    return torch.maximum(x, torch.zeros_like(x)) + w[name + ".weight"].double() * torch.minimum(x, torch.zeros_like(x))


def reflect(x: Tensor) -> Tensor:
    return F.pad(x, (1, 1, 1, 1), mode="reflect")


def double_size(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


def unit(x: Tensor) -> Tensor:
    return x / (x.pow(2).sum(dim=1, keepdim=True).sqrt() + 2.2e-16)


def vgg(x: Tensor, w: Weights) -> list[Tensor]:
    """relu2_2, relu3_2, relu4_2, relu5_2."""
    out = []
    for block, layers in ((1, 2), (2, 2), (3, 4), (4, 4), (5, 2)):
        if block > 1:
            x = F.max_pool2d(x, 2, 2)
        for layer in range(1, layers + 1):
            x = conv(x, w, f"conv{block}_{layer}", padding=1).clamp(min=0)
            if block > 1 and layer == 2:
                out.append(x)
    return out


def vgg_input(rgb: Tensor) -> Tensor:
    """RGB 0..1 -> BGR, minus the means, times 255."""
    r, g, b = rgb[:, 0], rgb[:, 1], rgb[:, 2]
    return torch.stack((b - 0.40760392, g - 0.45795686, r - 0.48501961), dim=1) * 255


def correspondence_features(levels: list[Tensor], w: Weights) -> Tensor:
    x2, x3, x4, x5 = (unit(level) for level in levels)

    def step(x: Tensor, level: str, index: int, stride: int = 1) -> Tensor:
        x = instance_norm(conv(reflect(x), w, f"{level}.{index}", stride=stride))
        return prelu(x, w, f"{level}.{index + 2}")

    x2 = step(step(x2, "layer2_1", 1), "layer2_1", 5, stride=2)
    x3 = step(step(x3, "layer3_1", 1), "layer3_1", 5)
    x4 = double_size(step(step(x4, "layer4_1", 1), "layer4_1", 5))
    x5 = double_size(step(double_size(step(x5, "layer5_1", 1)), "layer5_1", 6))
    if x5.shape[2] != x2.shape[2]:
        x5 = F.pad(x5, (0, 0, 1, 1), mode="replicate")
    x = torch.cat((x2, x3, x4, x5), dim=1)
    for block in range(3):
        name = f"layer.{block}"
        y = prelu(instance_norm(conv(reflect(x), w, f"{name}.conv1")), w, f"{name}.prelu")
        y = instance_norm(conv(reflect(y), w, f"{name}.conv2"))
        x = prelu(x + y, w, f"{name}.prelu")
    return x


def match(fx: Tensor, fy: Tensor, reference_ab: Tensor, w: Weights, tau: float) -> tuple[Tensor, Tensor]:
    """Eq. 3-5 position by position, in Python. Returns warped ab and similarity at full size."""
    theta, phi = conv(fx, w, "theta"), conv(fy, w, "phi")
    theta = unit(theta - theta.mean(dim=(2, 3), keepdim=True))
    phi = unit(phi - phi.mean(dim=(2, 3), keepdim=True))
    ab = F.avg_pool2d(reference_ab, 4)
    height, width = theta.shape[2:]
    places = [(r, c) for r in range(phi.shape[2]) for c in range(phi.shape[3])]
    warped, similarity = torch.zeros(1, 2, height, width).double(), torch.zeros(1, 1, height, width).double()
    for r in range(height):
        for c in range(width):
            m = [float((theta[0, :, r, c] * phi[0, :, y, x]).sum()) for y, x in places]
            top = max(m)
            e = [math.exp((value - top) / tau) for value in m]
            for k in range(2):
                warped[0, k, r, c] = sum(v * float(ab[0, k, y, x]) for v, (y, x) in zip(e, places, strict=True)) / sum(
                    e
                )
            similarity[0, 0, r, c] = top
    return double_size(double_size(warped)), double_size(double_size(similarity))


def color_net(x: Tensor, w: Weights) -> Tensor:
    """7 channels (L_centred, warped a, b, similarity, previous L_centred, a, b) -> ab."""

    def relu(name: str, x: Tensor, dilation: int = 1) -> Tensor:
        return conv(x, w, name, padding=dilation, dilation=dilation).clamp(min=0)

    x = relu("conv1_2", relu("conv1_1.2", relu("conv1_1.0", x)))
    n1 = instance_norm(x)
    x = F.conv2d(n1, w["conv1_2norm_ss.weight"].double(), stride=2, groups=n1.shape[1])
    n2 = instance_norm(relu("conv2_2", relu("conv2_1", x)))
    x = F.conv2d(n2, w["conv2_2norm_ss.weight"].double(), stride=2, groups=n2.shape[1])
    n3 = instance_norm(relu("conv3_3", relu("conv3_2", relu("conv3_1", x))))
    x = F.conv2d(n3, w["conv3_3norm_ss.weight"].double(), stride=2, groups=n3.shape[1])
    for block, dilation in ((4, 1), (5, 2), (6, 2), (7, 1)):
        for layer in (1, 2, 3):
            x = relu(f"conv{block}_{layer}", x, dilation)
        x = instance_norm(x)
    x = (conv(double_size(x), w, "conv8_1.1", padding=1) + conv(n3, w, "conv3_3_short", padding=1)).clamp(min=0)
    x = instance_norm(relu("conv8_3", relu("conv8_2", x)))
    x = (conv(double_size(x), w, "conv9_1.1", padding=1) + conv(n2, w, "conv2_2_short", padding=1)).clamp(min=0)
    x = instance_norm(relu("conv9_2", x))
    x = (conv(double_size(x), w, "conv10_1.1", padding=1) + conv(n1, w, "conv1_2_short", padding=1)).clamp(min=0)
    x = conv(x, w, "conv10_2", padding=1)
    x = torch.where(x > 0, x, 0.2 * x)
    return torch.tanh(conv(x, w, "conv10_ab")) * 128

"""A second, slow implementation of one step, line by line from the released layout's tables; no code of vsexvc.

Everything is float64 and written for one picture at a time; weights come as state dicts with the released keys.
"""

from __future__ import annotations

from collections.abc import Iterator

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


def matches(fx: Tensor, fy: Tensor, w: Weights) -> Iterator[tuple[int, int, Tensor]]:
    """Eq. 3, one position after another: its row, its column, its correlation with every position of the reference."""
    theta, phi = conv(fx, w, "theta"), conv(fy, w, "phi")
    theta = unit(theta - theta.mean(dim=(2, 3), keepdim=True))
    phi = unit(phi - phi.mean(dim=(2, 3), keepdim=True))[0].flatten(1)
    for r in range(theta.shape[2]):
        for c in range(theta.shape[3]):
            yield r, c, theta[0, :, r, c] @ phi


def match(fx: Tensor, fy: Tensor, reference_ab: Tensor, w: Weights, tau: float) -> tuple[Tensor, Tensor]:
    """Eq. 3-5. Returns warped ab and similarity at full size."""
    ab = F.avg_pool2d(reference_ab, 4)[0].flatten(1)
    warped, similarity = (torch.zeros(1, k, *fx.shape[2:], dtype=torch.float64) for k in (2, 1))
    for r, c, m in matches(fx, fy, w):
        e = ((m - m.max()) / tau).exp()
        warped[0, :, r, c] = (ab * e).sum(dim=1) / e.sum()
        similarity[0, 0, r, c] = m.max()
    return double_size(double_size(warped)), double_size(double_size(similarity))


def margins(fx: Tensor, fy: Tensor, w: Weights) -> Tensor:
    """By how much the best match of each position is better than its second best, at full size.

    At a temperature of in effect zero other arithmetic finds the same match only where this is above its rounding.
    """
    margin = torch.zeros(1, 1, *fx.shape[2:], dtype=torch.float64)
    for r, c, m in matches(fx, fy, w):
        best, second = m.topk(2).values
        margin[0, 0, r, c] = best - second
    return double_size(double_size(margin))


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

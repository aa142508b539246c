"""Implement the released layout a second time, line by line from its tables; no code of vsexvc.

The tests hold the network against it in float64, position by position (`match`). scripts/bench.py holds the network's
speed against it in float32, as the authors run it (`Loop`). Every function computes in its input's type, for one
picture at a time; weights come as state dicts with the released keys, of the same type. Norms, PReLU and nearest
upsampling are torch's own, which the authors call as well: a slower form would make the comparison unfair.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = dict[str, Tensor]


def conv(x: Tensor, w: Weights, name: str, **options: int) -> Tensor:
    return F.conv2d(x, w[name + ".weight"], w.get(name + ".bias"), **options)


def relu(x: Tensor, w: Weights, name: str, dilation: int = 1) -> Tensor:
    return F.relu(conv(x, w, name, padding=dilation, dilation=dilation))


def instance_norm(x: Tensor) -> Tensor:
    return F.instance_norm(x, eps=1e-5)


def prelu(x: Tensor, w: Weights, name: str) -> Tensor:
    return F.prelu(x, w[name + ".weight"])


def reflect(x: Tensor) -> Tensor:
    return F.pad(x, (1, 1, 1, 1), mode="reflect")


def double_size(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")


def unit(x: Tensor) -> Tensor:
    return x / (x.pow(2).sum(dim=1, keepdim=True).sqrt() + 2.2e-16)


def vgg(x: Tensor, w: Weights, to_pool5: bool = False) -> list[Tensor]:
    """Return relu2_2, relu3_2, relu4_2, relu5_2; with `to_pool5` compute the unused rest too, as the authors do."""
    out = []
    for block, layers in ((1, 2), (2, 2), (3, 4), (4, 4), (5, 4 if to_pool5 else 2)):
        if block > 1:
            x = F.max_pool2d(x, 2, 2)
        for layer in range(1, layers + 1):
            x = relu(x, w, f"conv{block}_{layer}")
            if block > 1 and layer == 2:
                out.append(x)
    if to_pool5:
        F.max_pool2d(x, 2, 2)
    return out


def vgg_input(rgb: Tensor) -> Tensor:
    """Convert RGB 0..1 to BGR, minus the means, times 255."""
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


def directions(features: Tensor, w: Weights, name: str) -> Tensor:
    """Return theta or phi: unit vectors from their mean."""
    x = conv(features, w, name)
    return unit(x - x.mean(dim=(2, 3), keepdim=True))


def matches(fx: Tensor, fy: Tensor, w: Weights) -> Iterator[tuple[int, int, Tensor]]:
    """Yield eq. 3 for each position: its row, its column, its correlation with every position of the reference."""
    theta, phi = directions(fx, w, "theta"), directions(fy, w, "phi")[0].flatten(1)
    for r in range(theta.shape[2]):
        for c in range(theta.shape[3]):
            yield r, c, theta[0, :, r, c] @ phi


def match(fx: Tensor, fy: Tensor, reference_ab: Tensor, w: Weights, tau: float) -> tuple[Tensor, Tensor]:
    """Compute eq. 3-5. Return warped ab and similarity at full size."""
    ab = F.avg_pool2d(reference_ab, 4)[0].flatten(1)
    warped, similarity = (fx.new_zeros(1, k, *fx.shape[2:]) for k in (2, 1))
    for r, c, m in matches(fx, fy, w):
        e = ((m - m.max()) / tau).exp()
        warped[0, :, r, c] = (ab * e).sum(dim=1) / e.sum()
        similarity[0, 0, r, c] = m.max()
    return double_size(double_size(warped)), double_size(double_size(similarity))


def match_at_once(theta: Tensor, phi: Tensor, reference_ab: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    """Return the results of `match` by the whole matrix of all positions with all, as the authors do."""
    ab = F.avg_pool2d(reference_ab, 4).flatten(2).transpose(1, 2)
    correlation = theta.flatten(2).transpose(1, 2) @ phi.flatten(2)
    similarity = correlation.max(dim=2, keepdim=True).values
    warped = F.softmax(correlation / tau, dim=2) @ ab
    planes = (x.transpose(1, 2).reshape(1, -1, *theta.shape[2:]) for x in (warped, similarity))
    warped, similarity = (F.interpolate(x, scale_factor=4, mode="nearest") for x in planes)
    return warped, similarity


def margins(fx: Tensor, fy: Tensor, w: Weights) -> Tensor:
    """Return by how much the best match of each position is better than its second best, at full size.

    At a temperature of in effect zero other arithmetic finds the same match only where this is above its rounding.
    """
    margin = fx.new_zeros(1, 1, *fx.shape[2:])
    for r, c, m in matches(fx, fy, w):
        best, second = m.topk(2).values
        margin[0, 0, r, c] = best - second
    return double_size(double_size(margin))


def color_net(x: Tensor, w: Weights) -> Tensor:
    """Compute ab from 7 channels (L_centred, warped a, b, similarity, previous L_centred, a, b)."""
    x = relu(relu(relu(x, w, "conv1_1.0"), w, "conv1_1.2"), w, "conv1_2")
    n1 = instance_norm(x)
    x = conv(n1, w, "conv1_2norm_ss", stride=2, groups=n1.shape[1])
    n2 = instance_norm(relu(relu(x, w, "conv2_1"), w, "conv2_2"))
    x = conv(n2, w, "conv2_2norm_ss", stride=2, groups=n2.shape[1])
    n3 = instance_norm(relu(relu(relu(x, w, "conv3_1"), w, "conv3_2"), w, "conv3_3"))
    x = conv(n3, w, "conv3_3norm_ss", stride=2, groups=n3.shape[1])
    for block, dilation in ((4, 1), (5, 2), (6, 2), (7, 1)):
        for layer in (1, 2, 3):
            x = relu(x, w, f"conv{block}_{layer}", dilation)
        x = instance_norm(x)
    x = F.relu(conv(double_size(x), w, "conv8_1.1", padding=1) + conv(n3, w, "conv3_3_short", padding=1))
    x = instance_norm(relu(relu(x, w, "conv8_2"), w, "conv8_3"))
    x = F.relu(conv(double_size(x), w, "conv9_1.1", padding=1) + conv(n2, w, "conv2_2_short", padding=1))
    x = instance_norm(relu(x, w, "conv9_2"))
    x = F.relu(conv(double_size(x), w, "conv10_1.1", padding=1) + conv(n1, w, "conv1_2_short", padding=1))
    x = F.leaky_relu(conv(x, w, "conv10_2", padding=1), 0.2)
    return torch.tanh(conv(x, w, "conv10_ab")) * 128


class Loop:
    """Run the authors' loop over a clip's frames: all of VGG, the reference's correspondence branch at every frame.

    Only VGG's levels of the reference are kept. Parts are called in the order embed, correlate, colorize.
    """

    def __init__(
        self, features: Weights, matching: Weights, colour: Weights, rgb: Tensor, lab: Tensor, tau: float = 0.01
    ) -> None:
        """Prepare. rgb: the reference (1, 3, H, W), 0..1; lab: the same, L 0..100."""
        self.features, self.matching, self.colour, self.tau = features, matching, colour, tau
        self.reference_ab, self.reference_levels = lab[:, 1:], vgg(vgg_input(rgb), features, to_pool5=True)

    def embed(self, L: Tensor) -> tuple[Tensor, Tensor]:
        """Return theta of the frame and phi of the reference. L: (1, 1, H, W), 0..100."""
        levels = vgg(vgg_input((L / 100).expand(-1, 3, -1, -1)), self.features, to_pool5=True)
        theta = directions(correspondence_features(levels, self.matching), self.matching, "theta")
        return theta, directions(correspondence_features(self.reference_levels, self.matching), self.matching, "phi")

    def correlate(self, theta: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        return match_at_once(theta, phi, self.reference_ab, self.tau)

    def colorize(self, L: Tensor, warped: Tensor, similarity: Tensor, previous: Tensor) -> Tensor:
        return color_net(torch.cat((L - 50, warped, similarity, previous), dim=1), self.colour)

    def step(self, previous: Tensor, L: Tensor) -> tuple[Tensor, Tensor]:
        """Return the state after this frame, and its ab; a state is (1, 3, H, W) of centred L and ab."""
        ab = self.colorize(L, *self.correlate(*self.embed(L)), previous)
        return torch.cat((L - 50, ab), dim=1), ab

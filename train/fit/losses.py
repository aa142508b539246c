"""Compute the losses of section 3.3, each a pure function of tensors; options.py has their weights.

unroll.py calls them. Each returns a scalar, a mean and not a sum, so that its weight holds for any crop and batch: l1,
temporal and smoothness in units of ab (-128..127), perceptual in the features' own units squared, the others without a
unit. All but l1 and temporal take half precision and compute in float32.

Axes: B batch, H and W the crop, C channels, h and w a feature level's size.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from vsexvc.nets.features import Features
from vsexvc.nets.motion import warp

_LEVEL_POOLING = (4, 2, 1, 1)  # of relu2_2 .. relu5_2: at 1/8 size the largest matrix has (H W / 64)^2 elements
_SMALLEST_NORM = 1e-4  # of a feature: a shorter one has no direction; this bounds the gradient too


def l1(ab: Tensor, target_ab: Tensor, weight: Tensor | None = None) -> Tensor:
    """Compute eq. 14 as a mean. ab, target_ab: (B, 2, H, W). weight: broadcast to them; 0 leaves pixels out."""
    error = (ab - target_ab).abs()
    if weight is None:
        return error.mean()
    weight = weight.expand_as(error)
    return (error * weight).sum() / weight.sum().clamp_min(1.0)


def decibels(ab: Tensor, target_ab: Tensor, weight: Tensor) -> Tensor:
    """Compute 10 log10 of each sample's mean squared error, mean over the samples that count. Not in the paper.

    As in PSNR, halving a small error in a calm scene counts as much as halving a large one. 0.05 is added to the
    squared error: 8-bit pictures do not resolve less.
    ab, target_ab: (B, 2, H, W). weight: (B, 1, 1, 1), 0 leaves a sample out.
    """
    error = (_full(ab) - _full(target_ab)).square().mean((1, 2, 3))
    counted = weight.flatten()
    return (10.0 * torch.log10(error + 0.05) * counted).sum() / counted.sum().clamp_min(1.0)


def temporal(ab: Tensor, prev_ab: Tensor, flow_backward: Tensor, valid: Tensor) -> Tensor:
    """Compute eq. 13: L1 between this frame's ab and the previous one's along the flow, on unoccluded pixels.

    ab, prev_ab: (B, 2, H, W). flow_backward: (B, 2, H, W) pixels, from this frame to the previous.
    valid: (B, 1, H, W), 1 = usable.
    """
    return l1(ab, warp(prev_ab, flow_backward), valid)


def smoothness(ab: Tensor, target_lab: Tensor) -> Tensor:
    """Compute eq. 11 with L1 (it names no norm): each pixel against the weighted mean of its eight neighbours.

    The weights are those of WLS (Farbman et al. 2008), 1 / (|difference|^1.2 + 1e-4), normalised to a sum of one; the
    difference is that of the true chroma, ab / 128, mean over the two channels: edges of luma have no effect.
    ab: (B, 2, H, W); target_lab: (B, 3, H, W); H and W 3 or more, the one-pixel border is left out.
    """

    def inner(x: Tensor, dy: int, dx: int) -> Tensor:
        return x[:, :, 1 + dy : x.shape[2] - 1 + dy, 1 + dx : x.shape[3] - 1 + dx]

    offsets = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]
    ab, target_ab = _full(ab), _full(target_lab[:, 1:]) / 128.0
    here = inner(target_ab, 0, 0)
    difference = torch.stack([(inner(target_ab, *o) - here).abs().mean(1, keepdim=True) for o in offsets])
    weight = 1.0 / (difference**1.2 + 1e-4)
    weight = weight / weight.sum(0)
    mean = sum(w * inner(ab, *o) for w, o in zip(weight, offsets, strict=True))
    return (inner(ab, 0, 0) - mean).abs().mean()


def perceptual(relu5_2: Tensor, true_relu5_2: Tensor) -> Tensor:
    """Compute eq. 8 as a mean. Both (B, C, h, w): of the result and of the true frame."""
    return F.mse_loss(_full(relu5_2), _full(true_relu5_2))


def contextual(
    features: Features,
    reference: Features,
    weights: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0),
    bandwidth: float = 0.1,
) -> Tensor:
    """Compute eq. 9 and 10, forward matching: each feature of the result should match one of the reference alone.

    Distances are cosine distances from the reference's mean feature (Mechrez et al. 2018). relu2_2 and relu3_2 are
    average-pooled to 1/8 first: at 384x216 their matrices would take 1.7 GB and 108 MB a sample, and at 1/8 take 7 MB.

    Args:
        features: of the result, levels (B, C, h, w); H and W 16 or more.
        reference: of the reference, levels (B, C, h', w').
        weights: of the four levels; 0 leaves a level out.
        bandwidth: h of eq. 9, above 0.
    """
    total = _full(features.relu2_2.new_zeros(()))
    # The products too need float32: the nearest distances are below the resolution of half precision.
    with torch.autocast(features.relu2_2.device.type, enabled=False):
        for weight, pooling, x, y in zip(weights, _LEVEL_POOLING, features, reference, strict=True):
            if weight:
                x, y = (F.avg_pool2d(_full(level), pooling) for level in (x, y))
                total = total + weight * _contextual_of_level(x, y, bandwidth)
    return total


def _contextual_of_level(x: Tensor, y: Tensor, bandwidth: float) -> Tensor:
    mean = y.mean((2, 3), keepdim=True)
    x, y = (F.normalize((level - mean).flatten(2), dim=1, eps=_SMALLEST_NORM) for level in (x, y))  # (B, C, N)
    distance = (1.0 - x.transpose(1, 2) @ y).clamp_min(0.0)  # (B, N, N')
    nearest = distance.amin(2, keepdim=True)
    # Only the softmax's largest element is needed, which is at the nearest position. In logarithms, eq. 9's 1 in the
    # exponent cancels.
    scale = -bandwidth * (nearest + 1e-5)
    affinity = (nearest / scale).squeeze(2) - torch.logsumexp(distance / scale, dim=2)  # log max_j A, (B, N)
    return (math.log(affinity.shape[1]) - torch.logsumexp(affinity, dim=1)).mean()


def adversarial(fake: Tensor, real: Tensor) -> Tensor:
    """Compute the generator's side of eq. 12: fakes should score one more than the mean real, reals one less.

    fake, real: (B,) scores of the coloured and of the true frames; the batches may differ in size.
    """
    fake, real = _full(fake), _full(real)
    return (fake - real.mean() - 1.0).square().mean() + (real - fake.mean() + 1.0).square().mean()


def discriminator(fake: Tensor, real: Tensor) -> Tensor:
    """Compute the discriminator's side of eq. 12, its mirror image. fake (of detached frames), real: (B,)."""
    return adversarial(real, fake)


def _full(x: Tensor) -> Tensor:
    """Convert to float32, unless the type is more precise."""
    return x.to(torch.promote_types(x.dtype, torch.float32))

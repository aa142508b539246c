"""Compute EfficientNet-Lite's trunk: features of an ImageNet classifier. It is never trained here.

It has convolutions only: batch norm is folded into them when the weights are imported (train/features/meaning.py). Its
input is the grey picture, of frames and of references.

Axes: B batch, H and W the network's size (multiples of 8), C channels of a level.
"""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

# Repeats, kernel, stride, expansion and channels of the stages of Lite0; the last two are not needed here.
_STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192))
_SCALES = {"lite0": (1.0, 1.0), "lite1": (1.0, 1.1), "lite2": (1.1, 1.2)}  # of width and depth
KINDS = tuple(_SCALES)
_STEM = 32
# Whether the right side of each layer of stride 2 has the larger padding. In this order a cell of any level lies near
# the centre of its receptive field.
_RIGHT = (True, True, False, True, False)


class Levels(NamedTuple):
    """Hold the ends of the used stages, at 1/4, 1/8, 1/16, 1/16 and 1/32 of the network's size (rounded up)."""

    s1: Tensor
    s2: Tensor
    s3: Tensor
    s4: Tensor
    s5: Tensor


def channels(kind: str) -> tuple[int, ...]:
    """Return the channels of stages 0 to 5."""
    width, _ = _SCALES[kind]
    return tuple(_rounded(stage[4] * width) for stage in _STAGES)


def _rounded(count: float) -> int:
    """Round to a multiple of 8, as EfficientNet does."""
    return max(8, int(count + 4) // 8 * 8)


class _Block(nn.Module):
    """Apply an inverted bottleneck: 1x1 to more channels, depthwise, 1x1 to fewer; add the input if shapes allow."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int, right: bool) -> None:
        super().__init__()
        middle = inputs * expansion
        self.expand = nn.Conv2d(inputs, middle, 1) if expansion > 1 else None
        self.depthwise = nn.Conv2d(middle, middle, kernel, stride, groups=middle)
        self.project = nn.Conv2d(middle, outputs, 1)
        self.kernel, self.stride, self.right = kernel, stride, right
        self.skips = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else F.relu6(self.expand(x))
        y = self.project(F.relu6(self.depthwise(_padded(y, self.kernel, self.stride, self.right))))
        out: Tensor = x + y if self.skips else y
        return out


def _padded(x: Tensor, kernel: int, stride: int, right: bool) -> Tensor:
    """Pad with zeros for ceil(size / stride) outputs; if the margins differ, `right` has the larger one."""
    before = after = kernel // 2
    margins: list[int] = []
    for size in (x.shape[3], x.shape[2]):
        spare = stride == 2 and size % 2 == 0
        margins += [before - (spare and right), after - (spare and not right)]
    return F.pad(x, margins)


class SemanticNet(nn.Module):
    """Compute Levels of a grey picture. Padding is TensorFlow's "same" but for the side (see _RIGHT)."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        _, depth = _SCALES[kind]
        sides = iter(_RIGHT)
        self.stem = nn.Conv2d(3, _STEM, 3, 2)
        self.right = next(sides)
        self.stages = nn.ModuleList()
        inputs = _STEM
        for index, ((repeats, kernel, stride, expansion, _), outputs) in enumerate(
            zip(_STAGES, channels(kind), strict=True)
        ):
            count = -int(-repeats * depth // 1) if index else repeats
            blocks = []
            for number in range(count):
                first = number == 0
                right = next(sides) if first and stride == 2 else True
                blocks.append(_Block(inputs, outputs, kernel, stride if first else 1, expansion, right))
                inputs = outputs
            self.stages.append(nn.Sequential(*blocks))
        self.outputs = inputs

    def forward(self, rgb: Tensor) -> Levels:
        """Compute the levels. rgb: (B, 3, H, W) sRGB of a grey picture, 0..1."""
        x = ((255.0 * rgb - 127.0) / 128.0).to(self.stem.weight.dtype)
        x = F.relu6(self.stem(_padded(x, 3, 2, self.right)))
        ends = []
        for stage in self.stages:
            x = stage(x)
            ends.append(x)
        return Levels(*ends[1:])

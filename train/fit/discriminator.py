"""Define the video discriminator of Table 4, and spectral norm for it and the generator. losses.py has its losses.

Axes: B batch, H and W the frames' size, C channels.
"""

from __future__ import annotations

import copy
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm

from vsexvc.nets.config import NetworkConfig

_SMALLEST = 64  # six halvings leave one position


class SelfAttention(nn.Module):
    """Add to each position gamma times its attention (Zhang et al. 2019); gamma starts at 0.

    Keys and values are max-pooled by 2: a quarter of the products, and of the matrix where one is made.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Conv2d(channels, channels, 1) for _ in range(3))
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Attend. x: (B, C, h, w), h and w 2 or more -> the same shape."""
        pooled = (F.max_pool2d(projection(x), 2) for projection in (self.key, self.value))
        query, key, value = (level.flatten(2).transpose(1, 2)[:, None] for level in (self.query(x), *pooled))
        attended = F.scaled_dot_product_attention(
            query, key, value, scale=1.0
        )  # (B, 1, h w, C); unscaled, as in their paper
        out: Tensor = x + self.gamma * attended[:, 0].transpose(1, 2).reshape(x.shape)
        return out


class Discriminator(nn.Module):
    """Judge frames by Table 4, with self-attention after the second conv as in section 4 (the table: after the first).

    There is no instance norm: it would remove a picture's mean saturation, which must be judged.
    """

    def __init__(self, width: float = 1.0) -> None:
        """Build the layers. width: factor on channels, above 0 and at most 2 (ValueError); a layer has at least 4."""
        super().__init__()
        channels = [6, *map(NetworkConfig(width=width).channels, (64, 64, 128, 256, 512, 1024))]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(channels):
            layers += [nn.Conv2d(inputs, outputs, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        layers.insert(4, SelfAttention(channels[2]))
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels[-1], 1, 3, padding=1))
        add_spectral_norm(self)

    def forward(self, prev_lab: Tensor, lab: Tensor) -> Tensor:
        """Score how real two consecutive frames look, for losses.adversarial and losses.discriminator.

        Args:
            prev_lab: (B, 3, H, W), L_centred -50..50 and ab -128..127; H and W 64 or more.
            lab: the same, of the frame after it.

        Returns:
            (B,) float32, any range: only differences between scores have a meaning.

        Raises:
            ValueError: frames below 64x64.
        """
        h, w = lab.shape[2:]
        if min(h, w) < _SMALLEST:
            raise ValueError(f"Discriminator: frames must be at least {_SMALLEST}x{_SMALLEST}, got {w}x{h}")
        x = torch.cat((prev_lab, lab), dim=1) / lab.new_tensor((50.0, 128.0, 128.0) * 2).view(1, 6, 1, 1)
        scores: Tensor = self.layers(x).float().mean((1, 2, 3))
        return scores


def add_spectral_norm(module: nn.Module) -> None:
    """Add spectral norm (Miyato et al. 2018) to every Conv2d below a module, in place, unless it has it already.

    This changes the keys of the state dict: `weight` becomes `parametrizations.weight.original`, with two buffers. In
    train mode every forward pass takes one step of the power iteration.
    """
    for layer in list(module.modules()):
        if isinstance(layer, nn.Conv2d) and not parametrize.is_parametrized(layer, "weight"):
            spectral_norm(layer)


def without_spectral_norm[M: nn.Module](module: M) -> M:
    """Return a deep copy, modes kept, with plain convolutions whose weights are the original's in eval mode."""
    plain = copy.deepcopy(module)
    for layer in list(plain.modules()):
        if isinstance(layer, nn.Conv2d) and parametrize.is_parametrized(layer, "weight"):
            # torch's remove_parametrizations would remove `weight` from the class, which the original shares.
            parametrization = layer.get_submodule("parametrizations.weight").eval()
            original = parametrization.get_parameter("original")
            with torch.no_grad():
                weight = parametrization()
            del layer.parametrizations
            layer.__class__ = type(layer).__bases__[0]
            layer.weight = nn.Parameter(weight, original.requires_grad)
    return plain

"""Convert between sRGB pictures and CIE Lab (D65): pure functions on tensors.

Axes: B batch, H and W rows and columns, 3 = (R, G, B) or (L, a, b).
"""

from __future__ import annotations

import torch
from torch import Tensor

# sRGB primaries (BT.709) to CIE XYZ, IEC 61966-2-1; rows divided by the D65 white (0.95047, 1, 1.08883).
_RGB_TO_XYZ = (
    (0.4124564 / 0.95047, 0.3575761 / 0.95047, 0.1804375 / 0.95047),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339 / 1.08883, 0.1191920 / 1.08883, 0.9503041 / 1.08883),
)
DELTA = 6.0 / 29.0  # CIE 15: where the cube root is replaced by its tangent


def srgb_to_linear(v: Tensor) -> Tensor:
    """Decode sRGB's transfer. v: any shape, float, 0..1 -> linear light, 0..1."""
    return torch.where(v <= 0.04045, v / 12.92, ((v.clamp_min(0.0) + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(v: Tensor) -> Tensor:
    """Encode with sRGB's transfer. v: any shape, float linear light -> 0..1 for 0..1; negative light: on the line."""
    return torch.where(v <= 0.0031308, v * 12.92, 1.055 * v.clamp_min(0.0031308) ** (1.0 / 2.4) - 0.055)


def _matrix(rows: tuple[tuple[float, ...], ...], x: Tensor) -> Tensor:
    return torch.einsum("ij,bjhw->bihw", torch.tensor(rows, dtype=x.dtype, device=x.device), x)


def rgb_to_lab(rgb: Tensor) -> Tensor:
    """Convert an sRGB picture to Lab.

    Args:
        rgb: (B, 3, H, W) float, 0..1, sRGB transfer.

    Returns:
        (B, 3, H, W): L 0..100, a and b about -110..110.
    """
    xyz = _matrix(_RGB_TO_XYZ, srgb_to_linear(rgb))
    x, y, z = cube_root(xyz).unbind(1)
    return torch.stack((116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)), dim=1)


def centred(lab: Tensor) -> Tensor:
    """Centre L: (..., 3, H, W) with L 0..100 -> the same with L_centred, -50..50."""
    return lab - _centre(lab)


def uncentred(lab: Tensor) -> Tensor:
    """Invert `centred`."""
    return lab + _centre(lab)


def _centre(lab: Tensor) -> Tensor:
    return lab.new_tensor((50.0, 0.0, 0.0)).view(3, 1, 1)


def lab_to_linear(lab: Tensor) -> Tensor:
    """Convert Lab to linear light of the sRGB primaries, not clamped. lab: (B, 3, H, W) -> (B, 3, H, W) float."""
    return _matrix(_XYZ_TO_RGB, _lab_to_xyz(lab[:, :1], lab[:, 1:]))


def cube_root(v: Tensor) -> Tensor:
    """Apply the curve between light and Lab's three coordinates, with its straight foot."""
    return torch.where(v > DELTA**3, v.clamp_min(1e-6) ** (1.0 / 3.0), v / (3 * DELTA**2) + 4.0 / 29.0)


def _lab_to_xyz(L: Tensor, ab: Tensor) -> Tensor:
    """Convert Lab to XYZ: (B, 1, H, W) and (B, 2, H, W) -> (B, 3, H, W) relative to the white."""
    y = (L + 16.0) / 116.0
    return _cube(torch.cat((y + ab[:, :1] / 500.0, y, y - ab[:, 1:] / 200.0), dim=1))


def _cube(f: Tensor) -> Tensor:
    """Invert cube_root."""
    return torch.where(f > DELTA, f**3, 3 * DELTA**2 * (f - 4.0 / 29.0))


def lab_to_rgb(lab: Tensor) -> Tensor:
    """Convert Lab to sRGB, colours outside the gamut clipped per channel. lab: (B, 3, H, W) -> (B, 3, H, W), 0..1."""
    return linear_to_srgb(lab_to_linear(lab)).clamp(0.0, 1.0)


def L_to_rgb(L: Tensor) -> Tensor:
    """Return the grey picture of an L: lab_to_rgb of ab 0, at a third of its cost. (B, 1, H, W) -> (B, 3, H, W)."""
    return linear_to_srgb(_cube((L + 16.0) / 116.0)).clamp(0.0, 1.0).expand(-1, 3, -1, -1)


def _inverse(rows: tuple[tuple[float, ...], ...]) -> tuple[tuple[float, ...], ...]:
    inverse = torch.linalg.inv(torch.tensor(rows, dtype=torch.float64))
    return tuple(tuple(row) for row in inverse.tolist())


_XYZ_TO_RGB = _inverse(_RGB_TO_XYZ)

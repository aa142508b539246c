"""Colour arithmetic: picture planes <-> CIE Lab (D65). Pure functions on tensors; no VapourSynth, no network, no state.

Axes: B batch, H and W rows and columns, 3 = (R, G, B) or (L, a, b); h and w rows and columns at the network's size.

The second half goes between luma and Lab. Numbers for matrix, transfer and primaries are VapourSynth's (ITU-T H.273).
`luma` is Y', the stored brightness, full range, 0..1; L is the Lab lightness that a grey pixel of that luma has.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# sRGB primaries (BT.709) to CIE XYZ, IEC 61966-2-1; rows divided by the D65 white (0.95047, 1, 1.08883).
_RGB_TO_XYZ = (
    (0.4124564 / 0.95047, 0.3575761 / 0.95047, 0.1804375 / 0.95047),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339 / 1.08883, 0.1191920 / 1.08883, 0.9503041 / 1.08883),
)
_DELTA = 6.0 / 29.0  # CIE 15: where the cube root is replaced by its tangent


def srgb_to_linear(v: Tensor) -> Tensor:
    """sRGB transfer, decoding. v: any shape, float, 0..1 -> linear light, 0..1."""
    return torch.where(v <= 0.04045, v / 12.92, ((v.clamp_min(0.0) + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(v: Tensor) -> Tensor:
    """sRGB transfer, encoding. v: any shape, float linear light -> 0..1 for 0..1; negative light stays on the line."""
    return torch.where(v <= 0.0031308, v * 12.92, 1.055 * v.clamp_min(0.0031308) ** (1.0 / 2.4) - 0.055)


def _matrix(rows: tuple[tuple[float, ...], ...], x: Tensor) -> Tensor:
    return torch.einsum("ij,bjhw->bihw", torch.tensor(rows, dtype=x.dtype, device=x.device), x)


def rgb_to_lab(rgb: Tensor) -> Tensor:
    """sRGB picture to Lab.

    Args:
        rgb: (B, 3, H, W) float, 0..1, sRGB transfer.

    Returns:
        (B, 3, H, W): L 0..100, a and b about -110..110.
    """
    xyz = _matrix(_RGB_TO_XYZ, srgb_to_linear(rgb))
    x, y, z = _cube_root(xyz).unbind(1)
    return torch.stack((116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)), dim=1)


def lab_to_linear(lab: Tensor) -> Tensor:
    """Lab to linear light of the sRGB primaries, not clamped. lab: (B, 3, H, W) -> (B, 3, H, W) float."""
    return _matrix(_XYZ_TO_RGB, _lab_to_xyz(lab[:, :1], lab[:, 1:]))


def _cube_root(v: Tensor) -> Tensor:
    """The curve between light and Lab's three coordinates, with its straight foot."""
    return torch.where(v > _DELTA**3, v.clamp_min(1e-6) ** (1.0 / 3.0), v / (3 * _DELTA**2) + 4.0 / 29.0)


def _lab_to_xyz(L: Tensor, ab: Tensor) -> Tensor:
    """(B, 1, H, W) and (B, 2, H, W) -> (B, 3, H, W) relative to the white."""
    y = (L + 16.0) / 116.0
    f = torch.cat((y + ab[:, :1] / 500.0, y, y - ab[:, 1:] / 200.0), dim=1)
    return torch.where(f > _DELTA, f**3, 3 * _DELTA**2 * (f - 4.0 / 29.0))


def lab_to_rgb(lab: Tensor) -> Tensor:
    """Lab to sRGB picture, colours outside the gamut clipped per channel. lab: (B, 3, H, W) -> (B, 3, H, W), 0..1."""
    return linear_to_srgb(lab_to_linear(lab)).clamp(0.0, 1.0)


def _inverse(rows: tuple[tuple[float, ...], ...]) -> tuple[tuple[float, ...], ...]:
    inverse = torch.linalg.inv(torch.tensor(rows, dtype=torch.float64))
    return tuple(tuple(row) for row in inverse.tolist())


_XYZ_TO_RGB = _inverse(_RGB_TO_XYZ)


# --- luma, L and chroma of video -------------------------------------------------------------------------------------

# Kr and Kb of Y' = Kr R' + (1 - Kr - Kb) G' + Kb B', by `_Matrix`: BT.709, FCC, BT.470BG, ST 170M, ST 240M, BT.2020.
_LUMA_WEIGHTS = {
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
}
# By `_Transfer`. The BT.709 family (1, 6, 7, 11, 14, 15) and what is not tagged (2) are decoded as sRGB (13), as the
# network's training pictures were; exponents for the pure powers.
_SRGB_TRANSFERS = frozenset((1, 2, 6, 7, 11, 13, 14, 15))
_POWER_TRANSFERS = {4: 2.2, 5: 2.8, 8: 1.0}
_D65, _C, _DCI = (0.3127, 0.3290), (0.310, 0.316), (0.314, 0.351)
# By `_Primaries`: chromaticities x, y of red, green, blue and white.
_BT709 = ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060), _D65)
_ST170 = ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070), _D65)
_CHROMATICITIES = {
    1: _BT709,
    2: _BT709,
    4: ((0.670, 0.330), (0.210, 0.710), (0.140, 0.080), _C),
    5: ((0.640, 0.330), (0.290, 0.600), (0.150, 0.060), _D65),
    6: _ST170,
    7: _ST170,
    8: ((0.681, 0.319), (0.243, 0.692), (0.145, 0.049), _C),
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), _D65),
    11: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), _DCI),
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), _D65),
    22: ((0.630, 0.340), (0.295, 0.605), (0.155, 0.077), _D65),
}
_BAND = 1 << 18  # pixels worked on at once: bounds what a large picture needs in memory
_GUIDE_RADIUS = 1  # of the guided filter, in pixels at the network's size
_GUIDE_EPSILON = 4.0  # of the guided filter, in L squared: smaller steps of L are taken for noise


def is_srgb_transfer(transfer: int) -> bool:
    """True where `_Transfer` is decoded with the sRGB curve here: the BT.709 family, sRGB, and what is not tagged."""
    return transfer in _SRGB_TRANSFERS


def luma_weights(matrix: int) -> tuple[float, float]:
    """Kr and Kb of `_Matrix`.

    Raises:
        ValueError: a matrix that is no weighted sum of R'G'B', or not stated (0, 2): the caller chooses a default.
    """
    if matrix not in _LUMA_WEIGHTS:
        raise ValueError(f"_Matrix must be one of {sorted(_LUMA_WEIGHTS)}, got {matrix}")
    return _LUMA_WEIGHTS[matrix]


def _exponent(transfer: int) -> float | None:
    """Of a transfer that is a power; None: the sRGB curve."""
    if transfer in _SRGB_TRANSFERS:
        return None
    if transfer not in _POWER_TRANSFERS:
        raise ValueError(f"_Transfer must be one of {sorted(_SRGB_TRANSFERS | set(_POWER_TRANSFERS))}, got {transfer}")
    return _POWER_TRANSFERS[transfer]


def _decode(v: Tensor, transfer: int) -> Tensor:
    exponent = _exponent(transfer)
    return srgb_to_linear(v) if exponent is None else v.clamp_min(0.0) ** exponent


def _encode(v: Tensor, transfer: int) -> Tensor:
    exponent = _exponent(transfer)
    return linear_to_srgb(v) if exponent is None else v.clamp_min(0.0) ** (1.0 / exponent)


def L_from_luma(luma: Tensor, transfer: int = 2) -> Tensor:
    """Lightness of grey pixels.

    Args:
        luma: any shape, float, 0..1; beyond is clipped.
        transfer: `_Transfer` of the clip.

    Returns:
        The same shape, L 0..100.

    Raises:
        ValueError: a transfer that is not handled (PQ, HLG and the logarithmic ones).
    """
    return 116.0 * _cube_root(_decode(luma.clamp(0.0, 1.0), transfer)) - 16.0


def _box(x: Tensor, radius: int) -> Tensor:
    return F.avg_pool2d(x, 2 * radius + 1, 1, radius, count_include_pad=False)


def upsample_ab(ab: Tensor, L_small: Tensor, L_full: Tensor) -> Tensor:
    """Brings ab from the network's size to the picture's, with the edges of the picture's L.

    A guided filter (He, Sun) that keeps its input: around each pixel at the network's size the slope of ab over L is
    fitted by least squares, and what L has at full size beyond its bilinear enlargement is added times that slope. At
    the network's size the result is ab itself; where L is flat it is the bilinear enlargement. Linear in the size.

    Args:
        ab: (1, 2, h, w) float32, -128..127.
        L_small: (1, 1, h, w) float32, 0..100, the L that belongs to ab.
        L_full: (1, 1, H, W) float32, 0..100.

    Returns:
        (1, 2, H, W) float32.
    """
    mean_L, mean_ab = _box(L_small, _GUIDE_RADIUS), _box(ab, _GUIDE_RADIUS)
    variance = (_box(L_small * L_small, _GUIDE_RADIUS) - mean_L * mean_L).clamp_min(0.0)
    covariance = _box(ab * L_small, _GUIDE_RADIUS) - mean_ab * mean_L
    slope = _box(covariance / (variance + _GUIDE_EPSILON), _GUIDE_RADIUS)
    coefficients = torch.cat((slope, ab - slope * L_small), dim=1)  # (1, 4, h, w)
    h, (H, W) = ab.shape[2], L_full.shape[2:]
    y = ((torch.arange(H, device=ab.device, dtype=ab.dtype) + 0.5) * (h / H) - 0.5).clamp(0.0, h - 1.0)
    above = y.floor().long()
    below, part = (above + 1).clamp_max(h - 1), (y - above).view(1, 1, H, 1)
    result = torch.empty((1, 2, H, W), dtype=ab.dtype, device=ab.device)
    for rows in _bands(H, W):
        band = torch.lerp(coefficients[:, :, above[rows]], coefficients[:, :, below[rows]], part[:, :, rows])
        band = F.interpolate(band, size=(band.shape[2], W), mode="bilinear")
        torch.addcmul(band[:, 2:], band[:, :2], L_full[:, :, rows], out=result[:, :, rows])
    return result


def chroma(luma: Tensor, L: Tensor, ab: Tensor, matrix: int = 1, transfer: int = 2, primaries: int = 2) -> Tensor:
    """U and V that give a picture of that luma the colours ab.

    Lab -> linear light of the clip's primaries -> R'G'B' -> U and V. A colour's luma is not that of the grey of its L,
    so L is corrected once by the difference: then the luma of (L, ab) is the picture's to within what 8 bits show.
    Gamut rule: U and V of a pixel are scaled together toward grey until R'G'B' with the given luma lies in 0..1; no
    channel is clipped, none can wrap, and the hue stays. Primaries whose white is not D65 are taken relative to it.

    Args:
        luma: (1, 1, H, W) float32, 0..1; beyond (blacker than black) the pixel is grey.
        L: (1, 1, H, W) float32, 0..100, `L_from_luma(luma, transfer)`.
        ab: (1, 2, H, W) float32, -128..127.
        matrix: `_Matrix`, stated.
        transfer: `_Transfer`.
        primaries: `_Primaries`; 2 (not stated) is BT.709.

    Returns:
        (1, 2, H, W) float32, -0.5..0.5.

    Raises:
        ValueError: a matrix, transfer or primaries that is not handled.
    """
    if primaries not in _CHROMATICITIES:
        raise ValueError(f"_Primaries must be one of {sorted(_CHROMATICITIES)}, got {primaries}")
    xyz_to_rgb = _primaries_matrix(primaries)
    kr, kb = luma_weights(matrix)
    kg = 1.0 - kr - kb
    result = torch.empty_like(ab)
    for rows in _bands(*ab.shape[2:]):
        y, y_L, y_ab = luma[:, :, rows], L[:, :, rows], ab[:, :, rows]
        rgb = _encode(_lab_to_light(y_L, y_ab, xyz_to_rgb), transfer)
        reached = (kr * rgb[:, :1]).add_(rgb[:, 1:2], alpha=kg).add_(rgb[:, 2:], alpha=kb)
        rgb = _encode(_lab_to_light(2.0 * y_L - L_from_luma(reached, transfer), y_ab, xyz_to_rgb), transfer)
        reached = (kr * rgb[:, :1]).add_(rgb[:, 1:2], alpha=kg).add_(rgb[:, 2:], alpha=kb)
        offset = rgb.sub_(reached)  # how far R', G' and B' lie from grey
        room = torch.where(offset > 0, 1.0 - y, y).clamp_min_(0.0).div_(offset.abs().clamp_min_(1e-6))
        offset *= room.amin(1, keepdim=True).clamp_max_(1.0)
        result[:, :1, rows] = offset[:, 2:] / (2.0 * (1.0 - kb))
        result[:, 1:, rows] = offset[:, :1] / (2.0 * (1.0 - kr))
    return result


def subsample(plane: Tensor, factor_w: int, factor_h: int, location: int = 0) -> Tensor:
    """Chroma planes to a subsampled format, by a triangle as wide as the distance of two samples.

    Args:
        plane: (B, C, H, W) float32.
        factor_w: luma columns for one of chroma: 1, 2 or 4; W is a multiple of it.
        factor_h: luma rows for one of chroma, likewise.
        location: `_ChromaLocation`: 0 left, 1 centre, 2 top left, 3 top, 4 bottom left, 5 bottom.

    Returns:
        (B, C, H / factor_h, W / factor_w) float32.

    Raises:
        ValueError: another location.
    """
    if location not in range(6):
        raise ValueError(f"_ChromaLocation must be 0..5, got {location}")
    column = 0.0 if location in (0, 2, 4) else (factor_w - 1) / 2.0
    row = (factor_h - 1) * {0: 0.5, 1: 0.5, 2: 0.0, 3: 0.0, 4: 1.0, 5: 1.0}[location]
    return _decimate(_decimate(plane, 3, factor_w, column), 2, factor_h, row)


def _decimate(x: Tensor, axis: int, factor: int, centre: float) -> Tensor:
    """Weighted means along an axis around positions centre, centre + factor, ...; the border is repeated."""
    if factor == 1:
        return x
    size = x.shape[axis] // factor
    start = torch.arange(size, device=x.device) * factor
    total = torch.zeros_like(x.narrow(axis, 0, size))
    for tap in range(-factor, 2 * factor):
        weight = (1.0 - abs(tap - centre) / factor) / factor
        if weight > 0.0:
            total.add_(x.index_select(axis, (start + tap).clamp(0, x.shape[axis] - 1)), alpha=weight)
    return total


def _bands(height: int, width: int) -> list[slice]:
    rows = max(1, _BAND // width)
    return [slice(top, min(top + rows, height)) for top in range(0, height, rows)]


def _lab_to_light(L: Tensor, ab: Tensor, xyz_to_rgb: Tensor) -> Tensor:
    """(1, 1, H, W) and (1, 2, H, W) -> linear light (1, 3, H, W), not below 0."""
    xyz = _lab_to_xyz(L, ab)
    return torch.einsum("ij,bjhw->bihw", xyz_to_rgb.to(xyz), xyz).clamp_min_(0.0)


def _primaries_matrix(primaries: int) -> Tensor:
    """(3, 3) float64 from XYZ relative to the white of the primaries to their linear R, G, B."""
    xyz = [(x / y, 1.0, (1.0 - x - y) / y) for x, y in _CHROMATICITIES[primaries]]
    *rgb, white = torch.tensor(xyz, dtype=torch.float64)
    columns = torch.stack(rgb, dim=1) / white[:, None]
    inverse: Tensor = torch.linalg.inv(columns * torch.linalg.solve(columns, torch.ones_like(white)))
    return inverse

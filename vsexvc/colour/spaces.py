"""Convert between a clip's luma and chroma and Lab, by its matrix, transfer and primaries.

All functions are pure and work on tensors; this module does not need VapourSynth or a network. Numbers for matrix,
transfer and primaries are VapourSynth's (ITU-T H.273). `luma` is Y', the stored brightness, full range, 0..1; L is the
Lab lightness that a grey pixel of that luma has.

Axes: B batch, H and W rows and columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache

import torch
from torch import Tensor

from vsexvc.colour.lab import DELTA, cube_root, linear_to_srgb, srgb_to_linear
from vsexvc.colour.upsample import (
    bands,
)

# Kr and Kb of Y' = Kr R' + (1 - Kr - Kb) G' + Kb B', by `_Matrix`: BT.709, FCC, BT.470BG, ST 170M, ST 240M, YCgCo,
# BT.2020. Those of 12 follow from the primaries.
_LUMA_WEIGHTS = {
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    7: (0.212, 0.087),
    8: (0.25, 0.25),
    9: (0.2627, 0.0593),
}
_YCGCO, _DERIVED = 8, 12
# By `_Transfer`. The BT.709 family (1, 6, 7, 11, 14, 15) and what is not tagged (2) are decoded as sRGB (13), as the
# network's training pictures were; exponents for the pure powers; how many tenfolds of light the logarithmic ones span.
_SRGB_TRANSFERS = frozenset((1, 2, 6, 7, 11, 13, 14, 15))
_POWER_TRANSFERS = {4: 2.2, 5: 2.8, 8: 1.0}
_LOG_TRANSFERS = {9: 2.0, 10: 2.5}
_ST428, _ST428_WHITE = 17, 48.0 / 52.37  # ST 428-1: white is not the highest code
_D65, _C, _DCI, _E = (0.3127, 0.3290), (0.310, 0.316), (0.314, 0.351), (1.0 / 3.0, 1.0 / 3.0)
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
    10: ((1.0, 0.0), (0.0, 1.0), (0.0, 0.0), _E),
    11: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), _DCI),
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), _D65),
    22: ((0.630, 0.340), (0.295, 0.605), (0.155, 0.077), _D65),
}
_BRADFORD = ((0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296))
# What some refused values are, and what to do instead.
_CONSTANT_LUMINANCE = "constant luminance: resize it to a matrix of the list first"
_REFUSED_MATRICES = {
    10: _CONSTANT_LUMINANCE,
    13: _CONSTANT_LUMINANCE,
    14: "ICtCp, HDR: tonemap to SDR in BT.2020 or BT.709 first",
}
_REFUSED_TRANSFERS = {16: "PQ, HDR: tonemap to SDR first", 18: "HLG, HDR: tonemap to SDR first"}

_STEPS = 65535  # of the tables over luma and over light
_BRIGHTEST = 6.25  # light that the table over light ends at: no L up to 100 and ab of 128 go beyond
# The search for L in `ColorSpace.chroma`: its tolerance, its steps beyond that, and the bounds of their slopes.
_CLOSE, _SECANTS, _SECANT_SLOPES = 0.1, 2, (0.3, 4.0)


def is_srgb_transfer(transfer: int) -> bool:
    """Return whether `_Transfer` is decoded with the sRGB curve: the BT.709 family, sRGB, and untagged."""
    return transfer in _SRGB_TRANSFERS


@lru_cache  # called for each frame in VapourSynth's threads, which must not create tensors
def check_space(matrix: int, transfer: int, primaries: int) -> None:
    """Raise ValueError if `_Matrix`, `_Transfer` or `_Primaries` is not handled."""
    _to_xyz(primaries)
    luma_weights(matrix, primaries)
    if matrix == _DERIVED and primaries in (2, 10):
        raise ValueError(f"_Primaries must be stated, and not XYZ, where _Matrix is {_DERIVED}, got {primaries}")
    _decode(torch.zeros(1), transfer)


def luma_weights(matrix: int, primaries: int = 2) -> tuple[float, float]:
    """Return Kr and Kb of `_Matrix`; those of 12 (derived from chromaticities) depend on `_Primaries`.

    Raises:
        ValueError: the matrix's luma is no weighted sum of R'G'B', or the matrix is not stated (0, 2); primaries are
            unknown.
    """
    if matrix == _DERIVED:
        kr, _, kb = _to_xyz(primaries)[1].tolist()
        return kr, kb
    if matrix not in _LUMA_WEIGHTS:
        raise _refusal("_Matrix", {*_LUMA_WEIGHTS, _DERIVED}, matrix, _REFUSED_MATRICES)
    return _LUMA_WEIGHTS[matrix]


def _refusal(name: str, accepted: Iterable[int], value: int, known: Mapping[int, str]) -> ValueError:
    meaning = f" ({known[value]})" if value in known else ""
    return ValueError(f"{name} must be one of {sorted(accepted)}, got {value}{meaning}")


def _decode(v: Tensor, transfer: int) -> Tensor:
    """Decode R'G'B' or luma to linear light; nothing is below 0."""
    if transfer in _SRGB_TRANSFERS:
        return srgb_to_linear(v)
    if transfer in _POWER_TRANSFERS:
        return v.clamp_min(0.0) ** _POWER_TRANSFERS[transfer]
    if transfer in _LOG_TRANSFERS:
        return 10.0 ** (_LOG_TRANSFERS[transfer] * (v.clamp_min(0.0) - 1.0))
    if transfer == _ST428:
        return v.clamp_min(0.0) ** 2.6 / _ST428_WHITE
    accepted = {*_SRGB_TRANSFERS, *_POWER_TRANSFERS, *_LOG_TRANSFERS, _ST428}
    raise _refusal("_Transfer", accepted, transfer, _REFUSED_TRANSFERS)


def _encode(v: Tensor, transfer: int) -> Tensor:
    """Encode light: the inverse of `_decode`, for the same transfers. v: light, 0 or above."""
    if transfer in _POWER_TRANSFERS:
        return v ** (1.0 / _POWER_TRANSFERS[transfer])
    if transfer in _LOG_TRANSFERS:
        return (1.0 + v.log10() / _LOG_TRANSFERS[transfer]).clamp_min(0.0)
    if transfer == _ST428:
        return (v * _ST428_WHITE) ** (1.0 / 2.6)
    return linear_to_srgb(v)


def L_from_luma(luma: Tensor, transfer: int = 2) -> Tensor:
    """Return the lightness of grey pixels.

    Args:
        luma: any shape, float, 0..1; beyond is clipped.
        transfer: `_Transfer` of the clip.

    Returns:
        The same shape, L 0..100 (of ST 428, whose white is not the highest code, 0..103.4).

    Raises:
        ValueError: the transfer is not supported (PQ and HLG).
    """
    return 116.0 * cube_root(_decode(luma.clamp(0.0, 1.0), transfer)) - 16.0


def _to_xyz(primaries: int) -> Tensor:
    """Return (3, 3) float64 from linear R, G, B of `_Primaries` to XYZ with their own white, whose Y is 1."""
    if primaries not in _CHROMATICITIES:
        raise _refusal("_Primaries", _CHROMATICITIES, primaries, {})
    *columns, white = _CHROMATICITIES[primaries]
    directions = torch.tensor([(x, y, 1.0 - x - y) for x, y in columns], dtype=torch.float64).T
    gains: Tensor = torch.linalg.solve(directions, _white(white))
    return directions * gains


def _white(xy: tuple[float, float]) -> Tensor:
    return torch.tensor((xy[0] / xy[1], 1.0, (1.0 - xy[0] - xy[1]) / xy[1]), dtype=torch.float64)


def _from_xyz(primaries: int) -> Tensor:
    """Return (3, 3) float64 from XYZ relative to D65 to linear R, G, B; another white by Bradford's cones."""
    to_xyz = _to_xyz(primaries)
    cones, d65 = torch.tensor(_BRADFORD, dtype=torch.float64), _white(_D65)
    gain = (cones @ d65) / (cones @ to_xyz.sum(1))
    adapted = torch.linalg.solve(cones, gain[:, None] * (cones @ to_xyz)) / d65[:, None]
    inverse: Tensor = torch.linalg.inv(adapted)
    return inverse


class ColorSpace:
    """Convert between a clip's `_Matrix`, `_Transfer` and `_Primaries` and Lab, by tables. It is immutable."""

    def __init__(
        self, matrix: int = 1, transfer: int = 2, primaries: int = 2, device: torch.device | str = "cpu"
    ) -> None:
        """Build the tables. matrix: stated (not 0 or 2). transfer, primaries: 2 (not stated) are sRGB's.

        Raises:
            ValueError: one of them is not supported.
        """
        kr, kb = luma_weights(matrix, primaries)
        self._weights = kr, 1.0 - kr - kb, kb
        to_uv = [[0.0, 0.0, 0.5 / (1.0 - kb)], [0.5 / (1.0 - kr), 0.0, 0.0]]
        if matrix == _YCGCO:  # Cg is G' - Y', Co half of R' - B'
            to_uv = [[0.0, 1.0, 0.0], [0.5, 0.0, -0.5]]
        self._to_uv = torch.tensor(to_uv, device=device)
        # To light in squared steps of the table over its root.
        self._from_xyz = (_from_xyz(primaries) * (_STEPS**2 / _BRIGHTEST)).to(torch.float32).to(device)
        steps = torch.arange(_STEPS + 1, dtype=torch.float64) / _STEPS
        self._L = L_from_luma(steps, transfer).to(torch.float32).to(device)
        # The table is over the root of light, so that dark codes have enough entries.
        self._codes = _encode(steps**2 * _BRIGHTEST, transfer).to(torch.float32).to(device)

    def luma(self, rgb: Tensor) -> Tensor:
        """Return Y' of R'G'B'. rgb: (3, ...) float32 -> (...)."""
        kr, kg, kb = self._weights
        return (kr * rgb[0]).add_(rgb[1], alpha=kg).add_(rgb[2], alpha=kb)

    def lightness(self, luma: Tensor) -> Tensor:
        """Compute `L_from_luma` by table. luma: any shape, float32, a number; values beyond 0..1 are clipped."""
        return _look_up(self._L, luma.clamp(0.0, 1.0).mul_(_STEPS))

    def chroma(self, luma: Tensor, L: Tensor, ab: Tensor) -> Tensor:
        """Return U and V (YCgCo: Cg and Co) that give a picture of that luma the colours ab.

        Lab -> linear light of the clip's primaries -> R'G'B' -> U and V. A colour's luma is not that of the grey of its
        L, so L is corrected by the difference and then by secants, until the luma of (L, ab) is the picture's to within
        what 8 bits show of all but the most saturated colours. Gamut rule: U and V of a pixel are scaled together
        toward grey until R'G'B' with the given luma lies in 0..1; no channel is clipped or wraps, and the hue
        stays.

        Args:
            luma: (1, 1, H, W) float32, 0..1; beyond (blacker than black) the pixel is grey.
            L: (1, 1, H, W) float32, `lightness(luma)`.
            ab: (1, 2, H, W) float32, -128..127.

        Returns:
            (1, 2, H, W) float32, -0.5..0.5.
        """
        return self._render(luma, L, ab, self._to_uv)

    def rgb(self, luma: Tensor, L: Tensor, ab: Tensor) -> Tensor:
        """Return R'G'B' of that luma and ab: `chroma` for clips without U and V. (1, 3, H, W) float32, 0..1."""
        return self._render(luma, L, ab, torch.eye(3, device=ab.device)).add_(luma)

    def _render(self, luma: Tensor, L: Tensor, ab: Tensor, rows: Tensor) -> Tensor:
        """Return (1, K, H, W): weighted sums of the distances of R', G' and B' from grey. rows: (K, 3), the weights."""
        H, W = ab.shape[2:]
        result = torch.empty((1, len(rows), H, W), dtype=ab.dtype, device=ab.device)
        for band in bands(H, W, ab.device):
            y, a_L, (a, b) = luma[0, 0, band].flatten(), L[0, 0, band].flatten(), ab[0, :, band].flatten(1)
            grey = (a_L + 16.0).div_(116.0)
            f = torch.stack((torch.add(grey, a, alpha=1.0 / 500.0), grey, torch.sub(grey, b, alpha=1.0 / 200.0)))
            offset = self._search(f, a_L)
            offset.sub_(self.luma(offset))
            y = y.clamp(0.0, 1.0)
            up, down = offset.amax(0).clamp_min_(1e-6), offset.amin(0).neg_().clamp_min_(1e-6)
            offset.mul_(torch.minimum((1.0 - y).div_(up), y.div_(down)).clamp_max_(1.0))
            result[0, :, band] = (rows @ offset).view(len(rows), -1, W)
        return result

    def _search(self, f: Tensor, L: Tensor) -> Tensor:
        """Find R'G'B' (3, N) with the luma of L and the ab of Lab's coordinates f (3, N). f is changed. L: (N)."""
        step = before = L - self.lightness(self.luma(self._codes_of(f)))
        codes = self._codes_of(f.add_(step, alpha=1.0 / 116.0))
        missing = L - self.lightness(self.luma(codes))
        rest = (missing.abs() > _CLOSE).nonzero()[:, 0]  # the most saturated colours
        if len(rest) == 0:
            return codes
        f = f.index_select(1, rest)
        L, step, before, missing = torch.stack((L, step, before, missing)).index_select(1, rest)
        for _ in range(_SECANTS):
            gained = before - missing
            step = (step * gained).div_(gained.square_().add_(1e-4)).clamp_(*_SECANT_SLOPES).mul_(missing)
            found = self._codes_of(f.add_(step, alpha=1.0 / 116.0))
            before, missing = missing, L - self.lightness(self.luma(found))
        return codes.index_copy_(1, rest, found)

    def _codes_of(self, f: Tensor) -> Tensor:
        """Convert Lab's three coordinates (3, N) to R'G'B' (3, N), light beyond the table's ends clipped."""
        cubed = f.clamp_min(DELTA)
        foot = f - cubed
        xyz = cubed.pow_(3).add_(foot, alpha=3.0 * DELTA**2)
        light = (self._from_xyz @ xyz).clamp_(
            1e-3, float(_STEPS**2)
        )  # the root of 0 takes five times as long as others
        return _look_up(self._codes, light.sqrt_())


def _look_up(table: Tensor, position: Tensor) -> Tensor:
    """Look up the nearest entries. position: any shape, 0..len(table) - 1; changed."""
    return table.index_select(0, position.add_(0.5).to(torch.int32).flatten()).view(position.shape)

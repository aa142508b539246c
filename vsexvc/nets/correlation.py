"""Correlate each position of a frame with those of a reference (eq. 3-5).

Axes: B batch, C channels of a vector, N positions of a frame, N' of a reference, K values of a position.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_CHUNK = 1 << 20  # elements of the correlation matrix held at once: what fits a core's cache
_SPARING_CHUNK = 1 << 18  # the same where memory is short
_LOWEST_OCTAVE = -115.0  # below it exp2 gives denormal numbers: ten times slower, without effect on the output
_LOG2_E = 1.4426950408889634
_MULTIPLE = 16  # of queries at once: oneDNN prepares a product for each number of them, and keeps it
_SPARE = 16  # channels added to products in half precision; one is enough, but slower


class Correlation(nn.Module):
    """Compute eq. 3-5 between positions as unit vectors. Without gradients the matrix is never held as a whole."""

    def __init__(self, temperature: float, largest: float = 1.0, dtype: torch.dtype = torch.float32) -> None:
        """Prepare. largest: bound of a product; dtype: of the products, in half precision relative to the largest."""
        super().__init__()
        self.temperature, self.largest, self.dtype = temperature, largest, dtype

    def forward(self, theta: Tensor, phi: Tensor, colours: Tensor, sparing: bool = False) -> tuple[Tensor, Tensor]:
        """Return the colours that each position finds, and the similarity.

        Args:
            theta: (B, C, N).
            phi: (B or 1, C, N').
            colours: (B or 1, K, N').
            sparing: compute in smaller parts, which take less memory.

        Returns:
            warped (B, K, N) and similarity (B, 1, N), -1..1.
        """
        if torch.is_grad_enabled() and any(x.requires_grad for x in (theta, phi, colours)):
            M = theta.transpose(1, 2) @ phi
            share = torch.softmax(M / self.temperature, dim=2)
            return colours @ share.transpose(1, 2), M.amax(2)[:, None]
        queries, keys, largest = self._prepared(theta, phi)
        values = torch.cat((colours, torch.ones_like(colours[:, :1])), dim=1)  # the last sums the shares
        count = _at_once(keys, sparing)
        # One frame at a time: products of a batch differ in their last bits.
        each = [self.one(queries[i], keys[i % len(keys)], values[i % len(values)], count) for i in range(len(theta))]
        sums, best = (torch.stack(some) for some in zip(*each, strict=True))
        return sums[:, :-1] / sums[:, -1:], best + largest

    def best(self, theta: Tensor, phi: Tensor, sparing: bool = False) -> tuple[Tensor, Tensor]:
        """Return the key that each position is most similar to, (B, N), and the similarity, (B, N), -1..1.

        It takes a quarter of the time of `forward`, whose arguments it has.
        """
        queries, keys, largest = self._prepared(theta, phi)
        count = _at_once(keys, sparing)
        each = [
            (some @ keys[i % len(keys)]).max(1) for i in range(len(theta)) for some in torch.split(queries[i], count)
        ]
        similarity, index = (torch.cat(some).view(len(theta), -1) for some in zip(*each, strict=True))
        return index, similarity.float() + largest

    def _prepared(self, theta: Tensor, phi: Tensor) -> tuple[Tensor, Tensor, float]:
        """Return queries (B, N, C), keys (B or 1, C, N') and what their products lack."""
        largest = 0.0 if self.dtype == torch.float32 else self.largest
        if largest:
            theta, phi = F.pad(theta, (0, 0, 0, _SPARE)), F.pad(phi, (0, 0, 0, _SPARE))
            theta[:, -1], phi[:, -1] = -largest, 1.0
        return theta.transpose(1, 2).to(self.dtype), phi.to(self.dtype), largest

    def one(self, queries: Tensor, keys: Tensor, values: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Return, for one frame, sums (K, N) weighted by the softmax before its division, and the best products (1, N).

        Args:
            queries: (N, C).
            keys: (C, N').
            values: (K, N').
            count: queries that are computed at once.
        """
        number = len(queries)
        queries = F.pad(queries, (0, 0, 0, -number % _MULTIPLE))
        sums, best = values.new_empty(len(values), len(queries)), values.new_empty(1, len(queries))
        # Allocating these for each part would take longer than the products.
        products = queries.new_empty(count, keys.shape[1])
        octaves = values.new_empty(count, keys.shape[1])
        for first in range(0, len(queries), count):
            some = queries[first : first + count]
            last = first + len(some)
            M = torch.mm(some, keys, out=products[: len(some)])
            highest = M.amax(1, keepdim=True).float()
            best[0, first:last] = highest[:, 0]
            # Copied first: a difference of two types would allocate memory for each part.
            share = octaves[: len(some)].copy_(M).sub_(highest)
            share.mul_(_LOG2_E / self.temperature).clamp_min_(_LOWEST_OCTAVE).exp2_()  # exp2 is faster than exp
            sums[:, first:last] = values @ share.t()
        return sums[:, :number], best[:, :number]


def _at_once(keys: Tensor, sparing: bool) -> int:
    """Return how many queries to compute at once, a multiple of _MULTIPLE. keys: (B, C, N')."""
    most = (_SPARING_CHUNK if sparing else _CHUNK) // keys.shape[2]
    return max(_MULTIPLE, most - most % _MULTIPLE)

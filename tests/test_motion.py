"""Test the motion search and its parts against plain loops over positions."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vsexvc.nets import motion
from vsexvc.nets.motion import search, warp

pytestmark = pytest.mark.numbers


def embedding(h: int, w: int, seed: int) -> Tensor:
    return F.normalize(torch.randn(1, 5, h, w, generator=torch.Generator().manual_seed(seed)), dim=1)


def searched(theta: Tensor, phi: Tensor, radius: int, temperature: float) -> Tensor:
    """Search cell by cell in Python's numbers."""
    h, w = theta.shape[2:]
    flow = torch.zeros(1, 2, h, w)
    cosine = torch.einsum("cyx,cvu->yxvu", theta[0].double(), phi[0].double()).tolist()
    for y in range(h):
        for x in range(w):
            here = [(v, u) for v in range(h) for u in range(w) if abs(v - y) <= radius and abs(u - x) <= radius]
            v, u = max(here, key=lambda at: cosine[y][x][at[0]][at[1]] - 0.005 * math.hypot(at[0] - y, at[1] - x))
            near = [(v + i, u + j) for i in (-1, 0, 1) for j in (-1, 0, 1) if 0 <= v + i < h and 0 <= u + j < w]
            share = [math.exp((cosine[y][x][i][j] - cosine[y][x][v][u]) / temperature) for i, j in near]
            flow[0, 0, y, x] = sum(s * (j - x) for s, (_, j) in zip(share, near, strict=True)) / sum(share)
            flow[0, 1, y, x] = sum(s * (i - y) for s, (i, _) in zip(share, near, strict=True)) / sum(share)
    return flow


@pytest.mark.parametrize(("h", "w", "radius"), [(7, 9, 2), (13, 27, 3), (3, 40, 1), (5, 6, 8)])
def test_search(h: int, w: int, radius: int) -> None:
    theta, phi = embedding(h, w, 0), embedding(h, w, 1)
    assert (search(theta, phi, radius, 0.1) - searched(theta, phi, radius, 0.1)).abs().max() < 1e-4


def test_search_in_parts_and_batches_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    theta, phi = (torch.cat([embedding(20, 30, seed + i) for i in (0, 1)]) for seed in (0, 5))
    whole = search(theta, phi, 3, 0.05)
    monkeypatch.setattr(motion, "_TILES", 1)
    assert torch.allclose(search(theta, phi, 3, 0.05), whole, atol=1e-5)
    assert torch.allclose(search(theta[1:], phi[1:], 3, 0.05), whole[1:], atol=1e-5)


def test_of_two_matches_alike_the_nearer_is_found() -> None:
    theta = F.normalize(torch.tensor([1.0, 0.0]), dim=0).view(1, 2, 1, 1).expand(1, 2, 9, 15).contiguous()
    phi = torch.zeros(1, 2, 9, 15)
    phi[:, 1] = 1.0
    phi[0, :, 4, 3] = phi[0, :, 4, 8] = torch.tensor([1.0, 0.0])  # 4 cells to the left of x = 7, and 1 to the right
    assert search(theta, phi, 5, 1e-3)[0, :, 4, 7] == pytest.approx([1.0, 0.0], abs=1e-3)


def test_search_passes_gradients_on() -> None:
    theta, phi = embedding(4, 5, 0).double().requires_grad_(), embedding(4, 5, 1).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: search(a, b, 2, 0.3), (theta, phi))


@pytest.mark.parametrize("radius", [1, 4, 8])
def test_box(radius: int) -> None:
    x = torch.randn(2, 3, 11, 14, generator=torch.Generator().manual_seed(0))
    found = motion._box(x, radius)
    for r in range(11):
        for c in range(14):
            square = x[:, :, max(0, r - radius) : r + radius + 1, max(0, c - radius) : c + radius + 1]
            assert torch.allclose(found[:, :, r, c], square.mean((2, 3)), atol=1e-5)


def test_an_even_area_moves_with_what_is_around_it() -> None:
    """A sky has no texture of its own: the search's flow there is noise."""
    generator = torch.Generator().manual_seed(3)
    L = F.avg_pool2d(torch.randn(1, 1, 100, 140, generator=generator) * 40.0, 3, 1, 1)
    L[:, :, 40:60, 50:90] = 10.0
    now, before = motion.texture(L[:, :, 2:98, 4:132]), motion.texture(L[:, :, 2:98, 7:135])
    flow = torch.zeros(1, 2, 96, 128)
    flow[:, 0] = -3.0
    flow[:, :, 44:52, 60:70] = 2.0

    def error(smoothed: tuple[int, ...]) -> float:
        found = motion.refine(flow, now, before, smoothed=smoothed)
        return float((found[0, 0, 44:52, 60:70] + 3.0).abs().mean())

    assert error(smoothed=()) > 1.0
    assert error(smoothed=(16,)) < 0.5


def test_warp_takes_from_where_the_flow_points() -> None:
    picture = torch.arange(20.0).view(1, 1, 4, 5)
    flow = torch.zeros(1, 2, 4, 5)
    flow[:, 0], flow[:, 1] = 1.0, 0.5
    moved = warp(picture, flow)[0, 0]
    assert torch.allclose(moved[0, :4], torch.tensor([3.5, 4.5, 5.5, 6.5]), atol=1e-4)
    assert moved[3, 4] == pytest.approx(19.0, abs=1e-4)  # beyond the border the border's value counts

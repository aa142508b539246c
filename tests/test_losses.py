"""Losses against numbers worked out by hand, and gradients against finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from train import losses


def test_l1_is_the_mean_over_pixels_that_count() -> None:
    ab = torch.tensor([[[[1.0, 5.0]], [[0.0, -2.0]]]])
    zero = torch.zeros_like(ab)
    assert losses.l1(ab, zero).item() == 2.0  # (1 + 5 + 0 + 2) / 4
    assert losses.l1(ab, zero, torch.tensor([[[[1.0, 0.0]]]])).item() == 0.5  # (1 + 0) / 2
    assert losses.l1(ab, zero, torch.zeros(1, 1, 1, 1)).item() == 0.0


def test_temporal_follows_the_flow_and_leaves_occlusions_out() -> None:
    prev = torch.zeros(1, 2, 1, 4)
    prev[0, 0, 0] = torch.tensor([10.0, 20.0, 30.0, 40.0])
    now = torch.zeros(1, 2, 1, 4)
    now[0, 0, 0] = torch.tensor([7.0, 10.0, 20.0, 33.0])  # the picture moved right by one; the last is off by 3
    flow = torch.zeros(1, 2, 1, 4)
    flow[:, 0] = -1.0
    valid = torch.tensor([[[[0.0, 1.0, 1.0, 1.0]]]])
    assert losses.temporal(now, prev, flow, valid).item() == pytest.approx(3.0 / 6)


def test_smoothness_of_an_impulse() -> None:
    """Flat truth: all eight weights are 1/8. An impulse of 8 in the middle of 5x5: itself 8, its neighbours 1 each."""
    ab = torch.zeros(1, 2, 5, 5)
    ab[0, 0, 2, 2] = 8.0
    assert losses.smoothness(ab, torch.zeros(1, 3, 5, 5)).item() == pytest.approx((8.0 + 8 * 1.0) / (9 * 2))


def test_smoothness_lets_true_edges_be() -> None:
    ab = torch.zeros(1, 2, 6, 8)
    ab[..., 4:] = 20.0
    edge = torch.zeros(1, 3, 6, 8)
    edge[..., 4:] = 60.0
    assert losses.smoothness(ab, edge).item() < 1e-3 < losses.smoothness(ab, torch.zeros(1, 3, 6, 8)).item()


@pytest.mark.parametrize("name", ["l1", "temporal", "smoothness"])
def test_gradients(name: str) -> None:
    torch.manual_seed(0)
    ab = torch.randn(1, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    other = torch.randn(1, 3, 5, 6, dtype=torch.float64) * 5
    flow = torch.rand(1, 2, 5, 6, dtype=torch.float64) * 0.5 + 0.2

    def loss(x: Tensor) -> Tensor:
        if name == "l1":
            return losses.l1(x, other[:, 1:])
        if name == "temporal":
            return losses.temporal(x, other[:, 1:], flow, torch.ones(1, 1, 5, 6, dtype=torch.float64))
        return losses.smoothness(x, other)

    assert torch.autograd.gradcheck(loss, (ab,))

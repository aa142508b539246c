"""Test the losses against numbers worked out by hand, and gradients against finite differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from train.fit import losses
from vsexvc.nets.features import Features


def test_l1_is_the_mean_over_pixels_that_count() -> None:
    ab = torch.tensor([[[[1.0, 5.0]], [[0.0, -2.0]]]])
    zero = torch.zeros_like(ab)
    assert losses.l1(ab, zero).item() == 2.0  # (1 + 5 + 0 + 2) / 4
    assert losses.l1(ab, zero, torch.tensor([[[[1.0, 0.0]]]])).item() == 0.5  # (1 + 0) / 2
    assert losses.l1(ab, zero, torch.zeros(1, 1, 1, 1)).item() == 0.0


def test_decibels_by_hand() -> None:
    """Squared errors of 9.95 and 0.05, plus the constant 0.05, are 10 dB and -10 dB. The third sample has no weight."""
    target = torch.zeros(3, 2, 1, 2)
    ab = torch.stack([torch.full((2, 1, 2), 9.95**0.5), torch.full((2, 1, 2), 0.05**0.5), torch.full((2, 1, 2), 77.0)])
    one, other, both = (torch.tensor(w).view(3, 1, 1, 1) for w in ((1.0, 0, 0), (0, 1.0, 0), (1.0, 1.0, 0)))
    assert losses.decibels(ab, target, one).item() == pytest.approx(10.0, rel=1e-5)
    assert losses.decibels(ab, target, other).item() == pytest.approx(-10.0, rel=1e-5)
    assert losses.decibels(ab, target, both).item() == pytest.approx(0.0, abs=1e-5)
    assert losses.decibels(ab, target, torch.zeros(3, 1, 1, 1)).item() == 0.0


def test_temporal_follows_the_flow_and_leaves_occlusions_out() -> None:
    prev = torch.zeros(1, 2, 1, 4)
    prev[0, 0, 0] = torch.tensor([10.0, 20.0, 30.0, 40.0])
    now = torch.zeros(1, 2, 1, 4)
    now[0, 0, 0] = torch.tensor([7.0, 10.0, 20.0, 33.0])  # the picture moved right by one; the last value is wrong by 3
    flow = torch.zeros(1, 2, 1, 4)
    flow[:, 0] = -1.0
    valid = torch.tensor([[[[0.0, 1.0, 1.0, 1.0]]]])
    assert losses.temporal(now, prev, flow, valid).item() == pytest.approx(3.0 / 6)


def test_smoothness_of_an_impulse() -> None:
    """In a flat truth all eight weights are 1/8, so an impulse of 8 counts 8 itself and 1 at each neighbour."""
    ab = torch.zeros(1, 2, 5, 5)
    ab[0, 0, 2, 2] = 8.0
    assert losses.smoothness(ab, torch.zeros(1, 3, 5, 5)).item() == pytest.approx((8.0 + 8 * 1.0) / (9 * 2))


def test_smoothness_weights_are_those_of_wls_on_true_chroma_alone() -> None:
    target = torch.full((1, 3, 3, 3), 128.0)
    target[:, 1:, 1, 1] = 0.0
    target[:, 1:, :, 0] = torch.tensor([8.0, 0.0])[:, None]
    target[:, 0] = torch.tensor([[0.0, 90.0, 7.0], [100.0, 50.0, 3.0], [20.0, 1.0, 66.0]])  # L must not count
    ab = torch.zeros(1, 2, 3, 3)
    ab[0, 1, :, 0] = 1.0
    # Left column: |difference| = mean(8, 0) / 128 = 2^-5, and (2^-5)^1.2 = 2^-6; the other five: 1^1.2 = 1.
    left, other = 1 / (2**-6 + 1e-4), 1 / (1 + 1e-4)
    mean = 3 * left / (3 * left + 5 * other)  # mean of b around the only inner pixel, which is 0; for a it is 0
    assert losses.smoothness(ab, target).item() == pytest.approx((mean + 0.0) / 2, rel=1e-5)


def test_smoothness_lets_true_edges_be() -> None:
    ab = torch.zeros(1, 2, 6, 8)
    ab[..., 4:] = 20.0
    edge = torch.zeros(1, 3, 6, 8)
    edge[:, 1:, :, 4:] = 60.0
    luma_edge = torch.zeros(1, 3, 6, 8)
    luma_edge[:, 0, :, 4:] = 60.0
    # Two of six inner columns lie at the edge; three of eight neighbours are off by 20.
    assert losses.smoothness(ab, luma_edge).item() == pytest.approx(20.0 * 3 / 8 * 2 / 6, rel=1e-5)
    assert losses.smoothness(ab, edge).item() < 2e-3


def test_perceptual_is_the_mean_square() -> None:
    features = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])
    assert losses.perceptual(features, torch.zeros_like(features)).item() == 7.5  # (1 + 4 + 9 + 16) / 4
    assert losses.perceptual(features, features).item() == 0.0


def level(*columns: tuple[float, float], repeat: int = 1) -> Tensor:
    """Return features in a row, each a square of `repeat` positions, (1, 2, repeat, positions * repeat)."""
    row = torch.tensor(columns, dtype=torch.float64).T[None, :, None]
    return row.repeat_interleave(repeat, 2).repeat_interleave(repeat, 3)


def pyramid(*columns: tuple[float, float]) -> Features:
    """Return the same features on all levels; relu2_2 and relu3_2 are 4 and 2 times as large."""
    return Features(*(level(*columns, repeat=repeat) for repeat in (4, 2, 1, 1)))


def test_contextual_by_hand() -> None:
    """The contextual loss is that worked out by hand. With h = 3 / ln 3 the softmax has base 3.

    The references (6, 7) and (4, 7) have the mean (5, 7) and point right and left of it.
    (5, 8) points up: cosines 0 and 0, d 1 and 1: affinities 1/2 and 1/2.
    (5 + 3, 7 + 4): cosines 0.6 and -0.6, d 0.4 and 1.6, d~ 1 and 4: exp(-(4 - 1) / h) = 1/3, largest affinity 3/4.
    (7, 7) points right: d 0 and 2, d~ 0 and 200000: 1. The last points down: 1/2.
    """
    result, reference = pyramid((5, 8), (8, 11), (7, 7), (5, 6)), pyramid((6, 7), (4, 7))
    expected = -math.log((0.5 + 0.75 + 1.0 + 0.5) / 4)
    bandwidth = 3 / math.log(3)
    for i in range(4):  # pooled levels have the same features
        weights = tuple(float(k == i) for k in range(4))
        value = losses.contextual(result, reference, weights, bandwidth)
        assert value.shape == () and value.item() == pytest.approx(expected, rel=1e-4)
    assert losses.contextual(result, reference, bandwidth=bandwidth).item() == pytest.approx(15 * expected, rel=1e-4)


def test_contextual_is_a_mean_over_samples_of_logarithms() -> None:
    """Equal features give 0, features between both references give ln 2; the loss is the mean of the two samples."""
    match, between = ((6.0, 7.0), (4.0, 7.0)), ((5.0, 9.0), (5.0, 8.0))
    result = Features(*(torch.cat(levels) for levels in zip(pyramid(*match), pyramid(*between), strict=True)))
    reference = Features(*(torch.cat((one, one)) for one in pyramid(*match)))
    value = losses.contextual(result, reference, (0.0, 0.0, 0.0, 1.0))
    assert value.item() == pytest.approx((0 + math.log(2)) / 2, rel=1e-6)


def random_features(seed: int, rows: int, columns: int, dtype: torch.dtype = torch.float64) -> Features:
    generator = torch.Generator().manual_seed(seed)
    sizes = [(5 + i, rows * r, columns * r) for i, r in enumerate((4, 2, 1, 1))]
    return Features(*(torch.randn(2, *size, generator=generator, dtype=torch.float64).to(dtype) for size in sizes))


def slow_contextual(x: np.ndarray, y: np.ndarray, bandwidth: float) -> float:
    """Compute eq. 9 and 10 of one sample literally. x, y: (C, N)."""
    x, y = x - y.mean(1, keepdims=True), y - y.mean(1, keepdims=True)
    best = []
    for i in range(x.shape[1]):
        cosine = np.array(
            [x[:, i] @ y[:, j] / np.sqrt(x[:, i] @ x[:, i] * (y[:, j] @ y[:, j])) for j in range(y.shape[1])]
        )
        relative = (1 - cosine) / ((1 - cosine).min() + 1e-5)
        numerators = np.exp((1 - relative) / bandwidth)
        best.append(max(numerators / numerators.sum()))
    return -float(np.log(np.mean(best)))


def test_contextual_against_a_plain_loop() -> None:
    result, reference = random_features(0, 3, 4), random_features(1, 2, 3)
    expected = 0.0
    for weight, repeat, x, y in zip((1, 2, 4, 8), (4, 2, 1, 1), result, reference, strict=True):
        for b in range(2):
            pooled = [
                a[b].numpy().reshape(a.shape[1], a.shape[2] // repeat, repeat, -1, repeat).mean((2, 4)) for a in (x, y)
            ]
            expected += weight * slow_contextual(*(p.reshape(len(p), -1) for p in pooled), 0.1) / 2
    assert losses.contextual(result, reference).item() == pytest.approx(expected, rel=1e-9)
    single = [Features(*(one.float() for one in features)) for features in (result, reference)]
    assert losses.contextual(*single).item() == pytest.approx(expected, rel=1e-4)


def test_half_precision_is_taken_and_not_computed_in() -> None:
    half = random_features(0, 3, 4, torch.bfloat16), random_features(1, 3, 4, torch.bfloat16)
    single = tuple(Features(*(one.float() for one in features)) for features in half)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        from_half, from_single = losses.contextual(*half), losses.contextual(*single)
    expected = losses.contextual(*single)
    assert from_half.dtype == torch.float32 and from_half.item() == from_single.item() == expected.item()
    assert losses.perceptual(half[0].relu5_2, half[1].relu5_2).dtype == torch.float32
    assert losses.adversarial(torch.ones(2, dtype=torch.bfloat16), torch.ones(2)).dtype == torch.float32


@pytest.mark.parametrize("kind", ["equal", "constant", "zero", "the mean"])
def test_contextual_where_distances_or_norms_are_zero(kind: str) -> None:
    reference = random_features(1, 3, 4, torch.float32)
    made = {
        "equal": lambda x: x.clone(),
        "constant": lambda x: torch.full_like(x, 3.0),
        "zero": torch.zeros_like,
        "the mean": lambda x: x.mean((2, 3), keepdim=True).expand_as(x).clone(),
    }[kind]
    result = Features(*(made(x).requires_grad_() for x in reference))
    flat = Features(*(torch.full_like(x, 0.7) for x in reference))  # features of a flat picture
    value = losses.contextual(result, reference) + losses.contextual(result, flat)
    value.backward()
    assert torch.isfinite(value) and all(torch.isfinite(x.grad).all() for x in result)  # type: ignore[arg-type]
    if kind == "equal":
        assert losses.contextual(result, reference).item() == pytest.approx(0.0, abs=1e-5)


def test_contextual_takes_a_result_toward_the_colours_of_the_reference() -> None:
    """Gradient descent on the features reduces the loss."""
    reference = random_features(1, 2, 3, torch.float32)
    result = Features(*(x.requires_grad_() for x in random_features(2, 2, 3, torch.float32)))
    optimizer = torch.optim.Adam(list(result), lr=0.05)
    values = []
    for _ in range(40):
        value = losses.contextual(result, reference)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.2 * values[0]


def test_adversarial_by_hand() -> None:
    fake, real = torch.tensor([1.0, 3.0]), torch.tensor([2.0, 6.0])  # means 2 and 4
    # fake - 4 - 1: -4, -2: (16 + 4) / 2 = 10; real - 2 + 1: 1, 5: (1 + 25) / 2 = 13
    assert losses.adversarial(fake, real).item() == 23.0
    # real - 2 - 1: -1, 3: (1 + 9) / 2 = 5; fake - 4 + 1: -2, 0: (4 + 0) / 2 = 2
    assert losses.discriminator(fake, real).item() == 7.0


def test_adversaries_want_opposite_things() -> None:
    low, high = torch.zeros(3), torch.ones(2)
    assert losses.adversarial(fake=high, real=low).item() == losses.discriminator(fake=low, real=high).item() == 0.0
    assert losses.adversarial(fake=low, real=high).item() == losses.discriminator(fake=high, real=low).item() == 8.0


@pytest.mark.parametrize("name", ["l1", "temporal", "smoothness", "perceptual", "adversarial", "discriminator"])
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
        if name == "smoothness":
            return losses.smoothness(x, other)
        if name == "perceptual":
            return losses.perceptual(x, other[:, 1:])
        return getattr(losses, name)(x.mean(1).flatten(), x.std(1).flatten())

    assert torch.autograd.gradcheck(loss, (ab,))


@pytest.mark.parametrize("bandwidth", [0.1, 1.0])
def test_gradients_of_contextual(bandwidth: float) -> None:
    reference = random_features(1, 1, 3)
    levels = tuple(x.requires_grad_() for x in random_features(0, 1, 2))
    assert torch.autograd.gradcheck(lambda *x: losses.contextual(Features(*x), reference, bandwidth=bandwidth), levels)

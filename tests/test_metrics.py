"""Test train/measure/metrics.py against numbers worked out by hand, scikit-image and scipy."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.spatial.distance import jensenshannon
from skimage.color import deltaE_ciede2000, rgb2lab
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from train.measure import metrics


@pytest.fixture
def pair() -> tuple[metrics.Picture, metrics.Picture]:
    rng = np.random.default_rng(1)
    ramp = np.linspace(0, 255, 48 * 64 * 3).reshape(48, 64, 3)
    return tuple((ramp + rng.normal(0, 20, ramp.shape)).clip(0, 255).astype(np.uint8) for _ in range(2))


def flat(colour: tuple[int, int, int], size: tuple[int, int] = (6, 8)) -> metrics.Picture:
    return np.full((*size, 3), colour, np.uint8)


def test_psnr(pair):
    assert metrics.psnr(flat((10, 20, 30)), flat((20, 10, 40))) == pytest.approx(20 * math.log10(25.5))
    assert metrics.psnr(*pair) == pytest.approx(peak_signal_noise_ratio(*pair))
    assert metrics.psnr(pair[0], pair[0]) == 100.0


def test_psnr_of_far_values_does_not_wrap_around():
    assert metrics.psnr(flat((0, 0, 0)), flat((255, 255, 255))) == pytest.approx(0.0)


def test_delta_e_of_two_pictures(pair):
    result, truth = pair
    expected = deltaE_ciede2000(rgb2lab(truth), rgb2lab(result))
    mean, high = metrics.delta_e(result, truth)
    assert mean == pytest.approx(expected.mean(), abs=5e-3)
    assert high == pytest.approx(np.percentile(expected, 90), abs=5e-3)
    assert metrics.delta_e(result, result) == (0.0, 0.0)


def test_ciede2000_of_published_pairs():
    """CIEDE2000 agrees with pairs of table 1 of Sharma, Wu and Dalal 2005."""
    pairs = [
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
        ((50, -1.3802, -84.2814), (50, 0, -82.7485), 1.0),
        ((50, 0, 0), (50, -1, 2), 2.3669),
        ((50, 2.5, 0), (50, 0, -2.5), 4.3065),
        ((50, 2.5, 0), (73, 25, -18), 27.1492),
        ((50, 2.5, 0), (61, -5, 29), 22.8977),
        ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
    ]
    one, other, expected = (torch.tensor(values, dtype=torch.float64) for values in zip(*pairs, strict=True))
    found = metrics.ciede2000(one.T, other.T)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(metrics.ciede2000(other.T, one.T), expected, atol=1e-4, rtol=0)


def test_ciede2000_against_scikit_image():
    rng = np.random.default_rng(4)
    one, other = (np.stack([rng.uniform(0, 100, 5000), *rng.uniform(-110, 110, (2, 5000))]) for _ in range(2))
    one[1:, :50] = 0  # grey against colour, colour against grey, grey against grey
    other[1:, 25:75] = 0
    near = one + rng.normal(0, 2, one.shape)
    for colours in (other, near):
        found = metrics.ciede2000(torch.from_numpy(one), torch.from_numpy(colours)).numpy()
        np.testing.assert_allclose(found, deltaE_ciede2000(one.T, colours.T), atol=1e-6)


def test_ssim(pair):
    expected = structural_similarity(
        *pair, channel_axis=-1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255
    )
    assert metrics.ssim(*pair) == pytest.approx(expected, abs=1e-4)
    assert metrics.ssim(pair[0], pair[0]) == pytest.approx(1.0)


def test_colourfulness_by_hand():
    assert metrics.colourfulness(flat((90, 90, 90))) == 0.0
    # R - G = 255; (R + G) / 2 - B = 127.5; no spread
    assert metrics.colourfulness(flat((255, 0, 0))) == pytest.approx(0.3 * math.hypot(255, 127.5))
    red_and_blue = np.concatenate([flat((255, 0, 0)), flat((0, 0, 255))])
    # R - G: 255 and 0; (R + G) / 2 - B: 127.5 and -255
    expected = math.hypot(127.5, 191.25) + 0.3 * math.hypot(127.5, 63.75)
    assert metrics.colourfulness(red_and_blue) == pytest.approx(expected)


def test_cdc_by_hand():
    black, white = flat((0, 0, 0)), flat((255, 255, 255))
    assert metrics.cdc(np.stack([black] * 5)) == 0.0
    assert metrics.cdc(np.stack([black, white])) == pytest.approx(math.log(2))
    # frames one apart have nothing in common, two apart are equal, four apart do not exist
    assert metrics.cdc(np.stack([black, white, black])) == pytest.approx(math.log(2) / 2)
    red = flat((255, 0, 0))
    assert metrics.cdc(np.stack([black, red])) == pytest.approx(math.log(2) / 3)  # one channel of three differs


def test_cdc_against_scipy():
    frames = np.random.default_rng(2).integers(0, 256, (6, 20, 30, 3), np.uint8)
    frames[3:] //= 2

    def divergence(i: int, j: int) -> float:
        counts = [np.stack([np.histogram(frames[k, ..., c], 256, (0, 256))[0] for c in range(3)]) for k in (i, j)]
        return float(np.mean([jensenshannon(p, q) ** 2 for p, q in zip(*counts, strict=True)]))

    expected = np.mean([np.mean([divergence(i, i + step) for i in range(6 - step)]) for step in (1, 2, 4)])
    assert metrics.cdc(frames) == pytest.approx(expected)


def test_flicker_by_hand():
    previous = np.zeros((4, 6, 2), np.float32) + np.float32([10, -4])
    current = np.zeros((4, 6, 2), np.float32) + np.float32([12, -4])
    still, everywhere = np.zeros((4, 6, 2), np.float32), np.ones((4, 6), bool)
    assert metrics.flicker(previous, current, still, everywhere) == pytest.approx(1.0)  # (2 + 0) / 2 channels
    current[:, 3:] = 100
    left = everywhere.copy()
    left[:, 3:] = False
    assert metrics.flicker(previous, current, still, left) == pytest.approx(1.0)  # occluded pixels do not count
    assert math.isnan(metrics.flicker(previous, current, still, ~everywhere))


def test_flicker_follows_the_motion():
    previous = np.random.default_rng(3).normal(0, 30, (8, 12, 2)).astype(np.float32)
    current = np.roll(previous, 2, axis=1)
    flow_backward = np.zeros((8, 12, 2), np.float32) + np.float32([-2, 0])
    valid = np.ones((8, 12), bool)
    valid[:, :2] = False
    assert metrics.flicker(previous, current, flow_backward, valid) == pytest.approx(0.0, abs=1e-5)
    assert metrics.flicker(previous, current, np.zeros_like(flow_backward), valid) > 5


def test_frechet_distance_against_scipy():
    rng = np.random.default_rng(4)
    mix = rng.normal(0, 1, (5, 5))
    x, y = rng.normal(0, 1, (40, 5)) @ mix + 3, rng.normal(1, 2, (60, 5))
    cx, cy = np.cov(x.T), np.cov(y.T)
    expected = np.square(x.mean(0) - y.mean(0)).sum() + np.trace(cx + cy - 2 * sqrtm(cx @ cy).real)
    assert metrics.frechet_distance(x, y) == pytest.approx(expected)
    assert metrics.frechet_distance(y, x) == pytest.approx(expected)
    assert metrics.frechet_distance(x, x) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_by_hand():
    # one number each: means 1 and 4, variances (n - 1) 2 and 8: 9 + 2 + 8 - 2 sqrt(16)
    x, y = np.array([[0.0], [2.0]]), np.array([[2.0], [6.0]])
    assert metrics.frechet_distance(x, y) == pytest.approx(11.0)
    # fewer samples than dimensions make both covariances singular; the samples are moved by (3, 4, 0, ...)
    few = np.random.default_rng(5).normal(0, 1, (3, 20)).astype(np.float32)
    moved = few + np.float32([3, 4] + [0] * 18)
    assert metrics.frechet_distance(few, moved) == pytest.approx(25.0, rel=1e-4)
    with pytest.raises(ValueError, match="frechet_distance: both sets must hold 2 or more samples, got 1, 3"):
        metrics.frechet_distance(few[:1], few)

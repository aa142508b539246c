"""Test steady.py: small differences from the previous frame fade; changes, wrong motion and first frames do not.

What the reference does not show keeps the previous colours. What it shows by details corrects errors.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vsexvc.nets.steady import steadied

ONE, NONE = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 32, 32)


def after(ab: Tensor, previous: float, L: float = 0.0, has_previous: float = 1.0, unseen: float = 0.0) -> Tensor:
    """Return `steadied` of ab, 32 x 32, in a frame of L_centred 0, after a frame of that L and colour."""
    prev_lab = torch.full((len(ab), 3, 32, 32), previous)
    prev_lab[:, 0] = L
    flags = torch.full((len(ab), 1, 1, 1), has_previous)
    L_centred = torch.zeros(len(ab), 1, 32, 32)
    return steadied(ab, ab, L_centred, prev_lab, flags, torch.full((len(ab), 1, 32, 32), unseen), ONE)


def flat(value: float) -> Tensor:
    return torch.full((1, 2, 32, 32), value)


def test_noise_fades_over_time() -> None:
    """Noise of the match around a constant colour becomes less, and the colour stays."""
    generator = torch.Generator().manual_seed(0)
    frames = [30.0 + torch.randn(1, 2, 32, 32, generator=generator) for _ in range(12)]
    shown, L = frames[0], torch.zeros(1, 1, 32, 32)
    for ab in frames[1:]:
        shown = steadied(ab, ab, L, torch.cat((L, shown), dim=1), ONE, NONE, ONE)
    assert shown.std() < 0.6 * frames[-1].std()
    assert shown.mean() == pytest.approx(30.0, abs=0.1)


def test_a_slow_change_is_followed() -> None:
    """A colour that changes by 0.5 a frame is followed at a constant distance: it does not stay behind for ever."""
    shown, L = flat(0.0), torch.zeros(1, 1, 32, 32)
    behind = []
    for n in range(40):
        shown = steadied(flat(0.5 * n), flat(0.5 * n), L, torch.cat((L, shown), dim=1), ONE, NONE, ONE)
        behind.append(0.5 * n - float(shown.mean()))
    assert behind[-1] == pytest.approx(behind[-10], abs=0.01) and behind[-1] < 1.5


def test_another_colour_is_taken_at_once() -> None:
    assert torch.allclose(after(flat(30.0), 0.0), flat(30.0), atol=1e-3)


def test_nothing_where_the_pictures_differ_or_without_a_previous_frame() -> None:
    assert (after(flat(2.0), 0.0) - flat(2.0)).abs().min() > 0.5
    assert torch.allclose(after(flat(2.0), 0.0, L=6.0), flat(2.0), atol=1e-3)
    assert torch.equal(after(flat(2.0), 0.0, has_previous=0.0), flat(2.0))


def test_a_batch_changes_nothing() -> None:
    both = torch.cat((flat(2.0), flat(1.0)))
    assert torch.equal(after(both, 0.0)[1:], after(flat(1.0), 0.0))


def test_what_the_reference_does_not_show_keeps_the_previous_colours() -> None:
    """Another colour is kept where nothing better is known and the picture fits, but not for ever."""
    kept = after(flat(30.0), 0.0, unseen=1.0)
    assert kept.max() < 2.0
    assert torch.allclose(after(flat(30.0), 0.0, L=20.0, unseen=1.0), flat(30.0), atol=0.1)
    assert torch.equal(after(flat(30.0), 0.0, has_previous=0.0, unseen=1.0), flat(30.0))
    half = after(flat(30.0), 0.0, unseen=0.5)
    assert torch.allclose(half, flat(15.75), atol=0.1)  # 30 (1 - 0.95 / 2)
    shown, L = flat(0.0), torch.zeros(1, 1, 32, 32)
    for _ in range(60):
        shown = steadied(flat(30.0), flat(30.0), L, torch.cat((L, shown), dim=1), ONE, NONE + 1.0, ONE)
    assert shown.min() > 20.0  # it is not kept for ever: each motion blurs it


@pytest.mark.parametrize(
    ("L", "unseen", "expected"),
    [
        pytest.param(30.0, 0.0, 24.0, id="the previous frame does not fit: 0.6 of it"),
        pytest.param(0.0, 0.0, 4.8, id="it fits: 0.2 of that"),
        pytest.param(30.0, 1.0, 0.0, id="not found by details"),
    ],
)
def test_details_correct_an_error(L: float, unseen: float, expected: float) -> None:
    """The net handed on a previous colour of 0, where details found 40."""
    prev_lab = torch.zeros(1, 3, 32, 32)
    prev_lab[:, 0] = L
    shown = steadied(flat(0.0), flat(40.0), NONE, prev_lab, ONE, NONE + unseen, ONE)
    assert torch.allclose(shown, flat(expected), atol=1.0)  # the rule against noise takes a little


def test_a_small_difference_from_what_details_found_is_left() -> None:
    """It may be noise of the match: of 3 less than 0.2 is taken."""
    prev_lab = torch.full((1, 3, 32, 32), 30.0)
    assert steadied(flat(0.0), flat(3.0), NONE, prev_lab, ONE, NONE, ONE).max() < 0.2


def test_nothing_is_kept_by_a_reference_of_another_scene() -> None:
    """Such a reference shows nothing of the frame surely; one of the scene shows a tenth or more."""
    by = [
        steadied(flat(30.0), flat(30.0), NONE, torch.zeros(1, 3, 32, 32), ONE, NONE + 1.0, shown * ONE)
        for shown in (0.002, 0.1)
    ]
    assert by[0].min() > 29.0 and by[1].max() < 2.0


def test_half_as_much_noise_is_smoothed_by_a_reference_of_another_scene() -> None:
    """Each share handed on is moved once more, which blurs it. The difference is sqrt(2): exp(-2/16) of the share."""
    shares = [
        1.0 - steadied(flat(1.0), flat(1.0), NONE, torch.zeros(1, 3, 32, 32), ONE, NONE, shown * ONE).mean().item()
        for shown in (0.0, 0.2)
    ]
    assert shares == pytest.approx([0.35 * math.exp(-0.125), 0.7 * math.exp(-0.125)], abs=1e-4)

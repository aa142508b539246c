"""Test steady.py: small differences from the previous frame fade; changes, wrong motion and first frames do not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vsexvc.nets.steady import steadied


def after(ab: Tensor, previous: float, L: float = 0.0, has_previous: float = 1.0) -> Tensor:
    """Return `steadied` of ab, 32 x 32, in a frame of L_centred 0, after a frame of that L and colour."""
    prev_lab = torch.full((len(ab), 3, 32, 32), previous)
    prev_lab[:, 0] = L
    return steadied(ab, torch.zeros(len(ab), 1, 32, 32), prev_lab, torch.full((len(ab), 1, 1, 1), has_previous))


def flat(value: float) -> Tensor:
    return torch.full((1, 2, 32, 32), value)


def test_noise_fades_over_time() -> None:
    """Noise of the match around a constant colour becomes less, and the colour stays."""
    generator = torch.Generator().manual_seed(0)
    frames = [30.0 + torch.randn(1, 2, 32, 32, generator=generator) for _ in range(12)]
    shown, L = frames[0], torch.zeros(1, 1, 32, 32)
    for ab in frames[1:]:
        shown = steadied(ab, L, torch.cat((L, shown), dim=1), torch.ones(1, 1, 1, 1))
    assert shown.std() < 0.6 * frames[-1].std()
    assert shown.mean() == pytest.approx(30.0, abs=0.1)


def test_a_slow_change_is_followed() -> None:
    """A colour that changes by 0.5 a frame is followed at a constant distance: it does not stay behind for ever."""
    shown, L = flat(0.0), torch.zeros(1, 1, 32, 32)
    behind = []
    for n in range(40):
        shown = steadied(flat(0.5 * n), L, torch.cat((L, shown), dim=1), torch.ones(1, 1, 1, 1))
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

"""Test transparency.py: colours of transparent pixels never show, and opaque pixels stay."""

from __future__ import annotations

import pytest
import torch

from vsexvc.colour.transparency import continued


def test_what_is_hidden_never_shows() -> None:
    """Hidden colours do not change the result, also with soft alpha and at sizes that do not divide."""
    generator = torch.Generator().manual_seed(0)
    rgb = torch.rand(1, 3, 90, 75, generator=generator)
    alpha = torch.zeros(1, 1, 90, 75)
    alpha[:, :, 20:61, 30:] = 1.0
    alpha[:, :, 61, 30:] = 0.4
    other = torch.where(alpha == 0.0, torch.rand(1, 3, 90, 75, generator=generator), rgb)
    for size in ((90, 75), (64, 53), (131, 109)):
        one, share = continued(rgb, alpha, size)
        assert torch.equal(one, continued(other, alpha, size)[0])
        assert one.shape == (1, 3, *size) and share.shape == (1, 1, *size)
        assert float(one.min()) >= 0.0 and float(one.max()) <= 1.0


def test_opaque_pixels_stay_and_a_flat_colour_goes_on() -> None:
    rgb = torch.rand(1, 3, 40, 40)
    rgb[:, :, :, :20] = torch.tensor([0.2, 0.4, 0.8])[None, :, None, None]
    alpha = torch.zeros(1, 1, 40, 40)
    alpha[:, :, 5:30, :20] = 1.0
    filled, share = continued(rgb, alpha, (40, 40))
    assert torch.equal(share, alpha)
    assert torch.allclose(filled, torch.tensor([0.2, 0.4, 0.8])[None, :, None, None].expand_as(filled), atol=1e-5)


def test_nothing_to_see() -> None:
    with pytest.raises(ValueError, match="must show something, it is transparent everywhere"):
        continued(torch.rand(1, 3, 16, 16), torch.full((1, 1, 16, 16), 0.4), (16, 16))

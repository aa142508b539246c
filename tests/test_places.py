"""Test the reference's own pixels: they are found where a frame has moved, and not taken where pictures disagree."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vsexvc.nets.choice import Choice
from vsexvc.nets.config import NetworkConfig
from vsexvc.nets.network import ColorizationNet
from vsexvc.nets.places import pixels_at, pixels_of, places

pytestmark = pytest.mark.numbers

H, W = 96, 160
REACH = 28  # pixels from a border within which local means of L depend on what is beyond it


def picture(height: int, width: int, seed: int = 0) -> Tensor:
    """Return smooth noise: L_centred -40..40, ab -60..60, (1, 3, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(1, 3, height // 8 + 2, width // 8 + 2, generator=generator) * 2 - 1
    smooth = F.interpolate(noise, size=(height + 8, width + 8), mode="bicubic")[:, :, 4:-4, 4:-4].clamp(-1, 1)
    return smooth * torch.tensor((40.0, 60.0, 60.0)).view(1, 3, 1, 1)


def found_at(reference: Tensor, top: float, left: float) -> Tensor:
    """Return what eq. 4 finds if each cell of an H x W frame is (top, left) pixels further in the reference."""
    y, x = torch.meshgrid(torch.arange(H // 4.0), torch.arange(W // 4.0), indexing="ij")
    y = y + top / 4 - (reference.shape[2] // 4 - 1) / 2
    x = x + left / 4 - (reference.shape[3] // 4 - 1) / 2
    return torch.stack((x, y, x * x + y * y))[None]


def pixels_in(found: Tensor, frame: Tensor, reference: Tensor, usable: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return `pixels_at` of a frame in a single reference."""
    taken = torch.ones(len(found), 1, *found.shape[2:])
    return pixels_at(found, frame[:, :1], [pixels_of(reference, usable)], taken)


def matching_itself(warp_upsampling: Literal["bilinear", "reference"] = "reference") -> ColorizationNet:
    """Make a network of random weights that matches each cell of a picture with itself."""
    torch.manual_seed(0)
    network = ColorizationNet(
        NetworkConfig(width=0.0625, features_input="L", head="blend", temperature=1e-5, warp_upsampling=warp_upsampling)
    )
    network.correspondence.phi.load_state_dict(network.correspondence.theta.state_dict())
    return network.eval()


def test_places_give_the_mean_place_and_the_variance() -> None:
    grid = places(3, 5, torch.device("cpu"))
    assert grid[0, :, 0].tolist() == [-2.0, -1.0, 5.0] and grid[0, :, 7].tolist() == [0.0, 0.0, 0.0]
    x, y, squares = (grid[..., [5, 9]].mean(2))[0].tolist()  # both ends of the middle row, 2 cells from its middle
    assert (x, y, squares - x * x - y * y) == (0.0, 0.0, 4.0)


@pytest.mark.parametrize(("top", "left"), [(0, 0), (5, 3), (8, 22)])
def test_a_part_of_a_larger_reference(top: int, left: int) -> None:
    """The same pixels are found at any place; the pictures correct a place that is wrong by a pixel."""
    reference = picture(H + 16, W + 32)
    frame = reference[:, :, top : top + H, left : left + W]
    inside = (slice(None), slice(None), slice(REACH, -REACH), slice(REACH, -REACH))
    ab, sure = pixels_in(found_at(reference, top, left), frame, reference)
    assert (ab - frame[:, 1:])[inside].abs().mean() < 0.5 and sure[inside].mean() > 0.95
    ab, sure = pixels_in(found_at(reference, top + 1, left + 1), frame, reference)
    wrong = (reference[:, 1:, top + 1 : top + 1 + H, left + 1 : left + 1 + W] - frame[:, 1:])[inside].abs().mean()
    assert (ab - frame[:, 1:])[inside].abs().mean() < wrong / 4 and sure[inside].mean() > 0.95


def test_two_references_of_a_batch() -> None:
    both = torch.cat((picture(H, W, 0), picture(H, W, 1)))
    found = found_at(both, 0, 0).expand(2, -1, -1, -1)
    ab, sure = pixels_in(found, both, both)
    assert (ab - both[:, 1:]).abs().mean() < 0.5 and sure.mean() > 0.95
    one, _ = pixels_in(found[1:], both[1:], both[1:])
    assert torch.equal(one, ab[1:])


def test_each_cell_is_looked_up_in_its_own_reference() -> None:
    """References of several sizes: each half of the frame gets what its own reference alone gives, but at their border.

    A place beyond a reference's last row repeats that row: it does not run on into the next reference.
    """
    frame = picture(H, W)
    larger = picture(H + 16, W + 32, 1)
    larger[:, :1, 5 : 5 + H, 3 : 3 + W] = frame[:, :1]
    smaller = torch.cat((frame[:, :1], picture(H, W, 2)[:, 1:]), dim=1)[:, :, : H - 16]
    unused = picture(H, W, 3)
    taken = torch.zeros(1, 3, H // 4, W // 4)
    taken[:, 0, :, : W // 8], taken[:, 2, :, W // 8 :] = 1.0, 1.0
    each = [found_at(larger, 5, 3), found_at(frame, 0, 0), found_at(smaller, 0, 0)]
    mixed = (torch.stack(each, dim=1) * taken.unsqueeze(2)).sum(1)
    ab, sure = pixels_at(mixed, frame[:, :1], [pixels_of(x, None) for x in (larger, unused, smaller)], taken)
    for i, reference, half in ((0, larger, slice(None, W // 2 - REACH)), (2, smaller, slice(W // 2 + REACH, None))):
        its_ab, its_sure = pixels_in(each[i], frame, reference)
        assert torch.allclose(ab[..., half], its_ab[..., half], atol=0.05)
        assert torch.allclose(sure[..., half], its_sure[..., half], atol=0.01)


def test_not_where_the_match_has_two_places() -> None:
    frame = picture(H, W)
    found = found_at(frame, 0, 0)
    found[:, 2, :, : W // 8] += 6.0**2  # the left half matches two places, 6 cells to both sides
    _, sure = pixels_in(found, frame, frame)
    assert sure[..., : W // 2 - 4].max() < 0.02 and sure[..., W // 2 + 4 :].mean() > 0.95


def test_not_where_the_pictures_differ() -> None:
    frame, other = picture(H, W), picture(H, W, 1)
    other[..., W // 2 :] = frame[..., W // 2 :]
    _, sure = pixels_in(found_at(frame, 0, 0), frame, other)
    assert sure[..., : W // 2 - 8].mean() < 0.3 and sure[..., W // 2 + REACH :].mean() > 0.95


def test_a_pixel_without_colours_is_not_taken() -> None:
    frame = picture(H, W)
    usable = torch.ones(H, W, dtype=torch.bool)
    usable[20:40, 30:50] = False
    _, sure = pixels_in(found_at(frame, 0, 0), frame, frame, usable)
    assert sure[..., 20:40, 30:50].max() < 1e-9 and sure[..., 50 + REACH :].mean() > 0.95
    assert pixels_of(frame, None).lab is frame


def test_the_network_keeps_the_colours_of_single_pixels() -> None:
    """A picture coloured by itself keeps fine colours with "reference" and loses them at 1/4 size with "bilinear"."""
    frame = picture(H, W)
    off = {}
    hows: tuple[Literal["bilinear", "reference"], ...] = ("bilinear", "reference")
    for how in hows:
        network = matching_itself(how)
        with torch.inference_mode():
            theta, phi = network.embed(frame)
            match = network.match(frame[:, :1], theta, None, (network.keys(frame, phi, None),))
        off[how] = float((match.warped_ab - frame[:, 1:]).abs().mean())
    assert off["reference"] < 0.5 < 3.0 < off["bilinear"]


def test_each_of_several_references_lends_its_own_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pixels of each half come from the reference that is chosen there."""
    network = matching_itself()
    frame = picture(H, W)
    others = [torch.cat((frame[:, :1], picture(H, W, seed)[:, 1:]), dim=1) for seed in (1, 2)]

    taken = torch.zeros(1, 2, H // 8, W // 8)
    taken[:, 0, :, : W // 16], taken[:, 1, :, W // 16 :] = 1.0, 1.0
    monkeypatch.setattr(network, "_choose", lambda *_: Choice(taken, torch.zeros_like(taken[:, :1])))
    with torch.inference_mode():
        theta, phi = network.embed(frame)
        every = [network.keys(one, phi, None) for one in others]
        warped = network.match(frame[:, :1], theta, None, every).warped_ab
    for i, half in enumerate((slice(None, W // 2 - 4), slice(W // 2 + 4, None))):
        assert (warped - others[i][:, 1:])[..., half].abs().mean() < 0.5


def test_a_pixel_that_is_found_surely_takes_part_in_the_result() -> None:
    """A surely found pixel has its share in the result even if the colour net takes only a wrong previous colour."""
    network = matching_itself()
    with torch.no_grad():
        network.color.conv10_ab.weight.zero_()
        network.color.conv10_ab.bias.copy_(torch.tensor([0.0, 0.0, -20.0, 20.0]))  # only the previous colour
    frame, one = picture(H, W), torch.ones(1, 1, 1, 1)
    with torch.inference_mode():
        theta, phi = network.embed(frame)
        match = network.match(frame[:, :1], theta, None, (network.keys(frame, phi, None),))
        unlike = torch.zeros_like(frame)
        unlike[:, 0] = 100.0  # so that steady.py takes nothing of it, and more of what details found
        ab = network.colorize(frame[:, :1], match, unlike, one)
    sure = match.evidence[:, -1:]
    alone = 0.5 * sure * match.warped_ab
    far = 1.0 - torch.exp(-(match.warped_ab - alone).square().sum(1, keepdim=True) / 13.0**2)
    assert sure.mean() > 0.9 and torch.allclose(ab, torch.lerp(alone, match.warped_ab, 0.6 * far), atol=1e-4)

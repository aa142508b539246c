"""Test the network against a slow plain implementation (scripts/plain.py) and against hand-made cases."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from skimage.color import rgb2lab
from torch import Tensor

from scripts import plain
from vsexvc.colour.lab import lab_to_rgb
from vsexvc.nets.config import NetworkConfig
from vsexvc.nets.correlation import Correlation
from vsexvc.nets.motion import refine, texture, warp
from vsexvc.nets.network import ColorizationNet, Match
from vsexvc.session import Session

pytestmark = pytest.mark.numbers

# Numbers of tensors and parameters of the released files (facts of the release, not of this code).
RELEASED_PARAMETERS = {"correspondence": (43, 6_917_131), "color": (65, 32_802_370)}


def small(seed: int = 0, **options: object) -> ColorizationNet:
    torch.manual_seed(seed)
    return ColorizationNet(NetworkConfig(width=0.0625, **options)).eval()  # type: ignore[arg-type]


def part(network: ColorizationNet, name: str) -> dict[str, Tensor]:
    return {k.removeprefix(name + "."): v.double() for k, v in network.state_dict().items() if k.startswith(name + ".")}


@pytest.mark.parametrize("name", RELEASED_PARAMETERS)
def test_the_full_width_nets_have_the_released_number_of_tensors_and_parameters(name: str) -> None:
    with torch.device("meta"):
        state = part(ColorizationNet(NetworkConfig()), name)
    assert (len(state), sum(v.numel() for v in state.values())) == RELEASED_PARAMETERS[name]


@pytest.mark.parametrize("size", [(32, 48), (40, 48)], ids=["16 divides", "relu5 branch padded"])
def test_one_full_step_agrees_with_the_plain_implementation(size: tuple[int, int]) -> None:
    network = small()
    h, w = size
    L = torch.rand(1, 1, h, w) * 100
    rgb = torch.rand(1, 3, h, w, dtype=torch.float64)
    reference = torch.from_numpy(rgb2lab(rgb[0].permute(1, 2, 0).numpy())).permute(2, 0, 1)[None].float()
    session = Session(network)
    first = session.reference(reference)
    state, ab = session.step(session.start(first), session.correspond(L, first)[0])

    features, matching, colour = (part(network, n) for n in ("features", "correspondence", "color"))
    fx = plain.correspondence_features(
        plain.vgg(plain.vgg_input((L.double() / 100).expand(-1, 3, -1, -1)), features), matching
    )
    rgb = lab_to_rgb(reference.double())  # test_lab.py checks it; here the last digits count
    fy = plain.correspondence_features(plain.vgg(plain.vgg_input(rgb), features), matching)
    warped, similarity = plain.match(fx, fy, reference[:, 1:].double(), matching, tau=0.01)
    previous = torch.cat((reference[:, :1] - 50, reference[:, 1:]), dim=1).double()
    expected = plain.color_net(torch.cat((L.double() - 50, warped, similarity, previous), dim=1), colour)

    mse = float((ab.double() - expected).pow(2).mean())
    assert 10 * torch.log10(torch.tensor(255**2 / mse)) >= 80
    aligned = session.correspond(L, first)[0]
    assert torch.allclose(aligned.similarity.double(), similarity, atol=1e-4)
    assert (aligned.warped_ab.double() - warped).abs().max() < 0.01
    assert state.prev_lab is not None
    assert torch.equal(state.prev_lab[:, 1:], ab) and torch.equal(state.prev_lab[:, :1], L - 50)


def test_a_picture_matched_with_itself_gives_its_own_colours_back_where_they_are_flat() -> None:
    """With the same map for theta and phi, a picture has similarity 1 with itself at every position."""
    network = small(features_input="L", temperature=1e-4)
    network.correspondence.phi.load_state_dict(network.correspondence.theta.state_dict())
    lab = torch.rand(1, 3, 64, 64) * 80 - 40
    lab[:, 1:] = lab[:, 1:, ::8, ::8].repeat_interleave(8, 2).repeat_interleave(8, 3)
    theta, phi = network.embed(lab)
    warped, similarity, *_ = network.match(lab[:, :1], theta, None, (network.keys(lab, phi, None),))
    assert torch.allclose(similarity, torch.ones_like(similarity), atol=1e-4)
    assert (warped - lab[:, 1:]).abs().mean() < 0.5


def test_chunks_of_the_correlation_do_not_change_it() -> None:
    network = small(features_input="L")
    theta, phi = (x.flatten(2) for x in network.embed(torch.rand(2, 3, 96, 128) * 80 - 40))
    ab = torch.rand(2, 2, 24 * 32) * 60
    whole = network.correlation(theta, phi, ab)
    with torch.no_grad():
        chunked = network.correlation(theta, phi, ab)
    for a, b in zip(whole, chunked, strict=True):
        assert torch.allclose(a, b, atol=1e-3)


def test_very_negative_logits_change_nothing() -> None:
    correlation = Correlation(0.01)
    theta = torch.nn.functional.normalize(torch.randn(1, 16, 64), dim=1)
    phi = torch.cat((theta[..., :32], -theta[..., :32]), dim=2)  # similarities of 1 to -1 give logits down to -200
    ab = torch.rand(1, 2, 64) * 60
    with torch.no_grad():
        clamped = correlation(theta, phi, ab)[0]
    exact = correlation(theta.requires_grad_(), phi, ab)[0]
    assert torch.allclose(clamped, exact, atol=1e-4)


@pytest.mark.parametrize("shift", [(0, 0), (2, 0), (-3, 1), (0, 5)])
def test_align_finds_a_shift_of_whole_cells(shift: tuple[int, int]) -> None:
    """If theta is phi moved by whole cells, the previous picture moves by four pixels a cell within the border."""
    dx, dy = shift
    network = small(features_input="L", motion=5, temperature=1e-3)
    prev_phi = torch.nn.functional.normalize(torch.randn(1, 16, 16, 24), dim=1)
    theta = prev_phi.roll((dy, dx), dims=(2, 3))
    picture = torch.rand(1, 3, 64, 96)
    moved = network.align(theta, prev_phi, picture, picture[:, :1])
    expected = picture.roll((4 * dy, 4 * dx), dims=(2, 3))
    assert torch.allclose(moved[..., 24:40, 24:72], expected[..., 24:40, 24:72], atol=1e-3)


class TestRefine:
    """Test `refine` on a smooth texture moved by a fraction of a pixel (by its Fourier series, not by `warp`)."""

    SHIFT = torch.tensor((1.3, -0.6)).view(1, 2, 1, 1)

    def texture(self, dx: float, dy: float) -> torch.Tensor:
        y, x = torch.meshgrid(torch.arange(48.0) + dy, torch.arange(64.0) + dx, indexing="ij")
        waves = ((0.41, 0.13, 0.2), (-0.22, 0.37, 1.1), (0.55, -0.31, 2.5), (0.09, 0.6, 4.0), (-0.7, -0.2, 5.1))
        return sum(8.0 * torch.sin(a * x + b * y + c) for a, b, c in waves)[None, None]  # type: ignore[index, return-value]

    def error(self, flow: torch.Tensor) -> float:
        return float((flow - self.SHIFT)[:, :, 8:-8, 8:-8].abs().mean())

    @pytest.mark.parametrize("flicker", [lambda L: L, lambda L: 0.9 * L + 6.0], ids=["steady", "flicker"])
    def test_it_finds_the_fraction(self, flicker: Callable[[torch.Tensor], torch.Tensor]) -> None:
        L, prev_L = self.texture(1.3, -0.6), self.texture(0.0, 0.0)
        whole = torch.tensor((1.0, -1.0)).view(1, 2, 1, 1).expand(1, 2, 48, 64)
        found = refine(whole, texture(flicker(L)), texture(prev_L))
        assert self.error(whole) == pytest.approx(0.35, abs=1e-6)
        assert self.error(found) < 0.1

    def test_what_stands_still_stays(self) -> None:
        L = self.texture(0.0, 0.0)
        assert refine(torch.rand(1, 2, 48, 64) * 2 - 1, texture(L), texture(L))[:, :, 8:-8, 8:-8].abs().mean() < 0.02

    def test_a_batch_changes_nothing(self) -> None:
        now, before, flow = torch.rand(2, 1, 40, 48) * 50, torch.rand(2, 1, 40, 48) * 50, torch.randn(2, 2, 40, 48)
        together = refine(flow, now, before)
        alone = [refine(flow[i : i + 1], now[i : i + 1], before[i : i + 1]) for i in range(2)]
        assert torch.equal(together, torch.cat(alone))


def test_warp_samples_between_pixels() -> None:
    picture = torch.arange(8.0).view(1, 1, 1, 8).expand(1, 1, 4, 8)
    flow = torch.zeros(1, 2, 4, 8)
    flow[:, 0] = 0.25
    assert torch.allclose(warp(picture, flow)[0, 0, 0], torch.tensor([0.25, 1.25, 2.25, 3.25, 4.25, 5.25, 6.25, 7.0]))


def repeating() -> ColorizationNet:
    """Return a network that gives all weight to the previous frame."""
    network = small(features_input="L", head="blend")
    with torch.no_grad():
        network.color.conv10_ab.weight.zero_()
        network.color.conv10_ab.bias.copy_(torch.tensor([0.0, 0.0, 0.0, 20.0]))
    return network


def test_the_blend_head_never_takes_a_previous_frame_that_is_not_there() -> None:
    network = repeating()
    L, ab, similarity = torch.rand(1, 1, 32, 32) * 10, torch.full((1, 2, 32, 32), 7.0), torch.ones(1, 1, 32, 32)
    nothing, cells = torch.empty(1, 0, 32, 32), torch.ones(1, 1, 8, 8)
    match = Match(ab, similarity, nothing, cells, nothing, cells * 0.0)
    with_previous = network.colorize(L, match, torch.full((1, 3, 32, 32), 3.0), torch.ones(1, 1, 1, 1))
    without = network.colorize(L, match, torch.zeros(1, 3, 32, 32), torch.zeros(1, 1, 1, 1))
    assert torch.allclose(with_previous, torch.full((1, 2, 32, 32), 3.0), atol=1e-3)
    assert torch.allclose(without, torch.full((1, 2, 32, 32), 7.0), atol=1e-3)
    grey = network.colorize(L, match, torch.zeros(1, 3, 32, 32), torch.ones(1, 1, 1, 1))  # a grey previous frame, L 50
    assert torch.allclose(grey, torch.zeros(1, 2, 32, 32), atol=1e-3)


def test_a_single_reference_is_taken_everywhere_and_contradicts_nothing() -> None:
    network, lab = small(features_input="L"), torch.rand(2, 3, 64, 64) * 50
    with torch.inference_mode():
        theta, phi = network.embed(lab)
        match = network.match(lab[1:, :1], theta[1:], None, [network.keys(lab[:1], phi[:1], None)])
    assert match.taken.shape == (1, 1, 16, 16) and bool((match.taken == 1).all())
    assert float(match.contested.mean()) == 0.0


def test_of_several_references_each_position_is_matched_in_one() -> None:
    """All references are compared at half the size only; there a position is one of four times fewer."""
    network, lab = small(features_input="L"), torch.rand(3, 3, 64, 64) * 50
    asked = {"forward": 0, "best": 0}  # products

    def counted(how: str) -> Callable[..., tuple[Tensor, Tensor]]:
        inner = getattr(network.correlation, how)

        def count(theta: Tensor, phi: Tensor, *rest: object) -> tuple[Tensor, Tensor]:
            asked[how] += theta.shape[2] * phi.shape[2]
            found: tuple[Tensor, Tensor] = inner(theta, phi, *rest)
            return found

        return count

    network.correlation.forward = counted("forward")  # type: ignore[method-assign]
    network.correlation.best = counted("best")  # type: ignore[method-assign]
    with torch.inference_mode():
        theta, phi = network.embed(lab)
        keys = [network.keys(lab[i : i + 1], phi[i : i + 1], None) for i in (0, 1)]
        taken = network.match(lab[2:, :1], theta[2:], None, keys).taken
        assert asked == {"forward": (16 * 16) ** 2, "best": 2 * (8 * 8) ** 2}
        alone = [network.match(lab[2:, :1], theta[2:], None, [one]).warped_ab for one in keys]
        both = network.match(lab[2:, :1], theta[2:], None, keys).warped_ab
    # "nearest" enlarges the cells, so each pixel has the colour of its own position's reference.
    expected = torch.where(F.interpolate(taken[:, :1], scale_factor=4) > 0.5, alone[0], alone[1])
    assert 0.0 < taken[:, 0].mean() < 1.0
    assert torch.allclose(both, expected, atol=0.01)


def test_a_previous_colour_of_a_contradicting_reference_is_left() -> None:
    """In the contested left half the previous colour is dropped if it differs from the chosen reference's."""
    network = repeating()
    L, ab, similarity = torch.rand(1, 1, 32, 32) * 10, torch.full((1, 2, 32, 32), 40.0), torch.ones(1, 1, 32, 32)
    nothing, taken, contested = torch.empty(1, 0, 32, 32), torch.ones(1, 2, 8, 8), torch.zeros(1, 1, 8, 8)
    contested[..., :4] = 1.0
    match = Match(ab, similarity, nothing, taken, nothing, contested)
    for previous, left in ((-40.0, 40.0), (36.0, 36.0)):  # 36 is near the chosen colour
        found = network.colorize(L, match, torch.full((1, 3, 32, 32), previous), torch.ones(1, 1, 1, 1))
        assert torch.allclose(found[..., :16], torch.full((1, 2, 32, 16), left), atol=1e-3)
        assert torch.allclose(found[..., 16:], torch.full((1, 2, 32, 16), previous), atol=1e-3)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("width", 0.0),
        ("head", "relu"),
        ("features_input", "rgb"),
        ("temperature", 2.0),
        ("motion", -1),
        ("semantic_color", True),  # without `semantic`
    ],
)
def test_a_wrong_configuration_names_its_field(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{field} must be .* got"):
        NetworkConfig(**{field: value})  # type: ignore[arg-type]

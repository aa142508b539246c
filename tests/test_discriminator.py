"""Test the discriminator against Table 4, spectral norm against singular values, and both on a solvable problem."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from train.fit import losses
from train.fit.discriminator import Discriminator, SelfAttention, add_spectral_norm, without_spectral_norm
from vsexvc.nets.config import NetworkConfig
from vsexvc.nets.network import ColorizationNet, Match

TABLE_4 = [  # weights in the order of the forward pass; query, key and value are where section 4 puts them
    (64, 6, 4, 4),
    (64, 64, 4, 4),
    (64, 64, 1, 1),
    (64, 64, 1, 1),
    (64, 64, 1, 1),
    (128, 64, 4, 4),
    (256, 128, 4, 4),
    (512, 256, 4, 4),
    (1024, 512, 4, 4),
    (1, 1024, 3, 3),
]


def convolutions(module: nn.Module) -> list[nn.Conv2d]:
    return [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]


def smooth(samples: int, channels: int, size: int = 64) -> Tensor:
    return F.interpolate(torch.randn(samples, channels, 4, 4) * 20.0, size=size, mode="bilinear")


def test_shapes_of_table_4() -> None:
    net = Discriminator()
    assert [tuple(layer.weight.shape) for layer in convolutions(net)] == TABLE_4
    strides = [layer.stride for layer in convolutions(net) if layer.kernel_size == (4, 4)]
    assert strides == [(2, 2)] * 6
    assert [layer.negative_slope for layer in net.modules() if isinstance(layer, nn.LeakyReLU)] == [0.2] * 6
    # The released net has 11,283,107: 37,345 are vectors of spectral norm, and its last convolution is 3x6, not 3x3.
    assert sum(p.numel() for p in net.parameters()) == 11_283_107 - 37_345 - 9 * 1024


@pytest.mark.parametrize("width", [0.25, 0.01])
def test_width_scales_channels_down_to_four(width: float) -> None:
    counts = [layer.out_channels for layer in convolutions(Discriminator(width))]
    a, b, c, d, e = (16, 32, 64, 128, 256) if width == 0.25 else (4, 4, 4, 5, 10)
    assert counts == [a, a, a, a, a, b, c, d, e, 1]


def test_frames_are_scaled_to_about_one_previous_first() -> None:
    net = Discriminator(0.05)
    seen: list[Tensor] = []
    convolutions(net)[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    prev_lab, lab = torch.ones(2, 1, 3, 64, 64) * torch.tensor([50.0, 64.0, -128.0]).view(3, 1, 1)
    net(prev_lab, 0.5 * lab)
    assert seen[0][0, :, 7, 9].tolist() == [1.0, 0.5, -1.0, 0.5, 0.25, -0.5]


def test_attention_stands_after_the_second_convolution() -> None:
    net = Discriminator(0.1)
    seen: list[tuple[str, tuple[int, ...]]] = []
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | SelfAttention):
            name = "attention" if isinstance(layer, SelfAttention) else f"{layer.kernel_size[0]}x{layer.kernel_size[1]}"
            layer.register_forward_pre_hook(
                lambda _, inputs, name=name: seen.append((name, tuple(inputs[0].shape[2:])))
            )
    net(torch.zeros(1, 3, 128, 192), torch.zeros(1, 3, 128, 192))
    seen = [entry for entry in seen if entry[0] != "1x1"]
    assert seen[:4] == [("4x4", (128, 192)), ("4x4", (64, 96)), ("attention", (32, 48)), ("4x4", (32, 48))]
    assert seen[4:] == [("4x4", (16, 24)), ("4x4", (8, 12)), ("4x4", (4, 6)), ("3x3", (2, 3))]


def test_attention_against_a_plain_loop() -> None:
    torch.manual_seed(0)
    attention = SelfAttention(4).double()
    x = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    assert torch.equal(attention(x), x)  # gamma starts at 0
    nn.init.constant_(attention.gamma, 0.7)

    def project(layer: nn.Conv2d, at: np.ndarray) -> np.ndarray:
        return layer.weight.detach().numpy()[:, :, 0, 0] @ at + layer.bias.detach().numpy()  # type: ignore[union-attr]

    def pooled(layer: nn.Conv2d, picture: np.ndarray) -> list[np.ndarray]:  # 5x6 -> 2x3, without the last row
        return [
            np.max([project(layer, picture[:, 2 * i + k, 2 * j + m]) for k in (0, 1) for m in (0, 1)], axis=0)
            for i in range(2)
            for j in range(3)
        ]

    result = attention(x).detach().numpy()
    for picture, out in zip(x.numpy(), result, strict=True):
        keys, values = pooled(attention.key, picture), pooled(attention.value, picture)
        for i in range(5):
            for j in range(6):
                query = project(attention.query, picture[:, i, j])
                share = np.exp([query @ key for key in keys])
                expected = picture[:, i, j] + 0.7 * sum(s * v for s, v in zip(share, values, strict=True)) / share.sum()
                np.testing.assert_allclose(out[:, i, j], expected, rtol=1e-9)


def test_largest_singular_values_are_one() -> None:
    torch.manual_seed(0)
    net = Discriminator(0.125)
    with torch.no_grad():
        for layer in convolutions(net):
            layer.parametrizations.weight.original.mul_(7.0)
    frames = torch.randn(1, 3, 64, 64)
    for _ in range(30):
        net(frames, frames)
    largest = [np.linalg.svd(layer.weight.detach().flatten(1).numpy())[1][0] for layer in convolutions(net.eval())]
    assert len(largest) == 10
    np.testing.assert_allclose(largest, 1.0, atol=0.03)


def test_each_convolution_of_a_generator_gets_it_once() -> None:
    net = ColorizationNet(NetworkConfig(width=0.02, features_input="L", head="blend"), batch_norm=True)
    add_spectral_norm(net.correspondence)
    add_spectral_norm(net)
    assert all(len(layer.parametrizations.weight) == 1 for layer in convolutions(net))
    assert len(convolutions(net)) == sum(isinstance(layer, nn.Conv2d) for layer in net.modules()) > 40


def test_without_spectral_norm_is_the_same_net() -> None:
    torch.manual_seed(0)
    net = Discriminator(0.1)
    nn.init.constant_(net.layers[4].gamma, 0.5)
    prev_lab, lab = torch.randn(2, 2, 3, 64, 96) * 20.0
    net(prev_lab, lab).sum().backward()
    net.layers[2].eval()  # the copy keeps the mode of each layer
    state = copy.deepcopy(net.state_dict())
    plain = without_spectral_norm(net)
    assert [layer.training for layer in convolutions(plain)] == [layer.training for layer in convolutions(net)]
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    assert all(type(layer) is nn.Conv2d and isinstance(layer.weight, nn.Parameter) for layer in convolutions(plain))
    assert not any(parametrize.is_parametrized(layer) for layer in plain.modules())
    assert sorted(plain.state_dict()) == sorted(
        {key.replace("parametrizations.weight.original", "weight") for key in state if "weight.0" not in key}
    )
    assert torch.equal(plain.eval()(prev_lab, lab), net.eval()(prev_lab, lab))


def test_a_generator_comes_back_with_its_own_keys() -> None:
    torch.manual_seed(0)
    net = ColorizationNet(NetworkConfig(width=0.05, features_input="L", head="blend"))
    keys = sorted(net.state_dict())
    add_spectral_norm(net)
    lab = torch.randn(1, 3, 64, 64) * 20.0
    net.embed(lab)
    plain = without_spectral_norm(net)
    assert sorted(plain.state_dict()) == keys
    with torch.no_grad():
        net.eval(), plain.eval()
        assert torch.equal(plain.embed(lab).theta, net.embed(lab).theta)
        arguments = (
            lab[:, :1],
            Match(lab[:, 1:], lab[:, :1] / 50.0, lab[:, :0], lab[:, :1], lab[:, :0], lab[:, :1]),
            lab,
            torch.ones(1, 1, 1, 1),
        )
        assert torch.equal(plain.colorize(*arguments), net.colorize(*arguments))


def test_gradient_reaches_both_frames() -> None:
    torch.manual_seed(0)
    frames = [torch.randn(2, 3, 64, 64, requires_grad=True) for _ in range(2)]
    Discriminator(0.1)(*frames).sum().backward()
    for frame in frames:
        assert frame.grad is not None and (frame.grad.abs().amax((2, 3)) > 0).all()  # every sample, every channel


def test_scores_of_a_sample_do_not_depend_on_its_batch() -> None:
    torch.manual_seed(0)
    net = Discriminator(0.1).eval()
    prev_lab, lab = torch.randn(2, 3, 3, 64, 64) * 20.0
    scores = net(prev_lab, lab)
    assert scores.shape == (3,)
    torch.testing.assert_close(net(prev_lab[1:2], lab[1:2]), scores[1:2])


def test_frames_of_64_are_the_smallest() -> None:
    net = Discriminator(0.05)
    assert net(torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 64, 64)).shape == (1,)
    with pytest.raises(ValueError, match=r"^Discriminator: frames must be at least 64x64, got 80x63$"):
        net(torch.zeros(1, 3, 63, 80), torch.zeros(1, 3, 63, 80))


def test_autocast_gives_scores_in_float32() -> None:
    torch.manual_seed(0)
    net = Discriminator(0.1).eval()
    frames = torch.randn(2, 3, 64, 64) * 20.0
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = net(frames, frames)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, net(frames, frames), atol=1e-3, rtol=0.1)


def pair(kind: str, samples: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return fake and real pairs of frames of one L. Fakes are grey, faded, or change colour between frames."""
    L, ab = smooth(samples, 1), smooth(samples, 2)
    real = torch.cat((L, ab), dim=1)
    fake_ab = {"grey": torch.zeros_like(ab), "faded": 0.4 * ab, "flicker": smooth(samples, 2)}[kind]
    fake = torch.cat((L, fake_ab), dim=1)
    return (real if kind == "flicker" else fake, fake), (real, real)


@pytest.mark.parametrize("kind", ["grey", "faded", "flicker"])
def test_learns_to_tell_fakes(kind: str) -> None:
    torch.manual_seed(0)
    net = Discriminator(0.125)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, betas=(0.5, 0.999), amsgrad=True)
    for _ in range(60):
        fake, real = pair(kind, 8)
        optimizer.zero_grad()
        losses.discriminator(net(*fake), net(*real)).backward()
        optimizer.step()
    fake, real = pair(kind, 32)
    with torch.no_grad():
        margins = net.eval()(*real) - net(*fake)
    assert margins.min() > 0.0 and 0.5 < margins.mean() < 1.5  # least squares: real scores one more than fake

"""Test semantic vectors, guess and trust: shapes, the match of a picture with itself, and how colours are mixed."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest
import torch
from test_semantic import file as file  # a fixture

from train.features import meaning
from vsexvc.nets.config import NetworkConfig
from vsexvc.nets.meaning import SEEN, MeaningNet
from vsexvc.nets.network import ColorizationNet
from vsexvc.nets.trust import Trust

CONFIG = NetworkConfig(
    width=0.0625, features_input="L", head="blend", warp_upsampling="bilinear", semantic="lite0", temperature=0.01
)


def network() -> ColorizationNet:
    torch.manual_seed(0)
    return ColorizationNet(CONFIG).eval().requires_grad_(False)


@pytest.mark.parametrize("size", [(64, 64), (72, 104), (216, 384)])
def test_vectors_are_unit_vectors_and_the_guess_is_colour(size: tuple[int, int]) -> None:
    vectors, guess = MeaningNet("lite0").eval()(torch.rand(2, 3, *size))
    h, w = size[0] // 8, size[1] // 8
    assert vectors.shape == (2, 64, h, w) and guess.shape == (2, 2, h, w)
    assert torch.allclose(torch.linalg.vector_norm(vectors, dim=1), torch.ones(2, h, w), atol=1e-4)


def test_a_picture_matched_by_meaning_finds_itself() -> None:
    net = network()
    lab = torch.rand(1, 3, 64, 96) * 60 - 30
    keys = net.keys(lab, net.embed(lab).phi, net.understand(lab[:, :1]))
    seen = net.understand(lab[:, :1])
    assert seen is not None and keys.vectors is not None
    best = (seen.vectors[0].flatten(1).T @ keys.vectors[0]).argmax(1)
    assert (best == torch.arange(8 * 12)).float().mean() > 0.95


def test_of_several_references_each_position_is_matched_by_meaning_in_its_own() -> None:
    """The two halves of a frame get what each of two references gives alone; a third reference gives nothing."""
    net, lab = network(), torch.rand(4, 3, 64, 96) * 60 - 30
    meanings = [net.understand(one[None, :1]) for one in lab]
    keys = [net.keys(lab[i : i + 1], net.embed(lab[i : i + 1]).phi, meanings[i]) for i in range(3)]
    taken, whole, of_frame = torch.zeros(1, 3, 8, 12), torch.ones(1, 1, 8, 12), meanings[3]
    taken[:, 0, :, :6], taken[:, 2, :, 6:] = 1.0, 1.0
    assert of_frame is not None
    found = net._by_meaning(of_frame, taken, keys, False)
    for i, half in ((0, slice(None, 6)), (2, slice(6, None))):
        alone = net._by_meaning(of_frame, whole, [keys[i]], False)
        assert found.shape == alone.shape == (1, 4, 8, 12)
        assert torch.allclose(found[..., half], alone[..., half], atol=1e-3)


def test_only_usable_cells_lend() -> None:
    net = network()
    lab = torch.rand(1, 3, 64, 96) * 60 - 30
    usable = torch.ones(64, 96, dtype=torch.bool)
    usable[:30] = False  # 7.5 rows of 4, 3.75 rows of 8
    keys = net.keys(lab, net.embed(lab).phi, net.understand(lab[:, :1]), usable)
    assert keys.vectors is not None
    assert keys.phi.shape[2] == keys.lab.shape[2] == 8 * 24 and keys.vectors.shape[2] == 4 * 12
    none = net.keys(lab, net.embed(lab).phi, net.understand(lab[:, :1]), torch.zeros(64, 96, dtype=torch.bool))
    assert none.phi.shape[2] == 16 * 24  # if no cell is usable, all cells lend


def test_details_and_meaning_are_one_product() -> None:
    """The product of joint vectors is that of the details plus 0.25 times that of the meaning's first 32 channels."""
    net = network()
    lab = torch.rand(2, 3, 64, 64) * 60 - 30
    theta, phi = net.embed(lab)
    seen = net.understand(lab[:, :1])
    assert seen is not None
    both = [net.with_meaning(x, seen).flatten(2) for x in (theta, phi)]
    beside = torch.nn.functional.normalize(
        torch.nn.functional.interpolate(seen.vectors[:, :32], scale_factor=2, mode="bilinear"), dim=1
    ).flatten(2)
    expected = theta.flatten(2).transpose(1, 2) @ phi.flatten(2) + 0.25 * beside.transpose(1, 2) @ beside
    assert torch.allclose(both[0].transpose(1, 2) @ both[1], expected, atol=1e-4)


def test_the_colour_net_sees_the_meaning() -> None:
    """The colour net ignores the meaning at first; the channels of the meaning have a mean square of 1."""
    torch.manual_seed(0)
    net = ColorizationNet(dataclasses.replace(CONFIG, semantic_color=True)).eval().requires_grad_(False)
    lab, other = torch.rand(2, 1, 3, 64, 96) * 60 - 30
    theta, phi = net.embed(lab)
    match = net.match(lab[:, :1], theta, net.understand(lab[:, :1]), [net.keys(lab, phi, net.understand(lab[:, :1]))])
    assert match.seen.shape == (1, SEEN, 8, 12)
    assert match.seen[:, :-2].square().mean().item() == pytest.approx(1.0, abs=1e-3)
    seen = net.understand(other[:, :1])
    assert seen is not None
    changed = match._replace(seen=seen.seen())
    absent = torch.zeros(1, 1, 1, 1)
    first = net.colorize(lab[:, :1], match, torch.zeros_like(lab), absent)
    assert torch.equal(first, net.colorize(lab[:, :1], changed, torch.zeros_like(lab), absent))
    torch.nn.init.normal_(net.color.see.weight)
    torch.nn.init.normal_(net.color.conv10_ab.weight)  # else the residual is zero
    first = net.colorize(lab[:, :1], match, torch.zeros_like(lab), absent)
    assert not torch.allclose(first, net.colorize(lab[:, :1], changed, torch.zeros_like(lab), absent), atol=0.1)


@pytest.mark.parametrize("believed", [0, 1, 2])
def test_trust_gives_the_colour_that_it_believes(believed: int) -> None:
    trust = Trust()
    with torch.no_grad():
        trust.logits.weight.zero_()
        trust.logits.bias.copy_(torch.eye(3)[believed] * 50.0)
    L = torch.zeros(1, 1, 5, 6)
    detail = torch.tensor((10.0, 1.0, 2.0, 0.9)).view(1, 4, 1, 1).expand(1, 4, 5, 6)
    by_meaning = torch.tensor((-5.0, 3.0, 4.0, 0.7)).view(1, 4, 1, 1).expand(1, 4, 5, 6)
    guess = torch.tensor((5.0, 6.0)).view(1, 2, 1, 1).expand(1, 2, 5, 6)
    ab, similarity, evidence = trust(L, detail, by_meaning, guess, torch.zeros(1, 1, 1, 1))
    assert torch.allclose(ab[0, :, 2, 3], torch.tensor(((1.0, 2.0), (3.0, 4.0), (5.0, 6.0))[believed]), atol=1e-4)
    assert similarity[0, 0, 2, 3].item() == pytest.approx((0.9, 0.7, 0.0)[believed], abs=1e-4)
    shares = torch.tensor(((0.0, 0.0), (1.0, 0.0), (0.0, 1.0))[believed])
    assert torch.allclose(evidence[0, :2, 2, 3], shares, atol=1e-4)
    assert evidence[0, 2, 2, 3].item() == pytest.approx((0.4, 0.2, 0.0)[believed], abs=1e-4)  # |0 - L| / 25


def test_in_use_a_reference_of_the_scene_shows_three_tenths_at_least() -> None:
    """Only a trust that is being trained sees how little it is; nothing stays nothing."""
    trust, generator = Trust(), torch.Generator().manual_seed(2)
    L, detail, by_meaning, guess = (torch.randn(1, c, 5, 6, generator=generator) for c in (1, 4, 4, 2))

    def mixed(shown: float) -> torch.Tensor:
        return trust(L, detail, by_meaning, guess, torch.full((1, 1, 1, 1), shown))[0]  # type: ignore[no-any-return]

    in_use = {shown: mixed(shown) for shown in (0.0, 0.1, 0.3, 0.6)}
    assert torch.allclose(in_use[0.1], in_use[0.3], atol=1e-4)
    assert not torch.allclose(in_use[0.3], in_use[0.6], atol=1e-4)
    trust.learns = True
    for shown in (0.0, 0.6):
        assert torch.equal(mixed(shown), in_use[shown])
    assert not torch.allclose(mixed(0.1), in_use[0.1], atol=1e-4)


def test_the_semantic_part_is_made_from_pictures(file, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """The projection is orthonormal; the guess learns that bright is yellow."""
    (tmp_path / "pictures").mkdir()
    rng = np.random.default_rng(1)
    for n in range(6):
        grey = cv2.resize(rng.random((6, 10)).astype(np.float32), (192, 108), interpolation=cv2.INTER_CUBIC)
        grey = np.clip(grey * 255, 0, 255)
        cv2.imwrite(str(tmp_path / "pictures" / f"{n}.png"), np.stack((255 - grey, grey, grey), axis=2))
    options = meaning.MeaningOptions(
        tmp_path / "out" / "meaning.pt", file, (tmp_path / "pictures",), steps=30, batch=4, learning_rate=5e-3
    )
    net = MeaningNet("lite0")
    net.load_state_dict(torch.load(meaning.make(options), weights_only=True))
    kernel = net.project.weight[:, :, 0, 0]
    assert torch.allclose(kernel @ kernel.T, torch.eye(64), atol=1e-4)
    with torch.inference_mode():
        _, guess = net(torch.full((1, 3, 216, 384), 0.9))
    assert guess[:, 1].mean() > 5.0  # b: yellow

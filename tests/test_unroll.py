"""Test which terms of the loss are computed, and on which frames."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from train.features.sources import Judge, Source
from train.fit import losses
from train.fit.options import TERMS
from train.fit.unroll import Unrolled, _with_noise
from vsexvc.nets.config import NetworkConfig
from vsexvc.nets.features import FeatureNet, Features
from vsexvc.nets.meaning import Meaning
from vsexvc.nets.network import ColorizationNet, Keys, Match

CONFIG = NetworkConfig(width=0.0625, features_input="L", head="blend", motion=2, warp_upsampling="bilinear")
NONE = dict.fromkeys(TERMS, 0.0)


def batch(true: tuple[float, ...] = (1.0, 1.0), frames: int = 5) -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    b = len(true)
    lab = torch.rand(b, frames, 3, 8, 8).repeat_interleave(8, 3).repeat_interleave(8, 4)
    lab = lab * torch.tensor((100.0, 60.0, 60.0)).view(3, 1, 1)
    return {
        "lab": lab,
        "flow_backward": torch.zeros(b, frames - 2, 2, 64, 64),
        "valid": torch.ones(b, frames - 2, 1, 64, 64),
        "true": torch.tensor(true).view(b, 1),
    }


def unrolled(judge: Judge | None = None, feature_noise: float = 0.0, **weights: float) -> Unrolled:
    torch.manual_seed(0)
    net = ColorizationNet(CONFIG, batch_norm=True)
    return Unrolled(net, judge, NONE | weights, no_previous=0.0, feature_noise=feature_noise, bf16=False)


def judge() -> Judge:
    torch.manual_seed(1)
    net = FeatureNet(NetworkConfig(width=0.0625, features_input="imagenet"))
    return Judge(Source(net.state_dict(), 0.0625, "imagenet"))


def test_a_term_without_weight_is_not_computed() -> None:
    assert set(unrolled()(batch()).terms) == {"l1"}
    result = unrolled(judge(), **dict.fromkeys(TERMS, 1.0))
    assert set(result(batch()).terms) == set(TERMS) - {"adversarial", "guess"}


def test_before_everything_learns_there_are_no_outputs() -> None:
    result = unrolled(warped=1.0, aligned=1.0)(batch(), everything=False)
    assert set(result.terms) == {"warped", "aligned"} and result.outputs is None


def test_l1_is_that_of_the_outputs_where_the_reference_is_true() -> None:
    samples = batch(true=(1.0, 0.0))
    torch.manual_seed(5)
    result = unrolled(follow=1.0)(samples)
    assert result.outputs is not None and result.outputs.shape == (2, 3, 3, 64, 64)
    assert torch.equal(result.outputs[:, :, :1], samples["lab"][:, 2:, :1] - 50.0)
    expected = torch.stack([losses.l1(result.outputs[0, t, 1:], samples["lab"][0, t + 2, 1:]) for t in range(3)]).mean()
    assert torch.allclose(result.terms["l1"], expected)
    assert unrolled(follow=1.0)(batch(true=(1.0, 1.0))).terms["follow"] == 0.0


def test_later_frames_depend_on_earlier_outputs() -> None:
    """The gradient of the last output reaches the first one, so the recurrence is trained."""
    model = unrolled()
    seen: list[torch.Tensor] = []
    inner = model.net.color.forward

    def watch(*inputs: torch.Tensor) -> torch.Tensor:
        ab: torch.Tensor = inner(*inputs)
        ab.retain_grad()
        seen.append(ab)
        return ab

    model.net.color.forward = watch  # type: ignore[method-assign]
    result = model(batch())
    assert result.outputs is not None
    result.outputs[:, -1].sum().backward()
    assert seen[0].grad is not None and seen[0].grad.abs().sum() > 0


def test_feature_noise_cripples_the_samples_that_it_should() -> None:
    torch.manual_seed(2)
    levels = Features(*(torch.rand(2, 8, 16, 16) * scale for scale in (1.0, 10.0, 100.0, 1000.0)))
    for before, after in zip(levels, _with_noise(levels, torch.tensor([False, True])), strict=True):
        assert torch.equal(before[0], after[0])
        noise, size = (after[1] - before[1]).square().mean().sqrt(), before[1].square().mean().sqrt()
        assert 0.45 < noise / size < 0.55
    samples = batch()
    clean, noisy = (unrolled(feature_noise=share, warped=1.0)(samples).terms["warped"] for share in (0.0, 1.0))
    assert clean != noisy


def test_the_judge_prefers_the_truth() -> None:
    model = unrolled(judge(), perceptual=1.0, contextual=1.0)
    lab = batch()["lab"]
    centred = lab - torch.tensor((50.0, 0, 0)).view(3, 1, 1)
    grey = centred * torch.tensor((1.0, 0, 0)).view(3, 1, 1)
    truth, worse = (model._judged(centred, [x[:, 2]]) for x in (centred, grey))
    assert truth["perceptual"] == 0.0 < worse["perceptual"]


def test_the_strip_shows_five_pictures() -> None:
    model = unrolled()
    assert model.picture() is None
    model(batch())
    picture = model.picture()
    assert picture is not None and picture.shape == (3, 64, 5 * 64)
    assert (picture[:, :, 64:128].amax(0) - picture[:, :, 64:128].amin(0)).max() < 1e-3  # the second picture is grey


class TestMeaning:
    """Test a network with semantic features."""

    def model(self, **weights: float) -> Unrolled:
        torch.manual_seed(0)
        net = ColorizationNet(dataclasses.replace(CONFIG, semantic="lite0"), batch_norm=True)
        return Unrolled(net, None, NONE | weights, no_previous=0.0, feature_noise=0.0, bf16=False)

    def test_the_guess_is_asked_for_the_colours_of_all_frames(self) -> None:
        samples = batch()
        model = self.model(guess=1.0)
        found = model.net.understand(samples["lab"].flatten(0, 1)[:, :1] - 50.0)
        assert found is not None
        truth = samples["lab"].flatten(0, 1)[:, 1:, ::8, ::8]  # the colours are constant in squares of 8 pixels
        expected = (found.guess - truth).abs().mean()
        assert torch.allclose(model(samples).terms["guess"], expected, rtol=1e-4)

    def test_foreign_colours_are_sought_only_where_they_are_sure(self) -> None:
        """A foreign reference's colour is the target where its vectors match the frame's; elsewhere the truth is."""
        model = self.model()
        vectors = torch.nn.functional.normalize(torch.randn(2, 64, 8, 8), dim=1)
        target, theirs = torch.zeros(2, 2, 64, 64), torch.full((2, 3, 64), 20.0)
        seen = Meaning(vectors, torch.zeros(2, 2, 8, 8))
        for keys, expected in ((vectors, 20.0), (-vectors.mean((2, 3), keepdim=True).expand_as(vectors), 0.0)):
            found = Keys(*(3 * [torch.empty(0)]), half_lab=theirs, vectors=keys.flatten(2))
            sought = model._sought(seen, found, target, torch.tensor((0.0, 1.0)).view(2, 1, 1, 1))
            assert torch.allclose(sought[0], torch.tensor(expected), atol=0.1) and not sought[1].any()

    def test_frozen_details_are_matched_without_gradients(self) -> None:
        model = self.model(warped=1.0, guess=1.0)
        for part in (model.net.features, model.net.correspondence, model.net.meaning.trunk, model.net.meaning.project):
            part.requires_grad_(False)
        sum(model(batch()).terms.values()).backward()  # type: ignore[union-attr]
        learning = {name.split(".")[0] for name, p in model.net.named_parameters() if p.grad is not None}
        assert learning == {"meaning", "trust", "color"}


def outputs_without_and_with(share: str, samples: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """Return the outputs with Unrolled's attribute `share` at 0, and at 1."""
    found = []
    for value in (0.0, 1.0):
        model = unrolled()
        setattr(model, share, value)
        torch.manual_seed(4)  # seed of the frame before the sequence
        outputs = model(samples).outputs
        assert outputs is not None
        found.append(outputs)
    return found


def test_the_middle_frame_gives_colours_to_later_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.fit.unroll.REMEMBERED", -2.0)  # preferred to any reference
    first, second = outputs_without_and_with("remembered", batch(frames=7))
    assert torch.equal(first[:, :3], second[:, :3]) and not torch.equal(first[:, 3], second[:, 3])


def test_worn_colours_are_what_the_next_frame_sees() -> None:
    first, second = outputs_without_and_with("worn", batch())
    assert torch.equal(first[:, 0], second[:, 0]) and not torch.equal(first[:, 1], second[:, 1])


def test_steady_is_the_change_of_outputs_where_true_colours_only_moved() -> None:
    model = unrolled(steady=1.0)
    lab, ab = torch.zeros(2, 3, 8, 8), torch.full((2, 2, 8, 8), 5.0)
    before = torch.cat((torch.zeros(2, 1, 8, 8), ab + 2.0, lab[:, 1:]), dim=1)
    before[:, 1, :, :4], before[:, 3, :, :4] = 90.0, 10.0  # the left half had other true colours
    before[1] += 50.0  # the second sample's previous colours are spoiled
    match = Match(ab, ab[:, :1], ab[:, :0], ab[:, :1], ab[:, :0], ab[:, :1])
    fresh = torch.tensor([1.0, 0.0]).view(2, 1, 1, 1)
    terms = model._of_colors(ab, lab, match, before, torch.ones(2, 1, 1, 1), fresh)
    assert {name: float(value) for name, value in terms.items()} == {"steady": 2.0}


def test_frames_of_the_lead_in_are_coloured_and_do_not_learn() -> None:
    samples, drawn = batch(frames=6), set()
    for seed in range(16):
        model = unrolled()
        model.lead_in = 2
        learns: list[bool] = []
        model.net.color.register_forward_hook(lambda _, inputs, ab, learns=learns: learns.append(ab.requires_grad))
        torch.manual_seed(seed)
        result = model(samples)
        outputs = result.outputs
        assert outputs is not None and outputs.shape[1] == len(learns) == 4
        without = learns.index(True)
        assert all(learns[without:])
        each = [losses.l1(outputs[:, t, 1:], samples["lab"][:, t + 2, 1:]) for t in range(without, 4)]
        assert torch.allclose(result.terms["l1"], torch.stack(each).mean())
        drawn.add(without)
    assert drawn == {0, 1, 2}

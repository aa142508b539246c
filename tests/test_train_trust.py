"""Test train/fit/trust.py: which pairs are drawn, and that the trust alone learns which colours are right."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from train.data.retrieval import Retrieval
from train.fit import trust
from train.fit.trust import Pairs, TrustOptions
from vsexvc.nets.config import NetworkConfig
from vsexvc.nets.network import ColorizationNet
from vsexvc.nets.trust import Trust
from vsexvc.weights import store

CONFIG = NetworkConfig(
    width=0.0625, features_input="L", head="blend", motion=2, warp_upsampling="reference", semantic="lite0"
)
OPTIONS = TrustOptions(Path("out"), "", (), (), Path("cache"), steps=60, batch=4, learning_rate=1e-2)


def pairs(by_detail: float, by_meaning: float, true: float, cosine: float, is_foreign: float) -> Pairs:
    """Return eight pairs of 8 x 8 cells with flat colours a = b; the guess is 0."""

    def flat(*values: float) -> torch.Tensor:
        return torch.tensor(values).view(1, -1, 1, 1).expand(8, -1, 8, 8)

    seen = (flat(0.0), flat(0.0, by_detail, by_detail, 0.9), flat(0.0, by_meaning, by_meaning, cosine), flat(0.0, 0.0))
    return Pairs((*seen, torch.zeros(8, 1, 1, 1)), flat(true, true), torch.full((8, 1, 1, 1), is_foreign))


@pytest.mark.parametrize(
    ("true", "cosine", "is_foreign", "expected"),
    [
        pytest.param(40.0, 0.7, 0.0, 40.0, id="details are right"),
        pytest.param(-30.0, 0.7, 0.0, -30.0, id="meaning is right"),
        pytest.param(40.0, 0.7, 1.0, -30.0, id="another scene: the colour of its kind, not the true one"),
        pytest.param(0.0, 0.1, 1.0, 0.0, id="another scene without such a thing: the truth, here as guessed"),
    ],
)
def test_it_learns_what_is_right(true: float, cosine: float, is_foreign: float, expected: float) -> None:
    torch.manual_seed(0)
    net, some = Trust(), pairs(40.0, -30.0, true, cosine, is_foreign)
    trust.learn(net, some, OPTIONS)
    ab, *_ = net(*some.seen)
    assert (ab - expected).abs().mean() < 3.0
    assert not any(p.requires_grad for p in net.parameters())
    assert not net.learns


@pytest.mark.parametrize(("sure", "expected"), [(0.4, -30.0), (0.6, 0.0)])
def test_another_scene_decides_from_a_cosine_on(sure: float, expected: float) -> None:
    torch.manual_seed(0)
    net, some = Trust(), pairs(40.0, -30.0, 0.0, 0.5, is_foreign=1.0)
    trust.learn(net, some, dataclasses.replace(OPTIONS, sure=sure))
    assert (net(*some.seen)[0] - expected).abs().mean() < 3.0


def test_an_anchor_keeps_what_references_of_the_scene_give() -> None:
    """Pairs of both kinds that the trust can tell apart: only the answer to those of another scene changes."""
    own, other = pairs(40.0, -30.0, -30.0, 0.7, is_foreign=0.0), pairs(30.0, -20.0, 0.0, 0.3, is_foreign=1.0)
    both = Pairs(
        tuple(torch.cat(x) for x in zip(own.seen, other.seen, strict=True)),
        torch.cat((own.true, other.true)),
        torch.cat((own.is_foreign, other.is_foreign)),
    )
    torch.manual_seed(0)
    net = Trust()
    before = [net(*some.seen)[0].detach() for some in (own, other)]
    trust.learn(net, both, dataclasses.replace(OPTIONS, anchor=3.0, steps=300))
    after = [net(*some.seen)[0] for some in (own, other)]
    assert (before[0] + 30.0).abs().mean() > 10.0  # -30 would be right
    assert (after[0] - before[0]).abs().mean() < 2.0
    assert before[1].abs().mean() > 3.0 * after[1].abs().mean()


def test_a_calm_frame_counts_as_much_as_a_wrong_one() -> None:
    """The error in decibels rises as much from 1 to 2 as from 10 to 20; pairs of another scene have a weight."""
    options = dataclasses.replace(OPTIONS, l1=0.0, decibels=1.0, foreign=3.0)
    sought, own, foreign = torch.zeros(1, 2, 4, 4), torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)

    def loss(size: float, is_foreign: torch.Tensor = own) -> float:
        return float(trust.error(torch.full_like(sought, size), sought, options, is_foreign))

    assert loss(20.0) - loss(10.0) == pytest.approx(6.02, abs=0.05)  # 20 log10(2)
    assert loss(0.0) == 0.0
    assert loss(10.0, foreign) == pytest.approx(3 * loss(10.0))


class TestWhole:
    @pytest.fixture
    def options(self, tmp_path: Path) -> TrustOptions:
        """Write a clip that moves, six pictures, and a network of random weights."""
        rng = np.random.default_rng(0)
        for name in ("clips", "images"):
            (tmp_path / name).mkdir()

        def picture() -> np.ndarray:
            small = rng.integers(0, 255, (9, 16, 3)).astype(np.uint8)
            return np.asarray(cv2.resize(small, (640, 360), interpolation=cv2.INTER_CUBIC), np.uint8)

        for n in range(6):
            cv2.imwrite(str(tmp_path / "images" / f"{n}.png"), picture())
        video = cv2.VideoWriter(str(tmp_path / "clips" / "a.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 25, (384, 216))
        wide = picture()
        for n in range(12):
            video.write(np.ascontiguousarray(wide[40:256, 4 * n : 4 * n + 384]))
        video.release()
        torch.manual_seed(0)
        store.save(ColorizationNet(CONFIG), tmp_path / "net.safetensors", {"licence": "none"})
        return TrustOptions(
            tmp_path / "out" / "net.safetensors",
            str(tmp_path / "net.safetensors"),
            (tmp_path / "clips",),
            (tmp_path / "images",),
            tmp_path / "cache",
            pairs=6,
            steps=2,
            batch=2,
        )

    def test_only_the_trust_changes(self, options: TrustOptions) -> None:
        path = trust.make(options)
        before, after = (store.load_file(p).state_dict() for p in (Path(options.init), path))
        changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
        assert changed and all(name.startswith("trust.") for name in changed)
        assert store.read_metadata(path)["licence"] == "none"

    def test_pairs_of_all_kinds_are_drawn(self, options: TrustOptions) -> None:
        """A third has a reference of another scene; frames of a clip lie 8 or more apart."""
        net = store.load(options.init)
        clips, images = trust.files(options)
        drawn = trust.Drawn(clips, images, Retrieval(net, images, clips, options.cache), seed=1)
        some = [drawn.pair() for _ in range(60)]
        assert all(x.shape == (216, 384, 3) for frame, reference, _ in some for x in (frame, reference))
        assert 12 <= sum(is_foreign for *_, is_foreign in some) <= 34
        own = [(a.astype(int), b.astype(int)) for a, b, is_foreign in some if not is_foreign]
        assert min(abs(a - b).mean() for a, b in own) > 2.0  # never the same frame
        shifted = [min(abs(a[:, 4 * n :] - b[:, : 384 - 4 * n]).mean() for n in range(8, 12)) for a, b in own]
        shifted += [min(abs(b[:, 4 * n :] - a[:, : 384 - 4 * n]).mean() for n in range(8, 12)) for a, b in own]
        assert min(shifted) < 3.0

    def test_errors_name_what_is_wrong(self, options: TrustOptions, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="trust: clips and images must hold files, found 1 and 0"):
            trust.make(dataclasses.replace(options, images=(tmp_path / "clips",)))
        plain = tmp_path / "plain.safetensors"
        store.save(ColorizationNet(NetworkConfig(width=0.0625, features_input="L")), plain, {})
        with pytest.raises(ValueError, match=r"trust: init must be a network with semantic features, .*plain"):
            trust.make(dataclasses.replace(options, init=str(plain)))

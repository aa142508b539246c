"""Unroll the network over a sequence on its own outputs, and compute its losses: eq. 15 and further terms.

It is a module so that DistributedDataParallel can wrap it. losses.py has the losses, loop.py weights and schedule.

Axes: B batch, S frames of a sample (0 the reference, 1 the frame before, 2.. the sequence), H and W the crop.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from train.features.sources import Judge
from train.fit import losses
from vsexvc.colour.lab import centred, lab_to_rgb, uncentred
from vsexvc.nets.correspondence import Embedding
from vsexvc.nets.features import Features, feature_input
from vsexvc.nets.meaning import MEANING_CELL, Meaning
from vsexvc.nets.network import ColorizationNet, Keys, Match
from vsexvc.session import REMEMBERED

# Eq. 8's weight of 0.001 is for a VGG19 with input 0..255; the range of torchvision's is 1/57 of that.
_PERCEPTUAL_SCALE = {"upstream": 1.0, "imagenet": 57.0}
_SURE, _SURE_WIDTH = 0.56, 0.04  # cosine from which a match by meaning is trusted
_ALIKE = 3.0  # difference in ab up to which a true colour has only moved
_LARGEST_SLIP = 4  # most pixels by which spoiled colours are shifted


class Result(NamedTuple):
    """Hold terms by name, each a scalar; outputs (B, S-2, 3, H, W), L_centred and ab; None before all nets learn."""

    terms: dict[str, Tensor]
    outputs: Tensor | None


class Unrolled(nn.Module):
    """Compute the terms of one batch.

    Args:
        net: the network that learns.
        judge: Phi of the perceptual and contextual terms; None where both weights are 0.
        weights: weights of the terms by name; a term of weight 0 is not computed.
        no_previous: share of samples whose sequence starts without a previous frame.
        feature_noise: share of samples whose features get noise before the correspondence (section 4).
        bf16: whether autocast uses bfloat16.
        worn: share of frames whose colours are spoiled before they become the previous frame.
        remembered: share of batches in which the middle frame of the sequence gives colours to the later ones.
        lead_in: most frames at the start of a sequence that are coloured without learning; each batch draws a number.
    """

    def __init__(
        self,
        net: ColorizationNet,
        judge: Judge | None,
        weights: Mapping[str, float],
        no_previous: float,
        feature_noise: float,
        bf16: bool,
        worn: float = 0.0,
        remembered: float = 0.0,
        lead_in: int = 0,
    ) -> None:
        super().__init__()
        self.net, self.judge, self.weights = net, judge, weights
        self.no_previous, self.feature_noise, self.bf16, self.worn = no_previous, feature_noise, bf16, worn
        self.remembered, self.lead_in = remembered, lead_in
        self.strip: Tensor | None = None  # a sample of the last batch, see `picture`

    def train(self, mode: bool = True) -> Self:
        """Set the mode; a frozen feature net keeps the statistics of its batch norm."""
        super().train(mode)
        if not any(parameter.requires_grad for parameter in self.net.features.parameters()):
            self.net.features.eval()
        return self

    def forward(self, batch: dict[str, Tensor], everything: bool = True) -> Result:
        """Compute the terms. batch: of data.Sequences. everything: False if only features and correspondence learn."""
        wanted = self.weights
        lab = centred(batch["lab"])
        b, s = lab.shape[:2]
        true = batch["true"].view(b, 1, 1, 1)
        embedding, meaning = self._embed(lab)
        theta, phi = embedding.theta.unflatten(0, (b, s)), embedding.phi.unflatten(0, (b, s))
        has_previous = (torch.rand(b, 1, 1, 1, device=lab.device) >= self.no_previous).float()
        prev_lab, fresh = spoiled(lab[:, 1]) * has_previous, torch.zeros_like(has_previous)
        sums: dict[str, Tensor] = {}
        outputs: list[Tensor] = []
        keys = [self.net.keys(lab[:, 0], phi[:, 0], _frame(meaning, b, 0))]
        handicaps = lab.new_tensor([[0.0, REMEMBERED]]).expand(b, -1)
        if meaning is not None and wanted["guess"]:
            seen = F.avg_pool2d(lab[:, :, 1:].flatten(0, 1), MEANING_CELL)
            sums["guess"] = losses.l1(meaning.guess, seen)
        first = 2 + (int(torch.randint(self.lead_in + 1, ())) if self.lead_in and everything else 0)

        def add(name: str, value: Tensor) -> None:
            sums[name] = sums.get(name, 0.0) + value / (s - first)  # type: ignore[operator]

        for t in range(2, s):
            target, flow, valid = lab[:, t, 1:], batch["flow_backward"][:, t - 2], batch["valid"][:, t - 2]
            its_meaning, before = _frame(meaning, b, t), torch.cat((prev_lab, lab[:, t - 1, 1:]), dim=1)
            with torch.set_grad_enabled(torch.is_grad_enabled() and t >= first):
                match = self.net.match(lab[:, t, :1], theta[:, t], its_meaning, keys, handicaps[:, : len(keys)])
                moved = self.net.align(theta[:, t], phi[:, t - 1], before, lab[:, t, :1])
                if everything:
                    with self._autocast():
                        ab = self.net.colorize(lab[:, t, :1], match, moved[:, :3], has_previous)
            if t >= first:
                sought = target if meaning is None else self._sought(its_meaning, keys[0], target, true)
                every = true if meaning is None else torch.ones_like(true)
                if wanted["warped"]:
                    add("warped", losses.l1(match.warped_ab, sought, every))
                if wanted["aligned"] and theta.requires_grad:
                    add("aligned", losses.l1(moved[:, 3:], target, valid))
                if not everything:
                    continue
                add("l1", losses.l1(ab, sought, every))
                if wanted["temporal"]:
                    earlier = prev_lab[:, 1:] if t > 2 else lab[:, 1, 1:]  # never compared with a spoiled frame
                    add("temporal", losses.temporal(ab, earlier, flow, valid * has_previous))
                for name, value in self._of_colors(ab, lab[:, t], match, moved, true, fresh).items():
                    add(name, value)
            prev_lab, has_previous = torch.cat((lab[:, t, :1], ab), dim=1), torch.ones_like(has_previous)
            outputs.append(prev_lab)
            if t == 1 + s // 2 and float(torch.rand(())) < self.remembered:
                keys.append(self.net.keys(prev_lab.detach(), phi[:, t].detach(), _frame(meaning, b, t)))
            fresh = (torch.rand(b, 1, 1, 1, device=lab.device) >= self.worn).float()
            prev_lab = torch.lerp(spoiled(prev_lab, 1.0), prev_lab, fresh)
        if not outputs:
            return Result(sums, None)
        grey = F.pad(lab[0, -1, :1], (0, 0, 0, 0, 0, 2))
        warped = torch.cat((lab[0, -1, :1], match.warped_ab[0]))
        self.strip = torch.stack((lab[0, 0], grey, warped, outputs[-1][0], lab[0, -1])).detach()
        if self.judge is not None:
            sums |= self._judged(lab, outputs)
        return Result(sums, torch.stack(outputs, dim=1))

    def picture(self) -> Tensor | None:
        """Return reference, grey, warped colour, output and truth of a sample of the last batch: (3, H, 5 W), 0..1."""
        if self.strip is None:
            return None
        rgb = lab_to_rgb(uncentred(self.strip.float()))
        return torch.cat(tuple(rgb), dim=2)

    def _embed(self, lab: Tensor) -> tuple[Embedding, Meaning | None]:
        net = self.net
        x = feature_input(lab.flatten(0, 1), net.config.features_input, False)
        if net.features.input == "upstream":  # here references have colours
            x = x.unflatten(0, lab.shape[:2]).clone()
            x[:, 0] = feature_input(lab[:, 0], net.config.features_input, True)
            x = x.flatten(0, 1)
        with self._autocast():
            levels = net.features(x.contiguous(memory_format=torch.channels_last))
            if self.feature_noise:
                noisy = torch.rand(len(lab), device=lab.device) < self.feature_noise
                levels = _with_noise(levels, noisy.repeat_interleave(lab.shape[1]))
            embedding: Embedding = net.correspondence(levels)
            meaning = net.understand(lab.flatten(0, 1)[:, :1].contiguous(memory_format=torch.channels_last))
        return embedding, meaning

    def _of_colors(
        self, ab: Tensor, lab: Tensor, match: Match, moved: Tensor, true: Tensor, fresh: Tensor
    ) -> dict[str, Tensor]:
        """Return the terms of a frame's colours that have a weight.

        Args:
            ab: (B, 2, H, W).
            lab: (B, 3, H, W), the true ones.
            match: of the frame.
            moved: (B, 5, H, W), the previous lab and the previous true ab, aligned with the frame.
            true: (B, 1, 1, 1), 1 where the reference is of the clip.
            fresh: (B, 1, 1, 1), 1 where the previous colours are the net's own.
        """
        terms = {
            "steady": lambda: losses.l1(ab, moved[:, 1:3], fresh * _is_same(moved[:, 3:], lab[:, 1:])),
            "decibels": lambda: losses.decibels(ab, lab[:, 1:], true),
            "smoothness": lambda: losses.smoothness(ab, lab),
            "follow": lambda: losses.l1(ab, match.warped_ab.detach(), 1 - true),
        }
        return {name: term() for name, term in terms.items() if self.weights[name]}

    def _sought(self, meaning: Meaning | None, keys: Keys, target: Tensor, true: Tensor) -> Tensor:
        """Return the ab that a frame should get, (B, 2, H, W).

        A foreign reference decides it where the match by meaning is trusted; otherwise it is the truth.
        """
        assert meaning is not None and keys.vectors is not None
        with torch.no_grad():
            found, sure = self.net.semantic_correlation(meaning.vectors.flatten(2), keys.vectors, keys.half_lab)
            small = torch.cat((found[:, 1:], torch.sigmoid((sure - _SURE) / _SURE_WIDTH)), dim=1)
            large = small.view(len(target), 3, *meaning.vectors.shape[2:])
            large = F.interpolate(large, scale_factor=MEANING_CELL, mode="bilinear")
            return torch.lerp(target, large[:, :2], large[:, 2:] * (1 - true))

    def _judged(self, lab: Tensor, outputs: list[Tensor]) -> dict[str, Tensor]:
        """Compute eq. 8-10 on one frame of the sequence, drawn anew each time: the same mean at a fraction of the cost.

        The judge sees the true colours with the same L as the output.
        """
        assert self.judge is not None
        t = int(torch.randint(len(outputs), ()))
        with self._autocast():
            levels = self.judge(outputs[t])
            with torch.no_grad():
                true, reference = self.judge(lab[:, t + 2]), self.judge(lab[:, 0])
        terms = {}
        if self.weights["perceptual"]:
            scale = _PERCEPTUAL_SCALE[self.judge.net.input]
            terms["perceptual"] = losses.perceptual(scale * levels.relu5_2.float(), scale * true.relu5_2.float())
        if self.weights["contextual"]:
            terms["contextual"] = losses.contextual(levels, reference)
        return terms

    def _autocast(self) -> torch.autocast:
        return torch.autocast(next(self.net.parameters()).device.type, dtype=torch.bfloat16, enabled=self.bf16)


def _is_same(ab: Tensor, other: Tensor) -> Tensor:
    """Return where two colours are alike, so that the motion between them is right: (B, 1, H, W), 0 or 1."""
    return (torch.linalg.vector_norm(ab - other, dim=1, keepdim=True) < _ALIKE).float()


def _frame(meaning: Meaning | None, b: int, t: int) -> Meaning | None:
    """Return frame t of each of b samples."""
    return None if meaning is None else Meaning(*(x.unflatten(0, (b, -1))[:, t] for x in meaning))


def spoiled(lab: Tensor, share: float = 0.3) -> Tensor:
    """Spoil a previous frame: a share of the samples gets faded or shifted colours, as in use."""
    b, ab = len(lab), lab[:, 1:]
    kind = torch.rand(b, 1, 1, 1, device=lab.device)
    coarse = F.interpolate(torch.randn(b, 2, 4, 7, device=lab.device), size=ab.shape[2:], mode="bilinear")
    slip = torch.randint(-_LARGEST_SLIP, _LARGEST_SLIP + 1, (2,)).tolist()
    size = 12.0 * torch.rand(b, 1, 1, 1, device=lab.device)
    off = ab.roll(slip, (2, 3)) * (0.7 + 0.4 * torch.rand(b, 1, 1, 1, device=lab.device)) + size * coarse
    return torch.cat((lab[:, :1], torch.where(kind < share, off, ab)), dim=1)


def _with_noise(levels: Features, noisy: Tensor) -> Features:
    """Add Gaussian noise of half the level's own size to the samples that `noisy` (B,) marks."""

    def one(x: Tensor) -> Tensor:
        size = 0.5 * x.detach().float().square().mean((1, 2, 3), keepdim=True).sqrt()
        return x + (torch.randn_like(x) * size * noisy.view(-1, 1, 1, 1)).to(x.dtype)

    return Features(*map(one, levels))

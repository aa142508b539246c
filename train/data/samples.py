"""Make training sequences from folders of clips and pictures: decode, cache, cut and augment; no network, no loss.

A sample is a reference, the frame before the sequence, and the sequence itself.
Every sample is a pure function of (seed, index): a resumed run sees the same samples as an uninterrupted one.
Files on disk do not depend on seed or process: the clips' frames, their tone, and the flow between their frames.

Axes: S frames of a sample (0 reference, 1 the frame before, 2.. the sequence), H and W the crop.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from train.data import augment
from train.data import flow as optical_flow
from train.data.files import (
    CACHED_SIZE,
    Clips,
    Picture,
    UnreadableError,
    cached,
    identity,
    log,
    read_clip,
    read_image,
    tone,
)
from train.data.retrieval import Retrieval, Source
from vsexvc.colour.lab import rgb_to_lab

_Motion = tuple[optical_flow.Array, NDArray[np.bool_]]  # flow_backward and valid of one frame

_TRIES = 20  # to draw another picture; where that fails there is no other, or hardly any
_LONGEST_NAME = 50  # characters of a clip's name in its files' names, at most four bytes each
_BLOCK = 64  # pairs of frames whose flow is in one file; the first sample of a clip waits for one file

# Of the options below.
_SHARES = ("image_share", "first", "distorted", "noisy", "foreign", "retrieved", "covered", "returns", "damage")


@dataclass(frozen=True)
class DataOptions:
    """Describe a sample. Each probability applies to one draw.

    Attributes:
        size: rows and columns of the crop.
        length: frames of the sequence, without the frame before it.
        image_share: probability that a sample is a picture with synthetic motion instead of a clip.
        strides: distances between a clip's frames; one that is listed twice is drawn twice as often.
        first: probability that the reference is the frame before the sequence.
        distorted: probability that the reference is a distorted frame of the sample (Figure 3); a picture's always is,
            unless it is `noisy`.
        noisy: probability that the reference is a frame of the sequence with Gaussian noise. With none of these three
            the reference is any frame of the clip.
        noise: standard deviations of that noise in L and in ab.
        foreign: probability that another picture replaces the reference.
        retrieved: share of these pictures that are among the five most similar ones, if there is a Retrieval.
        covered: probability that a part of another picture replaces a part of any other reference.
        returns: probability that a clip's sequence goes forward and then back toward its reference.
        flow: whether optical flow between the frames is used; without it no pixel's motion is valid.
        damage: probability that frames are damaged like old film; others get the milder `augment.luminance`.
        darkest: lowest mean L of clips and pictures; darker ones are left out.
        faintest: lowest mean chroma of clips and pictures; paler ones are left out.
    """

    size: tuple[int, int] = (128, 224)
    length: int = 3
    image_share: float = 0.25
    strides: tuple[int, ...] = (1, 1, 1, 2, 2, 3, 4)
    first: float = 0.25
    distorted: float = 0.15
    noisy: float = 0.05
    noise: tuple[float, float] = (2.0, 4.0)
    foreign: float = 0.08
    retrieved: float = 0.5
    covered: float = 0.0
    returns: float = 0.0
    flow: bool = True
    damage: float = 0.3
    darkest: float = 10.0
    faintest: float = 4.0

    def __post_init__(self) -> None:
        for name in _SHARES:
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"DataOptions: {name} must be 0..1, got {getattr(self, name)}")
        if self.first + self.distorted + self.noisy > 1.0 + 1e-9:
            shares = f"{self.first} + {self.distorted} + {self.noisy}"
            raise ValueError(f"DataOptions: first, distorted and noisy must add up to 1 at most, got {shares}")
        if not self.strides or min(self.strides) < 1:
            raise ValueError(f"DataOptions: strides must be one or more numbers from 1, got {self.strides}")

    def unfit(self, L: float, chroma: float) -> str | None:
        """Return why a clip or picture of this mean L and chroma is left out; None if it is not."""
        if self.darkest > L:
            return "dark"
        return "faded" if chroma < self.faintest else None


def cached_clips(paths: list[Path], cache: Path, options: DataOptions | None = None) -> list[Path]:
    """Decode each clip once into `cache` as a .npy; name, count and leave out unreadable, dark and faded ones."""
    options = options or DataOptions()
    cache.mkdir(parents=True, exist_ok=True)
    arrays = []
    left_out: Counter[str] = Counter()
    for path in paths:
        target = cache / f"{path.stem[:_LONGEST_NAME]}-{identity(path, CACHED_SIZE)}.npy"
        try:
            frames = cached(target, partial(read_clip, path))
        except UnreadableError as error:
            left_out["unreadable"] += 1
            log.warning("left out: %s", error)
            continue
        some = np.linspace(0, len(frames) - 1, 5).astype(int)
        L, chroma = cached(target.with_suffix(".tone.npy"), partial(_tone_of, frames, some)).tolist()
        why = options.unfit(L, chroma)
        if why:
            left_out[why] += 1
            log.warning("left out: %s is too %s: mean L %.1f, chroma %.1f", path, why, L, chroma)
            continue
        arrays.append(target)
    if left_out:
        reasons = ", ".join(f"{count} {why}" for why, count in left_out.items())
        log.warning("%d of %d clips left out: %s", left_out.total(), len(paths), reasons)
    return arrays


def _tone_of(frames: Picture, some: NDArray[np.int_]) -> NDArray[np.float64]:
    return np.array(tone(frames[some]))


def _flow_of(frames: Picture, stride: int) -> NDArray[Any]:
    return optical_flow.both_ways(_luminance(frames), stride)


@dataclass
class _Drawn:
    """Hold a sample's sources: S pictures, the motion (None: not found yet), and their origin."""

    frames: list[Picture]
    motion: list[_Motion] | None
    source: Source
    noisy: bool


class Sequences(Dataset[dict[str, Tensor]]):
    """Make samples by index; see the module's docstring. Give it to a DataLoader without shuffling."""

    def __init__(
        self,
        clips: list[Path],
        images: list[Path],
        options: DataOptions,
        seed: int,
        count: int,
        first: int = 0,
        retrieval: Retrieval | None = None,
    ):
        """Prepare. clips, images, retrieval: .npy files of `cached_clips`, picture files, and their similarity.

        The samples are first .. first + count - 1. Flow is kept beside the clips' files.
        """
        self.clips = Clips(clips)
        self.long = [n for n, clip in enumerate(self.clips) if len(clip) >= options.length + 2]
        if not self.long and not images:
            raise ValueError(f"Sequences: found no image and no clip of {options.length + 2} frames or more")
        if retrieval is not None and retrieval.counts != (len(clips), len(images)):
            raise ValueError(
                f"Sequences: retrieval must know the same clips and images, it has {retrieval.counts} of them, "
                f"got {(len(clips), len(images))}"
            )
        self.images, self.options, self.seed, self.count, self.first = images, options, seed, count, first
        self.retrieval = retrieval
        self.left_out: set[int] = set()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, position: int) -> dict[str, Tensor]:
        """Make one sample.

        Returns:
            lab: (S, 3, H, W) float32, L 0..100.
            flow_backward, valid: (S-2, 2, H, W) and (S-2, 1, H, W), from each frame of the sequence to the one before.
            true: (1,), 1 where the reference shows the same things, 0 where it is a foreign picture.
        """
        o = self.options
        rng = np.random.default_rng((self.seed, self.first + position))
        use_image = not self.long or (len(self.images) > 0 and rng.random() < o.image_share)
        drawn = self._from_image(rng) if use_image else self._from_clip(rng)
        frames = drawn.frames
        foreign = rng.random() < o.foreign
        other = self._foreign(drawn.source, rng) if foreign or rng.random() < o.covered else None
        foreign &= other is not None
        if other is not None:
            picture = augment.fit(other, o.size, rng)
            frames[0] = picture if foreign else augment.covered(frames[0], picture, rng)
        frames = augment.color_of_sequence(frames, rng)
        lab = rgb_to_lab(torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).float() / 255.0)
        if o.flow:
            motion = drawn.motion or [optical_flow.between(*pair) for pair in pairwise(lab[1:, 0].numpy())]
        else:
            motion = [(np.zeros((*o.size, 2), np.float32), np.zeros(o.size, np.bool_))] * (len(frames) - 2)
        if drawn.noisy and not foreign:
            deviation = np.array(o.noise, np.float32)[[0, 1, 1], None, None]
            lab[0] += torch.from_numpy(rng.standard_normal(lab[0].shape, dtype=np.float32) * deviation)
            lab[0, 0].clamp_(0.0, 100.0)
        worn = augment.damage if rng.random() < o.damage else augment.luminance
        lab[:, :1] = worn(lab[:, :1], rng)
        flow, valid = zip(*motion, strict=True)
        return {
            "lab": lab,
            "flow_backward": torch.from_numpy(np.stack(flow)).permute(0, 3, 1, 2).float(),
            "valid": torch.from_numpy(np.stack(valid))[:, None].float(),
            "true": torch.tensor([0.0 if foreign else 1.0]),
        }

    # -- pictures -------------------------------------------------------------------------------------------------

    def _read(self, number: int) -> Picture | None:
        """Read a picture; None if it is unreadable, dark or faded, which each worker logs once."""
        path = self.images[number]
        if number in self.left_out:
            return None
        try:
            picture = read_image(path)
            L, chroma = tone(picture[None])
            why = self.options.unfit(L, chroma)
            message = f"{path} is too {why}: mean L {L:.1f}, chroma {chroma:.1f}" if why else None
        except UnreadableError as error:
            message = str(error)
        if message is None:
            return picture
        self.left_out.add(number)
        log.warning("left out: %s (%d of %d pictures so far)", message, len(self.left_out), len(self.images))
        return None

    def _image(self, rng: np.random.Generator) -> tuple[int, Picture]:
        while len(self.left_out) < len(self.images):
            number = int(rng.integers(len(self.images)))
            picture = self._read(number)
            if picture is not None:
                return number, picture
        raise OSError(f"Sequences: all of {len(self.images)} pictures are unreadable, dark or faded")

    def _foreign(self, source: Source, rng: np.random.Generator) -> Picture | None:
        """Draw another picture than the sample's own, or a frame of another clip; None if there is no other."""
        if self.retrieval is not None and rng.random() < self.options.retrieved:
            for kind, number in rng.permutation(np.array(self.retrieval.five(*source), dtype=object)):
                picture = self._frame(number, rng) if kind == "clip" else self._read(number)
                if picture is not None:
                    return picture
        for _ in range(_TRIES):
            if self.images and (not self.clips or rng.random() < 0.6):
                number, picture = self._image(rng)
                found: Source = ("image", number)
            else:
                number = int(rng.integers(len(self.clips)))
                found, picture = ("clip", number), self._frame(number, rng)
            if found != source:
                return picture
        return None

    def _frame(self, number: int, rng: np.random.Generator) -> Picture:
        clip = self.clips[number]
        return np.asarray(clip[rng.integers(len(clip))])

    # -- sequences ------------------------------------------------------------------------------------------------

    def _from_clip(self, rng: np.random.Generator) -> _Drawn:
        o = self.options
        which = int(rng.choice(self.long))
        clip = self.clips[which]
        strides = [s for s in o.strides if s * o.length + 1 <= len(clip)]
        stride = int(rng.choice(strides)) if strides else 1
        start = int(rng.integers(len(clip) - stride * o.length))
        numbers = [start + i * stride for i in range(o.length + 1)]
        returns = bool(rng.random() < o.returns)
        if returns:
            way = numbers[: o.length // 2 + 1]
            numbers = [*way, *way[-1 - (o.length + 1) % 2 :: -1]]
        elif rng.random() < 0.5:
            numbers.reverse()
        mirrored = bool(rng.random() < 0.5)
        have = (clip.shape[1], clip.shape[2])
        window = augment.Window.random(have, o.size, mirrored, rng)
        frames = [window.picture(clip[n]) for n in numbers]
        kind = rng.random()
        noisy = kind < o.noisy
        if noisy:
            reference = frames[int(rng.integers(1, len(frames)))]
        elif returns or kind < o.noisy + o.first:
            reference = frames[0]
        elif kind < o.noisy + o.first + o.distorted:
            reference = augment.distort(frames[int(rng.integers(len(frames)))], rng, strength=1.0)
        else:
            view = window if rng.random() < 0.6 else augment.Window.random(have, o.size, mirrored, rng)
            reference = view.picture(self._frame(which, rng))
        motion = list(self._motion(which, stride, numbers, window)) if o.flow else None
        return _Drawn([reference, *frames], motion, ("clip", which), noisy)

    def _motion(self, which: int, stride: int, numbers: list[int], window: augment.Window) -> Iterator[_Motion]:
        """Return the motion between neighbours of `numbers` from the disk; a clip's flow is made at its first use."""
        clip, path = self.clips[which], self.clips.paths[which]
        for before, now in pairwise(numbers):
            if before == now:
                still = np.zeros((*window.size, 2), np.float32)
                yield still, np.ones(window.size, np.bool_)
                continue
            first = min(before, now)
            home = 0 if before < now else 1  # the direction from a frame to the one before it
            block = first // _BLOCK * _BLOCK
            pairs = cached(
                path.with_suffix(f".flow-{stride}-{block}.npy"),
                partial(_flow_of, clip[block : block + _BLOCK + stride], stride),
            )
            both = [window.flow(flow, clip.shape[1:3]) for flow in pairs[first - block]]
            yield both[home], optical_flow.consistent(both[home], both[1 - home])

    def _from_image(self, rng: np.random.Generator) -> _Drawn:
        o = self.options
        number, picture = self._image(rng)
        picture = augment.fit(picture, (int(o.size[0] * 1.25), int(o.size[1] * 1.25)), rng)
        moved = augment.moving(picture, o.size, o.length + 1, rng)
        noisy = bool(rng.random() < o.noisy)
        if noisy:
            reference = moved[int(rng.integers(1, len(moved)))]
        else:
            reference = augment.distort(augment.centre(picture, o.size), rng, strength=1.0)
        return _Drawn([reference, *moved], None, ("image", number), noisy)


def _luminance(frames: Picture) -> optical_flow.Array:
    """Compute luminance: (N, rows, columns, 3) uint8 -> L, (N, rows, columns) float32."""
    # One frame at a time: the Lab of a whole block may take gigabytes.
    return np.stack([rgb_to_lab(torch.tensor(f[None]).permute(0, 3, 1, 2).float() / 255.0)[0, 0] for f in frames])

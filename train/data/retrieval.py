"""Retrieve references (section 4): for each clip and picture the five that the network finds most similar.

Similarity is the cosine of descriptors. A descriptor holds the two deepest levels of the network's own features, or of
its semantic ones, averaged over a 2x2 grid, so that places count a little, then whitened. A clip has the mean of three
frames. Only a table of indices is kept, which takes almost no memory of the loader's workers.

Axes: N clips and pictures (clips first), B batch, D numbers of a descriptor.
"""

from __future__ import annotations

import hashlib
import logging
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from train.data.files import UnreadableError, appearing, identity, read_image
from vsexvc.colour.lab import rgb_to_lab
from vsexvc.nets.features import feature_input, grey_rgb
from vsexvc.nets.network import ColorizationNet
from vsexvc.support.progress import followed

Source = tuple[Literal["clip", "image"], int]  # which list, and the index in it

SIZE = (112, 192)  # rows, columns that the network sees; multiples of 16
COUNT = 5
_ALIKE = 0.85  # cosine from which two are duplicates: another cut of the same film, or a copy
_COMPONENTS = 128  # components after whitening, without which nearly all pictures have similar features
_BATCH = 16
_BLOCK = 1024  # rows of the similarity matrix held at once

log = logging.getLogger("train")


class Retrieval:
    """Find similar clips and pictures; the result depends only on files and weights."""

    def __init__(self, network: ColorizationNet, pictures: list[Path], clips: list[Path], cache: Path):
        """Describe files that `cache` does not contain yet; this takes minutes for thousands of pictures.

        Args:
            network: only its feature net, or semantic trunk, is used. To continue a run unchanged, give the same
                weights again.
            pictures: files; unreadable ones are logged, and similar to none.
            clips: .npy files of `data.cached_clips`.
            cache: folder for the descriptors; they are made again for other weights and extended for further files.
        """
        if not clips and not pictures:
            raise ValueError("Retrieval: pictures and clips are both empty, one of them must hold files")
        self.counts = (len(clips), len(pictures))
        descriptors = _described(network, [*clips, *pictures], cache / "retrieval.npz")
        self._nearest = _nearest(descriptors)

    def five(self, kind: Literal["clip", "image"], index: int) -> list[Source]:
        """Return up to five, the most similar first, without the picture itself and near duplicates.

        Args:
            kind: "clip" or "image", which selects the list.
            index: index in that list.
        """
        clips = self.counts[0]
        found = self._nearest[index + (clips if kind == "image" else 0)]
        return [("clip", int(n)) if n < clips else ("image", int(n) - clips) for n in found if n >= 0]


def _described(network: ColorizationNet, files: list[Path], cache: Path) -> NDArray[np.float16]:
    """Describe files: (N, D), rows of length 1, or 0 if a file is unreadable."""
    weights = hashlib.sha256(f"{SIZE}".encode())
    compared = network.meaning.trunk if network.config.semantic else network.features
    for name, tensor in compared.state_dict().items():
        weights.update(name.encode() + tensor.cpu().float().numpy().tobytes())
    keys = [identity(path, weights.hexdigest()) for path in files]
    known = _read(cache)
    missing = [n for n, key in enumerate(keys) if key not in known]
    was_training = network.training
    network.eval()
    batches = [missing[n : n + _BATCH] for n in range(0, len(missing), _BATCH)]
    for batch in followed(batches, "similar pictures", f" x {_BATCH}", head="train"):
        views = [list(_views(files[n])) for n in batch]
        found = _describe(network, [view for some in views for view in some])
        for n, some in zip(batch, views, strict=True):
            mean = found[: len(some)].sum(0) if some else np.zeros(found.shape[1], np.float32)
            found = found[len(some) :]
            known[keys[n]] = (mean / max(float(np.linalg.norm(mean)), 1e-12)).astype(np.float16)
    network.train(was_training)
    descriptors = np.stack([known[key] for key in keys])
    if missing:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with appearing(cache) as file:
            np.savez(file, keys=np.array(keys), descriptors=descriptors)
    return descriptors


def _read(cache: Path) -> dict[str, NDArray[np.float16]]:
    try:
        with np.load(cache) as kept:
            return dict(zip(kept["keys"].tolist(), kept["descriptors"], strict=True))
    except FileNotFoundError:
        pass
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        log.warning("made again: %s (%s)", cache, error)
    return {}


def _views(path: Path) -> Iterator[NDArray[np.uint8]]:
    """Yield three frames of a clip, or one picture: the middle window of SIZE's aspect, (*SIZE, 3) uint8."""
    try:
        if path.suffix == ".npy":
            clip = np.load(path, mmap_mode="r")
            frames = [clip[len(clip) * n // 6] for n in (1, 3, 5)]
        else:
            frames = [read_image(path)]
    except UnreadableError as error:
        log.warning("left out: %s", error)
        return
    for frame in frames:
        scale = min(frame.shape[0] / SIZE[0], frame.shape[1] / SIZE[1])
        rows, columns = round(SIZE[0] * scale), round(SIZE[1] * scale)
        top, left = (frame.shape[0] - rows) // 2, (frame.shape[1] - columns) // 2
        part = frame[top : top + rows, left : left + columns]
        yield np.asarray(cv2.resize(part, SIZE[::-1], interpolation=cv2.INTER_AREA), np.uint8)


@torch.inference_mode()
def _describe(network: ColorizationNet, views: list[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """Describe pictures: (B, D), rows of length 1, two levels of equal weight."""
    device = next(network.parameters()).device
    rgb = torch.from_numpy(np.stack(views)) if views else torch.zeros((1, *SIZE, 3), dtype=torch.uint8)
    lab = rgb_to_lab(rgb.to(device).permute(0, 3, 1, 2).float() / 255.0)
    grey = torch.cat((lab[:, :1] - 50.0, torch.zeros_like(lab[:, 1:])), dim=1)
    if network.config.semantic:
        found = network.meaning.trunk(grey_rgb(grey[:, :1]))
        deepest = found.s4, found.s5
    else:
        features = network.features(feature_input(grey, network.config.features_input, is_reference=False))
        deepest = features.relu4_2, features.relu5_2
    levels = [F.adaptive_avg_pool2d(x.float(), 2).flatten(1) for x in deepest]
    joined = torch.cat([F.normalize(x, dim=1) for x in levels], dim=1)
    return F.normalize(joined, dim=1)[: len(views)].cpu().numpy()


def _nearest(descriptors: NDArray[np.float16]) -> NDArray[np.int32]:
    """Find neighbours: (N, D) -> (N, COUNT) indices, the nearest first; -1 if there are no more."""
    usable = torch.from_numpy(descriptors.any(1))
    x = _whitened(torch.from_numpy(descriptors.astype(np.float32)), usable)
    found = np.full((len(x), COUNT), -1, np.int32)
    for top in range(0, len(x), _BLOCK):
        cosine = x[top : top + _BLOCK] @ x.T
        cosine[:, top:].fill_diagonal_(1.0)  # itself
        cosine.masked_fill_((cosine >= _ALIKE) | ~usable | ~usable[top : top + _BLOCK, None], -2.0)
        best = cosine.topk(min(COUNT, len(x)), dim=1)
        found[top : top + _BLOCK, : best.indices.shape[1]] = np.where(best.values > -2.0, best.indices, -1)
    return found


def _whitened(x: Tensor, usable: Tensor) -> Tensor:
    """Whiten: (N, D) -> (N, components), rows of length 1. Common features count less, rare ones more."""
    count = int(usable.sum())
    x = x.double()  # in single precision the eigenvectors of fewer pictures than D do not converge
    x = x - x[usable].mean(0)
    strength, axes = torch.linalg.eigh(x[usable].T @ x[usable])  # ascending
    keep = min(_COMPONENTS, max(2, count // 4), x.shape[1])
    scale = strength[-keep:].clamp_min(1e-6 * float(strength[-1]) + 1e-12).rsqrt()
    return F.normalize(x @ axes[:, -keep:] * scale, dim=1).float()

"""Measure how well the correspondence finds the same keypoint in another picture of the same class.

Each keypoint's best match is found for all ordered pairs of a class. PCK at alpha is the share of matches within alpha
times the larger side of the box around the target's keypoints. Every picture has the network's size and its own aspect,
as in the filter; answers are the centres of its cells.

Axes: h and w the network's grid, N = h * w positions by rows, K keypoints.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import NamedTuple, Protocol

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from train.data.files import read_image
from train.measure.tables import Table
from vsexvc.colour.lab import centred, rgb_to_lab
from vsexvc.nets.config import CELL
from vsexvc.nets.correspondence import Embedding
from vsexvc.nets.meaning import MEANING_CELL, Meaning
from vsexvc.nets.network import MULTIPLE, ColorizationNet, Keys
from vsexvc.session import network_size
from vsexvc.support.progress import followed

KEYPOINTS = "keypoints.csv"
ALPHAS = (0.05, 0.1, 0.2)


# --- the network -----------------------------------------------------------------------------------------------------


class Matcher[Description](Protocol):
    """Describe pictures once, and match each with many."""

    def describe(self, lab: Tensor) -> Description:
        """Describe a picture. lab: (1, 3, H, W) float32, L 0..100, sides multiples of MULTIPLE."""
        ...

    def match(self, frame: Description, reference: Description, positions: Tensor) -> Tensor:
        """Return the reference's best position for each of the frame's `positions`: (K,) int64, 0..N-1, both."""
        ...


class Described(NamedTuple):
    """Hold a picture for NetworkMatcher: lab with centred L, and its embedding."""

    lab: Tensor
    embedding: Embedding
    meaning: Meaning | None
    keys: Keys


class NetworkMatcher:
    """Match by the network's own correspondence: the position with the largest weight in the warped colour.

    With semantic features, that is the best match by details and meaning together, or by meaning alone, whichever the
    network trusts more at the position.
    """

    def __init__(self, network: ColorizationNet) -> None:
        self.network = network

    @torch.inference_mode()
    def describe(self, lab: Tensor) -> Described:
        network, lab = self.network, centred(lab.to(next(self.network.parameters()).device))
        theta, phi = network.embed(lab)
        if network.config.features_input == "upstream":  # here references have colours
            phi = network.embed(lab, is_reference=True).phi
        meaning = network.understand(lab[:, :1])
        return Described(lab, Embedding(theta, phi), meaning, network.keys(lab, phi, meaning))

    @torch.inference_mode()
    def match(self, frame: Described, reference: Described, positions: Tensor) -> Tensor:
        network, theta = self.network, frame.embedding.theta
        queries = network.with_meaning(theta, frame.meaning)[0].flatten(1)[:, positions]
        found = (queries.T @ reference.keys.phi[0]).argmax(1)
        if frame.meaning is None or reference.keys.vectors is None:
            return found.cpu()
        evidence = network.match(frame.lab[:, :1], theta, frame.meaning, (reference.keys,)).evidence
        by_meaning, by_guess = F.avg_pool2d(evidence[0, :2], CELL).flatten(1)[:, positions]
        w, reference_w = theta.shape[3], reference.embedding.phi.shape[3]
        scale = MEANING_CELL // CELL
        coarse = positions // w // scale * (w // scale) + positions % w // scale
        best = (frame.meaning.vectors[0].flatten(1)[:, coarse].T @ reference.keys.vectors[0]).argmax(1)
        row, column = best // (reference_w // scale), best % (reference_w // scale)
        finer = (row * scale + scale // 2) * reference_w + column * scale + scale // 2
        return torch.where(by_meaning > 1.0 - by_meaning - by_guess, finer, found).cpu()


# --- pictures --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Marked:
    """Hold a picture and its keypoints.

    Attributes:
        path: the picture.
        places: name of the point -> x, y in pixels of the file.
    """

    path: Path
    places: dict[str, tuple[float, float]]

    @property
    def side(self) -> float:
        """Return the larger side of the box around the keypoints, in pixels of the file."""
        return float(np.ptp(np.array(list(self.places.values())), axis=0).max())


def read_keypoints(folder: Path) -> dict[str, list[Marked]]:
    """Read keypoints.csv (file, class, point, x, y in pixels of the file): the pictures of each class, by name.

    Raises:
        OSError: keypoints.csv is missing. ValueError: columns are missing.
    """
    classes: dict[str, dict[str, dict[str, tuple[float, float]]]] = {}
    with (folder / KEYPOINTS).open(newline="") as file:
        for row in csv.DictReader(file):
            try:
                places = classes.setdefault(row["class"], {}).setdefault(row["file"], {})
                places[row["point"]] = float(row["x"]), float(row["y"])
            except (KeyError, TypeError, ValueError):
                raise ValueError(
                    f"keypoints: {folder / KEYPOINTS} must have columns file, class, point, x, y, got {row}"
                ) from None
    return {
        name: [Marked(folder / picture, pictures[picture]) for picture in sorted(pictures)]
        for name, pictures in sorted(classes.items())
    }


@dataclass(frozen=True)
class Grid:
    """Map a picture of width x height pixels to h x w cells."""

    width: int
    height: int
    h: int
    w: int

    def position(self, x: float, y: float) -> int:
        """Return the cell that holds the pixel at x, y; the nearest one if it lies outside the picture."""
        column = min(max(int(x / self.width * self.w), 0), self.w - 1)
        row = min(max(int(y / self.height * self.h), 0), self.h - 1)
        return row * self.w + column

    def place(self, position: int) -> tuple[float, float]:
        """Return the centre of a cell, x and y in pixels."""
        row, column = divmod(position, self.w)
        return (column + 0.5) * self.width / self.w, (row + 0.5) * self.height / self.h


def read_picture(path: Path) -> tuple[Tensor, Grid]:
    """Read a picture at the network's size: lab (1, 3, H, W) float32, L 0..100. Raise OSError on failure."""
    rgb = read_image(path)
    height, width = rgb.shape[:2]
    H, W = (max(1, round(side / MULTIPLE)) * MULTIPLE for side in network_size(width, height))
    small = cv2.resize(rgb, (W, H), interpolation=cv2.INTER_AREA)
    lab = rgb_to_lab(torch.from_numpy(small).permute(2, 0, 1)[None].float() / 255.0)
    return lab, Grid(width, height, H // CELL, W // CELL)


# --- the measure -----------------------------------------------------------------------------------------------------


def errors[D](matcher: Matcher[D], pictures: Sequence[Marked]) -> dict[str, list[float]]:
    """Match every ordered pair of pictures of one class.

    Returns:
        The distance of each answer from the target's keypoint, over the larger side of the box around the target's
        keypoints: "network", and "same place", which answers with the same share of width and height.
    """
    grids, described = [], []
    for picture in pictures:
        lab, grid = read_picture(picture.path)
        grids.append(grid)
        described.append(matcher.describe(lab))
    found: dict[str, list[float]] = {"network": [], "same place": []}
    for i, k in permutations(range(len(pictures)), 2):
        source, target, side = pictures[i].places, pictures[k].places, pictures[k].side
        names = [name for name in source if name in target]
        positions = torch.tensor([grids[i].position(*source[name]) for name in names], dtype=torch.int64)
        answers = matcher.match(described[i], described[k], positions)
        for name, answer in zip(names, answers.tolist(), strict=True):
            (x, y), (true_x, true_y) = source[name], target[name]
            same = x * grids[k].width / grids[i].width, y * grids[k].height / grids[i].height
            for row, place in (("network", grids[k].place(answer)), ("same place", same)):
                found[row].append(float(np.hypot(place[0] - true_x, place[1] - true_y) / side))
    return found


def pck(distances: Sequence[float]) -> list[float]:
    """Return the share within each of ALPHAS, 0..1; nan if there is none."""
    return [float(np.mean(np.array(distances) <= alpha)) if distances else float("nan") for alpha in ALPHAS]


def measure[D](matcher: Matcher[D], folder: Path, *, every: int = 1, limit: int | None = None) -> Table:
    """Measure PCK of each class, and the mean over the classes.

    Args:
        matcher: NetworkMatcher(network), or another correspondence.
        folder: holds the pictures and keypoints.csv.
        every: step through the pictures of a class.
        limit: only so many pictures of a class, the first.

    Raises:
        OSError: a picture cannot be read. ValueError: no class has two pictures.
    """
    classes = {name: pictures[::every][:limit] for name, pictures in read_keypoints(folder).items()}
    classes = {name: pictures for name, pictures in classes.items() if len(pictures) > 1}
    if not classes:
        raise ValueError(f"keypoints: {folder} must have two pictures of a class, but has none")
    followed_classes = followed(list(classes.items()), "keypoints", " classes", head="train")
    found = {name: errors(matcher, of_class) for name, of_class in followed_classes}
    figures = {name: {row: pck(distances) for row, distances in rows.items()} for name, rows in found.items()}
    figures["mean"] = {
        row: np.mean([of_class[row] for of_class in figures.values()], axis=0).tolist()
        for row in ("network", "same place")
    }
    header = ("class", *(f"{row}, PCK {alpha:g}" for row in ("network", "same place") for alpha in ALPHAS))
    rows = [
        [name, *(f"{100 * value:.1f}" for row in of_class.values() for value in row)]
        for name, of_class in figures.items()
    ]
    pictures = {name: len(of_class) for name, of_class in classes.items()}
    return Table(
        title=f"Keypoints: {folder.name}, {sum(pictures.values())} pictures, PCK in %",
        header=header,
        rows=rows,
        document={"folder": folder.name, "alphas": list(ALPHAS), "pictures": pictures, "pck": figures},
    )

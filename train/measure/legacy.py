"""Colour real black-and-white clips by all their references, and draw contact sheets, since no truth exists.

A clip NAME.mp4 has its references in the folder NAME_refs. Each of its scenes is coloured by each reference:
by its own, and by those of other scenes. A sheet has one row for each reference: the reference, then
frames of the scene.

Axes: H and W the network's size of the clip.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from train.data import files
from train.measure import metrics, tables
from train.measure.baselines import Clip
from train.measure.protocol import correspondences
from train.measure.scores import to_rgb
from train.measure.tables import Picture, Table
from vsexvc.nets.network import ColorizationNet
from vsexvc.session import Session, network_size
from vsexvc.support.progress import followed

REFERENCES = "_refs"  # follows the clip's name in the name of its folder of references
SHOWN = (0, 10, 20)  # frames of a scene, counted from its first one
# First frame of each scene, and the scene's own reference. Any other clip is one scene.
_SCENES = {
    "sample_bw": {0: "ref_000000", 34: "ref_000034"},
    "abomb_blast": {0: "0000874_out", 44: "0000968_out"},
}


@dataclass(frozen=True)
class Scene:
    """Hold a scene of a clip. L comes from `clip`; `own` is the name of its own reference, empty if not known."""

    name: str
    own: str
    clip: Clip
    references: tuple[Path, ...]


@dataclass(frozen=True)
class Coloured:
    """Hold one scene by one reference. similarity: the mean, -1..1; colourfulness: mean over the shown frames."""

    scene: str
    reference: str
    kind: str
    similarity: float
    colourfulness: float
    references_colourfulness: float


def holds_legacy(folder: Path) -> bool:
    """Return whether a folder contains clips with folders of references."""
    return folder.is_dir() and any(path.is_dir() for path in folder.glob(f"*{REFERENCES}"))


def read_scenes(folder: Path) -> Iterator[Scene]:
    """Read every scene of every clip with references, up to the last shown frame.

    Raises:
        OSError: a clip cannot be read.
    """
    for path in files.find([folder], files.VIDEO_SUFFIXES):
        place = path.with_name(path.stem + REFERENCES)
        if not place.is_dir():
            continue
        references = tuple(files.find([place], files.IMAGE_SUFFIXES))
        scenes = _SCENES.get(path.stem, {0: ""})
        rgb = files.read_clip(path, _size(path), max(scenes) + SHOWN[-1] + 1)
        for first, own in scenes.items():
            frames = rgb[first : first + SHOWN[-1] + 1]
            yield Scene(f"{path.stem}, scene from {first}", own, Clip(path, frames), references)


def _size(path: Path) -> tuple[int, int]:
    capture = cv2.VideoCapture(str(path))
    width, height = (int(capture.get(side)) for side in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
    capture.release()
    if not width or not height:
        raise files.UnreadableError(f"legacy: {path} has no frame that can be decoded")
    return network_size(width, height)


@torch.inference_mode()
def colour(network: ColorizationNet, scene: Scene, reference: Picture) -> tuple[NDArray[np.uint8], float]:
    """Colour a scene; its first frame has no previous frame.

    Args:
        network: in evaluation mode.
        scene: the scene, of N frames.
        reference: (rows, columns, 3) uint8, of any size.

    Returns:
        (N, H, W, 3) uint8; the mean similarity, -1..1.
    """
    session = Session(network)
    height, width = network_size(reference.shape[1], reference.shape[0])
    small = np.asarray(cv2.resize(reference, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    prepared, state = session.reference(Clip(Path(), small[None]).lab), session.start(None)
    results, similarities = [], []
    for correspondence in correspondences(session, scene.clip.lab[:, :1], prepared):
        state, ab = session.step(state, correspondence)
        results.append(ab.cpu().float())
        similarities.append(float(correspondence.similarity.mean()))
    return to_rgb(scene.clip, torch.cat(results)), float(np.mean(similarities))


def measure(network: ColorizationNet, folder: Path, *, limit: int | None = None, out: Path | None = None) -> Table:
    """Colour every scene by every reference.

    Args:
        network: in evaluation mode.
        folder: holds the clips and their references.
        limit: only so many scenes, the first.
        out: folder for the sheets; None: none is written.

    Raises:
        OSError: a clip or reference cannot be read, a sheet not written.
    """
    found: list[Coloured] = []
    for scene in followed(list(read_scenes(folder))[:limit], "legacy", " scenes", head="train"):
        sheet: dict[str, Sequence[Picture]] = {}
        for path in scene.references:
            reference = files.read_image(path)
            result, similarity = colour(network, scene, reference)
            shown = [result[min(k, len(result) - 1)] for k in SHOWN]
            kind = "own" if path.stem == scene.own else "another scene's"
            height, width = shown[0].shape[:2]
            sheet[f"{path.stem}, {kind}"] = [tables.thumbnail(reference, (width, height)), *shown]
            colourfulness = float(np.mean([metrics.colourfulness(picture) for picture in shown]))
            of_reference = metrics.colourfulness(reference)
            found.append(Coloured(scene.name, path.stem, kind, similarity, colourfulness, of_reference))
        if out is not None:
            columns = ["reference", *(f"frame {k}" for k in SHOWN)]
            tables.write_png(out / "sheets" / folder.name / f"{scene.name}.png", tables.sheet(sheet, columns))
    return Table(
        title=f"Legacy: {folder.name}, {len(found)} pairs of scene and reference",
        header=("scene", "reference", "of", "similarity", "colourfulness", "the reference's"),
        rows=[
            [c.scene, c.reference, c.kind, f"{c.similarity:.3f}"]
            + [f"{value:.1f}" for value in (c.colourfulness, c.references_colourfulness)]
            for c in found
        ],
        document={"folder": folder.name, "pairs": [asdict(coloured) for coloured in found]},
        notes=["No truth exists: look at the sheets."],
    )

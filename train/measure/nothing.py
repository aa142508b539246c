"""Colour by references without a match for the frame. The result must still be nearer to the truth than grey.

The second frame of every clip is coloured, without a previous frame, by a plain grey picture (L 50, ab 0) and by an
unrelated photograph of low colour. The same frame left grey is measured too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from train.data.files import IMAGE_SUFFIXES, find, read_image
from train.measure import metrics
from train.measure.alone import colour_alone, stretched
from train.measure.baselines import HEIGHT, WIDTH, Clip, read_clip
from train.measure.scores import to_rgb
from train.measure.tables import Table
from vsexvc.nets.network import ColorizationNet
from vsexvc.session import Session
from vsexvc.support.progress import followed

PHOTOGRAPHS = 5  # photographs of low colour, used in turn, so that no single one decides
PLAIN, PHOTOGRAPH, GREY = "by plain grey", "by a photograph of low colour", "grey"


def plain_grey() -> Tensor:
    """Return plain grey: (1, 3, 216, 384), L 50, no colour."""
    lab = torch.zeros(1, 3, HEIGHT, WIDTH)
    lab[:, 0] = 50.0
    return lab


def least_colourful(folder: Path, count: int = PHOTOGRAPHS) -> list[Path]:
    """List the `count` pictures of the folder with the lowest colourfulness, the lowest first; ties by name.

    Raises:
        OSError: a picture cannot be read. ValueError: there are no pictures.
    """
    paths = find([folder], IMAGE_SUFFIXES)
    if not paths:
        raise ValueError(f"nothing: {folder} must hold pictures, but has none")
    return sorted(paths, key=lambda path: (metrics.colourfulness(read_image(path)), path.name))[:count]


def measure(network: ColorizationNet, clips: Sequence[Path], name: str, photographs: Sequence[Path]) -> Table:
    """Colour the second frame of every clip by references that do not match it.

    Args:
        network: in evaluation mode.
        clips: the video files.
        name: of their folder, for the title.
        photographs: used in turn; none: only the plain grey picture is used.

    Raises:
        OSError: a clip or photograph cannot be read.
    """
    session = Session(network)
    grey = session.reference(plain_grey())
    found: dict[str, list[dict[str, float]]] = {}
    for i, path in enumerate(followed(clips, f"nothing: {name}", " clips", head="train")):
        clip = Clip(path, read_clip(path, 2).rgb[1:])
        L = clip.lab[:, :1]
        results = {GREY: torch.zeros_like(clip.lab[:, 1:]), PLAIN: colour_alone(session, L, grey)["model"]}
        if photographs:
            photograph, _ = stretched(photographs[i % len(photographs)])
            results[PHOTOGRAPH] = colour_alone(session, L, session.reference(photograph.lab))["model"]
        for row, ab in results.items():
            found.setdefault(row, []).append(_figures(clip, ab))
        found.setdefault("truth", []).append({"colourfulness": metrics.colourfulness(clip.rgb[0])})
    return _table(name, clips, photographs, found)


def _figures(clip: Clip, ab: Tensor) -> dict[str, float]:
    (result,) = to_rgb(clip, ab)
    mean, high = metrics.delta_e(result, clip.rgb[0])
    psnr, colourfulness = metrics.psnr(result, clip.rgb[0]), metrics.colourfulness(result)
    return {"psnr": psnr, "delta_e": mean, "delta_e_90": high, "colourfulness": colourfulness}


def _table(
    name: str, clips: Sequence[Path], photographs: Sequence[Path], found: dict[str, list[dict[str, float]]]
) -> Table:
    means = {
        row: {key: float(np.mean([values[key] for values in of_clips])) for key in of_clips[0]}
        for row, of_clips in found.items()
    }
    grey, truth = means[GREY], means["truth"]
    for row in means.values():
        row["of the truth's"] = row["colourfulness"] / max(truth["colourfulness"], 1e-9)
        if "psnr" in row:
            row["over grey"] = row["psnr"] - grey["psnr"]
    formats: dict[str, Callable[[float], str]] = {
        "psnr": "{:.2f}".format, "over grey": "{:+.2f}".format, "delta_e": "{:.2f}".format,
        "delta_e_90": "{:.2f}".format, "colourfulness": "{:.1f}".format, "of the truth's": "{:.0%}".format,
    }  # fmt: skip
    return Table(
        title=f"Nothing to match: {name}, {len(clips)} clips, frame 2",
        header=("result", "dB", "over grey", "CIEDE2000", "90 %", "colourfulness", "of the truth's"),
        rows=[[row, *(show(v[k]) if k in v else "-" for k, show in formats.items())] for row, v in means.items()],
        document={
            "folder": name,
            "clips": [path.name for path in clips],
            "photographs": [path.name for path in photographs],
            "rows": means,
            "per_clip": found,
        },
    )

"""Measure the loss from black borders around the frames; the reference has none.

The first true frame is the reference. The frames from the second on, which has no previous frame, are coloured three
times: plain, with black rows above and below, with black columns on both sides. Only the picture within
the borders is compared with the truth.

Axes: N frames of a clip, H = 216, W = 384.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from train.measure import metrics
from train.measure.baselines import Clip, read_clip
from train.measure.protocol import correspondences
from train.measure.scores import to_rgb
from train.measure.tables import Table
from vsexvc.borders import is_small, zoomed
from vsexvc.nets.network import ColorizationNet
from vsexvc.session import Session, network_size
from vsexvc.support.progress import followed

BORDER = 32  # rows or columns on each side
FRAMES = 12  # frames of each clip: the loss does not depend on their number
_MARGINS = {"plain": (0, 0), "letterbox": (BORDER, 0), "pillarbox": (0, BORDER)}  # rows, columns


@torch.inference_mode()
def colour_within(network: ColorizationNet, clip: Clip, rows: int, columns: int) -> Tensor:
    """Colour the frames from the second on within black borders.

    As in the filter they are resized to the network's size with their borders, or more, where the picture would be
    smaller than the network's size.

    Args:
        network: in evaluation mode.
        clip: the true frames; the first one is the reference, without borders.
        rows: black rows above, and as many below.
        columns: black columns on the left, and as many on the right.

    Returns:
        ab (N - 1, 2, H, W) float32 on the CPU, of the picture alone.
    """
    session = Session(network)
    reference, state = session.reference(clip.lab[:1]), session.start(None)
    framed = F.pad(clip.lab[1:, :1], (columns, columns, rows, rows))
    height, width = framed.shape[2:]
    shorter = min(clip.lab.shape[2:])
    before = network_size(width, height, shorter)
    L = F.interpolate(framed, before, mode="bicubic", antialias=True).clamp(0.0, 100.0)
    if is_small(session.area(L), shorter):
        L = zoomed(framed, before, shorter)(framed).clamp(0.0, 100.0)
    results = []
    for correspondence in correspondences(session, L, reference):
        state, ab = session.step(state, correspondence)
        full = F.interpolate(ab, (height, width), mode="bilinear", antialias=True)
        results.append(full[:, :, rows : height - rows, columns : width - columns].cpu())
    return torch.cat(results).float()


def measure(network: ColorizationNet, clips: Sequence[Path], name: str, *, frames: int = FRAMES) -> Table:
    """Colour every clip plain, letterboxed and pillarboxed.

    Args:
        network: in evaluation mode.
        clips: the video files.
        name: of their folder, for the title.
        frames: of each clip at most.

    Raises:
        OSError: a clip cannot be read.
    """
    found: dict[str, list[list[float]]] = {}
    for path in followed(clips, f"letterbox: {name}", " clips", head="train"):
        clip = read_clip(path, frames)
        for row, margins in _MARGINS.items():
            result = to_rgb(clip, colour_within(network, clip, *margins))
            figures = [(metrics.psnr(r, t), *metrics.delta_e(r, t)) for r, t in zip(result, clip.rgb[1:], strict=True)]
            found.setdefault(row, []).append(np.mean(figures, axis=0).tolist())
    of_clips = {row: np.array(values) for row, values in found.items()}
    losses = {row: of_clips["plain"][:, 0] - values[:, 0] for row, values in of_clips.items()}
    summary = {
        row: dict(zip(("psnr", "delta_e", "delta_e_90"), values.mean(0).tolist(), strict=True))
        | {"loss": float(losses[row].mean()), "worst loss": float(losses[row].max())}
        for row, values in of_clips.items()
    }
    columns = ("psnr", "loss", "worst loss", "delta_e", "delta_e_90")
    return Table(
        title=f"Letterbox: {name}, {len(clips)} clips, {BORDER} black lines on two sides, first {frames} frames",
        header=("frames", "dB", "loss", "worst loss", "CIEDE2000", "90 %"),
        rows=[[row, *(f"{values[column]:.2f}" for column in columns)] for row, values in summary.items()],
        document={
            "folder": name,
            "clips": [path.name for path in clips],
            "frames": frames,
            "rows": summary,
            "per_clip": found,
        },
    )

"""Colour by two references: the first and the last true frame of a clip.

The same is done with one reference alone, and with two that contradict each other: the colours of the last frame are
turned by a third of the circle, so that every pixel must follow one of them, and a mixture is grey.

Axes: N frames of a clip, H = 216, W = 384.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from train.measure import metrics
from train.measure.baselines import Clip, read_clip
from train.measure.scores import to_rgb
from train.measure.tables import Table
from vsexvc.nets.network import ColorizationNet
from vsexvc.schedule import BLOCK
from vsexvc.session import Session
from vsexvc.stretch import Stretch, joined
from vsexvc.support.progress import followed

_COLOURED = 10.0  # least chroma of pixels that are examined
_TURN = 2.0 * np.pi / 3.0


@torch.inference_mode()
def between(network: ColorizationNet, clip: Clip, last: Tensor | None) -> Tensor:
    """Colour the frames between the first and the last one as the filter does with `propagate`.

    Args:
        network: in evaluation mode.
        clip: the true frames; the first one is a reference.
        last: (1, 3, H, W), the reference at the last frame; None: one reference alone.

    Returns:
        ab (N - 2, 2, H, W) float32 on the CPU.
    """
    session, end = Session(network), len(clip.lab) - 1
    references = [session.reference(lab) for lab in (clip.lab[:1], last) if lab is not None]
    places = (0, end)[: len(references)]
    stretch = Stretch(0, tuple(range(len(places))), places, 0, None if last is None else 1)
    area, aligned = session.area(clip.lab[:, :1]), []
    for first in range(0, end, BLOCK):
        block = range(first, min(first + BLOCK, end))
        L = clip.lab[block.start : block.stop, :1]
        aligned += session.correspond(L, references, area, stretch.handicaps(block)[: len(block)])
    state, found = session.start(references[0], area), []
    for one in aligned[1:]:
        state, ab = session.step(state, one)
        found.append(ab)
    if last is not None:
        state = session.start(references[1], area)
        for n in range(end - 1, 0, -1):
            state, ab = session.step(state, aligned[n])
            found[n - 1] = joined(found[n - 1], ab, stretch.nearness(n))
    return torch.cat(found).cpu().float()


def turned(lab: Tensor) -> Tensor:
    """Turn a picture's colours by a third of the circle. lab: (B, 3, H, W)."""
    a, b, cos, sin = lab[:, 1], lab[:, 2], float(np.cos(_TURN)), float(np.sin(_TURN))
    return torch.stack((lab[:, 0], cos * a - sin * b, sin * a + cos * b), dim=1)


def measure(network: ColorizationNet, clips: Sequence[Path], name: str, *, frames: int) -> Table:
    """Colour every clip with one reference, with two, and with two that contradict each other.

    Args:
        network: in evaluation mode.
        clips: the video files.
        name: of their folder, for the title.
        frames: of each clip at most.

    Raises:
        OSError: a clip cannot be read. ValueError: it has fewer than three frames.
    """
    found: dict[str, list[tuple[float, ...]]] = {}
    conflicts: list[tuple[float, float]] = []
    steps: list[float] = []
    for path in followed(clips, f"two references: {name}", " clips", head="train"):
        clip = read_clip(path, frames)
        if len(clip.rgb) < 3:
            raise ValueError(f"ends: {path} must have three frames or more, {len(clip.rgb)} are taken")
        steps.append(float((clip.lab[-1, 1:] - clip.lab[-2, 1:]).norm(dim=0).mean()))
        for row, last in (("one reference", None), ("two references", clip.lab[-1:])):
            found.setdefault(row, []).append(_figures(clip, between(network, clip, last)))
        conflicts.append(_conflict(clip, between(network, clip, turned(clip.lab[-1:]))))
    means = {row: np.mean(values, axis=0).tolist() for row, values in found.items()}
    for values in means.values():  # a ratio of means: the last two frames of a clip may be equal
        values[-1] = values[-1] / np.mean(steps) if any(steps) else math.nan
    chroma, nearer = (np.mean([pair for pair in conflicts if pair[0] == pair[0]] or [(math.nan,) * 2], axis=0)).tolist()
    return Table(
        title=f"Two references: {name}, {len(clips)} clips",
        header=("", "dB", "worst frame", "CIEDE2000", "90 %", "jump at the end over the truth's"),
        rows=[[row, *(f"{value:.2f}" for value in values)] for row, values in means.items()],
        document={
            "folder": name,
            "clips": [path.name for path in clips],
            "rows": means,
            "contradiction": {"chroma": chroma, "nearer": nearer},
            "per_clip": found | {"contradiction": conflicts},
        },
        notes=[
            f"References that contradict each other: chroma {chroma:.2f} of that which is followed, "
            f"{nearer:.0%} of the pixels follow the nearer one."
        ],
    )


def _figures(clip: Clip, ab: Tensor) -> tuple[float, ...]:
    """Return dB, mean and worst frame; CIEDE2000, mean and 90 %; mean change of ab to the true end."""
    between_ends = Clip(clip.path, clip.rgb[1:-1])
    pairs = zip(to_rgb(between_ends, ab), between_ends.rgb, strict=True)
    each = np.array([(metrics.psnr(result, true), *metrics.delta_e(result, true)) for result, true in pairs])
    decibels, *delta_e = each.mean(0).tolist()
    jump = float((clip.lab[-1, 1:] - ab[-1]).norm(dim=0).mean())
    return decibels, float(each[:, 0].min()), *delta_e, jump


def _conflict(clip: Clip, ab: Tensor) -> tuple[float, float]:
    """Return the chroma over that of the followed colour, and the share of pixels that follow the nearer reference.

    Both are nan for a grey clip.
    """
    truth, other = clip.lab[1:-1, 1:], turned(clip.lab[1:-1])[:, 1:]
    coloured = truth.norm(dim=1) > _COLOURED
    follows_first = (ab - truth).norm(dim=1) <= (ab - other).norm(dim=1)
    chroma = ab.norm(dim=1)[coloured].mean() / truth.norm(dim=1)[coloured].mean()
    number = torch.arange(1, len(ab) + 1).view(-1, 1, 1)
    is_first_nearer = number.mul(2) <= len(ab) + 1
    return float(chroma), float((follows_first == is_first_nearer)[coloured].float().mean())

"""Play a clip forward and backward several times. Frame 0 is the reference, and should return unchanged.

Propagation: the first true frame is the reference and the frame before the second. A round of N frames is frames
1..N-1, then N-2..0: 78 frames for a clip of 40. Later passes of a frame show what it loses.
A reference of another scene, the next clip's first frame, has no truth. There the measure is the change of the colours
from the first round to the last one.

Axes: N frames of a clip, H = 216, W = 384.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from train.measure import metrics
from train.measure.baselines import Clip, read_clip
from train.measure.protocol import correspondences
from train.measure.scores import to_rgb
from train.measure.tables import Table
from vsexvc.nets.network import ColorizationNet
from vsexvc.session import Session
from vsexvc.support.progress import followed

_FIGURES = ("psnr", "delta_e", "delta_e_90")


def course(count: int) -> list[int]:
    """Return the frames of one round in order. Frame 0 precedes them and is also the last."""
    return [*range(1, count), *range(count - 2, -1, -1)]


@torch.inference_mode()
def play(network: ColorizationNet, clip: Clip, reference: Clip, *, rounds: int, propagate: bool) -> Iterator[Tensor]:
    """Colour the clip forward and backward.

    Args:
        network: in evaluation mode.
        clip: the true frames.
        reference: clip whose first frame is the reference.
        rounds: number of rounds.
        propagate: whether the reference is the previous frame of frame 1. Else frame 0 is coloured first, without a
            previous frame.

    Yields:
        ab (1, 2, H, W) float32 on the CPU of each frame of `course`, round by round.
    """
    session = Session(network)
    prepared = session.reference(reference.lab[:1])
    aligned = list(correspondences(session, clip.lab[:, :1], prepared))
    state = session.start(prepared if propagate else None, session.area(clip.lab[:, :1]))
    if not propagate:
        state, _ = session.step(state, aligned[0])
    for _ in range(rounds):
        for k in course(len(aligned)):
            state, ab = session.step(state, aligned[k])
            yield ab.cpu().float()


def measure(network: ColorizationNet, clips: Sequence[Path], name: str, *, frames: int, rounds: int = 1) -> Table:
    """Play every clip forward and backward, `rounds` times.

    Args:
        network: in evaluation mode.
        clips: the video files.
        name: of their folder, for the title.
        frames: of each clip at most.
        rounds: number of rounds; with 2 or more the change of the colours is measured too.

    Raises:
        OSError: a clip cannot be read.
    """
    found: dict[str, list[dict[str, float]]] = {}
    changes: dict[str, list[float]] = {}
    for i, path in enumerate(followed(clips, f"there and back: {name}", " clips", head="train")):
        clip = read_clip(path, frames)
        results = play(network, clip, clip, rounds=rounds, propagate=True)
        figures, change = _rounds(clip, results, rounds)
        for row, values in figures.items():
            found.setdefault(row, []).append(values)
        if rounds > 1:
            changes.setdefault("own", []).append(change)
        if rounds > 1 and len(clips) > 1:
            other = read_clip(clips[(i + 1) % len(clips)], 2)
            results = play(network, clip, other, rounds=rounds, propagate=False)
            changes.setdefault("foreign", []).append(_rounds(clip, results, rounds)[1])
    return _table(name, clips, found, changes, rounds)


def _rounds(clip: Clip, results: Iterator[Tensor], rounds: int) -> tuple[dict[str, dict[str, float]], float]:
    """Return the figures of the shown frames, and the mean change of ab from the first round to the last."""
    order, figures = course(len(clip.rgb)), {}
    first: list[Tensor] = []
    changes: list[float] = []
    for number, ab in enumerate(results):
        turn, position = divmod(number, len(order))
        k = order[position]
        if turn == 0 and rounds > 1:
            first.append(ab)
        elif turn == rounds - 1 and rounds > 1:
            changes.append(float((ab - first[position]).norm(dim=1).mean()))
        if number == 0:
            figures["frame 1, forward"] = _figures(clip, k, ab)
        if k == len(clip.rgb) - 1:
            figures[f"farthest frame, round {turn + 1}"] = _figures(clip, k, ab)
        if k == 0:
            figures[f"frame 0 returns, round {turn + 1}"] = _figures(clip, k, ab)
    return figures, float(np.mean(changes)) if changes else float("nan")


def _figures(clip: Clip, k: int, ab: Tensor) -> dict[str, float]:
    frame = Clip(clip.path, clip.rgb[k : k + 1])
    (result,) = to_rgb(frame, ab)
    values = metrics.psnr(result, frame.rgb[0]), *metrics.delta_e(result, frame.rgb[0])
    return dict(zip(_FIGURES, values, strict=True))


def _table(
    name: str,
    clips: Sequence[Path],
    found: dict[str, list[dict[str, float]]],
    changes: dict[str, list[float]],
    rounds: int,
) -> Table:
    means = {row: {key: float(np.mean([v[key] for v in values])) for key in _FIGURES} for row, values in found.items()}
    lowest = {row: min(v["psnr"] for v in values) for row, values in found.items()}
    rows = [[row, f"{m['psnr']:.2f}", f"{lowest[row]:.2f}", f"{m['delta_e']:.2f}", f"{m['delta_e_90']:.2f}"]
            for row, m in means.items()]  # fmt: skip
    mean_changes = {of: float(np.mean(values)) for of, values in changes.items()}
    said = {"own": "the first true frame", "foreign": "the next clip's first frame"}
    return Table(
        title=f"There and back: {name}, {len(clips)} clips, {rounds} round{'s' if rounds > 1 else ''}",
        header=("frame", "dB", "worst clip", "CIEDE2000", "90 %"),
        rows=rows,
        document={
            "folder": name,
            "clips": [path.name for path in clips],
            "rounds": rounds,
            "rows": means,
            "changes": mean_changes,
            "per_clip": found | {f"change, {of}": values for of, values in changes.items()},
        },
        notes=[
            f"Mean change of ab from round 1 to {rounds} by {said[of]}: {mean:.2f}."
            for of, mean in mean_changes.items()
        ],
    )

"""Measure precision for scripts/bench.py: ab of each backend and precision against fp32, one step and fed back."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scripts.bench_measure import Row, candidates, pictures
from vsexvc.backends import prepare
from vsexvc.backends.options import ComputeOptions
from vsexvc.schedule import BLOCK
from vsexvc.session import Session, State
from vsexvc.weights import store

FED_BACK = 100  # frames
PEAK = 255.0  # of the PSNR of ab: the span of a and b


def precision_rows(options: argparse.Namespace) -> list[Row]:
    """Compare the model, prepared in each way, with itself in fp32.

    One step: both see the same previous frame, the one of fp32. Fed back: each sees its own, over FED_BACK frames of
    each clip, played forth and back; the loss of PSNR to the truth, mean over frames and clips (8-bit RGB).
    """
    network = store.load(options.model, options.device)
    exact = Session(network)
    ways = {c.name: c for c in candidates(options.device) if not c.why}
    fast = {
        name: Session(prepare.prepared(network, ComputeOptions(c.backend, c.precision))) for name, c in ways.items()
    }
    found: dict[str, list[float]] = {name: [] for name in fast}
    lost: dict[str, list[tuple[float, float]]] = {name: [] for name in fast}
    for lab, rgb in clips_of(options):
        outputs: dict[str, list[Tensor]] = {name: [] for name in ("", *fast)}
        references = {name: session.reference(lab[:1]) for name, session in (fast | {"": exact}).items()}
        area = exact.area(lab[1:, :1])
        own = {name: exact.start(reference, area) for name, reference in references.items()}
        for block in lab[1:, :1].split(BLOCK):
            aligned = {name: s.correspond(block, references[name], area) for name, s in (fast | {"": exact}).items()}
            for i in range(len(block)):
                same: State = own[""]
                own[""], expected = exact.step(same, aligned[""][i])
                outputs[""].append(expected)
                for name, session in fast.items():
                    found[name].append(psnr(session.step(same, aligned[name][i])[1], expected))
                    own[name], ab = session.step(own[name], aligned[name][i])
                    outputs[name].append(ab)
        if rgb is not None:
            best = truth_psnr(lab, rgb, outputs[""])
            for name in fast:
                theirs = best - truth_psnr(lab, rgb, outputs[name])
                lost[name].append((float(theirs.mean()), float(theirs[-10:].mean())))
    return [
        {
            "backend": name,
            "one step, dB of ab": float(np.mean(found[name])),
            "lowest": min(found[name]),
            "frames": len(found[name]),
            "fed back, dB to the truth lost": float(np.mean(lost[name], axis=0)[0]) if lost[name] else None,
            "of the last 10": float(np.mean(lost[name], axis=0)[1]) if lost[name] else None,
            "most of a clip": max(lost[name])[0] if lost[name] else None,
        }
        for name in fast
    ]


def clips_of(options: argparse.Namespace) -> Iterator[tuple[Tensor, Any]]:
    """Return Lab (N, 3, H, W) on the CPU, and its true frames (N, H, W, 3) uint8; made pictures have none."""
    if options.clips is None:
        width, height = options.inside
        yield pictures(2 * BLOCK + 1, height, width, torch.device("cpu"))[1], None
        return
    from train.measure.baselines import clip_paths, read_clip

    for path in clip_paths(options.clips, None if options.long else 2):
        clip = read_clip(path, FED_BACK + 1)
        count = len(clip.rgb)
        order = [min(i, 2 * (count - 1) - i) for i in (j % (2 * (count - 1)) for j in range(FED_BACK + 1))]
        yield clip.lab[order], clip.rgb[order]


def psnr(ab: Tensor, expected: Tensor) -> float:
    mean = float((ab - expected).double().square().mean())
    return 10.0 * float(np.log10(PEAK**2 / max(mean, 1e-6)))


def truth_psnr(lab: Tensor, rgb: Any, outputs: list[Tensor]) -> Any:
    from train.measure import metrics
    from train.measure.baselines import Clip
    from train.measure.scores import to_rgb

    clip = Clip(Path(), rgb)
    clip.__dict__["lab"] = lab  # what it would compute
    made = to_rgb(clip, torch.cat(outputs).float().cpu())
    return np.array([metrics.psnr(result, truth) for result, truth in zip(made, rgb[1:], strict=True)])

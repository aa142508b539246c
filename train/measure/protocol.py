"""Measure propagation of the first frame's colours on true clips, and compare it with baselines.

The protocol is fixed, so that figures can be compared. Every clip is stretched to 384x216 by area; at most its first 40
frames are used. The first true frame is the reference, and the previous frame of the second. L is the truth's. PSNR is
that of 8-bit RGB, from the second frame on, averaged over frames, then over clips; "last" is the last evaluated frame.
metrics.py defines the figures, scores.py averages them, baselines.py has the baselines, tables.py and sheets.py draw.
The network is used through vsexvc.session, as in the filter.

Axes: N frames of a clip, H = 216, W = 384, 3 = (R, G, B) or (L, a, b).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from train.measure import metrics, tables
from train.measure.baselines import BASELINES, FRAMES, Clip, clip_paths, read_clip
from train.measure.scores import Score, psnr_by_frame, score, summarise, to_rgb
from train.measure.sheets import Sheets, shown_frames
from vsexvc.colour.lab import centred
from vsexvc.nets.config import CELL
from vsexvc.nets.features import feature_input
from vsexvc.nets.network import ColorizationNet
from vsexvc.session import Correspondence, Reference, Session
from vsexvc.support.progress import followed

_BLOCK = 8  # frames whose correspondence is computed at once
_ROWS = 512  # positions whose nearest neighbours are found at once
RAW = "nearest neighbour, raw features"
ZEROED = "model, previous zeroed"
_BASELINES_VERSION = 2  # raise it when a baseline or a measure changes, so that cached figures are made again


# --- the network -----------------------------------------------------------------------------------------------------


@torch.inference_mode()
def correspondences(session: Session, L: Tensor, reference: Reference) -> Iterator[Correspondence]:
    """Yield each frame's correspondence. L: (N, 1, H, W) float32, 0..100, of one scene."""
    area = session.area(L)
    for block in L.split(_BLOCK):
        yield from session.correspond(block, reference, area)


def warped_colour(network: ColorizationNet, correspondence: Correspondence) -> Tensor:
    """Return the warped colour, (1, 2, H, W) on the CPU, upsampled from 1/4 size at least bilinearly."""
    warped = correspondence.warped_ab
    if network.config.warp_upsampling == "nearest":
        warped = F.interpolate(F.avg_pool2d(warped, 4), size=warped.shape[2:], mode="bilinear")
    return warped.cpu()


@torch.inference_mode()
def propagate(network: ColorizationNet, clip: Clip, *, zeroed: bool = False) -> dict[str, Tensor]:
    """Colour a clip with the first true frame as the reference.

    Returns:
        "warped colour" and "model", and with `zeroed` also ZEROED: ab (N - 1, 2, H, W) on the CPU.
    """
    session, lab = Session(network), clip.lab
    reference = session.reference(lab[:1])
    state, nothing = session.start(reference, session.area(lab[1:, :1])), session.start(None)
    results: dict[str, list[Tensor]] = {}
    for correspondence in correspondences(session, lab[1:, :1], reference):
        results.setdefault("warped colour", []).append(warped_colour(network, correspondence))
        state, ab = session.step(state, correspondence)
        results.setdefault("model", []).append(ab.cpu())
        if zeroed:
            results.setdefault(ZEROED, []).append(session.step(nothing, correspondence)[1].cpu())
    return {name: torch.cat(frames).float() for name, frames in results.items()}


@torch.inference_mode()
def nearest_colour(network: ColorizationNet, clip: Clip) -> Tensor:
    """Return the warped colour without a learned correspondence, for Figure 4's comparison.

    Each position of 1/4 size takes the first true frame's colour where the feature net's own features are nearest.

    Returns:
        ab (N - 1, 2, H, W) on the CPU.
    """
    keys = _raw_features(network, clip.lab[:1], is_reference=True)[0].T.contiguous()
    colours = F.avg_pool2d(clip.lab[:1, 1:], CELL)[0].flatten(1)
    h, w = (side // CELL for side in clip.lab.shape[2:])
    results = []
    for block in clip.lab[1:].split(_BLOCK):
        for queries in _raw_features(network, block, is_reference=False):
            nearest = torch.cat([(rows @ keys).max(1).indices for rows in queries.split(_ROWS)]).cpu()
            results.append(colours[:, nearest].view(1, 2, h, w))
    return F.interpolate(torch.cat(results), scale_factor=CELL, mode="bilinear")


def _raw_features(network: ColorizationNet, lab: Tensor, *, is_reference: bool) -> Tensor:
    """Return the four levels at 1/4 size, each normalised, as unit vectors from their mean (eq. 3): (B, h * w, C)."""
    lab = centred(lab).to(next(network.parameters()).device)
    levels = network.features(feature_input(lab, network.config.features_input, is_reference))
    half, quarter, eighth, sixteenth = (F.normalize(level, dim=1) for level in levels)
    h, w = quarter.shape[2:]
    sixteenth = F.interpolate(sixteenth, scale_factor=4, mode="bilinear")
    rest = (0, w - sixteenth.shape[3], 0, h - sixteenth.shape[2])  # where 16 does not divide the size
    sixteenth = F.pad(sixteenth, rest, mode="replicate")
    eighth = F.interpolate(eighth, scale_factor=2, mode="bilinear")
    x = torch.cat((F.avg_pool2d(half, 2), quarter, eighth, sixteenth), dim=1).flatten(2)
    return F.normalize(x - x.mean(2, keepdim=True), dim=1).transpose(1, 2).contiguous()


@dataclass(frozen=True)
class Foreign:
    """Hold the figures of one clip coloured by another clip's first frame, without a previous frame.

    Attributes:
        to_warped, to_truth: distances of the output's mean ab from that of the warped colours and from that of the
            truth.
        colourfulness, reference_colourfulness: mean of the output's frames; that of the foreign frame.
        flicker, true_flicker: mean over adjacent frames, of the output and of the truth.
        left_grey: share with chroma below 5 among pixels of similarity >= 0.8 and warped chroma >= 15; None: there
            are no such pixels.
    """

    to_warped: float
    to_truth: float
    colourfulness: float
    reference_colourfulness: float
    flicker: float
    true_flicker: float
    left_grey: float | None


@torch.inference_mode()
def colour_foreign(network: ColorizationNet, clip: Clip, other: Clip) -> tuple[Foreign, Tensor, Tensor]:
    """Colour a clip by another; return also the output and the warped colours, ab (N, 2, H, W) on the CPU."""
    session = Session(network)
    reference, state = session.reference(other.lab[:1]), session.start(None)
    outputs, warps, similarities = [], [], []
    for correspondence in correspondences(session, clip.lab[:, :1], reference):
        state, ab = session.step(state, correspondence)
        outputs.append(ab.cpu())
        warps.append(warped_colour(network, correspondence))
        similarities.append(correspondence.similarity.cpu())
    output, warped, similarity = torch.cat(outputs).float(), torch.cat(warps).float(), torch.cat(similarities).float()

    def distance(target: Tensor) -> float:
        return float((output.mean((0, 2, 3)) - target.mean((0, 2, 3))).norm())

    def flicker(ab: Tensor) -> float:
        planes = ab.permute(0, 2, 3, 1).numpy()
        pairs = zip(planes[:-1], planes[1:], clip.motion, strict=True)
        return float(np.nanmean([metrics.flicker(previous, current, *motion) for previous, current, motion in pairs]))

    sure = (similarity[:, 0] >= 0.8) & (warped.norm(dim=1) >= 15.0)
    result = Foreign(
        to_warped=distance(warped),
        to_truth=distance(clip.lab[:, 1:]),
        colourfulness=float(np.mean([metrics.colourfulness(p) for p in to_rgb(clip, output)])),
        reference_colourfulness=metrics.colourfulness(other.rgb[0]),
        flicker=flicker(output),
        true_flicker=flicker(clip.lab[:, 1:]),
        left_grey=float((output.norm(dim=1)[sure] < 5.0).float().mean()) if sure.any() else None,
    )
    return result, output, warped


def summarise_foreign(results: list[Foreign]) -> dict[str, float]:
    """Summarise. nearer: share of clips that follow the reference and not the truth; ratios are of means over clips."""
    grey_shares = [r.left_grey for r in results if r.left_grey is not None]
    return {
        "nearer": float(np.mean([r.to_warped < r.to_truth for r in results])),
        "colourfulness / reference": sum(r.colourfulness for r in results)
        / max(sum(r.reference_colourfulness for r in results), 1e-9),
        "flicker / truth": sum(r.flicker for r in results) / max(sum(r.true_flicker for r in results), 1e-9),
        "left grey": float(np.mean(grey_shares)) if grey_shares else float("nan"),
    }


def run(network: ColorizationNet, folder: Path, *, limit: int | None = None, frames: int = FRAMES) -> dict[str, float]:
    """Compute the quick figures for validation while training: no baselines, no flow, no files.

    Returns:
        As in the protocol: dB, "warped" (the warped colour alone), "model", "last" (the model's last frame); CIEDE2000
        of the model, "delta_e" and "delta_e_90".
    """
    training = network.training
    network.eval()
    names = {"warped": "warped colour", "model": "model"}
    found: dict[str, list[list[float]]] = {short: [] for short in names}
    delta_e: list[tuple[float, float]] = []
    try:
        for path in clip_paths(Path(folder), limit):
            clip = read_clip(path, frames)
            results = propagate(network, clip)
            pictures = {short: to_rgb(clip, results[name]) for short, name in names.items()}
            for short, shown in pictures.items():
                found[short].append([metrics.psnr(*pair) for pair in zip(shown, clip.rgb[1:], strict=True)])
            each = [metrics.delta_e(*pair) for pair in zip(pictures["model"], clip.rgb[1:], strict=True)]
            delta_e.append(tuple(np.mean(each, axis=0).tolist()))
    finally:
        network.train(training)
    means = {short: float(np.mean([np.mean(values) for values in clips])) for short, clips in found.items()}
    means["last"] = float(np.mean([values[-1] for values in found["model"]]))
    return means | dict(zip(("delta_e", "delta_e_90"), np.mean(delta_e, axis=0).tolist(), strict=True))


# --- one folder ------------------------------------------------------------------------------------------------------


@dataclass
class Evaluation:
    """Collect the figures of one folder, clip by clip."""

    folder: str
    clips: list[str] = field(default_factory=list)
    scores: dict[str, list[Score]] = field(default_factory=dict)
    foreign: list[Foreign] = field(default_factory=list)

    def as_json(self) -> dict[str, object]:
        return {
            "folder": self.folder,
            "clips": self.clips,
            "rows": {name: summarise(of_clips) for name, of_clips in self.scores.items()},
            "psnr_by_frame": {name: psnr_by_frame(of_clips) for name, of_clips in self.scores.items()},
            "per_clip": {name: [summarise([s]) for s in of_clips] for name, of_clips in self.scores.items()},
            "foreign": summarise_foreign(self.foreign) if self.foreign else None,
            "foreign_per_clip": [asdict(f) for f in self.foreign],
        }

    def as_markdown(self) -> str:
        header = ("method", "dB", "last", "CIEDE2000", "90 %", "SSIM", "colourfulness", "flicker", "CDC")
        rows = []
        for name, of_clips in self.scores.items():
            s = summarise(of_clips)
            first = [f"{s[key]:.2f}" for key in ("psnr", "last", "delta_e", "delta_e_90")] + [f"{s['ssim']:.4f}"]
            first = first if name != "truth" else ["-"] * len(first)
            rows.append([name, *first, f"{s['colourfulness']:.1f}", f"{s['flicker']:.3f}", f"{s['cdc']:.5f}"])
        text = f"### {self.folder}, {len(self.clips)} clips\n\n{tables.table(header, rows)}"
        curves = {name: psnr_by_frame(of_clips) for name, of_clips in self.scores.items() if name != "truth"}
        shown = [n for n in (2, 3, 5, 10, 20, 30, 40) if n - 2 < min(map(len, curves.values()))]
        by_frame = [[name, *(f"{curve[n - 2]:.1f}" for n in shown)] for name, curve in curves.items()]
        text += f"\n\n{tables.table(['dB at frame', *map(str, shown)], by_frame)}"
        if not self.foreign:
            return text
        f = summarise_foreign(self.foreign)
        return text + (
            f"\n\nForeign reference (the next clip's first frame): the exemplar decides on {f['nearer']:.0%} of clips; "
            f"colourfulness {f['colourfulness / reference']:.2f} x the references', "
            f"flicker {f['flicker / truth']:.2f} x the truth's, "
            f"pixels left grey where the match is sure and colourful {f['left grey']:.1%}."
        )


def evaluate_folder(
    network: ColorizationNet | None,
    folder: Path,
    *,
    frames: int = FRAMES,
    limit: int | None = None,
    every: int = 1,
    out: Path | None = None,
    cache: Path | None = None,
    brief: bool = False,
) -> Evaluation:
    """Measure one folder of clips.

    Args:
        network: in evaluation mode; None: baselines only.
        folder: holds the clips.
        frames: of each clip at most.
        limit: only so many clips, the first.
        every: step through the clips, by name.
        out: folder for the plot and the contact sheets; None: none is written.
        cache: folder of the baselines' figures, which are used again for the same clips; None: "baselines" in `out`.
        brief: leave out RAW and ZEROED.

    Raises:
        ValueError: there are no clips. OSError: a clip cannot be read, or a file cannot be written.
    """
    paths = clip_paths(folder, limit, every)
    cache = out / "baselines" if cache is None and out is not None else cache
    result, sheets = Evaluation(folder.name), Sheets(out, folder.name)
    for i, path in enumerate(followed(paths, folder.name, " clips", head="train")):
        clip = read_clip(path, frames)
        shown = shown_frames(clip)
        figures, flow_pictures = _baselines(clip, shown, cache)
        if network is not None:
            results = {} if brief else {RAW: nearest_colour(network, clip)}
            results |= propagate(network, clip, zeroed=not brief)
            figures |= {name: score(clip, ab) for name, ab in results.items()}
            sheets.add(clip, shown, {name: ab for name, ab in results.items() if name != ZEROED}, flow_pictures)
            if len(paths) > 1:
                other = read_clip(paths[(i + 1) % len(paths)], 2)
                found, output, warped = colour_foreign(network, clip, other)
                result.foreign.append(found)
                sheets.add_foreign(clip, shown, other, output, warped)
        result.clips.append(path.name)
        for name, figure in figures.items():
            result.scores.setdefault(name, []).append(figure)
    lines = {name: psnr_by_frame(of_clips) for name, of_clips in result.scores.items() if name != "truth"}
    sheets.finish(lines, f"{folder.name}, {len(paths)} clips: PSNR (dB) by frame number")
    return result


def _baselines(clip: Clip, shown: list[int], folder: Path | None) -> tuple[dict[str, Score], list[tables.Picture]]:
    """Return the scores of every baseline, and optical flow's frames `shown` (from 0); both are kept in `folder`."""
    key = hashlib.sha256(clip.path.read_bytes())
    key.update(f"{len(clip.rgb)} {cv2.__version__} {_BASELINES_VERSION}".encode())
    cache = None if folder is None else folder / f"{key.hexdigest()[:24]}.npz"
    if cache is not None and cache.exists():
        with np.load(cache) as stored:
            scores = {name: Score(**values) for name, values in json.loads(str(stored["scores"])).items()}
            return scores, list(stored["pictures"])
    results = {name: method(clip) for name, method in BASELINES.items()}
    scores = {name: score(clip, ab) for name, ab in results.items()}
    pictures = to_rgb(clip, results["optical flow"])[[k - 1 for k in shown]]
    if cache is not None:
        cache.parent.mkdir(parents=True, exist_ok=True)
        unfinished = cache.with_suffix(".part.npz")
        text = json.dumps({name: asdict(s) for name, s in scores.items()})
        np.savez(unfinished, scores=np.array(text), pictures=pictures)
        unfinished.replace(cache)
    return scores, list(pictures)

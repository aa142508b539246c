"""Propagation on true clips: how far the colours of the first frame carry, beside baselines that learn nothing.

The protocol, fixed so that figures compare: every clip stretched to 384x216 by area, at most its first 40 frames, the
first true frame as the reference and as the previous frame of the second, L from the truth, 8-bit RGB PSNR of each
frame from the second on, mean over frames, then over clips; "last" is the last evaluated frame. What a measure means
stands in metrics.py, the yardsticks in baselines.py, drawing in tables.py; the network is used as anybody uses it,
through vsexvc.session.

Axes: N frames of a clip, H = 216, W = 384, 3 = (R, G, B) or (L, a, b).
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from train.measure import metrics, tables
from train.measure.baselines import BASELINES, FRAMES, Clip, clip_paths, grey, read_clip, truth
from vsexvc.colour.lab import centred, lab_to_rgb
from vsexvc.nets.config import CELL
from vsexvc.nets.features import feature_input
from vsexvc.nets.network import ColorizationNet
from vsexvc.session import Correspondence, Reference, Session
from vsexvc.weights import store

_BLOCK = 8  # frames whose correspondence is found at once
_ROWS = 512  # positions whose nearest neighbours are found at once
RAW = "nearest neighbour, raw features"
ZEROED = "model, previous zeroed"
_BASELINES_VERSION = 2  # raise it when a baseline or a measure changes: cached figures are then made anew


# --- scores ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Score:
    """One method on one clip, frames from the second on.

    Attributes:
        psnr, ssim, colourfulness: one value per frame.
        delta_e, delta_e_90: CIEDE2000, mean and 90th percentile over the pixels, one value per frame.
        flicker: one per pair of adjacent frames (none for a clip of two frames, none where all is occluded).
        cdc: one for the clip.
    """

    psnr: list[float]
    delta_e: list[float]
    delta_e_90: list[float]
    ssim: list[float]
    colourfulness: list[float]
    flicker: list[float]
    cdc: float


def to_rgb(clip: Clip, ab: Tensor) -> NDArray[np.uint8]:
    """ab of the last N' frames of the clip, (N', 2, H, W), under the true L -> (N', H, W, 3) uint8."""
    rgb = lab_to_rgb(torch.cat((clip.lab[-len(ab) :, :1], ab), dim=1))
    return (rgb * 255.0).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def score(clip: Clip, ab: Tensor) -> Score:
    """ab: (N - 1, 2, H, W) float32, -128..127, of every frame from the second on."""
    result, truth = to_rgb(clip, ab), clip.rgb[1:]
    planes = ab.permute(0, 2, 3, 1).numpy()
    pairs = zip(planes[:-1], planes[1:], clip.motion[1:], strict=True)
    changes = [metrics.flicker(previous, current, *motion) for previous, current, motion in pairs]
    differences = [metrics.delta_e(r, t) for r, t in zip(result, truth, strict=True)]
    return Score(
        psnr=[metrics.psnr(r, t) for r, t in zip(result, truth, strict=True)],
        delta_e=[mean for mean, _ in differences],
        delta_e_90=[high for _, high in differences],
        ssim=[metrics.ssim(r, t) for r, t in zip(result, truth, strict=True)],
        colourfulness=[metrics.colourfulness(r) for r in result],
        flicker=[change for change in changes if change == change],  # nan: no pixel without occlusion
        cdc=metrics.cdc(result),
    )


def summarise(scores: list[Score]) -> dict[str, float]:
    """Mean over frames, then over clips."""

    def mean(values: list[float]) -> float:
        return float(np.mean(values)) if values else float("nan")

    return {
        "psnr": mean([mean(s.psnr) for s in scores]),
        "last": mean([s.psnr[-1] for s in scores]),
        "delta_e": mean([mean(s.delta_e) for s in scores]),
        "delta_e_90": mean([mean(s.delta_e_90) for s in scores]),
        "ssim": mean([mean(s.ssim) for s in scores]),
        "colourfulness": mean([mean(s.colourfulness) for s in scores]),
        "flicker": mean([mean(s.flicker) for s in scores if s.flicker]),
        "cdc": mean([s.cdc for s in scores]),
    }


def psnr_by_frame(scores: list[Score]) -> list[float]:
    """Entry k: frame k + 2 (counted from 1), mean over the clips that reach it."""
    longest = max(len(s.psnr) for s in scores)
    return [float(np.mean([s.psnr[k] for s in scores if k < len(s.psnr)])) for k in range(longest)]


# --- the network -----------------------------------------------------------------------------------------------------


@torch.inference_mode()
def correspondences(session: Session, L: Tensor, reference: Reference) -> Iterator[Correspondence]:
    """L: (N, 1, H, W) float32, 0..100, of one scene."""
    area = session.area(L)
    for block in L.split(_BLOCK):
        yield from session.correspond(block, reference, area)


def warped_colour(network: ColorizationNet, correspondence: Correspondence) -> Tensor:
    """(1, 2, H, W) on the CPU: the warped colour, up from 1/4 size bilinearly whatever the network does."""
    warped = correspondence.warped_ab
    if network.config.warp_upsampling == "nearest":
        warped = F.interpolate(F.avg_pool2d(warped, 4), size=warped.shape[2:], mode="bilinear")
    return warped.cpu()


@torch.inference_mode()
def propagate(network: ColorizationNet, clip: Clip, *, zeroed: bool = False) -> dict[str, Tensor]:
    """The network on the first true frame as the reference.

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
    """Figure 4's comparison: the warped colour without a learned correspondence.

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
    """The four levels, each of unit length, at 1/4 size; unit vectors from their mean as in eq. 3: (B, h * w, C)."""
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
    """One clip coloured by another clip's first frame, from nothing (no previous frame before the first).

    Attributes:
        to_warped, to_truth: distance of the output's mean ab from that of the warped colours and of the truth.
        colourfulness, reference_colourfulness: mean over the output's frames; the foreign frame.
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
    """Returns also the output and the warped colours, ab (N, 2, H, W) on the CPU."""
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
    """nearer: share of clips on which the exemplar decides; ratios are means over clips divided by each other."""
    grey_shares = [r.left_grey for r in results if r.left_grey is not None]
    return {
        "nearer": float(np.mean([r.to_warped < r.to_truth for r in results])),
        "colourfulness / reference": sum(r.colourfulness for r in results)
        / max(sum(r.reference_colourfulness for r in results), 1e-9),
        "flicker / truth": sum(r.flicker for r in results) / max(sum(r.true_flicker for r in results), 1e-9),
        "left grey": float(np.mean(grey_shares)) if grey_shares else float("nan"),
    }


def run(network: ColorizationNet, folder: Path, *, limit: int | None = None, frames: int = FRAMES) -> dict[str, float]:
    """The quick figures for validation while training: no baselines, no flow, no files.

    Returns:
        dB as in the protocol: "warped" (the warped colour alone), "model", "last" (the model's last frame).
    """
    training = network.training
    network.eval()
    found: dict[str, list[list[float]]] = {"warped": [], "model": []}
    try:
        for path in clip_paths(Path(folder), limit):
            clip = read_clip(path, frames)
            results = propagate(network, clip)
            for short, name in (("warped", "warped colour"), ("model", "model")):
                pictures = zip(to_rgb(clip, results[name]), clip.rgb[1:], strict=True)
                found[short].append([metrics.psnr(result, true) for result, true in pictures])
    finally:
        network.train(training)
    means = {short: float(np.mean([np.mean(values) for values in clips])) for short, clips in found.items()}
    return means | {"last": float(np.mean([values[-1] for values in found["model"]]))}


# --- one folder ------------------------------------------------------------------------------------------------------


@dataclass
class Evaluation:
    """What was found on one folder; grows clip by clip."""

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
    """Everything about one folder of clips.

    Args:
        network: in evaluation mode; None: only what learns nothing.
        folder: holds the clips.
        frames: of each clip at most.
        limit: only the first clips by name.
        every: only every such clip by name.
        out: folder for the plot and the contact sheets; None: none is written.
        cache: folder of the baselines' figures, which are taken from there when they were made before from the same
            clips; None: "baselines" in `out`.
        brief: without RAW and ZEROED.

    Raises:
        ValueError: no clips. OSError: a clip cannot be read, a file not written.
    """
    paths = clip_paths(folder, limit, every)
    cache = out / "baselines" if cache is None and out is not None else cache
    result = Evaluation(folder.name)
    overview: dict[str, list[tables.Picture]] = {}
    for i, path in enumerate(tqdm(paths, desc=folder.name, unit="clip", disable=None)):
        clip = read_clip(path, frames)
        shown = sorted({round(k) for k in np.linspace(1, len(clip.rgb) - 1, 4)})  # the frames of the contact sheets
        figures, flow_pictures = _baselines(clip, shown, cache)
        if network is not None:
            results = {} if brief else {RAW: nearest_colour(network, clip)}
            results |= propagate(network, clip, zeroed=not brief)
            figures |= {name: score(clip, ab) for name, ab in results.items()}
            pictures = {"truth": truth(clip), "grey": grey(clip)}
            pictures |= {name: ab for name, ab in results.items() if name != ZEROED}
            sheet = {name: [to_rgb(clip, ab)[k - 1] for k in shown] for name, ab in pictures.items()}
            sheet["optical flow"] = flow_pictures
            _write_sheet(out, folder, path.stem, sheet, shown)
            row = {name: sheet[name][-1] for name in ("truth", "warped colour", "model", "optical flow")}
            if len(paths) > 1:
                other = read_clip(paths[(i + 1) % len(paths)], 2)
                found, output, warped = colour_foreign(network, clip, other)
                result.foreign.append(found)
                sheet = {"reference": [other.rgb[0]] * len(shown), "truth": [clip.rgb[k] for k in shown]}
                pictures = {"warped colour": warped, "model": output}
                sheet |= {name: [to_rgb(clip, ab)[k] for k in shown] for name, ab in pictures.items()}
                _write_sheet(out, folder, f"{path.stem}_foreign", sheet, shown)
                row |= {"foreign reference": other.rgb[0], "model, foreign": sheet["model"][-1]}
            overview[path.name] = [tables.thumbnail(picture) for picture in row.values()]
            columns = list(row)
        result.clips.append(path.name)
        for name, figure in figures.items():
            result.scores.setdefault(name, []).append(figure)
    if out is not None:
        lines = {name: psnr_by_frame(of_clips) for name, of_clips in result.scores.items() if name != "truth"}
        title = f"{folder.name}, {len(paths)} clips: PSNR (dB) by frame number"
        tables.write_png(out / f"psnr_{folder.name}.png", tables.curves(lines, title, first_x=2))
        if overview:
            tables.write_overview(out / f"overview_{folder.name}.png", overview, columns)
    return result


def _baselines(clip: Clip, shown: list[int], folder: Path | None) -> tuple[dict[str, Score], list[tables.Picture]]:
    """Scores of every baseline, and pictures of optical flow's frames `shown` (counted from 0); kept in `folder`."""
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


def _write_sheet(
    out: Path | None, folder: Path, name: str, rows: Mapping[str, Sequence[tables.Picture]], shown: list[int]
) -> None:
    if out is not None:
        columns = [f"frame {k + 1}" for k in shown]
        tables.write_png(out / "sheets" / folder.name / f"{name}.png", tables.sheet(rows, columns))


# --- arguments --------------------------------------------------------------------------------------------------------


def load_network(model: str | None, device: str) -> ColorizationNet:
    """As weights.load, and ValueError for a device that is not there."""
    try:
        return store.load(model, torch.device(device)).eval()
    except (RuntimeError, AssertionError) as error:  # torch's for a device that it does not know or does not have
        raise ValueError(f"evaluate: --device must be cpu or a device that torch sees, got {device!r}") from error


def at_least(low: int) -> Callable[[str], int]:
    """A type for argparse."""

    def number(text: str) -> int:
        if (value := int(text)) < low:
            raise argparse.ArgumentTypeError(f"must be {low} or more, got {value}")
        return value

    return number

"""Make Table 5: train without each of the losses in turn, and compare the figures.

The folder of an ablation contains ablation.md, ablation.json, and a folder for each run: the files of loop.fit, and
evaluation/ with curves and contact sheets.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from train import commit
from train.data import samples
from train.fit import loop
from train.fit.options import FitOptions
from train.measure import protocol, tables
from train.measure.arguments import load_network
from train.measure.baselines import FRAMES, clip_paths
from train.measure.scores import summarise
from vsexvc.nets.config import NetworkConfig
from vsexvc.weights import store

log = logging.getLogger("train")

TERMS = ("smoothness", "perceptual", "contextual", "adversarial")
_COLUMNS = ("dB", "last", "CIEDE2000", "90 %", "colourfulness", "flicker", "foreign colourfulness", "left grey")
# Options that may change between calls: they do not affect the result.
_OF_THE_MACHINE = {"out", "workers", "threads", "device", "validate", "checkpoint_minutes", "validate_minutes"}


def run(
    options: FitOptions,
    config: NetworkConfig,
    sample: samples.DataOptions,
    folders: Sequence[Path],
    out: Path,
    *,
    frames: int = FRAMES,
    limit: int | None = None,
) -> None:
    """Train with all terms, then without each of TERMS that has a weight; print and write one table.

    A later call continues: no run is trained or measured twice.

    Args:
        options: options of the full run; each run has this budget and starts from this `init`.
        config: configuration of all networks.
        sample: options of all runs' samples.
        folders: folders of true clips, which are measured.
        out: the ablation's folder; options.out is not used.
        frames: of each clip at most.
        limit: only the first clips of each folder.

    Raises:
        ValueError: no term has a weight; `out` holds runs with other options; see loop.fit and evaluate.
        OSError: a folder or file cannot be read or written.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("ablate: it must run in one process; torchrun is for fit")
    for folder in folders:
        clip_paths(folder)  # report errors now, not after hours of training
    runs: dict[str, FitOptions] = {"full": dataclasses.replace(options, out=out / "full")}
    for term in TERMS:
        if getattr(options, term):
            without: dict[str, Any] = {"out": out / f"without_{term}", term: 0.0}
            runs[f"w/o {term}"] = dataclasses.replace(options, **without)
        else:
            log.info("ablate: %s has weight 0 in the full run: nothing to leave out", term)
    if len(runs) == 1:
        raise ValueError(f"ablate: at least one of {', '.join(TERMS)} must have a weight above 0, all have 0")
    rows: list[dict[str, Any]] = []
    for name, of_run in runs.items():
        path = _trained(of_run, config, sample, out / "cache")
        if not _is_finished(path, of_run):
            print(f"ablate: stopped in {name}; the same command goes on")
            break
        found = _measured(path, of_run.device, folders, out / "baselines", frames, limit)
        rows += [{"run": name, **row} for row in found]
        document = {"runs": list(runs), "commit": commit(), "torch": torch.__version__, "rows": rows}
        tables.write_json(out / "ablation.json", document)
        (out / "ablation.md").write_text(as_markdown(rows) + "\n")
    if rows:
        print(as_markdown(rows))


def as_markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Return the tables: for each folder the truth, then the runs in order."""
    lines = []
    for folder in dict.fromkeys(row["folder"] for row in rows):
        of_folder = [row for row in rows if row["folder"] == folder]
        truth = {"run": "truth", "colourfulness": of_folder[0]["true colourfulness"]}
        truth["flicker"] = of_folder[0]["true flicker"]
        for row in (truth, *of_folder):
            cells = [_cell(column, row.get(column)) for column in _COLUMNS]
            lines.append([f"{folder}, {row['run']}", *cells])
    return tables.table(("folder, run", *_COLUMNS), lines)


def _cell(column: str, value: float | None) -> str:
    digits = {"flicker": ".3f", "left grey": ".1%", "colourfulness": ".1f"}.get(column, ".2f")
    return "-" if value is None or value != value else format(value, digits)


def _trained(options: FitOptions, config: NetworkConfig, sample: samples.DataOptions, cache: Path) -> Path:
    """Train or continue one run; return its weights, also if it was stopped."""
    place = options.out
    place.mkdir(parents=True, exist_ok=True)
    wanted = {k: v for k, v in dataclasses.asdict(options).items() if k not in _OF_THE_MACHINE}
    wanted |= {"network": dataclasses.asdict(config), "sample": dataclasses.asdict(sample)}
    text, record = json.dumps(wanted, default=str, indent=1), place / "ablation.json"
    if record.exists():
        kept, now = json.loads(record.read_text()), json.loads(text)
        if other := sorted(key for key in kept.keys() | now.keys() if kept.get(key) != now.get(key)):
            raise ValueError(f"ablate: {place} holds a run with other {', '.join(other)}: give another --out")
    record.write_text(text + "\n")
    path = place / "weights.safetensors"
    if path.exists() and _is_finished(path, options):
        log.info("ablate: %s is trained", place.name)
        return path
    cache.mkdir(exist_ok=True)
    if not (place / "cache").exists():  # the runs share the decoded clips
        (place / "cache").symlink_to(Path("..") / cache.name, target_is_directory=True)
    return loop.fit(options, config, sample)


def _is_finished(path: Path, options: FitOptions) -> bool:
    """Return whether a run used up its budget; loop.fit exports a stopped one as well."""
    facts = store.read_metadata(path)
    if options.steps is not None:
        return int(facts["step"]) >= options.steps
    return float(facts["minutes"]) >= (options.minutes or 0.0) - 0.05  # the file has one digit after the point


def _measured(
    path: Path, device: str, folders: Sequence[Path], baselines: Path, frames: int, limit: int | None
) -> list[dict[str, Any]]:
    """Measure one row for each folder. Figures are kept for the same weights and clips, beside the weights."""
    key = hashlib.sha256(path.read_bytes())
    key.update(f"{frames}".encode())
    for clip in (clip for folder in folders for clip in clip_paths(folder, limit)):
        key.update(f"{clip.resolve()} {clip.stat().st_size} {clip.stat().st_mtime_ns}".encode())
    kept = path.with_name("figures.json")
    if kept.exists() and (document := json.loads(kept.read_text()))["key"] == key.hexdigest():
        rows: list[dict[str, Any]] = document["rows"]
        return rows
    network = load_network(str(path), device)
    rows = []
    for folder in folders:
        found = protocol.evaluate_folder(
            network, folder, frames=frames, limit=limit, out=path.with_name("evaluation"), cache=baselines, brief=True
        )
        model, truth = (summarise(found.scores[name]) for name in ("model", "truth"))
        foreign = protocol.summarise_foreign(found.foreign) if found.foreign else {}
        row = {"folder": folder.name, "dB": model["psnr"], "last": model["last"]}
        row |= {"CIEDE2000": model["delta_e"], "90 %": model["delta_e_90"]}
        row |= {name: model[name] for name in ("colourfulness", "flicker")}
        row |= {
            "foreign colourfulness": foreign.get("colourfulness / reference"),
            "left grey": foreign.get("left grey"),
        }
        rows.append(row | {f"true {name}": truth[name] for name in ("colourfulness", "flicker")})
    tables.write_json(kept, {"key": key.hexdigest(), "rows": rows})
    return rows

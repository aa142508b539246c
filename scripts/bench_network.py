"""Measure the network for scripts/bench.py: operations, time by backend and precision, and the correlation alone."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from scripts import plain
from scripts.bench_measure import (
    FULL,
    PLAIN,
    STAGES,
    Candidate,
    Clock,
    Row,
    candidates,
    load,
    measure,
    pictures,
    plain_loop,
    spread,
)
from vsexvc.backends import prepare
from vsexvc.backends.options import ComputeOptions
from vsexvc.nets.config import NetworkConfig
from vsexvc.nets.network import ColorizationNet
from vsexvc.schedule import BLOCK
from vsexvc.session import Session
from vsexvc.weights import store

# --- gmac ------------------------------------------------------------------------------------------------------------


def gmac_rows(options: argparse.Namespace) -> list[Row]:
    """Count the operations of one frame, without those of the reference, by stage and in total."""
    rows = []
    width, height = options.inside
    for net in (FULL, store.find(options.model).stem):
        config = load(net, options.model).config
        ways = {PLAIN: PLAIN} if net == FULL else {}
        for way, label in (ways | {"": net, "folded": f"{net}, upsampling folded"}).items():
            rows.append({"net": label} | gmac(config, width, height, way))
    return rows


def gmac(config: NetworkConfig, width: int, height: int, way: str = "") -> Row:
    """Count GMAC. way: "folded": as the backends compute it; PLAIN: the plain loop. Tensors have no content."""
    found = dict.fromkeys(STAGES.values(), 0.0)

    def count(stage: str, *arguments: Any, method: str | None = None) -> Any:
        with FlopCounterMode(display=False) as counter:
            result = getattr(of, method or stage)(*arguments)
        found[STAGES[stage]] = counter.get_total_flops() / 2e9
        return result

    with torch.device("meta"), torch.no_grad():
        network = ColorizationNet(config).eval()
        lab, ab = (torch.empty(1, channels, height, width) for channels in (3, 2))
        L, similarity = lab[:, :1], lab[:, 2:]
        of: ColorizationNet | plain.Loop
        if way == PLAIN:
            of = plain_loop(network, lab, lab)
            count("match", *count("embed", L), method="correlate")
            count("colorize", L, ab, similarity, lab)
        else:
            of = prepare.prepared(network, ComputeOptions("torch", "fp32")) if way else network
            embedding, meaning = count("embed", lab), count("understand", L)
            match = count("match", L, embedding.theta, meaning, (network.keys(lab, embedding.phi, meaning),))
            count("colorize", L, match, lab, torch.ones(1, 1, 1, 1))
            with torch.device("cpu"):  # it has no weights, and needs a device that computes
                count("align", *(torch.zeros_like(x, device="cpu") for x in (*embedding, lab, L)))
    return found | {"total": sum(found.values())}


# --- network ---------------------------------------------------------------------------------------------------------


def network_rows(options: argparse.Namespace) -> list[Row]:
    """Measure times by stage and in total, the ratio to the plain loop in the same round, and peak memory."""
    shipped = store.find(options.model).stem
    works: dict[str, tuple[Callable[[], Any], int]] = {}
    clocks: dict[str, Clock] = {}
    heads: dict[str, Row] = {}
    skipped: list[Row] = []
    for net in (FULL, shipped):
        width = load(net, options.model).config.width
        head = {"net": f"{net}{', random weights' if net == FULL else ''}", "width": width, "scale": "1/4"}
        tried = [*candidates(options.device)]
        for one in [Candidate(PLAIN, "fp32"), *tried] if net == FULL else [one for one in tried if not one.why]:
            name = f"{net} {one.name}"
            if options.only and options.only not in name:
                continue
            heads[name] = head | {"backend": one.backend, "precision": one.precision + one.unit}
            if one.why:
                skipped.append({"backend": one.backend, "precision": one.precision + one.unit, "note": one.why})
                del heads[name]
            else:
                works[name], clocks[name] = work_of(net, one, options)
    if not works and not skipped:
        raise ValueError(f"--only: no row holds {options.only!r}")
    times = measure(works, options.rounds, options.device)
    base = times.get(f"{FULL} {PLAIN} fp32")
    rows = []
    for name, of_name in times.items():
        row = heads[name] | spread(of_name)
        if base:
            row["x plain loop"] = statistics.median(a / b for a, b in zip(base, of_name, strict=True))
        row |= clocks[name].stages(options.rounds, works[name][1])
        row["rest"] = row["ms"] - sum(row[stage] for stage in STAGES.values())
        rows.append(row | peaks(name, options))
    return rows + skipped


def work_of(net: str, one: Candidate, options: argparse.Namespace) -> tuple[tuple[Callable[[], Any], int], Clock]:
    """Prepare one candidate for `measure`: a block or, of the plain loop, a frame."""
    width, height = options.inside
    device = options.device
    network = load(net, options.model)
    rgb, lab = pictures(BLOCK + 1, height, width, device)
    with torch.inference_mode():
        if one.backend == PLAIN:
            loop = plain_loop(network, rgb[:1], lab[:1])
            clock = Clock(loop, device)
            previous = lab[:1] - lab.new_tensor((50.0, 0.0, 0.0)).view(1, 3, 1, 1)
            return (lambda: loop.step(previous, lab[1:2, :1]), 1), clock
        fast = prepare.prepared(network.to(device), ComputeOptions(one.backend, one.precision))
        session = Session(fast)
        reference = session.reference(lab[:1])
        clock = Clock(fast, device)
    L = lab[1:, :1].cpu()
    blocks = 16 if device.type == "cuda" else 1  # a long render hardly has the start and end of a round

    def work() -> None:
        state = session.start(reference)
        for _ in range(blocks):
            for aligned in session.correspond(L, reference):
                state, _ = session.step(state, aligned)

    return (work, blocks * BLOCK), clock


def peaks(name: str, options: argparse.Namespace) -> Row:
    """Return peak memory in MiB of a process that runs only one candidate, network and torch included."""
    if options.only:
        at_most = torch.cuda.max_memory_allocated(options.device) / 2**20 if options.device.type == "cuda" else None
        return {"device peak MiB": at_most}
    from scripts.bench_filter import watched

    width, height = options.inside
    command = [sys.executable, "-m", "scripts.bench", "--what", "network", "--only", name, "--rounds", "1"]
    command += ["--inside", f"{width}x{height}", "--device", str(options.device), "--json", "-"]
    command += ["--model", options.model] if options.model else []
    try:
        said, peak = watched(command)
        (row,) = json.loads(said)["network"]
    except (RuntimeError, ValueError) as error:
        return {"note": f"alone: {error}"}
    return {"peak MiB": peak, "device peak MiB": row["device peak MiB"]}


# --- correlation -----------------------------------------------------------------------------------------------------

# Cosines with the query of all keys but one, which is the query itself; logits below it at temperature 0.01.
COSINES = {"0 to -10": (0.9, 1.0), "-200": (-1.0, -1.0), "0 to -200": (-1.0, 1.0), "-88 to -102": (-0.02, 0.12)}


def correlation_rows(options: argparse.Namespace) -> list[Row]:
    """Measure every backend's correlation and the whole matrix: 256 channels, the picture's number of positions."""
    width, height = options.inside
    h, w = height // 4, width // 4
    network = ColorizationNet(NetworkConfig(width=0.0625)).eval().to(options.device)
    ways: dict[str, Callable[..., Any]] = {}
    for one in candidates(options.device):
        if not one.why:
            ways[one.name] = prepare.prepared(network, ComputeOptions(one.backend, one.precision)).correlation
    ab = torch.rand(1, 2, height, width, device=options.device) * 60
    colours = F.avg_pool2d(ab, 4).flatten(2)
    theta = torch.zeros(1, 256, h * w, device=options.device)
    theta[:, 0] = 1.0
    works: dict[str, tuple[Callable[[], Any], int]] = {}
    for logits, (low, high) in COSINES.items():
        cosines = torch.linspace(low, high, h * w, device=options.device)
        cosines[-1] = 1.0
        phi = torch.zeros_like(theta)
        phi[:, 0], phi[:, 1] = cosines, (1.0 - cosines**2).sqrt()
        queries, keys = (x.view(1, 256, h, w) for x in (theta, phi))
        works[f"{PLAIN} {logits}"] = (partial(plain.match_at_once, queries, keys, ab, 0.01), 1)
        for name, way in ways.items():
            works[f"{name} {logits}"] = (partial(way, theta, phi, colours), 1)
    times = measure(works, options.rounds, options.device)
    rows = []
    for name in (PLAIN, *ways):
        benign, *others = ([*times[f"{name} {logits}"]] for logits in COSINES)
        row: Row = {"backend": name} | spread(benign)
        for logits, found in zip([*COSINES][1:], others, strict=True):
            row[f"x at {logits}"] = statistics.median(b / a for a, b in zip(benign, found, strict=True))
        rows.append(row)
    return rows

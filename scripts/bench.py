"""How fast, how large and how exact: tables on stdout, JSON with --json.

    python scripts/bench.py [--what network correlation ...] [--device cuda] [--long] [--json FILE]

    gmac         operations of a frame, counted in every convolution and matrix product that torch runs
    network      frames inside the network: each backend and precision here against a plain loop, as the authors run it
    correlation  eq. 3-5 alone, with logits so low that exp leaves the normal numbers, against benign ones
    precision    ab of each backend and precision against fp32, one step and fed back (with --clips, of true frames)
    around       what each step around the network costs for a YUV420P8 frame on one thread
    filter       core.exvc.Colorize through vspipe: frames per second and peak memory

What is compared takes turns within a round (A B A B), so that a machine that slows down slows all of it. What this
machine cannot run stands in the table with the reason.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parents[1]
sys.path[0:0] = [] if __package__ else [str(ROOT)]  # `python scripts/bench.py` as well

from scripts import plain
from vsexvc.backends import prepare
from vsexvc.backends.options import BACKENDS, PRECISIONS, ComputeOptions, precisions, unavailable
from vsexvc.colour.lab import rgb_to_lab
from vsexvc.nets.config import NetworkConfig
from vsexvc.nets.network import ColorizationNet
from vsexvc.schedule import BLOCK
from vsexvc.session import Session, State
from vsexvc.support.errors import first_line
from vsexvc.weights import store

WARM_UP = 2
STAGES = {
    "embed": "features, correspondence net",
    "understand": "meaning",
    "match": "correlation",
    "align": "motion",
    "colorize": "colour",
}
PLAIN, FULL = "plain loop", "full"
ALL = ("gmac", "network", "correlation", "precision", "around", "filter")
FED_BACK = 100  # frames
PEAK = 255.0  # of the PSNR of ab: the span of a and b
Row = dict[str, Any]


# --- time ------------------------------------------------------------------------------------------------------------


def measure(
    works: dict[str, tuple[Callable[[], Any], int]], rounds: int, device: torch.device, warm_up: int = WARM_UP
) -> dict[str, list[float]]:
    """Milliseconds for a frame in each round. works: by name what to time, and how many frames it does at a call."""
    times: dict[str, list[float]] = {name: [] for name in works}
    with torch.inference_mode():
        for number in range(warm_up + rounds):
            for name, (work, frames) in works.items():
                finish(device)
                start = time.perf_counter()
                work()
                finish(device)
                if number >= warm_up:
                    times[name].append((time.perf_counter() - start) * 1e3 / frames)
    return times


def finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def spread(times: list[float]) -> Row:
    return {"ms": statistics.median(times), "lowest": min(times), "highest": max(times)}


class Clock:
    """Wraps the methods of STAGES that something has, and adds up the time in each of them."""

    def __init__(self, of: Any, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._spans: list[tuple[str, Any, Any]] = []
        for name in STAGES:
            if hasattr(of, name):
                setattr(of, name, partial(self._timed, name, getattr(of, name)))

    def _timed(self, name: str, method: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        start = self._mark()
        result = method(*arguments, **options)
        self._spans.append((name, start, self._mark()))
        return result

    def _mark(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def stages(self, rounds: int, frames: int) -> Row:
        """Milliseconds for a frame in the last rounds, by stage. frames: of a round."""
        found: Row = {}
        for name, column in STAGES.items():
            of_stage = [span[1:] for span in self._spans if span[0] == name]
            of_round = len(of_stage) // (WARM_UP + rounds)
            times = [a.elapsed_time(b) if self._cuda else (b - a) * 1e3 for a, b in of_stage[WARM_UP * of_round :]]
            sums = [sum(times[i * of_round : (i + 1) * of_round]) for i in range(rounds)]
            found[column] = statistics.median(sums) / frames if of_round else 0.0
        return found


# --- what is compared ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Candidate:
    """One way to compute. `why`: what keeps it from running here."""

    backend: str
    precision: str
    unit: str = ""
    why: str = ""

    @property
    def name(self) -> str:
        return f"{self.backend} {self.precision}{self.unit}"


def candidates(device: torch.device) -> Iterator[Candidate]:
    has = torch.cpu.get_capabilities()
    for name in BACKENDS:
        if why := unavailable(name, device):
            yield Candidate(name, "-", why=why)
            continue
        for precision in PRECISIONS:
            here = precision in precisions(device)
            if device.type != "cpu" or precision != "bf16":
                yield Candidate(name, precision, why="" if here else f"no {precision} in this {device.type}'s hardware")
            else:
                amx, avx512 = has.get("amx_bf16"), has.get("avx512_bf16")
                yield Candidate(name, precision, " (AMX)", "" if amx else "this CPU has no AMX")
                why = "AMX is taken where it is" if amx else "" if avx512 else "this CPU has no AVX512-bf16"
                yield Candidate(name, precision, " (AVX512)", why)


def load(net: str, model: str | None) -> ColorizationNet:
    """FULL: as released in every size, with random weights; else the model."""
    if net != FULL:
        return store.load(model)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ColorizationNet(NetworkConfig()).eval().requires_grad_(False)


def plain_loop(network: ColorizationNet, rgb: Tensor, lab: Tensor) -> plain.Loop:
    """The plain implementation with a network's weights, and random ones for what only the authors compute."""
    parts: list[plain.Weights] = []
    for name in ("features", "correspondence", "color"):
        state = network.state_dict()
        parts.append({k.removeprefix(name + "."): v.to(lab.device) for k, v in state.items() if k.startswith(name)})
    for name in ("conv5_3", "conv5_4"):
        for kind in ("weight", "bias"):
            parts[0][f"{name}.{kind}"] = parts[0][f"conv5_2.{kind}"]
    return plain.Loop(*parts, rgb, lab, network.config.temperature)


def pictures(count: int, height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Smooth random colours that move a pixel a frame: RGB (count, 3, H, W), 0..1, and its Lab."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, height // 8 + 2, width // 8 + 2, generator=generator)
    whole = F.interpolate(coarse, (height + count, width + count), mode="bicubic").clamp(0.05, 0.95)
    rgb = torch.cat([whole[:, :, i : i + height, i : i + width] for i in range(count)])
    return rgb.to(device), rgb_to_lab(rgb).to(device)


# --- gmac ------------------------------------------------------------------------------------------------------------


def gmac_rows(options: argparse.Namespace) -> list[Row]:
    """Of one frame, reference done, by stage and in total."""
    rows = []
    for net in (FULL, store.find(options.model).stem):
        config = load(net, options.model).config
        ways = {PLAIN: PLAIN} if net == FULL else {}
        for way, label in (ways | {"": net, "folded": f"{net}, upsampling folded"}).items():
            rows.append({"net": label} | gmac(config, *options.inside, way))
    return rows


def gmac(config: NetworkConfig, width: int, height: int, way: str = "") -> Row:
    """way: "folded": as the backends have it; PLAIN: the plain loop. On tensors without content, in no time."""
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
        if way == PLAIN:
            of = plain_loop(network, lab, lab)
            count("match", *count("embed", L), method="correlate")
            count("colorize", L, ab, similarity, lab)
        else:
            of = prepare.prepared(network, ComputeOptions("torch", "fp32")) if way else network
            embedding, meaning = count("embed", lab), count("understand", L)
            match = count("match", L, embedding.theta, meaning, network.keys(lab, embedding.phi, meaning))
            count("colorize", L, match, lab)
            with torch.device("cpu"):  # it has no weights, and asks for a device that computes
                count("align", *(torch.zeros_like(x, device="cpu") for x in (*embedding, lab, L)))
    return found | {"total": sum(found.values())}


# --- network ---------------------------------------------------------------------------------------------------------


def network_rows(options: argparse.Namespace) -> list[Row]:
    """Time by stage and in total, ratio to the plain loop in the same round, peak memory of a process of its own."""
    shipped = store.find(options.model).stem
    works, clocks, heads, skipped = {}, {}, {}, []
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
    """What `measure` wants of one candidate, made ready: a block or, of the plain loop, a frame."""
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
    blocks = 16 if device.type == "cuda" else 1  # what starts and ends a round is none of a long render's time

    def work() -> None:
        state = session.start(reference)
        for _ in range(blocks):
            for aligned in session.correspond(L, reference):
                state, _ = session.step(state, aligned)

    return (work, blocks * BLOCK), clock


def peaks(name: str, options: argparse.Namespace) -> Row:
    """Peak memory in MiB of a process that runs nothing but one candidate, network and torch included."""
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
    """256 channels, as many positions as the picture has; every backend's own correlation, and the whole matrix."""
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
        pair = [x.view(1, 256, h, w) for x in (theta, phi)]
        works[f"{PLAIN} {logits}"] = (partial(plain.match_at_once, *pair, ab, 0.01), 1)
        for name, way in ways.items():
            works[f"{name} {logits}"] = (partial(way, theta, phi, colours), 1)
    times = measure(works, options.rounds, options.device)
    rows = []
    for name in (PLAIN, *ways):
        benign, *others = ([*times[f"{name} {logits}"]] for logits in COSINES)
        row = {"backend": name} | spread(benign)
        for logits, found in zip([*COSINES][1:], others, strict=True):
            row[f"x at {logits}"] = statistics.median(b / a for a, b in zip(benign, found, strict=True))
        rows.append(row)
    return rows


# --- precision -------------------------------------------------------------------------------------------------------


def precision_rows(options: argparse.Namespace) -> list[Row]:
    """The model, prepared in each way, against itself in fp32 as it is.

    One step: both see the same previous frame, the one of fp32. Fed back: each sees its own, over FED_BACK frames of
    each clip, played forth and back; what PSNR to the truth is lost, mean over frames and clips (8-bit RGB).
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
    """Lab (N, 3, H, W) on the CPU, and its true frames (N, H, W, 3) uint8; made pictures have none."""
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
    from train.measure.protocol import to_rgb

    clip = Clip(Path(), rgb)
    clip.__dict__["lab"] = lab  # what it would compute
    made = to_rgb(clip, torch.cat(outputs).float().cpu())
    return np.array([metrics.psnr(result, truth) for result, truth in zip(made, rgb[1:], strict=True)])


# --- around and filter -----------------------------------------------------------------------------------------------


def around_rows(options: argparse.Namespace) -> list[Row]:
    from scripts import bench_filter

    threads, core = torch.get_num_threads(), bench_filter.core
    torch.set_num_threads(1)
    core.num_threads = 1
    rows = []
    for width, height in options.sizes:
        steps = bench_filter.steps_of(width, height)
        times = measure(steps, options.rounds, torch.device("cpu"))
        rows += [{"size": f"{width}x{height}", "step": name} | spread(found) for name, found in times.items()]
    torch.set_num_threads(threads)
    return rows


def filter_rows(options: argparse.Namespace) -> list[Row]:
    from scripts import bench_filter

    arguments: Row = {"device": str(options.device), "size": max(64, min(options.inside))}
    arguments |= {"model": options.model} if options.model else {}
    usable = [c for c in candidates(options.device) if not c.why]
    others = [{"backend": c.backend, "precision": c.precision} for c in usable] if options.long else []
    return bench_filter.filter_rows(
        options.sizes, options.frames, arguments, others, options.long or options.plot is not None
    )


# --- tables and command line -----------------------------------------------------------------------------------------


def table(rows: list[Row]) -> str:
    """Markdown; columns in the order in which rows bring them, without those that are empty."""
    columns = list(dict.fromkeys(key for row in rows for key, value in row.items() if value is not None))
    columns.sort(key="note".__eq__)

    def cell(value: Any) -> str:
        if isinstance(value, float):
            return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) < 1 else f"{value:.2f}"
        return "" if value is None else str(value)

    lines = [columns, ["---"] * len(columns), *([cell(row.get(column)) for column in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def surroundings(device: torch.device) -> Row:
    """What the figures depend on."""
    import vapoursynth as vs

    from train import commit

    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        cpu = next((line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line), cpu)
    versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
    try:
        import openvino

        versions["openvino"] = openvino.__version__
    except ImportError:
        pass
    return {
        "commit": commit(),
        "device": cpu if device.type == "cpu" else torch.cuda.get_device_name(device),
        "threads": torch.get_num_threads(),
        "versions": versions | {"vapoursynth": str(vs.__version__)},
    }


def size(text: str) -> tuple[int, int]:
    try:
        width, height = (int(side) for side in text.split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be WIDTHxHEIGHT, got {text}") from None
    return width, height


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", nargs="+", choices=ALL, default=list(ALL), help="default: all")
    parser.add_argument("--device", default="cpu", type=torch.device, help="default: cpu")
    parser.add_argument("--model", help="name or path of the weights beside the full width (default: the shipped ones)")
    parser.add_argument("--only", metavar="TEXT", help="network: only rows whose net, backend and precision hold it")
    parser.add_argument("--inside", default=(384, 216), type=size, metavar="WxH", help="of network (default: 384x216)")
    sizes = [(848, 480), (1920, 1080), (3840, 2160)]
    parser.add_argument("--sizes", nargs="+", default=sizes, type=size, metavar="WxH", help="of around and filter")
    parser.add_argument("--frames", type=int, default=48, help="of filter (default: 48)")
    parser.add_argument("--rounds", type=int, default=7, help="default: 7")
    parser.add_argument("--clips", type=Path, metavar="FOLDER", help="true clips for precision; two, with --long all")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="filter: time and memory, frames and pixels")
    parser.add_argument("--long", action="store_true", help="all clips; filter: every backend, more frames")
    parser.add_argument("--json", type=Path, metavar="FILE", help="-: on stdout, without tables")
    options = parser.parse_args(arguments)
    if options.rounds < 1 or options.frames < 1:
        parser.error(f"--rounds and --frames must be 1 or more, got {options.rounds} and {options.frames}")
    if options.plot and "filter" not in options.what:
        parser.error("--plot needs filter among --what")
    if options.device.type == "cuda" and not torch.cuda.is_available():
        parser.error(f"--device must be cpu: torch sees no CUDA device, got {options.device}")
    return options


SECTIONS: dict[str, Callable[[argparse.Namespace], list[Row]]] = {
    "gmac": gmac_rows,
    "network": network_rows,
    "correlation": correlation_rows,
    "precision": precision_rows,
    "around": around_rows,
    "filter": filter_rows,
}


def main(arguments: list[str] | None = None) -> None:
    options = parsed(arguments)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    only_json = str(options.json) == "-"
    result = surroundings(options.device) | {"inside": list(options.inside), "rounds": options.rounds}
    if not only_json:
        print(f"{result['device']}, {result['threads']} threads, {result['commit']}, torch {torch.__version__}")
    for what in options.what:
        try:
            result[what] = SECTIONS[what](options)
        except (ValueError, OSError) as error:
            sys.exit(f"bench: {first_line(error)}")
        if not only_json:
            print(f"\n### {what}\n\n{table(result[what])}", flush=True)
    if options.plot:
        from scripts.bench_filter import plot

        options.plot.write_text(plot(result["filter"], f"core.exvc.Colorize, {result['device']}"))
    if options.json:
        text = json.dumps(result, indent=1) + "\n"
        sys.stdout.write(text) if only_json else options.json.write_text(text)


if __name__ == "__main__":
    main()

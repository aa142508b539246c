"""The training run: samples in, checkpoints and weights out. Losses are in losses.py, data in data.py.

1. For the first `correspond_share` of the run only the feature net and the correspondence learn: L1 on the warped
   colour, and L1 on the true previous frame's colour moved by the motion search.
2. Then all nets learn together, unrolled over the sequence on the net's own outputs.
The learning rate warms up, then follows a cosine over the budget (minutes or steps), so that every run ends finished.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import math
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from train import commit, data, evaluate, losses
from vsexvc import weights
from vsexvc.config import NetworkConfig
from vsexvc.network import MULTIPLE, ColorizationNet

log = logging.getLogger("train")


@dataclass(frozen=True)
class FitOptions:
    """One run. Either `minutes` or `steps` is the budget; loss weights are those of section 4 where it names them."""

    out: Path
    clips: tuple[Path, ...]
    images: tuple[Path, ...] = ()
    validate: tuple[Path, ...] = ()
    init: str | None = None
    minutes: float | None = None
    steps: int | None = None
    batch: int = 4
    learning_rate: float = 7e-4
    correspond_share: float = 0.15
    seed: int = 1
    metadata: Path | None = None
    workers: int = 1
    threads: int = 0
    device: str = "cpu"
    bf16: bool = True
    checkpoint_minutes: float = 4.0
    validate_minutes: float = 20.0
    no_previous: float = 0.25
    l1: float = 2.0
    warped: float = 1.0
    aligned: float = 0.5
    smoothness: float = 0.3
    temporal: float = 0.3
    follow: float = 0.5


def fit(options: FitOptions, config: NetworkConfig, sample: data.DataOptions) -> Path:
    """Runs, or goes on with the run in `options.out`; returns the exported weights file.

    Raises ValueError for arguments that do not go together, OSError for folders that are not there.
    """
    if sample.length < 1 or any(side < 32 or side % MULTIPLE for side in sample.size):
        raise ValueError(
            f"fit: length must be 1 or more and size multiples of {MULTIPLE} from 32, "
            f"got {sample.length} and {sample.size}"
        )
    if (options.minutes is None) == (options.steps is None):
        raise ValueError("fit: exactly one of minutes and steps must be given")
    options.out.mkdir(parents=True, exist_ok=True)
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(options.seed)
    return _Run(options, config, sample).run()


class _Run:
    def __init__(self, options: FitOptions, config: NetworkConfig, sample: data.DataOptions) -> None:
        self.options, self.config, self.sample = options, config, sample
        self.device = torch.device(options.device)
        net = ColorizationNet(config, batch_norm=True)
        self.net = net.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.AdamW(
            self.net.parameters(), lr=options.learning_rate, betas=(0.9, 0.99), weight_decay=1e-4
        )
        self.step, self.seconds, self.commits = 0, 0.0, [commit()]
        self.metadata = {} if options.metadata is None else json.loads(options.metadata.read_text())
        self.checkpoint = options.out / "checkpoint.pt"
        if self.checkpoint.exists():
            self._restore(self.checkpoint, everything=True)
            log.info("going on from %s: step %d, %.1f minutes", self.checkpoint, self.step, self.seconds / 60)
        elif options.init is not None:
            self._restore(Path(options.init), everything=False)
        self.stop = False

    def run(self) -> Path:
        clips = data.cached_clips(data.find(list(self.options.clips), data.VIDEO_SUFFIXES), self.options.out / "cache")
        images = data.find(list(self.options.images), data.IMAGE_SUFFIXES)
        log.info(
            "%d clips, %d images, %d parameters", len(clips), len(images), sum(p.numel() for p in self.net.parameters())
        )
        sequences = data.Sequences(
            clips, images, self.sample, self.options.seed, count=1 << 40, first=self.step * self.options.batch
        )
        loader = DataLoader(
            sequences,
            self.options.batch,
            sampler=itertools.count(),  # type: ignore[arg-type]
            num_workers=self.options.workers,
            worker_init_fn=_one_thread,
            prefetch_factor=4 if self.options.workers else None,
            pin_memory=self.device.type == "cuda",
        )
        previous = {s: signal.signal(s, self._ask_to_stop) for s in (signal.SIGINT, signal.SIGTERM)}
        writer = SummaryWriter(str(self.options.out / "tensorboard"))
        bar = tqdm(
            total=100.0,
            unit="%",
            bar_format="{l_bar}{bar}| {elapsed}<{remaining} {postfix}",
            initial=100 * self._progress(),
        )
        started, saved, validated = time.monotonic() - self.seconds, time.monotonic(), time.monotonic()
        self.net.train()
        batches = iter(loader)
        try:
            while self._progress() < 1.0 and not self.stop:
                numbers = self._train_step(next(batches))
                self.step += 1
                now = time.monotonic()
                self.seconds = now - started
                bar.n = min(100.0, 100 * self._progress())
                bar.set_postfix(step=self.step, **{k: f"{v:.2f}" for k, v in numbers.items()})
                if self.step % 20 == 0:
                    self._log(numbers, writer)
                if now - saved > 60 * self.options.checkpoint_minutes:
                    self._save()
                    saved = now
                if self.options.validate and now - validated > 60 * self.options.validate_minutes:
                    self._validate(writer, limit=5)
                    validated = now
                    started = time.monotonic() - self.seconds  # validation is not on the budget
        finally:
            self._save()
            bar.close()
            writer.close()
            for number, handler in previous.items():
                signal.signal(number, handler)
        return self.export()

    # -- one step -------------------------------------------------------------------------------------------------

    def _train_step(self, batch: dict[str, Tensor]) -> dict[str, float]:
        torch.manual_seed(1_000_003 * self.options.seed + self.step)  # so that a resumed run draws the same numbers
        rate = self._learning_rate()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        batch = {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}
        terms = self._losses(batch, everything=self._progress() >= self.options.correspond_share)
        total = sum(getattr(self.options, name) * value for name, value in terms.items()) / 10.0
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[union-attr]
        norm = torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        if torch.isfinite(norm):
            self.optimizer.step()
        else:
            log.warning("step %d: gradient is not finite, step left out", self.step)
        return {name: float(value.detach()) for name, value in terms.items()} | {"norm": float(norm)}

    def _losses(self, batch: dict[str, Tensor], everything: bool) -> dict[str, Tensor]:
        o = self.options
        lab = batch["lab"] - batch["lab"].new_tensor((50.0, 0.0, 0.0)).view(1, 1, 3, 1, 1)
        b, s = lab.shape[:2]
        true = batch["true"].view(b, 1, 1, 1)
        with self._autocast():
            embedding = self.net.embed(lab.flatten(0, 1).contiguous(memory_format=torch.channels_last))
        theta = embedding.theta.unflatten(0, (b, s))
        phi = embedding.phi.unflatten(0, (b, s))
        has_previous = (torch.rand(b, 1, 1, 1, device=lab.device) >= o.no_previous).float()
        prev_lab = self._starting_frame(lab[:, 1]) * has_previous
        sums: dict[str, Tensor] = {}

        def add(name: str, value: Tensor) -> None:
            sums[name] = sums.get(name, 0.0) + value / (s - 2)  # type: ignore[operator]

        for t in range(2, s):
            target, flow, valid = lab[:, t, 1:], batch["flow_backward"][:, t - 2], batch["valid"][:, t - 2]
            warped_ab, similarity = self.net.correlate(theta[:, t], phi[:, 0], lab[:, 0, 1:])
            add("warped", losses.l1(warped_ab, target, true))
            moved = self.net.align(
                theta[:, t], phi[:, t - 1], torch.cat((prev_lab, lab[:, t - 1, 1:]), dim=1), lab[:, t, :1]
            )
            add("aligned", losses.l1(moved[:, 3:], target, valid))
            if not everything:
                continue
            with self._autocast():
                ab = self.net.colorize(lab[:, t, :1], warped_ab, similarity, moved[:, :3])
            add("l1", losses.l1(ab, target, true))
            add("smoothness", losses.smoothness(ab, lab[:, t]))
            before = prev_lab[:, 1:] if t > 2 else lab[:, 1, 1:]  # never toward a starting frame that was spoiled
            add("temporal", losses.temporal(ab, before, flow, valid * has_previous))
            add("follow", losses.l1(ab, warped_ab.detach(), 1 - true))
            prev_lab, has_previous = torch.cat((lab[:, t, :1], ab), dim=1), torch.ones_like(has_previous)
        return sums

    def _starting_frame(self, lab: Tensor) -> Tensor:
        """The frame before the sequence as the net may meet it: sometimes with colours that are faded or off."""
        b = len(lab)
        ab = lab[:, 1:]
        kind = torch.rand(b, 1, 1, 1, device=lab.device)
        coarse = torch.nn.functional.interpolate(
            torch.randn(b, 2, 4, 7, device=lab.device), size=ab.shape[2:], mode="bilinear"
        )
        spoiled = ab * (0.7 + 0.4 * torch.rand(b, 1, 1, 1, device=lab.device)) + 6.0 * coarse
        return torch.cat((lab[:, :1], torch.where(kind < 0.3, spoiled, ab)), dim=1)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.options.bf16)

    # -- schedule, files ------------------------------------------------------------------------------------------

    def _progress(self) -> float:
        if self.options.steps is not None:
            return self.step / self.options.steps
        return self.seconds / (60.0 * self.options.minutes)  # type: ignore[operator]

    def _learning_rate(self) -> float:
        warm = min(1.0, (self.step + 1) / 200)
        return (
            self.options.learning_rate
            * warm
            * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, self._progress()))))
        )

    def _ask_to_stop(self, number: int, frame: FrameType | None) -> None:
        self.stop = True

    def _log(self, numbers: dict[str, float], writer: SummaryWriter) -> None:
        for name, value in numbers.items():
            writer.add_scalar(name, value, self.step)
        line = {"step": self.step, "minutes": round(self.seconds / 60, 2), "rate": self._learning_rate(), **numbers}
        with (self.options.out / "log.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")

    def _save(self) -> None:
        partial = self.checkpoint.with_suffix(".part")
        state = {
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "config": self.config.to_json(),
            "commits": self.commits,
        }
        torch.save(state, partial)
        partial.replace(self.checkpoint)

    def _restore(self, path: Path, everything: bool) -> None:
        state: dict[str, Any] = torch.load(path, map_location=self.device, weights_only=True)
        if state["config"] != self.config.to_json():
            raise ValueError(f"fit: {path} holds a network of another configuration: {state['config']}")
        self.net.load_state_dict(state["net"])
        if everything:
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.seconds = state["step"], state["seconds"]
            self.commits = list(dict.fromkeys([*state["commits"], *self.commits]))

    def _validate(self, writer: SummaryWriter, limit: int | None) -> dict[str, float]:
        network = fold_batch_norm(self.net)
        results = {}
        for folder in self.options.validate:
            for name, value in evaluate.run(network, folder, limit=limit).items():
                results[f"{folder.name}/{name}"] = float(value)
                writer.add_scalar(f"validation/{folder.name}/{name}", value, self.step)
        log.info("step %d, %.1f minutes: %s", self.step, self.seconds / 60, json.dumps(results))
        with (self.options.out / "validation.jsonl").open("a") as file:
            file.write(json.dumps({"step": self.step, "minutes": self.seconds / 60, **results}) + "\n")
        return results

    def export(self) -> Path:
        """weights.safetensors beside the checkpoint, plain convolutions, with what the model card needs."""
        path = self.options.out / "weights.safetensors"
        facts = {
            "step": str(self.step),
            "minutes": f"{self.seconds / 60:.1f}",
            "trained_size": json.dumps(self.sample.size),
            "options": json.dumps(dataclasses.asdict(self.options), default=str),
            "commit": ", ".join(self.commits),
            **{key: str(value) for key, value in self.metadata.items()},
        }
        weights.save(fold_batch_norm(self.net), path, facts)
        return path


def fold_batch_norm(net: ColorizationNet) -> ColorizationNet:
    """A copy without batch norm: its statistics and affine maps go into the convolutions before it (eval mode, CPU)."""
    state = {key: value.detach().cpu().float() for key, value in net.state_dict().items()}
    for key in [k for k in state if k.startswith("features.norm") and k.endswith(".weight")]:
        norm = key.removesuffix(".weight")
        conv = norm.replace("norm", "conv")
        gain = state[norm + ".weight"] / torch.sqrt(state[norm + ".running_var"] + 1e-5)
        state[conv + ".weight"] = state[conv + ".weight"] * gain.view(-1, 1, 1, 1)
        state[conv + ".bias"] = (state[conv + ".bias"] - state[norm + ".running_mean"]) * gain + state[norm + ".bias"]
    plain = ColorizationNet(net.config)
    plain.load_state_dict({key: value for key, value in state.items() if not key.startswith("features.norm")})
    return plain.eval().requires_grad_(False)


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)
    for number in (signal.SIGINT, signal.SIGTERM):  # the run itself stops them, after its last checkpoint
        signal.signal(number, signal.SIG_IGN)

"""Run the training, from samples (data/samples.py) to checkpoints and weights. unroll.py computes the terms of a step.

1. For the first `correspond_share` of the run only the feature net and the correspondence learn: L1 on the warped
   colour, and L1 on the true previous frame's colour moved by the motion search.
2. Then all nets learn together, unrolled over the sequence on the net's own outputs.
3. After `adversarial_after` epochs a discriminator learns too, and its loss is added (eq. 12).

There is one process, or torchrun starts several: each then takes its share of every step's samples. A run that was
killed continues from its last checkpoint to the same numbers (with a budget of steps; minutes do not repeat exactly).
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parametrize
from torch.utils.tensorboard import SummaryWriter

from train import commit, running
from train.data import samples
from train.data.files import IMAGE_SUFFIXES, VIDEO_SUFFIXES, find
from train.data.retrieval import Retrieval
from train.fit import losses, networks
from train.fit.discriminator import Discriminator
from train.fit.options import FitOptions
from train.fit.unroll import Result, Unrolled
from train.measure import protocol
from train.measure.baselines import clip_paths
from vsexvc.colour.lab import centred
from vsexvc.nets.config import NetworkConfig
from vsexvc.nets.network import MULTIPLE
from vsexvc.weights import store

log = logging.getLogger("train")

_RAMP = 200  # steps in which the adversarial term rises to its weight: the discriminator starts untrained


def fit(options: FitOptions, config: NetworkConfig, sample: samples.DataOptions) -> Path:
    """Train, or continue the run in `options.out`; return the exported weights file.

    Raise ValueError for arguments that contradict each other, OSError for folders that do not exist.
    """
    if not options.clips:
        raise ValueError("fit: clips must be one or more folders, got none")
    if sample.length < 1 or any(side < 32 or side % MULTIPLE for side in sample.size):
        raise ValueError(
            f"fit: length must be 1 or more and size multiples of {MULTIPLE} from 32, "
            f"got {sample.length} and {sample.size}"
        )
    if options.adversarial and (sample.length < 2 or min(sample.size) < 64):
        raise ValueError(
            f"fit: the adversarial term needs a length of 2 or more and a size of 64 or more, "
            f"got {sample.length} and {sample.size}"
        )
    if not 0 <= options.lead_in < sample.length:
        raise ValueError(f"fit: lead_in must be 0 or more and below length {sample.length}, got {options.lead_in}")
    for folder in options.validate:
        clip_paths(folder)  # report errors now, not at the first validation
    options.out.mkdir(parents=True, exist_ok=True)
    running.set_up(options.threads)
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if ranks > 1:
        cuda = options.device.startswith("cuda")
        if cuda:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        torch.distributed.init_process_group("nccl" if cuda else "gloo")
    try:
        torch.manual_seed(options.seed)
        return _Run(options, config, sample).run()
    finally:
        if ranks > 1:
            torch.distributed.destroy_process_group()


class _Run:
    def __init__(self, options: FitOptions, config: NetworkConfig, sample: samples.DataOptions) -> None:
        self.options, self.config, self.sample = options, config, sample
        self.budget = running.Budget(options.minutes, options.steps)
        self.device = torch.device(options.device)
        self.ranks = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
        self.rank = torch.distributed.get_rank() if self.ranks > 1 else 0
        self.metadata = {} if options.metadata is None else json.loads(options.metadata.read_text())
        self.step, self.seconds, self.epoch_samples = 0, 0.0, 1
        self.checkpoint = options.out / "checkpoint.pt"
        net, commits = networks.network(options, config)
        self.commits = list(dict.fromkeys([*commits, commit()]))
        self.net = net.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        o = options
        judge = None
        if o.perceptual or o.contextual:
            judge = networks.judge(options).to(self.device)
        unrolled = Unrolled(
            self.net, judge, o.weights, o.no_previous, o.feature_noise, o.bf16, o.worn, o.remembered, o.lead_in
        )
        self.unrolled = unrolled
        self.discriminator = Discriminator(config.width).to(self.device) if o.adversarial else None
        self.optimizers = {"net": self._optimizer(self.net)}
        if self.discriminator is not None:
            self.optimizers["discriminator"] = self._optimizer(self.discriminator)
        if self.checkpoint.exists():
            self._restore(torch.load(self.checkpoint, map_location=self.device, weights_only=True))
            log.info("going on from %s: step %d, %.1f minutes", self.checkpoint, self.step, self.seconds / 60)
        self.generate: nn.Module = unrolled
        self.discriminate: nn.Module | None = self.discriminator
        if self.ranks > 1:
            self.generate = DistributedDataParallel(unrolled, find_unused_parameters=True)
            if self.discriminator is not None:
                self.discriminate = DistributedDataParallel(self.discriminator)

    def _optimizer(self, module: nn.Module) -> torch.optim.AdamW:
        o = self.options
        learning = [p for p in module.parameters() if p.requires_grad]
        return torch.optim.AdamW(
            learning, lr=o.learning_rate, betas=o.betas, eps=o.epsilon, weight_decay=o.weight_decay, amsgrad=o.amsgrad
        )

    # -- the run --------------------------------------------------------------------------------------------------

    def run(self) -> Path:
        o = self.options
        batches = self._batches()
        # Only the first process has one; it also writes all other files.
        writer = SummaryWriter(str(o.out / "tensorboard")) if self.rank == 0 else None
        meter = running.Meter("training", shown=writer is not None)
        start, begun, waited = self.step, time.monotonic(), 0.0
        earlier, saved, validated = self.seconds, begun, begun
        self.unrolled.train()
        ended = False
        with running.listening() as stop, meter:
            while self._used() < 1.0 and not ended:
                asked = time.monotonic()
                batch = next(batches)
                waited += time.monotonic() - asked
                numbers = self._train_step(batch)
                self.step += 1
                self.seconds = earlier + time.monotonic() - begun
                ended = self._agree(stop)
                now = time.monotonic()
                numbers |= {"steps/s": (self.step - start) / (now - begun), "waiting": waited / (now - begun)}
                meter.at(self._used(), self.step, numbers)
                if writer is None:
                    continue
                if self.step % 20 == 0:
                    self._log(numbers, writer)
                if now - saved > 60 * o.checkpoint_minutes:
                    self._save(writer)
                    saved = time.monotonic()
                if o.validate and now - validated > 60 * o.validate_minutes:
                    self._validate(writer, limit=5)
                    validated = time.monotonic()
                    begun += validated - now  # validation does not count
        if writer is None:
            return o.out / "weights.safetensors"
        self._save(writer)
        writer.close()
        return self.export()

    def _batches(self) -> Any:
        o = self.options
        clips = samples.cached_clips(find(list(o.clips), VIDEO_SUFFIXES), o.out / "cache", self.sample)
        images = find(list(o.images), IMAGE_SUFFIXES)
        retrieval = None
        if o.retrieve_by:
            network = self.net if o.retrieve_by == "self" else store.load(o.retrieve_by)
            retrieval = Retrieval(network, images, clips, o.out / "cache")
        self.epoch_samples = max(1, len(clips) + len(images))
        sequences = samples.Sequences(clips, images, self.sample, o.seed, count=1 << 40, retrieval=retrieval)
        count = sum(p.numel() for p in self.net.parameters())
        log.info("%d clips, %d images, %d parameters", len(clips), len(images), count)
        return running.batches(sequences, o.batch, self.step, o.workers, self.rank, self.ranks)

    def _agree(self, stop: running.Stop) -> bool:
        """Return whether the run ends: all processes at the same step, and by the clock of the first, which validates.

        A signal that comes later in a step counts at the next one.
        """
        if self.ranks == 1:
            return stop.asked
        own = self.seconds if self.rank == 0 else 0.0
        both = torch.tensor([own, float(stop.asked)], dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(both, torch.distributed.ReduceOp.MAX)
        self.seconds = float(both[0])
        return bool(both[1])

    # -- one step -------------------------------------------------------------------------------------------------

    def _train_step(self, batch: dict[str, Tensor]) -> dict[str, float]:
        o = self.options
        # Seeded by the step, so that a resumed run draws the same numbers.
        torch.manual_seed(1_000_003 * o.seed + self.step * self.ranks + self.rank)
        rate = self._learning_rate()
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = rate
        batch = {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}
        with parametrize.cached():  # one power iteration a step, not one for each frame
            result: Result = self.generate(batch, everything=self._used() >= o.correspond_share)
        terms, pairs = dict(result.terms), None
        if self.discriminator is not None and result.outputs is not None:
            late = self.step - o.adversarial_after * self.epoch_samples / (o.batch * self.ranks)
            if late >= 0:
                pairs = _pairs(result.outputs, batch["lab"])
                self.discriminator.requires_grad_(False)
                fake, real = self.discriminator(*pairs).chunk(2)
                terms["adversarial"] = losses.adversarial(fake, real) * min(1.0, (late + 1) / _RAMP)
                self.discriminator.requires_grad_(True)
        total = torch.stack([o.weights[name] * value for name, value in terms.items()]).sum()
        norm = self._descend("net", total, self.net)
        numbers = {name: float(value.detach()) for name, value in terms.items()} | {"norm": norm}
        if pairs is not None:
            assert self.discriminate is not None and self.discriminator is not None
            fake, real = self.discriminate(*(x.detach() for x in pairs)).chunk(2)
            loss = losses.discriminator(fake, real)
            self._descend("discriminator", loss, self.discriminator)
            numbers["discriminator"] = float(loss.detach())
        return numbers

    def _descend(self, name: str, loss: Tensor, module: nn.Module) -> float:
        optimizer = self.optimizers[name]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(module.parameters(), self.options.clip_norm)
        if torch.isfinite(norm):
            optimizer.step()
        else:
            log.warning("step %d: the gradient of %s is not finite, step left out", self.step, name)
        return float(norm)

    # -- schedule, files ------------------------------------------------------------------------------------------

    def _used(self) -> float:
        return self.budget.used(self.step, self.seconds)

    def _learning_rate(self) -> float:
        o = self.options
        rate = o.learning_rate * min(1.0, (self.step + 1) / o.warm_up)
        return rate * running.cosine(self._used()) if o.cosine else rate

    def _log(self, numbers: dict[str, float], writer: SummaryWriter) -> None:
        for name, value in numbers.items():
            writer.add_scalar(name, value, self.step)
        line = {"step": self.step, "minutes": round(self.seconds / 60, 2), "rate": self._learning_rate(), **numbers}
        with (self.options.out / "log.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")

    def _save(self, writer: SummaryWriter) -> None:
        state = {
            "net": self.net.state_dict(),
            "discriminator": None if self.discriminator is None else self.discriminator.state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "step": self.step,
            "seconds": self.seconds,
            "config": self.config.to_json(),
            "commits": self.commits,
        }
        running.save(state, self.checkpoint)
        picture = self.unrolled.picture()
        if picture is not None:
            writer.add_image("reference, grey, warped, output, truth", picture.clamp(0, 1).cpu(), self.step)

    def _restore(self, state: dict[str, Any]) -> None:
        networks.check_config(self.config, state["config"], str(self.checkpoint))
        if self.optimizers.keys() != state["optimizers"].keys():
            raise ValueError(f"fit: {self.checkpoint} is of a run with another adversarial term; take another --out")
        self.net.load_state_dict(state["net"])
        if self.discriminator is not None:
            self.discriminator.load_state_dict(state["discriminator"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self.step, self.seconds = state["step"], state["seconds"]
        self.commits = list(dict.fromkeys([*state["commits"], *self.commits]))

    def _validate(self, writer: SummaryWriter, limit: int | None) -> None:
        network, results = networks.plain(self.net), {}
        for folder in self.options.validate:
            try:
                found = protocol.run(network, folder, limit=limit)
            except (OSError, ValueError) as error:  # a clip that cannot be read must not end hours of training
                log.warning("not validated: %s", error)
                continue
            for name, value in found.items():
                results[f"{folder.name}/{name}"] = float(value)
                writer.add_scalar(f"validation/{folder.name}/{name}", value, self.step)
        log.info("step %d, %.1f minutes: %s", self.step, self.seconds / 60, json.dumps(results))
        with (self.options.out / "validation.jsonl").open("a") as file:
            file.write(json.dumps({"step": self.step, "minutes": self.seconds / 60, **results}) + "\n")

    def export(self) -> Path:
        """Write weights.safetensors beside the checkpoint: plain convolutions, and the facts of the model card."""
        path = self.options.out / "weights.safetensors"
        facts = {
            "step": str(self.step),
            "minutes": f"{self.seconds / 60:.1f}",
            "trained_size": json.dumps(self.sample.size),
            "options": json.dumps(dataclasses.asdict(self.options), default=str),
            "commit": ", ".join(self.commits),
            **{key: str(value) for key, value in self.metadata.items()},
        }
        store.save(networks.plain(self.net), path, facts)
        return path


def _pairs(outputs: Tensor, lab: Tensor) -> tuple[Tensor, Tensor]:
    """Return eq. 12's (x_{t-1}, x_t) for all neighbouring frames: the coloured ones, then the true ones.

    outputs: (B, S-2, 3, H, W), L_centred; lab: (B, S, 3, H, W), L 0..100.
    """
    true = centred(lab[:, 2:])
    before = torch.cat((outputs[:, :-1].flatten(0, 1), true[:, :-1].flatten(0, 1)))
    return before, torch.cat((outputs[:, 1:].flatten(0, 1), true[:, 1:].flatten(0, 1)))

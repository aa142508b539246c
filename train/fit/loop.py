"""The training run: samples (data/samples.py) in, checkpoints and weights out; unroll.py has the terms of a step.

1. For the first `correspond_share` of the run only the feature net and the correspondence learn: L1 on the warped
   colour, and L1 on the true previous frame's colour moved by the motion search.
2. Then all nets learn together, unrolled over the sequence on the net's own outputs.
3. After `adversarial_after` epochs a discriminator learns beside them, and its judgement enters (eq. 12).

One process, or as many as torchrun starts: each then takes its share of every step's samples. A run that was killed
goes on from its last checkpoint to the same numbers (with a budget of steps; minutes are never twice the same).
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import time
from dataclasses import dataclass
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
from train.features import sources
from train.fit import losses
from train.fit.discriminator import Discriminator, add_spectral_norm, without_spectral_norm
from train.fit.unroll import Result, Unrolled
from train.measure import protocol
from vsexvc.colour.lab import centred
from vsexvc.nets.config import NetworkConfig
from vsexvc.nets.network import MULTIPLE, ColorizationNet
from vsexvc.weights import store

log = logging.getLogger("train")

TERMS = (
    "perceptual", "contextual", "smoothness", "adversarial", "temporal", "l1",  # eq. 15
    "warped", "aligned",  # beside it: the correspondence and the motion search themselves
    "follow", "decibels", "guess",  # foreign colours; small errors; colours by meaning alone
)  # fmt: skip
_MAY_GROW = ("semantic", "semantic_weight", "semantic_temperature")  # may differ from what a run starts from
_RAMP = 200  # steps in which the adversarial term grows to its weight: the discriminator starts knowing nothing


@dataclass(frozen=True)
class FitOptions:
    """One run. The defaults are section 4's; RECIPES has others.

    Attributes:
        out: folder of the checkpoint, the log and the weights; a run that is there goes on.
        clips: folders of videos.
        images: folders of pictures.
        validate: folders of clips to measure on now and then.
        init: checkpoint of another run, or name or file of weights, to start from; the network must be given alike.
        features: feature net to start from: scratch, imagenet or a file (see features/sources.py).
        freeze_features: they do not learn; always so for ready-made ones from elsewhere.
        loss_features: net of eq. 8-10: imagenet or a file; by default `features` where it sees colour.
        minutes: budget of training time; either this or steps.
        steps: budget in steps.
        batch: samples of a step, for each process.
        learning_rate: of all nets.
        betas: of Adam.
        epsilon: of Adam.
        amsgrad: Adam's variant of section 4.
        weight_decay: decoupled.
        cosine: the learning rate falls along a cosine over the budget; section 4 has no schedule.
        warm_up: steps in which the learning rate rises.
        clip_norm: longest gradient.
        correspond_share: of the budget, in which only features and correspondence learn.
        seed: of all that is drawn.
        metadata: JSON file with facts for the weights: licence, data, ...
        workers: processes that make samples.
        threads: of torch; 0: its own choice.
        device: cpu or cuda.
        bf16: bfloat16 autocast.
        checkpoint_minutes: between checkpoints.
        validate_minutes: between validations.
        no_previous: share of sequences that start without a previous frame.
        feature_noise: share of samples whose features get noise before the correspondence.
        adversarial_after: epochs; one is as many samples as there are clips and pictures.
        spectral_norm: on the generator; the discriminator always has it.
        retrieve_by: weights whose features find similar pictures as references; self: the network that learns, whose
            semantic trunk stays as it is; empty: none.
        perceptual: weight of eq. 8.
        contextual: weight of eq. 10.
        smoothness: weight of eq. 11.
        adversarial: weight of eq. 12.
        temporal: weight of eq. 13.
        l1: weight of eq. 14.
        warped: weight of L1 on the warped colour itself.
        aligned: weight of L1 on the true previous colour, moved by the motion search.
        follow: weight of L1 toward the warped colour, where the reference is another picture.
        decibels: weight of the error in dB, which asks as much of calm scenes as of others.
        guess: weight of L1 on the colours that the semantic features alone suggest.
        meaning: file of `python -m train meaning`, for a network with semantic features that `init` does not have.
        freeze_correspondence: features and correspondence net do not learn.
        freeze_trust: whom to believe is not learned: trained on with the rest, it drifts back to the details.
        worn: share of frames whose own colours are spoiled before the next frame sees them.
    """

    out: Path
    clips: tuple[Path, ...]
    images: tuple[Path, ...] = ()
    validate: tuple[Path, ...] = ()
    init: str | None = None
    features: str = "imagenet"
    freeze_features: bool = False
    loss_features: str | None = None
    minutes: float | None = None
    steps: int | None = None
    batch: int = 40
    learning_rate: float = 2e-4
    betas: tuple[float, float] = (0.5, 0.999)
    epsilon: float = 1e-5
    amsgrad: bool = True
    weight_decay: float = 0.0
    cosine: bool = False
    warm_up: int = 1
    clip_norm: float = 10.0
    correspond_share: float = 0.0
    seed: int = 1
    metadata: Path | None = None
    workers: int = 1
    threads: int = 0
    device: str = "cpu"
    bf16: bool = True
    checkpoint_minutes: float = 4.0
    validate_minutes: float = 20.0
    no_previous: float = 0.25
    feature_noise: float = 0.1
    adversarial_after: float = 3.0
    spectral_norm: bool = True
    retrieve_by: str = ""
    perceptual: float = 0.001
    contextual: float = 0.2
    smoothness: float = 5.0
    adversarial: float = 0.2
    temporal: float = 0.02
    l1: float = 2.0
    warped: float = 0.0
    aligned: float = 0.0
    follow: float = 0.0
    decibels: float = 0.0
    guess: float = 0.0
    meaning: Path | None = None
    freeze_correspondence: bool = False
    freeze_trust: bool = False
    worn: float = 0.0

    @property
    def weights(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in TERMS}


@dataclass(frozen=True)
class Recipe:
    """A network, its samples and how it is trained, under one name; every part can be changed on the command line."""

    options: dict[str, Any]
    network: NetworkConfig
    sample: samples.DataOptions


RECIPES = {
    # The paper's: VGG19 as it is, full width, pairs of frames.
    "paper": Recipe(
        {},
        NetworkConfig(features_input="imagenet", temperature=0.01),
        samples.DataOptions(size=(216, 384), length=2, strides=(1,)),
    ),
    # Everything from nothing, in hours on two CPU cores: what models/exvc-small is made with.
    "small": Recipe(
        {
            "features": "scratch", "batch": 2, "learning_rate": 7e-4, "betas": (0.9, 0.99), "epsilon": 1e-8,
            "amsgrad": False, "weight_decay": 1e-4, "cosine": True, "warm_up": 200, "correspond_share": 0.15,
            "feature_noise": 0.0, "spectral_norm": False, "perceptual": 0.0, "contextual": 0.0, "adversarial": 0.0,
            "smoothness": 0.3, "temporal": 0.3, "warped": 1.0, "aligned": 0.5, "follow": 0.5,
        },
        NetworkConfig(
            width=0.25, features_input="L", head="blend", motion=6, refine=True, warp_upsampling="bilinear"
        ),
        samples.DataOptions(size=(128, 224), length=4),
    ),
    # Semantic features, and whom to trust, beside what exvc-small has learned: what models/exvc is made with.
    "exvc": Recipe(
        {
            "init": "exvc-small", "batch": 2, "learning_rate": 4e-4, "betas": (0.9, 0.99), "epsilon": 1e-8,
            "amsgrad": False, "weight_decay": 1e-4, "cosine": True, "warm_up": 50, "correspond_share": 0.1,
            "freeze_correspondence": True, "feature_noise": 0.0, "spectral_norm": False, "perceptual": 0.0,
            "contextual": 0.0, "adversarial": 0.0, "smoothness": 0.1, "temporal": 0.0, "warped": 1.0, "decibels": 0.3,
            "guess": 0.5, "worn": 0.25,
            "retrieve_by": "self",
        },
        NetworkConfig(
            width=0.25, features_input="L", head="blend", motion=6, refine=True, warp_upsampling="bilinear",
            semantic="lite2",
        ),
        samples.DataOptions(
            size=(128, 224), length=6, images=0.4, foreign=0.35, retrieved=0.75, covered=0.2, returns=0.3, damage=0.2,
            flow=False,
        ),
    ),
}  # fmt: skip


def fit(options: FitOptions, config: NetworkConfig, sample: samples.DataOptions) -> Path:
    """Runs, or goes on with the run in `options.out`; returns the exported weights file.

    Raises ValueError for arguments that do not go together, OSError for folders that are not there.
    """
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
    options.out.mkdir(parents=True, exist_ok=True)
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
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
        self.step, self.seconds, self.epoch_samples, self.commits = 0, 0.0, 1, [commit()]
        self.checkpoint = options.out / "checkpoint.pt"
        self.net = self._network().to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        o = options
        judge = None
        if o.perceptual or o.contextual:
            judge = self._judge().to(self.device)
        unrolled = Unrolled(self.net, judge, o.weights, o.no_previous, o.feature_noise, o.bf16, o.worn)
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

    # -- what it starts from --------------------------------------------------------------------------------------

    def _network(self) -> ColorizationNet:
        o, state, source = self.options, None, None
        if o.init is not None and o.init.endswith(".pt"):
            stored: dict[str, Any] = torch.load(o.init, map_location="cpu", weights_only=True)
            self._check_config(stored["config"], o.init)
            state, self.commits = stored["net"], list(dict.fromkeys([*stored["commits"], *self.commits]))
        elif o.init is not None:
            network = store.load(o.init)
            self._check_config(network.config.to_json(), o.init)
            state = network.state_dict()
        elif o.features != "scratch":
            source = sources.read(o.features)
            if (source.input, source.width) != (self.config.features_input, self.config.width):
                raise ValueError(
                    f"fit: features {o.features} have input {source.input} and width {source.width}, the network needs "
                    f"{self.config.features_input} and {self.config.width}"
                )
        if source is not None:
            batch_norm = source.batch_norm
        else:
            batch_norm = state is None or any(key.startswith("features.norm") for key in state)
        net = ColorizationNet(self.config, batch_norm)
        if state is not None:
            net.load_state_dict(_grown(state, net.state_dict()))
        if o.meaning is not None:
            net.meaning.load_state_dict(torch.load(o.meaning, map_location="cpu", weights_only=True))
        if self.config.semantic:
            net.meaning.trunk.requires_grad_(False)
        if o.freeze_correspondence:
            net.features.requires_grad_(False)
            net.correspondence.requires_grad_(False)
            if self.config.semantic:
                net.meaning.project.requires_grad_(False)
        if self.config.semantic and o.freeze_trust:
            net.trust.requires_grad_(False)
        if source is not None:
            net.features.load_state_dict(source.state)
        if o.freeze_features or (source is not None and not source.batch_norm):
            net.features.requires_grad_(False)
        if o.spectral_norm:
            add_spectral_norm(net.correspondence)
            for name, part in net.color.named_children():
                if name != "conv10_ab":  # the last layer gives colours, shares or logits in units of its own
                    add_spectral_norm(part)
        return net

    def _judge(self) -> sources.Judge:
        o = self.options
        name = o.loss_features or (o.features if o.features != "scratch" else None)
        if name is None:
            raise ValueError(
                "fit: the perceptual and contextual terms need features that see colour: give loss_features "
                "(`python -m train features --input imagenet` makes them), or set both weights to 0"
            )
        return sources.Judge(sources.read(name))

    def _check_config(self, stored: str, path: str) -> None:
        """The temperature may differ: the released weights are used with another than they were trained with.

        Semantic features may come anew.
        """
        other = NetworkConfig.from_json(stored)
        own = {name: getattr(self.config, name) for name in ("temperature", *_MAY_GROW)}
        if dataclasses.replace(other, **own) != self.config:
            raise ValueError(f"fit: {path} holds a network of another configuration: {stored}")

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
        # Only the first process has one, and it writes everything else too.
        writer = SummaryWriter(str(o.out / "tensorboard")) if self.rank == 0 else None
        bar = running.bar(self._used(), shown=writer is not None)
        start, begun, waited = self.step, time.monotonic(), 0.0
        earlier, saved, validated = self.seconds, begun, begun
        self.unrolled.train()
        with running.listening() as stop, bar:
            while self._used() < 1.0 and not stop.asked:
                asked = time.monotonic()
                batch = next(batches)
                waited += time.monotonic() - asked
                numbers = self._train_step(batch)
                self.step += 1
                self.seconds = earlier + time.monotonic() - begun
                self._agree(stop)
                now = time.monotonic()
                numbers |= {"steps/s": (self.step - start) / (now - begun), "waiting": waited / (now - begun)}
                bar.n = min(100.0, 100 * self._used())
                bar.set_postfix(step=self.step, **{k: f"{v:.2f}" for k, v in numbers.items()})
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
                    begun += validated - now  # validation is not on the budget
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

    def _agree(self, stop: running.Stop) -> None:
        """All processes stop at the same step and read the same clock."""
        if self.ranks > 1:
            both = torch.tensor([self.seconds, float(stop.asked)], dtype=torch.float64, device=self.device)
            torch.distributed.all_reduce(both, torch.distributed.ReduceOp.MAX)
            self.seconds, stop.asked = float(both[0]), bool(both[1])

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
        self._check_config(state["config"], str(self.checkpoint))
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
        network, results = plain(self.net), {}
        for folder in self.options.validate:
            for name, value in protocol.run(network, folder, limit=limit).items():
                results[f"{folder.name}/{name}"] = float(value)
                writer.add_scalar(f"validation/{folder.name}/{name}", value, self.step)
        log.info("step %d, %.1f minutes: %s", self.step, self.seconds / 60, json.dumps(results))
        with (self.options.out / "validation.jsonl").open("a") as file:
            file.write(json.dumps({"step": self.step, "minutes": self.seconds / 60, **results}) + "\n")

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
        store.save(plain(self.net), path, facts)
        return path


def _grown(state: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a network without semantic features in one with them: what is new starts as in `wanted`.

    The colour net's first layer has more inputs, which start with weights of zero.
    """
    grown = {name: state.get(name, start) for name, start in wanted.items() if name.startswith(("meaning.", "trust."))}
    for name, tensor in state.items():
        spare = wanted[name].shape[1] - tensor.shape[1] if name == "color.conv1_1.0.weight" else 0
        grown[name] = torch.nn.functional.pad(tensor, (0, 0, 0, 0, 0, spare)) if spare > 0 else tensor
    return grown


def _pairs(outputs: Tensor, lab: Tensor) -> tuple[Tensor, Tensor]:
    """Eq. 12's (x_{t-1}, x_t), every neighbouring two of the sequence: the coloured ones, then the true ones.

    outputs: (B, S-2, 3, H, W), L_centred; lab: (B, S, 3, H, W), L 0..100.
    """
    true = centred(lab[:, 2:])
    before = torch.cat((outputs[:, :-1].flatten(0, 1), true[:, :-1].flatten(0, 1)))
    return before, torch.cat((outputs[:, 1:].flatten(0, 1), true[:, 1:].flatten(0, 1)))


def plain(net: ColorizationNet) -> ColorizationNet:
    """A copy of nothing but convolutions, on the CPU, in evaluation mode: spectral norm applied, batch norm folded in.

    Batch norm's statistics and affine maps go into the convolutions before it.
    """
    state = {key: value.detach().cpu().float() for key, value in without_spectral_norm(net).state_dict().items()}
    for key in [k for k in state if k.startswith("features.norm") and k.endswith(".weight")]:
        norm = key.removesuffix(".weight")
        conv = norm.replace("norm", "conv")
        gain = state[norm + ".weight"] / torch.sqrt(state[norm + ".running_var"] + 1e-5)
        state[conv + ".weight"] = state[conv + ".weight"] * gain.view(-1, 1, 1, 1)
        state[conv + ".bias"] = (state[conv + ".bias"] - state[norm + ".running_mean"]) * gain + state[norm + ".bias"]
    network = ColorizationNet(net.config)
    network.load_state_dict({key: value for key, value in state.items() if not key.startswith("features.norm")})
    return network.eval().requires_grad_(False)

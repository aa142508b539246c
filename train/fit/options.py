"""Define the options of a run, and recipes that set them. This module does not need torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from train.data import samples
from vsexvc.nets.config import NetworkConfig

TERMS = (
    "perceptual", "contextual", "smoothness", "adversarial", "temporal", "l1",  # eq. 15
    "warped", "aligned",  # beside it: the correspondence and the motion search themselves
    "follow", "decibels", "guess",  # foreign colours; small errors; colours by meaning alone
    "steady",  # change along the network's own motion search
)  # fmt: skip


@dataclass(frozen=True)
class FitOptions:
    """Hold the options of one run. The defaults are those of the paper's section 4; a recipe sets others.

    Attributes:
        out: folder for the checkpoint, the log and the weights; an earlier run in it is continued.
        clips: folders of videos.
        images: folders of pictures.
        validate: folders of clips that are measured at intervals.
        init: initial weights: a name, a file or another run's checkpoint; the network's options must match.
        features: initial feature net: scratch, imagenet or a file (see features/sources.py).
        freeze_features: whether the feature net stays unchanged; other projects' nets in `features` always do.
        loss_features: feature net of eq. 8-10: imagenet or a file. Default: `features`, which must then see colour.
        minutes: budget of training time; give this or steps.
        steps: budget in steps; give this or minutes.
        batch: samples in each step of each process.
        learning_rate: Adam's learning rate, for all nets.
        betas: Adam's betas.
        epsilon: Adam's epsilon.
        amsgrad: whether Adam uses AMSGrad, as in section 4.
        weight_decay: decoupled weight decay.
        cosine: whether the learning rate falls along a cosine over the budget; section 4 has no schedule.
        warm_up: steps in which the learning rate rises.
        clip_norm: limit of the gradient's norm.
        correspond_share: share of the budget in which only features and correspondence learn.
        seed: seed of all random numbers.
        metadata: JSON file with metadata for the weights: licence, data, ...
        workers: processes that make samples.
        threads: torch's threads; 0: torch's own choice.
        device: cpu or cuda.
        bf16: whether autocast uses bfloat16.
        checkpoint_minutes: minutes between checkpoints.
        validate_minutes: minutes between validations.
        no_previous: share of sequences that start without a previous frame.
        feature_noise: share of samples whose features get noise before the correspondence.
        adversarial_after: epochs without the adversarial term; an epoch has one sample per clip and picture.
        spectral_norm: whether the generator has spectral norm; the discriminator always has it.
        retrieve_by: weights whose features find similar pictures as references; self: the trained network, whose
            semantic trunk does not change; empty: no retrieval.
        perceptual: weight of eq. 8.
        contextual: weight of eq. 10.
        smoothness: weight of eq. 11.
        adversarial: weight of eq. 12.
        temporal: weight of eq. 13.
        l1: weight of eq. 14.
        warped: weight of L1 on the warped colour.
        aligned: weight of L1 on the true previous colour after the motion search has moved it.
        follow: weight of L1 between output and warped colour, where the reference is another picture.
        decibels: weight of the error in dB, by which small errors count as much as large ones.
        guess: weight of L1 on the colours guessed from semantic features alone.
        steady: weight of L1 between output and previous output, moved by the motion search, where true colours only
            moved: eq. 13 without optical flow.
        meaning: file made by `python -m train meaning`, if `init` lacks the network's semantic features.
        freeze_correspondence: whether feature net and correspondence net stay unchanged.
        freeze_trust: whether vsexvc.nets.trust stays unchanged; with the rest it would learn to prefer details again.
        freeze_meaning: whether vsexvc.nets.meaning (vectors, guess) stays as `python -m train meaning` made it.
        worn: share of frames whose output is spoiled before it becomes the next frame's previous colour.
        remembered: share of batches in which the middle frame of the sequence gives colours to later frames.
        lead_in: largest number of frames at the start of a sequence that are coloured without learning, so that the
            net learns from its own worn colours. Each batch draws a number. It must be below the length.
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
    steady: float = 0.0
    meaning: Path | None = None
    freeze_correspondence: bool = False
    freeze_trust: bool = False
    freeze_meaning: bool = False
    worn: float = 0.0
    remembered: float = 0.0
    lead_in: int = 0

    @property
    def weights(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in TERMS}


@dataclass(frozen=True)
class Recipe:
    """Name a network, its samples and its training; the command line can change every part."""

    options: dict[str, Any]
    network: NetworkConfig
    sample: samples.DataOptions


RecipeName = Literal["paper", "small", "exvc"]
RECIPES: dict[RecipeName, Recipe] = {
    # The paper's: VGG19 unchanged, full width, pairs of frames.
    "paper": Recipe(
        {},
        NetworkConfig(features_input="imagenet", temperature=0.01),
        samples.DataOptions(size=(216, 384), length=2, strides=(1,), damage=0.0),
    ),
    # Trains all parts from scratch, in hours on two CPU cores: the recipe of models/exvc-small.
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
    # Semantic features and trust, added to what exvc-small has learned: the recipe of models/exvc.
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
            width=0.25, features_input="L", head="blend", motion=6, refine=True, warp_upsampling="reference",
            semantic="lite2", semantic_color=True,
        ),
        samples.DataOptions(
            size=(128, 224), length=6, image_share=0.4, foreign=0.35, retrieved=0.75, covered=0.2, returns=0.3,
            damage=0.2, flow=False,
        ),
    ),
}  # fmt: skip

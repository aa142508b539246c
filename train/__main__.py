"""Train a network and measure it.

Table 1 and Table 5 are those of the paper. docs/training.md explains the commands.
"""

from __future__ import annotations

import argparse
import logging
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import subcommand

from train.data.samples import DataOptions
from train.features import meaning, pretrain
from train.features.meaning import MeaningOptions
from train.features.pretrain import PretrainOptions
from train.fit import ablate, loop, trust
from train.fit.options import RECIPES, FitOptions, RecipeName
from train.fit.trust import TrustOptions
from train.measure import evaluate, stills
from train.measure.evaluate import EvaluateOptions
from train.measure.stills import ImagesOptions
from vsexvc.nets.config import NetworkConfig


@dataclass(frozen=True)
class Fit:
    """Train a network from folders of clips and pictures.

    Attributes:
        recipe: sets the defaults of the options below.
    """

    recipe: RecipeName
    run: FitOptions
    network: NetworkConfig
    samples: DataOptions


@dataclass(frozen=True)
class Ablate(Fit):
    """Repeat a run without each of the losses (Table 5).

    Attributes:
        evaluate: folders of clips that are measured.
    """

    evaluate: tuple[Path, ...] = field(kw_only=True)


def parsed(arguments: list[str]) -> Any:
    """Parse the command line to an instance of the command's class. The recipe sets the defaults."""
    # The recipe is read first, because tyro needs the defaults before it parses.
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--recipe", choices=RECIPES, default="paper")
    name: RecipeName = "paper" if {"-h", "--help"} & {*arguments} else first.parse_known_args(arguments)[0].recipe
    recipe = RECIPES[name]
    run = FitOptions(**{"out": tyro.MISSING, "clips": tyro.MISSING, **recipe.options})
    fit = Fit(name, run, recipe.network, recipe.sample)
    ablation = Ablate(**vars(fit), evaluate=tyro.MISSING)
    commands = (
        Annotated[PretrainOptions, subcommand("features", description="Pretrain a feature net.")]
        | Annotated[MeaningOptions, subcommand("meaning", description="Make the semantic part of a network.")]
        | Annotated[TrustOptions, subcommand("trust", description="Train the trust of a network alone.")]
        | Annotated[Fit, subcommand("fit", default=fit)]
        | Annotated[EvaluateOptions, subcommand("evaluate")]
        | Annotated[Ablate, subcommand("ablate", default=ablation)]
        | Annotated[ImagesOptions, subcommand("images")]
    )
    config = (tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes)
    return tyro.cli(commands, prog="python -m train", description=__doc__, args=arguments, config=config)


def main(arguments: list[str] | None = None) -> int:
    """Run a command; return its exit status."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    try:
        match parsed(sys.argv[1:] if arguments is None else arguments):
            case PretrainOptions() as options:
                print(pretrain.pretrain(options))
            case MeaningOptions() as options:
                print(meaning.make(options))
            case TrustOptions() as options:
                print(trust.make(options))
            case EvaluateOptions() as options:
                evaluate.main(options)
            case ImagesOptions() as options:
                stills.main(options)
            case Ablate() as asked:
                ablate.run(asked.run, asked.network, asked.samples, asked.evaluate, asked.run.out)
            case Fit() as asked:
                print(loop.fit(asked.run, asked.network, asked.samples))
    except (ValueError, OSError) as error:
        print(f"python -m train: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

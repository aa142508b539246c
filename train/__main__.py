"""Command line of the trainer: `python -m train features | meaning | fit | evaluate | ablate | images`."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import re
import sys
import types
import typing
from pathlib import Path
from typing import Any

from train.data import samples
from train.features import meaning, pretrain
from train.fit import ablate, loop
from train.measure import evaluate, stills
from vsexvc.nets.config import NetworkConfig

_RENAMED = {"images": "image_share"}  # options of a sample whose names the run's own options have


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m train", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    _add(commands.add_parser("features", help="pretrain a feature net"), pretrain.PretrainOptions)
    _add(
        commands.add_parser("meaning", help="make the semantic part of a network from an EfficientNet-Lite"),
        meaning.MeaningOptions,
    )
    _add_fit(commands.add_parser("fit", help="train a network from folders of clips and pictures"))
    evaluate.add_arguments(commands.add_parser("evaluate", help="measure weights against truth and baselines"))
    stills.add_arguments(commands.add_parser("images", help="Table 1: pictures, each coloured by its most similar one"))
    ablation = commands.add_parser("ablate", help="Table 5: the same run without each of the losses")
    _add_fit(ablation)
    ablation.add_argument(
        "--evaluate", type=Path, nargs="+", required=True, metavar="FOLDER", help="clips to measure on"
    )
    args = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    try:
        if args.command == "evaluate":
            evaluate.main(args)
        elif args.command == "images":
            stills.main(args)
        elif args.command == "features":
            print(pretrain.pretrain(_filled(pretrain.PretrainOptions, args, {})))
        elif args.command == "meaning":
            print(meaning.make(_filled(meaning.MeaningOptions, args, {})))
        elif args.command == "fit":
            print(loop.fit(*_run_of(args)))
        else:
            options, config, sample = _run_of(args)
            ablate.run(options, config, sample, args.evaluate, args.out)
    except (ValueError, OSError) as error:
        print(f"python -m train: {error}", file=sys.stderr)
        return 1
    return 0


def _add_fit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--recipe", choices=loop.RECIPES, default="paper", help="what the options below are by default (paper)"
    )
    _add(parser.add_argument_group("run"), loop.FitOptions)
    _add(parser.add_argument_group("network"), NetworkConfig)
    _add(parser.add_argument_group("samples"), samples.DataOptions)


def _run_of(args: argparse.Namespace) -> tuple[loop.FitOptions, NetworkConfig, samples.DataOptions]:
    recipe = loop.RECIPES[args.recipe]
    return (
        _filled(loop.FitOptions, args, recipe.options),
        _filled(NetworkConfig, args, dataclasses.asdict(recipe.network)),
        _filled(samples.DataOptions, args, dataclasses.asdict(recipe.sample)),
    )


def _add(parser: Any, kind: type) -> None:
    """One option for each field of a dataclass; its help is the field's line in the docstring."""
    lines = dict(re.findall(r"^ +(\w+): (.+(?:\n {12,}.+)*)", kind.__doc__ or "", re.MULTILINE))
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        name = _RENAMED.get(field.name, field.name) if kind is samples.DataOptions else field.name
        described = re.sub(r"\s+", " ", lines.get(field.name, "")).replace("%", "%%")
        settings: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS, "help": described or None}
        settings["required"] = field.default is dataclasses.MISSING
        hint = hints[field.name]
        if isinstance(hint, types.UnionType):
            hint = next(part for part in typing.get_args(hint) if part is not type(None))
        parts = typing.get_args(hint)
        if hint is bool:
            settings["action"] = argparse.BooleanOptionalAction
        elif typing.get_origin(hint) is typing.Literal:
            settings["choices"] = parts
        elif typing.get_origin(hint) is tuple:
            settings |= {"type": parts[0], "nargs": "+" if parts[-1] is Ellipsis else len(parts)}
            settings["metavar"] = name.upper() if parts[-1] is Ellipsis else tuple("AB"[: len(parts)])
        else:
            settings |= {"type": hint, "metavar": name.upper()}
        parser.add_argument(f"--{name.replace('_', '-')}", **settings)


def _filled(kind: Any, args: argparse.Namespace, recipe: dict[str, Any]) -> Any:
    values = dict(recipe)
    for field in dataclasses.fields(kind):
        name = _RENAMED.get(field.name, field.name) if kind is samples.DataOptions else field.name
        if hasattr(args, name):
            given = getattr(args, name)
            values[field.name] = tuple(given) if isinstance(given, list) else given
    return kind(**values)


if __name__ == "__main__":
    sys.exit(main())

"""Command line of the trainer: `python -m train fit` and `python -m train evaluate`."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from train import data, evaluate, loop
from vsexvc.config import NetworkConfig


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m train", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    fit = commands.add_parser("fit", help="train a network from folders of clips and pictures")
    fit.add_argument("--clips", type=Path, nargs="+", required=True, metavar="FOLDER")
    fit.add_argument("--images", type=Path, nargs="*", default=[], metavar="FOLDER")
    fit.add_argument(
        "--validate", type=Path, nargs="*", default=[], metavar="FOLDER", help="clips to measure on now and then"
    )
    fit.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="checkpoint, log, weights; goes on where it was"
    )
    budget = fit.add_mutually_exclusive_group(required=True)
    budget.add_argument("--minutes", type=float, help="budget; the schedule is finished when it is used up")
    budget.add_argument("--steps", type=int)
    fit.add_argument("--init", metavar="CHECKPOINT", help="start from the networks of another run's checkpoint.pt")
    fit.add_argument(
        "--metadata", type=Path, metavar="JSON", help="facts to write into the weights: licence, data, ..."
    )
    fit.add_argument("--width", type=float, default=0.25, help="factor on every channel count (default 0.25)")
    fit.add_argument("--head", choices=("blend", "tanh"), default="blend")
    fit.add_argument(
        "--motion", type=int, default=6, metavar="CELLS", help="search radius for the previous frame (default 6)"
    )
    fit.add_argument("--size", type=int, nargs=2, default=(128, 224), metavar=("ROWS", "COLUMNS"))
    fit.add_argument("--length", type=int, default=3, help="frames unrolled (default 3)")
    for name in ("batch", "seed", "workers", "threads"):
        fit.add_argument(f"--{name}", type=int, default=getattr(loop.FitOptions, name))
    fit.add_argument("--learning-rate", type=float, default=loop.FitOptions.learning_rate)
    fit.add_argument("--correspond-share", type=float, default=loop.FitOptions.correspond_share)
    fit.add_argument("--device", default="cpu")
    fit.add_argument("--fp32", action="store_true", help="no bfloat16")
    evaluate.add_arguments(commands.add_parser("evaluate", help="measure weights against truth and baselines"))
    args = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    try:
        if args.command == "evaluate":
            evaluate.main(args)
            return 0
        options = loop.FitOptions(
            out=args.out, clips=tuple(args.clips), images=tuple(args.images), validate=tuple(args.validate),
            init=args.init, metadata=args.metadata, minutes=args.minutes, steps=args.steps, batch=args.batch,
            seed=args.seed, learning_rate=args.learning_rate, correspond_share=args.correspond_share,
            workers=args.workers, threads=args.threads, device=args.device, bf16=not args.fp32,
        )  # fmt: skip
        config = NetworkConfig(
            width=args.width,
            features_input="L",
            head=args.head,
            motion=args.motion,
            refine=args.motion > 0,
            warp_upsampling="bilinear",
        )
        path = loop.fit(options, config, data.DataOptions(size=tuple(args.size), length=args.length))
    except (ValueError, OSError) as error:
        print(f"python -m train: {error}", file=sys.stderr)
        return 1
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
